//! Every restored image is exactly a committed prefix of the source's history, within the bounds of the backup,
//! under a writer at full speed with hostile checkpoints, VACUUM, DDL and journal switches.

use std::fs;
use std::path::Path;

use dbkeep_testkit::oracle::{Bounds, Oracle};
use dbkeep_testkit::workload::{JournalMode, Options, Process};

use crate::{World, snapshot_of, times};

/// Backups taken of one history; a new one begins then, so that replaying it stays cheap.
const BACKUPS: usize = 25;

/// Takes backups while a process writes, and returns their ids with what they may contain.
fn backups_under_fire(world: &World, options: Options) -> Vec<(String, Bounds)> {
    let log = world.path("log");
    let writer = Process::start(&Options { log: Some(log), hostile: true, ..options }).unwrap();
    let log = writer.log().unwrap();
    while log.last_acknowledged().unwrap() < 20 {
        std::thread::yield_now();
    }
    let mut taken = Vec::new();
    for _ in 0..BACKUPS {
        let first_allowed = log.last_acknowledged().unwrap();
        let database = world.database();
        let outcome = world.dbkeep.run([Path::new("backup"), &database, Path::new("--json")]).success();
        let last_allowed = log.last_started().unwrap();
        taken.push((snapshot_of(&outcome), first_allowed..=last_allowed));
    }
    writer.stop().unwrap();
    taken
}

/// Takes and restores `BACKUPS` snapshots of one history.
fn every_restore_is_a_prefix(journal: JournalMode, page_size: u32, seed: u64) {
    let world = World::new();
    let options = Options { journal, page_size: Some(page_size), ..Options::new(world.database(), seed) };
    let taken = backups_under_fire(&world, options);
    let oracle = Oracle::new(seed);
    for (snapshot, bounds) in taken {
        let to = world.path("restored.db");
        let report = world.restore(&snapshot, &to).success().json();
        assert_eq!(report["verified"], true, "{report}");
        let found = oracle.verify(&to, &bounds);
        found.unwrap_or_else(|finding| {
            panic!("{journal:?}, {page_size} byte pages, seed {seed}, snapshot {snapshot}: {finding}")
        });
        fs::remove_file(&to).unwrap();
    }
    world.expect_sound();
}

/// Runs several histories in one journal mode, with pages of all sizes.
fn histories(journal: JournalMode, first_seed: u64) {
    let page_sizes = [4096, 512, 65536, 1024, 16384, 8192, 2048, 32768];
    let count = times(3, 100);
    // The modes begin with different ones, so that a few histories of each have pages of all sizes together.
    let first = usize::try_from(first_seed / 1_000 * 2).unwrap_or(0);
    for (number, page_size) in (0..count as u64).zip(page_sizes.into_iter().cycle().skip(first)) {
        every_restore_is_a_prefix(journal, page_size, first_seed + number);
    }
    println!("{journal:?}: {} restores, all exact prefixes", count * BACKUPS);
}

#[test]
fn prefix_of_the_history_with_a_write_ahead_log() {
    histories(JournalMode::Wal, 1_000);
}

#[test]
fn prefix_of_the_history_with_a_deleted_journal() {
    histories(JournalMode::Delete, 2_000);
}

#[test]
fn prefix_of_the_history_with_a_truncated_journal() {
    histories(JournalMode::Truncate, 3_000);
}

#[test]
fn prefix_of_the_history_with_a_persistent_journal() {
    histories(JournalMode::Persist, 4_000);
}
