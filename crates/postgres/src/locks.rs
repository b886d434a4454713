//! Locks on what is read: on all tables from the begin to the end, or on nothing but the part that is being read.
//!
//! A reader's lock stands in nobody's way but that of who changes, empties or drops the table; but then everybody else who
//! wants the table queues up behind that one. So the first way is safe for the backup and the second for the others.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::catalog::{Table, value};
use crate::conninfo::ConnInfo;
use crate::dump::check_files;
use crate::snapshot::Holder;
use crate::wire::{Connection, Options, Row};
use crate::{Error, Result};

/// What is locked while a moment is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locks {
    /// All tables, against being changed or dropped, until everything is read.
    #[default]
    Strict,
    /// Only what is being read; and the backup makes way as soon as somebody waits for it.
    Yield,
}

/// So many tables are locked by one statement.
const BATCH: usize = 100;
/// How often it is looked who is in the way.
const LOOK: Duration = Duration::from_millis(500);

/// Does something with the connection of the holder that may have to wait for locks.
///
/// # Errors
/// [`Error::Locked`] with who is in the way, when one of them is not to be had in time.
pub(crate) fn patiently<T>(
    holder: &mut Holder,
    info: &ConnInfo,
    options: &Options,
    patience: Duration,
    task: impl FnOnce(&mut Connection) -> Result<T>,
) -> Result<T> {
    let process = backend(holder.connection())?;
    let found: Mutex<Option<(String, String)>> = Mutex::new(None);
    let seen = &found;
    let (end, ended) = std::sync::mpsc::channel::<()>();
    thread::scope(|scope| {
        let look = move || {
            // Most locks are had at once; nobody is asked then.
            while ended.recv_timeout(LOOK).is_err_and(|error| error == TIMED_OUT) {
                // Without an answer the table is told without who is in the way.
                if let Ok(Some(found)) = in_the_way(info, options, process) {
                    *seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
                }
            }
        };
        let started = thread::Builder::new().name("watch locks".to_owned()).spawn_scoped(scope, look);
        started.map_err(|source| Error::System { what: "start a thread", source })?;
        let connection = holder.connection();
        let timeout = patience.as_millis().max(1);
        connection.execute(&format!("SET LOCAL lock_timeout = '{timeout}ms'"))?;
        let done = task(connection)?;
        connection.execute("SET LOCAL lock_timeout = 0")?;
        drop(end);
        Ok(done)
    })
    .map_err(|error: Error| match error.code() {
        Some("55P03") => {
            let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).take();
            let (table, by) = seen.unwrap_or_else(|| ("a table".to_owned(), "somebody".to_owned()));
            Error::Locked { table, by, after: patience }
        }
        _ => error,
    })
}

const TIMED_OUT: std::sync::mpsc::RecvTimeoutError = std::sync::mpsc::RecvTimeoutError::Timeout;

/// Locks tables in the transaction of a connection, and makes sure that they are still those of the moment.
pub(crate) fn lock_all(connection: &mut Connection, tables: &[&Table]) -> Result<()> {
    for some in tables.chunks(BATCH) {
        let names: Vec<String> = some.iter().map(|table| format!("ONLY {}", table.name.quoted())).collect();
        let statement = format!("LOCK TABLE {} IN ACCESS SHARE MODE", names.join(", "));
        connection.execute(&statement).map_err(|error| one_dropped(error, some))?;
        check_files(connection, some)?;
    }
    Ok(())
}

/// One of these tables is not there any more, or its schema is not.
fn one_dropped(error: Error, tables: &[&Table]) -> Error {
    if !matches!(error.code(), Some("42P01" | "3F000")) {
        return error;
    }
    // Which one it is only the text says, in whatever language: with a schema for a table, else of a schema. What is
    // longest is meant, since one name may be a part of another.
    let message = error.to_string();
    let named = |name: &dyn Fn(&Table) -> String| {
        let named = tables.iter().rev().filter(|table| message.contains(&name(table)));
        named.max_by_key(|table| name(table).len())
    };
    let table = named(&|table| format!("{}.{}", table.name.schema, table.name.name))
        .or_else(|| named(&|table| table.name.schema.clone()));
    let table = table.map_or_else(|| "a table".to_owned(), |table| table.name.quoted());
    Error::Changed { table, what: "was dropped" }
}

/// Returns the process of the server that carries out the transaction of a connection.
pub(crate) fn backend(connection: &mut Connection) -> Result<i32> {
    let rows = connection.query("SELECT pg_catalog.pg_backend_pid()", &[])?;
    rows.first().map_or_else(|| Err(Error::protocol("no process")), |row| crate::catalog::number(row, 0))
}

/// Returns which table a process waits for, and who is in its way.
fn in_the_way(info: &ConnInfo, options: &Options, process: i32) -> Result<Option<(String, String)>> {
    let mut connection = Connection::open(info, options)?;
    let sql = format!(
        "SELECT l.relation, n.nspname, c.relname, {WHO}
         FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation
         LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         CROSS JOIN LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(l.pid)) AS b (pid)
         LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
         WHERE l.pid = $1::pg_catalog.int4 AND NOT l.granted"
    );
    let rows = connection.query(&sql, &[Some(&process.to_string())])?;
    let who = |row: &Row| value(row, 3).map(str::to_owned);
    let Some(first) = rows.first() else { return Ok(None) };
    let may_be = |column: usize| first.get(column).cloned().flatten().unwrap_or_default();
    let all: Result<Vec<String>> = rows.iter().map(who).collect();
    Ok(Some((format!("{}.{}", may_be(1), may_be(2)), all?.join(", "))))
}

/// Says who a process is. What it does is not told: statements hold data.
pub(crate) const WHO: &str =
    "'process ' || coalesce(a.pid::pg_catalog.text, '?') || ' (' || pg_catalog.concat_ws(', ',
    nullif(a.usename, ''), nullif(a.application_name, ''), nullif(a.state, '')) || ')'";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;

    #[test]
    fn table_that_was_dropped_before_it_was_locked_is_named_and_another_moment_may_succeed() {
        let sql = "CREATE TABLE t (n int); CREATE TABLE \"t t\" (n int); CREATE TABLE exist (n int);
                   CREATE SCHEMA e; CREATE TABLE e.t (n int); CREATE TABLE e.u (n int);
                   CREATE SCHEMA \"s 2\"; CREATE TABLE \"s 2\".q9 (n int)";
        for (number, (change, named)) in [
            ("DROP TABLE t", r#""public"."t""#),
            ("ALTER TABLE \"t t\" RENAME TO other", r#""public"."t t""#),
            ("DROP SCHEMA e CASCADE", r#""e"."t""#),
            ("ALTER SCHEMA \"s 2\" RENAME TO f", r#""s 2"."q9""#),
        ]
        .into_iter()
        .enumerate()
        {
            let Some(place) = Place::new(&format!("not locked {number}"), sql) else { return };
            let (mut holder, catalog) = place.hold();
            place.sql(change);
            let tables: Vec<&Table> = catalog.tables.iter().collect();
            let error = lock_all(holder.connection(), &tables).unwrap_err();
            assert!(matches!(error, Error::Changed { .. }), "{change}: {error}");
            assert_eq!(error.to_string(), format!("{named} was dropped while it was read"));
        }
    }
}
