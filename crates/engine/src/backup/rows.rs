//! Rows of tables on their way into the repository: where chunks end, and which chunks are which table.
//!
//! A chunk ends where a row does, and after which row is decided by the hashes of rows: a row that was put in, changed or
//! removed makes its own chunk new and no other. Chunks are short, because a chunk is new when one of its rows is: with
//! one row in a hundred changed anywhere, sixteen rows in a chunk mean that a fifth of the chunks is new. Short chunks
//! cost the repository some 150 bytes each, so rows decide up to a point only.

use std::sync::{Mutex, OnceLock, PoisonError};

use dbkeep_postgres::BoxError;
use dbkeep_postgres::catalog::{Catalog, Table};
use dbkeep_postgres::dump::{PartReceiver, Receiver};
use dbkeep_postgres::plan::Part;
use dbkeep_postgres::rows::{RowEnd, RowSum};
use dbkeep_repo::write::{StoredStream, Stream, Streams};

use crate::context::Watch;
use crate::tables_done::TablesDone;

/// Rows in a chunk,
const ROWS: u64 = 16;
/// unless chunks would be shorter than this on the average,
const SHORTEST: u64 = 3 << 9;
/// or longer.
const LONGEST: u64 = 16 << 10;
/// About how many chunks a database has at most: each takes memory in every later backup.
const CHUNKS: u64 = 1 << 20;
/// The length of chunks of the last backup stays unless another is better by so much: with another one no chunk is
/// found again.
const BETTER: u64 = 4;

/// Decides about the lengths of chunks. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lengths {
    shortest: u64,
    longest: u64,
}

impl Lengths {
    /// Returns those for a database of so many bytes.
    pub(super) fn of(bytes: u64) -> Self {
        let least = (bytes / CHUNKS).next_power_of_two();
        Self { shortest: SHORTEST.max(least), longest: LONGEST.max(least) }
    }

    /// Returns the length for rows of so many bytes on the average.
    fn choose(self, row: u64, last: Option<u32>) -> u32 {
        let best = row.saturating_mul(ROWS).clamp(self.shortest, self.longest);
        let length =
            last.map(u64::from).filter(|last| *last > 0 && last / BETTER <= best && best <= last * BETTER);
        u32::try_from(length.unwrap_or(best)).unwrap_or(u32::MAX)
    }
}

/// Decides after which rows a stream is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cutter {
    /// The length of chunks on the average.
    mean: u64,
    /// Bytes of whole rows since the last cut.
    length: u64,
    /// Bytes of a row whose end has not come.
    open: u64,
}

impl Cutter {
    /// Cuts into chunks of this length on the average.
    pub(crate) fn new(mean: u32) -> Self {
        Self { mean: u64::from(mean.max(2)), length: 0, open: 0 }
    }

    /// Takes a row, or the rest of one. Returns whether the stream is to be cut behind it.
    ///
    /// From half of the length on, each byte gives the same chance to end the chunk, whatever the length of rows.
    pub(crate) fn take(&mut self, bytes: u64, hash: u64) -> bool {
        let row = std::mem::take(&mut self.open) + bytes;
        self.length += row;
        let half = self.mean / 2;
        let chance = (u64::MAX / half).saturating_mul(row);
        let cut = self.length >= half && (hash <= chance || self.length >= self.mean * 4);
        if cut {
            self.length = 0;
        }
        cut
    }

    /// Takes bytes of a row whose end has not come.
    pub(crate) fn pass(&mut self, bytes: u64) {
        self.open += bytes;
    }
}

/// Stores the rows of all tables of a moment.
pub(super) struct Rows<'w> {
    streams: Streams<'w>,
    lengths: Lengths,
    watch: &'w Watch,
    done: TablesDone<'w>,
    tables: Vec<TableRows>,
}

/// The rows of one table.
pub(super) struct TableRows {
    /// The length of its chunks, when its first rows have come.
    chunk_size: OnceLock<u32>,
    /// The length in the last backup.
    last: Option<u32>,
    /// Whether it is one of the catalog, and not a part of large objects.
    counts: bool,
    /// Its parts, as far as they are stored.
    parts: Mutex<Vec<Option<StoredStream>>>,
}

impl<'w> Rows<'w> {
    /// Prepares for the tables of a catalog and what else there is, with the lengths of their chunks in the last backup.
    pub(super) fn new(
        streams: Streams<'w>,
        lengths: Lengths,
        catalog: &Catalog,
        last: impl Iterator<Item = Option<u32>>,
        watch: &'w Watch,
    ) -> Self {
        let table = |(place, last)| TableRows {
            chunk_size: OnceLock::new(),
            last,
            counts: place < catalog.tables.len(),
            parts: Mutex::default(),
        };
        let done = TablesDone::new(watch);
        done.begin(catalog.with_rows().count());
        Self { streams, lengths, watch, done, tables: last.enumerate().map(table).collect() }
    }

    /// Returns the rows of each table in order, with the length of its chunks; `None` where a part did not come, or none
    /// was asked for.
    pub(super) fn finish(self) -> Vec<Option<(StoredStream, u32)>> {
        let finish = |table: TableRows| {
            let parts = table.parts.into_inner().unwrap_or_else(PoisonError::into_inner);
            let mut parts = parts.into_iter();
            let mut whole = parts.next()??;
            for part in parts {
                whole.append(part?);
            }
            Some((whole, table.chunk_size.into_inner().or(table.last).unwrap_or(0)))
        };
        self.tables.into_iter().map(finish).collect()
    }
}

