//! Proves that snapshots keep their promise, straight from the repository: every blob's hash, the root, the plain
//! SHA-256 where there is one, the rows of every table, and the integrity check. Nothing is restored to disk.

pub(crate) mod server;

use std::sync::{Arc, Mutex, PoisonError};

use dbkeep_repo::format::fact::Fact;
use dbkeep_repo::read::{Image, ImageReader, Reader};
use dbkeep_sqlite::rows::RowCounter;
use jiff::Timestamp;

use crate::catalog::{Catalog, Entry, Lost};
use crate::clock::Clock;
use crate::context::Watch;
use crate::finding::{finding, is_damage};
use crate::integrity::{Looked, StoredPages, Verify, look_at_stored};
use crate::manifest::{IntegrityResult, Manifest};
use crate::report::{Engine, Verified, VerifyReport, VerifyStatus};
use crate::repository::Store;
use crate::{Error, Result, name, show};

/// What may be kept in memory of an image.
const CACHE: usize = 96 << 20;

/// What to verify.
#[derive(Clone, Debug)]
pub struct VerifyRequest {
    /// Id prefixes, `latest`, `latest~N`; none means the newest of each database.
    pub snapshots: Vec<String>,
    /// Every snapshot of ours.
    pub all: bool,
    /// Only this database; narrows `latest`.
    pub database: Option<String>,
    /// The snapshots of this session, or of the `latest`.
    pub session: Option<String>,
    /// How deep the integrity check goes.
    pub level: Verify,
}

impl Default for VerifyRequest {
    fn default() -> Self {
        Self { snapshots: Vec::new(), all: false, database: None, session: None, level: Verify::Full }
    }
}

/// Verifies snapshots, and remembers in the repository what was found.
pub fn run(store: &Store, request: &VerifyRequest, now: Timestamp, watch: &Watch) -> Result<VerifyReport> {
    let clock = Clock::start(now);
    let store = &store.afresh();
    let _lock = store.repository().lock_for_reading(&**watch, now)?;
    let catalog = Catalog::load(store)?;
    let wanted = wanted(&catalog, request)?;
    let reader = store.reader(&catalog)?;
    let run = Run { store, reader: &reader, level: request.level, clock, watch };
    let mut checked = Vec::new();
    for entry in wanted {
        checked.push(run.prove(entry)?);
    }
    checked.extend(lost(&catalog, request));
    let ok = checked.iter().filter(|one| one.status == VerifyStatus::Ok).count() as u64;
    Ok(VerifyReport { ok, damaged: checked.len() as u64 - ok, checked })
}

/// Returns the snapshots that are meant.
fn wanted<'c>(catalog: &'c Catalog, request: &VerifyRequest) -> Result<Vec<&'c Entry>> {
    let database = request.database.as_deref();
    let of_database = |entry: &&Entry| {
        entry.database.is_some() && (database.is_none() || entry.database.as_deref() == database)
    };
    if !request.snapshots.is_empty() {
        let chosen = request.snapshots.iter().map(|wanted| ours(catalog.choose(wanted, database)?));
        return chosen.collect();
    }
    if let Some(session) = &request.session {
        return Ok(catalog.of_session(session)?.into_iter().filter(of_database).collect());
    }
    if request.all {
        return Ok(catalog.entries.iter().filter(of_database).collect());
    }
    if let Some(database) = database {
        return Ok(vec![catalog.choose("latest", Some(database))?]);
    }
    Ok(catalog.newest_of_each())
}

pub(crate) fn ours(entry: &Entry) -> Result<&Entry> {
    match entry.database {
        Some(_) => Ok(entry),
        None => Err(Error::Unsupported {
            what: format!(
                "snapshot {} was made by another tool, so it has no manifest to compare with",
                entry.id.short()
            ),
            hint: Some("`dbkeep check --read-data` checks its data".to_owned()),
        }),
    }
}

/// Returns the snapshots that should be there: they are part of what was asked for, unless single ones were.
pub(crate) fn lost(catalog: &Catalog, request: &VerifyRequest) -> Vec<Verified> {
    if !request.snapshots.is_empty() || request.session.is_some() {
        return Vec::new();
    }
    let row = |lost: &Lost| {
        let (status, finding) = match &lost.why {
            Some(why) => (VerifyStatus::Damaged, why.clone()),
            None => (VerifyStatus::Missing, "it was acknowledged, never forgotten, and is gone".to_owned()),
        };
        let database = &lost.snapshot.database;
        Verified {
            snapshot: lost.snapshot.id,
            database: name::decode(database).unwrap_or_else(|| database.clone()),
            status,
            findings: vec![finding],
            time: None,
            integrity: "not run".to_owned(),
            bytes_read: 0,
            duration_ms: 0,
            notes: Vec::new(),
        }
    };
    let wanted = |row: &Verified| request.database.as_ref().is_none_or(|database| *database == row.database);
    catalog.lost.iter().map(row).filter(wanted).collect()
}

