//! dbkeep for programs: a [`Keeper`] keeps databases in a repository, and brings them back.
//!
//! This module, the [reports](crate::report) and [`ErrorKind`](crate::ErrorKind) are what a program can rely on
//! (`docs/design/library.md`). There is no global state: a keeper knows what its [`Settings`] say and nothing else. It
//! never prints, asks nobody, and ends no process. All of it may be used by several threads at once, by several
//! keepers in a process, and by several processes.
//!
//! An operation is a *success exactly where the command line ends with 0*: everything that was asked for is done, and
//! nothing needs eyes. Otherwise it is an [`Error`], and where something was done all the same,
//! [`Error::report`] says what. So a backup of which a part failed cannot be mistaken for one that is there.
//!
//! ```
//! use dbkeep_engine::keeper::{BackupOptions, Keeper, RestoreOptions, Settings, VerifyOptions};
//! # use dbkeep_engine::KeyCost;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let at = |name: &str| folder.path().join(name).display().to_string();
//! # rusqlite::Connection::open(at("app.db"))?.execute_batch("CREATE TABLE users(name)")?;
//!
//! let settings = Settings::new(at("backups"), at("state")).password("secret").sqlite("app", at("app.db"));
//! # let settings = settings.key_cost(KeyCost::Cheap);
//! let keeper = Keeper::open(settings)?;
//!
//! let backup = keeper.backup(&BackupOptions::new())?;
//! keeper.verify(&VerifyOptions::new().session(&backup.session))?;
//! keeper.restore(&RestoreOptions::new().database("app").to(at("restored.db")))?;
//! # Ok(()) }
//! ```

mod error;
mod guard;
mod options;
mod outcome;
mod progress;
mod settings;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use dbkeep_repo::{Id, Unobserved};
use jiff::Timestamp;

use crate::context::{Context, Watch};
use crate::report::{
    BackupReport, CompareReport, ListReport, PolicyReport, RestoreOutcome, RestoreReport,
    SessionRestoreReport, StatusReport, VerifyReport,
};
use crate::repository::{self, Store};
use crate::restore::{RestorePlan, RestoreRequest};
use crate::{backup, compare, forget, list, restore, status, verify};

pub use error::{Error, Report, Result};
pub use guard::{GuardOptions, Guarded, Undecided};
pub use options::{BackupOptions, CompareOptions, ForgetOptions, ListOptions, RestoreOptions, VerifyOptions};
use outcome::Outcome as _;
pub use progress::{Phase, Progress};
pub use settings::Settings;

/// Keeps databases in a repository, and brings them back. Cheap to clone; clones are one.
#[derive(Clone)]
pub struct Keeper {
    context: Arc<Context>,
    watch: Watch,
}

/// A backup that was read back before anything else is done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SafetyBackup {
    /// The session of its snapshots, for [`Keeper::restore_session`].
    pub session: String,
    /// What was stored.
    pub backup: BackupReport,
    /// What was read back.
    pub proof: VerifyReport,
}

impl SafetyBackup {
    /// Returns its snapshots, one a database.
    pub fn snapshots(&self) -> impl Iterator<Item = Id> + '_ {
        self.backup.databases.iter().filter_map(|one| one.snapshot)
    }
}

impl Keeper {
    /// Opens a repository, or finds that the first backup may make one.
    ///
    /// The first backup makes a repository where the place is empty, nothing was ever seen there, and the settings
    /// give a password. A place where a repository was, and is gone, is an error of the kind
    /// [`RepositoryGone`](crate::ErrorKind::RepositoryGone) as long as none of its copies can stand in for it.
    ///
    /// Each operation opens the repository anew, so one that comes later sees what is there then. That takes the time
    /// to try a password: about a tenth of a second.
    ///
    /// ```
    /// use dbkeep_engine::ErrorKind;
    /// use dbkeep_engine::keeper::{Keeper, Settings};
    /// # use dbkeep_engine::KeyCost;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # let sql = "CREATE TABLE users(name); INSERT INTO users VALUES('ada')";
    /// # rusqlite::Connection::open(&path)?.execute_batch(sql)?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let settings = settings.key_cost(KeyCost::Cheap).sqlite("app", &path);
    /// # let keeper = Keeper::open(settings)?;
    /// # keeper.backup(&dbkeep_engine::keeper::BackupOptions::new())?;
    ///
    /// let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("guessed");
    /// let error = Keeper::open(settings).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::WrongPassword);
    /// # Ok(()) }
    /// ```
    pub fn open(settings: Settings) -> Result<Self> {
        let context = Arc::new(settings.into_context()?);
        let keeper = Self { context, watch: Arc::new(Unobserved) };
        if !keeper.may_be_made() {
            keeper.store_to_restore()?;
        }
        Ok(keeper)
    }

