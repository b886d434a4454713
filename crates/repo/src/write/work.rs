//! What the worker threads do: recognise, hash, compress, seal, put into packs.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::chunk::KnownChunk;
use super::pack::{Packer, Stopped};
use super::seal::{Fingerprint, Mark, Outbox, Sealer};
use super::upload::Session;
use crate::Id;
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::format::tree::Tree;
use crate::sha;

/// Our threads give way to the applications that use the database.
const NICE: i32 = 10;

/// A session and its open packs: what is needed to store a blob.
pub(super) struct Line {
    pub(super) session: Arc<Session>,
    pub(super) data: Packer,
    pub(super) trees: Packer,
}

/// Something for a worker to do.
pub(super) enum Job {
    /// Chunks of an image, read and not looked at yet. Always handed back, also after an error.
    Chunks(Batch),
    /// A data blob that the sender has claimed.
    Blob { id: Id, fingerprint: Fingerprint, bytes: Vec<u8> },
    /// Data blobs that the sender has claimed, as another repository holds them.
    Copied(Parcel),
    /// Pieces of a stream. Always handed back, also after an error.
    Cut(Cut),
    /// A tree of several. Its id is handed back with its place among them, unless the session has failed.
    Tree { tree: Tree, place: usize, answer: Sender<(usize, Id)> },
}

/// Pieces of a stream, one behind the other, and what became of them. Reused from batch to batch.
pub(super) struct Cut {
    pub(super) bytes: Vec<u8>,
    /// Where each piece ends.
    ends: Vec<usize>,
    /// The number of the first piece in the stream.
    pub(super) first: usize,
    /// The result, one entry a piece.
    pub(super) ids: Vec<Id>,
    pub(super) added: u64,
    pub(super) stored: u64,
    /// Where it goes afterwards.
    answer: Sender<Cut>,
}

impl Cut {
    pub(super) fn new(answer: Sender<Self>) -> Self {
        Self { bytes: vec![], ends: vec![], first: 0, ids: vec![], added: 0, stored: 0, answer }
    }

    /// Returns the length of the piece that is not cut yet.
    pub(super) fn open_length(&self) -> usize {
        self.bytes.len() - self.ends.last().copied().unwrap_or(0)
    }

    /// Ends the open piece, unless it is empty.
    pub(super) fn cut(&mut self) {
        if self.open_length() > 0 {
            self.ends.push(self.bytes.len());
        }
    }

    /// Returns the lengths of all pieces.
    pub(super) fn lengths(&self) -> impl Iterator<Item = u32> {
        // A piece is never longer than `MAX_PIECE`.
        self.pieces().map(|piece| u32::try_from(piece.len()).unwrap_or(u32::MAX))
    }

    fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.ids.clear();
        (self.added, self.stored) = (0, 0);
    }
}

/// Data blobs with their names, one behind the other.
#[derive(Default)]
pub(super) struct Parcel {
    pub(super) bytes: Vec<u8>,
    /// Name, fingerprint and length of each.
    pub(super) blobs: Vec<(Id, Fingerprint, usize)>,
}

/// A stretch of an image: what was read, and what became of it. Reused from read to read.
#[derive(Default)]
pub(super) struct Batch {
    /// The buffer; `filled` bytes of it are of the image.
    pub(super) bytes: Vec<u8>,
    pub(super) filled: usize,
    pub(super) chunk_size: usize,
    /// The number of the first chunk in the image.
    pub(super) first: usize,
    /// What stood in the place of these chunks in the last backup; may be shorter.
    pub(super) known: Vec<KnownChunk>,
    /// The result, one entry a chunk.
    pub(super) chunks: Vec<KnownChunk>,
    pub(super) added: u64,
    pub(super) stored: u64,
}

/// The tools of one thread.
pub(super) struct Bench {
    pub(super) sealer: Sealer,
    outbox: Outbox,
    ids: Vec<Id>,
    /// Chunks of a batch that are hashed: their numbers and fingerprints.
    unknown: Vec<(usize, Fingerprint)>,
}

