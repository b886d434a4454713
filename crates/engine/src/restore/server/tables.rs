//! Some tables of a PostgreSQL database, or rows alone.

use std::cell::{Cell, RefCell};

use dbkeep_postgres::archive::Archive;
use dbkeep_postgres::catalog::{Name, Table, with_partitions};
use dbkeep_postgres::restore::{
    Loss, Restore as Server, RestoreOptions, Wanted, restore_rows, restore_tables,
};
use dbkeep_postgres::rows::RowSum;
use dbkeep_postgres::wire::Options;
use dbkeep_repo::Id;

use super::super::{PlannedRestore, Restore};
use super::rows::StoredRows;
use super::{ServerTarget, expected};
use crate::manifest::{PostgresFacts, TableProof};
use crate::served::{Served, shown};
use crate::source::server::table_name;
use crate::suggest::nearest;
use crate::{Error, Result};

/// The schema of a table that is named without one.
const DEFAULT_SCHEMA: &str = "public";

/// Returns the tables that are meant by what a person wrote; all when nothing was.
pub(super) fn named(facts: &PostgresFacts, written: &[String]) -> Result<Vec<Name>> {
    if written.is_empty() {
        return Ok(facts.tables.iter().map(TableProof::table).collect());
    }
    written.iter().map(|text| one(facts, text)).collect()
}

fn one(facts: &PostgresFacts, text: &str) -> Result<Name> {
    let exact = facts.tables.iter().map(TableProof::table).find(|name| shown(name) == *text);
    let parsed = || table_name(text, DEFAULT_SCHEMA);
    let name = exact.or_else(parsed).ok_or_else(|| {
        Error::usage(format!("{text:?} is no name of a table"), "write it as `users` or `audit.log`")
    })?;
    Ok(name)
}

/// Returns the error about a table that the snapshot does not have.
pub(super) fn unknown(served: &Served<'_>, name: &Name) -> Error {
    let names: Vec<String> = served.catalog.tables.iter().map(|table| shown(&table.name)).collect();
    let wanted = shown(name);
    let near = nearest(&wanted, names.iter().map(String::as_str));
    let hint = match near {
        Some(near) => format!("did you mean {near}?"),
        None => format!("it has {}", names.iter().take(20).cloned().collect::<Vec<_>>().join(", ")),
    };
    Error::Unsupported {
        what: format!("snapshot {} has no table {wanted}", served.entry.id.short()),
        hint: Some(hint),
    }
}

impl Restore<'_> {
    /// Restores tables, or rows alone, into a database that is there. What they replace is backed up first, while nobody
    /// can write to it.
    pub(super) fn fill_database(
        &self,
        planned: &PlannedRestore,
        target: &ServerTarget,
        served: &Served<'_>,
        (options, how): (&Options, &RestoreOptions),
        archive: Option<&Archive>,
    ) -> Result<Filled> {
        let info = &target.server.info;
        let safety = Safety::default();
        let losses = self.with_wanted(planned, served, &|wanted, rows| {
            let before = |names: &[Name]| {
                safety.names.replace(names.to_vec());
                safety.keep(self.server_safety_backup(planned, &target.server, names))
            };
            let wanted = &Wanted { before: &before, ..*wanted };
            let restored = match archive {
                Some(archive) => restore_tables(info, options, how, archive, wanted),
                None => restore_rows(info, options, wanted).map(|()| vec![]),
            };
            // Why rows could not be read is told by the repository: the server knows only that they ended.
            restored
                .map_err(|error| safety.failure().or_else(|| rows.failure()).unwrap_or_else(|| error.into()))
        })?;
        let there = safety.names.take();
        let is_kept = |text: &&String| one(&served.facts, text).is_ok_and(|name| there.contains(&name));
        let kept_tables = planned.tables.iter().filter(is_kept).cloned().collect();
        Ok(Filled { losses, safety_snapshot: safety.snapshot.take(), kept_tables })
    }

    /// Restores tables into a database that has nothing yet.
    pub(super) fn only(
        &self,
        server: &mut Server<'_>,
        planned: &PlannedRestore,
        served: &Served<'_>,
    ) -> Result<()> {
        let server = std::sync::Mutex::new(server);
        self.with_wanted(planned, served, &|wanted, rows| {
            let mut server = server.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            server.only(wanted).map_err(|error| rows.failure().unwrap_or_else(|| error.into()))
        })
    }

    fn with_wanted<T>(
        &self,
        planned: &PlannedRestore,
        served: &Served<'_>,
        act: &dyn Fn(&Wanted<'_>, &StoredRows<'_>) -> Result<T>,
    ) -> Result<T> {
        let names = named(&served.facts, &planned.tables)?;
        let there = |name: &Name| served.catalog.tables.iter().any(|table| table.name == *name);
        if let Some(absent) = names.iter().find(|name| !there(name)) {
            return Err(unknown(served, absent));
        }
        let expected: Vec<(&Table, RowSum)> = expected(served)?;
        // Tables are compared before anybody else sees them.
        let rows = StoredRows::new(served, self.watch, true);
        let restored = restored(served, &names);
        let bytes = restored.iter().map(|proof| proof.size).sum();
        rows.begin(&format!("restore {}", served.manifest.database), bytes, restored.len());
        let wanted = Wanted {
            names: &names,
            catalog: &served.catalog,
            expected: &expected,
            giver: &rows,
            replace: planned.overwrites(),
            before: &|_| Ok(()),
        };
        act(&wanted, &rows)
    }
}

/// What a restore into a database that is there came to.
pub(super) struct Filled {
    pub(super) losses: Vec<Loss>,
    pub(super) safety_snapshot: Option<Id>,
    /// Which of the tables that were named the safety backup has, as they were written.
    pub(super) kept_tables: Vec<String>,
}

/// What became of a safety backup that the restore of tables asked for.
#[derive(Default)]
struct Safety {
    /// What is replaced.
    names: RefCell<Vec<Name>>,
    snapshot: Cell<Option<Id>>,
    failure: Cell<Option<Error>>,
}

impl Safety {
    fn keep(&self, made: Result<Option<Id>>) -> dbkeep_postgres::Result<()> {
        match made {
            Ok(snapshot) => {
                self.snapshot.set(snapshot);
                Ok(())
            }
            Err(error) => {
                let what = error.full_message();
                self.failure.set(Some(error));
                Err(dbkeep_postgres::Error::Receiver(what.into()))
            }
        }
    }

    /// Returns why it failed, if it did.
    fn failure(&self) -> Option<Error> {
        self.failure.take()
    }
}

/// Returns the proofs of the tables that were restored, partitions with the table that they are of.
pub(super) fn restored<'s>(served: &'s Served<'_>, names: &[Name]) -> Vec<&'s TableProof> {
    let all = with_partitions(&[&served.catalog], names.iter().cloned());
    served.facts.tables.iter().filter(|proof| all.contains(&proof.table())).collect()
}
