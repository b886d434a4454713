//! Any part of an image, as if it were a file.
//!
//! Chunks are opened when something in them is asked for, and kept while the cache has room. Threads open
//! chunks ahead, many together: those that the caller announced, and those that readings which go
//! forward will want next.
//!
//! The SHA-256 of a chunk is compared when it is opened for the first time. With it the tag is remembered, the
//! message authentication code at the end of the sealed blob: when the chunk is opened again, after it fell out
//! of the cache, the code is computed anew over what storage gives, and the same tag means the same
//! sealed bytes, which the comparison held for. Another tag means another comparison.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::blob::{Expected, Opener, reserve};
use super::cache::{Cache, Key};
use super::plan::{self, Piece, Run};
use super::streams::Streams;
use super::{Image, Reader, restore};
use crate::backend::FileKind;
use crate::error::{Error, Result};
use crate::observe::Observer;
use crate::{Id, sha};

/// Called with the offset and the bytes of each chunk when it is opened for the first time, in no
/// order, also from several threads at once. Chunks that follow each other may come as one stretch; each comes once.
pub type FirstRead = Box<dyn Fn(u64, &[u8]) + Send + Sync>;

/// Bytes that a reading may skip and still go forward.
const SKIP: usize = 64 << 10;
/// The most bytes opened ahead of one reading.
const AHEAD: usize = 1 << 20;
/// Bytes that are opened together: enough for hashing side by side, few enough that nobody waits for long.
const GROUP: usize = 256 << 10;
/// Groups that may wait for a thread.
const WAITING: usize = 32;

/// Reads any part of an image. Shared by reference; dropping it joins its threads.
pub struct ImageReader {
    shared: Arc<Shared>,
    requests: Option<Sender<Vec<usize>>>,
    ahead: Vec<JoinHandle<()>>,
    /// The chunk read last: its pages are mostly read one after the other.
    last: Mutex<Option<Visit>>,
}

/// A stay of the reading in one chunk.
struct Visit {
    chunk: usize,
    bytes: Arc<Vec<u8>>,
    /// Whether its first and its last byte were read.
    has_start: bool,
    has_end: bool,
}

struct Shared {
    reader: Reader,
    image: Image,
    on_first_read: Option<FirstRead>,
    /// How far ahead of a reading chunks are opened, and how many it may skip.
    window: usize,
    skip: usize,
    /// Half of the tag with which each chunk was sealed when its SHA-256 was compared; 0 when it was not.
    tags: Vec<AtomicU64>,
    state: Mutex<State>,
    changed: Condvar,
    tools: Mutex<Vec<Tools>>,
    /// Groups that wait to be opened.
    requested: Receiver<Vec<usize>>,
}

struct State {
    cache: Cache,
    streams: Streams,
    /// Chunks that `on_first_read` was called for.
    seen: Vec<bool>,
    /// Blobs that somebody opens right now.
    loading: HashSet<Key>,
    /// Threads that call `on_first_read`.
    calling: usize,
    /// A call of `on_first_read` panicked: it was not shown all.
    is_incomplete: bool,
    /// Nothing is opened ahead any more.
    quiet: bool,
}

/// What one thread opens blobs with.
struct Tools {
    opener: Opener,
    fetched: Vec<u8>,
    /// Of the blobs that are being opened those whose SHA-256 is to be compared: their place, and half of their tag.
    unknown: Vec<(usize, u64)>,
    ids: Vec<Id>,
}

impl Reader {
    /// Makes a reader of an image that keeps up to about `cache_bytes` of opened chunks.
    pub fn random(
        &self,
        image: &Image,
        cache_bytes: usize,
        on_first_read: Option<FirstRead>,
    ) -> Result<ImageReader> {
        let longest = (0..image.chunks()).map(|chunk| image.span(chunk).1).max().unwrap_or(1).max(1);
        let state = State {
            cache: Cache::new(cache_bytes),
            streams: Streams::default(),
            seen: vec![false; image.chunks()],
            loading: HashSet::new(),
            calling: 0,
            is_incomplete: false,
            quiet: false,
        };
        let (requests, requested) = bounded(WAITING);
        let shared = Arc::new(Shared {
            reader: self.clone(),
            image: image.clone(),
            on_first_read,
            window: (AHEAD.min(cache_bytes / 4) / longest as usize).max(1),
            skip: (SKIP / longest as usize).max(1),
            tags: (0..image.chunks()).map(|_| AtomicU64::new(0)).collect(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            tools: Mutex::default(),
            requested,
        });
        let mut reader =
            ImageReader { shared, requests: Some(requests), ahead: Vec::new(), last: Mutex::new(None) };
        for number in 0..thread::available_parallelism().map_or(1, usize::from).min(8) {
            let shared = Arc::clone(&reader.shared);
            let thread = thread::Builder::new().name(format!("ahead-{number}"));
            let started = thread.spawn(move || shared.open_ahead());
            reader
                .ahead
                .push(started.map_err(|source| Error::Io { what: "start a thread".to_owned(), source })?);
        }
        Ok(reader)
    }
}

impl ImageReader {
    /// Returns the size of the image, in bytes.
    pub fn size(&self) -> u64 {
        self.shared.image.size()
    }

