//! A full disk: in the repository, where a restore should go, and where a drill works. Exit code 1, a sentence with the path and the
//! bytes that are needed, old backups as they were, no panic.

use std::fs;
use std::path::Path;
use std::process::Command;

use dbkeep_testkit::oracle::Oracle;
use dbkeep_testkit::process::Outcome;
use dbkeep_testkit::workload::JournalMode;

use crate::prune::{IN_YEARS, let_marks_age};
use crate::{World, snapshot_of, times};

/// A file system of its own with few bytes; gone when dropped.
pub(crate) struct SmallDisk {
    path: std::path::PathBuf,
}

impl SmallDisk {
    /// Mounts one at `path`, where that is allowed here.
    pub(crate) fn mount(path: &Path, kibibytes: u64) -> Option<Self> {
        fs::create_dir_all(path).unwrap();
        let options = format!("size={kibibytes}k,mode=0700");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(path).output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(Self { path: path.to_owned() });
        }
        println!("skipped: no file system can be mounted here");
        None
    }

    /// Gives it another size.
    pub(crate) fn resize(&self, kibibytes: u64) {
        let options = format!("remount,size={kibibytes}k");
        let output = Command::new("mount").args(["-o", &options]).arg(&self.path).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        _ = Command::new("umount").arg("-l").arg(&self.path).output();
    }
}

/// Returns the kibibytes in use on the file system of `path`.
pub(crate) fn used(path: &Path) -> u64 {
    let output = Command::new("df").args(["--output=used", "-k"]).arg(path).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().last().unwrap().trim().parse().unwrap()
}

/// Says that the disk is full, where, and what is needed.
#[track_caller]
pub(crate) fn expect_says_full(outcome: &Outcome, place: &Path) {
    let error = if outcome.json()["error"].is_object() {
        outcome.json()["error"].clone()
    } else {
        outcome.json()["databases"][0]["error"].clone()
    };
    let said = format!("{} {}", error["message"], error["hint"]);
    assert!(said.contains(place.to_str().unwrap()), "the path is missing: {said}");
    assert!(said.contains("bytes") || said.contains("iB"), "the bytes needed are missing: {said}");
    assert!(!outcome.stderr.contains("panicked"), "{}", outcome.transcript());
}

#[test]
fn full_disk_under_the_repository_loses_nothing() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(&world.repository(), 64 << 10) else { return };
    world.write_until(5, JournalMode::Wal, 200);
    let first = world.backup();
    let at_rest = used(&disk.path);
    world.write_until(5, JournalMode::Wal, 3_000);
    let database = world.database();
    let oracle = Oracle::new(5);
    let sizes = times(12, 200) as u64;
    let mut full = 0;
    for number in 0..sizes {
        disk.resize(at_rest + 8 + number * 24);
        let outcome = world.dbkeep.run([Path::new("backup"), &database, Path::new("--json")]).go();
        match outcome.code() {
            Some(0) => break,
            Some(1) => expect_says_full(&outcome, &world.repository()),
            _ => panic!("{}", outcome.transcript()),
        }
        full += 1;
        // Reading works on a full disk.
        world.expect_restores(&oracle, &first, 200);
        world.dbkeep.run(["check", "--read-data", "--json"]).success();
    }
    assert!(full > 3, "only {full} sizes were too small");
    disk.resize(64 << 10);
    let second = world.backup();
    world.expect_restores(&oracle, &second, 3_000);
    world.expect_sound();
}

