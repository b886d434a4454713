//! Databases made to harm whoever opens them: nothing may panic, hang, or be written.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::apply::InPlace;
use crate::apply::tests::{CHUNK, chunks};
use crate::extract::{Target, copy_tables};
use crate::header::{HEADER_SIZE, Header};
use crate::inspect::{Integrity, Level, count_rows, inspect, tables};
use crate::rows::RowCounter;
use crate::vfs::open_image;
use crate::zoo;

/// A small database that has a bit of everything.
fn image() -> Vec<u8> {
    zoo::image(
        "PRAGMA page_size=1024; PRAGMA auto_vacuum=2;
         CREATE TABLE t(id INTEGER PRIMARY KEY, a TEXT, b BLOB, c AS (length(b)));
         CREATE INDEX i ON t(a); CREATE INDEX e ON t(lower(a)) WHERE id > 3;
         CREATE TABLE w(k PRIMARY KEY, v) WITHOUT ROWID;
         CREATE TRIGGER g AFTER INSERT ON t BEGIN DELETE FROM w; END; CREATE VIEW v AS SELECT * FROM t;
         CREATE VIRTUAL TABLE f USING fts5(x); CREATE VIRTUAL TABLE r USING rtree(id, x0, x1);
         INSERT INTO t(a, b) SELECT 'row ' || value, noise(value, value * 13 % 1500) FROM generate(80);
         INSERT INTO w SELECT 'key ' || value, noise(value, value * 7 % 700) FROM generate(60);
         INSERT INTO f SELECT 'some words ' || value FROM generate(40);
         INSERT INTO r SELECT value, value, value + 1 FROM generate(40);
         DELETE FROM t WHERE id % 4 = 0; PRAGMA user_version=3",
    )
}

/// Changes some bytes in a way that `seed` decides; the first pages, which steer all else, most often.
fn damaged(image: &[u8], seed: u64) -> Vec<u8> {
    let mut image = image.to_vec();
    let dice = zoo::noise(seed, 64);
    let changes = 1 + usize::from(dice[0] % 8);
    for change in dice[1..].chunks_exact(5).take(changes) {
        let number = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize;
        let range = if change[3] % 2 == 0 { image.len() } else { 4096 };
        let at = number % range;
        // Small values make plausible counts, offsets and page numbers.
        image[at] = if change[3] % 3 == 0 { change[4] % 16 } else { change[4] };
    }
    image
}

fn look_at_everything(image: &[u8], scratch: &Path) {
    if let Ok(header) = Header::parse(image[..HEADER_SIZE].try_into().expect("long enough")) {
        let mut counter = RowCounter::new(header.page_size, header.reserved);
        counter.feed(0, image);
        if let Ok(connection) = open_image(Arc::new(image.to_vec())) {
            let _ = tables(&connection).and_then(|tables| counter.rows(&tables));
        }
    }
    let Ok(connection) = open_image(Arc::new(image.to_vec())) else { return };
    for level in [Level::Quick, Level::Full] {
        inspect(&connection, level, &|| false).expect("SQLite's complaints are part of the result");
    }
    let _ = count_rows(&connection);
    let names = tables(&connection).unwrap_or_default().into_iter().map(|table| table.name);
    for name in names.chain(["f".into(), "r".into()]) {
        let out = scratch.join("out.db");
        let _ = copy_tables(Arc::new(image.to_vec()), &[name], Target::New(&out), &|| false);
        let _ = std::fs::remove_file(&out);
    }
}

#[test]
fn damaged_databases_never_panic_or_hang() {
    let rounds =
        std::env::var("DBKEEP_TEST_HOSTILE").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(30);
    let (image, scratch) = (image(), tempfile::tempdir().unwrap());
    for seed in 0..rounds {
        look_at_everything(&damaged(&image, seed), scratch.path());
    }
}

