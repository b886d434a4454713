//! What a backup would do. Nothing is written, and no repository is made.

use dbkeep_repo::Id;
use dbkeep_sqlite::capture::{Capture, CaptureOptions};

use super::{BackupRequest, server, unresolved};
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::context::{Context, Watch};
use crate::report::{BackupReport, BackupStatus, DatabaseBackup, Engine, ErrorReport};
use crate::repository::{self, Store};
use crate::source::{Place, Server, Source, Unresolved};
use crate::{Error, Result, session};

/// Opens each source for a moment, and writes into the report what a backup would do with it.
pub(crate) fn plan(
    context: &Context,
    _request: &BackupRequest,
    sources: Vec<Result<Source, Unresolved>>,
    clock: &Clock,
    watch: &Watch,
    report: &mut BackupReport,
) -> Result<()> {
    let known = match repository::exists(context)? {
        true => {
            let store = repository::open(context, clock.began(), watch)?;
            let catalog = Catalog::load(&store)?;
            Some((store, catalog))
        }
        false => {
            repository::may_be_made(context)?;
            None
        }
    };
    let taken = known.as_ref().map(|(_, catalog)| catalog.sessions()).unwrap_or_default();
    report.session = session::next_id(clock.began(), &taken);
    for source in sources {
        report.databases.push(match source {
            Ok(source) => look(&source, known.as_ref(), (context.environment.variable("PATH"), watch)),
            Err(source) => unresolved(source),
        });
    }
    Ok(())
}

fn look(
    source: &Source,
    known: Option<&(Store, Catalog)>,
    surroundings: (Option<&str>, &Watch),
) -> DatabaseBackup {
    let parent = known.and_then(|(_, catalog)| catalog.parent(&source.name)).map(|parent| parent.id);
    let path = match &source.place {
        Place::File(path) => path,
        Place::Server(server) => return look_at_server(source, server, parent, surroundings),
    };
    let capture = match Capture::open(path, &CaptureOptions::default()) {
        Ok(capture) => capture,
        Err(error) => return DatabaseBackup::failed(source, ErrorReport::from(&Error::from(error))),
    };
    let position = known.and_then(|(store, _)| store.state().position(&source.name));
    let unchanged = position
        .filter(|saved| Some(saved.snapshot) == parent)
        .is_some_and(|saved| capture.is_unchanged_since(&saved.position));
    let status = if unchanged { BackupStatus::Unchanged } else { BackupStatus::Ok };
    DatabaseBackup {
        parent,
        bytes_source: capture.size(),
        bytes_read: if unchanged { 0 } else { capture.size() },
        method: Some(capture.method().to_string()),
        notes: capture.warnings().to_vec(),
        ..DatabaseBackup::empty(source.name.clone(), Engine::Sqlite, source.shown.clone(), status, None)
    }
}

/// Connects for a moment.
fn look_at_server(
    source: &Source,
    server: &Server,
    parent: Option<Id>,
    (path, watch): (Option<&str>, &Watch),
) -> DatabaseBackup {
    match server::look(server, path, watch) {
        Ok((bytes, notes)) => DatabaseBackup {
            parent,
            bytes_source: bytes,
            bytes_read: bytes,
            method: Some(server::METHOD.to_owned()),
            notes,
            ..DatabaseBackup::empty(
                source.name.clone(),
                Engine::Postgres,
                source.shown.clone(),
                BackupStatus::Ok,
                None,
            )
        },
        Err(error) => DatabaseBackup::failed(source, ErrorReport::from(&error)),
    }
}