/// A verification under way.
struct Run<'r> {
    store: &'r Store,
    reader: &'r Reader,
    level: Verify,
    clock: Clock,
    watch: &'r Watch,
}

/// What was found out about one snapshot.
#[derive(Default)]
struct Findings {
    findings: Vec<String>,
    notes: Vec<String>,
    integrity: Option<String>,
    bytes_read: u64,
    /// Whether the findings are of the repository, not of the source as it was.
    is_news: bool,
    /// Whether the integrity check ran.
    was_checked: bool,
}

impl Findings {
    fn damage(&mut self, finding: String) {
        self.findings.push(finding);
        self.is_news = true;
    }
}

impl Run<'_> {
    fn prove(&self, entry: &Entry) -> Result<Verified> {
        let began = self.clock.now();
        let mut findings = Findings::default();
        match self.examine(entry, &mut findings) {
            Ok(()) => {}
            Err(error) if is_damage(&error) => findings.damage(finding(&error)),
            Err(error) => return Err(error),
        }
        self.note(entry, &findings);
        let damaged = !findings.findings.is_empty();
        tracing::info!(job = "verify", event = "verified", snapshot = %entry.id.short(), damaged, "verified");
        let status = if findings.findings.is_empty() { VerifyStatus::Ok } else { VerifyStatus::Damaged };
        Ok(Verified {
            snapshot: entry.id,
            database: entry.database.clone().unwrap_or_default(),
            status,
            findings: findings.findings,
            time: Some(entry.snapshot.time),
            integrity: findings.integrity.unwrap_or_else(|| "not run".to_owned()),
            bytes_read: findings.bytes_read,
            duration_ms: self.clock.milliseconds_since(began),
            notes: findings.notes,
        })
    }

    /// Reads everything of a snapshot and compares it with its manifest.
    fn examine(&self, entry: &Entry, findings: &mut Findings) -> Result<()> {
        let manifest = show::manifest(self.reader, entry)?;
        if manifest.engine == Engine::Postgres {
            return self.examine_server(entry, manifest, findings);
        }
        let image = show::image(self.reader, entry, &manifest)?;
        self.watch.phase(&format!("verify {}", manifest.database), image.size());
        let counter = Arc::new(Mutex::new(Counting::new(&manifest, &image, Arc::clone(self.watch))));
        let pages = self.pages(&image, &counter)?;
        let encrypted = manifest.image.raw && manifest.integrity.result == IntegrityResult::NotRun;
        let looked = match encrypted {
            true => None,
            false => Some(look_at_stored(&pages, self.level, &|| self.watch.cancelled())?),
        };
        pages.reader().read_rest(&Silent(self.watch))?;
        findings.bytes_read = image.size();
        drop(pages);
        let counting = Arc::try_unwrap(counter).map_err(|_| still_reading())?;
        let mut counting = counting.into_inner().unwrap_or_else(PoisonError::into_inner);
        counting.compare_sha256(self.reader, &image, &manifest, self.watch, findings)?;
        match looked {
            Some(looked) => compare(looked, &counting, &manifest, findings),
            None => findings.notes.push("it is a raw copy that cannot be looked into".to_owned()),
        }
        Ok(())
    }

    fn pages(&self, image: &Image, counter: &Arc<Mutex<Counting>>) -> Result<Arc<StoredPages>> {
        let counter = Arc::clone(counter);
        let first_read = Box::new(move |offset: u64, bytes: &[u8]| {
            counter.lock().unwrap_or_else(PoisonError::into_inner).feed(offset, bytes);
        });
        let reader: ImageReader = self.reader.random(image, CACHE, Some(first_read))?;
        Ok(StoredPages::new(reader))
    }

    /// Remembers the result as a fact. Where that cannot be written, it is a warning: the report comes first.
    fn note(&self, entry: &Entry, findings: &Findings) {
        let fact = match (findings.findings.is_empty(), findings.is_news) {
            (true, _) if findings.was_checked => {
                Fact::Verified { snapshot: entry.reference(), level: self.level.word().to_owned() }
            }
            (false, true) => {
                Fact::Damaged { snapshots: vec![entry.reference()], findings: findings.findings.clone() }
            }
            _ => return,
        };
        if let Err(error) = self.store.note(fact, self.clock.now()) {
            self.watch.warn(&format!(
                "the result for {} could not be noted: {}",
                entry.id.short(),
                error.full_message()
            ));
        }
    }
}

