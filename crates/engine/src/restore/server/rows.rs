//! The rows of a snapshot on their way into a server.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use dbkeep_postgres::catalog::{Name, Table};
use dbkeep_postgres::load::Giver;
use dbkeep_postgres::wire::CopyIn;
use dbkeep_repo::read::Image;

use crate::context::Watch;
use crate::manifest::TableProof;
use crate::served::Served;
use crate::tables_done::TablesDone;
use crate::{Error, Result};

/// Bytes of a table that come in one piece.
const PIECE: u64 = 64 << 20;

/// A chunk of this length may end within a row; a shorter one ends where a row does.
const LONGEST_CHUNK: u32 = 1 << 20;

/// Gives the rows of a snapshot.
pub(super) struct StoredRows<'s> {
    served: &'s Served<'s>,
    proofs: BTreeMap<Name, &'s TableProof>,
    /// Those that were asked for, and how they are cut into pieces. Lists of pieces of several tables are read at a time.
    open: Mutex<BTreeMap<Name, Arc<Mutex<Option<Cut>>>>>,
    failure: Mutex<Option<Error>>,
    watch: &'s Watch,
    done: TablesDone<'s>,
    /// Whether all rows are compared with their sums when they are in the server.
    compared: bool,
}

/// A table in pieces.
#[derive(Clone)]
struct Cut {
    rows: Arc<Image>,
    pieces: Vec<Range<usize>>,
    /// For each piece.
    told: Arc<[Told]>,
    /// How many pieces were not given yet.
    left: Arc<AtomicUsize>,
}

/// What of a piece was told to whoever watches. Rows that are given again are not told again.
#[derive(Default)]
struct Told {
    bytes: AtomicU64,
    is_whole: AtomicBool,
}

impl Told {
    /// Returns how many bytes are new when so many were given.
    fn new_of(&self, given: u64) -> u64 {
        given.saturating_sub(self.bytes.fetch_max(given, Ordering::Relaxed))
    }

    /// All of it was given. Returns whether that is so for the first time.
    fn is_whole_at_last(&self) -> bool {
        !self.is_whole.swap(true, Ordering::Relaxed)
    }
}

impl<'s> StoredRows<'s> {
    /// Gives them to somebody who compares all of them afterwards, or does not: then the repository is asked to.
    pub(super) fn new(served: &'s Served<'_>, watch: &'s Watch, compared: bool) -> Self {
        let proofs = served.facts.tables.iter().map(|proof| (proof.table(), proof)).collect();
        let done = TablesDone::new(watch);
        Self { served, proofs, open: Mutex::default(), failure: Mutex::default(), watch, done, compared }
    }

    /// Shows that a phase has begun in which the rows of so many tables are given.
    pub(super) fn begin(&self, name: &str, bytes: u64, tables: usize) {
        self.watch.phase(name, bytes);
        self.done.begin(tables);
    }

    /// Returns why rows could not be read, if that is what failed.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Reads the lists of pieces of the largest tables while something else is done: they are wanted first. A list that
    /// cannot be read, or for which there is no thread, is asked for again when it is wanted.
    pub(super) fn read_ahead<T>(&self, tables: usize, meanwhile: impl FnOnce() -> T) -> T {
        let mut largest: Vec<&TableProof> = self.proofs.values().copied().collect();
        largest.sort_by_key(|proof| Reverse(proof.size));
        largest.truncate(tables);
        let is_over = AtomicBool::new(false);
        let read = || {
            let is_wanted = |_: &&TableProof| !is_over.load(Ordering::Relaxed) && !self.watch.cancelled();
            largest.into_iter().take_while(is_wanted).for_each(|proof| drop(self.cut(&proof.table())));
        };
        thread::scope(|scope| {
            drop(thread::Builder::new().name("read ahead".to_owned()).spawn_scoped(scope, read));
            let done = meanwhile();
            is_over.store(true, Ordering::Relaxed);
            done
        })
    }

    fn cut(&self, table: &Name) -> Result<Cut> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let cut = Arc::clone(open.entry(table.clone()).or_default());
        drop(open);
        let mut cut = cut.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cut) = &*cut {
            return Ok(cut.clone());
        }
        let proof = self.proofs.get(table).ok_or_else(|| Error::Damaged {
            what: format!("snapshot {}", self.served.entry.id.short()),
            finding: format!("it has no rows of {}", table.quoted()),
        })?;
        let rows = self.served.rows(proof)?;
        let pieces = pieces(&rows);
        let told = pieces.iter().map(|_| Told::default()).collect();
        if pieces.is_empty() {
            self.done.one_more();
        }
        let left = Arc::new(AtomicUsize::new(pieces.len()));
        Ok(cut.insert(Cut { rows, pieces, told, left }).clone())
    }

    fn send(&self, table: &Table, piece: usize, into: &mut CopyIn<'_>) -> Result<()> {
        let cut = self.cut(&table.name)?;
        let Some((chunks, told)) = cut.pieces.get(piece).zip(cut.told.get(piece)) else { return Ok(()) };
        let (reader, chunks) = (self.served.reader, chunks.clone());
        // An extension's own table may end up without the rows.
        let mut rows = match self.compared && table.extension.is_none() {
            true => reader.forward_unhashed(&cut.rows, chunks)?,
            false => reader.forward(&cut.rows, chunks)?,
        };
        let mut given = 0;
        while let Some(bytes) = rows.next()? {
            into.write(bytes)?;
            given += bytes.len() as u64;
            self.watch.advance(told.new_of(given));
        }
        if told.is_whole_at_last() && cut.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.done.one_more();
        }
        Ok(())
    }

    fn keep(&self, error: Error) -> dbkeep_postgres::Error {
        let what = error.full_message();
        match error {
            Error::Postgres(error) => error,
            error => {
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                dbkeep_postgres::Error::Receiver(what.into())
            }
        }
    }
}

impl Giver for StoredRows<'_> {
    fn pieces(&self, table: &Table) -> dbkeep_postgres::Result<usize> {
        self.cut(&table.name).map(|cut| cut.pieces.len()).map_err(|error| self.keep(error))
    }

    fn give(&self, table: &Table, piece: usize, into: &mut CopyIn<'_>) -> dbkeep_postgres::Result<()> {
        self.send(table, piece, into).map_err(|error| self.keep(error))
    }
}

/// Cuts a table into pieces of whole rows.
fn pieces(rows: &Image) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let (mut first, mut bytes) = (0, 0);
    for chunk in 0..rows.chunks() {
        let (_, length) = rows.span(chunk);
        bytes += u64::from(length);
        if bytes >= PIECE && length < LONGEST_CHUNK {
            pieces.push(first..chunk + 1);
            (first, bytes) = (chunk + 1, 0);
        }
    }
    if first < rows.chunks() {
        pieces.push(first..rows.chunks());
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_are_given_again_count_once() {
        let told = Told::default();
        assert_eq!([10, 25, 25].map(|given| told.new_of(given)), [10, 15, 0]);
        assert_eq!([10, 20, 30, 40].map(|given| told.new_of(given)), [0, 0, 5, 10], "from the begin");
        assert_eq!([told.is_whole_at_last(), told.is_whole_at_last()], [true, false]);
    }
}
