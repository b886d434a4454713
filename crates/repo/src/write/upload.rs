//! Full packs become objects of the repository, and their blobs become known.
//!
//! Runs on threads of its own, so that hashing and compressing never wait for a disk's
//! flush. What every thread of a session shares is here too: the blobs in flight, the packs
//! that no index file names yet, the first error.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crossbeam_channel::{Receiver, Sender};
use jiff::Timestamp;

use super::pack::FullPack;
use crate::backend::FileKind;
use crate::error::{Error, Result};
use crate::format::index::IndexPack;
use crate::format::pack::{self, BlobKind};
use crate::index::SharedIndex;
use crate::observe::Observer;
use crate::{Id, Repository};

/// What a session has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Bytes read from sources.
    pub bytes_read: u64,
    /// Plain bytes of the blobs that were not in the repository before.
    pub bytes_added: u64,
    /// The same blobs compressed and sealed.
    pub bytes_stored: u64,
    /// How many blobs that were.
    pub blobs_added: u64,
    /// Packs stored.
    pub packs: u64,
}

/// What all threads of one session share.
pub(super) struct Session {
    pub(super) repository: Repository,
    pub(super) index: SharedIndex,
    pub(super) watch: Arc<dyn Observer>,
    time: Timestamp,
    /// Blobs that somebody stores and that the index does not know yet.
    claimed: Mutex<HashSet<(BlobKind, Id)>>,
    /// Packs that are stored and that no index file names yet.
    unlisted: Mutex<Vec<IndexPack>>,
    unlisted_blobs: AtomicU64,
    /// All packs that are stored.
    stored: Mutex<Vec<Id>>,
    /// Jobs and packs on their way.
    pending: Pending,
    failed: AtomicBool,
    /// It failed because the storage is full.
    is_full: AtomicBool,
    failure: Mutex<Option<Error>>,
    counts: Counts,
}

#[derive(Default)]
struct Counts {
    bytes_read: AtomicU64,
    bytes_added: AtomicU64,
    bytes_stored: AtomicU64,
    blobs_added: AtomicU64,
    packs: AtomicU64,
}

impl Session {
    pub(super) fn new(
        repository: Repository,
        index: SharedIndex,
        watch: Arc<dyn Observer>,
        time: Timestamp,
    ) -> Self {
        Self {
            repository,
            index,
            watch,
            time,
            claimed: Mutex::default(),
            unlisted: Mutex::default(),
            unlisted_blobs: AtomicU64::new(0),
            stored: Mutex::default(),
            pending: Pending::default(),
            failed: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            failure: Mutex::default(),
            counts: Counts::default(),
        }
    }

    /// Says whether the blob is stored or about to be.
    pub(super) fn knows(&self, kind: BlobKind, id: &Id) -> bool {
        self.index.read().contains(kind, id) || {
            // It may have moved from the one to the other between the two questions.
            let claimed = lock(&self.claimed);
            claimed.contains(&(kind, *id)) || self.index.read().contains(kind, id)
        }
    }

    /// Makes the caller the one who stores this blob. `false`: it is stored, or somebody else does it.
    pub(super) fn claim(&self, kind: BlobKind, id: &Id) -> bool {
        let mut claimed = lock(&self.claimed);
        // In this order: a blob enters the index before it leaves the claimed ones.
        !claimed.contains(&(kind, *id))
            && !self.index.read().contains(kind, id)
            && claimed.insert((kind, *id))
    }

