//! The drill of a SQLite database: a file that is opened as an application opens it.

use std::io;
use std::path::Path;

use dbkeep_sqlite::inspect::with_interrupt;
use rusqlite::config::DbConfig;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::assertion::{Answer, Assertion};
use super::scratch::Scratch;
use super::{Findings, Run};
use crate::catalog::Entry;
use crate::integrity::Verify;
use crate::manifest::{IntegrityResult, Manifest};
use crate::restore::{self, RestoreRequest};
use crate::{Error, Result};

/// What SQLite takes beside a database before it reads a row in WAL mode, in bytes: the index of a log.
const ROOM_BESIDE: u64 = 32 << 10;

impl Run<'_> {
    /// Restores to a file, which gets the full integrity check, counts its rows, and asks.
    pub(super) fn attempt_file(
        &self,
        entry: &Entry,
        manifest: &Manifest,
        assertions: &[Assertion],
        findings: &mut Findings,
    ) -> Result<()> {
        if manifest.image.raw && manifest.integrity.result == IntegrityResult::NotRun {
            return Err(Error::Unsupported {
                what: format!("snapshot {} is a raw copy that cannot be looked into", entry.id.short()),
                hint: Some("`dbkeep verify` compares its hashes".to_owned()),
            });
        }
        let scratch = Scratch::make()?;
        let path = scratch.path().join("drill.db");
        let request = RestoreRequest {
            snapshot: Some(entry.id.to_string()),
            to: Some(path.display().to_string()),
            safety_backup: false,
            // What was damaged when it was backed up is found by the check.
            force: true,
            verify: Verify::Full,
            ..RestoreRequest::default()
        };
        let restored = restore::to_scratch(self.store, &request, self.clock.now(), self.watch);
        let restored = restored.map_err(|error| scratch.told(error))?;
        self.watch.step("drill.restored");
        findings.notes.extend(restored.notes);
        match restored.integrity.as_str() {
            "ok" => {}
            "not run" => {
                return Err(Error::Unsupported {
                    what: "the integrity check could not run".to_owned(),
                    hint: Some("`dbkeep verify` says why".to_owned()),
                });
            }
            problem => findings.damage(format!("the database is damaged: {problem}")),
        }
        let asked = self.ask_file(&path, manifest, assertions, findings);
        asked.map_err(|error| scratch.told(error))?;
        self.watch.step("drill.asked");
        Ok(())
    }

    /// Opens a restored file, counts its rows, and asks.
    fn ask_file(
        &self,
        path: &Path,
        manifest: &Manifest,
        assertions: &[Assertion],
        findings: &mut Findings,
    ) -> Result<()> {
        let connection = match open(path) {
            Ok(connection) => connection,
            Err(error) => {
                if let Some(error) = of_the_machine(&error, path) {
                    return Err(error);
                }
                findings.damage(format!("the restored database cannot be opened: {error}"));
                return Ok(());
            }
        };
        with_interrupt(&connection, &|| self.watch.cancelled(), || {
            Ok(count(&connection, path, manifest, findings)
                .and_then(|()| try_assertions(&connection, path, assertions, findings)))
        })?
    }
}

/// Opens a database as an application does.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    // What its schema calls are harmless functions, whoever wrote it.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
    Ok(connection)
}

/// Returns what says nothing of a database, but of where it lies: no room for what SQLite keeps beside it, a disk that
/// cannot be read, no memory.
fn of_the_machine(error: &rusqlite::Error, path: &Path) -> Option<Error> {
    let kind = match error.sqlite_error_code()? {
        ErrorCode::DiskFull => io::ErrorKind::StorageFull,
        ErrorCode::OutOfMemory => io::ErrorKind::OutOfMemory,
        // SQLite says the same of a file that cannot be made for want of room and of one that cannot be read.
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen if has_no_room(path) => io::ErrorKind::StorageFull,
        ErrorCode::SystemIoFailure | ErrorCode::CannotOpen => io::ErrorKind::Other,
        _ => return None,
    };
    Some(untried(error, kind, path))
}

