//! What files hold: databases, SQL text, JSON, NDJSON, CSV.

use std::fs::File;
use std::io::{BufRead, Read};
use std::sync::Arc;

use dbkeep_sqlite::dump;
use dbkeep_sqlite::inspect::count_rows;
use dbkeep_sqlite::load::{Loaded, load};
use dbkeep_sqlite::vfs::{PageSource, open_image};

use super::collect::{BYTE_ORDER_MARK, Holding};
use super::json;
use super::server;
use super::spool::{FileImage, Unpacked, unpacked};
use crate::export::{JSON_FORMAT, SERVED_JSON_FORMAT};
use crate::integrity::{Looked, Verify, look, look_at_image};
use crate::manifest::IntegrityResult;
use crate::report::TableRows;
use crate::{Error, Result};

/// The first bytes of every SQLite file.
const SQLITE: &[u8] = b"SQLite format 3\0";

/// How the names of databases end.
const DATABASES: [&str; 5] = [".db", ".sqlite", ".sqlite3", ".db3", ".s3db"];

/// In which form contents are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A database file.
    Sqlite,
    /// SQL text.
    Sql,
    /// SQL text for PostgreSQL.
    PostgresSql,
    /// Rows of a table, as PostgreSQL's COPY writes them.
    Copy,
    /// One JSON document.
    Json,
    /// One JSON object a line.
    Ndjson,
    /// A table as CSV.
    Csv,
    /// An archive.
    Tar,
    /// Something compressed, and what.
    Gzip(&'static str),
    /// Something else.
    Other,
}

impl Form {
    /// Returns the word in reports.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Sqlite => "db",
            Self::Sql | Self::PostgresSql => "sql",
            Self::Copy => "copy",
            Self::Json => "json",
            Self::Ndjson => "ndjson",
            Self::Csv => "csv",
            Self::Tar => "tar",
            Self::Gzip(word) => word,
            Self::Other => "file",
        }
    }

    /// Returns the form of a compressed file.
    pub(super) fn compressed(self) -> Self {
        Self::Gzip(match self {
            Self::Sqlite => "gzip",
            Self::Sql | Self::PostgresSql => "sql.gz",
            Self::Copy => "copy.gz",
            Self::Json => "json.gz",
            Self::Ndjson => "ndjson.gz",
            Self::Csv => "csv.gz",
            Self::Tar => "tar.gz",
            Self::Gzip(_) | Self::Other => "gzip",
        })
    }

    /// Tells a form by how a file begins, and CSV by its name: it begins as anything may.
    pub(super) fn of(name: &str, beginning: &[u8]) -> Self {
        if beginning.starts_with(SQLITE) {
            return Self::Sqlite;
        }
        if beginning.get(257..262) == Some(b"ustar") {
            return Self::Tar;
        }
        let text = beginning.strip_prefix(BYTE_ORDER_MARK).unwrap_or(beginning).trim_ascii_start();
        let lower = text[..text.len().min(64)].to_ascii_lowercase();
        // Rows may begin as anything does.
        if name.ends_with(".copy") {
            return Self::Copy;
        }
        if lower.starts_with(b"{") {
            return if is_lines(name, text) { Self::Ndjson } else { Self::Json };
        }
        let has = |ending: &str| name.to_ascii_lowercase().ends_with(ending);
        if has(".csv") {
            return Self::Csv;
        }
        let starts: [&[u8]; 7] = [b"pragma ", b"begin", b"create ", b"insert ", b"drop ", b"-- ", b"/*"];
        let is_sql = has(".sql") || starts.iter().any(|start| lower.starts_with(start));
        match is_sql {
            true if server::is_sql(text) => Self::PostgresSql,
            true => Self::Sql,
            false => Self::Other,
        }
    }

    /// Tells a form by the name of a file.
    pub(super) fn of_name(name: &str) -> Self {
        let lower = name.to_ascii_lowercase();
        let inner = lower.strip_suffix(".gz").or_else(|| lower.strip_suffix(".tgz"));
        let form = match inner.unwrap_or(&lower) {
            name if name.contains(".db.backup.") || DATABASES.iter().any(|ending| name.ends_with(ending)) => {
                Self::Sqlite
            }
            name if name.ends_with(".sql") => Self::Sql,
            name if name.ends_with(".json") => Self::Json,
            name if name.ends_with(".ndjson") => Self::Ndjson,
            name if name.ends_with(".csv") => Self::Csv,
            name if name.ends_with(".tar") || lower.ends_with(".tgz") => Self::Tar,
            _ => Self::Other,
        };
        if inner.is_some() { form.compressed() } else { form }
    }

    /// Returns the name of what is in a compressed file.
    pub(super) fn inner_name(name: &str) -> String {
        name.strip_suffix(".gz").unwrap_or(name).to_owned()
    }

    /// Says what is wrong with a file whose name promises something that it does not hold.
    pub(super) fn refusal(name: &str) -> Option<String> {
        match Self::of_name(name) {
            Self::Sqlite => Some("it is not a SQLite database".to_owned()),
            Self::Gzip(_) => Some("it is not compressed data".to_owned()),
            Self::Tar => Some("it is not an archive".to_owned()),
            Self::Json | Self::Ndjson => Some("it is not JSON".to_owned()),
            Self::Sql | Self::PostgresSql | Self::Copy | Self::Csv | Self::Other => None,
        }
    }
}

