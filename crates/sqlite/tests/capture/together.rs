//! Several databases at one moment.

use std::path::PathBuf;
use std::time::Duration;

use dbkeep_sqlite::Error;
use dbkeep_sqlite::capture::{Capture, CaptureOptions};
use rusqlite::Connection;

use crate::support::{Other, fill, make, open, place, read_all};

/// The role `transfer`: moves money between two databases, in one transaction over both.
pub(crate) fn transfer(first: &str) {
    let second = first.replace("first", "second");
    let connection = Connection::open(first).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection.execute_batch(&format!("ATTACH '{second}' AS other; PRAGMA synchronous = off")).unwrap();
    connection.execute_batch("PRAGMA main.wal_autocheckpoint = 100").unwrap();
    println!("ready");
    loop {
        connection
            .execute_batch(
                "BEGIN IMMEDIATE; UPDATE main.purse SET v = v - 1; UPDATE other.purse SET v = v + 1; COMMIT",
            )
            .unwrap();
        // Without a pause nobody else ever finds a database in rollback mode free.
        std::thread::sleep(Duration::from_micros(300));
    }
}

fn value(capture: &mut Capture) -> i64 {
    open(&read_all(capture)).query_row("SELECT v FROM purse", [], |row| row.get(0)).unwrap()
}

#[test]
fn transaction_over_two_databases_is_in_both_images_or_in_none() {
    for modes in [["wal", "wal"], ["delete", "delete"], ["wal", "delete"]] {
        let (_folder, first) = place("first.db");
        let second = first.with_file_name("second.db");
        for (path, mode) in [(&first, modes[0]), (&second, modes[1])] {
            make(
                path,
                &format!("PRAGMA journal_mode = {mode}; CREATE TABLE purse(v); INSERT INTO purse VALUES(0)"),
            );
        }
        let writer = Other::start("transfer", &first);
        let reader = Connection::open(&second).unwrap();
        let options = CaptureOptions { busy_timeout: Duration::from_secs(20), ..CaptureOptions::default() };
        let mut last = 0;
        for _ in 0..30 {
            let paths = [second.clone(), first.clone()];
            let mut captures = Capture::at_once(&paths, &options).unwrap();
            let [second, first] = captures.as_mut_slice() else { panic!() };
            let (first, second) = (value(first.as_mut().unwrap()), value(second.as_mut().unwrap()));
            assert_eq!(first + second, 0, "{modes:?}: half a transaction");
            assert!(second >= last);
            last = second;
            // Let the writer come forward, however busy the machine is.
            drop(captures);
            while reader.query_row("SELECT v FROM purse", [], |row| row.get::<_, i64>(0)).unwrap_or(0) <= last
            {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        assert!(last > 0);
        writer.kill();
    }
}

#[test]
fn logs_of_all_that_are_held_count_against_the_limit() {
    let (_folder, first) = place("first.db");
    let second = first.with_file_name("second.db");
    let applications = [&first, &second].map(|path| {
        let application = Connection::open(path).unwrap();
        application.execute_batch(&format!("PRAGMA journal_mode = wal; {}", fill(40))).unwrap();
        application
    });
    let options = CaptureOptions { log_growth_limit: Some(100_000), ..CaptureOptions::default() };
    let opened = || {
        let captures = Capture::at_once(&[first.clone(), second.clone()], &options).unwrap();
        <[Capture; 2]>::try_from(captures.into_iter().map(Result::unwrap).collect::<Vec<_>>()).ok().unwrap()
    };
    let grow = "BEGIN; INSERT INTO t(v) SELECT hex(randomblob(2000)) FROM t; COMMIT";

    let [mut reading, waiting] = opened();
    applications[1].execute_batch(grow).unwrap();
    let error = reading.read(&mut [0; 4096]).unwrap_err();
    assert!(matches!(error, Error::LogGrew { by, others: 1, .. } if by > 100_000), "{error}");
    assert!(error.to_string().contains("with that of another database"), "{error}");
    drop((reading, waiting));

    // The log of one that is held no longer is nobody's business.
    let [mut reading, waiting] = opened();
    drop(waiting);
    applications[1].execute_batch(grow).unwrap();
    assert!(reading.read(&mut [0; 4096]).is_ok());
}

#[test]
fn bad_one_among_many_does_not_hold_back_the_others() {
    let (folder, good) = place("good.db");
    make(&good, &fill(5));
    let resting = good.with_file_name("resting.db");
    make(&resting, &format!("PRAGMA journal_mode = wal; {}", fill(6)));
    let text = folder.path().join("text.db");
    std::fs::write(&text, "text").unwrap();
    let locked = good.with_file_name("locked.db");
    make(&locked, &fill(7));
    let mut holder = Other::start("sql", &locked);
    holder.ask("BEGIN EXCLUSIVE");
    let paths: Vec<PathBuf> = vec![text, good, folder.path().join("none.db"), locked, resting];
    let options = CaptureOptions { busy_timeout: Duration::from_millis(50), ..CaptureOptions::default() };
    let results = Capture::at_once(&paths, &options).unwrap();
    let answers: Vec<String> = results
        .into_iter()
        .map(|result| match result {
            Ok(mut capture) => {
                let image = read_all(&mut capture);
                let rows: i64 =
                    open(&image).query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
                format!("{} {rows}", capture.method())
            }
            Err(Error::NotADatabase { .. }) => "no database".into(),
            Err(Error::Missing { .. }) => "missing".into(),
            Err(Error::Busy { holder, .. }) => holder.split(' ').next().unwrap().to_string(),
            Err(error) => error.to_string(),
        })
        .collect();
    assert_eq!(answers, ["no database", "memory copy 5", "missing", "process", "at rest 6"]);
}