/// Compares what the image turned out to be with what its manifest says.
fn compare(looked: Looked, counting: &Counting, manifest: &Manifest, findings: &mut Findings) {
    findings.notes.extend(looked.notes);
    findings.integrity = Some(looked.integrity.summary());
    findings.was_checked = looked.integrity.result == IntegrityResult::Ok;
    if looked.integrity.result == IntegrityResult::Corrupt {
        let problem = looked.integrity.summary();
        match manifest.integrity.result {
            IntegrityResult::Corrupt => {
                findings.findings.push(format!("the database was damaged when it was backed up: {problem}"));
            }
            // Its hashes hold, so it is what was stored; only a deeper check than the one at the time sees it.
            _ => findings.damage(format!("the database is damaged: {problem}")),
        }
        return;
    }
    if manifest.tables.is_empty() {
        return;
    }
    let rows = looked.tables.and_then(|tables| match &counting.rows {
        Some(counter) => Ok(counter.rows(&tables)?),
        None => Ok(Vec::new()),
    });
    match rows {
        Ok(rows) => {
            let found: Vec<(&str, u64)> =
                rows.iter().map(|table| (table.name.as_str(), table.rows)).collect();
            let expected: Vec<(&str, u64)> =
                manifest.tables.iter().map(|table| (table.name.as_str(), table.rows)).collect();
            if found != expected {
                findings.damage(difference(&expected, &found));
            }
        }
        Err(error) => findings.damage(format!("the rows cannot be counted: {}", error.full_message())),
    }
}

/// Names the first table that is not as the manifest says.
fn difference(expected: &[(&str, u64)], found: &[(&str, u64)]) -> String {
    for (table, rows) in expected {
        match found.iter().find(|(name, _)| name == table) {
            Some((_, count)) if count == rows => {}
            Some((_, count)) => return format!("table {table:?} has {count} rows, the manifest says {rows}"),
            None => return format!("table {table:?} is not there"),
        }
    }
    "there are more tables than the manifest says".to_owned()
}

/// What is counted while an image is read in any order.
struct Counting {
    rows: Option<RowCounter>,
    watch: Watch,
}

impl Counting {
    fn new(manifest: &Manifest, _image: &Image, watch: Watch) -> Self {
        let facts = manifest.sqlite.as_ref().filter(|_| !manifest.image.raw);
        let sound = |size: u32| size.is_power_of_two() && (512..=65536).contains(&size);
        let facts = facts.filter(|facts| {
            sound(facts.page_size) && manifest.image.chunk_size.is_multiple_of(facts.page_size)
        });
        Self { rows: facts.map(|facts| RowCounter::new(facts.page_size, facts.reserved)), watch }
    }

    fn feed(&mut self, offset: u64, bytes: &[u8]) {
        if let Some(rows) = &mut self.rows {
            rows.feed(offset, bytes);
        }
        self.watch.advance(bytes.len() as u64);
    }

    /// The plain SHA-256 adds nothing to the hashes of all chunks and the root, which were compared: the manifest's
    /// is compared where it is cheap, as a check of the manifest itself.
    fn compare_sha256(
        &mut self,
        reader: &Reader,
        image: &Image,
        manifest: &Manifest,
        watch: &Watch,
        findings: &mut Findings,
    ) -> Result<()> {
        const CHEAP: u64 = 32 << 20;
        let Some(expected) = manifest.image.sha256.filter(|_| image.size() <= CHEAP) else { return Ok(()) };
        let sink = Memory(Mutex::new(vec![0; usize::try_from(image.size()).unwrap_or(0)]));
        reader.restore(image, &sink, &Silent(watch))?;
        let bytes = sink.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        if dbkeep_repo::Id::of(&bytes) != expected {
            findings.damage("the image has another SHA-256 than the manifest says".to_owned());
        }
        Ok(())
    }
}

/// An image in memory.
struct Memory(Mutex<Vec<u8>>);

impl dbkeep_repo::read::ImageSink for Memory {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let start = usize::try_from(offset).map_err(std::io::Error::other)?;
        let place = memory.get_mut(start..start + bytes.len()).ok_or(std::io::ErrorKind::UnexpectedEof)?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn starts_zeroed(&self) -> bool {
        true
    }
}

/// Passes on the wish to stop, and no progress: that is counted where bytes are first read.
struct Silent<'w>(&'w Watch);

impl dbkeep_repo::Observer for Silent<'_> {
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

fn still_reading() -> Error {
    Error::Damaged { what: "the verification".to_owned(), finding: "a reader did not end".to_owned() }
}
