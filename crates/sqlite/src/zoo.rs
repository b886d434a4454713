//! Databases of every shape, made on the spot, for the tests of this crate.

use rusqlite::Connection;
use rusqlite::functions::FunctionFlags;

/// One database with its name.
pub(crate) struct Animal {
    pub(crate) name: String,
    pub(crate) page_size: u32,
    pub(crate) image: Vec<u8>,
}

/// Runs `sql` on a new database and returns its bytes, WAL merged.
///
/// `FROM generate(n)` gives the numbers 1 to n in a column `value`.
pub(crate) fn image(sql: &str) -> Vec<u8> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zoo.db");
    let connection = Connection::open(&path).unwrap();
    prepare(&connection);
    run(&connection, sql);
    connection.close().unwrap();
    std::fs::read(&path).unwrap()
}

/// Makes quick writers of test connections.
pub(crate) fn prepare(connection: &Connection) {
    connection.execute_batch("PRAGMA synchronous=OFF").unwrap();
    // Content that differs from run to run would make failures hard to repeat.
    connection
        .create_scalar_function(
            "noise",
            2,
            FunctionFlags::SQLITE_UTF8 | FunctionFlags::SQLITE_DETERMINISTIC,
            |context| Ok(noise(context.get::<i64>(0)?.cast_unsigned(), context.get::<u32>(1)? as usize)),
        )
        .unwrap();
}

/// Runs statements, with `generate(n)` replaced by a recursive query.
pub(crate) fn run(connection: &Connection, sql: &str) {
    let mut text = sql.to_string();
    while let Some(start) = text.find("FROM generate(") {
        let open = start + "FROM generate(".len();
        let end = open + text[open..].find(')').unwrap();
        let query = format!(
            "FROM (WITH RECURSIVE g(value) AS (SELECT 1 UNION ALL SELECT value+1 FROM g WHERE value<{}) \
             SELECT value FROM g)",
            &text[open..end]
        );
        text.replace_range(start..=end, &query);
    }
    connection.execute_batch(&text).unwrap_or_else(|error| panic!("{error} in {text}"));
}

/// Returns `length` bytes that follow from `seed` and do not compress.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Returns all databases of the zoo.
pub(crate) fn all() -> Vec<Animal> {
    let mut zoo = Vec::new();
    for page_size in [512u32, 1024, 2048, 4096, 8192, 16384, 32768, 65536] {
        for auto_vacuum in 0..3 {
            zoo.push(animal(
                format!("everything, page size {page_size}, auto_vacuum {auto_vacuum}"),
                page_size,
                &format!("PRAGMA auto_vacuum={auto_vacuum}; {EVERYTHING}"),
            ));
        }
    }
    for (name, sql) in SPECIAL {
        zoo.push(animal((*name).to_string(), 4096, sql));
        zoo.push(animal(format!("{name}, page size 512"), 512, sql));
    }
    for reserved in [8, 32, 255] {
        zoo.push(with_reserved_bytes(reserved));
    }
    zoo
}

/// SQLite's API for reserved bytes is not safe Rust; an empty database can be patched instead.
fn with_reserved_bytes(reserved: u8) -> Animal {
    let mut empty = image("PRAGMA page_size=1024; PRAGMA user_version=1");
    empty[20] = reserved;
    // Page 1 holds no cell: its content begins where the usable bytes end.
    empty[105..107].copy_from_slice(&(1024 - u16::from(reserved)).to_be_bytes());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zoo.db");
    std::fs::write(&path, empty).unwrap();
    let connection = Connection::open(&path).unwrap();
    prepare(&connection);
    run(&connection, EVERYTHING);
    connection.close().unwrap();
    let image = std::fs::read(&path).unwrap();
    assert_eq!(image[20], reserved);
    Animal { name: format!("{reserved} reserved bytes"), page_size: 1024, image }
}

fn animal(name: String, page_size: u32, sql: &str) -> Animal {
    let image = image(&format!("PRAGMA page_size={page_size}; {sql}"));
    Animal { name, page_size, image }
}

