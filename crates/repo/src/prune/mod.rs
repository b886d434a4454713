//! Gives back the space of what no snapshot needs, in two phases, so that nothing needed is ever lost.
//!
//! [`Repository::plan_prune`] looks at everything (`survey.rs`, `used.rs`) and decides (`plan.rs`, pure);
//! [`Prune::run`] carries the plan out under the only lock: packs that were marked long enough ago are removed, unused
//! ones are marked (`index_files.rs`), and partly used ones are copied (`copy.rs`) and then marked.
//!
//! Crash cases: every write and removal leaves a sound repository, in which all that was there can be read. What
//! replaces is durable before what is replaced goes. See `docs/design/prune.md`.

mod copy;
mod index_files;
mod plan;
mod space;
mod survey;
mod used;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

pub use plan::{Holds, Limits, MaxUnused, Pack, Plan, State, plan};
pub use space::Space;

use crate::backend::FileKind;
use crate::error::{Error, Result};
use crate::lock::{ExclusiveLock, RepositoryLock};
use crate::observe::Observer;
use crate::{Id, Repository};
use copy::Copy;
use index_files::{Change, Changes, IndexFiles};
use survey::{Look, Survey};

/// What is copied before the packs that it came from are marked. A prune that is interrupted begins a round anew, and a
/// full disk needs room for one.
const ROUND: u64 = 1 << 30;
/// What a prune leaves free of a disk when it copies.
const SPARE_ROOM: u64 = 16 << 20;

/// How to prune.
#[derive(Clone, Debug)]
pub struct PruneOptions {
    /// What decides which packs are written anew.
    pub limits: Limits,
    /// How long a pack stays after it was marked. Zero relies on the lock alone.
    pub grace: SignedDuration,
    /// Snapshots that are to be taken for gone, where nothing but a plan is wanted.
    pub without: HashSet<Id>,
    /// Packs in which damage was found. A blob that another pack has too counts as being there, and these packs are
    /// not written anew.
    pub damaged: HashSet<Id>,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            grace: SignedDuration::from_hours(24),
            without: HashSet::new(),
            damaged: HashSet::new(),
        }
    }
}

/// What a prune did, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PruneReport {
    /// Packs that were removed.
    pub packs_removed: u64,
    /// Their bytes.
    pub bytes_freed: u64,
    /// Packs that were marked; a later prune removes them.
    pub packs_marked: u64,
    /// Their bytes.
    pub bytes_marked: u64,
    /// Packs that were marked before and stay, as the time of grace has not passed.
    pub packs_waiting: u64,
    /// Their bytes.
    pub bytes_waiting: u64,
    /// Packs that were marked before and are needed again.
    pub packs_taken_back: u64,
    /// Packs of which the used part was copied; they are among those marked or removed.
    pub packs_rewritten: u64,
    /// The bytes that were copied.
    pub bytes_rewritten: u64,
    /// Bytes of index files that were written.
    pub bytes_index: u64,
    /// Packs that no index names and that are too young to be told from what is being written.
    pub packs_unnamed: u64,
    /// Bytes that stay unused in packs that are partly used.
    pub bytes_unused: u64,
    /// Bytes that snapshots need.
    pub bytes_used: u64,
}

/// A prune that is planned.
pub struct Prune {
    repository: Repository,
    options: PruneOptions,
    survey: Survey,
    plan: Plan,
    now: Timestamp,
    watch: Arc<dyn Observer>,
}

impl Repository {
    /// Looks at everything and decides what a prune has to do. Nothing is changed.
    ///
    /// Any snapshot, index file or directory that cannot be read, any blob or needed pack that is missing, is an error.
    /// To carry the plan out, the lock has to be the one that [`Prune::run`] gets.
    pub fn plan_prune(
        &self,
        lock: &dyn RepositoryLock,
        options: &PruneOptions,
        now: Timestamp,
        watch: &Arc<dyn Observer>,
    ) -> Result<Prune> {
        let damaged = |pack: &Id| options.damaged.contains(pack);
        let look = Look {
            repository: self,
            lock,
            without: &options.without,
            damaged: &damaged,
            grace: options.grace,
            now,
            watch: &**watch,
        };
        let survey = look.survey()?;
        let plan = plan(&survey.packs, options.limits);
        let (repository, options, watch) = (self.clone(), options.clone(), Arc::clone(watch));
        Ok(Prune { repository, options, survey, plan, now, watch })
    }
}

impl Prune {
    /// Returns all packs, and what will become of them as places in that list.
    pub fn plan(&self) -> (&[Pack], &Plan) {
        (&self.survey.packs, &self.plan)
    }

