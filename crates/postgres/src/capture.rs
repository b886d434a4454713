//! A backup of one moment: begun, read piece by piece, ended.
//!
//! A composition of what the other modules do. While a [`Capture`] lives, the moment is held: a thread asks something now
//! and then, so that nobody between us and the server takes the connection for a dead one. In [`Locks::Yield`] another
//! thread looks whether somebody waits for us; then everything ends with [`Error::Yielded`], and the whole backup has to
//! begin again.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::catalog::{Catalog, Kind, Name, Table, value};
use crate::conninfo::{ConnInfo, Host};
use crate::doctor::pooler::{self, Pooler};
use crate::dump::{Dump, Receiver, plan};
use crate::extent::Extent;
use crate::facts::Facts;
use crate::globals::Globals;
use crate::large_objects::Sums;
use crate::locks::{Locks, lock_all, patiently};
use crate::marks::Marks;
use crate::plan::Part;
use crate::rows::RowSum;
use crate::schema::{self, Dumped, Filter, LOCK_TIMEOUT};
use crate::snapshot::{Holder, begin};
use crate::tools::Tools;
use crate::watch::Watch;
use crate::wire::{Backends, Connection, Options};
use crate::{Error, Result};

use self::choose::{Seen, with_all_partitions};
use self::keep::Keeper;

mod choose;
mod keep;
#[cfg(test)]
mod tests;

/// What is backed up, and how.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// Which part of the database. A partitioned table stands for all of its partitions.
    pub filter: Filter,
    /// Tables that come without their rows.
    pub exclude_data: Vec<Name>,
    /// What is locked.
    pub locks: Locks,
    /// How long one table is waited for.
    pub lock_timeout: Duration,
    /// How many connections read.
    pub jobs: usize,
    /// Where the programs of PostgreSQL are, when not in the usual places.
    pub tools: Option<PathBuf>,
    /// The PATH in which they are looked for otherwise.
    pub path: Option<OsString>,
    /// How connections behave.
    pub options: Options,
}

impl Default for CaptureOptions {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            exclude_data: Vec::new(),
            locks: Locks::Strict,
            lock_timeout: LOCK_TIMEOUT,
            jobs: 2,
            tools: None,
            path: None,
            options: Options::default(),
        }
    }
}

/// Something of the database that is not in the backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NotCovered {
    /// What: a table, or a kind of things.
    pub what: String,
    /// Why.
    pub why: Gap,
}

/// Why something is not in a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gap {
    /// The rows are on another server.
    Foreign,
    /// The rows were not asked for.
    ExcludedData,
    /// A standby has no rows of unlogged tables.
    UnloggedOnStandby,
    /// A standby does not know where unlogged sequences stand.
    UnloggedSequence,
    /// An extension made the table, and does not take its rows for the user's.
    OfExtension,
    /// They belong to no table or schema, and only some were asked for.
    NotAskedFor,
    /// Only its form is needed, by a table that was asked for.
    Form,
    /// They are not read.
    NotSupported,
    /// Only a superuser may read it, or who it belongs to.
    Withheld,
    /// This is what `pg_dump` warned of, in its own words.
    Warning,
}

/// A moment that is being read.
#[derive(Debug)]
pub struct Capture {
    info: ConnInfo,
    /// How our connections behave: they stop as well when the moment is over.
    options: Options,
    how: CaptureOptions,
    /// What the connections of `pg_dump` call themselves.
    program: String,
    snapshot: String,
    /// Whether all tables are locked.
    locked: AtomicBool,
    /// Set when way is made, or the moment came to nothing: all that still reads it stops.
    over: Arc<AtomicBool>,
    host: Host,
    facts: Facts,
    catalog: Catalog,
    extent: Extent,
    marks: Marks,
    missing: Vec<String>,
    not_covered: Mutex<Vec<NotCovered>>,
    unknown_archive: OnceLock<(u8, u8)>,
    tools: Tools,
    watch: Option<Watch>,
    keeper: Keeper,
    holder: Arc<Mutex<Holder>>,
}

