//! Taking single tables out of an image, into a new database file or into a live database.
//!
//! Rows go from one connection to another as the values they are, so the two may differ in page size and
//! encoding, and the target never sees the image's schema beyond the tables asked for. A table
//! comes with its rowids, its indexes, its triggers and its AUTOINCREMENT counter; a virtual table with
//! the tables in which it keeps its data. All of it happens in one transaction of the target.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::ToSqlOutput;
use rusqlite::{Connection, OpenFlags};

use crate::inspect::{TableRows, quoted, text};
use crate::raw::{self, GatedConnection};
use crate::vfs::{PageSource, image_error, open_image};
use crate::{BoxError, Error, Result, holders, identify};

/// Where tables are put.
pub enum Target<'p> {
    /// A new database file; there must be none yet, nor a journal or log that was left beside it. It is
    /// removed again when the extraction fails.
    New(&'p Path),
    /// A database that exists and may be in use. Tables of the same names are replaced, others stay.
    Live {
        /// The database.
        path: &'p Path,
        /// How long to wait for its write lock.
        patience: Duration,
        /// Called once the write lock is held and before anything changes, so that nobody commits between
        /// this and the copy: the safety backup. Another connection of this process may read the database.
        locked: &'p mut dyn FnMut() -> Result<(), BoxError>,
    },
}

/// What was taken out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extracted {
    /// The tables with the rows that were written.
    pub tables: Vec<TableRows>,
    /// Indexes and triggers that could not be made, and other things left behind, with the reason.
    pub notes: Vec<String>,
}

/// Copies `tables` out of the image; names are compared as SQLite does, without regard to case.
///
/// Foreign keys and triggers do not act meanwhile. On return the target is committed and on disk;
/// after an error it is as it was. `cancelled` is asked every thousand rows. A wrong name is found before
/// the target is locked.
pub fn copy_tables(
    image: Arc<dyn PageSource>,
    tables: &[String],
    target: Target<'_>,
    cancelled: &dyn Fn() -> bool,
) -> Result<Extracted> {
    let image = open_image(image)?;
    // Found before the target is touched, so that a wrong name changes nothing.
    let wanted = wanted(&image, tables)?;
    match target {
        Target::New(path) => into_new_file(&image, &wanted, path, cancelled),
        Target::Live { path, patience, locked } => {
            let path = identify::canonical(path)?;
            let target = open_target(&path, patience)?;
            Copy::new(&image, &target, &path, cancelled).run(&wanted, locked)
        }
    }
}

fn into_new_file(
    image: &Connection,
    wanted: &[Table],
    path: &Path,
    cancelled: &dyn Fn() -> bool,
) -> Result<Extracted> {
    // Made first and exclusively; SQLite itself would open a file that appeared meanwhile.
    let created = OpenOptions::new().write(true).create_new(true).open(path);
    drop(created.map_err(|source| Error::Io { action: "create", path: path.to_path_buf(), source })?);
    let copy = || {
        let path = identify::canonical(path)?;
        let target = open_target(&path, Duration::ZERO)?;
        copy_settings(image, &target, &path)?;
        Copy::new(image, &target, &path, cancelled).run(wanted, &mut || Ok(()))
    };
    copy().inspect_err(|_| {
        // The error that led here is the one to tell; what stays is an incomplete file nobody opened.
        let _ = std::fs::remove_file(path);
    })
}

/// Gives a new database the page size, encoding and marks of the image.
fn copy_settings(image: &Connection, target: &Connection, path: &Path) -> Result<()> {
    let settings = ["page_size", "encoding", "auto_vacuum", "application_id", "user_version"];
    for setting in settings {
        let value: String = image
            .query_row(&format!("PRAGMA {setting}"), [], |row| text(row, 0))
            .map_err(|error| image_error(Some(image), error))?;
        let set = target.execute_batch(&format!("PRAGMA {setting}='{value}'"));
        set.map_err(|error| Error::sqlite(path, error))?;
    }
    Ok(())
}

/// Opens the connection that writes.
fn open_target(path: &Path, patience: Duration) -> Result<GatedConnection> {
    identify::refuse_siblings_of_empty(path)?;
    let failed = |error| Error::sqlite(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = GatedConnection::from(Connection::open_with_flags(path, flags).map_err(failed)?);
    let configure = || {
        connection.busy_timeout(patience)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
        // The tables behind a virtual table can only be filled without this defence.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_DEFENSIVE, false)?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_TRIGGER, false)?;
        connection.execute_batch(
            "PRAGMA foreign_keys=OFF; PRAGMA ignore_check_constraints=ON; PRAGMA synchronous=EXTRA; \
             PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY",
        )
    };
    configure().map_err(failed)?;
    Ok(connection)
}

/// How a table keeps its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Rowid,
    WithoutRowid,
    Virtual,
}

