//! Every object of a repository flipped, zeroed, cut, deleted, swapped: `check --read-data` finds all of it and
//! names the snapshots it affects, and nothing damaged is ever restored.

use std::fs;
use std::path::Path;

use dbkeep_testkit::damage::{self, Damage};
use dbkeep_testkit::workload::JournalMode;

use crate::{World, times};

/// A repository with three snapshots, and what each restores to.
struct Repository {
    world: World,
    originals: Vec<(String, Vec<u8>)>,
}

impl Repository {
    fn new() -> Self {
        let world = World::new();
        let mut originals = Vec::new();
        for last in [60, 120, 180] {
            world.write_until(7, JournalMode::Delete, last);
            let snapshot = world.backup();
            originals.push((snapshot, fs::read(world.database()).unwrap()));
        }
        Self { world, originals }
    }

    /// Runs `check --read-data` and `restore` on the damaged repository.
    #[track_caller]
    fn expect_found(&self, damage: &Damage) {
        let undo = damage.apply(&self.world.repository()).unwrap();
        let outcome = self.world.dbkeep.run(["check", "--read-data", "--json"]).go();
        let report = outcome.json();
        match outcome.code() {
            Some(4) => self.expect_names_affected(damage, &report),
            // What opens a repository is damaged, so nothing can be asked of it.
            Some(1 | 10 | 12) => {
                let opens = damage.object.starts_with("keys") || damage.object == Path::new("config");
                assert!(opens, "{damage}: {}", outcome.transcript());
                assert!(report["error"]["message"].is_string(), "{damage}: {}", outcome.transcript());
            }
            _ => panic!("{damage} was not found: {}", outcome.transcript()),
        }
        for (snapshot, original) in &self.originals {
            self.expect_restores_right_or_not_at_all(damage, snapshot, original);
        }
        drop(undo);
    }

    /// Damage to what snapshots need names snapshots.
    fn expect_names_affected(&self, damage: &Damage, report: &serde_json::Value) {
        assert_eq!(report["ok"], false, "{damage}");
        let findings = report["findings"].as_array().unwrap();
        assert!(!findings.is_empty(), "{damage}");
        let of_snapshots = ["data", "snapshots"].iter().any(|folder| damage.object.starts_with(folder));
        let names_one = findings.iter().any(|finding| !finding["affects"].as_array().unwrap().is_empty());
        assert!(!of_snapshots || names_one, "{damage} names no snapshot: {report}");
    }

    fn expect_restores_right_or_not_at_all(&self, damage: &Damage, snapshot: &str, original: &[u8]) {
        let to = self.world.path("restored.db");
        let outcome = self.world.restore(snapshot, &to);
        if outcome.code() == Some(0) {
            assert!(fs::read(&to).unwrap() == original, "{damage}: snapshot {snapshot} restored wrong bytes");
            fs::remove_file(&to).unwrap();
        } else {
            assert!(!to.exists(), "{damage}: a failed restore left {}", to.display());
            let error = &outcome.json()["error"];
            assert!(error["message"].is_string(), "{damage}: {}", outcome.transcript());
        }
    }
}

#[test]
fn damage_to_whole_objects_is_found() {
    let repository = Repository::new();
    repository.world.expect_sound();
    let all = damage::coarse(&repository.world.repository()).unwrap();
    assert!(all.len() > 40, "only {} damages", all.len());
    for damage in &all {
        repository.expect_found(damage);
    }
    repository.world.expect_sound();
    println!("{} deletions and truncations, all found", all.len());
}

#[test]
fn damage_at_random_places_is_found() {
    let repository = Repository::new();
    let all = damage::random(&repository.world.repository(), 0xda3a6e, times(120, 10_000)).unwrap();
    for damage in &all {
        repository.expect_found(damage);
    }
    repository.world.expect_sound();
    println!("{} random damages, all found", all.len());
}
