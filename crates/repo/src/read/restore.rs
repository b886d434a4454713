//! A whole image, from the repository to where it is wanted.
//!
//! Threads take stretches of packs (`plan.rs`), fetch, open and check each blob, and write it where it
//! belongs, in any order. Memory is about 6 MiB for each thread, besides the plan: 20 bytes a chunk.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{io, thread};

use super::blob::{Expected, Opener, reserve};
use super::plan::{self, Piece, Run};
use super::{Image, Reader, lost};
use crate::backend::FileKind;
use crate::direct::AlignedBuffer;
use crate::error::{Error, Result};
use crate::format::pack::BlobKind;
use crate::index::Index;
use crate::observe::Observer;
use crate::write::is_zero;
use crate::{Id, sha};

/// Where an image is restored to.
pub trait ImageSink: Sync {
    /// Writes all of `bytes` at `offset`. Called from several threads at once, in no order, once for each byte of the
    /// image.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Says whether everything is zero before it is written; chunks of zeros are left out then.
    fn starts_zeroed(&self) -> bool {
        false
    }
}

/// Plain bytes opened, hashed and written together: as much as stays in a processor's cache.
const GROUP: usize = 1 << 20;
/// Threads besides one for each processor: while these wait for a disk, the others open blobs.
const SPARE: usize = 4;
/// The most threads.
const MAX_THREADS: usize = 16;

impl Reader {
    /// Restores an image. Returns its size.
    ///
    /// Every blob is checked before any of its bytes are written. Nothing is synced; that, and the image's
    /// length where chunks of zeros are left out, is the sink's business. After an error parts are written.
    pub fn restore(&self, image: &Image, sink: &dyn ImageSink, watch: &dyn Observer) -> Result<u64> {
        watch.phase("restoring", image.size());
        let write = |offset, bytes: &[u8]| {
            sink.write_at(offset, bytes).map_err(|source| Error::Source(Box::new(source)))
        };
        self.visit(image, |_| true, sink.starts_zeroed(), watch, &write)?;
        Ok(image.size())
    }

    /// Gives every wanted chunk to `visitor`, with its offset, once, on several threads, in no order;
    /// chunks that follow each other may come as one stretch. Those of zeros are left out when that is wanted.
    pub(super) fn visit(
        &self,
        image: &Image,
        wanted: impl Fn(usize) -> bool,
        leaves_out_zeros: bool,
        watch: &dyn Observer,
        visitor: &(dyn Fn(u64, &[u8]) -> Result<()> + Sync),
    ) -> Result<()> {
        let mut pieces = self.pieces(image, wanted)?;
        let runs = plan::runs(&mut pieces);
        let visit = Visit { reader: self, image, pieces: &pieces, leaves_out_zeros, watch, visitor };
        let processors = thread::available_parallelism().map_or(1, usize::from);
        visit.all(&runs, (processors + SPARE).min(MAX_THREADS).min(runs.len()))
    }

    /// Finds the places of all wanted chunks.
    fn pieces(&self, image: &Image, wanted: impl Fn(usize) -> bool) -> Result<Vec<Piece>> {
        let index = self.index.read();
        let chunks = image.ids().iter().enumerate().filter(|(chunk, _)| wanted(*chunk));
        chunks.map(|(chunk, id)| find(&index, chunk, id)).collect()
    }
}

/// Finds the place of a chunk.
pub(super) fn find(index: &Index, chunk: usize, id: &Id) -> Result<Piece> {
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
}