/// A table of the image that was asked for.
#[derive(Clone, Debug)]
struct Table {
    name: String,
    sql: String,
    shape: Shape,
    /// The tables in which a virtual table keeps its data.
    shadows: Vec<(String, Shape)>,
}

/// One line of `pragma_table_list`.
struct Listed {
    name: String,
    kind: String,
    without_rowid: bool,
}

fn wanted(image: &Connection, names: &[String]) -> Result<Vec<Table>> {
    let listed = list(image)?;
    let mut wanted = Vec::new();
    let mut met = BTreeSet::new();
    for name in names {
        let found = listed.iter().find(|table| table.name.eq_ignore_ascii_case(name));
        let found = found.ok_or_else(|| Error::NoSuchTable {
            name: name.clone(),
            candidates: candidates(name, &listed),
        })?;
        let table = table(image, found, &listed)?;
        if met.insert(table.name.clone()) {
            wanted.push(table);
        }
    }
    Ok(wanted)
}

fn list(image: &Connection) -> Result<Vec<Listed>> {
    let query = "SELECT name, type, wr FROM pragma_table_list WHERE schema='main' ORDER BY name";
    let run = || {
        let mut statement = image.prepare(query)?;
        let rows = statement.query_map([], |row| {
            Ok(Listed { name: text(row, 0)?, kind: text(row, 1)?, without_rowid: row.get(2)? })
        })?;
        rows.collect::<rusqlite::Result<Vec<_>>>()
    };
    run().map_err(|error| image_error(Some(image), error))
}

fn table(image: &Connection, found: &Listed, listed: &[Listed]) -> Result<Table> {
    let not_a_table = |what: String| Error::NotATable { name: found.name.clone(), what };
    let shape = match found.kind.as_str() {
        "view" => return Err(not_a_table("a view".into())),
        "shadow" => {
            let owner = listed.iter().find(|table| table.kind == "virtual" && is_shadow(found, table));
            let owner = owner.map_or_else(|| "a virtual table".into(), |table| table.name.clone());
            return Err(not_a_table(format!("part of the virtual table {owner}")));
        }
        _ if found.name.to_ascii_lowercase().starts_with("sqlite_") => {
            return Err(not_a_table("a table of SQLite itself".into()));
        }
        "virtual" => Shape::Virtual,
        _ => shape_of(found),
    };
    let sql = image
        .query_row("SELECT sql FROM sqlite_schema WHERE type='table' AND name=?1", [&found.name], |row| {
            text(row, 0)
        })
        .map_err(|error| image_error(Some(image), error))?;
    let of_this = listed.iter().filter(|table| shape == Shape::Virtual && is_shadow(table, found));
    let shadows = of_this.map(|table| (table.name.clone(), shape_of(table))).collect();
    Ok(Table { name: found.name.clone(), sql, shape, shadows })
}

fn shape_of(table: &Listed) -> Shape {
    if table.without_rowid { Shape::WithoutRowid } else { Shape::Rowid }
}

/// Says whether `table` is one of those in which `owner` keeps its data: named after it, with a suffix.
fn is_shadow(table: &Listed, owner: &Listed) -> bool {
    let start = format!("{}_", owner.name.to_lowercase());
    // Of two virtual tables `a` and `a_b`, `a_b_data` belongs to the second.
    table.kind == "shadow"
        && table.name.to_lowercase().strip_prefix(&start).is_some_and(|suffix| !suffix.contains('_'))
}

/// Returns names that may have been meant, the closest first.
fn candidates(name: &str, listed: &[Listed]) -> Vec<String> {
    let wanted = name.to_lowercase();
    let mut close: Vec<(usize, &String)> = listed
        .iter()
        .filter(|table| table.kind == "table" || table.kind == "virtual")
        .filter(|table| !table.name.to_ascii_lowercase().starts_with("sqlite_"))
        .map(|table| (distance(&wanted, &table.name.to_lowercase()), &table.name))
        .filter(|(distance, table)| {
            *distance <= 1 + wanted.chars().count() / 3 || table.to_lowercase().contains(&wanted)
        })
        .collect();
    close.sort();
    close.into_iter().take(3).map(|(_, table)| table.clone()).collect()
}

