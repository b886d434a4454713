//! Brings databases back: to a new file, into their place while applications run, or a few tables.
//!
//! [`plan`] decides and changes nothing; [`run`] does what the plan says. Whatever the way, nothing is put into
//! place before every blob's hash was compared and the result was inspected, and nothing is overwritten
//! before what was there is safe in the repository.

mod fallback;
mod in_place;
mod new_file;
mod plan;
mod safety;
mod server;
mod sink;
mod tables;

use std::cell::{Cell, OnceCell};
use std::path::{Path, PathBuf};

use dbkeep_postgres::conninfo::ConnInfo;
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::read::{Image, Reader};
use dbkeep_repo::{Id, SharedLock};
use jiff::Timestamp;
use serde::Serialize;

use crate::catalog::{Catalog, Entry};
use crate::clock::Clock;
use crate::context::Watch;
use crate::integrity::Verify;
use crate::manifest::{Integrity, IntegrityResult, Manifest};
use crate::report::{
    ErrorReport, RestoreOutcome, RestoreReport, RestoreStatus, SessionRestoreReport, SessionStatus, TableRows,
};
use crate::repository::Store;
use crate::{Error, Result, show};

pub use fallback::open;
pub use plan::plan;
pub(crate) use server::identity as identity_on_server;

/// What to bring back, and where to.
#[derive(Clone, Debug)]
pub struct RestoreRequest {
    /// The beginning of an id, `latest`, `latest~N`; `latest` by default.
    pub snapshot: Option<String>,
    /// Narrows `latest` and `at`.
    pub database: Option<String>,
    /// The newest snapshot at or before this moment.
    pub at: Option<String>,
    /// All databases of this session, or of the `latest`.
    pub session: Option<String>,
    /// The file to make, or with `session` the directory; beside the original by default.
    pub to: Option<String>,
    /// Only these tables.
    pub tables: Vec<String>,
    /// Only rows, into tables of a server that are there.
    pub data_only: bool,
    /// Into the original place.
    pub in_place: bool,
    /// Override a refusal that names `--force`.
    pub force: bool,
    /// Back up what is there before it is overwritten.
    pub safety_backup: bool,
    /// How deep a file is checked that is backed up before it is overwritten. The backup is exact, whatever that says.
    pub safety_check: Verify,
    /// How deep the result is checked.
    pub verify: Verify,
    /// Whether objects of a server belong again to whom they belonged.
    pub owners: bool,
    /// Whether the same roles may use them again.
    pub privileges: bool,
    /// Whether a new database of a server gets what the original had beside its contents: owner, rights, settings,
    /// limits.
    pub attributes: bool,
}

impl Default for RestoreRequest {
    fn default() -> Self {
        Self {
            snapshot: None,
            database: None,
            at: None,
            session: None,
            to: None,
            tables: Vec::new(),
            data_only: false,
            in_place: false,
            force: false,
            safety_backup: true,
            safety_check: Verify::Quick,
            verify: Verify::Quick,
            owners: true,
            privileges: true,
            attributes: true,
        }
    }
}

/// What a restore will do.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RestorePlan {
    /// The session, when all its databases are restored.
    pub session: Option<String>,
    /// One entry a database.
    pub restores: Vec<PlannedRestore>,
    /// The request that was planned for.
    #[serde(skip)]
    pub(crate) force: bool,
    #[serde(skip)]
    pub(crate) verify: Verify,
    #[serde(skip)]
    pub(crate) request: RestoreRequest,
    /// Whether it is thrown away afterwards, as by a drill.
    #[serde(skip)]
    pub(crate) trial: bool,
}

