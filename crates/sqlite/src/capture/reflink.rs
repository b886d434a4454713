//! A clone of the database file that shares its blocks, made in milliseconds under the lock.
//!
//! The clone has no name, so nothing is left behind whatever happens to this process. It has
//! to lie on the same file system, and only that of the database's folder is surely the same.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};

use crate::capture::image::{Bytes, PlainFile};
use crate::identify::Identity;
use crate::raw;
use crate::vfs::PageSource;
use crate::{Error, Result};

/// A clone without a name.
pub(crate) struct Clone {
    file: File,
    size: u64,
}

impl Clone {
    /// Clones the database while its read transaction is open. `None` where the file system
    /// cannot, or the folder may not be written to.
    pub(crate) fn make(identity: &Identity, image_size: u64) -> Option<Self> {
        let folder = identity.path.parent()?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = File::from(rustix::fs::openat(CWD, folder, flags, Mode::RUSR | Mode::WUSR).ok()?);
        raw::with_descriptor(identity, |source| rustix::fs::ioctl_ficlone(&file, source))?.ok()?;
        let whole = file.metadata().is_ok_and(|metadata| metadata.len() >= image_size);
        whole.then_some(Clone { file, size: image_size })
    }

    pub(crate) fn fill(&self, path: &Path, offset: u64, buffer: &mut [u8]) -> Result<()> {
        PlainFile { file: &self.file, path }.fill(offset, buffer)
    }
}

impl PageSource for Clone {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        std::os::unix::fs::FileExt::read_exact_at(&self.file, buffer, offset)
    }
}

/// The error for a clone that was demanded and cannot be made.
pub(crate) fn impossible(path: &Path) -> Error {
    Error::unsupported(
        path,
        "the file system cannot clone files, or the folder is not writable",
        "XFS and btrfs can; let dbkeep choose another way",
    )
}