/// Returns the error of a database that was not tried.
fn untried(error: &rusqlite::Error, kind: io::ErrorKind, path: &Path) -> Error {
    Error::io("read", path)(io::Error::new(kind, error.to_string()))
}

/// Says whether SQLite finds no room for another file beside a database: bytes, or names.
fn has_no_room(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|disk| {
        disk.f_bavail * disk.f_frsize < ROOM_BESIDE || (disk.f_files > 0 && disk.f_ffree == 0)
    })
}

/// Compares the number of rows in each table with the manifest.
fn count(connection: &Connection, path: &Path, manifest: &Manifest, findings: &mut Findings) -> Result<()> {
    for table in &manifest.tables {
        let sql = format!("SELECT count(*) FROM \"{}\"", table.name.replace('"', "\"\""));
        match connection.query_row(&sql, [], |row| row.get::<_, i64>(0)) {
            Ok(rows) => {
                let rows = rows.unsigned_abs();
                findings.rows += rows;
                if rows != table.rows {
                    let expected = table.rows;
                    findings.damage(format!(
                        "table {:?} has {rows} rows, the manifest says {expected}",
                        table.name
                    ));
                }
            }
            Err(error) => {
                if let Some(error) = of_the_machine(&error, path) {
                    return Err(error);
                }
                let what = format!("the rows of {:?} cannot be counted: {error}", table.name);
                match error.sqlite_error_code() {
                    Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => findings.damage(what),
                    // An order of text that only the application knows, a name that is no text.
                    Some(ErrorCode::Unknown) | None => findings.notes.push(what),
                    Some(_) => return Err(untried(&error, io::ErrorKind::Other, path)),
                }
            }
        }
    }
    Ok(())
}

fn try_assertions(
    connection: &Connection,
    path: &Path,
    assertions: &[Assertion],
    findings: &mut Findings,
) -> Result<()> {
    for assertion in assertions {
        let answer = match ask(connection, &assertion.sql) {
            Ok(answer) => answer,
            // They may name files that are not there.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::CannotOpen) => {
                Answer::Not(error.to_string())
            }
            Err(error) => match of_the_machine(&error, path) {
                Some(error) => return Err(error),
                None => Answer::Not(error.to_string()),
            },
        };
        findings.assertions.push(assertion.judge(answer));
    }
    Ok(())
}

/// Asks for one value.
pub(crate) fn ask(connection: &Connection, sql: &str) -> rusqlite::Result<Answer> {
    let mut statement = connection.prepare(sql)?;
    let columns = statement.column_count();
    let mut rows = statement.query([])?;
    let Some(row) = rows.next()? else { return Ok(Answer::Not("no row".to_owned())) };
    if columns != 1 {
        return Ok(Answer::Not(format!("{columns} columns")));
    }
    let value = match row.get_ref(0)? {
        ValueRef::Null => None,
        ValueRef::Integer(number) => Some(number.to_string()),
        ValueRef::Real(number) => Some(format!("{number:?}")),
        ValueRef::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Blob(bytes) => Some(bytes.iter().map(|byte| format!("{byte:02x}")).collect()),
    };
    match rows.next()? {
        None => Ok(Answer::Value(value)),
        Some(_) => Ok(Answer::Not("several rows".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_value_is_an_answer() {
        let connection = Connection::open_in_memory().unwrap();
        let told = |sql: &str| match ask(&connection, sql).unwrap() {
            Answer::Value(value) => value.unwrap_or_else(|| "NULL".to_owned()),
            Answer::Not(why) => format!("not: {why}"),
        };
        for (sql, expected) in [
            ("SELECT 11", "11"),
            ("SELECT 1.5", "1.5"),
            ("SELECT 2.0", "2.0"),
            ("SELECT 'a b'", "a b"),
            ("SELECT x'00ff'", "00ff"),
            ("SELECT NULL", "NULL"),
            ("SELECT 1 WHERE false", "not: no row"),
            ("SELECT 1, 2", "not: 2 columns"),
            ("VALUES (1), (2)", "not: several rows"),
        ] {
            assert_eq!(told(sql), expected, "{sql}");
        }
        assert!(ask(&connection, "SELECT * FROM absent").is_err());
    }
}
