//! Prunes that fail at any write, and whole histories of backups, prunes and crashes: nothing that is needed is ever lost.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dbkeep_repo::backend::{Backend, FileKind, MemoryBackend};
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::index::Index;
use dbkeep_repo::prune::{Limits, PruneOptions, PruneReport};
use dbkeep_repo::{Error, Id, Observer, Repository, Result, Unobserved};
use jiff::{SignedDuration, Timestamp};

use crate::crash::FailsOnce;
use crate::prune::{DAY, assert_sound, at_once, daily, forget, image, limits, prune, scene, watch};
use crate::scene::{backup, memory, now, open, restore};

/// Interrupts a prune after each of its writes and removals in turn.
fn crash_everywhere(options: &PruneOptions, rounds: &[SignedDuration]) {
    for writes in 0.. {
        let (backend, repository, snapshots) = scene();
        forget(&repository, &[&snapshots[0].0]);
        let mut crashed = false;
        for after in rounds {
            backend.fail_after(writes);
            crashed |= prune(&repository, options, now() + *after).is_err();
            backend.recover();
        }
        let found = backend.after_crash();
        let repository = open(Arc::new(found.clone()));
        assert_sound(&repository);
        for (snapshot, contents) in &snapshots[1..] {
            assert!(restore(&repository, snapshot).unwrap() == *contents, "after {writes} writes");
        }
        // A backup in this state relies on nothing that goes.
        let again = backup(&repository, &snapshots[0].1).unwrap();
        for days in [10, 12] {
            prune(&repository, options, now() + DAY * days).unwrap();
            assert_sound(&repository);
        }
        let all = snapshots[1..]
            .iter()
            .chain([(again, snapshots[0].1.clone())].iter())
            .cloned()
            .collect::<Vec<_>>();
        for (snapshot, contents) in all {
            assert!(restore(&repository, &snapshot).unwrap() == contents, "after {writes} writes");
        }
        if !crashed {
            assert!(writes >= 8, "{writes}");
            return;
        }
    }
}

#[test]
fn crash_at_any_write_of_marking_loses_nothing() {
    let none = PruneOptions { limits: limits(0), ..daily() };
    crash_everywhere(&none, &[SignedDuration::ZERO]);
}

#[test]
fn crash_at_any_write_of_removing_loses_nothing() {
    let none = PruneOptions { limits: limits(0), ..daily() };
    crash_everywhere(&none, &[SignedDuration::ZERO, DAY]);
}

#[test]
fn crash_at_any_write_without_a_time_of_grace_loses_nothing() {
    let none = PruneOptions { limits: limits(0), ..at_once() };
    crash_everywhere(&none, &[SignedDuration::ZERO]);
}

#[test]
fn index_file_that_a_prune_stores_after_its_lock_was_taken_away_does_not_stay() {
    let (backend, repository, snapshots) = scene();
    forget(&repository, &[&snapshots[0].0]);
    // It is stopped before it replaces a part of the index. Meanwhile another one removes what its new file names.
    let other = open(Arc::new(backend.clone()));
    let second = snapshots[1].0.clone();
    backend.before_change(FileKind::Index, move |backend| {
        for id in backend.names(FileKind::Lock) {
            backend.remove(FileKind::Lock, &id).unwrap();
        }
        forget(&other, &[&second]);
        assert!(prune(&other, &at_once(), now()).unwrap().packs_removed > 0);
    });
    let marking = PruneOptions { limits: limits(1000), ..daily() };
    assert!(matches!(prune(&repository, &marking, now()), Err(Error::LockLost)));
    // A stock tool would take what that file names for stored.
    assert_sound(&repository);
    let index = Index::load(&repository, &Unobserved).unwrap();
    let stored = backend.names(FileKind::Pack);
    assert!(index.packs().iter().all(|pack| stored.contains(&pack.id)));
    assert!(restore(&repository, &snapshots[2].0).unwrap() == snapshots[2].1);
}

