//! What differs between two snapshots, or between a snapshot and the live database.
//!
//! Chunks with the same name hold the same bytes, so what both sides have in common is not read
//! (`docs/design/compare.md`). The live database is captured as for a backup, and only what the snapshot does not
//! have of it is kept meanwhile. PostgreSQL databases are compared by `server`.

mod live;
mod rows;
mod server;

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use dbkeep_repo::backend::FileKind;
use dbkeep_repo::format::pack::BlobKind;
use dbkeep_repo::read::{Image, ImageReader, Reader};
use dbkeep_repo::{Id, Observer};
use dbkeep_sqlite::compare::{self as sqlite, Options, Side};
use dbkeep_sqlite::vfs::PageSource;
use jiff::Timestamp;

use crate::catalog::{Catalog, Entry};
use crate::context::Watch;
use crate::manifest::{IntegrityResult, Manifest};
use crate::report::{CompareReport, ComparedSide, Engine};
use crate::repository::Store;
use crate::{Error, Result, show};

/// What may be kept in memory of each image.
const CACHE: usize = 64 << 20;

/// What rows that wait for their counterparts may take in memory.
const WAITING: usize = 64 << 20;

/// What to compare.
#[derive(Clone, Debug, Default)]
pub struct CompareRequest {
    /// The beginning of an id, `latest`, or `latest~N`.
    pub snapshot: String,
    /// The same, or `current`; the live database by default.
    pub other: Option<String>,
    /// Narrows `latest`.
    pub database: Option<String>,
    /// Only these tables.
    pub tables: Vec<String>,
    /// How many rows of each table are listed; none when `None`.
    pub rows: Option<usize>,
    /// Override a refusal that names `--force`.
    pub force: bool,
}

/// Compares. Nothing is changed; the live database is read as a backup reads it.
pub fn run(store: &Store, request: &CompareRequest, now: Timestamp, watch: &Watch) -> Result<CompareReport> {
    let _lock = store.repository().lock_for_reading(&**watch, now)?;
    let catalog = Catalog::load(store)?;
    let left = chosen(&catalog, &request.snapshot, request.database.as_deref())?;
    let other = request.other.as_deref().filter(|other| *other != "current");
    let right = other.map(|other| {
        let database = request.database.as_deref().or(left.database.as_deref());
        chosen(&catalog, other, database.filter(|_| other.starts_with("latest")))
    });
    let right = right.transpose()?;
    if let Some(right) = right {
        refuse_other_database(left, right, request.force)?;
    }
    let reader = store.reader(&catalog)?;
    let run = Run { store, reader: &reader, request, now, watch };
    match (left.engine(), right) {
        (Some(Engine::Postgres), Some(right)) => run.served(left, right),
        (Some(Engine::Postgres), None) => run.served_live(left),
        (_, Some(right)) => run.snapshots(left, right),
        (_, None) => run.live(left),
    }
}

/// Finds a snapshot that can be compared.
fn chosen<'c>(catalog: &'c Catalog, wanted: &str, database: Option<&str>) -> Result<&'c Entry> {
    let entry = catalog.choose(wanted, database)?;
    if entry.database.is_none() {
        return Err(Error::Unsupported {
            what: format!("snapshot {} was made by another tool", entry.id.short()),
            hint: Some("only snapshots of databases can be compared; `dbkeep list` shows them".to_owned()),
        });
    }
    Ok(entry)
}

/// Refuses two snapshots that have nothing to do with each other.
fn refuse_other_database(left: &Entry, right: &Entry, force: bool) -> Result<()> {
    let word = |entry: &Entry| entry.engine().map_or("unknown", Engine::word);
    if left.engine() != right.engine() {
        return Err(Error::usage(
            format!(
                "{} is of a {} database and {} of a {} one: they cannot be compared",
                left.describe(),
                word(left),
                right.describe(),
                word(right)
            ),
            "compare two snapshots of one database",
        ));
    }
    if left.database == right.database || force {
        return Ok(());
    }
    Err(Error::Refused {
        what: format!("{} and {} are of different databases", left.describe(), right.describe()),
        hint: Some("compare two snapshots of one database, or add --force if this is meant".to_owned()),
    })
}

