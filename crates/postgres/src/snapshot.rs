//! One moment of a database, seen by several connections.
//!
//! The holder's transaction exports a snapshot; every other connection takes it over in a transaction of its own.
//! Snapshots belong to one server process group: a connection that lands on another server (a reader behind the same
//! name) is refused it, and that is an error here. Everything is set for one transaction at a time (`SET LOCAL`), so
//! that a pooler between us and the server hands nothing of ours to others.

use crate::wire::Connection;
use crate::{Error, Result};

/// What fixes how values are written, whatever the server, the database and the role have as their defaults, and keeps
/// timeouts and row-level security from cutting an answer short.
pub(crate) const SETTINGS: &str = "\
SET LOCAL search_path = '';\
SET LOCAL client_encoding = 'UTF8';\
SET LOCAL DateStyle = 'ISO, YMD';\
SET LOCAL IntervalStyle = 'postgres';\
SET LOCAL TimeZone = 'UTC';\
SET LOCAL extra_float_digits = 1;\
SET LOCAL bytea_output = 'hex';\
SET LOCAL xmloption = 'content';\
SET LOCAL lc_monetary = 'C';\
SET LOCAL quote_all_identifiers = off;\
SET LOCAL standard_conforming_strings = on;\
SET LOCAL row_security = off;\
SET LOCAL synchronize_seqscans = off;\
SET LOCAL statement_timeout = 0;\
SET LOCAL idle_in_transaction_session_timeout = 0;\
SET LOCAL lock_timeout = 0;";

/// Settings that newer servers have.
const SINCE_17: &str = "SET LOCAL transaction_timeout = 0;";

/// The transaction that holds a moment. It ends with the value; a connection that took the snapshot over before keeps
/// it.
#[derive(Debug)]
pub struct Holder {
    connection: Connection,
    id: String,
}

impl Holder {
    /// Begins the transaction and exports its snapshot.
    ///
    /// # Errors
    /// When the connection fails, or the server is a standby that cannot export one.
    pub fn begin(mut connection: Connection) -> Result<Self> {
        begin(&mut connection, None)?;
        let mut rows = connection.query("SELECT pg_catalog.pg_export_snapshot()", &[])?;
        let id = rows.pop().and_then(|mut row| row.pop()?);
        let id = id.ok_or_else(|| Error::protocol("no snapshot"))?;
        Ok(Self { connection, id })
    }

    /// Returns the name of the snapshot, as `pg_dump --snapshot` takes it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the connection, which sees this moment.
    pub fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }
}

/// Begins a transaction that only reads, and sees the moment of `snapshot`, else one of its own.
pub fn begin(connection: &mut Connection, snapshot: Option<&str>) -> Result<()> {
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")?;
    if let Some(snapshot) = snapshot {
        connection.execute(&format!("SET TRANSACTION SNAPSHOT {}", literal(snapshot)))?;
    }
    connection.execute(SETTINGS)?;
    let rows = connection
        .query("SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.pg_backend_pid()", &[])?;
    let number = |column: usize| rows.first().and_then(|row| row.get(column)?.as_deref()?.parse().ok());
    let number =
        |column| number(column).ok_or_else(|| Error::protocol("no version or no process of the server"));
    if number(0)? >= 170_000 {
        connection.execute(SINCE_17)?;
    }
    connection.is_served_by(number(1)?);
    Ok(())
}

/// Returns the version of the server as a number, as 170004.
pub fn version(connection: &mut Connection) -> Result<u32> {
    let rows = connection.query("SELECT pg_catalog.current_setting('server_version_num')", &[])?;
    let text = rows.first().and_then(|row| row.first()?.as_deref());
    text.and_then(|text| text.parse().ok()).ok_or_else(|| Error::protocol("no version of the server"))
}

/// Returns a name as SQL takes it, whatever it holds.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns a text as SQL takes it. `standard_conforming_strings` must be on.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests;
