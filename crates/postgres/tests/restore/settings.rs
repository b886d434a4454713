//! What a database or a role has as its defaults changes neither what is read nor what comes of it.

use dbkeep_postgres::tools::Tools;
use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use crate::support::{Rows, back_up_by, differences, info_as, stock_dump, tools};

/// Values whose text depends on settings, names that have to be understood as they are, and operators by which nothing
/// is the same.
const SHAPED: &str = r#"
CREATE SCHEMA app; CREATE SCHEMA trap; CREATE TABLE app.thing (n int);
CREATE FUNCTION app.twice(n int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2 * n';
CREATE TABLE app."shaped \ by settings" (
  n int PRIMARY KEY, f4 float4, f8 float8, d date, ts timestamp, tstz timestamptz, r tstzrange, iv interval, y bytea,
  m money, a int[], ta text[], rc regclass, rp regprocedure, t text DEFAULT 'a\b ü',
  twice int GENERATED ALWAYS AS (app.twice(n)) STORED
);
INSERT INTO app."shaped \ by settings" VALUES (
  1, 1.2345678, 0.1::float8 + 0.2::float8, '2026-02-01', '2026-02-01 03:04:05.678', '2026-02-01 03:04:05+00',
  '[2026-02-01 03:04:05+00,)', '-1 year 2 mons -3 days 04:05:06', '\x00ff5c61', '-1234567.89', '{1,NULL,3}',
  '{NULL,"NULL",x,"\\"}', 'app.thing', 'app.twice(int)', 'é\x € '
);
INSERT INTO app."shaped \ by settings" (n) VALUES (2);
CREATE INDEX ON app."shaped \ by settings" (d) WHERE d > '2026-01-02';
CREATE FUNCTION trap.never(oid, oid) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION trap.never(name, name) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE FUNCTION trap.never(text, text) RETURNS bool LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR trap.= (leftarg = oid, rightarg = oid, function = trap.never);
CREATE OPERATOR trap.= (leftarg = name, rightarg = name, function = trap.never);
CREATE OPERATOR trap.= (leftarg = text, rightarg = text, function = trap.never);
"#;

/// Defaults that are right for somebody else.
const HOSTILE: [&str; 22] = [
    "DateStyle = 'SQL, DMY'",
    "IntervalStyle = 'sql_standard'",
    "TimeZone = 'Asia/Kolkata'",
    "extra_float_digits = -15",
    "bytea_output = 'escape'",
    "xmloption = 'document'",
    "quote_all_identifiers = on",
    "standard_conforming_strings = off",
    "search_path = trap, app, pg_catalog",
    "client_encoding = 'LATIN1'",
    "array_nulls = off",
    "transform_null_equals = on",
    "lock_timeout = '1ms'",
    "row_security = off",
    "synchronize_seqscans = on",
    "default_transaction_read_only = on",
    "default_transaction_isolation = 'serializable'",
    "default_transaction_deferrable = on",
    "default_table_access_method = 'heap'",
    "session_replication_role = 'replica'",
    "check_function_bodies = on",
    "client_min_messages = 'debug1'",
];

#[test]
fn defaults_of_databases_and_roles_change_no_row_on_the_way_out_or_back() {
    let versions = Programs::all();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    for programs in &versions {
        let server = Server::start(programs, &Settings::default());
        server.create_database("shop");
        server.sql("shop", SHAPED);
        server.sql("postgres", "CREATE ROLE keeper SUPERUSER LOGIN");
        // Not every server is built with XML.
        if server.psql("shop", "SELECT '<a/>'::xml").unwrap().status.success() {
            server.sql(
                "shop",
                "CREATE TABLE documents (x xml); INSERT INTO documents VALUES ('<a>é</a>'), ('a<b/>')",
            );
        }
        stays_the_same(&server, &tools(programs));
    }
}

#[track_caller]
fn stays_the_same(server: &Server, tools: &Tools) {
    let shop = info_as(server, "shop", "keeper");
    let text = |rows: &Rows| rows.0.lock().unwrap().clone();
    let expected = back_up_by(&shop, tools);
    let told = server.contents("shop");

    for setting in HOSTILE {
        server.sql("postgres", &format!("ALTER DATABASE shop SET {setting}"));
    }
    let backup = back_up_by(&shop, tools);
    let (found, wanted) = (text(&backup.rows), text(&expected.rows));
    for (table, parts) in &wanted {
        let shown = |parts: &std::collections::BTreeMap<usize, Vec<u8>>| {
            parts.values().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect::<String>()
        };
        assert_eq!(found.get(table).map(shown), Some(shown(parts)), "{table}");
    }
    assert_eq!((found.len(), &backup.sums), (wanted.len(), &expected.sums));
    server.sql("postgres", "ALTER DATABASE shop RESET ALL");

    for setting in HOSTILE {
        server.sql("postgres", &format!("ALTER ROLE keeper SET {setting}"));
    }
    assert_eq!(backup.restore_by(&info_as(server, "brought back", "keeper")), []);
    server.sql("postgres", "ALTER ROLE keeper RESET ALL");
    assert_eq!(server.contents("brought back"), told);
    let program = Programs::all().pop().unwrap();
    let schema = |database: &str| stock_dump(&program, server, database, "-s");
    assert_eq!(differences(&schema("shop"), &schema("brought back")), Vec::<String>::new());
}
