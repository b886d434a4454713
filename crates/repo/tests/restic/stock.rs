//! Runs the stock `restic`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;

use dbkeep_repo::backend::{Backend, FileKind, LocalBackend};
use dbkeep_repo::{InitOptions, Repository, Secret};
use jiff::Timestamp;

/// A scratch folder with a place for a repository, its restic, and its password.
pub(crate) struct Stock {
    scratch: tempfile::TempDir,
    binary: String,
}

impl Stock {
    /// Returns one, or says that restic is not installed.
    pub(crate) fn find() -> Option<Self> {
        let binary = std::env::var("DBKEEP_TEST_RESTIC").unwrap_or_else(|_| "restic".to_owned());
        let version = Command::new(&binary).arg("version").output();
        if !version.is_ok_and(|output| output.status.success()) {
            println!("skipped: restic is not installed");
            return None;
        }
        Some(Self { scratch: tempfile::tempdir().unwrap(), binary })
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    pub(crate) fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    pub(crate) fn backend(&self) -> Arc<LocalBackend> {
        Arc::new(LocalBackend::new(self.repository()))
    }

    /// Makes a repository with dbkeep.
    pub(crate) fn init_ours(&self) -> Repository {
        let password = Secret::from("secret");
        Repository::init(self.backend(), &password, &InitOptions::cheap(), Timestamp::now()).unwrap()
    }

    /// Makes a repository with restic.
    pub(crate) fn init_theirs(&self) -> Repository {
        self.run(&["init", "--repository-version", "2"]);
        self.open("secret").unwrap()
    }

    /// Opens the repository with dbkeep.
    pub(crate) fn open(&self, password: &str) -> dbkeep_repo::Result<Repository> {
        Repository::open(self.backend(), &[Secret::from(password)])
    }

    pub(crate) fn command(&self, password: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(["--repo".as_ref(), self.repository().as_os_str()])
            .args(arguments)
            .env("RESTIC_PASSWORD", password)
            .env("RESTIC_CACHE_DIR", self.path("cache"))
            .env_remove("RESTIC_REPOSITORY")
            .stdin(Stdio::null());
        command
    }

    /// Runs restic, whatever comes of it.
    pub(crate) fn attempt(&self, password: &str, arguments: &[&str]) -> Output {
        self.command(password, arguments).output().unwrap()
    }

    /// Runs restic, which must succeed, and returns what it prints.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.attempt("secret", arguments);
        assert!(output.status.success(), "restic {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs restic and reads the JSON that it prints.
    pub(crate) fn json(&self, arguments: &[&str]) -> serde_json::Value {
        serde_json::from_str(&self.run(&[&["--json"], arguments].concat())).unwrap()
    }

    /// Starts a restic that holds a shared lock until it is killed or its input ends.
    pub(crate) fn start_holding_a_lock(&self) -> Child {
        let mut command = self.command("secret", &["backup", "--stdin"]);
        let child =
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        while self.backend().list(FileKind::Lock).unwrap().is_empty() {
            std::thread::yield_now();
        }
        child
    }
}

/// Returns how many entries a folder has.
pub(crate) fn count(folder: &Path) -> usize {
    std::fs::read_dir(folder).unwrap().count()
}

/// Returns what a failed restic said.
pub(crate) fn complaint(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}