#[test]
fn sound_counts_and_verdicts_go_together() {
    // Where the quick check finds nothing, the streaming count equals SQL's or is refused.
    let image = image();
    for seed in 0..400 {
        let damaged = damaged(&image, seed);
        let Ok(header) = Header::parse(damaged[..HEADER_SIZE].try_into().unwrap()) else { continue };
        let Ok(connection) = open_image(Arc::new(damaged.clone())) else { continue };
        let verdict = inspect(&connection, Level::Quick, &|| false).unwrap().integrity;
        if verdict != Integrity::Ok {
            continue;
        }
        let mut counter = RowCounter::new(header.page_size, header.reserved);
        counter.feed(0, &damaged);
        if let (Ok(streamed), Ok(asked)) =
            (tables(&connection).and_then(|tables| counter.rows(&tables)), count_rows(&connection))
        {
            assert_eq!(streamed, asked, "seed {seed}");
        }
    }
}

#[test]
fn damaged_target_is_restored_or_left_alone() {
    let (image, scratch) = (image(), tempfile::tempdir().unwrap());
    let header = Header::parse(image[..HEADER_SIZE].try_into().unwrap()).unwrap();
    let mut restored = 0;
    for seed in 0..60 {
        let path = scratch.path().join("target.db");
        let target = damaged(&image, seed);
        std::fs::write(&path, &target).unwrap();
        let restore = || {
            let mut place = InPlace::begin(&path, &header, Duration::ZERO)?;
            place.apply(image.len() as u64, CHUNK, &mut chunks(&image))?;
            place.commit(Duration::ZERO)
        };
        match restore() {
            Ok(()) => {
                restored += 1;
                let connection = rusqlite::Connection::open(&path).unwrap();
                let integrity: String =
                    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
                assert_eq!(integrity, "ok", "seed {seed}");
                assert_eq!(
                    count_rows(&connection).unwrap(),
                    count_rows(&open_image(Arc::new(image.clone())).unwrap()).unwrap()
                );
            }
            Err(_) => assert_eq!(std::fs::read(&path).unwrap(), target, "seed {seed}"),
        }
    }
    assert!(restored > 40, "{restored}");
}

#[test]
fn schema_cannot_call_dangerous_functions() {
    let sql = "CREATE TABLE t(a); INSERT INTO t VALUES(1); PRAGMA writable_schema=ON;
        UPDATE sqlite_schema SET sql='CREATE TABLE t(a, b AS (load_extension(''/tmp/evil'')))' WHERE name='t'";
    let error = open_image(Arc::new(zoo::image(sql))).map(drop).unwrap_err().to_string();
    assert!(error.contains("unsafe use of load_extension()"), "{error}");
    // A view that would read any file through a virtual table with side effects.
    let sql = "CREATE TABLE t(a); PRAGMA writable_schema=ON;
        UPDATE sqlite_schema SET type='view', rootpage=0, sql='CREATE VIEW t AS SELECT data FROM sqlite_dbpage'";
    let connection = open_image(Arc::new(zoo::image(sql))).unwrap();
    let error = connection.query_row("SELECT * FROM t", [], |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("unsafe use of virtual table"), "{error}");
}

#[test]
fn schema_cannot_make_values_that_fill_the_memory() {
    let sql = "CREATE TABLE t(a INT, b NOT NULL AS (zeroblob(a)) VIRTUAL, c NOT NULL AS (length(hex(zeroblob(a)))) VIRTUAL);
        INSERT INTO t(a) VALUES(5); PRAGMA writable_schema=ON;
        UPDATE sqlite_schema SET sql=replace(sql, '(a)', '(a * 80000000)')";
    let connection = open_image(Arc::new(zoo::image(sql))).unwrap();
    let error = connection.query_row("SELECT c FROM t", [], |_| Ok(())).unwrap_err().to_string();
    assert!(error.contains("too big"), "{error}");
    let verdict = inspect(&connection, Level::Full, &|| false).unwrap().integrity;
    assert!(matches!(verdict, Integrity::NotRun(_)), "{verdict:?}");
}

#[test]
fn deep_schema_does_not_exhaust_the_stack() {
    let nested = format!("{}1{}", "(".repeat(20_000), ")".repeat(20_000));
    let mut image = zoo::image(&format!(
        "CREATE TABLE t(a); PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql='CREATE TABLE t(a CHECK({nested}))'"
    ));
    image[24] ^= 1;
    let verdict = open_image(Arc::new(image))
        .map(|connection| inspect(&connection, Level::Quick, &|| false).unwrap().integrity);
    assert_ne!(verdict.ok(), Some(Integrity::Ok));
}
