//! Bringing rows back: they go in by several connections at once, and then all of them are read and summed up again.
//!
//! Rows are stored as text. On their way they become binary where that can be done with certainty, because it takes
//! servers half the time; what is compared afterwards is text again, made by the server.

mod comparison;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::binary::{Encoder, encoder};
use crate::catalog::{Name, Sequence, Table};
use crate::conninfo::ConnInfo;
use crate::restore::prepared_session;
use crate::snapshot::{SETTINGS, literal};
use crate::wire::{Connection, CopyIn, Options, Row};
use crate::{Error, Result};

pub(crate) use self::comparison::Nowhere;
pub use self::comparison::{Comparison, Difference};

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
    ///
    /// # Errors
    /// Ends the restore.
    fn pieces(&self, table: &Table) -> Result<usize> {
        let _ = table;
        Ok(1)
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

/// What became of tables that got their rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// Those that rows went into as binary.
    pub as_binary: BTreeSet<Name>,
    /// Those that the server has not looked at, the largest first.
    pub not_analyzed: Vec<Name>,
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
    /// several connections. Then the server looks at those that several filled, and at all others but those of which
    /// `later` says that [`Load::analyze`] follows: foreign keys are checked several times as fast when the server knows
    /// which pages need no look at each row, and how values are spread.
    ///
    /// # Errors
    /// The first that any connection met. Some tables have some or all of their rows then.
    pub fn run(
        &self,
        tables: &[&Table],
        giver: &dyn Giver,
        later: &(dyn Fn(&Name) -> bool + Sync),
    ) -> Result<Loaded> {
        let by_name: BTreeMap<&Name, &Table> = tables.iter().map(|table| (&table.name, *table)).collect();
        let shares = shares(tables, self.jobs, self.split, &|table| giver.pieces(table))?;
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
        let mut largest_first = tables.to_vec();
        largest_first.sort_by_key(|table| Reverse(table.bytes));
        let is_left = |table: &&Table| !split.contains(&table.name) && later(&table.name);
        let (left, now): (Vec<&Table>, Vec<&Table>) = largest_first.into_iter().partition(is_left);
        self.each(now, &|connection, table| match split.contains(&table.name) {
            true => connection.execute(&format!("VACUUM (ANALYZE) {}", table.name.quoted())),
            false => analyze(connection, &table.name),
        })?;
        Ok(Loaded {
            as_binary: went_as_binary.into_inner().unwrap_or_else(PoisonError::into_inner),
            not_analyzed: left.into_iter().map(|table| table.name.clone()).collect(),
        })
    }

    /// Lets the server look at tables.
    ///
    /// # Errors
    /// The first that any connection met.
    pub fn analyze(&self, tables: &[Name]) -> Result<()> {
        self.each(tables.iter().collect(), &|connection, table| analyze(connection, table))
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

fn analyze(connection: &mut Connection, table: &Name) -> Result<()> {
    connection.execute(&format!("ANALYZE {}", table.quoted()))
}

/// Returns who puts in what, the largest first. A table is shared out when one connection alone would be at work on it
/// after all others have ended. Only of such tables the number of pieces is asked for: of others whoever fills them does,
/// while others are filled.
fn shares<'t>(
    tables: &[&'t Table],
    jobs: usize,
    split: u64,
    pieces: &dyn Fn(&Table) -> Result<usize>,
) -> Result<Vec<Share<'t>>> {
    let total: u64 = tables.iter().map(|table| table.bytes).sum();
    let mut shares = Vec::new();
    for table in tables {
        let is_longest = table.bytes.saturating_mul(jobs as u64) > total;
        let may_be_shared = jobs >= SHARING && table.bytes >= split && is_longest;
        let pieces = if may_be_shared { pieces(table)? } else { 1 };
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
    shares.sort_by_key(|share| (share.is_whole(), Reverse(share.bytes)));
    Ok(shares)
}

/// Puts a share of its rows into a table, as binary where that is wanted and can be. Returns whether it was.
fn fill(
    connection: &mut Connection,
    table: &Table,
    share: &Share<'_>,
    giver: &dyn Giver,
    as_binary: bool,
) -> Result<bool> {
    let pieces = match &share.pieces {
        Some(pieces) => pieces.clone(),
        None => 0..giver.pieces(table)?,
    };
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

/// Takes the statistics that may not have been taken yet: of expressions in indexes, of what belongs together, of whole
/// partitioned tables, of materialized views.
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

#[cfg(test)]
mod tests;