    /// Returns what the plan comes to when all of it is carried out.
    pub fn forecast(&self) -> PruneReport {
        let mut report = self.standing();
        let Plan { remove, mark, rewrite, .. } = &self.plan;
        (report.packs_removed, report.bytes_freed) = self.sum(remove);
        let (packs, bytes) = self.sum(mark);
        let (rewritten, rewritten_bytes) = self.sum(rewrite);
        (report.packs_marked, report.bytes_marked) = (packs + rewritten, bytes + rewritten_bytes);
        if self.is_immediate() {
            report.packs_removed += std::mem::take(&mut report.packs_marked);
            report.bytes_freed += std::mem::take(&mut report.bytes_marked);
        }
        report.packs_rewritten = rewritten;
        report.bytes_rewritten = rewrite.iter().map(|place| self.survey.packs[*place].used).sum();
        report.bytes_unused -= rewrite.iter().map(|place| self.survey.packs[*place].unused).sum::<u64>();
        report
    }

    /// Carries the plan out.
    ///
    /// First what needs no room: the removal of packs that were marked long enough ago. Then unused packs are marked,
    /// then partly used ones are copied, a part of them at a time, and marked. On return all of that is durable. Where
    /// there is no room to copy, the rest waits for a later prune, with a warning. May be interrupted anywhere.
    pub fn run(self, lock: &ExclusiveLock) -> Result<PruneReport> {
        if !self.options.without.is_empty() {
            return Err(Error::Unsupported {
                what: "a plan without some of the snapshots cannot be carried out".to_owned(),
            });
        }
        let mut report = self.standing();
        self.make_durable()?;
        let mut work = Work::new(&self, lock);
        work.remove_ready(&mut report)?;
        work.mark_unused(&mut report)?;
        work.rewrite(&mut report)?;
        work.tidy(&mut report)?;
        Ok(report)
    }

    /// Removes packs that have waited for their removal long enough, and nothing else: for a disk that is too full for
    /// the only lock to be written. Tells what was removed.
    ///
    /// Marks are safe without that lock as well: nobody relies on a marked pack, and whoever looked before the marking
    /// had the time of grace to finish, and was looked for again when this was planned. The marks stay, for a later prune.
    pub fn make_room(&self, lock: &dyn RepositoryLock) -> Result<PruneReport> {
        let waited = |place: &&usize| matches!(self.survey.packs[**place].state, State::Marked { .. });
        let waited: Vec<usize> = self.plan.remove.iter().filter(waited).copied().collect();
        let mut report = PruneReport::default();
        if self.options.without.is_empty() && !self.is_immediate() {
            self.make_durable()?;
            Work::new(self, lock).remove(&waited, &mut report)?;
        }
        Ok(report)
    }

    /// Makes sure that no power cut brings back what this plan takes for gone: a snapshot that somebody dropped without
    /// a sync, an index file that names packs which go.
    fn make_durable(&self) -> Result<()> {
        let backend = self.repository.backend();
        [FileKind::Snapshot, FileKind::Index].into_iter().try_for_each(|kind| backend.make_durable(kind))
    }

    /// Returns what the plan leaves as it is.
    fn standing(&self) -> PruneReport {
        let (packs_waiting, bytes_waiting) = self.sum(&self.plan.wait);
        let stays = |pack: &&Pack| pack.used > 0;
        PruneReport {
            packs_waiting,
            bytes_waiting,
            packs_taken_back: self.plan.take_back.len() as u64,
            packs_unnamed: self.plan.leave.len() as u64,
            bytes_unused: self.survey.packs.iter().filter(stays).map(|pack| pack.unused).sum(),
            bytes_used: self.survey.packs.iter().map(|pack| pack.used).sum(),
            ..PruneReport::default()
        }
    }

    fn sum(&self, places: &[usize]) -> (u64, u64) {
        (places.len() as u64, places.iter().map(|place| self.survey.packs[*place].size).sum())
    }

    fn is_immediate(&self) -> bool {
        self.options.grace <= SignedDuration::ZERO
    }
}

impl std::fmt::Debug for Prune {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Prune({:?})", self.forecast())
    }
}

/// A plan that is being carried out.
struct Work<'a> {
    prune: &'a Prune,
    lock: &'a dyn RepositoryLock,
    index: IndexFiles<'a>,
}

impl<'a> Work<'a> {
    fn new(prune: &'a Prune, lock: &'a dyn RepositoryLock) -> Self {
        let files = prune.survey.files.clone();
        let index = IndexFiles::new(&prune.repository, lock, &*prune.watch, prune.now, files);
        Self { prune, lock, index }
    }

    /// Removes packs that were marked, or are in no index, for longer than the time of grace.
    fn remove_ready(&mut self, report: &mut PruneReport) -> Result<()> {
        let plan = &self.prune.plan;
        let removed = self.remove(&plan.remove, report)?;
        // Together with what an interrupted prune, or somebody else, has removed before.
        let mut changes: Changes = removed.iter().map(|id| (*id, Change::Drop)).collect();
        changes.extend(self.prune.survey.gone.iter().map(|id| (*id, Change::Drop)));
        changes.extend(self.ids(&plan.take_back).into_iter().map(|id| (id, Change::TakeBack)));
        self.index.change(&changes, false)?;
        self.step("prune.removed");
        Ok(())
    }

    /// Marks the packs of which nothing is used; without a time of grace they go at once.
    fn mark_unused(&mut self, report: &mut PruneReport) -> Result<()> {
        self.retire(&self.prune.plan.mark, report)?;
        self.step("prune.marked");
        Ok(())
    }

