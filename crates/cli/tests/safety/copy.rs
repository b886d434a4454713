//! Copies under kill -9, beside each other and beside stock restic: what a copy shows as a snapshot is whole, and the
//! next copy completes what an interrupted one left.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dbkeep_testkit::Rng;
use dbkeep_testkit::oracle::Oracle;
use dbkeep_testkit::process::Run;
use dbkeep_testkit::restic::{Restic, SKIPPED};
use dbkeep_testkit::workload::JournalMode;

use crate::kill::steps_of;
use crate::{PASSWORD, World, times};

/// A database with a growing history, and a place to copy to.
struct Copied {
    world: World,
    oracle: Oracle,
    seed: u64,
    last: u64,
    /// The snapshots of the primary, each with the number of its last transaction.
    snapshots: Vec<(String, u64)>,
}

impl Copied {
    fn new(seed: u64) -> Self {
        let world = World::new();
        let mut copied = Self { world, oracle: Oracle::new(seed), seed, last: 0, snapshots: Vec::new() };
        copied.back_up();
        copied
    }

    fn back_up(&mut self) {
        self.last += 40;
        self.world.write_until(self.seed, JournalMode::Wal, self.last);
        self.snapshots.push((self.world.backup(), self.last));
    }

    fn place(&self, name: &str) -> PathBuf {
        self.world.path(name)
    }

    fn copy_to(&self, place: &Path) -> Run {
        self.world.dbkeep.run([Path::new("copy"), "--json".as_ref(), "--to".as_ref(), place])
    }

    /// What is there is whole: by our word and by restic's, and every snapshot restores.
    fn expect_nothing_half(&self, place: &Path) {
        if !place.join("config").is_file() {
            return;
        }
        let there = self.world.of_copy(place);
        there.expect_sound();
        let list = there.dbkeep.run(["verify", "--all", "--json"]).success().json();
        assert_eq!(list["damaged"], 0);
    }

    /// The copy has everything, exactly.
    fn expect_complete(&self, place: &Path, rng: &mut Rng) {
        let there = self.world.of_copy(place);
        let list = there.dbkeep.run(["list", "--json"]).success().json();
        assert_eq!(list["snapshots"].as_array().unwrap().len(), self.snapshots.len(), "each once");
        let older = &self.snapshots[rng.below(self.snapshots.len() as u64) as usize];
        for (snapshot, last) in [self.snapshots.last().unwrap(), older] {
            there.expect_restores(&self.oracle, snapshot, *last);
        }
    }
}

#[test]
fn kill_at_every_step_of_a_copy_shows_nothing_half() {
    let mut copied = Copied::new(51);
    copied.back_up();
    let rng = &mut Rng::new(51);
    let observed = copied.place("observed");
    let arguments = [Path::new("copy"), "--progress=json".as_ref(), "--to".as_ref(), &observed];
    let steps = steps_of(copied.world.dbkeep.run(arguments));
    for name in
        ["init.repository-made", "copy.locked", "copy.packs-stored", "copy.read-back", "copy.verified"]
    {
        assert!(steps.iter().any(|step| step.starts_with(name)), "{name} is no step: {steps:?}");
    }
    let mut killed = 0;
    for (number, step) in steps.iter().enumerate() {
        let place = copied.place(&format!("copy-{number}"));
        let outcome = copied.copy_to(&place).killed_at(step).go();
        killed += usize::from(outcome.was_killed());
        copied.expect_nothing_half(&place);
        // No unlock, no repair: the next one just completes it.
        copied.copy_to(&place).success();
        copied.expect_nothing_half(&place);
        copied.expect_complete(&place, rng);
    }
    assert_eq!(killed, steps.len(), "every step is one to be killed at");
}

#[test]
fn kill_at_random_moments_of_a_copy_shows_nothing_half() {
    let mut copied = Copied::new(52);
    let rng = &mut Rng::new(52);
    let place = copied.place("second");
    copied.copy_to(&place).success();
    copied.back_up();
    let usual = copied.copy_to(&place).success().duration;
    let count = times(24, 1_000);
    let mut killed = 0;
    for number in 0..count {
        copied.back_up();
        let after = Duration::from_micros(rng.below(usual.as_micros() as u64 * 5 / 4));
        killed += usize::from(copied.copy_to(&place).killed_after(after).go().was_killed());
        if number % 8 == 0 {
            copied.expect_nothing_half(&place);
        }
    }
    copied.copy_to(&place).success();
    copied.expect_nothing_half(&place);
    copied.expect_complete(&place, rng);
    assert!(killed * 3 > count, "only {killed} of {count} were killed before their end");
}

#[test]
fn two_copies_at_once_make_each_snapshot_once() {
    let mut copied = Copied::new(53);
    let rng = &mut Rng::new(53);
    let place = copied.place("second");
    copied.copy_to(&place).success();
    for _ in 0..times(6, 200) {
        copied.back_up();
        let both = [copied.copy_to(&place).start(), copied.copy_to(&place).start()];
        for outcome in both.map(dbkeep_testkit::process::Running::wait) {
            let code = outcome.code();
            assert!(matches!(code, Some(0 | 11)), "{}", outcome.transcript());
        }
        copied.copy_to(&place).success();
        copied.expect_complete(&place, rng);
    }
    copied.expect_nothing_half(&place);
}

#[test]
fn stock_restic_and_we_recognise_each_others_copies() {
    let mut copied = Copied::new(54);
    copied.back_up();
    let place = copied.place("second");
    let Some(there) = Restic::find(&place, PASSWORD) else {
        println!("{SKIPPED}");
        return;
    };
    let restic_copy = |copied: &Copied| {
        let mut command = there.command(["copy", "--from-repo"]);
        command.arg(copied.world.repository()).env("RESTIC_FROM_PASSWORD", PASSWORD);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        there.snapshots().len()
    };
    // Theirs first: we find what they copied.
    there.init();
    assert_eq!(restic_copy(&copied), 2);
    let report = copied.copy_to(&place).success().json();
    assert_eq!((&report["copied"], &report["present"]), (&0.into(), &2.into()), "{report}");

    // Then ours, of a snapshot of restic's own too: they find what we copied.
    copied.back_up();
    copied.world.restic().unwrap().backup(&copied.world.database());
    let report = copied.copy_to(&place).success().json();
    assert_eq!((&report["copied"], &report["present"]), (&2.into(), &2.into()), "{report}");
    assert_eq!(restic_copy(&copied), 4, "nothing is left for restic to copy");
    there.check();

    let original = |snapshot: &serde_json::Value| snapshot["original"].as_str().unwrap().to_owned();
    let originals: Vec<String> = there.snapshots().iter().map(original).collect();
    assert!(copied.snapshots.iter().all(|(id, _)| originals.contains(id)), "{originals:?}");
    let tree = |snapshot: &serde_json::Value| (snapshot["time"].to_string(), snapshot["tree"].to_string());
    let mut here: Vec<_> = copied.world.restic().unwrap().snapshots().iter().map(tree).collect();
    let mut copies: Vec<_> = there.snapshots().iter().map(tree).collect();
    here.sort();
    copies.sort();
    assert_eq!(copies, here);

    let world = copied.world.of_copy(&place);
    for (snapshot, last) in &copied.snapshots {
        world.expect_restores(&copied.oracle, snapshot, *last);
    }
}
