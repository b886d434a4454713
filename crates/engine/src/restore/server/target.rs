//! Where a PostgreSQL database goes: which server, which name, and what speaks against it.

use std::collections::BTreeSet;

use dbkeep_postgres::Error as Postgres;
use dbkeep_postgres::catalog::Name;
use dbkeep_postgres::restore::{self, Standing};
use dbkeep_postgres::schema::Filter;
use dbkeep_postgres::wire::Options;
use dbkeep_repo::Id;
use jiff::tz::TimeZone;

use super::super::plan::Planner;
use super::super::{Action, PlannedRestore, Restore};
use crate::catalog::Entry;
use crate::manifest::{Identity, Manifest, ServerIdentity};
use crate::served::{self, Reached};
use crate::source::server::{is_connection_string, is_url, redact};
use crate::source::{Place, Server};
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
        let filter = Filter::default();
        let server = Server::of(info, filter);
        Self { server, shown }
    }
}

/// Returns which database is meant by a name on a server; one that is not there has no number.
pub(crate) fn identity(standing: &Standing, database: &str) -> Identity {
    Identity::Server(ServerIdentity {
        server: format!("{}:{}", standing.host.name(), standing.host.port),
        system: standing.facts.system_identifier.clone(),
        database: database.to_owned(),
        oid: standing.oid.unwrap_or_default(),
    })
}

impl Planner<'_> {
    /// Plans a PostgreSQL database.
    pub(in crate::restore) fn server(&self, entry: &Entry, manifest: &Manifest) -> Result<PlannedRestore> {
        let request = self.request;
        let target = self.server_target(manifest)?;
        let standing = restore::look(&target.server.info, &Options::default())?;
        let action = self.server_action(&standing, &target)?;
        self.refuse_other_server(&standing, &target, manifest)?;
        self.refuse_a_part_for_the_whole(action, entry, manifest)?;
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
        let action = match (standing.oid.is_some(), partly) {
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
        if action == Action::ReplaceDatabase && !request.force && !standing.sessions.is_empty() {
            // It would come to that at the end of a long restore.
            return Err(Postgres::InUse { database: database(), sessions: standing.sessions.clone() }.into());
        }
        Ok(action)
    }

    /// Refuses to go over a database that is another one than that of the snapshot.
    fn refuse_other_server(
        &self,
        standing: &Standing,
        target: &ServerTarget,
        manifest: &Manifest,
    ) -> Result<()> {
        if standing.oid.is_none() || !self.request.in_place || self.request.force {
            return Ok(());
        }
        let found = identity(standing, &target.server.info.database);
        let known = &manifest.identity;
        match known.is_same(&found) {
            true => Ok(()),
            false => Err(Error::Refused {
                what: format!("{found} is another database than that of the snapshot, {known}"),
                hint: Some("restore to a new database with --to, or add --force if this is meant".to_owned()),
            }),
        }
    }

    /// A part of a database takes the place of all of it only when that is meant.
    fn refuse_a_part_for_the_whole(&self, action: Action, entry: &Entry, manifest: &Manifest) -> Result<()> {
        let selection = manifest.postgres.as_ref().map(|facts| &facts.selection);
        match selection.filter(|selection| !selection.is_everything()) {
            Some(selection) if action == Action::ReplaceDatabase && !self.request.force => {
                Err(Error::Refused {
                    what: name::printable(&format!(
                        "snapshot {} holds a part of {} only: {selection}",
                        entry.id.short(),
                        manifest.database
                    )),
                    hint: Some(
                        "restore it to a new database, or its tables with --table; --force replaces the whole database \
                         by that part"
                            .to_owned(),
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    /// Returns the database that is made.
    fn server_target(&self, manifest: &Manifest) -> Result<ServerTarget> {
        let moment = manifest.moment.to_zoned(TimeZone::UTC).strftime("%Y%m%d_%H%M%S");
        match self.request.to.as_deref() {
            Some(to) if self.request.session.is_some() => Err(Error::usage(
                format!("{} is a PostgreSQL database, and does not go to {}", manifest.database, redact(to)),
                "leave out --to for a new database beside the original, or restore its snapshot alone with --to URL",
            )),
            Some(to) if is_url(to) || is_connection_string(to) || to.starts_with("env:") => {
                served::reached(self.store.context(), to, SAY_WHERE)
            }
            // A word is a name on the original server.
            Some(to) => {
                refuse_as_name(to, manifest)?;
                Ok(renamed(self.original_server(manifest)?, to))
            }
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

/// Refuses what is meant for a path, and what the server would cut.
fn refuse_as_name(to: &str, manifest: &Manifest) -> Result<()> {
    let hint =
        "give the URL of the database to make, or a name of at most 63 bytes for it on the original server";
    if to.contains('/') || to.starts_with('.') {
        let what = format!("{} is a PostgreSQL database, and {to:?} looks like a path", manifest.database);
        return Err(Error::usage(name::printable(&what), hint));
    }
    match to.len() > LONGEST {
        true => {
            Err(Error::usage(name::printable(&format!("the name {to:?} is too long for a database")), hint))
        }
        false => Ok(()),
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
    /// Backs up what a restore is going to replace. What the configuration leaves out of backups may be just that, and
    /// none that takes long may keep a person from a restore.
    pub(super) fn server_safety_backup(
        &self,
        planned: &PlannedRestore,
        server: &Server,
        names: &[Name],
    ) -> Result<Option<Id>> {
        let server = Server { timeout: None, ..replaced(planned, server, names) };
        let place = Place::Server(Box::new(server.clone()));
        let kept = self.keep(planned, place, &|session, writer, source, past| {
            session.save_server(writer, source, &server, past, self.watch)
        })?;
        Ok(kept.map(|kept| kept.id))
    }
}

/// Returns a database with what of it is replaced: all of it is kept under another name where it is replaced as a whole.
fn replaced(planned: &PlannedRestore, server: &Server, names: &[Name]) -> Server {
    let filter = match (planned.action, planned.tables.is_empty()) {
        // Each name would be an argument of a program.
        (Action::ReplaceRows, true) => {
            let schemas: BTreeSet<&String> = names.iter().map(|name| &name.schema).collect();
            Filter { schemas: schemas.into_iter().cloned().collect(), ..Filter::default() }
        }
        (Action::ReplaceTables | Action::ReplaceRows, _) => {
            Filter { tables: names.to_vec(), ..Filter::default() }
        }
        _ => return server.clone(),
    };
    Server { filter, exclude_data: Vec::new(), ..server.clone() }
}