/// Returns how many characters have to be inserted, removed or changed to turn one name into the other.
pub(crate) fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(100).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (line, l) in left.chars().take(100).enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (at, &r) in right.iter().enumerate() {
            let changed = diagonal + usize::from(l != r);
            diagonal = row[at + 1];
            row[at + 1] = changed.min(diagonal + 1).min(row[at] + 1);
        }
    }
    row[right.len()]
}

/// One extraction.
struct Copy<'c> {
    image: &'c Connection,
    target: &'c Connection,
    path: &'c Path,
    cancelled: &'c dyn Fn() -> bool,
    done: Extracted,
}

impl<'c> Copy<'c> {
    fn new(
        image: &'c Connection,
        target: &'c Connection,
        path: &'c Path,
        cancelled: &'c dyn Fn() -> bool,
    ) -> Self {
        Self { image, target, path, cancelled, done: Extracted::default() }
    }

    fn run(
        mut self,
        tables: &[Table],
        locked: &mut dyn FnMut() -> Result<(), BoxError>,
    ) -> Result<Extracted> {
        {
            let _gate = raw::while_locking();
            self.target.execute_batch("BEGIN IMMEDIATE").map_err(|error| self.busy_or(error))?;
        }
        locked().map_err(Error::Consumer)?;
        for table in tables {
            self.table(table)?;
        }
        self.target.execute_batch("COMMIT").map_err(|error| self.busy_or(error))?;
        Ok(self.done)
    }

    fn table(&mut self, table: &Table) -> Result<()> {
        self.make_room(table)?;
        self.execute(table, &table.sql)?;
        let rows = if table.shape == Shape::Virtual {
            for (shadow, shape) in &table.shadows {
                // Making the virtual table has put its first entries there.
                self.execute(table, &format!("DELETE FROM main.{}", quoted(shadow)))?;
                self.rows(shadow, *shape)?;
            }
            self.count(&table.name)?
        } else {
            let rows = self.rows(&table.name, table.shape)?;
            self.counter(table)?;
            self.belongings(table)?;
            rows
        };
        self.done.tables.push(TableRows { name: table.name.clone(), rows });
        Ok(())
    }

    /// Removes what has the table's name in the target.
    fn make_room(&mut self, table: &Table) -> Result<()> {
        let query =
            "SELECT name, type FROM sqlite_schema WHERE name=?1 COLLATE NOCASE AND type IN ('table','view')";
        let there = self.target.query_row(query, [&table.name], |row| Ok((text(row, 0)?, text(row, 1)?)));
        match there {
            Ok((name, kind)) if kind == "table" => {
                self.execute(table, &format!("DROP TABLE main.{}", quoted(&name)))
            }
            Ok((name, _)) => {
                Err(Error::NotATable { name, what: format!("a view in {}", self.path.display()) })
            }
            Err(rusqlite::Error::QueryReturnedNoRows) => Ok(()),
            Err(error) => Err(Error::sqlite(self.path, error)),
        }
    }

    /// Copies all rows of one table and returns how many there were.
    fn rows(&mut self, table: &str, shape: Shape) -> Result<u64> {
        let columns = self.columns(table)?;
        let mut names: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
        if shape == Shape::Rowid {
            match rowid_name(&columns) {
                Some(rowid) => names.push(rowid.to_string()),
                None => self
                    .done
                    .notes
                    .push(format!("rowids of table {table} not kept: columns hide their names")),
            }
        }
        let list = names.join(", ");
        let places = vec!["?"; names.len()].join(", ");
        let from_image = |error| image_error(Some(self.image), error);
        let to_target = |error| self.table_failed(table, error);
        // NOT INDEXED: in the order of the table's own tree, which is how the target's tree grows best.
        let mut read = self
            .image
            .prepare(&format!("SELECT {list} FROM main.{} NOT INDEXED", quoted(table)))
            .map_err(from_image)?;
        let mut write = self
            .target
            .prepare(&format!("INSERT INTO main.{} ({list}) VALUES ({places})", quoted(table)))
            .map_err(to_target)?;
        let mut rows = read.query([]).map_err(from_image)?;
        let mut count = 0u64;
        while let Some(row) = rows.next().map_err(from_image)? {
            for at in 0..names.len() {
                let value = row.get_ref(at).map_err(from_image)?;
                write.raw_bind_parameter(at + 1, ToSqlOutput::Borrowed(value)).map_err(to_target)?;
            }
            write.raw_execute().map_err(to_target)?;
            count += 1;
            if count.is_multiple_of(1000) && (self.cancelled)() {
                return Err(Error::Cancelled);
            }
        }
        Ok(count)
    }