/// What a restore will do with one database.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PlannedRestore {
    /// The snapshot.
    pub snapshot: Id,
    /// Its database.
    pub database: String,
    /// The moment that is reached.
    pub moment: Timestamp,
    /// Where it goes.
    pub target: String,
    /// How.
    pub action: Action,
    /// Whether it goes into its original place.
    pub in_place: bool,
    /// Only these tables; all when empty.
    pub tables: Vec<String>,
    /// Whether what is there is backed up first.
    pub safety_backup: bool,
    /// Size of the image.
    pub bytes_image: u64,
    /// What is free where it goes.
    pub bytes_free: Option<u64>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// The copy that it is restored from; `None` for the repository itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
    /// Why this database of a session cannot be restored.
    pub error: Option<ErrorReport>,
    #[serde(skip)]
    pub(crate) path: PathBuf,
    /// The database that is made on a server.
    #[serde(skip)]
    pub(crate) server: Option<Box<server::ServerTarget>>,
    /// That copy.
    #[serde(skip)]
    pub(crate) from: Option<Store>,
    /// The snapshot itself, to find it in a copy.
    #[serde(skip)]
    pub(crate) meant: Option<Snapshot>,
}

/// How a database comes into its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A new file.
    Create,
    /// The pages that differ, in one transaction, while applications run.
    ReplacePages,
    /// The damaged original is moved aside, a new file takes its place.
    ReplaceFile,
    /// Tables, into a new file or into the live database.
    CopyTables,
    /// A new database on a server.
    CreateDatabase,
    /// Tables that are not there, into a database of a server that is.
    AddTables,
    /// Tables, in the place of those of a database of a server.
    ReplaceTables,
    /// Rows, into empty tables of a server.
    FillTables,
    /// Rows, in the place of those in tables of a server.
    ReplaceRows,
    /// A new database on a server that takes the name of the original, which is kept under another one.
    ReplaceDatabase,
}

impl RestorePlan {
    /// Says whether something that exists is overwritten, which a person has to confirm.
    pub fn overwrites(&self) -> bool {
        self.restores.iter().any(PlannedRestore::overwrites)
    }

    /// Returns the word that a person types to confirm: the database's name, or the session.
    pub fn confirmation(&self) -> &str {
        match (&self.session, self.restores.as_slice()) {
            (Some(session), _) => session,
            (None, [one, ..]) => &one.database,
            (None, []) => "",
        }
    }
}

impl PlannedRestore {
    /// Says whether something that exists is overwritten.
    pub fn overwrites(&self) -> bool {
        match self.action {
            Action::Create | Action::CreateDatabase | Action::AddTables | Action::FillTables => false,
            Action::ReplacePages
            | Action::ReplaceFile
            | Action::ReplaceDatabase
            | Action::ReplaceTables
            | Action::ReplaceRows => true,
            Action::CopyTables => self.path.exists(),
        }
    }
}

/// Restores what was planned.
///
/// On success every target is durable. After an error, or a crash at any point, each target is as it was or wholly
/// restored. With a session, each database has an answer of its own, and one that fails does not hold back the
/// others. What turns out to be damaged or gone in the repository is restored from a copy that has the same snapshot,
/// and the report says so.
pub fn run(store: &Store, plan: &RestorePlan, now: Timestamp, watch: &Watch) -> Result<RestoreOutcome> {
    run_if(store, plan, &|| Ok(()), now, watch)
}

/// Says, at the last moment before something is overwritten, why that should not be.
pub(crate) type LastWord<'w> = dyn Fn() -> Result<()> + 'w;

/// Restores what was planned, where `last_word` does not speak against it. It is asked when nobody can write a file any
/// more, and just before a database of a server is given away; with its error everything is as it was.
pub(crate) fn run_if(
    store: &Store,
    plan: &RestorePlan,
    last_word: &LastWord<'_>,
    now: Timestamp,
    watch: &Watch,
) -> Result<RestoreOutcome> {
    fallback::Job { store, plan, last_word, now, watch }.run()
}

