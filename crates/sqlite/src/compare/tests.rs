//! The comparison against a slow, obvious model, on databases of every shape and changes of every kind.

mod cases;
mod changes;
mod damaged;
mod model;

use std::ops::Range;
use std::sync::Arc;

use super::*;
use crate::zoo;

/// A side whose rows nobody counted.
pub(super) fn side(image: &[u8]) -> Side {
    Side { pages: Arc::new(image.to_vec()), rows: None }
}

/// The stretches of `chunk` bytes that are the same in both images.
pub(super) fn same(left: &[u8], right: &[u8], chunk: usize) -> Vec<Range<u64>> {
    let chunks = left.chunks(chunk).zip(right.chunks(chunk)).enumerate();
    let same = chunks.filter(|(_, (left, right))| left == right);
    same.map(|(number, (bytes, _))| (number * chunk) as u64..(number * chunk + bytes.len()) as u64).collect()
}

pub(super) fn compared(left: &[u8], right: &[u8], options: &Options<'_>) -> Comparison {
    compare(&side(left), &side(right), options).unwrap()
}

/// Compares in every way, with the file of waiting rows and without, and returns what all agree on.
pub(super) fn compared_in_every_way(left: &[u8], right: &[u8]) -> Comparison {
    let list = 1000;
    let plain = compared(left, right, &Options { list, ..Options::default() });
    let chunks = [512, 4096].map(|chunk| same(left, right, chunk));
    let mut others = Vec::new();
    for same in &chunks {
        others.push(compared(left, right, &Options { list, same, memory: 0, ..Options::default() }));
    }
    for force in [Way::AllPages, Way::Sql] {
        // Pages cannot tell where a table is made in another way.
        if force == Way::Sql || plain.tables.iter().all(|table| table.way != Some(Way::Sql)) {
            others.push(compared(left, right, &Options { list, force: Some(force), ..Options::default() }));
        }
    }
    for other in others {
        assert_eq!(other.schema, plain.schema);
        for (one, other) in plain.tables.iter().zip(&other.tables) {
            // Where nothing had to be read, the columns of the key are not asked for.
            let what_differs =
                |table: &TableComparison| TableComparison { way: None, key: Vec::new(), ..table.clone() };
            assert_eq!(what_differs(other), what_differs(one));
        }
        assert_eq!(other.tables.len(), plain.tables.len());
    }
    plain
}

/// Returns the rows of a table on each side, and those added, removed and changed.
pub(super) fn counts(comparison: &Comparison, table: &str) -> [u64; 5] {
    let one = comparison.tables.iter().find(|one| one.name == table).unwrap();
    assert_eq!(one.problem, None, "{table}");
    [one.rows[0], one.rows[1], one.added, one.removed, one.changed]
}

/// Makes a database, and what becomes of it.
pub(super) fn before_and_after(before: &str, after: &str) -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    zoo::prepare(&connection);
    zoo::run(&connection, before);
    let left = std::fs::read(&path).unwrap();
    zoo::run(&connection, after);
    (left, std::fs::read(&path).unwrap())
}