/// A comparison under way.
struct Run<'r> {
    store: &'r Store,
    reader: &'r Reader,
    request: &'r CompareRequest,
    now: Timestamp,
    watch: &'r Watch,
}

/// A snapshot whose image is at hand.
struct Opened {
    manifest: Manifest,
    image: Image,
    pages: Arc<ImagePages>,
    side: ComparedSide,
}

impl Run<'_> {
    fn snapshots(&self, left: &Entry, right: &Entry) -> Result<CompareReport> {
        let (left, right) = (self.open(left)?, self.open(right)?);
        let same = same_chunks(&left.image, &right.image);
        let (rows_left, rows_right) = (counted(&left.manifest), counted(&right.manifest));
        let left_side = Side { pages: Arc::clone(&left.pages) as Arc<_>, rows: rows_left };
        let right_side = Side { pages: Arc::clone(&right.pages) as Arc<_>, rows: rows_right };
        let compared = self.compare(&left_side, &right_side, &same);
        let compared = left.pages.or_failure(right.pages.or_failure(compared))?;
        let mut report = rows::report(compared, left.side, right.side);
        for one in [&left.manifest, &right.manifest] {
            report.notes.extend(damaged_source(one));
        }
        Ok(report)
    }

    fn live(&self, left: &Entry) -> Result<CompareReport> {
        let left = self.open(left)?;
        let path = live::path(self.store.context(), &left.manifest, self.request.force)?;
        let live = live::Live::read(self, &left, &path)?;
        let same = live.pages.same();
        let left_side = Side { pages: Arc::clone(&left.pages) as Arc<_>, rows: counted(&left.manifest) };
        let right_side = Side { pages: Arc::clone(&live.pages) as Arc<_>, rows: None };
        let compared = self.compare(&left_side, &right_side, &same);
        let compared = left.pages.or_failure(compared)?;
        let mut report = rows::report(compared, left.side, live.side);
        report.notes.extend(damaged_source(&left.manifest));
        report.notes.extend(live.notes);
        Ok(report)
    }

    /// Finds the image of a snapshot, and makes sure that what it needs is there.
    fn open(&self, entry: &Entry) -> Result<Opened> {
        let manifest = show::manifest(self.reader, entry)?;
        let image = show::image(self.reader, entry, &manifest)?;
        if manifest.image.raw {
            return Err(Error::Unsupported {
                what: format!(
                    "snapshot {} is a raw copy of a file that SQLite could not open, so its tables cannot be compared",
                    entry.id.short()
                ),
                hint: Some("choose another snapshot, or restore it to look into it".to_owned()),
            });
        }
        self.refuse_missing_packs(entry, image.ids().iter())?;
        let pages = ImagePages::new(self.reader.random(&image, CACHE, None)?);
        if !entry.history.damage.is_empty() {
            // Most of it would not be read, so that the damage would not be met.
            self.watch.phase(&format!("read {}", manifest.database), image.size());
            pages.reader.read_rest(&Silent(self.watch))?;
        }
        let side = ComparedSide {
            snapshot: Some(entry.id),
            database: manifest.database.clone(),
            source: manifest.source.clone(),
            moment: manifest.moment,
        };
        Ok(Opened { manifest, image, pages, side })
    }

    /// Refuses a snapshot that cannot be restored because packs are gone. What both sides have is not read, so
    /// nothing else would notice.
    fn refuse_missing_packs<'i>(&self, entry: &Entry, chunks: impl Iterator<Item = &'i Id>) -> Result<()> {
        let present: HashSet<Id> = self.store.repository().names(FileKind::Pack)?.into_iter().collect();
        let index = self.reader.index().read();
        let locations = chunks.filter_map(|id| index.get(BlobKind::Data, id));
        match locations.map(|location| location.pack).find(|pack| !present.contains(pack)) {
            None => Ok(()),
            Some(pack) => Err(Error::Damaged {
                what: format!("snapshot {}", entry.id.short()),
                finding: format!("pack {pack} is missing"),
            }),
        }
    }

    fn compare(&self, left: &Side, right: &Side, same: &[Range<u64>]) -> Result<sqlite::Comparison> {
        self.watch.phase("compare", 0);
        let cancelled = || self.watch.cancelled();
        let options = Options {
            tables: &self.request.tables,
            list: self.request.rows.unwrap_or(0),
            same,
            memory: WAITING,
            force: None,
            cancelled: &cancelled,
        };
        Ok(sqlite::compare(left, right, &options)?)
    }
}

