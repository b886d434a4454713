//! Which rows of two tables are the same, which changed, and which only one side has.
//!
//! Rows with rowids come in their order and are merged: what is the same under the same rowid is settled at once.
//! What is left, and all rows of tables WITHOUT ROWID, meets in the [`Pool`].

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use crate::{Error, Result};

use super::pair::{Key, Pair};
use super::pool::{Loose, Pool};
use super::rows::{Body, Columns, Row, Rows};
use super::{LEFT, RIGHT};

/// How often the caller is asked whether to go on, in rows.
const ASK_EVERY: u64 = 1024;

/// By what a row of one side is found again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Locator {
    Rowid(i64),
    /// The bytes of its key.
    Key(Vec<u8>),
    /// The hash of all that both sides have of it.
    Content([u8; 32]),
}

impl Locator {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Rowid(rowid) => [&[0], &(rowid.cast_unsigned() ^ 1 << 63).to_be_bytes()[..]].concat(),
            Self::Key(key) => [&[1], key.as_slice()].concat(),
            Self::Content(hash) => [&[2], &hash[..]].concat(),
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (tag, rest) = bytes.split_first()?;
        match tag {
            0 => Some(Self::Rowid((u64::from_be_bytes(rest.try_into().ok()?) ^ 1 << 63).cast_signed())),
            1 => Some(Self::Key(rest.to_vec())),
            _ => rest.try_into().ok().map(Self::Content),
        }
    }
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Only the left side has it.
    Removed,
    /// Both have it, with other contents.
    Changed,
    /// Only the right side has it.
    Added,
}

/// A difference, and where its rows are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) change: Change,
    pub(super) rows: [Option<Locator>; 2],
}

impl Difference {
    fn order(&self) -> (Option<&Locator>, Change, Option<&Locator>) {
        let [left, right] = &self.rows;
        (left.as_ref().or(right.as_ref()), self.change, right.as_ref())
    }
}

impl Ord for Difference {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

impl PartialOrd for Difference {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// What was found: all of it counted, the first ones listed.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) added: u64,
    pub(super) removed: u64,
    pub(super) changed: u64,
    limit: usize,
    first: BinaryHeap<Difference>,
}

impl Found {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, ..Self::default() }
    }

    /// Returns the differences to list, in order.
    pub(super) fn listed(self) -> Vec<Difference> {
        self.first.into_sorted_vec()
    }

    pub(super) fn add(&mut self, change: Change, rows: [Option<Locator>; 2]) {
        match change {
            Change::Added => self.added += 1,
            Change::Removed => self.removed += 1,
            Change::Changed => self.changed += 1,
        }
        if self.limit == 0 {
            return;
        }
        self.first.push(Difference { change, rows });
        if self.first.len() > self.limit {
            self.first.pop();
        }
    }
}

/// What a comparison of rows works with.
pub(super) struct Matcher<'m> {
    pub(super) pair: &'m Pair,
    pub(super) columns: [&'m Columns<'m>; 2],
    pub(super) cancelled: &'m (dyn Fn() -> bool + Sync),
}

