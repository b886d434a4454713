//! Just enough of the b-tree page format to find the payload bytes of a leaf page.
//!
//! Source: the SQLite file format description, sections "B-tree Pages" and "Record
//! Format". Only for databases that were generated here: no input is hostile.

use std::ops::Range;

const TABLE_LEAF: u8 = 0x0d;

/// Returns the value bytes of the last column of every row on a table leaf page that has
/// neither overflow nor a short last column; empty for all other pages.
///
/// `is_first` says that the page is the first of the file, whose b-tree follows a header.
pub fn last_columns(page: &[u8], is_first: bool) -> Vec<Range<usize>> {
    let start = if is_first { 100 } else { 0 };
    if page[start] != TABLE_LEAF {
        return Vec::new();
    }
    let cells = usize::from(be16(page, start + 3));
    (0..cells).filter_map(|cell| last_column(page, usize::from(be16(page, start + 8 + 2 * cell)))).collect()
}

fn last_column(page: &[u8], cell: usize) -> Option<Range<usize>> {
    let mut at = cell;
    let payload = varint(page, &mut at)? as usize;
    // More would spill onto overflow pages.
    if payload > page.len() - 35 {
        return None;
    }
    varint(page, &mut at)?; // the rowid
    let record = at;
    let header_end = record + varint(page, &mut at)? as usize;
    let mut last = 0;
    while at < header_end {
        last = varint(page, &mut at)?;
    }
    // Serial types of 12 and more are blobs (even) and texts (odd) with their length.
    let length = usize::try_from(last.checked_sub(12)? / 2).ok()?;
    let end = record + payload;
    (length > 0).then(|| end - length..end)
}

fn be16(page: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([page[at], page[at + 1]])
}

fn varint(page: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for position in 0..9 {
        let byte = *page.get(*at)?;
        *at += 1;
        if position == 8 {
            return Some(value << 8 | u64::from(byte));
        }
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}
