//! What is found on real disks: closed, crashed, locked, read-only, encrypted, empty, damaged.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use dbkeep_sqlite::capture::{Capture, CaptureOptions, Method};
use dbkeep_sqlite::{Error, identify};
use rusqlite::Connection;

use crate::support::{
    Other, assert_same, beside, capture, dbpage, fill, integrity, make, open, place, read_all, read_in,
};

fn rows(image: &[u8]) -> i64 {
    open(image).query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap()
}

fn fails(path: &Path) -> Error {
    let options = CaptureOptions { busy_timeout: Duration::from_millis(30), ..CaptureOptions::default() };
    match Capture::open(path, &options) {
        Ok(capture) => panic!("was captured as {}", capture.method()),
        Err(error) => error,
    }
}

#[test]
fn closed_wal_database_is_read_without_creating_anything() {
    let (_folder, path) = place("closed.db");
    make(&path, &format!("PRAGMA journal_mode = wal; {}", fill(100)));
    assert_eq!(beside(&path), ["closed.db"]);
    let bytes = std::fs::read(&path).unwrap();
    let mut capture = capture(&path);
    assert_eq!(capture.method(), Method::AtRest);
    let inspection = capture.inspection().unwrap().unwrap();
    let image = read_all(&mut capture);
    assert!(!capture.needs_settling() && capture.inspection_holds());
    assert_same(&image, &bytes);
    assert_same(&dbpage(&inspection), &bytes);
    drop(inspection);
    capture.finish().unwrap();
    assert_eq!(beside(&path), ["closed.db"]);
}

#[test]
fn small_database_that_was_let_go_is_written_to_and_read_as_it_is_then() {
    let (_folder, path) = place("small.db");
    make(&path, &fill(300));
    let mut capture = capture(&path);
    assert_eq!(capture.method(), Method::MemoryCopy);
    let application = Connection::open(&path).unwrap();
    application.busy_timeout(Duration::ZERO).unwrap();
    let delete = "DELETE FROM t WHERE id > 250";
    assert!(application.execute_batch(delete).is_err(), "it is held until it is read or let go");
    capture.let_go().unwrap();
    application.execute_batch(delete).unwrap();
    let image = read_all(&mut capture);
    assert_same(&image, &std::fs::read(&path).unwrap());
    assert_eq!((integrity(&image).as_str(), rows(&image)), ("ok", 250));
}

#[test]
fn database_opened_by_an_application_while_it_is_read_at_rest_is_read_again() {
    let (_folder, path) = place("woken.db");
    make(&path, &format!("PRAGMA journal_mode = wal; {}", fill(300)));
    let mut capture = capture(&path);
    assert_eq!(capture.method(), Method::AtRest);
    let mut image = vec![0; 4096];
    capture.read(&mut image).unwrap();
    let mut application = Other::start("sql", &path);
    assert_eq!(application.ask("DELETE FROM t WHERE id > 250; PRAGMA wal_checkpoint(passive)"), "Integer(0)");
    application.ask("INSERT INTO t(v) VALUES(7)");
    let rest = read_in(&mut capture, 50_000);
    assert_eq!(capture.method(), Method::LockedImage);
    assert_same(&rest, &dbpage(&Connection::open(&path).unwrap()));
    assert_same(&rest, &dbpage(&capture.inspection().unwrap().unwrap()));
    assert_eq!((integrity(&rest).as_str(), rows(&rest)), ("ok", 251));
    application.end();
}

#[test]
fn application_that_comes_and_goes_during_a_read_at_rest_is_seen() {
    let (_folder, path) = place("visitor.db");
    make(&path, &format!("PRAGMA journal_mode = wal; {}", fill(300)));
    let mut capture = capture(&path);
    let mut start = vec![0; 4096];
    capture.read(&mut start).unwrap();
    let mut visitor = Other::start("sql", &path);
    visitor.ask("DELETE FROM t WHERE id > 10");
    visitor.end();
    let mut rest = vec![0; 10 << 20];
    capture.read(&mut rest).unwrap();
    assert!(capture.needs_settling(), "what was read is a mixture");
    let image = read_all(&mut capture);
    assert!(!capture.inspection_holds());
    assert_eq!((integrity(&image).as_str(), rows(&image)), ("ok", 10));
}

