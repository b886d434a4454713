//! Tables taken out of images, into new files and into live databases.

use std::path::PathBuf;

use rusqlite::types::Value;

use super::*;
use crate::zoo;

fn extract(image: &[u8], tables: &[&str], target: Target<'_>) -> Result<Extracted> {
    let tables: Vec<String> = tables.iter().map(|name| (*name).to_string()).collect();
    copy_tables(Arc::new(image.to_vec()), &tables, target, &|| false)
}

fn into_live<'p>(path: &'p Path, locked: &'p mut dyn FnMut() -> Result<(), BoxError>) -> Target<'p> {
    Target::Live { path, patience: Duration::ZERO, locked }
}

fn fresh() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("out.db");
    (directory, path)
}

fn all(connection: &Connection, query: &str) -> Vec<Vec<Value>> {
    let mut statement = connection.prepare(query).unwrap();
    let columns = statement.column_count();
    statement
        .query_map([], |row| (0..columns).map(|at| row.get(at)).collect())
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap()
}

fn assert_same_rows(image: &[u8], path: &Path, queries: &[&str]) {
    let image = open_image(Arc::new(image.to_vec())).unwrap();
    let target = Connection::open(path).unwrap();
    for query in queries {
        assert_eq!(all(&target, query), all(&image, query), "{query}");
    }
    assert_eq!(all(&target, "PRAGMA integrity_check"), [[Value::Text("ok".into())]]);
}

const SHOP: &str = "
    CREATE TABLE customers(id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT COLLATE NOCASE UNIQUE, note);
    CREATE TABLE orders(customer REFERENCES customers, total REAL NOT NULL CHECK(total >= 0),
        gross AS (total * 1.2) STORED, net AS (total) VIRTUAL);
    CREATE INDEX orders_customer ON orders(customer); CREATE INDEX orders_gross ON orders(gross) WHERE total > 5;
    CREATE TRIGGER orders_log AFTER INSERT ON orders BEGIN UPDATE customers SET note='ordered' WHERE id=new.customer; END;
    CREATE TABLE settings(k TEXT PRIMARY KEY, v ANY) STRICT, WITHOUT ROWID;
    CREATE TABLE odd(rowid, oid, x); CREATE TABLE hidden(rowid, _rowid_, oid);
    CREATE TABLE \"we\"\"ird name\"(\"col \"\"x\", y);
    CREATE VIRTUAL TABLE words USING fts5(body, tokenize='porter');
    CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1);
    CREATE VIEW rich AS SELECT * FROM orders WHERE total > 100;
    INSERT INTO customers(name) SELECT 'name ' || value FROM generate(500);
    DELETE FROM customers WHERE id > 450;
    INSERT INTO orders(customer, total) SELECT value % 400 + 1, value FROM generate(2500);
    DELETE FROM orders WHERE rowid % 10 = 0;
    INSERT INTO settings VALUES('a', 1), ('b', 'two'), ('c', x'03'), ('d', NULL), ('e', 5.5);
    INSERT INTO odd VALUES(1, 2, 3), (4, 5, 6); UPDATE odd SET _rowid_ = 77 WHERE x = 6;
    INSERT INTO hidden VALUES(1, 2, 3);
    INSERT INTO \"we\"\"ird name\" VALUES(1, x'00ff'), ('text with ' || char(0) || ' inside', -0.0);
    INSERT INTO words SELECT 'running with word' || value FROM generate(300); DELETE FROM words WHERE rowid < 10;
    INSERT INTO boxes SELECT value, value, value + 1 FROM generate(300);
    ";

