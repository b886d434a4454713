//! Bringing a database back, from the archive of its objects and the text of its rows.
//!
//! Everything is made in a database with a name of its own, which says that it is unfinished. It gets the name that
//! was asked for as the last step, [`Restore::promote`], when all of it was read again and found to be right.
//! Whatever ends a restore before leaves only that database behind; [`unfinished`] lists such ones and
//! [`remove_unfinished`] drops them.
//!
//! The order is that of `pg_restore`: what comes before the rows, the rows, sequences, indexes and constraints, then
//! who may use what, then what asks queries of everything else or watches (materialized views, event triggers).

mod database;
mod dress;
mod extensions;
mod leave;
mod live;
mod objects;
mod pick;
mod promote;
mod rows;
mod schedule;
mod tables;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use self::objects::{Losses, Maker, Parallel, make_in_order, session};
use crate::archive::{Archive, Entry, Stage, major};
use crate::attributes::Attributes;
use crate::catalog::{Catalog, Name, Sequence, Table};
use crate::conninfo::ConnInfo;
use crate::facts::Properties;
use crate::large_objects;
use crate::load::{Comparison, Difference, Giver, Load, Loaded, analyze_rest, set_sequences};
use crate::rows::RowSum;
use crate::wire::{Connection, Options};
use crate::{Error, Result};

pub(crate) use self::database::administration;
pub use self::database::{Standing, Unfinished, look, remove_unfinished, unfinished};
pub use self::extensions::Unfilled;
pub(crate) use self::leave::is_from_outside;
pub(crate) use self::objects::session as prepared_session;
pub use self::promote::{Place, Promoted};
pub use self::rows::restore_rows;
pub use self::tables::{Wanted, restore_tables};

/// How a database is brought back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoreOptions {
    /// How many connections work at once: that many read rows again, and that many at most make objects beside them.
    pub jobs: usize,
    /// Whether objects belong again to whom they belonged; else they belong to the user who restores.
    pub owners: bool,
    /// Whether the same roles may use them again.
    pub privileges: bool,
    /// Whether it is only tried, as by a drill: then a server that cannot go on ends it even where everything but the rows
    /// of a view would come back.
    pub trial: bool,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self { jobs: 4, owners: true, privileges: true, trial: false }
    }
}

/// Something that was not restored, although everything else was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// What, as `event trigger watch` or `owner "bob" of table public.t`.
    pub what: String,
    /// Why, as the server says it.
    pub why: String,
}

impl Loss {
    fn of(entry: &Entry, why: String) -> Self {
        Self { what: entry.title(), why }
    }
}

/// A restore of a whole database. The methods are called in the order in which they stand here.
#[derive(Debug)]
pub struct Restore<'a> {
    /// How the server is reached.
    info: ConnInfo,
    options: Options,
    how: RestoreOptions,
    catalog: &'a Catalog,
    archive: Archive,
    /// The name that the database gets in the end.
    name: String,
    /// What tells this restore from others.
    id: String,
    /// The name that it has now.
    staging: String,
    /// A session in another database.
    admin: Connection,
    /// A session in the database that is filled: it shows others that somebody works on it.
    guard: Option<Connection>,
    /// Whether rows may become binary on their way.
    binary: bool,
    /// What became of the tables that got their rows.
    loaded: Loaded,
    losses: Losses,
    /// What the database gets beside its contents, under a name that nobody has.
    attributes: Attributes,
    /// The tables of extensions that took no rows.
    unfilled: BTreeSet<Name>,
}