#[test]
fn drill_on_a_full_disk_of_temporary_files_has_not_passed() {
    let world = World::new();
    let folder = world.path("temporary");
    let Some(disk) = SmallDisk::mount(&folder, 64 << 10) else { return };
    world.write_until(6, JournalMode::Wal, 500);
    world.backup();
    let drill = || world.dbkeep.run(["drill", "--json"]).with("TMPDIR", &folder).go();
    let rows = drill().success().json()["drills"][0]["rows"].as_u64().unwrap();
    assert!(rows > 500, "{rows}");
    // Room for the file is not yet room for what SQLite keeps beside it.
    let size = fs::metadata(world.database()).unwrap().len() >> 10;
    let mut full = 0;
    for size in [4, 12, size / 2].into_iter().chain((size..size + 256).step_by(4)) {
        disk.resize(size);
        let outcome = drill();
        assert_eq!(used(&folder), 0, "{size} KiB leave nothing");
        let drilled = &outcome.json()["drills"][0];
        if outcome.code() == Some(0) {
            assert_eq!(drilled["rows"], rows, "{size} KiB: {}", outcome.transcript());
            continue;
        }
        let error = &drilled["error"];
        assert_eq!(
            (outcome.code(), &error["kind"]),
            (Some(1), &"no-space".into()),
            "{}",
            outcome.transcript()
        );
        assert!(error["message"].as_str().unwrap().contains(folder.to_str().unwrap()), "{error}");
        assert!(error["hint"].as_str().unwrap().contains("TMPDIR"), "{error}");
        full += 1;
    }
    assert!(full > 6, "only {full} sizes were too small");
    world.expect_sound();
}

#[test]
fn drill_that_found_damage_says_so_though_the_disk_is_full_later() {
    let world = World::new();
    let folder = world.path("temporary");
    let Some(disk) = SmallDisk::mount(&folder, 64 << 10) else { return };
    world.write_until(7, JournalMode::Wal, 500);
    let connection = rusqlite::Connection::open(world.database()).unwrap();
    // An index of other values than its table has: a quick check passes, a full one does not.
    connection
        .execute_batch(
            "CREATE TABLE words (word); INSERT INTO words VALUES ('one'), ('two');
             CREATE INDEX by_word ON words (word); PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = 'CREATE INDEX by_word ON words (upper(word))' WHERE name = 'by_word';
             PRAGMA writable_schema = RESET; PRAGMA wal_checkpoint(TRUNCATE)",
        )
        .unwrap();
    drop(connection);
    let database = world.database();
    let line =
        [Path::new("backup"), &database, Path::new("--verify"), Path::new("full"), Path::new("--json")];
    let backup = world.dbkeep.run(line).go();
    assert_eq!(backup.code(), Some(4), "{}", backup.transcript());
    let snapshot = snapshot_of(&backup);
    let drill =
        || world.dbkeep.run(["drill", "--snapshot", &snapshot, "--json"]).with("TMPDIR", &folder).go();
    let size = fs::metadata(&database).unwrap().len() >> 10;
    let mut untried = 0;
    for size in (size..size + 256).step_by(4) {
        disk.resize(size);
        let outcome = drill();
        let drilled = &outcome.json()["drills"][0];
        if drilled["error"]["kind"] == "no-space" {
            // There was no room for the file.
            assert_eq!((outcome.code(), &drilled["findings"]), (Some(1), &serde_json::json!([])));
            continue;
        }
        assert_eq!((outcome.code(), &drilled["status"]), (Some(4), &"failed".into()), "{drilled}");
        assert!(drilled["findings"][0].as_str().unwrap().contains("damaged"), "{drilled}");
        untried += usize::from(drilled["notes"].to_string().contains("not all of it was tried"));
    }
    assert!(untried > 0, "there was always room beside the database");
}

/// Writes a file until not one byte more fits.
fn fill(path: &Path) {
    let mut file = fs::File::create(path).unwrap();
    for size in [1 << 16, 4096, 1] {
        while std::io::Write::write_all(&mut file, &vec![7; size]).is_ok() {
            // Until nothing more fits.
        }
    }
}

