//! What a restore will do: which snapshot, where to, how, and what speaks against it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dbkeep_repo::Id;
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::read::Reader;
use dbkeep_sqlite::capture::{Capture, CaptureOptions, Method};
use dbkeep_sqlite::identify::{Kind, Siblings, kind_of, sibling};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::{Action, PlannedRestore, RestorePlan, RestoreRequest, directory_of, fallback};
use crate::catalog::{Catalog, Entry};
use crate::environment::Environment;
use crate::manifest::{IntegrityResult, Manifest};
use crate::report::{Engine, ErrorReport};
use crate::repository::Store;
use crate::{Error, Result, moment, name, show, source};

/// Decides what a restore will do. Nothing is changed. What the repository cannot give is planned from its copies.
pub fn plan(store: &Store, request: &RestoreRequest, now: Timestamp) -> Result<RestorePlan> {
    validate(request)?;
    fallback::complete(store, request, draw(store, request, now), now)
}

/// A plan from one repository, and what is known where there is none.
pub(super) struct Drawn {
    pub(super) plan: Result<RestorePlan>,
    /// The only snapshot that is meant, when it was found.
    pub(super) meant: Option<Snapshot>,
    /// Snapshots that should be there and are not: one of them may be what is meant.
    pub(super) lost: Vec<LostOne>,
}

/// A snapshot that should be there.
pub(super) struct LostOne {
    pub(super) id: Id,
    /// Its tree, where a fact names it.
    pub(super) tree: Option<Id>,
}

/// Plans what one repository can give.
pub(super) fn draw(store: &Store, request: &RestoreRequest, now: Timestamp) -> Drawn {
    let (mut meant, mut lost) = (None, Vec::new());
    let plan = draw_noting(store, request, now, &mut meant, &mut lost);
    Drawn { plan, meant, lost }
}

fn draw_noting(
    store: &Store,
    request: &RestoreRequest,
    now: Timestamp,
    meant: &mut Option<Snapshot>,
    lost: &mut Vec<LostOne>,
) -> Result<RestorePlan> {
    let _lock = store.repository().lock_for_reading(&**store.watch(), now)?;
    let catalog = Catalog::load(store)?;
    lost.extend(lost_of(&catalog));
    let planner = |reader| Planner { store, reader, request };
    let (session, restores) = match &request.session {
        Some(session) => {
            let entries = catalog.of_session(session)?;
            let session = entries.first().and_then(|entry| entry.session()).unwrap_or(session).to_owned();
            let only = request.database.as_deref();
            let wanted =
                entries.into_iter().filter(|entry| only.is_none() || entry.database.as_deref() == only);
            let reader = store.reader(&catalog)?;
            (Some(session), wanted.map(|entry| planner(&reader).answer(entry)).collect())
        }
        None => {
            let entry = choose(&catalog, store, request, now)?;
            *meant = Some(entry.snapshot.clone());
            (None, vec![planner(&store.reader(&catalog)?).one(entry)?])
        }
    };
    if restores.is_empty() {
        return Err(Error::NoSnapshot {
            wanted: "of that database in that session".to_owned(),
            hint: Some("`dbkeep list` shows what there is".to_owned()),
        });
    }
    let (force, verify) = (request.force, request.verify);
    Ok(RestorePlan { session, restores, force, verify, request: request.clone(), trial: false })
}

/// Returns the snapshots that should be there and are not, or cannot be read.
fn lost_of(catalog: &Catalog) -> Vec<LostOne> {
    let named =
        catalog.lost.iter().map(|lost| LostOne { id: lost.snapshot.id, tree: Some(lost.snapshot.tree) });
    let unread = catalog.unreadable.iter().map(|id| LostOne { id: *id, tree: None });
    named.chain(unread).collect()
}

/// Refuses what makes no sense.
fn validate(request: &RestoreRequest) -> Result<()> {
    let named = [request.snapshot.is_some(), request.at.is_some(), request.session.is_some()];
    if named.iter().filter(|named| **named).count() > 1 {
        return Err(Error::usage("a snapshot, --at and --session exclude each other", "give one of them"));
    }
    if request.in_place && request.to.is_some() {
        return Err(Error::usage("--in-place and --to exclude each other", "give one of them"));
    }
    if request.session.is_some() && !request.tables.is_empty() {
        return Err(Error::usage("--table goes with one database, not with a session", "name a snapshot"));
    }
    match &request.to {
        Some(to) if to.contains("://") && !source::server::is_url(to) => Err(Error::Unsupported {
            what: format!("a restore to {} is not supported", source::server::redact(to)),
            hint: Some("give the path of a file to create, or the URL of a PostgreSQL database".to_owned()),
        }),
        Some(to) if to.is_empty() => Err(Error::usage("the target is empty", "give a path with --to")),
        _ => Ok(()),
    }
}