#[test]
fn file_that_is_only_touched_while_it_is_read_at_rest_is_read_again_and_nothing_is_created() {
    let (_folder, path) = place("touched.db");
    make(&path, &format!("PRAGMA journal_mode = wal; {}", fill(300)));
    let bytes = std::fs::read(&path).unwrap();
    let mut capture = capture(&path);
    capture.read(&mut [0; 4096]).unwrap();
    assert!(Command::new("touch").arg(&path).status().unwrap().success());
    capture.read(&mut vec![0; 10 << 20]).unwrap();
    assert!(capture.needs_settling());
    let image = read_all(&mut capture);
    assert_eq!(capture.method(), Method::AtRest);
    assert_same(&image, &bytes);
    capture.finish().unwrap();
    assert_eq!(beside(&path), ["touched.db"], "a connection would have created a log and its index");
}

#[test]
fn file_that_is_touched_all_the_time_at_rest_is_given_up() {
    let (_folder, path) = place("restless.db");
    make(&path, &format!("PRAGMA journal_mode = wal; {}", fill(300)));
    let mut capture = capture(&path);
    let touch = || assert!(Command::new("touch").arg(&path).status().unwrap().success());
    capture.read(&mut [0; 4096]).unwrap();
    touch();
    capture.read(&mut vec![0; 10 << 20]).unwrap();
    let outcome = capture.settle(65536, &mut |index, _| {
        if index == 0 {
            touch();
        }
        Ok(())
    });
    assert!(matches!(outcome, Err(Error::Changed { .. })), "{outcome:?}");
    drop(capture);
    assert_eq!(beside(&path), ["restless.db"]);
}

#[test]
fn closed_wal_database_with_a_blank_journal_is_read_without_creating_anything() {
    let (_folder, path) = place("persisted.db");
    make(&path, &format!("PRAGMA journal_mode = wal; {}", fill(100)));
    // As a writer in the journal mode PERSIST or TRUNCATE leaves it after a commit.
    std::fs::write(identify::sibling(&path, "-journal"), [0; 512]).unwrap();
    let found = ["persisted.db", "persisted.db-journal"];
    assert_eq!(beside(&path), found);
    let mut capture = capture(&path);
    assert_eq!(capture.method(), Method::AtRest);
    assert_same(&read_all(&mut capture), &std::fs::read(&path).unwrap());
    capture.finish().unwrap();
    assert_eq!(beside(&path), found);
}

#[test]
fn log_left_by_a_crash_without_its_index_is_read_to_its_last_commit() {
    let (_folder, path) = place("live.db");
    let keeper = Connection::open(&path).unwrap();
    keeper
        .execute_batch(&format!("PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0; {}", fill(40)))
        .unwrap();
    keeper.execute_batch("PRAGMA wal_checkpoint(passive)").unwrap();
    keeper.execute_batch(&fill(30)).unwrap();
    let (_crashed_folder, crashed) = place("crashed.db");
    let log = identify::sibling(&path, "-wal");
    std::fs::copy(&path, &crashed).unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    // The crash happened in the middle of a transaction.
    let next = Connection::open(&path).unwrap();
    next.execute_batch("UPDATE t SET v = 0").unwrap();
    let longer = std::fs::read(&log).unwrap();
    bytes.extend_from_slice(&longer[bytes.len()..longer.len() - 5000]);
    std::fs::write(identify::sibling(&crashed, "-wal"), &bytes).unwrap();

    let before = beside(&crashed);
    let mut capture = capture(&crashed);
    assert_eq!(capture.method(), Method::AtRest);
    assert!(capture.position().unwrap().wal.is_some());
    let image = read_all(&mut capture);
    assert_same(&dbpage(&capture.inspection().unwrap().unwrap()), &image);
    capture.finish().unwrap();
    assert_eq!((integrity(&image).as_str(), rows(&image)), ("ok", 70));
    assert_eq!(beside(&crashed), before, "no index was created");

    // What SQLite itself makes of it is the same.
    let sqlite = Connection::open(&crashed).unwrap();
    sqlite.execute_batch("BEGIN; SELECT count(*) FROM t").unwrap();
    assert_same(&image, &dbpage(&sqlite));
}