/// Restores what was planned from one repository.
fn run_from(
    store: &Store,
    plan: &RestorePlan,
    last_word: &LastWord<'_>,
    now: Timestamp,
    watch: &Watch,
) -> Result<RestoreOutcome> {
    let clock = Clock::start(now);
    let lock = Lock::take(store, plan, now, watch)?;
    let catalog = Catalog::load(store)?;
    let reader = store.reader(&catalog)?;
    let restore = Restore {
        store,
        catalog: &catalog,
        reader: &reader,
        lock: &lock,
        plan,
        last_word,
        clock,
        watch,
        writing_reader: OnceCell::new(),
        safety_session: OnceCell::new(),
        kept: Cell::new(None),
    };
    match (&plan.session, plan.restores.as_slice()) {
        (Some(session), all) => Ok(RestoreOutcome::Session(restore.session(session, all))),
        (None, [one]) => restore.one(one).map(|report| RestoreOutcome::One(Box::new(report))),
        (None, _) => Err(Error::usage("nothing is planned to be restored", "name a snapshot")),
    }
}

/// Restores a snapshot to a new file from this repository, and from no copy of it.
pub(crate) fn to_scratch(
    store: &Store,
    request: &RestoreRequest,
    now: Timestamp,
    watch: &Watch,
) -> Result<RestoreReport> {
    one_of(run_from(store, &plan::draw(store, request, now).plan?, &|| Ok(()), now, watch)?)
}

/// Restores a PostgreSQL database into a new one, to be thrown away, from this repository and from no copy of it:
/// owners and privileges are left out, and what is set for the database; every row is compared.
pub(crate) fn to_scratch_server(
    store: &Store,
    entry: &Entry,
    info: &ConnInfo,
    now: Timestamp,
    watch: &Watch,
) -> Result<RestoreReport> {
    let request =
        RestoreRequest { owners: false, privileges: false, attributes: false, ..RestoreRequest::default() };
    let planned = PlannedRestore {
        snapshot: entry.id,
        database: entry.database.clone().unwrap_or_default(),
        moment: entry.snapshot.time,
        target: info.shown().to_owned(),
        action: Action::CreateDatabase,
        in_place: false,
        tables: Vec::new(),
        safety_backup: false,
        bytes_image: 0,
        bytes_free: None,
        notes: Vec::new(),
        copy: None,
        error: None,
        path: PathBuf::new(),
        server: Some(Box::new(server::ServerTarget::of(info.clone()))),
        from: None,
        meant: None,
    };
    let plan = RestorePlan {
        session: None,
        restores: vec![planned],
        force: false,
        verify: Verify::Full,
        request,
        trial: true,
    };
    one_of(run_from(store, &plan, &|| Ok(()), now, watch)?)
}

fn one_of(outcome: RestoreOutcome) -> Result<RestoreReport> {
    match outcome {
        RestoreOutcome::One(report) => Ok(*report),
        RestoreOutcome::Session(_) => Err(Error::usage("one snapshot is restored", "name a snapshot")),
    }
}

/// The lock of a restore: one that must be had where a safety backup is written.
enum Lock {
    Writing(SharedLock),
    Reading { _lock: dbkeep_repo::ReadLock },
}

impl Lock {
    fn take(store: &Store, plan: &RestorePlan, now: Timestamp, watch: &Watch) -> Result<Self> {
        if plan.restores.iter().any(|one| one.safety_backup) {
            return Ok(Self::Writing(store.repository().lock_shared(now)?));
        }
        Ok(Self::Reading { _lock: store.repository().lock_for_reading(&**watch, now)? })
    }
}

/// A restore under way.
struct Restore<'r> {
    store: &'r Store,
    catalog: &'r Catalog,
    reader: &'r Reader,
    lock: &'r Lock,
    plan: &'r RestorePlan,
    last_word: &'r LastWord<'r>,
    clock: Clock,
    watch: &'r Watch,
    /// What safety backups are stored by.
    writing_reader: OnceCell<Reader>,
    /// The session of all safety backups of this restore.
    safety_session: OnceCell<String>,
    /// The safety backup of the restore under way.
    kept: Cell<Option<Id>>,
}

