//! Stretches of rows by the names of their chunks: what both sides have is crossed off and not read.
//!
//! A chunk ends where a row does, unless it is of the greatest length: then the row may go on in the next one. So a
//! stretch is a chunk with all of that length before it, and begins and ends with a row. Stretches of the same name hold
//! the same bytes, and so the same rows.

use std::collections::HashMap;
use std::ops::Range;

use dbkeep_postgres::rows::RowEnd;
use dbkeep_repo::Id;
use dbkeep_repo::read::Image;
use ring::digest::{Context as Digest, SHA256};

use crate::backup::Cutter;

/// A chunk of this length may end within a row, and none is longer.
const LONGEST_CHUNK: usize = 1 << 20;
/// Longer stretches of the live database are not looked for: its rows wait in memory until their stretch ends.
const LONGEST: usize = 8 << 20;

/// Gives the name of a stretch by those of its chunks.
#[derive(Default)]
struct Name(Option<Id>, Option<Digest>);

impl Name {
    fn push(&mut self, id: &Id) {
        let Some(first) = self.0 else {
            self.0 = Some(*id);
            return;
        };
        let digest = self.1.get_or_insert_with(|| {
            let mut digest = Digest::new(&SHA256);
            digest.update(first.as_bytes());
            digest
        });
        digest.update(id.as_bytes());
    }

    fn take(&mut self) -> Option<Id> {
        let Self(first, digest) = std::mem::take(self);
        match digest {
            None => first,
            Some(digest) => digest.finish().as_ref().try_into().ok().map(Id::new),
        }
    }
}

/// Returns the stretches of a table in a snapshot: their names and which chunks they are.
pub(super) fn stretches(rows: &Image) -> Vec<(Id, Range<usize>)> {
    let mut found = Vec::new();
    let (mut first, mut name) = (0, Name::default());
    for (chunk, id) in rows.ids().iter().enumerate() {
        name.push(id);
        if rows.span(chunk).1 as usize >= LONGEST_CHUNK && chunk + 1 < rows.chunks() {
            continue;
        }
        if let Some(name) = name.take() {
            found.push((name, first..chunk + 1));
        }
        first = chunk + 1;
    }
    found
}

/// The stretches of one side, crossed off by those of the other. Twice the same stretch is crossed off twice.
#[derive(Debug, Default)]
pub(super) struct Crossing(HashMap<Id, u32>);

impl Crossing {
    pub(super) fn new(stretches: &[(Id, Range<usize>)]) -> Self {
        let mut left: HashMap<Id, u32> = HashMap::with_capacity(stretches.len());
        stretches.iter().for_each(|(name, _)| *left.entry(*name).or_default() += 1);
        Self(left)
    }

    /// Crosses a stretch off. Returns whether there was such a one.
    pub(super) fn cross_off(&mut self, name: &Id) -> bool {
        match self.0.get_mut(name) {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        }
    }

    /// Returns the chunks that are left of the same stretches, joined where they touch.
    pub(super) fn left(mut self, stretches: &[(Id, Range<usize>)]) -> Vec<Range<usize>> {
        let mut left: Vec<Range<usize>> = Vec::new();
        for (_, chunks) in stretches.iter().filter(|(name, _)| self.cross_off(name)) {
            match left.last_mut() {
                Some(last) if last.end == chunks.start => last.end = chunks.end,
                _ => left.push(chunks.clone()),
            }
        }
        left
    }
}

/// Cuts rows of the live database as a backup would, and names the stretches.
pub(super) struct Stretcher {
    cutter: Cutter,
    /// The rows of the stretch that has not ended, and where its open chunk begins.
    bytes: Vec<u8>,
    chunk: usize,
    name: Name,
    /// The stretch is longer than is looked for, and its begin was given away.
    too_long: bool,
}

/// What became of rows.
pub(super) enum Stretch<'b> {
    /// All of a stretch, with its name.
    Whole(Id, &'b [u8]),
    /// A part of one that has none, because it is too long.
    Part(&'b [u8]),
}

/// What takes stretches.
pub(super) type TakeStretch<'t, E> = dyn FnMut(Stretch<'_>) -> Result<(), E> + 't;

impl Stretcher {
    /// Cuts with the length of chunks that the table has in the snapshot.
    pub(super) fn new(chunk_size: u32) -> Self {
        Self {
            cutter: Cutter::new(chunk_size),
            bytes: Vec::new(),
            chunk: 0,
            name: Name::default(),
            too_long: false,
        }
    }

    /// Takes the next bytes, and where rows end in them.
    pub(super) fn take<E>(
        &mut self,
        bytes: &[u8],
        ends: &[RowEnd],
        take: &mut TakeStretch<'_, E>,
    ) -> Result<(), E> {
        let (mut stored, mut row) = (0, 0);
        for end in ends {
            if self.cutter.take((end.at - row) as u64, end.hash) {
                self.write(&bytes[stored..end.at], take)?;
                self.cut(true, take)?;
                stored = end.at;
            }
            row = end.at;
        }
        self.cutter.pass((bytes.len() - row) as u64);
        self.write(&bytes[stored..], take)
    }

    /// Ends the rows.
    pub(super) fn finish<E>(mut self, take: &mut TakeStretch<'_, E>) -> Result<(), E> {
        self.cut(true, take)?;
        self.end(take)
    }

