//! Row counts of all tables from the pages of an image as they stream by.
//!
//! No second read is needed: a table's rows are the cells of its leaf pages, and which leaves belong to
//! it say the interior pages, about one in a hundred. Pages may come in any order, and a page that comes
//! again replaces what was known of it, so the second pass of a two-pass capture is just fed as well.
//!
//! What is kept: two bytes a b-tree page in blocks that exist only where there is such a page, and the
//! children of interior pages, packed; no more than eight bytes a page. Pages on the free list and
//! overflow pages may look like b-tree pages; only what the roots reach is counted. A tree that is not
//! sound gives an error, never a number.

use crate::header;
use crate::inspect::{TableRoot, TableRows};
use crate::page::{self, Kind};
use crate::{Error, Result};

/// Pages in one block of slots.
const BLOCK: usize = 1024;

/// SQLite itself follows no tree deeper than this.
const DEEPEST: u8 = 20;

/// Two bits of kind, fourteen of the number of cells; zero is "no b-tree page seen here".
type Slot = u16;
const CELLS: Slot = 0x3fff;
const TABLE_LEAF: Slot = 0x4000;
const INDEX_LEAF: Slot = 0x8000;
const INTERIOR: Slot = 0xc000;

/// Counts the rows of all tables of one image.
pub struct RowCounter {
    page_size: usize,
    usable: usize,
    blocks: Vec<Option<Box<[Slot; BLOCK]>>>,
    interiors: Interiors,
    /// Pages given so far, which bounds what their interior pages may take.
    fed: u64,
    /// Whether page 1, as it was given last, says that pages are cut in another way.
    cut_otherwise: bool,
    unusable: Option<&'static str>,
}

impl RowCounter {
    /// Begins a count; both numbers are in the database header.
    pub fn new(page_size: u32, reserved: u8) -> Self {
        let page_size = page_size as usize;
        Self {
            page_size,
            usable: page_size.saturating_sub(usize::from(reserved)),
            blocks: Vec::new(),
            interiors: Interiors::default(),
            fed: 0,
            cut_otherwise: false,
            unusable: None,
        }
    }

    /// Takes note of the pages in `bytes`, which lie at `offset` of the image.
    ///
    /// Both are multiples of the page size; the order of calls does not matter.
    pub fn feed(&mut self, offset: u64, bytes: &[u8]) {
        if self.usable < 480 || !offset.is_multiple_of(self.page_size as u64) {
            self.unusable = Some("pages were not given as whole pages");
            return;
        }
        let pages = bytes.chunks_exact(self.page_size);
        if !pages.remainder().is_empty() {
            self.unusable = Some("the image does not end with a whole page");
        }
        let first = offset / self.page_size as u64;
        self.fed += pages.len() as u64;
        for (index, page) in (first..).zip(pages) {
            let Ok(index) = usize::try_from(index) else { return };
            self.feed_page(index, page);
        }
    }

    /// Returns the rows of each of `tables`, whose roots the schema of this very image names.
    ///
    /// Fails when a tree that belongs to one of them is not whole and sound in the pages given: when the
    /// image is damaged, or was not given completely. One kind of damage is left to the integrity check:
    /// a pointer that leads to a sound leaf of the same kind which is in no table, an index's or a freed one.
    pub fn rows(&self, tables: &[TableRoot]) -> Result<Vec<TableRows>> {
        if let Some(reason) = self.unusable {
            return Err(damaged(reason.to_string()));
        }
        if self.cut_otherwise {
            return Err(damaged("the size of the pages changed while they were counted".to_string()));
        }
        let mut walk = Walk {
            counter: self,
            children: self.interiors.index(),
            seen: vec![0; (self.blocks.len() * BLOCK).div_ceil(64)],
        };
        // The schema's own pages belong to no other table.
        walk.count(1).map_err(|problem| damaged(format!("schema: {problem}")))?;
        let count = |table: &TableRoot| {
            let rows = walk
                .count(table.root)
                .map_err(|problem| damaged(format!("table {}: {problem}", table.name)))?;
            Ok(TableRows { name: table.name.clone(), rows })
        };
        tables.iter().map(count).collect()
    }

