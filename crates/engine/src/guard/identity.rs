//! Whether a database is still the one that was backed up. Whoever comes back to it later may mean another one by its
//! name: a variable has another value, a relative path leads elsewhere.

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
            let Some(found) = self.identity(&database.source.place)? else { continue };
            if !known.is_same(&found) {
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

    /// Returns which database is there; `None` for a file that is not.
    fn identity(&self, place: &Place) -> Result<Option<Identity>> {
        match place {
            Place::File(path) if !path.try_exists().map_err(Error::io("look at", path))? => Ok(None),
            Place::File(path) => {
                let file = identify::identity(path)?;
                Ok(Some(Identity::of_file(&self.store.context().environment.host, &file)))
            }
            Place::Server(server) => {
                let standing = postgres::look(&server.info, &options(self.watch))?;
                Ok(Some(identity_on_server(&standing, &server.info.database)))
            }
        }
    }
}