    /// Returns the same keeper, whose operations report to `watch` and stop when that says so.
    ///
    /// `watch` is called from worker threads too, and should return soon: the operation waits for it.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use dbkeep_engine::Observer;
    /// use dbkeep_engine::keeper::BackupOptions;
    /// # use dbkeep_engine::KeyCost;
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # let sql = "CREATE TABLE users(name); INSERT INTO users VALUES('ada')";
    /// # rusqlite::Connection::open(&path)?.execute_batch(sql)?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let settings = settings.key_cost(KeyCost::Cheap).sqlite("app", &path);
    /// # let keeper = Keeper::open(settings)?;
    ///
    /// #[derive(Default)]
    /// struct Phases(Mutex<Vec<String>>);
    ///
    /// impl Observer for Phases {
    ///     fn phase(&self, name: &str, _bytes: u64) {
    ///         self.0.lock().unwrap().push(name.to_owned());
    ///     }
    /// }
    ///
    /// let phases = Arc::new(Phases::default());
    /// keeper.watched(phases.clone()).backup(&BackupOptions::new())?;
    /// assert!(!phases.0.lock().unwrap().is_empty());
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn watched(&self, watch: Watch) -> Self {
        Self { context: Arc::clone(&self.context), watch }
    }

    /// Returns where the repository is.
    ///
    /// ```
    /// use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// let place = folder.path().join("backups");
    /// let keeper = Keeper::open(Settings::new(&place, folder.path().join("state")).password("secret"))?;
    /// assert_eq!(keeper.repository(), place);
    /// # Ok(()) }
    /// ```
    pub fn repository(&self) -> &Path {
        &self.context.location
    }

    /// Returns what is odd about the configuration and allowed, as a password in it.
    ///
    /// ```
    /// use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// let file = folder.path().join("dbkeep.toml");
    /// std::fs::write(&file, "[databases.shop]\npostgres = \"postgresql://me:secret@db.example/shop\"\n")?;
    /// let settings = Settings::from_file(&file, folder.path().join("state"))?.password("secret");
    /// # let settings = settings.repository(folder.path().join("backups"));
    /// let keeper = Keeper::open(settings)?;
    /// assert!(keeper.warnings()[0].contains("[databases.shop] holds a password"));
    /// # Ok(()) }
    /// ```
    pub fn warnings(&self) -> &[String] {
        &self.context.warnings
    }

    /// Backs up databases in one session: each gets a snapshot of its own, and one that fails does not hold back the
    /// others.
    ///
    /// On success every snapshot is durable, acknowledged in the repository, and of a database that was found sound or
    /// was not to be checked; the configured copies have them too.
    ///
    /// ```
    /// use dbkeep_engine::keeper::BackupOptions;
    /// # use dbkeep_engine::KeyCost;
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # let sql = "CREATE TABLE users(name); INSERT INTO users VALUES('ada')";
    /// # rusqlite::Connection::open(&path)?.execute_batch(sql)?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let settings = settings.key_cost(KeyCost::Cheap).sqlite("app", &path);
    /// # let keeper = Keeper::open(settings)?;
    ///
    /// let report = keeper.backup(&BackupOptions::new().source(&path).tag("before-upgrade"))?;
    /// assert_eq!((report.totals.databases, report.totals.rows), (1, 1));
    /// assert_eq!(report.databases[0].integrity, "ok");
    /// # Ok(()) }
    /// ```
    pub fn backup(&self, options: &BackupOptions) -> Result<BackupReport> {
        backup::run(&self.context, &options.request()?, Timestamp::now(), &self.watch)?.settle()
    }

