//! A database in WAL mode that nobody has open: to open it would create files beside it.
//!
//! Without a log the main file is complete. With a log but no index of it, as a crash leaves
//! behind, our own parser finds the last whole commit. SHARED is held all the while: nobody
//! can then delete a log or an index, nor write in rollback mode, so an application that
//! came meanwhile has left one behind, and is seen.

use std::path::Path;
use std::sync::Arc;

use crate::capture::image::Layout;
use crate::capture::view::{self, FileView, LogPages};
use crate::header::{HEADER_SIZE, Header};
use crate::identify::Siblings;
use crate::position::FileState;
use crate::raw::RawFile;
use crate::wal::{self, Mark, Until};
use crate::{Error, Result};

/// A database at rest, under SHARED.
pub(crate) struct AtRest {
    guard: RawFile,
    siblings: Siblings,
    state: FileState,
    main_header: [u8; HEADER_SIZE],
    layout: Layout,
    /// A log without an index, and up to where it counts.
    log: Option<(Arc<LogPages>, Mark)>,
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
            Some(size) if size > 0 => read_log(&path, header.page_size)?,
            _ => None,
        };
        let pages = match &log {
            Some((_, mark)) => u64::from(mark.page_count),
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

    pub(crate) fn mark(&self) -> Option<Mark> {
        self.log.as_ref().map(|(_, mark)| *mark)
    }

    pub(crate) fn header(&self) -> Result<Header> {
        let mut bytes = [0u8; HEADER_SIZE];
        self.read(0, &mut bytes)?;
        Header::parse(&bytes)
    }

    pub(crate) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        view::fill(&self.guard, self.pages().map(Arc::as_ref), self.layout, offset, buffer)
    }

    /// Returns a second view of the same files, for another thread.
    pub(crate) fn view(&self) -> Result<FileView> {
        FileView::open(self.guard.path(), self.layout, self.pages().cloned())
    }

    fn pages(&self) -> Option<&Arc<LogPages>> {
        self.log.as_ref().map(|(pages, _)| pages)
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

/// Reads a log that has no index up to its last whole commit.
fn read_log(path: &Path, page_size: u32) -> Result<Option<(Arc<LogPages>, Mark)>> {
    let mut mark = None;
    let pages = LogPages::open(path, |log| {
        let mut read = |offset: u64, buffer: &mut [u8]| log.read_some(offset, buffer);
        let scan = wal::scan(&mut read, page_size, Until::LastCommit)?;
        mark = scan.as_ref().map(|scan| scan.mark);
        Ok(scan.map(|scan| Arc::new(scan.map)))
    })?;
    Ok(pages.map(Arc::new).zip(mark))
}
