//! Backs up databases: one session over one or many sources.
//!
//! Each database gets a snapshot of its own; one that fails does not hold back the others. Small databases
//! share packs: snapshots are made when enough is stored or when the session ends, each after everything
//! that it needs. A snapshot is acknowledged, by a fact in the repository, before this returns success.

mod chunk_size;
mod image;
mod losses;
mod plan;
mod rows;
mod save;
mod server;
mod snapshot;

use std::path::{Path, PathBuf};

use dbkeep_repo::format::fact::{Fact, SnapshotRef};
use dbkeep_repo::read::Reader;
use dbkeep_repo::write::{Writer, WriterOptions};
use dbkeep_repo::{Id, SharedLock};
use dbkeep_sqlite::capture::{Capture, CaptureOptions, Method};
use jiff::Timestamp;

use crate::catalog::{Catalog, OUR_TAGS, PRE_RESTORE};
use crate::clock::Clock;
use crate::context::{Context, Watch};
use crate::integrity::Verify;
use crate::manifest::Git;
use crate::report::{
    BackupReport, BackupStatus, BackupTotals, CopyReport, DatabaseBackup, Engine, ErrorReport, InitReport,
    SessionStatus,
};
use crate::repository::{self, Store};
use crate::source::{self, Place, Source, Unresolved};
use crate::{Error, ErrorKind, Result, copy, git, session};

pub use dbkeep_repo::write::give_way;
pub(crate) use plan::plan;
pub(crate) use rows::Cutter;
pub(crate) use server::{capture_options, identity};
pub(crate) use snapshot::{Contents, Past, Saved};

/// How much is stored before the snapshots that wait for it are made.
const FLUSH_AT: u64 = 16 << 20;

/// What to back up, and how.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// Names of the configuration, files, directories, URLs, `env:NAME`; none means all that is configured.
    pub sources: Vec<String>,
    /// What the only source is called.
    pub name: Option<String>,
    /// Let a name that belongs to another file mean this one from now on.
    pub adopt_name: bool,
    /// Tags of the user.
    pub tags: Vec<String>,
    /// Why; `manual` by default.
    pub reason: Option<String>,
    /// How deep the sources are checked.
    pub verify: Verify,
    /// All sources at one instant.
    pub at_once: bool,
    /// The plain SHA-256 of large images too.
    pub sha256: bool,
    /// Where the report is written as well.
    pub report: Option<PathBuf>,
    /// Say what would be done; nothing is written.
    pub dry_run: bool,
    /// The level of zstd; the configuration's, else 3, and 1 for rows of servers.
    pub compression: Option<i32>,
    /// Make a key where a repository is made and nothing gives a password.
    pub new_key: bool,
    /// Whether the configured copies are made.
    pub copies: bool,
    /// Whether a backup of a server makes way for who waits for it.
    pub yields: bool,
}

impl Default for BackupRequest {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            name: None,
            adopt_name: false,
            tags: Vec::new(),
            reason: None,
            verify: Verify::Quick,
            at_once: false,
            sha256: false,
            report: None,
            dry_run: false,
            compression: None,
            new_key: false,
            copies: true,
            yields: false,
        }
    }
}

/// Copies databases in rollback mode that are small to memory, as far as there is room, and gives their locks back: their
/// applications would wait until all databases before them are stored.
fn let_small_ones_go(captures: Vec<dbkeep_sqlite::Result<Capture>>) -> Vec<dbkeep_sqlite::Result<Capture>> {
    let mut room: u64 = 64 << 20;
    let let_go = |capture: dbkeep_sqlite::Result<Capture>| {
        let mut capture = capture?;
        if capture.method() == Method::MemoryCopy && capture.size() <= room {
            room -= capture.size();
            capture.let_go()?;
        }
        Ok(capture)
    };
    captures.into_iter().map(let_go).collect()
}

/// Runs a session.
///
/// The calling thread reads; threads that store and check run at low priority, and a program of its own should call
/// [`give_way`] first.
///
/// An error means that nothing was begun. Once databases were read, the report tells what became of each,
/// and what the process should exit with. On return every snapshot in it is durable, and acknowledged unless
/// its error is of the kind `unacknowledged`.
pub fn run(
    context: &Context,
    request: &BackupRequest,
    now: Timestamp,
    watch: &Watch,
) -> Result<BackupReport> {
    let clock = Clock::start(now);
    validate(request)?;
    let mut sources = source::resolve(context, &request.sources, request.name.as_deref())?;
    let mut report = BackupReport::begin(context, now, request.dry_run);
    if request.dry_run {
        plan(context, request, sources, &clock, watch, &mut report)?;
    } else if !nothing_to_store(context, &mut sources, watch)? {
        let store = store_all(context, request, sources, &clock, watch, &mut report)?;
        if request.copies {
            report.copies = copies(&store, &report, &clock, watch);
        }
    } else {
        report.session = session::next_id(now, &Default::default());
        report.databases = sources.into_iter().filter_map(Result::err).map(unresolved).collect();
    }
    report.finish(&clock);
    if let Some(file) = &request.report {
        report.write_to(&context.environment.resolve_argument(file));
    }
    Ok(report)
}

