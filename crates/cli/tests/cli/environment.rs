//! A place where the binary runs with nothing of the machine around it: own home, own configuration
//! and state directories, no variables but those a test sets.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rusqlite::Connection;
use serde_json::Value;

/// A directory for one test; gone when the test ends.
pub(crate) struct TestEnvironment {
    root: tempfile::TempDir,
    variables: Vec<(String, String)>,
}

/// What a run of the binary came to.
pub(crate) struct Run {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl TestEnvironment {
    /// Makes an environment with a password, so that repositories can be made without a terminal.
    pub(crate) fn new() -> Self {
        let environment = Self::without_password();
        let path = environment.root.path().join("password");
        fs::write(&path, "correct horse\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let file = environment.root.path().join("password").display().to_string();
        environment.with("DBKEEP_PASSWORD_FILE", &file)
    }

    /// Makes an environment where no password is set.
    pub(crate) fn without_password() -> Self {
        let root = tempfile::tempdir().unwrap();
        for directory in ["home", "work"] {
            fs::create_dir(root.path().join(directory)).unwrap();
        }
        Self { root, variables: Vec::new() }
    }

    /// Adds a variable.
    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Returns a path below the working directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join("work").join(name)
    }

    /// Returns the home directory.
    pub(crate) fn home(&self) -> PathBuf {
        self.root.path().join("home")
    }

    /// Returns the binary, ready to run in the working directory.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = self.program(env!("CARGO_BIN_EXE_dbkeep"));
        command.args(arguments);
        command
    }

    /// Returns another program that is to run the binary, ready to run in the same place.
    pub(crate) fn program(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command
            .current_dir(self.path(""))
            .env_clear()
            .env("HOME", self.home())
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TZ", "UTC")
            .env("DBKEEP_TEST_CHEAP_KEYS", "1")
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs the binary in the working directory.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Run {
        Run::of(self.command(arguments))
    }

    /// Runs the binary and expects exit code 0.
    #[track_caller]
    pub(crate) fn ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Run {
        let run = self.run(arguments);
        run.expect(0);
        run
    }

    /// Runs the binary with `--json` and returns its document; any exit code.
    #[track_caller]
    pub(crate) fn json(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let run = self.run(std::iter::once("--json").chain(arguments.iter().copied()));
        let document = run.document();
        crate::schema::expect(arguments, run.code, &document);
        (run.code, document)
    }

    /// Runs the binary with `--json`, expects exit code 0 and returns its document.
    #[track_caller]
    pub(crate) fn ok_json(&self, arguments: &[&str]) -> Value {
        let (code, document) = self.json(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {document:#}");
        document
    }

    /// Makes a SQLite database below the working directory.
    pub(crate) fn database(&self, name: &str, sql: &str) -> PathBuf {
        let path = self.path(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).unwrap();
        }
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        path
    }

    /// Makes the small database that most tests use: a table `users` with `rows` rows.
    pub(crate) fn users(&self, name: &str, rows: u32) -> PathBuf {
        self.database(
            name,
            &format!(
                "PRAGMA journal_mode = WAL;
                 CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
                 WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
                 INSERT INTO users SELECT i, 'user ' || i FROM n;"
            ),
        )
    }

    /// Returns everything below the working directory: each path with its contents.
    pub(crate) fn tree(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut found = Vec::new();
        let mut directories = vec![self.path("")];
        while let Some(directory) = directories.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    directories.push(path);
                } else {
                    found.push((path.clone(), fs::read(&path).unwrap_or_default()));
                }
            }
        }
        found.sort();
        found
    }
}

impl Run {
    /// Runs a command to its end.
    pub(crate) fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        Self {
            code: status.code(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
        }
    }

    /// Expects an exit code.
    #[track_caller]
    pub(crate) fn expect(&self, code: i32) {
        assert_eq!(self.code, Some(code), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
    }

    /// Expects a failure for people: the exit code, one sentence that contains `message`, and a hint
    /// that contains `hint`.
    #[track_caller]
    pub(crate) fn expect_failure(&self, code: i32, message: &str, hint: &str) {
        self.expect(code);
        let line = |start: &str| {
            let lines: Vec<&str> = self.stderr.lines().filter_map(|line| line.strip_prefix(start)).collect();
            assert!(!lines.is_empty(), "no {start:?} in:\n{}", self.stderr);
            lines.join("\n")
        };
        let (error, advice) = (line("error: "), line("hint: "));
        assert!(error.contains(message), "{message:?} is not in {error:?}");
        assert!(advice.contains(hint), "{hint:?} is not in {advice:?}");
        assert!(!error.ends_with('.'), "a message has no full stop: {error:?}");
        assert!(!self.stderr.contains("panicked"), "{}", self.stderr);
    }

    /// Returns the one JSON document of standard output.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error} in:\n{}\nstderr:\n{}", self.stdout, self.stderr))
    }
}

/// Returns the value of the first column of the first row.
pub(crate) fn ask<T: rusqlite::types::FromSql>(path: &Path, query: &str) -> T {
    Connection::open(path).unwrap().query_row(query, [], |row| row.get(0)).unwrap()
}

/// Returns stock restic on the repository of the environment; nothing, with a message, where it is missing.
pub(crate) fn restic(environment: &TestEnvironment) -> Option<Command> {
    let program = std::env::var_os("DBKEEP_TEST_RESTIC").unwrap_or_else(|| "restic".into());
    if Command::new(&program).arg("version").output().is_err() {
        eprintln!("skipped: restic is not installed");
        return None;
    }
    let mut command = Command::new(program);
    command.env("RESTIC_REPOSITORY", environment.path("backups")).env("RESTIC_PASSWORD", "correct horse");
    command.env("XDG_CACHE_HOME", environment.home().join("cache"));
    Some(command)
}
