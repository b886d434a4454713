//! Checks of sound, damaged and odd databases.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::*;
use crate::vfs::open_image;
use crate::zoo;

fn inspected(image: Vec<u8>, level: Level) -> Inspection {
    inspect(&open_image(Arc::new(image)).unwrap(), level, &|| false).unwrap()
}

fn problems(inspection: &Inspection) -> &[String] {
    match &inspection.integrity {
        Integrity::Problems(problems) => problems,
        other => panic!("{other:?}"),
    }
}

/// Builds a database on a connection that knows a collation and a function nobody else has.
fn application_database(sql: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.db");
    let connection = Connection::open(&path).unwrap();
    connection.create_collation("BACKWARDS", |a: &str, b: &str| b.cmp(a)).unwrap();
    let flags = FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC;
    connection
        .create_scalar_function("app_key", 1, flags, |context| Ok(format!("k{}", context.get::<i64>(0)?)))
        .unwrap();
    zoo::run(&connection, sql);
    connection.close().unwrap();
    std::fs::read(&path).unwrap()
}

#[test]
fn zoo_is_sound_at_both_levels() {
    for animal in zoo::all() {
        for level in [Level::Quick, Level::Full] {
            let inspection = inspected(animal.image.clone(), level);
            let expected = Inspection { integrity: Integrity::Ok, notes: Vec::new() };
            assert_eq!(inspection, expected, "{} {level:?}", animal.name);
        }
    }
}

#[test]
fn damaged_page_is_a_problem_not_a_failure() {
    let mut image =
        zoo::image("CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 200) FROM generate(500)");
    let middle = image.len() / 2 / 4096 * 4096;
    image[middle..middle + 200].fill(0xEE);
    for level in [Level::Quick, Level::Full] {
        assert!(!problems(&inspected(image.clone(), level)).is_empty());
    }
}

#[test]
fn full_check_of_a_sound_database_reads_it_as_often_as_a_quick_one() {
    struct Counted(Vec<u8>, AtomicU32);
    impl crate::vfs::PageSource for Counted {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.read_at(offset, buffer)
        }
    }
    // Larger than SQLite's own cache.
    let image = zoo::image("CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 3900) FROM generate(4000)");
    let reads = |level| {
        let source = Arc::new(Counted(image.clone(), AtomicU32::new(0)));
        let inspection = inspect(&open_image(source.clone()).unwrap(), level, &|| false).unwrap();
        assert_eq!(inspection.integrity, Integrity::Ok);
        source.1.load(Ordering::Relaxed)
    };
    assert_eq!(reads(Level::Full), reads(Level::Quick));
}

#[test]
fn bytes_that_are_no_database_cannot_be_opened_as_one() {
    assert!(open_image(Arc::new(zoo::noise(1, 8192))).unwrap_err().is_damage());
}

#[test]
fn index_without_one_of_its_entries_is_found() {
    let sql =
        "CREATE TABLE t(a, b); CREATE INDEX i ON t(b); INSERT INTO t SELECT value, value FROM generate(50);
        PRAGMA writable_schema=ON;
        UPDATE sqlite_schema SET sql='CREATE TABLE t(a, b, c)' WHERE name='t';
        UPDATE sqlite_schema SET sql='CREATE INDEX i ON t(a)' WHERE name='i';
        INSERT INTO t VALUES(99, 100)";
    let image = zoo::image(sql);
    // The last row was indexed by its column b; the changed schema looks for it under a.
    assert_eq!(inspected(image.clone(), Level::Quick).integrity, Integrity::Ok);
    let inspection = inspected(image, Level::Full);
    assert!(problems(&inspection)[0].contains("missing from index i"), "{inspection:?}");
}

#[test]
fn unknown_collation_is_noted_and_the_rest_is_verified() {
    let sql = "CREATE TABLE t(a TEXT COLLATE BACKWARDS PRIMARY KEY, b); CREATE TABLE u(c UNIQUE);
        INSERT INTO t SELECT 'k' || value, value FROM generate(900);
        INSERT INTO u SELECT value FROM generate(900)";
    for level in [Level::Quick, Level::Full] {
        let inspection = inspected(application_database(sql), level);
        assert_eq!(inspection.integrity, Integrity::Ok, "{level:?}");
        assert!(inspection.notes[0].contains("collation BACKWARDS is not known here"), "{inspection:?}");
    }
    let full = inspected(application_database(sql), Level::Full);
    assert_eq!(full.notes[1..], ["indexes of table t not compared with its rows"]);
}

#[test]
fn damage_beside_an_unknown_collation_is_found() {
    let sql = "CREATE TABLE t(a TEXT COLLATE BACKWARDS PRIMARY KEY);
        CREATE TABLE u(c); INSERT INTO u SELECT noise2(value) FROM generate(1)";
    let sql = sql.replace("noise2(value)", "randomblob(90000)");
    let mut image = application_database(&sql);
    let end = image.len() - 4096 * 3;
    image[end..end + 4].fill(0x7f);
    assert!(!problems(&inspected(image, Level::Full)).is_empty());
}

#[test]
fn unknown_function_in_index_check_and_column_is_noted() {
    let sql = "CREATE TABLE t(a INT, g TEXT NOT NULL AS (app_key(a)) VIRTUAL, CHECK(app_key(a) > ''));
        CREATE INDEX i ON t(app_key(a)); CREATE INDEX p ON t(a) WHERE app_key(a) > 'k5';
        INSERT INTO t(a) SELECT value FROM generate(300)";
    for level in [Level::Quick, Level::Full] {
        let inspection = inspected(application_database(sql), level);
        assert_eq!(inspection.integrity, Integrity::Ok, "{inspection:?}");
        assert!(inspection.notes.iter().any(|note| note.contains("function app_key")), "{inspection:?}");
        assert!(inspection.notes.iter().any(|note| note.contains("t.g not verified")), "{inspection:?}");
    }
}

