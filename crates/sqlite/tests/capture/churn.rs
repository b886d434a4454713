//! Images taken while another process writes as fast as it can, checkpoints and vacuums.
//!
//! The writer keeps a balanced ledger: the sum over all accounts is zero in every committed
//! state, and the number of transactions is stored with each of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use dbkeep_sqlite::Error;
use dbkeep_sqlite::capture::{Capture, CaptureOptions, Method};
use rusqlite::Connection;

use crate::support::{Other, assert_same, dbpage, fill, integrity, make, open, place, read_in};

const SCHEMA: &str = "CREATE TABLE account(id INTEGER PRIMARY KEY, v INTEGER, filler);
     CREATE INDEX by_value ON account(v);
     CREATE TABLE counter(n INTEGER);
     INSERT INTO counter VALUES(0);
     WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < 2000)
     INSERT INTO account SELECT i, 0, randomblob(300) FROM n;";

/// The role `churn`: writes until it is killed.
pub(crate) fn churn(path: &str) {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection.execute_batch("PRAGMA synchronous = off; PRAGMA wal_autocheckpoint = 200").unwrap();
    println!("ready");
    let mut random = 88172645463325252u64;
    let mut next = move |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below) as i64
    };
    for round in 0u64.. {
        let (from, to, amount) = (next(2000) + 1, next(2000) + 1, next(1000));
        connection
            .execute_batch(&format!(
                "BEGIN IMMEDIATE;
                 UPDATE account SET v = v - {amount}, filler = randomblob(300) WHERE id = {from};
                 UPDATE account SET v = v + {amount} WHERE id = {to};
                 INSERT INTO account VALUES(10000 + {round} % 500, 0, randomblob(500))
                     ON CONFLICT DO UPDATE SET filler = randomblob({});
                 UPDATE counter SET n = n + 1;
                 COMMIT",
                next(3000)
            ))
            .unwrap();
        let extra = match round % 400 {
            50 => "PRAGMA wal_checkpoint(passive)",
            150 => "PRAGMA wal_checkpoint(truncate)",
            250 => "DELETE FROM account WHERE id >= 10000",
            350 => "VACUUM",
            399 => "CREATE TABLE IF NOT EXISTS extra(x); DROP TABLE extra",
            _ => continue,
        };
        // A checkpoint or a VACUUM that a reader is in the way of may fail.
        connection.busy_timeout(Duration::from_millis(50)).unwrap();
        let _ = connection.execute_batch(extra);
        connection.busy_timeout(Duration::from_secs(20)).unwrap();
    }
}

fn check(image: &[u8], last: &mut i64) {
    assert_eq!(integrity(image), "ok");
    let database = open(image);
    let (sum, count): (i64, i64) = database
        .query_row("SELECT sum(v), (SELECT n FROM counter) FROM account", [], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .unwrap();
    assert_eq!(sum, 0, "half a transaction is in the image");
    assert!(count >= *last, "time went back");
    *last = count;
}

/// Opens a capture and a connection of SQLite's while the writer is held up for a moment, so that both are mostly
/// between the same two commits. Held up in the middle of one, it keeps them out until it goes on.
fn side_by_side(writer: &Other, path: &Path, options: &CaptureOptions) -> (Capture, Connection) {
    writer.hold_up();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            writer.go_on();
        });
        let sqlite = Connection::open(path).unwrap();
        sqlite.busy_timeout(Duration::from_secs(20)).unwrap();
        sqlite.execute_batch("BEGIN; SELECT n FROM counter").unwrap();
        (Capture::open(path, options).unwrap(), sqlite)
    })
}

/// Returns what every transaction of the writer, every DELETE and every VACUUM changes.
fn moment(database: &Connection) -> (i64, i64, i64) {
    let ask = |query| database.query_row(query, [], |row| row.get(0)).unwrap();
    let schema_version = database.pragma_query_value(None, "schema_version", |row| row.get(0)).unwrap();
    (ask("SELECT n FROM counter"), ask("SELECT count(*) FROM account"), schema_version)
}

fn under_churn(mode: &str, force_method: Option<Method>, rounds: u32, expected: Method) {
    let (_folder, path) = place("churn.db");
    make(&path, &format!("PRAGMA journal_mode = {mode}; {SCHEMA}"));
    let writer = Other::start("churn", &path);
    let options = CaptureOptions {
        busy_timeout: Duration::from_secs(20),
        force_method,
        memory_limit: 1 << 30,
        ..CaptureOptions::default()
    };
    let (mut last, mut first, mut compared) = (0, None, 0);
    for round in 0..rounds {
        // The moment of two passes is that of the second one, and SQLite would be in its way.
        let (mut capture, sqlite) = match expected {
            Method::TwoPass => (Capture::open(&path, &options).unwrap(), None),
            _ => {
                let (capture, sqlite) = side_by_side(&writer, &path, &options);
                (capture, Some(sqlite))
            }
        };
        assert_eq!(capture.method(), expected);
        let inspection = if round % 2 == 0 { capture.inspection().unwrap() } else { None };
        let image = read_in(&mut capture, 70_001 + 1000 * round as usize);
        let inspection = inspection.or_else(|| capture.inspection().unwrap());
        if let Some(sqlite) = sqlite.filter(|sqlite| moment(sqlite) == moment(&open(&image))) {
            assert_same(&image, &dbpage(&sqlite));
            compared += 1;
        }
        match expected {
            // What was seen of the first pass is another image, or was half written.
            Method::TwoPass => {}
            Method::DbPage => assert!(inspection.is_none()),
            _ => {
                assert!(capture.inspection_holds());
                assert_same(&image, &dbpage(&inspection.unwrap()));
            }
        }
        check(&image, &mut last);
        first.get_or_insert(last);
        capture.finish().unwrap();
    }
    assert!(compared * 2 > rounds || expected == Method::TwoPass, "only {compared} compared");
    assert!(Some(last) > first, "the writer stood still");
    writer.kill();
}

