//! Copies snapshots into another repository: only what it lacks, sealed for its key, read back there.
//!
//! First everything that snapshots need, then it is read back, then they are made, then the facts say so. So nothing
//! that is half copied is ever visible as a snapshot, and a copy that was interrupted goes on where it was.

pub(crate) mod names;
pub(crate) mod place;
mod plan;
pub(crate) mod standing;
mod transfer;

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use dbkeep_repo::Id;
use dbkeep_repo::read::Reader;
use jiff::Timestamp;
use serde_json::Value;

use crate::catalog::{Catalog, Entry};
use crate::clock::Clock;
use crate::context::{Context, Watch};
use crate::report::{CopiedSnapshot, CopiedStatus, CopyReport, CopyRunReport, ErrorReport, SessionStatus};
use crate::repository::Store;
use crate::state::CopyMemory;
use crate::{Error, Result};
use names::Side;
use place::{Place, at};
use plan::{Step, plan};
pub(crate) use plan::{first_of, is_same};
use transfer::Transfer;

/// What to copy, and where to.
#[derive(Clone, Debug, Default)]
pub struct CopyRequest {
    /// Id prefixes, `latest`, `latest~N`; none means all that the copy lacks.
    pub snapshots: Vec<String>,
    /// Narrows `latest`, and all to one database.
    pub database: Option<String>,
    /// The name of a configured copy, or a directory.
    pub to: String,
    /// The file with the password of the copy; the configured one, else the primary's by default.
    pub password_file: Option<PathBuf>,
    /// Let a name that belongs to another database there mean this one from now on.
    pub adopt_name: bool,
    /// Say what would be done; nothing is written.
    pub dry_run: bool,
}

/// Copies snapshots. A repository is made where there is none and none was ever seen.
///
/// An error means that nothing was copied. On return every snapshot that the report calls copied is durable there,
/// was read back, and is acknowledged there; one that cannot be read does not hold back the others.
pub fn run(store: &Store, request: &CopyRequest, now: Timestamp, watch: &Watch) -> Result<CopyRunReport> {
    let place = Place::named(store.context(), &request.to, request.password_file.as_deref())?;
    if request.dry_run {
        return rehearse(store, &place, request, now, watch);
    }
    copy(store, &place, request, now, watch)
}

/// Returns the names of the configured copies of the repository in use.
pub(crate) fn names_of(context: &Context) -> Vec<String> {
    place::configured(context).into_iter().map(|(name, _)| name).collect()
}

/// Opens a configured copy of a repository.
pub fn open(store: &Store, name: &str, now: Timestamp, watch: &Watch) -> Result<Store> {
    let place = place::configured(store.context()).into_iter().find(|(other, _)| other == name);
    let unknown = || Error::usage(format!("no copy called {name:?} is configured"), "see [[copies]]");
    place.ok_or_else(unknown)?.1?.open_existing(store, now, watch)
}

/// Copies into every configured copy what it lacks, after a backup. What goes wrong is part of each answer.
pub(crate) fn into_all(store: &Store, now: Timestamp, watch: &Watch) -> Vec<CopyReport> {
    let clock = Clock::start(now);
    let all = CopyRequest::default();
    place::configured(store.context())
        .into_iter()
        .map(|(name, place)| {
            let done = place.and_then(|place| copy(store, &place, &all, clock.now(), watch));
            report_of(name, &done)
        })
        .collect()
}

fn report_of(name: String, done: &Result<CopyRunReport>) -> CopyReport {
    let (status, error, copied, bytes_stored) = match done {
        Ok(report) => (report.status, report.trouble(), report.copied, report.bytes_stored),
        Err(error) => (SessionStatus::Failed, Some(ErrorReport::from(error)), 0, 0),
    };
    let status = match status {
        SessionStatus::Ok => "ok",
        SessionStatus::Partial => "partial",
        SessionStatus::Failed => "failed",
    };
    CopyReport { name, status: status.to_owned(), error, copied, bytes_stored }
}

/// Returns the configured copies as failed for one reason.
pub(crate) fn none_made(context: &Context, error: &Error) -> Vec<CopyReport> {
    let failed = |name| CopyReport {
        name,
        status: "failed".to_owned(),
        error: Some(ErrorReport::from(error)),
        copied: 0,
        bytes_stored: 0,
    };
    names_of(context).into_iter().map(failed).collect()
}

