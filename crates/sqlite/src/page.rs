//! One page of a b-tree (<https://www.sqlite.org/fileformat2.html#b_tree_pages>): which kind it is, how
//! many cells it has, and which pages it points to.
//!
//! Bytes only; nothing is trusted. Every byte of a page belongs to exactly one of header, cell
//! pointers, gap, cells, free blocks and fragments; [`parse`] accounts for all of them, so that a
//! damaged count of cells does not pass for a true one.

use crate::header::{HEADER_SIZE, be16, be32};

/// The kind of a b-tree page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Rows of a table with rowids.
    TableLeaf,
    /// Ways to leaves of a table with rowids; its cells are no rows.
    TableInterior,
    /// Entries of an index, or rows of a table WITHOUT ROWID.
    IndexLeaf,
    /// Entries of an index, or rows of a table WITHOUT ROWID, and ways to more.
    IndexInterior,
}

impl Kind {
    /// Returns the kind that the first byte of a page's header means.
    pub fn of(byte: u8) -> Option<Self> {
        match byte {
            0x02 => Some(Kind::IndexInterior),
            0x05 => Some(Kind::TableInterior),
            0x0a => Some(Kind::IndexLeaf),
            0x0d => Some(Kind::TableLeaf),
            _ => None,
        }
    }

    /// Says whether pages of this kind point to others.
    pub fn is_interior(self) -> bool {
        matches!(self, Kind::TableInterior | Kind::IndexInterior)
    }

    /// Says whether pages of this kind belong to a table with rowids.
    pub fn is_table(self) -> bool {
        matches!(self, Kind::TableLeaf | Kind::TableInterior)
    }
}

/// What a sound b-tree page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Page<'p> {
    /// Which kind it is.
    pub kind: Kind,
    /// The number of cells.
    pub cells: u16,
    bytes: &'p [u8],
    usable: usize,
    start: usize,
}

/// A row or an entry of an index, as far as it lies in its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell<'p> {
    /// The rowid; 0 in an index or a table WITHOUT ROWID.
    pub rowid: i64,
    /// The length of the whole record.
    pub size: u64,
    /// The beginning of the record; all of it where there is no overflow.
    pub local: &'p [u8],
    /// The first of the pages that hold the rest.
    pub overflow: Option<u32>,
}

impl<'p> Page<'p> {
    /// Returns the cell at `index`, in key order. `None` where there is none, and in interior pages of a table with
    /// rowids, whose cells only point.
    pub fn cell(&self, index: u16) -> Option<Cell<'p>> {
        if index >= self.cells || self.kind == Kind::TableInterior {
            return None;
        }
        let pointers = self.start + if self.kind.is_interior() { 12 } else { 8 };
        let page = self.bytes.get(..self.usable)?;
        let cell = page.get(usize::from(be16(page, pointers + 2 * usize::from(index)))..)?;
        let cell = if self.kind.is_interior() { cell.get(4..)? } else { cell };
        let (size, length) = varint(cell)?;
        let rest = cell.get(length..)?;
        let (rowid, rest) = match self.kind {
            Kind::TableLeaf => {
                let (rowid, length) = varint(rest)?;
                (rowid.cast_signed(), rest.get(length..)?)
            }
            _ => (0, rest),
        };
        let stored = rest.get(..Locals::new(self.kind, self.usable).stored(size)?)?;
        if stored.len() as u64 == size {
            return Some(Cell { rowid, size, local: stored, overflow: None });
        }
        let (local, pointer) = stored.split_at(stored.len().checked_sub(4)?);
        Some(Cell { rowid, size, local, overflow: Some(be32(pointer, 0)) })
    }

    /// Returns this page as it is found in `bytes`, which are those that it was read from, at another place.
    pub fn moved<'q>(&self, bytes: &'q [u8]) -> Page<'q> {
        Page { kind: self.kind, cells: self.cells, bytes, usable: self.usable, start: self.start }
    }

    /// Returns the pages that an interior page points to, in key order; none for a leaf.
    pub fn children(&self) -> impl Iterator<Item = u32> {
        let pointers = self.start + 12;
        let cells = if self.kind.is_interior() { usize::from(self.cells) } else { 0 };
        let last = self.kind.is_interior().then(|| be32(self.bytes, self.start + 8));
        (0..cells)
            .map(move |cell| be32(self.bytes, usize::from(be16(self.bytes, pointers + 2 * cell))))
            .chain(last)
    }
}

