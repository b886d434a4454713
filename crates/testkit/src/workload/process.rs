//! The writer as a process of its own.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;

use super::{Log, Options, Report};

/// A running `dbkeep-workload`. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: BufReader<ChildStdout>,
    log: Option<Log>,
}

impl Process {
    /// Starts a writer and returns when it has committed its first transaction.
    pub fn start(options: &Options) -> io::Result<Self> {
        let mut child = Command::new(binary()?)
            .args(arguments(options))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = child.stdout.take().expect("stdout was asked for as a pipe");
        let mut process =
            Self { child, stdout: BufReader::new(stdout), log: options.log.clone().map(Log::at) };
        let mut line = String::new();
        process.stdout.read_line(&mut line)?;
        if line.trim_end() != "writing" {
            return Err(io::Error::other(format!("the workload did not start: {line:?}")));
        }
        Ok(process)
    }

    /// Returns the log of begun and acknowledged transactions, where one is kept.
    pub fn log(&self) -> Option<&Log> {
        self.log.as_ref()
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the writer as kill -9 does.
    pub fn kill(mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(|_| ())
    }

    /// Asks the writer to end after its present transaction, and returns what it did.
    pub fn stop(mut self) -> io::Result<Report> {
        drop(self.child.stdin.take());
        self.report()
    }

    /// Waits until the writer ends by itself, and returns what it did.
    pub fn wait(mut self) -> io::Result<Report> {
        self.report()
    }

    fn report(&mut self) -> io::Result<Report> {
        let mut text = String::new();
        self.stdout.read_to_string(&mut text)?;
        let status = self.child.wait()?;
        if !status.success() {
            return Err(io::Error::other(format!("the workload failed: {status}")));
        }
        serde_json::from_str(&text).map_err(io::Error::other)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has already ended and been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn arguments(options: &Options) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec![options.database.clone().into()];
    let mut add = |name: &str, value: OsString| arguments.extend([name.into(), value]);
    add("--seed", options.seed.to_string().into());
    add("--journal", options.journal.name().into());
    add("--synchronous", options.synchronous.name().into());
    if let Some(rate) = options.rate {
        add("--rate", rate.to_string().into());
    }
    if let Some(transactions) = options.transactions {
        add("--transactions", transactions.to_string().into());
    }
    if let Some(duration) = options.duration {
        add("--milliseconds", duration.as_millis().to_string().into());
    }
    if let Some(size) = options.page_size {
        add("--page-size", size.to_string().into());
    }
    if let Some(pages) = options.autocheckpoint {
        add("--autocheckpoint", pages.to_string().into());
    }
    if let Some(log) = &options.log {
        add("--log", log.clone().into());
    }
    if options.hostile {
        arguments.push("--hostile".into());
    }
    arguments
}

/// Returns the path of `dbkeep-workload`, building it once a process unless
/// `DBKEEP_WORKLOAD` names one.
pub fn binary() -> io::Result<&'static Path> {
    crate::process::companion("dbkeep-workload", &WORKLOAD)
}

static WORKLOAD: OnceLock<Result<PathBuf, String>> = OnceLock::new();
