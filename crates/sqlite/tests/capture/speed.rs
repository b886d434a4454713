//! Measurements, run by hand: `cargo test --release -p dbkeep-sqlite --test capture -- --ignored --nocapture speed`.

use std::time::{Duration, Instant};

use dbkeep_sqlite::capture::{Capture, CaptureOptions, Method};
use rusqlite::Connection;

use crate::support::{Other, capture, fill, make, place};

/// The processor time of this thread: other load on the machine matters less to it.
fn processor_time() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e9
}

fn best(what: &str, size: u64, mut run: impl FnMut()) -> f64 {
    let seconds = (0..7)
        .map(|_| {
            let start = processor_time();
            run();
            processor_time() - start
        })
        .fold(f64::MAX, f64::min);
    println!("{what:<40} {:>8.0} MB/s", size as f64 / 1e6 / seconds);
    seconds
}

fn drain(capture: &mut Capture) {
    let mut buffer = vec![0; 1 << 20];
    while capture.read(&mut buffer).unwrap() > 0 {}
}

#[test]
#[ignore = "prints ratios for whoever works on the reader; a noisy machine keeps no bound, so it asserts none"]
fn speed_of_reading_against_the_backup_api() {
    let (_folder, path) = place("speed.db");
    make(&path, &format!("PRAGMA journal_mode = wal; PRAGMA synchronous = off; {}", fill(200_000)));
    let keeper = Connection::open(&path).unwrap();
    keeper.execute_batch("PRAGMA wal_autocheckpoint = 0; UPDATE t SET v = 0 WHERE id % 50 = 0").unwrap();
    let size = capture(&path).size();
    let image = best("locked image, 2 % in the log", size, || drain(&mut capture(&path)));
    let options = CaptureOptions { force_method: Some(Method::DbPage), ..CaptureOptions::default() };
    best("page by page", size, || drain(&mut Capture::open(&path, &options).unwrap()));
    let backup = best("backup API to memory", size, || {
        let mut target = Connection::open_in_memory().unwrap();
        rusqlite::backup::Backup::new(&keeper, &mut target).unwrap().step(-1).unwrap();
    });
    println!("{:.1} times the speed of the backup API", backup / image);
    let copy = path.with_extension("copy");
    let backup = best("backup API to a file", size, || {
        let _ = std::fs::remove_file(&copy);
        let mut target = Connection::open(&copy).unwrap();
        target.execute_batch("PRAGMA synchronous = off; PRAGMA journal_mode = off").unwrap();
        rusqlite::backup::Backup::new(&keeper, &mut target).unwrap().step(-1).unwrap();
    });
    println!("{:.1} times the speed of the backup API", backup / image);
    keeper.execute_batch("PRAGMA wal_checkpoint(truncate)").unwrap();
    let image = best("locked image, empty log", size, || drain(&mut capture(&path)));
    println!("{:.1} times the speed of the backup API", backup / image);
}

#[test]
#[ignore = "prints ratios for whoever works on the reader; a noisy machine keeps no bound, so it asserts none"]
fn speed_of_a_writer_during_captures() {
    let (_folder, path) = place("writer.db");
    make(&path, &format!("PRAGMA journal_mode = wal; PRAGMA synchronous = off; {}", fill(200_000)));
    let count = |path| {
        let connection = Connection::open(path).unwrap();
        connection.query_row("SELECT max(v) FROM t", [], |row| row.get::<_, i64>(0)).unwrap()
    };
    let _writer = Other::start("count", &path);
    let run = |busy: bool| {
        let (before, start) = (count(&path), Instant::now());
        let mut captures = 0;
        while start.elapsed() < Duration::from_secs(5) {
            if busy {
                drain(&mut capture(&path));
                captures += 1;
            } else {
                std::thread::sleep(Duration::from_millis(50));
            }
        }
        let rate = (count(&path) - before) as f64 / start.elapsed().as_secs_f64();
        println!("{rate:.0} transactions a second, {captures} captures meanwhile");
        rate
    };
    run(false);
    let (alone, during) = (run(false), run(true));
    println!("{:.0} % of the throughput", 100.0 * during / alone);
}

/// The role `count`: one small transaction after the other.
pub(crate) fn count(path: &str) {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::from_secs(20)).unwrap();
    connection.execute_batch("PRAGMA synchronous = off").unwrap();
    println!("ready");
    for round in 1_000_000_000u64.. {
        let id = round % 199_999 + 1;
        connection
            .execute_batch(&format!("UPDATE t SET v = {round}, b = randomblob(900) WHERE id = {id}"))
            .unwrap();
    }
}