impl Capture {
    /// Connects, takes the moment, and reads what is there. In [`Locks::Strict`] all tables are locked when it returns,
    /// unless the server has not enough locks for us and `pg_dump`: then they are when [`Self::objects`] returns.
    ///
    /// # Errors
    /// [`Error::Denied`] when something that is wanted cannot be read; [`Error::Nothing`] when nothing of what is wanted
    /// is there; [`Error::Locked`], [`Error::Changed`] and [`Error::Yielded`] when somebody changes tables just now;
    /// [`Error::Pooler`] where connections are shared with others: these would get what `pg_dump` sets, and who makes
    /// way ends connections.
    pub fn begin(info: &ConnInfo, how: &CaptureOptions) -> Result<Self> {
        let over = Arc::new(AtomicBool::new(false));
        let backends = Arc::new(Backends::default());
        let options = stopped_by(&how.options, &over, &backends);
        let mut connection = Connection::open(info, &options)?;
        if is_shared(info, &how.options, &mut connection)? {
            let host = connection.host();
            return Err(Error::Pooler { place: host.place(), direct: pooler::direct(host) });
        }
        let program = program_name(info, &options, connection.process());
        // The others have to reach the server that holds the moment.
        let mut info = info.clone();
        info.hosts = vec![connection.host().clone()];
        let mut holder = Holder::begin(connection)?;
        let facts = Facts::read(holder.connection())?;
        let tools = Tools::find_for(&info, facts.major(), how.tools.as_deref(), how.path.as_ref())?;
        let watch = match how.locks {
            Locks::Strict => None,
            Locks::Yield => Some(Watch::begin(&info, &how.options, backends, program.clone(), over.clone())?),
        };
        let begun = Self::look(&mut holder, &info, &options, how, &facts);
        let seen = begun.map_err(|error| watch.as_ref().and_then(Watch::why).unwrap_or(error))?;
        let seen = match seen.extent.lacks_extensions(tools.major) {
            true => seen.without("extensions", Gap::NotSupported),
            false => seen,
        };
        let (snapshot, host) = (holder.id().to_owned(), holder.connection().host().clone());
        let holder = Arc::new(Mutex::new(holder));
        let keeper = Keeper::begin(&holder)?;
        Ok(Self {
            info,
            options,
            how: CaptureOptions { filter: seen.filter, ..how.clone() },
            program,
            snapshot,
            locked: AtomicBool::new(seen.locked),
            over,
            host,
            facts,
            catalog: seen.catalog,
            extent: seen.extent,
            marks: seen.marks,
            missing: seen.missing,
            not_covered: Mutex::new(seen.not_covered),
            unknown_archive: OnceLock::new(),
            tools,
            watch,
            keeper,
            holder,
        })
    }

    /// Reads what is there, and locks it.
    fn look(
        holder: &mut Holder,
        info: &ConnInfo,
        options: &Options,
        how: &CaptureOptions,
        facts: &Facts,
    ) -> Result<Seen> {
        // The server looks at tables to tell their sizes, and waits for who has them for himself.
        patiently(holder, info, options, how.lock_timeout, |connection| {
            let catalog = Catalog::read(connection)?;
            let extent = Extent::read(connection, &with_all_partitions(&catalog, &how.filter))?;
            let seen = Seen::choose(catalog, how, facts, &schemas(connection)?, extent)?;
            let seen = Seen { marks: Marks::read(connection, &seen.extent)?, ..seen };
            let seen = withheld(connection, seen)?;
            let labels = seen.catalog.large_objects > 0 && has_labels(connection)?;
            let tables = lockable(&seen.catalog);
            let locked = how.locks == Locks::Strict && has_locks_for_twice(connection, tables.len())?;
            if locked {
                lock_all(connection, &tables)?;
            }
            let seen = Seen { locked, ..seen };
            match labels {
                true => Ok(seen.without("security labels of large objects", Gap::NotSupported)),
                false => Ok(seen),
            }
        })
    }

