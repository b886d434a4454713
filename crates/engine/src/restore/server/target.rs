//! Where a PostgreSQL database goes: which server, which name, and what speaks against it.

use dbkeep_postgres::Error as Postgres;
use dbkeep_postgres::restore::{self, Standing};
use dbkeep_postgres::wire::Options;
use dbkeep_repo::Id;
use jiff::tz::TimeZone;

use super::super::plan::Planner;
use super::super::{Action, PlannedRestore, Restore};
use crate::backup::{BackupRequest, Session};
use crate::catalog::{Entry, PRE_RESTORE};
use crate::integrity::Verify;
use crate::manifest::Manifest;
use crate::served::{self, Reached};
use crate::source::server::{is_connection_string, is_url};
use crate::source::{Place, Server, Source};
use crate::{Error, Result, name};

/// The longest name of a database.
const LONGEST: usize = 63;

/// What to do where it is not known where a database goes.
const SAY_WHERE: &str = "give the URL of the database to make with --to";

/// A database on a server that a restore makes, and how it is reached when it is there.
pub(crate) type ServerTarget = Reached;

impl ServerTarget {
    /// Returns a database that nobody configured anything for.
    pub(in crate::restore) fn of(info: dbkeep_postgres::conninfo::ConnInfo) -> Self {
        let shown = info.shown().to_owned();
        let filter = dbkeep_postgres::schema::Filter::default();
        let server = Server { info, filter, exclude_data: Vec::new(), timeout: None, tools: None };
        Self { server, shown }
    }
}

impl Planner<'_> {
    /// Plans a PostgreSQL database.
    pub(in crate::restore) fn server(&self, entry: &Entry, manifest: &Manifest) -> Result<PlannedRestore> {
        let request = self.request;
        let target = self.server_target(manifest)?;
        let standing = restore::look(&target.server.info, &Options::default())?;
        let action = self.server_action(&standing, &target)?;
        let mut notes = super::super::plan::notes(entry, manifest);
        notes.extend(remarks(&standing, manifest));
        let shown = target.shown.clone();
        let mut planned = PlannedRestore {
            bytes_image: manifest.image.size,
            notes,
            server: Some(Box::new(target)),
            ..self.planned(entry, manifest.database.clone(), shown, action)
        };
        planned.safety_backup = request.safety_backup && planned.overwrites();
        Ok(planned)
    }

    /// Decides how the database comes into its place, and refuses a place that is not for it.
    fn server_action(&self, standing: &Standing, target: &ServerTarget) -> Result<Action> {
        let request = self.request;
        let database = || target.server.info.database.clone();
        let partly = request.data_only || !request.tables.is_empty();
        let action = match (standing.is_there, partly) {
            (true, true) if request.data_only && request.in_place => Action::ReplaceRows,
            (true, true) if request.data_only => Action::FillTables,
            (true, true) if request.in_place => Action::ReplaceTables,
            (true, true) => Action::AddTables,
            (true, false) if request.in_place => Action::ReplaceDatabase,
            (true, false) => return Err(Postgres::DatabaseExists { database: database() }.into()),
            (false, _) if request.in_place || request.data_only => {
                return Err(Postgres::NoDatabase { database: database() }.into());
            }
            (false, _) => Action::CreateDatabase,
        };
        Ok(action)
    }

    /// Returns the database that is made.
    fn server_target(&self, manifest: &Manifest) -> Result<ServerTarget> {
        let moment = manifest.moment.to_zoned(TimeZone::UTC).strftime("%Y%m%d_%H%M%S");
        match self.request.to.as_deref() {
            Some(to) if is_url(to) || is_connection_string(to) || to.starts_with("env:") => {
                served::reached(self.store.context(), to, SAY_WHERE)
            }
            // A word is a name on the original server.
            Some(to) => Ok(renamed(self.original_server(manifest)?, to)),
            None if self.request.in_place => self.original_server(manifest),
            None => {
                let original = self.original_server(manifest)?;
                let suffix = format!("_restored_{moment}");
                let database = &original.server.info.database;
                let kept = database.floor_char_boundary(LONGEST - suffix.len());
                let name = format!("{}{suffix}", &database[..kept]);
                Ok(renamed(original, &name))
            }
        }
    }

    fn original_server(&self, manifest: &Manifest) -> Result<ServerTarget> {
        served::original(self.store.context(), manifest, SAY_WHERE)
    }
}

/// Returns another database of the same server.
fn renamed(target: ServerTarget, database: &str) -> ServerTarget {
    let info = target.server.info.with_database(database);
    let shown = info.shown().to_owned();
    ServerTarget { server: Server { info, ..target.server }, shown }
}

/// Returns what a person should know of the server before anything is done.
fn remarks(found: &Standing, manifest: &Manifest) -> Vec<String> {
    let mut notes = Vec::new();
    let known = manifest.postgres.as_ref().map(|facts| facts.server.major());
    if let Some(known) = known.filter(|known| *known > found.facts.major()) {
        notes.push(format!(
            "the server is of version {}, older than the one that was backed up ({known}): what it does not know fails",
            found.facts.major()
        ));
    }
    for left in found.unfinished.iter().filter(|left| left.sessions.is_empty()) {
        notes.push(name::printable(&format!(
            "a restore that did not end left {:?} behind: DROP DATABASE removes it",
            left.database
        )));
    }
    notes
}

impl Restore<'_> {
    /// Backs up the database that a restore is going to replace.
    pub(super) fn server_safety_backup(
        &self,
        planned: &PlannedRestore,
        server: &Server,
    ) -> Result<Option<Id>> {
        let Some(lock) = self.writing_lock() else { return Ok(None) };
        let save = || -> Result<Id> {
            let request = BackupRequest {
                reason: Some(PRE_RESTORE.to_owned()),
                verify: Verify::Quick,
                adopt_name: true,
                ..BackupRequest::default()
            };
            let mut session =
                Session::new(self.store, self.catalog, self.writing_reader()?, &request, self.clock);
            session.id.clone_from(self.safety_session.get_or_init(|| session.id.clone()));
            let mut writer = session.writer(lock, self.watch)?;
            let source = Source {
                name: planned.database.clone(),
                place: Place::Server(Box::new(server.clone())),
                shown: planned.target.clone(),
                environment: None,
            };
            let past = session.past(&source.name);
            let saved = session.save_server(&mut writer, &source, server, &past, self.watch)?;
            let snapshot = writer.commit(saved.snapshot.clone())?;
            let id = snapshot.id.unwrap_or(Id::NULL);
            session.acknowledge(&[saved.reference(id)])?;
            Ok(id)
        };
        let id = save().map_err(|error| match error {
            error if error.kind() == "interrupted" => Error::Cancelled,
            error => Error::SafetyBackup { source: Box::new(error) },
        })?;
        self.watch.step("restore.safety-backup");
        Ok(Some(id))
    }
}