impl Receiver for Rows<'_> {
    fn open(&self, part: &Part, _: &Table) -> Result<Box<dyn PartReceiver + '_>, BoxError> {
        let table = self.tables.get(part.table).ok_or("a part of a table that is not stored")?;
        let mut parts = table.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.resize(part.parts, None);
        drop(parts);
        Ok(Box::new(PartRows {
            rows: self,
            table,
            number: part.number,
            stream: self.streams.open(),
            cutter: None,
        }))
    }
}

/// The rows of a part.
struct PartRows<'w> {
    rows: &'w Rows<'w>,
    table: &'w TableRows,
    number: usize,
    stream: Stream<'w>,
    cutter: Option<Cutter>,
}

impl PartRows<'_> {
    /// Returns what cuts the rows. All parts of a table are cut alike, by what the first rows are like that come.
    fn cutter(&mut self, bytes: &[u8], ends: &[RowEnd]) -> &mut Cutter {
        let (table, lengths) = (self.table, self.rows.lengths);
        self.cutter.get_or_insert_with(|| {
            let row = bytes.len() / ends.len().max(1);
            Cutter::new(*table.chunk_size.get_or_init(|| lengths.choose(row as u64, table.last)))
        })
    }
}

impl PartReceiver for PartRows<'_> {
    fn take(&mut self, bytes: &[u8], ends: &[RowEnd]) -> Result<(), BoxError> {
        let mut cutter = *self.cutter(bytes, ends);
        let (mut stored, mut row) = (0, 0);
        for end in ends {
            if cutter.take((end.at - row) as u64, end.hash) {
                self.stream.write(&bytes[stored..end.at])?;
                self.stream.cut()?;
                stored = end.at;
            }
            row = end.at;
        }
        cutter.pass((bytes.len() - row) as u64);
        self.stream.write(&bytes[stored..])?;
        self.cutter = Some(cutter);
        self.rows.watch.advance(bytes.len() as u64);
        Ok(())
    }

    fn finish(self: Box<Self>, _: RowSum) -> Result<(), BoxError> {
        let stored = self.stream.finish()?;
        let mut parts = self.table.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let place = parts.get_mut(self.number).ok_or("a part behind the last")?;
        *place = Some(stored);
        if self.table.counts && parts.iter().all(Option::is_some) {
            self.rows.done.one_more();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of `length` bytes with hashes that look random.
    fn rows(count: u64, length: u64) -> Vec<(u64, u64)> {
        let hash = |number: u64| {
            u64::from_le_bytes(blake3::hash(&number.to_le_bytes()).as_bytes()[..8].try_into().unwrap())
        };
        (0..count).map(|number| (length, hash(number))).collect()
    }

    fn chunks(rows: &[(u64, u64)], mean: u32) -> Vec<Vec<(u64, u64)>> {
        let mut cutter = Cutter::new(mean);
        let mut chunks = vec![Vec::new()];
        for (length, hash) in rows {
            chunks.last_mut().unwrap().push((*length, *hash));
            if cutter.take(*length, *hash) {
                chunks.push(Vec::new());
            }
        }
        chunks.retain(|chunk| !chunk.is_empty());
        chunks
    }

    #[test]
    fn chunks_have_the_wanted_length_on_the_average_and_bounds() {
        for (length, mean) in [(100, 2048), (20, 2048), (700, 11_200), (5_000, 16_384)] {
            let rows = rows(50_000, length);
            let chunks = chunks(&rows, mean);
            assert_eq!(chunks.concat(), rows);
            let average = 50_000 * length / chunks.len() as u64;
            let mean = u64::from(mean);
            assert!((mean * 4 / 5..mean * 6 / 5).contains(&average), "{average} instead of {mean}");
            let whole = &chunks[..chunks.len() - 1];
            let bytes = |chunk: &Vec<(u64, u64)>| chunk.len() as u64 * length;
            assert!(whole.iter().all(|chunk| (mean / 2..mean * 4 + length).contains(&bytes(chunk))));
        }
    }

    #[test]
    fn cuts_are_the_same_however_rows_come() {
        for (length, hash) in rows(2000, 300) {
            let (mut whole, mut pieces) = (Cutter::new(1000), Cutter::new(1000));
            whole.take(600, 0xffff_ffff_ffff_ffff);
            pieces.take(600, 0xffff_ffff_ffff_ffff);
            pieces.pass(100);
            pieces.pass(0);
            assert_eq!(pieces.take(length - 100, hash), whole.take(length, hash), "{hash:x}");
        }
    }

    #[test]
    fn changed_rows_make_few_chunks_new() {
        let before = rows(100_000, 100);
        let mut after = before.clone();
        for row in after.iter_mut().step_by(100) {
            row.1 = !row.1.rotate_left(17);
        }
        after.insert(50_050, (100, 7));
        let known: std::collections::HashSet<_> = chunks(&before, 1600).into_iter().collect();
        let after = chunks(&after, 1600);
        let new: usize = after.iter().filter(|chunk| !known.contains(*chunk)).map(Vec::len).sum();
        assert!((16_000..22_000).contains(&new), "{new} of 100000 rows are in new chunks");
    }

    #[test]
    fn lengths_fit_the_rows_and_the_database_and_stay() {
        let small = Lengths::of(1 << 30);
        assert_eq!(
            [20, 100, 200, 900, 5000, 1 << 20].map(|row| small.choose(row, None)),
            [1536, 1600, 3200, 14_400, 16_384, 16_384]
        );
        let large = Lengths::of(1 << 40);
        assert_eq!([20, 5000].map(|row| large.choose(row, None)), [1 << 20, 1 << 20]);
        assert_eq!(small.choose(200, Some(9000)), 9000, "found again");
        assert_eq!(small.choose(200, Some(900_000)), 3200, "much too long");
        assert_eq!(small.choose(200, Some(0)), 3200);
        assert_eq!(Lengths::of(0), Lengths::of(1 << 30));
    }
}