#[test]
fn log_and_index_left_by_a_killed_process_are_read_and_left() {
    let (_folder, path) = place("killed.db");
    make(&path, "PRAGMA journal_mode = wal");
    let mut application = Other::start("sql", &path);
    application.ask("PRAGMA wal_autocheckpoint = 0");
    application.ask("CREATE TABLE t(id INTEGER PRIMARY KEY, v)");
    application.ask("INSERT INTO t(v) VALUES(1), (2), (3)");
    application.kill();
    let (main, log) = (std::fs::read(&path).unwrap(), identify::sibling(&path, "-wal"));
    let frames = std::fs::read(&log).unwrap();
    let mut capture = capture(&path);
    assert_eq!(capture.method(), Method::LockedImage);
    let image = read_all(&mut capture);
    capture.finish().unwrap();
    assert_eq!(rows(&image), 3);
    assert_same(&std::fs::read(&path).unwrap(), &main);
    assert_same(&std::fs::read(&log).unwrap(), &frames);
}

#[test]
fn last_one_to_close_neither_checkpoints_nor_deletes_the_log() {
    let (_folder, path) = place("last.db");
    make(&path, "PRAGMA journal_mode = wal; CREATE TABLE t(x)");
    let mut application = Other::start("sql", &path);
    application.ask("INSERT INTO t VALUES(1)");
    let mut ours = capture(&path);
    let main = std::fs::read(&path).unwrap();
    application.end();
    let frames = std::fs::read(identify::sibling(&path, "-wal")).unwrap();
    assert!(!frames.is_empty());
    let image = read_all(&mut ours);
    drop(ours.inspection().unwrap());
    ours.finish().unwrap();
    assert_eq!(rows(&image), 1);
    assert_same(&std::fs::read(&path).unwrap(), &main);
    assert_same(&std::fs::read(identify::sibling(&path, "-wal")).unwrap(), &frames);
}

#[test]
fn log_that_grows_too_much_on_our_account_ends_the_capture() {
    let (_folder, path) = place("busy.db");
    make(&path, &format!("PRAGMA journal_mode = wal; {}", fill(3000)));
    let mut application = Other::start("sql", &path);
    application.ask("UPDATE t SET v = 1 WHERE id = 1");
    for (limit, fits) in [(Some(100_000), false), (Some(100 << 20), true), (None, true)] {
        let options = CaptureOptions { log_growth_limit: limit, ..CaptureOptions::default() };
        let mut capture = Capture::open(&path, &options).unwrap();
        capture.read(&mut [0; 4096]).unwrap();
        assert_eq!(application.ask("UPDATE t SET b = randomblob(1000)"), "ok");
        match capture.read(&mut [0; 4096]) {
            Ok(_) => assert!(fits),
            Err(Error::LogGrew { by, .. }) => assert!(by > 1_000_000 && !fits, "{by}"),
            Err(error) => panic!("{error}"),
        }
        drop(capture);
        assert_eq!(application.ask("PRAGMA wal_checkpoint(truncate)"), "Integer(0)", "the log is let go");
        application.ask("UPDATE t SET v = 1 WHERE id = 1");
    }
}

/// Leaves a database with a journal of an unfinished transaction, part of which is in the file.
fn hot_journal(path: &Path) {
    let (_folder, live) = place("live.db");
    make(&live, &fill(500));
    let writer = Connection::open(&live).unwrap();
    writer.execute_batch("PRAGMA cache_size = 5; BEGIN; UPDATE t SET v = -1, b = randomblob(1000)").unwrap();
    std::fs::copy(&live, path).unwrap();
    std::fs::copy(identify::sibling(&live, "-journal"), identify::sibling(path, "-journal")).unwrap();
}

