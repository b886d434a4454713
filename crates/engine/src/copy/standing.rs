//! How the copies of a repository stand: what each has of it, how far it is behind, what went wrong last.
//!
//! A list of snapshots says what this host knew after it last looked; a status looks again, and says what this host
//! remembers where a copy cannot be opened now.

use std::collections::HashSet;

use dbkeep_repo::Id;
use dbkeep_repo::backend::FileKind;
use jiff::Timestamp;

use super::place::{self, Place};
use super::plan::{Step, plan};
use crate::Result;
use crate::catalog::{Catalog, Entry};
use crate::context::Watch;
use crate::report::{CopyStatus, ErrorReport};
use crate::repository::Store;

/// Returns the configured copies, each with the snapshots that it has as far as this host knows.
pub(crate) fn remembered(store: &Store) -> Vec<(String, HashSet<Id>)> {
    let copies = place::configured(store.context()).into_iter();
    let held = |place: Place| store.state().copy(place.location()).held.into_iter().collect();
    copies.map(|(name, place)| (name, place.map(held).unwrap_or_default())).collect()
}

/// Looks at every configured copy.
pub(crate) fn look(store: &Store, catalog: &Catalog, now: Timestamp, watch: &Watch) -> Vec<CopyStatus> {
    let entries: Vec<&Entry> = catalog.entries.iter().collect();
    let copies = place::configured(store.context()).into_iter();
    copies.map(|(name, place)| one(store, &entries, name, place, now, watch)).collect()
}

fn one(
    store: &Store,
    entries: &[&Entry],
    name: String,
    place: Result<Place>,
    now: Timestamp,
    watch: &Watch,
) -> CopyStatus {
    let configured = store.context().config.copies.iter().find(|copy| copy.name == name);
    let mut status = CopyStatus {
        location: configured.map(|copy| copy.location.clone()).unwrap_or_default(),
        name,
        reachable: false,
        snapshots: 0,
        other_snapshots: None,
        behind: entries.len() as u64,
        dropped: 0,
        newest: None,
        bytes_stored: None,
        disk_free: None,
        last_copied: None,
        failed: None,
        error: None,
        problems: Vec::new(),
    };
    let place = match place {
        Ok(place) => place,
        Err(error) => {
            status.error = Some(ErrorReport::from(&error));
            status.problems.push(error.full_message());
            return status;
        }
    };
    let memory = store.state().copy(place.location());
    (status.last_copied, status.failed, status.error) = (memory.succeeded, memory.failed, memory.error);
    let never = memory.succeeded.is_none() && memory.failed.is_none() && memory.held.is_empty();
    match held(store, entries, &place, now, watch) {
        Ok(found) => {
            status.reachable = true;
            status.dropped = found.dropped;
            status.problems.extend(found.problems);
            (status.bytes_stored, status.disk_free) = (Some(found.bytes_stored), found.disk_free);
            status.count(entries, &found.held);
            status.other_snapshots = Some(found.snapshots.saturating_sub(status.snapshots));
        }
        Err(error) if never && error.exit_code() == 10 => {
            status
                .problems
                .push("nothing was ever copied there: the next backup or `dbkeep copy` does".to_owned());
        }
        Err(error) => {
            status.count(entries, &memory.held.into_iter().collect());
            status.problems.push(error.full_message());
        }
    }
    status.judge(never);
    status
}

/// What was found in a copy.
#[derive(Default)]
struct Found {
    /// Which of the snapshots are there.
    held: HashSet<Id>,
    /// How many were dropped there on purpose.
    dropped: u64,
    /// How many snapshots are there in all.
    snapshots: u64,
    bytes_stored: u64,
    disk_free: Option<u64>,
    /// What is wrong there, in words.
    problems: Vec<String>,
}

/// Looks into a copy.
fn held(store: &Store, entries: &[&Entry], place: &Place, now: Timestamp, watch: &Watch) -> Result<Found> {
    let target = place.open_existing(store, now, watch)?.afresh();
    let at_copy = |error| place::at(&place.name, error);
    let there = Catalog::load(&target).map_err(at_copy)?;
    let packs = target.repository().list(FileKind::Pack).map_err(|error| at_copy(error.into()))?;
    let disk_free = target.repository().backend().free_space().map_err(|error| at_copy(error.into()))?;
    let bytes_stored = packs.iter().map(|pack| pack.size).sum();
    let snapshots = there.entries.len() as u64;
    let mut found = Found { snapshots, bytes_stored, disk_free, ..Found::default() };
    if let Some(gap) = there.gap() {
        found.problems.push(format!("nothing of it is forgotten by itself, because {gap}"));
    }
    let damaged = there.entries.iter().filter(|entry| !entry.history.damage.is_empty()).count();
    if damaged > 0 {
        found.problems.push(format!("{damaged} of its snapshots were found damaged there"));
    }
    for step in plan(entries, &there, false) {
        match step {
            Step::Leave(entry, _) => {
                found.held.insert(entry.id);
            }
            // A damaged copy is none.
            Step::Copy(_) | Step::Repair(..) => {}
            Step::Dropped => found.dropped += 1,
        }
    }
    Ok(found)
}

impl CopyStatus {
    fn count(&mut self, entries: &[&Entry], held: &HashSet<Id>) {
        let there: Vec<&&Entry> = entries.iter().filter(|entry| held.contains(&entry.id)).collect();
        self.snapshots = there.len() as u64;
        self.behind = (entries.len() as u64).saturating_sub(self.snapshots + self.dropped);
        self.newest = there.first().map(|entry| entry.id);
    }

    fn judge(&mut self, never: bool) {
        if self.behind > 0 && !never {
            let plural = if self.behind == 1 { "" } else { "s" };
            self.problems.push(format!("it is {} snapshot{plural} behind", self.behind));
        }
        if let Some(error) = self.error.as_ref().filter(|_| self.reachable) {
            self.problems.push(format!("the last copy failed: {}", error.message));
        }
    }
}