    /// Backs up databases, then reads what was stored back and proves it: the restore point before a change.
    ///
    /// The reason of the snapshots is `pre-migration`, unless another one is given. The way back is
    /// [`restore_session`](Self::restore_session), in place.
    ///
    /// ```
    /// use dbkeep_engine::keeper::{BackupOptions, RestoreOptions};
    /// # use dbkeep_engine::KeyCost;
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # let sql = "CREATE TABLE users(name); INSERT INTO users VALUES('ada')";
    /// # rusqlite::Connection::open(&path)?.execute_batch(sql)?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let settings = settings.key_cost(KeyCost::Cheap).sqlite("app", &path);
    /// # let keeper = Keeper::open(settings)?;
    ///
    /// let before = keeper.safety_backup(&BackupOptions::new())?;
    /// rusqlite::Connection::open(&path)?.execute_batch("DROP TABLE users")?;
    ///
    /// keeper.restore_session(&before.session, &RestoreOptions::new().in_place(true))?;
    /// let database = rusqlite::Connection::open(&path)?;
    /// let name: String = database.query_row("SELECT name FROM users", [], |row| row.get(0))?;
    /// assert_eq!(name, "ada");
    /// # Ok(()) }
    /// ```
    pub fn safety_backup(&self, options: &BackupOptions) -> Result<SafetyBackup> {
        if options.is_dry_run() {
            let hint = "ask for a plan with Keeper::backup";
            return Err(crate::Error::usage("a safety backup is stored, and no plan", hint).into());
        }
        let backup = self.backup(&options.reason_by_default("pre-migration"))?;
        let session = backup.session.clone();
        let proof = self.verify(&VerifyOptions::new().session(&session))?;
        Ok(SafetyBackup { session, backup, proof })
    }