/// Says whether no source can be read, where that would make a repository for nothing.
///
/// Sources that lead nowhere need no repository at all. Where there is none yet, each is opened for a moment.
fn nothing_to_store(
    context: &Context,
    sources: &mut [Result<Source, Unresolved>],
    watch: &Watch,
) -> Result<bool> {
    if sources.iter().all(Result::is_err) {
        return Ok(true);
    }
    if repository::exists(context)? {
        return Ok(false);
    }
    let options = CaptureOptions::default();
    for place in &mut *sources {
        let Ok(source) = place else { continue };
        let opened = match &source.place {
            Place::File(path) => Capture::open(path, &options).map(drop).map_err(Error::from),
            Place::Server(server) => {
                server::look(server, context.environment.variable("PATH"), watch).map(drop)
            }
        };
        match opened {
            Ok(()) => return Ok(false),
            Err(Error::Cancelled) => return Err(Error::Cancelled),
            Err(error) => *place = Err(source.clone().unreadable(error)),
        }
    }
    Ok(true)
}

/// Refuses what makes no sense, before anything is read.
fn validate(request: &BackupRequest) -> Result<()> {
    if request.reason.as_deref() == Some(PRE_RESTORE) {
        return Err(Error::usage(
            format!("{PRE_RESTORE:?} is the reason of the backups that a restore takes first"),
            "choose another --reason",
        ));
    }
    for tag in &request.tags {
        let ours = tag.split_once('=').is_some_and(|(name, _)| OUR_TAGS.contains(&name));
        if ours || tag.trim().is_empty() || tag.contains(',') || tag.chars().any(char::is_control) {
            return Err(Error::usage(
                format!("{tag:?} cannot be a tag"),
                format!("a tag has no comma, and does not begin with {}=", OUR_TAGS.join("=, ")),
            ));
        }
    }
    Ok(())
}

/// Opens or makes the repository, and stores every source that can be stored.
fn store_all(
    context: &Context,
    request: &BackupRequest,
    sources: Vec<Result<Source, Unresolved>>,
    clock: &Clock,
    watch: &Watch,
    report: &mut BackupReport,
) -> Result<Store> {
    let (store, initialised) = repository::open_or_init(context, request.new_key, clock.began(), watch)?;
    store_session(&store, request, sources, clock, watch, (initialised, report))?;
    Ok(store)
}

/// Stores every source that can be stored. The lock is given back at the end: copies, which may take long, only read.
fn store_session(
    store: &Store,
    request: &BackupRequest,
    sources: Vec<Result<Source, Unresolved>>,
    clock: &Clock,
    watch: &Watch,
    (initialised, report): (Option<InitReport>, &mut BackupReport),
) -> Result<()> {
    let lock = store.repository().lock_shared(clock.began())?;
    watch.step("backup.locked");
    let catalog = Catalog::load(store)?;
    let reader = store.writing_reader(&catalog)?;
    let session = Session::new(store, &catalog, &reader, request, *clock);
    report.begin_in(store, &session, initialised);
    let mut run = Run::begin(&session, &lock, watch)?;
    run.take_all(sources, request.at_once);
    run.commit();
    report.databases = run.reports;
    if let Err(error) = session.acknowledge(&run.committed) {
        // The snapshots are durable, so what became of each database is still to be told.
        let error = Error::Unacknowledged { snapshots: run.committed.len(), source: Box::new(error) };
        report.unacknowledged = Some(ErrorReport::from(&error));
    }
    Ok(())
}

/// Copies to every configured place what it lacks: this session, and what earlier ones could not copy.
fn copies(store: &Store, report: &BackupReport, clock: &Clock, watch: &Watch) -> Vec<CopyReport> {
    let interrupted = |one: &DatabaseBackup| one.error.as_ref().is_some_and(|error| error.exit_code == 130);
    if report.databases.iter().any(interrupted) {
        return copy::none_made(store.context(), &Error::Cancelled);
    }
    copy::into_all(store, clock.now(), watch)
}