/// Chooses the snapshot that is meant.
fn choose<'c>(
    catalog: &'c Catalog,
    store: &Store,
    request: &RestoreRequest,
    now: Timestamp,
) -> Result<&'c Entry> {
    let database = request.database.as_deref();
    if let Some(at) = &request.at {
        let zone = &store.context().environment.time_zone;
        return catalog.choose_at(moment::parse(at, now, zone)?, database, zone);
    }
    catalog.choose(request.snapshot.as_deref().unwrap_or("latest"), database)
}

/// What the plans of all databases have in common.
pub(super) struct Planner<'p> {
    pub(super) store: &'p Store,
    reader: &'p Reader,
    pub(super) request: &'p RestoreRequest,
}

impl Planner<'_> {
    /// Plans one database of a session: what speaks against it is part of the answer.
    fn answer(&self, entry: &Entry) -> PlannedRestore {
        self.one(entry).unwrap_or_else(|error| PlannedRestore {
            tables: Vec::new(),
            error: Some(ErrorReport::from(&error)),
            ..self.planned(entry, entry.database.clone().unwrap_or_default(), String::new(), Action::Create)
        })
    }

    /// Returns the plan for a database, as far as it is the same for all.
    pub(super) fn planned(
        &self,
        entry: &Entry,
        database: String,
        target: String,
        action: Action,
    ) -> PlannedRestore {
        PlannedRestore {
            snapshot: entry.id,
            database,
            moment: entry.snapshot.time,
            target,
            action,
            in_place: self.request.in_place,
            tables: self.request.tables.clone(),
            safety_backup: false,
            bytes_image: 0,
            bytes_free: None,
            notes: Vec::new(),
            copy: self.copy_name(),
            error: None,
            path: PathBuf::new(),
            server: None,
            from: self.copy_name().map(|_| self.store.clone()),
            meant: Some(entry.snapshot.clone()),
        }
    }

    fn copy_name(&self) -> Option<String> {
        self.store.context().copy_name().map(str::to_owned)
    }

    fn one(&self, entry: &Entry) -> Result<PlannedRestore> {
        if entry.database.is_none() {
            return Err(Error::Unsupported {
                what: format!("snapshot {} was made by another tool", entry.id.short()),
                hint: Some("restore it with that tool, as `restic restore`".to_owned()),
            });
        }
        let manifest = show::manifest(self.reader, entry)?;
        self.refuse_corrupt(entry, &manifest)?;
        if manifest.engine == Engine::Postgres {
            return self.server(entry, &manifest);
        }
        if self.request.data_only {
            return Err(Error::usage(
                format!(
                    "{} is a SQLite database, and --data-only is for tables of a server",
                    manifest.database
                ),
                "name the tables with --table",
            ));
        }
        let path = self.target(&manifest)?;
        let action = self.action(&path, &manifest)?;
        let mut planned = PlannedRestore {
            bytes_image: manifest.image.size,
            bytes_free: free_space(directory_of(&path)),
            notes: notes(entry, &manifest),
            path: path.clone(),
            ..self.planned(entry, manifest.database.clone(), path.display().to_string(), action)
        };
        planned.safety_backup = self.request.safety_backup && planned.overwrites();
        self.refuse_without_space(&planned)?;
        Ok(planned)
    }

    /// Refuses a snapshot of a damaged source, unless that is wanted.
    fn refuse_corrupt(&self, entry: &Entry, manifest: &Manifest) -> Result<()> {
        if manifest.integrity.result != IntegrityResult::Corrupt || self.request.force {
            return Ok(());
        }
        Err(Error::Refused {
            what: format!(
                "snapshot {} is of a damaged database: {}",
                entry.id.short(),
                manifest.integrity.summary()
            ),
            hint: Some("choose an older snapshot, or add --force to get what there is".to_owned()),
        })
    }

    /// Returns where the database goes.
    fn target(&self, manifest: &Manifest) -> Result<PathBuf> {
        let environment = &self.store.context().environment;
        // What holds a password must not become the name of a file.
        let is_of_server = |to: &&str| {
            source::server::is_url(to) || (to.contains('=') && source::server::redact(to) != **to)
        };
        if let Some(to) = self.request.to.as_deref().filter(is_of_server) {
            return Err(Error::usage(
                format!(
                    "{} is a SQLite database, and {} leads to a PostgreSQL server",
                    manifest.database,
                    source::server::redact(to)
                ),
                "give the path of a file to create",
            ));
        }
        if self.request.in_place {
            return self.original(manifest);
        }
        match &self.request.to {
            Some(to) => {
                let path = environment.resolve_argument(Path::new(to));
                let is_directory = self.request.session.is_some() || to.ends_with('/') || path.is_dir();
                Ok(if is_directory { path.join(file_name(&manifest.database)) } else { path })
            }
            None => Ok(beside(&self.home_of(manifest, environment), manifest)),
        }
    }

    /// Returns the place that the database came from: the configured one, else the one it was backed up from.
    fn original(&self, manifest: &Manifest) -> Result<PathBuf> {
        let context = self.store.context();
        let configured =
            context.config.databases.get(&manifest.database).and_then(|one| one.sqlite.as_deref());
        if let Some(path) = configured.filter(|path| !path.starts_with("env:")) {
            return Ok(context.environment.resolve(Path::new(path), &context.config_base()));
        }
        if let Some(file) = manifest.identity.file()
            && (file.host == context.environment.host || self.request.force)
        {
            return Ok(PathBuf::from(&file.path));
        }
        Err(Error::Refused {
            what: format!("{} is a database of another host: {}", manifest.database, manifest.identity),
            hint: Some("name the file with --to, or add --force if this host is the same one".to_owned()),
        })
    }

    /// Returns the directory where a copy of the database would be looked for.
    fn home_of(&self, manifest: &Manifest, environment: &Environment) -> PathBuf {
        let original = self.original(manifest).ok();
        let home = original.as_deref().map(directory_of).filter(|home| home.is_dir());
        home.map_or_else(|| environment.working_directory.clone(), Path::to_owned)
    }

    /// Decides how the database comes into its place, and refuses a place that is not for it.
    fn action(&self, path: &Path, manifest: &Manifest) -> Result<Action> {
        if !self.request.in_place {
            refuse_existing(path)?;
            self.prepare_directory(path)?;
            return Ok(if self.request.tables.is_empty() { Action::Create } else { Action::CopyTables });
        }
        let action = match kind_of(path)? {
            Kind::Missing => Action::Create,
            Kind::Database(header) if !manifest.image.raw => {
                self.refuse_other_database(path, manifest, header.application_id)?;
                Action::ReplacePages
            }
            Kind::Empty if !manifest.image.raw => Action::ReplacePages,
            Kind::Unknown if path.is_dir() => {
                return Err(dbkeep_sqlite::Error::NotAFile { path: path.into() }.into());
            }
            Kind::Unknown if !self.request.force => {
                return Err(Error::Refused {
                    what: format!("{} is not a SQLite database", path.display()),
                    hint: Some("restore to another place with --to, or add --force to replace it".to_owned()),
                });
            }
            _ => Action::ReplaceFile,
        };
        match (action, self.request.tables.is_empty()) {
            (action, true) => Ok(action),
            (Action::ReplaceFile, false) => Err(Error::Refused {
                what: format!("{} is damaged, so tables cannot be put into it", path.display()),
                hint: Some("restore the whole database, or the tables into a new file with --to".to_owned()),
            }),
            (_, false) => Ok(Action::CopyTables),
        }
    }

    /// Refuses a live database that has nothing in common with the snapshot.
    fn refuse_other_database(&self, path: &Path, manifest: &Manifest, application_id: i32) -> Result<()> {
        let refused = |why: &str| Error::Refused {
            what: format!("{} is another database than {}: {why}", path.display(), manifest.database),
            hint: Some("restore to a new file with --to, or add --force if this is meant".to_owned()),
        };
        if self.request.force {
            return Ok(());
        }
        let expected = manifest.sqlite.as_ref().map_or(0, |facts| facts.application_id);
        if expected != 0 && application_id != 0 && expected != application_id {
            return Err(refused("its application id is another one"));
        }
        // Only a look: a database that cannot be looked at now is dealt with when it is locked.
        let Ok(Some(tables)) = live_tables(path) else { return Ok(()) };
        let own = |table: &String| !table.starts_with("sqlite_");
        let tables: Vec<&String> = tables.iter().filter(|table| own(table)).collect();
        let known = |table: &&String| manifest.tables.iter().any(|one| one.name.eq_ignore_ascii_case(table));
        let comparable = !tables.is_empty() && manifest.tables.iter().any(|table| own(&table.name));
        if comparable && !tables.iter().any(known) {
            return Err(refused("they have no table in common"));
        }
        Ok(())
    }

    /// Makes the directory that all databases of a session go to; elsewhere it has to be there.
    fn prepare_directory(&self, path: &Path) -> Result<()> {
        let directory = directory_of(path);
        if directory.is_dir() || self.request.session.is_some() {
            return Ok(());
        }
        let missing = std::io::Error::new(std::io::ErrorKind::NotFound, "no such directory");
        Err(Error::io("write to", directory)(missing))
    }

    fn refuse_without_space(&self, planned: &PlannedRestore) -> Result<()> {
        // In place only what differs is written, and the log or journal of that.
        let present = std::fs::metadata(&planned.path).map_or(0, |metadata| metadata.len());
        let needed = match planned.action {
            Action::ReplacePages => planned.bytes_image.saturating_sub(present),
            Action::Create | Action::ReplaceFile => planned.bytes_image,
            // How much room a server has it does not tell.
            _ => 0,
        };
        match planned.bytes_free {
            Some(free) if free < needed => Err(Error::NoSpace { path: planned.path.clone(), needed, free }),
            _ => Ok(()),
        }
    }
}

