//! The databases of a guard: what was named, and each one with its snapshot.

use std::path::Path;

use dbkeep_postgres::conninfo::redact;
use dbkeep_repo::Id;

use super::lookout::{FileLookout, Lookout};
use super::record::Recorded;
use super::server::ServerLookout;
use crate::config::DatabaseConfig;
use crate::context::Context;
use crate::report::{BackupReport, Engine, GuardedDatabase, GuardedStatus};
use crate::source::{self, Place, Source};
use crate::{Error, Result};

/// A database that is guarded, and the snapshot to go back to.
#[derive(Clone, Debug)]
pub(super) struct Guarded {
    pub(super) source: Source,
    pub(super) snapshot: Id,
}

/// Returns the context in which every named database is a configured one, so that all operations find it again, and the
/// names. One that is reached by a URL with a password is found by that URL, which nothing else remembers.
pub(super) fn configured(context: &Context, given: &[String]) -> Result<(Context, Vec<String>)> {
    let mut context = context.clone();
    let mut names = Vec::new();
    for source in source::resolve(&context, given, None)? {
        let source = source.map_err(|unresolved| *unresolved.error)?;
        names.push(source.name.clone());
        if let Some(known) = context.config.databases.get_mut(&source.name) {
            *known = whole(known.clone());
            continue;
        }
        let as_given = match &source.place {
            Place::File(path) => DatabaseConfig { sqlite: text_of(path), ..DatabaseConfig::default() },
            Place::Server(_) => {
                let text = text_given(&context, given, &source)?;
                whole(DatabaseConfig { postgres: Some(text), ..DatabaseConfig::default() })
            }
        };
        if as_given.sqlite.is_some() || as_given.postgres.is_some() {
            context.config.databases.insert(source.name.clone(), as_given);
        }
    }
    Ok((context, names))
}

/// Returns a database of which nothing is left out: from a part of it there is no way back.
fn whole(config: DatabaseConfig) -> DatabaseConfig {
    // No schema named means all, also where a URL names one.
    let schemas = config.postgres.is_some().then(Vec::new);
    DatabaseConfig { schemas, tables: None, exclude: None, exclude_data: None, ..config }
}

/// Returns the path as a configuration has it; none where it is no text, and the manifest alone knows it.
fn text_of(path: &Path) -> Option<String> {
    let path = std::path::absolute(path).ok()?;
    path.to_str().filter(|text| !text.starts_with("env:") && redact(text) == *text).map(str::to_owned)
}

/// Returns what was given for a server.
fn text_given(context: &Context, given: &[String], source: &Source) -> Result<String> {
    for text in given {
        let mut found = source::resolve(context, std::slice::from_ref(text), None)?;
        if let Some(Ok(one)) = found.pop()
            && one.name == source.name
        {
            return Ok(text.clone());
        }
    }
    Err(Error::UnknownSource { name: source.name.clone(), suggestion: None })
}

impl Guarded {
    /// Returns the databases of a backup in which all went well.
    pub(super) fn of(context: &Context, backup: &BackupReport) -> Result<Vec<Self>> {
        let one = |database: &crate::report::DatabaseBackup| {
            let unknown = || Error::UnknownSource { name: database.name.clone(), suggestion: None };
            let snapshot = database.snapshot.ok_or_else(unknown)?;
            Self::find(context, &database.name, snapshot)
        };
        backup.databases.iter().map(one).collect()
    }

    /// Finds a database by its name.
    pub(super) fn find(context: &Context, name: &str, snapshot: Id) -> Result<Self> {
        let unknown = || Error::UnknownSource { name: name.to_owned(), suggestion: None };
        let mut found = source::resolve(context, &[name.to_owned()], None)?;
        match found.pop() {
            Some(Ok(source)) => Ok(Self { source, snapshot }),
            Some(Err(unresolved)) => Err(*unresolved.error),
            None => Err(unknown()),
        }
    }

    /// Returns a database that nobody configured, by where its file was, and the context in which it is a configured one.
    pub(super) fn at(context: &Context, recorded: &Recorded, path: &Path) -> (Context, Self) {
        let mut context = context.clone();
        if let Some(sqlite) = text_of(path) {
            let config = DatabaseConfig { sqlite: Some(sqlite), ..DatabaseConfig::default() };
            context.config.databases.insert(recorded.name.clone(), config);
        }
        let source = Source {
            name: recorded.name.clone(),
            place: Place::File(path.to_owned()),
            shown: recorded.source.clone(),
            environment: None,
        };
        (context, Self { source, snapshot: recorded.snapshot })
    }

    /// Returns what looks out for others at it.
    pub(super) fn lookout(&self, session: &str, in_process: bool) -> Box<dyn Lookout> {
        match &self.source.place {
            Place::File(path) => Box::new(FileLookout::new(path, in_process)),
            Place::Server(server) => Box::new(ServerLookout::new(server, session, in_process)),
        }
    }
}

/// Returns a part of the report of which nothing is known yet.
pub(super) fn untouched(name: &str, engine: Engine, shown: &str, snapshot: Option<Id>) -> GuardedDatabase {
    GuardedDatabase {
        name: name.to_owned(),
        engine,
        source: shown.to_owned(),
        status: GuardedStatus::Untouched,
        snapshot,
        alone: false,
        doubts: Vec::new(),
        integrity: "not run".to_owned(),
        checks: Vec::new(),
        safety_snapshot: None,
        bytes_written: 0,
        pages_written: 0,
        restore_ms: 0,
        error: None,
    }
}