#[test]
fn index_files_are_left_alone_once_the_lock_was_taken_away() {
    let (backend, repository) = memory();
    let contents: Vec<Vec<u8>> = (0..10).map(|seed| image(&[seed])).collect();
    let snapshots: Vec<Snapshot> =
        contents.iter().map(|contents| backup(&repository, contents).unwrap()).collect();
    // It is stopped at the second removal, after the new index file was stored.
    backend.before_change(FileKind::Index, |backend| {
        backend.before_change(FileKind::Index, |backend| {
            backend.before_change(FileKind::Index, |backend| {
                for id in backend.names(FileKind::Lock) {
                    backend.remove(FileKind::Lock, &id).unwrap();
                }
            });
        });
    });
    let merging = PruneOptions { limits: Limits { pack_size: 1000, ..limits(50) }, ..daily() };
    assert!(matches!(prune(&repository, &merging, now()), Err(Error::LockLost)));
    assert_eq!(backend.names(FileKind::Index).len(), 9, "eight old ones and the one that stands for all");
    assert_sound(&repository);
    for (snapshot, contents) in snapshots.iter().zip(&contents) {
        assert!(restore(&repository, snapshot).unwrap() == *contents);
    }
}

#[test]
fn removal_of_packs_can_be_interrupted() {
    /// Asks to stop once the first pack is removed.
    #[derive(Default)]
    struct Stops(AtomicBool);

    impl Observer for Stops {
        fn cancelled(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }

        fn step(&self, name: &'static str) {
            self.0.fetch_or(name == "prune.pack-removed", Ordering::Relaxed);
        }
    }

    let (backend, repository, snapshots) = scene();
    forget(&repository, &[&snapshots[2].0]);
    let before = backend.names(FileKind::Pack).len();
    let lock = repository.lock_exclusive(now()).unwrap();
    let watch: Arc<dyn Observer> = Arc::new(Stops::default());
    let plan = repository.plan_prune(&lock, &at_once(), now(), &watch).unwrap();
    assert!(plan.forecast().packs_removed > 1);
    assert!(matches!(plan.run(&lock), Err(Error::Cancelled)));
    drop(lock);
    assert_eq!(backend.names(FileKind::Pack).len(), before - 1);
    assert_sound(&repository);
    // The rest is marked already, and goes like other packs.
    assert_eq!(prune(&repository, &daily(), now()).unwrap().packs_marked, 0);
    assert!(prune(&repository, &daily(), now() + DAY).unwrap().packs_removed > 0);
    assert_sound(&repository);
}

/// Makes sure that each pack is named by an index file, so that nothing takes room that cannot be given back.
#[track_caller]
fn assert_all_named(backend: &MemoryBackend, repository: &Repository) {
    let index = Index::load(repository, &Unobserved).unwrap();
    let named: HashSet<Id> = index.packs().iter().map(|pack| pack.id).collect();
    let stored = backend.names(FileKind::Pack);
    assert!(stored.iter().all(|pack| named.contains(pack)), "packs are in no index");
}

#[test]
fn disk_that_is_full_at_any_write_of_a_prune_is_left_with_no_more_on_it() {
    for kind in [FileKind::Pack, FileKind::Index] {
        for nth in 1.. {
            let (backend, repository, snapshots) = scene();
            forget(&repository, &[&snapshots[0].0]);
            let full = Arc::new(FailsOnce::new(backend.clone(), kind, nth));
            let none = PruneOptions { limits: limits(0), ..daily() };
            let pruned = prune_without_forecast(&open(Arc::clone(&full) as Arc<dyn Backend>), &none, now());
            let what = format!("{kind:?} {nth}: {pruned:?}");
            assert!(matches!(pruned, Ok(_) | Err(Error::NoSpace { .. })), "{what}");
            assert_all_named(&backend, &repository);
            assert_sound(&repository);
            for (snapshot, contents) in &snapshots[1..] {
                assert!(restore(&repository, snapshot).unwrap() == *contents, "{what}");
            }
            if !full.has_failed() {
                assert!(nth > 1, "{what}");
                break;
            }
            // What could not be copied waits for the next one.
            assert!(prune(&repository, &none, now()).unwrap().packs_marked > 0, "{what}");
            prune(&repository, &none, now() + DAY).unwrap();
            assert_sound(&repository);
        }
    }
}

