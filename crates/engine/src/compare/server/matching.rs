//! Pairs the rows of two sides, in any order and however many there are.
//!
//! Rows that are the same are crossed off as they meet, so only what differs stays. What does not fit into memory goes
//! to files without a name, cut by the hash of keys: rows of one key are always in one of them, and each is paired by
//! itself. The order of keys does not matter, since which it is only the server knows.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::File;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufReader, ErrorKind, Read, Seek, Write};
use std::path::Path;

use super::record::Record;
use crate::compare::live::nameless_file;
use crate::{Error, Result};

/// Into so many files rows are cut.
const PARTITIONS: usize = 32;
/// How often what is cut is cut again. Only rows with the same key can be too many after that.
const DEEPEST: u32 = 8;
/// What an entry takes beside its bytes, about.
const OVERHEAD: usize = 160;
/// How much of a file waits in memory, at most.
const BUFFER: usize = 64 << 10;

/// Which side has a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// Rows that differ: `left` and `right` are what stands behind the key, absent where that side has no such row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Difference<'d> {
    pub(super) key: &'d [u8],
    pub(super) left: Option<&'d [u8]>,
    pub(super) right: Option<&'d [u8]>,
    /// How often it is there.
    pub(super) count: u64,
}

/// Rows that wait for their counterparts.
pub(super) struct Matching<'d> {
    /// What they may take in memory.
    memory: usize,
    depth: u32,
    directory: &'d Path,
    waiting: HashMap<Vec<u8>, Vec<Waiting>>,
    held: usize,
    partitions: Vec<Partition>,
}

/// What stands behind a key, and how many more the left side has of it (fewer below 0).
struct Waiting {
    rest: Vec<u8>,
    more: i64,
}

impl<'d> Matching<'d> {
    /// Begins with nothing. Files are made in `directory`, when more than `memory` bytes wait.
    pub(super) fn new(memory: usize, directory: &'d Path) -> Self {
        Self::at(0, memory, directory)
    }

    fn at(depth: u32, memory: usize, directory: &'d Path) -> Self {
        let (waiting, partitions) = (HashMap::new(), Vec::new());
        Self { memory, depth, directory, waiting, held: 0, partitions }
    }

    /// Takes a row.
    pub(super) fn push(&mut self, side: Side, row: Record) -> Result<()> {
        let more = match side {
            Side::Left => 1,
            Side::Right => -1,
        };
        self.take(row.key, row.rest, more)
    }

    fn take(&mut self, key: Vec<u8>, rest: Vec<u8>, more: i64) -> Result<()> {
        if !self.partitions.is_empty() {
            return self.put(&key, &rest, more);
        }
        self.wait(key, rest, more);
        if self.held > self.memory && self.depth < DEEPEST {
            return self.spill();
        }
        Ok(())
    }

    fn wait(&mut self, key: Vec<u8>, rest: Vec<u8>, more: i64) {
        let cost = key.len() + OVERHEAD;
        let mut entry = match self.waiting.entry(key) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => {
                self.held += cost + rest.len();
                entry.insert(vec![Waiting { rest, more }]);
                return;
            }
        };
        let rows = entry.get_mut();
        match rows.iter().position(|known| known.rest == rest) {
            None => {
                self.held += rest.len() + OVERHEAD;
                rows.push(Waiting { rest, more });
            }
            Some(place) => {
                rows[place].more += more;
                if rows[place].more == 0 {
                    self.held = self.held.saturating_sub(rows.swap_remove(place).rest.len());
                }
            }
        }
        if entry.get().is_empty() {
            entry.remove();
            self.held = self.held.saturating_sub(cost);
        }
    }

    /// Puts what waits into files.
    fn spill(&mut self) -> Result<()> {
        let buffer = (self.memory / 16 / PARTITIONS).clamp(16, BUFFER);
        self.partitions = (0..PARTITIONS).map(|_| Partition { buffer, ..Partition::default() }).collect();
        self.held = 0;
        for (key, rows) in std::mem::take(&mut self.waiting) {
            for row in rows {
                self.put(&key, &row.rest, row.more)?;
            }
        }
        Ok(())
    }

    fn put(&mut self, key: &[u8], rest: &[u8], more: i64) -> Result<()> {
        let mut hasher = DefaultHasher::new();
        (self.depth, key).hash(&mut hasher);
        let place = usize::try_from(hasher.finish() % PARTITIONS as u64).unwrap_or_default();
        self.partitions[place].put(key, rest, more, self.directory)
    }

    /// Returns whether files were needed.
    pub(super) fn is_in_files(&self) -> bool {
        !self.partitions.is_empty()
    }

    /// Hands out all that has no counterpart, in no order.
    pub(super) fn finish(mut self, take: &mut dyn FnMut(&Difference<'_>) -> Result<()>) -> Result<()> {
        for (key, rows) in std::mem::take(&mut self.waiting) {
            pair(&key, &rows, take)?;
        }
        for partition in std::mem::take(&mut self.partitions) {
            let mut part = Self::at(self.depth + 1, self.memory, self.directory);
            partition.each(self.directory, &mut |key, rest, more| part.take(key, rest, more))?;
            part.finish(take)?;
        }
        Ok(())
    }
}

