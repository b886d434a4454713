//! Whether the contents of a database are sound, and which tables it has.
//!
//! SQLite's own checks do the work. What stands in their way is sorted out here: a collation or a
//! function that only the application knows makes SQLite refuse the whole check, although nearly all
//! of it could be done. A stand-in lets the check run, and what then cannot be believed is left out
//! and named in the notes. A check that did not run is never reported as passed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::functions::FunctionFlags;
use rusqlite::types::Null;
use rusqlite::{Connection, ErrorCode};
use serde::{Deserialize, Serialize};

use crate::vfs::image_error;
use crate::{Error, Result};

/// How much of a database is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Pages, trees, records, and the number of entries of each index; time grows with the size.
    Quick,
    /// Also each index entry against its row, uniqueness and foreign keys; needs many random reads.
    Full,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// Whether the contents are sound.
    pub integrity: Integrity,
    /// What could not be verified and why, and what is odd without being damage.
    pub notes: Vec<String>,
}

/// Whether the contents of a database are sound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Integrity {
    /// The check ran and found nothing.
    Ok,
    /// The database is damaged: the first [`PROBLEM_LIMIT`] findings.
    Problems(Vec<String>),
    /// The check could not be run; nothing is known.
    NotRun(String),
}

/// How many problems are listed at most.
pub const PROBLEM_LIMIT: usize = 100;

const VIRTUAL_TABLES: &str =
    "SELECT name, sql FROM sqlite_schema WHERE type='table' AND coalesce(rootpage,0)=0";

/// A table and the page at which its tree begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRoot {
    /// The name as the schema has it.
    pub name: String,
    /// The number of the root page, from 1.
    pub root: u32,
}

/// A table and how many rows it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableRows {
    /// The name as the schema has it.
    pub name: String,
    /// The number of rows.
    pub rows: u64,
}

/// Checks the database that `connection` is on, within the transaction it may be in.
///
/// Nothing is written. Stands-in for unknown collations and functions stay registered on the
/// connection, so it should not be used for queries that depend on those afterwards. Fails with
/// [`Error::Cancelled`] soon after `cancelled` says so, and with [`Error::Source`] when the image
/// could not be read; all that SQLite itself says is part of the result.
pub fn inspect(
    connection: &Connection,
    level: Level,
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Inspection> {
    with_interrupt(connection, cancelled, || Inspector::new(connection).run(level))
}

/// Returns the tables that have rows of their own, ordered by name.
///
/// Views and virtual tables have none; the tables in which virtual ones keep their data do.
pub fn tables(connection: &Connection) -> Result<Vec<TableRoot>> {
    let query = "SELECT name, rootpage FROM sqlite_schema WHERE type='table' AND rootpage>0";
    let run = || {
        let mut statement = connection.prepare(query)?;
        let rows = statement.query_map([], |row| Ok((text(row, 0)?, row.get::<_, u32>(1)?)))?;
        rows.map(|row| row.map(|(name, root)| TableRoot { name, root })).collect::<rusqlite::Result<Vec<_>>>()
    };
    let mut tables = run().map_err(|error| image_error(Some(connection), error))?;
    tables.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(tables)
}

/// Counts the rows of every table by asking SQLite, ordered by name.
pub fn count_rows(connection: &Connection) -> Result<Vec<TableRows>> {
    let count = |table: TableRoot| {
        let query = format!("SELECT count(*) FROM main.{}", quoted(&table.name));
        let rows = connection
            .query_row(&query, [], |row| row.get::<_, i64>(0))
            .map_err(|error| image_error(Some(connection), error))?;
        Ok(TableRows { name: table.name, rows: rows.unsigned_abs() })
    };
    tables(connection)?.into_iter().map(count).collect()
}

/// Returns `name` as an SQL identifier.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns a text of a row; a database may hold names that are not UTF-8.
pub(crate) fn text(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<String> {
    use rusqlite::types::ValueRef;
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        ValueRef::Integer(number) => number.to_string(),
        ValueRef::Real(number) => number.to_string(),
        ValueRef::Null => String::new(),
    })
}