/// What all databases of a session have in common.
pub(crate) struct Session<'s> {
    pub(crate) store: &'s Store,
    pub(crate) catalog: &'s Catalog,
    pub(crate) reader: &'s Reader,
    pub(crate) id: String,
    pub(crate) clock: Clock,
    pub(crate) reason: String,
    pub(crate) tags: Vec<String>,
    pub(crate) verify: Verify,
    pub(crate) sha256: bool,
    pub(crate) at_once: bool,
    pub(crate) adopt_name: bool,
    pub(crate) yields: bool,
    /// The level of zstd that is wanted; `None` for what suits best.
    pub(crate) compression: Option<i32>,
    pub(crate) git: Option<Git>,
}

impl<'s> Session<'s> {
    pub(crate) fn new(
        store: &'s Store,
        catalog: &'s Catalog,
        reader: &'s Reader,
        request: &BackupRequest,
        clock: Clock,
    ) -> Self {
        let context = store.context();
        Self {
            store,
            catalog,
            reader,
            id: store.state().reserve_session(clock.began(), catalog.sessions()),
            clock,
            reason: request.reason.clone().unwrap_or_else(|| "manual".to_owned()),
            tags: request.tags.clone(),
            verify: request.verify,
            sha256: request.sha256,
            at_once: request.at_once,
            adopt_name: request.adopt_name,
            yields: request.yields,
            compression: request.compression.or(context.config.repository.compression),
            git: git::describe(&context.environment.working_directory),
        }
    }

    /// Starts what stores; all databases of the session share it.
    pub(crate) fn writer<'l>(&self, lock: &'l SharedLock, watch: &Watch) -> Result<Writer<'l>> {
        let options = match self.compression {
            None => WriterOptions::default(),
            Some(level) => WriterOptions::default().compression(level),
        };
        Ok(self.store.repository().writer(lock, self.reader.index(), &options, watch.clone())?)
    }

    /// Says whether it keeps what a restore is about to overwrite.
    pub(crate) fn is_safety_backup(&self) -> bool {
        self.reason == PRE_RESTORE
    }

    /// Notes in the repository that the user was told of these snapshots. From here on a snapshot that is gone
    /// without having been forgotten is a finding.
    pub(crate) fn acknowledge(&self, snapshots: &[SnapshotRef]) -> Result<()> {
        if snapshots.is_empty() {
            return Ok(());
        }
        let fact = Fact::Acknowledged { session: self.id.clone(), snapshots: snapshots.to_vec() };
        self.store.note(fact, self.clock.now())?;
        self.store.watch().step("backup.acknowledged");
        Ok(())
    }
}

/// A session under way.
struct Run<'r> {
    session: &'r Session<'r>,
    writer: Writer<'r>,
    watch: &'r Watch,
    /// In the order of the sources.
    reports: Vec<DatabaseBackup>,
    /// Stored, but without a snapshot yet: the place of the report, and the rest.
    waiting: Vec<(usize, Saved)>,
    committed: Vec<SnapshotRef>,
    /// Why nothing more can be stored.
    ended: Option<ErrorReport>,
}

impl<'r> Run<'r> {
    fn begin(session: &'r Session<'r>, lock: &'r SharedLock, watch: &'r Watch) -> Result<Self> {
        let writer = session.writer(lock, watch)?;
        Ok(Self { session, writer, watch, reports: vec![], waiting: vec![], committed: vec![], ended: None })
    }

    fn take_all(&mut self, sources: Vec<Result<Source, Unresolved>>, at_once: bool) {
        if at_once {
            return self.take_at_once(sources);
        }
        for source in sources {
            match source {
                Ok(source) => self.take(&source, None),
                Err(source) => self.reports.push(unresolved(source)),
            }
        }
    }

    /// Opens all databases at one instant, then stores one after the other.
    fn take_at_once(&mut self, sources: Vec<Result<Source, Unresolved>>) {
        let files: Vec<&Source> = sources.iter().flatten().filter(|source| source.file().is_some()).collect();
        let paths: Vec<PathBuf> =
            files.iter().filter_map(|source| source.file()).map(Path::to_owned).collect();
        // Read before anything is locked, as `take` does.
        let pasts: Vec<_> = files.iter().map(|source| self.session.past(&source.name)).collect();
        let mut captures = match Capture::at_once(&paths, &CaptureOptions::default()) {
            Ok(captures) => pasts.into_iter().zip(let_small_ones_go(captures)),
            Err(error) => {
                let error = ErrorReport::from(&Error::from(error));
                let failed = |source| match source {
                    Ok(source) => DatabaseBackup::failed(&source, error.clone()),
                    Err(source) => unresolved(source),
                };
                return self.reports.extend(sources.into_iter().map(failed));
            }
        };
        for source in sources {
            match source {
                Ok(source) if source.file().is_none() => self.take(&source, None),
                Ok(source) => self.take(&source, captures.next()),
                Err(source) => self.reports.push(unresolved(source)),
            }
        }
    }

