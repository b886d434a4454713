//! Sound databases with every setting of the file format and every kind of table.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::{COLLATION, Error, FUNCTION, Fixture, Kind, extended};
use crate::generate::sparse;
use crate::oracle::{self, plan};

/// The seed of all rich databases here, so that the oracle can verify them too.
pub(super) const SEED: u64 = 1815;
/// How many transactions they have seen.
pub(super) const TRANSACTIONS: u64 = 160;

pub(super) fn fixtures() -> Vec<Fixture> {
    let mut all = Vec::new();
    for size in [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        all.push(rich(format!("page-size-{size}"), format!("PRAGMA page_size = {size}")));
    }
    for mode in [0, 1, 2] {
        all.push(rich(format!("auto-vacuum-{mode}"), format!("PRAGMA auto_vacuum = {mode}")));
    }
    for encoding in ["UTF-16le", "UTF-16be"] {
        all.push(rich(encoding.to_lowercase(), format!("PRAGMA encoding = '{encoding}'")));
    }
    for bytes in [8, 32, 255] {
        all.push(Fixture::new(format!("reserved-bytes-{bytes}"), Kind::Database, move |folder| {
            reserved(folder, bytes)
        }));
    }
    all.push(rich("application-id".into(), "PRAGMA application_id = 252006674".into()));
    all.push(schema("no-tables", "PRAGMA user_version = 7"));
    all.push(schema("one-empty-table", "CREATE TABLE lonely(a)"));
    all.push(schema("without-rowid", WITHOUT_ROWID));
    all.push(schema("strict", STRICT));
    all.push(schema("fts5", FTS5));
    all.push(schema("fts5-external-content", FTS5_EXTERNAL));
    all.push(schema("rtree", RTREE));
    all.push(schema("generated-columns", GENERATED));
    all.push(schema("hostile-table-names", TABLE_NAMES));
    all.push(schema("extreme-values", VALUES));
    all.push(schema("freelist", FREELIST));
    all.push(schema("analyzed", ANALYZED));
    all.push(schema("views-and-triggers", VIEWS));
    all.push(Fixture::new("thousand-tables", Kind::Database, thousand_tables));
    all.push(Fixture::new("wide-table", Kind::Database, wide_table));
    all.push(Fixture::new("large-value", Kind::Database, large_value));
    all.push(unknown("unknown-collation", &format!(
        "CREATE TABLE t(a TEXT COLLATE {COLLATION}); CREATE INDEX i ON t(a); INSERT INTO t VALUES ('x'), ('y'), ('z')"
    )));
    all.push(unknown(
        "unknown-function-in-index",
        &format!(
            "CREATE TABLE t(a TEXT); CREATE INDEX i ON t({FUNCTION}(a)); INSERT INTO t VALUES ('x'), ('y')"
        ),
    ));
    all.push(unknown(
        "unknown-function-in-column",
        &format!("CREATE TABLE t(a TEXT, b TEXT AS ({FUNCTION}(a))); INSERT INTO t VALUES ('x'), ('y')"),
    ));
    for size in [4096, 65536] {
        all.push(
            Fixture::new(format!("across-lock-page-{size}"), Kind::Database, move |folder| {
                let path = folder.join("large.db");
                sparse::across_lock_page(&path, size)?;
                Ok(path)
            })
            .large(),
        );
    }
    all
}

const WITHOUT_ROWID: &str = "
CREATE TABLE t(a TEXT, b INTEGER, c BLOB, PRIMARY KEY (b DESC, a)) WITHOUT ROWID;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
INSERT INTO t SELECT 'name ' || i, i % 97, zeroblob(i % 200) FROM n;
CREATE INDEX by_c ON t(c);";

const STRICT: &str = "
CREATE TABLE t(i INT, n INTEGER PRIMARY KEY, r REAL, x TEXT, b BLOB, a ANY) STRICT;
INSERT INTO t VALUES (1, 2, 3.0, '4', x'05', '6'), (NULL, 7, NULL, NULL, NULL, 8.5);";

const FTS5: &str = "
CREATE VIRTUAL TABLE t USING fts5(title, body, tokenize = 'porter unicode61', prefix = '2 3');
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 400)
INSERT INTO t SELECT 'title ' || i, 'the words of document ' || i || ' are running' FROM n;
DELETE FROM t WHERE rowid % 7 = 0;";

const FTS5_EXTERNAL: &str = "
CREATE TABLE c(id INTEGER PRIMARY KEY, a TEXT);
INSERT INTO c VALUES (1, 'one fish'), (2, 'two fish');
CREATE VIRTUAL TABLE t USING fts5(a, content = 'c', content_rowid = 'id');
INSERT INTO t(t) VALUES ('rebuild');";

const RTREE: &str = "
CREATE VIRTUAL TABLE t USING rtree(id, x0, x1, y0, y1, +label TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 600)
INSERT INTO t SELECT i, i, i + 10, -i, 1 - i, 'box ' || i FROM n;";

const GENERATED: &str = "
CREATE TABLE t(a INTEGER PRIMARY KEY, b INT AS (a * 2) STORED, c TEXT AS ('no ' || b) VIRTUAL, d JSON, e AS (d ->> '$.k'));
CREATE INDEX by_c ON t(c);
CREATE UNIQUE INDEX by_e ON t(e) WHERE e IS NOT NULL;
INSERT INTO t(a, d) VALUES (1, '{\"k\":5}'), (2, '{\"k\":6}'), (3, NULL);";