#[test]
fn prune_works_on_a_full_disk() {
    let mut world = World::new();
    let Some(disk) = SmallDisk::mount(&world.repository(), 64 << 10) else { return };
    let oracle = Oracle::new(12);
    world.write_until(12, JournalMode::Wal, 400);
    let mut kept = vec![(world.backup(), 400)];
    for last in [800, 1200, 1600, 2000, 2400] {
        world.write_until(12, JournalMode::Wal, last);
        kept.push((world.backup(), last));
    }
    let forget = |world: &World, snapshot: &str| {
        world.dbkeep.run(["forget", snapshot, "--force", "--json"]).success();
    };
    let filler = disk.path.join("filler");

    // Not even a lock can be written, and what was marked long ago gives its room back.
    for line in [&["prune", "--json"][..], &["prune", "--grace", "0", "--json"]] {
        forget(&world, &kept.remove(0).0);
        world.dbkeep.run(["prune", "--max-unused", "0%", "--json"]).success();
        let_marks_age(&world);
        fill(&filler);
        let in_years = |line: &[&str]| world.dbkeep.run(line).with(IN_YEARS.0, IN_YEARS.1).success();
        let planned = in_years(&["prune", "--dry-run", "--json"]).json();
        let outcome = in_years(line);
        assert!(outcome.json()["bytes_freed"].as_u64().unwrap() > 0, "{}", outcome.transcript());
        assert!(outcome.json()["bytes_freed"].as_u64() >= planned["bytes_freed"].as_u64(), "{planned}");
        assert!(outcome.stderr.contains("without a lock"), "{}", outcome.transcript());
        for (snapshot, last) in &kept {
            world.expect_restores(&oracle, snapshot, *last);
        }
        world.dbkeep.run(["check", "--read-data", "--json"]).success();
        fs::remove_file(&filler).unwrap();
    }

    // Nothing was marked before, and a little room is left: unused packs go at once, and what cannot be copied waits.
    forget(&world, &kept.remove(0).0);
    forget(&world, &kept.remove(0).0);
    fill(&filler);
    let size = fs::metadata(&filler).unwrap().len();
    fs::File::options().write(true).open(&filler).unwrap().set_len(size - (64 << 10)).unwrap();
    let line = ["prune", "--grace", "0", "--max-unused", "0%", "--json"];
    let report = world.dbkeep.run(line).success().json();
    assert!(report["bytes_freed"].as_u64().unwrap() > 0, "{report}");
    for (snapshot, last) in &kept {
        world.expect_restores(&oracle, snapshot, *last);
    }
    fs::remove_file(&filler).unwrap();
    world.dbkeep.run(line).success();
    world.expect_sound();

    // Where nothing can be removed, it says so.
    fill(&filler);
    let outcome = world.dbkeep.run(["prune", "--json"]).go().expect_code(1);
    expect_says_full(&outcome, &world.repository());
    fs::remove_file(&filler).unwrap();
    world.dbkeep.fresh_machine().unwrap();
    world.expect_sound();
}

#[test]
fn full_disk_under_a_copy_loses_nothing() {
    let world = World::new();
    let place = world.path("second");
    let Some(disk) = SmallDisk::mount(&place, 64 << 10) else { return };
    let target = place.join("repository");
    let copy = || world.dbkeep.run([Path::new("copy"), "--json".as_ref(), "--to".as_ref(), &target]).go();
    world.write_until(7, JournalMode::Wal, 200);
    let first = world.backup();
    assert_eq!(copy().json()["copied"], 1);
    let at_rest = used(&disk.path);
    world.write_until(7, JournalMode::Wal, 3_000);
    let second = world.backup();
    let second_world = world.of_copy(&target);
    let oracle = Oracle::new(7);
    let mut full = 0;
    for number in 0..times(12, 200) as u64 {
        disk.resize(at_rest + 8 + number * 24);
        let outcome = copy();
        match outcome.code() {
            Some(0) => break,
            Some(1) => expect_says_full(&outcome, &target),
            _ => panic!("{}", outcome.transcript()),
        }
        full += 1;
        second_world.expect_restores(&oracle, &first, 200);
        second_world.expect_sound();
    }
    assert!(full > 3, "only {full} sizes were too small");
    disk.resize(64 << 10);
    assert_eq!(copy().success().json()["status"], "ok");
    for world in [&world, &second_world] {
        world.expect_restores(&oracle, &first, 200);
        world.expect_restores(&oracle, &second, 3_000);
        world.expect_sound();
    }
}

#[test]
fn full_disk_under_the_target_leaves_nothing_behind() {
    let world = World::new();
    let target = world.path("target");
    let Some(disk) = SmallDisk::mount(&target, 64) else { return };
    world.write_until(6, JournalMode::Delete, 2_000);
    let snapshot = world.backup();
    let size = fs::metadata(world.database()).unwrap().len() / 1024;
    for kibibytes in [8, size / 4, size / 2, size - 8] {
        disk.resize(kibibytes);
        let outcome = world.restore(&snapshot, &target.join("restored.db")).expect_code(1);
        expect_says_full(&outcome, &target);
        assert_eq!(fs::read_dir(&target).unwrap().count(), 0, "a failed restore left something behind");
    }
    disk.resize(size * 2 + 64);
    world.restore(&snapshot, &target.join("restored.db")).success();
    assert_eq!(Oracle::new(6).verify(&target.join("restored.db"), &(2_000..=2_000)).unwrap(), 2_000);
}