#[test]
fn disk_that_is_too_full_to_merge_index_files_does_not_fail_the_prune() {
    let (backend, repository) = memory();
    for seed in 0..10 {
        backup(&repository, &image(&[seed])).unwrap();
    }
    let full = Arc::new(FailsOnce::new(backend.clone(), FileKind::Index, 1));
    // No pack is small here.
    let options = PruneOptions { limits: Limits { pack_size: 1000, ..limits(50) }, ..daily() };
    let report = prune(&open(Arc::clone(&full) as Arc<dyn Backend>), &options, now()).unwrap();
    assert!(full.has_failed() && report.bytes_index == 0, "{report:?}");
    assert_eq!(backend.names(FileKind::Index).len(), 10);
    assert!(prune(&repository, &options, now()).unwrap().bytes_index > 0);
    assert_eq!(backend.names(FileKind::Index).len(), 1);
    assert_sound(&repository);
}

fn prune_without_forecast(
    repository: &Repository,
    options: &PruneOptions,
    now: Timestamp,
) -> Result<PruneReport> {
    let lock = repository.lock_exclusive(now)?;
    repository.plan_prune(&lock, options, now, &watch())?.run(&lock)
}

/// A small generator of numbers, so that a failure can be repeated by its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 33).unwrap() % limit
    }

    /// Returns one of several.
    fn one_of<T: Copy>(&mut self, several: &[T]) -> T {
        several[self.below(u32::try_from(several.len()).unwrap()) as usize]
    }
}

/// A repository with a random history, and what must be there.
struct Life {
    dice: Dice,
    backend: MemoryBackend,
    repository: Repository,
    clock: Timestamp,
    there: BTreeMap<Id, (Snapshot, Vec<u8>)>,
    /// What was forgotten since packs were last removed, with the bytes of the snapshots.
    forgotten: Vec<(Snapshot, Vec<u8>, Vec<u8>)>,
}

impl Life {
    fn new(seed: u64) -> Self {
        let (backend, repository) = memory();
        let (clock, there, forgotten) = (now(), BTreeMap::new(), Vec::new());
        Self { dice: Dice(seed), backend, repository, clock, there, forgotten }
    }

    /// Lets time pass and something happen.
    fn step(&mut self) {
        self.clock += SignedDuration::from_hours(1 + i64::from(self.dice.below(20)));
        self.backend.set_time(self.clock);
        match self.dice.below(9) {
            0..=2 => self.back_up(),
            3..=4 if self.there.len() > 1 => self.forget(),
            5 if !self.forgotten.is_empty() => self.let_one_come_back(),
            _ => self.prune(),
        }
        if self.dice.below(4) == 0 {
            self.backend = self.backend.after_crash();
            self.repository = open(Arc::new(self.backend.clone()));
        }
        self.backend.recover();
    }

    /// A backup, which may be interrupted. One that fails after its snapshot was written leaves one that nobody was told
    /// of; it is sound as well.
    fn back_up(&mut self) {
        let first = u64::from(self.dice.below(30));
        let last = first + 1 + u64::from(self.dice.below(12));
        let contents = image(&(first..last).collect::<Vec<_>>());
        if self.dice.below(4) == 0 {
            self.backend.fail_after(self.dice.below(12).into());
        }
        if let Ok(snapshot) = backup(&self.repository, &contents) {
            self.there.insert(snapshot.id.unwrap(), (snapshot, contents));
        }
    }

