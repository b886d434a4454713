//! Counts the rows of a table that differ, and keeps the first of them to be told.
//!
//! Which are the first is decided by their keys: numbers by value, then texts by their bytes. Which order a server would
//! give them does not matter, only that it is the same each time.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::columns::{Pairing, Told};
use super::matching::Difference;
use super::record::{Kept, values};
use crate::report::{CellValue, ColumnChange, RowChange, RowKind};

/// How many rows differ, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) added: u64,
    pub(super) removed: u64,
    pub(super) changed: u64,
}

/// The rows of a table that differ.
pub(super) struct Listing<'p> {
    pairing: &'p Pairing,
    /// How many are told.
    limit: usize,
    pub(super) counts: Counts,
    first: BTreeMap<Place, u64>,
}

/// A row that differs, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    key: Vec<u8>,
    left: Option<Vec<u8>>,
    right: Option<Vec<u8>>,
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        let keys = by_value(&self.key, &other.key);
        keys.then_with(|| (&self.key, &self.left, &self.right).cmp(&(&other.key, &other.left, &other.right)))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Compares keys by their values.
fn by_value(one: &[u8], other: &[u8]) -> Ordering {
    let order = |key: &[u8]| -> Vec<(u8, i128, Vec<u8>)> {
        let place = |value: &Kept<'_>| match value {
            Kept::Null => (0, 0, Vec::new()),
            Kept::Text(text) => match std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()) {
                Some(number) => (1, number, Vec::new()),
                None => (2, 0, text.to_vec()),
            },
            Kept::Long(begin, ..) => (2, 0, begin.to_vec()),
        };
        values(key).iter().map(place).collect()
    };
    order(one).cmp(&order(other))
}

impl<'p> Listing<'p> {
    /// Begins with nothing; so many rows are told at most.
    pub(super) fn new(pairing: &'p Pairing, limit: usize) -> Self {
        Self { pairing, limit, counts: Counts::default(), first: BTreeMap::new() }
    }

