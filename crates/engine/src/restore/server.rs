//! Restoring a PostgreSQL database: into a database with a name of its own that says it is unfinished, which gets its
//! right name last.
//!
//! Every row of it was read again and summed up by then. Over the original it is one step: the old database keeps
//! everything under another name. Whatever ends a restore before leaves the original as it was.

mod rows;
mod tables;
mod target;

use std::collections::BTreeMap;
use std::sync::Arc;

use dbkeep_postgres::catalog::{Name, Table};
use dbkeep_postgres::large_objects::{Restorer, What};
use dbkeep_postgres::load::Difference;
use dbkeep_postgres::restore::{Loss, Place, Restore as Server, RestoreOptions};
use dbkeep_postgres::rows::RowSum;
use dbkeep_postgres::wire::Options;
use jiff::Timestamp;

use super::{Action, PlannedRestore, Restore, Restored};
use crate::integrity::Verify;
use crate::manifest::{Integrity, IntegrityResult, TableProof};
use crate::report::RestoreReport;
use crate::served::Served;
use crate::source::server::jobs;
use crate::{Error, Result, name, show};

pub(super) use target::ServerTarget;

/// How many of the things that could not be restored are told one by one.
const TOLD: usize = 50;

impl Restore<'_> {
    /// Restores a database of a server.
    pub(super) fn restore_server(
        &self,
        planned: &PlannedRestore,
        target: &ServerTarget,
        began: Timestamp,
    ) -> Result<RestoreReport> {
        let entry = self.entry(planned)?;
        let manifest = show::manifest(self.reader, entry)?;
        let served = Served::open(self.reader, entry, manifest)?;
        self.watch.step("restore.begun");
        let safety_snapshot = match planned.safety_backup {
            true => self.server_safety_backup(planned, &target.server)?,
            false => None,
        };
        let id = self.clock.began().strftime("%Y%m%d_%H%M%S").to_string();
        let (notes, verified) = self.fill(planned, target, &served, &id).map_err(|error| match error {
            Error::Postgres(dbkeep_postgres::Error::Stopped) => Error::Cancelled,
            error => error,
        })?;
        let integrity = Integrity {
            result: if verified { IntegrityResult::Ok } else { IntegrityResult::NotRun },
            level: "rows".to_owned(),
            problems: Vec::new(),
        };
        let tables = match planned.tables.is_empty() {
            true => Vec::new(),
            false => tables::restored(&served, &tables::named(&served.facts, &planned.tables)?),
        };
        let restored = Restored {
            bytes_written: served.manifest.image.size,
            safety_snapshot,
            tables,
            notes,
            ..Restored::new(integrity)
        };
        Ok(self.report(planned, entry, &served.manifest, restored, began))
    }

    /// Makes the database under a name of its own, fills and proves it, and gives it its name; or puts tables into one
    /// that is there. Returns what a person should know, and whether every row was compared.
    fn fill(
        &self,
        planned: &PlannedRestore,
        target: &ServerTarget,
        served: &Served<'_>,
        id: &str,
    ) -> Result<(Vec<String>, bool)> {
        let archive = served.objects()?;
        let stop = {
            let watch = Arc::clone(self.watch);
            Arc::new(move || watch.cancelled())
        };
        let options = Options { stop, ..Options::default() };
        let request = &self.plan.request;
        let how = RestoreOptions { jobs: jobs(), owners: request.owners, privileges: request.privileges };
        let info = &target.server.info;
        if !matches!(planned.action, Action::CreateDatabase | Action::ReplaceDatabase) {
            let lost = self.fill_database(planned, target, served, (&options, &how), &archive)?;
            self.watch.step("restore.promoted");
            return Ok((losses(&lost), true));
        }
        let mut server = Server::begin(info, &options, &how, archive, &served.catalog, id)?;
        server.create(&served.facts.server.properties)?;
        self.watch.step("restore.staged");
        let filled = match planned.tables.is_empty() {
            true => self.fill_staged(&mut server, served, &how),
            false => self.only(&mut server, planned, served).map(|()| true),
        };
        let promoted = filled.and_then(|verified| {
            self.stop_if_cancelled()?;
            let place = match planned.action {
                Action::ReplaceDatabase => Place::Over { disconnect: self.plan.force },
                _ => Place::New,
            };
            Ok((server.promote(&place)?, verified))
        });
        let (promoted, verified) = match promoted {
            Ok(promoted) => promoted,
            Err(error) => {
                self.discard(server, &error);
                return Err(error);
            }
        };
        self.watch.step("restore.promoted");
        let mut notes = losses(&promoted.losses);
        if let Some(before) = promoted.before {
            notes.push(format!(
                "the database that was there is kept as {}; drop it when nothing of it is wanted any more",
                name::printable(&format!("{before:?}"))
            ));
        }
        Ok((notes, verified))
    }

    /// Does everything but giving the name. Returns whether every row was compared.
    fn fill_staged(
        &self,
        server: &mut Server<'_>,
        served: &Served<'_>,
        how: &RestoreOptions,
    ) -> Result<bool> {
        self.watch.phase(&format!("restore {}", served.manifest.database), served.manifest.image.size);
        server.before_rows()?;
        let expected = expected(served)?;
        let tables: Vec<&Table> = expected.iter().map(|(table, _)| *table).collect();
        let rows = rows::StoredRows::new(served, self.watch);
        // Why rows could not be read is told by the repository: the server knows only that they ended.
        server.rows(&tables, &rows).map_err(|error| rows.failure().unwrap_or_else(|| error.into()))?;
        self.large_objects(server, served, how)?;
        self.watch.step("restore.rows-written");
        let compared = self.plan.verify != Verify::None;
        let differences = server.after_rows(if compared { &expected } else { &[] })?;
        server.analyze()?;
        self.watch.step("restore.objects-made");
        if !compared {
            return Ok(false);
        }
        match differences.first() {
            None => Ok(true),
            Some(first) => Err(Error::Unsound { problem: problem(first, differences.len()) }),
        }
    }

    /// Puts large objects back.
    fn large_objects(&self, server: &Server<'_>, served: &Served<'_>, how: &RestoreOptions) -> Result<()> {
        let owners = What::Owners { owners: how.owners, privileges: how.privileges };
        for (proof, what) in served.facts.large_objects.iter().zip([What::Contents, owners]) {
            let mut connection = server.open()?;
            let mut into = Restorer::begin(&mut connection, what)?;
            let sum = served.sum(proof, self.watch, &mut |bytes| Ok(into.write(bytes)?))?;
            if let Some(finding) = Served::difference(proof, sum) {
                return Err(Error::Damaged {
                    what: format!("snapshot {}", served.entry.id.short()),
                    finding,
                });
            }
            into.finish()?;
        }
        Ok(())
    }

    /// Drops what was made. What stays is told: its name says that it is unfinished.
    fn discard(&self, server: Server<'_>, error: &Error) {
        if matches!(error, Error::Postgres(dbkeep_postgres::Error::Undecided { .. })) {
            return;
        }
        let staging = server.staging().database;
        if let Err(why) = server.discard() {
            self.watch.warn(&format!(
                "the unfinished database {} could not be dropped: {}",
                name::printable(&format!("{staging:?}")),
                Error::from(why).full_message()
            ));
        }
    }
}

