//! Recognising a database that did not change, and never one that did.

use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use dbkeep_sqlite::capture::{Capture, CaptureOptions, Method};
use dbkeep_sqlite::position::{FileState, Position};
use rusqlite::Connection;

use crate::support::{Other, assert_same, dbpage, fill, make, place, read_all};

/// Waits until a later write gets a later time.
fn settle(path: &Path) {
    loop {
        match FileState::of(path).unwrap().unsettled() {
            Duration::ZERO => return,
            rest => thread::sleep(rest),
        }
    }
}

/// The position when every write so far is surely over.
fn position(path: &Path) -> Position {
    settle(path);
    let mut capture = Capture::open(path, &CaptureOptions::default()).unwrap();
    read_all(&mut capture);
    let position = capture.position().unwrap().clone();
    // A position is kept as text between runs.
    capture.finish().unwrap();
    position
}

fn unchanged(path: &Path, earlier: &Position) -> bool {
    Capture::open(path, &CaptureOptions::default()).unwrap().is_unchanged_since(earlier)
}

#[test]
fn rollback_database_is_unchanged_until_something_is_written() {
    let (_folder, path) = place("quiet.db");
    make(&path, &fill(10));
    let earlier = position(&path);
    assert!(unchanged(&path, &earlier));
    let application = Connection::open(&path).unwrap();
    let _: i64 = application.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
    assert!(unchanged(&path, &earlier), "reading is no change");
    application.execute_batch("UPDATE t SET v = 3 WHERE id = 1").unwrap();
    assert!(!unchanged(&path, &earlier));
}

#[test]
fn file_written_just_before_the_capture_is_read_again() {
    let (_folder, path) = place("racy.db");
    make(&path, &fill(10));
    let a_moment_ahead = SystemTime::now() + Duration::from_secs(60);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(a_moment_ahead).unwrap();
    let capture = Capture::open(&path, &CaptureOptions::default()).unwrap();
    let racy = capture.position().unwrap().clone();
    drop(capture);
    assert!(!unchanged(&path, &racy));
}

#[test]
fn transaction_that_spilled_and_was_rolled_back_is_a_change() {
    let (_folder, path) = place("spilled.db");
    make(&path, &fill(500));
    make(&path, "DELETE FROM t WHERE id > 100");
    let earlier = position(&path);
    let before = std::fs::read(&path).unwrap();
    make(&path, &format!("PRAGMA cache_size = 3; BEGIN; {}; ROLLBACK", fill(300)));
    let after = std::fs::read(&path).unwrap();
    assert_eq!(before[24..28], after[24..28], "the change counter did not move");
    assert!(!unchanged(&path, &earlier));
}

#[test]
fn wal_database_is_unchanged_through_checkpoints_until_a_commit() {
    let (_folder, path) = place("log.db");
    make(&path, "PRAGMA journal_mode = wal");
    let mut application = Other::start("sql", &path);
    application.ask("PRAGMA wal_autocheckpoint = 0");
    application.ask("CREATE TABLE t(v)");
    application.ask("INSERT INTO t VALUES(1)");
    let earlier = position(&path);
    assert!(earlier.wal.is_some());
    assert!(unchanged(&path, &earlier));
    assert_eq!(application.ask("PRAGMA wal_checkpoint(passive)"), "Integer(0)");
    assert!(unchanged(&path, &earlier), "a checkpoint moves bytes, not contents");
    application.ask("BEGIN; INSERT INTO t VALUES(2); ROLLBACK");
    assert!(unchanged(&path, &earlier));
    application.ask("INSERT INTO t VALUES(2)");
    assert!(!unchanged(&path, &earlier));
    let later = position(&path);
    application.ask("PRAGMA wal_checkpoint(truncate)");
    application.ask("INSERT INTO t VALUES(3)");
    assert!(!unchanged(&path, &later));
    assert!(!unchanged(&path, &earlier));
}

#[test]
fn commits_that_a_checkpoint_moved_before_the_log_began_anew_are_a_change() {
    let (_folder, path) = place("anew.db");
    make(&path, "PRAGMA journal_mode = wal; CREATE TABLE t(v)");
    let mut application = Other::start("sql", &path);
    application.ask("SELECT count(*) FROM t");
    // The log has no frame: the main file alone is the database.
    let earlier = position(&path);
    assert!(earlier.wal.is_none());
    assert!(unchanged(&path, &earlier));
    application.ask("INSERT INTO t VALUES(1)");
    application.ask("PRAGMA wal_checkpoint(truncate)");
    assert!(!unchanged(&path, &earlier));
}

#[test]
fn database_at_rest_is_unchanged_until_it_is_used() {
    let (_folder, path) = place("rest.db");
    make(&path, &format!("PRAGMA journal_mode = wal; {}", fill(10)));
    let earlier = position(&path);
    assert!(unchanged(&path, &earlier));
    make(&path, "UPDATE t SET v = 2 WHERE id = 3");
    assert!(!unchanged(&path, &earlier));
}

#[test]
fn copy_in_the_place_of_the_database_is_a_change() {
    let (_folder, path) = place("copied.db");
    make(&path, &fill(10));
    let earlier = position(&path);
    let copy = path.with_extension("copy");
    std::fs::copy(&path, &copy).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::hard_link(&copy, &path).unwrap();
    assert!(!unchanged(&path, &earlier));
}

#[test]
fn second_pass_over_an_unchanged_file_reads_nothing() {
    let (_folder, path) = place("calm.db");
    make(&path, &fill(100));
    settle(&path);
    let options = CaptureOptions { force_method: Some(Method::TwoPass), ..CaptureOptions::default() };
    let mut calm = Capture::open(&path, &options).unwrap();
    let mut image = vec![0; calm.size() as usize];
    assert_eq!(calm.read(&mut image).unwrap(), image.len());
    assert!(calm.needs_settling());
    let size = calm.settle(65536, &mut |index, _| panic!("chunk {index} was read again")).unwrap();
    assert_eq!(size, image.len() as u64);
    assert!(calm.inspection_holds());
    assert_same(&image, &std::fs::read(&path).unwrap());
}

#[test]
fn second_pass_sees_growth_and_shrinking() {
    for sql in [fill(400), "DELETE FROM t WHERE id > 10; VACUUM".to_string()] {
        let (_folder, path) = place("moving.db");
        make(&path, &fill(300));
        let options = CaptureOptions { force_method: Some(Method::TwoPass), ..CaptureOptions::default() };
        let mut capture = Capture::open(&path, &options).unwrap();
        let before = capture.position().unwrap().clone();
        let mut start = vec![0; 65536];
        capture.read(&mut start).unwrap();
        let mut application = Other::start("sql", &path);
        assert_eq!(application.ask(&sql), "ok");
        let rest = read_all(&mut capture);
        assert!(!capture.inspection_holds());
        // `read_all` began behind the first chunk; settling handed out that one as well.
        let connection = Connection::open(&path).unwrap();
        assert_same(&rest, &dbpage(&connection));
        assert_ne!(capture.position().unwrap(), &before);
        assert_eq!(application.ask("UPDATE t SET v = 1"), "ok", "the lock was given back");
    }
}
