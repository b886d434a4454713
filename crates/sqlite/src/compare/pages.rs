//! The pages of two images: which are known to be the same in both, and what they hold.

use std::cell::Cell as Counter;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use crate::header::{AutoVacuum, HEADER_SIZE, Header, be32, lock_page};
use crate::page::{self, Cell, Page};
use crate::vfs::PageSource;
use crate::{Error, Result};

use super::{LEFT, RIGHT};

/// The most bytes of both images that are compared at once.
const STRETCH: usize = 256 << 10;

/// A set of page numbers. Takes memory where there are pages, in blocks of 512.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PageSet {
    blocks: BTreeMap<u32, [u64; 8]>,
}

impl PageSet {
    fn place(page: u32) -> (u32, usize, u64) {
        (page / 512, (page % 512 / 64) as usize, 1 << (page % 64))
    }

    /// Adds a page; false when it was there.
    pub(super) fn insert(&mut self, page: u32) -> bool {
        let (block, word, bit) = Self::place(page);
        let word = &mut self.blocks.entry(block).or_default()[word];
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    pub(super) fn remove(&mut self, page: u32) {
        let (block, word, bit) = Self::place(page);
        if let Some(words) = self.blocks.get_mut(&block) {
            words[word] &= !bit;
        }
    }

    pub(super) fn contains(&self, page: u32) -> bool {
        let (block, word, bit) = Self::place(page);
        self.blocks.get(&block).is_some_and(|words| words[word] & bit != 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.blocks.values().flatten().all(|word| *word == 0)
    }

    pub(super) fn len(&self) -> usize {
        self.blocks.values().flatten().map(|word| word.count_ones() as usize).sum()
    }

    /// Takes away all pages of `others`.
    pub(super) fn subtract(&mut self, others: &PageSet) {
        for (block, words) in &mut self.blocks {
            if let Some(others) = others.blocks.get(block) {
                words.iter_mut().zip(others).for_each(|(word, other)| *word &= !other);
            }
        }
    }

    /// Returns the pages in both sets.
    pub(super) fn common(&self, others: &PageSet) -> PageSet {
        let both = |(block, words): (&u32, &[u64; 8])| {
            let others = others.blocks.get(block)?;
            let mut words = *words;
            words.iter_mut().zip(others).for_each(|(word, other)| *word &= other);
            Some((*block, words))
        };
        PageSet { blocks: self.blocks.iter().filter_map(both).collect() }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> {
        let pages = |(block, words): (&u32, &[u64; 8])| {
            let (first, words) = (block * 512, *words);
            (0..512u32)
                .filter(move |at| words[(at / 64) as usize] & (1 << (at % 64)) != 0)
                .map(move |at| first + at)
        };
        self.blocks.iter().flat_map(pages)
    }
}

/// An image, cut into its pages.
pub(super) struct Image {
    source: Arc<dyn PageSource>,
    pub(super) header: Header,
    /// Bytes of a page, and those of them that SQLite uses.
    pub(super) page_size: usize,
    pub(super) usable: usize,
    /// The number of pages.
    pub(super) pages: u32,
    /// How many overflow pages may still be followed.
    overflow: Counter<u64>,
}

/// How often the overflow pages of an image are followed at most: to account for changed pages, to find cells whose
/// overflow changed, to compare rows and to list them.
const READINGS: u64 = 4;

impl Image {
    pub(super) fn open(source: &Arc<dyn PageSource>) -> Result<Self> {
        let source = Arc::clone(source);
        let mut first = [0; HEADER_SIZE];
        if source.size() < first.len() as u64 {
            return Err(damaged("the image is shorter than a header"));
        }
        source.read_at(0, &mut first).map_err(Error::Source)?;
        let header = Header::parse(&first)?;
        let page_size = header.page_size as usize;
        // SQLite would read a part of a page as a page.
        if !source.size().is_multiple_of(page_size as u64) {
            return Err(damaged("the image ends within a page"));
        }
        let pages = u32::try_from(source.size() / page_size as u64);
        let pages = pages.map_err(|_| damaged("the image has more pages than a database can have"))?;
        let usable = page_size - usize::from(header.reserved);
        let overflow = Counter::new(READINGS * u64::from(pages));
        Ok(Self { source, header, page_size, usable, pages, overflow })
    }

    /// Fails where there is no such page.
    pub(super) fn ensure_has(&self, number: u32) -> Result<()> {
        match number == 0 || number > self.pages {
            true => Err(damaged(format!("page {number} of {}", self.pages))),
            false => Ok(()),
        }
    }

    /// Counts an overflow page that is followed. Each has one owner, so there is an end to it even where damage
    /// makes a chain go round, or many cells share one.
    fn follow_overflow(&self) -> Result<()> {
        let left = self.overflow.get().checked_sub(1);
        self.overflow.set(left.ok_or_else(|| damaged("overflow pages are used more than once"))?);
        Ok(())
    }

    fn fill(&self, page: u32, buffer: &mut [u8]) -> Result<()> {
        let offset = u64::from(page - 1) * self.page_size as u64;
        self.source.read_at(offset, buffer).map_err(Error::Source)
    }

    fn page(&self, number: u32) -> Result<Vec<u8>> {
        self.ensure_has(number)?;
        let mut bytes = vec![0; self.page_size];
        self.fill(number, &mut bytes)?;
        Ok(bytes)
    }

    /// Returns the pages that hold no data of a tree: free ones and, with auto-vacuum, those of the pointer map.
    ///
    /// Where the list of free pages does not make sense it is left out: then more is read.
    fn without_data(&self) -> Result<PageSet> {
        let mut pages = self.free_pages()?.unwrap_or_default();
        let lock_page = lock_page(self.header.page_size);
        pages.insert(lock_page);
        if self.header.auto_vacuum != AutoVacuum::None {
            let step = u32::try_from(self.usable / 5 + 1).expect("a page has at most 65536 bytes");
            let mut at = 2u32;
            while at <= self.pages {
                pages.insert(if at == lock_page { at + 1 } else { at });
                let Some(next) = at.checked_add(step) else { break };
                at = next;
            }
        }
        Ok(pages)
    }

    fn free_pages(&self) -> Result<Option<PageSet>> {
        let mut pages = PageSet::default();
        let mut trunk = self.header.freelist_first;
        while trunk != 0 {
            if trunk > self.pages || !pages.insert(trunk) {
                return Ok(None);
            }
            let bytes = self.page(trunk)?;
            let count = be32(&bytes, 4) as usize;
            let Some(entries) = bytes.get(8..self.usable).and_then(|rest| rest.get(..count.checked_mul(4)?))
            else {
                return Ok(None);
            };
            for entry in entries.chunks_exact(4) {
                let page = be32(entry, 0);
                if page == 0 || page > self.pages || !pages.insert(page) {
                    return Ok(None);
                }
            }
            trunk = be32(&bytes, 0);
        }
        Ok(Some(pages))
    }
}

/// Two images, and the pages in which they differ.
pub(super) struct Images<'c> {
    images: [Image; 2],
    /// Pages whose bytes differ, or that only one image has. `None` where the two are cut in different ways: then no
    /// page of one stands for a page of the other.
    changed: Option<PageSet>,
    /// Asked whether to stop.
    cancelled: &'c dyn Fn() -> bool,
}

impl<'c> Images<'c> {
    /// Finds the pages that differ. Only what is not in `same` is read: stretches known to hold the same bytes in
    /// both.
    pub(super) fn open(
        left: &Arc<dyn PageSource>,
        right: &Arc<dyn PageSource>,
        same: &[Range<u64>],
        cancelled: &'c dyn Fn() -> bool,
    ) -> Result<Self> {
        let images = [Image::open(left)?, Image::open(right)?];
        let mut images = Self { images, changed: None, cancelled };
        let [left, right] = &images.images;
        if (left.page_size, left.usable) == (right.page_size, right.usable) {
            images.changed = Some(changed(left, right, same, cancelled)?);
        }
        Ok(images)
    }

    pub(super) fn image(&self, side: usize) -> &Image {
        &self.images[side]
    }

    /// Says whether pages of one image stand for pages of the other.
    pub(super) fn are_related(&self) -> bool {
        self.changed.is_some()
    }

    /// Forgets which pages are the same, for tests of the way that reads everything.
    pub(super) fn forget_relation(&mut self) {
        self.changed = None;
    }

    /// Says whether every page is the same.
    pub(super) fn are_equal(&self) -> bool {
        self.changed.as_ref().is_some_and(PageSet::is_empty)
    }

    pub(super) fn changed(&self) -> Option<&PageSet> {
        self.changed.as_ref()
    }

    /// Says whether a page is known to be the same in both.
    pub(super) fn is_same(&self, page: u32) -> bool {
        self.changed.as_ref().is_some_and(|changed| !changed.contains(page))
    }

    /// Returns the bytes of a page. One that is the same in both is read from the left, so that one cache serves
    /// both.
    pub(super) fn page(&self, side: usize, number: u32) -> Result<Vec<u8>> {
        if (self.cancelled)() {
            return Err(Error::Cancelled);
        }
        let has_both = number <= self.images[LEFT].pages && number <= self.images[RIGHT].pages;
        let side = if has_both && self.is_same(number) { LEFT } else { side };
        self.images[side].page(number)
    }

    /// Calls `look` with a page of a tree. Bytes that are not those of one are damage.
    pub(super) fn with_tree_page<T>(
        &self,
        side: usize,
        number: u32,
        look: impl FnOnce(&Page<'_>) -> Result<T>,
    ) -> Result<T> {
        let bytes = self.page(side, number)?;
        look(&self.parse(side, number, &bytes)?)
    }

    pub(super) fn parse<'b>(&self, side: usize, number: u32, bytes: &'b [u8]) -> Result<Page<'b>> {
        page::parse(bytes, self.images[side].usable, number == 1)
            .ok_or_else(|| damaged(format!("page {number} is not a sound page of a tree")))
    }

    /// Returns a whole record, with what lies in its overflow pages.
    pub(super) fn record(&self, side: usize, cell: &Cell<'_>) -> Result<Vec<u8>> {
        let size = usize::try_from(cell.size).ok();
        let size = size.filter(|size| *size as u64 <= self.images[side].source.size());
        let mut record =
            Vec::with_capacity(size.ok_or_else(|| damaged("a record is longer than the image"))?);
        record.extend_from_slice(cell.local);
        self.overflow(side, cell, &mut |_, part| {
            record.extend_from_slice(part);
            true
        })?;
        Ok(record)
    }

    /// Calls `met` with each overflow page of a cell and its part of the record, until that says to stop.
    pub(super) fn overflow(
        &self,
        side: usize,
        cell: &Cell<'_>,
        met: &mut dyn FnMut(u32, &[u8]) -> bool,
    ) -> Result<()> {
        let image = &self.images[side];
        let mut rest = cell.size.saturating_sub(cell.local.len() as u64);
        let mut page = cell.overflow.unwrap_or(0);
        while rest > 0 {
            image.follow_overflow()?;
            let bytes = self.page(side, page)?;
            let part = &bytes[4..image.usable];
            let part = &part[..usize::try_from(rest).map_or(part.len(), |rest| rest.min(part.len()))];
            if !met(page, part) {
                return Ok(());
            }
            page = be32(&bytes, 0);
            rest -= part.len() as u64;
        }
        Ok(())
    }

    /// Says whether a page of the overflow of a cell differs. The cell itself is the same on both sides.
    pub(super) fn overflow_differs(&self, cell: &Cell<'_>) -> Result<bool> {
        let mut differs = false;
        self.overflow(LEFT, cell, &mut |page, _| {
            differs = !self.is_same(page);
            !differs
        })?;
        Ok(differs)
    }

    /// Returns the pages that differ and may hold something of a tree of an image: it has them, and they are neither
    /// free nor of a pointer map.
    pub(super) fn changed_with_data(&self, side: usize) -> Result<PageSet> {
        let image = &self.images[side];
        let mut changed = PageSet::default();
        for page in self.changed.iter().flat_map(PageSet::iter).take_while(|page| *page <= image.pages) {
            changed.insert(page);
        }
        changed.subtract(&image.without_data()?);
        Ok(changed)
    }
}

/// Compares what is not known to be the same, page by page.
fn changed(
    left: &Image,
    right: &Image,
    same: &[Range<u64>],
    cancelled: &dyn Fn() -> bool,
) -> Result<PageSet> {
    let mut changed = PageSet::default();
    let both = left.pages.min(right.pages);
    let size = left.page_size as u64;
    let number = |offset: u64| u32::try_from(offset / size).unwrap_or(u32::MAX);
    let mut first = 0;
    let mut buffers = [Vec::new(), Vec::new()];
    // Pages that lie wholly in a stretch; a page across two stretches is compared.
    let known = same.iter().map(|stretch| number(stretch.start.div_ceil(size) * size)..number(stretch.end));
    for known in known.filter(|known| !known.is_empty()).chain(std::iter::once(both..both)) {
        let gap = first..known.start.min(both);
        compare_pages([left, right], gap, &mut buffers, &mut changed, cancelled)?;
        first = first.max(known.end);
    }
    for page in both..left.pages.max(right.pages) {
        changed.insert(page + 1);
    }
    Ok(changed)
}

/// Compares pages, counted from 0.
fn compare_pages(
    images: [&Image; 2],
    pages: Range<u32>,
    buffers: &mut [Vec<u8>; 2],
    changed: &mut PageSet,
    cancelled: &dyn Fn() -> bool,
) -> Result<()> {
    let size = images[LEFT].page_size;
    let together = u32::try_from(STRETCH / size).expect("a page has at least 512 bytes");
    let mut first = pages.start;
    while first < pages.end {
        if cancelled() {
            return Err(Error::Cancelled);
        }
        let count = together.min(pages.end - first);
        let length = count as usize * size;
        for (image, buffer) in images.into_iter().zip(&mut *buffers) {
            buffer.resize(length, 0);
            image.fill(first + 1, buffer)?;
        }
        let [one, other] = &*buffers;
        let pages = one.chunks(size).zip(other.chunks(size));
        for (page, (one, other)) in (first + 1..).zip(pages) {
            if one != other {
                changed.insert(page);
            }
        }
        first += count;
    }
    Ok(())
}

pub(super) fn damaged(what: impl Into<String>) -> Error {
    Error::Damaged { what: what.into() }
}