    /// Returns the bytes of memory that the count takes now.
    pub fn memory(&self) -> usize {
        let blocks = self.blocks.iter().flatten().count() * size_of::<[Slot; BLOCK]>();
        blocks + self.blocks.capacity() * size_of::<usize>() + self.interiors.packed.capacity()
    }

    fn feed_page(&mut self, index: usize, bytes: &[u8]) {
        let first = index == 0;
        if first {
            // VACUUM may change it between two passes.
            let reserved = self.page_size - self.usable;
            self.cut_otherwise = header::page_size_from(header::be16(bytes, 16)) as usize != self.page_size
                || usize::from(bytes[20]) != reserved;
        }
        let kind = bytes[if first { header::HEADER_SIZE } else { 0 }];
        let page = if Kind::of(kind).is_some() { page::parse(bytes, self.usable, first) } else { None };
        let Some(page) = page else {
            self.set(index, 0);
            return;
        };
        let slot = match page.kind {
            Kind::TableLeaf => TABLE_LEAF | page.cells,
            Kind::IndexLeaf => INDEX_LEAF | page.cells,
            Kind::TableInterior | Kind::IndexInterior => INTERIOR,
        };
        self.set(index, slot);
        if slot == INTERIOR {
            self.interiors.push(index as u64 + 1, &page);
            // Every page of a sound database has one parent, and stale interior pages on the free list
            // once were sound. An image made to waste memory is not counted.
            if self.interiors.packed.len() as u64 > 6 * self.fed + 65536 {
                self.unusable = Some("there are more interior pages than a database has");
                self.interiors = Interiors::default();
            }
        }
    }

    fn set(&mut self, index: usize, slot: Slot) {
        let (block, at) = (index / BLOCK, index % BLOCK);
        if slot == 0 {
            if let Some(Some(block)) = self.blocks.get_mut(block) {
                block[at] = 0;
            }
            return;
        }
        if block >= self.blocks.len() {
            self.blocks.resize_with(block + 1, || None);
        }
        self.blocks[block].get_or_insert_with(|| Box::new([0; BLOCK]))[at] = slot;
    }

    fn slot(&self, page: u32) -> Option<Slot> {
        let index = (page as usize).checked_sub(1)?;
        let slot = self.blocks.get(index / BLOCK)?.as_ref()?[index % BLOCK];
        (slot != 0).then_some(slot)
    }
}

/// The interior pages, packed one after the other: number, kind, cells, then the children as
/// differences from their neighbour before.
#[derive(Default)]
struct Interiors {
    packed: Vec<u8>,
}

/// An interior page, unpacked.
struct Interior {
    is_table: bool,
    cells: u16,
    children: Vec<u32>,
}

impl Interiors {
    fn push(&mut self, number: u64, page: &page::Page<'_>) {
        if self.packed.capacity() - self.packed.len() < 64 {
            // Grown by an eighth: doubling would cost as much again as the content.
            self.packed.reserve_exact((self.packed.len() / 8).max(4096));
        }
        put(&mut self.packed, number);
        put(&mut self.packed, u64::from(page.cells) << 1 | u64::from(page.kind.is_table()));
        let mut before = i64::try_from(number).unwrap_or(0);
        for child in page.children() {
            let difference = i64::from(child) - before;
            put(&mut self.packed, ((difference << 1) ^ (difference >> 63)).cast_unsigned());
            before = i64::from(child);
        }
    }

    /// Returns where each page lies, the newest only, ordered by number.
    fn index(&self) -> Vec<(u64, usize)> {
        let mut index = Vec::new();
        let mut at = 0;
        while at < self.packed.len() {
            let start = at;
            let number = get(&self.packed, &mut at);
            let children = (get(&self.packed, &mut at) >> 1) + 1;
            for _ in 0..children {
                get(&self.packed, &mut at);
            }
            index.push((number, start));
        }
        // Stable, so that of the same number the last one is the newest.
        index.sort_by_key(|&(number, _)| std::cmp::Reverse(number));
        index.reverse();
        index.dedup_by_key(|&mut (number, _)| number);
        index
    }

    fn unpack(&self, mut at: usize) -> Interior {
        let mut before = get(&self.packed, &mut at).cast_signed();
        let head = get(&self.packed, &mut at);
        let cells = u16::try_from(head >> 1).unwrap_or(u16::MAX);
        let children = (0..=cells)
            .map(|_| {
                let packed = get(&self.packed, &mut at);
                before += (packed >> 1).cast_signed() ^ -((packed & 1).cast_signed());
                u32::try_from(before).unwrap_or(0)
            })
            .collect();
        Interior { is_table: head & 1 == 1, cells, children }
    }
}

