//! The folder with the generated data.
//!
//! What takes long to make is kept for the next run, under a name that says what it is.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use dbkeep_testkit::generate::{records, sparse};

use crate::{Error, Result};

/// Where data, copies and repositories are.
#[derive(Debug)]
pub(crate) struct Scratch {
    root: PathBuf,
}

impl Scratch {
    /// Uses `root`, or a folder for temporary files.
    pub(crate) fn open(root: Option<PathBuf>) -> Result<Self> {
        let root = root.unwrap_or_else(|| std::env::temp_dir().join("dbkeep-bench"));
        fs::create_dir_all(&root)?;
        Ok(Self { root: fs::canonicalize(root)? })
    }

    /// Returns the path of an entry that does not exist: what was there is removed.
    pub(crate) fn fresh(&self, name: &str) -> Result<PathBuf> {
        let path = self.root.join(name);
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path)?,
            Ok(_) => fs::remove_file(&path)?,
            Err(_) => {}
        }
        for suffix in ["-wal", "-shm", "-journal"] {
            // Most have no such sibling.
            let _ = fs::remove_file(self.root.join(format!("{name}{suffix}")));
        }
        Ok(path)
    }

    /// Removes what measurements left and keeps the generated data.
    pub(crate) fn clean(&self) -> Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let is_data =
                path.file_name().and_then(OsStr::to_str).is_some_and(|name| name.starts_with("data-"));
            match (is_data, path.is_dir()) {
                (true, _) => {}
                (false, true) => fs::remove_dir_all(&path)?,
                (false, false) => fs::remove_file(&path)?,
            }
        }
        Ok(())
    }

    /// Returns the main database, half random and half text.
    pub(crate) fn records(&self, size: u64) -> Result<PathBuf> {
        self.made(&format!("data-records-{}m.db", size >> 20), |path| {
            records::create(path, size, 1).map_err(Error::from)
        })
    }

    /// Returns a valid database of this size that is almost all holes.
    pub(crate) fn sparse(&self, size: u64) -> Result<PathBuf> {
        self.made(&format!("data-sparse-{}g.db", size >> 30), |path| {
            sparse::create(path, size, 4096).map_err(Error::from)
        })
    }

    /// Returns a copy that may be changed.
    pub(crate) fn copy(&self, of: &Path, name: &str) -> Result<PathBuf> {
        let path = self.fresh(name)?;
        // `cp` keeps holes and clones where the file system can.
        let done = Command::new("cp").arg("--sparse=auto").arg(of).arg(&path).status()?;
        if done.success() { Ok(path) } else { Err(format!("cp failed: {done}").into()) }
    }

    fn made(&self, name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        let path = self.root.join(name);
        if !path.exists() {
            eprintln!("generating {}", path.display());
            let unfinished = self.fresh("unfinished.db")?;
            make(&unfinished)?;
            settle();
            #[allow(clippy::disallowed_methods)] // of no value: it can be made again
            fs::rename(&unfinished, &path)?;
        }
        Ok(path)
    }
}

/// Waits until the disk has nothing left to do, so that no run pays for the one before.
pub(crate) fn settle() {
    if let Err(error) = Command::new("sync").status() {
        eprintln!("sync failed: {error}");
    }
}

/// Reads a file to the end, so that it is in the page cache.
pub(crate) fn warm(path: &Path) -> Result<()> {
    let mut file = fs::File::open(path)?;
    std::io::copy(&mut file, &mut std::io::sink())?;
    Ok(())
}

/// Returns the bytes of all files below a folder.
pub(crate) fn size_of(folder: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        sum += if metadata.is_dir() { size_of(&entry.path())? } else { metadata.len() };
    }
    Ok(sum)
}