    /// Returns the place of the server that holds the moment.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Locks all tables where that was left until `pg_dump` has given its own locks back.
    fn lock_at_last(&self) -> Result<()> {
        let (mut holder, patience) = (self.holder(), self.how.lock_timeout);
        if self.how.locks == Locks::Yield || self.is_locked() {
            return Ok(());
        }
        let tables = lockable(&self.catalog);
        patiently(&mut holder, &self.info, &self.options, patience, |connection| {
            lock_all(connection, &tables)
        })?;
        self.locked.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn is_locked(&self) -> bool {
        self.locked.load(Ordering::SeqCst)
    }

    /// Returns what the server says of itself, of the database and of the user.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Returns what is backed up.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Returns the schemas and tables that were asked for and are not there.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }

    /// Returns what is there and is not backed up. Some of it only `pg_dump` knows, so it is in the list when
    /// [`Self::read`] or [`Self::objects`] has returned.
    pub fn not_covered(&self) -> Vec<NotCovered> {
        self.not_covered.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the version of the archive's format when it is not known here, so that only `pg_restore` reads it: when
    /// [`Self::read`] or [`Self::objects`] has returned.
    pub fn unknown_archive(&self) -> Option<(u8, u8)> {
        self.unknown_archive.get().copied()
    }

    /// Returns the programs that are used.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// Writes the archive of what everything looks like, and reads the rows of all tables and large objects meanwhile.
    /// Returns their sums, those of tables as the catalog has them. Where the server has not locks enough for both, one
    /// comes after the other.
    ///
    /// # Errors
    /// The first that either met, as [`Self::objects`], [`Self::rows`] and [`Self::large_objects`]; the other is ended
    /// then, and so is the moment.
    pub fn read(&self, archive: File, receiver: &dyn Receiver) -> Result<(Vec<RowSum>, Sums)> {
        let failed = Mutex::default();
        let objects = || self.noting(&failed, self.make_archive(archive));
        let rows = || {
            let read = self.read_rows(receiver);
            self.noting(&failed, read.and_then(|sums| Ok((sums, self.dump().large_objects(receiver)?))))
        };
        let sums = match self.how.locks == Locks::Yield || self.is_locked() {
            true => thread::scope(|scope| {
                let dumping = thread::Builder::new().name("objects".to_owned()).spawn_scoped(scope, objects);
                let dumping = dumping.map_err(|source| Error::System { what: "start a thread", source });
                let dumping = self.noting(&failed, dumping);
                let sums = rows();
                if dumping.is_some_and(|dumping| dumping.join().is_err()) {
                    self.fail(&failed, Error::Receiver("the thread of pg_dump panicked".into()));
                }
                sums
            }),
            false => objects().and_then(|()| rows()),
        };
        match (failed.into_inner().unwrap_or_else(PoisonError::into_inner), sums) {
            (Some(error), _) => Err(error),
            (None, sums) => sums.ok_or_else(|| Error::protocol("rows that did not come")),
        }
    }

    fn noting<T>(&self, failed: &Mutex<Option<Error>>, result: Result<T>) -> Option<T> {
        result.map_err(|error| self.fail(failed, error)).ok()
    }

    /// Takes note of why the moment came to nothing, and ends it. What fails later fails because of that.
    fn fail(&self, failed: &Mutex<Option<Error>>, error: Error) {
        let mut first = failed.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() {
            *first = self.explained::<()>(Err(error)).err();
        }
        drop(first);
        self.end_moment();
    }

    /// Writes the archive of what everything looks like.
    ///
    /// # Errors
    /// [`Error::Tool`] with what `pg_dump` said; [`Error::Changed`] when something was changed before it was done;
    /// [`Error::Yielded`] and [`Error::Locked`] when it waited in vain for a lock.
    pub fn objects(&self, archive: File) -> Result<()> {
        let made = self.make_archive(archive);
        if matches!(&made, Err(Error::Yielded { .. })) {
            self.end_moment();
        }
        self.explained(made)
    }

    fn make_archive(&self, archive: File) -> Result<()> {
        let mut info = self.info.clone();
        info.application_name = Some(self.program.clone());
        let patience = self.patience_of_pg_dump();
        let dumped = schema::dump_within(
            patience,
            &self.tools,
            &info,
            &self.host,
            &self.options,
            &self.snapshot,
            &self.extent,
            archive,
        );
        let dumped = dumped.map(|dumped| self.note_dump(dumped));
        // What was dropped under its hands is the reason for whatever it said.
        match (dumped, self.check_marks()) {
            (Ok(()), same) => same.and_then(|()| self.lock_at_last()),
            (Err(_), Err(error @ Error::Changed { .. })) => Err(error),
            (Err(Error::Tool { what, .. }), _) if waited_in_vain(&what) => Err(match self.is_locked() {
                true => Error::Yielded {
                    to: "somebody who changes a table that pg_dump had yet to lock".to_owned(),
                },
                false => {
                    Error::Locked { table: "a table".to_owned(), by: "somebody".to_owned(), after: patience }
                }
            }),
            (Err(error), _) => Err(error),
        }
    }

    fn note_dump(&self, dumped: Dumped) {
        let _ = dumped.unknown.map(|version| self.unknown_archive.set(version));
        let gaps = dumped.warnings.into_iter().map(|what| NotCovered { what, why: Gap::Warning });
        self.not_covered.lock().unwrap_or_else(PoisonError::into_inner).extend(gaps);
    }

    /// Where we have locked all tables, `pg_dump` waits only for who waits for us, and that would never end.
    fn patience_of_pg_dump(&self) -> Duration {
        match (self.how.locks, self.is_locked()) {
            (Locks::Strict, true) => Duration::from_secs(2),
            (Locks::Strict, false) | (Locks::Yield, _) => self.how.lock_timeout,
        }
    }

    /// Makes sure that everything looks as it did at the moment.
    fn check_marks(&self) -> Result<()> {
        let mut connection = Connection::open(&self.info, &self.options)?;
        begin(&mut connection, None)?;
        self.marks.check(&Marks::read(&mut connection, &self.extent)?)
    }

    /// Reads the rows of all tables. Returns their sums, as the catalog has them.
    ///
    /// # Errors
    /// As [`Dump::run`]; nothing of what was received counts then.
    pub fn rows(&self, receiver: &dyn Receiver) -> Result<Vec<RowSum>> {
        self.explained(self.read_rows(receiver))
    }

    fn read_rows(&self, receiver: &dyn Receiver) -> Result<Vec<RowSum>> {
        self.lock_at_last()?;
        let parts = self.parts()?;
        match self.how.locks {
            Locks::Strict => self.dump().run_locked(parts, &self.holder, receiver),
            Locks::Yield => self.dump().run(parts, receiver),
        }
    }

    /// Returns all parts of all tables, the largest first: what [`Self::rows`] reads.
    pub fn parts(&self) -> Result<Vec<Part>> {
        plan(&mut self.holder(), &self.catalog)
    }

    /// Reads all large objects.
    ///
    /// # Errors
    /// As [`Dump::large_objects`].
    pub fn large_objects(&self, receiver: &dyn Receiver) -> Result<Sums> {
        self.explained(self.dump().large_objects(receiver))
    }

    /// Reads what belongs to the server, as far as this user may.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub fn globals(&self) -> Result<Globals> {
        let read = Globals::read(self.holder().connection());
        self.explained(read)
    }

    /// Ends the moment.
    ///
    /// # Errors
    /// When it had ended before: then the connection was lost, and nothing of what was received counts.
    pub fn finish(mut self) -> Result<()> {
        // Whoever waits from now on waits no more in vain.
        self.watch = None;
        let ended = self.holder().connection().execute("COMMIT");
        self.explained(ended)
    }

    fn dump(&self) -> Dump<'_> {
        Dump {
            info: &self.info,
            options: &self.options,
            snapshot: &self.snapshot,
            catalog: &self.catalog,
            jobs: self.how.jobs,
            lock_timeout: self.how.lock_timeout,
        }
    }

