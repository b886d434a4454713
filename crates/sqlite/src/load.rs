//! Running SQL text from a file into a new database, to see whether it loads and what it holds.
//!
//! The text is not trusted: it can touch no file but the new one, and triggers do not run.

use std::io::{BufRead, Read};
use std::path::Path;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use crate::inspect::{Unknown, refusal, with_interrupt};
use crate::split::Splitter;
use crate::vfs::{forbid_attaching, lift_limits};
use crate::{Error, Result, dump};

/// The longest statement that SQLite takes.
const LONGEST: u64 = dump::LONGEST as u64;

/// What became of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// How many statements ran.
    pub statements: u64,
    /// Whether a transaction was ended: a text that was cut off before it began has none.
    pub is_committed: bool,
    /// The comments before the first statement.
    pub heading: Vec<String>,
    /// The last comment that says where a dump of ours ends.
    pub end: Option<String>,
    /// Why the text does not load, with the line.
    pub problem: Option<String>,
    /// What could not be made here and can be where the application's own functions are.
    pub notes: Vec<String>,
}

/// Runs `text` into the database file `path`, which must be empty or absent.
///
/// What SQLite says of the text is part of the result; an error means that the text could not be read, or that there is
/// no room for the database. Stops soon after `cancelled` says so.
pub fn load(text: &mut dyn BufRead, path: &Path, cancelled: &(dyn Fn() -> bool + Sync)) -> Result<Loaded> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let failed = |error| Error::sqlite(path, error);
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    forbid_attaching(&connection);
    connection.busy_timeout(Duration::ZERO).map_err(failed)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false).map_err(failed)?;
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false).map_err(failed)?;
    connection.execute_batch("PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;").map_err(failed)?;
    let loaded = with_interrupt(&connection, cancelled, || run(&connection, text, path, cancelled));
    lift_limits(&connection);
    let loaded = loaded?;
    connection.close().map_err(|(_, error)| failed(error))?;
    Ok(loaded)
}