/// Reads a b-tree page; `first` says that it is page 1, which begins with the database header.
///
/// Returns `None` when the bytes are not those of a sound b-tree page with `usable` usable bytes.
pub fn parse(bytes: &[u8], usable: usize, first: bool) -> Option<Page<'_>> {
    let start = if first { HEADER_SIZE } else { 0 };
    let page = bytes.get(..usable)?;
    let header = page.get(start..start + 8)?;
    let kind = Kind::of(header[0])?;
    let cells = be16(header, 3);
    let pointers = start + if kind.is_interior() { 12 } else { 8 };
    let gap = pointers + 2 * usize::from(cells);
    // 65536 does not fit into the field and is written as 0.
    let content = match be16(header, 5) {
        0 => 65536,
        content => usize::from(content),
    };
    if gap > content || content > usable {
        return None;
    }
    let cell_bytes = cell_bytes(page, kind, pointers..gap, content)?;
    let free = free_bytes(page, usize::from(be16(header, 1)), content)?;
    let fragments = usize::from(header[7]);
    (cell_bytes + free + fragments == usable - content).then_some(Page { kind, cells, bytes, usable, start })
}

/// Returns the bytes that all cells take together.
fn cell_bytes(page: &[u8], kind: Kind, pointers: std::ops::Range<usize>, content: usize) -> Option<usize> {
    let locals = Locals::new(kind, page.len());
    let mut sum = 0;
    for pointer in page[pointers].chunks_exact(2) {
        let at = usize::from(be16(pointer, 0));
        if at < content {
            return None;
        }
        let cell = page.get(at..)?;
        let size = match kind {
            Kind::TableInterior => 4 + varint(cell.get(4..)?)?.1,
            Kind::TableLeaf => {
                let (payload, length) = varint(cell)?;
                length + varint(cell.get(length..)?)?.1 + locals.stored(payload)?
            }
            Kind::IndexLeaf => {
                let (payload, length) = varint(cell)?;
                length + locals.stored(payload)?
            }
            Kind::IndexInterior => {
                let (payload, length) = varint(cell.get(4..)?)?;
                4 + length + locals.stored(payload)?
            }
        };
        // A cell takes at least four bytes, so that it can become a free block.
        let size = size.max(4);
        if size > cell.len() {
            return None;
        }
        sum += size;
    }
    Some(sum)
}

/// How much of a payload lies in the page itself; the rest is in overflow pages.
struct Locals {
    most: u64,
    least: u64,
    overflow: u64,
}

impl Locals {
    fn new(kind: Kind, usable: usize) -> Self {
        let usable = usable as u64;
        let most = if kind.is_table() { usable - 35 } else { (usable - 12) * 64 / 255 - 23 };
        Self { most, least: (usable - 12) * 32 / 255 - 23, overflow: usable - 4 }
    }

    #[inline]
    fn stored(&self, payload: u64) -> Option<usize> {
        let stored = if payload <= self.most {
            payload
        } else {
            // SQLite refuses payloads that do not fit into 31 bits.
            if payload > i32::MAX as u64 {
                return None;
            }
            let fitting = self.least + (payload - self.least) % self.overflow;
            4 + if fitting <= self.most { fitting } else { self.least }
        };
        usize::try_from(stored).ok()
    }
}

/// Returns the bytes of the chain of free blocks, which is in ascending order.
fn free_bytes(page: &[u8], first: usize, content: usize) -> Option<usize> {
    let mut sum = 0;
    let mut at = first;
    let mut end = content;
    while at != 0 {
        // Blocks neither touch nor overlap, so the chain ends.
        if at < end || at + 4 > page.len() {
            return None;
        }
        let size = usize::from(be16(page, at + 2));
        if size < 4 || at + size > page.len() {
            return None;
        }
        sum += size;
        end = at + size;
        at = usize::from(be16(page, at));
    }
    Some(sum)
}

