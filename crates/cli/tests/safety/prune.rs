//! A prune that is killed at every named step and at random moments: nothing acknowledged is lost, `check` is clean,
//! restic agrees, and the next prune needs no help.

use std::fs::{self, File, FileTimes};
use std::path::Path;
use std::time::{Duration, SystemTime};

use dbkeep_testkit::Rng;
use dbkeep_testkit::process::Run;
use dbkeep_testkit::workload::JournalMode;

use crate::kill::{History, steps_of};
use crate::{World, times};

/// How the prunes of a test are asked for.
#[derive(Clone, Copy, Debug)]
enum Grace {
    /// All at once.
    None,
    /// A day, after which the next prune comes.
    Day,
}

/// When the clock of this host says that every mark is old enough. That of the storage has its say too.
pub(crate) const IN_YEARS: (&str, &str) = ("DBKEEP_TEST_NOW", "2099-01-01T00:00:00Z");

/// Lets the storage forget how young the marks are.
pub(crate) fn let_marks_age(world: &World) {
    let long_ago = SystemTime::now() - Duration::from_secs(10 * 24 * 3600);
    for entry in fs::read_dir(world.repository().join("index")).unwrap() {
        let times = FileTimes::new().set_modified(long_ago);
        // Another process may have removed it.
        if let Ok(file) = File::open(entry.unwrap().path()) {
            file.set_times(times).unwrap();
        }
    }
}

/// A history of which some snapshots are forgotten, so that a prune has all kinds of work.
struct Pruned {
    history: History,
    rng: Rng,
    grace: Grace,
}

impl Pruned {
    fn new(seed: u64, grace: Grace) -> Self {
        let mut pruned = Self { history: History::new(seed, JournalMode::Wal), rng: Rng::new(seed), grace };
        for _ in 0..6 {
            pruned.grow();
        }
        pruned
    }

    /// Makes backups and forgets one; marks of an earlier prune get old.
    fn grow(&mut self) {
        for _ in 0..2 {
            self.history.write();
            self.history.back_up();
        }
        if matches!(self.grace, Grace::Day) {
            self.history.world.dbkeep.run(["prune", "--json"]).success();
            let_marks_age(&self.history.world);
        }
        // A few stay, so that packs are partly used; never the newest.
        while self.history.acknowledged.len() > 4 {
            let older = self.rng.below(self.history.acknowledged.len() as u64 - 1) as usize;
            let (snapshot, _) = self.history.acknowledged.remove(older);
            self.history.world.dbkeep.run(["forget", &snapshot, "--force", "--json"]).success();
        }
    }

    fn run(&self) -> Run {
        let dbkeep = &self.history.world.dbkeep;
        match self.grace {
            Grace::None => dbkeep.run(["prune", "--grace", "0", "--max-unused", "0%", "--json"]),
            // The clock of this host is years ahead, that of the storage ten days.
            Grace::Day => dbkeep.run(["prune", "--max-unused", "0%", "--json"]).with(IN_YEARS.0, IN_YEARS.1),
        }
    }

    fn observed(&self) -> Vec<String> {
        let dbkeep = &self.history.world.dbkeep;
        let line = ["prune", "--max-unused", "0%", "--progress=json"];
        steps_of(match self.grace {
            Grace::None => dbkeep.run(line.into_iter().chain(["--grace", "0"])),
            Grace::Day => dbkeep.run(line).with(IN_YEARS.0, IN_YEARS.1),
        })
    }

    /// Everything acknowledged is there, by our own word and, where `restic` says so, by that of stock restic.
    #[track_caller]
    fn expect_sound(&mut self, restic: bool) {
        let world = &self.history.world;
        let report = world.dbkeep.run(["check", "--read-data", "--json"]).success().json();
        assert_eq!(report["findings"], serde_json::Value::Array(vec![]));
        if restic {
            world.expect_sound();
        }
        self.history.expect_nothing_lost(&mut self.rng);
    }
}

