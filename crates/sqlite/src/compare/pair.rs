//! A table on both sides: which columns stand for each other, and what tells its rows apart.

use crate::header::Encoding;

use super::record::{Collation, Value, write_content, write_key};
use super::schema::{Column, Shape};
use super::{LEFT, RIGHT};

/// A table that both sides have.
pub(super) struct Pair {
    pub(super) shapes: [Shape; 2],
    /// The columns that both have, as places in each.
    pub(super) common: Vec<[usize; 2]>,
    pub(super) key: Key,
    /// Whether equal records mean equal rows, as far as both have the columns.
    pub(super) is_alike: bool,
    /// How texts are written in values.
    pub(super) encoding: Encoding,
}

/// What tells the rows of a table apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// The rowid, under the name of a column.
    Rowid,
    /// Columns, as places in `common`.
    Columns(Vec<(usize, Collation)>),
    /// No declared key.
    None,
}

impl Pair {
    pub(super) fn new(left: Shape, right: Shape, encodings: [Encoding; 2]) -> Self {
        let common = common(&left, &right);
        let key = key(&left, &right, &common);
        let is_same_encoding = encodings[LEFT] == encodings[RIGHT];
        let is_alike = is_same_encoding && is_alike(&left, &right, &common);
        let encoding = if is_same_encoding { encodings[LEFT] } else { Encoding::Utf8 };
        Self { shapes: [left, right], common, key, is_alike, encoding }
    }

    /// Says whether rows of both sides have rowids.
    pub(super) fn has_rowids(&self) -> bool {
        !self.shapes.iter().any(|shape| shape.without_rowid)
    }

    /// Returns the columns that only one side has.
    pub(super) fn only(&self, side: usize) -> Vec<String> {
        let is_common = |place: usize| self.common.iter().any(|pair| pair[side] == place);
        let columns = self.shapes[side].columns.iter().enumerate();
        columns.filter(|(place, _)| !is_common(*place)).map(|(_, column)| column.name.clone()).collect()
    }

    /// Returns the columns that have another name on the right.
    pub(super) fn renamed(&self) -> Vec<(String, String)> {
        let names =
            self.common.iter().map(|pair| [LEFT, RIGHT].map(|side| self.column(*pair, side).name.clone()));
        names
            .filter(|[left, right]| !left.eq_ignore_ascii_case(right))
            .map(|[left, right]| (left, right))
            .collect()
    }

    /// Says whether no column of the right side has this name.
    pub(super) fn has_no_column(&self, name: &str) -> bool {
        !self.shapes[RIGHT].columns.iter().any(|column| column.name.eq_ignore_ascii_case(name))
    }

    pub(super) fn column(&self, pair: [usize; 2], side: usize) -> &Column {
        &self.shapes[side].columns[pair[side]]
    }

    /// Returns the hash of what both sides have of a row.
    pub(super) fn content(&self, side: usize, values: &[Value]) -> [u8; 32] {
        let mut content = Vec::new();
        for pair in &self.common {
            write_content(&values[pair[side]], &mut content);
        }
        *blake3::hash(&content).as_bytes()
    }

    /// Says whether two rows hold the same in the columns that both sides have.
    pub(super) fn is_same(&self, left: &[Value], right: &[Value]) -> bool {
        self.common.iter().all(|[l, r]| left[*l].is_same(&right[*r]))
    }

    /// Returns the declared key of a row; `None` where there is none, or NULL is in it.
    pub(super) fn key_of(&self, side: usize, values: &[Value]) -> Option<Vec<u8>> {
        let Key::Columns(columns) = &self.key else { return None };
        let mut key = Vec::new();
        let whole = columns.iter().all(|(place, collation)| {
            write_key(&values[self.common[*place][side]], *collation, self.encoding, &mut key)
        });
        whole.then_some(key)
    }

    /// Returns the columns of the key, as places in `common`.
    pub(super) fn key_places(&self) -> Vec<usize> {
        match &self.key {
            Key::Rowid => self
                .common
                .iter()
                .position(|pair| Some(pair[LEFT]) == self.shapes[LEFT].alias)
                .into_iter()
                .collect(),
            Key::Columns(columns) => columns.iter().map(|(place, _)| *place).collect(),
            Key::None => Vec::new(),
        }
    }
}

/// Pairs columns by name. Of those that are left, columns at the same place and otherwise alike were renamed.
fn common(left: &Shape, right: &Shape) -> Vec<[usize; 2]> {
    let named = |column: &Column| {
        right.columns.iter().position(|other| other.name.eq_ignore_ascii_case(&column.name))
    };
    let mut pairs: Vec<Option<usize>> = left.columns.iter().map(named).collect();
    let is_alike =
        |one: &Column, other: &Column| Column { name: other.name.clone(), ..one.clone() } == *other;
    for (place, column) in left.columns.iter().enumerate() {
        let renamed = right.columns.iter().position(|other| is_alike(column, other));
        if let Some(renamed) =
            renamed.filter(|renamed| pairs[place].is_none() && !pairs.contains(&Some(*renamed)))
        {
            pairs[place] = Some(renamed);
        }
    }
    pairs.into_iter().enumerate().filter_map(|(place, other)| Some([place, other?])).collect()
}

fn key(left: &Shape, right: &Shape, common: &[[usize; 2]]) -> Key {
    let (ours, theirs) = (left.declared_key(), right.declared_key());
    let part = |(place, collation): &(usize, Collation)| {
        let pair = common.iter().position(|pair| pair[LEFT] == *place)?;
        let (_, other) = theirs.iter().find(|(other, _)| *other == common[pair][RIGHT])?;
        // Where the sides differ, the finer one tells the rows of both apart.
        Some((pair, if collation == other { *collation } else { Collation::Binary }))
    };
    let parts: Option<Vec<_>> = ours.iter().map(part).collect();
    match parts.filter(|parts| !parts.is_empty() && parts.len() == theirs.len()) {
        None => Key::None,
        Some(_) if left.alias.is_some() && right.alias.is_some() => Key::Rowid,
        Some(parts) => Key::Columns(parts),
    }
}

/// Says whether a record means the same in both tables, for the columns that both have.
fn is_alike(left: &Shape, right: &Shape, common: &[[usize; 2]]) -> bool {
    let field = |shape: &Shape, place: usize| shape.fields.iter().position(|column| *column == place);
    let same_field = |pair: &[usize; 2]| {
        let (one, other) = (&left.columns[pair[LEFT]], &right.columns[pair[RIGHT]]);
        field(left, pair[LEFT]) == field(right, pair[RIGHT])
            && one.declared == other.declared
            && one.default == other.default
            && (left.alias == Some(pair[LEFT])) == (right.alias == Some(pair[RIGHT]))
    };
    left.without_rowid == right.without_rowid && left.strict == right.strict && common.iter().all(same_field)
}
