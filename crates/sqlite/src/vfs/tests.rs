//! The contract that SQLite has with its file layer, and what happens when a source breaks it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::zoo;

fn count(connection: &Connection, table: &str) -> i64 {
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
}

fn integrity(connection: &Connection) -> String {
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}

#[test]
fn every_image_of_the_zoo_opens_and_is_sound() {
    for animal in zoo::all() {
        let connection = open_image(Arc::new(animal.image)).unwrap();
        assert_eq!(integrity(&connection), "ok", "{}", animal.name);
    }
}

#[test]
fn image_with_a_wal_header_opens_as_it_is() {
    let image = zoo::image("PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t VALUES(1),(2)");
    assert_eq!(image[18..20], [2, 2]);
    let connection = open_image(Arc::new(image)).unwrap();
    assert_eq!(count(&connection, "t"), 2);
}

#[test]
fn image_cannot_be_written() {
    let connection = open_image(Arc::new(zoo::image("CREATE TABLE t(a)"))).unwrap();
    let error = connection.execute_batch("INSERT INTO t VALUES(1)").unwrap_err();
    assert_eq!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::ReadOnly));
    connection.execute_batch("PRAGMA writable_schema=ON; DELETE FROM sqlite_schema").unwrap_err();
}

#[test]
fn image_shorter_than_its_header_says_is_damaged_not_zeros() {
    let mut image = zoo::image("CREATE TABLE t(a); INSERT INTO t SELECT randomblob(900) FROM generate(200)");
    image.truncate(image.len() / 2 + 100);
    let opened = open_image(Arc::new(image)).and_then(|connection| {
        connection
            .query_row("SELECT sum(length(a)) FROM t", [], |row| row.get::<_, i64>(0))
            .map_err(|error| image_error(Some(&connection), error))
    });
    assert!(opened.unwrap_err().is_damage());
}

#[test]
fn short_reads_are_filled_with_zeros_and_told() {
    let opened = Opened::open(Arc::new(vec![7u8; 10])).unwrap();
    let mut buffer = [9u8; 8];
    assert_eq!(opened.read(2, &mut buffer), ffi::SQLITE_OK);
    assert_eq!(buffer, [7; 8]);
    assert_eq!(opened.read(6, &mut buffer), ffi::SQLITE_IOERR_SHORT_READ);
    assert_eq!(buffer, [7, 7, 7, 7, 0, 0, 0, 0]);
    assert_eq!(opened.read(u64::MAX, &mut buffer), ffi::SQLITE_IOERR_SHORT_READ);
    assert_eq!(buffer, [0; 8]);
}

/// Fails, or panics, from a switch on.
struct Failing {
    bytes: Vec<u8>,
    panics: bool,
    broken: Arc<AtomicBool>,
}

impl PageSource for Failing {
    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.broken.load(Ordering::Relaxed) {
            assert!(!self.panics, "as the test wants it");
            return Err(io::Error::other(format!("pack 4f2a is damaged at {offset}")));
        }
        self.bytes.read_at(offset, buffer)
    }
}

fn failing(panics: bool) -> (Connection, Arc<AtomicBool>) {
    let bytes = zoo::image("CREATE TABLE t(a); INSERT INTO t SELECT randomblob(900) FROM generate(50)");
    let broken = Arc::new(AtomicBool::new(false));
    let source = Failing { bytes, panics, broken: broken.clone() };
    let connection = open_image(Arc::new(source)).unwrap();
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(())).unwrap();
    (connection, broken)
}

#[test]
fn reason_of_the_source_reaches_the_caller() {
    let (connection, broken) = failing(false);
    broken.store(true, Ordering::Relaxed);
    let error = connection.query_row("SELECT sum(length(a)) FROM t", [], |_| Ok(())).unwrap_err();
    let error = image_error(Some(&connection), error);
    let Error::Source(reason) = error else { panic!("{error:?}") };
    assert!(reason.to_string().starts_with("pack 4f2a is damaged at "), "{reason}");
    assert!(source_error(&connection).is_none(), "told once");
}

