//! Real races of processes: a prune beside a backup, a restore, a check, another prune, a writer that is stopped and goes
//! on, with its lock and without it; and stock restic's prune beside our backup.
//!
//! After each race everything that was acknowledged and not forgotten is there: `check --read-data` finds nothing, and
//! restores are exact.

use std::fs;
use std::time::Duration;

use dbkeep_testkit::Rng;
use dbkeep_testkit::process::{Outcome, Run, Running};
use dbkeep_testkit::workload::JournalMode;
use rustix::process::{Pid, Signal, kill_process};

use crate::kill::History;
use crate::prune::{IN_YEARS, let_marks_age};
use crate::{snapshot_of, times};

/// Done, or kept out by the lock of the other.
const DONE_OR_LOCKED: [Option<i32>; 2] = [Some(0), Some(11)];

/// A history whose older snapshots are forgotten, so that there always is something to prune.
struct Race {
    history: History,
    rng: Rng,
    /// How long a backup takes on this machine, about.
    usual: Duration,
    locked: usize,
    number: usize,
}

impl Race {
    fn new(seed: u64) -> Self {
        let mut history = History::new(seed, JournalMode::Wal);
        for _ in 0..3 {
            history.write();
            history.back_up();
        }
        let usual = history.run_backup().success().duration;
        Self { history, rng: Rng::new(seed), usual, locked: 0, number: 0 }
    }

    /// Adds a snapshot and forgets others, so that packs are unused and partly used.
    fn prepare(&mut self) {
        self.number += 1;
        self.history.write();
        self.history.back_up();
        while self.history.acknowledged.len() > 3 {
            let older = self.rng.below(self.history.acknowledged.len() as u64 - 1) as usize;
            let (snapshot, _) = self.history.acknowledged.remove(older);
            self.dbkeep(&["forget", &snapshot, "--force", "--json"]).success();
        }
        self.history.write();
    }

    fn dbkeep(&self, line: &[&str]) -> Run {
        self.history.world.dbkeep.run(line)
    }

    /// Returns a prune: one that removes at once, one that marks, or one that removes what was marked before.
    fn prune(&mut self) -> Run {
        let line = ["prune", "--max-unused", "0%", "--json"];
        match self.rng.below(3) {
            0 => self.dbkeep(&[&line[..], &["--grace", "0"]].concat()),
            1 => self.dbkeep(&line),
            _ => {
                let_marks_age(&self.history.world);
                self.dbkeep(&line).with(IN_YEARS.0, IN_YEARS.1)
            }
        }
    }

    /// Waits for some part of the time that a backup takes.
    fn pause(&mut self) {
        let most = self.usual.as_micros() as u64;
        std::thread::sleep(Duration::from_micros(self.rng.below(most.max(1))));
    }

    /// Starts two runs, one after the other or at once, in either order.
    fn side_by_side(&mut self, one: Run, other: Run) -> (Outcome, Outcome) {
        if self.rng.below(2) == 0 {
            let one = one.start();
            self.pause();
            let other = other.start();
            (one.wait(), other.wait())
        } else {
            let other = other.start();
            self.pause();
            let one = one.start();
            (one.wait(), other.wait())
        }
    }

    #[track_caller]
    fn expect_done_or_locked(&mut self, outcomes: &[&Outcome]) {
        for outcome in outcomes {
            assert!(DONE_OR_LOCKED.contains(&outcome.code()), "{}", outcome.transcript());
            self.locked += usize::from(outcome.code() == Some(11));
        }
    }

    /// Takes note of a backup that was acknowledged.
    fn note(&mut self, backup: &Outcome) {
        if backup.code() == Some(0) {
            self.history.acknowledged.push((snapshot_of(backup), self.history.last));
        }
    }

    #[track_caller]
    fn expect_nothing_lost(&mut self) {
        let report = self.dbkeep(&["check", "--read-data", "--json"]).success().json();
        assert_eq!(report["findings"], serde_json::Value::Array(vec![]));
        self.history.expect_nothing_lost(&mut self.rng);
        if self.number.is_multiple_of(10) {
            self.history.world.expect_sound();
        }
    }

    #[track_caller]
    fn finish(mut self, what: &str, least_locked: usize) {
        for (snapshot, last) in &self.history.acknowledged {
            self.history.world.expect_restores(&self.history.oracle, snapshot, *last);
        }
        self.dbkeep(&["prune", "--grace", "0", "--json"]).success();
        self.expect_nothing_lost();
        self.history.world.expect_sound();
        println!("{} races of {what}: {} kept out by a lock, nothing lost", self.number, self.locked);
        assert!(self.locked >= least_locked, "the two never met");
    }
}

/// Stops a process, so that it does nothing until it is told to go on.
fn stop(process: &Running) {
    signal(process, Signal::STOP);
}

fn go_on(process: &Running) {
    signal(process, Signal::CONT);
}

fn signal(process: &Running, signal: Signal) {
    let id = Pid::from_raw(process.id() as i32).unwrap();
    // It may have ended already; it is waited for later, so the number is still its own.
    let _ = kill_process(id, signal);
}

/// Takes the locks away, as another machine does that takes them for abandoned, or `restic unlock --remove-all`.
fn remove_locks(race: &Race) {
    for entry in fs::read_dir(race.history.world.repository().join("locks")).unwrap() {
        let _ = fs::remove_file(entry.unwrap().path());
    }
}