/// Runs `work` and makes SQLite stop when `cancelled` says so: its statements fail then as interrupted ones do.
///
/// # Errors
/// Those of `work`; [`Error::Cancelled`] when somebody wanted to stop before it began.
pub fn with_interrupt<T>(
    connection: &Connection,
    cancelled: &(dyn Fn() -> bool + Sync),
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    if cancelled() {
        return Err(Error::Cancelled);
    }
    let handle = connection.get_interrupt_handle();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watcher = thread::Builder::new().name("sqlite-interrupt".into()).spawn_scoped(scope, || {
            while !done.load(Ordering::Acquire) {
                if cancelled() {
                    // Repeated: an interrupt only stops the statement that runs at that instant.
                    handle.interrupt();
                }
                thread::park_timeout(Duration::from_millis(50));
            }
        });
        let result = work();
        done.store(true, Ordering::Release);
        if let Ok(watcher) = watcher {
            watcher.thread().unpark();
        }
        result
    })
}

/// What SQLite said to one PRAGMA.
enum Outcome {
    /// It ran; the lines that are not `ok`.
    Lines(Vec<String>),
    /// SQLite gave up because the contents are damaged.
    Damaged(String),
    /// SQLite could not run it.
    Failed(String),
}

struct Inspector<'c> {
    connection: &'c Connection,
    collations: BTreeSet<String>,
    functions: BTreeSet<String>,
    notes: Vec<String>,
}

impl<'c> Inspector<'c> {
    fn new(connection: &'c Connection) -> Self {
        Self { connection, collations: BTreeSet::new(), functions: BTreeSet::new(), notes: Vec::new() }
    }

    fn run(mut self, level: Level) -> Result<Inspection> {
        self.distrust()?;
        let integrity = match level {
            Level::Full if self.is_wholly_sound()? => Integrity::Ok,
            level => self.step_by_step(level)?,
        };
        if level == Level::Full && integrity == Integrity::Ok {
            self.foreign_keys()?;
        }
        self.unknown_modules()?;
        if let Integrity::Problems(problems) = &integrity
            && problems.len() >= PROBLEM_LIMIT
        {
            self.notes.push(format!("only the first {PROBLEM_LIMIT} problems are listed"));
        }
        Ok(Inspection { integrity, notes: self.notes })
    }

    /// Says whether the deepest check runs without a stand-in and finds nothing.
    ///
    /// It does all that the quick one does, so a sound database, which is what nearly all are, need
    /// not be walked by both. What it says of any other is not asked: that is told step by step.
    fn is_wholly_sound(&mut self) -> Result<bool> {
        let outcome = self.check("integrity_check", None)?;
        let is_clean = matches!(outcome, Outcome::Lines(lines) if lines.is_empty());
        Ok(is_clean && self.collations.is_empty() && self.functions.is_empty())
    }

    /// Checks quickly first, and deeper where that found nothing.
    fn step_by_step(&mut self, level: Level) -> Result<Integrity> {
        match self.check("quick_check", None)? {
            Outcome::Damaged(problem) => Ok(Integrity::Problems(vec![problem])),
            Outcome::Failed(reason) => self.table_by_table("quick_check", &reason),
            Outcome::Lines(lines) => match self.judge(lines)? {
                Integrity::Ok if level == Level::Full => self.full(),
                verdict => Ok(verdict),
            },
        }
    }

    fn distrust(&self) -> Result<()> {
        let configure = || {
            self.connection.set_db_config(DbConfig::SQLITE_DBCONFIG_TRUSTED_SCHEMA, false)?;
            // CHECK constraints are the application's business and may call functions only it has.
            self.connection.execute_batch("PRAGMA ignore_check_constraints=1; PRAGMA cell_size_check=1")
        };
        configure().map_err(|error| image_error(Some(self.connection), error))
    }

