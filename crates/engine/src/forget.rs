//! Drops snapshots by id.
//!
//! The last good snapshot of a database stays, and so does one that is held for good, unless that is forced;
//! what another tool made is never touched. The fact is written before the snapshots are removed.

use std::collections::BTreeSet;

use dbkeep_repo::Id;
use jiff::Timestamp;

use crate::catalog::{Catalog, Entry};
use crate::context::Watch;
use crate::report::{ForgetReport, Forgotten, Kept, Refused};
use crate::repository::Store;
use crate::{Error, Result};

/// What to drop.
#[derive(Clone, Debug, Default)]
pub struct ForgetRequest {
    /// Id prefixes, `latest`, `latest~N`.
    pub snapshots: Vec<String>,
    /// Narrows `latest`.
    pub database: Option<String>,
    /// Also the last good one, and those held for good.
    pub force: bool,
    /// Say what would be done.
    pub dry_run: bool,
}

/// Drops the snapshots that are named. Their data stays until a prune.
pub fn run(store: &Store, request: &ForgetRequest, now: Timestamp, watch: &Watch) -> Result<ForgetReport> {
    if request.snapshots.is_empty() {
        return Err(Error::usage("no snapshot is named", "give ids as `dbkeep list` shows them"));
    }
    let store = &store.afresh();
    let lock = store.repository().lock_shared(now)?;
    let catalog = Catalog::load(store)?;
    let named = named(&catalog, request)?;
    let mut report = decide(&catalog, &named, request.force);
    report.dry_run = request.dry_run;
    if !request.dry_run && !report.forgotten.is_empty() {
        let ids: Vec<Id> = report.forgotten.iter().map(|forgotten| forgotten.id).collect();
        let fact = store.repository().forget(&ids, "forget by id", &lock, now)?;
        watch.step("forget.snapshots-removed");
        store.noted(fact);
    }
    Ok(report)
}

/// Returns the snapshots that are named, each once. One that is not there stops everything.
fn named(catalog: &Catalog, request: &ForgetRequest) -> Result<BTreeSet<Id>> {
    let choose = |wanted: &String| catalog.choose(wanted, request.database.as_deref()).map(|entry| entry.id);
    request.snapshots.iter().map(choose).collect()
}

/// Decides what goes and what stays.
fn decide(catalog: &Catalog, named: &BTreeSet<Id>, force: bool) -> ForgetReport {
    let mut report = ForgetReport { kept: vec![], forgotten: vec![], refused: vec![], dry_run: false };
    for entry in &catalog.entries {
        if !named.contains(&entry.id) {
            report.kept.push(Kept { id: entry.id, reasons: vec!["not named".to_owned()] });
            continue;
        }
        match objection(catalog, named, entry, force) {
            Some(why) => report.refused.push(Refused { id: entry.id, why }),
            None => report.forgotten.push(Forgotten { id: entry.id }),
        }
    }
    report
}

/// Returns what speaks against dropping a snapshot.
fn objection(catalog: &Catalog, named: &BTreeSet<Id>, entry: &Entry, force: bool) -> Option<String> {
    let Some(database) = &entry.database else {
        return Some("another tool made it: that tool forgets it (`restic forget`)".to_owned());
    };
    if force {
        return None;
    }
    if entry.history.pinned {
        return Some("it is held for good: --force drops it".to_owned());
    }
    let of_database = |other: &&Entry| other.database.as_ref() == Some(database);
    let good_remains =
        catalog.entries.iter().filter(of_database).any(|other| other.is_good() && !named.contains(&other.id));
    if entry.is_good() && !good_remains {
        return Some(format!("no good snapshot of {database:?} would remain: --force drops it"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::History;
    use dbkeep_repo::format::snapshot::Snapshot;

    fn entry(name: &str, tags: &[&str], pinned: bool) -> Entry {
        let id = Id::of(name.as_bytes());
        let mut snapshot = Snapshot::new(Timestamp::UNIX_EPOCH, id);
        snapshot.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let database = snapshot.tag("database").map(str::to_owned);
        Entry { snapshot, id, database, history: History { pinned, ..History::default() } }
    }

    fn decided(entries: Vec<Entry>, named: &[&str], force: bool) -> (usize, usize, Vec<String>) {
        let catalog = Catalog { entries, lost: vec![], damaged_packs: Default::default() };
        let named = named.iter().map(|name| Id::of(name.as_bytes())).collect();
        let report = decide(&catalog, &named, force);
        (report.kept.len(), report.forgotten.len(), report.refused.into_iter().map(|one| one.why).collect())
    }

    const GOOD: &[&str] = &["database=shop", "integrity=ok"];

    #[test]
    fn last_good_snapshot_stays_unless_forced() {
        let entries = || {
            vec![
                entry("new", &["database=shop", "integrity=corrupt"], false),
                entry("good", GOOD, false),
                entry("older", GOOD, false),
            ]
        };
        assert_eq!(decided(entries(), &["good"], false), (2, 1, vec![]));
        assert_eq!(decided(entries(), &["new"], false), (2, 1, vec![]));
        let why = "no good snapshot of \"shop\" would remain: --force drops it".to_owned();
        assert_eq!(decided(entries(), &["good", "older"], false), (1, 0, vec![why.clone(), why]));
        assert_eq!(decided(entries(), &["good", "older"], true), (1, 2, vec![]));
    }

    #[test]
    fn pinned_snapshot_and_that_of_another_tool_stay() {
        let entries =
            || vec![entry("pinned", GOOD, true), entry("good", GOOD, false), entry("restic", &[], false)];
        assert_eq!(decided(entries(), &["pinned"], false).2, ["it is held for good: --force drops it"]);
        assert_eq!(decided(entries(), &["pinned"], true), (2, 1, vec![]));
        let (_, forgotten, refused) = decided(entries(), &["restic"], true);
        assert_eq!(forgotten, 0);
        assert!(refused[0].starts_with("another tool made it"));
    }
}
