//! Reading all rows of one moment, by several connections at once.
//!
//! Each part is read in a transaction of its own that takes over the snapshot: begin, lock the table, look whether its
//! rows are still those of the moment, copy, end. The lock lasts for one part, so a migration waits seconds for us at
//! most; what it rewrote is found by the look, because a rewritten table has another file. Such a table reads as empty
//! under the old snapshot, without an error, which is why nothing here relies on errors alone.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::catalog::{Catalog, Table};
use crate::conninfo::ConnInfo;
use crate::error::BoxError;
use crate::plan::{Part, Range, parts, reads_by_key};
use crate::rows::{RowEnd, RowSum, RowSummer};
use crate::snapshot::{Holder, begin};
use crate::wire::{Connection, Options};
use crate::{Error, Result};

/// How long a part waits for the lock of its table.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = '60s'";
/// Rows in the order of an index, as they come from it.
pub(crate) const BY_INDEX: &str = "SET LOCAL enable_sort = off; SET LOCAL enable_seqscan = off";

/// Takes the rows of parts. Parts come at once, from several threads.
pub trait Receiver: Sync {
    /// Takes the rows of a part that is about to be read.
    ///
    /// # Errors
    /// Ends the reading of all parts.
    fn open(&self, part: &Part, table: &Table) -> Result<Box<dyn PartReceiver + '_>, BoxError>;
}

/// Takes the rows of one part, as COPY writes them.
pub trait PartReceiver {
    /// Takes the next bytes, and where rows end in them; a row may be in several.
    fn take(&mut self, bytes: &[u8], ends: &[RowEnd]) -> Result<(), BoxError>;

    /// All rows of the part have come.
    fn finish(self: Box<Self>, sum: RowSum) -> Result<(), BoxError>;
}

/// Reads the parts of a moment.
#[derive(Debug)]
pub struct Dump<'a> {
    /// How the server is reached.
    pub info: &'a ConnInfo,
    /// How connections behave.
    pub options: &'a Options,
    /// The snapshot.
    pub snapshot: &'a str,
    /// What is there.
    pub catalog: &'a Catalog,
    /// How many connections read.
    pub jobs: usize,
}

/// Returns all parts of a moment, cut by what the server knows of the values of keys.
///
/// # Errors
/// When the server cannot be asked.
pub fn plan(holder: &mut Holder, catalog: &Catalog) -> Result<Vec<Part>> {
    let mut bounds = std::collections::HashMap::new();
    for table in catalog.with_rows().filter(|table| reads_by_key(table)) {
        let first = table.key.as_ref().and_then(|key| key.columns.first());
        let Some(first) = first else { continue };
        let rows = holder.connection().query(
            "SELECT pg_catalog.unnest(histogram_bounds::pg_catalog.text::pg_catalog.text[]) FROM pg_catalog.pg_stats
             WHERE schemaname = $1 AND tablename = $2 AND attname = $3 AND NOT inherited",
            &[Some(&table.name.schema), Some(&table.name.name), Some(first)],
        )?;
        bounds.insert(table.oid, rows.into_iter().flatten().flatten().collect::<Vec<String>>());
    }
    Ok(parts(catalog, |table| bounds.get(&table.oid).cloned().unwrap_or_default()))
}

impl Dump<'_> {
    /// Reads all parts, the first first. Returns the sums of all tables, as the catalog has them.
    ///
    /// # Errors
    /// The first that any connection met; nothing of what was received counts then. [`Error::Changed`] says that the
    /// moment is over and another one may succeed.
    pub fn run(&self, parts: Vec<Part>, receiver: &dyn Receiver) -> Result<Vec<RowSum>> {
        let work = Work::new(parts, self.catalog.tables.len());
        self.each(&work, &|connection, part| self.read(connection, part, receiver));
        work.end()
    }

    /// Does something to each part, by several connections at once.
    pub(crate) fn each(&self, work: &Work, read: &(dyn Fn(&mut Connection, &Part) -> Result<RowSum> + Sync)) {
        let jobs = self.jobs.clamp(1, work.left().max(1));
        thread::scope(|scope| {
            for number in 0..jobs {
                let name = format!("read rows {number}");
                let worker = || work.note(self.work(work, read));
                if let Err(source) = thread::Builder::new().name(name).spawn_scoped(scope, worker) {
                    work.note(Err(Error::System { what: "start a thread", source }));
                }
            }
        });
    }

    fn work(
        &self,
        work: &Work,
        read: &(dyn Fn(&mut Connection, &Part) -> Result<RowSum> + Sync),
    ) -> Result<()> {
        let mut connection = None;
        while let Some(part) = work.next() {
            let connection = match &mut connection {
                Some(connection) => connection,
                None => connection.insert(Connection::open(self.info, self.options)?),
            };
            work.add(part.table, read(connection, &part)?);
        }
        Ok(())
    }

    fn read(&self, connection: &mut Connection, part: &Part, receiver: &dyn Receiver) -> Result<RowSum> {
        let table =
            self.catalog.tables.get(part.table).ok_or_else(|| Error::protocol("a part of no table"))?;
        begin(connection, Some(self.snapshot))?;
        if reads_by_key(table) || matches!(part.range, Range::Keys { .. }) {
            // By the index, which has them in order: sorting would fill the disk of the server with temporary files.
            connection.execute(BY_INDEX)?;
        }
        lock(connection, table)?;
        let sum = copy(connection, part, table, &part.statement(table), receiver)?;
        connection.execute("COMMIT")?;
        Ok(sum)
    }
}

