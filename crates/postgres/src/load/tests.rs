//! Who puts in what, and what becomes of rows that cannot go in as binary.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::place::Place;

fn name(name: &str) -> Name {
    Name { schema: "s".to_owned(), name: name.to_owned() }
}

#[test]
fn only_a_table_that_takes_longer_than_the_rest_is_shared_out() {
    let table = |name_of: &str, bytes| Table { name: name(name_of), bytes, ..Table::default() };
    let (a, b, c) = (table("a", 10), table("b", 60), table("c", 20));
    let asked = AtomicUsize::new(0);
    let pieces = |table: &Table| {
        asked.fetch_add(1, Ordering::SeqCst);
        Ok(if table.name.name == "b" { 20 } else { 9 })
    };
    let whole = |table: &'static str, bytes| (table, None, bytes);
    let found = |tables: &[&Table], jobs, split| -> Vec<(String, Option<Range<usize>>, u64)> {
        let shares = shares(tables, jobs, split, &pieces).unwrap().into_iter();
        shares.map(|share| (share.table.name.clone(), share.pieces, share.bytes)).collect()
    };
    let expect = |found: Vec<(String, Option<Range<usize>>, u64)>,
                  expected: &[(&str, Option<Range<usize>>, u64)]| {
        let found: Vec<_> =
            found.iter().map(|(name, pieces, bytes)| (&**name, pieces.clone(), *bytes)).collect();
        assert_eq!(found, expected);
    };
    expect(found(&[&a, &b, &c], 2, 1), &[whole("b", 60), whole("c", 20), whole("a", 10)]);
    assert_eq!(asked.load(Ordering::SeqCst), 0, "too few connections");
    let mut expected: Vec<_> = (0..20).map(|n| ("b", Some(n..n + 1), 3)).collect();
    expected.extend([whole("c", 20), whole("a", 10)]);
    expect(found(&[&a, &b, &c], 3, 1), &expected);
    assert_eq!(asked.load(Ordering::SeqCst), 1, "only of the one that may be shared out");
    assert_eq!(found(&[&a, &b, &c], 3, 61).len(), 3, "none is large enough");
    let equal = [table("a", 30), table("b", 30), table("c", 30)];
    assert_eq!(found(&equal.each_ref(), 3, 1).len(), 3, "all take as long");
    assert_eq!(found(&[&table("a", 100)], 4, 1).len(), 9, "each piece alone");
    assert_eq!(found(&[&table("d", 0)], 4, 1).len(), 1, "an empty one");
}

/// Gives rows of a table in four pieces.
struct Pieces;

impl Giver for Pieces {
    fn pieces(&self, table: &Table) -> Result<usize> {
        Ok(if table.name.name == "large" { 4 } else { 1 })
    }

    fn give(&self, table: &Table, piece: usize, into: &mut CopyIn<'_>) -> Result<()> {
        let rows = if table.name.name == "large" { 1_000 } else { 10 };
        (0..rows).try_for_each(|row| into.write(format!("{}\n", piece * 1_000 + row).as_bytes()))
    }
}

#[test]
fn table_that_is_shared_out_gets_each_row_once_and_is_looked_at() {
    let sql = "CREATE TABLE large (n int); CREATE TABLE small (n int); INSERT INTO small VALUES (-1)";
    let Some(place) = Place::new("shared_out", sql) else { return };
    let (_, mut catalog) = place.hold();
    catalog
        .tables
        .iter_mut()
        .for_each(|table| table.bytes = if table.name.name == "large" { 100 } else { 1 });
    let tables: Vec<&Table> = catalog.tables.iter().collect();
    let load = Load { split: 1, ..Load::new(&place.info, &place.options, 4) };
    let loaded = load.run(&tables, &Pieces, &|_| true).unwrap();
    let analyzed = "SELECT string_agg(relname || reltuples, ' ' ORDER BY relname) FROM pg_class
                    WHERE relname IN ('large', 'small')";
    assert_eq!(place.sql(analyzed), "large4000 small-1", "whoever shares a table out looks at it");
    let left: Vec<&str> = loaded.not_analyzed.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(left, ["small"]);
    load.analyze(&loaded.not_analyzed).unwrap();
    let sql = "SELECT count(*), count(DISTINCT n), min(n), max(n) FROM";
    assert_eq!(place.sql(&format!("{sql} large")), "4000|4000|0|3999");
    assert_eq!(place.sql(&format!("{sql} small")), "10|10|0|9", "emptied first");
    let seen = "SELECT string_agg(relname || (reltuples = CASE relname WHEN 'large' THEN 4000 ELSE 10 END), ' ' ORDER BY relname)
                FROM pg_class WHERE relname IN ('large', 'small')";
    assert_eq!(place.sql(seen), "largetrue smalltrue");
}