#[test]
fn table_goes_to_a_new_file_with_all_that_belongs_to_it() {
    let image = zoo::image(&format!("PRAGMA page_size=1024; PRAGMA application_id=77; {SHOP}"));
    let (_directory, path) = fresh();
    let done = extract(&image, &["ORDERS"], Target::New(&path)).unwrap();
    assert_eq!(done.tables, [TableRows { name: "orders".into(), rows: 2250 }]);
    assert_eq!(done.notes, [""; 0]);
    assert_same_rows(
        &image,
        &path,
        &[
            "SELECT rowid, *, gross, net FROM orders",
            "SELECT type, name, sql FROM sqlite_schema WHERE tbl_name='orders' ORDER BY name",
            "PRAGMA page_size",
            "PRAGMA application_id",
        ],
    );
    let names = all(&Connection::open(&path).unwrap(), "SELECT DISTINCT tbl_name FROM sqlite_schema");
    assert_eq!(names, [[Value::Text("orders".into())]]);
}

#[test]
fn log_of_a_database_that_is_gone_survives_an_extraction_to_its_name() {
    let image = zoo::image(SHOP);
    for (suffix, empty) in [("-wal", false), ("-journal", false), ("-wal", true)] {
        let (_directory, path) = fresh();
        let left = identify::sibling(&path, suffix);
        std::fs::write(&left, "all that is left of it").unwrap();
        let mut locked = || Ok(());
        let target = if empty {
            std::fs::write(&path, "").unwrap();
            into_live(&path, &mut locked)
        } else {
            Target::New(&path)
        };
        let error = extract(&image, &["orders"], target).unwrap_err();
        assert!(matches!(error, Error::EmptyWithSibling { .. }), "{error:?}");
        assert_eq!(std::fs::read_to_string(&left).unwrap(), "all that is left of it");
        assert_eq!(path.exists(), empty);
    }
}

#[test]
fn every_kind_of_table_keeps_its_rows_exactly() {
    for encoding in ["UTF-8", "UTF-16le"] {
        let image = zoo::image(&format!("PRAGMA encoding='{encoding}'; {SHOP}"));
        let (_directory, path) = fresh();
        let names = ["customers", "settings", "odd", "we\"ird name", "words", "boxes"];
        let done = extract(&image, &names, Target::New(&path)).unwrap();
        assert_eq!(done.notes, [""; 0]);
        let rows: Vec<u64> = done.tables.iter().map(|table| table.rows).collect();
        assert_eq!(rows, [450, 5, 2, 2, 291, 300]);
        assert_same_rows(
            &image,
            &path,
            &[
                "SELECT rowid, * FROM customers",
                "SELECT *, typeof(v) FROM settings",
                "SELECT _rowid_, * FROM odd",
                "SELECT *, typeof(y), length(CAST(\"col \"\"x\" AS BLOB)) FROM \"we\"\"ird name\"",
                "SELECT rowid, * FROM words",
                "SELECT rowid FROM words WHERE words MATCH 'run word77'",
                "SELECT * FROM words_data",
                "SELECT * FROM boxes WHERE x0 > 50 AND x1 < 60",
                "SELECT seq FROM sqlite_sequence WHERE name='customers'",
                "PRAGMA encoding",
            ],
        );
        // The search index works on, also for what comes later.
        let target = Connection::open(&path).unwrap();
        target
            .execute_batch("INSERT INTO words VALUES('latecomer'); INSERT INTO boxes VALUES(999, 1, 2)")
            .unwrap();
        assert_eq!(
            all(&target, "SELECT count(*) FROM words WHERE words MATCH 'latecomer'"),
            [[Value::Integer(1)]]
        );
        target.execute_batch("INSERT INTO words(words) VALUES('integrity-check')").unwrap();
        target.execute_batch("INSERT INTO customers(name) VALUES('next')").unwrap();
        assert_eq!(all(&target, "SELECT max(id) FROM customers"), [[Value::Integer(501)]]);
    }
}

#[test]
fn rowids_that_cannot_be_named_are_noted() {
    let (_directory, path) = fresh();
    let done = extract(&zoo::image(SHOP), &["hidden"], Target::New(&path)).unwrap();
    assert_eq!(done.notes, ["rowids of table hidden not kept: columns hide their names"]);
    assert_same_rows(&zoo::image(SHOP), &path, &["SELECT * FROM hidden"]);
}