fn put(packed: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        packed.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    packed.push(value.to_le_bytes()[0]);
}

fn get(packed: &[u8], at: &mut usize) -> u64 {
    let mut value = 0;
    let mut shift = 0;
    while let Some(&byte) = packed.get(*at) {
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    value
}

/// One walk through all tables; no page may be met twice.
struct Walk<'c> {
    counter: &'c RowCounter,
    children: Vec<(u64, usize)>,
    seen: Vec<u64>,
}

impl Walk<'_> {
    fn count(&mut self, root: u32) -> Result<u64, String> {
        let mut rows = 0u64;
        let mut is_table = None;
        let mut leaves_at = None;
        let mut open = vec![(root, 0u8)];
        while let Some((page, depth)) = open.pop() {
            let slot = self
                .counter
                .slot(page)
                .ok_or_else(|| format!("page {page} is not a sound page of its tree"))?;
            self.mark(page)?;
            let (page_is_table, cells) = match slot & !CELLS {
                TABLE_LEAF => (true, slot & CELLS),
                INDEX_LEAF => (false, slot & CELLS),
                _ => {
                    let interior = self.interior(page)?;
                    if depth >= DEEPEST {
                        return Err(format!("page {page} lies deeper than a tree grows"));
                    }
                    open.extend(interior.children.iter().map(|&child| (child, depth + 1)));
                    // Interior cells of a table WITHOUT ROWID are rows; those of others only point.
                    (interior.is_table, if interior.is_table { 0 } else { interior.cells })
                }
            };
            if *is_table.get_or_insert(page_is_table) != page_is_table {
                return Err(format!("page {page} is of another kind than the root of its tree"));
            }
            if slot & !CELLS != INTERIOR && *leaves_at.get_or_insert(depth) != depth {
                return Err(format!("leaf page {page} lies at another depth than the others"));
            }
            rows += u64::from(cells);
        }
        Ok(rows)
    }

    fn interior(&self, page: u32) -> Result<Interior, String> {
        let found = self.children.binary_search_by_key(&u64::from(page), |&(number, _)| number);
        let at = found.map_err(|_| format!("the children of page {page} are not known"))?;
        Ok(self.counter.interiors.unpack(self.children[at].1))
    }

    fn mark(&mut self, page: u32) -> Result<(), String> {
        let (word, bit) = (page as usize / 64, 1u64 << (page % 64));
        if word >= self.seen.len() {
            self.seen.resize(word + 1, 0);
        }
        if self.seen[word] & bit != 0 {
            return Err(format!("page {page} is used twice"));
        }
        self.seen[word] |= bit;
        Ok(())
    }
}