    /// Returns the columns that are stored; generated ones are computed anew.
    fn columns(&self, table: &str) -> Result<Vec<String>> {
        let run = || {
            let mut statement =
                self.image.prepare("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden=0 ORDER BY cid")?;
            let rows = statement.query_map([table], |row| text(row, 0))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        run().map_err(|error| image_error(Some(self.image), error))
    }

    /// Carries over where AUTOINCREMENT goes on.
    fn counter(&self, table: &Table) -> Result<()> {
        let has_counters = "SELECT 1 FROM sqlite_schema WHERE name='sqlite_sequence'";
        let exists = |connection: &Connection| connection.query_row(has_counters, [], |_| Ok(())).is_ok();
        if !exists(self.image) || !exists(self.target) {
            return Ok(());
        }
        let counter =
            self.image.query_row("SELECT seq FROM sqlite_sequence WHERE name=?1", [&table.name], |row| {
                row.get::<_, i64>(0)
            });
        let counter = match counter {
            Ok(counter) => counter,
            Err(rusqlite::Error::QueryReturnedNoRows) => return Ok(()),
            Err(error) => return Err(image_error(Some(self.image), error)),
        };
        let set = || {
            self.target.execute("DELETE FROM sqlite_sequence WHERE name=?1", [&table.name])?;
            self.target.execute(
                "INSERT INTO sqlite_sequence(name, seq) VALUES(?1, ?2)",
                rusqlite::params![table.name, counter],
            )
        };
        set().map(drop).map_err(|error| self.table_failed(&table.name, error))
    }

    /// Makes the table's indexes, then its triggers.
    fn belongings(&mut self, table: &Table) -> Result<()> {
        let query = "SELECT type, name, sql FROM sqlite_schema WHERE tbl_name=?1 COLLATE NOCASE \
                     AND type IN ('index','trigger') AND sql IS NOT NULL ORDER BY type, rowid";
        let run = || {
            let mut statement = self.image.prepare(query)?;
            let rows = statement
                .query_map([&table.name], |row| Ok((text(row, 0)?, text(row, 1)?, text(row, 2)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        for (kind, name, sql) in run().map_err(|error| image_error(Some(self.image), error))? {
            match self.target.execute(&sql, []) {
                Ok(_) => {}
                // A collation or function that only the application has, or a name already in use: the
                // rows are worth having without it.
                Err(error) if error.sqlite_error_code() == Some(rusqlite::ErrorCode::Unknown) => {
                    self.done.notes.push(format!("{kind} {name} not made: {}", message(&error)));
                }
                Err(error) => return Err(self.table_failed(&table.name, error)),
            }
        }
        Ok(())
    }

    fn count(&self, table: &str) -> Result<u64> {
        let query = format!("SELECT count(*) FROM main.{}", quoted(table));
        let rows = self.target.query_row(&query, [], |row| row.get::<_, i64>(0));
        rows.map(i64::unsigned_abs).map_err(|error| self.table_failed(table, error))
    }

    fn execute(&self, table: &Table, sql: &str) -> Result<()> {
        self.target.execute(sql, []).map(drop).map_err(|error| self.table_failed(&table.name, error))
    }

    fn table_failed(&self, table: &str, error: rusqlite::Error) -> Error {
        match error.sqlite_error_code() {
            Some(
                rusqlite::ErrorCode::DatabaseCorrupt
                | rusqlite::ErrorCode::NotADatabase
                | rusqlite::ErrorCode::DiskFull
                | rusqlite::ErrorCode::SystemIoFailure
                | rusqlite::ErrorCode::ReadOnly,
            ) => Error::sqlite(self.path, error),
            Some(rusqlite::ErrorCode::DatabaseBusy) => self.busy_or(error),
            _ => Error::Table { table: table.to_string(), message: message(&error) },
        }
    }

    fn busy_or(&self, error: rusqlite::Error) -> Error {
        match error.sqlite_error_code() {
            Some(rusqlite::ErrorCode::DatabaseBusy) => {
                Error::Busy { path: self.path.to_path_buf(), holder: holders::describe(self.path) }
            }
            _ => Error::sqlite(self.path, error),
        }
    }
}

/// Returns a name under which the rowid can be read and written, or `None` when columns hide all three.
fn rowid_name(columns: &[String]) -> Option<&'static str> {
    ["rowid", "_rowid_", "oid"]
        .into_iter()
        .find(|name| !columns.iter().any(|column| column.eq_ignore_ascii_case(name)))
}

pub(crate) fn message(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(_, Some(message)) => message.clone(),
        rusqlite::Error::SqlInputError { msg, .. } => msg.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
