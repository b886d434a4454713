//! The live database as one side: one moment of it, read once.
//!
//! Rows are cut as a backup cuts them. Stretches that the snapshot has are crossed off as they come, the others go to a
//! file without a name; when everything has come, the moment is given back, and only then rows are compared. Nothing is
//! stored in the repository, nothing is written on the server, and who waits for us on the server does not wait long.

use std::collections::BTreeSet;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dbkeep_postgres::archive::Archive;
use dbkeep_postgres::capture::{Capture, CaptureOptions, Gap};
use dbkeep_postgres::catalog::{Catalog, Name, Table};
use dbkeep_postgres::dump::{PartReceiver, Receiver};
use dbkeep_postgres::facts::Facts;
use dbkeep_postgres::large_objects::{self, Sums};
use dbkeep_postgres::locks::Locks;
use dbkeep_postgres::plan::Part;
use dbkeep_postgres::rows::{RowEnd, RowSum};
use dbkeep_postgres::wire::Options;
use dbkeep_postgres::{BoxError, Error as Postgres};
use dbkeep_repo::read::Image;

use super::stretches::{Crossing, Stretch, Stretcher, stretches};
use crate::backup;
use crate::compare::live::nameless_file;
use crate::context::Watch;
use crate::manifest::Identity;
use crate::source::Server;
use crate::{Error, Result};

/// How often the reading begins again when tables change under it, or somebody waits for us.
const RESTARTS: u32 = 3;
/// What waits for the file, of each part that is being read; and what is read of it at once.
const BUFFER: usize = 256 << 10;

/// What is known before the database is read.
pub(super) struct Wish<'w> {
    pub(super) server: &'w Server,
    /// Where programs are looked for.
    pub(super) path: Option<&'w str>,
    /// Tables whose rows are not wanted.
    pub(super) without: Vec<Name>,
    /// Whether large objects are.
    pub(super) large_objects: bool,
    /// Whether rows are that no table of the snapshot has.
    pub(super) new_rows: bool,
    /// What the snapshot has of a table that has this shape now.
    pub(super) known: &'w dyn Fn(&Table) -> Known,
    /// Where files are made.
    pub(super) directory: &'w Path,
    pub(super) watch: &'w Watch,
}

/// What a snapshot has of a table.
pub(super) enum Known {
    /// Nothing.
    Nothing,
    /// Rows whose bytes mean something else, as its columns are others.
    Otherwise,
    /// Rows in chunks, and how long these are.
    Rows(Arc<Image>, u32),
}

/// The live database at one moment; the moment is over.
pub(super) struct Live {
    pub(super) facts: Facts,
    pub(super) catalog: Catalog,
    pub(super) archive: Archive,
    /// Whether its large objects were asked for; they belong to no schema.
    pub(super) has_large_objects: bool,
    /// The sums of tables, as the catalog has them.
    sums: Vec<RowSum>,
    large_objects: Sums,
    rows: Kept,
}

impl Live {
    /// Reads the database; `check` may refuse it when it is known which it is.
    pub(super) fn read(wish: &Wish<'_>, check: &dyn Fn(&Identity) -> Result<()>) -> Result<Self> {
        let mut restarts = 0;
        loop {
            match Self::read_once(wish, check) {
                Err(Error::Postgres(error @ (Postgres::Changed { .. } | Postgres::Yielded { .. })))
                    if restarts < RESTARTS =>
                {
                    restarts += 1;
                    wish.watch.warn(&format!("{error}: it begins again at a new moment"));
                }
                Err(Error::Postgres(Postgres::Stopped)) => return Err(Error::Cancelled),
                Err(Error::Postgres(Postgres::Receiver(_))) if wish.watch.cancelled() => {
                    return Err(Error::Cancelled);
                }
                Err(Error::Postgres(Postgres::Receiver(inner))) => {
                    return Err(match inner.downcast::<Error>() {
                        Ok(error) => *error,
                        Err(inner) => Postgres::Receiver(inner).into(),
                    });
                }
                read => return read,
            }
        }
    }