    /// Stores one database, or notes why that was not possible.
    fn take(&mut self, source: &Source, opened: Option<(Past<'r>, dbkeep_sqlite::Result<Capture>)>) {
        if let Some(ended) = &self.ended {
            self.reports.push(DatabaseBackup::failed(source, ended.clone()));
            return;
        }
        let began = self.session.clock.now();
        let session = self.session;
        let saved = match &source.place {
            Place::File(path) => {
                // In this order: a small database in rollback mode is locked until it is read, and its application
                // does not wait for the repository.
                let (past, capture) = opened.unwrap_or_else(|| {
                    let past = session.past(&source.name);
                    (past, Capture::open(path, &CaptureOptions::default()))
                });
                capture
                    .map_err(Error::from)
                    .and_then(|capture| session.save(&mut self.writer, source, &past, capture, self.watch))
            }
            Place::Server(server) => {
                let past = session.past(&source.name);
                session.save_server(&mut self.writer, source, server, &past, self.watch)
            }
        };
        match saved {
            Ok(mut saved) => {
                saved.report.duration_ms = self.session.clock.milliseconds_since(began);
                self.reports.push(saved.report.clone());
                self.waiting.push((self.reports.len() - 1, saved));
                if self.waiting_bytes() >= FLUSH_AT {
                    self.commit();
                }
            }
            Err(error) => {
                if ends_session(&error) {
                    self.ended = Some(ErrorReport::from(&error));
                }
                self.reports.push(DatabaseBackup::failed(source, ErrorReport::from(&error)));
            }
        }
    }

    fn waiting_bytes(&self) -> u64 {
        self.waiting.iter().map(|(_, saved)| saved.report.bytes_stored).sum()
    }

    /// Makes the snapshots that wait. What cannot be committed has failed.
    fn commit(&mut self) {
        for (place, saved) in std::mem::take(&mut self.waiting) {
            let report = &mut self.reports[place];
            if let Some(ended) = &self.ended {
                report.fail(ended.clone());
                continue;
            }
            match self.writer.commit(saved.snapshot.clone()) {
                Ok(snapshot) => {
                    let id = snapshot.id.unwrap_or(Id::NULL);
                    report.snapshot = Some(id);
                    tracing::info!(
                        job = "backup",
                        event = "stored",
                        session = self.session.id,
                        database = report.name,
                        snapshot = %id.short(),
                        integrity = report.integrity,
                        bytes_read = report.bytes_read,
                        bytes_stored = report.bytes_stored,
                        "stored"
                    );
                    self.committed.push(saved.reference(id));
                    saved.remember(self.session.store, id);
                }
                Err(error) => {
                    let error = ErrorReport::from(&Error::from(error));
                    report.fail(error.clone());
                    self.ended = Some(error);
                }
            }
        }
    }
}

/// Says whether after this error nothing more can be stored: the storage failed, or the user stopped it.
fn ends_session(error: &Error) -> bool {
    match error {
        error if error.kind() == ErrorKind::Interrupted => true,
        Error::Repo(error) => !matches!(error, dbkeep_repo::Error::Source(_)),
        _ => false,
    }
}

fn unresolved(source: Unresolved) -> DatabaseBackup {
    let error = ErrorReport::from(&*source.error);
    DatabaseBackup::empty(source.name, source.engine, source.shown, BackupStatus::Failed, Some(error))
}

/// Returns whole milliseconds.
pub(crate) fn milliseconds(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl BackupReport {
    fn begin(context: &Context, now: Timestamp, dry_run: bool) -> Self {
        Self {
            session: String::new(),
            status: SessionStatus::Ok,
            started: now,
            finished: now,
            repository: context.location.display().to_string(),
            totals: BackupTotals::default(),
            databases: Vec::new(),
            copies: Vec::new(),
            dry_run,
            warnings: Vec::new(),
            error: None,
            unacknowledged: None,
            initialised: None,
            recovery_sheet_due: false,
        }
    }

    fn begin_in(&mut self, store: &Store, session: &Session<'_>, initialised: Option<InitReport>) {
        self.session.clone_from(&session.id);
        self.initialised = initialised;
        self.recovery_sheet_due = !store.sheet_shown();
    }

    /// Adds up, and decides how the session ended.
    fn finish(&mut self, clock: &Clock) {
        self.finished = clock.now();
        self.totals = totals(&self.databases);
        let failed: Vec<&ErrorReport> = self.databases.iter().filter_map(|one| one.error.as_ref()).collect();
        let interrupted = failed.iter().find(|error| error.exit_code == 130);
        (self.status, self.error) = match failed.as_slice() {
            [] => (SessionStatus::Ok, None),
            all if all.len() == self.databases.len() => (SessionStatus::Failed, Some(overall(all))),
            _ => (SessionStatus::Partial, interrupted.map(|error| (*error).clone())),
        };
        let not_copied: Vec<&ErrorReport> =
            self.copies.iter().filter_map(|copy| copy.error.as_ref()).collect();
        if self.status == SessionStatus::Ok && !not_copied.is_empty() {
            self.status = SessionStatus::Partial;
            self.error = not_copied.iter().find(|error| error.exit_code == 130).map(|error| (*error).clone());
        }
        if let Some(error) = self.unacknowledged.take() {
            self.status = SessionStatus::Partial;
            match self.error {
                None => self.error = Some(error),
                Some(_) => self.warnings.push(error.message),
            }
        }
    }

    /// Writes the report to a file. Where that fails the report says so: what is stored stays stored, and whoever
    /// waits for the file must not take the exit code for a success.
    fn write_to(&mut self, file: &Path) {
        let mut text = serde_json::to_vec_pretty(self).expect("a report has string keys only");
        text.push(b'\n');
        let Err(source) = dbkeep_repo::durable::replace(file, &text) else { return };
        let error = Error::ReportUnwritten { path: file.to_owned(), source };
        match self.status {
            SessionStatus::Ok => self.error = Some(ErrorReport::from(&error)),
            // The exit code tells of the databases that failed already.
            SessionStatus::Partial | SessionStatus::Failed => self.warnings.push(error.full_message()),
        }
    }
}

/// Returns one error for several: the only one, or one that says how many; it keeps a common exit code.
pub(crate) fn overall(errors: &[&ErrorReport]) -> ErrorReport {
    let [first, rest @ ..] = errors else { unreachable!("called with at least one error") };
    if rest.is_empty() {
        return (*first).clone();
    }
    let common = rest.iter().all(|error| error.exit_code == first.exit_code);
    let all = Error::AllFailed { failed: errors.len(), total: errors.len(), first: first.message.clone() };
    let alike = rest.iter().all(|error| error.kind == first.kind);
    ErrorReport {
        kind: if alike { first.kind.clone() } else { all.kind().word().to_owned() },
        message: all.to_string(),
        hint: first.hint.clone(),
        exit_code: if common { first.exit_code } else { 1 },
    }
}

fn totals(databases: &[DatabaseBackup]) -> BackupTotals {
    let mut totals = BackupTotals { databases: databases.len() as u64, ..BackupTotals::default() };
    for one in databases {
        totals.failed += u64::from(one.status == BackupStatus::Failed);
        totals.rows += one.rows;
        totals.bytes_source += one.bytes_source;
        totals.bytes_read += one.bytes_read;
        totals.bytes_added += one.bytes_added;
        totals.bytes_stored += one.bytes_stored;
    }
    if totals.bytes_source > 0 {
        // Precise enough for a share: sizes up to 2^53 are exact.
        let share = totals.bytes_stored as f64 / totals.bytes_source as f64;
        totals.ratio = ((1.0 - share) * 1e4).round() / 1e4;
    }
    totals
}

impl DatabaseBackup {
    fn empty(
        name: String,
        engine: Engine,
        source: String,
        status: BackupStatus,
        error: Option<ErrorReport>,
    ) -> Self {
        Self {
            name,
            engine,
            source,
            status,
            snapshot: None,
            parent: None,
            bytes_source: 0,
            bytes_read: 0,
            bytes_added: 0,
            bytes_stored: 0,
            root: None,
            sha256: None,
            tables: Vec::new(),
            rows: 0,
            integrity: "not run".to_owned(),
            duration_ms: 0,
            error,
            method: None,
            notes: Vec::new(),
        }
    }

    fn failed(source: &Source, error: ErrorReport) -> Self {
        Self::empty(
            source.name.clone(),
            source.engine(),
            source.shown.clone(),
            BackupStatus::Failed,
            Some(error),
        )
    }

    fn fail(&mut self, error: ErrorReport) {
        self.status = BackupStatus::Failed;
        self.snapshot = None;
        self.error = Some(error);
    }
}