    /// Copies what is used of packs that are partly used, or small, and retires them.
    fn rewrite(&mut self, report: &mut PruneReport) -> Result<()> {
        let mut rest = self.prune.plan.rewrite.as_slice();
        while !rest.is_empty() {
            let (round, later) = rest.split_at(self.round(rest));
            rest = later;
            let needed = round.iter().map(|place| self.pack(*place).used).sum();
            match self.copy(round, needed) {
                Ok(bytes) => report.bytes_rewritten += bytes,
                Err(Error::NoSpace { .. }) => {
                    self.prune.watch.warn(&format!(
                        "no room to write {} partly used packs anew: {needed} bytes are needed for the next of them",
                        round.len() + rest.len(),
                    ));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
            report.packs_rewritten += round.len() as u64;
            report.bytes_unused -= round.iter().map(|place| self.pack(*place).unused).sum::<u64>();
            self.retire(round, report)?;
            self.step("prune.rewritten");
        }
        Ok(())
    }

    /// Merges small index files where there are many.
    fn tidy(&mut self, report: &mut PruneReport) -> Result<()> {
        match self.index.change(&Changes::new(), true) {
            // Everything that gives space back is done.
            Err(error @ Error::NoSpace { .. }) => {
                self.prune.watch.warn(&format!("no room to merge small index files: {error}"));
            }
            changed => changed?,
        }
        report.bytes_index = self.index.bytes_written;
        Ok(())
    }

    /// Returns how many of these packs are copied in one round.
    fn round(&self, places: &[usize]) -> usize {
        let mut bytes = 0;
        let fits = |place: &&usize| {
            bytes += self.pack(**place).used;
            bytes <= ROUND
        };
        places.iter().take_while(fits).count().max(1)
    }

    /// Copies what is used of some packs, where there is room.
    fn copy(&self, places: &[usize], needed: u64) -> Result<u64> {
        let repository = &self.prune.repository;
        self.ensure_alone()?;
        if let Some(free) = repository.backend().free_space()?
            && free < needed.saturating_add(SPARE_ROOM.min(needed))
        {
            let source = std::io::ErrorKind::StorageFull.into();
            return Err(Error::NoSpace { path: repository.location().into(), needed, source });
        }
        let copy = Copy {
            repository,
            lock: self.lock,
            survey: &self.prune.survey,
            pack_size: usize::try_from(self.prune.options.limits.pack_size).unwrap_or(usize::MAX),
            watch: &self.prune.watch,
        };
        copy.run(&self.ids(places))
    }

    /// Takes packs out of the index: they wait for their removal, or go at once where there is no time of grace.
    ///
    /// They are marked in either case: should the lock turn out to be lost before they are removed, a later prune can
    /// take them back.
    fn retire(&mut self, places: &[usize], report: &mut PruneReport) -> Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        self.ensure_alone()?;
        let marked: Changes = self.ids(places).into_iter().map(|id| (id, Change::Mark)).collect();
        self.index.change(&marked, false)?;
        if self.prune.is_immediate() {
            let removed = self.remove(places, report)?;
            let dropped = removed.into_iter().map(|id| (id, Change::Drop)).collect();
            self.index.change(&dropped, false)?;
        } else {
            let (packs, bytes) = self.prune.sum(places);
            report.packs_marked += packs;
            report.bytes_marked += bytes;
        }
        Ok(())
    }

    /// Removes packs for good, after a last look whether a snapshot came in that nobody looked at.
    fn remove(&self, places: &[usize], report: &mut PruneReport) -> Result<Vec<Id>> {
        if places.is_empty() {
            return Ok(Vec::new());
        }
        self.ensure_alone()?;
        let sizes: HashMap<Id, u64> =
            places.iter().map(|place| (self.pack(*place).id, self.pack(*place).size)).collect();
        let ids = self.ids(places);
        self.prune.repository.backend().remove_all(FileKind::Pack, &ids, &mut |id| {
            report.packs_removed += 1;
            report.bytes_freed += sizes.get(id).copied().unwrap_or(0);
            self.step("prune.pack-removed");
            if self.prune.watch.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
        })?;
        Ok(ids)
    }

    /// Makes sure that the lock was there all the time and that no snapshot came in in spite of it.
    fn ensure_alone(&self) -> Result<()> {
        if self.prune.watch.cancelled() {
            return Err(Error::Cancelled);
        }
        self.lock.ensure_valid()?;
        let known = &self.prune.survey.snapshots;
        let listed = self.prune.repository.names(FileKind::Snapshot)?;
        match listed.iter().find(|id| !known.contains(id)) {
            Some(id) => {
                Err(Error::Changed { what: format!("snapshot {id:.8} came in in spite of the lock") })
            }
            None => Ok(()),
        }
    }

    fn pack(&self, place: usize) -> &Pack {
        &self.prune.survey.packs[place]
    }

    fn ids(&self, places: &[usize]) -> Vec<Id> {
        places.iter().map(|place| self.pack(*place).id).collect()
    }

    fn step(&self, name: &'static str) {
        self.prune.watch.step(name);
    }
}
