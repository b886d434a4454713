//! Any part of an image, as if it were a file.
//!
//! Chunks are opened when something in them is asked for, and kept while the cache has room.
//! Reads that go forward, also several at once as in a walk over a b-tree, are noticed, and
//! threads open the chunks ahead of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::blob::{Expected, Opener};
use super::{Image, Reader, lost};
use crate::backend::FileKind;
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::index::Location;
use crate::observe::Observer;

/// Called with the offset and the bytes of each chunk when it is opened for the first time, in no
/// order, also from several threads at once. Chunks that follow each other may come as one stretch; each comes once.
pub type FirstRead = Box<dyn Fn(u64, &[u8]) + Send + Sync>;

/// Forward readings that are followed at once.
const STREAMS: usize = 8;
/// How many chunks a reading may skip and still go forward.
const SKIP: usize = 4;
/// The most chunks opened ahead of one reading.
const AHEAD: usize = 32;

/// Reads any part of an image. Shared by reference; dropping it joins its threads.
pub struct ImageReader {
    shared: Arc<Shared>,
    requests: Option<Sender<usize>>,
    ahead: Vec<JoinHandle<()>>,
}

struct Shared {
    reader: Reader,
    image: Image,
    on_first_read: Option<FirstRead>,
    window: usize,
    state: Mutex<State>,
    changed: Condvar,
    openers: Mutex<Vec<(Opener, Vec<u8>)>>,
}

struct State {
    cache: Cache,
    streams: Streams,
    /// Chunks that `on_first_read` was called for.
    seen: Vec<bool>,
    /// Blobs that somebody opens right now.
    loading: HashSet<Key>,
    /// Calls of `on_first_read` under way.
    calling: usize,
    /// Nothing is opened ahead any more.
    quiet: bool,
}

/// A blob's place: number of its pack, offset. One blob that is many chunks is cached once.
type Key = (usize, u32);

impl Reader {
    /// Makes a reader of an image that keeps up to about `cache_bytes` of opened chunks.
    pub fn random(
        &self,
        image: &Image,
        cache_bytes: usize,
        on_first_read: Option<FirstRead>,
    ) -> Result<ImageReader> {
        let longest = (0..image.chunks()).map(|chunk| image.span(chunk).1).max().unwrap_or(1).max(1);
        let window = (cache_bytes / 4 / longest as usize).clamp(1, AHEAD);
        let state = State {
            cache: Cache { limit: cache_bytes, ..Cache::default() },
            streams: Streams::default(),
            seen: vec![false; image.chunks()],
            loading: HashSet::new(),
            calling: 0,
            quiet: false,
        };
        let shared = Arc::new(Shared {
            reader: self.clone(),
            image: image.clone(),
            on_first_read,
            window,
            state: Mutex::new(state),
            changed: Condvar::new(),
            openers: Mutex::default(),
        });
        let (requests, requested) = bounded(AHEAD * 2);
        let mut reader = ImageReader { shared, requests: Some(requests), ahead: Vec::new() };
        for number in 0..thread::available_parallelism().map_or(1, usize::from).min(8) {
            let (shared, requested) = (Arc::clone(&reader.shared), requested.clone());
            let thread = thread::Builder::new().name(format!("ahead-{number}"));
            let started = thread.spawn(move || shared.open_ahead(&requested));
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
        let mut offset = offset;
        let mut rest = buffer;
        while !rest.is_empty() {
            let chunk = self.shared.image.chunk_at(offset).ok_or_else(|| Error::Unsupported {
                what: format!("byte {offset} of an image of {} bytes", self.size()),
            })?;
            let bytes = self.shared.chunk(chunk, true)?;
            self.request(chunk);
            let (start, _) = self.shared.image.span(chunk);
            // Less than a chunk, which is in memory.
            let within = &bytes[usize::try_from(offset - start).unwrap_or(usize::MAX)..];
            let count = within.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&within[..count]);
            rest = later;
            offset += count as u64;
        }
        Ok(())
    }

