//! Whether a database can be backed up: completely, by this user, with these programs.
//!
//! Everything is asked and nothing is changed. What could not be asked is a finding too: silence means that something was
//! looked at and is right.

mod address;
mod contents;
mod pace;
pub(crate) mod pooler;
mod programs;
mod rights;
mod server;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, Name, OLDEST, Table};
use crate::conninfo::ConnInfo;
use crate::facts::Facts;
use crate::globals::Globals;
use crate::schema::Filter;
use crate::snapshot::begin;
use crate::wire::{Connection, Options, Row};
use crate::{Error, Result};

pub use address::Service;
pub use pooler::Pooler;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// It was looked at and is right.
    Ok,
    /// Good to know.
    Note,
    /// A backup can be made, but something about it may surprise.
    Warning,
    /// A backup fails, or is not complete.
    Problem,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is about: a table, a role, `connection`, `pg_dump`.
    pub subject: String,
    /// What is so, in one line.
    pub message: String,
    /// What to do: a command where there is one.
    pub advice: Option<String>,
}

impl Finding {
    fn new(severity: Severity, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self { severity, subject: subject.into(), message: message.into(), advice: None }
    }

    fn ok(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Ok, subject, message)
    }

    fn note(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Note, subject, message)
    }

    fn warning(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, subject, message)
    }

    fn problem(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Severity::Problem, subject, message)
    }

    fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// What is examined, and for which backup.
#[derive(Debug)]
pub struct Request<'a> {
    /// How the database is reached.
    pub info: &'a ConnInfo,
    /// How connections behave.
    pub options: &'a Options,
    /// Which part of it is to be backed up.
    pub filter: &'a Filter,
    /// Tables of it whose rows are left out.
    pub without_rows: &'a [Name],
    /// How many connections will read.
    pub jobs: usize,
    /// The folder of the programs, where one is named.
    pub programs: Option<&'a Path>,
    /// The PATH.
    pub path: Option<&'a OsString>,
    /// For how long at most the reading of rows is tried, to say how long all of it takes.
    pub sample: Duration,
}

impl Request<'_> {
    /// Returns whether the rows of a table are to be read.
    fn reads(&self, table: &Table) -> bool {
        table.has_rows() && self.filter.takes(&table.name) && !self.without_rows.contains(&table.name)
    }
}

/// Examines a database. What is found is put into `findings`, also before an error.
///
/// # Errors
/// When it cannot be reached, or the connection is lost.
pub fn examine(request: &Request<'_>, findings: &mut Vec<Finding>) -> Result<()> {
    let mut connection = Connection::open(request.info, request.options)?;
    let facts = match Facts::read(&mut connection) {
        Err(error @ Error::NotUtf8) => {
            let finding = Finding::problem("server", error.to_string());
            findings.push(Finding { advice: error.hint(), ..finding });
            return Ok(());
        }
        facts => facts?,
    };
    if facts.version_number < OLDEST {
        let message = format!(
            "PostgreSQL {} is too old: the oldest that is understood is {}",
            facts.version,
            OLDEST / 10_000
        );
        findings.push(
            Finding::problem("server", message)
                .advise("upgrade the server, or use the pg_dump of its version"),
        );
        return Ok(());
    }
    findings.extend(address::protection(&connection, &facts));
    findings.extend(pooler::examine(request, &mut connection)?);
    findings.extend(programs::examine(request, &facts));
    let mut examination = Examination { request, connection, facts, findings };
    examination.ask("server", |connection, _, facts| server::examine(connection, facts, request.jobs))?;
    examination
        .ask("service", |connection, catalog, facts| address::service(connection, catalog, facts, request))?;
    // A backup reads them; there is something to say only where it could not.
    examination.ask("globals", |connection, _, _| Globals::read(connection).map(|_| Vec::new()))?;
    examination
        .ask("rights", |connection, catalog, facts| rights::examine(connection, catalog, facts, request))?;
    examination.ask("contents", |connection, catalog, facts| {
        contents::examine(connection, catalog, facts, request)
    })?;
    examination.ask("size", |_, catalog, _| pace::examine(catalog, request))
}

struct Examination<'a> {
    request: &'a Request<'a>,
    connection: Connection,
    facts: Facts,
    findings: &'a mut Vec<Finding>,
}

impl Examination<'_> {
    /// Asks in a transaction of its own, so that an error of the server ends one question and not all.
    fn ask(
        &mut self,
        subject: &str,
        question: impl FnOnce(&mut Connection, &Catalog, &Facts) -> Result<Vec<Finding>>,
    ) -> Result<()> {
        begin(&mut self.connection, None)?;
        let asked = Catalog::read(&mut self.connection)
            .and_then(|catalog| question(&mut self.connection, &catalog, &self.facts));
        match asked {
            Ok(findings) => self.findings.extend(findings),
            Err(error @ (Error::Server(_) | Error::Changed { .. } | Error::NotUtf8)) => {
                let message = format!("this could not be looked at: {error}");
                let finding = Finding::new(Severity::Problem, subject, message);
                self.findings.push(Finding { advice: error.hint(), ..finding });
            }
            Err(error) => return Err(error),
        }
        if (self.request.options.stop)() {
            return Err(Error::Stopped);
        }
        self.connection.execute("ROLLBACK")
    }
}

/// Returns a value of an answer; an empty text for NULL.
fn text(row: &Row, column: usize) -> &str {
    row.get(column).and_then(Option::as_deref).unwrap_or_default()
}

/// Returns names for people: the first of them, and how many more there are.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 10;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    match names.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        Some(more) => format!("{shown} and {more} more"),
        None => shown,
    }
}

/// Returns a count with its noun.
fn count(count: usize, noun: &str) -> String {
    match (count, noun.strip_suffix('x')) {
        (1, _) => format!("1 {noun}"),
        (_, Some(_)) => format!("{count} {noun}es"),
        _ => format!("{count} {noun}s"),
    }
}