/// What is restored: a snapshot and its image.
struct Subject<'r> {
    entry: &'r Entry,
    manifest: Manifest,
    image: Image,
}

/// What became of a target.
struct Restored {
    bytes_written: u64,
    pages_written: u64,
    integrity: Integrity,
    safety_snapshot: Option<Id>,
    safety_tables: Vec<String>,
    moved_aside: Option<PathBuf>,
    tables: Vec<TableRows>,
    notes: Vec<String>,
    /// How many things are not there; `notes` tells them.
    left_out: u64,
    /// How many rows are among them.
    rows_lost: u64,
}

impl Restored {
    fn new(integrity: Integrity) -> Self {
        Self {
            bytes_written: 0,
            pages_written: 0,
            integrity,
            safety_snapshot: None,
            safety_tables: Vec::new(),
            moved_aside: None,
            tables: Vec::new(),
            notes: Vec::new(),
            left_out: 0,
            rows_lost: 0,
        }
    }
}

impl<'r> Restore<'r> {
    fn one(&self, planned: &PlannedRestore) -> Result<RestoreReport> {
        let began = self.clock.now();
        // That of another database of the session is told with that one.
        self.kept.set(None);
        let restored = match &planned.server {
            Some(target) => self.restore_server(planned, target, began),
            None => self.restore_file(planned, began),
        };
        let report = restored.inspect_err(|_| self.tell_of_what_is_kept())?;
        tracing::info!(
            job = "restore",
            event = "restored",
            database = report.database,
            snapshot = %report.snapshot.short(),
            target = report.target,
            verified = report.verified,
            bytes_written = report.bytes_written,
            "restored"
        );
        Ok(report)
    }

    /// A report has the safety backup; an error has none.
    fn tell_of_what_is_kept(&self) {
        if let Some(kept) = self.kept.take() {
            self.watch.warn(&format!("what was there before is kept as snapshot {}", kept.short()));
        }
    }

    /// Restores a SQLite database.
    fn restore_file(&self, planned: &PlannedRestore, began: Timestamp) -> Result<RestoreReport> {
        let subject = self.subject(planned)?;
        self.watch.step("restore.begun");
        let restored = match planned.action {
            Action::Create => self.create(&subject, planned)?,
            Action::ReplacePages => self.replace_pages(&subject, planned)?,
            Action::ReplaceFile => self.replace_file(&subject, planned)?,
            Action::CopyTables => self.copy_tables(&subject, planned)?,
            Action::CreateDatabase
            | Action::ReplaceDatabase
            | Action::AddTables
            | Action::ReplaceTables
            | Action::FillTables
            | Action::ReplaceRows => {
                return Err(Error::usage("a database of a server is planned without one", "plan it again"));
            }
        };
        Ok(self.report(planned, subject.entry, &subject.manifest, restored, began))
    }