/// Locks a table against being rewritten, and makes sure that it was not.
fn lock(connection: &mut Connection, table: &Table) -> Result<()> {
    connection.execute(LOCK_TIMEOUT)?;
    let gone = |error: Error| match error.code() {
        // There is no table or no schema of that name any more.
        Some("42P01" | "3F000") => Error::Changed { table: table.name.quoted(), what: "was dropped" },
        _ => error,
    };
    connection
        .execute(&format!("LOCK TABLE ONLY {} IN ACCESS SHARE MODE", table.name.quoted()))
        .map_err(gone)?;
    let oid = table.oid.to_string();
    let rows = connection.query(
        "SELECT pg_catalog.pg_relation_filenode($1::pg_catalog.oid),
                pg_catalog.to_regclass($2)::pg_catalog.oid",
        &[Some(&oid), Some(&table.name.quoted())],
    )?;
    let value = |column: usize| rows.first().and_then(|row| row.get(column)?.clone());
    if value(1) != Some(oid) {
        return Err(Error::Changed { table: table.name.quoted(), what: "is another table now" });
    }
    if value(0) != Some(table.filenode.to_string()) {
        return Err(Error::Changed { table: table.name.quoted(), what: "was rewritten or emptied" });
    }
    Ok(())
}

pub(crate) fn copy(
    connection: &mut Connection,
    part: &Part,
    table: &Table,
    statement: &str,
    receiver: &dyn Receiver,
) -> Result<RowSum> {
    let changed = |error: Error| match error.code() {
        // A column is not there any more.
        Some("42703" | "42P01") => Error::Changed { table: table.name.quoted(), what: "lost a column" },
        _ => error,
    };
    let mut rows = connection.copy_out(statement).map_err(changed)?;
    let mut open = receiver.open(part, table).map_err(Error::Receiver)?;
    let mut summer = RowSummer::default();
    while let Some(piece) = rows.next_piece()? {
        let ends = summer.update(piece);
        open.take(piece, ends).map_err(Error::Receiver)?;
    }
    let sum = summer.finish().ok_or_else(|| Error::protocol("a row without an end"))?;
    open.finish(sum).map_err(Error::Receiver)?;
    Ok(sum)
}

/// What is left to read, and what came of it.
pub(crate) struct Work {
    waiting: Mutex<VecDeque<Part>>,
    sums: Mutex<Vec<RowSum>>,
    failed: Mutex<Option<Error>>,
}

impl Work {
    /// Begins with parts of so many tables.
    pub(crate) fn new(parts: Vec<Part>, tables: usize) -> Self {
        Self {
            waiting: Mutex::new(parts.into()),
            sums: Mutex::new(vec![RowSum::default(); tables]),
            failed: Mutex::new(None),
        }
    }

    /// Returns the sums of all tables, or the first failure.
    pub(crate) fn end(self) -> Result<Vec<RowSum>> {
        match self.failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(self.sums.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn left(&self) -> usize {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Returns the next part; none after a failure.
    fn next(&self) -> Option<Part> {
        if self.failed.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return None;
        }
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn add(&self, table: usize, sum: RowSum) {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(all) = sums.get_mut(table) {
            *all = all.plus(sum);
        }
    }

    fn note(&self, result: Result<()>) {
        if let Err(error) = result {
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }
}

#[cfg(test)]
mod tests;
