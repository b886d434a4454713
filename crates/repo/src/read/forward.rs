//! A stretch of an image from front to back, as rows are read.
//!
//! A thread of its own fetches and opens what comes next, about a MiB at a time: pieces of rows are small, so that many of
//! them are fetched, opened and hashed together. Memory is a few MiB.

use std::ops::Range;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::blob::{Expected, Opener, reserve};
use super::plan::{self, Piece};
use super::{Image, Reader, restore};
use crate::backend::FileKind;
use crate::error::{Error, Result};
use crate::{Id, sha};

/// Plain bytes that are opened together.
const GROUP: u64 = 1 << 20;
/// Groups that are opened and not asked for yet.
const AHEAD: usize = 2;

/// Reads consecutive chunks of an image. Dropping it stops its thread.
pub struct Forward {
    groups: Option<Receiver<Result<Vec<u8>>>>,
    used: Sender<Vec<u8>>,
    group: Vec<u8>,
    thread: Option<JoinHandle<()>>,
}

impl Reader {
    /// Begins to read consecutive chunks of an image. All of it is `0..image.chunks()`.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn forward(&self, image: &Arc<Image>, chunks: Range<usize>) -> Result<Forward> {
        self.forward_with(image, chunks, true)
    }

    /// Begins to do the same without the SHA-256 of each blob, which costs more than anything else here. Its seal says
    /// that it is what was once stored, but not that it is the one that belongs there: for whoever compares what comes
    /// out in the end with something else.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn forward_unhashed(&self, image: &Arc<Image>, chunks: Range<usize>) -> Result<Forward> {
        self.forward_with(image, chunks, false)
    }

    fn forward_with(&self, image: &Arc<Image>, chunks: Range<usize>, hashed: bool) -> Result<Forward> {
        let (opened, groups) = bounded(AHEAD);
        let (used, reusable) = bounded(AHEAD + 1);
        let mut opening =
            Opening { reader: self.clone(), image: Arc::clone(image), next: chunks, hashed, tools: None };
        let body = move || {
            while !opening.next.is_empty() {
                let mut group = reusable.try_recv().unwrap_or_default();
                let result = opening.group(&mut group).map(|()| group);
                let failed = result.is_err();
                if opened.send(result).is_err() || failed {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("forward".to_owned()).spawn(body);
        let thread = thread.map_err(|source| Error::Io { what: "start a thread".to_owned(), source })?;
        Ok(Forward { groups: Some(groups), used, group: Vec::new(), thread: Some(thread) })
    }
}

impl Forward {
    /// Returns the next bytes; `None` at the end. Each blob was checked as far as its SHA-256, or its seal.
    ///
    /// # Errors
    /// When something cannot be read or is damaged; nothing comes after that.
    #[expect(clippy::should_implement_trait, reason = "what is returned is borrowed from the reader")]
    pub fn next(&mut self) -> Result<Option<&[u8]>> {
        let Some(groups) = &self.groups else { return Ok(None) };
        // Kept for the group after the next where there is room for it.
        drop(self.used.try_send(std::mem::take(&mut self.group)));
        match groups.recv() {
            Ok(Ok(group)) => {
                self.group = group;
                Ok(Some(&self.group))
            }
            Ok(Err(error)) => {
                self.groups = None;
                Err(error)
            }
            Err(_) => {
                self.groups = None;
                self.join()?;
                Ok(None)
            }
        }
    }

    /// Waits for the thread. One that panicked has not come to the end.
    fn join(&mut self) -> Result<()> {
        match self.thread.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(Error::Source("a thread that opens blobs panicked".into())),
            _ => Ok(()),
        }
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.groups = None;
        drop(self.join());
    }
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Forward(at {} bytes)", self.group.len())
    }
}

/// The thread's side.
struct Opening {
    reader: Reader,
    image: Arc<Image>,
    /// The chunks that were not opened yet.
    next: Range<usize>,
    /// Whether the hash of each blob is compared with its name.
    hashed: bool,
    tools: Option<Tools>,
}

