//! Stock restic as the judge of our repositories.
//!
//! The program is `DBKEEP_TEST_RESTIC` or `restic` on the PATH; tests that need it print
//! [`SKIPPED`] and return when there is none.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, io};

use serde_json::Value;

use crate::process::{Outcome, measured};

/// What a test prints when it cannot ask restic.
pub const SKIPPED: &str = "skipped: restic is not installed";

/// A restic program together with a repository and its password.
#[derive(Debug)]
pub struct Restic {
    program: PathBuf,
    repository: PathBuf,
    password: String,
    cache: tempfile::TempDir,
}

impl Restic {
    /// Returns the restic of this machine for a repository; `None` when there is no restic.
    pub fn find(repository: impl Into<PathBuf>, password: &str) -> Option<Self> {
        let program = program()?;
        let cache = tempfile::tempdir().ok()?;
        Some(Self { program, repository: repository.into(), password: password.to_owned(), cache })
    }

    /// Prepares a restic command on the repository.
    pub fn command<I, S>(&self, arguments: I) -> Command
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let mut command = Command::new(&self.program);
        command
            .arg("--repo")
            .arg(&self.repository)
            .args(arguments)
            .env("RESTIC_PASSWORD", &self.password)
            .env("RESTIC_CACHE_DIR", self.cache.path())
            .env_remove("RESTIC_REPOSITORY")
            .env_remove("RESTIC_PASSWORD_FILE")
            .stdin(Stdio::null());
        command
    }

    /// Runs restic and returns what it said, whatever the exit code.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    pub fn run<I, S>(&self, arguments: I) -> std::process::Output
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        self.command(arguments).output().unwrap_or_else(|error| panic!("could not start restic: {error}"))
    }

    /// Runs restic and returns its standard output.
    ///
    /// # Panics
    /// With its standard error, when the exit code is not 0.
    #[track_caller]
    pub fn success<I, S>(&self, arguments: I) -> Vec<u8>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "restic: {}\n{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    /// Makes the repository, in format version 2.
    #[track_caller]
    pub fn init(&self) {
        self.success(["init", "--repository-version", "2"]);
    }

    /// Checks structure and all data; panics when restic finds anything.
    #[track_caller]
    pub fn check(&self) {
        self.success(["check", "--read-data"]);
    }

    /// Says whether restic finds the repository sound, all data read. Of a damaged one it
    /// reads again and again, for a minute and more: ask it only where it matters.
    pub fn is_sound(&self) -> bool {
        self.run(["check", "--read-data"]).status.success()
    }

    /// Returns all snapshots as restic lists them.
    #[track_caller]
    pub fn snapshots(&self) -> Vec<Value> {
        serde_json::from_slice(&self.success(["snapshots", "--json"]))
            .expect("restic lists snapshots as JSON")
    }

    /// Returns the paths in a snapshot.
    #[track_caller]
    pub fn ls(&self, snapshot: &str) -> Vec<String> {
        let listing = String::from_utf8(self.success(["ls", "--json", snapshot])).expect("JSON is UTF-8");
        let nodes = listing.lines().map(|line| serde_json::from_str::<Value>(line).expect("one JSON a line"));
        nodes
            .filter(|node| node["struct_type"] == "node")
            .filter_map(|node| node["path"].as_str().map(str::to_owned))
            .collect()
    }

    /// Returns the bytes of a file in a snapshot.
    #[track_caller]
    pub fn dump(&self, snapshot: &str, path: &str) -> Vec<u8> {
        self.success(["dump", snapshot, path])
    }

    /// Restores a snapshot below `target`.
    #[track_caller]
    pub fn restore(&self, snapshot: &str, target: &Path) {
        self.success([OsStr::new("restore"), snapshot.as_ref(), "--target".as_ref(), target.as_os_str()]);
    }

    /// Backs a file or folder up.
    #[track_caller]
    pub fn backup(&self, path: &Path) {
        self.success([OsStr::new("backup"), path.as_os_str()]);
    }

    /// Runs restic under `dbkeep-measure`.
    pub fn measured<I, S>(&self, arguments: I) -> io::Result<Outcome>
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        measured(&self.command(arguments))
    }
}

/// Returns the path of restic, if this machine has one.
pub fn program() -> Option<PathBuf> {
    if let Some(named) = env::var_os("DBKEEP_TEST_RESTIC") {
        return Some(named.into());
    }
    on_path("restic")
}

/// Returns where a program is found on the PATH.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path: OsString = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(name)).find(|candidate| candidate.is_file())
}
