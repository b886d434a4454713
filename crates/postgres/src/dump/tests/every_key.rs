//! Whatever the key of a table is, and whatever the server thinks of it: each row comes once.

use std::collections::BTreeSet;

use dbkeep_testkit::postgres::Programs;

use super::*;
use crate::catalog::Key;
use crate::plan::PART;

/// What a table is cut by.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// By values of its key.
    Keys,
    /// By pages where it is large, else not at all.
    Pages,
}

/// A type `ulid` as an extension has one: its operators are in its own schema.
const ULID: &str = "
    CREATE TYPE ulid;
    CREATE FUNCTION ulid_in(cstring) RETURNS ulid IMMUTABLE STRICT LANGUAGE internal AS 'int8in';
    CREATE FUNCTION ulid_out(ulid) RETURNS cstring IMMUTABLE STRICT LANGUAGE internal AS 'int8out';
    CREATE TYPE ulid (INPUT = ulid_in, OUTPUT = ulid_out, LIKE = bigint);
    CREATE FUNCTION ulid_lt(ulid, ulid) RETURNS bool IMMUTABLE STRICT LANGUAGE internal AS 'int8lt';
    CREATE FUNCTION ulid_le(ulid, ulid) RETURNS bool IMMUTABLE STRICT LANGUAGE internal AS 'int8le';
    CREATE FUNCTION ulid_eq(ulid, ulid) RETURNS bool IMMUTABLE STRICT LANGUAGE internal AS 'int8eq';
    CREATE FUNCTION ulid_ge(ulid, ulid) RETURNS bool IMMUTABLE STRICT LANGUAGE internal AS 'int8ge';
    CREATE FUNCTION ulid_gt(ulid, ulid) RETURNS bool IMMUTABLE STRICT LANGUAGE internal AS 'int8gt';
    CREATE FUNCTION ulid_cmp(ulid, ulid) RETURNS int IMMUTABLE STRICT LANGUAGE internal AS 'btint8cmp';
    CREATE OPERATOR < (LEFTARG = ulid, RIGHTARG = ulid, FUNCTION = ulid_lt, RESTRICT = scalarltsel, COMMUTATOR = >);
    CREATE OPERATOR <= (LEFTARG = ulid, RIGHTARG = ulid, FUNCTION = ulid_le, RESTRICT = scalarlesel);
    CREATE OPERATOR = (LEFTARG = ulid, RIGHTARG = ulid, FUNCTION = ulid_eq, RESTRICT = eqsel, MERGES);
    CREATE OPERATOR >= (LEFTARG = ulid, RIGHTARG = ulid, FUNCTION = ulid_ge, RESTRICT = scalargesel);
    CREATE OPERATOR > (LEFTARG = ulid, RIGHTARG = ulid, FUNCTION = ulid_gt, RESTRICT = scalargtsel);
    CREATE OPERATOR CLASS ulid_ops DEFAULT FOR TYPE ulid USING btree AS
        OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >, FUNCTION 1 ulid_cmp(ulid, ulid);";

/// Other types that are made first.
const TYPES: &str = "
    CREATE DOMAIN small AS int4;
    CREATE DOMAIN code AS varchar(9) COLLATE \"C\"; CREATE DOMAIN inner_code AS code;
    CREATE TYPE pair AS (a int4, b text); CREATE TYPE texts AS RANGE (subtype = text);
    CREATE TYPE level AS ENUM ('b', 'd', 'a', 'x');
    ALTER TYPE level ADD VALUE 'first' BEFORE 'b'; ALTER TYPE level ADD VALUE 'inner' BEFORE 'd';
    CREATE TABLE parent (k int8 PRIMARY KEY, v text); INSERT INTO parent SELECT n, 'p' FROM generate_series(-900, 900) n;";

