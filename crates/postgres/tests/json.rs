//! What servers write by COPY comes back from values, from lossless JSON and to another table byte by byte.
#![allow(clippy::unwrap_used)] // a test that cannot go on ends

use dbkeep_postgres::catalog::{Catalog, Table};
use dbkeep_postgres::conninfo::{ConnInfo, Surroundings};
use dbkeep_postgres::json::{Decoder, Encoder, Layout};
use dbkeep_postgres::snapshot::begin;
use dbkeep_postgres::text::{Rows, push_row};
use dbkeep_postgres::wire::{Connection, Options};
use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

const TYPES: &str = include_str!("zoo/types.sql");
/// Values that newer servers know.
const TYPES_17: &str = include_str!("zoo/types_17.sql");

/// Every byte that a text may begin with, hold and end with, and texts that look like marks of COPY.
const BYTES: &str = r"
CREATE TABLE bytes (a text, b text);
INSERT INTO bytes SELECT chr(n), 'x' || chr(n) || chr(n) || 'y' || chr(n) FROM generate_series(1, 300) n;
INSERT INTO bytes VALUES ('\N', '\.'), (NULL, ''), ('', NULL), (E'\\', E'\t\n\r\\\b'), ('\\N', '\x41'), ('é', U&'\+01F600');
CREATE TABLE one (a text); INSERT INTO one VALUES (''), (NULL), ('\.'), ('\N');
CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
";

fn connect(server: &Server, database: &str) -> Connection {
    let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
    let info = ConnInfo::resolve(&server.url(database), &surroundings).unwrap();
    Connection::open(&info, &Options::default()).unwrap()
}

/// Makes the tables of the zoo. Returns how many more rows than usual each of them has.
fn make(server: &Server) -> [usize; 2] {
    server.sql("postgres", TYPES);
    server.sql("postgres", BYTES);
    if server.programs().major < 17 {
        return [0, 0];
    }
    server.sql("postgres", TYPES_17);
    [1, 2]
}

/// Returns the rows of a table as the server writes them, in the pieces in which they come.
fn copy_out(connection: &mut Connection, table: &Table) -> Vec<Vec<u8>> {
    let statement = format!("COPY {} ({}) TO STDOUT", table.name.quoted(), table.stored_columns());
    let statement = statement.replace(" () ", " ");
    let mut rows = connection.copy_out(&statement).unwrap();
    let mut pieces = Vec::new();
    while let Some(piece) = rows.next_piece().unwrap() {
        pieces.push(piece.to_vec());
    }
    pieces
}

fn through_values(table: &Table, pieces: &[Vec<u8>]) -> Vec<u8> {
    let (mut rows, mut out) =
        (Rows::new(table.columns.iter().filter(|column| !column.generated).count()), Vec::new());
    for piece in pieces {
        rows.push(piece, &mut |row| {
            push_row(&mut out, row.values());
            Ok(())
        })
        .unwrap();
    }
    rows.finish().unwrap();
    out
}

fn to_json(mut encoder: Encoder, pieces: &[Vec<u8>]) -> Vec<u8> {
    let mut lines = Vec::new();
    pieces.iter().for_each(|piece| encoder.push(piece, &mut lines).unwrap());
    encoder.finish().unwrap();
    lines
}

fn from_json(table: &Table, lines: &[u8]) -> Vec<u8> {
    let (mut decoder, mut copy) = (Decoder::new(&table.columns), Vec::new());
    lines.chunks(7).for_each(|piece| decoder.push(piece, &mut copy).unwrap());
    decoder.finish().unwrap();
    copy
}

#[test]
fn every_value_of_every_type_comes_back_from_values_and_from_json() {
    let versions = Programs::all();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    for programs in &versions {
        let server = Server::start(programs, &Settings::default());
        let newer = make(&server);
        let mut connection = connect(&server, "postgres");
        begin(&mut connection, None).unwrap();
        let catalog = Catalog::read(&mut connection).unwrap();
        let mut seen = Vec::new();
        for table in catalog.with_rows() {
            let pieces = copy_out(&mut connection, table);
            let copy = pieces.concat();
            assert!(through_values(table, &pieces) == copy, "{} through its values", table.name.quoted());
            let lines = to_json(Encoder::lossless(&table.columns, Layout::lines()), &pieces);
            assert!(from_json(table, &lines) == copy, "{} through JSON", table.name.quoted());
            for line in lines.split_inclusive(|byte| *byte == b'\n') {
                let row: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line).unwrap();
                assert_eq!(row.len(), table.columns.len());
                assert!(row.values().all(|value| value.is_string() || value.is_null()));
            }
            for line in to_json(Encoder::readable(&table.columns, Layout::lines()), &pieces)
                .split(|byte| *byte == b'\n')
            {
                // serde_json does not take half characters, which PostgreSQL's `json` may have; none is here.
                assert!(line.is_empty() || serde_json::from_slice::<serde_json::Value>(line).is_ok());
            }
            seen.push((table.name.name.clone(), lines.iter().filter(|byte| **byte == b'\n').count()));
        }
        let seen: Vec<(&str, usize)> = seen.iter().map(|(name, rows)| (name.as_str(), *rows)).collect();
        let (types, more) = (5 + newer[1], 3 + newer[0]);
        let expected = [("bytes", 306), ("more_types", more), ("nothing", 2), ("one", 4), ("types", types)];
        assert_eq!(seen, expected);
    }
}