    /// Finds the snapshot of the plan again: it may have been forgotten since.
    fn entry(&self, planned: &PlannedRestore) -> Result<&'r Entry> {
        let entry = self.catalog.get(&planned.snapshot).ok_or_else(|| Error::NoSnapshot {
            wanted: planned.snapshot.short(),
            hint: Some("it was forgotten meanwhile; `dbkeep list` shows what there is".to_owned()),
        })?;
        self.store.look_again(&entry.id);
        Ok(entry)
    }

    fn subject(&self, planned: &PlannedRestore) -> Result<Subject<'r>> {
        let entry = self.entry(planned)?;
        let manifest = show::manifest(self.reader, entry)?;
        let image = show::image(self.reader, entry, &manifest)?;
        Ok(Subject { entry, manifest, image })
    }

    fn session(&self, session: &str, all: &[PlannedRestore]) -> SessionRestoreReport {
        let restores: Vec<RestoreReport> = all
            .iter()
            .map(|planned| match (&planned.error, self.watch.cancelled()) {
                (Some(error), _) => not_restored(planned, error.clone()),
                (None, true) => not_restored(planned, ErrorReport::from(&Error::Cancelled)),
                (None, false) => match self.one(planned) {
                    Ok(report) => RestoreReport { status: Some(RestoreStatus::Ok), ..report },
                    Err(error) => not_restored(planned, ErrorReport::from(&error)),
                },
            })
            .collect();
        session_report(session, restores)
    }

    fn report(
        &self,
        planned: &PlannedRestore,
        entry: &Entry,
        manifest: &Manifest,
        restored: Restored,
        began: Timestamp,
    ) -> RestoreReport {
        let rows = match planned.tables.is_empty() {
            true => manifest.rows.saturating_sub(restored.rows_lost),
            false => restored.tables.iter().map(|table| table.rows).sum(),
        };
        let mut notes = planned.notes.clone();
        notes.extend(restored.notes);
        RestoreReport {
            snapshot: entry.id,
            database: planned.database.clone(),
            target: planned.target.clone(),
            moment: planned.moment,
            safety_snapshot: restored.safety_snapshot,
            safety_tables: restored.safety_tables,
            rows,
            bytes_written: restored.bytes_written,
            pages_written: restored.pages_written,
            integrity: restored.integrity.summary(),
            duration_ms: self.clock.milliseconds_since(began),
            verified: restored.integrity.result == IntegrityResult::Ok,
            copy: self.store.context().copy_name().map(str::to_owned),
            status: None,
            error: None,
            tables: restored.tables,
            moved_aside: restored.moved_aside,
            left_out: restored.left_out,
            notes,
        }
    }

    /// Refuses a result that is damaged, unless its source was and that is wanted.
    fn judge(&self, manifest: &Manifest, integrity: &Integrity) -> Result<()> {
        let problem = match integrity.result {
            IntegrityResult::Corrupt => integrity.summary(),
            _ => return Ok(()),
        };
        match (manifest.integrity.result, self.plan.force) {
            // The bytes are those that were stored, as their hashes show, and a check then found them sound.
            (IntegrityResult::Ok, _) => Err(Error::Unsound { problem }),
            (_, true) => Ok(()),
            (_, false) => Err(Error::Refused {
                what: format!("the snapshot is of a damaged database: {problem}"),
                hint: Some("choose an older snapshot, or add --force to get what there is".to_owned()),
            }),
        }
    }

    fn stop_if_cancelled(&self) -> Result<()> {
        if self.watch.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    }
}

/// Returns what the restore of a session came to.
fn session_report(session: &str, restores: Vec<RestoreReport>) -> SessionRestoreReport {
    let failed: Vec<&ErrorReport> = restores.iter().filter_map(|one| one.error.as_ref()).collect();
    let status = match failed.len() {
        0 => SessionStatus::Ok,
        count if count == restores.len() => SessionStatus::Failed,
        _ => SessionStatus::Partial,
    };
    let error = (status == SessionStatus::Failed).then(|| crate::backup::overall(&failed));
    SessionRestoreReport { session: session.to_owned(), status, restores, error }
}

fn not_restored(planned: &PlannedRestore, error: ErrorReport) -> RestoreReport {
    RestoreReport {
        snapshot: planned.snapshot,
        database: planned.database.clone(),
        target: planned.target.clone(),
        moment: planned.moment,
        safety_snapshot: None,
        safety_tables: Vec::new(),
        rows: 0,
        bytes_written: 0,
        pages_written: 0,
        integrity: "not run".to_owned(),
        duration_ms: 0,
        verified: false,
        copy: planned.copy.clone(),
        status: Some(RestoreStatus::Failed),
        error: Some(error),
        tables: Vec::new(),
        moved_aside: None,
        left_out: 0,
        notes: Vec::new(),
    }
}

/// Returns the directory that a file is in.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