    /// Opens every chunk that was not opened yet, for `on_first_read`. Returns how many bytes those were.
    /// On return all calls have returned, unless other threads are reading. Nothing is opened ahead afterwards.
    pub fn read_rest(&self, watch: &dyn Observer) -> Result<u64> {
        let seen = self.shared.settle();
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

    /// Asks for what a reading that goes forward will want next.
    fn request(&self, chunk: usize) {
        let next = {
            let mut state = self.shared.lock();
            if state.quiet { 0..0 } else { state.streams.follow(chunk, self.shared.window) }
        };
        let Some(requests) = &self.requests else { return };
        for chunk in next.start..next.end.min(self.shared.image.chunks()) {
            // When the threads are behind, the reading itself opens the chunk.
            let _ = requests.try_send(chunk);
        }
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The body of a thread that opens ahead. An error is left to the reading that wants the chunk.
    fn open_ahead(&self, requested: &Receiver<usize>) {
        for chunk in requested {
            if !self.lock().quiet {
                drop(self.chunk(chunk, false));
            }
        }
    }

    /// Returns the bytes of a chunk. Two who want the same one open it once.
    fn chunk(&self, chunk: usize, is_wanted: bool) -> Result<Arc<Vec<u8>>> {
        let (key, location) = self.place(chunk)?;
        let mut state = self.lock();
        loop {
            if let Some(bytes) = state.cache.get(key) {
                return Ok(self.show(state, chunk, bytes));
            }
            if !state.loading.contains(&key) {
                break;
            }
            if !is_wanted {
                return Ok(Arc::default());
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.loading.insert(key);
        drop(state);
        let loaded = self.load(chunk, &location);
        let mut state = self.lock();
        state.loading.remove(&key);
        if let Ok(bytes) = &loaded {
            state.cache.insert(key, Arc::clone(bytes));
        }
        self.changed.notify_all();
        Ok(self.show(state, chunk, loaded?))
    }

    /// Calls `on_first_read` unless that was done, without holding the lock.
    fn show(&self, mut state: MutexGuard<'_, State>, chunk: usize, bytes: Arc<Vec<u8>>) -> Arc<Vec<u8>> {
        if std::mem::replace(&mut state.seen[chunk], true) {
            return bytes;
        }
        if let Some(call) = &self.on_first_read {
            state.calling += 1;
            drop(state);
            call(self.image.span(chunk).0, &bytes);
            self.lock().calling -= 1;
            self.changed.notify_all();
        }
        bytes
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

    fn place(&self, chunk: usize) -> Result<(Key, Location)> {
        let id = &self.image.ids()[chunk];
        let index = self.reader.index.read();
        let position = index.position(BlobKind::Data, id).ok_or_else(|| lost(BlobKind::Data, id))?;
        let location = index.location(position);
        Ok(((index.pack_number(position), location.offset), location))
    }

    fn load(&self, chunk: usize, location: &Location) -> Result<Arc<Vec<u8>>> {
        let idle = self.openers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let (mut opener, mut sealed) = match idle {
            Some(idle) => idle,
            None => (Opener::new(self.reader.repository.key())?, Vec::new()),
        };
        sealed.resize(location.length as usize, 0);
        let backend = self.reader.repository.backend();
        backend.read_range(FileKind::Pack, &location.pack, u64::from(location.offset), &mut sealed)?;
        let expected = Expected {
            pack: location.pack,
            id: self.image.ids()[chunk],
            uncompressed_length: location.uncompressed_length,
        };
        let plain = Arc::new(opener.open(&mut sealed, &expected)?.to_vec());
        self.openers.lock().unwrap_or_else(PoisonError::into_inner).push((opener, sealed));
        Ok(plain)
    }
}

/// Opened chunks, the least recently used of which goes first.
#[derive(Default)]
struct Cache {
    limit: usize,
    size: usize,
    tick: u64,
    slots: HashMap<Key, (Arc<Vec<u8>>, u64)>,
    by_use: BTreeMap<u64, Key>,
}

impl Cache {
    fn get(&mut self, key: Key) -> Option<Arc<Vec<u8>>> {
        let (bytes, used) = self.slots.get_mut(&key)?;
        // Pages of one chunk are read one after the other: nothing changes then.
        if *used != self.tick {
            self.by_use.remove(used);
            self.tick += 1;
            *used = self.tick;
            self.by_use.insert(self.tick, key);
        }
        Some(Arc::clone(bytes))
    }

    fn insert(&mut self, key: Key, bytes: Arc<Vec<u8>>) {
        self.tick += 1;
        self.size += bytes.len();
        self.by_use.insert(self.tick, key);
        if let Some((old, used)) = self.slots.insert(key, (bytes, self.tick)) {
            self.size -= old.len();
            self.by_use.remove(&used);
        }
        while self.size > self.limit && self.slots.len() > 1 {
            let Some((_, oldest)) = self.by_use.pop_first() else { return };
            if let Some((bytes, _)) = self.slots.remove(&oldest) {
                self.size -= bytes.len();
            }
        }
    }
}

/// Readings that go forward.
#[derive(Default)]
struct Streams {
    streams: Vec<Stream>,
    clock: u64,
}

struct Stream {
    /// The chunk read last.
    at: usize,
    /// Chunks up to here were asked for.
    until: usize,
    used: u64,
}

impl Streams {
    /// Notes a read of `chunk` and returns which chunks should be opened ahead.
    fn follow(&mut self, chunk: usize, window: usize) -> std::ops::Range<usize> {
        self.clock += 1;
        let used = self.clock;
        let near = |stream: &&mut Stream| (stream.at..=stream.at + SKIP).contains(&chunk);
        if let Some(stream) = self.streams.iter_mut().find(near) {
            stream.used = used;
            if stream.at == chunk {
                return 0..0;
            }
            stream.at = chunk;
            let start = stream.until.max(chunk + 1);
            // Asked for in halves of the window, not one by one.
            if start > chunk + 1 + window / 2 {
                return 0..0;
            }
            stream.until = chunk + 1 + window;
            return start..stream.until;
        }
        let stream = Stream { at: chunk, until: chunk + 1, used };
        if self.streams.len() < STREAMS {
            self.streams.push(stream);
        } else if let Some(oldest) = self.streams.iter_mut().min_by_key(|stream| stream.used) {
            *oldest = stream;
        }
        0..0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_that_go_forward_are_followed_each_on_its_own() {
        let mut streams = Streams::default();
        assert_eq!(streams.follow(10, 8), 0..0);
        assert_eq!(streams.follow(100, 8), 0..0);
        assert_eq!(streams.follow(11, 8), 12..20);
        assert_eq!(streams.follow(11, 8), 0..0);
        assert_eq!(streams.follow(12, 8), 0..0);
        assert_eq!(streams.follow(103, 8), 104..112);
        assert_eq!(streams.follow(16, 8), 20..25);
        // Going back is a new reading.
        assert_eq!(streams.follow(3, 8), 0..0);
    }

    #[test]
    fn cache_keeps_what_was_used_last_within_its_limit() {
        let mut cache = Cache { limit: 300, ..Cache::default() };
        for number in 0..3 {
            cache.insert((number, 0), Arc::new(vec![0; 100]));
        }
        assert!(cache.get((0, 0)).is_some());
        cache.insert((3, 0), Arc::new(vec![0; 100]));
        let kept: Vec<_> = (0..4).map(|number| cache.get((number, 0)).is_some()).collect();
        assert_eq!(kept, [true, false, true, true]);
        // One that is larger than the limit is kept alone, so that its pages are not opened again and again.
        cache.insert((9, 0), Arc::new(vec![0; 1000]));
        assert!(cache.get((9, 0)).is_some() && cache.slots.len() == 1 && cache.size == 1000);
    }
}
