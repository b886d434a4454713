//! What this host has kept of a repository's snapshots, facts and index files, so that a command need not read
//! thousands of small objects.
//!
//! Objects never change and are named by the SHA-256 of their bytes, so what was read of one holds for ever. What
//! *exists* is never asked of the cache: every reading begins with a listing of the repository, what is not listed is
//! dropped, and what is not kept is read from the repository. The cache can therefore be lost, old, or written by
//! several processes at once: that costs time, never truth. What it cannot tell is whether an object that is listed has
//! become unreadable since, so nothing that judges the repository or removes data may use it.
//!
//! The objects are in a few *segments*, files of up to 4 MiB ([`segment`]) under random names. A segment is never
//! changed: new objects go into a new one, together with those of older ones that are not larger than it, which are
//! then removed. So each object is written anew about as often as the number of objects doubles, and there are few
//! segments.

pub mod record;
pub mod segment;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crossbeam_channel::Sender;

use crate::backend::FileKind;
use crate::crypto::{MasterKey, NONCE};
use crate::durable;
use crate::format::{FormatError, FormatResult};
use crate::observe::Observer;
use crate::{Id, Repository};
use segment::{Draft, Header, Segment};

/// When a segment is written that could go on growing.
const SEGMENT: usize = 4 << 20;

/// The largest file that is read: the binary of the largest object there can be is smaller.
const LIMIT: u64 = 192 << 20;

/// What this host keeps of one repository. May be used by several threads and processes at once.
pub struct Cache {
    folder: PathBuf,
    key: MasterKey,
    repository: Id,
    watch: Arc<dyn Observer>,
    has_warned: AtomicBool,
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Cache").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Cache {
    /// Makes a cache of `repository` in `folder`, which need not be there yet and is used for nothing else.
    ///
    /// Nothing fails because of a cache: where it cannot be written, `watch` is warned once.
    pub fn new(repository: &Repository, folder: impl Into<PathBuf>, watch: Arc<dyn Observer>) -> Self {
        Self {
            folder: folder.into(),
            key: repository.key().clone(),
            repository: Id::of(repository.id().as_bytes()),
            watch,
            has_warned: AtomicBool::new(false),
        }
    }

    /// Opens the part of the cache that holds objects of one kind. `listed` are those that the repository has.
    pub(crate) fn shelf(&self, kind: FileKind, listed: &[Id]) -> Shelf<'_> {
        let header = Header { kind, repository: self.repository };
        let files = self.files(kind).unwrap_or_else(|error| {
            self.warn(&error);
            Vec::new()
        });
        Shelf {
            cache: self,
            header,
            files,
            wanted: listed.iter().copied().collect(),
            stock: Vec::new(),
            draft: Draft::new(&header),
            has_failed: false,
        }
    }

    fn warn(&self, error: &io::Error) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            self.watch.warn(&format!(
                "the cache in {} cannot be kept, so commands take longer: {error}",
                self.folder.display()
            ));
        }
    }

    fn open(&self, path: &Path, header: &Header) -> io::Result<Segment> {
        let sealed = read_bounded(path)?;
        Segment::open(sealed, &self.key, header).map_err(io::Error::other)
    }

    /// Returns the files of a kind with their sizes, the largest first.
    fn files(&self, kind: FileKind) -> io::Result<Vec<(u64, PathBuf)>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let of_kind = name.to_str().and_then(|name| name.strip_prefix(kind.word())?.strip_prefix('-'));
            if of_kind.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit())) {
                let size = entry.metadata().map_or(0, |metadata| metadata.len());
                files.push((size, entry.path()));
            }
        }
        files.sort();
        files.reverse();
        Ok(files)
    }
}

/// Reads a file that has a sensible size.
fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let file = durable::open_no_follow(path)?;
    let metadata = file.metadata()?;
    let size = metadata.len();
    if size > LIMIT || !metadata.is_file() {
        return Err(io::Error::other("larger than any segment"));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The objects of one kind, while they are read and brought up to date.
pub(crate) struct Shelf<'c> {
    cache: &'c Cache,
    header: Header,
    files: Vec<(u64, PathBuf)>,
    /// Those that the repository has and that were not found yet.
    wanted: HashSet<Id>,
    stock: Vec<Stock>,
    /// New objects, which are in no segment yet.
    draft: Draft,
    has_failed: bool,
}

/// A segment that was read.
struct Stock {
    path: PathBuf,
    /// The objects that the repository still has and no segment before had.
    live: Vec<Id>,
    live_weight: usize,
    weight: usize,
}

impl Stock {
    /// Says whether a segment is not worth its room.
    fn is_mostly_dead(&self) -> bool {
        self.live_weight * 2 < self.weight || self.live.is_empty()
    }
}