#[test]
fn interrupted_transaction_is_rolled_back_as_the_application_would() {
    for method in [None, Some(Method::TwoPass), Some(Method::LockedImage)] {
        let (_folder, path) = place("hot.db");
        hot_journal(&path);
        let options = CaptureOptions { force_method: method, ..CaptureOptions::default() };
        let mut capture = Capture::open(&path, &options).unwrap();
        let image = read_all(&mut capture);
        assert_eq!((integrity(&image).as_str(), rows(&image)), ("ok", 500));
        let touched: i64 =
            open(&image).query_row("SELECT count(*) FROM t WHERE v = -1", [], |row| row.get(0)).unwrap();
        assert_eq!(touched, 0);
    }
}

#[test]
fn exclusive_lock_gives_a_clear_error_that_names_the_holder() {
    let (_folder, path) = place("exclusive.db");
    make(&path, &fill(5));
    let mut application = Other::start("sql", &path);
    application.ask("PRAGMA locking_mode = exclusive; BEGIN EXCLUSIVE; COMMIT");
    let error = fails(&path);
    let Error::Busy { holder, .. } = &error else { panic!("{error}") };
    assert!(holder.starts_with("process "), "{holder}");
    assert!(error.hint().unwrap().contains("EXCLUSIVE"));
    application.end();
    capture(&path);
}

#[test]
fn exclusive_lock_in_wal_mode_gives_the_same_error() {
    let (_folder, path) = place("exclusive.db");
    make(&path, &format!("PRAGMA journal_mode = wal; {}", fill(5)));
    let mut application = Other::start("sql", &path);
    application.ask("PRAGMA locking_mode = exclusive; INSERT INTO t(v) VALUES(1)");
    assert!(matches!(fails(&path), Error::Busy { .. }));
    application.end();
}

#[test]
fn lock_that_is_given_back_in_time_is_waited_for() {
    let (_folder, path) = place("patience.db");
    make(&path, &fill(5));
    let mut application = Other::start("sql", &path);
    application.ask("BEGIN EXCLUSIVE");
    let waiting = std::thread::spawn({
        let path = path.clone();
        move || {
            read_all(
                &mut Capture::open(
                    &path,
                    &CaptureOptions { busy_timeout: Duration::from_secs(60), ..CaptureOptions::default() },
                )
                .unwrap(),
            )
        }
    });
    application.ask("INSERT INTO t(v) VALUES(1); COMMIT");
    assert_eq!(rows(&waiting.join().unwrap()), 6);
}

#[test]
fn what_is_no_database_is_refused_by_name() {
    let (folder, path) = place("x.db");
    assert!(matches!(fails(&path), Error::Missing { .. }));
    assert!(matches!(fails(folder.path()), Error::NotAFile { .. }));
    std::fs::write(&path, "").unwrap();
    assert!(matches!(fails(&path), Error::Empty { .. }));
    std::fs::write(&path, "just some text\n".repeat(100)).unwrap();
    assert!(matches!(fails(&path), Error::NotADatabase { .. }));
    assert!(fails(&path).hint().is_some());
    assert_eq!(beside(&path), ["x.db"]);
}

#[test]
fn empty_file_with_a_log_beside_it_is_not_touched() {
    let (_folder, path) = place("e.db");
    std::fs::write(&path, "").unwrap();
    for suffix in ["-wal", "-journal"] {
        let sibling = identify::sibling(&path, suffix);
        std::fs::write(&sibling, "precious").unwrap();
        assert!(matches!(fails(&path), Error::EmptyWithSibling { .. }));
        assert_eq!(std::fs::read(&sibling).unwrap(), b"precious");
        std::fs::remove_file(sibling).unwrap();
    }
}

fn random(length: usize) -> Vec<u8> {
    let connection = Connection::open_in_memory().unwrap();
    connection.query_row(&format!("SELECT randomblob({length})"), [], |row| row.get(0)).unwrap()
}

#[test]
fn encrypted_database_is_copied_raw_with_its_log() {
    let (_folder, path) = place("secret.db");
    let (main, log) = (random(40960), random(9000));
    std::fs::write(&path, &main).unwrap();
    std::fs::write(identify::sibling(&path, "-wal"), &log).unwrap();
    let mut capture = capture(&path);
    assert_eq!(capture.method(), Method::Raw);
    assert!(capture.position().is_none() && capture.header().is_none());
    assert!(capture.inspection().unwrap().is_none());
    assert_same(&read_all(&mut capture), &main);
    let sibling = &capture.siblings()[0];
    assert_eq!((sibling.suffix(), sibling.size()), ("-wal", 9000));
    let mut bytes = vec![0; 10_000];
    assert_eq!(sibling.read_at(0, &mut bytes).unwrap(), 9000);
    assert_same(&bytes[..9000], &log);
    let finished = capture.finish().unwrap();
    assert!(finished.warnings[0].contains("encrypted"), "{:?}", finished.warnings);
    assert_same(&std::fs::read(&path).unwrap(), &main);
}