struct Tools {
    opener: Opener,
    fetched: Vec<u8>,
    ids: Vec<Id>,
}

impl Opening {
    /// Opens the next chunks into `group`.
    fn group(&mut self, group: &mut Vec<u8>) -> Result<()> {
        let chunks = self.take();
        let (start, _) = self.image.span(chunks.start);
        let (last, length) = self.image.span(chunks.end - 1);
        let bytes = last + u64::from(length) - start;
        let too_large = |_| Error::Unsupported { what: format!("a stretch of {bytes} bytes") };
        group.resize(usize::try_from(bytes).map_err(too_large)?, 0);
        let mut tools = match self.tools.take() {
            Some(tools) => tools,
            None => Tools {
                opener: Opener::new(self.reader.repository.key())?,
                fetched: Vec::new(),
                ids: Vec::new(),
            },
        };
        self.open(chunks, start, group, &mut tools)?;
        self.tools = Some(tools);
        Ok(())
    }

    /// Returns the chunks of the next group: at least one.
    fn take(&mut self) -> Range<usize> {
        let first = self.next.start;
        let (start, _) = self.image.span(first);
        let fits = |chunk: &usize| {
            let (offset, length) = self.image.span(*chunk);
            offset + u64::from(length) - start <= GROUP
        };
        let end = (first + 1..self.next.end).take_while(fits).last().map_or(first + 1, |last| last + 1);
        self.next.start = end;
        first..end
    }

    fn open(&self, chunks: Range<usize>, start: u64, group: &mut [u8], tools: &mut Tools) -> Result<()> {
        let mut pieces = Vec::with_capacity(chunks.len());
        {
            let index = self.reader.index.read();
            for chunk in chunks {
                pieces.push(restore::find(&index, chunk, &self.image.ids()[chunk])?);
            }
        }
        for run in plan::runs(&mut pieces) {
            let pack = self.reader.index.read().packs()[run.pack as usize].id;
            let length = run.length as usize;
            reserve(&mut tools.fetched, length);
            let fetched = &mut tools.fetched[..length];
            let backend = self.reader.repository.backend();
            backend.read_range(FileKind::Pack, &pack, u64::from(run.offset), fetched)?;
            for same in pieces[run.pieces.clone()].chunk_by(Piece::is_blob_of) {
                let at = (same[0].offset - run.offset) as usize;
                let sealed = &mut fetched[at..at + same[0].length as usize];
                let place = self.place(&same[0], start);
                tools.opener.open_unhashed(
                    sealed,
                    &self.expected(pack, &same[0]),
                    &mut group[place.clone()],
                )?;
                for piece in &same[1..] {
                    group.copy_within(place.clone(), self.place(piece, start).start);
                }
            }
        }
        if !self.hashed {
            return Ok(());
        }
        let plains: Vec<&[u8]> = pieces.iter().map(|piece| &group[self.place(piece, start)]).collect();
        sha::ids(&plains, &mut tools.ids);
        for (piece, id) in pieces.iter().zip(&tools.ids) {
            let pack = self.reader.index.read().packs()[piece.pack as usize].id;
            self.expected(pack, piece).ensure_is(id)?;
        }
        Ok(())
    }

    /// Returns where a chunk is in a group that begins at `start`.
    fn place(&self, piece: &Piece, start: u64) -> Range<usize> {
        let (offset, length) = self.image.span(piece.chunk as usize);
        // Within a group, which is in memory.
        let from = usize::try_from(offset - start).unwrap_or(usize::MAX);
        from..from + length as usize
    }

    fn expected(&self, pack: Id, piece: &Piece) -> Expected {
        Expected {
            pack,
            id: self.image.ids()[piece.chunk as usize],
            uncompressed_length: piece.uncompressed_length(),
        }
    }
}
