//! kill -9 of a guard at random moments: what was committed before its command is there when it is finished, what the
//! command did is kept before it is undone, and what somebody else commits beside it is never undone.

use std::path::Path;
use std::time::{Duration, Instant};

use dbkeep_testkit::Rng;
use dbkeep_testkit::oracle::Oracle;
use dbkeep_testkit::process::{Outcome, Run};
use dbkeep_testkit::workload::{JournalMode, Options, Process, binary};
use serde_json::Value;

use crate::kill::History;
use crate::{World, times};

/// How many transactions the guarded command commits before it fails.
const OF_COMMAND: u64 = 30;

impl World {
    fn guard(&self, command: &str) -> Run {
        let database = self.database();
        let line = [Path::new("guard"), &database, "--json".as_ref(), "--".as_ref()];
        let command = ["sh", "-c", command].map(Path::new);
        self.dbkeep.run(line.into_iter().chain(command)).in_directory(self.folder.path())
    }

    /// Finishes a guard that was killed, when its command has ended.
    fn resume(&self, options: &[&str]) -> Outcome {
        let began = Instant::now();
        loop {
            let outcome = self.dbkeep.run([&["guard", "--resume", "--json"], options].concat()).go();
            if !outcome.stderr.contains("still runs") {
                return outcome;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "{}", outcome.transcript());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Returns a command that commits what comes next in the history, and fails.
fn failing_writer(history: &History, seed: u64, journal: JournalMode) -> String {
    let pipe = history.world.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    format!(
        // It ends with its input, so it gets one that does not end. And its output is not the guard's, so that it may
        // outlive that unnoticed.
        "'{}' app.db --seed {seed} --journal {} --transactions {OF_COMMAND} <>pipe >log 2>&1; exit 3",
        binary().unwrap().display(),
        journal.name(),
    )
}

/// Makes sure that the database is exactly as it was after `last` transactions.
#[track_caller]
fn expect_at(history: &History, last: u64, what: &str) {
    let found = history.oracle.verify(&history.world.database(), &(last..=last));
    found.unwrap_or_else(|finding| panic!("{finding}: {what}"));
}

fn kill_guards_of_a_command_that_fails(seed: u64, journal: JournalMode) {
    let mut history = History::within(World::on_disk(), seed, journal);
    let command = failing_writer(&history, seed, journal);
    let usual = history.world.guard(&command).go().expect_code(3).duration;
    expect_at(&history, history.last, "nothing was killed");
    let rng = &mut Rng::new(seed);
    let count = times(12, 500);
    let (mut killed, mut undone) = (0, 0);
    for _ in 0..count {
        history.write();
        let before = history.last;
        let after = Duration::from_micros(rng.below(usual.as_micros() as u64));
        let outcome = history.world.guard(&command).killed_after(after).go();
        if !outcome.was_killed() {
            expect_at(&history, before, &outcome.expect_code(3).transcript());
            continue;
        }
        killed += 1;
        let resumed = history.world.resume(&["--on-failure", "restore"]).expect_code(0);
        expect_at(&history, before, &resumed.transcript());
        let safety = &resumed.json()["resumed"][0]["databases"][0]["safety_snapshot"];
        if let Some(safety) = safety.as_str() {
            undone += 1;
            history.world.expect_restores(&history.oracle, safety, before + OF_COMMAND);
        }
    }
    history.world.expect_sound();
    println!("{journal:?}: {killed} of {count} guards killed, {undone} undone afterwards");
    assert!(killed * 3 > count, "only {killed} of {count} were killed before their end");
    assert!(undone > 0 || count < 100, "nothing was left to be undone");
}

#[test]
fn kill_of_a_guard_over_a_log_loses_nothing() {
    kill_guards_of_a_command_that_fails(61, JournalMode::Wal);
}

#[test]
fn kill_of_a_guard_over_a_journal_loses_nothing() {
    kill_guards_of_a_command_that_fails(62, JournalMode::Delete);
}

#[test]
fn kill_of_a_guard_undoes_nothing_of_who_writes_beside_it() {
    let world = World::on_disk();
    let seed = 63;
    let options =
        Options { log: Some(world.path("log")), rate: Some(200), ..Options::new(world.database(), seed) };
    let writer = Process::start(&options).unwrap();
    let usual = world.guard("sleep 0.2; exit 3").go().expect_code(3).duration;
    let rng = &mut Rng::new(seed);
    let (count, mut killed) = (times(12, 500), 0);
    for _ in 0..count {
        let after = Duration::from_micros(rng.below(usual.as_micros() as u64));
        let outcome = world.guard("sleep 0.2; exit 3").killed_after(after).go();
        if !outcome.was_killed() {
            let report = outcome.expect_code(3).json();
            assert_eq!(report["outcome"], "kept", "{report:#}");
            continue;
        }
        killed += 1;
        let resumed = world.resume(&[]);
        if resumed.code() == Some(125) {
            let report = resumed.json();
            assert_eq!(report["resumed"][0]["outcome"], "kept", "{report:#}");
            world.resume(&["--on-failure", "keep"]).expect_code(0);
        } else {
            let report = resumed.expect_code(0).json();
            let outcomes = report["resumed"].as_array().unwrap().iter().map(|one| &one["outcome"]);
            assert!(outcomes.into_iter().all(|one: &Value| one == "not-started"), "{report:#}");
        }
    }
    let log = writer.log().unwrap().clone();
    let report = writer.stop().unwrap();
    // One that was undone would have been committed again.
    assert_eq!(report.transactions, report.last);
    let bounds = log.last_acknowledged().unwrap()..=log.last_started().unwrap();
    Oracle::new(seed).verify(&world.database(), &bounds).unwrap();
    println!("{killed} of {count} guards killed beside a writer, {} transactions", bounds.start());
    assert!(killed * 3 > count, "only {killed} of {count} were killed before their end");
}
