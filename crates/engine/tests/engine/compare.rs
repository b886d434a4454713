//! Comparing snapshots with each other and with the live database, in the states that an application leaves it in.

use std::path::Path;

use dbkeep_engine::Result;
use dbkeep_engine::compare::{self, CompareRequest};
use dbkeep_engine::report::{CellValue, CompareReport, ComparedTable, RowKind};
use dbkeep_engine::verify::VerifyRequest;
use rusqlite::Connection;

use crate::fixture::{Fixture, insert, told};

impl Fixture {
    fn compare(&self, request: &CompareRequest) -> Result<CompareReport> {
        compare::run(&self.open()?, request, self.now(), &self.watch())
    }
}

fn with(snapshot: &str) -> CompareRequest {
    CompareRequest { snapshot: snapshot.to_owned(), rows: Some(10), ..CompareRequest::default() }
}

fn two(left: &str, right: &str) -> CompareRequest {
    CompareRequest { other: Some(right.to_owned()), ..with(left) }
}

fn items(report: &CompareReport) -> &ComparedTable {
    report.tables.iter().find(|table| table.name == "items").unwrap()
}

fn counts(report: &CompareReport) -> [u64; 5] {
    let one = items(report);
    assert_eq!(one.error, None);
    [one.rows_left, one.rows_right, one.added, one.removed, one.changed]
}

