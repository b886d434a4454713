//! Restoring a PostgreSQL database: into a database with a name of its own that says it is unfinished, which gets its
//! right name last.
//!
//! Every row of it was read again and summed up by then. Over the original it is one step: the old database keeps
//! everything under another name. Whatever ends a restore before leaves the original as it was.

mod large_objects;
mod lost;
mod rows;
mod tables;
mod target;

use std::collections::BTreeMap;
use std::sync::Arc;

use dbkeep_postgres::archive::Archive;
use dbkeep_postgres::catalog::{Name, Table};
use dbkeep_postgres::load::Difference;
use dbkeep_postgres::restore::{Place, Restore as Server, RestoreOptions};
use dbkeep_postgres::rows::RowSum;
use dbkeep_postgres::wire::Options;
use dbkeep_repo::Id;
use jiff::Timestamp;

use self::lost::{LostRows, integrity, told};
use self::rows::StoredRows;
use self::tables::Filled;
use super::{Action, PlannedRestore, Restore, Restored};
use crate::integrity::Verify;
use crate::manifest::TableProof;
use crate::report::{RestoreReport, TableRows};
use crate::served::{Served, shown};
use crate::source::server::jobs;
use crate::{Error, Result, name, show};

pub(super) use target::ServerTarget;
pub(crate) use target::identity;

/// What is said of a snapshot that has what is set for its database as statements only, for one name.
const OLDER: &str = "what is set for the database itself (owner, rights, settings, comment) is not restored: an older \
                     dbkeep kept it as statements only, in settings.sql of the snapshot";

/// What a restore came to.
struct Done {
    /// What a person should know.
    notes: Vec<String>,
    /// How many things are not there.
    left_out: usize,
    proved: Proved,
    safety_snapshot: Option<Id>,
    safety_tables: Vec<String>,
}

/// How far the rows of a database that was filled are those of the snapshot.
struct Proved {
    /// Whether all that went in were compared.
    compared: bool,
    /// Those that did not go in.
    lost: Vec<LostRows>,
}

