//! The bytes as they are, for what SQLite cannot read: encrypted, damaged or foreign files.
//!
//! Not a valid image as far as we know, and labelled so. The journal or log beside it is
//! offered too: without it the file may be worth nothing.

use std::fs::File;
use std::path::PathBuf;

use crate::capture::image::{PlainFile, open_beside_if_there};
use crate::header::{HEADER_SIZE, Header};
use crate::identify::{self, Siblings};
use crate::position::FileState;
use crate::raw::RawFile;
use crate::{Error, Result};

/// A file beside the database whose bytes belong to the copy.
pub struct Sibling {
    suffix: &'static str,
    size: u64,
    path: PathBuf,
    file: File,
}

impl Sibling {
    /// Returns what is added to the database's name: `-wal` or `-journal`.
    pub fn suffix(&self) -> &'static str {
        self.suffix
    }

    /// Returns how many of its bytes belong to the copy.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Fills `buffer` from `offset` and returns how many bytes there were.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let count = left.min(buffer.len());
        let plain = PlainFile { file: &self.file, path: &self.path };
        let got = plain.read_some(offset, &mut buffer[..count])?;
        if got < count {
            return Err(Error::Changed { path: self.path.clone() });
        }
        Ok(got)
    }
}

/// The bytes of a file, under SHARED, and of what lies beside it.
pub(crate) struct RawCopy {
    guard: RawFile,
    state: FileState,
    siblings: Vec<Sibling>,
    log_start: Vec<u8>,
}

impl RawCopy {
    /// Takes over `guard`, which holds SHARED.
    pub(crate) fn new(guard: RawFile) -> Result<Self> {
        let path = guard.path();
        let there = Siblings::of(path)?;
        let mut siblings = Vec::new();
        for (suffix, size) in [("-wal", there.wal), ("-journal", there.journal)] {
            if let Some(size) = size.filter(|&size| size > 0) {
                let path = identify::sibling(path, suffix);
                // An application that was refused by our lock may have taken its journal away since.
                if let Some(file) = open_beside_if_there(&path)? {
                    siblings.push(Sibling { suffix, size, path, file });
                }
            }
        }
        let state = FileState::of(path)?;
        let mut copy = RawCopy { guard, state, siblings, log_start: Vec::new() };
        copy.log_start = copy.read_log_start()?;
        Ok(copy)
    }

    pub(crate) fn size(&self) -> u64 {
        self.state.size
    }

    /// Returns the header, where there is a sound one.
    pub(crate) fn header(&self) -> Option<Header> {
        let mut bytes = [0u8; HEADER_SIZE];
        let count = self.guard.read_at(0, &mut bytes).ok()?;
        Header::parse(&bytes).ok().filter(|_| count == HEADER_SIZE)
    }

    pub(crate) fn siblings(&self) -> &[Sibling] {
        &self.siblings
    }

    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        if self.guard.read_at(offset, buffer)? < buffer.len() {
            return Err(self.changed());
        }
        Ok(())
    }

    /// Fails if anything was written that makes the copy a mixture of two moments. A log that
    /// only grew is fine: what was added lies behind the copy's end.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let there = Siblings::of(self.guard.path())?;
        let still = |suffix: &str, size: Option<u64>| {
            let then = self.siblings.iter().find(|sibling| sibling.suffix == suffix);
            match (then, size.unwrap_or(0)) {
                (None, now) => now == 0,
                (Some(then), now) if suffix == "-wal" => now >= then.size,
                (Some(then), now) => now == then.size,
            }
        };
        let same = FileState::of(self.guard.path())? == self.state
            && still("-wal", there.wal)
            && still("-journal", there.journal)
            && self.read_log_start()? == self.log_start;
        if same { Ok(()) } else { Err(self.changed()) }
    }

    fn read_log_start(&self) -> Result<Vec<u8>> {
        let mut start = vec![0; 32];
        let Some(log) = self.siblings.iter().find(|sibling| sibling.suffix == "-wal") else {
            return Ok(Vec::new());
        };
        let count = log.read_at(0, &mut start)?;
        start.truncate(count);
        Ok(start)
    }

    fn changed(&self) -> Error {
        Error::Changed { path: self.guard.path().to_path_buf() }
    }
}
