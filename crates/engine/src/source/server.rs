//! A database on a PostgreSQL server as a source: what the user wrote, and what the configuration adds.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dbkeep_postgres::catalog::Name;
pub(crate) use dbkeep_postgres::conninfo::redact;
use dbkeep_postgres::conninfo::{ConnInfo, Surroundings, begins_with_setting};
use dbkeep_postgres::schema::Filter;

use super::{Place, Source, Unresolved};
use crate::config::DatabaseConfig;
use crate::context::Context;
use crate::report::Engine;
use crate::{Error, Result, name};

/// The schema of a table that is named without one.
const DEFAULT_SCHEMA: &str = "public";

/// A PostgreSQL database, and how it is backed up.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    /// How it is reached.
    pub(crate) info: ConnInfo,
    /// What of it is meant.
    pub(crate) filter: Filter,
    /// Tables whose rows are left out.
    pub(crate) exclude_data: Vec<Name>,
    /// How long a backup may take.
    pub(crate) timeout: Option<Duration>,
    /// How long it waits for a table that somebody has locked.
    pub(crate) lock_timeout: Option<Duration>,
    /// The folder of `pg_dump`, where it is in none of the usual ones.
    pub(crate) tools: Option<PathBuf>,
}

/// Returns how many connections work on a server at once: one for each processor here. The server may have more, and
/// then waits for us; with more of ours than processors a large table is filled by several, which costs more.
pub(crate) fn jobs() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from).clamp(2, 8)
}

impl Server {
    /// Returns a database of which nothing more is said.
    pub(crate) fn of(info: ConnInfo, filter: Filter) -> Self {
        Self { info, filter, exclude_data: Vec::new(), timeout: None, lock_timeout: None, tools: None }
    }

    /// Adds what the configuration says of the database.
    pub(super) fn configure(&mut self, context: &Context, database: &DatabaseConfig) -> Result<()> {
        let schemas =
            database.schemas.clone().or_else(|| self.info.schema.clone().map(|schema| vec![schema]));
        let base = match schemas.as_deref() {
            Some([only]) => only.clone(),
            _ => DEFAULT_SCHEMA.to_owned(),
        };
        let names = |key: &str, names: &Option<Vec<String>>| -> Result<Vec<Name>> {
            let names = names.iter().flatten();
            names
                .map(|text| table_name(text, &base).ok_or_else(|| wrong_name(key, text)))
                .collect::<Result<Vec<Name>>>()
        };
        self.filter = Filter {
            tables: names("tables", &database.tables)?,
            without: names("exclude", &database.exclude)?,
            schemas: schemas.unwrap_or_default(),
        };
        self.exclude_data = names("exclude-data", &database.exclude_data)?;
        self.timeout = database.timeout.as_deref().and_then(duration);
        // To a server, no time is for ever, and the longest has 31 bits of milliseconds.
        let possible =
            |time: Duration| time.clamp(Duration::from_millis(1), Duration::from_millis((1 << 31) - 1));
        self.lock_timeout = database.lock_timeout.as_deref().and_then(duration).map(possible);
        let folder = |folder: &PathBuf| context.environment.resolve(folder, &context.config_base());
        self.tools = database.pg_bin_dir.as_ref().map(folder);
        Ok(())
    }

    /// Says whether two are known to be one database, seen in the same way.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let place = |server: &Self| (server.info.hosts.clone(), server.info.database.clone());
        place(self) == place(other) && self.filter == other.filter
    }
}

fn wrong_name(key: &str, text: &str) -> Error {
    Error::usage(
        format!("{text:?} in `{key}` is no name of a table"),
        "write it as `users`, `audit.log`, or with quotes around parts that hold a dot: `audit.\"a.b\"`",
    )
}

/// Reads the name of a table as people write it: `users`, `audit.log`, `"odd name"."a.b"`. Without quotes it is taken as it
/// stands, too.
pub(crate) fn table_name(text: &str, schema: &str) -> Option<Name> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        let (part, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_part(quoted)?,
            None => {
                rest.find('.').map_or((rest.to_owned(), ""), |dot| (rest[..dot].to_owned(), &rest[dot..]))
            }
        };
        parts.push(part);
        match after.strip_prefix('.') {
            Some(later) => rest = later,
            None if after.is_empty() => break,
            None => return None,
        }
    }
    if parts.iter().any(String::is_empty) {
        return None;
    }
    match <[String; 2]>::try_from(parts) {
        Ok([schema, name]) => Some(Name { schema, name }),
        Err(mut parts) if parts.len() == 1 => Some(Name { schema: schema.to_owned(), name: parts.pop()? }),
        Err(_) => None,
    }
}