#[test]
fn raw_copy_of_a_file_that_changes_is_refused() {
    let (_folder, path) = place("secret.db");
    std::fs::write(&path, random(40960)).unwrap();
    let mut capture = capture(&path);
    let mut buffer = vec![0; 4096];
    capture.read(&mut buffer).unwrap();
    std::fs::write(&path, random(40960 - 512)).unwrap();
    let outcome = (|| loop {
        if capture.read(&mut buffer)? == 0 {
            return Ok(());
        }
    })();
    assert!(matches!(outcome, Err(Error::Changed { .. })));
}

#[test]
fn database_cut_short_is_copied_raw_and_labelled() {
    for mode in ["wal", "delete"] {
        let (_folder, path) = place("cut.db");
        make(&path, &format!("PRAGMA journal_mode = {mode}; {}", fill(100)));
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let mut capture = capture(&path);
        assert_eq!(capture.method(), Method::Raw, "{mode}");
        assert_same(&read_all(&mut capture), &whole[..whole.len() / 2]);
        assert!(capture.finish().unwrap().warnings[0].contains("raw bytes"));
    }
}

#[test]
fn database_with_a_damaged_schema_is_still_an_image() {
    let (_folder, path) = place("schema.db");
    make(&path, &fill(100));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100..200].fill(0xff);
    std::fs::write(&path, &bytes).unwrap();
    for method in [Method::MemoryCopy, Method::LockedImage, Method::TwoPass] {
        let options = CaptureOptions { force_method: Some(method), ..CaptureOptions::default() };
        let mut capture = Capture::open(&path, &options).unwrap();
        assert_eq!(capture.method(), method);
        let before = capture.inspection().unwrap_or_else(|error| panic!("{method}: {error}"));
        assert_same(&read_all(&mut capture), &bytes);
        let after = capture.inspection().unwrap_or_else(|error| panic!("{method}: {error}"));
        for inspection in before.iter().chain(&after) {
            let looked = inspection.query_row("SELECT count(*) FROM t", [], |row| row.get::<_, i64>(0));
            assert!(looked.is_err(), "{method}");
        }
    }
}

#[test]
fn schema_that_is_half_written_during_the_first_pass_is_no_news_of_the_image() {
    let (_folder, path) = place("torn.db");
    make(&path, &fill(100));
    let whole = std::fs::read(&path).unwrap();
    let mut torn = whole.clone();
    torn[100..200].fill(0xff);
    let options = CaptureOptions { force_method: Some(Method::TwoPass), ..CaptureOptions::default() };
    let mut capture = Capture::open(&path, &options).unwrap();
    // No lock is held yet, so nothing is lost by a descriptor of our own.
    std::fs::write(&path, &torn).unwrap();
    let inspection = capture.inspection().unwrap();
    std::fs::write(&path, &whole).unwrap();
    assert_same(&read_all(&mut capture), &whole);
    drop(inspection);
    assert!(!capture.inspection_holds(), "what was seen may be another image");
}

#[test]
fn format_of_a_branch_of_sqlite_is_copied_raw() {
    let (_folder, path) = place("wal2.db");
    make(&path, &fill(10));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[18..20].fill(3);
    std::fs::write(&path, &bytes).unwrap();
    let mut capture = capture(&path);
    assert_eq!(capture.method(), Method::Raw);
    assert_same(&read_all(&mut capture), &bytes);
}