/// Gives the same rows each time, and counts how often it is asked.
struct Counting<'r> {
    rows: &'r [&'r str],
    asked: AtomicUsize,
    /// Whether it makes errors of its own of all errors, as whoever reads rows from elsewhere may.
    wraps: bool,
}

impl<'r> Counting<'r> {
    fn of(rows: &'r [&'r str]) -> Self {
        Self { rows, asked: AtomicUsize::new(0), wraps: false }
    }
}

impl Giver for Counting<'_> {
    fn pieces(&self, _: &Table) -> Result<usize> {
        Ok(self.rows.len())
    }

    fn give(&self, _: &Table, piece: usize, into: &mut CopyIn<'_>) -> Result<()> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let bytes = self.rows[piece].as_bytes();
        // Cut anywhere.
        let given = bytes.chunks(7).try_for_each(|some| into.write(some));
        given.map_err(|error| if self.wraps { Error::Receiver(Box::new(error)) } else { error })
    }
}

/// Fills the only table of a place. Returns whether its rows went in as binary.
fn load(place: &Place, jobs: usize, giver: &dyn Giver) -> Result<bool> {
    let (_, mut catalog) = place.hold();
    catalog.tables.iter_mut().for_each(|table| table.bytes = WORTH_ASKING);
    let tables: Vec<&Table> = catalog.tables.iter().collect();
    let load = Load { split: 1, ..Load::new(&place.info, &place.options, jobs) }.as_binary();
    let names = load.run(&tables, giver, &|_| false)?.as_binary;
    assert!(names.is_empty() || names == BTreeSet::from([tables[0].name.clone()]), "{names:?}");
    Ok(!names.is_empty())
}

const ROWS: &[&str] = &["1\t2026-01-01 10:00:00+00\ta\\tb\n", "2\t\\N\t\n3\tinfinity\t\\\\N\n"];
const TABLE: &str = "CREATE TABLE t (n int, at timestamptz, t text)";

#[test]
fn rows_go_in_as_binary_by_one_connection_and_by_several() {
    for jobs in [1, 3] {
        let Some(place) = Place::new(&format!("load_as_binary_{jobs}"), TABLE) else { return };
        let giver = Counting::of(ROWS);
        assert!(load(&place, jobs, &giver).unwrap());
        assert_eq!(giver.asked.load(Ordering::Relaxed), 2, "once for each piece");
        let sql = "SELECT n, at AT TIME ZONE 'UTC', t FROM t ORDER BY n";
        assert_eq!(place.sql(sql), "1|2026-01-01 10:00:00|a\tb\n2||\n3|infinity|\\N");
    }
}

#[test]
fn nothing_is_made_binary_where_nobody_asked_for_it_or_the_table_is_small() {
    let sql = "CREATE TABLE t (n int); CREATE TABLE small (n int)";
    let Some(place) = Place::new("load_not_as_binary", sql) else { return };
    let (_, mut catalog) = place.hold();
    let of_size = |table: &mut Table| table.bytes = WORTH_ASKING - u64::from(table.name.name == "small");
    catalog.tables.iter_mut().for_each(of_size);
    let tables: Vec<&Table> = catalog.tables.iter().collect();
    let load = || Load::new(&place.info, &place.options, 2);
    assert_eq!(load().run(&tables, &Counting::of(&["1\n"]), &|_| false).unwrap(), Loaded::default());
    let names = load().as_binary().run(&tables, &Counting::of(&["2\n"]), &|_| false).unwrap().as_binary;
    assert_eq!(names.into_iter().map(|name| name.name).collect::<Vec<_>>(), ["t"]);
    let mut of_extension = tables[1].clone();
    of_extension.extension = Some(crate::catalog::ExtensionRows::default());
    assert_eq!(
        load().as_binary().run(&[&of_extension], &Counting::of(&["3\n"]), &|_| false).unwrap(),
        Loaded::default()
    );
    assert_eq!(place.sql("SELECT array_agg(n) FROM t"), "{2,3}", "what an extension put there stays");
}