/// Types that are in no zoo, and why.
const LEFT_OUT: [(&str, &str); 8] = [
    ("gtsvector", "no value of it can be written: indexes have it inside"),
    ("pg_brin_bloom_summary", "no value of it can be written: indexes have it inside"),
    ("pg_brin_minmax_multi_summary", "no value of it can be written: indexes have it inside"),
    ("pg_dependencies", "no value of it can be written: statistics have it inside"),
    ("pg_mcv_list", "no value of it can be written: statistics have it inside"),
    ("pg_ndistinct", "no value of it can be written: statistics have it inside"),
    ("pg_node_tree", "no value of it can be written: catalogs have it inside"),
    ("xml", "not every server has it: the test of documents that come back has its values"),
];

/// The base types, ranges and multiranges of a server of which no column of the zoo is. Arrays are of one of them.
const NOT_TRIED: &str = "
    SELECT t.typname FROM pg_type t
    WHERE t.typtype IN ('b', 'r', 'm') AND t.typnamespace = 'pg_catalog'::regnamespace
      AND NOT EXISTS (SELECT FROM pg_type o WHERE o.typarray = t.oid)
      AND NOT EXISTS (SELECT FROM pg_attribute a
                      WHERE a.atttypid = t.oid AND a.attrelid IN ('types'::regclass, 'more_types'::regclass))
    ORDER BY t.typname COLLATE \"C\"";

#[test]
fn every_type_of_a_server_is_in_the_zoo_but_those_that_take_no_values() {
    let versions = Programs::all();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    for programs in &versions {
        let server = Server::start(programs, &Settings::default());
        server.sql("postgres", TYPES);
        let expected = LEFT_OUT.map(|(name, _)| name).join("\n");
        assert_eq!(server.sql("postgres", NOT_TRIED), expected, "version {}", programs.major);
        let without_values = LEFT_OUT.iter().filter(|(_, why)| why.starts_with("no value"));
        for (name, _) in without_values {
            let written = server.psql("postgres", &format!("SELECT ''::pg_catalog.{name}")).unwrap();
            assert!(!written.status.success(), "{name} in version {}", programs.major);
        }
        // A type of which there is only NULL is none that is tried.
        let empty = "SELECT string_agg(format('count(%I) > 0', attname), ' AND ') FROM pg_attribute
                     WHERE attnum > 0 AND attrelid = ";
        for table in ["types", "more_types"] {
            let all = server.sql("postgres", &format!("{empty}'{table}'::regclass"));
            assert_eq!(server.sql("postgres", &format!("SELECT {all} FROM {table}")), "t", "{table}");
        }
    }
}

#[test]
fn table_filled_from_json_is_the_same_to_the_server() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    make(&server);
    server.sql("postgres", "INSERT INTO bytes SELECT repeat(E'\\\\\\t é😀\"', 1000000), 'long'");
    let mut connection = connect(&server, "postgres");
    begin(&mut connection, None).unwrap();
    let catalog = Catalog::read(&mut connection).unwrap();
    let given: Vec<(&Table, Vec<u8>)> = catalog
        .with_rows()
        .map(|table| {
            let pieces = copy_out(&mut connection, table);
            (table, to_json(Encoder::lossless(&table.columns, Layout::lines()), &pieces))
        })
        .collect();
    connection.execute("COMMIT").unwrap();
    for (table, lines) in given {
        let name = &table.name.name;
        server.sql("postgres", &format!("CREATE TABLE again_{name} (LIKE {name})"));
        let columns = table.stored_columns();
        let columns = if columns.is_empty() { columns } else { format!("({columns})") };
        let mut rows = connection.copy_in(&format!("COPY again_{name} {columns} FROM STDIN")).unwrap();
        rows.write(&from_json(table, &lines)).unwrap();
        rows.finish().unwrap();
        let differing = format!(
            "SELECT count(*) FROM (SELECT whole::text, count(*) FROM {name} whole GROUP BY 1) a FULL JOIN
             (SELECT whole::text, count(*) FROM again_{name} whole GROUP BY 1) b USING (whole, count)
             WHERE a.whole IS NULL OR b.whole IS NULL"
        );
        assert_eq!(server.sql("postgres", &differing), "0", "{name}");
        let rows = |table: &str| server.sql("postgres", &format!("SELECT count(*) FROM {table}"));
        assert_eq!(rows(name), rows(&format!("again_{name}")));
    }
}

/// The text of COPY is UTF-8 whatever the database's encoding is; bytes that cannot be are an error of the server.
#[test]
fn bytes_without_an_encoding_are_an_error_and_never_wrong_text() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.sql(
        "postgres",
        "CREATE DATABASE bytes ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    );
    server.sql(
        "postgres",
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    );
    for database in ["bytes", "latin"] {
        server.sql(
            database,
            "CREATE TABLE t (a text); INSERT INTO t SELECT convert_from('\\xe9', getdatabaseencoding())",
        );
    }
    let read = |database: &str| {
        let mut connection = connect(&server, database);
        begin(&mut connection, None).unwrap();
        let mut rows = connection.copy_out("COPY public.t TO STDOUT").unwrap();
        rows.next_piece().map(|piece| piece.map(<[u8]>::to_vec))
    };
    assert_eq!(read("latin").unwrap().unwrap(), "é\n".as_bytes());
    assert_eq!(read("bytes").unwrap_err().code(), Some("22021"));
}