/// Returns what a person should know of the snapshot before it is restored.
pub(super) fn notes(entry: &Entry, manifest: &Manifest) -> Vec<String> {
    let mut notes = Vec::new();
    if manifest.image.raw {
        notes.push("the snapshot is a raw copy of a file that SQLite could not open".to_owned());
    }
    if let Some(finding) = entry.history.damage.first() {
        notes.push(format!("the snapshot was found damaged: {finding}"));
    }
    notes
}

/// Returns the names of the tables of a live database; `None` when it cannot be looked at.
fn live_tables(path: &Path) -> Result<Option<Vec<String>>> {
    let options = CaptureOptions { busy_timeout: Duration::from_secs(1), ..held_while_looking() };
    let capture = Capture::open(path, &options)?;
    let Some(connection) = capture.connection() else { return Ok(None) };
    let tables = dbkeep_sqlite::inspect::tables(connection)?;
    Ok(Some(tables.into_iter().map(|table| table.name).collect()))
}

/// Returns how a live database is captured that is only looked at: under its lock, since what is seen without one
/// may be half written.
pub(super) fn held_while_looking() -> CaptureOptions {
    CaptureOptions { force_method: Some(Method::LockedImage), ..CaptureOptions::default() }
}

/// Refuses a target that exists, or beside which something lies that SQLite would take for its own.
pub(super) fn refuse_existing(path: &Path) -> Result<()> {
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(Error::TargetExists { path: path.to_owned() });
    }
    let siblings = Siblings::of(path)?;
    let left =
        [("-wal", siblings.wal.is_some()), ("-shm", siblings.shm), ("-journal", siblings.journal.is_some())];
    match left.into_iter().find(|(_, there)| *there) {
        Some((suffix, _)) => Err(Error::TargetExists { path: sibling(path, suffix) }),
        None => Ok(()),
    }
}

