//! The files of the cache: bytes only.
//!
//! ```text
//! sealed with the repository's key:
//!   "dbkcache" | version (4) | kind (1) | SHA-256 of the repository's id (32)
//!   for each object: id (32) | length (4) | the object in binary, as record.rs has it
//! ```

use std::ops::Range;

use crate::Id;
use crate::backend::FileKind;
use crate::crypto::{MasterKey, NONCE};
use crate::error::Result;
use crate::format::{FormatError, FormatResult};

/// The version of this layout and of everything in it. Another one is not read.
pub const VERSION: u32 = 2;

const MAGIC: &[u8; 8] = b"dbkcache";
const HEADER: usize = 8 + 4 + 1 + 32;
const RECORD_HEADER: usize = 32 + 4;

/// What all objects of a segment have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What they are.
    pub kind: FileKind,
    /// The SHA-256 of the id of their repository.
    pub repository: Id,
}

impl Header {
    fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12] = kind_number(self.kind);
        bytes[13..].copy_from_slice(self.repository.as_bytes());
        bytes
    }
}

fn kind_number(kind: FileKind) -> u8 {
    match kind {
        FileKind::Snapshot => 1,
        FileKind::Index => 2,
        FileKind::Fact => 3,
        FileKind::Config | FileKind::Key | FileKind::Lock | FileKind::Pack => 0,
    }
}

/// Some objects, opened.
#[derive(Debug)]
pub struct Segment {
    bytes: Vec<u8>,
    records: Vec<(Id, Range<usize>)>,
}

impl Segment {
    /// Opens the contents of a file. What it is not sealed by the key, or not of this version, kind and repository, is
    /// an error.
    pub fn open(mut sealed: Vec<u8>, key: &MasterKey, header: &Header) -> FormatResult<Self> {
        let plain = key.open(&mut sealed).map_err(|error| FormatError::new(error.to_string()))?;
        let records = records(plain, header)?;
        // The plain bytes stay where the sealed ones were, behind the nonce.
        let moved = |(id, range): (Id, Range<usize>)| (id, range.start + NONCE..range.end + NONCE);
        let records = records.into_iter().map(moved).collect();
        Ok(Self { bytes: sealed, records })
    }

    /// Returns the objects, each with its id.
    pub fn records(&self) -> impl Iterator<Item = (Id, &[u8])> {
        self.records.iter().map(|(id, range)| (*id, &self.bytes[range.clone()]))
    }
}

/// Returns where in the plain bytes of a segment each object is.
pub fn records(plain: &[u8], header: &Header) -> FormatResult<Vec<(Id, Range<usize>)>> {
    if plain.get(..HEADER) != Some(&header.encode()) {
        return Err(FormatError::new("not of this version, kind and repository"));
    }
    let mut records = Vec::new();
    let mut at = HEADER;
    while at < plain.len() {
        let cut_off = || FormatError::new("cut off");
        let (id, rest) = plain[at..].split_first_chunk::<32>().ok_or_else(cut_off)?;
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut_off)?;
        let length = u32::from_le_bytes(*length) as usize;
        if length > rest.len() {
            return Err(cut_off());
        }
        let start = at + RECORD_HEADER;
        at = start + length;
        records.push((Id::new(*id), start..at));
    }
    Ok(records)
}

/// Objects that are to become a segment.
#[derive(Debug)]
pub struct Draft {
    plain: Vec<u8>,
}

impl Draft {
    /// Begins a segment without objects.
    pub fn new(header: &Header) -> Self {
        Self { plain: header.encode().to_vec() }
    }

    /// Adds an object.
    pub fn add(&mut self, id: &Id, object: &[u8]) {
        let length = u32::try_from(object.len()).expect("objects are read whole and have at most 128 MiB");
        self.plain.extend_from_slice(id.as_bytes());
        self.plain.extend_from_slice(&length.to_le_bytes());
        self.plain.extend_from_slice(object);
    }

    /// Returns the bytes that its objects take.
    pub fn weight(&self) -> usize {
        self.plain.len() - HEADER
    }

    /// Returns the plain bytes.
    pub fn plain(&self) -> &[u8] {
        &self.plain
    }

    /// Returns the contents of the file.
    pub fn seal(&self, key: &MasterKey) -> Result<Vec<u8>> {
        let mut sealed = Vec::new();
        key.seal(&self.plain, &mut sealed)?;
        Ok(sealed)
    }
}

/// Returns the bytes that an object takes in a segment.
pub fn weight(object: &[u8]) -> usize {
    RECORD_HEADER + object.len()
}
