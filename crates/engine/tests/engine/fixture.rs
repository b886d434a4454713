//! A place with databases and a repository, and the operations on it as a user of the library calls them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dbkeep_engine::backup::{self, BackupRequest};
use dbkeep_engine::check::{self, CheckRequest};
use dbkeep_engine::list::{self, ListRequest};
use dbkeep_engine::report::{
    BackupReport, CheckReport, DatabaseBackup, ListReport, RestoreOutcome, RestoreReport, VerifyReport,
};
use dbkeep_engine::repository::{self, Store};
use dbkeep_engine::restore::{self, RestorePlan, RestoreRequest};
use dbkeep_engine::verify::{self, VerifyRequest};
use dbkeep_engine::{Context, Environment, Error, GlobalOptions, KeyCost, Observer, Result, Watch};
use jiff::{SignedDuration, Timestamp};
use rusqlite::Connection;
use tempfile::TempDir;

/// What an operation reported.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) warnings: Mutex<Vec<String>>,
    pub(crate) steps: Mutex<Vec<&'static str>>,
    pub(crate) phases: Mutex<Vec<String>>,
    /// Called at each step.
    #[expect(clippy::type_complexity, reason = "a hook of one test")]
    pub(crate) at_step: Mutex<Option<Box<dyn FnMut(&'static str) + Send>>>,
    /// From this step on the operation is asked to stop.
    pub(crate) cancel_at: Mutex<Option<&'static str>>,
}

impl Observer for Heard {
    fn cancelled(&self) -> bool {
        let step = *self.cancel_at.lock().unwrap();
        step.is_some_and(|step| self.steps.lock().unwrap().contains(&step))
    }

    fn phase(&self, name: &str, _total: u64) {
        self.phases.lock().unwrap().push(name.to_owned());
    }

    fn step(&self, name: &'static str) {
        self.steps.lock().unwrap().push(name);
        if let Some(hook) = self.at_step.lock().unwrap().as_mut() {
            hook(name);
        }
    }

    fn warn(&self, message: &str) {
        self.warnings.lock().unwrap().push(message.to_owned());
    }
}

/// A temporary directory with a repository to be, whose password is a variable.
pub(crate) struct Fixture {
    directory: TempDir,
    pub(crate) context: Context,
    pub(crate) heard: Arc<Heard>,
    now: Mutex<Timestamp>,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with_config("")
    }

    pub(crate) fn with_config(config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut environment = Environment::isolated(directory.path());
        environment.variables.insert("DBKEEP_PASSWORD".to_owned(), "secret".to_owned());
        let config_file = environment.config_directory.join("dbkeep.toml");
        std::fs::create_dir_all(&environment.config_directory).unwrap();
        // Relative paths of the configuration start at its directory.
        let root = directory.path().display().to_string();
        std::fs::write(&config_file, config.replace("ROOT", &root)).unwrap();
        let mut context = Context::load(environment, &GlobalOptions::default()).unwrap();
        context.key_cost = KeyCost::Cheap;
        context.lock_patience = std::time::Duration::from_millis(50);
        let now = Mutex::new("2026-01-02T03:04:05Z".parse().unwrap());
        Self { directory, context, heard: Arc::default(), now }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn watch(&self) -> Watch {
        self.heard.clone()
    }

    /// Returns the time of the next operation, a minute after the last.
    pub(crate) fn now(&self) -> Timestamp {
        let mut now = self.now.lock().unwrap();
        *now += SignedDuration::from_mins(1);
        *now
    }

    /// Lets time pass for this host.
    pub(crate) fn later(&self, time: SignedDuration) {
        *self.now.lock().unwrap() += time;
    }

    /// Makes a database with a table `items` of so many rows.
    pub(crate) fn database(&self, name: &str, rows: u32) -> Connection {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let connection = Connection::open(path).unwrap();
        connection.execute_batch("CREATE TABLE items(id INTEGER PRIMARY KEY, text TEXT NOT NULL)").unwrap();
        insert(&connection, rows);
        connection
    }

    pub(crate) fn backup(&self, request: &BackupRequest) -> Result<BackupReport> {
        backup::run(&self.context, request, self.now(), &self.watch())
    }

    /// Backs up one source and expects that it is stored.
    pub(crate) fn stored(&self, source: &str) -> DatabaseBackup {
        let report = self.backup(&of(&[source])).unwrap();
        let [one] = report.databases.as_slice() else { panic!("{report:?}") };
        assert_eq!(one.error, None);
        assert!(one.snapshot.is_some());
        one.clone()
    }

    pub(crate) fn open(&self) -> Result<Store> {
        repository::open(&self.context, self.now(), &self.watch())
    }

    pub(crate) fn list(&self) -> ListReport {
        list::run(&self.open().unwrap(), &ListRequest::default()).unwrap()
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.heard.warnings.lock().unwrap())
    }
}

