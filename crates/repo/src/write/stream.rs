//! Streams: contents that are cut by whoever sends them, from several threads at once.
//!
//! Rows of a table are cut where rows end, so that a row that was put in moves no other piece. Each stream belongs to one
//! thread; the writer's workers hash, seal and store the pieces of all. A stream holds at most [`BATCHES`] batches of
//! about [`BATCH`] bytes.
//!
//! What changes must cost what changed, in the list of pieces as well: a long list is cut into parts where the names of
//! pieces say so, not after a fixed number of them.

use crossbeam_channel::{Receiver, Sender, unbounded};
use jiff::Timestamp;

use super::image::{MAX_PARTS, NodeMeta, PART, PART_CHUNKS, PARTS_SUFFIX, part_name};
use super::listing::{INDEX_BLOBS, Listing};
use super::work::{Cut, Job, Line};
use super::{Writer, gone, root};
use crate::error::{Error, Result};
use crate::format::tree::{Node, Tree};
use crate::{Id, RepositoryLock};

/// Bytes after which a batch goes to a worker at the next cut.
const BATCH: usize = 512 << 10;
/// Batches of one stream that are filled or worked on at once.
const BATCHES: usize = 3;
/// A piece ends here whether or not it was cut.
const MAX_PIECE: usize = 1 << 20;
/// A part of a list has at least so many pieces,
const MIN_PART: usize = PART_CHUNKS / 4;
/// and at most so many.
const MAX_PART: usize = PART_CHUNKS * 4;

/// A piece of a stream that is stored, or will be when the writer is flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredPiece {
    /// The SHA-256 of its bytes.
    pub id: Id,
    /// Its length, in bytes.
    pub length: u32,
}

/// The contents of a stream in the repository; several that follow each other can be put together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredStream {
    /// The pieces in order.
    pub pieces: Vec<StoredPiece>,
    /// Bytes.
    pub size: u64,
    /// Plain bytes that were not in the repository before.
    pub bytes_added: u64,
    /// The same, compressed and sealed.
    pub bytes_stored: u64,
}

impl StoredStream {
    /// Adds what follows.
    pub fn append(&mut self, next: Self) {
        self.pieces.extend(next.pieces);
        self.size += next.size;
        self.bytes_added += next.bytes_added;
        self.bytes_stored += next.bytes_stored;
    }

    /// Returns the SHA-256 over the ordered names of the pieces.
    pub fn root(&self) -> Id {
        root(self.pieces.iter().map(|piece| &piece.id))
    }
}

/// Opens streams, from any thread.
#[derive(Clone, Copy)]
pub struct Streams<'w> {
    line: &'w Line,
    jobs: &'w Sender<Job>,
    lock: &'w dyn RepositoryLock,
}

/// Contents on their way into the repository.
pub struct Stream<'w> {
    streams: Streams<'w>,
    open: Cut,
    idle: Vec<Cut>,
    in_flight: usize,
    finished: Receiver<Cut>,
    stored: StoredStream,
}

impl Writer<'_> {
    /// Returns where several threads can store at once.
    pub fn streams(&self) -> Result<Streams<'_>> {
        let jobs = self.jobs.as_ref().ok_or(Error::Cancelled)?;
        Ok(Streams { line: &self.line, jobs, lock: self.lock })
    }

    /// Returns the nodes under which a stream appears: one file `name`, or for more than [`PART_CHUNKS`] pieces a
    /// directory `name.parts` with a directory `00000`, `00001`, … for each part, whose file `part` holds some of
    /// them. `cat name.parts/*/part` gives the contents. No node carries a time, so that what did not change is the
    /// same in every snapshot.
    pub fn save_stream_nodes(
        &mut self,
        stream: &StoredStream,
        name: &str,
        meta: &NodeMeta,
    ) -> Result<Vec<Node>> {
        let timeless = NodeMeta { mtime: Timestamp::UNIX_EPOCH, ..meta.clone() };
        let file = |name: &str, pieces: &[StoredPiece]| {
            let size = pieces.iter().map(|piece| u64::from(piece.length)).sum();
            timeless.file(name, size, pieces.iter().map(|piece| piece.id).collect())
        };
        if stream.pieces.len() <= PART_CHUNKS {
            return Ok(vec![file(name, &stream.pieces)]);
        }
        let cut = parts(&stream.pieces);
        if cut.len() > MAX_PARTS {
            let what = format!("{name} has {} parts, {MAX_PARTS} is the limit", cut.len());
            return Err(Error::Unsupported { what });
        }
        let trees =
            self.save_trees(cut.into_iter().map(|pieces| Tree { nodes: vec![file(PART, pieces)] }))?;
        let part = |(number, tree)| timeless.directory(&part_name(number), tree);
        let tree = self.save_tree(&Tree { nodes: trees.into_iter().enumerate().map(part).collect() })?;
        Ok(vec![timeless.directory(&format!("{name}{PARTS_SUFFIX}"), tree)])
    }
}

/// Cuts a list after pieces whose names say so: one in [`PART_CHUNKS`], so that a piece that was put in changes one part.
fn parts(pieces: &[StoredPiece]) -> Vec<&[StoredPiece]> {
    let ends = |piece: &StoredPiece| {
        let [first, second, ..] = piece.id.as_bytes();
        usize::from(u16::from_be_bytes([*first, *second])) % PART_CHUNKS == 0
    };
    let mut parts = Vec::new();
    let mut rest = pieces;
    while !rest.is_empty() {
        let most = rest.len().min(MAX_PART);
        let from = MIN_PART.min(most) - 1;
        let end = rest[from..most].iter().position(ends).map_or(most, |place| from + place + 1);
        let (part, later) = rest.split_at(end);
        parts.push(part);
        rest = later;
    }
    parts
}

