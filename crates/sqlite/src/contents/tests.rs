//! What a schema is read as, and rows in every encoding.

use std::sync::Arc;

use super::*;
use crate::vfs::open_image;
use crate::zoo;

fn read(sql: &str) -> (Connection, Contents) {
    let connection = open_image(Arc::new(zoo::image(sql))).unwrap();
    let contents = Contents::read(&connection).unwrap();
    (connection, contents)
}

fn names(contents: &Contents) -> Vec<&str> {
    contents.tables.iter().map(|table| table.name.as_str()).collect()
}

#[test]
fn tables_come_after_those_they_refer_to_and_sqlites_own_last() {
    let (_, contents) = read(
        "CREATE TABLE items(id INTEGER PRIMARY KEY AUTOINCREMENT, o REFERENCES ORDERS(id));
         CREATE TABLE orders(id INTEGER PRIMARY KEY, u REFERENCES users, p REFERENCES gone(id));
         CREATE TABLE users(id INTEGER PRIMARY KEY, boss REFERENCES users(id));
         CREATE TABLE alone(a);
         CREATE TABLE x(id PRIMARY KEY, y REFERENCES y); CREATE TABLE y(id PRIMARY KEY, x REFERENCES x);
         INSERT INTO items(id) VALUES(1);",
    );
    assert_eq!(names(&contents), ["users", "orders", "items", "alone", "x", "y", "sqlite_sequence"]);
    assert_eq!(contents.cycles, [["x", "y"]]);
}

#[test]
fn kinds_columns_and_rowids_are_told() {
    let (_, contents) = read(
        "CREATE TABLE a(id INTEGER PRIMARY KEY, b AS (id * 2));
         CREATE TABLE c(id INTEGER PRIMARY KEY DESC, rowid);
         CREATE TABLE d(id TEXT PRIMARY KEY) WITHOUT ROWID;
         CREATE TABLE e(rowid, _rowid_, oid);
         CREATE TABLE f(x INT PRIMARY KEY);
         CREATE VIRTUAL TABLE v USING fts5(w);",
    );
    let table = |name: &str| contents.tables.iter().find(|table| table.name == name).unwrap();
    let facts = |name: &str| (table(name).kind, table(name).rowid);
    assert_eq!(facts("a"), (TableKind::Rowid, None));
    assert_eq!(facts("c"), (TableKind::Rowid, Some("_rowid_")), "an old mistake of SQLite");
    assert_eq!(facts("d"), (TableKind::WithoutRowid, None));
    assert_eq!(facts("e"), (TableKind::Rowid, None), "all three names are hidden");
    assert_eq!(facts("f"), (TableKind::Rowid, Some("rowid")));
    assert_eq!(facts("v"), (TableKind::Virtual, None));
    assert_eq!(facts("v_content").0, TableKind::Shadow);
    assert!(table("a").columns[1].generated);
    assert_eq!(table("v").columns.len(), 1);
}

#[test]
fn texts_that_are_not_valid_are_told_in_every_encoding() {
    for (encoding, odd) in [("UTF-8", "x'41ff'"), ("UTF-16le", "x'410000d8'"), ("UTF-16be", "x'0041d800'")] {
        let (connection, contents) = read(&format!(
            "PRAGMA encoding='{encoding}'; CREATE TABLE t(a); INSERT INTO t VALUES('é😀'), (CAST({odd} AS TEXT)), (x'ff'), (''), (NULL)"
        ));
        let table = &contents.tables[0];
        let mut found = Vec::new();
        let mut each = |values: &[Value<'_>]| {
            found.push(format!("{:?}", values[0]));
            Ok(())
        };
        let count =
            rows(&connection, &contents, table, &Selection::all(table), &|| false, &mut each).unwrap();
        assert_eq!(count, 5);
        let bytes = match encoding {
            "UTF-8" => "[65, 255]",
            "UTF-16le" => "[65, 0, 0, 216]",
            _ => "[0, 65, 216, 0]",
        };
        let expected = ["Text(\"é😀\")", &format!("OddText({bytes})"), "Blob([255])", "Text(\"\")", "Null"];
        assert_eq!(found, expected, "{encoding}");
    }
}

