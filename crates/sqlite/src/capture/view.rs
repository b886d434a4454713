//! A second view of the files of a database, for another thread.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::capture::image::{self, Layout, Overlay, PlainFile, open_beside};
use crate::raw::RawFile;
use crate::vfs::PageSource;
use crate::wal::PageMap;
use crate::{Error, Result, identify};

/// A log, and which of its frames lie over the main file.
pub(crate) struct LogPages {
    file: File,
    path: PathBuf,
    map: Arc<PageMap>,
}

impl LogPages {
    /// Opens the log of the database at `path`, of which `scan` tells the pages that count; `None` when it tells none.
    pub(crate) fn open(
        path: &Path,
        scan: impl FnOnce(&PlainFile<'_>) -> Result<Option<Arc<PageMap>>>,
    ) -> Result<Option<Self>> {
        let path = identify::sibling(path, "-wal");
        let file = open_beside(&path).map_err(|error| Error::io("open", &path, error))?;
        let map = scan(&PlainFile { file: &file, path: &path })?;
        Ok(map.map(|map| LogPages { file, path, map }))
    }
}

/// The files as they are, with a log laid over the main file. It takes no lock: what it shows is worth something
/// while somebody else holds one, or if it turns out later that nothing was written meanwhile.
pub(crate) struct FileView {
    file: Mutex<RawFile>,
    layout: Layout,
    log: Option<Arc<LogPages>>,
}

impl FileView {
    pub(crate) fn open(path: &Path, layout: Layout, log: Option<Arc<LogPages>>) -> Result<Self> {
        Ok(FileView { file: Mutex::new(RawFile::open(path)?), layout, log })
    }
}

impl PageSource for FileView {
    fn size(&self) -> u64 {
        self.layout.size()
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        fill(&file, self.log.as_deref(), self.layout, offset, buffer).map_err(io::Error::other)
    }
}

/// Fills `buffer` with the image's bytes from `offset` on.
pub(crate) fn fill(
    main: &RawFile,
    log: Option<&LogPages>,
    layout: Layout,
    offset: u64,
    buffer: &mut [u8],
) -> Result<()> {
    let Some(log) = log else { return image::fill(layout, &main.file(), None, offset, buffer) };
    let file = PlainFile { file: &log.file, path: &log.path };
    let overlay = Overlay { map: &log.map, log: &file };
    image::fill(layout, &main.file(), Some(&overlay), offset, buffer)
}