fn damaged(what: String) -> Error {
    Error::Damaged { what }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::header::Header;
    use crate::inspect::{count_rows, tables};
    use crate::vfs::open_image;
    use crate::zoo;

    fn header(image: &[u8]) -> Header {
        Header::parse(image[..100].try_into().unwrap()).unwrap()
    }

    fn counter(image: &[u8]) -> RowCounter {
        let header = header(image);
        RowCounter::new(header.page_size, header.reserved)
    }

    /// Feeds in pieces of `piece` bytes in an order that `seed` decides.
    fn fed(image: &[u8], piece: usize, seed: u64) -> RowCounter {
        let mut counter = counter(image);
        let mut pieces: Vec<_> = image.chunks(piece).enumerate().collect();
        pieces.sort_by_key(|(at, _)| blake3::hash(&(seed ^ *at as u64).to_le_bytes()).as_bytes().to_owned());
        if seed == 0 {
            pieces.sort_by_key(|(at, _)| *at);
        }
        for (at, bytes) in pieces {
            counter.feed((at * piece) as u64, bytes);
        }
        counter
    }

    fn roots(image: &[u8]) -> Vec<TableRoot> {
        tables(&open_image(Arc::new(image.to_vec())).unwrap()).unwrap()
    }

    #[test]
    fn pages_of_another_size_are_not_counted() {
        let of_size = |size: u32| {
            zoo::image(&format!(
                "PRAGMA page_size={size}; CREATE TABLE t(a); INSERT INTO t SELECT value FROM generate(50)"
            ))
        };
        let (small, large) = (of_size(1024), of_size(4096));
        let mut counter = counter(&large);
        counter.feed(0, &large);
        counter.feed(0, &[&small[..], &vec![0; small.len().next_multiple_of(4096) - small.len()]].concat());
        let error = counter.rows(&roots(&small)).unwrap_err();
        assert!(error.to_string().contains("the size of the pages changed"), "{error}");
        counter.feed(0, &large);
        assert_eq!(counter.rows(&roots(&large)).unwrap()[0].rows, 50);
    }

    #[test]
    fn counts_equal_those_of_sql_in_any_order_for_the_whole_zoo() {
        for animal in zoo::all() {
            let connection = open_image(Arc::new(animal.image.clone())).unwrap();
            let (roots, expected) = (tables(&connection).unwrap(), count_rows(&connection).unwrap());
            for seed in 0..3 {
                let counter = fed(&animal.image, 65536, seed);
                assert_eq!(counter.rows(&roots).unwrap(), expected, "{}", animal.name);
            }
            let by_page = fed(&animal.image, animal.page_size as usize, 5);
            assert_eq!(by_page.rows(&roots).unwrap(), expected, "{}, page by page", animal.name);
        }
    }

    #[test]
    fn counts_hold_in_a_database_with_hundreds_of_tables() {
        let mut sql = String::from("PRAGMA page_size=1024;");
        for table in 0..700 {
            sql += &format!(
                "CREATE TABLE \"a table with quite a long name, number {table}\"(a, b, c UNIQUE);
                 INSERT INTO \"a table with quite a long name, number {table}\" VALUES(1,2,3),(2,3,4);"
            );
        }
        let image = zoo::image(&sql);
        let connection = open_image(Arc::new(image.clone())).unwrap();
        let expected = count_rows(&connection).unwrap();
        assert_eq!(expected.len(), 700);
        assert_eq!(fed(&image, 65536, 1).rows(&roots(&image)).unwrap(), expected);
    }

    #[test]
    fn page_fed_again_replaces_what_was_known() {
        let before =
            zoo::image("CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 300) FROM generate(2000)");
        let after = zoo::image(
            "CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 300) FROM generate(2000);
             DELETE FROM t WHERE rowid % 7; CREATE TABLE u(a); INSERT INTO u SELECT a FROM t",
        );
        let mut counter = fed(&before, 65536, 3);
        for (at, bytes) in after.chunks(4096).enumerate() {
            counter.feed(at as u64 * 4096, bytes);
        }
        let expected = count_rows(&open_image(Arc::new(after.clone())).unwrap()).unwrap();
        assert_eq!(counter.rows(&roots(&after)).unwrap(), expected);
    }

    #[test]
    fn page_that_was_not_seen_is_an_error() {
        let image =
            zoo::image("CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 300) FROM generate(2000)");
        for missing in [1, 20, image.len() / 4096 - 1] {
            let mut counter = counter(&image);
            for (at, bytes) in image.chunks(4096).enumerate().filter(|(at, _)| *at != missing) {
                counter.feed(at as u64 * 4096, bytes);
            }
            assert!(counter.rows(&roots(&image)).unwrap_err().is_damage());
        }
    }

    #[test]
    fn two_tables_on_one_root_are_an_error() {
        let image = zoo::image("CREATE TABLE t(a)");
        let counter = fed(&image, 4096, 0);
        let root = |name: &str| TableRoot { name: name.into(), root: 2 };
        assert_eq!(counter.rows(&[root("t")]).unwrap()[0].rows, 0);
        let error = counter.rows(&[root("t"), root("u")]).unwrap_err();
        assert_eq!(error.to_string(), "damaged database: table u: page 2 is used twice");
    }

    #[test]
    fn ring_of_pages_ends_with_an_error() {
        let image =
            zoo::image("CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 1000) FROM generate(500)");
        let root = roots(&image)[0].root;
        let mut hostile = image;
        let start = (root as usize - 1) * 4096;
        // The rightmost child of the root becomes the root itself.
        hostile[start + 8..start + 12].copy_from_slice(&root.to_be_bytes());
        let counter = fed(&hostile, 65536, 0);
        let error = counter.rows(&[TableRoot { name: "t".into(), root }]).unwrap_err();
        assert!(error.to_string().ends_with("page 2 is used twice"), "{error}");
    }

    #[test]
    fn roots_outside_the_image_are_errors() {
        let counter = fed(&zoo::image("CREATE TABLE t(a)"), 4096, 0);
        for root in [0, 3, 1_000_000, u32::MAX] {
            counter.rows(&[TableRoot { name: "t".into(), root }]).unwrap_err();
        }
    }

    #[test]
    fn ragged_image_is_an_error() {
        let mut image = zoo::image("CREATE TABLE t(a)");
        image.extend([0; 100]);
        fed(&image, 65536, 0).rows(&[]).unwrap_err();
    }

    #[test]
    fn sparse_image_takes_nearly_no_memory() {
        let image = zoo::image("CREATE TABLE t(a); INSERT INTO t VALUES(1)");
        let mut counter = counter(&image);
        counter.feed(0, &image);
        let zeros = vec![0; 1 << 20];
        for at in 1..20 * 1024u64 {
            counter.feed(at << 20, &zeros);
        }
        assert_eq!(counter.rows(&roots(&image)).unwrap()[0].rows, 1);
        assert!(counter.memory() < 100_000, "{}", counter.memory());
        // The last page of the 20 GiB is used: still only its block.
        counter.feed((20 << 30) - 4096, &image[4096..8192]);
        assert!(counter.memory() < 200_000, "{}", counter.memory());
    }

    #[test]
    fn count_takes_at_most_eight_bytes_a_page() {
        for animal in zoo::all() {
            let pages = animal.image.len() / animal.page_size as usize;
            let memory = fed(&animal.image, 65536, 0).memory();
            // One block and one step of the packed list are the least there can be.
            assert!(memory <= 8 * pages + 2 * BLOCK + 4096 + 64, "{}: {memory} for {pages}", animal.name);
        }
    }

    #[test]
    fn image_made_of_interior_pages_is_refused_in_bounded_memory() {
        // 80 cells a page, each pointing far away from its neighbour.
        let mut page = vec![0u8; 512];
        page[0] = 5;
        page[3..5].copy_from_slice(&70u16.to_be_bytes());
        page[5..7].copy_from_slice(&(512 - 70 * 5u16).to_be_bytes());
        for cell in 0..70usize {
            let at = 512 - (cell + 1) * 5;
            page[12 + 2 * cell..14 + 2 * cell].copy_from_slice(&u16::try_from(at).unwrap().to_be_bytes());
            let child = if cell % 2 == 0 { 1 } else { u32::MAX };
            page[at..at + 4].copy_from_slice(&child.to_be_bytes());
        }
        assert!(page::parse(&page, 512, false).is_some());
        let mut counter = RowCounter::new(512, 0);
        for at in 1..20_000u64 {
            counter.feed(at * 512, &page);
        }
        assert!(counter.memory() < 1 << 20, "{}", counter.memory());
        counter.rows(&[TableRoot { name: "t".into(), root: 2 }]).unwrap_err();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// The point of it all: damage leads to an error or leaves the number right.
        #[test]
        fn damaged_page_never_gives_a_wrong_count(
            at in 4096usize..80_000, value: u8, at2 in 0usize..12, value2: u8, page in 1usize..18,
        ) {
            static IMAGE: std::sync::OnceLock<(Vec<u8>, Vec<TableRoot>)> = std::sync::OnceLock::new();
            let (image, roots) = IMAGE.get_or_init(|| {
                let image = zoo::image(
                    "CREATE TABLE t(a); INSERT INTO t SELECT noise(value, 60) FROM generate(600);
                     CREATE TABLE w(k PRIMARY KEY) WITHOUT ROWID; INSERT INTO w SELECT noise(value, 60) FROM generate(400)",
                );
                let roots = roots(&image);
                (image, roots)
            });
            let mut damaged = image.clone();
            let len = damaged.len();
            damaged[at % len] = value;
            damaged[page * 4096 % len + at2] = value2;
            if let Ok(rows) = fed(&damaged, 65536, 0).rows(roots) {
                prop_assert_eq!(rows.iter().map(|table| table.rows).collect::<Vec<_>>(), [600, 400]);
            }
        }
    }
}