#[test]
fn lines_that_only_a_stand_in_caused_do_not_end_a_full_check() {
    let sql = "CREATE TABLE t(a INT, g TEXT NOT NULL AS (app_key(a)) VIRTUAL); INSERT INTO t(a) VALUES(1);
        CREATE TABLE u(a, b); CREATE INDEX i ON u(b); INSERT INTO u SELECT value, value FROM generate(50);
        PRAGMA writable_schema=ON; UPDATE sqlite_schema SET sql='CREATE INDEX i ON u(a)' WHERE name='i';
        UPDATE sqlite_schema SET sql='CREATE TABLE u(a, b, c)' WHERE name='u'; INSERT INTO u VALUES(99, 100)";
    let image = application_database(sql);
    assert_eq!(inspected(image.clone(), Level::Quick).integrity, Integrity::Ok);
    let inspection = inspected(image, Level::Full);
    assert!(problems(&inspection)[0].contains("missing from index i"), "{inspection:?}");
}

#[test]
fn virtual_table_of_an_unknown_module_is_noted() {
    let sql = "CREATE TABLE t(a); PRAGMA writable_schema=ON;
        INSERT INTO sqlite_schema VALUES('table','geo','geo',0,'CREATE VIRTUAL TABLE geo USING spatialite(x)')";
    let inspection = inspected(zoo::image(sql), Level::Full);
    assert_eq!(inspection.integrity, Integrity::Ok);
    assert_eq!(
        inspection.notes,
        ["virtual table geo checked as plain tables only: module spatialite is not known here"]
    );
}

#[test]
fn virtual_table_that_cannot_be_opened_leaves_the_tables_checked() {
    let sql = "CREATE VIRTUAL TABLE f USING fts5(a); INSERT INTO f VALUES('x');
        CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 900) FROM generate(100);
        PRAGMA writable_schema=ON;
        UPDATE sqlite_schema SET sql='CREATE VIRTUAL TABLE f USING fts5(a, tokenize=\"klingon\")' WHERE name='f'";
    let image = zoo::image(sql);
    let inspection = inspected(image.clone(), Level::Quick);
    assert_eq!(inspection.integrity, Integrity::Ok, "{inspection:?}");
    assert!(
        inspection.notes[0].starts_with("virtual table f checked as plain tables only"),
        "{inspection:?}"
    );

    let mut damaged = image;
    let last = damaged.len() - 4096;
    damaged[last..].fill(0x55);
    assert!(!problems(&inspected(damaged, Level::Quick)).is_empty());
}

#[test]
fn violated_foreign_keys_are_a_note() {
    let sql = "PRAGMA foreign_keys=OFF; CREATE TABLE p(id INTEGER PRIMARY KEY);
        CREATE TABLE c(p REFERENCES p); INSERT INTO c VALUES(7),(8)";
    let inspection = inspected(zoo::image(sql), Level::Full);
    assert_eq!(inspection.integrity, Integrity::Ok);
    assert_eq!(inspection.notes, ["2 rows violate a foreign key"]);
}

#[test]
fn cancelled_check_stops_inside_one_statement() {
    let image =
        zoo::image("CREATE TABLE t(a UNIQUE); INSERT INTO t SELECT noise(value, 20) FROM generate(200000)");
    let connection = open_image(Arc::new(image)).unwrap();
    let asked = AtomicU32::new(0);
    let result = inspect(&connection, Level::Full, &|| asked.fetch_add(1, Ordering::Relaxed) > 0);
    assert!(matches!(result, Err(Error::Cancelled)), "{result:?}");
}

#[test]
fn source_failure_is_an_error_not_a_verdict() {
    struct HalfThere(Vec<u8>);
    impl crate::vfs::PageSource for HalfThere {
        fn size(&self) -> u64 {
            self.0.len() as u64
        }
        fn read_at(&self, offset: u64, buffer: &mut [u8]) -> std::io::Result<()> {
            if offset > self.0.len() as u64 / 2 {
                return Err(std::io::Error::other("pack missing"));
            }
            self.0.read_at(offset, buffer)
        }
    }
    let image = zoo::image("CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 200) FROM generate(500)");
    let connection = open_image(Arc::new(HalfThere(image))).unwrap();
    let result = inspect(&connection, Level::Quick, &|| false);
    assert!(matches!(result, Err(Error::Source(_))), "{result:?}");
}

#[test]
fn tables_are_those_with_rows_of_their_own() {
    let image = zoo::image(
        "CREATE TABLE t(a); CREATE VIEW v AS SELECT 1; CREATE VIRTUAL TABLE f USING fts5(a);
         CREATE TABLE s(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO s VALUES(1); ANALYZE",
    );
    let connection = open_image(Arc::new(image)).unwrap();
    let names: Vec<_> = tables(&connection).unwrap().into_iter().map(|table| table.name).collect();
    let expected = [
        "f_config",
        "f_content",
        "f_data",
        "f_docsize",
        "f_idx",
        "s",
        "sqlite_sequence",
        "sqlite_stat1",
        "sqlite_stat4",
        "t",
    ];
    assert_eq!(names, expected);
}
