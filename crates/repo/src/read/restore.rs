//! A whole image, from the repository to where it is wanted.
//!
//! Threads take stretches of packs (`plan.rs`), fetch, open and check each blob, and write it where it
//! belongs, in any order. Memory is a stretch and a chunk for each thread, besides the plan: 20 bytes a chunk.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{io, thread};

use super::blob::{Expected, Opener};
use super::plan::{self, Piece, Run};
use super::{Image, Reader, lost};
use crate::backend::FileKind;
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::observe::Observer;
use crate::write::is_zero;

/// Where an image is restored to.
pub trait ImageSink: Sync {
    /// Writes all of `bytes` at `offset`. Called from several threads, in no order, once for each byte of the image.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Says whether everything is zero before it is written; chunks of zeros are left out then.
    fn starts_zeroed(&self) -> bool {
        false
    }
}

/// Threads besides one for each processor: while one waits for a disk, another one opens blobs.
const SPARE: usize = 2;
/// The most threads.
const MAX_THREADS: usize = 16;

impl Reader {
    /// Restores an image. Returns its size.
    ///
    /// Every blob is checked before any of its bytes are written. Nothing is synced; that, and the image's
    /// length where chunks of zeros are left out, is the sink's business. After an error parts are written.
    pub fn restore(&self, image: &Image, sink: &dyn ImageSink, watch: &dyn Observer) -> Result<u64> {
        watch.phase("restoring", image.size());
        let may_skip = sink.starts_zeroed();
        self.visit(image, |_| true, watch, &|offset, bytes| {
            if may_skip && is_zero(bytes) {
                return Ok(());
            }
            sink.write_at(offset, bytes).map_err(|source| Error::Source(Box::new(source)))
        })?;
        Ok(image.size())
    }

    /// Gives each wanted chunk to `visitor`, with its offset, once, on several threads, in no order.
    pub(super) fn visit(
        &self,
        image: &Image,
        wanted: impl Fn(usize) -> bool,
        watch: &dyn Observer,
        visitor: &(dyn Fn(u64, &[u8]) -> Result<()> + Sync),
    ) -> Result<()> {
        let mut pieces = self.pieces(image, wanted)?;
        let runs = plan::runs(&mut pieces);
        let visit = Visit { reader: self, image, pieces: &pieces, watch, visitor };
        let processors = thread::available_parallelism().map_or(1, usize::from);
        visit.all(&runs, (processors + SPARE).min(MAX_THREADS).min(runs.len()))
    }

    /// Finds the places of all wanted chunks.
    fn pieces(&self, image: &Image, wanted: impl Fn(usize) -> bool) -> Result<Vec<Piece>> {
        let index = self.index.read();
        let chunks = image.ids().iter().enumerate().filter(|(chunk, _)| wanted(*chunk));
        let pieces = chunks.map(|(chunk, id)| {
            let position = index.position(BlobKind::Data, id).ok_or_else(|| lost(BlobKind::Data, id))?;
            let location = index.location(position);
            let too_many = |_| Error::Unsupported { what: "an image of more than 2^32 chunks".to_owned() };
            Ok(Piece {
                // Pack numbers fit: the index keeps them in 31 bits.
                pack: u32::try_from(index.pack_number(position)).unwrap_or(u32::MAX),
                offset: location.offset,
                chunk: u32::try_from(chunk).map_err(too_many)?,
                length: location.length,
                uncompressed: location.uncompressed_length.unwrap_or(0),
            })
        });
        pieces.collect()
    }
}

/// One pass over chunks of an image.
struct Visit<'a> {
    reader: &'a Reader,
    image: &'a Image,
    pieces: &'a [Piece],
    watch: &'a dyn Observer,
    visitor: &'a (dyn Fn(u64, &[u8]) -> Result<()> + Sync),
}

impl Visit<'_> {
    fn all(&self, runs: &[Run], threads: usize) -> Result<()> {
        let next = AtomicUsize::new(0);
        let stop = AtomicBool::new(false);
        let failure = Mutex::new(None);
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    if let Err(error) = self.some(runs, &next, &stop) {
                        stop.store(true, Ordering::Relaxed);
                        failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                    }
                });
            }
        });
        failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Takes runs until there are none.
    fn some(&self, runs: &[Run], next: &AtomicUsize, stop: &AtomicBool) -> Result<()> {
        let mut opener = Opener::new(self.reader.repository.key())?;
        let mut fetched = Vec::new();
        while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if self.watch.cancelled() {
                return Err(Error::Cancelled);
            }
            self.run(run, &mut opener, &mut fetched)?;
        }
        Ok(())
    }

    fn run(&self, run: &Run, opener: &mut Opener, fetched: &mut Vec<u8>) -> Result<()> {
        let pack = self.reader.index.read().packs()[run.pack as usize].id;
        let length = run.length as usize;
        if fetched.len() < length {
            fetched.resize(length, 0);
        }
        let fetched = &mut fetched[..length];
        let backend = self.reader.repository.backend();
        backend.read_range(FileKind::Pack, &pack, u64::from(run.offset), fetched)?;
        for same in self.pieces[run.pieces.clone()].chunk_by(Piece::is_blob_of) {
            let piece = same[0];
            let expected = Expected {
                pack,
                id: self.image.ids()[piece.chunk as usize],
                uncompressed_length: piece.uncompressed_length(),
            };
            let start = (piece.offset - run.offset) as usize;
            let plain = opener.open(&mut fetched[start..start + piece.length as usize], &expected)?;
            for piece in same {
                let (offset, _) = self.image.span(piece.chunk as usize);
                (self.visitor)(offset, plain)?;
                self.watch.advance(plain.len() as u64);
            }
        }
        Ok(())
    }
}