impl Matcher<'_> {
    /// Compares the rows of both sides. The pool may take `memory` bytes before it goes to a file.
    pub(super) fn run(
        &self,
        left: &mut dyn Rows,
        right: &mut dyn Rows,
        found: &mut Found,
        memory: usize,
    ) -> Result<()> {
        let mut pool = Pool::new(memory);
        if self.pair.has_rowids() {
            self.merge(left, right, found, &mut pool)?;
        } else {
            self.alternate(left, right, &mut pool)?;
        }
        pool.finish(found, self.cancelled)
    }

    /// Goes along both sides in the order of rowids.
    fn merge(
        &self,
        left: &mut dyn Rows,
        right: &mut dyn Rows,
        found: &mut Found,
        pool: &mut Pool,
    ) -> Result<()> {
        let (mut one, mut other) = (left.next()?, right.next()?);
        for count in 0u64.. {
            self.stop_if_cancelled(count)?;
            let order = match (&one, &other) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                // Without rowids all meet in the pool.
                (Some(one), Some(other)) => one.rowid.cmp(&other.rowid),
            };
            let from_left = if order.is_le() { one.take() } else { None };
            let from_right = if order.is_ge() { other.take() } else { None };
            one = if order.is_le() { left.next()? } else { one };
            other = if order.is_ge() { right.next()? } else { other };
            self.settle(from_left.as_ref(), from_right.as_ref(), found, pool)?;
        }
        Ok(())
    }

    /// Deals with what both sides have under one rowid, or one side alone.
    fn settle(
        &self,
        left: Option<&Row>,
        right: Option<&Row>,
        found: &mut Found,
        pool: &mut Pool,
    ) -> Result<()> {
        if let (Some(left), Some(right)) = (left, right)
            && self.is_same(left, right)?
        {
            return Ok(());
        }
        let rowid = |row: &Row| row.rowid.map(Locator::Rowid);
        let rows = [left.and_then(rowid), right.and_then(rowid)];
        if self.pair.key == Key::Rowid && rows.iter().any(Option::is_some) {
            let change = match (left, right) {
                (Some(_), None) => Change::Removed,
                (None, _) => Change::Added,
                _ => Change::Changed,
            };
            found.add(change, rows);
            return Ok(());
        }
        for (side, row) in [left, right].into_iter().enumerate() {
            row.map_or(Ok(()), |row| self.put(side, row, pool))?;
        }
        Ok(())
    }

    /// Goes along both sides row by row, so that what is the same meets early.
    fn alternate(&self, left: &mut dyn Rows, right: &mut dyn Rows, pool: &mut Pool) -> Result<()> {
        for count in 0u64.. {
            self.stop_if_cancelled(count)?;
            let (one, other) = (left.next()?, right.next()?);
            match (&one, &other) {
                (None, None) => break,
                (Some(one), Some(other)) if self.is_equal_record(one, other) => continue,
                _ => {}
            }
            for (side, row) in [one, other].iter().enumerate() {
                row.as_ref().map_or(Ok(()), |row| self.put(side, row, pool))?;
            }
        }
        Ok(())
    }

    fn put(&self, side: usize, row: &Row, pool: &mut Pool) -> Result<()> {
        let values = self.columns[side].values(row)?;
        let content = self.pair.content(side, &values);
        let key = self.pair.key_of(side, &values);
        let locator = self.locator(row, key.clone(), content);
        match key {
            Some(key) => pool.keyed(side, key, content, locator),
            None => pool.loose(side, Loose { content, locator }),
        }
    }

    fn locator(&self, row: &Row, key: Option<Vec<u8>>, content: [u8; 32]) -> Locator {
        match (row.rowid.filter(|_| self.pair.has_rowids()), key) {
            (Some(rowid), _) => Locator::Rowid(rowid),
            (None, Some(key)) => Locator::Key(key),
            (None, None) => Locator::Content(content),
        }
    }

    /// Returns by what a row is found again, as it stands in the differences.
    pub(super) fn locate(&self, side: usize, row: &Row) -> Result<Locator> {
        if let Some(rowid) = row.rowid.filter(|_| self.pair.has_rowids()) {
            return Ok(Locator::Rowid(rowid));
        }
        let values = self.columns[side].values(row)?;
        let content = self.pair.content(side, &values);
        Ok(self.locator(row, self.pair.key_of(side, &values), content))
    }

    fn is_equal_record(&self, left: &Row, right: &Row) -> bool {
        match (&left.body, &right.body) {
            (Body::Record(left), Body::Record(right)) => self.pair.is_alike && left == right,
            _ => false,
        }
    }

    fn is_same(&self, left: &Row, right: &Row) -> Result<bool> {
        if left.rowid.is_none() {
            return Ok(false);
        }
        if self.is_equal_record(left, right) {
            return Ok(true);
        }
        let (left, right) = (self.columns[LEFT].values(left)?, self.columns[RIGHT].values(right)?);
        Ok(self.pair.is_same(&left, &right))
    }

    pub(super) fn stop_if_cancelled(&self, count: u64) -> Result<()> {
        let is_due = count.is_multiple_of(ASK_EVERY);
        if is_due && (self.cancelled)() { Err(Error::Cancelled) } else { Ok(()) }
    }
}