#[test]
fn reading_stops_when_it_is_cancelled() {
    let (connection, contents) = read(
        "CREATE TABLE t(a); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000)
         INSERT INTO t SELECT i FROM n",
    );
    let table = &contents.tables[0];
    let mut seen = 0;
    let mut each = |_: &[Value<'_>]| {
        seen += 1;
        Ok(())
    };
    let stopped = rows(&connection, &contents, table, &Selection::all(table), &|| true, &mut each);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert_eq!(seen, 1000);
}

/// Returns an image in which some bytes of the schema are those of another encoding.
pub(crate) fn with_odd_bytes(sql: &str, from: &str, to: &[u8]) -> Vec<u8> {
    let mut image = zoo::image(sql);
    let places: Vec<usize> =
        (0..image.len()).filter(|at| image[*at..].starts_with(from.as_bytes())).collect();
    assert!(!places.is_empty() && from.len() == to.len());
    for at in places {
        image[at..at + to.len()].copy_from_slice(to);
    }
    image
}

const GERMAN: &str =
    "CREATE TABLE t(id INTEGER PRIMARY KEY, \"gr__e\" TEXT); INSERT INTO t VALUES(1, 'forty-two')";

#[test]
fn column_whose_name_is_not_valid_text_is_refused_and_never_read_as_its_own_name() {
    let image = Arc::new(with_odd_bytes(GERMAN, "gr__e", b"gr\xf6\xdfe"));
    let connection = open_image(Arc::clone(&image) as Arc<_>).unwrap();
    let error = Contents::read(&connection).unwrap_err();
    assert!(error.to_string().contains("table \"t\" has a column whose name is not valid text"), "{error}");
    // SQLite would take the name that nothing has for a text.
    assert!(connection.prepare("SELECT \"gone\" FROM t").is_err());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("new.db");
    let tables = ["t".to_owned()];
    let target = crate::extract::Target::New(&target);
    assert!(crate::extract::copy_tables(image, &tables, target, &|| false).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn table_whose_name_is_not_valid_text_is_refused() {
    let connection =
        open_image(Arc::new(with_odd_bytes("CREATE TABLE gr__e(a)", "gr__e", b"gr\xf6\xdfe"))).unwrap();
    let error = Contents::read(&connection).unwrap_err();
    assert!(error.to_string().contains("the schema has a name that is not valid text"), "{error}");
}

#[test]
fn schema_in_another_encoding_is_known_as_inexact() {
    let image = with_odd_bytes("CREATE TABLE t(a /* gr__e */); CREATE TABLE u(a)", "gr__e", b"gr\xf6\xdfe");
    let connection = open_image(Arc::new(image)).unwrap();
    let contents = Contents::read(&connection).unwrap();
    let exact: Vec<bool> = contents.schema.iter().map(|object| object.is_exact).collect();
    assert_eq!(exact, [false, true]);
}

#[test]
fn text_that_a_conversion_may_have_changed_is_refused_where_the_original_cannot_be_had() {
    let (_, contents) = read("CREATE TABLE t(a)");
    let table = &contents.tables[0];
    assert_eq!(as_it_is("é".as_bytes(), true, table).unwrap(), Value::Text("é"));
    assert_eq!(as_it_is("\u{fffd}".as_bytes(), false, table).unwrap(), Value::Text("\u{fffd}"));
    assert_eq!(as_it_is(b"\xff", false, table).unwrap(), Value::OddText(b"\xff"));
    for lost in ["\u{fffd}".as_bytes(), b"\xed\xa0\x80"] {
        let error = as_it_is(lost, true, table).unwrap_err();
        assert!(error.to_string().contains("table \"t\" is too wide"), "{error}");
    }
}

#[test]
fn index_that_keeps_no_text_is_told_from_one_that_does() {
    let (_, contents) = read(
        "CREATE TABLE d(a); CREATE VIRTUAL TABLE e USING fts5(a, content='d');
         CREATE VIRTUAL TABLE n USING fts5 (a, content = '');
         CREATE VIRTUAL TABLE k USING fts5(a); CREATE VIRTUAL TABLE r USING rtree(id, x0, x1);",
    );
    let without: Vec<&str> = contents
        .tables
        .iter()
        .filter(|table| table.keeps_no_text())
        .map(|table| table.name.as_str())
        .collect();
    assert_eq!(without, ["n"]);
}
