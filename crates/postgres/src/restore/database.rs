//! The database that a restore fills: its name, how it is made, listed and dropped.

use super::objects::{comment_on_database, session};
use crate::conninfo::{ConnInfo, Host};
use crate::error::Session;
use crate::facts::{Facts, Properties};
use crate::snapshot::{identifier, literal, version};
use crate::wire::{Connection, Options};
use crate::{Error, Result};

/// What stands in the name of a database that is being filled, before what tells it from others.
const STAGING: &str = "_dbkeep_staging_";
/// What stands in the name of a database whose place another one took.
pub(super) const BEFORE: &str = "_before_";
/// A longer name is cut by the server.
const LONGEST_NAME: usize = 63;

/// Returns the way to another database of the same server.
pub(super) fn at(info: &ConnInfo, database: &str) -> ConnInfo {
    info.with_database(database)
}

/// Opens a session in a database that is not about to be renamed.
pub(crate) fn administration(info: &ConnInfo, options: &Options, avoid: &str) -> Result<Connection> {
    let mut refused = None;
    let usual = ["postgres", "template1", &info.database];
    for database in usual.iter().filter(|database| **database != avoid) {
        match session(&at(info, database), options) {
            Ok(mut connection) => {
                // What takes its name last has to be on disk before anybody is told.
                connection.execute("SET synchronous_commit = on")?;
                return Ok(connection);
            }
            // It is not there, or this user may not enter it.
            Err(error) if matches!(error.code(), Some("3D000" | "42501" | "28000" | "55000")) => {
                refused.get_or_insert(error);
            }
            Err(error) => return Err(error),
        }
    }
    Err(refused.unwrap_or_else(|| Error::NoDatabase { database: "postgres".to_owned() }))
}

/// Returns a name of a database that is made of another one's and is not taken.
pub(super) fn free_name(connection: &mut Connection, name: &str, mark: &str, id: &str) -> Result<String> {
    for number in 1.. {
        let id = if number == 1 { id.to_owned() } else { format!("{id}_{number}") };
        let free = composed(name, mark, &id);
        if oid(connection, &free)?.is_none() {
            return Ok(free);
        }
    }
    Err(Error::protocol("all names are taken"))
}

/// Returns `name`, cut where it is too long, with a mark and what tells it from others.
fn composed(name: &str, mark: &str, id: &str) -> String {
    let room = LONGEST_NAME.saturating_sub(mark.len() + id.len());
    let cut = name.char_indices().map(|(place, character)| place + character.len_utf8());
    let end = cut.take_while(|end| *end <= room).last().unwrap_or_default();
    format!("{}{mark}{id}", &name[..end])
}

/// Returns the number of a database; none where there is none of that name.
pub(super) fn oid(connection: &mut Connection, name: &str) -> Result<Option<String>> {
    let mut rows =
        connection.query("SELECT oid FROM pg_catalog.pg_database WHERE datname = $1", &[Some(name)])?;
    Ok(rows.pop().and_then(|mut row| row.pop()?))
}

/// Makes an empty database with the same encoding and order of text.
///
/// # Errors
/// [`Error::Locale`] when the server has no such order of text.
pub(super) fn create(connection: &mut Connection, name: &str, properties: &Properties) -> Result<()> {
    let Properties { encoding, collate, character_type, provider, icu_rules } = properties;
    let what = || {
        let provider = provider.as_ref().map(|(provider, locale)| format!(", {provider} locale {locale}"));
        let rules = icu_rules.as_ref().map(|rules| format!(" with the rules {rules}"));
        format!(
            "encoding {encoding}, collation {collate}, character type {character_type}{}{}",
            provider.unwrap_or_default(),
            rules.unwrap_or_default()
        )
    };
    let mut statement = format!(
        "CREATE DATABASE {} TEMPLATE template0 ENCODING {} LC_COLLATE {} LC_CTYPE {}",
        identifier(name),
        literal(encoding),
        literal(collate),
        literal(character_type)
    );
    let server = version(connection)?;
    let since = match provider.as_ref().map(|(provider, _)| provider.as_str()) {
        Some("builtin") => 170_000,
        Some(_) if icu_rules.is_some() => 160_000,
        Some(_) => 150_000,
        None => 0,
    };
    if server < since {
        return Err(Error::Locale { what: what(), source: None });
    }
    match provider {
        Some((provider, locale)) => {
            let locale = literal(locale);
            statement += &format!(" LOCALE_PROVIDER {} {provider}_LOCALE {locale}", literal(provider));
        }
        // What is not said is taken from the template, and that may be another one.
        None if server >= 150_000 => statement += " LOCALE_PROVIDER libc",
        None => {}
    }
    if let Some(rules) = icu_rules {
        statement += &format!(" ICU_RULES {}", literal(rules));
    }
    connection.execute(&statement).map_err(|error| match error {
        Error::Server(error) if matches!(error.code.as_str(), "42809" | "22023" | "42704" | "0A000") => {
            Error::Locale { what: what(), source: Some(error) }
        }
        Error::Server(error) if error.code == "42P04" => Error::DatabaseExists { database: name.to_owned() },
        error => error,
    })
}

/// Says in the list of databases what a staging one is.
pub(super) fn describe(connection: &mut Connection, staging: &str, name: &str) -> Result<()> {
    let text = format!("unfinished restore of {name} by dbkeep");
    connection.execute(&comment_on_database(staging, Some(&text)))
}