#[test]
fn live_table_is_replaced_and_everything_else_stays() {
    for mode in ["DELETE", "WAL"] {
        let image = zoo::image(&format!("PRAGMA journal_mode={mode}; {SHOP}"));
        let (_directory, path) = fresh();
        std::fs::write(&path, &image).unwrap();
        let application = Connection::open(&path).unwrap();
        application.execute_batch(
            "PRAGMA foreign_keys=ON; INSERT INTO customers(name) VALUES('new one'); DELETE FROM orders WHERE total < 1000;
             DELETE FROM words; ALTER TABLE orders ADD COLUMN later; DROP INDEX orders_customer; UPDATE customers SET note=NULL",
        ).unwrap();
        let mut cached = application.prepare("SELECT count(*) FROM orders").unwrap();
        assert_ne!(cached.query_row([], |row| row.get::<_, i64>(0)).unwrap(), 2250);

        let done = extract(&image, &["orders", "words"], into_live(&path, &mut || Ok(()))).unwrap();
        assert_eq!(done.tables[0].rows, 2250, "{mode}");
        assert_eq!(done.notes, [""; 0]);

        assert_eq!(cached.query_row([], |row| row.get::<_, i64>(0)).unwrap(), 2250);
        // No trigger has fired, and the row that is not in the image is still there.
        let notes = all(&application, "SELECT count(*), count(note), max(name = 'new one') FROM customers");
        assert_eq!(notes, [[Value::Integer(451), Value::Integer(0), Value::Integer(1)]]);
        let rich = all(&application, "SELECT count(*) FROM rich");
        assert_ne!(rich, [[Value::Integer(0)]], "the view still works");
        drop(cached);
        drop(application);
        assert_same_rows(
            &image,
            &path,
            &[
                "SELECT rowid, * FROM orders",
                "SELECT type, name, sql FROM sqlite_schema WHERE tbl_name='orders' ORDER BY name",
                "SELECT count(*) FROM words WHERE words MATCH 'word'",
                "SELECT * FROM words_data",
            ],
        );
        assert_eq!(
            all(&Connection::open(&path).unwrap(), "PRAGMA journal_mode"),
            [[Value::Text(mode.to_lowercase())]]
        );
    }
}

#[test]
fn live_target_is_locked_but_unchanged_when_the_caller_is_asked_and_a_refusal_leaves_it_so() {
    for mode in ["DELETE", "WAL"] {
        let image = zoo::image(&format!("PRAGMA journal_mode={mode}; {SHOP}"));
        let (_directory, path) = fresh();
        std::fs::write(&path, &image).unwrap();
        let application = Connection::open(&path).unwrap();
        application.execute_batch("DELETE FROM odd").unwrap();
        application.busy_timeout(Duration::ZERO).unwrap();
        let mut seen = None;
        let mut locked = || {
            let late = application.execute_batch("INSERT INTO odd VALUES(7, 8, 9)").is_err();
            seen = Some((late, all(&application, "SELECT count(*) FROM odd")));
            Err("no backup, no copy".into())
        };
        let error = extract(&image, &["odd"], into_live(&path, &mut locked)).unwrap_err();
        assert!(matches!(error, Error::Consumer(_)), "{error:?}");
        assert_eq!(seen, Some((true, vec![vec![Value::Integer(0)]])), "{mode}");
        application.execute_batch("INSERT INTO odd VALUES(7, 8, 9)").unwrap();

        let mut asked = false;
        let mut locked = || {
            asked = true;
            Ok(())
        };
        extract(&image, &["oddd"], into_live(&path, &mut locked)).unwrap_err();
        assert!(!asked, "a wrong name is found before the target is locked");
    }
}

