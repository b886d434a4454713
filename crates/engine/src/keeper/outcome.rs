//! When a report is a success: exactly where the command line ends with 0.

use super::{Error, Report, Result};
use crate::ErrorKind;
use crate::report::{
    BackupReport, BackupStatus, ErrorReport, ForgetReport, GuardOutcome, GuardReport, PolicyReport,
    RestoreReport, SessionRestoreReport, VerifyReport, VerifyStatus,
};

/// A report that says whether all went well.
pub(super) trait Outcome: Sized {
    /// Returns what the command line ends with.
    fn exit_code(&self) -> u8;

    /// Returns what did not go well. Called where something did not.
    fn problem(&self) -> ErrorReport;

    /// Returns the report as an error carries it.
    fn into_report(self) -> Report;

    /// Returns the report where all went well, else the error with the report in it.
    fn settle(self) -> Result<Self> {
        match self.exit_code() {
            0 => Ok(self),
            _ => Err(Error::of_report(self.problem(), self.into_report())),
        }
    }
}

impl Outcome for BackupReport {
    fn exit_code(&self) -> u8 {
        self.exit_code()
    }

    fn problem(&self) -> ErrorReport {
        let databases = self.databases.iter().filter_map(|one| one.error.as_ref());
        let failed: Vec<&ErrorReport> =
            databases.chain(self.copies.iter().filter_map(|copy| copy.error.as_ref())).collect();
        if let Some(error) = &self.error {
            return error.clone();
        }
        if !failed.is_empty() {
            return some_failed(&failed, self.databases.len() + self.copies.len(), "databases and copies");
        }
        let corrupt = self.databases.iter().filter(|one| one.status == BackupStatus::Corrupt);
        let told: Vec<String> = corrupt.map(|one| format!("{}: {}", one.name, one.integrity)).collect();
        finding(
            ErrorKind::Damaged,
            format!("stored as it is, and damaged: {}", told.join("; ")),
            "an older snapshot may be good; this one never counts as good",
        )
    }

    fn into_report(self) -> Report {
        Report::Backup(Box::new(self))
    }
}

impl Outcome for RestoreReport {
    fn exit_code(&self) -> u8 {
        self.exit_code()
    }

    fn problem(&self) -> ErrorReport {
        self.error.clone().unwrap_or_else(|| {
            finding(
                ErrorKind::Damaged,
                format!(
                    "{} was restored as it was stored, and is damaged: {}",
                    self.database, self.integrity
                ),
                "choose an older snapshot",
            )
        })
    }

    fn into_report(self) -> Report {
        Report::Restore(Box::new(self))
    }
}

impl Outcome for SessionRestoreReport {
    fn exit_code(&self) -> u8 {
        self.exit_code()
    }

    fn problem(&self) -> ErrorReport {
        if let Some(error) = &self.error {
            return error.clone();
        }
        let failed: Vec<&ErrorReport> = self.restores.iter().filter_map(|one| one.error.as_ref()).collect();
        match failed.is_empty() {
            false => some_failed(&failed, self.restores.len(), "databases"),
            true => {
                let damaged = self.restores.iter().find(|one| one.exit_code() != 0);
                damaged.map_or_else(nothing_known, Outcome::problem)
            }
        }
    }

    fn into_report(self) -> Report {
        Report::RestoreSession(Box::new(self))
    }
}

impl Outcome for VerifyReport {
    fn exit_code(&self) -> u8 {
        self.exit_code()
    }

    fn problem(&self) -> ErrorReport {
        let bad = self.checked.iter().filter(|one| one.status != VerifyStatus::Ok);
        let told: Vec<String> = bad
            .map(|one| {
                let why = one.findings.first().map_or("damaged", String::as_str);
                format!("{} {}: {why}", one.database, one.snapshot.short())
            })
            .collect();
        let total = self.checked.len();
        finding(
            ErrorKind::Damaged,
            format!("{} of {total} snapshots cannot be trusted: {}", self.damaged, told.join("; ")),
            "take a new backup now, then see what else is affected with `dbkeep check --read-data`",
        )
    }

    fn into_report(self) -> Report {
        Report::Verify(Box::new(self))
    }
}

impl Outcome for PolicyReport {
    fn exit_code(&self) -> u8 {
        self.exit_code()
    }

    fn problem(&self) -> ErrorReport {
        if let Some(error) = self.copies.iter().find_map(|copy| copy.error.as_ref()) {
            return error.clone();
        }
        let places = std::iter::once(&self.here).chain(self.copies.iter().map(|copy| &copy.report));
        let why = |report: &ForgetReport| {
            let frozen = report.frozen.first().map(|one| format!("{}: {}", one.database, one.why));
            frozen.or_else(|| report.refused.first().map(|one| format!("{}: {}", one.id.short(), one.why)))
        };
        match places.filter_map(why).next() {
            Some(why) => finding(
                ErrorKind::Refused,
                format!("not everything was forgotten: {why}"),
                "look at it; named snapshots are forgotten by force, and a policy where what was found is accepted",
            ),
            None => nothing_known(),
        }
    }

    fn into_report(self) -> Report {
        Report::Forget(Box::new(self))
    }
}

impl Outcome for GuardReport {
    fn exit_code(&self) -> u8 {
        self.exit_code()
    }

    fn problem(&self) -> ErrorReport {
        if let Some(error) = &self.error {
            return error.clone();
        }
        let kind = if self.check_failed { ErrorKind::CheckFailed } else { ErrorKind::CommandFailed };
        let why = self.failure.as_deref().unwrap_or("it is not known what became of it");
        let (message, hint) = match self.outcome {
            GuardOutcome::Restored => (
                format!("the change failed, and every database is as it was before: {why}"),
                "what it left is kept as a snapshot: see `dbkeep list`".to_owned(),
            ),
            _ => (
                format!("the change failed, and what it did is kept: {why}"),
                format!("to go back: `dbkeep restore --session {} --in-place`", self.session),
            ),
        };
        ErrorReport { kind: kind.word().to_owned(), message, hint: Some(hint), exit_code: 1 }
    }

    fn into_report(self) -> Report {
        Report::Guard(Box::new(self))
    }
}

/// Returns one error for several of many: their own, or one that says how many.
fn some_failed(errors: &[&ErrorReport], total: usize, of_what: &str) -> ErrorReport {
    let [first, rest @ ..] = errors else { return nothing_known() };
    if rest.is_empty() {
        return (*first).clone();
    }
    let is_alike = rest.iter().all(|error| error.kind == first.kind);
    ErrorReport {
        kind: if is_alike { first.kind.clone() } else { ErrorKind::SomeFailed.word().to_owned() },
        message: format!("{} of {total} {of_what} failed; the first: {}", errors.len(), first.message),
        hint: first.hint.clone(),
        exit_code: 3,
    }
}

fn finding(kind: ErrorKind, message: String, hint: &str) -> ErrorReport {
    ErrorReport { kind: kind.word().to_owned(), message, hint: Some(hint.to_owned()), exit_code: 4 }
}

/// For a report that is not good and does not say why: there is none, but nothing may be called good for that.
fn nothing_known() -> ErrorReport {
    finding(ErrorKind::SomeFailed, "not all of it was done".to_owned(), "the report tells what was")
}