    fn holder(&self) -> MutexGuard<'_, Holder> {
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the moment that came to nothing and what still reads it, so that nobody waits until the caller has noticed.
    fn end_moment(&self) {
        self.over.store(true, Ordering::SeqCst);
        // A connection that is lost holds nothing.
        let _ = self.holder().connection().execute("ROLLBACK");
    }

    /// Says why something failed, where the failure itself does not know.
    fn explained<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            if let Some(why) = self.watch.as_ref().and_then(Watch::why) {
                self.end_moment();
                return why;
            }
            match self.keeper.lost() {
                Some(lost) => lost,
                None if is_about_snapshot(&error) => Error::SeveralServers { place: self.host.place() },
                None => error,
            }
        })
    }
}

/// Returns whether an error says that the server knows no such snapshot: the moment is held, so it is another server.
fn is_about_snapshot(error: &Error) -> bool {
    let says = |text: &str| {
        text.contains("snapshot") && (text.contains("does not exist") || text.contains("invalid snapshot"))
    };
    match error {
        Error::Server(error) => matches!(error.code.as_str(), "22023" | "42704") && says(&error.message),
        Error::Tool { what, .. } => says(what),
        _ => false,
    }
}

/// Returns whether a pooler hands our connections to others between transactions.
fn is_shared(info: &ConnInfo, options: &Options, connection: &mut Connection) -> Result<bool> {
    let host = connection.host().clone();
    Ok(match pooler::detect(info, options, connection, &host)?.0 {
        Pooler::Transaction => true,
        // Who writes so in a URL means one that does.
        Pooler::Unknown => info.pooled,
        Pooler::None | Pooler::Session => false,
    })
}

