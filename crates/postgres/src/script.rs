//! A database as one text that stock `psql` carries out: objects, rows, sequences, indexes and constraints, rights.
//!
//! It is made from the archive's own list, like a restore, and in the same order. What stands in the text between the
//! first line and the last can call no command of `psql` (`\restrict`): definitions were worded by a server, and a
//! program that carries them out must not take a line of one for a wish of its user. Rows are the text of COPY, which
//! whoever writes them has to have read as such: a line `\.` in them would end them.

use std::fmt::Write as _;

use crate::archive::{Archive, Entry, Stage};
use crate::catalog::{Sequence, Table};
use crate::snapshot::{identifier, literal};

/// What a session sets before anything else: names mean what the archive says, values what COPY wrote, and no default of
/// a role or a database ends it early.
const SETTINGS: &str = "\
SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;
SET DateStyle = 'ISO, YMD';
SET IntervalStyle = 'postgres';
SET TimeZone = 'UTC';
SET lc_monetary = 'C';
SET array_nulls = on;
";

/// The line behind the rows of a table.
pub const END_OF_ROWS: &str = "\\.\n\n";

/// Returns the begin of a text. `heading` are lines for people, `key` is letters and digits that nobody could know
/// before.
pub fn begin(archive: &Archive, heading: &[String], key: &str) -> String {
    let mut text = String::new();
    for line in heading {
        text.push_str("-- ");
        // Nothing leaves its line.
        text.extend(line.chars().map(|character| if character.is_control() { ' ' } else { character }));
        text.push('\n');
    }
    // Writing to a String cannot fail, here and below.
    _ = write!(text, "\n\\restrict {key}\n\n{SETTINGS}");
    for entry in archive.entries.iter().filter(|entry| entry.kind == "STDSTRINGS") {
        push_statement(&mut text, &entry.definition);
    }
    text.push('\n');
    text
}

/// Returns the end of a text.
pub fn end(key: &str) -> String {
    format!("\\unrestrict {key}\n")
}

/// Returns the statements of a stage, piece by piece.
pub fn stage(archive: &Archive, stage: Stage) -> impl Iterator<Item = String> {
    let (mut tablespace, mut access_method) = (None, None);
    let entries = archive.entries.iter().filter(move |entry| entry.stage == stage && !is_setting(entry));
    entries.map(move |entry| {
        let mut text = String::new();
        if entry.tablespace != tablespace {
            let name = entry.tablespace.as_deref().map_or_else(|| "''".to_owned(), identifier);
            _ = writeln!(text, "SET default_tablespace = {name};");
            tablespace.clone_from(&entry.tablespace);
        }
        if entry.access_method.is_some() && entry.access_method != access_method {
            let name = entry.access_method.as_deref().map(identifier).unwrap_or_default();
            _ = writeln!(text, "SET default_table_access_method = {name};");
            access_method.clone_from(&entry.access_method);
        }
        push_statement(&mut text, &definition(entry));
        if let Some(owner) = entry.give_to(&entry.owner) {
            push_statement(&mut text, &owner);
        }
        text.push('\n');
        text
    })
}

/// Returns the statement before the rows of a table.
pub fn copy(table: &Table) -> String {
    let columns = table.stored_columns();
    let columns = if columns.is_empty() { columns } else { format!(" ({columns})") };
    format!("COPY {}{columns} FROM stdin;\n", table.name.quoted())
}

/// Returns the statements that set sequences to where they stood. Where one stood that could not be read, is not known.
pub fn sequences(sequences: &[Sequence]) -> String {
    let mut text = String::new();
    for sequence in sequences.iter().filter(|sequence| sequence.readable) {
        let name = literal(&sequence.name.quoted());
        let (value, is_called) = (sequence.last_value, sequence.is_called);
        _ = writeln!(text, "SELECT pg_catalog.setval({name}, {value}, {is_called});");
    }
    text.push('\n');
    text
}

/// Says whether an entry sets something for the session, or is about the database, which is there already.
pub fn is_setting(entry: &Entry) -> bool {
    matches!(
        entry.kind.as_str(),
        "ENCODING" | "STDSTRINGS" | "SEARCHPATH" | "DATABASE" | "DATABASE PROPERTIES"
    )
}

/// Returns the statements that make an object. The schema `public` is in every new database.
fn definition(entry: &Entry) -> String {
    match entry.definition.strip_prefix("CREATE SCHEMA public") {
        Some(rest) if entry.kind == "SCHEMA" => format!("CREATE SCHEMA IF NOT EXISTS public{rest}"),
        _ => entry.definition.clone(),
    }
}

