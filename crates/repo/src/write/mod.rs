//! Storing: from plain bytes to packs, index and snapshot, in this order.
//!
//! One [`Writer`] serves a whole session of many databases. The caller's thread reads the
//! sources and hands stretches of them to worker threads (`work.rs`), which recognise, hash,
//! compress, seal and verify chunks (`seal.rs`) and append them to packs (`pack.rs`); uploading
//! threads (`upload.rs`) store full packs. All channels between them are bounded, and so is memory:
//! two stretches of 1 MiB a worker and at most five packs.
//!
//! Crash cases: what is stored before the snapshot is unreachable, and a later prune removes
//! it. Nothing but [`Writer::commit`] makes a snapshot, and it does so last. A session that ends because the disk is
//! full removes its packs that no index file names, so that there is room for what comes next.

mod chunk;
mod copy;
mod image;
mod inlet;
mod listing;
mod pack;
mod seal;
mod stream;
mod upload;
mod work;

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use jiff::Timestamp;

pub use chunk::{DamagedKnownChunks, ImageOptions, ImageSource, KnownChunk, KnownChunks, StoredImage};
pub(crate) use chunk::{digest_of, root};
pub(crate) use copy::Copier;
pub(crate) use image::part_name;
pub use image::{NodeMeta, PART_CHUNKS, PARTS_SUFFIX};
pub(crate) use inlet::Inlet;
pub(crate) use listing::{INDEX_BLOBS, split};
pub use seal::Fingerprint;
pub(crate) use seal::{Outbox, is_zero};
pub use stream::{StoredPiece, StoredStream, Stream, Streams};
pub use upload::Totals;
pub use work::give_way;

use crate::backend::FileKind;
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::format::snapshot::Snapshot;
use crate::format::tree::Tree;
use crate::index::SharedIndex;
use crate::observe::Observer;
use crate::read::Reader;
use crate::{Id, Repository, RepositoryLock};
use listing::Listing;
use pack::Packer;
use seal::Sealer;
use upload::Session;
use work::{Batch, Bench, Job, Line};

/// Bytes of an image that go to a worker at once.
const BATCH: usize = 1 << 20;
/// Packs stored at the same time: one waits for the disk while the other is hashed.
const UPLOADS: usize = 2;
/// Packs of trees are smaller: stock tools fetch and cache them whole.
const TREE_PACK: usize = 4 << 20;

/// How to store.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WriterOptions {
    /// The zstd level, -7 to 19.
    pub compression: i32,
    /// The zstd level of the pieces of streams, which are short, and of trees: a higher one finds hardly more in them.
    pub stream_compression: i32,
    /// Worker threads.
    pub workers: usize,
    /// The size at which a pack is stored, in bytes; at most 128 MiB.
    pub pack_size: usize,
}

impl Default for WriterOptions {
    fn default() -> Self {
        let workers = thread::available_parallelism().map_or(1, usize::from);
        Self { compression: 3, stream_compression: 1, workers, pack_size: 16 << 20 }
    }
}

impl WriterOptions {
    /// Sets the zstd level, also that of streams.
    #[must_use]
    pub fn compression(mut self, level: i32) -> Self {
        self.compression = level;
        self.stream_compression = level;
        self
    }

    /// Sets the number of worker threads.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Sets the size of packs, in bytes.
    #[must_use]
    pub fn pack_size(mut self, bytes: usize) -> Self {
        self.pack_size = bytes;
        self
    }
}

/// Stores databases into a repository, one after the other, for one session.
///
/// The first error of storage ends the session: every later call fails. An error of a
/// source does not. Dropping the writer stops and joins its threads; what was not committed is
/// unreachable then.
pub struct Writer<'l> {
    lock: &'l dyn RepositoryLock,
    line: Arc<Line>,
    /// For trees and small files, on the caller's thread.
    bench: Bench,
    jobs: Option<Sender<Job>>,
    finished: Receiver<Batch>,
    idle: Vec<Batch>,
    busy: usize,
    workers: Vec<JoinHandle<()>>,
    uploaders: Vec<JoinHandle<()>>,
}