/// Copies into one place, and remembers how it went.
fn copy(
    store: &Store,
    place: &Place,
    request: &CopyRequest,
    now: Timestamp,
    watch: &Watch,
) -> Result<CopyRunReport> {
    let clock = Clock::start(now);
    let state = store.state();
    let _only_one = state.lock_copy(place.location()).map_err(|error| at(&place.name, error))?;
    let done = transfer(store, place, request, clock, watch);
    let mut memory = state.copy(place.location());
    memory.note(&done, request.is_narrowed(), clock.now());
    if let Err(error) = state.save_copy(place.location(), &memory) {
        watch.warn(&format!("this host will not remember what was copied: {}", error.full_message()));
    }
    if let Ok(report) = &done {
        tracing::info!(
            job = "copy",
            event = "copied",
            copy = report.copy,
            copied = report.copied,
            failed = report.failed,
            bytes_stored = report.bytes_stored,
            "copied"
        );
    }
    done
}

impl CopyRequest {
    /// Says whether less is meant than all that the copy lacks.
    fn is_narrowed(&self) -> bool {
        !self.snapshots.is_empty() || self.database.is_some()
    }
}

impl CopyMemory {
    /// Takes note of how a copy went. One that was narrowed tells nothing of the other snapshots.
    fn note(&mut self, done: &Result<CopyRunReport>, is_narrowed: bool, now: Timestamp) {
        let trouble = match done {
            Ok(report) if is_narrowed => {
                let known: HashSet<Id> = self.held.iter().copied().collect();
                self.held.extend(report.held.iter().filter(|id| !known.contains(id)));
                report.trouble()
            }
            Ok(report) => {
                self.held.clone_from(&report.held);
                report.trouble()
            }
            Err(error) => Some(ErrorReport::from(error)),
        };
        match trouble {
            None if is_narrowed => {}
            None => {
                *self = Self { succeeded: Some(now), held: std::mem::take(&mut self.held), ..Self::default() }
            }
            Some(error) => (self.failed, self.error) = (Some(now), Some(error)),
        }
    }
}

/// The steps of a copy.
fn transfer(
    store: &Store,
    place: &Place,
    request: &CopyRequest,
    clock: Clock,
    watch: &Watch,
) -> Result<CopyRunReport> {
    let _reading = store.repository().lock_for_reading(&**watch, clock.began())?;
    let source = Catalog::load(store)?;
    let wanted = wanted(&source, request)?;
    let reader = store.reader(&source)?;

    // Read afresh: what this host has kept of the copy says nothing about what is there.
    let target = place.open_or_make(store, clock.now(), watch)?.afresh();
    let there = |error: Error| at(&place.name, error);
    let lock = target.repository().lock_shared(clock.now()).map_err(|error| there(error.into()))?;
    watch.step("copy.locked");
    let held = Catalog::load(&target).map_err(there)?;
    let known = target.writing_reader(&held).map_err(there)?;

    let steps = plan(&wanted, &held, !request.snapshots.is_empty());
    let mut transfer =
        Transfer::begin(store, &reader, place, &target, &held, &known, &lock, clock, watch).map_err(there)?;
    if !request.adopt_name {
        transfer.taken = taken(&steps, place, (&source, &reader), (&held, &known));
    }
    transfer.take_all(&steps, !request.snapshots.is_empty());
    if request.snapshots.is_empty() {
        transfer.miss_lost(&source, request.database.as_deref());
    }
    Ok(transfer.finish())
}

/// Returns the databases whose names belong to other ones in the copy.
fn taken(
    steps: &[Step<'_>],
    place: &Place,
    here: (&Catalog, &Reader),
    there: (&Catalog, &Reader),
) -> BTreeMap<String, ErrorReport> {
    let of_here = |entry: &Entry| names::identity(here.1, entry);
    let of_there = |entry: &Entry| names::identity(there.1, entry);
    let here = Side { catalog: here.0, identity: &of_here };
    names::taken(steps, &place.name, here, Side { catalog: there.0, identity: &of_there })
}

/// Returns the snapshots that are meant, newest first.
fn wanted<'c>(source: &'c Catalog, request: &CopyRequest) -> Result<Vec<&'c Entry>> {
    let database = request.database.as_deref();
    if request.snapshots.is_empty() {
        let database = source.known_database(database)?;
        let of_database = |entry: &&Entry| database.is_none() || entry.database.as_deref() == database;
        return Ok(source.entries.iter().filter(of_database).collect());
    }
    let named: Result<HashSet<Id>> =
        request.snapshots.iter().map(|wanted| Ok(source.choose(wanted, database)?.id)).collect();
    let named = named?;
    Ok(source.entries.iter().filter(|entry| named.contains(&entry.id)).collect())
}