fn push_statement(text: &mut String, statement: &str) {
    let statement = statement.trim_end();
    text.push_str(statement);
    if !statement.is_empty() {
        text.push_str(if statement.ends_with(';') { "\n" } else { ";\n" });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Column, Name};

    fn entry(kind: &str, tag: &str, stage: Stage, definition: &str) -> Entry {
        Entry {
            id: 1,
            kind: kind.to_owned(),
            tag: tag.to_owned(),
            schema: Some("public".to_owned()),
            owner: "Ada".to_owned(),
            stage,
            definition: definition.to_owned(),
            drop: format!("DROP {kind} public.{tag};\n"),
            tablespace: None,
            access_method: None,
            needs: Vec::new(),
        }
    }

    #[test]
    fn values_are_read_as_they_were_written() {
        let text = begin(&Archive { server: None, entries: Vec::new() }, &[], "key");
        for (name, value) in [
            ("client_encoding", "'UTF8'"),
            ("DateStyle", "'ISO, YMD'"),
            ("IntervalStyle", "'postgres'"),
            ("TimeZone", "'UTC'"),
            ("lc_monetary", "'C'"),
        ] {
            assert!(crate::snapshot::SETTINGS.contains(&format!("SET LOCAL {name} = {value};")), "{name}");
            assert!(text.contains(&format!("\nSET {name} = {value};\n")), "{name}: {text}");
        }
    }

    #[test]
    fn statements_of_a_stage_end_and_say_whom_objects_belong_to() {
        let strings = "SET standard_conforming_strings = 'on';\n";
        let mut table = entry("TABLE", "users", Stage::BeforeRows, "CREATE TABLE public.users ();\n");
        table.access_method = Some("heap".to_owned());
        let index = Entry {
            tablespace: Some("fast disks".to_owned()),
            owner: String::new(),
            ..entry("INDEX", "i", Stage::AfterRows, "CREATE INDEX i ON public.users (id)")
        };
        let schema = Entry {
            schema: None,
            ..entry("SCHEMA", "public", Stage::BeforeRows, "CREATE SCHEMA public;\n\n\n")
        };
        let entries = vec![entry("STDSTRINGS", "", Stage::BeforeRows, strings), schema, table, index];
        let archive = Archive { server: None, entries };
        let before: Vec<String> = stage(&archive, Stage::BeforeRows).collect();
        assert_eq!(
            before,
            [
                "CREATE SCHEMA IF NOT EXISTS public;\nALTER SCHEMA \"public\" OWNER TO \"Ada\";\n\n",
                "SET default_table_access_method = \"heap\";\nCREATE TABLE public.users ();\n\
                 ALTER TABLE \"public\".\"users\" OWNER TO \"Ada\";\n\n"
            ]
        );
        let after: String = stage(&archive, Stage::AfterRows).collect();
        assert_eq!(
            after,
            "SET default_tablespace = \"fast disks\";\nCREATE INDEX i ON public.users (id);\n\n"
        );
        let begin = begin(&archive, &["database: a\n\\! ls".to_owned()], "k3y");
        assert!(
            begin.starts_with("-- database: a \\! ls\n\n\\restrict k3y\n\nSET statement_timeout"),
            "{begin}"
        );
        assert!(begin.ends_with("SET standard_conforming_strings = 'on';\n\n"), "{begin}");
        assert_eq!(end("k3y"), "\\unrestrict k3y\n");
    }

    #[test]
    fn names_are_quoted_and_computed_columns_left_out() {
        let name = Name { schema: "a".to_owned(), name: "b\"c".to_owned() };
        let column = |name: &str, generated| Column { name: name.to_owned(), generated, ..Column::default() };
        let columns = vec![column("x y", false), column("sum", true)];
        let table = Table { name: name.clone(), columns, ..Table::default() };
        assert_eq!(copy(&table), "COPY \"a\".\"b\"\"c\" (\"x y\") FROM stdin;\n");
        assert_eq!(copy(&Table { columns: vec![], ..table }), "COPY \"a\".\"b\"\"c\" FROM stdin;\n");
        let known = Sequence { name, last_value: -7, is_called: true, readable: true, ..Sequence::default() };
        let unknown = Sequence { readable: false, ..known.clone() };
        assert_eq!(
            sequences(&[known, unknown]),
            "SELECT pg_catalog.setval('\"a\".\"b\"\"c\"', -7, true);\n\n"
        );
    }
}