impl Bench {
    pub(super) fn new(sealer: Sealer) -> Self {
        Self { sealer, outbox: Outbox::default(), ids: Vec::new(), unknown: Vec::new() }
    }
}

impl Line {
    /// Stores a blob, unless it is stored. Returns its id.
    pub(super) fn blob(&self, bench: &mut Bench, kind: BlobKind, plain: &[u8]) -> Result<Id> {
        let fingerprint;
        let mark = match kind {
            BlobKind::Tree => Mark::quick(plain),
            BlobKind::Data => {
                fingerprint = bench.sealer.fingerprint(plain);
                Mark::Fingerprint(&fingerprint)
            }
        };
        let id = Id::of(plain);
        if self.session.claim(kind, &id) {
            self.store(bench, kind, id, plain, mark)?;
        }
        Ok(id)
    }

    /// Seals a claimed blob and puts it into a pack.
    fn store(&self, bench: &mut Bench, kind: BlobKind, id: Id, plain: &[u8], mark: Mark<'_>) -> Result<()> {
        bench.outbox.clear();
        let sealed = bench.sealer.seal(kind, id, plain, mark, &mut bench.outbox)?;
        self.session.count_added(plain.len(), sealed);
        self.send(kind, &bench.outbox)
    }

    /// Seals claimed blobs and puts them into a pack, neighbours beside each other.
    fn store_parcel(&self, bench: &mut Bench, parcel: &Parcel) -> Result<()> {
        bench.outbox.clear();
        let mut rest = parcel.bytes.as_slice();
        for (id, fingerprint, length) in &parcel.blobs {
            let (plain, behind) = rest.split_at(*length);
            rest = behind;
            let mark = Mark::Fingerprint(fingerprint);
            let sealed = bench.sealer.seal(BlobKind::Data, *id, plain, mark, &mut bench.outbox)?;
            self.session.count_added(plain.len(), sealed);
        }
        self.send(BlobKind::Data, &bench.outbox)
    }

    pub(super) fn send(&self, kind: BlobKind, outbox: &Outbox) -> Result<()> {
        let packer = match kind {
            BlobKind::Data => &self.data,
            BlobKind::Tree => &self.trees,
        };
        packer.append(outbox, || self.session.sent()).map_err(|Stopped| Error::Cancelled)
    }

    /// Deals with all chunks of a batch.
    fn batch(&self, bench: &mut Bench, batch: &mut Batch) -> Result<()> {
        let plain = &batch.bytes[..batch.filled];
        self.recognise(bench, plain, batch.chunk_size, &batch.known, &mut batch.chunks);

        let chunk = |number: usize| {
            &plain[number * batch.chunk_size..plain.len().min((number + 1) * batch.chunk_size)]
        };
        let hashed: Vec<_> = bench.unknown.iter().map(|(number, _)| chunk(*number)).collect();
        sha::ids(&hashed, &mut bench.ids);

        bench.outbox.clear();
        for ((number, fingerprint), id) in bench.unknown.iter().zip(&bench.ids) {
            let plain = chunk(*number);
            batch.chunks[*number].id = *id;
            bench.sealer.remember(plain.len(), fingerprint, *id);
            if self.session.claim(BlobKind::Data, id) {
                let mark = Mark::Fingerprint(fingerprint);
                let sealed = bench.sealer.seal(BlobKind::Data, *id, plain, mark, &mut bench.outbox)?;
                self.session.count_added(plain.len(), sealed);
                batch.added += plain.len() as u64;
                batch.stored += sealed as u64;
            }
        }
        self.send(BlobKind::Data, &bench.outbox)
    }