    fn read_once(wish: &Wish<'_>, check: &dyn Fn(&Identity) -> Result<()>) -> Result<Self> {
        let capture = Capture::begin(&wish.server.info, &wish.options())?;
        check(&backup::identity(&capture))?;
        let (facts, catalog) = (capture.facts().clone(), capture.catalog().clone());
        let bytes = catalog.with_rows().map(|table| table.bytes).sum();
        wish.watch.phase(&format!("read {}", facts.database), bytes);
        wish.watch.step("compare.captured");
        let has_large_objects = !capture.not_covered().iter().any(|gap| gap.why == Gap::NotAskedFor);
        let file = tempfile::tempfile().map_err(Error::temporary)?;
        capture.objects(file.try_clone().map_err(Error::temporary)?)?;
        let archive = Archive::of(&file)?;
        let rows = Kept::new(wish, &catalog);
        let sums = capture.rows(&rows)?;
        let large_objects = match wish.large_objects && catalog.large_objects > 0 {
            true => capture.large_objects(&rows)?,
            false => Sums::default(),
        };
        capture.finish()?;
        wish.watch.step("compare.read");
        let kept = rows.length.load(Ordering::Relaxed);
        tracing::debug!(
            job = "compare",
            event = "read",
            kept,
            "bytes of the live database that are compared"
        );
        Ok(Self { facts, catalog, archive, has_large_objects, sums, large_objects, rows })
    }

    /// Returns the sum of a table by its place in the catalog; large objects are behind the last one.
    pub(super) fn sum(&self, place: usize) -> RowSum {
        let tables = self.catalog.tables.len();
        match place.checked_sub(tables) {
            None => self.sums.get(place).copied().unwrap_or_default(),
            Some(0) => self.large_objects.contents,
            Some(_) => self.large_objects.owners,
        }
    }

    /// Returns which chunks of the snapshot's rows were not met; all without a table there.
    pub(super) fn left(&self, place: usize, rows: &Image) -> Vec<Range<usize>> {
        let table = &self.rows.tables[place];
        match lock(&table.crossing).take() {
            Some(crossing) => crossing.left(&stretches(rows)),
            None => std::iter::once(0..rows.chunks()).filter(|all| !all.is_empty()).collect(),
        }
    }

    /// Hands out the rows of a table that were kept, piece by piece.
    pub(super) fn each(&self, place: usize, take: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let parts = lock(&self.rows.tables[place].parts).clone();
        let file = lock(&self.rows.file).clone();
        let mut buffer = vec![0; BUFFER];
        for range in parts.into_iter().flatten() {
            let mut offset = range.start;
            while offset < range.end {
                let length = usize::try_from(range.end - offset).unwrap_or(BUFFER).min(BUFFER);
                let file =
                    file.as_ref().ok_or_else(|| Postgres::Receiver("rows that are not there".into()))?;
                let read = file.read_exact_at(&mut buffer[..length], offset);
                read.map_err(Error::io("read in", &self.rows.directory))?;
                take(&buffer[..length])?;
                offset += length as u64;
            }
        }
        Ok(())
    }
}

