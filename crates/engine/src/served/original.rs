//! Where the database of a snapshot is.

use crate::context::Context;
use crate::manifest::Manifest;
use crate::source::{self, Place, Server, Source};
use crate::{Error, Result};

/// A database on a server that is known by something a person wrote.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    /// How it is reached.
    pub(crate) server: Server,
    /// The same for people.
    pub(crate) shown: String,
}

/// Returns the database that was backed up: the configured one, else the one that the snapshot names. `hint` says what to
/// do when neither leads to a server.
pub(crate) fn original(context: &Context, manifest: &Manifest, hint: &str) -> Result<Reached> {
    let configured = context.config.databases.contains_key(&manifest.database);
    let source = if configured { &manifest.database } else { &manifest.source };
    reached(context, source, hint).map_err(|error| match error {
        Error::Usage { .. } | Error::UnknownSource { .. } => {
            Error::usage(format!("it is not known how the server of {} is reached", manifest.database), hint)
        }
        error => error,
    })
}

/// Returns the database that a configured name or a URL leads to.
pub(crate) fn reached(context: &Context, given: &str, hint: &str) -> Result<Reached> {
    let mut found = source::resolve(context, &[given.to_owned()], None)?;
    match found.pop() {
        Some(Ok(Source { place: Place::Server(server), shown, .. })) => {
            Ok(Reached { server: *server, shown })
        }
        Some(Err(unresolved)) => Err(*unresolved.error),
        _ => Err(Error::usage("this is no database on a PostgreSQL server", hint)),
    }
}
