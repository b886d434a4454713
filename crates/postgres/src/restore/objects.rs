//! Making the objects of an archive.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::leave::{Essential, goes_with_another, is_beside_a_table, is_from_outside};
use super::schedule::{Next, Schedule, may_run_code};
use super::{Loss, RestoreOptions};
use crate::archive::{Archive, Entry};
use crate::catalog::Name;
use crate::conninfo::ConnInfo;
use crate::error::ServerError;
use crate::snapshot::{identifier, literal, version};
use crate::wire::{Connection, Options};
use crate::{Error, Result};

/// How often an object is tried again that was in the way of another session.
const TRIES: usize = 5;

/// What every session of a restore sets, whatever the role and the database have as their defaults: nothing ends it
/// early, names mean what the archive says, and only the last step has to reach the disk at once.
const SETTINGS: &str = "\
SET default_transaction_read_only = off;\
SET default_transaction_isolation = 'read committed';\
SET statement_timeout = 0;\
SET lock_timeout = 0;\
SET idle_in_transaction_session_timeout = 0;\
SET client_encoding = 'UTF8';\
SET search_path = '';\
SET quote_all_identifiers = off;\
SET standard_conforming_strings = on;\
SET check_function_bodies = false;\
SET xmloption = 'content';\
SET client_min_messages = warning;\
SET row_security = off;\
SET DateStyle = 'ISO, YMD';\
SET IntervalStyle = 'postgres';\
SET TimeZone = 'UTC';\
SET jit = off;\
SET transform_null_equals = off;\
SET array_nulls = on;\
SET synchronous_commit = off;";

/// Opens a session that makes objects or writes rows.
pub(crate) fn session(info: &ConnInfo, options: &Options) -> Result<Connection> {
    let mut connection = Connection::open(info, options)?;
    let version = version(&mut connection)?;
    connection.execute(SETTINGS)?;
    if version >= 140_000 {
        connection.execute("SET idle_session_timeout = 0")?;
    }
    if version >= 170_000 {
        connection.execute("SET transaction_timeout = 0")?;
    }
    Ok(connection)
}

/// Lets one of several sessions sort `1 / jobs` of 256 MiB in memory, or more if the server says so.
pub(super) fn raise_memory(connection: &mut Connection, jobs: usize) -> Result<()> {
    let kilobytes = ((256 << 10) / jobs.max(1)).max(64 << 10);
    let sql = "SELECT pg_catalog.set_config('maintenance_work_mem', greatest(setting::pg_catalog.int8, $1::pg_catalog.int8)::pg_catalog.text, false)
               FROM pg_catalog.pg_settings WHERE name = 'maintenance_work_mem'";
    connection.query(sql, &[Some(&kilobytes.to_string())]).map(drop)
}

/// Has texts in statements read as those of an archive are meant.
pub(super) fn read_strings_as(connection: &mut Connection, archive: &Archive) -> Result<()> {
    let mut said = archive.entries.iter().filter(|entry| entry.kind == "STDSTRINGS");
    said.try_for_each(|entry| connection.execute(&entry.definition))
}

/// Makes objects in one session.
pub(super) struct Maker<'a> {
    pub(super) connection: Connection,
    how: &'a RestoreOptions,
    essential: Essential,
    tablespace: Option<String>,
    access_method: Option<String>,
    /// Whether all of it is one transaction, which has to go on when an object is left.
    within: bool,
    /// Whether the database is one that is in use, so that only whole tables are brought back.
    in_use: bool,
    /// Whether the server makes indexes as it is set up, by several processes.
    has_help: bool,
}

/// What became of an object.
pub(super) enum Made {
    /// It is there, or it was asked not to be; with what of it is not as it was: to whom it belongs, where it is stored.
    There(Vec<Loss>),
    /// It is not there.
    Left(Loss),
}

impl<'a> Maker<'a> {
    pub(super) fn open(
        info: &ConnInfo,
        options: &Options,
        archive: &Archive,
        how: &'a RestoreOptions,
    ) -> Result<Self> {
        let mut connection = session(info, options)?;
        raise_memory(&mut connection, how.jobs)?;
        read_strings_as(&mut connection, archive)?;
        Ok(Self { within: false, ..Self::within(connection, archive, how, false) })
    }