/// Adds rows to `items`.
pub(crate) fn insert(connection: &Connection, rows: u32) {
    connection
        .execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
             INSERT INTO items(text) SELECT 'row ' || i || hex(randomblob(20)) FROM n WHERE ?1 > 0",
            [rows],
        )
        .unwrap();
}

/// Returns a request for sources.
pub(crate) fn of(sources: &[&str]) -> BackupRequest {
    BackupRequest {
        sources: sources.iter().map(|source| (*source).to_owned()).collect(),
        ..BackupRequest::default()
    }
}

/// Returns all rows of `items`, in order.
pub(crate) fn rows(path: &Path) -> Vec<(i64, String)> {
    let connection = Connection::open(path).unwrap();
    let mut statement = connection.prepare("SELECT id, text FROM items ORDER BY id").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    rows.collect::<rusqlite::Result<_>>().unwrap()
}

/// Returns kind, exit code and message of an error.
pub(crate) fn told(error: &Error) -> (&'static str, u8, String) {
    assert!(error.hint().is_some(), "{error:?} has no hint");
    (error.kind().word(), error.exit_code(), error.full_message())
}

impl Fixture {
    pub(crate) fn plan(&self, request: &RestoreRequest) -> Result<RestorePlan> {
        restore::plan(&self.open()?, request, self.now())
    }

    pub(crate) fn restore(&self, request: &RestoreRequest) -> Result<RestoreOutcome> {
        let store = self.open()?;
        let plan = restore::plan(&store, request, self.now())?;
        restore::run(&store, &plan, self.now(), &self.watch())
    }

    /// Restores one database and expects that it is restored and verified.
    pub(crate) fn restored(&self, request: &RestoreRequest) -> RestoreReport {
        let RestoreOutcome::One(report) = self.restore(request).unwrap() else { panic!("one was asked for") };
        assert!(report.verified, "{report:?}");
        assert_eq!(report.integrity, "ok");
        *report
    }

    pub(crate) fn verify(&self, request: &VerifyRequest) -> VerifyReport {
        verify::run(&self.open().unwrap(), request, self.now(), &self.watch()).unwrap()
    }

    pub(crate) fn check(&self, request: &CheckRequest) -> CheckReport {
        check::run(&self.open().unwrap(), request, self.now(), &self.watch()).unwrap()
    }

    /// Calls `hook` at each step of the operations that follow.
    pub(crate) fn at_step(&self, hook: impl FnMut(&'static str) + Send + 'static) {
        *self.heard.at_step.lock().unwrap() = Some(Box::new(hook));
    }

    /// Returns all files of the repository in a folder.
    pub(crate) fn objects(&self, folder: &str) -> Vec<PathBuf> {
        fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(directory).into_iter().flatten() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(&self.path("backups").join(folder), &mut found);
        found.sort();
        found
    }
}

/// Returns a request to restore to a file.
pub(crate) fn to(path: &str) -> RestoreRequest {
    RestoreRequest { to: Some(path.to_owned()), ..RestoreRequest::default() }
}

/// Returns a request for the snapshot of a backup.
pub(crate) fn snapshot(of: &DatabaseBackup, request: RestoreRequest) -> RestoreRequest {
    RestoreRequest { snapshot: Some(of.snapshot.unwrap().to_string()), ..request }
}

/// Returns a request to restore into the original place.
pub(crate) fn in_place() -> RestoreRequest {
    RestoreRequest { in_place: true, ..RestoreRequest::default() }
}