impl Repository {
    /// Starts a session that stores.
    ///
    /// The lock proves that no prune runs. `index` decides what is stored already; blobs that
    /// the session stores are added to it.
    pub fn writer<'l>(
        &self,
        lock: &'l dyn RepositoryLock,
        index: impl Into<SharedIndex>,
        options: &WriterOptions,
        watch: Arc<dyn Observer>,
    ) -> Result<Writer<'l>> {
        Writer::start(self, lock, index.into(), options, watch)
    }
}

impl<'l> Writer<'l> {
    pub(crate) fn start(
        repository: &Repository,
        lock: &'l dyn RepositoryLock,
        index: SharedIndex,
        options: &WriterOptions,
        watch: Arc<dyn Observer>,
    ) -> Result<Self> {
        let levels = [options.compression, options.stream_compression];
        if let Some(level) = levels.into_iter().find(|level| !(-7..=19).contains(level)) {
            return Err(Error::Unsupported { what: format!("compression level {level}") });
        }
        // Goes into the index as a remark for rustic's prune; nothing of ours is decided by it.
        let session = Session::new(repository.clone(), index, watch, Timestamp::now());
        let workers = options.workers.max(1);
        let pack_size = options.pack_size.clamp(1, pack::MAX_PACK);
        let (full, to_upload) = bounded(1);
        let (emptied, reusable) = bounded(UPLOADS + 1);
        let line = Arc::new(Line {
            session: Arc::new(session),
            data: Packer::new(pack_size, full.clone(), reusable),
            trees: Packer::new(pack_size.min(TREE_PACK), full, crossbeam_channel::never()),
        });
        let (jobs, to_do) = bounded(workers * 2);
        let (done, finished) = unbounded();
        let mut writer = Self {
            lock,
            bench: Bench::new(Sealer::new(repository.key(), levels)?),
            line,
            jobs: Some(jobs),
            finished,
            idle: (0..workers * 2 + 1).map(|_| Batch::default()).collect(),
            busy: 0,
            workers: Vec::new(),
            uploaders: Vec::new(),
        };
        for number in 0..UPLOADS {
            let session = Arc::clone(&writer.line.session);
            let (to_upload, emptied) = (to_upload.clone(), emptied.clone());
            let body = move || upload::run(&session, &to_upload, &emptied);
            writer.uploaders.push(spawn(format!("upload-{number}"), body)?);
        }
        for number in 0..workers {
            let line = Arc::clone(&writer.line);
            let bench = Bench::new(Sealer::new(repository.key(), levels)?);
            let (to_do, done) = (to_do.clone(), done.clone());
            let body = move || work::run(&line, bench, &to_do, &done);
            writer.workers.push(spawn(format!("seal-{number}"), body)?);
        }
        Ok(writer)
    }

    /// Stores a tree. Returns its id, by which a directory node or a snapshot names it.
    pub fn save_tree(&mut self, tree: &Tree) -> Result<Id> {
        self.save_blob(BlobKind::Tree, &work::encoded(tree)?)
    }

    /// Stores trees, side by side. Returns their ids in order.
    fn save_trees(&mut self, trees: impl Iterator<Item = Tree>) -> Result<Vec<Id>> {
        self.line.session.check()?;
        let jobs = self.jobs.as_ref().ok_or(Error::Cancelled)?;
        // Never fuller than the jobs and the workers are many, but for those that are answered while one is sent.
        let (answer, stored) = unbounded();
        let mut ids = Vec::new();
        for (place, tree) in trees.enumerate() {
            if self.line.session.has_failed() {
                break;
            }
            ids.push(None);
            let answer = answer.clone();
            jobs.send(Job::Tree { tree, place, answer }).map_err(|_| gone())?;
            stored.try_iter().for_each(|(place, id): (usize, Id)| ids[place] = Some(id));
        }
        drop(answer);
        stored.iter().for_each(|(place, id)| ids[place] = Some(id));
        self.line.session.check()?;
        ids.into_iter().collect::<Option<_>>().ok_or_else(gone)
    }