    /// Lists snapshots, newest first.
    ///
    /// ```
    /// use dbkeep_engine::keeper::ListOptions;
    /// # use dbkeep_engine::KeyCost;
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # let sql = "CREATE TABLE users(name); INSERT INTO users VALUES('ada')";
    /// # rusqlite::Connection::open(&path)?.execute_batch(sql)?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let settings = settings.key_cost(KeyCost::Cheap).sqlite("app", &path);
    /// # let keeper = Keeper::open(settings)?;
    /// # keeper.backup(&dbkeep_engine::keeper::BackupOptions::new())?;
    ///
    /// for snapshot in keeper.list(&ListOptions::new().last(5))?.snapshots {
    ///     println!("{} {} {:?}", snapshot.short_id, snapshot.time, snapshot.database);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn list(&self, options: &ListOptions) -> Result<ListReport> {
        Ok(list::run(&self.store()?, &options.request)?)
    }

    /// Proves snapshots, straight from the repository: every hash, every row count, and the integrity check. What was
    /// found is remembered there.
    ///
    /// Where one is damaged or missing this is an error of the kind [`Damaged`](crate::ErrorKind::Damaged), with the
    /// findings in its report.
    ///
    /// ```
    /// use dbkeep_engine::keeper::VerifyOptions;
    /// # use dbkeep_engine::KeyCost;
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # let sql = "CREATE TABLE users(name); INSERT INTO users VALUES('ada')";
    /// # rusqlite::Connection::open(&path)?.execute_batch(sql)?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let settings = settings.key_cost(KeyCost::Cheap).sqlite("app", &path);
    /// # let keeper = Keeper::open(settings)?;
    /// # keeper.backup(&dbkeep_engine::keeper::BackupOptions::new())?;
    ///
    /// let report = keeper.verify(&VerifyOptions::new().snapshot("latest"))?;
    /// assert_eq!((report.ok, report.damaged), (1, 0));
    /// # Ok(()) }
    /// ```
    pub fn verify(&self, options: &VerifyOptions) -> Result<VerifyReport> {
        verify::run(&self.store()?, &options.request, Timestamp::now(), &self.watch)?.settle()
    }

    /// Says what a restore would do, and does nothing.
    ///
    /// ```
    /// use dbkeep_engine::keeper::RestoreOptions;
    /// # use dbkeep_engine::KeyCost;
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # let sql = "CREATE TABLE users(name); INSERT INTO users VALUES('ada')";
    /// # rusqlite::Connection::open(&path)?.execute_batch(sql)?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let settings = settings.key_cost(KeyCost::Cheap).sqlite("app", &path);
    /// # let keeper = Keeper::open(settings)?;
    /// # keeper.backup(&dbkeep_engine::keeper::BackupOptions::new())?;
    ///
    /// let plan = keeper.plan_restore(&RestoreOptions::new().in_place(true))?;
    /// assert!(plan.overwrites() && plan.restores[0].safety_backup);
    /// # Ok(()) }
    /// ```
    pub fn plan_restore(&self, options: &RestoreOptions) -> Result<RestorePlan> {
        Ok(restore::plan(&self.store_to_restore()?, &options.request()?, Timestamp::now())?)
    }

    /// Brings one database back. On success it is durable in its place, and what was read was compared with every hash.
    ///
    /// After an error, or a crash at any point, the target is as it was or wholly restored. What the repository has
    /// lost is taken from its copies.
    ///
    /// ```
    /// use dbkeep_engine::keeper::RestoreOptions;
    /// # use dbkeep_engine::KeyCost;
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # let sql = "CREATE TABLE users(name); INSERT INTO users VALUES('ada')";
    /// # rusqlite::Connection::open(&path)?.execute_batch(sql)?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let settings = settings.key_cost(KeyCost::Cheap).sqlite("app", &path);
    /// # let keeper = Keeper::open(settings)?;
    /// # keeper.backup(&dbkeep_engine::keeper::BackupOptions::new())?;
    ///
    /// let target = folder.path().join("restored.db");
    /// let report = keeper.restore(&RestoreOptions::new().to(&target))?;
    /// assert!(report.verified && report.rows == 1 && target.exists());
    /// # Ok(()) }
    /// ```
    pub fn restore(&self, options: &RestoreOptions) -> Result<RestoreReport> {
        match self.restored(&options.request()?)? {
            RestoreOutcome::One(report) => report.settle(),
            RestoreOutcome::Session(_) => {
                Err(crate::Error::usage("one snapshot is restored", "name a snapshot").into())
            }
        }
    }

    /// Brings every database of a session back, or of the `latest`: each to its place, or below the directory of
    /// [`RestoreOptions::to`]. One that fails does not hold back the others.
    ///
    /// ```
    /// use dbkeep_engine::keeper::RestoreOptions;
    /// # use dbkeep_engine::KeyCost;
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # let sql = "CREATE TABLE users(name); INSERT INTO users VALUES('ada')";
    /// # rusqlite::Connection::open(&path)?.execute_batch(sql)?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let settings = settings.key_cost(KeyCost::Cheap).sqlite("app", &path);
    /// # let keeper = Keeper::open(settings)?;
    /// # keeper.backup(&dbkeep_engine::keeper::BackupOptions::new())?;
    ///
    /// let report = keeper.restore_session("latest", &RestoreOptions::new().to(folder.path().join("all")))?;
    /// assert_eq!(report.restores[0].database, "app");
    /// # Ok(()) }
    /// ```
    pub fn restore_session(&self, session: &str, options: &RestoreOptions) -> Result<SessionRestoreReport> {
        let request = RestoreRequest { session: Some(session.to_owned()), ..options.request()? };
        match self.restored(&request)? {
            RestoreOutcome::Session(report) => report.settle(),
            RestoreOutcome::One(_) => {
                Err(crate::Error::usage("a session is restored", "name a session").into())
            }
        }
    }

    /// Drops snapshots. Their space is given back by a prune.
    ///
    /// ```
    /// use dbkeep_engine::keeper::ForgetOptions;
    /// use dbkeep_engine::retention::Policy;
    /// # use dbkeep_engine::KeyCost;
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # let sql = "CREATE TABLE users(name); INSERT INTO users VALUES('ada')";
    /// # rusqlite::Connection::open(&path)?.execute_batch(sql)?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let settings = settings.key_cost(KeyCost::Cheap).sqlite("app", &path);
    /// # let keeper = Keeper::open(settings)?;
    /// # keeper.backup(&dbkeep_engine::keeper::BackupOptions::new())?;
    ///
    /// let keep_a_week = Policy { daily: 7, ..Policy::default() };
    /// let report = keeper.forget(&ForgetOptions::policy(keep_a_week).dry_run(true))?;
    /// assert_eq!((report.here.kept.len(), report.here.forgotten.len()), (1, 0));
    /// # Ok(()) }
    /// ```
    pub fn forget(&self, options: &ForgetOptions) -> Result<PolicyReport> {
        forget::everywhere(&self.store()?, options.request(), Timestamp::now(), &self.watch)?.settle()
    }

    /// Says what differs between a snapshot and the live database, or another snapshot. Differences are a result and no
    /// error; a table that could not be compared is told in the report, which is then not the same.
    ///
    /// ```
    /// use dbkeep_engine::keeper::CompareOptions;
    /// # use dbkeep_engine::KeyCost;
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # let sql = "CREATE TABLE users(name); INSERT INTO users VALUES('ada')";
    /// # rusqlite::Connection::open(&path)?.execute_batch(sql)?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let settings = settings.key_cost(KeyCost::Cheap).sqlite("app", &path);
    /// # let keeper = Keeper::open(settings)?;
    /// # keeper.backup(&dbkeep_engine::keeper::BackupOptions::new())?;
    ///
    /// rusqlite::Connection::open(&path)?.execute_batch("INSERT INTO users VALUES('grace')")?;
    /// let report = keeper.compare(&CompareOptions::new("latest"))?;
    /// assert_eq!((report.same, report.tables[0].added), (false, 1));
    /// # Ok(()) }
    /// ```
    pub fn compare(&self, options: &CompareOptions) -> Result<CompareReport> {
        Ok(compare::run(&self.store()?, &options.request, Timestamp::now(), &self.watch)?)
    }

    /// Says for each database when it was last backed up and proved, what the repository and its copies hold, and what
    /// is wrong. Problems are part of the report, and no error.
    ///
    /// ```
    /// # use dbkeep_engine::KeyCost;
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # let sql = "CREATE TABLE users(name); INSERT INTO users VALUES('ada')";
    /// # rusqlite::Connection::open(&path)?.execute_batch(sql)?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let settings = settings.key_cost(KeyCost::Cheap).sqlite("app", &path);
    /// # let keeper = Keeper::open(settings)?;
    /// # keeper.backup(&dbkeep_engine::keeper::BackupOptions::new())?;
    ///
    /// let status = keeper.status()?;
    /// assert!(status.problems.is_empty() && status.databases[0].last_good.is_some());
    /// # Ok(()) }
    /// ```
    pub fn status(&self) -> Result<StatusReport> {
        Ok(status::run(&self.store()?, Timestamp::now())?)
    }

    /// Opens the repository for the modules of this crate: what a keeper has no operation of its own for, as
    /// [`drill`](crate::drill), [`prune`](crate::prune) or [`export`](crate::export). Those may change with every
    /// version.
    ///
    /// ```
    /// use dbkeep_engine::jiff::Timestamp;
    /// use dbkeep_engine::prune::{self, PruneRequest};
    /// # use dbkeep_engine::KeyCost;
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("app.db");
    /// # let sql = "CREATE TABLE users(name); INSERT INTO users VALUES('ada')";
    /// # rusqlite::Connection::open(&path)?.execute_batch(sql)?;
    /// # let settings = Settings::new(folder.path().join("backups"), folder.path().join("state")).password("secret");
    /// # let settings = settings.key_cost(KeyCost::Cheap).sqlite("app", &path);
    /// # let keeper = Keeper::open(settings)?;
    /// # keeper.backup(&dbkeep_engine::keeper::BackupOptions::new())?;
    ///
    /// prune::run(&keeper.store()?, &PruneRequest::default(), Timestamp::now(), keeper.watch())?;
    /// # Ok(()) }
    /// ```
    pub fn store(&self) -> Result<Store> {
        Ok(repository::open(&self.context, Timestamp::now(), &self.watch)?)
    }

    /// Returns what its operations report to.
    ///
    /// ```
    /// # use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let keeper = Keeper::open(Settings::new(folder.path().join("backups"), folder.path()).password("secret"))?;
    /// assert!(!keeper.watch().cancelled());
    /// # Ok(()) }
    /// ```
    pub fn watch(&self) -> &Watch {
        &self.watch
    }

    /// Opens the repository or, where that is gone or too damaged, one of its copies.
    fn store_to_restore(&self) -> Result<Store> {
        Ok(restore::open(&self.context, Timestamp::now(), &self.watch)?)
    }

    fn restored(&self, request: &RestoreRequest) -> Result<RestoreOutcome> {
        let store = self.store_to_restore()?;
        let plan = restore::plan(&store, request, Timestamp::now())?;
        Ok(restore::run(&store, &plan, Timestamp::now(), &self.watch)?)
    }

    /// Says whether there is no repository, and the first backup may make one.
    fn may_be_made(&self) -> bool {
        matches!(repository::exists(&self.context), Ok(false))
            && repository::may_be_made(&self.context).is_ok()
    }
}

/// Shows where the repository is, and no secret.
impl fmt::Debug for Keeper {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Keeper").field("repository", &self.context.location).finish_non_exhaustive()
    }
}