impl<'a> Restore<'a> {
    /// Prepares a restore into a database that is to get the name of the one that `info` names. Nothing is changed
    /// yet. `catalog` is that of the backup; `id` tells this restore from others and becomes part of names.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn begin(
        info: &ConnInfo,
        options: &Options,
        how: &RestoreOptions,
        archive: Archive,
        catalog: &'a Catalog,
        id: &str,
    ) -> Result<Self> {
        let name = info.database.clone();
        let mut admin = database::administration(info, options, &name)?;
        let staging = database::staging_name(&mut admin, &name, id)?;
        Ok(Self {
            info: info.clone(),
            options: options.clone(),
            how: how.clone(),
            catalog,
            archive,
            name,
            id: id.to_owned(),
            staging,
            admin,
            guard: None,
            binary: false,
            loaded: Loaded::default(),
            losses: Losses::default(),
            attributes: Attributes::default(),
            unfilled: BTreeSet::new(),
        })
    }

    /// Lets rows become binary on their way, which servers take faster. Only for who has all of them compared by
    /// [`Restore::after_rows`].
    pub fn allow_binary(&mut self) {
        self.binary = true;
    }

    /// Makes the database, empty, with the encoding and the order of text of the one that was backed up.
    ///
    /// # Errors
    /// [`Error::Locale`] when this server has no such order of text.
    pub fn create(&mut self, properties: &Properties) -> Result<()> {
        database::create(&mut self.admin, &self.staging, properties)?;
        database::describe(&mut self.admin, &self.staging, &self.name)?;
        self.guard = Some(session(&self.staging(), &self.options)?);
        Ok(())
    }

    /// Returns how the database is reached under the name that it has now.
    pub fn staging(&self) -> ConnInfo {
        database::at(&self.info, &self.staging)
    }

    /// Opens a session in the database under the name that it has now, as large objects are put back by.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn open(&self) -> Result<Connection> {
        session(&self.staging(), &self.options)
    }

    /// Instead of all steps up to [`Restore::promote`]: brings only some tables back, with everything that is theirs
    /// and with what they need: schemas, types, functions, but no other tables. Their rows are verified.
    ///
    /// # Errors
    /// [`Error::Missing`] names tables that they need.
    pub fn only(&mut self, wanted: &Wanted<'_>) -> Result<()> {
        let staging = self.staging();
        let losses = tables::run(&staging, &self.options, &self.how, &self.archive, wanted, true)?;
        self.losses.all.extend(losses);
        Ok(())
    }

    /// Makes what comes before the rows.
    ///
    /// # Errors
    /// [`Error::Object`] at the first object that a database cannot do without.
    pub fn before_rows(&mut self) -> Result<()> {
        self.in_order(Stage::BeforeRows)
    }

    /// Puts rows into `tables`, lets the server look at those for which it may run functions of the database then, and
    /// sets sequences to where they stood. Returns the tables of extensions that took none of their rows;
    /// [`Restore::after_rows`] does not ask for these, and lets the server look at all others.
    ///
    /// # Errors
    /// The first that any connection met.
    pub fn rows(&mut self, tables: &[&Table], giver: &dyn Giver) -> Result<Vec<Unfilled>> {
        let staging = self.staging();
        let (tables, of_extensions): (Vec<&Table>, Vec<&Table>) =
            tables.iter().partition(|table| table.extension.is_none());
        let load = Load::new(&staging, &self.options, self.how.jobs);
        let load = if self.binary { load.as_binary() } else { load };
        let may_run_code = schedule::tables_with_code(&self.archive);
        self.loaded = load.run(&tables, giver, &|table| !may_run_code.contains(table))?;
        let unfilled = self.fill_extensions(&of_extensions, giver)?;
        self.unfilled = unfilled.iter().map(|one| one.table.clone()).collect();
        let mut connection = self.open()?;
        let made: BTreeSet<Name> = self.archive.named("SEQUENCE").collect();
        let there = |sequence: &&Sequence| made.contains(&sequence.name);
        let sequences: Vec<Sequence> = self.catalog.sequences.iter().filter(there).cloned().collect();
        set_sequences(&mut connection, &sequences)?;
        Ok(unfilled)
    }

    /// Makes what comes after the rows, indexes and constraints, by several connections. When the first of them has
    /// nothing left to begin, and while the server looks at tables and checks foreign keys, the rows of `expected` are read
    /// again and compared with what they should be. Returns the tables that differ.
    ///
    /// # Errors
    /// [`Error::Object`] at the first object that a database cannot do without, or when rows cannot be read.
    pub fn after_rows(&mut self, expected: &[(&Table, RowSum)]) -> Result<Vec<Difference>> {
        let staging = self.staging();
        let bytes = self.bytes_of_tables();
        let (options, how, archive) = (&self.options, &self.how, &self.archive);
        let parallel = Parallel { info: &staging, options, archive, how };
        // Nothing from the first foreign key on writes rows or indexes, so what is read then is what will be there. Nor
        // does anything write to a table before, when all that is made of it is there and what is still being made runs no
        // functions of the database.
        let (now, later) = schedule::in_two(archive);
        let (analysis, not_analyzed) = (Load::new(&staging, options, how.jobs), &self.loaded.not_analyzed);
        let explained = |error| explained(error, &self.admin, archive);
        let (losses, unfilled) = (&mut self.losses, &self.unfilled);
        let expected: Vec<(&Table, RowSum)> =
            expected.iter().copied().filter(|(table, _)| !unfilled.contains(&table.name)).collect();
        let is_over = Arc::new(AtomicBool::new(false));
        let reading = until(options, &is_over);
        let comparison = Comparison::plan(&staging, &reading, how.jobs, &expected)?;
        let (tell, told) = mpsc::sync_channel(2);
        thread::scope(|scope| {
            let comparison = &comparison;
            let read = move || verify(comparison, &told);
            let reader = thread::Builder::new().name("verify rows".to_owned()).spawn_scoped(scope, read);
            let reader = reader.map_err(|source| Error::System { what: "start a thread", source })?;
            // Whoever reads says himself why he does not any more.
            let tell = move |busy: BTreeSet<Name>| drop(tell.send(busy));
            let made = parallel.run(now, &bytes, losses, &tell).and_then(|()| {
                tell(BTreeSet::new());
                analysis.analyze(not_analyzed)?;
                parallel.run(later, &bytes, losses, &drop)
            });
            is_over.store(made.is_err(), Ordering::Relaxed);
            // Nobody waits for more to be told.
            drop(tell);
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            made.map_err(explained).and(read)
        })
    }

    /// Sums up what large objects hold, and counts whose they are, when nothing writes any more and all of them still
    /// belong to who restores: whoever gets them may be somebody whose objects this user cannot read.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn large_objects(&self) -> Result<large_objects::Sums> {
        large_objects::sums(&self.staging(), &self.options, self.how.jobs)
    }

    /// Makes what comes last: who may use what, then what asks queries of everything else or watches.
    ///
    /// # Errors
    /// [`Error::Object`] at the first object that a database cannot do without.
    pub fn last(&mut self) -> Result<()> {
        if self.how.privileges {
            self.in_order(Stage::Privileges)?;
        }
        self.in_order(Stage::Last)
    }

    /// Says what the database is to get beside its contents, as far as that is wanted. It gets that together with its
    /// name, whatever that is; what this user may not give is a loss. In the place of another database it gets what
    /// that one has.
    pub fn give(&mut self, attributes: &Attributes) {
        self.attributes = attributes.wanted(&self.how);
    }

    /// Adds what was not restored by other means.
    pub fn note(&mut self, losses: Vec<Loss>) {
        self.losses.all.extend(losses);
    }

    /// Lets the server take the statistics that it could not take when the rows had come, so that it plans queries
    /// well from the first one on.
    ///
    /// # Errors
    /// When the server cannot.
    pub fn analyze(&mut self) -> Result<()> {
        analyze_rest(&self.staging(), &self.options, self.how.jobs)
    }

    /// Returns whether rows went in as binary. If they turn out to be wrong, a restore of text may still succeed.
    pub fn has_sent_binary(&self) -> bool {
        !self.loaded.as_binary.is_empty()
    }

    /// Returns what could not be restored so far.
    pub fn losses(&self) -> &[Loss] {
        &self.losses.all
    }

    /// Drops what was made.
    ///
    /// # Errors
    /// When the server refuses it; the database stays then, and its name says what it is.
    pub fn discard(mut self) -> Result<()> {
        self.guard = None;
        for _ in 0..20 {
            match database::drop_database(&mut self.admin, &self.staging) {
                // The sessions of our own take a moment to end.
                Err(Error::InUse { .. }) => thread::sleep(std::time::Duration::from_millis(100)),
                result => return result,
            }
        }
        database::drop_database(&mut self.admin, &self.staging)
    }

    fn in_order(&mut self, stage: Stage) -> Result<()> {
        let mut maker = Maker::open(&self.staging(), &self.options, &self.archive, &self.how)?;
        let entries = self.archive.entries.iter().filter(|entry| entry.stage == stage);
        make_in_order(&mut maker, entries, &mut self.losses)
            .map_err(|error| explained(error, &self.admin, &self.archive))
    }

    /// Returns the sizes of tables by their numbers in the archive.
    fn bytes_of_tables(&self) -> HashMap<i32, u64> {
        let sizes: HashMap<&Name, u64> =
            self.catalog.tables.iter().map(|table| (&table.name, table.bytes)).collect();
        let tables = self.archive.entries.iter().filter(|entry| entry.kind == "TABLE");
        let size = |entry: &Entry| Some((entry.id, *sizes.get(&entry.name()?)?));
        tables.filter_map(size).collect()
    }
}