    /// Deals with all pieces of a batch of a stream.
    fn cut(&self, bench: &mut Bench, cut: &mut Cut) -> Result<()> {
        let pieces: Vec<&[u8]> = cut.pieces().collect();
        let marks: Vec<Mark<'_>> = pieces.iter().map(|plain| Mark::quick(plain)).collect();
        let mut ids = std::mem::take(&mut bench.ids);
        sha::ids(&pieces, &mut ids);
        bench.outbox.clear();
        let (mut added, mut stored) = (0, 0);
        for ((plain, mark), id) in pieces.iter().zip(marks).zip(&ids) {
            if self.session.claim(BlobKind::Data, id) {
                let sealed = bench.sealer.seal(BlobKind::Data, *id, plain, mark, &mut bench.outbox)?;
                self.session.count_added(plain.len(), sealed);
                added += plain.len() as u64;
                stored += sealed as u64;
            }
        }
        (cut.added, cut.stored) = (added, stored);
        cut.ids.clone_from(&ids);
        bench.ids = ids;
        self.send(BlobKind::Data, &bench.outbox)
    }

    /// Takes the fingerprints, and notes which chunks have to be hashed: those that do not stand in the list of known chunks.
    fn recognise(
        &self,
        bench: &mut Bench,
        plain: &[u8],
        chunk_size: usize,
        known: &[KnownChunk],
        chunks: &mut Vec<KnownChunk>,
    ) {
        bench.unknown.clear();
        for (number, plain) in plain.chunks(chunk_size).enumerate() {
            let fingerprint = bench.sealer.fingerprint(plain);
            let before =
                known.get(number).filter(|known| known.fingerprint == fingerprint).map(|known| known.id);
            let id = before.or_else(|| bench.sealer.id_of_zeros(plain.len(), &fingerprint));
            match id.filter(|id| self.session.knows(BlobKind::Data, id)) {
                Some(id) => chunks.push(KnownChunk { fingerprint, id }),
                None => {
                    chunks.push(KnownChunk { fingerprint, id: Id::NULL });
                    bench.unknown.push((number, fingerprint));
                }
            }
        }
    }
}

/// Returns a tree as it is stored.
pub(super) fn encoded(tree: &Tree) -> Result<Vec<u8>> {
    tree.encode().map_err(|error| Error::Unsupported { what: error.to_string() })
}

/// The body of a worker thread: works until no more jobs can come. After an error jobs are
/// taken and handed back undone, so that nobody waits for ever.
pub(super) fn run(line: &Line, mut bench: Bench, jobs: &Receiver<Job>, finished: &Sender<Batch>) {
    for job in jobs {
        match job {
            Job::Chunks(mut batch) => {
                line.session.attempt(|| line.batch(&mut bench, &mut batch));
                // Nobody is left to receive it when the writer was dropped in the middle of an image.
                drop(finished.send(batch));
            }
            Job::Blob { id, fingerprint, bytes } => {
                let mark = Mark::Fingerprint(&fingerprint);
                line.session.attempt(|| line.store(&mut bench, BlobKind::Data, id, &bytes, mark));
                line.session.done();
            }
            Job::Tree { tree, place, answer } => line.session.attempt(|| {
                let id = line.blob(&mut bench, BlobKind::Tree, &encoded(&tree)?)?;
                // Nobody is left to receive it when the writer has failed.
                _ = answer.send((place, id));
                Ok(())
            }),
            Job::Cut(mut cut) => {
                line.session.attempt(|| line.cut(&mut bench, &mut cut));
                let answer = cut.answer.clone();
                // Nobody is left to receive it when the stream was dropped.
                drop(answer.send(cut));
            }
            Job::Copied(parcel) => {
                line.session.attempt(|| line.store_parcel(&mut bench, &parcel));
                line.session.done();
            }
        }
    }
}

/// Lowers the priority of the calling thread, and of those it starts from now on, to that of all threads that store:
/// whoever works with the databases comes first. Where that is not allowed, it stays as it is.
pub fn give_way() {
    // On Linux this concerns the calling thread alone.
    let present = rustix::process::getpriority_process(None).unwrap_or(0);
    if present < NICE {
        let _ = rustix::process::setpriority_process(None, NICE);
    }
}
