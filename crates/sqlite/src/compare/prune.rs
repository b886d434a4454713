//! Which pages of a table need no look, because both sides have the same rows in them.
//!
//! The rows of a table are those of the cells of its pages, and a cell is all in its page but for its overflow. So a
//! page that is in the table's tree on both sides, with the same bytes and the same overflow, gives the same rows to
//! both, and what differs lies in the other pages. Where in the tree a page stands does not matter. Which pages a
//! tree has is told by its interior pages, one in a hundred; leaves need not be read for it.
//!
//! Overflow is the difficulty: a long value that is changed in place leaves its leaf as it was. Each page has one
//! owner, so a changed page that is free, or of a tree, or overflow of a cell that is not shared, is accounted for.
//! Both sides have to account for it, so that one sound side is enough. Only while a changed page is left over are
//! the overflow pages of shared cells followed.

use crate::{Error, Result};

use super::pages::{Images, PageSet, damaged};
use super::tree::{Tree, TreePages};
use super::{LEFT, RIGHT};

/// A table, or something else with a tree, on each side that has it.
pub(super) struct Roots {
    pub(super) roots: [Option<u32>; 2],
}

/// The pages of one table.
pub(super) struct Pages {
    /// Those that give the same rows to both sides.
    pub(super) shared: PageSet,
    /// Whether there are no others.
    pub(super) is_same: bool,
}

/// Finds the shared pages of each of `tables`. What is damaged in one is an error of that one alone.
///
/// `others` are the roots of all other trees, to account for changed pages. Every page of a tree is looked at as
/// often as it is used, which is once: a page that is used again is damage.
pub(super) fn shared(images: &Images<'_>, tables: &[Roots], others: &[Roots]) -> Result<Vec<Result<Pages>>> {
    let mut walk = Walk { images, used: Default::default() };
    let walked = walk.all(tables)?;
    let whole: Vec<&Walked<'_>> = walked.iter().flatten().collect();
    let is_in_doubt = images.are_related() && is_overflow_in_doubt(&mut walk, &whole, others)?;
    drop(whole);
    if is_in_doubt {
        tracing::debug!("following the overflow of unchanged cells");
    }
    let finish = |walked: Result<Walked<'_>>| {
        one_table(walked.and_then(|mut walked| {
            if is_in_doubt {
                drop_changed_overflow(images, &mut walked)?;
            }
            Ok(walked.finish())
        }))
    };
    walked.into_iter().map(finish).collect()
}

/// Tells damage of one table from what stops all.
fn one_table<T>(result: Result<T>) -> Result<Result<T>> {
    match result {
        Err(error @ (Error::Source(_) | Error::Cancelled)) => Err(error),
        other => Ok(other),
    }
}

/// Going through trees, each page once.
struct Walk<'i> {
    images: &'i Images<'i>,
    /// The pages of the trees that were walked, on each side.
    used: [PageSet; 2],
}

/// The trees of a table that were walked.
struct Walked<'i> {
    trees: [Option<(Tree<'i>, TreePages)>; 2],
    shared: PageSet,
}

impl<'i> Walk<'i> {
    fn all(&mut self, tables: &[Roots]) -> Result<Vec<Result<Walked<'i>>>> {
        tables.iter().map(|roots| one_table(self.one(roots))).collect()
    }

    fn one(&mut self, roots: &Roots) -> Result<Walked<'i>> {
        let mut trees = [None, None];
        for side in [LEFT, RIGHT] {
            if let Some(root) = roots.roots[side] {
                let tree = Tree::open(self.images, side, root)?;
                let pages = tree.pages(&mut self.used[side])?;
                trees[side] = Some((tree, pages));
            }
        }
        let mut shared = PageSet::default();
        if let (Some((left, left_pages)), Some((right, right_pages)), Some(changed)) =
            (&trees[LEFT], &trees[RIGHT], self.images.changed())
            && left.is_table() == right.is_table()
        {
            shared = left_pages.shared(right_pages);
            shared.subtract(changed);
        }
        Ok(Walked { trees, shared })
    }
}

impl Walked<'_> {
    fn finish(self) -> Pages {
        let is_same = self
            .trees
            .iter()
            .all(|tree| tree.as_ref().is_some_and(|(_, pages)| pages.all.len() == self.shared.len()));
        Pages { shared: self.shared, is_same }
    }
}

/// Says whether a changed page may be overflow of a cell in a shared page, for all that both sides account for.
fn is_overflow_in_doubt(walk: &mut Walk<'_>, tables: &[&Walked<'_>], others: &[Roots]) -> Result<bool> {
    let images = walk.images;
    let mut rest = [images.changed_with_data(LEFT)?, images.changed_with_data(RIGHT)?];
    tables.iter().for_each(|walked| subtract_trees(&mut rest, walked));
    if rest.iter().all(PageSet::is_empty) {
        return Ok(false);
    }
    let others = walk.all(others)?;
    let others: Vec<&Walked<'_>> = others.iter().flatten().collect();
    others.iter().for_each(|walked| subtract_trees(&mut rest, walked));
    // Changed pages first, which are read in any case.
    for are_changed in [true, false] {
        for walked in tables.iter().chain(&others) {
            // What cannot be followed stays in doubt.
            one_table(subtract_overflow(images, &mut rest, walked, are_changed))?.ok();
        }
    }
    Ok(!rest.iter().all(PageSet::is_empty))
}

fn subtract_trees(rest: &mut [PageSet; 2], walked: &Walked<'_>) {
    for (rest, tree) in rest.iter_mut().zip(&walked.trees) {
        if let Some((_, pages)) = tree {
            rest.subtract(&pages.all);
        }
    }
}

/// Accounts for the overflow of cells that are not shared: those in pages that differ, or those in the others.
fn subtract_overflow(
    images: &Images<'_>,
    rest: &mut [PageSet; 2],
    walked: &Walked<'_>,
    are_changed: bool,
) -> Result<()> {
    for ((side, rest), tree) in rest.iter_mut().enumerate().zip(&walked.trees) {
        let Some((tree, pages)) = tree.as_ref().filter(|_| !rest.is_empty()) else { continue };
        let mut own = pages.all.clone();
        match (images.changed(), are_changed) {
            (Some(changed), true) => own = own.common(changed),
            (Some(changed), false) => {
                own.subtract(changed);
                own.subtract(&walked.shared);
            }
            (None, _) => {}
        }
        tree.each_page(&own, &mut |_, page| {
            for cell in (0..page.cells).filter_map(|index| page.cell(index)) {
                images.overflow(side, &cell, &mut |overflow, _| {
                    rest.remove(overflow);
                    true
                })?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Takes pages out of the shared ones that have a cell whose overflow changed.
fn drop_changed_overflow(images: &Images<'_>, walked: &mut Walked<'_>) -> Result<()> {
    let Some((tree, pages)) = &walked.trees[LEFT] else { return Ok(()) };
    let mut differing = Vec::new();
    tree.each_page(&walked.shared, &mut |number, page| {
        if page.kind.is_interior() != pages.interior.contains(number) {
            return Err(damaged(format!("page {number} lies at another depth than its tree has")));
        }
        for cell in (0..page.cells).filter_map(|index| page.cell(index)) {
            if images.overflow_differs(&cell)? {
                differing.push(number);
                break;
            }
        }
        Ok(())
    })?;
    differing.into_iter().for_each(|page| walked.shared.remove(page));
    Ok(())
}