/// Returns the tables with rows, each with the sum that it must come to.
fn expected<'s>(served: &'s Served<'_>) -> Result<Vec<(&'s Table, RowSum)>> {
    let tables: BTreeMap<&Name, &Table> =
        served.catalog.tables.iter().map(|table| (&table.name, table)).collect();
    let one = |proof: &TableProof| {
        let damaged = |finding: String| Error::Damaged {
            what: format!("the manifest of snapshot {}", served.entry.id.short()),
            finding,
        };
        let table = tables.get(&proof.table()).copied();
        let table = table.ok_or_else(|| damaged(format!("there is no table {:?}", proof.name)))?;
        let hash = proof.hash.parse().map_err(|_| damaged(format!("{:?} is no hash", proof.hash)))?;
        Ok((table, RowSum { rows: proof.rows, hash }))
    };
    served.facts.tables.iter().map(one).collect()
}

/// Tells what differs in a restored database.
fn problem(first: &Difference, count: usize) -> String {
    let table = name::printable(&crate::served::shown(&first.table));
    let what = match first.found {
        None => format!("table {table} is not there"),
        Some(found) if found.rows != first.expected.rows => {
            format!("table {table} has {} rows instead of {}", found.rows, first.expected.rows)
        }
        Some(_) => format!("rows of table {table} are not those of the snapshot"),
    };
    if count > 1 { format!("{what}, and {} more tables differ", count - 1) } else { what }
}

/// Tells what could not be restored.
fn losses(losses: &[Loss]) -> Vec<String> {
    let told = losses.iter().take(TOLD);
    let mut notes: Vec<String> =
        told.map(|loss| name::printable(&format!("not restored: {} ({})", loss.what, loss.why))).collect();
    if losses.len() > TOLD {
        notes.push(format!("and {} more could not be restored", losses.len() - TOLD));
    }
    notes
}