/// Returns the names and bytes of the files of a database.
fn files(database: &Path) -> Vec<(String, Vec<u8>)> {
    let name = database.file_name().unwrap().to_str().unwrap().to_owned();
    let entries = std::fs::read_dir(database.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries
        .filter(|path| path.is_file() && path.file_name().unwrap().to_str().unwrap().starts_with(&name))
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    found.sort();
    found
}

const CHANGES: &str = "UPDATE items SET text='other' WHERE id=7; DELETE FROM items WHERE id IN (20, 21);
                       INSERT INTO items VALUES(9000, 'new')";

#[test]
fn rows_that_differ_from_the_live_database_are_counted_and_listed() {
    let place = Fixture::new();
    let live = place.database("a.db", 3000);
    place.stored("a.db");
    let report = place.compare(&with("latest")).unwrap();
    assert!(report.same, "{report:?}");
    assert_eq!(counts(&report), [3000, 3000, 0, 0, 0]);
    assert_eq!(report.exit_code(true), 0);

    live.execute_batch(CHANGES).unwrap();
    let before = files(&place.path("a.db"));
    let report = place.compare(&with("latest")).unwrap();
    assert_eq!(files(&place.path("a.db")), before, "the source is as it was");
    assert!(!report.same);
    assert_eq!((report.exit_code(false), report.exit_code(true)), (0, 4));
    assert_eq!(counts(&report), [3000, 2999, 1, 2, 1]);
    let rows = &items(&report).rows;
    let changes: Vec<(RowKind, &CellValue)> = rows.iter().map(|row| (row.change, &row.key[0].1)).collect();
    let number = CellValue::Integer;
    assert_eq!(
        changes,
        [
            (RowKind::Changed, &number(7)),
            (RowKind::Removed, &number(20)),
            (RowKind::Removed, &number(21)),
            (RowKind::Added, &number(9000)),
        ]
    );
    assert_eq!(rows[0].columns[0].right, Some(CellValue::Text("other".to_owned())));
    let limited = place.compare(&CompareRequest { rows: Some(1), ..with("latest") }).unwrap();
    assert_eq!((items(&limited).rows.as_slice(), items(&limited).more), (&rows[..1], 3));

    // The same between two snapshots, in both directions.
    place.stored("a.db");
    let pair = place.compare(&two("latest~1", "latest")).unwrap();
    assert_eq!((&pair.tables, pair.same), (&report.tables, false));
    let back = place.compare(&two("latest", "latest~1")).unwrap();
    assert_eq!(counts(&back), [2999, 3000, 2, 1, 1]);
    assert!(place.compare(&two("latest", "latest")).unwrap().same);
    assert!(place.compare(&two("latest", "current")).unwrap().same);
}

#[test]
fn live_database_is_compared_in_whatever_state_it_is() {
    for mode in ["delete", "wal"] {
        for is_open in [true, false] {
            let place = Fixture::new();
            let live = place.database("a.db", 2000);
            live.execute_batch(&format!("PRAGMA journal_mode = {mode}")).unwrap();
            place.stored("a.db");
            live.execute_batch(CHANGES).unwrap();
            let live = is_open.then_some(live);
            let before = files(&place.path("a.db"));
            let report = place.compare(&with("latest")).unwrap();
            assert_eq!(counts(&report), [2000, 1999, 1, 2, 1], "{mode} {is_open}");
            let names =
                |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
            assert_eq!(names(&files(&place.path("a.db"))), names(&before), "{mode} {is_open}");
            drop(live);
        }
    }
}

#[test]
fn database_that_is_written_to_between_two_passes_is_compared_at_one_moment() {
    let place = Fixture::new();
    let live = place.database("a.db", 100);
    // Too large to be copied to memory, so that it is read without a lock first.
    live.execute_batch(
        "CREATE TABLE filler(x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 40)
         INSERT INTO filler SELECT randomblob(1000000) FROM n",
    )
    .unwrap();
    place.stored("a.db");
    live.execute_batch(CHANGES).unwrap();
    let database = place.path("a.db");
    place.at_step(move |step| {
        if step == "compare.captured" {
            let writer = Connection::open(&database).unwrap();
            writer
                .execute_batch("INSERT INTO items VALUES(9001, 'later'); DELETE FROM filler WHERE rowid=3")
                .unwrap();
        }
    });
    let report = place.compare(&with("latest")).unwrap();
    assert_eq!(counts(&report), [100, 100, 2, 2, 1]);
    let filler = report.tables.iter().find(|table| table.name == "filler").unwrap();
    assert_eq!((filler.removed, filler.rows_right), (1, 39));
    // While it is compared nobody waits: what was needed of it is kept, in a file without a name.
    let left: Vec<_> =
        std::fs::read_dir(place.path("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().starts_with("compare-")), "{left:?}");
}

#[test]
fn nothing_of_the_database_is_read_when_it_provably_did_not_change() {
    let place = Fixture::new();
    let live = place.database("a.db", 3000);
    live.execute_batch("PRAGMA journal_mode = wal; UPDATE items SET text = text || 'x' WHERE id < 10")
        .unwrap();
    place.stored("a.db");
    let report = place.compare(&with("latest")).unwrap();
    assert!(report.same);
    assert!(!place.heard.steps.lock().unwrap().contains(&"compare.chunks"), "it was read");
    live.execute_batch(CHANGES).unwrap();
    assert_eq!(counts(&place.compare(&with("latest")).unwrap()), [3000, 2999, 1, 2, 1]);
    assert!(place.heard.steps.lock().unwrap().contains(&"compare.chunks"));
}

#[test]
fn live_database_that_is_gone_locked_or_another_one_is_an_error() {
    let place = Fixture::new();
    let live = place.database("a.db", 10);
    place.stored("a.db");
    live.execute_batch("BEGIN EXCLUSIVE").unwrap();
    let error = place.compare(&with("latest")).unwrap_err();
    assert_eq!((error.kind().word(), error.exit_code()), ("busy", 1), "{error}");
    assert!(told(&error).2.contains("a.db is locked by"), "{error}");
    live.execute_batch("ROLLBACK").unwrap();
    drop(live);

    std::fs::rename(place.path("a.db"), place.path("b.db")).unwrap();
    let error = place.compare(&with("latest")).unwrap_err();
    assert_eq!((error.kind().word(), error.exit_code()), ("missing", 1), "{error}");

    std::fs::write(place.path("a.db"), "").unwrap();
    let error = place.compare(&with("latest")).unwrap_err();
    assert_eq!((error.kind().word(), error.exit_code()), ("empty", 1), "{error}");
    assert!(error.to_string().contains("empty"), "{error}");

    std::fs::write(place.path("a.db"), "a letter, and no database at all, though it has that name").unwrap();
    let error = place.compare(&with("latest")).unwrap_err();
    assert_eq!((error.kind().word(), error.exit_code()), ("not-a-database", 1), "{error}");
}

#[test]
fn configured_place_with_another_database_is_refused_unless_forced() {
    let place = Fixture::with_config("[databases.shop]\nsqlite = \"ROOT/shop.db\"\n");
    drop(place.database("shop.db", 10));
    place.stored("shop");
    let other = place.database("other.db", 12);
    drop(other);
    let config = place.context.config_file.clone().unwrap();
    let root = place.path("").display().to_string();
    std::fs::write(&config, format!("[databases.shop]\nsqlite = \"{root}/other.db\"\n")).unwrap();
    let mut place = place;
    place.context.config.databases.get_mut("shop").unwrap().sqlite = Some(format!("{root}/other.db"));
    let error = place.compare(&with("latest")).unwrap_err();
    let (kind, code, message) = told(&error);
    assert_eq!((kind, code), ("refused", 1));
    assert!(message.contains("other.db") && message.contains("is another database"), "{message}");
    assert!(error.hint().unwrap().contains("--force"));
    let report = place.compare(&CompareRequest { force: true, ..with("latest") }).unwrap();
    assert_eq!(items(&report).rows_right, 12);

    place.context.config.databases.get_mut("shop").unwrap().sqlite = None;
    let error = place.compare(&with("latest")).unwrap_err();
    assert_eq!((error.kind().word(), error.exit_code()), ("usage", 2));
    assert!(error.to_string().contains("PostgreSQL"), "{error}");
}

#[test]
fn snapshots_of_different_databases_are_refused_unless_forced() {
    let place = Fixture::new();
    drop(place.database("a.db", 10));
    drop(place.database("b.db", 11));
    let a = place.stored("a.db").snapshot.unwrap().to_string();
    let b = place.stored("b.db").snapshot.unwrap().to_string();
    let error = place.compare(&two(&a, &b)).unwrap_err();
    assert_eq!((error.kind().word(), error.exit_code()), ("refused", 1));
    assert!(error.to_string().contains("of different databases"), "{error}");
    let report = place.compare(&CompareRequest { force: true, ..two(&a, &b) }).unwrap();
    assert_eq!((items(&report).rows_left, items(&report).rows_right), (10, 11));
    // What `latest` means beside a snapshot is the newest of its database.
    assert!(place.compare(&two(&a, "latest")).unwrap().same);
    let error = place.compare(&with("latest")).unwrap_err();
    assert_eq!((error.kind().word(), error.exit_code()), ("ambiguous", 2));
    let error = place.compare(&two(&a, "0123")).unwrap_err();
    assert_eq!((error.kind().word(), error.exit_code()), ("no-snapshot", 1));
    let error = place.compare(&CompareRequest { tables: vec!["itms".to_owned()], ..with(&a) }).unwrap_err();
    assert_eq!(error.hint().as_deref(), Some("did you mean items?"));
}

#[test]
fn snapshot_with_damaged_data_is_an_error_and_never_the_same() {
    let place = Fixture::new();
    let live = place.database("a.db", 3000);
    place.stored("a.db");
    live.execute_batch("UPDATE items SET text = text || '!' WHERE id > 1500").unwrap();
    let largest =
        place.objects("data").into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let sound = std::fs::read(&largest).unwrap();
    let mut bytes = sound.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, &bytes).unwrap();
    let error = place.compare(&with("latest")).unwrap_err();
    assert_eq!((error.kind().word(), error.exit_code()), ("damaged", 1), "{error}");
    let pack = largest.file_name().unwrap().to_str().unwrap();
    assert!(error.to_string().contains(&pack[..8]), "{error}");

    std::fs::write(&largest, &sound).unwrap();

    // Of a chunk that both sides have nothing is read.
    live.execute_batch("UPDATE items SET text = 'last' WHERE id = 3000").unwrap();
    place.stored("a.db");
    std::fs::remove_file(&largest).unwrap();
    let error = place.compare(&with("latest")).unwrap_err();
    assert_eq!((error.kind().word(), error.exit_code()), ("damaged", 1), "{error}");
    assert!(error.to_string().contains(&format!("pack {pack} is missing")), "{error}");
}

#[test]
fn snapshot_that_was_found_damaged_is_read_wholly() {
    let place = Fixture::new();
    drop(place.database("a.db", 3000));
    place.stored("a.db");
    let largest =
        place.objects("data").into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let sound = std::fs::read(&largest).unwrap();
    let mut bytes = sound.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&largest, &bytes).unwrap();
    let report = place.verify(&VerifyRequest::default());
    assert_eq!(report.damaged, 1);
    let error = place.compare(&with("latest")).unwrap_err();
    assert_eq!((error.kind().word(), error.exit_code()), ("damaged", 1), "{error}");
    std::fs::write(&largest, &sound).unwrap();
    assert!(place.compare(&with("latest")).unwrap().same, "it was repaired");
}

#[test]
fn raw_copy_and_damaged_live_database_are_not_compared() {
    let place = Fixture::new();
    let live = place.database("a.db", 3000);
    drop(live);
    place.stored("a.db");
    let path = place.path("a.db");
    let mut bytes = std::fs::read(&path).unwrap();
    // The header no longer is one.
    bytes[16..24].fill(0x5a);
    std::fs::write(&path, &bytes).unwrap();
    let error = place.compare(&with("latest")).unwrap_err();
    assert_eq!((error.kind().word(), error.exit_code()), ("damaged", 1), "{error}");
    let stored = place.stored("a.db").snapshot.unwrap().to_string();
    let error = place.compare(&two("latest", &stored)).unwrap_err();
    assert_eq!((error.kind().word(), error.exit_code()), ("unsupported", 1), "{error}");
    assert!(error.to_string().contains("raw copy"), "{error}");
}

#[test]
fn table_that_is_damaged_is_named_and_the_others_are_compared() {
    let place = Fixture::new();
    let live = place.database("a.db", 3000);
    live.execute_batch("CREATE TABLE sound(a); INSERT INTO sound VALUES(1)").unwrap();
    let root: usize = live
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name='items'", [], |row| row.get::<_, i64>(0))
        .unwrap()
        .try_into()
        .unwrap();
    place.stored("a.db");
    live.execute_batch("INSERT INTO sound VALUES(2)").unwrap();
    drop(live);
    let path = place.path("a.db");
    let mut bytes = std::fs::read(&path).unwrap();
    let start = (root - 1) * 4096;
    bytes[start + 3] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let report = place.compare(&with("latest")).unwrap();
    let error = items(&report).error.clone().unwrap();
    assert!(error.contains(&format!("page {root} is not a sound page")), "{error}");
    assert_eq!((report.same, report.exit_code(false)), (false, 4));
    let sound = report.tables.iter().find(|table| table.name == "sound").unwrap();
    assert_eq!((sound.added, sound.error.as_deref()), (1, None));
}

#[test]
fn database_that_grew_into_longer_chunks_is_compared_all_the_same() {
    let place = Fixture::new();
    let live = place.database("a.db", 0);
    insert(&live, 5000);
    place.stored("a.db");
    live.execute_batch("VACUUM").unwrap();
    let report = place.compare(&with("latest")).unwrap();
    assert!(report.same, "{report:?}");
    live.execute_batch("PRAGMA page_size = 8192; PRAGMA journal_mode = delete; VACUUM").unwrap();
    live.execute_batch(CHANGES).unwrap();
    assert_eq!(counts(&place.compare(&with("latest")).unwrap()), [5000, 4999, 1, 2, 1]);
}

#[test]
fn comparison_that_is_interrupted_says_so_and_leaves_nothing() {
    let place = Fixture::new();
    let live = place.database("a.db", 3000);
    place.stored("a.db");
    live.execute_batch(CHANGES).unwrap();
    let before = files(&place.path("a.db"));
    for step in ["compare.captured", "compare.read"] {
        place.heard.steps.lock().unwrap().clear();
        *place.heard.cancel_at.lock().unwrap() = Some(step);
        let error = place.compare(&with("latest")).unwrap_err();
        assert_eq!((error.kind().word(), error.exit_code()), ("interrupted", 130), "{step}: {error}");
        *place.heard.cancel_at.lock().unwrap() = None;
    }
    assert_eq!(files(&place.path("a.db")), before);
    assert_eq!(counts(&place.compare(&with("latest")).unwrap()), [3000, 2999, 1, 2, 1]);
}
