//! What a database says after the command: the integrity check, and the queries that were given.

use std::path::Path;

use dbkeep_sqlite::capture::{Capture, CaptureOptions, Method};
use dbkeep_sqlite::inspect::with_interrupt;
use rusqlite::Connection;

use super::record::Phase;
use super::{Program, Run};
use crate::drill::ask;
use crate::drill::assertion::Answer;
use crate::integrity::{Verify, look};
use crate::manifest::IntegrityResult;
use crate::report::{GuardCheck, GuardReport};
use crate::source::Place;
use crate::{Error, ErrorKind, Result};

/// What was found at one database.
pub(super) struct Judged {
    /// `ok`, `not run`, or the first problem.
    pub(super) integrity: String,
    pub(super) checks: Vec<GuardCheck>,
    /// Why the command counts as failed.
    pub(super) failure: Option<String>,
}

impl Run<'_> {
    /// Asks every database whether it is sound and says what it should. Where one is not, the command has failed, and what
    /// is left of it ends.
    pub(super) fn judge_all(&mut self, program: &mut Program<'_>, report: &mut GuardReport) -> Result<()> {
        self.ask_all(report)?;
        if report.check_failed {
            let was_alive = program.is_alive();
            self.end_rest(program, report);
            if was_alive {
                self.take_stands();
            }
        }
        Ok(())
    }

    /// Asks the databases until one speaks against the command.
    pub(super) fn ask_all(&mut self, report: &mut GuardReport) -> Result<()> {
        for place in 0..self.databases.len() {
            if report.failure.is_none() {
                self.judge_one(place, report)?;
            }
        }
        if let Some(why) = report.failure.as_ref().filter(|_| report.check_failed) {
            self.record.phase = Phase::Failed { why: why.clone() };
            self.note(&self.record);
        }
        Ok(())
    }

    /// Asks one database. What speaks against it is a failure of the command, whatever that says.
    fn judge_one(&self, place: usize, report: &mut GuardReport) -> Result<()> {
        let judged = self.judge(place)?;
        let told = &mut report.databases[place];
        told.integrity = judged.integrity;
        told.checks = judged.checks;
        if let Some(failure) = judged.failure {
            report.failure = Some(format!("{}: {failure}", told.name));
            report.check_failed = true;
        }
        Ok(())
    }

    /// Looks at one database. That it cannot be looked at is a failure of the command too: it could be before.
    pub(super) fn judge(&self, place: usize) -> Result<Judged> {
        let database = &self.databases[place];
        let checks = self.checks_of(&database.source.name);
        let looked = match &database.source.place {
            Place::File(path) => self.judge_file(path, &checks),
            Place::Server(server) => self.judge_server(server, &checks),
        };
        match looked {
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let why = error.full_message();
                Ok(Judged { integrity: "not run".to_owned(), checks: Vec::new(), failure: Some(why) })
            }
            judged => judged,
        }
    }

    /// Returns the queries for a database: those without a name, and those with its own.
    fn checks_of(&self, name: &str) -> Vec<String> {
        let names: Vec<&str> = self.databases.iter().map(|one| one.source.name.as_str()).collect();
        self.checks.iter().filter_map(|check| check_for(check, name, &names)).map(str::to_owned).collect()
    }

    fn judge_file(&self, path: &Path, checks: &[String]) -> Result<Judged> {
        let (judged, method) = self.judge_captured(path, checks, None)?;
        match method {
            // It was looked at without a lock, so what was found may be a commit of somebody's that was under way.
            Method::TwoPass if judged.failure.is_some() => {
                Ok(self.judge_captured(path, checks, Some(Method::LockedImage))?.0)
            }
            _ => Ok(judged),
        }
    }

    fn judge_captured(
        &self,
        path: &Path,
        checks: &[String],
        method: Option<Method>,
    ) -> Result<(Judged, Method)> {
        let options = CaptureOptions {
            busy_timeout: self.store.context().lock_patience,
            force_method: method,
            ..CaptureOptions::default()
        };
        let mut capture = Capture::open(path, &options)?;
        let method = capture.method();
        let inspection = capture.inspection()?;
        let Some(connection) = inspection.as_ref().or_else(|| capture.connection()) else {
            return Err(Error::Unsupported {
                what: format!("{} cannot be looked into", path.display()),
                hint: Some("`dbkeep doctor` says more".to_owned()),
            });
        };
        // The integrity check leaves stand-ins behind, which no query of the user's should meet.
        let checks = asked(connection, checks, &|| self.watch.cancelled())?;
        let looked = look(connection, Verify::Quick, &|| self.watch.cancelled())?;
        let damage = (looked.integrity.result == IntegrityResult::Corrupt)
            .then(|| format!("the database is damaged: {}", looked.integrity.summary()));
        let failure = damage.or_else(|| unmet(&checks));
        Ok((Judged { integrity: looked.integrity.summary(), checks, failure }, method))
    }
}

