//! From a sealed blob back to plain bytes, trusting nothing.

use crate::backend::FileKind;
use crate::crypto::{MasterKey, OVERHEAD};
use crate::error::{Error, Result};
use crate::index::Location;
use crate::{Id, Repository};

/// The largest blob we open, in bytes: an index that names more asks for memory that nobody has.
/// Stock tools write trees of some hundred MiB for directories with millions of files.
const MAX_BLOB: u32 = 1 << 30;

/// What is known about a blob before it is opened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    /// The pack it is in, for messages.
    pub(crate) pack: Id,
    /// The SHA-256 of its plain bytes.
    pub(crate) id: Id,
    /// Its length before compression; `None` when it is stored uncompressed.
    pub(crate) uncompressed_length: Option<u32>,
}

impl Expected {
    /// Makes the error for a blob that is not what was expected.
    pub(crate) fn damaged(&self, what: &str) -> Error {
        Error::Damaged { kind: FileKind::Pack, id: self.pack, what: format!("blob {:.8} {what}", self.id) }
    }

    /// Makes sure that the hash of what was opened is the blob's name.
    pub(crate) fn ensure_is(&self, id: &Id) -> Result<()> {
        if self.id == *id { Ok(()) } else { Err(self.damaged("has other contents than its name says")) }
    }
}

/// Opens blobs, one after the other, on one thread. Its context and buffer are reused.
pub(crate) struct Opener {
    key: MasterKey,
    decompressor: zstd::bulk::Decompressor<'static>,
    plain: Vec<u8>,
}

impl Opener {
    pub(crate) fn new(key: &MasterKey) -> Result<Self> {
        let decompressor = zstd::bulk::Decompressor::new()
            .map_err(|source| Error::Io { what: "prepare decompression".to_owned(), source })?;
        Ok(Self { key: key.clone(), decompressor, plain: Vec::new() })
    }

    /// Opens a blob: MAC, decompression to exactly the declared length, SHA-256. Nothing of it is returned
    /// unless all three hold. `sealed` is overwritten.
    pub(crate) fn open<'a>(&'a mut self, sealed: &'a mut [u8], expected: &Expected) -> Result<&'a [u8]> {
        let damaged = |what: &str| expected.damaged(what);
        let opened = self.key.open(sealed).map_err(|_| damaged("is not what was sealed"))?;
        let plain: &[u8] = match expected.uncompressed_length {
            None => opened,
            Some(length) if length > MAX_BLOB => return Err(damaged("is too large")),
            Some(length) => {
                let length = length as usize;
                reserve(&mut self.plain, length);
                let plain = &mut self.plain[..length];
                match self.decompressor.decompress_to_buffer(opened, plain) {
                    Ok(written) if written == length => plain,
                    Ok(_) => return Err(damaged("is shorter than the index says")),
                    Err(_) => return Err(damaged("does not decompress")),
                }
            }
        };
        expected.ensure_is(&Id::of(plain))?;
        Ok(plain)
    }

    /// Opens a blob into `plain`, which has its length, except for the SHA-256: whoever calls this
    /// compares it, for many blobs at once, before anything is done with them.
    pub(crate) fn open_unhashed(
        &mut self,
        sealed: &mut [u8],
        expected: &Expected,
        plain: &mut [u8],
    ) -> Result<()> {
        let opened = self.key.open(sealed).map_err(|_| expected.damaged("is not what was sealed"))?;
        match expected.uncompressed_length {
            None if opened.len() == plain.len() => plain.copy_from_slice(opened),
            None => return Err(expected.damaged("has another length than the index says")),
            Some(_) => match self.decompressor.decompress_to_buffer(opened, plain) {
                Ok(written) if written == plain.len() => {}
                Ok(_) => return Err(expected.damaged("is shorter than the index says")),
                Err(_) => return Err(expected.damaged("does not decompress")),
            },
        }
        Ok(())
    }
}

/// Makes sure that a scratch buffer has at least `length` bytes.
pub(crate) fn reserve(buffer: &mut Vec<u8>, length: usize) {
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
}

/// Returns the length of a blob's plain bytes; `None` when the index says what cannot be.
pub(crate) fn plain_length(location: &Location) -> Option<u32> {
    let length = match location.uncompressed_length {
        Some(length) => length,
        None => location.length.checked_sub(u32::try_from(OVERHEAD).ok()?)?,
    };
    (length <= MAX_BLOB && location.length <= MAX_BLOB).then_some(length)
}

/// Reads and opens one blob.
pub(crate) fn read(repository: &Repository, location: &Location, id: &Id) -> Result<Vec<u8>> {
    let mut sealed = vec![0; location.length.min(MAX_BLOB) as usize];
    repository.backend().read_range(
        FileKind::Pack,
        &location.pack,
        u64::from(location.offset),
        &mut sealed,
    )?;
    let expected =
        Expected { pack: location.pack, id: *id, uncompressed_length: location.uncompressed_length };
    let mut opener = Opener::new(repository.key())?;
    Ok(opener.open(&mut sealed, &expected)?.to_vec())
}
