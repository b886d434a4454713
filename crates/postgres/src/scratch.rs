//! Places for a database that is thrown away: a server of our own, or a database with a name of ours on a server that
//! was named for that.
//!
//! Whatever ends us, nothing stays for good. A server of ours ends with this process: a shell waits for the end of a
//! pipe that only we hold. A database of ours has sessions of ours on its server for as long as it is wanted, and
//! [`Place::begin`] drops those that have none.

mod cluster;

use std::thread;
use std::time::Duration;

use crate::conninfo::ConnInfo;
use crate::restore::administration;
use crate::snapshot::{identifier, version};
use crate::wire::{Connection, Options};
use crate::{Error, Result};

pub use cluster::{Cluster, owner};

/// How the names of databases begin that are thrown away. Behind it stand [`DIGITS`] digits.
const PREFIX: &str = "dbkeep_drill_";
/// How many hexadecimal digits tell one from another.
const DIGITS: usize = 16;

/// A name on a server, for a database that is thrown away.
#[derive(Debug)]
pub struct Place {
    info: ConnInfo,
    options: Options,
    /// Tells others that the database is wanted.
    guard: Option<Connection>,
}

impl Place {
    /// Takes a name that nobody has, and drops what others of its kind left behind. `unique` tells it from others: 16
    /// hexadecimal digits.
    ///
    /// # Errors
    /// When the server cannot be reached. What cannot be dropped is left.
    pub fn begin(server: &ConnInfo, options: &Options, unique: &str) -> Result<Self> {
        let database = format!("{PREFIX}{unique}");
        let mut guard = administration(server, options, "")?;
        // A connection string may say what connections call themselves.
        guard.query("SELECT pg_catalog.set_config('application_name', $1, false)", &[Some(&database)])?;
        for left in abandoned(&mut guard)? {
            match drop_by_force(&mut guard, &left) {
                Ok(()) => tracing::info!(event = "scratch-dropped", database = left, "an abandoned drill"),
                Err(error) => tracing::warn!(event = "scratch-stays", database = left, %error, "not dropped"),
            }
        }
        let mut info = server.with_database(&database);
        // All sessions of a drill have the name: the one that waits here may be ended by whoever is between.
        info.application_name = Some(database);
        Ok(Self { info, options: options.clone(), guard: Some(guard) })
    }

    /// Returns the way to the database. It is not there before somebody makes it.
    pub fn info(&self) -> &ConnInfo {
        &self.info
    }

    /// Asks the database for one value, as text.
    ///
    /// # Errors
    /// When the server says no.
    pub fn ask(&self, sql: &str) -> Result<Answer> {
        let mut connection = Connection::open(&self.info, &self.options)?;
        let rows = connection.query(sql, &[])?;
        Ok(match rows.as_slice() {
            [] => Answer::Nothing,
            [row] if row.len() == 1 => Answer::Value(row[0].clone()),
            _ => Answer::Several,
        })
    }

    /// Drops the database, and one that is unfinished.
    ///
    /// # Errors
    /// When the server cannot be asked; the next drill tries it again.
    pub fn finish(mut self) -> Result<()> {
        self.drop_all()
    }

    fn drop_all(&mut self) -> Result<()> {
        if self.guard.take().is_none() {
            return Ok(());
        }
        // It may be that somebody stopped us, and this has to be done even so.
        let options = Options { stop: std::sync::Arc::new(|| false), ..self.options.clone() };
        let mut connection = administration(&self.info, &options, &self.info.database)?;
        let sql = "SELECT datname FROM pg_catalog.pg_database WHERE pg_catalog.starts_with(datname, $1)";
        for row in connection.query(sql, &[Some(&self.info.database)])? {
            let name = row.into_iter().next().flatten();
            let name = name.ok_or_else(|| Error::protocol("a database without a name"))?;
            drop_by_force(&mut connection, &name)?;
        }
        Ok(())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What stays is dropped by the next drill.
        if let Err(error) = self.drop_all() {
            tracing::warn!(event = "scratch-stays", database = self.info.database, %error, "not dropped");
        }
    }
}

/// From this version on a database is dropped together with its sessions.
const BY_FORCE: u32 = 130_000;
/// How often a database is tried to be dropped whose sessions take their time to end.
const TRIES: u32 = 50;

/// Drops a database, whoever uses it.
fn drop_by_force(connection: &mut Connection, database: &str) -> Result<()> {
    match version(connection)? {
        BY_FORCE.. => connection.execute(&format!("DROP DATABASE {} WITH (FORCE)", identifier(database))),
        _ => drop_step_by_step(connection, database),
    }
}

/// Does the same by ending its sessions first.
fn drop_step_by_step(connection: &mut Connection, database: &str) -> Result<()> {
    let end = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity
               WHERE datname = $1 AND pid <> pg_catalog.pg_backend_pid()";
    let drop = format!("DROP DATABASE {}", identifier(database));
    for _ in 1..TRIES {
        connection.query(end, &[Some(database)])?;
        match connection.execute(&drop) {
            // They end a moment after they were told to.
            Err(error) if error.code() == Some("55006") => thread::sleep(Duration::from_millis(100)),
            result => return result,
        }
    }
    connection.execute(&drop)
}

/// What a question for one value came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// One value; none where it is NULL.
    Value(Option<String>),
    /// No row.
    Nothing,
    /// Several rows or columns.
    Several,
}

/// Returns the databases of ours for which nobody has a session any more: neither one of their name, nor one in them.
fn abandoned(connection: &mut Connection) -> Result<Vec<String>> {
    let sql = format!(
        "SELECT d.datname FROM pg_catalog.pg_database d
         WHERE d.datname ~ '^{PREFIX}[0-9a-f]{{{DIGITS}}}' AND NOT EXISTS (
             SELECT FROM pg_catalog.pg_stat_activity a
             WHERE a.application_name = pg_catalog.left(d.datname, {})
                   OR a.datid = d.oid AND a.usesysid IS NOT NULL)",
        PREFIX.len() + DIGITS
    );
    let rows = connection.query(&sql, &[])?;
    Ok(rows.into_iter().filter_map(|row| row.into_iter().next().flatten()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place as Database;

    /// As on servers before version 13, which know no `WITH (FORCE)`.
    #[test]
    fn database_in_use_is_dropped_by_ending_its_sessions_first() {
        let Some(database) = Database::new("scratch in \"use\"", "") else { return };
        let mut user = database.open();
        let mut other = administration(&database.info, &database.options, &database.name).unwrap();
        let in_use = other.execute(&format!("DROP DATABASE {}", identifier(&database.name))).unwrap_err();
        assert_eq!(in_use.code(), Some("55006"));
        drop_step_by_step(&mut other, &database.name).unwrap();
        assert!(user.query("SELECT 1", &[]).is_err(), "its session has ended");
        let gone = "SELECT FROM pg_catalog.pg_database WHERE datname = $1";
        assert_eq!(other.query(gone, &[Some(&database.name)]).unwrap(), Vec::<crate::wire::Row>::new());
    }
}
