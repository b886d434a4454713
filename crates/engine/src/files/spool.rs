//! Files without a name, for what has to be unpacked before it can be looked at, and files as images.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use dbkeep_sqlite::vfs::PageSource;

use crate::export::written::{Sum, Summed, pump};
use crate::{Error, Result};

/// Why something could not be unpacked.
pub(super) enum Unpacked {
    /// It is damaged.
    Damaged(String),
    /// Nothing can be said of it.
    Failed(Error),
}

/// Copies everything into a file without a name.
pub(super) fn spool(from: &mut dyn Read) -> Result<(File, Sum), Unpacked> {
    let file = tempfile::tempfile().map_err(|error| Unpacked::Failed(Error::temporary(error)))?;
    let mut out = Spooling { file: Summed::new(&file), failure: None };
    let copied = pump(from, &mut out);
    if let Some(error) = out.failure {
        return Err(Unpacked::Failed(Error::temporary(error)));
    }
    copied.map_err(unpacked)?;
    let sum = out.file.finish().1;
    Ok((file, sum))
}

/// Tells damage from a disk that cannot be read: only the second comes from the system.
pub(super) fn unpacked(error: io::Error) -> Unpacked {
    if error.kind() == io::ErrorKind::FileTooLarge {
        return Unpacked::Failed(Error::Unsupported { what: error.to_string(), hint: None });
    }
    match error.raw_os_error() {
        Some(_) => {
            Unpacked::Failed(Error::Io { action: "read", path: PathBuf::from("the file"), source: error })
        }
        None => Unpacked::Damaged(error.to_string()),
    }
}

/// Keeps the error of writing apart from that of reading.
struct Spooling<'f> {
    file: Summed<&'f File>,
    failure: Option<io::Error>,
}

impl Write for Spooling<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.file.write(buffer).map_err(|error| {
            self.failure = Some(error);
            io::Error::other("no room")
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A file as an image.
pub(super) struct FileImage {
    pub(super) file: File,
    pub(super) size: u64,
}

impl PageSource for FileImage {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}
