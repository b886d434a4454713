//! Whether a database is still the one that was backed up. Whoever comes back to it later may mean another one by its
//! name: a variable has another value, a relative path leads elsewhere.

use std::path::Path;

use dbkeep_postgres::restore as postgres;
use dbkeep_sqlite::identify;

use super::Run;
use super::server::options;
use crate::catalog::Catalog;
use crate::manifest::Identity;
use crate::restore::identity_on_server;
use crate::source::Place;
use crate::{Error, Result, show};

impl Run<'_> {
    /// Refuses databases that are not those of the snapshots. One that is not there passes, where its server or its path
    /// is right: the command may have dropped it.
    pub(super) fn refuse_other_databases(&self) -> Result<()> {
        let catalog = Catalog::load(self.store)?;
        let reader = self.store.reader(&catalog)?;
        for database in &self.databases {
            let entry = catalog.get(&database.snapshot).ok_or_else(|| Error::NoSnapshot {
                wanted: database.snapshot.short(),
                hint: Some("it was forgotten; `dbkeep list` shows what there is".to_owned()),
            })?;
            let known = show::manifest(&reader, entry)?.identity;
            let found = self.identity(&database.source.place)?;
            if !is_it(&known, &found) {
                return Err(Error::Refused {
                    what: format!(
                        "{} is {found} here, and the guard's was another database, {known}",
                        database.source.name
                    ),
                    hint: Some(
                        "resume where the guard was run: in its directory, with its configuration and its environment"
                            .to_owned(),
                    ),
                });
            }
        }
        Ok(())
    }

    /// Returns which database is there, or would be.
    fn identity(&self, place: &Place) -> Result<Identity> {
        let host = &self.store.context().environment.host;
        match place {
            Place::File(path) if path.try_exists().map_err(Error::io("look at", path))? => {
                Ok(Identity::of_file(host, &identify::identity(path)?))
            }
            Place::File(path) => {
                let (folder, name) = (path.parent().unwrap_or(Path::new("")), path.file_name());
                let path = identify::canonical(folder)?.join(name.unwrap_or_default());
                Ok(Identity::of_file(host, &identify::Identity { path, device: 0, inode: 0 }))
            }
            Place::Server(server) => {
                let standing = postgres::look(&server.info, &options(self.watch))?;
                Ok(identity_on_server(&standing, &server.info.database))
            }
        }
    }
}

/// Says whether a database is the one of a snapshot. A server of another number is another one here, whatever its address:
/// a tunnel may lead elsewhere today.
fn is_it(known: &Identity, found: &Identity) -> bool {
    let are_two_servers = match (known, found) {
        (Identity::Server(known), Identity::Server(found)) => {
            matches!((&known.system, &found.system), (Some(known), Some(found)) if known != found)
        }
        _ => false,
    };
    known.is_same(found) && !are_two_servers
}