/// Says whether a JSON text has an object on each line.
fn is_lines(name: &str, text: &[u8]) -> bool {
    if name.to_ascii_lowercase().ends_with(".ndjson") {
        return true;
    }
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or(text);
    first.len() < text.len() && serde_json::from_slice::<serde::de::IgnoredAny>(first).is_ok()
}

/// Looks at a database file: its full integrity check, and the rows of every table.
pub(super) fn sqlite(image: FileImage, cancelled: &(dyn Fn() -> bool + Sync)) -> Result<Holding> {
    let mut holding = Holding::new(Form::Sqlite);
    let mut versions = [0; 2];
    holding.is_wal = image.size >= 100 && image.read_at(18, &mut versions).is_ok() && versions == [2, 2];
    let image: Arc<dyn PageSource> = Arc::new(image);
    let looked = look_at_image(Arc::clone(&image), Verify::Full, cancelled)?;
    judge(&looked, &mut holding);
    if holding.findings.is_empty() {
        count(&image, &mut holding)?;
    }
    Ok(holding)
}

fn judge(looked: &Looked, holding: &mut Holding) {
    holding.integrity = looked.integrity.summary();
    holding.notes.extend(looked.notes.iter().cloned());
    if looked.integrity.result == IntegrityResult::Corrupt {
        holding.findings.push(format!("the database is damaged: {}", looked.integrity.summary()));
    }
}

fn count(image: &Arc<dyn PageSource>, holding: &mut Holding) -> Result<()> {
    let counted = || {
        let connection = open_image(Arc::clone(image))?;
        let virtuals = "SELECT count(*) FROM sqlite_schema WHERE type='table' AND coalesce(rootpage,0)=0";
        let virtuals: i64 = connection.query_row(virtuals, [], |row| row.get(0)).unwrap_or(0);
        Ok((count_rows(&connection)?, virtuals > 0))
    };
    match counted() {
        Ok((tables, has_virtual)) => {
            holding.has_virtual = has_virtual;
            holding.tables =
                tables.into_iter().map(|table| TableRows { name: table.name, rows: table.rows }).collect();
        }
        Err(dbkeep_sqlite::Error::Source(source)) => return Err(dbkeep_sqlite::Error::Source(source).into()),
        Err(error) => holding.findings.push(format!("the rows cannot be counted: {error}")),
    }
    Ok(())
}