    /// Makes objects in the transaction of a session.
    pub(super) fn within(
        connection: Connection,
        archive: &Archive,
        how: &'a RestoreOptions,
        in_use: bool,
    ) -> Self {
        let essential = Essential::of(archive);
        Self {
            connection,
            how,
            essential,
            tablespace: None,
            access_method: None,
            within: true,
            in_use,
            has_help: true,
        }
    }

    /// Lets the server make indexes by several processes, as far as it is set up so, or by one.
    fn let_server_help(&mut self, has_help: bool) -> Result<()> {
        if self.has_help != has_help {
            let setting = if has_help { "DEFAULT" } else { "0" };
            self.connection.execute(&format!("SET max_parallel_maintenance_workers = {setting}"))?;
            self.has_help = has_help;
        }
        Ok(())
    }

    /// Makes an object.
    ///
    /// # Errors
    /// [`Error::Object`] when the server refuses it and it is none that a restore can do without.
    pub(super) fn make(&mut self, entry: &Entry) -> Result<Made> {
        // What is said of the database itself names the original, which may be on this server and in use.
        let of_database = matches!(entry.kind.as_str(), "ACL" | "COMMENT" | "SECURITY LABEL")
            && entry.tag.starts_with("DATABASE ");
        // The settings of the archive are those of the session; databases are made elsewhere.
        if of_database
            || matches!(
                entry.kind.as_str(),
                "ENCODING" | "STDSTRINGS" | "SEARCHPATH" | "DATABASE" | "DATABASE PROPERTIES"
            )
        {
            return Ok(Made::There(Vec::new()));
        }
        let placed = self.place(entry);
        let not_placed = match placed.and_then(|lost| self.define(entry).map(|()| lost)) {
            Ok(lost) => lost,
            Err(error) => return self.refused(entry, error).map(Made::Left),
        };
        let not_given = if self.how.owners { self.give(entry)? } else { None };
        Ok(Made::There(not_placed.into_iter().chain(not_given).collect()))
    }

    /// Gives an object to whom it belongs. Returns the loss when the server refuses that.
    fn give(&mut self, entry: &Entry) -> Result<Option<Loss>> {
        let Some(statement) = entry.give_to(&entry.owner) else { return Ok(None) };
        let Err(error) = self.carry_out(&statement) else { return Ok(None) };
        let error = server_error(error)?;
        if is_from_outside(&error.code) {
            return Err(Error::Object { object: entry.title(), source: Box::new(error), hint: None });
        }
        let mut loss = Loss::of(entry, error.message);
        loss.what = format!("owner {} of {}", identifier(&entry.owner), loss.what);
        Ok(Some(loss))
    }

    /// Returns the loss of an object that the server refuses.
    fn refused(&self, entry: &Entry, error: Error) -> Result<Loss> {
        let error = server_error(error)?;
        let left = self.essential.can_be_left(entry, &error.code)
            && (!self.in_use || is_beside_a_table(&entry.kind))
            && !(self.how.trial && is_from_outside(&error.code));
        match left {
            true if entry.kind == "MATERIALIZED VIEW DATA" => {
                Ok(Loss::of(entry, format!("it is there and empty: {}", error.message)))
            }
            true => Ok(Loss::of(entry, error.message)),
            false => Err(Error::Object { object: entry.title(), source: Box::new(error), hint: None }),
        }
    }

    /// Carries out what makes an object.
    fn define(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != "MATERIALIZED VIEW DATA" {
            return match (self.execute(&entry.definition), self.schema_of(entry)) {
                // Backups of some tables or schemas do not have every schema that something of them is in.
                (Err(error), Some(schema)) if error.code() == Some("3F000") && !self.in_use => {
                    self.execute(&format!("CREATE SCHEMA IF NOT EXISTS {schema};\n{}", entry.definition))
                }
                (made, _) => made,
            };
        }
        // It gets the rows that its owner sees, as on any other day: where policies hide some, that is no error.
        self.connection.execute("SET row_security = on")?;
        let made = self.execute(&entry.definition);
        self.connection.execute("SET row_security = off")?;
        made
    }

    /// Returns the schema that something cannot do without which rows or others need, as SQL.
    fn schema_of(&self, entry: &Entry) -> Option<String> {
        match entry.kind.as_str() {
            "EXTENSION" => {
                let (_, behind) = entry.definition.split_once(" WITH SCHEMA ")?;
                Some(behind.trim_end().trim_end_matches(';').to_owned())
            }
            "TABLE" | "SEQUENCE" => entry.schema.as_deref().map(identifier),
            _ => None,
        }
    }