fn run(
    connection: &Connection,
    text: &mut dyn BufRead,
    path: &Path,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Loaded> {
    let mut loaded = Loaded::default();
    let mut splitter = Splitter::default();
    let (mut statement, mut line, mut number) = (Vec::new(), Vec::new(), 0u64);
    loop {
        line.clear();
        let left = LONGEST.saturating_sub(statement.len() as u64).max(1);
        (&mut *text).take(left).read_until(b'\n', &mut line).map_err(Error::Source)?;
        if line.is_empty() {
            break;
        }
        number += 1;
        if number.is_multiple_of(1000) && cancelled() {
            return Err(Error::Cancelled);
        }
        if line.contains(&0) {
            // SQLite reads no further than to it, and what follows would be missing without a word.
            loaded.problem = Some(format!("line {number}: a zero byte is no part of SQL text"));
            return Ok(loaded);
        }
        if statement.is_empty() && take_comment(&line, &mut loaded) {
            continue;
        }
        statement.extend_from_slice(&line);
        if statement.len() as u64 >= LONGEST {
            loaded.problem = Some(format!("line {number}: a statement is longer than SQLite takes"));
            return Ok(loaded);
        }
        if splitter.feed(&line) {
            if statement.trim_ascii_start().to_ascii_uppercase().starts_with(b"ROLLBACK") {
                // So ends a dump that its writer could not complete.
                loaded.problem =
                    Some(format!("line {number}: the text takes itself back, as a dump that failed"));
                return Ok(loaded);
            }
            let was_open = !connection.is_autocommit();
            match execute(connection, &statement, &mut loaded) {
                Ok(()) => {
                    loaded.statements += 1;
                    loaded.is_committed |= was_open && connection.is_autocommit();
                }
                Err(error) => judge(&error, path, number, &mut loaded)?,
            }
            if loaded.problem.is_some() {
                return Ok(loaded);
            }
            statement.clear();
        }
    }
    if !statement.trim_ascii().is_empty() {
        loaded.problem = Some(format!("the text ends within a statement, in line {number}"));
    } else if !connection.is_autocommit() {
        loaded.problem = Some("the text ends within a transaction".to_owned());
    }
    Ok(loaded)
}

/// Takes note of a line that is a comment and no part of a statement.
fn take_comment(line: &[u8], loaded: &mut Loaded) -> bool {
    const MOST: usize = 100;
    let text = String::from_utf8_lossy(line.trim_ascii());
    if let Some(comment) = text.strip_prefix("--") {
        if text.starts_with(dump::END) {
            loaded.end = Some(text.into_owned());
        } else if loaded.statements == 0 && loaded.heading.len() < MOST {
            loaded.heading.push(comment.trim().to_owned());
        }
        return true;
    }
    text.is_empty()
}

/// Runs a statement. A collation or a function that only the application has gets a stand-in: rows are counted here,
/// not compared.
fn execute(connection: &Connection, statement: &[u8], loaded: &mut Loaded) -> rusqlite::Result<()> {
    // Bytes that are no text are in values, which are not kept.
    let text = String::from_utf8_lossy(statement);
    let mut last = None;
    loop {
        let Err(error) = connection.execute_batch(&text) else { return Ok(()) };
        let unknown = refusal(&error).and_then(Unknown::of);
        match unknown {
            Some(unknown)
                if last.as_deref() != Some(&*format!("{unknown:?}")) && unknown.stand_in(connection) =>
            {
                last = Some(format!("{unknown:?}"));
                let (Unknown::Collation(name) | Unknown::Function(name)) = unknown;
                loaded.notes.push(format!("it needs {name}, which only the application has"));
            }
            _ => return Err(error),
        }
    }
}

/// Decides what an error means: that the text is wrong, or that nothing can be said.
fn judge(error: &rusqlite::Error, path: &Path, number: u64, loaded: &mut Loaded) -> Result<()> {
    use rusqlite::ErrorCode as Code;
    match error.sqlite_error_code() {
        Some(Code::OperationInterrupted) => Err(Error::Cancelled),
        Some(Code::DiskFull | Code::SystemIoFailure) => Err(Error::Io {
            action: "write",
            path: path.into(),
            source: std::io::ErrorKind::StorageFull.into(),
        }),
        _ => {
            let message = format!("line {number}: {}", crate::extract::message(error));
            match message.contains("no such module") {
                true => loaded.notes.push(message),
                false => loaded.problem = Some(message),
            }
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> (Loaded, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let loaded = load(&mut text.as_bytes(), &folder.path().join("new.db"), &|| false).unwrap();
        (loaded, folder)
    }

    #[test]
    fn text_runs_statement_by_statement() {
        let (loaded, folder) = loaded(
            "-- made by hand\nCREATE TABLE t(a);\nINSERT INTO t VALUES('one;\ntwo');\n\
             CREATE TRIGGER r AFTER INSERT ON t BEGIN DELETE FROM t; END;\nINSERT INTO t VALUES(2);\n",
        );
        assert_eq!((loaded.problem, loaded.statements), (None, 4));
        assert_eq!(loaded.heading, ["made by hand"]);
        let connection = Connection::open(folder.path().join("new.db")).unwrap();
        let rows: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 2, "the trigger did not run");
    }

    #[test]
    fn text_that_breaks_off_is_told() {
        for (text, problem) in [
            ("CREATE TABLE t(a);\nINSERT INTO t VALUES('on", "the text ends within a statement, in line 2"),
            ("BEGIN;\nCREATE TABLE t(a);\n", "the text ends within a transaction"),
            ("CREATE TABLE t(a);\nINSERT INTO u VALUES(1);\n", "line 2: no such table: u"),
        ] {
            assert_eq!(loaded(text).0.problem.as_deref(), Some(problem), "{text}");
        }
    }

    #[test]
    fn zero_byte_hides_nothing() {
        let text = "CREATE TABLE t(a);\n\0\0\0INSERT INTO t VALUES(1);\n";
        assert_eq!(loaded(text).0.problem.as_deref(), Some("line 2: a zero byte is no part of SQL text"));
    }

    #[test]
    fn end_of_a_transaction_is_noted() {
        assert!(loaded("PRAGMA foreign_keys=OFF;\nBEGIN;\nCOMMIT;\n").0.is_committed);
        assert!(!loaded("PRAGMA foreign_keys=OFF;\nCREATE TABLE t(a);\n").0.is_committed);
    }

    #[test]
    fn text_touches_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other.db");
        for statement in ["ATTACH 'OTHER' AS o;", "VACUUM INTO 'OTHER';"] {
            let text = statement.replace("OTHER", &other.display().to_string());
            let loaded = load(&mut text.as_bytes(), &folder.path().join("new.db"), &|| false).unwrap();
            assert!(loaded.problem.unwrap().contains("too many attached databases"), "{statement}");
            assert!(!other.exists());
        }
    }

    #[test]
    fn what_only_the_application_has_is_a_note() {
        let (loaded, _folder) = loaded("CREATE TABLE t(a);\nCREATE INDEX i ON t(a COLLATE theirs);\n");
        assert_eq!(loaded.problem, None);
        assert_eq!(loaded.notes, ["it needs theirs, which only the application has"]);
        let (loaded, _) =
            super::tests::loaded("CREATE TABLE t(a, b AS (ours(a)));\nINSERT INTO t(a) VALUES(1);\n");
        assert_eq!((loaded.problem, loaded.statements), (None, 2));
    }
}