#[test]
fn log_with_other_bytes_than_were_committed_is_read_through_sqlite_and_is_damage() {
    let (_folder, path) = place("odd.db");
    let keeper = Connection::open(&path).unwrap();
    keeper
        .execute_batch(&format!("PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0; {}", fill(40)))
        .unwrap();
    keeper.execute_batch("UPDATE t SET v = 1").unwrap();
    // A checksum that only a recovery would look at.
    let log = identify::sibling(&path, "-wal");
    let mut frames = std::fs::read(&log).unwrap();
    frames[32 + 20] ^= 1;
    let file = std::fs::OpenOptions::new().write(true).open(&log).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &frames[32..64], 32).unwrap();
    let mut capture = capture(&path);
    assert_eq!(capture.method(), Method::LockedImage);
    let image = read_all(&mut capture);
    assert_eq!(capture.method(), Method::DbPage);
    assert_same(&image, &dbpage(&keeper));
    assert!(capture.inspection().unwrap().is_none());
    assert!(capture.damage().unwrap().contains("chain of checksums breaks"), "{:?}", capture.damage());
    assert!(capture.finish().unwrap().warnings[0].contains("page by page"));
}

#[test]
fn log_that_is_not_the_one_of_its_index_is_read_through_sqlite_and_is_no_damage() {
    let (_folder, path) = place("odd.db");
    let keeper = Connection::open(&path).unwrap();
    keeper
        .execute_batch(&format!("PRAGMA journal_mode = wal; PRAGMA wal_autocheckpoint = 0; {}", fill(40)))
        .unwrap();
    // Salts that no connection looks at while there is an index, as a file layer of the application's own may have them.
    let log = std::fs::OpenOptions::new().write(true).open(identify::sibling(&path, "-wal")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&log, b"otherlog", 16).unwrap();
    let mut capture = capture(&path);
    let image = read_all(&mut capture);
    assert_eq!((capture.method(), capture.damage()), (Method::DbPage, None));
    assert_same(&image, &dbpage(&keeper));
}

#[test]
fn link_or_pipe_in_the_place_of_a_journal_is_neither_followed_nor_waited_for() {
    let (folder, path) = place("odd.db");
    make(&path, &format!("PRAGMA journal_mode = wal; {}", fill(3)));
    let pipe = folder.path().join("a pipe with a long name");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
    let journal = identify::sibling(&path, "-journal");
    std::os::unix::fs::symlink(&pipe, &journal).unwrap();
    let error = Capture::open(&path, &CaptureOptions::default()).err().unwrap();
    assert!(error.to_string().contains("odd.db-journal"), "{error}");
}

#[test]
fn log_without_an_index_beside_a_database_in_rollback_mode_is_read_and_left_alone() {
    let (_folder, path) = place("left.db");
    let application = Connection::open(&path).unwrap();
    application.execute_batch(&format!("PRAGMA journal_mode = wal; {}", fill(3))).unwrap();
    application.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); UPDATE t SET v = 7").unwrap();
    let mut expected = dbpage(&application);
    expected[18..20].copy_from_slice(&[1, 1]);
    let copy = path.with_file_name("copy.db");
    // The header of the main file says rollback mode, its log has the last commit.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[18..20].copy_from_slice(&[1, 1]);
    std::fs::write(&copy, bytes).unwrap();
    std::fs::copy(identify::sibling(&path, "-wal"), identify::sibling(&copy, "-wal")).unwrap();
    let before = std::fs::read(identify::sibling(&copy, "-wal")).unwrap();
    let mut capture = capture(&copy);
    assert_same(&read_all(&mut capture), &expected);
    assert_eq!(capture.method(), Method::AtRest);
    capture.finish().unwrap();
    assert!(!identify::sibling(&copy, "-shm").exists(), "an index was made");
    assert!(std::fs::read(identify::sibling(&copy, "-wal")).unwrap() == before);
}

#[test]
fn first_pass_over_a_database_that_changed_to_wal_mode_creates_no_log() {
    let (_folder, path) = place("changing.db");
    make(&path, &fill(40));
    let options = CaptureOptions { force_method: Some(Method::TwoPass), ..CaptureOptions::default() };
    let mut capture = Capture::open(&path, &options).unwrap();
    while capture.read(&mut [0; 4096]).unwrap() > 0 {}
    assert!(capture.needs_settling());
    make(&path, "PRAGMA journal_mode = wal; UPDATE t SET v = 9");
    assert!(!identify::sibling(&path, "-wal").exists());
    let error = capture.settle(4096, &mut |_, _| Ok(())).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
    drop(capture);
    assert!(!identify::sibling(&path, "-wal").exists() && !identify::sibling(&path, "-shm").exists());
}

