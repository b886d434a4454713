//! Against real servers: every row once, one moment, and nothing that was rewritten under it.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::catalog::{Kind, Name};
use crate::place::{Kept, Place};
use crate::plan::Range;
use crate::schema::LOCK_TIMEOUT;

mod every_key;

impl Place {
    fn reader<'a>(&'a self, snapshot: &'a str, catalog: &'a Catalog) -> Dump<'a> {
        Dump {
            info: &self.info,
            options: &self.options,
            snapshot,
            catalog,
            jobs: 3,
            lock_timeout: LOCK_TIMEOUT,
        }
    }

    fn dump(&self, holder: &Holder, catalog: &Catalog, parts: Vec<Part>) -> Result<Kept> {
        let kept = Kept::default();
        let dump = self.reader(holder.id(), catalog);
        let sums = dump.run(parts, &kept)?;
        for (table, sum) in catalog.tables.iter().zip(sums) {
            let text = kept.table(&table.name.name);
            assert_eq!(sum.rows, text.lines().count() as u64, "{}", table.name.name);
        }
        Ok(kept)
    }

    fn dump_all(&self) -> Kept {
        let (mut holder, catalog) = self.hold();
        let parts = plan(&mut holder, &catalog).unwrap();
        self.dump(&holder, &catalog, parts).unwrap()
    }
}

/// Tables of many kinds, with hostile names.
const ZOO: &str = r#"
CREATE SCHEMA "a ""schema"", with = everything";
CREATE TABLE "a ""schema"", with = everything"."-table.'; DROP TABLE users --" ("Select" int PRIMARY KEY, "ä	b" text);
INSERT INTO "a ""schema"", with = everything"."-table.'; DROP TABLE users --" VALUES (1, E'x\ty\nz\\'), (2, NULL);
CREATE TABLE nothing ();
INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
CREATE TABLE computed (a int, b int GENERATED ALWAYS AS (a * 2) STORED, c int GENERATED ALWAYS AS IDENTITY);
INSERT INTO computed (a) VALUES (3);
CREATE TABLE parent (id int, kind text) PARTITION BY LIST (kind);
CREATE TABLE child_a PARTITION OF parent FOR VALUES IN ('a');
CREATE TABLE child_b PARTITION OF parent DEFAULT;
INSERT INTO parent VALUES (1, 'a'), (2, 'b');
CREATE TABLE base (id int); CREATE TABLE derived (more int) INHERITS (base);
INSERT INTO base VALUES (1); INSERT INTO derived VALUES (2, 3);
CREATE TABLE dropped (a int, b int, c int); INSERT INTO dropped VALUES (1, 2, 3); ALTER TABLE dropped DROP COLUMN b;
CREATE TABLE hidden (owner text); INSERT INTO hidden VALUES ('ann'); ALTER TABLE hidden ENABLE ROW LEVEL SECURITY;
ALTER TABLE hidden FORCE ROW LEVEL SECURITY;
CREATE UNLOGGED TABLE fleeting (id int); INSERT INTO fleeting VALUES (1);
CREATE MATERIALIZED VIEW kept AS SELECT 1 AS one; CREATE VIEW seen AS SELECT 1 AS one;
CREATE TABLE loose (a int, b int); CREATE UNIQUE INDEX ON loose (a);
CREATE TABLE strict (a int NOT NULL, b text NOT NULL, UNIQUE (b, a));
CREATE SEQUENCE untouched START 5; CREATE SEQUENCE used; SELECT nextval('used'), nextval('used');
CREATE SEQUENCE moved; SELECT setval('moved', 42, false);
SELECT lo_create(4711);
"#;

