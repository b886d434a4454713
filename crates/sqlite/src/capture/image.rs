//! The canonical image: pages 1 to the last, the lock page zero, nothing after.
//!
//! It is what the main file would be after a complete checkpoint.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::header::lock_page;
use crate::raw::VfsFile;
use crate::wal::{FRAME_HEADER_SIZE, PageMap, WAL_HEADER_SIZE};
use crate::{Error, Result};

/// Pages and their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) page_size: u32,
    pub(crate) page_count: u32,
}

impl Layout {
    /// Returns the size of the image in bytes.
    pub(crate) fn size(self) -> u64 {
        u64::from(self.page_size) * u64::from(self.page_count)
    }
}

/// Bytes that can be read at any place; those that are not there are zero.
pub(crate) trait Bytes {
    /// Fills `buffer` from `offset`.
    fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;
}

impl Bytes for VfsFile<'_> {
    fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.read(offset, buffer).map(|_whole| ())
    }
}

/// A file of ours or a log: never a live database (see `raw`).
pub(crate) struct PlainFile<'a> {
    pub(crate) file: &'a File,
    pub(crate) path: &'a Path,
}

/// Opens what lies beside a database: a log or a journal.
///
/// SQLite takes no locks on them, so a descriptor of our own does no harm to those of anybody. A link is not followed,
/// as SQLite does not, and what is no plain file is not waited for.
pub(crate) fn open_beside(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = File::options().read(true).custom_flags(flags.bits().cast_signed()).open(path)?;
    if file.metadata()?.is_file() {
        return Ok(file);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a plain file"))
}

/// Opens a file beside a database as [`open_beside`] does; `None` where there is none any more.
pub(crate) fn open_beside_if_there(path: &Path) -> Result<Option<File>> {
    match open_beside(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io("open", path, error)),
    }
}

impl PlainFile<'_> {
    /// Fills `buffer` from `offset` and returns how many bytes there were.
    pub(crate) fn read_some(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.file.read_at(&mut buffer[filled..], offset + filled as u64) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", self.path, error)),
            }
        }
        Ok(filled)
    }
}

impl Bytes for PlainFile<'_> {
    fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let filled = self.read_some(offset, buffer)?;
        buffer[filled..].fill(0);
        Ok(())
    }
}

/// A log that lies over the main file.
pub(crate) struct Overlay<'a> {
    pub(crate) map: &'a PageMap,
    pub(crate) log: &'a dyn Bytes,
}

/// Fills `buffer` with the image's bytes from `offset` on; all of them lie within the image.
pub(crate) fn fill(
    layout: Layout,
    main: &dyn Bytes,
    overlay: Option<&Overlay<'_>>,
    offset: u64,
    buffer: &mut [u8],
) -> Result<()> {
    main.fill(offset, buffer)?;
    let page_size = u64::from(layout.page_size);
    let end = offset + buffer.len() as u64;
    if let Some((from, to, _)) = part(page_size, u64::from(lock_page(layout.page_size)), offset, end) {
        buffer[from..to].fill(0);
    }
    let Some(overlay) = overlay else { return Ok(()) };
    let number = |offset: u64| u32::try_from(offset / page_size + 1).unwrap_or(u32::MAX);
    for &(page, frame) in overlay.map.between(number(offset), number(end.saturating_sub(1))) {
        if let Some((from, to, skipped)) = part(page_size, u64::from(page), offset, end) {
            let frame_at = WAL_HEADER_SIZE + (u64::from(frame) - 1) * (FRAME_HEADER_SIZE + page_size);
            overlay.log.fill(frame_at + FRAME_HEADER_SIZE + skipped, &mut buffer[from..to])?;
        }
    }
    Ok(())
}

/// Returns which part of a buffer for `offset..end` a page fills, and how many bytes of the
/// page lie before it.
fn part(page_size: u64, page: u64, offset: u64, end: u64) -> Option<(usize, usize, u64)> {
    let (page_start, page_end) = ((page - 1) * page_size, page * page_size);
    let (from, to) = (page_start.max(offset), page_end.min(end));
    let in_buffer = |place: u64| usize::try_from(place - offset).ok();
    (from < to).then(|| Some((in_buffer(from)?, in_buffer(to)?, from - page_start)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_beside_that_was_taken_away_is_none_and_other_troubles_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db-journal");
        assert!(open_beside_if_there(&path).unwrap().is_none());
        std::fs::create_dir(&path).unwrap();
        assert!(open_beside_if_there(&path).is_err());
        std::fs::remove_dir(&path).unwrap();
        std::fs::write(&path, "undo").unwrap();
        assert!(open_beside_if_there(&path).unwrap().is_some());
    }

    struct Constant(u8);

    impl Bytes for Constant {
        fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
            for (index, byte) in buffer.iter_mut().enumerate() {
                *byte = self.0.wrapping_add(u8::try_from((offset + index as u64) % 7).unwrap());
            }
            Ok(())
        }
    }

    #[test]
    fn lock_page_is_zero_whatever_the_file_holds() {
        for page_size in [512u32, 4096, 65536] {
            let layout = Layout { page_size, page_count: 0x4000_0000 / page_size + 5 };
            let mut buffer = vec![9; 3 * page_size as usize];
            let before = u64::from(0x4000_0000 - page_size);
            fill(layout, &Constant(1), None, before, &mut buffer).unwrap();
            let pages: Vec<&[u8]> = buffer.chunks(page_size as usize).collect();
            assert!(pages[0].iter().all(|&byte| byte != 0));
            assert!(pages[1].iter().all(|&byte| byte == 0));
            assert!(pages[2].iter().all(|&byte| byte != 0));
        }
    }

    #[test]
    fn reads_that_cut_pages_give_the_same_bytes() {
        let layout = Layout { page_size: 512, page_count: 8 };
        let log = {
            let mut bytes = vec![0u8; 32 + 3 * 536];
            let mut write = |frame: usize, page: u32, commit: u32| {
                let at = 32 + (frame - 1) * 536;
                bytes[at..at + 4].copy_from_slice(&page.to_be_bytes());
                bytes[at + 4..at + 8].copy_from_slice(&commit.to_be_bytes());
                for (index, byte) in bytes[at + 24..at + 536].iter_mut().enumerate() {
                    *byte = u8::try_from(100 + frame * 30 + index % 20).unwrap();
                }
            };
            write(1, 2, 0);
            write(2, 5, 0);
            write(3, 2, 8);
            bytes
        };
        struct Slice<'a>(&'a [u8]);
        impl Bytes for Slice<'_> {
            fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
                let at = usize::try_from(offset).unwrap();
                buffer.copy_from_slice(&self.0[at..at + buffer.len()]);
                Ok(())
            }
        }
        let map = PageMap::from_frames([(2, 1), (5, 2), (2, 3)]);
        let log = Slice(&log);
        let overlay = Overlay { map: &map, log: &log };
        let mut whole = vec![0; 4096];
        fill(layout, &Constant(1), Some(&overlay), 0, &mut whole).unwrap();
        assert_eq!(whole[512], 190);
        assert_eq!(whole[4 * 512], 160);
        assert_eq!(whole[0], 1);
        for step in [1usize, 100, 511, 513, 1500] {
            let mut parts = vec![0; 4096];
            for (index, buffer) in parts.chunks_mut(step).enumerate() {
                fill(layout, &Constant(1), Some(&overlay), (index * step) as u64, buffer).unwrap();
            }
            assert_eq!(parts, whole);
        }
    }
}