    fn write<E>(&mut self, mut bytes: &[u8], take: &mut TakeStretch<'_, E>) -> Result<(), E> {
        while !bytes.is_empty() {
            let room = LONGEST_CHUNK - (self.bytes.len() - self.chunk);
            let (now, later) = bytes.split_at(bytes.len().min(room));
            self.bytes.extend_from_slice(now);
            bytes = later;
            if now.len() == room {
                self.cut(false, take)?;
            }
        }
        Ok(())
    }

    /// Ends the open chunk, unless it is empty. Where it ends with a row and could not have been longer, the stretch goes
    /// on all the same: from names and lengths alone nobody could tell.
    fn cut<E>(&mut self, at_row: bool, take: &mut TakeStretch<'_, E>) -> Result<(), E> {
        let length = self.bytes.len() - self.chunk;
        if length == 0 {
            return Ok(());
        }
        self.name.push(&Id::of(&self.bytes[self.chunk..]));
        self.chunk = self.bytes.len();
        if at_row && length < LONGEST_CHUNK {
            return self.end(take);
        }
        if self.bytes.len() >= LONGEST {
            self.too_long = true;
            take(Stretch::Part(&self.bytes))?;
            self.bytes.clear();
            self.chunk = 0;
        }
        Ok(())
    }

    /// Ends the stretch.
    fn end<E>(&mut self, take: &mut TakeStretch<'_, E>) -> Result<(), E> {
        let (name, too_long) = (self.name.take(), std::mem::take(&mut self.too_long));
        match name {
            Some(name) if !too_long => take(Stretch::Whole(name, &self.bytes))?,
            _ if self.bytes.is_empty() => {}
            _ => take(Stretch::Part(&self.bytes))?,
        }
        self.bytes.clear();
        self.chunk = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_postgres::rows::RowSummer;

    use super::*;

    fn id(number: u8) -> Id {
        Id::of(&[number])
    }

    fn named(names: &[u8]) -> Vec<(Id, Range<usize>)> {
        names.iter().enumerate().map(|(place, name)| (id(*name), place..place + 1)).collect()
    }

    #[test]
    fn stretches_are_crossed_off_as_often_as_they_are_there() {
        let left = named(&[1, 2, 3, 2, 4]);
        let mut crossing = Crossing::new(&left);
        let crossed = [2, 9, 4, 4].map(|name| crossing.cross_off(&id(name)));
        assert_eq!(crossed, [true, false, true, false]);
        // Which of two that are the same is left does not matter.
        assert_eq!(crossing.left(&left), std::iter::once(0..3).collect::<Vec<_>>());
    }

    /// Cuts rows that come in pieces. Returns the names of stretches, none for parts of one, and all bytes.
    fn cut(rows: &[u8], piece: usize, chunk_size: u32) -> (Vec<Option<Id>>, Vec<u8>) {
        let (mut stretcher, mut summer) = (Stretcher::new(chunk_size), RowSummer::default());
        let (mut names, mut all) = (Vec::new(), Vec::new());
        let mut take = |stretch: Stretch<'_>| {
            let (name, bytes) = match stretch {
                Stretch::Whole(name, bytes) => (Some(name), bytes),
                Stretch::Part(bytes) => (None, bytes),
            };
            names.push(name);
            all.extend_from_slice(bytes);
            Ok::<(), ()>(())
        };
        for bytes in rows.chunks(piece) {
            let ends = summer.update(bytes).to_vec();
            stretcher.take(bytes, &ends, &mut take).unwrap();
        }
        stretcher.finish(&mut take).unwrap();
        (names, all)
    }

    #[test]
    fn stretches_of_rows_do_not_depend_on_how_they_come_and_hold_all_of_them() {
        let rows: Vec<u8> = (0..20_000).flat_map(|row| format!("{row}\tname {row}\n").into_bytes()).collect();
        let (names, all) = cut(&rows, 1 << 20, 2048);
        assert_eq!(all, rows);
        assert!(names.len() > 50 && names.iter().all(Option::is_some), "{}", names.len());
        assert_eq!(cut(&rows, 777, 2048).0, names);
        let mut changed = rows.clone();
        changed[200_000] ^= 1;
        let differ = names.iter().filter(|name| !cut(&changed, 777, 2048).0.contains(name)).count();
        assert!((1..4).contains(&differ), "{differ} stretches are new by one row");
    }

    #[test]
    fn stretch_with_a_long_row_begins_and_ends_with_a_row() {
        let mut rows = b"1\tshort\n2\t".to_vec();
        rows.resize(rows.len() + (3 << 20), b'x');
        rows.extend_from_slice(b"\n3\tshort\n");
        let (names, all) = cut(&rows, 10_000, 16 << 10);
        assert_eq!(all, rows);
        assert!(names.len() <= 2 && names.iter().all(Option::is_some), "{names:?}");
        assert_eq!(cut(&rows, 1 << 20, 16 << 10).0, names);
        // Nine MiB wait for no end.
        let mut rows = vec![b'x'; 9 << 20];
        rows.push(b'\n');
        let (names, all) = cut(&rows, 1 << 20, 16 << 10);
        assert_eq!((names, all.len()), (vec![None, None], rows.len()));
    }
}