/// A type, a value of it for each number `n`, values that are there beside these, and how tables of it are cut.
const TYPES_OF_KEYS: &[(&str, &str, &str, Cut)] = &[
    ("int2", "n::int2", "-32768, 32767", Cut::Keys),
    ("int4", "n * 7919", "-2147483648, 2147483647", Cut::Keys),
    ("int8", "n::int8 << 40", "-9223372036854775808", Cut::Keys),
    ("oid", "(n + 5000)::text::oid", "4294967295, 0", Cut::Keys),
    ("numeric", "n / 7.0", "'NaN', -1e100, 1e-100", Cut::Keys),
    ("numeric(9,2)", "n / 8.0", "'NaN', 9999999.99", Cut::Keys),
    ("float4", "n / 7.0", "'NaN', 'Infinity', '-Infinity'", Cut::Keys),
    (
        "float8",
        "CASE WHEN n = 0 THEN '-0'::float8 ELSE n / 7.0::float8 END",
        "'NaN', '-Infinity', 1e-300",
        Cut::Keys,
    ),
    ("date", "date '2000-01-01' + n * 99", "'infinity', '-infinity', '0044-03-15 BC'", Cut::Keys),
    ("time", "time '12:00' + n * interval '10 s'", "'24:00:00', '00:00:00'", Cut::Keys),
    ("timetz", "timetz '12:00+02' + n * interval '10 s'", "'24:00:00-12', '00:00:00+12'", Cut::Keys),
    (
        "timestamp",
        "timestamp '2000-01-01' + n * interval '11 h'",
        "'infinity', '-infinity', '4713-01-01 BC'",
        Cut::Keys,
    ),
    (
        "timestamptz(0)",
        "timestamptz '2000-01-01' + n * interval '11 h'",
        "'infinity', '-infinity'",
        Cut::Keys,
    ),
    ("interval", "n * interval '1 mon 2 days 03:04:05.678901'", "'-178000000 years', '36:00:00'", Cut::Keys),
    ("uuid", "md5(n::text)::uuid", "'ffffffff-ffff-ffff-ffff-ffffffffffff'", Cut::Keys),
    ("bytea", "decode(md5(n::text), 'hex')", "'', '\\x00', '\\xff5c27'", Cut::Keys),
    ("inet", "inet '10.0.0.9' + (n + 5000)", "'::1', '0.0.0.0/0', '255.255.255.255'", Cut::Keys),
    ("cidr", "set_masklen((inet '10.0.0.0' + (n + 5000) * 256)::cidr, 24)", "'::/0', '0.0.0.0/0'", Cut::Keys),
    ("macaddr", "('08002b' || lpad(to_hex(n + 5000), 6, '0'))::macaddr", "'ff:ff:ff:ff:ff:ff'", Cut::Keys),
    (
        "macaddr8",
        "('08002bfffe' || lpad(to_hex(n + 5000), 6, '0'))::macaddr8",
        "'ff:ff:ff:ff:ff:ff:ff:ff'",
        Cut::Keys,
    ),
    ("bit(20)", "n::bit(20)", "B'01010101010101010101'", Cut::Keys),
    ("bit varying", "n::bit(20)::varbit", "'', B'0', B'00'", Cut::Keys),
    (
        "text COLLATE \"C\"",
        "'K' || n",
        "'', '''', E'\\\\', E'a\\tb\\nc', 'ä', '\u{10ffff}', 'k0', '\"'",
        Cut::Keys,
    ),
    ("varchar(20) COLLATE \"POSIX\"", "'a, {b} ' || n", "'', 'NULL', ' '", Cut::Keys),
    ("char(9) COLLATE \"C\"", "n::text", "'', 'a', E'\\t'", Cut::Keys),
    ("small", "n", "7777777", Cut::Keys),
    ("inner_code", "n::text", "'zzzzzzzzz', ''", Cut::Keys),
    // What the system's library sorts it sorts in another way after an update, while the index stays as it is.
    ("text", "'K' || n", "'', 'ä', 'k0'", Cut::Pages),
    // Others have a say in how these are compared, or their operators have no name without their schema.
    ("ulid", "n::text::ulid", "'-9223372036854775808'", Cut::Pages),
    ("pair", "(n, 'x' || n)::pair", "'(,)', '(1,)', '(,a)'", Cut::Pages),
    ("texts", "texts('a', 'b' || (n + 5000))", "'empty', '(,)', '[a,)'", Cut::Pages),
    ("int4[]", "ARRAY[n, 1]", "'{}', '{{1,2},{3,4}}', '{NULL}'", Cut::Pages),
    ("text[]", "ARRAY['K' || n]", "'{}', '{NULL}', '{\"NULL\"}'", Cut::Pages),
    ("jsonb", "to_jsonb(n)", "'null', '\"\"', '{}', '[]', '\"NULL\"'", Cut::Pages),
    ("tsvector", "('k' || n)::tsvector", "''", Cut::Pages),
    ("int8range", "int8range(n, n + 1)", "'empty', '(,)', '(,5)'", Cut::Pages),
];