const TABLE_NAMES: &str = "
CREATE TABLE \"select\"(\"from\"); CREATE TABLE \"\"(a); CREATE TABLE \"a\"\"b\"(a); CREATE TABLE 'it''s'(a);
CREATE TABLE \"../up\"(a); CREATE TABLE \"-f\"(a); CREATE TABLE \"a=b,c\"(a); CREATE TABLE \"<script>\"(a);
CREATE TABLE \"two
lines\"(a); CREATE TABLE \"漢字😀\"(\"ключ\"); CREATE TABLE \"%s%n\"(a); CREATE TABLE \"a b\"(a);
INSERT INTO \"select\" VALUES (1); INSERT INTO \"\" VALUES (2); INSERT INTO \"two
lines\" VALUES (3); INSERT INTO \"漢字😀\" VALUES ('ü');";

const VALUES: &str = "
CREATE TABLE t(v);
INSERT INTO t VALUES (9223372036854775807), (-9223372036854775808), (0), (-0.0), (9e999), (-9e999), (5e-324),
 (''), (x''), (NULL), ('nul' || char(0) || 'inside'), (CAST(x'ff00fe' AS TEXT)), ('😀'), (zeroblob(4096)), (1.5), ('1.5');";

const FREELIST: &str = "
CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000)
INSERT INTO t SELECT i, randomblob(700) FROM n;
DELETE FROM t WHERE a > 20;";

const ANALYZED: &str = "
CREATE TABLE t(a, b); CREATE INDEX i ON t(a, b);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500) INSERT INTO t SELECT i % 10, i FROM n;
ANALYZE;";

const VIEWS: &str = "
CREATE TABLE t(a INTEGER PRIMARY KEY AUTOINCREMENT, b); CREATE TABLE log(a, b);
CREATE VIEW v AS SELECT a, b FROM t WHERE b > 1;
CREATE TRIGGER tr AFTER INSERT ON t BEGIN INSERT INTO log VALUES (new.a, new.b); END;
CREATE TRIGGER vi INSTEAD OF INSERT ON v BEGIN INSERT INTO t(b) VALUES (new.b); END;
INSERT INTO v(b) VALUES (1), (2), (3);";

fn rich(name: String, pragma: String) -> Fixture {
    Fixture::new(name, Kind::Database, move |folder| {
        let path = folder.join("app.db");
        let mut connection = Connection::open(&path)?;
        connection.execute_batch(&pragma)?;
        write_history(&mut connection)?;
        Ok(path)
    })
}

/// Fills a blank database with the first transactions of [`SEED`].
pub(super) fn write_history(connection: &mut Connection) -> rusqlite::Result<()> {
    connection.execute_batch("PRAGMA synchronous = OFF")?;
    oracle::set_up(connection, SEED)?;
    let transaction = connection.transaction()?;
    for seq in 1..=TRANSACTIONS {
        let (_, link) = oracle::head(&transaction)?;
        oracle::apply(&transaction, SEED, seq, &link, &plan::transaction(SEED, seq))?;
    }
    transaction.commit()
}

fn schema(name: &str, sql: &'static str) -> Fixture {
    Fixture::new(name, Kind::Database, move |folder| {
        let path = folder.join("app.db");
        Connection::open(&path)?.execute_batch(sql)?;
        Ok(path)
    })
}

fn unknown(name: &str, sql: &str) -> Fixture {
    let sql = sql.to_owned();
    Fixture::new(name, Kind::NeedsExtension, move |folder| {
        let path = folder.join("app.db");
        extended(Connection::open(&path)?)?.execute_batch(&sql)?;
        Ok(path)
    })
}

/// Only the header of the first page says how many bytes at the end of each page are not SQLite's.
fn reserved(folder: &Path, bytes: u8) -> Result<PathBuf, Error> {
    let path = folder.join("app.db");
    Connection::open(&path)?.execute_batch("PRAGMA page_size = 4096; PRAGMA user_version = 0; VACUUM")?;
    Connection::open(&path)?.execute_batch("CREATE TABLE t(a); DROP TABLE t; VACUUM")?;
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(4096)?;
    file.write_all_at(&[bytes], 20)?;
    // The empty schema page's content begins where the usable part of the page ends.
    file.write_all_at(&(4096 - u16::from(bytes)).to_be_bytes(), 105)?;
    let mut connection = Connection::open(&path)?;
    write_history(&mut connection)?;
    Ok(path)
}

fn thousand_tables(folder: &Path) -> Result<PathBuf, Error> {
    let path = folder.join("app.db");
    let mut connection = Connection::open(&path)?;
    let transaction = connection.transaction()?;
    for number in 0..1000 {
        transaction
            .execute_batch(&format!("CREATE TABLE t{number}(a); INSERT INTO t{number} VALUES ({number})"))?;
    }
    transaction.commit()?;
    Ok(path)
}

fn wide_table(folder: &Path) -> Result<PathBuf, Error> {
    let path = folder.join("app.db");
    let columns: Vec<String> = (0..2000).map(|number| format!("c{number}")).collect();
    let values: Vec<String> = (0..2000).map(|number| format!("{number}")).collect();
    let (columns, values) = (columns.join(", "), values.join(", "));
    Connection::open(&path)?
        .execute_batch(&format!("CREATE TABLE t({columns}); INSERT INTO t VALUES ({values})"))?;
    Ok(path)
}

fn large_value(folder: &Path) -> Result<PathBuf, Error> {
    let path = folder.join("app.db");
    let connection = Connection::open(&path)?;
    connection.execute_batch("CREATE TABLE t(a INTEGER PRIMARY KEY, b BLOB)")?;
    let mut value = vec![0; 5_000_000];
    crate::Rng::new(5).fill(&mut value);
    connection.execute("INSERT INTO t(b) VALUES (?1), (?2)", params![value, &value[..3_000_000]])?;
    Ok(path)
}