/// Returns the JSON of a snapshot's copy: everything as it is, also what only other programs know, but for the snapshot
/// before it, which has another id there, and where it comes from.
fn json_of_copy(json: &[u8], entry: &Entry) -> Result<Vec<u8>> {
    let odd = |finding: String| Error::Damaged { what: format!("snapshot {}", entry.id.short()), finding };
    let mut value: Value = serde_json::from_slice(json).map_err(|error| odd(error.to_string()))?;
    let fields = value.as_object_mut().ok_or_else(|| odd("it is no object".to_owned()))?;
    fields.remove("parent");
    let first = first_of(&entry.snapshot).unwrap_or(entry.id);
    fields.insert("original".to_owned(), Value::String(first.to_string()));
    Ok(serde_json::to_vec(&value).expect("JSON that was read becomes JSON"))
}

fn row(entry: &Entry, status: CopiedStatus, copy: Option<Id>) -> CopiedSnapshot {
    CopiedSnapshot {
        snapshot: entry.id,
        copy,
        database: entry.database.clone(),
        time: Some(entry.snapshot.time),
        status,
        error: None,
    }
}

fn failed(entry: &Entry, error: ErrorReport) -> CopiedSnapshot {
    CopiedSnapshot { error: Some(error), ..row(entry, CopiedStatus::Failed, None) }
}

fn missing(snapshot: Id, database: Option<String>, error: &Error) -> CopiedSnapshot {
    let error = Some(ErrorReport::from(error));
    CopiedSnapshot { snapshot, copy: None, database, time: None, status: CopiedStatus::Failed, error }
}

impl CopyRunReport {
    fn begin(place: &Place) -> Self {
        Self {
            copy: place.name.clone(),
            location: place.location().to_owned(),
            status: SessionStatus::Ok,
            snapshots: Vec::new(),
            copied: 0,
            present: 0,
            dropped: 0,
            failed: 0,
            bytes_read: 0,
            bytes_stored: 0,
            bytes_verified: 0,
            duration_ms: 0,
            dry_run: false,
            error: None,
            held: Vec::new(),
        }
    }

    /// Adds up, and decides how it ended.
    fn judge(&mut self) {
        self.failed = self.snapshots.iter().filter(|one| one.status == CopiedStatus::Failed).count() as u64;
        let done =
            |one: &&CopiedSnapshot| matches!(one.status, CopiedStatus::Copied | CopiedStatus::Repaired);
        self.copied = self.snapshots.iter().filter(done).count() as u64;
        self.status = match (self.failed > 0 || self.error.is_some(), self.copied > 0) {
            (false, _) => SessionStatus::Ok,
            (true, true) => SessionStatus::Partial,
            (true, false) => SessionStatus::Failed,
        };
        if self.status == SessionStatus::Failed && self.error.is_none() {
            self.error = self.trouble();
        }
    }
}

/// Says what a copy would do. Nothing is written, and no repository is made.
fn rehearse(
    store: &Store,
    place: &Place,
    request: &CopyRequest,
    now: Timestamp,
    watch: &Watch,
) -> Result<CopyRunReport> {
    let source = Catalog::load(store)?;
    let wanted = wanted(&source, request)?;
    let there = |error: Error| at(&place.name, error);
    let target = match place.exists()? {
        true => Some(place.open_existing(store, now, watch)?.afresh()),
        false => place.may_be_made(store).map(|()| None)?,
    };
    let held = target.as_ref().map_or_else(|| Ok(Catalog::default()), Catalog::load).map_err(there)?;
    let steps = plan(&wanted, &held, !request.snapshots.is_empty());
    let taken = match target.filter(|_| !request.adopt_name) {
        Some(target) => {
            let (here, known) = (store.reader(&source)?, target.reader(&held).map_err(there)?);
            taken(&steps, place, (&source, &here), (&held, &known))
        }
        None => BTreeMap::new(),
    };
    let mut report = CopyRunReport { dry_run: true, ..CopyRunReport::begin(place) };
    for step in steps {
        report.expect(step, &taken);
    }
    report.judge();
    Ok(report)
}

impl CopyRunReport {
    /// Takes note of what one step would come to.
    fn expect(&mut self, step: Step<'_>, taken: &BTreeMap<String, ErrorReport>) {
        match step {
            Step::Copy(entry) => {
                let error = entry.database.as_ref().and_then(|name| taken.get(name));
                let copied = || row(entry, CopiedStatus::Copied, None);
                self.snapshots.push(error.map_or_else(copied, |error| failed(entry, error.clone())));
            }
            Step::Repair(entry, copy) => {
                self.snapshots.push(row(entry, CopiedStatus::Repaired, Some(copy.id)));
            }
            Step::Leave(..) => self.present += 1,
            Step::Dropped => self.dropped += 1,
        }
    }
}