    fn execute(&mut self, definition: &str) -> Result<()> {
        for _ in 1..TRIES {
            match self.carry_out(definition) {
                // Another session of ours or of somebody else was in the way.
                Err(error) if !self.within && matches!(error.code(), Some("40P01" | "55P03" | "40001")) => {}
                // The schema `public` is in every new database.
                Err(error) if error.code() == Some("42P06") => return Ok(()),
                result => return result,
            }
        }
        self.carry_out(definition)
    }

    /// Carries out statements so that the session can go on after an error of the server.
    fn carry_out(&mut self, statements: &str) -> Result<()> {
        if !self.within {
            return self.connection.execute(statements);
        }
        self.connection.execute("SAVEPOINT object")?;
        let result = self.connection.execute(statements);
        let end = match &result {
            Ok(()) => "RELEASE SAVEPOINT object",
            Err(Error::Server(_)) => "ROLLBACK TO SAVEPOINT object; RELEASE SAVEPOINT object",
            Err(_) => return result,
        };
        self.connection.execute(end)?;
        result
    }

    /// Sets where and how the next table or index is stored. A tablespace that is not there is a loss.
    fn place(&mut self, entry: &Entry) -> Result<Option<Loss>> {
        let mut lost = None;
        if entry.tablespace != self.tablespace {
            let name = entry.tablespace.as_deref().unwrap_or_default();
            let there = name.is_empty() || !self.connection.query(TABLESPACE, &[Some(name)])?.is_empty();
            if !there {
                let what = format!("tablespace {} of {}", identifier(name), entry.title());
                lost = Some(Loss { what, why: "this user may not use one of that name here".to_owned() });
            }
            let name = if there { name } else { "" };
            self.set("default_tablespace", name)?;
            self.tablespace = there.then(|| entry.tablespace.clone()).flatten();
        }
        if entry.access_method.is_some() && entry.access_method != self.access_method {
            let name = entry.access_method.as_deref().unwrap_or_default();
            self.set("default_table_access_method", name)?;
            self.access_method.clone_from(&entry.access_method);
        }
        Ok(lost)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        let sql = "SELECT pg_catalog.set_config($1, $2, false)";
        self.connection.query(sql, &[Some(name), Some(value)]).map(drop)
    }
}

const TABLESPACE: &str = "SELECT FROM pg_catalog.pg_tablespace
    WHERE spcname = $1 AND pg_catalog.has_tablespace_privilege(oid, 'CREATE')";

/// Returns what the server said; another error is the end.
fn server_error(error: Error) -> Result<ServerError> {
    match error {
        Error::Server(error) => Ok(*error),
        error => Err(error),
    }
}

/// What was not made so far.
#[derive(Debug, Default)]
pub(super) struct Losses {
    pub(super) all: Vec<Loss>,
    left: BTreeSet<i32>,
}

impl Losses {
    /// Returns whether an object is not there.
    pub(super) fn has(&self, entry: &Entry) -> bool {
        self.left.contains(&entry.id)
    }

    /// Returns whether an object has to be left because of what it belongs to.
    fn takes_along(&mut self, entry: &Entry) -> bool {
        let lost = goes_with_another(&entry.kind) && entry.needs.iter().any(|need| self.left.contains(need));
        if lost {
            self.left.insert(entry.id);
            self.all.push(Loss::of(entry, "it belongs to what could not be restored".to_owned()));
        }
        lost
    }

    fn note(&mut self, entry: &Entry, made: Made) {
        match made {
            Made::There(losses) => self.all.extend(losses),
            Made::Left(loss) => {
                self.left.insert(entry.id);
                self.all.push(loss);
            }
        }
    }
}

/// Makes objects one after the other.
pub(super) fn make_in_order<'e>(
    maker: &mut Maker<'_>,
    entries: impl IntoIterator<Item = &'e Entry>,
    losses: &mut Losses,
) -> Result<()> {
    for entry in entries {
        if !losses.takes_along(entry) {
            let made = maker.make(entry)?;
            losses.note(entry, made);
        }
    }
    Ok(())
}

/// Makes objects by several sessions.
pub(super) struct Parallel<'a> {
    pub(super) info: &'a ConnInfo,
    pub(super) options: &'a Options,
    pub(super) archive: &'a Archive,
    pub(super) how: &'a RestoreOptions,
}