#[test]
fn catalog_tells_everything_that_has_rows() {
    let Some(place) = Place::new("catalog", ZOO) else { return };
    let (_holder, catalog) = place.hold();
    let find = |name: &str| catalog.tables.iter().find(|table| table.name.name == name).unwrap();
    let kinds: Vec<(&str, Kind)> =
        catalog.tables.iter().map(|table| (table.name.name.as_str(), table.kind)).collect();
    assert_eq!(
        kinds,
        [
            ("-table.'; DROP TABLE users --", Kind::Ordinary),
            ("base", Kind::Ordinary),
            ("child_a", Kind::Ordinary),
            ("child_b", Kind::Ordinary),
            ("computed", Kind::Ordinary),
            ("derived", Kind::Ordinary),
            ("dropped", Kind::Ordinary),
            ("fleeting", Kind::Ordinary),
            ("hidden", Kind::Ordinary),
            ("kept", Kind::Materialized),
            ("loose", Kind::Ordinary),
            ("nothing", Kind::Ordinary),
            ("parent", Kind::Partitioned),
            ("strict", Kind::Ordinary),
        ]
    );
    assert_eq!(find("computed").stored_columns(), r#""a", "c""#);
    assert_eq!(find("dropped").stored_columns(), r#""a", "c""#);
    assert!(find("hidden").row_security && !find("fleeting").logged);
    assert_eq!(find("loose").key, None, "its column may be NULL");
    assert_eq!(find("strict").key.as_ref().unwrap().columns, ["b", "a"]);
    let sequences: Vec<(&str, i64, bool)> = catalog
        .sequences
        .iter()
        .map(|sequence| (sequence.name.name.as_str(), sequence.last_value, sequence.is_called))
        .collect();
    assert_eq!(
        sequences,
        [("computed_c_seq", 1, true), ("moved", 42, false), ("untouched", 5, false), ("used", 2, true)]
    );
    assert_eq!(catalog.large_objects, 1);
    let absent = Name { schema: "public".to_owned(), name: "absent".to_owned() };
    let wanted = [find("base").name.clone(), absent.clone()];
    assert_eq!(crate::catalog::missing(&catalog, &wanted), [&absent]);
}

#[test]
fn rows_of_all_tables_come_out_exactly() {
    let Some(place) = Place::new("rows", ZOO) else { return };
    let kept = place.dump_all();
    for (table, rows) in [
        ("-table.'; DROP TABLE users --", "1\tx\\ty\\nz\\\\\n2\t\\N\n"),
        ("nothing", "\n\n"),
        ("computed", "3\t1\n"),
        ("child_a", "1\ta\n"),
        ("child_b", "2\tb\n"),
        ("base", "1\n"),
        ("derived", "2\t3\n"),
        ("dropped", "1\t3\n"),
        ("hidden", "ann\n"),
        ("fleeting", "1\n"),
        ("parent", ""),
        ("kept", ""),
    ] {
        assert_eq!(kept.table(table), rows, "{table}");
    }
}

#[test]
fn tables_that_are_held_back_are_read_when_they_are_free() {
    let sql =
        "CREATE TABLE a (n int); CREATE TABLE b (n int); INSERT INTO a VALUES (1); INSERT INTO b VALUES (2)";
    let Some(place) = Place::new("held_back", sql) else { return };
    let (holder, catalog) = place.hold();
    let snapshot = holder.id();
    let run = |free: &dyn Fn(&Kept) -> Result<()>| {
        let kept = Kept::default();
        let dump = place.reader(snapshot, &catalog);
        let held = catalog.tables.iter().position(|table| table.name.name == "b");
        let sums = dump.run_alone(&kept, true, held.into_iter().collect(), || free(&kept));
        sums.map(|sums| (sums.iter().map(|sum| sum.rows).sum::<u64>(), kept.table("a") + &kept.table("b")))
    };
    let when_a_was_read = |kept: &Kept| {
        let is_read = |_: &u32| {
            thread::sleep(Duration::from_millis(5));
            !kept.table("a").is_empty()
        };
        assert!((0..4000).find(is_read).is_some(), "nobody reads what is free");
        // Longer than it takes to read a table that is not held back.
        thread::sleep(Duration::from_millis(100));
        assert_eq!(kept.table("b"), "");
        Ok(())
    };
    assert_eq!(run(&when_a_was_read).unwrap(), (2, "1\n2\n".to_owned()));
    let stopped = run(&|kept| when_a_was_read(kept).and(Err(Error::Stopped)));
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
}

#[test]
fn table_that_readers_share_out_comes_whole_and_once() {
    let sql = "CREATE TABLE t (n int, filler text); CREATE TABLE small (n int); INSERT INTO small VALUES (1);
               INSERT INTO t SELECT n, repeat('x', 500) FROM generate_series(1, 3000) n; DELETE FROM t WHERE n % 7 = 0";
    let Some(place) = Place::new("shared_by_readers", sql) else { return };
    let (holder, mut catalog) = place.hold();
    for table in &mut catalog.tables {
        table.key = None;
        table.bytes *= if table.name.name == "t" { 100 } else { 1 };
    }
    let snapshot = holder.id();
    for by_pages in [true, false] {
        let kept = Kept::default();
        let dump = place.reader(snapshot, &catalog);
        dump.run_alone(&kept, by_pages, BTreeSet::new(), || Ok(())).unwrap();
        assert_eq!(kept.parts("t") > 1, by_pages && place.server.programs().major >= 14);
        assert_eq!(kept.table("t"), place.sql("COPY t TO STDOUT") + "\n");
        assert_eq!(kept.table("small"), "1\n");
    }
}

#[test]
fn row_that_is_longer_than_a_server_can_send_is_told_with_its_table() {
    let Some(place) = Place::new("row_too_long", "CREATE TABLE t (n int)") else { return };
    let (_, catalog) = place.hold();
    let mut connection = place.open();
    for too_long in ["repeat('x', 1100000000)", "repeat('x', 540000000)::bytea"] {
        let statement = format!("COPY (SELECT {too_long}) TO STDOUT");
        let read = copy(&mut connection, &Part::of_all(), &catalog.tables[0], &statement, &Kept::default());
        let error = read.unwrap_err();
        assert!(matches!(&error, Error::RowTooLong { .. }), "{too_long}: {error}");
        assert!(error.to_string().starts_with("a row of \"public\".\"t\" is longer"), "{error}");
        assert!(error.hint().unwrap().contains("exclude-data"));
    }
}

/// Cuts a table by what is given, and reads the parts.
fn in_parts(place: &Place, cut: impl Fn(&Table) -> Vec<Range>) -> String {
    let (holder, catalog) = place.hold();
    let table = catalog.tables.iter().position(|table| table.name.name == "t").unwrap();
    let ranges = cut(&catalog.tables[table]);
    let count = ranges.len();
    let part = |(number, range)| Part { table, number, parts: count, bytes: 0, range };
    let parts = ranges.into_iter().enumerate().map(part).collect();
    place.dump(&holder, &catalog, parts).unwrap().table("t")
}

#[test]
fn parts_are_the_table_whatever_they_are_cut_by() {
    let rows = "SELECT n, 'text ' || n FROM generate_series(-3000, 3000) n";
    for (name, key, bounds) in [
        ("keys of numbers", "int", vec!["-2999", "-17", "0", "5000"]),
        ("keys of text", "text COLLATE \"C\"", vec!["", "1", "2 ", "zz"]),
        ("keys of numerics", "numeric", vec!["NaN"]),
    ] {
        let sql = format!(
            "CREATE TABLE t (k {key} PRIMARY KEY, v text); INSERT INTO t {rows}; DELETE FROM t WHERE k = '7'; ANALYZE t"
        );
        let Some(place) = Place::new(name, &sql) else { return };
        let whole = place.sql("COPY (SELECT * FROM t ORDER BY k) TO STDOUT") + "\n";
        assert_eq!(whole.lines().count(), 6000);
        let bounds: Vec<String> = bounds.into_iter().map(str::to_owned).collect();
        let keys = |_: &Table| {
            let from = std::iter::once(None).chain(bounds.iter().cloned().map(Some));
            from.zip(bounds.iter().cloned().map(Some).chain([None]))
                .map(|(from, to)| Range::Keys { from, to })
                .collect()
        };
        assert!(in_parts(&place, keys) == whole, "{name}");
        assert!(in_parts(&place, |_| vec![Range::Whole]) == whole, "{name}");
        // Pages in order hold the rows in another one.
        for step in [1, 7, 1000] {
            let pages = |table: &Table| {
                let count = table.pages.div_ceil(step).max(1);
                let last = |number| (number + 1 < count).then_some((number + 1) * step);
                (0..count).map(|number| Range::Pages { from: number * step, to: last(number) }).collect()
            };
            let mut found: Vec<String> = in_parts(&place, pages).lines().map(str::to_owned).collect();
            let mut expected: Vec<&str> = whole.lines().collect();
            found.sort();
            expected.sort();
            assert!(found == expected, "{name}, {step} pages");
        }
    }
}

#[test]
fn table_that_was_changed_under_the_moment_is_told_and_never_read_as_empty() {
    for (number, (change, what)) in [
        ("TRUNCATE t", "was rewritten or emptied"),
        ("ALTER TABLE t ALTER COLUMN v TYPE varchar(99) USING v || '!'", "was rewritten or emptied"),
        ("VACUUM FULL t", "was rewritten or emptied"),
        ("CLUSTER t USING t_pkey", "was rewritten or emptied"),
        ("DROP TABLE t", "was dropped"),
        ("DROP TABLE t; CREATE TABLE t (k int PRIMARY KEY, v text)", "is another table now"),
        ("ALTER TABLE t RENAME TO u", "was dropped"),
        ("ALTER TABLE t RENAME TO u; CREATE TABLE t (k int, v text)", "is another table now"),
        ("ALTER TABLE t DROP COLUMN v", "lost a column"),
        ("ALTER TABLE t RENAME COLUMN v TO w", "lost a column"),
        ("ALTER TABLE t DROP COLUMN v; ALTER TABLE t ADD COLUMN v text", "has other columns"),
        (
            "ALTER TABLE t RENAME COLUMN v TO x; ALTER TABLE t RENAME COLUMN o TO v; ALTER TABLE t RENAME COLUMN x TO o",
            "has other columns",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let setup = "CREATE TABLE t (k int PRIMARY KEY, v text, o text); INSERT INTO t VALUES (1, 'one', 'other')";
        let Some(place) = Place::new(&format!("changed {number}"), setup) else { return };
        let (mut holder, catalog) = place.hold();
        let parts = plan(&mut holder, &catalog).unwrap();
        change.split("; ").for_each(|change| drop(place.sql(change)));
        let error = place.dump(&holder, &catalog, parts).err().expect(change);
        assert!(matches!(&error, Error::Changed { what: found, .. } if *found == what), "{change}: {error}");
    }
}

#[test]
fn what_is_written_meanwhile_is_not_part_of_the_moment() {
    let setup = "CREATE TABLE t (k int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'one'), (2, 'two');
                 CREATE TABLE bare (); INSERT INTO bare DEFAULT VALUES";
    let Some(place) = Place::new("moment", setup) else { return };
    let (mut holder, catalog) = place.hold();
    place.sql("INSERT INTO t VALUES (3, 'three'); UPDATE t SET v = 'changed' WHERE k = 1; DELETE FROM t WHERE k = 2");
    place.sql("ALTER TABLE t ADD COLUMN more int DEFAULT 5; CREATE TABLE later (n int)");
    place.sql("ALTER TABLE bare ADD COLUMN more int");
    let parts = plan(&mut holder, &catalog).unwrap();
    let kept = place.dump(&holder, &catalog, parts).unwrap();
    assert_eq!((kept.table("t"), kept.table("bare")), ("1\tone\n2\ttwo\n".to_owned(), "\n".to_owned()));
}

/// Moves money between two tables, one transaction after the other, until told to stop.
fn move_money(info: &ConnInfo, stop: &AtomicBool) -> u64 {
    let mut connection = Connection::open(info, &Options::default()).unwrap();
    let mut moved = 0;
    while !stop.load(Ordering::SeqCst) {
        let (from, to) = if moved % 2 == 0 { ("one", "two") } else { ("two", "one") };
        let id = moved * 7919 % 1000;
        let sql = format!(
            "BEGIN; UPDATE {from} SET money = money - 5 WHERE id = {id}; UPDATE {to} SET money = money + 5 WHERE id = {id}; COMMIT"
        );
        connection.execute(&sql).unwrap();
        moved += 1;
    }
    moved
}

/// Ends the mover, also where a test fails.
struct SetAtEnd<'a>(&'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn tables_read_by_several_connections_are_of_one_moment() {
    let setup = "CREATE TABLE one (id int PRIMARY KEY, money int); CREATE TABLE two (LIKE one INCLUDING ALL);
                 INSERT INTO one SELECT n, 100 FROM generate_series(0, 999) n; INSERT INTO two SELECT * FROM one";
    let Some(place) = Place::new("money", setup) else { return };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let mover = scope.spawn(|| move_money(&place.info, &stop));
        let end = SetAtEnd(&stop);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..20 {
            let kept = place.dump_all();
            let money = |table: &str| -> i64 {
                kept.table(table)
                    .lines()
                    .map(|row| row.split('\t').nth(1).unwrap().parse::<i64>().unwrap())
                    .sum()
            };
            assert_eq!(money("one") + money("two"), 200_000);
            seen.insert(kept.table("one"));
        }
        drop(end);
        assert!(mover.join().unwrap() > 20 && seen.len() > 1, "something moved meanwhile");
    });
}

#[test]
fn receiver_that_fails_ends_all_of_it() {
    struct Full;
    impl Receiver for Full {
        fn open(&self, _: &Part, _: &Table) -> Result<Box<dyn PartReceiver + '_>, BoxError> {
            Err("the disk is full".into())
        }
    }
    let Some(place) = Place::new("full", "CREATE TABLE a (n int); CREATE TABLE b (n int)") else { return };
    let (mut holder, catalog) = place.hold();
    let parts = plan(&mut holder, &catalog).unwrap();
    let dump = Dump { jobs: 2, ..place.reader(holder.id(), &catalog) };
    assert_eq!(dump.run(parts, &Full).unwrap_err().to_string(), "the disk is full");
}