/// Looks at SQL text: it is loaded into a database that is thrown away.
pub(super) fn sql(
    text: &mut dyn BufRead,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Holding, Unpacked> {
    let folder = tempfile::tempdir().map_err(|error| Unpacked::Failed(Error::temporary(error)))?;
    let path = folder.path().join("loaded.db");
    let loaded = match load(text, &path, cancelled) {
        Ok(loaded) => loaded,
        Err(dbkeep_sqlite::Error::Cancelled) => return Err(Unpacked::Failed(Error::Cancelled)),
        Err(dbkeep_sqlite::Error::Source(error)) => return Err(unpacked(error)),
        Err(error) => return Err(Unpacked::Failed(error.into())),
    };
    let mut holding = Holding::new(Form::Sql);
    holding.findings.extend(problem(&loaded));
    holding.notes.extend(loaded.notes.iter().take(10).cloned());
    holding.metadata = heading(&loaded);
    if !holding.findings.is_empty() {
        return Ok(holding);
    }
    let file = File::open(&path).map_err(|error| Unpacked::Failed(Error::temporary(error)))?;
    let size = file.metadata().map_err(|error| Unpacked::Failed(Error::temporary(error)))?.len();
    if size == 0 {
        holding.findings.extend(nothing(&loaded));
        return Ok(holding);
    }
    let image: Arc<dyn PageSource> = Arc::new(FileImage { file, size });
    let connection = open_image(Arc::clone(&image)).map_err(|error| Unpacked::Failed(error.into()))?;
    // A row that broke a constraint in the original breaks it here.
    let looked = look(&connection, Verify::Full, cancelled).map_err(Unpacked::Failed)?;
    judge(&looked, &mut holding);
    count(&image, &mut holding).map_err(Unpacked::Failed)?;
    if holding.tables.is_empty() && !holding.has_virtual {
        holding.findings.extend(nothing(&loaded));
    }
    let rows: u64 = holding.tables.iter().map(|table| table.rows).sum();
    if let Some(expected) = rows_at_end(&loaded).filter(|expected| *expected != rows) {
        holding.findings.push(format!("{rows} rows are loaded, its last line says {expected}"));
    }
    Ok(holding)
}

/// Says why a text is not whole.
fn problem(loaded: &Loaded) -> Option<String> {
    let is_ours = loaded.heading.first().is_some_and(|line| line.contains(", exported by dbkeep "));
    match &loaded.problem {
        Some(problem) => Some(problem.clone()),
        None if is_ours && rows_at_end(loaded).is_none() => {
            Some("it breaks off: its last line, with the totals, is not there".to_owned())
        }
        None => None,
    }
}

/// Says what is wrong with a text that makes no table: that of a database without any has its beginning and its end.
fn nothing(loaded: &Loaded) -> Option<String> {
    let is_whole = loaded.statements > 0 && (loaded.is_committed || rows_at_end(loaded).is_some());
    (!is_whole).then(|| "it makes no table: it may have been cut off".to_owned())
}

/// Returns how many rows the last line of a dump of ours says that there are.
fn rows_at_end(loaded: &Loaded) -> Option<u64> {
    let (_, rows) = loaded.end.as_ref()?.strip_prefix(dump::END)?.split_once(" tables, ")?;
    rows.strip_suffix(" rows")?.parse().ok()
}

/// Reads what our own dumps say at their top.
fn heading(loaded: &Loaded) -> Option<json::Metadata> {
    let line = |key: &str| loaded.heading.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(": "));
    let (database, version) =
        loaded.heading.first()?.strip_prefix("SQLite database ")?.split_once(", exported by dbkeep ")?;
    let git = line("git").and_then(|git| git.strip_prefix("branch ")?.split_once(", commit "));
    Some(json::Metadata {
        dbkeep: Some(version.to_owned()),
        database: Some(database.to_owned()),
        session: line("session").map(str::to_owned),
        snapshot: line("snapshot").and_then(|id| id.parse().ok()),
        moment: line("moment").map(str::to_owned),
        host: line("host").and_then(|rest| Some(rest.split_once(", user: ")?.0.to_owned())),
        user: line("host").and_then(|rest| Some(rest.split_once(", user: ")?.1.to_owned())),
        git: git.map(|(branch, commit)| json::GitFacts {
            branch: Some(branch.to_owned()).filter(|branch| branch != "none"),
            commit: Some(commit.to_owned()).filter(|commit| commit != "none"),
        }),
        ..json::Metadata::default()
    })
}

/// Looks at a JSON document. One without rows of any table holds nothing that is known.
pub(super) fn json(text: &mut dyn Read, name: &str) -> Result<Option<Holding>, Unpacked> {
    let document = json::document(text).map_err(unpacked)?;
    let format = document.metadata.as_ref().and_then(|metadata| metadata.format.as_deref());
    let is_ours = [JSON_FORMAT, SERVED_JSON_FORMAT].map(Some).contains(&format);
    let is_known = !document.tables.is_empty() || is_ours;
    let says_json = Form::refusal(name).is_some() && document.problem.is_some();
    Ok((is_known || says_json).then(|| of_document(Form::Json, document)))
}

