//! What is used of packs, copied into new ones.
//!
//! The sealed bytes of a blob are copied as they are, as the key stays the same; before that they are opened, decompressed
//! and hashed, so that nothing damaged is ever copied. New packs are named by an index file before anything happens to
//! the old ones.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::survey::Survey;
use crate::backend::FileKind;
use crate::error::{Error, Result};
use crate::format::pack::{BlobKind, PackBlob};
use crate::index::Index;
use crate::lock::RepositoryLock;
use crate::observe::Observer;
use crate::read::{Expected, Opener};
use crate::write::{Copier, Outbox, Writer, WriterOptions};
use crate::{Id, Repository};

/// Bytes read at once; a blob that is larger is read alone.
const WINDOW: u64 = 4 << 20;
/// What is not needed between two blobs and is read all the same: cheaper than asking twice.
const GAP: u64 = 64 << 10;

/// Copies what is used of some packs.
pub(super) struct Copy<'a> {
    pub(super) repository: &'a Repository,
    pub(super) lock: &'a dyn RepositoryLock,
    pub(super) survey: &'a Survey,
    pub(super) pack_size: usize,
    pub(super) watch: &'a Arc<dyn Observer>,
}

/// The used blobs of one pack, in the order of their places.
struct Source {
    pack: Id,
    blobs: Vec<PackBlob>,
}

impl Copy<'_> {
    /// Copies what is used of these packs. On return it is durable, and index files name it. Returns how many sealed
    /// bytes that were.
    ///
    /// After an error the new packs are removed again, unless an index file may name them already.
    pub(super) fn run(&self, packs: &[Id]) -> Result<u64> {
        let sources = self.sources(packs);
        let total: u64 =
            sources.iter().flat_map(|source| &source.blobs).map(|blob| u64::from(blob.length)).sum();
        self.watch.phase("copying what is used", total);
        let index = self.survey.index.clone();
        let options = WriterOptions::default().workers(1).pack_size(self.pack_size);
        let watch = Arc::new(Steps(Arc::clone(self.watch)));
        let mut writer = Writer::start(self.repository, self.lock, index, &options, watch)?;
        let copier = writer.copier();
        let copied = self.copy_all(&sources, &copier);
        match copied.and_then(|bytes| writer.flush_packs().map(|()| bytes)) {
            Ok(bytes) => {
                writer.flush()?;
                Ok(bytes)
            }
            Err(error) => {
                // Ends what is still being stored.
                drop(writer);
                // Nobody knows of them while the lock is held: best effort, as a later prune removes them as well.
                if self.lock.ensure_valid().is_ok() {
                    let stored = copier.stored();
                    _ = self.repository.backend().remove_all(FileKind::Pack, &stored, &mut |_| Ok(()));
                }
                Err(error)
            }
        }
    }

    /// Returns the used blobs of each pack, the packs in the order in which they were written.
    fn sources(&self, packs: &[Id]) -> Vec<Source> {
        let index = self.survey.index.read();
        let mut order = packs.to_vec();
        order.sort_by_key(|id| (self.survey.written.get(id).copied(), *id));
        let places: HashMap<Id, usize> = order.iter().enumerate().map(|(place, id)| (*id, place)).collect();
        let by_number: Vec<Option<usize>> =
            index.packs().iter().map(|pack| places.get(&pack.id).copied()).collect();
        let mut sources: Vec<Source> =
            order.into_iter().map(|pack| Source { pack, blobs: Vec::new() }).collect();
        for number in (0..index.len()).filter(|number| self.survey.used.contains(*number)) {
            if let Some(place) = by_number[index.pack_number(number)] {
                sources[place].blobs.push(blob(&index, number));
            }
        }
        for source in &mut sources {
            source.blobs.sort_unstable_by_key(|blob| blob.offset);
        }
        sources
    }

    /// Copies on all cores. Returns how many sealed bytes.
    fn copy_all(&self, sources: &[Source], copier: &Copier) -> Result<u64> {
        let next = AtomicUsize::new(0);
        let bytes = AtomicU64::new(0);
        let failure = Mutex::new(None);
        let threads = thread::available_parallelism().map_or(1, usize::from).min(sources.len());
        let work = || -> Result<()> {
            let mut reader = SealedReader::new(self.repository)?;
            while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                for blobs in windows(&source.blobs) {
                    if self.watch.cancelled() {
                        return Err(Error::Cancelled);
                    }
                    let read = reader.read(&source.pack, blobs)?;
                    for (kind, outbox) in read {
                        copier.append(*kind, outbox)?;
                    }
                    let copied: u64 = blobs.iter().map(|blob| u64::from(blob.length)).sum();
                    bytes.fetch_add(copied, Ordering::Relaxed);
                    self.watch.advance(copied);
                }
            }
            Ok(())
        };
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    if let Err(error) = work() {
                        next.store(sources.len(), Ordering::Relaxed);
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(bytes.into_inner()),
        }
    }
}