#[test]
fn rows_that_are_not_as_servers_write_them_go_in_as_text() {
    for (number, jobs, wraps) in [(1, 1, false), (2, 1, true), (3, 3, false)] {
        let Some(place) = Place::new(&format!("load_not_sure_{number}"), TABLE) else { return };
        // Servers understand this too.
        let rows = [ROWS[0], " 4 \tepoch\tx\n", ROWS[1]];
        let giver = Counting { wraps, ..Counting::of(&rows) };
        assert_eq!(load(&place, jobs, &giver).unwrap(), jobs > 1, "each share by itself");
        let sql = "SELECT n, extract(epoch FROM at)::text, t FROM t ORDER BY n";
        let expected = "1|1767261600.000000|a\tb\n2||\n3|Infinity|\\N\n4|0.000000|x";
        assert_eq!(place.sql(sql), expected);
        assert_eq!(giver.asked.load(Ordering::Relaxed), if jobs > 1 { 4 } else { 5 });
    }
}

#[test]
fn rows_without_an_end_go_in_as_text() {
    let Some(place) = Place::new("load_not_ended", "CREATE TABLE t (n int)") else { return };
    let giver = Counting::of(&["1\n2"]);
    assert!(!load(&place, 1, &giver).unwrap());
    assert_eq!(place.sql("SELECT array_agg(n) FROM t"), "{1,2}");
}

#[test]
fn rows_that_the_server_refuses_as_binary_go_in_as_text() {
    let check = "CREATE FUNCTION is_text() RETURNS bool LANGUAGE sql AS
                 $$ SELECT current_query() !~ 'binary' $$;
                 CREATE TABLE t (n int, CHECK (is_text()))";
    let raise = "CREATE FUNCTION is_text(n int) RETURNS bool LANGUAGE plpgsql AS
                 $$ BEGIN IF current_query() ~ 'binary' THEN RAISE 'not so'; END IF; RETURN true; END $$;
                 CREATE DOMAIN number AS int CHECK (is_text(value)); CREATE TABLE t (n number)";
    for (name, sql) in [("load_refused", check), ("load_raised", raise)] {
        let Some(place) = Place::new(name, sql) else { return };
        let giver = Counting::of(&["1\n", "2\n"]);
        assert!(!load(&place, 1, &giver).unwrap());
        assert_eq!(place.sql("SELECT array_agg(n) FROM t"), "{1,2}");
        assert_eq!(giver.asked.load(Ordering::Relaxed), 4);
    }
}

#[test]
fn rows_that_are_wrong_in_every_form_end_the_load_with_what_the_server_says_of_text() {
    let Some(place) = Place::new("load_wrong", "CREATE TABLE t (n int CHECK (n < 3))") else { return };
    let error = load(&place, 1, &Counting::of(&["1\nx\n"])).unwrap_err();
    assert_eq!(error.code(), Some("22P02"), "{error}");
    let error = load(&place, 1, &Counting::of(&["1\n3\n"])).unwrap_err();
    assert_eq!(error.code(), Some("23514"), "{error}");
    assert_eq!(place.sql("SELECT count(*) FROM t"), "0");
}

#[test]
fn errors_that_have_nothing_to_do_with_the_form_end_the_load_at_once() {
    let full = "CREATE FUNCTION is_full() RETURNS bool LANGUAGE plpgsql AS
                $$ BEGIN RAISE SQLSTATE '53100'; END $$; CREATE TABLE t (n int, CHECK (is_full()))";
    let Some(place) = Place::new("load_full", full) else { return };
    let giver = Counting::of(&["1\n"]);
    assert_eq!(load(&place, 1, &giver).unwrap_err().code(), Some("53100"));
    assert_eq!(giver.asked.load(Ordering::Relaxed), 1);
}

/// Does not know how many pieces there are.
struct Unknowing;

impl Giver for Unknowing {
    fn pieces(&self, _: &Table) -> Result<usize> {
        Err(Error::Receiver("the list is gone".into()))
    }

    fn give(&self, _: &Table, _: usize, into: &mut CopyIn<'_>) -> Result<()> {
        into.write(b"1\n")
    }
}

#[test]
fn table_of_which_nobody_knows_the_pieces_is_not_filled_with_some() {
    for jobs in [1, 3] {
        let Some(place) = Place::new(&format!("load_unknown_{jobs}"), "CREATE TABLE t (n int)") else {
            return;
        };
        let error = load(&place, jobs, &Unknowing).unwrap_err();
        assert!(matches!(error, Error::Receiver(_)), "{error}");
        assert_eq!(place.sql("SELECT count(*) FROM t"), "0");
    }
}
