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

    fn choose<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn text(&mut self) -> String {
        let length = match self.below(8) {
            0 => 300 + self.below(2500),
            _ => self.below(30),
        };
        (0..length).map(|_| char::from(self.choose(b"abcABC xyz"))).collect()
    }

    fn value(&mut self) -> Sql {
        match self.below(9) {
            0 => Sql::Null,
            1 | 2 => Sql::Integer(self.number(5) - 2),
            3 => Sql::Integer(i64::MAX - self.number(3)),
            4 => Sql::Real(self.choose(&[0.0, -0.0, 1.0, 0.5, f64::INFINITY, -2.0, f64::NAN])),
            5 => Sql::Blob(self.text().into_bytes()),
            _ => Sql::Text(self.text()),
        }
    }
}

/// The tables: how each is made, what is put into it, and how many of its columns come first as small whole numbers.
const TABLES: &[(&str, &str, &str, usize)] = &[
    ("id", "id(id INTEGER PRIMARY KEY, a, b TEXT, c BLOB)", "id, a, b, c", 1),
    ("words", "words(k TEXT PRIMARY KEY COLLATE NOCASE, a, b)", "k, a, b", 0),
    ("pairs", "pairs(x, y, a, PRIMARY KEY(x, y DESC))", "x, y, a", 0),
    ("none", "none(a, b)", "a, b", 0),
    ("wr", "wr(k TEXT, j INT, v, PRIMARY KEY(k, j DESC)) WITHOUT ROWID", "k, j, v", 0),
    ("wide", "wide(v, w, k PRIMARY KEY) WITHOUT ROWID", "k, v, w", 0),
    ("trimmed", "trimmed(j, k TEXT COLLATE RTRIM, v, PRIMARY KEY(k, j)) WITHOUT ROWID", "k, j, v", 0),
    ("reals", "reals(id INTEGER PRIMARY KEY, r REAL, n NUMERIC)", "id, r, n", 1),
    ("firm", "firm(id INTEGER PRIMARY KEY, a ANY, t TEXT) STRICT", "id, a", 1),
    (
        "made",
        "made(id INTEGER PRIMARY KEY, a, v AS (a || 'x') VIRTUAL, s AS (typeof(a)) STORED, z)",
        "id, a, z",
        1,
    ),
    ("counted", "counted(id INTEGER PRIMARY KEY AUTOINCREMENT, a)", "id, a", 1),
];

const OTHERS: &str =
    "CREATE VIRTUAL TABLE found USING fts5(body); CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1);
                      CREATE INDEX id_c ON id(c); CREATE INDEX none_b ON none(b, a);
                      CREATE VIEW seen AS SELECT a FROM none";

