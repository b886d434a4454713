//! Bringing rows back: they go in by several connections at once, and then all of them are read and summed up again.
//!
//! Rows are stored as text. On their way they become binary where that can be done with certainty, because it takes
//! servers half the time; what is compared afterwards is text again, made by the server.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::binary::{Encoder, encoder};
use crate::catalog::{Catalog, Name, Sequence, Table};
use crate::conninfo::ConnInfo;
use crate::dump::{Dump, PartReceiver, Receiver};
use crate::error::BoxError;
use crate::plan::{Part, READS_RANGES, parts};
use crate::restore::prepared_session;
use crate::rows::{RowEnd, RowSum};
use crate::snapshot::{Holder, SETTINGS, literal, version};
use crate::wire::{Connection, CopyIn, Options, Row};
use crate::{Error, Result};

/// A smaller table is filled by one connection: so its rows need not be looked at again, see [`Load::fill`].
const SPLIT: u64 = 64 << 20;
/// With fewer connections a table is not shared out: what that saves is lost again when its rows are looked at.
const SHARING: usize = 3;
/// So many shares a table is filled in at most, for each connection.
const SHARES: usize = 8;
/// The rows of a smaller table are there before the server has said what types its columns have.
const WORTH_ASKING: u64 = 64 << 10;

/// Gives rows, as COPY wrote them. Called by several threads at once.
pub trait Giver: Sync {
    /// Returns in how many pieces the rows of a table come; each has whole rows. All of them are asked for, in any order,
    /// and again when the server did not take them as they went in first. The number is that of the pieces: 0 for a
    /// table without any rows is fine.
    fn pieces(&self, table: &Table) -> usize {
        let _ = table;
        1
    }

    /// Sends the rows of a piece of a table, the same ones each time.
    ///
    /// # Errors
    /// Ends the restore, but for those of [`CopyIn::write`], which are passed on.
    fn give(&self, table: &Table, piece: usize, into: &mut CopyIn<'_>) -> Result<()>;
}

/// Puts rows into the tables of a database that has none yet.
#[derive(Debug)]
pub struct Load<'a> {
    info: &'a ConnInfo,
    options: &'a Options,
    jobs: usize,
    split: u64,
    /// How large a table must be to go in as binary; none when all go in as text.
    binary: Option<u64>,
}

/// What one connection puts into a table at a time.
#[derive(Debug, PartialEq, Eq)]
struct Share<'t> {
    table: &'t Name,
    /// Which pieces of its rows; `None` for all.
    pieces: Option<Range<usize>>,
    bytes: u64,
}

impl Share<'_> {
    /// Says whether these are all rows of the table.
    fn is_whole(&self) -> bool {
        self.pieces.is_none()
    }
}

impl<'a> Load<'a> {
    /// Reaches a database by `jobs` connections.
    pub fn new(info: &'a ConnInfo, options: &'a Options, jobs: usize) -> Self {
        Self { info, options, jobs: jobs.max(1), split: SPLIT, binary: None }
    }

    /// Lets rows become binary on their way. The tables must have the types that they had in the backup, and somebody has
    /// to compare all rows afterwards ([`Comparison`]): an error in a binary value is seen by nobody else.
    #[must_use]
    pub fn as_binary(self) -> Self {
        Self { binary: Some(WORTH_ASKING), ..self }
    }