impl Proved {
    fn all() -> Self {
        Self { compared: true, lost: Vec::new() }
    }
}

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
        let done = self.fill(planned, target, &served).map_err(|error| match error {
            Error::Postgres(dbkeep_postgres::Error::Stopped) => Error::Cancelled,
            error => error,
        })?;
        let written: Vec<&TableProof> = match planned.tables.is_empty() {
            true => served.facts.tables.iter().chain(&served.facts.large_objects).collect(),
            false => tables::restored(&served, &tables::named(&served.facts, &planned.tables)?),
        };
        let named = written.iter().filter(|_| !planned.tables.is_empty());
        let restored = Restored {
            bytes_written: written.iter().map(|proof| proof.size).sum(),
            safety_snapshot: done.safety_snapshot,
            safety_tables: done.safety_tables,
            tables: named.map(|proof| TableRows { name: shown(&proof.table()), rows: proof.rows }).collect(),
            notes: done.notes,
            left_out: done.left_out as u64,
            rows_lost: done.proved.lost.iter().map(|lost| lost.rows).sum(),
            ..Restored::new(integrity(&done.proved.lost, done.proved.compared))
        };
        Ok(self.report(planned, entry, &served.manifest, restored, began))
    }

    /// Makes the database under a name of its own, fills and proves it, and gives it its name; or puts tables into
    /// one that is there.
    fn fill(&self, planned: &PlannedRestore, target: &ServerTarget, served: &Served<'_>) -> Result<Done> {
        let stop = {
            let watch = Arc::clone(self.watch);
            Arc::new(move || watch.cancelled())
        };
        let options = Options { stop, ..Options::default() };
        let request = &self.plan.request;
        let how = RestoreOptions {
            jobs: jobs(),
            owners: request.owners,
            privileges: request.privileges,
            trial: self.plan.trial,
        };
        if matches!(planned.action, Action::CreateDatabase | Action::ReplaceDatabase) {
            return self.fill_new(planned, target, served, (&options, &how));
        }
        // Rows alone need no objects.
        let archive = match planned.action {
            Action::FillTables | Action::ReplaceRows => None,
            _ => Some(served.objects()?),
        };
        let filled = self.fill_database(planned, target, served, (&options, &how), archive.as_ref())?;
        self.watch.step("restore.promoted");
        let Filled { losses, safety_snapshot, kept_tables: safety_tables } = filled;
        let (notes, left_out) = (told(&[], &losses), losses.len());
        Ok(Done { notes, left_out, proved: Proved::all(), safety_snapshot, safety_tables })
    }

    /// Fills a new database, which gets its name last.
    fn fill_new(
        &self,
        planned: &PlannedRestore,
        target: &ServerTarget,
        served: &Served<'_>,
        (options, how): (&Options, &RestoreOptions),
    ) -> Result<Done> {
        let archive = served.objects()?;
        (self.last_word)()?;
        let safety_snapshot = self.server_safety_backup(planned, &target.server, &[])?;
        let id = self.clock.began().strftime("%Y%m%d_%H%M%S").to_string();
        let (mut server, proved) = self.staged(planned, target, served, (options, how, &id), archive)?;
        // In the place of another database it gets what that one has.
        if let Some(attributes) = &served.catalog.database
            && planned.tables.is_empty()
            && self.plan.request.attributes
        {
            server.give(attributes);
        }
        let place = match planned.action {
            Action::ReplaceDatabase => Place::Over { disconnect: self.plan.force },
            _ => Place::New,
        };
        let promoted = self.stop_if_cancelled().and_then(|()| (self.last_word)());
        let promoted = promoted.and_then(|()| Ok(server.promote(&place)?));
        let promoted = match promoted {
            Ok(promoted) => promoted,
            Err(error) => {
                self.discard(server, &error);
                return Err(error);
            }
        };
        self.watch.step("restore.promoted");
        let mut notes = told(&proved.lost, &promoted.losses);
        let left_out = proved.lost.len() + promoted.losses.len();
        let is_new = planned.action == Action::CreateDatabase && planned.tables.is_empty();
        if is_new && self.plan.request.attributes && served.catalog.database.is_none() {
            notes.push(OLDER.to_owned());
        }
        if let Some(before) = promoted.before {
            notes.push(format!(
                "the database that was there is kept as {}; drop it when nothing of it is wanted any more",
                name::printable(&format!("{before:?}"))
            ));
        }
        Ok(Done { notes, left_out, proved, safety_snapshot, safety_tables: Vec::new() })
    }

    /// Makes the database under a name of its own, and fills and proves it. When rows are wrong that were sent as binary,
    /// all of it is done again with text: a mistake of ours must not cost somebody the restore.
    fn staged<'s>(
        &self,
        planned: &PlannedRestore,
        target: &ServerTarget,
        served: &'s Served<'_>,
        (options, how, id): (&Options, &RestoreOptions, &str),
        mut archive: Archive,
    ) -> Result<(Server<'s>, Proved)> {
        // Nobody but the comparison would see a mistake in binary rows.
        let mut binary = self.plan.verify != Verify::None;
        loop {
            let mut server = Server::begin(&target.server.info, options, how, archive, &served.catalog, id)?;
            if binary {
                server.allow_binary();
            }
            let rows = StoredRows::new(served, self.watch, self.plan.verify != Verify::None);
            let is_whole = planned.tables.is_empty();
            let mut fill = || {
                server.create(&served.facts.server.properties)?;
                self.watch.step("restore.staged");
                Ok::<_, Error>(match is_whole {
                    true => self.fill_staged(&mut server, served, how, &rows),
                    false => self.only(&mut server, planned, served).map(|()| Proved::all()),
                })
            };
            let filled = if is_whole { rows.read_ahead(how.jobs, fill)? } else { fill()? };
            let error = match filled {
                Ok(proved) => return Ok((server, proved)),
                Err(error) => error,
            };
            let may_be_ours = server.has_sent_binary() && is_about_rows(&error);
            self.discard(server, &error);
            if !may_be_ours {
                return Err(error);
            }
            self.watch.warn(&format!(
                "{}; the restore begins again and sends all rows as text, which takes longer",
                name::printable(&error.full_message())
            ));
            binary = false;
            archive = served.objects()?;
        }
    }

    /// Does everything but giving the name.
    fn fill_staged(
        &self,
        server: &mut Server<'_>,
        served: &Served<'_>,
        how: &RestoreOptions,
        rows: &StoredRows<'_>,
    ) -> Result<Proved> {
        let (size, tables) = (served.manifest.image.size, served.facts.tables.len());
        rows.begin(&format!("restore {}", served.manifest.database), size, tables);
        server.before_rows()?;
        let expected = expected(served)?;
        let tables: Vec<&Table> = expected.iter().map(|(table, _)| *table).collect();
        let compared = self.plan.verify != Verify::None;
        // Why rows could not be read is told by the repository: the server knows only that they ended.
        let unfilled =
            server.rows(&tables, rows).map_err(|error| rows.failure().unwrap_or_else(|| error.into()))?;
        self.large_objects(server, served)?;
        self.watch.step("restore.rows-written");
        let differences = server.after_rows(if compared { &expected } else { &[] })?;
        if let Some(first) = differences.first() {
            return Err(Error::Unsound { problem: problem(first, differences.len()) });
        }
        self.prove_large_objects(server, served, compared)?;
        self.owners_of_large_objects(server, served, how, compared)?;
        server.last()?;
        server.analyze()?;
        self.watch.step("restore.objects-made");
        Ok(Proved { compared, lost: LostRows::of(unfilled, &served.facts.tables) })
    }

    /// Drops what was made. What stays is told: its name says that it is unfinished.
    fn discard(&self, server: Server<'_>, error: &Error) {
        let staging = server.staging().database;
        match error {
            Error::Postgres(dbkeep_postgres::Error::Undecided { .. }) => return,
            // All of it was restored and compared by then, which may have taken hours.
            Error::Postgres(dbkeep_postgres::Error::InUse { .. }) => {
                let staging = name::printable(&format!("{staging:?}"));
                self.watch.warn(&format!(
                    "the restored database is complete and is kept as {staging}: rename it yourself, or drop it"
                ));
                return;
            }
            _ => {}
        }
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
        Ok((table, served.expected(proof)?))
    };
    served.facts.tables.iter().map(one).collect()
}

/// Returns whether rows may be the reason: they differ, or constraints and indexes cannot be made over them.
fn is_about_rows(error: &Error) -> bool {
    match error {
        Error::Unsound { .. } => true,
        Error::Postgres(error) => {
            error.code().is_some_and(|code| code.starts_with("22") || code.starts_with("23"))
        }
        _ => false,
    }
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
