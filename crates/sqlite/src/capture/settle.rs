//! The second of two passes: what was read without a lock becomes the image of one moment.
//!
//! Writers in rollback mode wait while SHARED is held. So it is held for a slice at a time,
//! and SQLite's own test and the times of the file say whether somebody wrote in between: then
//! the pass begins again, and finds less to replace. A database that is never left alone for the length of a
//! pass is held once for all of it, up to a limit.

use std::thread;
use std::time::{Duration, Instant};

use crate::capture::body::Body;
use crate::capture::{Capture, ChunkSink, State};
use crate::header::Header;
use crate::{Error, Result};

/// How long writers wait for one slice, and how long they then have to themselves.
const SLICE: Duration = Duration::from_millis(40);
const REST: Duration = Duration::from_millis(20);

/// How many passes are begun in slices before one hold for all.
const PASSES: u32 = 3;

/// How a pass ended.
#[derive(PartialEq, Eq)]
enum Pass {
    Whole,
    /// Somebody wrote between two slices.
    Overtaken,
}

impl Capture {
    /// Hands out every chunk of the image once more, now of one moment, and returns the size
    /// of the image: chunks that differ replace those of the first pass, chunks beyond the
    /// size are dropped.
    ///
    /// Begins again at chunk 0 when somebody wrote meanwhile; the last bytes given for a chunk
    /// count. Calls nothing if the file provably did not change since before the first pass.
    /// Writers wait meanwhile, so `chunk` should do little but compare.
    pub fn settle(&mut self, chunk_size: u32, chunk: &mut ChunkSink<'_>) -> Result<u64> {
        if self.state != State::Unsettled {
            return Ok(self.size);
        }
        let before = self.position.clone();
        let two_passes = matches!(self.body, Body::FirstPass(..));
        self.lock()?;
        let unchanged = two_passes && before.is_some_and(|before| self.is_unchanged_since(&before));
        if !unchanged {
            self.reread = true;
            self.read_again(chunk_size, chunk)?;
        }
        if two_passes {
            self.body = Body::Settled;
        }
        self.next = self.size;
        self.state = State::Done;
        Ok(self.size)
    }

    fn lock(&mut self) -> Result<()> {
        self.body.lock(&self.identity, self.options.busy_timeout)?;
        self.learn()
    }

    fn read_again(&mut self, chunk_size: u32, chunk: &mut ChunkSink<'_>) -> Result<()> {
        for _ in 0..PASSES {
            // In WAL mode nobody waits for us.
            let slice = (!self.is_in_wal_mode()).then_some(SLICE);
            if self.pass(chunk_size, chunk, slice)? == Pass::Whole {
                if self.body.is_of_one_moment()? {
                    return Ok(());
                }
                self.lock()?;
            }
        }
        if self.is_in_wal_mode() {
            // Nobody opened it, yet something changes the file again and again.
            return Err(Error::Changed { path: self.identity.path.clone() });
        }
        self.hold_for_all(chunk_size, chunk)
    }

    fn is_in_wal_mode(&self) -> bool {
        self.header.as_ref().is_some_and(Header::is_wal)
    }

    /// Reads all chunks under one lock, or gives up when writers would wait for too long.
    fn hold_for_all(&mut self, chunk_size: u32, chunk: &mut ChunkSink<'_>) -> Result<()> {
        let limit = self.options.longest_hold;
        let deadline = Instant::now() + limit;
        let path = self.identity.path.clone();
        let mut in_time = |index: u64, bytes: &[u8]| {
            if Instant::now() > deadline {
                let error = Error::unsupported(
                    &path,
                    format!("is written to all the time, and cannot be read within {limit:?} under its lock"),
                    "WAL mode lets it be read without holding up writers; so does a file system that clones \
                     files (XFS, btrfs)",
                );
                return Err(error.into());
            }
            chunk(index, bytes)
        };
        self.pass(chunk_size, &mut in_time, None).map(|_whole| ())
    }

    /// Reads all chunks under the lock, which is held at the start and at the end; with
    /// `slice`, given back for a moment whenever it was held that long.
    fn pass(&mut self, chunk_size: u32, chunk: &mut ChunkSink<'_>, slice: Option<Duration>) -> Result<Pass> {
        // Whole chunks, about a mebibyte at a time.
        let chunk_size = (chunk_size as usize).max(1);
        let mut buffer = vec![0u8; chunk_size * ((1 << 20) / chunk_size).max(1)];
        let mut offset = 0u64;
        let mut index = 0u64;
        let mut held_since = Instant::now();
        while offset < self.size {
            if slice.is_some_and(|slice| held_since.elapsed() > slice) {
                if self.let_writers_go()? == Pass::Overtaken {
                    return Ok(Pass::Overtaken);
                }
                held_since = Instant::now();
            }
            self.check_log_growth()?;
            let left = usize::try_from(self.size - offset).unwrap_or(usize::MAX);
            let count = left.min(buffer.len());
            self.body.read(&self.identity, offset, &mut buffer[..count])?;
            for part in buffer[..count].chunks(chunk_size) {
                chunk(index, part).map_err(consumer)?;
                index += 1;
            }
            offset += count as u64;
        }
        Ok(Pass::Whole)
    }

    fn let_writers_go(&mut self) -> Result<Pass> {
        let before = self.position.clone();
        self.body.unlock();
        thread::sleep(REST);
        self.lock()?;
        let same = match (&before, &self.position) {
            // Every commit of rollback mode moves the change counter among the counters. A
            // transaction that spilled and was rolled back does not, and changes pages that nobody
            // uses: the times of the file tell of that one, since a slice is longer than a tick of the kernel's clock.
            (Some(before), Some(now)) => {
                before.counters == now.counters
                    && before.file == now.file
                    && before.page_count == now.page_count
                    && before.page_size == now.page_size
                    && now.wal.is_none()
            }
            _ => false,
        };
        Ok(if same { Pass::Whole } else { Pass::Overtaken })
    }
}

/// An error of ours that came back through the caller's sink stays what it is.
fn consumer(error: crate::BoxError) -> Error {
    match error.downcast::<Error>() {
        Ok(ours) => *ours,
        Err(other) => Error::Consumer(other),
    }
}
