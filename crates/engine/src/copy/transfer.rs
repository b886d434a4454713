//! A copy under way: blobs first, read back, then snapshots, then facts.

use std::collections::{BTreeMap, HashSet};

use dbkeep_repo::backend::FileKind;
use dbkeep_repo::format::fact::{Fact, SnapshotRef};
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::read::{CopyError, Reader};
use dbkeep_repo::write::{Writer, WriterOptions};
use dbkeep_repo::{Id, SharedLock};

use super::place::{Place, at};
use super::plan::{Step, is_same};
use super::{failed, json_of_copy, missing, row};
use crate::catalog::{COPIED, Catalog, Entry, History, READ};
use crate::clock::Clock;
use crate::context::Watch;
use crate::finding::{finding, is_damage, is_of_storage};
use crate::manifest::IntegrityResult;
use crate::report::{CopiedSnapshot, CopiedStatus, CopyRunReport, ErrorReport};
use crate::repository::Store;
use crate::{Error, Result, name};

/// How much is stored before it is read back and the snapshots that wait for it are made.
const FLUSH_AT: u64 = 64 << 20;

/// A copy under way.
pub(super) struct Transfer<'t> {
    store: &'t Store,
    reader: &'t Reader,
    place: &'t Place,
    target: &'t Store,
    held: &'t Catalog,
    writer: Writer<'t>,
    /// The databases whose names belong to other ones there.
    pub(super) taken: BTreeMap<String, ErrorReport>,
    /// Trees that are there with all they need.
    whole: HashSet<Id>,
    /// Trees that were read with all they need.
    proved: HashSet<Id>,
    /// Packs that the index there names are gone.
    lost_packs: bool,
    /// All that they need is on its way, but they are not made yet.
    waiting: Vec<Waiting<'t>>,
    /// The snapshots that are there, by their own ids.
    seen: HashSet<Id>,
    stored_at_flush: u64,
    report: CopyRunReport,
    clock: Clock,
    watch: &'t Watch,
}

struct Waiting<'t> {
    entry: &'t Entry,
    json: Vec<u8>,
}

impl<'t> Transfer<'t> {
    #[expect(clippy::too_many_arguments, reason = "what a copy is made of, named once")]
    pub(super) fn begin(
        store: &'t Store,
        reader: &'t Reader,
        place: &'t Place,
        target: &'t Store,
        held: &'t Catalog,
        known: &Reader,
        lock: &'t SharedLock,
        clock: Clock,
        watch: &'t Watch,
    ) -> Result<Self> {
        let level = target.context().config.repository.compression.unwrap_or(3);
        let options = WriterOptions::default().compression(level);
        let writer = target.repository().writer(lock, known.index(), &options, watch.clone())?;
        Ok(Self {
            store,
            reader,
            place,
            target,
            held,
            writer,
            taken: BTreeMap::new(),
            whole: HashSet::new(),
            proved: HashSet::new(),
            lost_packs: lost_packs(held, known),
            waiting: Vec::new(),
            seen: held.entries.iter().map(|entry| entry.id).collect(),
            stored_at_flush: 0,
            report: CopyRunReport::begin(place),
            clock,
            watch,
        })
    }

