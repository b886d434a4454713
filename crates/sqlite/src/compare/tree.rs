//! One b-tree of an image: its pages, and its rows in key order.

use crate::Result;
use crate::page::{Kind, Page};

use super::pages::{Images, PageSet, damaged};
use super::rows::{Body, Row, Rows};

/// SQLite itself follows no tree deeper than this.
const DEEPEST: usize = 20;

/// The pages of a tree.
#[derive(Debug, Default)]
pub(super) struct TreePages {
    pub(super) all: PageSet,
    /// Those that are no leaves.
    pub(super) interior: PageSet,
}

impl TreePages {
    /// Returns the pages that are in both trees, as leaves of both or of neither.
    pub(super) fn shared(&self, other: &Self) -> PageSet {
        let mut shared = self.all.common(&other.all);
        let both = self.interior.common(&other.interior);
        for interior in [&self.interior, &other.interior] {
            let mut one = interior.clone();
            one.subtract(&both);
            shared.subtract(&one);
        }
        shared
    }
}

/// A tree of one of the two images.
#[derive(Clone, Copy)]
pub(super) struct Tree<'i> {
    images: &'i Images<'i>,
    side: usize,
    root: u32,
    /// How many interior pages lie above each leaf.
    depth: usize,
    is_table: bool,
}

impl<'i> Tree<'i> {
    /// Finds out how deep the tree is, by going down once.
    pub(super) fn open(images: &'i Images<'i>, side: usize, root: u32) -> Result<Self> {
        let mut page = root;
        let mut depth = 0;
        let mut is_table = None;
        loop {
            let (kind, child) =
                images.with_tree_page(side, page, |page| Ok((page.kind, page.children().next())))?;
            if *is_table.get_or_insert(kind.is_table()) != kind.is_table() {
                return Err(odd_kind(page));
            }
            match child {
                Some(child) if depth < DEEPEST => page = child,
                Some(_) => return Err(damaged(format!("page {page} lies deeper than a tree grows"))),
                None => return Ok(Self { images, side, root, depth, is_table: kind.is_table() }),
            }
            depth += 1;
        }
    }

    /// Says whether it is a table with rowids; else an index, or a table WITHOUT ROWID.
    pub(super) fn is_table(&self) -> bool {
        self.is_table
    }

    /// Returns all pages of the tree. Leaves are not read. None may be in `used`, and all are on return.
    pub(super) fn pages(&self, used: &mut PageSet) -> Result<TreePages> {
        let mut pages = TreePages::default();
        self.gather(self.root, 0, &mut pages, used)?;
        Ok(pages)
    }

    fn gather(&self, number: u32, depth: usize, pages: &mut TreePages, used: &mut PageSet) -> Result<()> {
        self.images.image(self.side).ensure_has(number)?;
        if !used.insert(number) {
            return Err(damaged(format!("page {number} is used twice")));
        }
        pages.all.insert(number);
        if depth == self.depth {
            return Ok(());
        }
        pages.interior.insert(number);
        let children = self.interior(number)?;
        children.into_iter().try_for_each(|child| self.gather(child, depth + 1, pages, used))
    }

    /// Returns the children of a page that is no leaf.
    fn interior(&self, number: u32) -> Result<Vec<u32>> {
        self.images.with_tree_page(self.side, number, |page| {
            self.check(number, page, false)?;
            Ok(page.children().collect())
        })
    }

    fn check(&self, number: u32, page: &Page<'_>, is_leaf: bool) -> Result<()> {
        if page.kind.is_table() != self.is_table {
            return Err(odd_kind(number));
        }
        if page.kind.is_interior() == is_leaf {
            return Err(damaged(format!("page {number} lies at another depth than its tree has")));
        }
        Ok(())
    }

