//! Reading the rows of a database again that nobody else knows, to see whether they are what they should be.
//!
//! Readers begin while indexes are still being made: tables of which something is being made are held back until that is
//! done. A table is cut only where it is too much for one reader: the server reads whole tables faster.

use std::collections::{BTreeMap, BTreeSet};

use crate::Result;
use crate::catalog::{Catalog, Name, Table};
use crate::conninfo::ConnInfo;
use crate::dump::{Dump, PartReceiver, Receiver};
use crate::error::BoxError;
use crate::plan::{Part, READS_RANGES};
use crate::rows::{RowEnd, RowSum};
use crate::schema::LOCK_TIMEOUT;
use crate::snapshot::{Holder, version};
use crate::wire::{Connection, Options};

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

/// Rows of a database that nobody else knows, which are read again by several connections, and compared with what they
/// should be.
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

    /// Reads the rows that the tables have now; those of `busy` when `freed` has returned, which is asked where there are
    /// any. Returns the tables that differ.
    ///
    /// # Errors
    /// When they cannot be read; [`Error::Changed`](crate::Error::Changed) when a table is not the one that was looked at.
    /// That of `freed`.
    pub fn run(&self, busy: &BTreeSet<Name>, freed: impl FnOnce() -> Result<()>) -> Result<Vec<Difference>> {
        if self.expected.is_empty() {
            return Ok(Vec::new());
        }
        let (catalog, jobs) = (&self.catalog, self.jobs);
        let tables = catalog.tables.iter().enumerate();
        let held: BTreeSet<usize> =
            tables.filter(|(_, table)| busy.contains(&table.name)).map(|(place, _)| place).collect();
        let is_held = !held.is_empty();
        let freed = || if is_held { freed() } else { Ok(()) };
        let holder = Holder::begin(Connection::open(self.info, self.options)?)?;
        let dump = Dump {
            info: self.info,
            options: self.options,
            snapshot: holder.id(),
            catalog,
            jobs,
            lock_timeout: LOCK_TIMEOUT,
        };
        let sums = dump.run_alone(&Nowhere, self.by_pages, held, freed)?;
        let found: BTreeMap<&Name, RowSum> =
            catalog.tables.iter().map(|table| &table.name).zip(sums).collect();
        let differs = |(table, expected): &(&Table, RowSum)| {
            let found = found.get(&table.name).copied();
            let difference = Difference { table: table.name.clone(), expected: *expected, found };
            (found != Some(*expected)).then_some(difference)
        };
        Ok(self.expected.iter().filter_map(differs).collect())
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