#[test]
fn image_is_usable_again_after_the_source_recovered() {
    let (connection, broken) = failing(false);
    broken.store(true, Ordering::Relaxed);
    connection.query_row("SELECT sum(length(a)) FROM t", [], |_| Ok(())).unwrap_err();
    broken.store(false, Ordering::Relaxed);
    let sum: i64 = connection.query_row("SELECT sum(length(a)) FROM t", [], |row| row.get(0)).unwrap();
    assert_eq!(sum, 45_000);
}

#[test]
fn panic_of_the_source_is_an_error_of_this_read() {
    let (connection, broken) = failing(true);
    broken.store(true, Ordering::Relaxed);
    let error = connection.query_row("SELECT sum(length(a)) FROM t", [], |_| Ok(())).unwrap_err();
    let error = image_error(Some(&connection), error);
    assert!(matches!(&error, Error::Source(reason) if reason.to_string().contains("panicked")), "{error:?}");
}

#[test]
fn connection_that_is_no_image_has_no_source_error() {
    let connection = Connection::open_in_memory().unwrap();
    assert!(source_error(&connection).is_none());
    let directory = tempfile::tempdir().unwrap();
    let connection = Connection::open(directory.path().join("plain.db")).unwrap();
    assert!(source_error(&connection).is_none());
}

/// Counts how many of its kind are alive.
struct Counted(Vec<u8>, Arc<AtomicUsize>);

impl Counted {
    fn new(bytes: Vec<u8>, alive: &Arc<AtomicUsize>) -> Arc<Self> {
        alive.fetch_add(1, Ordering::SeqCst);
        Arc::new(Self(bytes, alive.clone()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.1.fetch_sub(1, Ordering::SeqCst);
    }
}

impl PageSource for Counted {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, buffer)
    }
}

#[test]
fn source_is_released_with_its_connection_and_when_opening_fails() {
    let alive = Arc::new(AtomicUsize::new(0));
    let image = zoo::image("CREATE TABLE t(a)");
    for _ in 0..20 {
        let first = open_image(Counted::new(image.clone(), &alive)).unwrap();
        let second = open_image(Counted::new(image.clone(), &alive)).unwrap();
        assert_eq!(alive.load(Ordering::SeqCst), 2);
        drop(first);
        assert_eq!(count(&second, "t"), 0);
        assert_eq!(alive.load(Ordering::SeqCst), 1);
    }
    assert_eq!(alive.load(Ordering::SeqCst), 0);
    // Garbage opens lazily in SQLite; the first statement finds out.
    open_image(Counted::new(vec![1u8; 5000], &alive)).unwrap_err();
    assert_eq!(alive.load(Ordering::SeqCst), 0);
}

#[test]
fn images_are_read_side_by_side_on_several_threads() {
    let images: Vec<_> = (1..=8)
        .map(|n| {
            zoo::image(&format!(
                "CREATE TABLE t(a); INSERT INTO t SELECT randomblob(700) FROM generate({n}00)"
            ))
        })
        .collect();
    std::thread::scope(|scope| {
        for (at, image) in images.iter().enumerate() {
            scope.spawn(move || {
                for _ in 0..10 {
                    let connection = open_image(Arc::new(image.clone())).unwrap();
                    assert_eq!(count(&connection, "t"), (at as i64 + 1) * 100);
                    assert_eq!(integrity(&connection), "ok");
                }
            });
        }
    });
}

#[test]
fn big_sort_may_use_a_temporary_file() {
    let image = zoo::image("CREATE TABLE t(a); INSERT INTO t SELECT randomblob(2000) FROM generate(4000)");
    let connection = open_image(Arc::new(image)).unwrap();
    connection.execute_batch("PRAGMA temp_store=FILE; PRAGMA cache_size=10").unwrap();
    let rows: i64 = connection
        .query_row("SELECT count(*) FROM (SELECT a FROM t ORDER BY a LIMIT -1 OFFSET 1)", [], |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(rows, 3999);
}