#[test]
fn missing_table_is_named_with_candidates_and_nothing_is_made() {
    let (directory, path) = fresh();
    let error = extract(&zoo::image(SHOP), &["settings", "custommers"], Target::New(&path)).unwrap_err();
    assert_eq!(error.to_string(), "no table custommers in the image");
    assert_eq!(error.hint().unwrap(), "did you mean customers?");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    let error = extract(&zoo::image(SHOP), &["zzzzzzzz"], Target::New(&path)).unwrap_err();
    assert_eq!(error.hint(), None);
}

#[test]
fn what_is_no_table_is_refused_by_kind() {
    let (_directory, path) = fresh();
    let refused = |name| extract(&zoo::image(SHOP), &[name], Target::New(&path)).unwrap_err().to_string();
    assert_eq!(refused("rich"), "rich is a view");
    assert_eq!(refused("words_data"), "words_data is part of the virtual table words");
    assert_eq!(refused("sqlite_sequence"), "sqlite_sequence is a table of SQLite itself");
}

#[test]
fn existing_file_is_never_written_over_as_new() {
    let (_directory, path) = fresh();
    std::fs::write(&path, b"mine").unwrap();
    let error = extract(&zoo::image(SHOP), &["odd"], Target::New(&path)).unwrap_err();
    assert!(
        matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists),
        "{error:?}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
}

#[test]
fn damaged_rows_leave_no_new_file_and_the_live_one_as_it_was() {
    let mut image =
        zoo::image("CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 900) FROM generate(500)");
    let middle = image.len() / 2 / 4096 * 4096;
    image[middle..middle + 4096].fill(0xEE);
    let (directory, path) = fresh();
    let error = extract(&image, &["t"], Target::New(&path)).unwrap_err();
    assert!(error.is_damage(), "{error:?}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

    let live = zoo::image("CREATE TABLE t(b); INSERT INTO t VALUES(1),(2)");
    std::fs::write(&path, &live).unwrap();
    extract(&image, &["t"], into_live(&path, &mut || Ok(()))).unwrap_err();
    assert_same_rows(&live, &path, &["SELECT * FROM t", "SELECT sql FROM sqlite_schema"]);
}

#[test]
fn cancelled_extraction_changes_nothing() {
    let image = zoo::image("CREATE TABLE t(a); INSERT INTO t SELECT value FROM generate(5000)");
    let (directory, path) = fresh();
    let result = copy_tables(Arc::new(image), &["t".into()], Target::New(&path), &|| true);
    assert!(matches!(result, Err(Error::Cancelled)));
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[test]
fn busy_target_is_told_with_its_path() {
    let image = zoo::image(SHOP);
    let (_directory, path) = fresh();
    std::fs::write(&path, &image).unwrap();
    let application = Connection::open(&path).unwrap();
    application.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = extract(&image, &["odd"], into_live(&path, &mut || Ok(()))).unwrap_err();
    assert!(error.to_string().contains("out.db is locked by"), "{error}");
}

#[test]
fn index_with_an_unknown_collation_is_left_out_and_noted() {
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("app.db");
    let connection = Connection::open(&source).unwrap();
    connection.create_collation("BACKWARDS", |a: &str, b: &str| b.cmp(a)).unwrap();
    connection
        .execute_batch("CREATE TABLE t(a, b); CREATE INDEX i ON t(a COLLATE BACKWARDS); INSERT INTO t VALUES('x', 1), ('y', 2)")
        .unwrap();
    connection.close().unwrap();
    let image = std::fs::read(&source).unwrap();
    let path = directory.path().join("out.db");
    let done = extract(&image, &["t"], Target::New(&path)).unwrap();
    assert_eq!(done.notes, ["index i not made: no such collation sequence: BACKWARDS"]);
    assert_same_rows(&image, &path, &["SELECT rowid, * FROM t"]);
}

#[test]
fn distance_counts_edits() {
    assert_eq!(distance("orders", "orders"), 0);
    assert_eq!(distance("oders", "orders"), 1);
    assert_eq!(distance("", "abc"), 3);
    assert_eq!(distance("kitten", "sitting"), 3);
}
