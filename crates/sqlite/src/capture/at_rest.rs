//! A database in WAL mode that nobody has open: to open it would create files beside it.
//!
//! Without a log the main file is complete. With a log but no index of it, as a crash leaves
//! behind, our own parser finds the last whole commit. SHARED is held all the while: nobody
//! can then delete a log or an index, nor write in rollback mode, so an application that
//! came meanwhile has left one behind, and is seen.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::capture::image::{self, Layout, Overlay, PlainFile};
use crate::header::{HEADER_SIZE, Header};
use crate::identify::{self, Siblings};
use crate::position::FileState;
use crate::raw::RawFile;
use crate::vfs::PageSource;
use crate::wal::{self, Scan, Until};
use crate::{Error, Result};

/// A database at rest, under SHARED.
pub(crate) struct AtRest {
    guard: RawFile,
    siblings: Siblings,
    state: FileState,
    main_header: [u8; HEADER_SIZE],
    layout: Layout,
    log: Option<Arc<Log>>,
}

/// A log without an index, and what it holds.
pub(crate) struct Log {
    file: File,
    path: PathBuf,
    scan: Scan,
}

impl AtRest {
    /// Takes over `guard`, which holds SHARED, on a database that was seen to have these siblings.
    pub(crate) fn new(guard: RawFile, siblings: Siblings) -> Result<Self> {
        let path = guard.path().to_path_buf();
        let state = FileState::of(&path)?;
        let mut main_header = [0u8; HEADER_SIZE];
        guard.read_at(0, &mut main_header)?;
        let header = Header::parse(&main_header)?;
        let log = match siblings.wal {
            Some(size) if size > 0 => open_log(&path, header.page_size)?.map(Arc::new),
            _ => None,
        };
        let pages = match &log {
            Some(log) => u64::from(log.scan.mark.page_count),
            None => header.pages_in(state.size),
        };
        let page_count = u32::try_from(pages)
            .map_err(|_| Error::Damaged { what: format!("{}: {pages} pages", path.display()) })?;
        if log.is_none() && state.size < pages * u64::from(header.page_size) {
            return Err(Error::Damaged {
                what: format!("{}: the file is shorter than its header says", path.display()),
            });
        }
        let layout = Layout { page_size: header.page_size, page_count };
        Ok(AtRest { guard, siblings, state, main_header, layout, log })
    }

    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    pub(crate) fn state(&self) -> FileState {
        self.state
    }

    pub(crate) fn main_header(&self) -> &[u8; HEADER_SIZE] {
        &self.main_header
    }

    pub(crate) fn mark(&self) -> Option<wal::Mark> {
        self.log.as_ref().map(|log| log.scan.mark)
    }

    pub(crate) fn header(&self) -> Result<Header> {
        let mut bytes = [0u8; HEADER_SIZE];
        self.read(0, &mut bytes)?;
        Header::parse(&bytes)
    }

    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        fill(&self.guard, self.log.as_deref(), self.layout, offset, buffer)
    }

    /// Returns a second view of the same files, for another thread.
    pub(crate) fn view(&self) -> Result<FileView> {
        FileView::open(self.guard.path(), self.layout, self.log.clone())
    }

    /// Says whether an application has opened the database meanwhile, so that a connection of ours
    /// creates nothing.
    pub(crate) fn is_opened(&self) -> Result<bool> {
        Siblings::of(self.guard.path()).map(|now| now.wal.is_some() && now.shm)
    }

    /// Looks at the files anew, under the same SHARED.
    pub(crate) fn again(self) -> Result<Self> {
        let siblings = Siblings::of(self.guard.path())?;
        AtRest::new(self.guard, siblings)
    }

    /// Says whether what was read is still the database: nobody opened it meanwhile.
    pub(crate) fn is_still_at_rest(&self) -> Result<bool> {
        let siblings = Siblings::of(self.guard.path())?;
        Ok(siblings == self.siblings && FileState::of(self.guard.path())? == self.state)
    }
}

/// The files as they are, without a lock: only worth something if it turns out later that
/// nothing was written to them meanwhile.
pub(crate) struct FileView {
    file: Mutex<RawFile>,
    layout: Layout,
    log: Option<Arc<Log>>,
}

impl FileView {
    pub(crate) fn open(path: &Path, layout: Layout, log: Option<Arc<Log>>) -> Result<Self> {
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

fn fill(main: &RawFile, log: Option<&Log>, layout: Layout, offset: u64, buffer: &mut [u8]) -> Result<()> {
    let Some(log) = log else { return image::fill(layout, &main.file(), None, offset, buffer) };
    let file = PlainFile { file: &log.file, path: &log.path };
    let overlay = Overlay { map: &log.scan.map, log: &file };
    image::fill(layout, &main.file(), Some(&overlay), offset, buffer)
}

/// Opens a log that has no index. SQLite takes no locks on logs, so a descriptor of our own is harmless.
fn open_log(path: &Path, page_size: u32) -> Result<Option<Log>> {
    let path = identify::sibling(path, "-wal");
    let file = File::open(&path).map_err(|error| Error::io("open", &path, error))?;
    let plain = PlainFile { file: &file, path: &path };
    let mut read = |offset: u64, buffer: &mut [u8]| plain.read_some(offset, buffer);
    let scan = wal::scan(&mut read, page_size, Until::LastCommit)?;
    Ok(scan.map(|scan| Log { file, path, scan }))
}
