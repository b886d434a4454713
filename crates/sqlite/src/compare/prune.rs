//! Which pages of a table need no look, because both sides have the same rows in them.
//!
//! The rows of a table are those of the cells of its pages, and a cell is all in its page but for its overflow. So a
//! page that is in the table's tree on both sides, with the same bytes and the same overflow, gives the same rows to
//! both, and what differs lies in the other pages. Where in the tree a page stands does not matter. Which pages a
//! tree has is told by its interior pages, one in a hundred; leaves need not be read for it.
//!
//! Overflow is the difficulty: a long value that is changed in place leaves its leaf as it was. Each page has one
//! owner, so a changed page that is free, or of a tree, or overflow of a cell that is read anyway, is accounted for.
//! Only while a changed page is left over are the overflow pages of unchanged cells followed.

use crate::{Error, Result};

use super::pages::{Images, PageSet};
use super::tree::Tree;
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

/// The trees of a table that were walked.
struct Walked<'i> {
    trees: [Option<(Tree<'i>, PageSet)>; 2],
    shared: PageSet,
}

/// Finds the shared pages of each of `tables`. What is damaged in one is an error of that one alone.
///
/// `others` are the roots of all other trees, to account for changed pages.
pub(super) fn shared(
    images: &Images,
    tables: &[Roots],
    others: &[Roots],
    cancelled: &dyn Fn() -> bool,
) -> Result<Vec<Result<Pages>>> {
    let mut walked = Vec::new();
    for roots in tables {
        stop_if(cancelled)?;
        walked.push(one_table(walk(images, roots))?);
    }
    let mut rest = images.changed_with_data()?;
    let whole: Vec<&Walked<'_>> = walked.iter().flatten().collect();
    for walked in &whole {
        subtract_trees(&mut rest, walked);
    }
    if !rest.is_empty() {
        let others = others.iter().map(|roots| one_table(walk(images, roots))).collect::<Result<Vec<_>>>()?;
        let others: Vec<&Walked<'_>> = others.iter().flatten().collect();
        others.iter().for_each(|walked| subtract_trees(&mut rest, walked));
        for walked in whole.iter().chain(&others) {
            if rest.is_empty() {
                break;
            }
            stop_if(cancelled)?;
            one_table(subtract_overflow(images, &mut rest, walked))?.ok();
        }
    }
    let unaccounted = rest.len();
    drop(whole);
    if unaccounted > 0 {
        tracing::debug!(pages = unaccounted, "following the overflow of unchanged cells");
    }
    let finish = |walked: Result<Walked<'_>>| -> Result<Result<Pages>> {
        stop_if(cancelled)?;
        one_table(walked.and_then(|mut walked| {
            if unaccounted > 0 {
                drop_changed_overflow(images, &mut walked)?;
            }
            let sizes = walked.trees.iter().flatten().map(|(_, pages)| pages.len());
            let is_same = walked.trees.iter().all(Option::is_some)
                && sizes.into_iter().all(|size| size == walked.shared.len());
            Ok(Pages { shared: walked.shared, is_same })
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

fn stop_if(cancelled: &dyn Fn() -> bool) -> Result<()> {
    if cancelled() { Err(Error::Cancelled) } else { Ok(()) }
}

fn walk<'i>(images: &'i Images, roots: &Roots) -> Result<Walked<'i>> {
    let mut trees = [None, None];
    for side in [LEFT, RIGHT] {
        if let Some(root) = roots.roots[side] {
            let tree = Tree::open(images, side, root)?;
            let pages = tree.pages()?;
            trees[side] = Some((tree, pages));
        }
    }
    let mut shared = PageSet::default();
    if let (Some((left, left_pages)), Some((right, right_pages)), Some(changed)) =
        (&trees[LEFT], &trees[RIGHT], images.changed())
        && left.is_table() == right.is_table()
    {
        shared = left_pages.common(right_pages);
        shared.subtract(changed);
    }
    Ok(Walked { trees, shared })
}

fn subtract_trees(rest: &mut PageSet, walked: &Walked<'_>) {
    for (_, pages) in walked.trees.iter().flatten() {
        rest.subtract(pages);
    }
}

/// Accounts for the overflow of cells in pages that changed.
fn subtract_overflow(images: &Images, rest: &mut PageSet, walked: &Walked<'_>) -> Result<()> {
    for (side, tree) in walked.trees.iter().enumerate() {
        let Some((tree, pages)) = tree else { continue };
        let changed = images.changed().map(|changed| pages.common(changed)).unwrap_or_default();
        tree.each_page(&changed, &mut |_, page| {
            for cell in (0..page.cells).filter_map(|index| page.cell(index)) {
                if cell.overflow.is_some() {
                    images.record(side, &cell, &mut |overflow| rest.remove(overflow))?;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Takes pages out of the shared ones that have a cell whose overflow changed.
fn drop_changed_overflow(images: &Images, walked: &mut Walked<'_>) -> Result<()> {
    let Some((tree, _)) = &walked.trees[LEFT] else { return Ok(()) };
    let mut differing = Vec::new();
    tree.each_page(&walked.shared, &mut |number, page| {
        for cell in (0..page.cells).filter_map(|index| page.cell(index)) {
            if cell.overflow.is_some() && images.overflow_differs(&cell)? {
                differing.push(number);
                break;
            }
        }
        Ok(())
    })?;
    differing.into_iter().for_each(|page| walked.shared.remove(page));
    Ok(())
}