impl Wish<'_> {
    fn options(&self) -> CaptureOptions {
        let stop = {
            let watch = Arc::clone(self.watch);
            Arc::new(move || watch.cancelled())
        };
        let mut how = CaptureOptions {
            locks: Locks::Yield,
            path: self.path.map(std::ffi::OsString::from),
            options: Options { stop, ..Options::default() },
            ..backup::capture_options(self.server)
        };
        let known: BTreeSet<Name> = how.exclude_data.iter().cloned().collect();
        how.exclude_data.extend(self.without.iter().filter(|name| !known.contains(name)).cloned());
        how
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The rows that the snapshot does not have, or not in the same place.
struct Kept {
    tables: Vec<KeptTable>,
    directory: PathBuf,
    file: Mutex<Option<Arc<File>>>,
    length: AtomicU64,
    watch: Watch,
}

struct KeptTable {
    /// What is crossed off, and how rows are cut for that.
    crossing: Mutex<Option<Crossing>>,
    chunk_size: Option<u32>,
    /// Whether rows are kept at all.
    is_kept: bool,
    /// Where the rows of each part are in the file.
    parts: Mutex<Vec<Vec<Range<u64>>>>,
}

impl Kept {
    fn new(wish: &Wish<'_>, catalog: &Catalog) -> Self {
        let pseudo = [large_objects::contents(), large_objects::owners()];
        let table = |table: &Table| {
            let (chunk_size, crossing, is_kept) = match (wish.known)(table) {
                Known::Nothing => (None, None, wish.new_rows),
                Known::Otherwise => (None, None, true),
                Known::Rows(rows, chunk_size) => {
                    (Some(chunk_size), Some(Crossing::new(&stretches(&rows))), true)
                }
            };
            KeptTable { crossing: Mutex::new(crossing), chunk_size, is_kept, parts: Mutex::default() }
        };
        Self {
            tables: catalog.tables.iter().chain(&pseudo).map(table).collect(),
            directory: wish.directory.to_owned(),
            file: Mutex::default(),
            length: AtomicU64::new(0),
            watch: Arc::clone(wish.watch),
        }
    }

    /// Adds bytes. Returns where they are.
    fn put(&self, bytes: &[u8]) -> Result<Range<u64>> {
        let file = {
            let mut file = lock(&self.file);
            match &*file {
                Some(file) => Arc::clone(file),
                None => Arc::clone(file.insert(Arc::new(nameless_file(&self.directory)?))),
            }
        };
        let start = self.length.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        file.write_all_at(bytes, start).map_err(Error::io("write to", &self.directory))?;
        Ok(start..start + bytes.len() as u64)
    }
}

impl Receiver for Kept {
    fn open(&self, part: &Part, _: &Table) -> Result<Box<dyn PartReceiver + '_>, BoxError> {
        let table = self.tables.get(part.table).ok_or("a part of no table")?;
        lock(&table.parts).resize(part.parts, Vec::new());
        Ok(Box::new(KeptPart {
            rows: self,
            table,
            number: part.number,
            stretcher: table.chunk_size.map(Stretcher::new),
            out: Out { rows: self, bytes: Vec::new(), ranges: Vec::new() },
        }))
    }
}

/// The rows of a part.
struct KeptPart<'k> {
    rows: &'k Kept,
    table: &'k KeptTable,
    number: usize,
    stretcher: Option<Stretcher>,
    out: Out<'k>,
}

/// What of them is kept.
struct Out<'k> {
    rows: &'k Kept,
    bytes: Vec<u8>,
    ranges: Vec<Range<u64>>,
}

impl Out<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if !self.bytes.is_empty() {
            self.ranges.push(self.rows.put(&self.bytes)?);
            self.bytes.clear();
        }
        Ok(())
    }

    /// Keeps a stretch, unless the snapshot has it.
    fn take(&mut self, table: &KeptTable, stretch: &Stretch<'_>) -> Result<()> {
        match stretch {
            Stretch::Whole(name, bytes) => {
                let met = lock(&table.crossing).as_mut().is_some_and(|crossing| crossing.cross_off(name));
                if met { Ok(()) } else { self.put(bytes) }
            }
            Stretch::Part(bytes) => self.put(bytes),
        }
    }
}

impl PartReceiver for KeptPart<'_> {
    fn take(&mut self, bytes: &[u8], ends: &[RowEnd]) -> Result<(), BoxError> {
        if self.rows.watch.cancelled() {
            return Err(Box::new(Error::Cancelled));
        }
        self.rows.watch.advance(bytes.len() as u64);
        let (out, table) = (&mut self.out, self.table);
        match &mut self.stretcher {
            Some(stretcher) => stretcher.take(bytes, ends, &mut |stretch| out.take(table, &stretch))?,
            None if self.table.is_kept => out.put(bytes)?,
            None => {}
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>, _: RowSum) -> Result<(), BoxError> {
        let (out, table) = (&mut self.out, self.table);
        if let Some(stretcher) = self.stretcher.take() {
            stretcher.finish(&mut |stretch| out.take(table, &stretch))?;
        }
        out.flush()?;
        let mut parts = lock(&table.parts);
        let place = parts.get_mut(self.number).ok_or("a part behind the last")?;
        *place = std::mem::take(&mut out.ranges);
        Ok(())
    }
}