    fn forget(&mut self) {
        let ids: Vec<Id> = self.there.keys().copied().collect();
        let id = self.dice.one_of(&ids);
        let (snapshot, contents) = self.there.remove(&id).unwrap();
        let sealed = self.backend.read(FileKind::Snapshot, &id).unwrap();
        forget(&self.repository, &[&snapshot]);
        self.forgotten.push((snapshot, contents, sealed));
    }

    /// A writer whose lock nobody honoured makes a snapshot that no prune knew of. The next one takes the packs back.
    fn let_one_come_back(&mut self) {
        let (snapshot, contents, sealed) = self.forgotten.remove(0);
        let id = snapshot.id.unwrap();
        self.backend.write(FileKind::Snapshot, &id, &sealed).unwrap();
        assert!(restore(&self.repository, &snapshot).unwrap() == contents);
        self.there.insert(id, (snapshot, contents));
        let report = prune_without_forecast(&self.repository, &daily(), self.clock).unwrap();
        if report.packs_removed > 0 {
            self.forgotten.clear();
        }
    }

    /// A prune, which may be interrupted. A power cut may undo any of the removals of packs, as they are not synced.
    fn prune(&mut self) {
        let dice = &mut self.dice;
        let grace = dice.one_of(&[SignedDuration::ZERO, SignedDuration::from_hours(10), DAY]);
        let share = dice.one_of(&[0, 50, 500, 1000]);
        // Now and then they are small, and merged.
        let pack_size = dice.one_of(&[40_000, 16 << 20]);
        let limits = Limits { pack_size, ..limits(share) };
        let options = PruneOptions { limits, grace, ..PruneOptions::default() };
        if dice.below(3) == 0 {
            self.backend.fail_after(dice.below(25).into());
        }
        let packs = self.backend.names(FileKind::Pack).into_iter();
        let mut removed: Vec<(Id, Vec<u8>)> =
            packs.map(|id| (id, self.backend.read(FileKind::Pack, &id).unwrap())).collect();
        let _ = prune_without_forecast(&self.repository, &options, self.clock);
        self.backend.recover();
        let left = self.backend.names(FileKind::Pack);
        removed.retain(|(id, _)| !left.contains(id));
        if !removed.is_empty() {
            self.forgotten.clear();
        }
        if self.dice.below(3) == 0 {
            for (id, contents) in removed {
                if self.dice.below(2) == 0 {
                    self.backend.write(FileKind::Pack, &id, &contents).unwrap();
                }
            }
        }
    }

    #[track_caller]
    fn expect_nothing_lost(&self) {
        assert_sound(&self.repository);
        for (snapshot, contents) in self.there.values() {
            assert!(restore(&self.repository, snapshot).unwrap() == *contents);
        }
    }

    /// Whatever happened, everything of no use is given back in the end.
    #[track_caller]
    fn expect_all_given_back(&mut self) {
        // What is merged or copied may leave something to be done by the next one, but not for ever.
        for _ in 0..6 {
            self.clock += DAY * 2;
            self.backend.set_time(self.clock);
            prune_without_forecast(&self.repository, &daily(), self.clock).unwrap();
        }
        let last = prune(&self.repository, &daily(), self.clock).unwrap();
        assert_eq!((last.packs_removed, last.packs_marked), (0, 0));
        assert_eq!((last.packs_waiting, last.packs_unnamed), (0, 0));
        assert!(last.bytes_unused * 19 <= last.bytes_used, "{last:?}");
        self.expect_nothing_lost();
    }
}

#[test]
fn random_histories_of_backups_prunes_and_crashes_lose_nothing() {
    let count = if std::env::var_os("DBKEEP_CAMPAIGN").is_some() { 2_000 } else { 40 };
    for seed in 0..count {
        let lived = std::panic::catch_unwind(|| {
            let mut life = Life::new(seed);
            for _ in 0..30 {
                life.step();
                life.expect_nothing_lost();
            }
            life.expect_all_given_back();
        });
        assert!(lived.is_ok(), "the history of seed {seed}");
    }
}
