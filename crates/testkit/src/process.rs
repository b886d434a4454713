//! Runs the `dbkeep` binary the way a user does, and kills it the way life does.
//!
//! Each [`Dbkeep`] has a home of its own: no configuration, key, state or variable of
//! the machine reaches it.

use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use std::{env, fs, io, thread};

use serde_json::Value;

/// What a measured command cost.
#[derive(Clone, Copy, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Cost {
    /// Wall time.
    pub seconds: f64,
    /// Processor time in user mode, all threads.
    pub user_seconds: f64,
    /// Processor time in the kernel, all threads.
    pub system_seconds: f64,
    /// The most memory that was resident at once, in bytes.
    pub peak_rss: u64,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
}

/// How a run ended and what it said.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code or signal.
    pub status: ExitStatus,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
    /// From start to end.
    pub duration: Duration,
    /// Set by [`Run::measured`] only.
    pub cost: Option<Cost>,
    /// Command lines of the process seen while it ran; empty unless [`Run::watch_command_line`] asked.
    pub command_lines: Vec<String>,
}

impl Outcome {
    /// Returns the exit code; `None` when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Says whether kill -9 (or a named step's abort) ended it.
    pub fn was_killed(&self) -> bool {
        self.status.signal().is_some()
    }

    /// Returns the one JSON document on standard output.
    ///
    /// # Panics
    /// When there is none, or anything beside it.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no single JSON document: {error}\n{}", self.transcript()))
    }

    /// Returns the outcome if the exit code is `code`.
    ///
    /// # Panics
    /// With all that was said, when it is another.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{}", self.transcript());
        self
    }

    /// Returns the outcome if the exit code is 0; see [`Outcome::expect_code`].
    #[track_caller]
    pub fn success(self) -> Self {
        self.expect_code(0)
    }

    /// Returns status and output for a message.
    pub fn transcript(&self) -> String {
        format!("{}\n--- stdout\n{}\n--- stderr\n{}", self.status, self.stdout, self.stderr)
    }
}

/// The binary with a home of its own.
#[derive(Debug)]
pub struct Dbkeep {
    binary: PathBuf,
    home: tempfile::TempDir,
    variables: Vec<(OsString, OsString)>,
}

impl Dbkeep {
    /// Uses the binary at `binary` with an empty home.
    pub fn new(binary: impl Into<PathBuf>) -> io::Result<Self> {
        Ok(Self { binary: binary.into(), home: tempfile::tempdir()?, variables: Vec::new() })
    }

    /// Sets a variable for all runs.
    pub fn with(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.variables.push((name.into(), value.into()));
        self
    }

    /// Uses the repository at `location` with `password` in all runs.
    pub fn with_repository(self, location: impl Into<OsString>, password: &str) -> Self {
        self.with("DBKEEP_REPOSITORY", location).with("DBKEEP_PASSWORD", password)
    }

    /// Returns the home directory; the local state is below it.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// Forgets all local state, as on a fresh machine.
    pub fn fresh_machine(&mut self) -> io::Result<()> {
        self.home = tempfile::tempdir()?;
        Ok(())
    }

    /// Prepares a run with these arguments.
    pub fn run<I, S>(&self, arguments: I) -> Run
    where
        I: IntoIterator<Item = S>,
        S: AsRef<OsStr>,
    {
        let arguments: Vec<OsString> = arguments.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let mut command = Command::new(&self.binary);
        command.args(&arguments).env_clear().current_dir(self.home());
        for name in ["PATH", "TMPDIR", "RUST_BACKTRACE", "DBKEEP_TEST_RESTIC", "LLVM_PROFILE_FILE"] {
            if let Some(value) = env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("HOME", self.home());
        for (name, folder) in
            [("XDG_CONFIG_HOME", ".config"), ("XDG_STATE_HOME", ".local/state"), ("XDG_CACHE_HOME", ".cache")]
        {
            command.env(name, self.home().join(folder));
        }
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC");
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        Run { command, end: End::Itself, deadline: DEADLINE, watched: false }
    }
}

/// No command of a test takes longer unless it hangs.
const DEADLINE: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
enum End {
    Itself,
    KilledAfter(Duration),
}

/// A run that is about to start.
#[derive(Debug)]
pub struct Run {
    command: Command,
    end: End,
    deadline: Duration,
    watched: bool,
}

impl Run {
    /// Sets a variable for this run.
    pub fn with(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Removes a variable for this run.
    pub fn without(mut self, name: impl AsRef<OsStr>) -> Self {
        self.command.env_remove(name);
        self
    }

    /// Runs in this directory instead of the home.
    pub fn in_directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Kills the process as kill -9 does, this long after its start.
    pub fn killed_after(mut self, time: Duration) -> Self {
        self.end = End::KilledAfter(time);
        self
    }

    /// Has the process kill itself when it reaches the step of this name.
    /// `name:3` means the third time. The binary must be built with `fault-injection`.
    pub fn killed_at(self, step: &str) -> Self {
        self.with("DBKEEP_TEST_KILL_AT", step)
    }

    /// Collects the process's command line from /proc while it runs: no secret may show there.
    pub fn watch_command_line(mut self) -> Self {
        self.watched = true;
        self
    }

    /// Sets how long the run may take before it counts as hung.
    pub fn within(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Runs to the end.
    ///
    /// # Panics
    /// When the process cannot be started or hangs.
    #[track_caller]
    pub fn go(self) -> Outcome {
        let running = self.start();
        running.wait()
    }

    /// Runs to the end and expects exit code 0; see [`Run::go`].
    #[track_caller]
    pub fn success(self) -> Outcome {
        self.go().success()
    }

    /// Runs to the end under `dbkeep-measure`, which tells memory and processor time.
    #[track_caller]
    pub fn measured(self) -> Outcome {
        run_measured(&self.command, true).unwrap_or_else(|error| panic!("could not measure: {error}"))
    }

    /// Starts the process and returns while it runs.
    ///
    /// # Panics
    /// When the process cannot be started.
    #[track_caller]
    pub fn start(mut self) -> Running {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self
            .command
            .spawn()
            .unwrap_or_else(|error| panic!("could not start {:?}: {error}", self.command.get_program()));
        let stdout = drain(child.stdout.take().expect("stdout was asked for as a pipe"));
        let stderr = drain(child.stderr.take().expect("stderr was asked for as a pipe"));
        Running { child, stdout, stderr, began: Instant::now(), run: self }
    }
}

/// A process that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: thread::JoinHandle<Vec<u8>>,
    stderr: thread::JoinHandle<Vec<u8>>,
    began: Instant,
    run: Run,
}

impl Running {
    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Kills the process now, as kill -9 does, and returns how far it got.
    #[track_caller]
    pub fn kill(mut self) -> Outcome {
        // Fails only when it has already ended, which the status then says.
        let _ = self.child.kill();
        self.wait()
    }

