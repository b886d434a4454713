//! A change of databases by the program itself, which is undone when it fails.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;

use jiff::Timestamp;

use super::options::text;
use super::outcome::Outcome as _;
use super::{Keeper, Result};
use crate::guard::{self, Choice, GuardRequest, OnFailure, Resume};
use crate::report::GuardReport;

/// What to guard, and how.
///
/// ```
/// use dbkeep_engine::keeper::GuardOptions;
///
/// let all_configured = GuardOptions::new();
/// let one = GuardOptions::new().source("app").check("SELECT count(*) > 0 FROM users").label("v2");
/// ```
#[derive(Clone, Debug, Default)]
pub struct GuardOptions {
    sources: Vec<OsString>,
    request: GuardRequest,
}

impl GuardOptions {
    /// Means all configured databases, which are brought back when the change fails.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a source, as in [`BackupOptions::source`](super::BackupOptions::source).
    #[must_use]
    pub fn source(mut self, source: impl AsRef<OsStr>) -> Self {
        self.sources.push(source.as_ref().to_owned());
        self
    }

    /// Sets a tag of the snapshots.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.request.label = Some(label.into());
        self
    }

    /// Adds a query that has to say yes after the change, on every database; with `NAME:` before it on one.
    #[must_use]
    pub fn check(mut self, sql: impl Into<String>) -> Self {
        self.request.checks.push(sql.into());
        self
    }

    /// Says whether what a failed change did is kept instead of undone.
    #[must_use]
    pub fn keep(mut self, keep: bool) -> Self {
        self.request.on_failure = if keep { OnFailure::Keep } else { OnFailure::Restore };
        self
    }

    fn request(&self) -> Result<GuardRequest> {
        let sources = self.sources.iter().map(|source| text(source)).collect::<Result<_>>()?;
        Ok(GuardRequest { sources, ..self.request.clone() })
    }
}

/// What becomes of databases whose guard was killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Undecided {
    /// What can be shown to be right is done. Otherwise they stay as they are, and so does the record: the report has an
    /// error that says what to decide.
    #[default]
    Report,
    /// They go back to how they were before the change, whoever else wrote. What is there is backed up first.
    Restore,
    /// They stay as they are, for good, also where one of several was back already.
    Keep,
}

/// A change that succeeded.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Guarded<T> {
    /// What the change returned.
    pub value: T,
    /// What it changed, and the backup from before.
    pub report: GuardReport,
}

impl Keeper {
    /// Explains and finishes guards that were killed, with their process or with the machine: until then the next guard of
    /// these databases is refused. One report each; its `error` says where somebody has to decide.
    ///
    /// ```
    /// use dbkeep_engine::keeper::Undecided;
    /// # use dbkeep_engine::KeyCost;
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let keeper = Keeper::open(settings.key_cost(KeyCost::Cheap))?;
    ///
    /// for report in keeper.resume_guards(Undecided::Report)? {
    ///     let decide = report.error.map(|error| error.message);
    ///     println!("{}: {:?} {}", report.session, report.outcome, decide.unwrap_or_default());
    /// }
    /// # Ok(()) }
    /// ```
    pub fn resume_guards(&self, undecided: Undecided) -> Result<Vec<GuardReport>> {
        let on_failure = match undecided {
            Undecided::Report => None,
            Undecided::Restore => Some(OnFailure::Restore),
            Undecided::Keep => Some(OnFailure::Keep),
        };
        let request = Resume { sources: Vec::new(), on_failure };
        let keep = |_: &GuardReport| Ok(Choice::Keep);
        Ok(guard::resume(&self.context, &request, &keep, Timestamp::now(), &self.watch)?)
    }

    /// Backs databases up, reads the backup back, and only then lets the program change them. When the change fails,
    /// or a check after it, they are brought back: where it can be shown that nobody but this process wrote.
    ///
    /// The error of a change that failed has its report, which says whether the databases are as before.
    ///
    /// ```
    /// use dbkeep_engine::ErrorKind;
    /// use dbkeep_engine::keeper::GuardOptions;
    /// use rusqlite::Connection;
    /// # use dbkeep_engine::KeyCost;
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # Connection::open(&path)?.execute_batch("CREATE TABLE users(name); INSERT INTO users VALUES('ada')")?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let keeper = Keeper::open(settings.key_cost(KeyCost::Cheap).sqlite("app", &path))?;
    ///
    /// let migrate = |sql: &str| Connection::open(&path)?.execute_batch(sql);
    /// keeper.guard(&GuardOptions::new(), || migrate("ALTER TABLE users ADD COLUMN age"))?;
    ///
    /// let half_way = "DELETE FROM users; ALTER TABLE absent ADD COLUMN x";
    /// let error = keeper.guard(&GuardOptions::new(), || migrate(half_way)).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::CommandFailed);
    /// let users: i64 = Connection::open(&path)?.query_row("SELECT count(*) FROM users", [], |row| row.get(0))?;
    /// assert_eq!(users, 1);
    /// # Ok(()) }
    /// ```
    pub fn guard<T, E: Display>(
        &self,
        options: &GuardOptions,
        change: impl FnOnce() -> std::result::Result<T, E>,
    ) -> Result<Guarded<T>> {
        let (mut change, mut value) = (Some(change), None);
        let mut task = guard::closure(|| match change.take() {
            Some(change) => change().map(|done| value = Some(done)).map_err(|error| error.to_string()),
            None => Err("it ran before".to_owned()),
        });
        // A library asks nobody.
        let keep = |_: &GuardReport| Ok(Choice::Keep);
        let request = options.request()?;
        let report = guard::run(&self.context, &request, &mut task, &keep, Timestamp::now(), &self.watch)?;
        let report = report.settle()?;
        match value {
            Some(value) => Ok(Guarded { value, report }),
            None => Err(crate::Error::usage("the change was not run", "guard it again").into()),
        }
    }
}