/// Looks at a JSON object a line.
pub(super) fn ndjson(text: &mut dyn BufRead, name: &str) -> Result<Holding, Unpacked> {
    Ok(of_document(Form::Ndjson, json::lines(text, stem(name)).map_err(unpacked)?))
}

fn of_document(form: Form, document: json::Document) -> Holding {
    let own = document.metadata.iter().flat_map(|metadata| metadata.notes.clone());
    let notes = own.chain(document.notes).collect();
    let mut holding = Holding {
        tables: document.tables,
        findings: document.problem.into_iter().collect(),
        notes,
        metadata: document.metadata,
        ..Holding::new(form)
    };
    if document.is_proved {
        "ok".clone_into(&mut holding.integrity);
    }
    holding
}

/// Counts the records of a CSV file, whose first line has the names.
pub(super) fn csv(text: &mut dyn BufRead, name: &str) -> Result<Holding, Unpacked> {
    let (mut records, mut in_quotes, mut is_open) = (0u64, false, false);
    loop {
        let bytes = text.fill_buf().map_err(unpacked)?;
        if bytes.is_empty() {
            break;
        }
        for byte in bytes {
            match byte {
                b'"' => in_quotes = !in_quotes,
                b'\n' if !in_quotes => {
                    records += 1;
                    is_open = false;
                    continue;
                }
                _ => {}
            }
            is_open = true;
        }
        let length = bytes.len();
        text.consume(length);
    }
    records += u64::from(is_open);
    let mut holding = Holding::new(Form::Csv);
    if in_quotes {
        holding.findings.push("it breaks off within quotes".to_owned());
    } else if records == 0 {
        holding.findings.push("it is empty: not even the names of columns are there".to_owned());
    }
    holding.tables = vec![TableRows { name: stem(name).to_owned(), rows: records.saturating_sub(1) }];
    Ok(holding)
}

/// Returns the name of a file without its directory and endings.
pub(super) fn stem(name: &str) -> &str {
    let name = name.rsplit('/').next().unwrap_or(name);
    match name.char_indices().skip(1).find(|(_, character)| *character == '.') {
        Some((end, _)) => &name[..end],
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_by_how_a_file_begins() {
        for (name, beginning, form) in [
            ("a", &b"SQLite format 3\0..."[..], Form::Sqlite),
            ("a.json", b"{\n\"metadata\": {", Form::Json),
            ("a", b"{\"metadata\":{}}\n{\"table\":", Form::Ndjson),
            ("a", b"  {\"users\":[", Form::Json),
            ("a", b"PRAGMA foreign_keys=OFF;\nBEGIN", Form::Sql),
            ("a", b"-- SQLite database app\n", Form::Sql),
            ("a", b"-- PostgreSQL database dump\n", Form::PostgresSql),
            ("globals.sql", b"SET standard_conforming_strings = on;\n", Form::PostgresSql),
            ("public.users.copy", b"{1,2}\n", Form::Copy),
            ("a.sql", b"CREATE TABLE a (x)", Form::Sql),
            ("users.csv", b"\"id\"\r\n", Form::Csv),
            ("letter", b"Dear friend", Form::Other),
            ("empty", b"", Form::Other),
        ] {
            assert_eq!(Form::of(name, beginning), form, "{name}");
        }
    }

    #[test]
    fn records_are_counted_with_line_ends_in_quotes() {
        let rows = |text: &str| {
            let holding = csv(&mut text.as_bytes(), "t.csv").ok().unwrap();
            (holding.tables[0].rows, holding.findings.len())
        };
        assert_eq!(rows("\"a\"\r\n\"x\r\ny\"\r\n\"z\"\r\n"), (2, 0));
        assert_eq!(rows("a\n1\n2"), (2, 0));
        assert_eq!(rows("a\r\n\r\n"), (1, 0), "a row of one NULL");
        assert_eq!(rows("a\r\n\"x"), (1, 1));
        assert_eq!(rows("a\r\n"), (0, 0));
        assert_eq!(rows(""), (0, 1));
    }
}