#[test]
fn locked_image_under_churn_is_what_sqlite_sees() {
    under_churn("wal", None, 25, Method::LockedImage);
}

#[test]
fn page_by_page_under_churn_is_what_sqlite_sees() {
    under_churn("wal", Some(Method::DbPage), 8, Method::DbPage);
}

#[test]
fn memory_copy_under_churn_is_what_sqlite_sees() {
    for mode in ["delete", "truncate", "persist"] {
        under_churn(mode, None, 8, Method::MemoryCopy);
    }
}

#[test]
fn locked_image_in_rollback_mode_under_churn_is_what_sqlite_sees() {
    under_churn("delete", Some(Method::LockedImage), 10, Method::LockedImage);
}

#[test]
fn two_passes_under_churn_give_one_committed_state() {
    under_churn("delete", Some(Method::TwoPass), 15, Method::TwoPass);
}

/// Waits until the writer has committed once more: else there may be nothing to be read again.
fn wait_for_a_commit(reader: &mut Other) {
    let began = Instant::now();
    let mut counts = BTreeSet::new();
    while counts.len() < 2 {
        assert!(began.elapsed() < Duration::from_secs(60), "the writer does not write");
        std::thread::sleep(Duration::from_millis(1));
        let answer = reader.ask("SELECT n FROM counter");
        counts.extend(Some(answer).filter(|answer| !answer.starts_with("error")));
    }
}

/// Settles while a writer is waiting at the end of every slice, so that each pass is overtaken.
fn settle_under_pressure(longest_hold: Duration) -> (Result<Vec<u8>, Error>, u32) {
    let (_folder, path) = place("restless.db");
    make(&path, &format!("{SCHEMA} {}", fill(5000)));
    let writer = Other::start("churn", &path);
    let mut reader = Other::start("sql", &path);
    let options = CaptureOptions {
        busy_timeout: Duration::from_secs(60),
        force_method: Some(Method::TwoPass),
        longest_hold,
        ..CaptureOptions::default()
    };
    let mut capture = Capture::open(&path, &options).unwrap();
    let mut image = vec![0; 100 << 20];
    capture.read(&mut image).unwrap();
    wait_for_a_commit(&mut reader);
    let mut passes = 0;
    image.clear();
    let outcome = capture.settle(1 << 20, &mut |index, bytes| {
        if index == 0 {
            passes += 1;
            image.clear();
        }
        if index == 1 && passes <= 3 {
            // Longer than a slice, and until the writer is so far that it keeps new readers out.
            std::thread::sleep(Duration::from_millis(45));
            while !reader.ask("SELECT n FROM counter").starts_with("error") {}
        }
        image.extend_from_slice(bytes);
        Ok(())
    });
    writer.kill();
    (outcome.map(|_| image), passes)
}

#[test]
fn second_pass_that_is_always_overtaken_ends_with_one_long_hold() {
    let (outcome, passes) = settle_under_pressure(Duration::from_secs(60));
    check(&outcome.unwrap(), &mut 0);
    assert_eq!(passes, 4);
}

#[test]
fn second_pass_gives_up_before_it_keeps_writers_waiting_for_too_long() {
    let (outcome, passes) = settle_under_pressure(Duration::ZERO);
    let error = outcome.unwrap_err();
    assert!(error.to_string().contains("written to all the time"), "{error}");
    assert!(error.hint().unwrap().contains("WAL mode"));
    assert_eq!(passes, 3);
}

#[test]
fn transaction_rolled_back_between_two_slices_leaves_no_mixture_of_unused_pages() {
    let (_folder, path) = place("spilling.db");
    make(&path, &fill(6000));
    make(&path, "DELETE FROM t WHERE id <= 4000");
    let mut writer = Other::start("sql", &path);
    let mut reader = Other::start("sql", &path);
    let options = CaptureOptions {
        busy_timeout: Duration::from_secs(60),
        force_method: Some(Method::TwoPass),
        ..CaptureOptions::default()
    };
    let mut capture = Capture::open(&path, &options).unwrap();
    let mut image = vec![0; 100 << 20];
    capture.read(&mut image).unwrap();
    image.clear();
    // Else there may be nothing to be read again.
    assert_eq!(writer.ask("DELETE FROM t WHERE id = 4001"), "ok");
    let mut passes = 0;
    std::thread::scope(|scope| {
        let mut writer = Some(&mut writer);
        capture
            .settle(1 << 20, &mut |index, bytes| {
                if index == 0 {
                    passes += 1;
                    image.clear();
                }
                if index == 1
                    && let Some(writer) = writer.take()
                {
                    // It waits for us with the lock that keeps new readers out, and goes when we rest.
                    scope.spawn(|| {
                        writer.ask("PRAGMA busy_timeout = 60000");
                        writer.ask(&format!("PRAGMA cache_size = 3; BEGIN; {}; ROLLBACK", fill(3000)))
                    });
                    std::thread::sleep(Duration::from_millis(45));
                    while !reader.ask("SELECT v FROM t LIMIT 1").starts_with("error") {}
                }
                image.extend_from_slice(bytes);
                Ok(())
            })
            .unwrap();
    });
    assert_same(&image, &std::fs::read(&path).unwrap());
    assert_eq!(passes, 2);
}