impl<'w> Streams<'w> {
    /// Begins a stream.
    pub fn open(&self) -> Stream<'w> {
        let (answer, finished) = unbounded();
        let batch = || Cut::new(answer.clone());
        Stream {
            streams: *self,
            open: batch(),
            idle: (1..BATCHES).map(|_| batch()).collect(),
            in_flight: 0,
            finished,
            stored: StoredStream::default(),
        }
    }
}

impl Stream<'_> {
    /// Adds bytes to the open piece.
    ///
    /// # Errors
    /// When the writer's session has failed, for a reason that [`Writer::check`] returns, or somebody wants to stop.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let room = MAX_PIECE - self.open.open_length();
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.open.bytes.extend_from_slice(now);
            bytes = later;
            if now.len() == room {
                self.cut()?;
            }
        }
        Ok(())
    }

    /// Ends the open piece, unless it is empty.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn cut(&mut self) -> Result<()> {
        self.open.cut();
        if self.open.bytes.len() >= BATCH { self.send() } else { Ok(()) }
    }

    /// Ends the stream and waits until all of its pieces are dealt with.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn finish(mut self) -> Result<StoredStream> {
        self.open.cut();
        if !self.open.bytes.is_empty() {
            self.send()?;
        }
        while self.in_flight > 0 {
            let batch = self.collect()?;
            self.idle.push(batch);
        }
        self.ensure_going()?;
        Ok(std::mem::take(&mut self.stored))
    }

    /// Fails when the session has. Why is kept for [`Writer::check`]: of several threads one would get it.
    fn ensure_going(&self) -> Result<()> {
        if self.streams.line.session.has_failed() { Err(ended()) } else { Ok(()) }
    }

    /// Gives the open batch to a worker.
    fn send(&mut self) -> Result<()> {
        let session = &self.streams.line.session;
        self.ensure_going()?;
        if session.watch.cancelled() {
            return Err(Error::Cancelled);
        }
        let listing = Listing { session, lock: self.streams.lock };
        if let Err(error) = listing.save(INDEX_BLOBS as u64) {
            session.keep(error);
            return Err(ended());
        }
        let next = match self.idle.pop() {
            Some(batch) => batch,
            None => self.collect()?,
        };
        let mut batch = std::mem::replace(&mut self.open, next);
        batch.first = self.stored.pieces.len();
        self.stored.size += batch.bytes.len() as u64;
        session.count_read(batch.bytes.len() as u64);
        let lengths = batch.lengths();
        self.stored.pieces.extend(lengths.map(|length| StoredPiece { id: Id::NULL, length }));
        self.streams.jobs.send(Job::Cut(batch)).map_err(|_| gone())?;
        self.in_flight += 1;
        Ok(())
    }

    /// Waits for a batch and takes the names of its pieces.
    fn collect(&mut self) -> Result<Cut> {
        // The stream keeps a sender itself, in its batches: a worker that is gone has left an error.
        let mut batch = self.finished.recv().map_err(|_| gone())?;
        self.in_flight -= 1;
        self.ensure_going()?;
        for (piece, id) in self.stored.pieces[batch.first..].iter_mut().zip(&batch.ids) {
            piece.id = *id;
        }
        self.stored.bytes_added += batch.added;
        self.stored.bytes_stored += batch.stored;
        batch.clear();
        Ok(batch)
    }
}

fn ended() -> Error {
    Error::Source("the session ended with another error".into())
}

impl std::fmt::Debug for Stream<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Stream({} bytes)", self.stored.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(count: usize) -> Vec<StoredPiece> {
        (0..count).map(|number| StoredPiece { id: Id::of(&number.to_le_bytes()), length: 1 }).collect()
    }

    #[test]
    fn piece_that_was_put_in_changes_one_part_of_the_list() {
        let before = pieces(40_000);
        let mut after = before.clone();
        after.insert(20_000, StoredPiece { id: Id::of(b"new"), length: 1 });
        let (before, after) = (parts(&before), parts(&after));
        assert_eq!(before.concat(), pieces(40_000));
        let lengths: Vec<usize> = before.iter().map(|part| part.len()).collect();
        let (last, others) = lengths.split_last().unwrap();
        assert!(others.iter().all(|length| (MIN_PART..=MAX_PART).contains(length)), "{lengths:?}");
        assert!(*last <= MAX_PART);
        let new = after.iter().filter(|part| !before.contains(part)).count();
        assert!(new <= 2, "{new} parts are new");
    }

    #[test]
    fn parts_of_few_pieces_and_of_none() {
        for count in [0, 1, MIN_PART, MIN_PART + 1, MAX_PART + 1] {
            assert_eq!(parts(&pieces(count)).concat(), pieces(count), "{count}");
        }
        let same = vec![StoredPiece { id: Id::of(b"same"), length: 1 }; MAX_PART * 2 + 5];
        assert_eq!(parts(&same).iter().map(|part| part.len()).collect::<Vec<_>>(), [MAX_PART, MAX_PART, 5]);
    }
}