    /// Puts rows into tables, the largest first. A table that takes longer than all others together is filled by
    /// several connections. Then the server looks at all of them: foreign keys are checked several times as fast when it
    /// knows which pages need no look at each row, and how values are spread. Returns the tables that rows went into as
    /// binary.
    ///
    /// # Errors
    /// The first that any connection met. Some tables have some or all of their rows then.
    pub fn run(&self, tables: &[&Table], giver: &dyn Giver) -> Result<BTreeSet<Name>> {
        let by_name: BTreeMap<&Name, &Table> = tables.iter().map(|table| (&table.name, *table)).collect();
        let shares = shares(tables, self.jobs, self.split, &|table| giver.pieces(table));
        let split: BTreeSet<&Name> =
            shares.iter().filter(|share| !share.is_whole()).map(|share| share.table).collect();
        let went_as_binary = Mutex::new(BTreeSet::new());
        self.each(shares, &|connection, share: &Share<'_>| {
            let table = by_name.get(share.table).ok_or_else(|| Error::protocol("a share of no table"))?;
            let as_binary = self.binary.is_some_and(|least| table.bytes >= least);
            if fill(connection, table, share, giver, as_binary)? {
                let mut names = went_as_binary.lock().unwrap_or_else(PoisonError::into_inner);
                names.insert(table.name.clone());
            }
            Ok(())
        })?;
        let mut tables = tables.to_vec();
        tables.sort_by_key(|table| std::cmp::Reverse(table.bytes));
        self.each(tables, &|connection, table| {
            let what = if split.contains(&table.name) { "VACUUM (ANALYZE)" } else { "ANALYZE" };
            connection.execute(&format!("{what} {}", table.name.quoted()))
        })?;
        Ok(went_as_binary.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does something with each of many, by several sessions.
    fn each<T: Send>(
        &self,
        all: Vec<T>,
        work: &(dyn Fn(&mut Connection, &T) -> Result<()> + Sync),
    ) -> Result<()> {
        let jobs = self.jobs.clamp(1, all.len().max(1));
        let waiting = Mutex::new(VecDeque::from(all));
        let failed = Mutex::new(None);
        let note = |result: Result<()>| {
            if let Err(error) = result {
                failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        };
        let next = || match failed.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            true => None,
            false => waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front(),
        };
        let run = || -> Result<()> {
            let mut connection = None;
            while let Some(one) = next() {
                let connection = match &mut connection {
                    Some(connection) => connection,
                    None => connection.insert(prepared_session(self.info, self.options)?),
                };
                work(connection, &one)?;
            }
            Ok(())
        };
        thread::scope(|scope| {
            for number in 0..jobs {
                let worker = || note(run());
                let started =
                    thread::Builder::new().name(format!("restore rows {number}")).spawn_scoped(scope, worker);
                note(started.map(drop).map_err(|source| Error::System { what: "start a thread", source }));
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }
}

/// Returns who puts in what, the largest first. A table is shared out when one connection alone would be at work on it
/// after all others have ended. Only of such tables the number of pieces is asked for: of others whoever fills them does,
/// while others are filled.
fn shares<'t>(
    tables: &[&'t Table],
    jobs: usize,
    split: u64,
    pieces: &dyn Fn(&Table) -> usize,
) -> Vec<Share<'t>> {
    let total: u64 = tables.iter().map(|table| table.bytes).sum();
    let mut shares = Vec::new();
    for table in tables {
        let is_longest = table.bytes.saturating_mul(jobs as u64) > total;
        let may_be_shared = jobs >= SHARING && table.bytes >= split && is_longest;
        let pieces = if may_be_shared { pieces(table) } else { 1 };
        if pieces > 1 {
            let step = pieces.div_ceil(jobs * SHARES);
            let bytes = table.bytes / pieces.div_ceil(step) as u64;
            let share = |from: usize| {
                let pieces = Some(from..(from + step).min(pieces));
                Share { table: &table.name, pieces, bytes }
            };
            shares.extend((0..pieces).step_by(step).map(share));
        } else {
            shares.push(Share { table: &table.name, pieces: None, bytes: table.bytes });
        }
    }
    // The shares of a large table first, however small each is: they are what takes longest.
    shares.sort_by_key(|share| (share.is_whole(), std::cmp::Reverse(share.bytes)));
    shares
}

/// Puts a share of its rows into a table, as binary where that is wanted and can be. Returns whether it was.
fn fill(
    connection: &mut Connection,
    table: &Table,
    share: &Share<'_>,
    giver: &dyn Giver,
    as_binary: bool,
) -> Result<bool> {
    let pieces = share.pieces.clone().unwrap_or_else(|| 0..giver.pieces(table));
    let freeze = begin(connection, table, share)?;
    // What an extension has in its own table may be of another version, with other types.
    if as_binary
        && table.extension.is_none()
        && let Some(encoder) = encoder(connection, table)?
    {
        match put_as_binary(connection, table, pieces.clone(), giver, freeze, encoder) {
            Ok(()) => return connection.execute("COMMIT").map(|()| true),
            Err(error) if is_about_form(&error) => {
                let table = table.name.quoted();
                tracing::info!(event = "rows-as-text", table, %error, "a table goes in as text");
            }
            Err(error) => return Err(error),
        }
        connection.execute("ROLLBACK")?;
        begin(connection, table, share)?;
    }
    put(connection, table, pieces, giver, freeze)?;
    connection.execute("COMMIT").map(|()| false)
}

/// Begins the transaction of a share. Returns whether its rows can be frozen.
fn begin(connection: &mut Connection, table: &Table, share: &Share<'_>) -> Result<bool> {
    connection.execute("BEGIN")?;
    connection.execute(SETTINGS)?;
    // A table that was emptied in the same transaction needs no log of its rows where the server is set up so, and none
    // of them has to be looked at again later. What an extension put into its own table stays.
    let freeze = share.is_whole() && table.extension.is_none();
    if freeze {
        connection.execute(&format!("TRUNCATE ONLY {}", table.name.quoted()))?;
    }
    Ok(freeze)
}

/// Returns whether rows as text may be taken where this is the answer to binary ones. What it costs to be wrong is time.
fn is_about_form(error: &Error) -> bool {
    match error {
        Error::Unsure { .. } => true,
        // Data, constraints, a message that ends too early, functions that are not there, limits.
        Error::Server(error) => {
            let classes = ["22", "23", "08P01", "0A", "42", "54", "P0"];
            error.severity == "ERROR" && classes.iter().any(|class| error.code.starts_with(class))
        }
        _ => false,
    }
}

/// Sends rows into a table, in the transaction of the session.
pub(crate) fn put(
    connection: &mut Connection,
    table: &Table,
    pieces: Range<usize>,
    giver: &dyn Giver,
    freeze: bool,
) -> Result<()> {
    let options = if freeze { " WITH (FREEZE)" } else { "" };
    let mut copy = connection.copy_in(&copy_statement(table, options))?;
    give(table, pieces, giver, &mut copy)?;
    copy.finish().map(drop)
}

fn give(table: &Table, mut pieces: Range<usize>, giver: &dyn Giver, into: &mut CopyIn<'_>) -> Result<()> {
    pieces.try_for_each(|piece| giver.give(table, piece, into))
}

/// Sends rows as binary. When one of them cannot be, the server takes none, and the transaction has failed.
fn put_as_binary(
    connection: &mut Connection,
    table: &Table,
    pieces: Range<usize>,
    giver: &dyn Giver,
    freeze: bool,
    encoder: Encoder,
) -> Result<()> {
    let options = if freeze { " WITH (FORMAT binary, FREEZE)" } else { " WITH (FORMAT binary)" };
    let mut copy = connection.copy_in_as_binary(&copy_statement(table, options), encoder)?;
    let given = give(table, pieces, giver, &mut copy);
    // Whoever gives rows may have made another error of it.
    if let Some(unsure) = copy.unsure() {
        copy.abandon()?;
        return Err(unsure.into());
    }
    given?;
    copy.finish().map(drop)
}

fn copy_statement(table: &Table, options: &str) -> String {
    let columns = table.stored_columns();
    let columns = if columns.is_empty() { columns } else { format!(" ({columns})") };
    format!("COPY {}{columns} FROM STDIN{options}", table.name.quoted())
}

/// Sets sequences to where they stood. Where one stood that could not be read, is not known.
pub fn set_sequences(connection: &mut Connection, sequences: &[Sequence]) -> Result<()> {
    let known: Vec<&Sequence> = sequences.iter().filter(|sequence| sequence.readable).collect();
    for some in known.chunks(300) {
        let set = |sequence: &&Sequence| {
            let name = literal(&sequence.name.quoted());
            format!("pg_catalog.setval({name}, {}, {})", sequence.last_value, sequence.is_called)
        };
        let calls: Vec<String> = some.iter().map(set).collect();
        connection.query(&format!("SELECT {}", calls.join(", ")), &[])?;
    }
    Ok(())
}

/// Takes the statistics that could not be taken when the rows had come: of expressions in indexes, of what belongs
/// together, of whole partitioned tables, of materialized views.
///
/// # Errors
/// When the server cannot. A table that this user may not analyze is left out by the server.
pub(crate) fn analyze_rest(info: &ConnInfo, options: &Options, jobs: usize) -> Result<()> {
    let mut connection = prepared_session(info, options)?;
    let sql = "SELECT n.nspname, c.relname FROM pg_catalog.pg_class c
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
                 AND n.nspname <> 'information_schema' AND (c.relkind <> 'r'
                     OR EXISTS (SELECT FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indexprs IS NOT NULL)
                     OR EXISTS (SELECT FROM pg_catalog.pg_statistic_ext s WHERE s.stxrelid = c.oid))
               ORDER BY pg_catalog.pg_relation_size(c.oid) DESC";
    let read = |row: Row| {
        let [schema, name] = <[Option<String>; 2]>::try_from(row).ok()?;
        Some(Name { schema: schema?, name: name? }.quoted())
    };
    let tables: Option<Vec<String>> = connection.query(sql, &[])?.into_iter().map(read).collect();
    let tables = tables.ok_or_else(|| Error::protocol("a table without a name"))?;
    Load::new(info, options, jobs)
        .each(tables, &|connection, table| connection.execute(&format!("ANALYZE {table}")))
}

/// A table whose rows are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The table.
    pub table: Name,
    /// What was expected.
    pub expected: RowSum,
    /// What is there; none where there is no such table.
    pub found: Option<RowSum>,
}

/// Rows of a database that nobody else knows, which are read again, and compared with what they should be. Large tables
/// are read in parts, by several connections.
#[derive(Debug)]
pub struct Comparison<'a> {
    info: &'a ConnInfo,
    options: &'a Options,
    jobs: usize,
    expected: Vec<(&'a Table, RowSum)>,
    catalog: Catalog,
    by_pages: bool,
}

impl<'a> Comparison<'a> {
    /// Looks at tables that have all of their rows. Those that are expected have the columns that were summed up, in that
    /// order; the database may have them in another one.
    ///
    /// # Errors
    /// When the database cannot be asked.
    pub fn plan(
        info: &'a ConnInfo,
        options: &'a Options,
        jobs: usize,
        expected: &[(&'a Table, RowSum)],
    ) -> Result<Self> {
        let expected = expected.to_vec();
        if expected.is_empty() {
            return Ok(Self { info, options, jobs, expected, catalog: Catalog::default(), by_pages: false });
        }
        let mut holder = Holder::begin(Connection::open(info, options)?)?;
        let mut catalog = Catalog::read(holder.connection())?;
        let by_pages = version(holder.connection())? >= READS_RANGES;
        let wanted: BTreeMap<&Name, &Table> =
            expected.iter().map(|(table, _)| (&table.name, *table)).collect();
        catalog.tables.retain(|table| wanted.contains_key(&table.name));
        for table in &mut catalog.tables {
            table.order_columns_as(wanted[&table.name]);
            // In no order: a sum has none, and pages are read the fastest as they lie.
            table.key = None;
        }
        Ok(Self { info, options, jobs, expected, catalog, by_pages })
    }

    /// Reads the rows that the wanted tables have now. Returns the tables that differ.
    ///
    /// # Errors
    /// When they cannot be read; [`Error::Changed`] when a table is not the one that was looked at.
    pub fn run(&self, is_wanted: impl Fn(&Name) -> bool) -> Result<Vec<Difference>> {
        let expected = self.expected.iter().filter(|(table, _)| is_wanted(&table.name));
        let expected: Vec<&(&Table, RowSum)> = expected.collect();
        if expected.is_empty() {
            return Ok(Vec::new());
        }
        let tables = self.catalog.tables.iter().filter(|table| is_wanted(&table.name)).cloned().collect();
        let catalog = Catalog { tables, ..Catalog::default() };
        let holder = Holder::begin(Connection::open(self.info, self.options)?)?;
        let (snapshot, catalog, jobs) = (holder.id(), &catalog, self.jobs);
        let dump = Dump { info: self.info, options: self.options, snapshot, catalog, jobs };
        let sums = dump.run_alone(parts(catalog, self.by_pages, |_| Vec::new()), &Nowhere)?;
        let found: BTreeMap<&Name, RowSum> =
            catalog.tables.iter().map(|table| &table.name).zip(sums).collect();
        let differs = |(table, expected): &&(&Table, RowSum)| {
            let found = found.get(&table.name).copied();
            let difference = Difference { table: table.name.clone(), expected: *expected, found };
            (found != Some(*expected)).then_some(difference)
        };
        Ok(expected.iter().filter_map(differs).collect())
    }
}

/// Takes rows only to have them summed up.
pub(crate) struct Nowhere;

impl Receiver for Nowhere {
    fn open(&self, _: &Part, _: &Table) -> Result<Box<dyn PartReceiver + '_>, BoxError> {
        Ok(Box::new(Nowhere))
    }
}

impl PartReceiver for Nowhere {
    fn take(&mut self, _: &[u8], _: &[RowEnd]) -> Result<(), BoxError> {
        Ok(())
    }

    fn finish(self: Box<Self>, _: RowSum) -> Result<(), BoxError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