/// Keys of another shape: all that makes a table `"t"` of the columns `k` and more, and how it is cut.
const SHAPES: &[(&str, &str, Cut)] = &[
    ("descending", "CREATE TABLE t (k int8 NOT NULL, v text); FILL; CREATE UNIQUE INDEX ON t (k DESC)", Cut::Keys),
    ("nulls first", "CREATE TABLE t (k int8 NOT NULL, v text); FILL; CREATE UNIQUE INDEX ON t (k NULLS FIRST)", Cut::Pages),
    ("both ways", "CREATE TABLE t (k int8 NOT NULL, v text NOT NULL); FILL; CREATE UNIQUE INDEX ON t (k DESC, v)", Cut::Pages),
    ("two columns", "CREATE TABLE t (v text, k int8, PRIMARY KEY (k, v)); FILL; ALTER TABLE t ALTER v SET STORAGE PLAIN", Cut::Keys),
    ("few first values", "CREATE TABLE t (v text, k int8, l int, PRIMARY KEY (k, l)); INSERT INTO t SELECT n, n % 5, n FROM generate_series(1, 3000) n", Cut::Pages),
    ("deferrable", "CREATE TABLE t (k int8 NOT NULL, v text, UNIQUE (k) DEFERRABLE INITIALLY DEFERRED); FILL", Cut::Keys),
    ("inherited", "CREATE TABLE t (PRIMARY KEY (k)) INHERITS (parent); FILL", Cut::Keys),
    ("includes", "CREATE TABLE t (v text, k int8 NOT NULL, UNIQUE (k) INCLUDE (v)); FILL", Cut::Keys),
    ("by pattern", "CREATE TABLE t (k text COLLATE \"C\" NOT NULL, v text); FILL; CREATE UNIQUE INDEX ON t (k text_pattern_ops)", Cut::Pages),
    ("other collation", "CREATE TABLE t (k text COLLATE \"C\" NOT NULL, v text); FILL; CREATE UNIQUE INDEX ON t (k COLLATE \"POSIX\")", Cut::Pages),
    ("may be null", "CREATE TABLE t (k int8 UNIQUE, v text); FILL; INSERT INTO t SELECT NULL, n FROM generate_series(1, 9) n", Cut::Pages),
    ("partial", "CREATE TABLE t (k int8 NOT NULL, v text); FILL; CREATE UNIQUE INDEX ON t (k) WHERE k > 0; INSERT INTO t VALUES (-5, 'twice')", Cut::Pages),
    ("expression", "CREATE TABLE t (k int8 NOT NULL, v text); FILL; CREATE UNIQUE INDEX ON t (abs(k + 5000)); ", Cut::Pages),
    ("hash", "CREATE TABLE t (k int8 NOT NULL, v text); FILL; CREATE INDEX ON t USING hash (k)", Cut::Pages),
    ("domain that grew stricter", "CREATE DOMAIN d AS int8; CREATE TABLE t (k d PRIMARY KEY, v text); FILL; ALTER DOMAIN d ADD CHECK (value > 2900) NOT VALID", Cut::Keys),
    ("never analyzed", "CREATE TABLE t (k int8 PRIMARY KEY, v text) WITH (autovacuum_enabled = false); FILL; --", Cut::Pages),
    ("changed a lot", "CREATE TABLE t (k int8 PRIMARY KEY, v text) WITH (autovacuum_enabled = false); FILL; ANALYZE t; UPDATE t SET k = k + 9000; DELETE FROM t WHERE k % 3 = 0; --", Cut::Keys),
    ("enum", "CREATE TABLE t (k level, l int, v text, PRIMARY KEY (k, l));
              INSERT INTO t SELECT enumlabel::text::level, n, n FROM generate_series(1, 300) n, pg_enum WHERE enumtypid = 'level'::regtype", Cut::Pages),
];

/// Returns what makes a table for each kind of key, with its name and how it is cut. Rows lie in the order of the key in
/// every other one of them.
fn tables() -> Vec<(String, String, Cut)> {
    let rows = "FROM generate_series(-3000, 2999) n";
    let of_types = TYPES_OF_KEYS.iter().flat_map(|(key, value, others, cut)| {
        ["k", "md5(n || 'x')"].map(|order| {
            let name = format!("{key} by {order}");
            let others: String =
                others.split(", ").map(|other| format!("INSERT INTO t VALUES ({other}, 'other');")).collect();
            let cast = key.split(" COLLATE").next().unwrap();
            let sql = format!(
                "CREATE TABLE t (k {key} PRIMARY KEY, v text); {others}
                 INSERT INTO t SELECT k, n FROM (SELECT ({value})::{cast} AS k, n {rows}) AS x ORDER BY {order}"
            );
            (name, sql, *cut)
        })
    });
    let fill = format!("INSERT INTO t (k, v) SELECT n, n {rows}");
    let shapes = SHAPES.iter().map(|(name, sql, cut)| ((*name).to_owned(), sql.replace("FILL", &fill), *cut));
    of_types
        .chain(shapes)
        .map(|(name, sql, cut)| {
            let sql = format!("{sql}; ANALYZE t");
            let renamed = format!("{sql}\n; ALTER TABLE t RENAME TO \"{}\";", name.replace('"', "\"\""));
            (name, renamed, cut)
        })
        .collect()
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
fn every_row_comes_once_whatever_the_key_and_however_large_the_table() {
    let tables = tables();
    let made: String = tables.iter().map(|(_, sql, _)| sql.as_str()).collect();
    for place in Place::on_all("every key", &format!("{ULID}{TYPES}")) {
        place.sql(&made);
        let major = place.server.programs().major;
        let all: Vec<String> = tables
            .iter()
            .map(|(name, ..)| {
                let table = Name { schema: "public".to_owned(), name: name.clone() }.quoted();
                place.sql(&format!("COPY (SELECT * FROM ONLY {table}) TO STDOUT")) + "\n"
            })
            .collect();
        for parts_of_each in [2, 4, 9] {
            let (mut holder, mut catalog) = place.hold();
            catalog.tables.iter_mut().for_each(|table| table.bytes = PART * parts_of_each);
            let parts = plan(&mut holder, &catalog).unwrap();
            let kept = place.dump(&holder, &catalog, parts.clone()).unwrap();
            for ((name, _, cut), all) in tables.iter().zip(&all) {
                let at = catalog.tables.iter().position(|table| table.name.name == *name).unwrap();
                let told = format!("{name}, {parts_of_each} parts, version {major}");
                assert!(sorted(&kept.table(name)) == sorted(all), "{told}");
                let ranges: Vec<&Range> =
                    parts.iter().filter(|part| part.table == at).map(|part| &part.range).collect();
                let by_keys = ranges.iter().any(|range| matches!(range, Range::Keys { .. }));
                let lies_otherwise = name.contains(" by md5") && parts_of_each > 4;
                assert_eq!(by_keys, *cut == Cut::Keys && !lies_otherwise, "{told}: {ranges:?}");
            }
        }
    }
}

/// Reads a table with what is said of it changed.
fn read_as(place: &Place, change: impl Fn(&mut Table)) -> (String, Vec<Part>) {
    let (mut holder, mut catalog) = place.hold();
    let table = catalog.tables.iter_mut().find(|table| table.name.name == "t").unwrap();
    table.bytes = PART * 3;
    change(table);
    let parts = plan(&mut holder, &catalog).unwrap();
    (place.dump(&holder, &catalog, parts.clone()).unwrap().table("t"), parts)
}

#[test]
fn rows_without_a_key_come_too_when_the_catalog_says_that_there_are_none() {
    let sql = "CREATE TABLE t (email text COLLATE \"C\" UNIQUE, n int);
               INSERT INTO t SELECT 'user' || n, n FROM generate_series(1, 3000) n;
               INSERT INTO t SELECT NULL, n FROM generate_series(1, 20) n; ANALYZE t";
    for place in Place::on_all("null keys", sql) {
        let key = Key { columns: vec!["email".to_owned()], ..Key::default() };
        let (rows, parts) = read_as(&place, |table| table.key = Some(key.clone()));
        assert!(parts.len() > 2);
        assert_eq!(rows.lines().count(), 3020);
        assert_eq!(rows.lines().filter(|row| row.starts_with("\\N\t")).count(), 20);
        assert_eq!(rows.lines().collect::<BTreeSet<_>>().len(), 3020);
    }
}

#[test]
fn constraint_that_was_never_validated_makes_no_key() {
    // `pg_attribute.attnotnull` is true for it.
    let sql = "CREATE TABLE t (email text COLLATE \"C\" UNIQUE, n int);
               INSERT INTO t SELECT 'user' || n, n FROM generate_series(1, 3000) n;
               INSERT INTO t SELECT NULL, n FROM generate_series(1, 20) n;
               ALTER TABLE t ADD CONSTRAINT later NOT NULL email NOT VALID; ANALYZE t";
    let Some(programs) = Programs::all().into_iter().find(|programs| programs.major >= 18) else {
        return println!("skipped: no server has such constraints");
    };
    let place = Place::on(&programs, "not valid", sql);
    let (_, catalog) = place.hold();
    let email = &catalog.tables[0].columns[0];
    assert!(!email.not_null, "{email:?}");
    assert_eq!(catalog.tables[0].key, None);
    let (rows, _) = read_as(&place, |_| {});
    assert_eq!(rows.lines().collect::<BTreeSet<_>>().len(), 3020);
    place.sql("DELETE FROM t WHERE email IS NULL; ALTER TABLE t VALIDATE CONSTRAINT later");
    let (_, catalog) = place.hold();
    assert!(catalog.tables[0].key.is_some() && catalog.tables[0].columns[0].not_null);
}

#[test]
fn statistics_that_are_wrong_make_no_row_come_twice() {
    let sql = "CREATE TABLE t (k int8 PRIMARY KEY) WITH (autovacuum_enabled = false);
               INSERT INTO t SELECT generate_series(1, 3000); ANALYZE t";
    let Some(programs) = Programs::all().into_iter().find(|programs| programs.major >= 18) else {
        return println!("skipped: no server lets statistics be written");
    };
    let place = Place::on(&programs, "wrong statistics", sql);
    for bounds in ["{2000,3,2500,3,1000}", "{5,5,5,5,5,5}", "{-9,9000,-9}", "{1}"] {
        place.sql(&format!(
            "SELECT pg_restore_attribute_stats('schemaname', 'public', 'relname', 't', 'attname', 'k', 'inherited', false,
             'version', 180000, 'null_frac', 0::real, 'avg_width', 8, 'n_distinct', -1::real,
             'histogram_bounds', '{bounds}'::text, 'correlation', 1::real)"
        ));
        let (rows, parts) = read_as(&place, |_| {});
        assert!(parts.iter().any(|part| matches!(part.range, Range::Keys { .. })), "{bounds}: {parts:?}");
        assert_eq!(rows, (1..=3000).map(|n| format!("{n}\n")).collect::<String>(), "{bounds}");
    }
}

#[test]
fn order_that_the_index_does_not_have_any_more_hides_no_row() {
    let sql = "CREATE TABLE t (k text COLLATE \"C\" PRIMARY KEY);
               INSERT INTO t SELECT chr(65 + n % 2 * 32 + n % 13) || n FROM generate_series(1, 3000) n; ANALYZE t";
    let Some(programs) = Programs::newest_with_tls() else { return };
    let place = Place::on(&programs, "collation", sql);
    if place.sql("SELECT count(*) FROM pg_collation WHERE collname = 'en-x-icu'") == "0" {
        return println!("skipped: the server has no other order of text");
    }
    // As after an update of the library: the index is in the order of before.
    let update = "SET allow_system_table_mods = on;
        UPDATE pg_attribute SET attcollation = '\"en-x-icu\"'::regcollation WHERE attname = 'k' AND attrelid IN ('t'::regclass, 't_pkey'::regclass);
        UPDATE pg_index SET indcollation = '\"en-x-icu\"'::regcollation::oid::text::oidvector WHERE indexrelid = 't_pkey'::regclass";
    place.sql(update);
    let hidden = "SET enable_seqscan = off; SET enable_bitmapscan = off;
                  SELECT (SELECT count(*) FROM t WHERE k < 'f') + (SELECT count(*) FROM t WHERE k >= 'f')";
    assert_ne!(place.sql(hidden), "3000", "the index leads astray");
    for bytes in [PART * 2, PART * 30] {
        let (rows, _) = read_as(&place, |table| table.bytes = bytes);
        assert_eq!(rows.lines().collect::<BTreeSet<_>>().len(), 3000);
        assert_eq!(rows.lines().count(), 3000);
    }
}
