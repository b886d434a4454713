//! Databases are dumped, loaded again, and compared in the most obvious way.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::types::Value;

use super::*;
use crate::load::load;
use crate::vfs::open_image;
use crate::zoo;

/// Everything a database holds, read in the most obvious way.
#[derive(Debug, PartialEq)]
struct Everything {
    schema: Vec<(String, String, Option<String>)>,
    rows: BTreeMap<String, Vec<Vec<String>>>,
    settings: Vec<String>,
}

fn everything(connection: &Connection) -> Everything {
    let mut statement =
        connection.prepare("SELECT type, name, sql FROM sqlite_schema ORDER BY 1, 2").unwrap();
    let schema: Vec<(String, String, Option<String>)> = statement
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let mut rows = BTreeMap::new();
    for (_, name, _) in schema.iter().filter(|(kind, _, _)| kind == "table") {
        let name_in_sql = quoted(name);
        let with_rowid = format!("SELECT rowid, * FROM {name_in_sql}");
        let plain = format!("SELECT * FROM {name_in_sql}");
        let mut select = connection.prepare(&with_rowid).or_else(|_| connection.prepare(&plain)).unwrap();
        let width = select.column_count();
        let values = |row: &rusqlite::Row<'_>| {
            (0..width).map(|at| bits(row.get_ref(at)?)).collect::<rusqlite::Result<Vec<String>>>()
        };
        rows.insert(name.clone(), select.query_map([], values).unwrap().map(Result::unwrap).collect());
    }
    let settings = ["page_size", "encoding", "auto_vacuum", "application_id", "user_version"].map(|name| {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| crate::inspect::text(row, 0)).unwrap()
    });
    Everything { schema, rows, settings: settings.into() }
}

fn bits(value: rusqlite::types::ValueRef<'_>) -> rusqlite::Result<String> {
    Ok(match value {
        rusqlite::types::ValueRef::Real(number) => format!("real {:016x} {number}", number.to_bits()),
        rusqlite::types::ValueRef::Text(bytes) => format!("text {bytes:?}"),
        other => format!("{:?}", Value::try_from(other).unwrap()),
    })
}

fn dumped(sql: &str) -> (Everything, String, Dumped) {
    let connection = open_image(Arc::new(zoo::image(sql))).unwrap();
    let contents = Contents::read(&connection).unwrap();
    let mut text = Vec::new();
    let heading = ["one\nline".to_owned()];
    let done = write(&connection, &contents, &heading, &|_| None, &|| false, &mut text).unwrap();
    (everything(&connection), String::from_utf8(text).unwrap(), done)
}