    /// Does the steps; the first thing that goes wrong at the copy ends it.
    pub(super) fn take_all(&mut self, steps: &[Step<'t>], named: bool) {
        // What is there is known whatever happens to the rest.
        let (to_do, known): (Vec<Step<'t>>, _) =
            steps.iter().partition(|step| matches!(step, Step::Copy(_) | Step::Repair(..)));
        let done = known.into_iter().chain(to_do).try_for_each(|step| self.take(step, named));
        let done = done.and_then(|()| self.commit()).and_then(|()| self.promise(steps, named));
        if let Err(error) = done {
            for waiting in std::mem::take(&mut self.waiting) {
                self.fail(waiting.entry, &error);
            }
            self.report.error = Some(ErrorReport::from(&at(&self.place.name, error)));
        }
    }

    fn take(&mut self, step: Step<'t>, named: bool) -> Result<()> {
        match step {
            Step::Copy(entry) => match entry.database.as_ref().and_then(|name| self.taken.get(name)) {
                Some(error) => {
                    self.report.snapshots.push(failed(entry, error.clone()));
                    Ok(())
                }
                None => self.send(entry),
            },
            Step::Repair(entry, copy) => self.repair(entry, copy),
            Step::Leave(entry, copy) if self.is_hollow(entry)? => self.repair(entry, copy),
            Step::Leave(entry, copy) => {
                self.report.present += 1;
                self.report.held.push(entry.id);
                if named {
                    self.report.snapshots.push(row(entry, CopiedStatus::Present, Some(copy.id)));
                }
                Ok(())
            }
            Step::Dropped => {
                self.report.dropped += 1;
                Ok(())
            }
        }
    }

    /// Says whether the copy of a snapshot lacks something. Only looked for where packs are gone.
    fn is_hollow(&mut self, entry: &Entry) -> Result<bool> {
        if !self.lost_packs {
            return Ok(false);
        }
        let tree = &entry.snapshot.tree;
        match self.reader.is_there(tree, &self.writer, &mut self.whole, &**self.watch) {
            Ok(is_there) => Ok(!is_there),
            Err(error @ dbkeep_repo::Error::Cancelled) => Err(error.into()),
            // Neither here nor there: what is wrong turns out when it is brought.
            Err(_) => Ok(true),
        }
    }

    /// Sends what a snapshot needs. One that cannot be read has failed, and the others go on.
    fn send(&mut self, entry: &'t Entry) -> Result<()> {
        let json = self.store.repository().load_unpacked(FileKind::Snapshot, &entry.id);
        let json = json.map_err(Error::from).and_then(|json| json_of_copy(&json, entry));
        let json = match json {
            Ok(json) => json,
            Err(error) if is_missing(&error) && self.was_dropped_meanwhile(entry)? => return Ok(()),
            Err(error) => {
                self.fail(entry, &error);
                return Ok(());
            }
        };
        if self.bring(entry)? {
            self.waiting.push(Waiting { entry, json });
        }
        if self.writer.totals().bytes_stored - self.stored_at_flush >= FLUSH_AT {
            self.commit()?;
        }
        Ok(())
    }

    /// Says whether a snapshot that is not in the source any more was dropped there on purpose since the copy began.
    fn was_dropped_meanwhile(&self, entry: &Entry) -> Result<bool> {
        Ok(Catalog::load(&self.store.afresh())?.is_dropped(entry))
    }

    /// Sends the blobs of a snapshot. Says whether all of them could be read.
    fn bring(&mut self, entry: &'t Entry) -> Result<bool> {
        let name = entry.database.as_deref().unwrap_or("a snapshot of another tool");
        self.watch.phase(&format!("copy {} to {}", name::printable(name), self.place.name), 0);
        let tree = &entry.snapshot.tree;
        match self.reader.copy_tree(tree, &mut self.writer, &mut self.whole, &**self.watch) {
            Ok(bytes) => {
                self.report.bytes_read += bytes;
                Ok(true)
            }
            Err(CopyError::Source(error)) => {
                let error = Error::from(error);
                self.note_damage(entry, &error);
                self.fail(entry, &error);
                Ok(false)
            }
            Err(CopyError::Target(error)) => Err(error.into()),
        }
    }

    /// Remembers in the source what was found damaged there: the next backup stores again what it still has of it.
    fn note_damage(&self, entry: &Entry, error: &Error) {
        let found = finding(error);
        if !is_damage(error) || entry.database.is_none() || entry.history.damage.contains(&found) {
            return;
        }
        let fact = Fact::Damaged { snapshots: vec![entry.reference()], findings: vec![found] };
        if let Err(error) = self.store.note(fact, self.clock.now()) {
            self.watch.warn(&format!(
                "the damage of {} could not be noted: {}",
                entry.id.short(),
                error.full_message()
            ));
        }
    }

    /// Stores again what a copy has lost, and proves it: all of it is read.
    fn repair(&mut self, entry: &'t Entry, copy: &'t Entry) -> Result<()> {
        if !self.bring(entry)? {
            return Ok(());
        }
        self.commit()?;
        let read = self.writer.reader().read_tree(&copy.snapshot.tree, &mut self.proved, &**self.watch);
        match read {
            Ok(bytes) => {
                self.report.bytes_verified += bytes;
                self.note(Fact::Verified { snapshot: copy.reference(), level: READ.to_owned() })?;
                self.done(entry, CopiedStatus::Repaired, copy.id);
                Ok(())
            }
            Err(error) => {
                let error = Error::from(error);
                if !is_damage(&error) {
                    return Err(error);
                }
                // Known from now on, so that the next copy replaces this too.
                let findings = vec![finding(&error)];
                self.note(Fact::Damaged { snapshots: vec![copy.reference()], findings })?;
                self.fail(entry, &at(&self.place.name, error));
                Ok(())
            }
        }
    }

    /// Reads back what was stored, and makes the snapshots that wait for it.
    fn commit(&mut self) -> Result<()> {
        self.report.bytes_verified += self.writer.flush_and_read_back()?;
        self.stored_at_flush = self.writer.totals().bytes_stored;
        let mut made = Vec::new();
        let elsewhere = self.made_elsewhere()?;
        for waiting in std::mem::take(&mut self.waiting) {
            let entry = waiting.entry;
            if let Some(copy) = elsewhere.iter().find(|other| is_same(&entry.snapshot, other)) {
                self.report.present += 1;
                self.report.held.push(entry.id);
                self.watch.step("copy.made-elsewhere");
                debug_assert!(copy.id.is_some(), "a snapshot that was listed has an id");
                continue;
            }
            match self.writer.commit_copied(&waiting.json) {
                Ok(id) => made.push((entry, id)),
                Err(error) => {
                    let error = error.into();
                    self.fail(entry, &error);
                    // Those that are made are told of all the same.
                    self.acknowledge(&made)?;
                    return Err(error);
                }
            }
        }
        self.acknowledge(&made)
    }

    /// Returns the snapshots that others have made there since the last look.
    fn made_elsewhere(&mut self) -> Result<Vec<Snapshot>> {
        let repository = self.target.repository();
        let names = repository.names(FileKind::Snapshot)?;
        let new = names.into_iter().filter(|id| self.seen.insert(*id)).collect::<Vec<_>>();
        // One that cannot be read, or is gone again, is not the copy that is looked for.
        Ok(new.iter().filter_map(|id| repository.snapshot(id).ok()).collect())
    }

    /// Notes in the copy that these snapshots are there and what was read back of them.
    fn acknowledge(&mut self, made: &[(&'t Entry, Id)]) -> Result<()> {
        let mut sessions: BTreeMap<&str, Vec<SnapshotRef>> = BTreeMap::new();
        for (entry, id) in made.iter().filter(|(entry, _)| entry.database.is_some()) {
            sessions.entry(entry.session().unwrap_or_default()).or_default().push(there(entry, *id));
        }
        for (session, snapshots) in sessions {
            self.note(Fact::Acknowledged { session: session.to_owned(), snapshots })?;
        }
        if !made.is_empty() {
            self.watch.step("copy.acknowledged");
        }
        for (entry, id) in made {
            // What was never found sound is not made so by a copy.
            let is_sound = entry.integrity() == Some(IntegrityResult::Ok) && flaws(entry).next().is_none();
            if entry.database.is_some() && is_sound {
                self.note(Fact::Verified { snapshot: there(entry, *id), level: COPIED.to_owned() })?;
                self.watch.step("copy.verified");
            }
            self.take_along(entry, &there(entry, *id), &History::default())?;
            self.seen.insert(*id);
            self.done(entry, CopiedStatus::Copied, *id);
        }
        Ok(())
    }

    /// Makes up for what an interrupted copy did not say any more, and for what stock tools copied: from here on these
    /// snapshots are missed when they are gone. What was said here since they were copied goes along.
    fn promise(&mut self, steps: &[Step<'t>], named: bool) -> Result<()> {
        let mut sessions: BTreeMap<&str, Vec<SnapshotRef>> = BTreeMap::new();
        for step in steps {
            let (Step::Leave(entry, copy) | Step::Repair(entry, copy)) = step else { continue };
            // Forgotten there once, and wanted again by name.
            let is_back = named && self.held.is_dropped(copy);
            if copy.database.is_some() && (!copy.history.acknowledged || is_back) {
                sessions.entry(copy.session().unwrap_or_default()).or_default().push(copy.reference());
            }
            self.take_along(entry, &copy.reference(), &copy.history)?;
        }
        for (session, snapshots) in sessions {
            self.note(Fact::Acknowledged { session: session.to_owned(), snapshots })?;
        }
        Ok(())
    }

    /// Notes in the copy what was said here and holds there as well: for the contents are the same.
    fn take_along(&self, entry: &Entry, copy: &SnapshotRef, there: &History) -> Result<()> {
        // What was decided there stands.
        if entry.history.is_held_for_good() && !there.pin_decided {
            let reason = "held where it was copied from".to_owned();
            self.note(Fact::Pinned { snapshot: copy.clone(), reason })?;
        }
        if entry.history.cleared && !there.cleared {
            let why = "it was said where it was copied from".to_owned();
            self.note(Fact::Cleared { snapshots: vec![copy.clone()], why })?;
        }
        let unknown = |found: &&String| !there.damage.contains(found);
        let findings: Vec<String> = flaws(entry).filter(unknown).cloned().collect();
        if !findings.is_empty() && entry.database.is_some() {
            self.note(Fact::Damaged { snapshots: vec![copy.clone()], findings })?;
        }
        Ok(())
    }

    fn note(&self, fact: Fact) -> Result<()> {
        self.target.note(fact, self.clock.now())
    }

    /// Tells of the snapshots that should be in the source and are not, unless the copy has them.
    pub(super) fn miss_lost(&mut self, source: &Catalog, database: Option<&str>) {
        let held = self.held;
        let mut missed: Vec<CopiedSnapshot> = Vec::new();
        for lost in &source.lost {
            let snapshot = &lost.snapshot;
            let its_name = name::decode(&snapshot.database).unwrap_or_else(|| snapshot.database.clone());
            let is_there = held.entries.iter().any(|entry| entry.snapshot.tree == snapshot.tree)
                || held.dropped.contains(&snapshot.tree);
            if is_there || database.is_some_and(|only| only != its_name) {
                continue;
            }
            let finding = match &lost.why {
                Some(why) => why.clone(),
                None => "it was acknowledged, never forgotten, and is gone".to_owned(),
            };
            let error = Error::Damaged { what: format!("snapshot {}", snapshot.id.short()), finding };
            missed.push(missing(snapshot.id, Some(its_name), &error));
        }
        for id in source.unreadable.iter().filter(|_| database.is_none()) {
            let is_there = held.entries.iter().any(|entry| entry.snapshot.original == Some(*id));
            if !is_there && !source.lost.iter().any(|lost| lost.snapshot.id == *id) {
                let finding = "it cannot be read".to_owned();
                let error = Error::Damaged { what: format!("snapshot {}", id.short()), finding };
                missed.push(missing(*id, None, &error));
            }
        }
        self.report.snapshots.extend(missed);
    }

    fn done(&mut self, entry: &Entry, status: CopiedStatus, copy: Id) {
        self.report.held.push(entry.id);
        self.report.snapshots.push(row(entry, status, Some(copy)));
    }

    fn fail(&mut self, entry: &Entry, error: &Error) {
        self.report.snapshots.push(failed(entry, ErrorReport::from(error)));
    }

    pub(super) fn finish(self) -> CopyRunReport {
        let mut report = self.report;
        report.bytes_stored = self.writer.totals().bytes_stored;
        report.duration_ms = self.clock.milliseconds_since(self.clock.began());
        report.judge();
        report
    }
}

fn is_missing(error: &Error) -> bool {
    matches!(error, Error::Repo(dbkeep_repo::Error::Missing { .. }))
}

/// Says whether packs that the index of a copy names are gone without a finding of damage that would tell which snapshots
/// are concerned.
fn lost_packs(held: &Catalog, known: &Reader) -> bool {
    let index = known.index().read();
    index.packs().iter().any(|pack| pack.distrusted && !pack.waits && !held.is_damaged_pack(&pack.id))
}

/// Returns what was found wrong about the contents of a snapshot, which is so in every copy of it.
fn flaws(entry: &Entry) -> impl Iterator<Item = &String> {
    entry.history.damage.iter().filter(|found| !is_of_storage(found))
}

/// Returns how facts of the copy name a snapshot.
fn there(entry: &Entry, copy: Id) -> SnapshotRef {
    SnapshotRef { id: copy, ..entry.reference() }
}