impl Shelf<'_> {
    /// Returns about how many bytes there are to be read; at most so many, unless another process adds some.
    pub(crate) fn expected_bytes(&self) -> usize {
        let bytes: u64 = self.files.iter().map(|(size, _)| (*size).min(LIMIT)).sum();
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }

    /// Hands over the bytes of every object that is kept and that the repository has, once, in no order. A segment that
    /// cannot be opened counts as absent, and so does an object that `take` cannot read.
    ///
    /// Segments are opened on all cores. `take` runs on the calling thread: objects of many small parts are made
    /// there, as the memory of short-lived threads is got from the kernel page by page.
    pub(crate) fn read(&mut self, mut take: impl FnMut(Id, &[u8]) -> FormatResult<()>) {
        let files = std::mem::take(&mut self.files);
        let (cache, header) = (self.cache, self.header);
        let next = AtomicUsize::new(0);
        let work = |sender: Sender<(PathBuf, io::Result<Segment>)>| {
            while let Some((_, path)) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                if sender.send((path.clone(), cache.open(path, &header))).is_err() {
                    return;
                }
            }
        };
        let threads = thread::available_parallelism().map_or(1, usize::from).min(files.len());
        // Bounded, so that few segments are in memory at once.
        let (sender, opened) = crossbeam_channel::bounded(threads);
        thread::scope(|scope| {
            let started = (0..threads).filter(|_| {
                let (work, sender) = (&work, sender.clone());
                let thread = thread::Builder::new().name("cache".to_owned());
                thread.spawn_scoped(scope, move || work(sender)).is_ok()
            });
            // Where no thread is to be had, all counts as absent and is read from the repository.
            if started.count() == 0 {
                return;
            }
            drop(sender);
            for (path, opened) in opened {
                match opened {
                    Ok(segment) => self.stack(path, &segment, &mut take),
                    Err(error) => self.discard(path, &error),
                }
            }
        });
    }

    fn stack(
        &mut self,
        path: PathBuf,
        segment: &Segment,
        take: &mut impl FnMut(Id, &[u8]) -> FormatResult<()>,
    ) {
        let mut stock = Stock { path, live: Vec::new(), live_weight: 0, weight: 0 };
        for (id, bytes) in segment.records() {
            let weight = segment::weight(bytes);
            stock.weight += weight;
            if !self.wanted.remove(&id) {
                continue;
            }
            if let Err(error) = take(id, bytes) {
                tracing::warn!(file = %stock.path.display(), %error, "an object in the cache cannot be used");
                self.wanted.insert(id);
                continue;
            }
            stock.live.push(id);
            stock.live_weight += weight;
        }
        self.stock.push(stock);
    }

    /// Takes note of a segment that cannot be used; it is removed at the end.
    fn discard(&mut self, path: PathBuf, error: &io::Error) {
        // Another process may have merged it into a new one since the folder was read.
        if error.kind() == io::ErrorKind::NotFound {
            return;
        }
        tracing::warn!(file = %path.display(), %error, "a part of the cache cannot be used and is built anew");
        self.stock.push(Stock { path, live: Vec::new(), live_weight: 0, weight: 0 });
    }

    /// Returns the objects that the repository has and that are not kept, sorted.
    pub(crate) fn missing(&self) -> Vec<Id> {
        let mut missing: Vec<Id> = self.wanted.iter().copied().collect();
        missing.sort_unstable();
        missing
    }

    /// Keeps an object that was read from the repository.
    pub(crate) fn add(&mut self, id: &Id, bytes: &[u8]) {
        if self.has_failed || (segment::weight(bytes) as u64) > LIMIT / 2 {
            return;
        }
        if self.draft.weight() + segment::weight(bytes) > SEGMENT {
            self.write_draft();
        }
        self.draft.add(id, bytes);
    }

    /// Stores what is new, merges small segments, and removes what is not needed.
    pub(crate) fn finish(mut self) {
        // The smallest first.
        self.stock.sort_by_key(|stock| (stock.live_weight, stock.weight));
        let mut weight = self.draft.weight();
        let mut merged = Vec::new();
        for stock in std::mem::take(&mut self.stock) {
            let is_small = stock.live_weight <= weight && stock.live_weight < SEGMENT / 2;
            if stock.is_mostly_dead() || is_small {
                weight += stock.live_weight;
                merged.push(stock);
            }
        }
        for stock in &merged {
            self.copy_live(stock);
        }
        if self.draft.weight() > 0 {
            self.write_draft();
        }
        // Those without a copy stay; those that are of no use go, on a full disk first of all.
        for stock in merged.iter().filter(|stock| !self.has_failed || stock.live.is_empty()) {
            match fs::remove_file(&stock.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => self.cache.warn(&error),
                _ => {}
            }
        }
    }

    /// Adds the objects of a segment that the repository still has.
    fn copy_live(&mut self, stock: &Stock) {
        if stock.live.is_empty() {
            return;
        }
        // Without it they are read from the repository when they are needed next.
        let Ok(segment) = self.cache.open(&stock.path, &self.header) else { return };
        let live: HashSet<&Id> = stock.live.iter().collect();
        for (id, bytes) in segment.records().filter(|(id, _)| live.contains(id)) {
            self.add(&id, bytes);
        }
    }

    /// Makes a segment of what is drafted. What cannot be written is not kept.
    fn write_draft(&mut self) {
        let draft = std::mem::replace(&mut self.draft, Draft::new(&self.header));
        if self.has_failed || draft.weight() == 0 {
            return;
        }
        if let Err(error) = self.cache.write(self.header.kind, &draft) {
            self.has_failed = true;
            self.cache.warn(&error);
        }
    }
}

impl Cache {
    fn write(&self, kind: FileKind, draft: &Draft) -> io::Result<()> {
        let sealed = draft.seal(&self.key).map_err(io::Error::other)?;
        // The nonce is random, so no other segment has this name.
        let nonce = sealed.get(..NONCE).ok_or_else(|| io::Error::other(FormatError::new("no nonce")))?;
        let digits: String = nonce.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = self.folder.join(format!("{}-{digits}", kind.word()));
        match durable::replace_unsynced(&path, &sealed) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                durable::create_folder(&self.folder)?;
                durable::replace_unsynced(&path, &sealed)
            }
            written => {
                written?;
                // What a killed process left is in nobody's way.
                _ = durable::remove_abandoned(&self.folder);
                Ok(())
            }
        }
    }
}
