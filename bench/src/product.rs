//! The two backup programs, each on a repository of its own.

use std::fs;
use std::path::{Path, PathBuf};

use dbkeep_testkit::process::{Cost, Dbkeep, Outcome};
use dbkeep_testkit::restic::Restic;
use serde_json::Value;

use crate::scratch::{Scratch, settle, size_of};
use crate::{Error, Result};

/// The password of every repository.
pub(crate) const PASSWORD: &str = "benchmark";

/// Our binary with a repository, a home and no past.
#[derive(Debug)]
pub(crate) struct Ours {
    program: Dbkeep,
    repository: PathBuf,
}

/// What a run of ours cost and said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) cost: Cost,
    pub(crate) report: Value,
}

impl Ours {
    /// Makes an empty repository.
    pub(crate) fn init(scratch: &Scratch, name: &str) -> Result<Self> {
        let repository = scratch.fresh(name)?;
        let program = Dbkeep::new(binary()?)?.with_repository(&repository, PASSWORD);
        let ours = Self { program, repository };
        ours.run(["init"])?;
        Ok(ours)
    }

    /// Uses a repository that `make` makes at a place of its own, with [`PASSWORD`].
    pub(crate) fn existing(
        scratch: &Scratch,
        name: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Self> {
        let repository = scratch.fresh(name)?;
        make(&repository)?;
        let program = Dbkeep::new(binary()?)?.with_repository(&repository, PASSWORD);
        Ok(Self { program, repository })
    }

    /// Returns the folder of what the program has kept of the repository's objects.
    pub(crate) fn cache(&self) -> Result<PathBuf> {
        let state = self.program.home().join(".local/state/dbkeep");
        let folders = fs::read_dir(&state)?.map(|entry| Ok(entry?.path().join("cache")));
        let folders = folders.collect::<Result<Vec<_>>>()?;
        let found = folders.into_iter().find(|folder| folder.is_dir());
        found.ok_or_else(|| format!("no cache below {}", state.display()).into())
    }

    /// Runs a command, measured, and returns its JSON. Exit 4 is an error here too.
    pub(crate) fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Ran> {
        settle();
        let outcome = self.program.run(["--json"].into_iter().chain(arguments)).measured();
        done("dbkeep", &outcome)?;
        let report = serde_json::from_str(&outcome.stdout)?;
        Ok(Ran { cost: cost(&outcome)?, report })
    }

    /// Runs a command that is to end with `code`, and returns its JSON.
    pub(crate) fn run_to<'a>(
        &self,
        code: i32,
        arguments: impl IntoIterator<Item = &'a str>,
    ) -> Result<Value> {
        settle();
        let outcome = self.program.run(["--json"].into_iter().chain(arguments)).go();
        match outcome.code() {
            Some(found) if found == code => Ok(serde_json::from_str(&outcome.stdout)?),
            _ => Err(outcome.transcript().into()),
        }
    }

    /// Backs a database up.
    pub(crate) fn backup(&self, database: &Path, verify: &str) -> Result<Ran> {
        self.run(["backup", text(database)?, "--verify", verify])
    }

    /// Backs a database up while its writer is busy.
    pub(crate) fn backup_under_load(&self, database: &Path, verify: &str) -> Result<Ran> {
        self.run_beside(["backup", text(database)?, "--verify", verify])
    }

    /// Runs a command beside others that work, without waiting for the disk first.
    pub(crate) fn run_beside<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Ran> {
        let outcome = self.program.run(["--json"].into_iter().chain(arguments)).measured();
        done("dbkeep", &outcome)?;
        Ok(Ran { cost: cost(&outcome)?, report: serde_json::from_str(&outcome.stdout)? })
    }

    /// Backs up beside others that work; it may fail by giving way, and in no other way.
    pub(crate) fn run_or_give_way<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<()> {
        let outcome = self.program.run(["--json"].into_iter().chain(arguments)).go();
        let gave_way = || outcome.json()["databases"][0]["error"]["kind"] == "changed";
        match outcome.code() {
            Some(0) => Ok(()),
            Some(1) if gave_way() => Ok(()),
            _ => Err(outcome.transcript().into()),
        }
    }

    /// Returns the bytes of the repository.
    pub(crate) fn size(&self) -> Result<u64> {
        size_of(&self.repository)
    }

    pub(crate) fn repository(&self) -> &Path {
        &self.repository
    }
}

/// Stock restic with a repository and a cache of its own.
#[derive(Debug)]
pub(crate) struct Theirs {
    restic: Restic,
    repository: PathBuf,
}

impl Theirs {
    /// Makes an empty repository; `None` when restic is not installed.
    pub(crate) fn init(scratch: &Scratch, name: &str) -> Result<Option<Self>> {
        let repository = scratch.fresh(name)?;
        let Some(restic) = Restic::find(&repository, PASSWORD) else { return Ok(None) };
        let theirs = Self { restic, repository };
        theirs.run(["init", "--repository-version", "2"])?;
        Ok(Some(theirs))
    }

    /// Uses a repository that `make` makes at a place of its own, with [`PASSWORD`]; `None` when restic is not installed.
    pub(crate) fn existing(
        scratch: &Scratch,
        name: &str,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<Option<Self>> {
        let repository = scratch.fresh(name)?;
        let Some(restic) = Restic::find(&repository, PASSWORD) else { return Ok(None) };
        make(&repository)?;
        Ok(Some(Self { restic, repository }))
    }

    /// Runs a command, measured.
    pub(crate) fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Cost> {
        settle();
        let outcome = self.restic.measured(arguments)?;
        done("restic", &outcome)?;
        cost(&outcome)
    }

    /// Backs a database up.
    pub(crate) fn backup(&self, database: &Path) -> Result<Cost> {
        self.run(["backup", text(database)?])
    }

    /// Backs a file up. Returns the bytes of it that were new, before compression.
    pub(crate) fn backup_adding(&self, file: &Path) -> Result<u64> {
        let outcome = self.restic.measured(["backup", "--json", text(file)?])?;
        done("restic", &outcome)?;
        let summary = outcome.stdout.lines().last().unwrap_or_default();
        let summary: Value = serde_json::from_str(summary)?;
        summary["data_added"].as_u64().ok_or_else(|| Error::from("restic does not say what it added"))
    }

    /// Returns the bytes of the repository.
    pub(crate) fn size(&self) -> Result<u64> {
        size_of(&self.repository)
    }

    pub(crate) fn repository(&self) -> &Path {
        &self.repository
    }
}

fn done(program: &str, outcome: &Outcome) -> Result<()> {
    if outcome.code() == Some(0) {
        return Ok(());
    }
    Err(format!("{program} failed: {}", outcome.transcript()).into())
}

fn cost(outcome: &Outcome) -> Result<Cost> {
    outcome.cost.ok_or_else(|| Error::from("a measured run has a cost"))
}

/// Returns the release binary, which `bench/run` builds beside this program.
fn binary() -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("dbkeep");
    if fs::exists(&path)? {
        Ok(path)
    } else {
        Err(format!("{} is missing: use bench/run", path.display()).into())
    }
}

/// Returns a path of ours as text.
pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| format!("{} is not UTF-8", path.display()).into())
}