    /// Calls `look` with every page in `of` that may hold cells of rows or entries.
    pub(super) fn each_page(
        &self,
        of: &PageSet,
        look: &mut dyn FnMut(u32, &Page<'_>) -> Result<()>,
    ) -> Result<()> {
        for number in of.iter() {
            self.images.with_tree_page(self.side, number, |page| look(number, page))?;
        }
        Ok(())
    }

    /// Returns the rows in key order, without those of the pages in `skipped`. Leaves among these are not read.
    pub(super) fn rows(self, skipped: &'i PageSet) -> TreeRows<'i> {
        TreeRows { tree: self, skipped, open: Vec::new(), has_begun: false, last: None }
    }
}

fn odd_kind(page: u32) -> crate::Error {
    damaged(format!("page {page} is of another kind than the root of its tree"))
}

/// A page on the way from the root to where the walk stands.
struct Frame {
    number: u32,
    bytes: Vec<u8>,
    /// What was found in the bytes, without them.
    page: Page<'static>,
    children: Vec<u32>,
    /// Cells, and children in between them, that lie behind.
    step: usize,
}

/// The rows of a tree, one after the other.
pub(super) struct TreeRows<'i> {
    tree: Tree<'i>,
    skipped: &'i PageSet,
    open: Vec<Frame>,
    has_begun: bool,
    last: Option<i64>,
}

/// What comes next in a page.
enum Step {
    Child(u32),
    Cell(u16),
    End,
}

impl Frame {
    /// Returns what comes next; `skips_cells` says that only the children are wanted.
    fn step(&mut self, skips_cells: bool) -> Step {
        let cells = usize::from(self.page.cells);
        loop {
            let step = self.step;
            self.step += 1;
            let (child, cell) = match self.page.kind {
                Kind::TableLeaf | Kind::IndexLeaf => (None, Some(step)),
                Kind::TableInterior => (Some(step), None),
                Kind::IndexInterior if step.is_multiple_of(2) => (Some(step / 2), None),
                Kind::IndexInterior => (None, Some(step / 2)),
            };
            match (child, cell) {
                (Some(child), _) => match self.children.get(child) {
                    Some(child) => return Step::Child(*child),
                    None => return Step::End,
                },
                (None, Some(cell)) if cell < cells && skips_cells => {}
                (None, Some(cell)) if cell < cells => {
                    return u16::try_from(cell).map_or(Step::End, Step::Cell);
                }
                // Behind the last cell of an index page follows its last child, which was before.
                _ => return Step::End,
            }
        }
    }
}

impl TreeRows<'_> {
    fn open_page(&mut self, number: u32) -> Result<()> {
        let is_leaf = self.open.len() == self.tree.depth;
        if is_leaf && self.skipped.contains(number) {
            return Ok(());
        }
        let bytes = self.tree.images.page(self.tree.side, number)?;
        let page = self.tree.images.parse(self.tree.side, number, &bytes)?;
        self.tree.check(number, &page, is_leaf)?;
        let children = page.children().collect();
        let page = page.moved(&[]);
        self.open.push(Frame { number, bytes, page, children, step: 0 });
        Ok(())
    }

    fn row(&mut self, index: u16) -> Result<Row> {
        let frame = self.open.last().expect("a cell comes from the innermost page");
        let number = frame.number;
        let page = frame.page.moved(&frame.bytes);
        let cell = page.cell(index).ok_or_else(|| damaged(format!("page {number} has an odd cell")))?;
        let record = self.tree.images.record(self.tree.side, &cell)?;
        if !self.tree.is_table {
            return Ok(Row { rowid: None, body: Body::Record(record) });
        }
        if self.last.is_some_and(|last| last >= cell.rowid) {
            return Err(damaged(format!("the rowids of page {number} are not in order")));
        }
        self.last = Some(cell.rowid);
        Ok(Row { rowid: Some(cell.rowid), body: Body::Record(record) })
    }
}

impl Rows for TreeRows<'_> {
    fn next(&mut self) -> Result<Option<Row>> {
        if !self.has_begun {
            self.has_begun = true;
            self.open_page(self.tree.root)?;
        }
        while let Some(frame) = self.open.last_mut() {
            let skips_cells = self.skipped.contains(frame.number);
            match frame.step(skips_cells) {
                Step::Child(child) => self.open_page(child)?,
                Step::Cell(index) => return self.row(index).map(Some),
                Step::End => {
                    self.open.pop();
                }
            }
        }
        Ok(None)
    }
}