    /// Stores all packs and then the index files that name them. On return everything saved so
    /// far is durable and can be read through [`Writer::shared_index`].
    pub fn flush(&mut self) -> Result<()> {
        self.flush_packs()?;
        self.listing().save(0)
    }

    /// Stores all packs, durably. No index file names them yet.
    pub(crate) fn flush_packs(&mut self) -> Result<()> {
        self.line.session.wait();
        let session = &self.line.session;
        for packer in [&self.line.data, &self.line.trees] {
            // A closed packer has left an error, which is checked below.
            let _ = packer.send(|| session.sent());
        }
        session.wait();
        session.check()
    }

    /// Makes a snapshot, durably, after everything that it needs. Returns it with its id.
    pub fn commit(&mut self, mut snapshot: Snapshot) -> Result<Snapshot> {
        snapshot.id = Some(self.commit_encoded(&snapshot.encode())?);
        Ok(snapshot)
    }

    /// Makes a snapshot of its JSON, durably, after everything that it needs. Returns its id.
    fn commit_encoded(&mut self, json: &[u8]) -> Result<Id> {
        self.flush()?;
        if self.watch().cancelled() {
            return Err(Error::Cancelled);
        }
        self.lock.ensure_valid()?;
        let repository = &self.line.session.repository;
        let id = repository.save_unpacked(FileKind::Snapshot, json)?;
        // A process that was paused just before the write may have lost its lock meanwhile, and then what
        // the snapshot needs. Nobody was told of it yet.
        if let Err(error) = self.lock.ensure_valid() {
            _ = repository.backend().remove(FileKind::Snapshot, &id);
            return Err(error);
        }
        self.watch().step("backup.snapshot-stored");
        Ok(id)
    }

    /// Fails when the session has ended with an error; the first caller gets the original.
    pub fn check(&self) -> Result<()> {
        self.line.session.check()
    }

    /// Returns the index, which knows each blob from the moment when its pack is stored.
    pub fn shared_index(&self) -> SharedIndex {
        self.line.session.index.clone()
    }

    /// Returns what this session has done so far; exact after a flush.
    pub fn totals(&self) -> Totals {
        self.line.session.totals()
    }

    /// Returns a reader of what is stored, this session's packs included.
    pub fn reader(&self) -> Reader {
        self.line.session.repository.reader(&self.line.session.index)
    }

    fn watch(&self) -> &dyn Observer {
        &*self.line.session.watch
    }

    /// Stores a blob on the caller's thread, unless it is stored.
    fn save_blob(&mut self, kind: BlobKind, plain: &[u8]) -> Result<Id> {
        self.line.session.check()?;
        self.line.blob(&mut self.bench, kind, plain).or_else(|error| {
            // The blob stays claimed, so nobody may go on as if it were stored.
            self.line.session.fail(Some(error));
            self.line.session.check()?;
            Err(gone())
        })
    }

    /// What names stored packs in index files.
    fn listing(&self) -> Listing<'_> {
        Listing { session: &self.line.session, lock: self.lock }
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        // What is still on its way is of no use any more: nothing can refer to it.
        self.line.session.fail(None);
        self.jobs = None;
        for worker in self.workers.drain(..) {
            drop(worker.join());
        }
        self.line.data.close();
        self.line.trees.close();
        for uploader in self.uploaders.drain(..) {
            drop(uploader.join());
        }
        self.line.session.give_back_room();
    }
}

impl std::fmt::Debug for Writer<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Writer({:?})", self.totals())
    }
}

fn gone() -> Error {
    Error::Source("the writer's threads are gone".into())
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let gentle = move || {
        give_way();
        body();
    };
    let started = thread::Builder::new().name(name).spawn(gentle);
    started.map_err(|source| Error::Io { what: "start a thread".to_owned(), source })
}
