//! kill -9 at every named step and at random moments: nothing acknowledged is lost, the next run needs no
//! help, `check` is clean, restic agrees, and a target is whole old or whole new.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use dbkeep_testkit::Rng;
use dbkeep_testkit::oracle::Oracle;
use dbkeep_testkit::process::Run;
use dbkeep_testkit::workload::JournalMode;

use crate::{World, times};

/// Returns the steps that a run passes, each as often as it came, as `name:occurrence`.
pub(crate) fn steps_of(run: Run) -> Vec<String> {
    let outcome = run.success();
    let mut seen: Vec<String> = Vec::new();
    let mut names: Vec<String> = Vec::new();
    for line in outcome.stderr.lines() {
        let Ok(event) = serde_json::from_str::<serde_json::Value>(line) else { continue };
        let Some(name) = event["step"].as_str() else { continue };
        names.push(name.to_owned());
        let occurrence = names.iter().filter(|other| *other == name).count();
        seen.push(format!("{name}:{occurrence}"));
    }
    let distinct: BTreeSet<&String> = names.iter().collect();
    assert!(distinct.len() >= 5, "too few steps are named: {names:?}");
    seen
}

/// A database with a growing history and the snapshots that were acknowledged of it.
pub(crate) struct History {
    pub(crate) world: World,
    pub(crate) oracle: Oracle,
    seed: u64,
    journal: JournalMode,
    pub(crate) last: u64,
    pub(crate) acknowledged: Vec<(String, u64)>,
}

impl History {
    pub(crate) fn new(seed: u64, journal: JournalMode) -> Self {
        Self::within(World::new(), seed, journal)
    }

    pub(crate) fn within(world: World, seed: u64, journal: JournalMode) -> Self {
        let mut history =
            Self { world, oracle: Oracle::new(seed), seed, journal, last: 0, acknowledged: Vec::new() };
        history.write();
        history.back_up();
        history
    }

    pub(crate) fn write(&mut self) {
        self.last += 40;
        self.world.write_until(self.seed, self.journal, self.last);
    }

    pub(crate) fn back_up(&mut self) {
        let snapshot = self.world.backup();
        self.acknowledged.push((snapshot, self.last));
    }

    pub(crate) fn run_backup(&self) -> Run {
        let database = self.world.database();
        self.world.dbkeep.run([Path::new("backup"), &database, Path::new("--json")])
    }

    /// Everything acknowledged restores, exactly; the newest always, an older one at random.
    pub(crate) fn expect_nothing_lost(&self, rng: &mut Rng) {
        let older = &self.acknowledged[rng.below(self.acknowledged.len() as u64) as usize];
        for (snapshot, last) in [self.acknowledged.last().unwrap(), older] {
            self.world.expect_restores(&self.oracle, snapshot, *last);
        }
    }
}

#[test]
fn kill_at_every_step_of_a_backup_loses_nothing() {
    let mut history = History::new(11, JournalMode::Wal);
    let rng = &mut Rng::new(11);
    history.write();
    let database = history.world.database();
    let observed = history.world.dbkeep.run([Path::new("backup"), &database, "--progress=json".as_ref()]);
    for step in steps_of(observed) {
        history.write();
        let outcome = history.run_backup().killed_at(&step).go();
        // A later run can pass a step less often; then it was simply a backup.
        if !outcome.was_killed() {
            history.acknowledged.push((crate::snapshot_of(&outcome.success()), history.last));
            continue;
        }
        // No unlock, no repair: the next command just works.
        history.world.expect_sound();
        history.expect_nothing_lost(rng);
        history.back_up();
        history.expect_nothing_lost(rng);
    }
    history.world.expect_sound();
}

#[test]
fn kill_at_random_moments_of_a_backup_with_a_log_loses_nothing() {
    kill_backups_at_random_moments(21, JournalMode::Wal);
}

#[test]
fn kill_at_random_moments_of_a_backup_with_a_journal_loses_nothing() {
    kill_backups_at_random_moments(22, JournalMode::Delete);
}