#[test]
fn race_of_prune_and_backup() {
    let mut race = Race::new(81);
    for _ in 0..times(50, 600) {
        race.prepare();
        let (prune, backup) = (race.prune(), race.history.run_backup());
        let (prune, backup) = race.side_by_side(prune, backup);
        race.expect_done_or_locked(&[&prune, &backup]);
        race.note(&backup);
        race.expect_nothing_lost();
    }
    race.finish("prune and backup", 1);
}

#[test]
fn race_of_prune_with_restore_check_and_another_prune() {
    let mut race = Race::new(82);
    for number in 0..times(45, 400) {
        race.prepare();
        let to = race.history.world.path("raced.db");
        let snapshot = race.history.acknowledged[0].clone();
        let other = match number % 3 {
            0 => race.dbkeep(&["restore", &snapshot.0, "--to", to.to_str().unwrap(), "--json"]),
            1 => race.dbkeep(&["check", "--read-data", "--json"]),
            _ => race.prune(),
        };
        let prune = race.prune();
        let (prune, other) = race.side_by_side(prune, other);
        race.expect_done_or_locked(&[&prune, &other]);
        if to.exists() {
            let found = race.history.oracle.verify(&to, &(snapshot.1..=snapshot.1));
            assert_eq!(found.unwrap(), snapshot.1);
            fs::remove_file(to).unwrap();
        }
        race.expect_nothing_lost();
    }
    race.finish("prune with restore, check and prune", 1);
}

#[test]
fn race_of_prune_and_a_backup_that_is_stopped_and_goes_on() {
    let mut race = Race::new(83);
    for _ in 0..times(30, 300) {
        race.prepare();
        let backup = race.history.run_backup().start();
        race.pause();
        stop(&backup);
        let prune = race.prune().go();
        go_on(&backup);
        let backup = backup.wait();
        race.expect_done_or_locked(&[&prune, &backup]);
        // A backup that had its lock keeps the prune out, however long it rests.
        race.note(&backup);
        race.expect_nothing_lost();
    }
    race.finish("prune and a backup that is stopped", 1);
}

#[test]
fn race_of_prune_and_a_stopped_backup_whose_lock_was_taken_away() {
    let mut race = Race::new(84);
    let mut failed = 0;
    for _ in 0..times(40, 500) {
        race.prepare();
        let backup = race.history.run_backup().start();
        race.pause();
        stop(&backup);
        remove_locks(&race);
        let prune = race.prune().go();
        assert_eq!(prune.code(), Some(0), "{}", prune.transcript());
        go_on(&backup);
        let backup = backup.wait();
        // It notices, or had made its snapshot before.
        assert!([Some(0), Some(1), Some(11)].contains(&backup.code()), "{}", backup.transcript());
        failed += usize::from(backup.code() == Some(1));
        race.note(&backup);
        race.expect_nothing_lost();
    }
    println!("{failed} backups noticed that their lock was gone");
    assert!(failed > 0);
    race.finish("prune and a stopped backup without its lock", 0);
}

#[test]
fn race_of_a_stopped_prune_whose_lock_was_taken_away_and_a_backup() {
    let mut race = Race::new(85);
    for _ in 0..times(25, 300) {
        race.prepare();
        let prune = race.prune().start();
        race.pause();
        stop(&prune);
        remove_locks(&race);
        // Another machine takes over, and prunes too.
        if race.rng.below(2) == 0 {
            race.prune().success();
        }
        let backup = race.history.run_backup().go();
        assert_eq!(backup.code(), Some(0), "{}", backup.transcript());
        race.note(&backup);
        go_on(&prune);
        let prune = prune.wait();
        assert!([Some(0), Some(1)].contains(&prune.code()), "{}", prune.transcript());
        // It may have marked what the backup relies on: that is there, and a prune takes it back.
        race.history.expect_nothing_lost(&mut race.rng);
        race.dbkeep(&["prune", "--json"]).success();
        race.expect_nothing_lost();
    }
    race.finish("a stopped prune without its lock and a backup", 0);
}

#[test]
fn race_of_restics_prune_and_our_backup() {
    let mut race = Race::new(86);
    let Some(restic) = race.history.world.restic() else { return };
    for number in 0..times(36, 200) {
        race.prepare();
        if number % 3 == 0 {
            // So that there are marked packs, which restic takes for packs in no index.
            race.dbkeep(&["prune", "--json"]).success();
        }
        let backup = race.history.run_backup();
        let mut prune = restic.command(["prune", "--max-unused", "0"]);
        prune.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
        let (backup, prune) = if number % 2 == 0 {
            let backup = backup.start();
            race.pause();
            if number % 4 == 0 {
                stop(&backup);
            }
            if number % 8 == 0 {
                remove_locks(&race);
            }
            let prune = prune.output().unwrap();
            go_on(&backup);
            (backup.wait(), prune)
        } else {
            let prune = prune.spawn().unwrap();
            race.pause();
            (backup.go(), prune.wait_with_output().unwrap())
        };
        let said = String::from_utf8_lossy(&prune.stderr).into_owned();
        assert!(prune.status.success() || said.contains("lock"), "{said}");
        // One that was stopped notices that its lock is gone.
        assert!(backup.code() != Some(1) || number % 8 == 0, "{}", backup.transcript());
        if backup.code() != Some(1) {
            race.expect_done_or_locked(&[&backup]);
        }
        race.locked += usize::from(!prune.status.success());
        race.note(&backup);
        race.expect_nothing_lost();
    }
    race.finish("restic prune and our backup", 1);
}