/// Reads up to the closing quote; two stand for one. Returns the part and what comes behind.
fn quoted_part(text: &str) -> Option<(String, &str)> {
    let mut part = String::new();
    let mut rest = text;
    loop {
        let quote = rest.find('"')?;
        part.push_str(&rest[..quote]);
        rest = &rest[quote + 1..];
        match rest.strip_prefix('"') {
            Some(later) => {
                part.push('"');
                rest = later;
            }
            None => return Some((part, rest)),
        }
    }
}

/// Returns the database that a URL or a connection string leads to; `shown` is what the user gave.
pub(super) fn from_text(context: &Context, text: &str, shown: &str) -> Result<Source, Unresolved> {
    let environment = &context.environment;
    let surroundings = Surroundings {
        variable: &|name: &str| environment.variable(name).map(str::to_owned),
        home: environment.home.as_deref(),
        user: Some(&environment.user),
    };
    match ConnInfo::resolve(text, &surroundings) {
        Ok(info) => {
            let shown = if shown == text { info.shown().to_owned() } else { shown.to_owned() };
            let schemas = info.schema.iter().cloned().collect();
            let name = info.database.clone();
            let filter = Filter { schemas, ..Filter::default() };
            let server = Server::of(info, filter);
            let place = Place::Server(Box::new(server));
            Ok(Source { name, place, shown: name::printable(&shown), environment: None })
        }
        Err(error) => Err(Unresolved {
            name: name_in(&redact(text)).unwrap_or("postgres").to_owned(),
            engine: Engine::Postgres,
            shown: name::printable(&redact(shown)),
            error: Box::new(dbkeep_postgres::Error::from(error).into()),
        }),
    }
}

/// Returns the name of the database in a URL whose secrets are hidden, where it can be told.
fn name_in(redacted: &str) -> Option<&str> {
    let (_, address) = redacted.split_once("://").filter(|_| is_url(redacted))?;
    let (_, path) = address.split('?').next()?.split_once('/')?;
    let is_plain = |character: char| character.is_alphanumeric() || "_-.".contains(character);
    (!path.is_empty() && path.chars().all(is_plain)).then_some(path)
}

/// Reads a duration of one length: a day has 24 hours, and what is longer has none.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let span: jiff::Span = text.parse().ok()?;
    span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()?.try_into().ok()
}

/// Says whether this is a URL of PostgreSQL, as libpq, SQLAlchemy, Prisma and others write it.
pub(crate) fn is_url(text: &str) -> bool {
    let Some((scheme, _)) = text.trim_start().split_once("://") else { return false };
    let engine = scheme.split('+').next().unwrap_or_default();
    ["postgres", "postgresql", "jdbc:postgresql"].iter().any(|known| engine.eq_ignore_ascii_case(known))
        || scheme.eq_ignore_ascii_case("prisma+postgres")
}

/// Says whether this is a connection string of words, as `host=db.example.org dbname=shop`, or was meant for one: what
/// holds a password is no path, and is read as a connection string so that its error says what is wrong with it.
pub(crate) fn is_connection_string(text: &str) -> bool {
    let is_meant = begins_with_setting(text) || (redact(text) != text && !text.contains("://"));
    is_meant && !Path::new(text).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn database_is_named_by_a_url_only_where_that_is_certain() {
        for (text, name) in [
            ("postgres://u:p@h/shop?sslmod=x", Some("shop")),
            ("postgres://u:p/x@h/shop", Some("shop")),
            ("postgres://u:p?x@h", None),
            ("postgres://u:p#x@h/", None),
            ("postgres://u:p", None),
            ("host=/tmp/x password=a/b", None),
            ("postgres://h/a@b:c", None),
        ] {
            assert_eq!(name_in(&redact(text)), name, "{text}");
        }
    }

    #[test]
    fn names_of_tables_are_read_as_people_write_them() {
        let name = |schema: &str, name: &str| Some(Name { schema: schema.to_owned(), name: name.to_owned() });
        let cases = [
            ("users", name("public", "users")),
            ("Audit.Log", name("Audit", "Log")),
            ("\"a.b\".\"c \"\"d\"\"\"", name("a.b", "c \"d\"")),
            ("\"only quoted\"", name("public", "only quoted")),
            ("", None),
            ("a.", None),
            (".a", None),
            ("a.b.c", None),
            ("\"open", None),
            ("\"a\"b", None),
        ];
        for (text, expected) in cases {
            assert_eq!(table_name(text, "public"), expected, "{text}");
        }
    }

    #[test]
    fn connection_strings_are_told_from_files() {
        for text in [
            "host=h dbname=d",
            "service=shop",
            "dbname = 'a b'",
            "application_name=x host=h",
            "connect_timeout=5 host=h",
            "x=1 PASSWORD \t= a",
            "Server=h;Password=x",
            "u:p@h/d",
        ] {
            assert!(is_connection_string(text), "{text}");
        }
        for text in
            ["app.db", "a=b.db", "x host=h", "postgres://h/d", "mysql://u:p@h/d", "2026-01-02T10:00.db"]
        {
            assert!(!is_connection_string(text), "{text}");
        }
    }
}