#[test]
fn full_disk_under_an_export_leaves_nothing_behind() {
    let world = World::new();
    let target = world.path("target");
    let Some(disk) = SmallDisk::mount(&target, 64) else { return };
    world.write_until(7, JournalMode::Delete, 2_000);
    let snapshot = world.backup();
    let size = fs::metadata(world.database()).unwrap().len() / 1024;
    let target = target.to_str().unwrap();
    for format in ["bundle", "db", "gzip", "tar.gz", "sql", "json", "ndjson", "csv"] {
        for kibibytes in [8, size / 16] {
            disk.resize(kibibytes);
            let run = world.dbkeep.run(["export", &snapshot, "--out", target, "--format", format, "--json"]);
            let outcome = run.go().expect_code(1);
            assert_eq!(outcome.json()["error"]["kind"], "no-space", "{}", outcome.transcript());
            expect_says_full(&outcome, Path::new(target));
            assert_eq!(fs::read_dir(target).unwrap().count(), 0, "{format}: something was left behind");
        }
    }
    disk.resize(size * 16 + 1024);
    for format in ["bundle", "db", "sql", "json"] {
        world.dbkeep.run(["export", &snapshot, "--out", target, "--format", format]).success();
    }
    for entry in fs::read_dir(target).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "sha256") {
            world.dbkeep.run([Path::new("verify"), &path]).success();
        }
    }
}

#[test]
fn places_that_cannot_be_written_are_named() {
    if rustix_is_root() {
        println!("skipped: root can write everywhere");
        return;
    }
    let world = World::new();
    world.write_until(8, JournalMode::Delete, 20);
    let snapshot = world.backup();
    let target = world.path("closed");
    fs::create_dir(&target).unwrap();
    fs::set_permissions(&target, std::os::unix::fs::PermissionsExt::from_mode(0o500)).unwrap();
    let outcome = world.restore(&snapshot, &target.join("restored.db")).expect_code(1);
    assert!(outcome.json()["error"]["message"].as_str().unwrap().contains("closed"));
}

fn rustix_is_root() -> bool {
    let output = Command::new("id").arg("-u").output().unwrap();
    output.stdout == b"0\n"
}

#[test]
fn state_that_cannot_be_kept_costs_time_and_no_backup() {
    let world = World::new();
    let state = world.dbkeep.home().join(".local/state");
    let Some(_disk) = SmallDisk::mount(&state, 4) else { return };
    fs::create_dir_all(state.join("full")).unwrap();
    while fs::write(state.join("full").join(format!("{}", used(&state))), [1; 4096]).is_ok() {
        // Until nothing more fits.
    }
    world.write_until(9, JournalMode::Wal, 300);
    let database = world.database();
    for round in 0..2 {
        let outcome = world.dbkeep.run([Path::new("backup"), &database, Path::new("--json")]).success();
        assert!(outcome.stderr.contains("warning"), "{}", outcome.transcript());
        // At first the repository holds nothing to be kept.
        let cache = outcome.stderr.matches("the cache in ").count();
        assert_eq!(cache, round, "{}", outcome.transcript());
        world.expect_restores(&Oracle::new(9), &crate::snapshot_of(&outcome), 300);
    }
    world.expect_sound();
}

#[test]
fn state_that_is_damaged_costs_time_and_no_backup() {
    let world = World::new();
    world.write_until(10, JournalMode::Wal, 300);
    world.backup();
    let mut spoilt = 0;
    let mut folders = vec![world.dbkeep.home().join(".local/state")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                fs::write(&path, b"{ not what it was").unwrap();
                spoilt += 1;
            }
        }
    }
    assert!(spoilt > 1, "nothing is kept there");
    world.write_until(10, JournalMode::Wal, 320);
    let snapshot = world.backup();
    world.expect_restores(&Oracle::new(10), &snapshot, 320);
    world.expect_sound();
}