/// Compares the rows of all tables. It is told of which tables something is still being made: these are read last, when
/// it is told that nothing is.
fn verify(comparison: &Comparison<'_>, told: &mpsc::Receiver<BTreeSet<Name>>) -> Result<Vec<Difference>> {
    let Ok(busy) = told.recv() else { return Ok(Vec::new()) };
    // Whoever makes something failed, and says why.
    let freed = || told.recv().map(drop).map_err(|_| Error::Stopped);
    let mut found = comparison.run(&busy, freed)?;
    found.sort_by(|one, other| one.table.cmp(&other.table));
    Ok(found)
}

/// Returns options with which everything stops also when `is_over` says so.
fn until(options: &Options, is_over: &Arc<AtomicBool>) -> Options {
    let (stop, is_over) = (Arc::clone(&options.stop), Arc::clone(is_over));
    Options { stop: Arc::new(move || is_over.load(Ordering::Relaxed) || stop()), ..options.clone() }
}

/// Adds to an error that the server is older than the one that was backed up, where that is so.
fn explained(error: Error, server: &Connection, archive: &Archive) -> Error {
    let here = server.parameter("server_version").and_then(major);
    let (Some(here), Some(origin)) = (here, archive.server_major()) else { return error };
    match error {
        Error::Object { object, source, hint: None } if here < origin => Error::Object {
            object,
            source,
            hint: Some(format!(
                "this server is PostgreSQL {here}, the backup is of PostgreSQL {origin}: restore into {origin} or newer"
            )),
        },
        error => error,
    }
}