/// Pairs the rows of one key: what both sides have was changed, what is left went or came. A key has one row on each side
/// unless it is no key, or its index is damaged.
fn pair(key: &[u8], rows: &[Waiting], take: &mut dyn FnMut(&Difference<'_>) -> Result<()>) -> Result<()> {
    let mut lefts: Vec<(&[u8], u64)> = Vec::new();
    let mut rights: Vec<(&[u8], u64)> = Vec::new();
    for row in rows {
        let side = if row.more > 0 { &mut lefts } else { &mut rights };
        side.push((&row.rest, row.more.unsigned_abs()));
    }
    lefts.sort_unstable();
    rights.sort_unstable();
    loop {
        let (left, right) = (lefts.last_mut(), rights.last_mut());
        let count = match (&left, &right) {
            (Some(left), Some(right)) => left.1.min(right.1),
            (Some(one), None) | (None, Some(one)) => one.1,
            (None, None) => return Ok(()),
        };
        let told = |side: &Option<&mut (&[u8], u64)>| side.as_ref().map(|side| side.0.to_vec());
        let (told_left, told_right) = (told(&left), told(&right));
        for side in [left, right].into_iter().flatten() {
            side.1 -= count;
        }
        take(&Difference { key, left: told_left.as_deref(), right: told_right.as_deref(), count })?;
        for side in [&mut lefts, &mut rights] {
            if side.last().is_some_and(|last| last.1 == 0) {
                side.pop();
            }
        }
    }
}

/// Rows in a file.
#[derive(Default)]
struct Partition {
    /// How much waits in memory.
    buffer: usize,
    bytes: Vec<u8>,
    file: Option<File>,
}

impl Partition {
    fn put(&mut self, key: &[u8], rest: &[u8], more: i64, directory: &Path) -> Result<()> {
        self.bytes.extend_from_slice(&more.to_le_bytes());
        for part in [key, rest] {
            self.bytes.extend_from_slice(&(part.len() as u64).to_le_bytes());
        }
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(rest);
        if self.bytes.len() < self.buffer {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(nameless_file(directory)?),
        };
        file.write_all(&self.bytes).map_err(Error::io("write to", directory))?;
        self.bytes.clear();
        Ok(())
    }

    /// Hands out all rows.
    fn each(self, directory: &Path, take: &mut dyn FnMut(Vec<u8>, Vec<u8>, i64) -> Result<()>) -> Result<()> {
        let failed = Error::io("read in", directory);
        let read = |input: &mut dyn Read, take: &mut dyn FnMut(Vec<u8>, Vec<u8>, i64) -> Result<()>| {
            while let Some((key, rest, more)) = next(input).map_err(Error::io("read in", directory))? {
                take(key, rest, more)?;
            }
            Ok::<(), Error>(())
        };
        if let Some(mut file) = self.file {
            file.rewind().map_err(failed)?;
            read(&mut BufReader::with_capacity(BUFFER, file), take)?;
        }
        read(&mut self.bytes.as_slice(), take)
    }
}

/// A row in a file: its key, what stands behind it, and how many more the left side has.
type InFile = (Vec<u8>, Vec<u8>, i64);

/// Reads the next row; nothing at the end.
fn next(input: &mut dyn Read) -> std::io::Result<Option<InFile>> {
    let mut more = [0; 8];
    let first = loop {
        match input.read(&mut more[..1]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    if first == 0 {
        return Ok(None);
    }
    input.read_exact(&mut more[1..])?;
    let mut lengths = [[0; 8]; 2];
    for length in &mut lengths {
        input.read_exact(length)?;
    }
    let mut parts = lengths.map(|length| usize::try_from(u64::from_le_bytes(length)).unwrap_or_default());
    let [key, rest] = parts.each_mut().map(|length| vec![0; *length]);
    let (mut key, mut rest) = (key, rest);
    input.read_exact(&mut key)?;
    input.read_exact(&mut rest)?;
    Ok(Some((key, rest, i64::from_le_bytes(more))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    type Told = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);

    fn differences(memory: usize, rows: &[(Side, u8, u8)], wide: usize) -> (BTreeMap<Told, u64>, bool) {
        let folder = tempfile::tempdir().unwrap();
        let mut matching = Matching::new(memory, folder.path());
        for (side, key, rest) in rows {
            let record = Record { key: vec![*key; 3], rest: vec![*rest; wide] };
            matching.push(*side, record).unwrap();
        }
        let in_files = matching.is_in_files();
        let mut found = BTreeMap::new();
        let mut take = |one: &Difference<'_>| {
            let told = (one.key.to_vec(), one.left.map(<[u8]>::to_vec), one.right.map(<[u8]>::to_vec));
            *found.entry(told).or_default() += one.count;
            Ok(())
        };
        matching.finish(&mut take).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "files have no names");
        (found, in_files)
    }

    /// How many rows of each key came, went and changed, by lists of rows.
    fn model(rows: &[(Side, u8, u8)]) -> BTreeMap<u8, (u64, u64, u64)> {
        let mut found = BTreeMap::new();
        for key in 0..=u8::MAX {
            let of = |wanted: Side| -> Vec<u8> {
                let mine = rows.iter().filter(|(side, one, _)| *side == wanted && *one == key);
                mine.map(|row| row.2).collect()
            };
            let (mut lefts, mut rights) = (of(Side::Left), of(Side::Right));
            lefts.retain(|left| match rights.iter().position(|right| right == left) {
                Some(place) => {
                    rights.remove(place);
                    false
                }
                None => true,
            });
            let changed = lefts.len().min(rights.len());
            let counts = (rights.len() - changed, lefts.len() - changed, changed);
            if counts != (0, 0, 0) {
                found.insert(key, (counts.0 as u64, counts.1 as u64, counts.2 as u64));
            }
        }
        found
    }

    fn counts(found: &BTreeMap<Told, u64>) -> BTreeMap<u8, (u64, u64, u64)> {
        let mut counts: BTreeMap<u8, (u64, u64, u64)> = BTreeMap::new();
        for ((key, left, right), count) in found {
            let of_key = counts.entry(key[0]).or_default();
            match (left, right) {
                (None, Some(_)) => of_key.0 += count,
                (Some(_), None) => of_key.1 += count,
                (left, right) => {
                    assert_ne!(left, right);
                    of_key.2 += count;
                }
            }
        }
        counts
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn differences_are_those_of_the_naive_model_in_memory_and_in_files(
            rows in prop::collection::vec((any::<bool>(), 0u8..40, 0u8..4), 0..200),
            memory in prop_oneof![Just(0usize), Just(300), Just(3000), Just(1 << 20)],
            wide in 0usize..20,
        ) {
            let side = |left: bool| if left { Side::Left } else { Side::Right };
            let rows: Vec<(Side, u8, u8)> =
                rows.into_iter().map(|(left, key, rest)| (side(left), key, rest)).collect();
            // Without bytes behind the key all rows of a key are the same.
            let seen: Vec<(Side, u8, u8)> =
                rows.iter().map(|(side, key, rest)| (*side, *key, if wide == 0 { 0 } else { *rest })).collect();
            let (found, _) = differences(memory, &rows, wide);
            prop_assert_eq!(counts(&found), model(&seen));
        }
    }

    #[test]
    fn rows_go_to_files_when_they_are_too_many_for_the_memory() {
        let rows: Vec<(Side, u8, u8)> = (0..200).map(|key| (Side::Left, key, 0)).collect();
        let (found, in_files) = differences(4096, &rows, 100);
        assert!(in_files);
        assert_eq!(found.len(), 200);
        assert!(!differences(1 << 20, &rows, 100).1);
    }

    #[test]
    fn million_rows_that_are_the_same_take_no_memory() {
        let folder = tempfile::tempdir().unwrap();
        let mut matching = Matching::new(10_000, folder.path());
        let row = || Record { key: b"twice".to_vec(), rest: Vec::new() };
        for _ in 0..300_000 {
            matching.push(Side::Left, row()).unwrap();
        }
        for _ in 0..300_001 {
            matching.push(Side::Right, row()).unwrap();
        }
        assert!(!matching.is_in_files());
        let mut found = Vec::new();
        let mut take = |one: &Difference<'_>| {
            found.push((one.left.is_some(), one.right.is_some(), one.count));
            Ok(())
        };
        matching.finish(&mut take).unwrap();
        assert_eq!(found, [(false, true, 1)]);
    }
}