    /// Fills `buffer` from `offset`. A range that is not all in the image is an error.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read(offset, buffer, false)
    }

    /// As [`read_at`](Self::read_at), for places that [`announce`](Self::announce) was told of: it is known
    /// what comes next, and what was read from one end to the other makes room first.
    pub fn read_announced(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read(offset, buffer, true)
    }

    /// Says that what lies at `offsets` will be read soon, in this order, so that threads open it
    /// meanwhile. Returns how many of them were taken note of: no more than there is room for.
    pub fn announce(&self, offsets: &[u64]) -> usize {
        let Some(requests) = &self.requests else { return 0 };
        let image = &self.shared.image;
        let (mut group, mut bytes, mut taken) = (Vec::new(), 0, 0);
        for (count, offset) in offsets.iter().enumerate() {
            let Some(chunk) = image.chunk_at(*offset) else { continue };
            if group.last() == Some(&chunk) {
                continue;
            }
            if bytes >= GROUP {
                if requests.try_send(std::mem::take(&mut group)).is_err() {
                    return taken;
                }
                (bytes, taken) = (0, count);
            }
            group.push(chunk);
            bytes += image.span(chunk).1 as usize;
        }
        if group.is_empty() || requests.try_send(group).is_ok() { offsets.len() } else { taken }
    }

    /// Fills `buffer` from `offset` when that needs no waiting, and says whether it did.
    pub fn read_if_cached(&self, offset: u64, buffer: &mut [u8]) -> bool {
        let Some(chunk) = self.shared.image.chunk_at(offset) else { return false };
        let Ok(piece) = self.shared.piece(chunk) else { return false };
        let Some(bytes) = self.shared.lock().cache.get(key(&piece)) else { return false };
        let start = self.shared.image.span(chunk).0;
        let within = usize::try_from(offset - start).ok().and_then(|at| bytes.get(at..at + buffer.len()));
        within.is_some_and(|within| {
            buffer.copy_from_slice(within);
            true
        })
    }

    fn read(&self, offset: u64, buffer: &mut [u8], is_announced: bool) -> Result<()> {
        let mut offset = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let chunk = self.shared.image.chunk_at(offset).ok_or_else(|| Error::Unsupported {
                what: format!("byte {offset} of an image of {} bytes", self.size()),
            })?;
            let (start, length) = self.shared.image.span(chunk);
            let bytes = self.visit(chunk, is_announced)?;
            // Less than a chunk, which is in memory.
            let within = &bytes[usize::try_from(offset - start).unwrap_or(usize::MAX)..];
            let count = within.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&within[..count]);
            rest = later;
            offset += count as u64;
            if is_announced && let Some(visit) = self.last().as_mut().filter(|visit| visit.chunk == chunk) {
                visit.has_start |= offset - count as u64 == start;
                visit.has_end |= offset == start + u64::from(length);
            }
        }
        Ok(())
    }

    /// Returns the bytes of a chunk, mostly the one that was read last.
    fn visit(&self, chunk: usize, is_announced: bool) -> Result<Arc<Vec<u8>>> {
        if let Some(visit) = self.last().as_ref().filter(|visit| visit.chunk == chunk) {
            return Ok(Arc::clone(&visit.bytes));
        }
        let is_expected = is_announced || self.follow(chunk);
        let bytes = self.shared.chunk(chunk, is_expected)?;
        let visit = Visit { chunk, bytes: Arc::clone(&bytes), has_start: false, has_end: false };
        let before = self.last().replace(visit);
        if let Some(before) = before.filter(|before| before.has_start && before.has_end) {
            // What was read from end to end is not wanted again before all else was.
            self.shared.lock().cache.pass(key(&self.shared.piece(before.chunk)?));
        }
        Ok(bytes)
    }

    fn last(&self) -> MutexGuard<'_, Option<Visit>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens every chunk that was not opened yet, for `on_first_read`. Returns how many bytes those were.
    /// On return all calls have returned, unless other threads are reading. Nothing is opened ahead afterwards.
    pub fn read_rest(&self, watch: &dyn Observer) -> Result<u64> {
        let seen = self.shared.settle();
        if self.shared.lock().is_incomplete {
            return Err(Error::Source("whoever is shown the chunks panicked".into()));
        }
        let unseen = |chunk: usize| !seen[chunk];
        let rest = (0..seen.len()).filter(|chunk| unseen(*chunk));
        let rest = rest.map(|chunk| u64::from(self.shared.image.span(chunk).1)).sum();
        self.shared.reader.visit(&self.shared.image, unseen, false, watch, &|offset, bytes| {
            if let Some(call) = &self.shared.on_first_read {
                call(offset, bytes);
            }
            Ok(())
        })?;
        Ok(rest)
    }

    /// Asks for what a reading that goes forward will want next. Returns whether this chunk was asked for.
    fn follow(&self, chunk: usize) -> bool {
        let (is_expected, next) = {
            let mut state = self.shared.lock();
            if state.quiet {
                return false;
            }
            let is_expected = state.streams.expect(chunk);
            (is_expected, state.streams.follow(chunk, self.shared.skip, self.shared.window))
        };
        let next = next.start..next.end.min(self.shared.image.chunks());
        let offsets: Vec<u64> = next.map(|chunk| self.shared.image.span(chunk).0).collect();
        // When the threads are behind, the reading itself opens the chunk.
        self.announce(&offsets);
        is_expected
    }
}