/// A database that a restore left behind before it was done, or is filling now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfinished {
    /// Its name.
    pub database: String,
    /// What it was to become, as far as a restore came to say it.
    pub description: Option<String>,
    /// Who is connected: when anybody is, its restore may still be at work.
    pub sessions: Vec<Session>,
}

/// Returns all databases of a server that restores left behind or are filling, by name.
///
/// # Errors
/// When the server cannot be asked.
pub fn unfinished(info: &ConnInfo, options: &Options) -> Result<Vec<Unfinished>> {
    unfinished_on(&mut administration(info, options, "")?)
}

/// What a restore meets on a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The server, and the user of the restore.
    pub facts: Facts,
    /// Where the server was reached.
    pub host: Host,
    /// The number of the database of the name, where it is there.
    pub oid: Option<u32>,
    /// Who is connected to it.
    pub sessions: Vec<Session>,
    /// Databases that earlier restores left behind.
    pub unfinished: Vec<Unfinished>,
}

/// Looks at the server on which the database of `info` is to be made or replaced. Nothing is changed.
///
/// # Errors
/// When the server cannot be reached.
pub fn look(info: &ConnInfo, options: &Options) -> Result<Standing> {
    let mut connection = administration(info, options, &info.database)?;
    let number = oid(&mut connection, &info.database)?.map(|oid| oid.parse());
    let number = number.transpose().map_err(|_| Error::protocol("the number of a database is none"))?;
    Ok(Standing {
        facts: Facts::read(&mut connection)?,
        host: connection.host().clone(),
        oid: number,
        sessions: sessions(&mut connection, &info.database)?,
        unfinished: unfinished_on(&mut connection)?,
    })
}

fn unfinished_on(connection: &mut Connection) -> Result<Vec<Unfinished>> {
    let sql = "SELECT datname, pg_catalog.shobj_description(oid, 'pg_database') FROM pg_catalog.pg_database
               WHERE pg_catalog.strpos(datname, $1) > 0 ORDER BY datname";
    let rows = connection.query(sql, &[Some(STAGING)])?;
    let mut found = Vec::new();
    for mut row in rows {
        let (description, database) = (row.pop().flatten(), row.pop().flatten());
        let database = database.ok_or_else(|| Error::protocol("a database without a name"))?;
        let sessions = sessions(connection, &database)?;
        found.push(Unfinished { database, description, sessions });
    }
    Ok(found)
}

/// Drops a database that a restore left behind.
///
/// # Errors
/// [`Error::NoDatabase`] when it is not there or not one that a restore makes, [`Error::InUse`] while anybody is
/// connected to it.
pub fn remove_unfinished(info: &ConnInfo, options: &Options, database: &str) -> Result<()> {
    let mut connection = administration(info, options, database)?;
    if !database.contains(STAGING) || oid(&mut connection, database)?.is_none() {
        return Err(Error::NoDatabase { database: database.to_owned() });
    }
    drop_database(&mut connection, database)
}

pub(super) fn drop_database(connection: &mut Connection, database: &str) -> Result<()> {
    let dropped = connection.execute(&format!("DROP DATABASE {}", identifier(database)));
    match dropped {
        Err(error) if error.code() == Some("55006") => {
            let sessions = sessions(connection, database)?;
            Err(Error::InUse { database: database.to_owned(), sessions })
        }
        result => result,
    }
}

/// Returns who is connected to a database beside us.
pub(super) fn sessions(connection: &mut Connection, database: &str) -> Result<Vec<Session>> {
    // Who cleans up by itself goes by itself.
    let sql = "SELECT pid, coalesce(usename, ''), coalesce(application_name, '')
               FROM pg_catalog.pg_stat_activity
               WHERE datname = $1 AND pid <> pg_catalog.pg_backend_pid()
                 -- Those who may not see all are shown no kind, and what cleans up has no user.
                 AND coalesce(backend_type, '') <> 'autovacuum worker'
                 AND NOT (backend_type IS NULL AND usesysid IS NULL)
               ORDER BY pid";
    let rows = connection.query(sql, &[Some(database)])?;
    let text =
        |row: &Vec<Option<String>>, column: usize| row.get(column).cloned().flatten().unwrap_or_default();
    let session = |row: &Vec<Option<String>>| {
        let process = text(row, 0).parse().map_err(|_| Error::protocol("a process without a number"))?;
        Ok(Session { process, user: text(row, 1), application: text(row, 2) })
    };
    rows.iter().map(session).collect()
}

/// Returns the name under which a database is filled.
pub(super) fn staging_name(connection: &mut Connection, name: &str, id: &str) -> Result<String> {
    free_name(connection, name, STAGING, id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_between_letters_so_that_all_fits() {
        assert_eq!(composed("shop", STAGING, "4f2a"), "shop_dbkeep_staging_4f2a");
        let long = composed(&"ü".repeat(31), STAGING, "4f2a91c0");
        assert_eq!(
            (long.len(), long.as_str()),
            (62, &*format!("{}_dbkeep_staging_4f2a91c0", "ü".repeat(19)))
        );
        assert_eq!(composed("shop", BEFORE, &"x".repeat(60)), format!("_before_{}", "x".repeat(60)));
    }
}
