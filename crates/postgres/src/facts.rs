//! What a server says of itself, of the database and of the user: what a backup notes beside the rows, and what a restore
//! makes again.

use serde::{Deserialize, Serialize};

use crate::catalog::{number, value};
use crate::snapshot::version;
use crate::wire::Connection;
use crate::{Error, Result};

/// What is known of a server, a database and a user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Facts {
    /// The version of the server, as `16.4`.
    pub version: String,
    /// The same as a number, as 160004.
    pub version_number: u32,
    /// What tells this server and its standbys from all others; absent where this user may not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// The name of the database.
    pub database: String,
    /// Its number: a database that was dropped and made again has another one.
    #[serde(default)]
    pub database_oid: u32,
    /// Its bytes on disk; 0 where this user may not know.
    #[serde(default)]
    pub bytes: u64,
    /// The role whose rights hold.
    pub user: String,
    /// Whether it may do anything.
    #[serde(default)]
    pub is_superuser: bool,
    /// Whether no policy hides rows from it.
    #[serde(default)]
    pub bypasses_row_security: bool,
    /// Whether the server is a standby.
    #[serde(default)]
    pub in_recovery: bool,
    /// What a database is made with.
    pub properties: Properties,
    /// What is installed in the database, by name.
    #[serde(default)]
    pub extensions: Vec<Extension>,
}

/// Something that is installed in a database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Extension {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The schema of its objects.
    pub schema: String,
}

impl Facts {
    /// Reads those of the server, the database and the user of a connection, in a transaction or outside of any.
    ///
    /// # Errors
    /// When the server cannot be asked. What this user may not know is none.
    pub fn read(connection: &mut Connection) -> Result<Self> {
        let rows = connection.query(
            "SELECT pg_catalog.current_setting('server_version'), d.datname, d.oid, r.rolname, r.rolsuper,
                    r.rolsuper OR r.rolbypassrls, pg_catalog.pg_is_in_recovery()
             FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
             WHERE d.datname = pg_catalog.current_database() AND r.rolname = current_user",
            &[],
        )?;
        let row = rows.first().ok_or_else(|| Error::protocol("no database or no role of this connection"))?;
        let version_text = value(row, 0)?.split_whitespace().next().unwrap_or_default();
        let is = |column| Ok::<bool, Error>(value(row, column)? == "t");
        Ok(Self {
            version: version_text.to_owned(),
            version_number: version(connection)?,
            system_identifier: system_identifier(connection)?,
            database: value(row, 1)?.to_owned(),
            database_oid: number(row, 2)?,
            bytes: size(connection)?,
            user: value(row, 3)?.to_owned(),
            is_superuser: is(4)?,
            bypasses_row_security: is(5)?,
            in_recovery: is(6)?,
            properties: Properties::read(connection)?,
            extensions: extensions(connection)?,
        })
    }

    /// Returns the major version, as 16.
    pub fn major(&self) -> u32 {
        self.version_number / 10_000
    }
}

/// Returns whether this user may call a function of the server, which has to be there.
///
/// An error would end the transaction, so it is asked first.
fn may_call(connection: &mut Connection, function: &str) -> Result<bool> {
    let rows = connection.query(
        "SELECT coalesce(pg_catalog.has_function_privilege(pg_catalog.to_regprocedure($1)::pg_catalog.oid, 'EXECUTE'), false)",
        &[Some(function)],
    )?;
    Ok(rows.first().is_some_and(|row| row.first().and_then(Option::as_deref) == Some("t")))
}

fn system_identifier(connection: &mut Connection) -> Result<Option<String>> {
    if !may_call(connection, "pg_catalog.pg_control_system()")? {
        return Ok(None);
    }
    let mut rows = connection.query("SELECT system_identifier FROM pg_catalog.pg_control_system()", &[])?;
    Ok(rows.pop().and_then(|mut row| row.pop()?))
}

fn size(connection: &mut Connection) -> Result<u64> {
    if !may_call(connection, "pg_catalog.pg_database_size(name)")? {
        return Ok(0);
    }
    // Who may connect may ask; who is connected may have lost that right.
    let rows = connection.query(
        "SELECT CASE WHEN pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CONNECT')
                     THEN pg_catalog.pg_database_size(pg_catalog.current_database()) ELSE 0 END",
        &[],
    )?;
    rows.first().map_or(Ok(0), |row| number(row, 0))
}