    /// Compares every index entry with its row, where that can be believed.
    fn full(&mut self) -> Result<Integrity> {
        if self.collations.is_empty() && self.functions.is_empty() {
            return match self.check("integrity_check", None)? {
                Outcome::Damaged(problem) => Ok(Integrity::Problems(vec![problem])),
                Outcome::Failed(reason) => self.table_by_table("integrity_check", &reason),
                // A name met only now, so that the lines above may come from a stand-in.
                Outcome::Lines(_) if !self.collations.is_empty() || !self.functions.is_empty() => self.full(),
                Outcome::Lines(lines) => self.judge(lines),
            };
        }
        let tainted = self.tainted_tables()?;
        let mut problems = Vec::new();
        for table in self.ordinary_tables()? {
            if tainted.contains(&table) {
                self.notes.push(format!("indexes of table {table} not compared with its rows"));
                continue;
            }
            match self.check("integrity_check", Some(&table))? {
                Outcome::Damaged(problem) => problems.push(problem),
                Outcome::Failed(reason) => return Ok(Integrity::NotRun(format!("table {table}: {reason}"))),
                Outcome::Lines(lines) => problems.extend(lines),
            }
        }
        self.judge(problems)
    }

    /// Checks each table alone, after something (a virtual table that cannot be opened) stopped the whole.
    fn table_by_table(&mut self, pragma: &str, reason: &str) -> Result<Integrity> {
        let tainted = self.tainted_tables()?;
        let mut tables = match self.ordinary_tables() {
            Ok(tables) => tables,
            Err(_) => return Ok(Integrity::NotRun(reason.to_string())),
        };
        tables.push("sqlite_schema".into());
        let mut problems = Vec::new();
        for table in tables {
            let pragma = if tainted.contains(&table) { "quick_check" } else { pragma };
            match self.check(pragma, Some(&table))? {
                Outcome::Damaged(problem) => problems.push(problem),
                // The same failure again means that not even one table can be checked.
                Outcome::Failed(reason) => return Ok(Integrity::NotRun(format!("table {table}: {reason}"))),
                Outcome::Lines(lines) => problems.extend(lines),
            }
        }
        problems.extend(self.virtual_tables(pragma)?);
        self.notes.push(format!("tables checked one by one, unused pages not accounted for: {reason}"));
        self.judge(problems)
    }

