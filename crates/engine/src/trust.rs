//! Files of the working directory that could run commands.
//!
//! Somebody who can write a directory that another user works in must not be able to make that user run
//! commands or send backups elsewhere.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{Error, Result};

/// The largest file that is read: configurations are written by people.
const LIMIT: u64 = 1 << 20;

/// Reads a text file that belongs to the user or root and that nobody else can write.
///
/// `None` when there is no such file. Owner and mode are taken of the opened file, so that it cannot be
/// exchanged in between.
pub(crate) fn read(path: &Path) -> Result<Option<String>> {
    match open(path)? {
        Some(file) => {
            let metadata = file.metadata().map_err(Error::io("read", path))?;
            trusted(path, metadata.uid(), metadata.mode(), rustix::process::geteuid().as_raw())?;
            text(file, path).map(Some)
        }
        None => Ok(None),
    }
}

/// Reads a text file that the user named. `None` when there is none.
pub(crate) fn read_named(path: &Path) -> Result<Option<String>> {
    open(path)?.map(|file| text(file, path)).transpose()
}

/// Opens a regular file; a FIFO or a device would wait for ever or never end.
fn open(path: &Path) -> Result<Option<File>> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => {
            let why = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
            return Err(Error::io("read", path)(why));
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(Error::io("read", path)(error)),
    }
    File::open(path).map(Some).map_err(Error::io("read", path))
}

/// Reads the whole of a file as text.
fn text(file: File, path: &Path) -> Result<String> {
    let mut text = String::new();
    file.take(LIMIT + 1).read_to_string(&mut text).map_err(Error::io("read", path))?;
    if text.len() as u64 > LIMIT {
        let why = io::Error::new(io::ErrorKind::InvalidData, "larger than 1 MiB");
        return Err(Error::io("read", path)(why));
    }
    Ok(text)
}

/// Says whether a file with this owner and mode can be relied on by `user`.
fn trusted(path: &Path, owner: u32, mode: u32, user: u32) -> Result<()> {
    let why = if owner != user && owner != 0 {
        format!("it belongs to another user (uid {owner})")
    } else if mode & 0o022 != 0 {
        format!("others can write it (mode {:04o})", mode & 0o7777)
    } else {
        return Ok(());
    };
    Err(Error::UnsafeFile { file: path.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_of_another_user_or_writable_by_others_is_refused() {
        let path = Path::new("/w/dbkeep.toml");
        assert!(trusted(path, 1000, 0o100644, 1000).is_ok());
        assert!(trusted(path, 0, 0o100644, 1000).is_ok());
        assert!(trusted(path, 1000, 0o100664, 1000).is_err());
        assert!(trusted(path, 1000, 0o100602, 1000).is_err());
        let error = trusted(path, 1001, 0o100600, 1000).unwrap_err();
        assert_eq!(error.to_string(), "/w/dbkeep.toml is not used: it belongs to another user (uid 1001)");
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn file_that_is_not_there_is_none_and_a_directory_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read(&directory.path().join("absent")).unwrap().is_none());
        assert!(read(directory.path()).is_err());
    }
}