/// Returns a variable-length integer and the number of its bytes.
#[inline]
pub fn varint(bytes: &[u8]) -> Option<(u64, usize)> {
    let &first = bytes.first()?;
    if first < 0x80 {
        return Some((u64::from(first), 1));
    }
    let mut value = u64::from(first & 0x7f);
    for length in 2..=8 {
        let byte = *bytes.get(length - 1)?;
        value = value << 7 | u64::from(byte & 0x7f);
        if byte < 0x80 {
            return Some((value, length));
        }
    }
    Some((value << 8 | u64::from(*bytes.get(8)?), 9))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::zoo;

    #[test]
    fn varints_are_read_as_the_format_says() {
        assert_eq!(varint(&[0x00]), Some((0, 1)));
        assert_eq!(varint(&[0x7f, 9]), Some((127, 1)));
        assert_eq!(varint(&[0x81, 0x00]), Some((128, 2)));
        assert_eq!(varint(&[0x82, 0x80, 0x01]), Some((0x8001, 3)));
        assert_eq!(varint(&[0xff; 9]), Some((u64::MAX, 9)));
        assert_eq!(varint(&[0xff; 8]), None);
        assert_eq!(varint(&[]), None);
    }

    #[test]
    fn root_of_every_table_in_the_zoo_is_a_sound_page() {
        for animal in zoo::all() {
            let connection = crate::vfs::open_image(std::sync::Arc::new(animal.image.clone())).unwrap();
            for table in crate::inspect::tables(&connection).unwrap() {
                let size = animal.page_size as usize;
                let start = (table.root as usize - 1) * size;
                let usable = size - usize::from(animal.image[20]);
                let page = parse(&animal.image[start..start + size], usable, table.root == 1);
                assert!(page.is_some(), "{} {}", animal.name, table.name);
            }
        }
    }

    #[test]
    fn changed_count_of_cells_is_no_sound_page() {
        let image = zoo::image("CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 20) FROM generate(50)");
        let page = &image[4096..8192];
        assert_eq!(parse(page, 4096, false).map(|page| page.cells), Some(50));
        for cells in (0..50u16).chain(51..600) {
            let mut changed = page.to_vec();
            changed[3..5].copy_from_slice(&cells.to_be_bytes());
            assert_eq!(parse(&changed, 4096, false), None, "{cells}");
        }
    }

    #[test]
    fn children_are_given_in_key_order_with_the_rightmost_last() {
        let image =
            zoo::image("CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 1000) FROM generate(10)");
        let root = parse(&image[4096..8192], 4096, false).unwrap();
        assert_eq!(root.kind, Kind::TableInterior);
        assert_eq!(root.children().collect::<Vec<_>>(), [3, 4, 5]);
        let leaf = parse(&image[8192..12288], 4096, false).unwrap();
        assert_eq!((leaf.kind, leaf.children().count()), (Kind::TableLeaf, 0));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(
            kind in prop::sample::select(vec![2u8, 5, 10, 13, 0]),
            bytes in prop::collection::vec(any::<u8>(), 480..600),
            cells in 0u16..40,
            content in 0u16..700,
            first: bool,
        ) {
            let mut bytes = bytes;
            let start = if first { 100 } else { 0 };
            bytes[start] = kind;
            bytes[start + 3..start + 5].copy_from_slice(&cells.to_be_bytes());
            bytes[start + 5..start + 7].copy_from_slice(&content.to_be_bytes());
            for usable in [480, 500, bytes.len()] {
                if let Some(page) = parse(&bytes, usable, first) {
                    let _ = page.children().count();
                }
            }
        }

        #[test]
        fn flipped_bits_of_a_real_page_never_panic(at in 0usize..512, bit in 0u8..8, at2 in 0usize..512, bit2 in 0u8..8) {
            let image = zoo_page();
            let mut page = image.to_vec();
            page[at] ^= 1 << bit;
            page[at2] ^= 1 << bit2;
            if let Some(page) = parse(&page, 512, false) {
                let _ = page.children().count();
            }
        }
    }

    fn zoo_page() -> &'static [u8] {
        static IMAGE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let image = IMAGE.get_or_init(|| {
            zoo::image(
                "PRAGMA page_size=512; CREATE TABLE t(k PRIMARY KEY) WITHOUT ROWID;
                 INSERT INTO t SELECT noise(value, 60) FROM generate(100); DELETE FROM t WHERE rowid % 5 = 0"
                    .replace("DELETE FROM t WHERE rowid % 5 = 0", "DELETE FROM t WHERE k > x'c0'")
                    .as_str(),
            )
        });
        &image[512..1024]
    }
}