#[test]
fn table_that_others_have_locked_is_waited_for_as_long_as_was_said() {
    let Some(place) = Place::new("locked_by_others", "CREATE TABLE a (n int); INSERT INTO a VALUES (1)")
    else {
        return;
    };
    let (mut holder, catalog) = place.hold();
    let parts = plan(&mut holder, &catalog).unwrap();
    let mut other = place.open();
    other.execute("BEGIN").unwrap();
    other.execute("LOCK TABLE a").unwrap();
    let lock_timeout = Duration::from_millis(200);
    let (info, options, snapshot) = (&place.info, &place.options, holder.id());
    let dump = Dump { info, options, snapshot, catalog: &catalog, jobs: 2, lock_timeout };
    let error = dump.run(parts.clone(), &Kept::default()).unwrap_err();
    assert_eq!(error.to_string(), r#""public"."a" is locked by somebody for more than 0.2 s"#);
    other.execute("ROLLBACK").unwrap();
    dump.run(parts, &Kept::default()).unwrap();
}

#[test]
fn rows_that_a_damaged_index_has_lost_are_missed() {
    let Some(place) = Place::new(
        "lost_by_an_index",
        "CREATE TABLE sound (n int PRIMARY KEY); INSERT INTO sound SELECT generate_series(1, 5000);
         CREATE TABLE damaged (n int NOT NULL); INSERT INTO damaged SELECT generate_series(1, 5000);
         CREATE UNIQUE INDEX not_all ON damaged (n) WHERE n <> 4711;
         UPDATE pg_index SET indpred = NULL WHERE indexrelid = 'not_all'::regclass",
    ) else {
        return;
    };
    let (mut holder, catalog) = place.hold();
    let parts = plan(&mut holder, &catalog).unwrap();
    let kept = Kept::default();
    let dump = Dump { jobs: 2, ..place.reader(holder.id(), &catalog) };
    let error = dump.run(parts, &kept).unwrap_err();
    let told = r#"an index of "public"."damaged" leads to 4999 of its 5000 rows: it is damaged"#;
    assert_eq!(error.to_string(), told);
    assert!(error.hint().unwrap().starts_with(r#"REINDEX TABLE "public"."damaged""#));
}
