//! Thousands of generated changes, each compared in every way and with the model.

use rusqlite::types::Value as Sql;
use rusqlite::{Connection, params_from_iter};

use super::{before_and_after, compared_in_every_way, counts, model};

/// Numbers that follow from a seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        // The constants of SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % end
    }

    fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn number(&mut self, end: i64) -> i64 {
        i64::try_from(self.below(end.unsigned_abs())).unwrap()
    }

    fn text(&mut self) -> String {
        let length = match self.below(8) {
            0 => 300 + self.below(2500),
            _ => self.below(30),
        };
        (0..length).map(|_| char::from(b"abcABC xyz"[usize::try_from(self.below(10)).unwrap()])).collect()
    }

    fn value(&mut self) -> Sql {
        match self.below(9) {
            0 => Sql::Null,
            1 | 2 => Sql::Integer(self.number(5) - 2),
            3 => Sql::Integer(i64::MAX - self.number(3)),
            4 => {
                Sql::Real([0.0, -0.0, 1.0, 0.5, f64::INFINITY, -2.0][usize::try_from(self.below(6)).unwrap()])
            }
            5 => Sql::Blob(self.text().into_bytes()),
            _ => Sql::Text(self.text()),
        }
    }
}

const TABLES: &str = "
    CREATE TABLE id(id INTEGER PRIMARY KEY, a, b TEXT, c BLOB);
    CREATE TABLE words(k TEXT PRIMARY KEY COLLATE NOCASE, a, b);
    CREATE TABLE pairs(x, y, a, PRIMARY KEY(x, y DESC));
    CREATE TABLE none(a, b);
    CREATE TABLE wr(k TEXT, j INT, v, PRIMARY KEY(k, j DESC)) WITHOUT ROWID;
    CREATE TABLE wide(v, w, k PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE reals(id INTEGER PRIMARY KEY, r REAL, n NUMERIC);
    CREATE TABLE firm(id INTEGER PRIMARY KEY, a ANY, t TEXT) STRICT;
    CREATE TABLE made(id INTEGER PRIMARY KEY, a, v AS (a || 'x') VIRTUAL, s AS (typeof(a)) STORED, z);
    CREATE TABLE counted(id INTEGER PRIMARY KEY AUTOINCREMENT, a);
    CREATE VIRTUAL TABLE found USING fts5(body);
    CREATE INDEX id_c ON id(c); CREATE INDEX none_b ON none(b, a);";

/// The tables with what is put into each: the columns, and how many of them come first as small whole numbers.
const SHAPES: &[(&str, &str, usize)] = &[
    ("id", "id, a, b, c", 1),
    ("words", "k, a, b", 0),
    ("pairs", "x, y, a", 0),
    ("none", "a, b", 0),
    ("wr", "k, j, v", 0),
    ("wide", "k, v, w", 0),
    ("reals", "id, r, n", 1),
    ("firm", "id, a", 1),
    ("made", "id, a, z", 1),
    ("counted", "id, a", 1),
];

fn put(connection: &Connection, dice: &mut Dice, rows: u64) {
    for _ in 0..rows {
        let (table, columns, numbers) = SHAPES[usize::try_from(dice.below(SHAPES.len() as u64)).unwrap()];
        let count = columns.split(", ").count();
        let values: Vec<Sql> = (0..count)
            .map(|at| if at < numbers { Sql::Integer(dice.number(200)) } else { dice.value() })
            .collect();
        let places = vec!["?"; count].join(", ");
        // A row that is there, or that the table does not take, is another kind of change.
        let word = if dice.one_in(2) { "REPLACE" } else { "IGNORE" };
        let insert = format!("INSERT OR {word} INTO {table}({columns}) VALUES({places})");
        let _ = connection.execute(&insert, params_from_iter(values));
    }
}

fn change(connection: &Connection, dice: &mut Dice) {
    let (table, columns, numbers) = SHAPES[usize::try_from(dice.below(SHAPES.len() as u64)).unwrap()];
    let column = columns.split(", ").nth(numbers).unwrap();
    let last = columns.split(", ").last().unwrap();
    let some = format!("length(hex(coalesce({last}, {column}, 'x'))) / 2 % {} = 0", 1 + dice.below(7));
    let rows = dice.below(5);
    let many = 1 + dice.below(40);
    let done = match dice.below(12) {
        0 => return put(connection, dice, many),
        1 => connection.execute(&format!("DELETE FROM {table} WHERE {some}"), []),
        2 => connection
            .execute(&format!("UPDATE OR IGNORE {table} SET {last}=?1 WHERE {some}"), [dice.value()]),
        // Changed in place: a long value keeps its length, its leaf may keep its bytes.
        3 | 4 => connection.execute(
            &format!(
                "UPDATE OR IGNORE {table} SET {last}=substr({last}, 1, length({last}) - 1) || 'Q'
                 WHERE length({last}) > 600"
            ),
            [],
        ),
        5 => connection
            .execute(&format!("UPDATE OR IGNORE {table} SET {column}=?1 WHERE {some}"), [dice.value()]),
        6 => connection.execute(&format!("DELETE FROM {table}"), []),
        7 if rows == 0 => connection.execute("VACUUM", []),
        8 if rows == 0 => connection
            .execute(&format!("ALTER TABLE {table} ADD COLUMN more{} DEFAULT 'q'", dice.0 % 1000), []),
        9 if rows == 0 => connection.execute("REINDEX", []),
        10 => connection.execute("INSERT INTO found VALUES(?1)", [dice.text()]),
        11 if rows == 0 => {
            connection.execute(&format!("CREATE INDEX more{} ON {table}({last})", dice.0 % 1000), [])
        }
        _ => connection.execute(&format!("UPDATE OR REPLACE {table} SET {last}={last} WHERE {some}"), []),
    };
    let _ = done;
}

fn one_case(seed: u64) {
    let mut dice = Dice(seed);
    let page_size = [512, 512, 1024, 4096][usize::try_from(dice.below(4)).unwrap()];
    let vacuum = dice.below(3);
    let encoding = if dice.one_in(5) { "UTF-16le" } else { "UTF-8" };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={vacuum}; PRAGMA encoding='{encoding}';
             PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY; BEGIN; {TABLES}"
        ))
        .unwrap();
    let rows = dice.below(600);
    put(&connection, &mut dice, rows);
    connection.execute_batch("COMMIT").unwrap();
    let left = std::fs::read(&path).unwrap();
    for _ in 0..=dice.below(6) {
        change(&connection, &mut dice);
    }
    let right = std::fs::read(&path).unwrap();
    let comparison = compared_in_every_way(&left, &right);
    for (table, expected) in model::differences(&left, &right) {
        assert_eq!(counts(&comparison, &table), expected, "table {table}, seed {seed}");
    }
    let reversed = compared_in_every_way(&right, &left);
    for table in &comparison.tables {
        let back = reversed.tables.iter().find(|one| one.name == table.name).unwrap();
        assert_eq!(
            (table.added, table.removed, table.changed),
            (back.removed, back.added, back.changed),
            "seed {seed}"
        );
    }
}

#[test]
fn generated_changes_are_found_as_the_model_finds_them() {
    // Each is some sixteen tables, in both directions, in five ways.
    let cases = if std::env::var_os("DBKEEP_CAMPAIGN").is_some() { 20_000 } else { 100 };
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope
                .spawn(move || (thread..cases).step_by(usize::try_from(threads).unwrap()).for_each(one_case));
        }
    });
}

#[test]
fn long_values_changed_in_place_are_found_though_their_leaves_are_the_same() {
    let (left, right) = before_and_after(
        "PRAGMA page_size=512; CREATE TABLE t(id INTEGER PRIMARY KEY, v TEXT);
         INSERT INTO t SELECT value, hex(noise(value, 900)) FROM generate(40)",
        "UPDATE t SET v = substr(v, 1, 1700) || 'Q' || substr(v, 1702) WHERE id = 20",
    );
    // Otherwise the test shows nothing.
    let leaves = |image: &[u8]| {
        image.chunks(512).filter(|page| page[0] == 0x0d).map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    assert_eq!(leaves(&left), leaves(&right));
    assert_eq!(counts(&compared_in_every_way(&left, &right), "t"), [40, 40, 0, 0, 1]);
}