struct Shared<'a> {
    schedule: Schedule<'a>,
    losses: Losses,
    failed: Option<Error>,
    /// Whether a session has found nothing left to begin.
    has_idled: bool,
}

impl Parallel<'_> {
    /// Makes objects. `bytes` are the sizes of tables by their numbers in the archive. When a session finds nothing left to
    /// begin, `idle` is told once of which tables others still make something; later or never where that may run code of the
    /// database, which could write to any table.
    pub(super) fn run(
        &self,
        entries: Vec<&Entry>,
        bytes: &HashMap<i32, u64>,
        losses: &mut Losses,
        idle: &(dyn Fn(BTreeSet<Name>) + Sync),
    ) -> Result<()> {
        // Also those for whom there is nothing: the first of them tells so.
        let jobs = self.how.jobs.max(1);
        let busy = jobs.min(entries.len().max(1));
        let schedule = Schedule::new(&self.archive.entries, entries, bytes, busy);
        let losses_so_far = std::mem::take(losses);
        let held = Mutex::new(Shared { schedule, losses: losses_so_far, failed: None, has_idled: false });
        let (shared, changed) = (&held, &Condvar::new());
        thread::scope(|scope| {
            for number in 0..jobs {
                let worker = move || {
                    match self.work(shared, changed) {
                        Ok(()) => self.tell_once(shared, idle),
                        Err(error) => {
                            lock(shared).failed.get_or_insert(error);
                        }
                    }
                    changed.notify_all();
                };
                let started =
                    thread::Builder::new().name(format!("make objects {number}")).spawn_scoped(scope, worker);
                if let Err(source) = started {
                    lock(shared).failed.get_or_insert(Error::System { what: "start a thread", source });
                }
            }
        });
        let shared = held.into_inner().unwrap_or_else(PoisonError::into_inner);
        *losses = shared.losses;
        shared.failed.map_or(Ok(()), Err)
    }

    /// Tells what is still being made, when everything was begun: nothing is added to that any more.
    fn tell_once(&self, shared: &Mutex<Shared<'_>>, idle: &(dyn Fn(BTreeSet<Name>) + Sync)) {
        let mut shared = lock(shared);
        if shared.failed.is_some()
            || shared.has_idled
            || may_run_code(&self.archive.entries, shared.schedule.at_work())
        {
            return;
        }
        shared.has_idled = true;
        let tables: BTreeSet<i32> = shared.schedule.tables_at_work().collect();
        let entries = self.archive.entries.iter().filter(|entry| tables.contains(&entry.id));
        idle(entries.filter_map(Entry::name).collect());
    }

    fn work(&self, shared: &Mutex<Shared<'_>>, changed: &Condvar) -> Result<()> {
        let mut maker = None;
        while let Some(Next { place, entry, is_longest }) = next(shared, changed) {
            let maker = match &mut maker {
                Some(maker) => maker,
                None => maker.insert(Maker::open(self.info, self.options, self.archive, self.how)?),
            };
            maker.let_server_help(is_longest)?;
            let takes_along = lock(shared).losses.takes_along(entry);
            let made = if takes_along { Made::There(Vec::new()) } else { maker.make(entry)? };
            let mut shared = lock(shared);
            shared.losses.note(entry, made);
            shared.schedule.done(place);
            changed.notify_all();
        }
        Ok(())
    }
}

/// Waits for an object whose turn has come; none when all were begun or one failed.
fn next<'a>(shared: &Mutex<Shared<'a>>, changed: &Condvar) -> Option<Next<'a>> {
    let mut guard = lock(shared);
    loop {
        if guard.failed.is_some() || guard.schedule.is_empty() {
            return None;
        }
        if let Some(found) = guard.schedule.next() {
            return Some(found);
        }
        guard = changed.wait(guard).unwrap_or_else(PoisonError::into_inner);
    }
}

fn lock<'g, 's>(shared: &'g Mutex<Shared<'s>>) -> MutexGuard<'g, Shared<'s>> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns a statement that says something of a database.
pub(super) fn comment_on_database(name: &str, text: Option<&str>) -> String {
    let text = text.map_or_else(|| "NULL".to_owned(), literal);
    format!("COMMENT ON DATABASE {} IS {text}", identifier(name))
}