#[track_caller]
fn comes_back(sql: &str) -> String {
    let (before, text, done) = dumped(sql);
    assert_eq!(done.notes, [""; 0]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new.db");
    let loaded = load(&mut text.as_bytes(), &path, &|| false).unwrap();
    assert_eq!((loaded.problem, loaded.notes.len()), (None, 0), "{text}");
    assert_eq!(loaded.heading, ["one line"]);
    assert!(loaded.end.is_some());
    let connection = Connection::open(&path).unwrap();
    // Rows may break a constraint, as those of the original.
    connection.execute_batch("PRAGMA ignore_check_constraints=ON").unwrap();
    let integrity: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(integrity, "ok");
    assert_eq!(everything(&connection), before, "{text}");
    text
}

#[test]
fn values_of_every_kind_come_back() {
    comes_back(
        "CREATE TABLE t(v);
         INSERT INTO t VALUES (9223372036854775807), (-9223372036854775808), (0), (-0.0), (9e999), (-9e999),
         (5e-324), (0.1), (1.7976931348623157e308), (''), (x''), (NULL), ('nul' || char(0) || 'inside'),
         (CAST(x'ff00fe' AS TEXT)), ('😀'), (zeroblob(100)), (1.5), ('1.5'), ('a' || char(13,10) || 'b''c'),
         ('\\r' || char(13)), ('x''00''');",
    );
}

#[test]
fn settings_and_wide_encodings_come_back() {
    for encoding in ["UTF-8", "UTF-16le", "UTF-16be"] {
        let odd = if encoding == "UTF-8" { "x'ff'" } else { "x'00d800d8'" };
        comes_back(&format!(
            "PRAGMA page_size=1024; PRAGMA encoding='{encoding}'; PRAGMA auto_vacuum=2; PRAGMA application_id=7;
             PRAGMA user_version=-3; CREATE TABLE \"t é\"(\"c \"\"x\"); INSERT INTO \"t é\" VALUES('é' || char(0)),
             (CAST({odd} AS TEXT)), ('plain')"
        ));
    }
    comes_back("PRAGMA user_version=7");
}

#[test]
fn rowids_come_back_where_they_would_not_by_themselves() {
    let plain = comes_back("CREATE TABLE t(a); INSERT INTO t VALUES('x'), ('y');");
    assert!(plain.contains("INSERT INTO \"t\"(\"a\") VALUES('x');"), "{plain}");
    let gaps =
        comes_back("CREATE TABLE t(a); INSERT INTO t VALUES('x'), ('y'), ('z'); DELETE FROM t WHERE a='y';");
    assert!(gaps.contains("INSERT INTO \"t\"(rowid,\"a\") VALUES(3,'z');"), "{gaps}");
    let hidden = comes_back("CREATE TABLE t(rowid, a); INSERT INTO t(_rowid_, a) VALUES(5, 1)");
    assert!(hidden.contains("(_rowid_,\"rowid\",\"a\") VALUES(5,NULL,1)"), "{hidden}");
}

#[test]
fn rowids_that_cannot_be_named_are_noted() {
    let (_, _, done) = dumped("CREATE TABLE t(rowid, _rowid_, oid); INSERT INTO t VALUES(1,2,3)");
    assert_eq!(done.notes, ["rowids of table t not kept: columns hide their names"]);
}

#[test]
fn schemas_of_every_kind_come_back() {
    comes_back(
        "CREATE TABLE p(id INTEGER PRIMARY KEY AUTOINCREMENT, n TEXT NOT NULL CHECK(length(n) > 2), x AS (n || 1) STORED);
         CREATE TABLE c(id TEXT, p REFERENCES p(id), PRIMARY KEY(id, p)) WITHOUT ROWID;
         CREATE TABLE s(a ANY, b INT) STRICT;
         CREATE UNIQUE INDEX i ON p(n) WHERE n <> 'none'; CREATE INDEX j ON p(lower(n));
         CREATE VIEW w AS SELECT n FROM p;
         CREATE TRIGGER t AFTER INSERT ON p BEGIN INSERT INTO s VALUES(new.n, 1); SELECT 2; END;
         CREATE TRIGGER wi INSTEAD OF INSERT ON w BEGIN INSERT INTO p(n) VALUES(new.n); END;
         INSERT INTO p(n) VALUES('one'), ('two'); DELETE FROM p WHERE n='two';
         PRAGMA foreign_keys=OFF; INSERT INTO c VALUES('a', 1), ('b', 99);
         PRAGMA ignore_check_constraints=ON; INSERT INTO p(n) VALUES('x'); ANALYZE;",
    );
}

#[test]
fn counters_come_back_without_the_table_they_were_made_for() {
    comes_back(
        "CREATE TABLE p(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO p VALUES(5); DROP TABLE p; CREATE TABLE q(a)",
    );
}

#[test]
fn virtual_tables_come_back_with_their_data() {
    comes_back(
        "CREATE VIRTUAL TABLE f USING fts5(title, body, tokenize = 'porter unicode61');
         INSERT INTO f VALUES('one', 'the running words'), ('two', 'it''s'); DELETE FROM f WHERE title='one';
         CREATE TABLE d(id INTEGER PRIMARY KEY, a); INSERT INTO d VALUES(4, 'fish');
         CREATE VIRTUAL TABLE e USING fts5(a, content='d', content_rowid='id'); INSERT INTO e(e) VALUES('rebuild');
         CREATE VIRTUAL TABLE r USING rtree(id, x0, x1); INSERT INTO r VALUES(7, 1.5, 2.5), (3, -1, 1);",
    );
}

#[test]
fn failed_writing_is_told_as_such() {
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let connection = open_image(Arc::new(zoo::image("CREATE TABLE t(a)"))).unwrap();
    let contents = Contents::read(&connection).unwrap();
    let error = write(&connection, &contents, &[], &|_| None, &|| false, &mut Full).unwrap_err();
    let Error::Consumer(inner) = error else { panic!("{error}") };
    assert_eq!(inner.downcast_ref::<io::Error>().unwrap().kind(), io::ErrorKind::StorageFull);
}

fn refused(image: Vec<u8>) -> Error {
    let connection = open_image(Arc::new(image)).unwrap();
    let contents = Contents::read(&connection).unwrap();
    let mut text = Vec::new();
    let error = write(&connection, &contents, &[], &|_| None, &|| false, &mut text).unwrap_err();
    assert!(text.is_empty(), "something was written");
    error
}

#[test]
fn comment_behind_a_view_or_an_index_does_not_swallow_what_follows() {
    comes_back("CREATE TABLE t(a); CREATE VIEW v AS SELECT a FROM t -- the newest");
    for sql in [
        "CREATE TABLE t(a); CREATE INDEX i ON t(a) -- the newest",
        "CREATE TABLE t(a); CREATE VIEW v AS SELECT a FROM t /* the newest",
    ] {
        let (_, text, _) = dumped(sql);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new.db");
        assert_eq!(load(&mut text.as_bytes(), &path, &|| false).unwrap().problem, None, "{text}");
        let count = "SELECT count(*) FROM sqlite_schema";
        let made: i64 = Connection::open(&path).unwrap().query_row(count, [], |row| row.get(0)).unwrap();
        assert_eq!(made, 2, "{text}");
    }
}

#[test]
fn counters_come_back_beside_a_table_that_only_speaks_of_them() {
    comes_back(
        "CREATE TABLE p(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO p VALUES(5); DROP TABLE p;
         CREATE TABLE dbkeep_counter(a /* no AUTOINCREMENT */, \"autoincrement\");
         CREATE VIRTUAL TABLE f USING fts5(autoincrement)",
    );
}

#[test]
fn line_at_which_the_program_would_end_a_statement_is_not_written_out() {
    let error = refused(zoo::image(
        "CREATE TABLE t(shell, b); CREATE VIEW v AS SELECT 4\n/\n.5, t\n.shell \"echo hidden\" FROM t",
    ));
    let said = "view \"v\" has a line that the program sqlite3 takes for the end of a statement";
    assert!(error.to_string().contains(said), "{error}");
}

#[test]
fn schema_that_is_not_valid_text_is_not_written_out_changed() {
    let sql = "CREATE TABLE t(a DEFAULT 'gr__e')";
    let error = refused(crate::contents::tests::with_odd_bytes(sql, "gr__e", b"gr\xf6\xdfe"));
    assert!(error.to_string().contains("what makes table \"t\" is not valid text"), "{error}");
}

#[test]
fn carriage_returns_that_the_program_drops_are_noted() {
    let (_, _, done) = dumped("CREATE TABLE t(\r\n a DEFAULT 'x'\r\n); CREATE TABLE u(a DEFAULT 'x\r\ny')");
    assert_eq!(
        done.notes,
        ["the program sqlite3 drops carriage returns from the texts in what makes table u"]
    );
}

#[test]
fn row_that_makes_too_long_a_statement_is_refused() {
    let connection = open_image(Arc::new(zoo::image(
        "CREATE TABLE t(a); INSERT INTO t VALUES('short'), (hex(zeroblob(99)))",
    )))
    .unwrap();
    let contents = Contents::read(&connection).unwrap();
    let mut text = Vec::new();
    let mut dump = Dump {
        connection: &connection,
        contents: &contents,
        rows_of: &|_| None,
        cancelled: &|| false,
        out: &mut text,
        longest: 100,
        writes_schema: false,
        done: Dumped::default(),
    };
    let error = dump.run(&[]).unwrap_err();
    assert!(error.to_string().contains("a row of table \"t\" makes a longer statement"), "{error}");
}

#[test]
fn statement_that_hides_in_the_schema_is_not_written_out() {
    let connection = open_image(Arc::new(zoo::image("CREATE TABLE t(a); INSERT INTO t VALUES(1)"))).unwrap();
    let mut contents = Contents::read(&connection).unwrap();
    // The SQLite that is built in here refuses such a schema; not every one has.
    contents.schema[0].sql = Some("CREATE TABLE t(a);\n.shell echo hidden".to_owned());
    let mut text = Vec::new();
    let error = write(&connection, &contents, &[], &|_| None, &|| false, &mut text).unwrap_err();
    assert!(error.to_string().contains("more than one statement for table \"t\""), "{error}");
    assert!(text.is_empty());
}