/// Returns the rows that were counted when the snapshot was made.
fn counted(manifest: &Manifest) -> Option<BTreeMap<String, u64>> {
    let tables = manifest.tables.iter().map(|table| (table.name.clone(), table.rows));
    (!manifest.tables.is_empty()).then(|| tables.collect())
}

fn damaged_source(manifest: &Manifest) -> Option<String> {
    (manifest.integrity.result == IntegrityResult::Corrupt)
        .then(|| format!("the database was damaged when it was backed up: {}", manifest.integrity.summary()))
}

/// Returns the stretches in which two images have the same chunks.
fn same_chunks(left: &Image, right: &Image) -> Vec<Range<u64>> {
    let mut same: Vec<Range<u64>> = Vec::new();
    let (mut one, mut other) = (0, 0);
    while one < left.chunks() && other < right.chunks() {
        let (here, there) = (left.span(one), right.span(other));
        if here == there && left.ids()[one] == right.ids()[other] {
            push(&mut same, here.0..here.0 + u64::from(here.1));
        }
        let ends = (here.0 + u64::from(here.1), there.0 + u64::from(there.1));
        one += usize::from(ends.0 <= ends.1);
        other += usize::from(ends.1 <= ends.0);
    }
    same
}

/// Adds a stretch behind the others, joined to the last where they touch.
fn push(stretches: &mut Vec<Range<u64>>, stretch: Range<u64>) {
    match stretches.last_mut() {
        Some(last) if last.end == stretch.start => last.end = stretch.end,
        _ => stretches.push(stretch),
    }
}

/// An image in the repository.
struct ImagePages {
    reader: ImageReader,
    failure: Mutex<Option<dbkeep_repo::Error>>,
}

impl ImagePages {
    fn new(reader: ImageReader) -> Arc<Self> {
        Arc::new(Self { reader, failure: Mutex::new(None) })
    }

    /// Returns the first error of the repository, whatever was made of it.
    fn or_failure<T>(&self, result: Result<T>) -> Result<T> {
        match self.failure.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(error) => Err(error.into()),
            None => result,
        }
    }
}

impl PageSource for ImagePages {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.reader.read_at(offset, buffer).map_err(|error| {
            let told = io::Error::other(error.to_string());
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            told
        })
    }
}

/// Passes on the wish to stop, and no progress.
struct Silent<'w>(&'w Watch);

impl Observer for Silent<'_> {
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_repo::format::snapshot::Snapshot;

    use super::*;

    fn entry(database: &str, engine: &str) -> Entry {
        let mut snapshot = Snapshot::new(Timestamp::UNIX_EPOCH, Id::of(database.as_bytes()));
        snapshot.tags = vec![format!("database={database}"), format!("engine={engine}")];
        let database = Some(database.to_owned());
        Entry {
            id: Id::of(engine.as_bytes()),
            snapshot,
            database,
            history: crate::catalog::History::default(),
        }
    }

    #[test]
    fn snapshots_of_two_engines_are_wrong_usage_even_when_forced() {
        let (sqlite, postgres) = (entry("shop", "sqlite"), entry("shop", "postgres"));
        for force in [false, true] {
            let error = refuse_other_database(&sqlite, &postgres, force).unwrap_err();
            assert_eq!((error.kind().word(), error.exit_code()), ("usage", 2));
            assert!(error.to_string().contains("sqlite database"), "{error}");
            assert!(error.to_string().contains("postgres one"), "{error}");
            assert!(refuse_other_database(&sqlite, &sqlite, force).is_ok());
        }
        let other = entry("clinic", "sqlite");
        assert_eq!(refuse_other_database(&sqlite, &other, false).unwrap_err().kind().word(), "refused");
        assert!(refuse_other_database(&sqlite, &other, true).is_ok());
    }

    #[test]
    fn stretches_are_the_same_where_chunks_are_joined_where_they_touch() {
        let mut same = Vec::new();
        for stretch in [0..10, 10..20, 30..40, 40..45] {
            push(&mut same, stretch);
        }
        assert_eq!(same, [0..20, 30..45]);
    }
}