fn extensions(connection: &mut Connection) -> Result<Vec<Extension>> {
    let sql = "SELECT e.extname, e.extversion, n.nspname FROM pg_catalog.pg_extension e
               JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace ORDER BY e.extname";
    let read = |row: &crate::wire::Row| {
        let (name, version) = (value(row, 0)?.to_owned(), value(row, 1)?.to_owned());
        Ok(Extension { name, version, schema: value(row, 2)?.to_owned() })
    };
    connection.query(sql, &[])?.iter().map(read).collect()
}

/// What a database is beside what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub struct Properties {
    /// The encoding, as `UTF8`.
    pub encoding: String,
    /// The order of text.
    pub collate: String,
    /// The classes of characters.
    pub character_type: String,
    /// Who knows the order of text, where that is not the C library: `icu` or `builtin`, and the locale there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<(String, String)>,
    /// What was added to the rules of an ICU locale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icu_rules: Option<String>,
}

impl Properties {
    /// Reads those of the database of a connection.
    pub fn read(connection: &mut Connection) -> Result<Self> {
        // The columns came with versions 15 and 16; the second got another name with 17.
        let provider = match version(connection)? {
            ..150_000 => "NULL, NULL, NULL",
            150_000..160_000 => "datlocprovider, daticulocale, NULL",
            160_000..170_000 => "datlocprovider, daticulocale, daticurules",
            _ => "datlocprovider, datlocale, daticurules",
        };
        let sql = format!(
            "SELECT pg_catalog.pg_encoding_to_char(encoding), datcollate, datctype, {provider}
             FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
        );
        let rows = connection.query(&sql, &[])?;
        let value = |column: usize| rows.first().and_then(|row| row.get(column)?.clone());
        let said = |column| value(column).ok_or_else(|| Error::protocol("a database without an encoding"));
        let name = match value(3).as_deref() {
            Some("i") => Some("icu"),
            Some("b") => Some("builtin"),
            _ => None,
        };
        let provider = name.map(str::to_owned).zip(value(4));
        let (encoding, collate, character_type) = (said(0)?, said(1)?, said(2)?);
        Ok(Self { encoding, collate, character_type, provider, icu_rules: value(5) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;

    #[test]
    fn facts_are_those_of_the_server_and_of_the_user() {
        let sql = "CREATE ROLE facts_u LOGIN BYPASSRLS;
                   REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC;
                   REVOKE EXECUTE ON FUNCTION pg_database_size(name) FROM PUBLIC";
        for place in Place::on_all("facts", sql) {
            let facts = Facts::read(&mut place.open()).unwrap();
            let major = place.server.programs().major;
            assert_eq!((facts.major(), facts.version.starts_with(&format!("{major}."))), (major, true));
            let id = place.sql("SELECT system_identifier FROM pg_control_system()");
            assert_eq!(facts.system_identifier, Some(id));
            let oid = place.sql("SELECT oid FROM pg_database WHERE datname = current_database()");
            assert_eq!((facts.database.as_str(), facts.database_oid.to_string()), ("facts", oid));
            assert!(facts.bytes > 1_000_000 && facts.is_superuser && facts.bypasses_row_security);
            assert!(!facts.in_recovery);
            assert_eq!(facts.properties.encoding, "UTF8");
            let extensions: Vec<(&str, &str)> = facts
                .extensions
                .iter()
                .map(|extension| (extension.name.as_str(), extension.schema.as_str()))
                .collect();
            assert_eq!(extensions, [("plpgsql", "pg_catalog")]);
            // In a transaction, which must go on: what may not be known is none.
            let mut connection = place.as_user("facts_u").open();
            connection.execute("BEGIN").unwrap();
            let facts = Facts::read(&mut connection).unwrap();
            assert_eq!((facts.system_identifier, facts.bytes, facts.user.as_str()), (None, 0, "facts_u"));
            assert!(!facts.is_superuser && facts.bypasses_row_security);
            connection.execute("COMMIT").unwrap();
        }
    }
}