impl Drop for ImageReader {
    fn drop(&mut self) {
        self.shared.lock().quiet = true;
        self.requests = None;
        for thread in self.ahead.drain(..) {
            drop(thread.join());
        }
    }
}

impl std::fmt::Debug for ImageReader {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "ImageReader({:?})", self.shared.image)
    }
}

fn key(piece: &Piece) -> Key {
    (piece.pack, piece.offset)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of a thread that opens ahead.
    fn open_ahead(&self) {
        for group in &self.requested {
            self.open_group(&group);
        }
    }

    /// Opens what of a group is not there yet. An error is left to the reading that wants the chunk.
    fn open_group(&self, group: &[usize]) {
        let pieces: Vec<Piece> = group.iter().filter_map(|chunk| self.piece(*chunk).ok()).collect();
        let mut state = self.lock();
        if state.quiet {
            return;
        }
        let State { cache, loading, .. } = &mut *state;
        let is_wanted = |piece: &Piece| !cache.contains(key(piece)) && loading.insert(key(piece));
        let wanted: Vec<Piece> = pieces.into_iter().filter(is_wanted).collect();
        drop(state);
        if !wanted.is_empty() {
            drop(self.load(wanted));
        }
    }

    /// Returns the bytes of a chunk. Two who want the same one open it once.
    ///
    /// When the threads are behind with what was asked for, the reading opens groups as they do, rather
    /// than one chunk after the other right before them.
    fn chunk(&self, chunk: usize, is_expected: bool) -> Result<Arc<Vec<u8>>> {
        let piece = self.piece(chunk)?;
        let key = key(&piece);
        let mut state = self.lock();
        loop {
            if let Some(bytes) = state.cache.get(key) {
                self.show(state, &[(piece, Arc::clone(&bytes))]);
                return Ok(bytes);
            }
            if state.loading.contains(&key) {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let Some(group) = is_expected.then(|| self.requested.try_recv().ok()).flatten() else { break };
            drop(state);
            self.open_group(&group);
            state = self.lock();
        }
        state.loading.insert(key);
        drop(state);
        self.load(vec![piece])
    }

    /// Opens the blobs that were marked as loading, keeps and shows those that are sound, and
    /// returns the last of them or the first error.
    fn load(&self, mut pieces: Vec<Piece>) -> Result<Arc<Vec<u8>>> {
        let keys: Vec<Key> = pieces.iter().map(key).collect();
        let mut opened = Vec::with_capacity(pieces.len());
        // Whatever happens, those who wait for these blobs are told that nobody opens them any more.
        let attempt = catch_unwind(AssertUnwindSafe(|| self.open(&mut pieces, &mut opened)));
        let result = attempt.unwrap_or_else(|_| {
            opened.clear();
            Err(Error::Source("a thread that opens blobs panicked".into()))
        });
        let mut state = self.lock();
        for key in &keys {
            state.loading.remove(key);
        }
        for (piece, bytes) in &opened {
            state.cache.insert(key(piece), Arc::clone(bytes));
        }
        self.changed.notify_all();
        self.show(state, &opened);
        result?;
        Ok(opened.pop().map(|(_, bytes)| bytes).unwrap_or_default())
    }

    /// Opens blobs up to the first that is not sound.
    fn open(&self, pieces: &mut [Piece], opened: &mut Vec<(Piece, Arc<Vec<u8>>)>) -> Result<()> {
        let idle = self.tools.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut tools = match idle {
            Some(idle) => idle,
            None => Tools {
                opener: Opener::new(self.reader.repository.key())?,
                fetched: Vec::new(),
                unknown: Vec::new(),
                ids: Vec::new(),
            },
        };
        tools.unknown.clear();
        let runs = plan::runs(pieces);
        let result = runs.iter().try_for_each(|run| self.open_run(run, pieces, &mut tools, opened));
        // Of many stretches together, because several are hashed side by side.
        let compared = self.compare(&mut tools, opened);
        self.tools.lock().unwrap_or_else(PoisonError::into_inner).push(tools);
        compared.and(result)
    }

    /// Fetches a stretch of a pack and opens its blobs. Those whose SHA-256 was never compared are noted.
    fn open_run(
        &self,
        run: &Run,
        pieces: &[Piece],
        tools: &mut Tools,
        opened: &mut Vec<(Piece, Arc<Vec<u8>>)>,
    ) -> Result<()> {
        let pack = self.reader.index.read().packs()[run.pack as usize].id;
        let length = run.length as usize;
        reserve(&mut tools.fetched, length);
        let fetched = &mut tools.fetched[..length];
        let backend = self.reader.repository.backend();
        backend.read_range(FileKind::Pack, &pack, u64::from(run.offset), fetched)?;

        for piece in &pieces[run.pieces.clone()] {
            let at = (piece.offset - run.offset) as usize;
            let sealed = &mut fetched[at..at + piece.length as usize];
            let tag = sealed.last_chunk().map_or(0, |tag| u64::from_le_bytes(*tag));
            let mut plain = self.lock().cache.buffer();
            plain.resize(self.image.span(piece.chunk as usize).1 as usize, 0);
            tools.opener.open_unhashed(sealed, &self.expected(pack, piece), &mut plain)?;
            if tag == 0 || tag != self.tags[piece.chunk as usize].load(Ordering::Relaxed) {
                tools.unknown.push((opened.len(), tag));
            }
            opened.push((*piece, Arc::new(plain)));
        }
        Ok(())
    }

    /// Compares the SHA-256 of the blobs that were noted; the first that differs and all behind it are dropped.
    fn compare(&self, tools: &mut Tools, opened: &mut Vec<(Piece, Arc<Vec<u8>>)>) -> Result<()> {
        let bytes: Vec<&[u8]> = tools.unknown.iter().map(|(place, _)| opened[*place].1.as_slice()).collect();
        sha::ids(&bytes, &mut tools.ids);
        for ((place, tag), id) in tools.unknown.iter().zip(&tools.ids) {
            let piece = &opened[*place].0;
            let pack = self.reader.index.read().packs()[piece.pack as usize].id;
            if let Err(error) = self.expected(pack, piece).ensure_is(id) {
                opened.truncate(*place);
                return Err(error);
            }
            self.tags[piece.chunk as usize].store(*tag, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Calls `on_first_read` for chunks that it was not called for, without holding the lock.
    fn show(&self, mut state: MutexGuard<'_, State>, opened: &[(Piece, Arc<Vec<u8>>)]) {
        let is_new =
            |(piece, _): &&(Piece, _)| !std::mem::replace(&mut state.seen[piece.chunk as usize], true);
        let new: Vec<_> = opened.iter().filter(is_new).collect();
        let Some(call) = self.on_first_read.as_ref().filter(|_| !new.is_empty()) else { return };
        state.calling += 1;
        drop(state);
        let called = catch_unwind(AssertUnwindSafe(|| {
            new.iter().for_each(|(piece, bytes)| call(self.image.span(piece.chunk as usize).0, bytes));
        }));
        let mut state = self.lock();
        state.calling -= 1;
        state.is_incomplete |= called.is_err();
        drop(state);
        self.changed.notify_all();
        if let Err(panic) = called {
            resume_unwind(panic);
        }
    }

    /// Stops opening ahead, waits for what is under way, and returns which chunks were seen.
    fn settle(&self) -> Vec<bool> {
        let mut state = self.lock();
        state.quiet = true;
        let mut settled = self
            .changed
            .wait_while(state, |state| state.calling > 0 || !state.loading.is_empty())
            .unwrap_or_else(PoisonError::into_inner);
        // From here on the caller shows the rest, and nobody else does.
        let all = vec![true; settled.seen.len()];
        std::mem::replace(&mut settled.seen, all)
    }

    /// Returns where a chunk is.
    fn piece(&self, chunk: usize) -> Result<Piece> {
        restore::find(&self.reader.index.read(), chunk, &self.image.ids()[chunk])
    }

    fn expected(&self, pack: Id, piece: &Piece) -> Expected {
        Expected {
            pack,
            id: self.image.ids()[piece.chunk as usize],
            uncompressed_length: piece.uncompressed_length(),
        }
    }
}