const EVERYTHING: &str = "
    CREATE TABLE plain(id INTEGER PRIMARY KEY, a TEXT, b BLOB);
    CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT, a);
    CREATE TABLE keyed(k TEXT PRIMARY KEY, v BLOB) WITHOUT ROWID;
    CREATE TABLE wide(k BLOB, n INT, v, PRIMARY KEY(k, n)) WITHOUT ROWID;
    CREATE TABLE strict_one(i INT NOT NULL, t TEXT, any_one ANY) STRICT;
    CREATE TABLE made(a INT, b AS (a*2) VIRTUAL, c AS (a*3) STORED, CHECK(a>=0));
    CREATE TABLE empty(a PRIMARY KEY, b UNIQUE);
    CREATE TABLE \"strange ' name \"\"x\"\"\"(a);
    CREATE INDEX plain_a ON plain(a);
    CREATE INDEX plain_part ON plain(id) WHERE id % 2;
    CREATE INDEX plain_expr ON plain(lower(a));
    CREATE VIEW seen AS SELECT a FROM plain;
    CREATE TRIGGER follow AFTER INSERT ON counted BEGIN INSERT INTO \"strange ' name \"\"x\"\"\" VALUES(new.a); END;
    CREATE VIRTUAL TABLE words USING fts5(body);
    CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1);
    INSERT INTO plain(a, b) SELECT 'row ' || value, noise(value, value % 97 * (1 + (value % 50 = 0) * 300)) FROM generate(700);
    INSERT INTO counted(a) SELECT value FROM generate(300);
    INSERT INTO keyed SELECT 'key ' || value, noise(value, value % 300) FROM generate(500);
    INSERT INTO wide SELECT noise(value, value % 400), value, value FROM generate(300);
    INSERT INTO strict_one SELECT value, value, value FROM generate(50);
    INSERT INTO made(a) SELECT value FROM generate(60);
    INSERT INTO words SELECT 'word' || value || ' other' FROM generate(200);
    INSERT INTO boxes SELECT value, value, value + 1 FROM generate(200);
    DELETE FROM plain WHERE id % 3 = 0;
    DELETE FROM keyed WHERE k LIKE '%7';
    ANALYZE;
";

const SPECIAL: &[(&str, &str)] = &[
    ("one page", "CREATE TABLE t(a)"),
    ("no table", "PRAGMA user_version=7"),
    (
        "encoding UTF-16",
        "PRAGMA encoding='UTF-16le'; CREATE TABLE t(a TEXT); INSERT INTO t SELECT 'täxt ' || value FROM generate(900)",
    ),
    (
        "encoding UTF-16, big end",
        "PRAGMA encoding='UTF-16be'; CREATE TABLE t(a TEXT); INSERT INTO t SELECT 'täxt ' || value FROM generate(900)",
    ),
    ("deep tree", "CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 30) FROM generate(60000)"),
    (
        "deep tree without rowid",
        "CREATE TABLE t(k PRIMARY KEY) WITHOUT ROWID; INSERT INTO t SELECT noise(value, 100) FROM generate(20000)",
    ),
    (
        "long keys",
        "CREATE TABLE t(k PRIMARY KEY) WITHOUT ROWID; INSERT INTO t SELECT noise(value, 900 + value) FROM generate(500)",
    ),
    ("huge rows", "CREATE TABLE t(a, b); INSERT INTO t SELECT noise(value, 300000), value FROM generate(7)"),
    (
        "emptied",
        "CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 300) FROM generate(3000); DELETE FROM t",
    ),
    (
        "mostly deleted",
        "CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 300) FROM generate(3000); DELETE FROM t WHERE rowid % 100",
    ),
    (
        "dropped",
        "CREATE TABLE t(a); CREATE TABLE u(a); INSERT INTO t SELECT noise(value, 300) FROM generate(3000); INSERT INTO u SELECT a FROM t; DROP TABLE t",
    ),
    (
        "vacuumed",
        "CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 300) FROM generate(3000); DELETE FROM t WHERE rowid % 3; VACUUM",
    ),
    ("old formats", "PRAGMA legacy_file_format=ON; CREATE TABLE t(a); INSERT INTO t VALUES(1)"),
    (
        "WAL header",
        "PRAGMA journal_mode=WAL; CREATE TABLE t(a); INSERT INTO t SELECT value FROM generate(100)",
    ),
];