/// Returns whether `pg_dump` says that it did not get a lock in time.
fn waited_in_vain(what: &str) -> bool {
    what.contains("LOCK TABLE") && what.contains("timeout")
}

/// Connections that stop also when the moment is over, and that are known.
fn stopped_by(options: &Options, over: &Arc<AtomicBool>, backends: &Arc<Backends>) -> Options {
    let (stop, over) = (options.stop.clone(), over.clone());
    Options {
        stop: Arc::new(move || stop() || over.load(Ordering::SeqCst)),
        backends: Some(backends.clone()),
        ..options.clone()
    }
}

/// Returns a name that the connections of this `pg_dump` have and no others. The server keeps 63 bytes of it.
fn program_name(info: &ConnInfo, options: &Options, process: i32) -> String {
    let name = info.application_name.as_deref().unwrap_or(&options.application_name);
    let short: String = name.chars().filter(char::is_ascii_graphic).take(40).collect();
    format!("{short} pg_dump {process}")
}

fn lockable(catalog: &Catalog) -> Vec<&Table> {
    let is = |table: &&Table| matches!(table.kind, Kind::Ordinary | Kind::Partitioned);
    catalog.tables.iter().filter(is).collect()
}

/// Returns whether the server has locks enough for so many tables, of ours and of `pg_dump`, and half for the others.
fn has_locks_for_twice(connection: &mut Connection, tables: usize) -> Result<bool> {
    let sql = "SELECT pg_catalog.current_setting('max_locks_per_transaction')::pg_catalog.int8
                      * (pg_catalog.current_setting('max_connections')::pg_catalog.int8
                         + pg_catalog.current_setting('max_prepared_transactions')::pg_catalog.int8)";
    let rows = connection.query(sql, &[])?;
    let locks: usize = rows.first().map_or(Ok(0), |row| crate::catalog::number(row, 0))?;
    Ok(tables.saturating_mul(2) <= locks / 2)
}

fn schemas(connection: &mut Connection) -> Result<BTreeSet<String>> {
    let rows = connection.query("SELECT nspname FROM pg_catalog.pg_namespace", &[])?;
    rows.iter().map(|row| value(row, 0).map(str::to_owned)).collect()
}

fn has_labels(connection: &mut Connection) -> Result<bool> {
    let sql = "SELECT EXISTS (SELECT FROM pg_catalog.pg_seclabel
                              WHERE classoid = 'pg_catalog.pg_largeobject'::pg_catalog.regclass)";
    let rows = connection.query(sql, &[])?;
    Ok(rows.first().is_some_and(|row| row.first().and_then(Option::as_deref) == Some("t")))
}

/// Takes note of what `pg_dump` leaves out of the archive, with a warning or without, where the user is no superuser.
fn withheld(connection: &mut Connection, seen: Seen) -> Result<Seen> {
    if !seen.filter.schemas.is_empty() || !seen.filter.tables.is_empty() {
        // Objects that belong to no schema were not asked for.
        return Ok(seen);
    }
    let rows = connection.query(
        "WITH own AS (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
         SELECT pg_catalog.format('subscription %I', s.subname) AS what
         FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid, own
         WHERE d.datname = pg_catalog.current_database() AND NOT own.rolsuper
         UNION ALL
         SELECT pg_catalog.format('options of the user mapping of %I for server %I', m.usename, m.srvname)
         FROM pg_catalog.pg_user_mappings m JOIN pg_catalog.pg_foreign_server f ON f.oid = m.srvid, own
         WHERE m.umoptions IS NULL AND NOT own.rolsuper AND NOT (
             m.umuser <> 0 AND m.usename = current_user
                 AND (pg_catalog.pg_has_role(f.srvowner, 'USAGE') OR pg_catalog.has_server_privilege(f.oid, 'USAGE'))
             OR m.umuser = 0 AND pg_catalog.pg_has_role(f.srvowner, 'USAGE'))
         ORDER BY what",
        &[],
    )?;
    rows.iter().try_fold(seen, |seen, row| Ok(seen.without(value(row, 0)?, Gap::Withheld)))
}