/// One pass over chunks of an image.
struct Visit<'a> {
    reader: &'a Reader,
    image: &'a Image,
    pieces: &'a [Piece],
    leaves_out_zeros: bool,
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
        let mut tools = Tools {
            opener: Opener::new(self.reader.repository.key())?,
            fetched: Vec::new(),
            plain: AlignedBuffer::default(),
            ids: Vec::new(),
        };
        while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            if self.watch.cancelled() {
                return Err(Error::Cancelled);
            }
            self.run(run, &mut tools)?;
        }
        Ok(())
    }

    /// Fetches a stretch of a pack and deals with its blobs, about a MiB at a time.
    fn run(&self, run: &Run, tools: &mut Tools) -> Result<()> {
        let pack = self.reader.index.read().packs()[run.pack as usize].id;
        let length = run.length as usize;
        reserve(&mut tools.fetched, length);
        let backend = self.reader.repository.backend();
        backend.read_range(FileKind::Pack, &pack, u64::from(run.offset), &mut tools.fetched[..length])?;

        let mut rest = &self.pieces[run.pieces.clone()];
        while !rest.is_empty() {
            let (group, later) = rest.split_at(self.group(rest));
            self.deal_with(&pack, run.offset, group, tools)?;
            rest = later;
        }
        Ok(())
    }

    /// Returns how many pieces are opened together: whole blobs of about `GROUP` plain bytes. A group that is worth
    /// it ends where the next blob does not follow in the image, so that long stretches are not cut in two.
    fn group(&self, pieces: &[Piece]) -> usize {
        let mut bytes = 0;
        let mut count = 0;
        for same in pieces.chunk_by(Piece::is_blob_of) {
            let follows = count > 0 && same[0].follows(&pieces[count - 1]);
            let with_it = bytes + self.length(&same[0]);
            if count > 0 && (with_it > GROUP || bytes >= GROUP / 4 && !follows) {
                break;
            }
            bytes = with_it;
            count += same.len();
        }
        count
    }

    /// Opens blobs, checks all of their hashes, and only then shows them.
    fn deal_with(&self, pack: &Id, start: u32, group: &[Piece], tools: &mut Tools) -> Result<()> {
        let mut blobs = Vec::new();
        let mut end = 0;
        for same in group.chunk_by(Piece::is_blob_of) {
            let place = end..end + self.length(&same[0]);
            end = place.end;
            tools.plain.grow_to(end);
            let at = (same[0].offset - start) as usize;
            let sealed = &mut tools.fetched[at..at + same[0].length as usize];
            tools.opener.open_unhashed(
                sealed,
                &self.expected(pack, &same[0]),
                &mut tools.plain[place.clone()],
            )?;
            blobs.push((same, place));
        }
        let plains: Vec<&[u8]> = blobs.iter().map(|(_, place)| &tools.plain[place.clone()]).collect();
        sha::ids(&plains, &mut tools.ids);
        for ((same, _), id) in blobs.iter().zip(&tools.ids) {
            self.expected(pack, &same[0]).ensure_is(id)?;
        }
        self.show(&blobs, &tools.plain)
    }

    /// Shows checked blobs; those that follow each other in the image as one stretch.
    fn show(&self, blobs: &[(&[Piece], Range<usize>)], plain: &[u8]) -> Result<()> {
        let mut stretch: Option<(u64, Range<usize>)> = None;
        for (same, place) in blobs {
            self.watch.advance((place.len() * same.len()) as u64);
            if self.leaves_out_zeros && is_zero(&plain[place.clone()]) {
                continue;
            }
            for piece in *same {
                let (offset, _) = self.image.span(piece.chunk as usize);
                match &mut stretch {
                    Some((start, open))
                        if open.end == place.start && *start + open.len() as u64 == offset =>
                    {
                        open.end = place.end;
                    }
                    _ => {
                        if let Some((start, shown)) = stretch.replace((offset, place.clone())) {
                            (self.visitor)(start, &plain[shown])?;
                        }
                    }
                }
            }
        }
        stretch.map_or(Ok(()), |(start, shown)| (self.visitor)(start, &plain[shown]))
    }

    fn expected(&self, pack: &Id, piece: &Piece) -> Expected {
        Expected {
            pack: *pack,
            id: self.image.ids()[piece.chunk as usize],
            uncompressed_length: piece.uncompressed_length(),
        }
    }

    /// Returns the plain length of a blob.
    fn length(&self, piece: &Piece) -> usize {
        self.image.span(piece.chunk as usize).1 as usize
    }
}

/// The context and the buffers of one thread.
struct Tools {
    opener: Opener,
    fetched: Vec<u8>,
    plain: AlignedBuffer,
    ids: Vec<Id>,
}