type Table = (&'static str, &'static str, &'static str, usize);

fn put(connection: &Connection, dice: &mut Dice, rows: u64) {
    for _ in 0..rows {
        let (table, _, columns, numbers): Table = dice.choose(TABLES);
        let count = columns.split(", ").count();
        let values: Vec<Sql> = (0..count)
            .map(|at| if at < numbers { Sql::Integer(dice.number(200)) } else { dice.value() })
            .collect();
        let places = vec!["?"; count].join(", ");
        // A row that is there, or that the table does not take, is another kind of change.
        let word = dice.choose(&["REPLACE", "IGNORE"]);
        let insert = format!("INSERT OR {word} INTO {table}({columns}) VALUES({places})");
        let _ = connection.execute(&insert, params_from_iter(values));
    }
}

/// Changes something; what cannot be done any more, because of a change before, is left.
fn change(connection: &Connection, dice: &mut Dice) {
    match dice.below(5) {
        0 => {
            let rows = 1 + dice.below(40);
            put(connection, dice, rows);
        }
        1 if dice.one_in(2) => change_schema(connection, dice),
        _ => change_rows(connection, dice),
    }
}

fn change_rows(connection: &Connection, dice: &mut Dice) {
    let (table, _, columns, numbers): Table = dice.choose(TABLES);
    let column = columns.split(", ").nth(numbers).unwrap();
    let last = columns.split(", ").last().unwrap();
    let some = format!("length(hex(coalesce({last}, {column}, 'x'))) / 2 % {} = 0", 1 + dice.below(7));
    let value = dice.value();
    let with_value = |sql: String| connection.execute(&sql, [&value]);
    let plain = |sql: String| connection.execute(&sql, []);
    let _ = match dice.below(12) {
        0 => plain(format!("DELETE FROM {table} WHERE {some}")),
        1 => with_value(format!("UPDATE OR IGNORE {table} SET {last}=?1 WHERE {some}")),
        // Changed in place: a long value keeps its length, its leaf may keep its bytes.
        2 | 3 => plain(format!(
            "UPDATE OR IGNORE {table} SET {last}=substr({last}, 1, length({last}) - 1) || 'Q'
             WHERE length({last}) > 600"
        )),
        4 => with_value(format!("UPDATE OR IGNORE {table} SET {column}=?1 WHERE {some}")),
        5 => plain(format!("DELETE FROM {table}")),
        // Texts of any bytes.
        6 => plain(format!(
            "UPDATE {table} SET {last}=CAST(CAST({last} AS BLOB) || x'ff' AS TEXT) WHERE {some}"
        )),
        7 => plain(format!("UPDATE OR IGNORE {table} SET rowid=rowid+{} WHERE {some}", dice.below(300))),
        8 => plain(format!("INSERT INTO none SELECT {column}, {last} FROM {table}")),
        9 => {
            plain(format!("INSERT OR IGNORE INTO id(a, c) SELECT {last}, {column} FROM {table} WHERE {some}"))
        }
        10 => with_value("INSERT INTO found VALUES(?1)".to_owned()),
        // Written anew, with the same contents.
        _ => plain(format!("UPDATE OR REPLACE {table} SET {last}={last} WHERE {some}")),
    };
}

fn change_schema(connection: &Connection, dice: &mut Dice) {
    let (table, made, columns, numbers): Table = dice.choose(TABLES);
    let (other, ..): Table = dice.choose(TABLES);
    let last = columns.split(", ").last().unwrap();
    let column = columns.split(", ").nth(numbers).unwrap();
    let number = dice.below(1000);
    let default = dice.choose(&[
        "DEFAULT 'q'",
        "DEFAULT 7",
        "TEXT DEFAULT 7",
        "REAL DEFAULT 7",
        "INT",
        "DEFAULT x'00'",
    ]);
    let size = dice.choose(&[512, 1024, 4096]);
    let sql = match dice.below(16) {
        0 => "VACUUM".to_owned(),
        1 => format!("PRAGMA page_size={size}; VACUUM"),
        2 | 3 => "PRAGMA incremental_vacuum".to_owned(),
        4 => "REINDEX".to_owned(),
        5 => format!("ALTER TABLE {table} ADD COLUMN more{number} {default}"),
        6 => format!("CREATE INDEX more{number} ON {table}({last})"),
        7 => "DROP INDEX id_c".to_owned(),
        // Its pages are those of other tables from then on.
        8 => format!("DROP TABLE {table}; INSERT INTO none SELECT * FROM none"),
        9 => format!(
            "DROP TABLE {table}; CREATE TABLE {made}; INSERT OR IGNORE INTO {table} SELECT * FROM {other}"
        ),
        10 => format!(
            "ALTER TABLE {table} RENAME TO x; ALTER TABLE {other} RENAME TO {table}; ALTER TABLE x RENAME TO {other}"
        ),
        11 => format!("ALTER TABLE {table} RENAME COLUMN {column} TO named{number}"),
        12 => format!("ALTER TABLE {table} DROP COLUMN {last}"),
        13 => format!("PRAGMA user_version={number}; DROP VIEW seen; CREATE VIEW seen AS SELECT {number}"),
        // Rows that are older than a column hold something else, though no page of theirs changes.
        14 => "PRAGMA writable_schema=ON;
               UPDATE sqlite_schema SET sql=replace(replace(sql, '''q''', '''p'''), 'DEFAULT 7', 'DEFAULT 8');
               PRAGMA writable_schema=RESET"
            .to_owned(),
        // The same contents in another order.
        _ => format!(
            "CREATE TABLE y AS SELECT * FROM {table}; DELETE FROM {table}; INSERT INTO {table} SELECT * FROM y ORDER BY 2; DROP TABLE y"
        ),
    };
    let _ = connection.execute_batch(&sql);
}

/// How a database is made, before anything is put into it.
struct Form {
    page_size: u32,
    vacuum: u64,
    encoding: &'static str,
}

impl Form {
    fn of(dice: &mut Dice) -> Self {
        let encoding = if dice.one_in(5) { dice.choose(&["UTF-16le", "UTF-16be"]) } else { "UTF-8" };
        Self { page_size: dice.choose(&[512, 512, 1024, 4096]), vacuum: dice.below(3), encoding }
    }

    fn open(&self, path: &std::path::Path) -> Connection {
        let connection = Connection::open(path).unwrap();
        let tables: String = TABLES.iter().map(|(_, made, ..)| format!("CREATE TABLE {made};")).collect();
        let Self { page_size, vacuum, encoding } = self;
        connection
            .execute_batch(&format!(
                "PRAGMA page_size={page_size}; PRAGMA auto_vacuum={vacuum}; PRAGMA encoding='{encoding}';
                 PRAGMA synchronous=OFF; PRAGMA journal_mode=MEMORY; BEGIN; {tables} {OTHERS}; COMMIT"
            ))
            .unwrap();
        connection
    }
}

fn one_case(seed: u64) {
    let mut dice = Dice(seed);
    let form = Form::of(&mut dice);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let mut connection = form.open(&path);
    let fill = |connection: &Connection, dice: &mut Dice| {
        let rows = dice.below(600);
        connection.execute_batch("BEGIN").unwrap();
        put(connection, dice, rows);
        connection.execute_batch("COMMIT").unwrap();
        let changes = dice.below(4);
        (0..changes).for_each(|_| change(connection, dice));
    };
    fill(&connection, &mut dice);
    let left = std::fs::read(&path).unwrap();
    if dice.one_in(20) {
        // One that has nothing to do with the other, but for its tables; it may be cut into other pages.
        drop(connection);
        std::fs::remove_file(&path).unwrap();
        let form = if dice.one_in(2) { Form::of(&mut dice) } else { form };
        connection = form.open(&path);
        fill(&connection, &mut dice);
    } else {
        for _ in 0..=dice.below(6) {
            change(&connection, &mut dice);
        }
    }
    let right = std::fs::read(&path).unwrap();
    let comparison = compared_in_every_way(&left, &right);
    if let Err(why) = model::check(&left, &right, &comparison) {
        panic!("seed {seed}: {why}");
    }
    let reversed = compared_in_every_way(&right, &left);
    if let Err(why) = model::check(&right, &left, &reversed) {
        panic!("seed {seed}, reversed: {why}");
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
