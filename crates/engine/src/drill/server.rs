//! The drill of a PostgreSQL database: on a server of our own, or on one that was named for it.

use std::os::unix::fs::chown;
use std::path::Path;
use std::sync::Arc;

use dbkeep_postgres::conninfo::ConnInfo;
use dbkeep_postgres::scratch::{self, Cluster, Place};
use dbkeep_postgres::tools::Tools;
use dbkeep_postgres::wire::Options;
use dbkeep_repo::Id;

use super::assertion::{Answer, Assertion};
use super::scratch::Scratch;
use super::{Findings, Run};
use crate::catalog::{Catalog, Entry};
use crate::manifest::Manifest;
use crate::served::Served;
use crate::source::{self, Place as SourcePlace};
use crate::{Error, Result, restore, show, verify};

impl Run<'_> {
    /// Restores to a database that is thrown away, where every row is read again and summed up, and asks.
    pub(super) fn attempt_server(
        &self,
        entry: &Entry,
        manifest: &Manifest,
        roles: &[String],
        assertions: &[Assertion],
        findings: &mut Findings,
    ) -> Result<()> {
        let stop = {
            let watch = Arc::clone(self.watch);
            Arc::new(move || watch.cancelled())
        };
        let options = Options { stop, ..Options::default() };
        let tried = match self.named_server()? {
            Some(info) => self.attempt_on_server(entry, &info, assertions, findings, &options),
            None => self.attempt_on_own_server(entry, (manifest, roles), assertions, findings, &options),
        };
        tried.map_err(|error| match error {
            Error::Postgres(dbkeep_postgres::Error::Stopped) => Error::Cancelled,
            error => error,
        })
    }

    fn attempt_on_own_server(
        &self,
        entry: &Entry,
        (manifest, roles): (&Manifest, &[String]),
        assertions: &[Assertion],
        findings: &mut Findings,
        options: &Options,
    ) -> Result<()> {
        let scratch = Scratch::make()?;
        let mut cluster =
            self.own_server(&scratch, manifest, options).map_err(|error| scratch.told(error))?;
        // Those that the other one had, by name only: policies are not without them.
        let tried = cluster
            .make_roles(roles, options)
            .map_err(Error::from)
            .and_then(|()| self.attempt_on_server(entry, cluster.info(), assertions, findings, options));
        tried.map_err(|error| match error {
            Error::Postgres(error) => scratch.told(cluster.explained(error).into()),
            error => error,
        })
    }

    fn attempt_on_server(
        &self,
        entry: &Entry,
        server: &ConnInfo,
        assertions: &[Assertion],
        findings: &mut Findings,
        options: &Options,
    ) -> Result<()> {
        self.watch.step("drill.server-started");
        let unique = format!("{} {} {}", std::process::id(), self.clock.now(), entry.id);
        let unique = Id::of(unique.as_bytes()).to_string();
        let place = Place::begin(server, options, &unique[..16])?;
        let restored =
            restore::to_scratch_server(self.store, entry, place.info(), self.clock.now(), self.watch);
        let restored = match restored {
            Err(Error::Unsound { problem }) => return self.blame(entry, &problem, findings),
            restored => restored?,
        };
        self.watch.step("drill.restored");
        findings.rows = restored.rows;
        findings.left_out = restored.left_out;
        findings.notes.extend(restored.notes);
        if !restored.verified {
            // What a server does not take says nothing against the snapshot, and what was not tried has not passed.
            findings.findings.push(restored.integrity);
        }
        for assertion in assertions {
            let answer = match place.ask(&assertion.sql) {
                Ok(scratch::Answer::Value(value)) => Answer::Value(value),
                Ok(scratch::Answer::Nothing) => Answer::Not("no row".to_owned()),
                Ok(scratch::Answer::Several) => Answer::Not("several rows or columns".to_owned()),
                Err(error @ dbkeep_postgres::Error::Server(_)) if !error.is_of_the_server() => {
                    Answer::Not(error.to_string())
                }
                Err(error) => return Err(error.into()),
            };
            findings.assertions.push(assertion.judge(answer));
        }
        self.watch.step("drill.asked");
        if let Err(error) = place.finish() {
            self.watch.warn(&format!(
                "the database of the drill could not be dropped, the next drill will try it again: {}",
                Error::from(error).full_message()
            ));
        }
        Ok(())
    }

    /// Finds out whether a restored database is not what the manifest says because what is stored is not, or because
    /// of the server: only the first is damage. Everything is read again for it, from the repository alone.
    fn blame(&self, entry: &Entry, problem: &str, findings: &mut Findings) -> Result<()> {
        let _lock = self.store.repository().lock_for_reading(&**self.watch, self.clock.now())?;
        let catalog = Catalog::load(self.store)?;
        let reader = self.store.reader(&catalog)?;
        let served = Served::open(&reader, entry, show::manifest(&reader, entry)?)?;
        self.watch.phase(&format!("verify {}", served.manifest.database), served.manifest.image.size);
        let damage = verify::server::sums(&served, self.watch)?;
        let whose = match damage.is_empty() {
            true => "; all that is stored is as its manifest says: it is the server that has it otherwise",
            false => "",
        };
        findings.findings.push(format!("the restored database is not sound: {problem}{whose}"));
        damage.into_iter().for_each(|finding| findings.damage(finding));
        Ok(())
    }

    /// Returns the server that was named for drills.
    fn named_server(&self) -> Result<Option<ConnInfo>> {
        let context = self.store.context();
        let configured = context.config.drill.server.as_ref();
        let Some(text) = self.request.server.as_ref().or(configured) else { return Ok(None) };
        let found = source::resolve(context, std::slice::from_ref(text), None)?.pop();
        match found {
            Some(Ok(source)) => match source.place {
                SourcePlace::Server(server) => Ok(Some(server.info)),
                SourcePlace::File(_) => Err(no_server(&source.shown)),
            },
            Some(Err(unresolved)) => Err(*unresolved.error),
            None => Err(no_server(text)),
        }
    }

    /// Starts a server of our own, of the version that was backed up or the next newer one.
    fn own_server(&self, scratch: &Scratch, manifest: &Manifest, options: &Options) -> Result<Cluster> {
        let context = self.store.context();
        let major = manifest.postgres.as_ref().map_or(0, |facts| facts.server.major());
        let configured = context.config.databases.get(&manifest.database);
        let folder = configured.and_then(|database| database.pg_bin_dir.as_ref());
        let folder = folder.map(|folder| context.environment.resolve(folder, &context.config_base()));
        let path = context.environment.variable("PATH").map(std::ffi::OsString::from);
        let tools = Tools::find_server(major, folder.as_deref(), path.as_ref())?;
        let owner = scratch::owner(rustix::process::geteuid().is_root())?;
        if let Some((user, group)) = owner {
            give(scratch.path(), user, group)?;
        }
        Ok(Cluster::start(&tools, scratch.path(), owner, options)?)
    }
}

fn give(folder: &Path, user: u32, group: u32) -> Result<()> {
    chown(folder, Some(user), Some(group)).map_err(Error::io("give away", folder))
}

fn no_server(shown: &str) -> Error {
    Error::usage(
        format!("{shown} is no PostgreSQL server"),
        "give a URL, or env:NAME of a variable that holds one",
    )
}
