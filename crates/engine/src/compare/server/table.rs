//! One table on both sides.

use std::ops::Range;

use dbkeep_postgres::catalog::Name;
use dbkeep_postgres::rows::{RowSum, RowSummer};

use super::columns::{Pairing, pair};
use super::listing::Listing;
use super::matching::{Difference, Matching, Side};
use super::record::{Fields, Record, Records};
use super::side::{Half, Rows};
use super::stretches::{Crossing, stretches};
use crate::compare::{Run, WAITING};
use crate::report::{ComparedTable, RenamedColumn};
use crate::served::shown;
use crate::{Error, Result};

/// Compares a table that one side has rows of at least.
pub(super) fn compare(
    run: &Run<'_>,
    name: &Name,
    left: Option<&Half<'_>>,
    right: Option<&Half<'_>>,
) -> Result<ComparedTable> {
    let mut told = ComparedTable {
        name: shown(name),
        in_left: left.is_some(),
        in_right: right.is_some(),
        rows_left: left.map_or(0, |half| half.sum.rows),
        rows_right: right.map_or(0, |half| half.sum.rows),
        added: 0,
        removed: 0,
        changed: 0,
        key: Vec::new(),
        columns_added: Vec::new(),
        columns_removed: Vec::new(),
        columns_renamed: Vec::new(),
        rows: Vec::new(),
        more: 0,
        error: None,
    };
    let pairing = match (left, right) {
        (Some(left), Some(right)) => pair(&left.table, &right.table),
        (Some(one), None) | (None, Some(one)) => pair(&one.table, &one.table),
        (None, None) => return Ok(told),
    };
    if told.in_left && told.in_right {
        describe_columns(&pairing, &mut told);
    }
    let limit = run.request.rows.unwrap_or(0);
    let found = match (left, right) {
        (Some(only), None) => one(run, only, Side::Left, &pairing, limit),
        (None, Some(only)) => one(run, only, Side::Right, &pairing, limit),
        // What has no rows of its own, as a partitioned table, or large objects where there are none.
        (Some(only), Some(other)) if other.is_empty() => one(run, only, Side::Left, &pairing, limit),
        (Some(other), Some(only)) if other.is_empty() => one(run, only, Side::Right, &pairing, limit),
        (Some(left), Some(right)) => both(run, (left, right), &pairing, limit),
        (None, None) => Ok(None),
    };
    match found {
        Ok(Some(listing)) => fill(&mut told, &listing),
        Ok(None) => {}
        Err(Problem::OfTable(what)) => told.error = Some(what),
        Err(Problem::OfAll(error)) => return Err(error),
    }
    Ok(told)
}

/// Why a table could not be compared.
enum Problem {
    /// The others can be.
    OfTable(String),
    OfAll(Error),
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        Self::OfAll(error)
    }
}

fn describe_columns(pairing: &Pairing, told: &mut ComparedTable) {
    told.columns_removed.clone_from(&pairing.left_only);
    told.columns_added.clone_from(&pairing.right_only);
    let renamed = pairing.renamed.iter().cloned();
    told.columns_renamed = renamed.map(|(left, right)| RenamedColumn { left, right }).collect();
}

fn fill(told: &mut ComparedTable, listing: &Listing<'_>) {
    let counts = listing.counts;
    (told.added, told.removed, told.changed) = (counts.added, counts.removed, counts.changed);
    told.rows = listing.rows();
    told.more = (counts.added + counts.removed + counts.changed).saturating_sub(told.rows.len() as u64);
    let pairing = listing.pairing();
    if pairing.has_key {
        told.key = pairing.key.iter().map(|column| column.name.clone()).collect();
    }
}