    /// Waits for the end.
    ///
    /// # Panics
    /// When the process hangs.
    #[track_caller]
    pub fn wait(mut self) -> Outcome {
        let mut command_lines = Vec::new();
        let mut pause = Duration::from_micros(200);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours can be waited for") {
                break status;
            }
            if self.run.watched {
                note_command_line(self.child.id(), &mut command_lines);
            }
            let elapsed = self.began.elapsed();
            let mut nap = pause;
            if let End::KilledAfter(time) = self.run.end {
                if elapsed >= time {
                    let _ = self.child.kill();
                }
                nap = nap.min(time.saturating_sub(elapsed)).max(Duration::from_micros(50));
            }
            if elapsed > self.run.deadline {
                let _ = self.child.kill();
                panic!("{:?} hung for {elapsed:?}", self.run.command);
            }
            thread::sleep(nap);
            pause = (pause * 2).min(Duration::from_millis(5));
        };
        let text = |bytes: thread::JoinHandle<Vec<u8>>| {
            String::from_utf8_lossy(&bytes.join().expect("reading a pipe does not panic")).into_owned()
        };
        Outcome {
            status,
            duration: self.began.elapsed(),
            stdout: text(self.stdout),
            stderr: text(self.stderr),
            cost: None,
            command_lines,
        }
    }
}

fn note_command_line(id: u32, seen: &mut Vec<String>) {
    let Ok(bytes) = fs::read(format!("/proc/{id}/cmdline")) else { return };
    let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
    if !line.is_empty() && !seen.contains(&line) {
        seen.push(line);
    }
}

fn drain(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::Builder::new()
        .name("pipe".to_owned())
        .spawn(move || {
            let mut bytes = Vec::new();
            // What arrived before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
            bytes
        })
        .expect("a thread can be started")
}

/// Runs any command under `dbkeep-measure` and returns its outcome with its cost.
pub fn measured(command: &Command) -> io::Result<Outcome> {
    run_measured(command, false)
}

/// `is_isolated`: nothing of our environment reaches the command.
fn run_measured(command: &Command, is_isolated: bool) -> io::Result<Outcome> {
    let report = tempfile::NamedTempFile::new()?;
    let mut outer = Command::new(companion("dbkeep-measure", &MEASURE)?);
    outer.arg(report.path()).arg(command.get_program()).args(command.get_args());
    if is_isolated {
        outer.env_clear();
    }
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => outer.env(name, value),
            None => outer.env_remove(name),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        outer.current_dir(directory);
    }
    let began = Instant::now();
    let output = outer.stdin(Stdio::null()).output()?;
    Ok(Outcome {
        status: output.status,
        duration: began.elapsed(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        cost: Some(serde_json::from_slice(&fs::read(report.path())?)?),
        command_lines: Vec::new(),
    })
}

static MEASURE: OnceLock<Result<PathBuf, String>> = OnceLock::new();

/// Returns the path of a program of this package, building it once a process: a test of
/// another package cannot name it as its own. A variable as `DBKEEP_WORKLOAD` overrides.
pub(crate) fn companion(
    name: &str,
    built: &'static OnceLock<Result<PathBuf, String>>,
) -> io::Result<&'static Path> {
    built.get_or_init(|| find_or_build(name)).as_deref().map_err(|problem| io::Error::other(problem.clone()))
}

fn find_or_build(name: &str) -> Result<PathBuf, String> {
    let variable = name.to_uppercase().replace('-', "_");
    if let Some(path) = env::var_os(&variable) {
        return Ok(path.into());
    }
    let directory = profile_directory().map_err(|error| error.to_string())?;
    let path = directory.join(name);
    let target = directory.parent().ok_or("the executable stands in no target directory")?;
    let mut build = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.args(["build", "--quiet", "--package", "dbkeep-testkit", "--bin", name]);
    build.arg("--target-dir").arg(target).current_dir(env!("CARGO_MANIFEST_DIR"));
    match directory.file_name().and_then(OsStr::to_str) {
        Some("debug") | None => {}
        Some(profile) => {
            build.args(["--profile", profile]);
        }
    }
    match build.status() {
        Ok(status) if status.success() => Ok(path),
        // Without cargo a program that is there will do.
        _ if path.exists() => Ok(path),
        other => Err(format!("could not build {name}: {other:?}")),
    }
}

/// Returns the directory of the running executable's profile, as `target/debug`.
fn profile_directory() -> io::Result<PathBuf> {
    let mut directory = env::current_exe()?;
    directory.pop();
    if directory.ends_with("deps") || directory.ends_with("examples") {
        directory.pop();
    }
    Ok(directory)
}
