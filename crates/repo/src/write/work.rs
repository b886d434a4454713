//! What the worker threads do: recognise, hash, compress, seal, put into packs.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::chunk::KnownChunk;
use super::pack::{Packer, Stopped};
use super::seal::{Fingerprint, Sealer};
use super::upload::Session;
use crate::Id;
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;

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

impl Line {
    /// Makes sure that a data blob with a fingerprint just taken is stored. Returns its id and, when it is new, its sealed size.
    fn chunk(
        &self,
        sealer: &mut Sealer,
        plain: &[u8],
        known: Option<&KnownChunk>,
    ) -> Result<(KnownChunk, Option<usize>)> {
        let fingerprint = sealer.fingerprint(plain);
        if let Some(known) = known
            && known.fingerprint == fingerprint
            && self.session.knows(BlobKind::Data, &known.id)
        {
            return Ok((*known, None));
        }
        let id = sealer.id(plain, &fingerprint);
        let chunk = KnownChunk { fingerprint, id };
        if !self.session.claim(BlobKind::Data, &id) {
            return Ok((chunk, None));
        }
        let stored = self.store(sealer, BlobKind::Data, id, plain, &fingerprint)?;
        Ok((chunk, Some(stored)))
    }

    /// Seals a claimed blob and puts it into a pack. Returns its sealed size.
    pub(super) fn store(
        &self,
        sealer: &mut Sealer,
        kind: BlobKind,
        id: Id,
        plain: &[u8],
        fingerprint: &Fingerprint,
    ) -> Result<usize> {
        let sealed = sealer.seal(kind, id, plain, fingerprint)?;
        let packer = match kind {
            BlobKind::Data => &self.data,
            BlobKind::Tree => &self.trees,
        };
        packer.append(&sealed, || self.session.sent()).map_err(|Stopped| Error::Cancelled)?;
        self.session.count_added(plain.len(), sealed.bytes.len());
        Ok(sealed.bytes.len())
    }

    fn batch(&self, sealer: &mut Sealer, batch: &mut Batch) -> Result<()> {
        for (number, plain) in batch.bytes[..batch.filled].chunks(batch.chunk_size).enumerate() {
            let (chunk, stored) = self.chunk(sealer, plain, batch.known.get(number))?;
            batch.chunks.push(chunk);
            if let Some(stored) = stored {
                batch.added += plain.len() as u64;
                batch.stored += stored as u64;
            }
        }
        Ok(())
    }
}

/// The body of a worker thread: works until no more jobs can come. After an error jobs are
/// taken and handed back undone, so that nobody waits for ever.
pub(super) fn run(line: &Line, mut sealer: Sealer, jobs: &Receiver<Job>, finished: &Sender<Batch>) {
    give_way();
    for job in jobs {
        match job {
            Job::Chunks(mut batch) => {
                line.session.attempt(|| line.batch(&mut sealer, &mut batch));
                // Nobody is left to receive it when the writer was dropped in the middle of an image.
                drop(finished.send(batch));
            }
            Job::Blob { id, fingerprint, bytes } => {
                line.session.attempt(|| {
                    line.store(&mut sealer, BlobKind::Data, id, &bytes, &fingerprint).map(|_| ())
                });
                line.session.done();
            }
        }
    }
}

/// Lowers the priority of the calling thread; where that is not allowed, it stays.
pub(super) fn give_way() {
    // On Linux this concerns the calling thread alone.
    let present = rustix::process::getpriority_process(None).unwrap_or(0);
    if present < NICE {
        let _ = rustix::process::setpriority_process(None, NICE);
    }
}