/// Returns a free name beside the original that tells the moment.
fn beside(directory: &Path, manifest: &Manifest) -> PathBuf {
    let original = Path::new(manifest.identity.file().map_or("", |file| &file.path));
    let stem = original
        .file_stem()
        .map_or_else(|| name::encode(&manifest.database), |stem| stem.to_string_lossy().into());
    let extension = original.extension().map_or_else(|| "db".into(), |extension| extension.to_string_lossy());
    let moment = manifest.moment.to_zoned(TimeZone::UTC).strftime("%Y%m%d_%H%M%S");
    let numbered = |number: u32| match number {
        0 => format!("{stem}.restored-{moment}.{extension}"),
        number => format!("{stem}.restored-{moment}-{}.{extension}", number + 1),
    };
    let candidates = (0..1000).map(|number| directory.join(numbered(number)));
    candidates
        .into_iter()
        .find(|path| refuse_existing(path).is_ok())
        .unwrap_or_else(|| directory.join(numbered(0)))
}

/// Returns the name of a database's file in a directory of several.
fn file_name(database: &str) -> String {
    format!("{}.db", name::encode(database))
}

/// Returns the bytes that are free in the nearest directory that exists.
fn free_space(directory: &Path) -> Option<u64> {
    let existing = directory.ancestors().find(|directory| directory.is_dir())?;
    let free = rustix::fs::statvfs(existing).ok()?;
    Some(free.f_bavail.saturating_mul(free.f_frsize))
}