    /// Checks the virtual tables one by one; one that cannot be checked is noted.
    fn virtual_tables(&mut self, pragma: &str) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        for (table, _) in self.pairs(VIRTUAL_TABLES)? {
            match self.check(pragma, Some(&table))? {
                Outcome::Damaged(problem) => problems.push(problem),
                Outcome::Failed(reason) => {
                    self.notes.push(format!("virtual table {table} checked as plain tables only: {reason}"));
                }
                Outcome::Lines(lines) => problems.extend(lines),
            }
        }
        Ok(problems)
    }

    /// Turns the lines of a check into the result, without those that only a stand-in can have caused.
    fn judge(&mut self, lines: Vec<String>) -> Result<Integrity> {
        let doubtful = self.doubtful_columns()?;
        let mut problems = Vec::new();
        for line in lines {
            match doubtful.iter().find(|column| line.ends_with(&format!(" value in {column}"))) {
                Some(column) => {
                    let note = format!("values of generated column {column} not verified");
                    if !self.notes.contains(&note) {
                        self.notes.push(note);
                    }
                }
                None => problems.push(line),
            }
        }
        problems.truncate(PROBLEM_LIMIT);
        Ok(if problems.is_empty() { Integrity::Ok } else { Integrity::Problems(problems) })
    }

    /// Runs one of SQLite's checks, registering a stand-in for each name it does not know.
    fn check(&mut self, pragma: &str, table: Option<&str>) -> Result<Outcome> {
        let query = match table {
            Some(table) => format!("PRAGMA main.{pragma}({})", quoted(table)),
            None => format!("PRAGMA main.{pragma}({PROBLEM_LIMIT})"),
        };
        loop {
            let error = match lines(self.connection, &query) {
                Ok(lines) => return Ok(Outcome::Lines(lines)),
                Err(error) => error,
            };
            let Some(message) = refusal(&error).filter(|message| self.stand_in(message)) else {
                return self.outcome_of(error);
            };
            tracing::debug!(message, "check repeated with a stand-in");
        }
    }

    fn outcome_of(&self, error: rusqlite::Error) -> Result<Outcome> {
        let message = refusal(&error).map_or_else(|| error.to_string(), str::to_string);
        match error.sqlite_error_code() {
            Some(ErrorCode::OperationInterrupted) => return Err(Error::Cancelled),
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                return Ok(Outcome::Damaged(message));
            }
            _ => {}
        }
        match image_error(Some(self.connection), error) {
            source @ Error::Source(_) => Err(source),
            _ => Ok(Outcome::Failed(message)),
        }
    }

    /// Registers what the message says is missing; false when it is about something else.
    fn stand_in(&mut self, message: &str) -> bool {
        match Unknown::of(message) {
            Some(Unknown::Collation(name)) => {
                self.collations.insert(name.to_string())
                    && Unknown::Collation(name).stand_in(self.connection)
                    && self.note(format!(
                        "order of index entries not verified: collation {name} is not known here"
                    ))
            }
            Some(Unknown::Function(name)) => {
                self.functions.insert(name.to_string())
                    && Unknown::Function(name).stand_in(self.connection)
                    && self.note(format!("what function {name} computes not verified: it is not known here"))
            }
            None => false,
        }
    }

    fn note(&mut self, note: String) -> bool {
        self.notes.push(note);
        true
    }

    fn ordinary_tables(&self) -> Result<Vec<String>> {
        Ok(tables(self.connection)?.into_iter().map(|table| table.name).collect())
    }

    /// Returns the tables whose indexes depend on an unknown collation or function.
    fn tainted_tables(&self) -> Result<BTreeSet<String>> {
        let mut tainted = BTreeSet::new();
        if self.collations.is_empty() && self.functions.is_empty() {
            return Ok(tainted);
        }
        // Any mention taints, also one in a comment: too many notes do less harm than a false alarm.
        let query = "SELECT tbl_name, lower(group_concat(sql, ' ')) FROM sqlite_schema \
                     WHERE type IN ('table','index') AND sql IS NOT NULL GROUP BY tbl_name";
        for (table, sql) in self.pairs(query)? {
            let mut names = self.collations.iter().chain(&self.functions);
            if names.any(|name| sql.contains(&name.to_lowercase())) {
                tainted.insert(table);
            }
        }
        Ok(tainted)
    }

    /// Returns the generated columns (`table.column`) that an unknown function may compute.
    fn doubtful_columns(&self) -> Result<Vec<String>> {
        let mut columns = Vec::new();
        if self.functions.is_empty() {
            return Ok(columns);
        }
        for table in self.tainted_tables()? {
            let query = format!("SELECT name, hidden FROM pragma_table_xinfo({})", literal(&table));
            for (column, hidden) in self.pairs(&query)? {
                // 2: computed when read; what was stored (3) is in the file and was checked.
                if hidden == "2" {
                    columns.push(format!("{table}.{column}"));
                }
            }
        }
        Ok(columns)
    }

    /// Notes rows that point to nothing: wrong for the application, but not damage.
    fn foreign_keys(&mut self) -> Result<()> {
        let limit = 1000;
        let query = format!("SELECT count(*) FROM (SELECT 1 FROM pragma_foreign_key_check LIMIT {limit})");
        match self.connection.query_row(&query, [], |row| row.get::<_, i64>(0)) {
            Ok(0) => {}
            Ok(found) => {
                let least = if found == limit { "at least " } else { "" };
                self.notes.push(format!("{least}{found} rows violate a foreign key"));
            }
            Err(error) => match self.outcome_of(error)? {
                Outcome::Damaged(reason) | Outcome::Failed(reason) => {
                    self.notes.push(format!("foreign keys not checked: {reason}"));
                }
                Outcome::Lines(_) => {}
            },
        }
        Ok(())
    }

    fn unknown_modules(&mut self) -> Result<()> {
        // A schema that cannot be read was reported by the check itself.
        let Ok(virtual_tables) = self.pairs(VIRTUAL_TABLES) else { return Ok(()) };
        let known: BTreeSet<String> = self
            .pairs("SELECT lower(name), '' FROM pragma_module_list")?
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        for (table, sql) in virtual_tables {
            match module_of(&sql) {
                Some(module) if known.contains(&module.to_lowercase()) => {}
                Some(module) => self.notes.push(format!(
                    "virtual table {table} checked as plain tables only: module {module} is not known here"
                )),
                None => self.notes.push(format!("virtual table {table} checked as plain tables only")),
            }
        }
        Ok(())
    }

    fn pairs(&self, query: &str) -> Result<Vec<(String, String)>> {
        let run = || {
            let mut statement = self.connection.prepare(query)?;
            let rows = statement.query_map([], |row| Ok((text(row, 0)?, text(row, 1)?)))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        run().map_err(|error| image_error(Some(self.connection), error))
    }
}