#[test]
fn writer_with_the_wal_reset_bug_is_warned_of() {
    let (_folder, path) = place("old.db");
    make(&path, &format!("PRAGMA journal_mode = wal; {}", fill(3)));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[96..100].copy_from_slice(&3_045_001u32.to_be_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let capture = capture(&path);
    assert!(capture.warnings()[0].contains("SQLite 3.45.1"), "{:?}", capture.warnings());
}

#[test]
fn file_replaced_while_it_is_read_is_an_error() {
    let (_folder, path) = place("moved.db");
    make(&path, &format!("PRAGMA journal_mode = wal; {}", fill(3)));
    let _keeper = Other::start("sql", &path);
    let application = Connection::open(&path).unwrap();
    application.execute_batch("INSERT INTO t(v) VALUES(1)").unwrap();
    let mut capture = capture(&path);
    std::fs::copy(&path, path.with_extension("new")).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::hard_link(path.with_extension("new"), &path).unwrap();
    let mut buffer = vec![0; 10 << 20];
    assert!(matches!(capture.read(&mut buffer), Err(Error::Replaced { .. })));
}

/// What a user without any right to write sees.
pub(crate) fn report_as_other_user(path: &str, together: bool) {
    let options = CaptureOptions::default();
    let capture = match together {
        true => Capture::at_once(&[path.into()], &options).unwrap().remove(0),
        false => Capture::open(Path::new(path), &options),
    };
    let answer = match capture {
        Ok(mut capture) => format!("{} {}", capture.method(), rows(&read_all(&mut capture))),
        Err(error) => format!("error {error}"),
    };
    println!("ready {}", answer.replace('\n', " "));
}

/// Starts this test binary as `nobody`; `None` unless we are root.
fn as_nobody(role: &str, path: &Path) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return None;
    }
    let mut command = crate::support::command(role, path);
    let output = command.uid(65534).gid(65534).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let at = text.find("ready ").unwrap_or_else(|| panic!("{text}"));
    Some(text[at + 6..].lines().next().unwrap().to_string())
}

fn permit(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn user_who_may_only_read_gets_the_same_image() {
    let (folder, path) = place("shared.db");
    permit(folder.path(), 0o755);
    let keeper = Connection::open(&path).unwrap();
    keeper.execute_batch(&format!("PRAGMA journal_mode = wal; {}", fill(20))).unwrap();
    for suffix in ["", "-wal", "-shm"] {
        permit(&identify::sibling(&path, suffix), 0o644);
    }
    let Some(answer) = as_nobody("report", &path) else { return };
    assert_eq!(answer, "locked image 20");
    let together = as_nobody("report together", &path).unwrap();
    assert!(together.contains("its writers cannot be held off"), "{together}");

    permit(&identify::sibling(&path, "-shm"), 0o600);
    assert_eq!(
        as_nobody("report", &path).unwrap(),
        format!("error no permission to read {}", identify::sibling(&path, "-shm").display())
    );
    drop(keeper);
    assert_eq!(as_nobody("report", &path).unwrap(), "at rest 20");
    assert_eq!(beside(&path), ["shared.db"]);

    permit(&path, 0o600);
    assert!(as_nobody("report", &path).unwrap().starts_with("error no permission to read"));
}

#[test]
fn interrupted_transaction_that_may_not_be_rolled_back_is_a_clear_error() {
    let (folder, path) = place("hot.db");
    permit(folder.path(), 0o755);
    hot_journal(&path);
    let before = std::fs::read(&path).unwrap();
    for suffix in ["", "-journal"] {
        permit(&identify::sibling(&path, suffix), 0o644);
    }
    let Some(answer) = as_nobody("report", &path) else { return };
    assert!(answer.contains("was left in the middle of a transaction"), "{answer}");
    assert_same(&std::fs::read(&path).unwrap(), &before);
    assert_eq!(beside(&path), ["hot.db", "hot.db-journal"]);
}