/// Asks a SQLite database.
fn asked(
    connection: &Connection,
    checks: &[String],
    cancelled: &(dyn Fn() -> bool + Sync),
) -> Result<Vec<GuardCheck>> {
    let answers = with_interrupt(connection, cancelled, || {
        Ok(checks.iter().map(|sql| ask(connection, sql)).collect::<Vec<_>>())
    })?;
    let answer =
        |answer: rusqlite::Result<Answer>| answer.unwrap_or_else(|error| Answer::Not(error.to_string()));
    Ok(checks.iter().zip(answers).map(|(sql, found)| judged(sql, answer(found))).collect())
}

/// Returns the query of a check that is for this database: `NAME: QUERY` is for one of them, every other for all.
fn check_for<'c>(check: &'c str, name: &str, names: &[&str]) -> Option<&'c str> {
    match check.split_once(':') {
        Some((of, sql)) if names.contains(&of.trim()) => (of.trim() == name).then(|| sql.trim()),
        _ => Some(check),
    }
}

/// Compares an answer with what a check wants: one value that says yes.
pub(super) fn judged(sql: &str, answer: Answer) -> GuardCheck {
    let (found, ok) = match answer {
        Answer::Value(None) => ("NULL".to_owned(), false),
        Answer::Value(Some(value)) => {
            let no = ["", "0", "0.0", "f", "false"].iter().any(|no| value.eq_ignore_ascii_case(no));
            (value, !no)
        }
        Answer::Not(why) => (why, false),
    };
    GuardCheck { sql: sql.to_owned(), found: crate::name::printable(&found), ok }
}

/// Returns the first check that failed, in words.
pub(super) fn unmet(checks: &[GuardCheck]) -> Option<String> {
    checks
        .iter()
        .find(|check| !check.ok)
        .map(|check| crate::name::printable(&format!("the check {:?} answers {:?}", check.sql, check.found)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_that_says_yes_meets_a_check() {
        let ok = |value: Option<&str>| judged("q", Answer::Value(value.map(str::to_owned))).ok;
        for value in ["1", "7", "-1", "t", "true", "ok", "0.5"] {
            assert!(ok(Some(value)), "{value}");
        }
        for value in [None, Some("0"), Some("0.0"), Some(""), Some("f"), Some("FALSE")] {
            assert!(!ok(value), "{value:?}");
        }
        assert!(!judged("q", Answer::Not("no row".to_owned())).ok);
    }

    #[test]
    fn check_with_a_name_is_for_that_database_alone() {
        let names = ["app", "cache"];
        assert_eq!(check_for("cache: SELECT 1", "cache", &names), Some("SELECT 1"));
        assert_eq!(check_for("cache: SELECT 1", "app", &names), None);
        for all in ["SELECT 1", "SELECT ':' = ':'", "other: x"] {
            assert_eq!(check_for(all, "app", &names), Some(all));
        }
    }
}
