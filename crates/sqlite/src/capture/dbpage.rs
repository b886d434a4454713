//! Reading pages through SQLite's own `sqlite_dbpage` table: slower, and right whatever the
//! files below are like.

use rusqlite::Connection;

use crate::capture::image::Layout;
use crate::header::{HEADER_SIZE, lock_page};
use crate::{Error, Result};

const PAGE: &str = "SELECT data FROM sqlite_dbpage('main') WHERE pgno = ?1";

/// Returns the header as SQLite sees it; `None` where it cannot say.
pub(crate) fn first_page(connection: &Connection) -> Option<[u8; HEADER_SIZE]> {
    let page: Vec<u8> = connection.prepare(PAGE).ok()?.query_row([1], |row| row.get(0)).ok()?;
    page.first_chunk().copied()
}

/// Fills `buffer` with the image's bytes from `offset` on, within the open transaction.
pub(crate) fn read(
    connection: &Connection,
    path: &std::path::Path,
    layout: Layout,
    offset: u64,
    buffer: &mut [u8],
) -> Result<()> {
    let failed = |error| Error::sqlite(path, error);
    let mut statement = connection.prepare(PAGE).map_err(failed)?;
    let page_size = u64::from(layout.page_size);
    let mut filled = 0usize;
    while filled < buffer.len() {
        let at = offset + filled as u64;
        let number = at / page_size + 1;
        let skip = usize::try_from(at % page_size).expect("a page has at most 65536 bytes");
        let room = &mut buffer[filled..];
        let count = room.len().min(layout.page_size as usize - skip);
        if number == u64::from(lock_page(layout.page_size)) {
            room[..count].fill(0);
        } else {
            copy_page(&mut statement, path, number, skip, &mut room[..count])?;
        }
        filled += count;
    }
    Ok(())
}

fn copy_page(
    statement: &mut rusqlite::Statement<'_>,
    path: &std::path::Path,
    number: u64,
    skip: usize,
    target: &mut [u8],
) -> Result<()> {
    let failed = |error| Error::sqlite(path, error);
    let number = i64::try_from(number).expect("page numbers have 32 bits");
    let mut rows = statement.query([number]).map_err(failed)?;
    let bytes = match rows.next().map_err(failed)? {
        Some(row) => row.get_ref(0).map_err(failed)?.as_blob().unwrap_or_default(),
        None => &[],
    };
    let wanted = bytes
        .get(skip..skip + target.len())
        .ok_or_else(|| Error::Damaged { what: format!("{}: page {number} is missing", path.display()) })?;
    target.copy_from_slice(wanted);
    Ok(())
}