fn kill_at_every_step(grace: Grace) {
    let mut pruned = Pruned::new(51, grace);
    let steps = pruned.observed();
    let wanted: &[&str] = match grace {
        Grace::None => {
            &["prune.pack-copied", "prune.index-stored", "prune.old-index-removed", "prune.pack-removed"]
        }
        Grace::Day => &["prune.marks-stored", "prune.pack-removed", "prune.copies-named", "prune.rewritten"],
    };
    for name in wanted {
        assert!(steps.iter().any(|step| step.starts_with(name)), "{name} is not among {steps:?}");
    }
    // Of what happens again and again the first few times.
    let steps: Vec<String> =
        steps.into_iter().filter(|step| step.split(':').next_back().unwrap().len() == 1).collect();
    let mut killed = 0;
    for (number, step) in steps.iter().enumerate() {
        pruned.grow();
        let outcome = pruned.run().killed_at(step).go();
        killed += usize::from(outcome.was_killed());
        assert!(outcome.was_killed() || outcome.code() == Some(0), "{}", outcome.transcript());
        pruned.expect_sound(number % 4 == 0);
        // No unlock, no repair: the next prune just works, and so does the next backup.
        pruned.run().success();
        pruned.expect_sound(false);
    }
    pruned.expect_sound(true);
    println!("{grace:?}: {killed} of {} prunes killed at their steps", steps.len());
    assert!(killed * 5 > steps.len() * 2, "only {killed} of {} were killed", steps.len());
}

#[test]
fn kill_at_every_step_of_a_prune_loses_nothing() {
    kill_at_every_step(Grace::None);
}

#[test]
fn kill_at_every_step_of_a_prune_with_marks_loses_nothing() {
    kill_at_every_step(Grace::Day);
}

#[test]
fn kill_at_random_moments_of_a_prune_loses_nothing() {
    for (seed, grace) in [(61, Grace::None), (62, Grace::Day)] {
        let mut pruned = Pruned::new(seed, grace);
        let usual = pruned.run().success().duration;
        let count = times(25, 1_500);
        let mut killed = 0;
        for number in 0..count {
            pruned.grow();
            let after = Duration::from_micros(pruned.rng.below(usual.as_micros() as u64 * 5 / 6));
            let outcome = pruned.run().killed_after(after).go();
            killed += usize::from(outcome.was_killed());
            assert!(outcome.was_killed() || outcome.code() == Some(0), "{}", outcome.transcript());
            if number % 5 == 0 {
                pruned.expect_sound(number % 20 == 0);
            }
        }
        pruned.run().success();
        pruned.expect_sound(true);
        for (snapshot, last) in &pruned.history.acknowledged {
            pruned.history.world.expect_restores(&pruned.history.oracle, snapshot, *last);
        }
        println!("{grace:?}: {killed} of {count} prunes killed");
        assert!(killed * 4 > count, "only {killed} of {count} were killed before their end");
    }
}

#[test]
fn index_that_restic_makes_anew_lets_prunes_go_on() {
    let mut pruned = Pruned::new(73, Grace::Day);
    pruned.grow();
    let Some(restic) = pruned.history.world.restic() else { return };
    let index = || -> Vec<_> {
        let files = fs::read_dir(pruned.history.world.repository().join("index")).unwrap();
        files.map(|entry| entry.unwrap().path()).collect()
    };
    let refused = || {
        let report = pruned.run().go().expect_code(1).json();
        assert_eq!(report["error"]["kind"], "refused");
        let hint = report["error"]["hint"].as_str().unwrap();
        assert!(hint.contains("restic repair index"), "{hint}");
    };
    for path in index() {
        File::options().write(true).open(path).unwrap().set_len(40).unwrap();
    }
    refused();
    // Gone altogether, with the marks in it.
    index().iter().for_each(|path| fs::remove_file(path).unwrap());
    refused();
    let repaired = ["repair index", "rebuild-index"]
        .map(|words| restic.command(words.split(' ')).output().unwrap().status.success());
    assert!(repaired.contains(&true));
    pruned.expect_sound(true);
    assert_eq!(pruned.run().success().json()["packs_taken_back"], 0);
    pruned.grow();
    pruned.run().success();
    pruned.expect_sound(true);
}

#[test]
fn restic_restores_exactly_what_a_prune_leaves() {
    let mut pruned = Pruned::new(71, Grace::None);
    pruned.grow();
    let report = pruned.run().success().json();
    assert!(report["packs_removed"].as_u64().unwrap() > 0, "{report}");
    let world = &pruned.history.world;
    world.expect_sound();
    let Some(restic) = world.restic() else { return };
    let target = world.path("by-restic");
    for (snapshot, last) in &pruned.history.acknowledged {
        restic.restore(snapshot, &target);
        let found = pruned.history.oracle.verify(&target.join("app/app.db"), &(*last..=*last));
        assert_eq!(found.unwrap(), *last);
        fs::remove_dir_all(&target).unwrap();
    }
    assert!(!Path::new(&target).exists());
}