    /// Counts a blob that was put into a pack.
    pub(super) fn count_added(&self, plain: usize, sealed: usize) {
        self.counts.bytes_added.fetch_add(plain as u64, Ordering::Relaxed);
        self.counts.bytes_stored.fetch_add(sealed as u64, Ordering::Relaxed);
        self.counts.blobs_added.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts bytes that came from a source.
    pub(super) fn count_read(&self, bytes: u64) {
        self.counts.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn totals(&self) -> Totals {
        let value = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Totals {
            bytes_read: value(&self.counts.bytes_read),
            bytes_added: value(&self.counts.bytes_added),
            bytes_stored: value(&self.counts.bytes_stored),
            blobs_added: value(&self.counts.blobs_added),
            packs: value(&self.counts.packs),
        }
    }

    /// Something was sent to another thread that will report it as [`Session::done`].
    pub(super) fn sent(&self) {
        self.pending.add();
    }

    pub(super) fn done(&self) {
        self.pending.remove();
    }

    /// Waits until all that was sent is done, well or not.
    pub(super) fn wait(&self) {
        self.pending.wait();
    }

    /// Does a piece of work unless the session has failed; keeps the error when it fails, also by a panic.
    pub(super) fn attempt(&self, work: impl FnOnce() -> Result<()>) {
        if self.has_failed() {
            return;
        }
        match catch_unwind(AssertUnwindSafe(work)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.fail(Some(error)),
            Err(_) => self.fail(Some(Error::Source("a thread of the writer panicked".into()))),
        }
    }

    /// Ends the session for all threads. The first error is kept.
    pub(super) fn fail(&self, error: Option<Error>) {
        let mut failure = lock(&self.failure);
        if matches!(error, Some(Error::NoSpace { .. })) {
            self.is_full.store(true, Ordering::SeqCst);
        }
        if !self.failed.swap(true, Ordering::SeqCst) {
            *failure = error;
        }
    }

    /// Ends the session, or puts its error back for the next who asks.
    pub(super) fn keep(&self, error: Error) {
        self.failed.store(true, Ordering::SeqCst);
        lock(&self.failure).get_or_insert(error);
    }

    /// Removes the packs that no index file names, where the session ended because there was no more room. Nobody can
    /// rely on them, and whoever comes next needs some room, be it for a lock. Best effort: a prune removes them as well.
    pub(super) fn give_back_room(&self) {
        if self.is_full.load(Ordering::SeqCst) {
            let packs: Vec<Id> = self.take_unlisted().iter().map(|pack| pack.id).collect();
            _ = self.repository.backend().remove_all(FileKind::Pack, &packs, &mut |_| Ok(()));
        }
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Returns the error that ended the session; its first caller gets the original.
    pub(super) fn check(&self) -> Result<()> {
        if !self.has_failed() {
            return Ok(());
        }
        let first = lock(&self.failure).take();
        Err(first.unwrap_or_else(|| Error::Source("the session ended with an earlier error".into())))
    }

    /// Returns how many blobs are stored that no index file names yet.
    pub(super) fn unlisted_blobs(&self) -> u64 {
        self.unlisted_blobs.load(Ordering::Relaxed)
    }

    /// Hands over the packs that no index file names yet.
    pub(super) fn take_unlisted(&self) -> Vec<IndexPack> {
        let mut unlisted = lock(&self.unlisted);
        self.unlisted_blobs.store(0, Ordering::Relaxed);
        std::mem::take(&mut unlisted)
    }

    /// Takes packs back that no index file names after all.
    pub(super) fn put_back_unlisted(&self, packs: impl Iterator<Item = IndexPack>) {
        let mut unlisted = lock(&self.unlisted);
        for pack in packs {
            self.unlisted_blobs.fetch_add(pack.blobs.len() as u64, Ordering::Relaxed);
            unlisted.push(pack);
        }
    }

    /// Returns all packs that were stored so far.
    pub(super) fn stored(&self) -> Vec<Id> {
        lock(&self.stored).clone()
    }

    /// Stores one pack. On return it is durable, its blobs are known, and an index file is owed.
    fn store(&self, pack: &mut FullPack) -> Result<()> {
        let header = pack::encode_header(&pack.blobs);
        let start = pack.bytes.len();
        self.repository.key().seal(&header, &mut pack.bytes)?;
        let length = u32::try_from(pack.bytes.len() - start).unwrap_or(u32::MAX);
        pack.bytes.extend_from_slice(&length.to_le_bytes());
        let id = Id::of(&pack.bytes);
        self.repository.backend().write(FileKind::Pack, &id, &pack.bytes)?;
        lock(&self.stored).push(id);

        self.index.write().add_pack(id, &pack.blobs, false)?;
        {
            let mut claimed = lock(&self.claimed);
            for blob in &pack.blobs {
                claimed.remove(&(blob.kind, blob.id));
            }
        }
        let mut unlisted = lock(&self.unlisted);
        unlisted.push(IndexPack { id, time: Some(self.time), blobs: pack.blobs.clone() });
        self.unlisted_blobs.fetch_add(pack.blobs.len() as u64, Ordering::Relaxed);
        drop(unlisted);
        self.counts.packs.fetch_add(1, Ordering::Relaxed);
        self.watch.step("backup.pack-stored");
        Ok(())
    }
}

/// The body of an uploading thread: stores packs until no more can come. After an error
/// packs are taken and dropped, so that nobody who sends one waits for ever.
pub(super) fn run(session: &Session, full: &Receiver<FullPack>, emptied: &Sender<FullPack>) {
    for mut pack in full {
        session.attempt(|| session.store(&mut pack));
        let is_data = pack.blobs.first().is_some_and(|blob| blob.kind == BlobKind::Data);
        pack.blobs.clear();
        pack.bytes.clear();
        if is_data {
            // Kept for the next pack where there is room for it.
            drop(emptied.try_send(pack));
        }
        session.done();
    }
}

/// How many things are on their way between threads.
#[derive(Default)]
struct Pending {
    count: Mutex<usize>,
    none: Condvar,
}

impl Pending {
    fn add(&self) {
        *lock(&self.count) += 1;
    }

    fn remove(&self) {
        let mut count = lock(&self.count);
        *count = count.saturating_sub(1);
        if *count == 0 {
            self.none.notify_all();
        }
    }

    fn wait(&self) {
        let count = lock(&self.count);
        drop(self.none.wait_while(count, |count| *count > 0).unwrap_or_else(PoisonError::into_inner));
    }
}

/// A panic in one thread is an error of the session; it does not make the data of the others unusable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