fn lines(connection: &Connection, query: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare(query)?;
    let mut rows = statement.query([])?;
    let mut lines = Vec::new();
    while let Some(row) = rows.next()? {
        // One row may hold several findings about one tree, under a headline.
        let finding = text(row, 0)?;
        lines.extend(
            finding
                .lines()
                .filter(|line| *line != "ok" && !line.starts_with("*** in database"))
                .map(str::to_string),
        );
    }
    lines.truncate(PROBLEM_LIMIT);
    Ok(lines)
}

/// Returns SQLite's own words for a failed statement.
pub(crate) fn refusal(error: &rusqlite::Error) -> Option<&str> {
    match error {
        rusqlite::Error::SqliteFailure(_, message) => message.as_deref(),
        rusqlite::Error::SqlInputError { msg, .. } => Some(msg),
        _ => None,
    }
}

/// What a schema needs and only the application has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown<'m> {
    /// A collation.
    Collation(&'m str),
    /// A function.
    Function(&'m str),
}

impl<'m> Unknown<'m> {
    /// Reads SQLite's complaint.
    pub(crate) fn of(message: &'m str) -> Option<Self> {
        let collation = message.strip_prefix("no such collation sequence: ").map(Self::Collation);
        collation.or_else(|| missing_function(message).map(Self::Function))
    }

    /// Registers something of that name, so that what does not depend on what it does goes on.
    pub(crate) fn stand_in(self, connection: &Connection) -> bool {
        match self {
            // Byte order is a valid order, so the trees can be walked.
            Self::Collation(name) => connection.create_collation(name, str::cmp).is_ok(),
            Self::Function(name) => {
                let flags = FunctionFlags::SQLITE_UTF8
                    | FunctionFlags::SQLITE_DETERMINISTIC
                    | FunctionFlags::SQLITE_INNOCUOUS;
                connection.create_scalar_function(name, -1, flags, |_| Ok(Null)).is_ok()
            }
        }
    }
}

/// Returns the name in SQLite's complaint about a function.
fn missing_function(message: &str) -> Option<&str> {
    let rest = ["unknown function: ", "no such function: ", "unsafe use of "]
        .iter()
        .find_map(|start| message.strip_prefix(start))?;
    let name = rest.split('(').next()?.trim();
    (!name.is_empty() && !name.starts_with("virtual table")).then_some(name)
}

/// Returns the module named in a CREATE VIRTUAL TABLE statement.
fn module_of(sql: &str) -> Option<&str> {
    let at = sql.to_ascii_lowercase().find(" using ")?;
    let rest = sql.get(at + " using ".len()..)?.trim_start();
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    rest.get(..end).filter(|name| !name.is_empty())
}

/// Returns `text` as an SQL literal.
fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests;