/// Compares the rows of both sides. Returns nothing where all are the same.
fn both<'p>(
    run: &Run<'_>,
    (left, right): (&Half<'_>, &Half<'_>),
    pairing: &'p Pairing,
    limit: usize,
) -> Result<Option<Listing<'p>>, Problem> {
    let left_out = || Problem::OfTable("its rows are left out on one side".to_owned());
    let (left_rows, right_rows) =
        (left.rows.as_ref().ok_or_else(left_out)?, right.rows.as_ref().ok_or_else(left_out)?);
    if pairing.is_aligned && left.sum == right.sum {
        return Ok(None);
    }
    let [lefts, rights] = differing(left_rows, right_rows, pairing.is_aligned);
    let mut matching = Matching::new(WAITING, run.store.state().directory());
    let read_left =
        read(run, left_rows, &lefts, &pairing.fields[0], &mut |row| matching.push(Side::Left, row))?;
    let read_right =
        read(run, right_rows, &rights, &pairing.fields[1], &mut |row| matching.push(Side::Right, row))?;
    // What was not read is the same on both sides: it adds the same to both sums.
    if left.sum.plus(read_right) != right.sum.plus(read_left) {
        return Err(Problem::OfTable("the rows that were read are not those of its sums".to_owned()));
    }
    tracing::debug!(
        job = "compare",
        event = "rows",
        table = %shown(&left.table.name),
        left = read_left.rows,
        right = read_right.rows,
        in_files = matching.is_in_files(),
        "rows compared"
    );
    let mut listing = Listing::new(pairing, limit);
    let mut take = |difference: &Difference<'_>| {
        listing.add(difference);
        if run.watch.cancelled() { Err(Error::Cancelled) } else { Ok(()) }
    };
    matching.finish(&mut take)?;
    let counts = listing.counts;
    if left.sum.rows + counts.added != right.sum.rows + counts.removed {
        return Err(Problem::OfTable("the differences do not add up to the numbers of rows".to_owned()));
    }
    Ok(Some(listing))
}

/// Returns the chunks of both sides that may differ. The live database has read and crossed off already.
fn differing(left: &Rows<'_>, right: &Rows<'_>, is_aligned: bool) -> [Vec<Range<usize>>; 2] {
    let all = |rows: &Rows<'_>| match rows {
        Rows::Snapshot(_, rows) if rows.chunks() > 0 => std::iter::once(0..rows.chunks()).collect(),
        _ => Vec::new(),
    };
    match (left, right) {
        (Rows::Snapshot(_, left), Rows::Snapshot(_, right)) if is_aligned => {
            let (lefts, rights) = (stretches(left), stretches(right));
            let mut crossing = Crossing::new(&lefts);
            let mut alone = Vec::new();
            for (name, chunks) in rights {
                if !crossing.cross_off(&name) {
                    alone.push(chunks);
                }
            }
            [crossing.left(&lefts), alone]
        }
        (Rows::Snapshot(_, rows), Rows::Live(live, place)) => [live.left(*place, rows), Vec::new()],
        (left, right) => [all(left), all(right)],
    }
}

/// Tells the rows of a table that one side has. They are read only to be listed.
fn one<'p>(
    run: &Run<'_>,
    half: &Half<'_>,
    side: Side,
    pairing: &'p Pairing,
    limit: usize,
) -> Result<Option<Listing<'p>>, Problem> {
    let left_out = || Problem::OfTable("its rows are left out on one side".to_owned());
    let rows = half.rows.as_ref().ok_or_else(left_out)?;
    let mut listing = Listing::new(pairing, limit);
    if limit > 0 {
        let [all, _] = differing(rows, &Rows::Empty, false);
        let fields = match side {
            Side::Left => &pairing.fields[0],
            Side::Right => &pairing.fields[1],
        };
        let summed = read(run, rows, &all, fields, &mut |row| {
            let (left, right) = match side {
                Side::Left => (Some(row.rest.as_slice()), None),
                Side::Right => (None, Some(row.rest.as_slice())),
            };
            listing.add(&Difference { key: &row.key, left, right, count: 1 });
            Ok(())
        })?;
        if summed != half.sum {
            return Err(Problem::OfTable("the rows that were read are not those of its sum".to_owned()));
        }
    }
    match side {
        Side::Left => listing.counts.removed = half.sum.rows,
        Side::Right => listing.counts.added = half.sum.rows,
    }
    Ok(Some(listing))
}

/// Reads rows. Returns their sum.
fn read(
    run: &Run<'_>,
    rows: &Rows<'_>,
    chunks: &[Range<usize>],
    fields: &Fields,
    take: &mut dyn FnMut(Record) -> Result<()>,
) -> Result<RowSum, Problem> {
    let mut records = Records::new(fields);
    let mut summer = RowSummer::default();
    let mut malformed = None;
    let mut failure = None;
    let read = rows.each(chunks, run.watch, &mut |bytes| {
        summer.update(bytes);
        let mut kept = |row| {
            take(row).map_err(|error| {
                failure.get_or_insert(error);
                "it could not be taken".into()
            })
        };
        match records.push(bytes, &mut kept) {
            Ok(()) => Ok(()),
            Err(what) => {
                malformed.get_or_insert(what);
                Err(Error::Cancelled)
            }
        }
    });
    match (failure, malformed) {
        (Some(error), _) => return Err(error.into()),
        (None, Some(what)) => return Err(Problem::OfTable(what)),
        (None, None) => read?,
    }
    records.finish().map_err(Problem::OfTable)?;
    summer.finish().ok_or_else(|| Problem::OfTable("its last row has no end".to_owned()))
}