fn kill_backups_at_random_moments(seed: u64, journal: JournalMode) {
    let mut history = History::new(seed, journal);
    let rng = &mut Rng::new(seed);
    let usual = history.run_backup().success().duration;
    let count = times(50, 2_500);
    let mut killed = 0;
    for number in 0..count {
        history.write();
        let after = Duration::from_micros(rng.below(usual.as_micros() as u64 * 5 / 4));
        let outcome = history.run_backup().killed_after(after).go();
        if outcome.was_killed() {
            killed += 1;
            // What was killed may have been whole already; it was not acknowledged, so nothing is promised.
        } else {
            history.acknowledged.push((crate::snapshot_of(&outcome.success()), history.last));
        }
        if number % 8 == 0 {
            history.world.expect_sound();
            history.back_up();
            history.expect_nothing_lost(rng);
        }
    }
    history.world.expect_sound();
    for (snapshot, last) in &history.acknowledged {
        history.world.expect_restores(&history.oracle, snapshot, *last);
    }
    println!("{journal:?}: {killed} of {count} backups killed, {} acknowledged", history.acknowledged.len());
    assert!(killed * 3 > count, "only {killed} of {count} were killed before their end");
}

/// The arguments of a restore into the original place.
fn in_place(snapshot: &str) -> [&str; 5] {
    ["restore", snapshot, "--in-place", "--yes", "--json"]
}

/// Makes sure that the target is exactly the old database or exactly the new one. Says which.
#[track_caller]
fn expect_old_or_new(history: &History, old: u64, new: u64) -> u64 {
    let found = history.oracle.verify(&history.world.database(), &(0..=u64::MAX)).unwrap();
    assert!(found == old || found == new, "the target has {found} transactions, neither {old} nor {new}");
    found
}

#[test]
fn kill_at_every_step_of_a_restore_in_place_leaves_old_or_new() {
    for (seed, journal) in [(31, JournalMode::Wal), (32, JournalMode::Delete)] {
        let mut history = History::new(seed, journal);
        let (snapshot, new) = history.acknowledged[0].clone();
        history.write();
        let mut arguments = in_place(&snapshot).to_vec();
        arguments.push("--progress=json");
        let steps = steps_of(history.world.dbkeep.run(arguments));
        for step in steps {
            // Old again, with other rows than the snapshot's.
            history.world.write_until(seed, journal, new + 40);
            let outcome = history.world.dbkeep.run(in_place(&snapshot)).killed_at(&step).go();
            let found = expect_old_or_new(&history, new + 40, new);
            assert!(outcome.was_killed() || found == new, "{}", outcome.transcript());
            history.world.dbkeep.run(in_place(&snapshot)).success();
            assert_eq!(expect_old_or_new(&history, new, new), new);
        }
        history.world.expect_sound();
    }
}

#[test]
fn kill_at_random_moments_of_a_restore_in_place_leaves_old_or_new() {
    for (seed, journal) in [(41, JournalMode::Wal), (42, JournalMode::Truncate)] {
        let mut history = History::new(seed, journal);
        let (snapshot, new) = history.acknowledged[0].clone();
        history.write();
        let usual = history.world.dbkeep.run(in_place(&snapshot)).success().duration;
        let rng = &mut Rng::new(seed);
        let count = times(50, 2_500);
        let mut killed = 0;
        for _ in 0..count {
            history.world.write_until(seed, journal, new + 40);
            let after = Duration::from_micros(rng.below(usual.as_micros() as u64 * 5 / 4));
            let outcome = history.world.dbkeep.run(in_place(&snapshot)).killed_after(after).go();
            let found = expect_old_or_new(&history, new + 40, new);
            killed += usize::from(outcome.was_killed());
            assert!(outcome.was_killed() || found == new, "{}", outcome.transcript());
        }
        history.world.dbkeep.run(in_place(&snapshot)).success();
        assert_eq!(expect_old_or_new(&history, new, new), new);
        history.world.expect_sound();
        println!("{journal:?}: {killed} of {count} restores killed");
        assert!(killed * 3 > count, "only {killed} of {count} were killed before their end");
    }
}