/// Cuts the blobs of a pack into stretches that are read at once.
fn windows(blobs: &[PackBlob]) -> impl Iterator<Item = &[PackBlob]> {
    let mut rest = blobs;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let fits = |pair: &&[PackBlob]| {
            u64::from(pair[1].offset) <= pair[0].end() + GAP
                && pair[1].end() - u64::from(first.offset) <= WINDOW
        };
        let count = 1 + rest.windows(2).take_while(fits).count();
        let (window, later) = rest.split_at(count);
        rest = later;
        Some(window)
    })
}

/// Reads sealed blobs and proves them, on one thread.
struct SealedReader<'a> {
    repository: &'a Repository,
    opener: Opener,
    window: Vec<u8>,
    scratch: Vec<u8>,
    outboxes: [(BlobKind, Outbox); 2],
}

impl<'a> SealedReader<'a> {
    fn new(repository: &'a Repository) -> Result<Self> {
        Ok(Self {
            repository,
            opener: Opener::new(repository.key())?,
            window: Vec::new(),
            scratch: Vec::new(),
            outboxes: [BlobKind::Data, BlobKind::Tree].map(|kind| (kind, Outbox::default())),
        })
    }

    /// Reads a stretch of a pack. Each blob is opened and its hash compared; what is returned is sealed as it was.
    fn read(&mut self, pack: &Id, blobs: &[PackBlob]) -> Result<&[(BlobKind, Outbox)]> {
        let Range { start, end } = span(blobs);
        let length = usize::try_from(end - start).unwrap_or(usize::MAX);
        self.window.resize(length, 0);
        self.repository.backend().read_range(FileKind::Pack, pack, start, &mut self.window)?;
        self.outboxes.iter_mut().for_each(|(_, outbox)| outbox.clear());
        for blob in blobs {
            // Within the window: `span` covers all of them.
            let at = usize::try_from(u64::from(blob.offset) - start).unwrap_or(usize::MAX);
            let sealed = &self.window[at..at + blob.length as usize];
            self.scratch.clear();
            self.scratch.extend_from_slice(sealed);
            let expected =
                Expected { pack: *pack, id: blob.id, uncompressed_length: blob.uncompressed_length };
            self.opener.open(&mut self.scratch, &expected)?;
            for (_, outbox) in self.outboxes.iter_mut().filter(|(kind, _)| *kind == blob.kind) {
                outbox.push(blob, sealed);
            }
        }
        Ok(&self.outboxes)
    }
}

fn span(blobs: &[PackBlob]) -> Range<u64> {
    let start = blobs.first().map_or(0, |blob| u64::from(blob.offset));
    start..blobs.last().map_or(start, PackBlob::end)
}

fn blob(index: &Index, number: usize) -> PackBlob {
    let location = index.location(number);
    PackBlob {
        id: index.id(number),
        kind: index.kind(number),
        offset: location.offset,
        length: location.length,
        uncompressed_length: location.uncompressed_length,
    }
}

/// Calls the steps of the writer by the names of this operation.
struct Steps(Arc<dyn Observer>);

impl Observer for Steps {
    fn cancelled(&self) -> bool {
        self.0.cancelled()
    }

    fn step(&self, name: &'static str) {
        self.0.step(match name {
            "backup.pack-stored" => "prune.pack-copied",
            "backup.index-stored" => "prune.copies-named",
            other => other,
        });
    }

    fn warn(&self, message: &str) {
        self.0.warn(message);
    }
}
