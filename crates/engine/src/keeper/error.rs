//! The error of a keeper: what went wrong, what to do, and what was done all the same.

use std::fmt;

use crate::ErrorKind;
use crate::report::{
    BackupReport, ErrorReport, GuardReport, PolicyReport, RestoreReport, SessionRestoreReport, VerifyReport,
};

/// The result of an operation of a keeper.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation did not do all that it was asked for, or found something that needs eyes.
///
/// Its text is one sentence, without what caused it; `{:#}` adds the causes, and [`source`](std::error::Error::source)
/// leads to them.
///
/// ```
/// use dbkeep_engine::ErrorKind;
/// use dbkeep_engine::keeper::{Keeper, ListOptions, Settings};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state"));
///
/// let keeper = Keeper::open(settings.password("secret"))?;
/// let error = keeper.list(&ListOptions::new()).unwrap_err();
/// match error.kind() {
///     ErrorKind::NoRepository => println!("nothing was ever backed up"),
///     _ => return Err(error.into()),
/// }
/// assert!(error.hint().is_some());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    cause: Option<crate::Error>,
    report: Option<Report>,
}

/// What was done in spite of an error.
///
/// ```
/// use dbkeep_engine::keeper::{BackupOptions, Keeper, Report, Settings};
/// # use dbkeep_engine::KeyCost;
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("app.db");
/// # rusqlite::Connection::open(&path)?.execute_batch("CREATE TABLE users(name)")?;
/// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
/// # let keeper = Keeper::open(settings.key_cost(KeyCost::Cheap))?;
///
/// let both = BackupOptions::new().source(&path).source(folder.path().join("absent.db"));
/// let error = keeper.backup(&both).unwrap_err();
/// let Some(Report::Backup(report)) = error.report() else { return Err(error.into()) };
/// assert!(report.databases[0].snapshot.is_some(), "one failed, the other one is stored");
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Report {
    /// Of a backup.
    Backup(Box<BackupReport>),
    /// Of a restore.
    Restore(Box<RestoreReport>),
    /// Of the restore of a session.
    RestoreSession(Box<SessionRestoreReport>),
    /// Of a verification.
    Verify(Box<VerifyReport>),
    /// Of what a policy dropped.
    Forget(Box<PolicyReport>),
    /// Of a change that was guarded.
    Guard(Box<GuardReport>),
}

impl Error {
    /// Makes the error of a report that is not all good.
    pub(super) fn of_report(error: ErrorReport, report: Report) -> Self {
        // Every report of this version has one of its words.
        let kind = ErrorKind::of_word(&error.kind).unwrap_or(ErrorKind::Repository);
        let message = error.message;
        Self(Box::new(Inner {
            kind,
            message,
            hint: hint(kind, error.hint),
            cause: None,
            report: Some(report),
        }))
    }

    /// Returns what went wrong, as a word that programs can rely on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Returns what a person can do about it, where we know. Hints speak of the options of the command line.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// Returns what was done all the same; `None` where nothing was begun.
    pub fn report(&self) -> Option<&Report> {
        self.0.report.as_ref()
    }

    /// Returns the error of the operation behind, for what this one does not tell; `None` where a report tells all.
    /// Its variants may change with every version.
    pub fn cause(&self) -> Option<&crate::Error> {
        self.0.cause.as_ref()
    }
}

impl From<crate::Error> for Error {
    fn from(error: crate::Error) -> Self {
        let (kind, message) = (error.kind(), error.to_string());
        Self(Box::new(Inner {
            kind,
            message,
            hint: hint(kind, error.hint()),
            cause: Some(error),
            report: None,
        }))
    }
}

/// Returns the hint of an error, else that of its kind.
fn hint(kind: ErrorKind, of_error: Option<String>) -> Option<String> {
    of_error.or_else(|| kind.usual_hint().map(str::to_owned))
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.cause {
            Some(cause) if out.alternate() => out.write_str(&cause.full_message()),
            _ => out.write_str(&self.0.message),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.as_ref()?.source()
    }
}
