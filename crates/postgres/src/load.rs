//! Bringing rows back: a database is made, rows go in by several connections at once, and then all of them are read and
//! summed up again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::catalog::{Catalog, Name, Sequence, Table};
use crate::conninfo::ConnInfo;
use crate::dump::{Dump, PartReceiver, Receiver};
use crate::error::BoxError;
use crate::facts::Properties;
use crate::plan::{Part, Range};
use crate::rows::{RowEnd, RowSum};
use crate::snapshot::{Holder, identifier, literal};
use crate::wire::{Connection, CopyIn, Options};
use crate::{Error, Result};

/// Makes an empty database with the same encoding and order of text. One of that name must not be there.
pub fn create_database(connection: &mut Connection, name: &str, properties: &Properties) -> Result<()> {
    let mut statement = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        identifier(name),
        literal(&properties.encoding),
        literal(&properties.collate),
        literal(&properties.character_type)
    );
    if let Some((provider, locale)) = &properties.provider {
        statement += &format!(" LOCALE_PROVIDER {provider} {provider}_LOCALE {}", literal(locale));
    }
    connection.execute(&statement)
}

/// Gives rows, as COPY wrote them.
pub trait Giver: Sync {
    /// Sends all rows of a table.
    fn give(&self, table: &Table, into: &mut CopyIn<'_>) -> Result<()>;
}

/// Puts rows into the tables of a database that has none yet.
#[derive(Debug)]
pub struct Load<'a> {
    /// How the database is reached.
    pub info: &'a ConnInfo,
    /// How connections behave.
    pub options: &'a Options,
    /// How many connections write.
    pub jobs: usize,
}

impl Load<'_> {
    /// Puts rows into tables, the largest first. Each table gets all of its rows or none.
    ///
    /// # Errors
    /// The first that any connection met.
    pub fn run(&self, tables: &[&Table], giver: &dyn Giver) -> Result<()> {
        let mut order: Vec<&Table> = tables.to_vec();
        order.sort_by_key(|table| std::cmp::Reverse(table.bytes));
        let waiting = Mutex::new(VecDeque::from(order));
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
        thread::scope(|scope| {
            for number in 0..self.jobs.clamp(1, tables.len().max(1)) {
                let worker = || note(self.work(&next, giver));
                let started =
                    thread::Builder::new().name(format!("write rows {number}")).spawn_scoped(scope, worker);
                note(started.map(drop).map_err(|source| Error::System { what: "start a thread", source }));
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    fn work<'t>(&self, next: &dyn Fn() -> Option<&'t Table>, giver: &dyn Giver) -> Result<()> {
        let mut connection = None;
        while let Some(table) = next() {
            let connection = match &mut connection {
                Some(connection) => connection,
                None => connection.insert(Connection::open(self.info, self.options)?),
            };
            self.fill(connection, table, giver)?;
        }
        Ok(())
    }

    fn fill(&self, connection: &mut Connection, table: &Table, giver: &dyn Giver) -> Result<()> {
        connection.execute("BEGIN")?;
        connection.execute(crate::snapshot::SETTINGS)?;
        let (name, columns) = (table.name.quoted(), table.stored_columns());
        let columns = if columns.is_empty() { columns } else { format!(" ({columns})") };
        // A table that was emptied in the same transaction needs no log of its rows, and none of them has to be looked
        // at again later. What an extension put into its own table stays.
        let freeze = match table.extension {
            Some(_) => "",
            None => {
                connection.execute(&format!("TRUNCATE ONLY {name}"))?;
                " WITH (FREEZE)"
            }
        };
        let mut copy = connection.copy_in(&format!("COPY {name}{columns} FROM STDIN{freeze}"))?;
        giver.give(table, &mut copy)?;
        copy.finish()?;
        connection.execute("COMMIT")
    }
}

/// Sets sequences to where they stood.
pub fn set_sequences(connection: &mut Connection, sequences: &[Sequence]) -> Result<()> {
    for some in sequences.chunks(300) {
        let set = |sequence: &Sequence| {
            let name = literal(&sequence.name.quoted());
            format!("pg_catalog.setval({name}, {}, {})", sequence.last_value, sequence.is_called)
        };
        let calls: Vec<String> = some.iter().map(set).collect();
        connection.query(&format!("SELECT {}", calls.join(", ")), &[])?;
    }
    Ok(())
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

/// Reads all rows of a database and compares them with what they should be. `tables` have the columns that were summed
/// up, in that order; the database may have them in another one.
///
/// # Errors
/// When it cannot be read.
pub fn compare(
    info: &ConnInfo,
    options: &Options,
    jobs: usize,
    expected: &[(&Table, RowSum)],
) -> Result<Vec<Difference>> {
    let mut holder = Holder::begin(Connection::open(info, options)?)?;
    let mut catalog = Catalog::read(holder.connection())?;
    let wanted: BTreeMap<&Name, &Table> = expected.iter().map(|(table, _)| (&table.name, *table)).collect();
    catalog.tables.retain(|table| wanted.contains_key(&table.name));
    for table in &mut catalog.tables {
        table.columns.clone_from(&wanted[&table.name].columns);
    }
    let bytes = |table: &Table| table.bytes;
    let whole =
        |(place, table)| Part { table: place, number: 0, parts: 1, bytes: bytes(table), range: Range::Whole };
    let mut parts: Vec<Part> = catalog.tables.iter().enumerate().map(whole).collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    let sums = Dump { info, options, snapshot: holder.id(), catalog: &catalog, jobs }.run(parts, &Nowhere)?;
    let found: BTreeMap<&Name, RowSum> = catalog.tables.iter().map(|table| &table.name).zip(sums).collect();
    let differs = |(table, expected): &(&Table, RowSum)| {
        let found = found.get(&table.name).copied();
        let difference = Difference { table: table.name.clone(), expected: *expected, found };
        (found != Some(*expected)).then_some(difference)
    };
    Ok(expected.iter().filter_map(differs).collect())
}

/// Takes rows only to have them summed up.
struct Nowhere;

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