    /// Returns which columns are compared.
    pub(super) fn pairing(&self) -> &'p Pairing {
        self.pairing
    }

    /// Takes rows that differ.
    pub(super) fn add(&mut self, difference: &Difference<'_>) {
        let counts = &mut self.counts;
        match (difference.left, difference.right) {
            (None, _) => counts.added += difference.count,
            (_, None) => counts.removed += difference.count,
            _ => counts.changed += difference.count,
        }
        if self.limit == 0 {
            return;
        }
        let place = Place {
            key: difference.key.to_vec(),
            left: difference.left.map(<[u8]>::to_vec),
            right: difference.right.map(<[u8]>::to_vec),
        };
        if self.first.len() >= self.limit
            && self.first.last_key_value().is_some_and(|(last, _)| *last < place)
        {
            return;
        }
        *self.first.entry(place).or_default() += difference.count;
        if self.first.len() > self.limit {
            self.first.pop_last();
        }
    }

    /// Returns the rows that are told.
    pub(super) fn rows(&self) -> Vec<RowChange> {
        let each = self.first.iter().flat_map(|(place, count)| {
            let count = usize::try_from(*count).unwrap_or(usize::MAX).min(self.limit);
            std::iter::repeat_n(place, count)
        });
        each.take(self.limit).map(|place| self.told(place)).collect()
    }

    fn told(&self, place: &Place) -> RowChange {
        let change = match (&place.left, &place.right) {
            (None, _) => RowKind::Added,
            (_, None) => RowKind::Removed,
            _ => RowKind::Changed,
        };
        let cells = |columns: &[Told], bytes: &[u8]| -> Vec<CellValue> {
            values(bytes).iter().zip(columns).map(|(value, column)| value.told(column.is_integer)).collect()
        };
        let names =
            |columns: &[Told]| -> Vec<String> { columns.iter().map(|one| one.name.clone()).collect() };
        let pairing = self.pairing;
        let key: Vec<(String, CellValue)> =
            names(&pairing.key).into_iter().zip(cells(&pairing.key, &place.key)).collect();
        if !pairing.has_key {
            let is_left = place.left.is_some();
            let column = |(name, value): (String, CellValue)| ColumnChange {
                name,
                left: is_left.then(|| value.clone()),
                right: (!is_left).then_some(value),
            };
            return RowChange { change, key: Vec::new(), columns: key.into_iter().map(column).collect() };
        }
        let [lefts, rights] = [&place.left, &place.right].map(Option::as_deref).map(|side| side.map(values));
        let value = |side: &Option<Vec<Kept<'_>>>, number: usize, column: &Told| {
            side.as_ref()?.get(number).map(|value| value.told(column.is_integer))
        };
        let same = |number: usize| match (&lefts, &rights) {
            (Some(lefts), Some(rights)) => lefts.get(number) == rights.get(number),
            _ => false,
        };
        let differing = pairing.rest.iter().enumerate().filter(|(number, _)| !same(*number));
        let columns = differing.map(|(number, column)| ColumnChange {
            name: column.name.clone(),
            left: value(&lefts, number, column),
            right: value(&rights, number, column),
        });
        RowChange { change, key, columns: columns.collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::server::record::{Fields, Record, Records};

    fn told(name: &str, is_integer: bool) -> Told {
        Told { name: name.to_owned(), is_integer }
    }

    fn record(key: &[usize], rest: &[usize], row: &str) -> Record {
        let fields = Fields { columns: 2, key: key.to_vec(), rest: rest.to_vec() };
        let mut records = Records::new(&fields);
        let mut found = Vec::new();
        let mut take = |record| {
            found.push(record);
            Ok(())
        };
        records.push(row.as_bytes(), &mut take).unwrap();
        found.pop().unwrap()
    }

    #[test]
    fn first_rows_are_those_with_the_lowest_keys_and_all_are_counted() {
        let pairing = Pairing {
            key: vec![told("id", true)],
            rest: vec![told("name", false)],
            has_key: true,
            ..Pairing::default()
        };
        let mut listing = Listing::new(&pairing, 3);
        for id in (0..30).rev() {
            let (left, right) = (format!("{id}\ta\n"), format!("{id}\t\\N\n"));
            let (left, right) = (record(&[0], &[1], &left), record(&[0], &[1], &right));
            let (left_rest, right_rest) = match id % 3 {
                0 => (Some(left.rest.as_slice()), None),
                1 => (None, Some(right.rest.as_slice())),
                _ => (Some(left.rest.as_slice()), Some(right.rest.as_slice())),
            };
            listing.add(&Difference { key: &left.key, left: left_rest, right: right_rest, count: 1 });
        }
        assert_eq!(listing.counts, Counts { added: 10, removed: 10, changed: 10 });
        let rows = listing.rows();
        let keys: Vec<&CellValue> = rows.iter().map(|row| &row.key[0].1).collect();
        assert_eq!(keys, [&CellValue::Integer(0), &CellValue::Integer(1), &CellValue::Integer(2)]);
        let name = |left: Option<CellValue>, right| ColumnChange { name: "name".to_owned(), left, right };
        let a = || Some(CellValue::Text("a".to_owned()));
        assert_eq!(rows[0].columns, [name(a(), None)]);
        assert_eq!(rows[1].columns, [name(None, Some(CellValue::Null))]);
        assert_eq!(rows[2].columns, [name(a(), Some(CellValue::Null))]);
    }

    #[test]
    fn row_without_a_key_is_told_by_all_it_holds_as_often_as_it_is_there() {
        let pairing = Pairing { key: vec![told("a", false), told("b", false)], ..Pairing::default() };
        let mut listing = Listing::new(&pairing, 5);
        let row = record(&[0, 1], &[], "x\ty\n");
        listing.add(&Difference { key: &row.key, left: None, right: Some(&row.rest), count: 7 });
        assert_eq!(listing.counts.added, 7);
        let rows = listing.rows();
        assert_eq!(rows.len(), 5);
        assert_eq!((rows[0].key.len(), rows[0].columns.len(), rows[0].change), (0, 2, RowKind::Added));
        assert_eq!(rows[0].columns[1].right, Some(CellValue::Text("y".to_owned())));
    }
}
