//! A command that is run to be guarded: a process group of its own, signals and the terminal passed on, and a limit to
//! its time, all as `timeout(1)` does it.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use dbkeep_engine::Error;
use dbkeep_engine::guard::{Ended, SESSION_NAME, Start, Task, is_group_alive};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, kill_current_process_group, kill_process_group, waitpid,
};
use signal_hook::SigId;
use signal_hook::consts::SIGCHLD;

use crate::signals::{STOPPING, Stop};
use crate::terminal::Terminal;

/// How long a command that was asked to end may take before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(10);

/// A command that is guarded.
pub(crate) struct Program<'p> {
    words: Vec<OsString>,
    timeout: Option<Duration>,
    /// Whether its results go where messages go, because ours are the one document on standard output.
    json: bool,
    stop: &'p Stop,
    group: Option<Pid>,
}

impl<'p> Program<'p> {
    pub(crate) fn new(words: &[OsString], timeout: Option<Duration>, json: bool, stop: &'p Stop) -> Self {
        Self { words: words.to_vec(), timeout, json, stop, group: None }
    }

    fn command(&self, start: &Start<'_>) -> io::Result<Command> {
        let (program, arguments) = self.words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
        let mut command = Command::new(program);
        command.args(arguments).process_group(0);
        for (name, value) in start.variables() {
            // Who calls his sessions by a name of his own needs it.
            if name != SESSION_NAME || std::env::var_os(name).is_none() {
                command.env(name, value);
            }
        }
        if self.json {
            command.stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?));
        }
        Ok(command)
    }
}

impl Task for Program<'_> {
    fn run(&mut self, start: &Start<'_>) -> dbkeep_engine::Result<Ended> {
        let failed = |source| Error::NotStarted { program: shown(&self.words), source };
        let mut command = self.command(start).map_err(failed)?;
        let signals = Signals::listen().map_err(failed)?;
        // From here on they are the command's.
        let _ours_again = Paused::begin(self.stop);
        if self.stop.wanted() {
            return Err(Error::Cancelled);
        }
        let terminal = Terminal::open();
        let mut group = None;
        let spawned = start.group(|| {
            let number = command.spawn()?.id();
            group = i32::try_from(number).ok().and_then(Pid::from_raw);
            Ok(number)
        });
        spawned.map_err(|source| Error::NotStarted { program: shown(&self.words), source })?;
        self.group = group;
        let Some(group) = group else {
            return Err(failed_to_wait(&self.words, io::ErrorKind::InvalidData.into()));
        };
        let wait = Wait { group, terminal: terminal.as_ref(), signals: &signals, timeout: self.timeout };
        let ended = wait.to_the_end().map_err(|source| failed_to_wait(&self.words, source));
        if let Some(terminal) = &terminal {
            terminal.take_back();
        }
        ended
    }

    fn end_rest(&mut self) {
        let Some(group) = self.group else { return };
        if kill_process_group(group, Signal::TERM).is_err() {
            return;
        }
        let _ = kill_process_group(group, Signal::CONT);
        let deadline = Instant::now() + KILL_AFTER;
        while u32::try_from(group.as_raw_nonzero().get()).is_ok_and(is_group_alive) {
            if Instant::now() >= deadline {
                let _ = kill_process_group(group, Signal::KILL);
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn failed_to_wait(words: &[OsString], source: io::Error) -> Error {
    Error::Io { action: "wait for", path: PathBuf::from(shown(words)), source }
}

fn shown(words: &[OsString]) -> String {
    words.first().map(|word| word.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Finds out before anything is done whether there is such a program, as a shell looks for it.
pub(crate) fn find(program: &OsStr, path: Option<&str>, directory: &Path) -> Result<(), Error> {
    let not_started = |kind: io::ErrorKind| Error::NotStarted {
        program: program.to_string_lossy().into_owned(),
        source: kind.into(),
    };
    let names_a_file = program.as_encoded_bytes().contains(&b'/');
    let places: Vec<PathBuf> = match (names_a_file, path) {
        (true, _) => vec![directory.join(program)],
        (false, Some(path)) => std::env::split_paths(path).map(|folder| folder.join(program)).collect(),
        // Then the system looks where it thinks fit.
        (false, None) => return Ok(()),
    };
    let mut found = false;
    for place in places {
        match std::fs::metadata(&place) {
            Ok(file) if file.is_file() && file.permissions().mode() & 0o111 != 0 => return Ok(()),
            Ok(_) => found = true,
            Err(error) => found |= error.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    Err(not_started(if found { io::ErrorKind::PermissionDenied } else { io::ErrorKind::NotFound }))
}

/// Signals that mean something else while a command runs.
struct Paused<'p>(&'p Stop);

impl<'p> Paused<'p> {
    fn begin(stop: &'p Stop) -> Self {
        stop.pause();
        Self(stop)
    }
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.resume() {
            tracing::warn!(event = "signals", %error, "signals are not taken for the wish to stop any more");
        }
    }
}

/// The wait for a command to end.
struct Wait<'w> {
    group: Pid,
    terminal: Option<&'w Terminal>,
    signals: &'w Signals,
    timeout: Option<Duration>,
}

impl Wait<'_> {
    fn to_the_end(&self) -> io::Result<Ended> {
        let began = Instant::now();
        // What is done next when it does not end by itself.
        let mut steps = self.timeout.map(|timeout| (began + timeout, Signal::TERM));
        let mut timed_out = false;
        if let Some(terminal) = self.terminal {
            terminal.lend(self.group);
            // It may have asked for the terminal before it had it.
            let _ = kill_process_group(self.group, Signal::CONT);
        }
        loop {
            if let Some((_, status)) = waitpid(Some(self.group), WaitOptions::NOHANG | WaitOptions::UNTRACED)?
            {
                match ended(status) {
                    Some(_) if timed_out => return Ok(Ended::TimedOut(self.timeout.unwrap_or_default())),
                    Some(ended) => return Ok(ended),
                    None if status.stopped() => self.stop_too(),
                    None => {}
                }
                continue;
            }
            if let Some((at, signal)) = steps
                && Instant::now() >= at
            {
                timed_out = true;
                let _ = kill_process_group(self.group, signal);
                // One that is stopped could not end.
                let _ = kill_process_group(self.group, Signal::CONT);
                steps = (signal == Signal::TERM).then(|| (Instant::now() + KILL_AFTER, Signal::KILL));
            }
            for signal in self.signals.wait(steps.map(|(at, _)| at))? {
                let _ = kill_process_group(self.group, signal);
            }
        }
    }

    /// Stops as the command did, as one job of the shell, and goes on with it.
    fn stop_too(&self) {
        let Some(terminal) = self.terminal else { return };
        terminal.take_back();
        let _ = kill_current_process_group(Signal::TSTP);
        // Here we were continued, in the foreground or not.
        if terminal.is_ours() {
            terminal.lend(self.group);
        }
        let _ = kill_process_group(self.group, Signal::CONT);
    }
}

/// Returns how a process ended; `None` when it did not.
fn ended(status: WaitStatus) -> Option<Ended> {
    if let Some(signal) = status.terminating_signal() {
        return Some(Ended::Signalled(u8::try_from(signal).unwrap_or(127)));
    }
    status.exit_status().map(|code| Ended::Exited(u8::try_from(code & 0xff).unwrap_or(u8::MAX)))
}

/// Signals as they come, while a command runs.
struct Signals {
    registered: Vec<SigId>,
    pipes: Vec<(i32, UnixStream)>,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        let mut signals = Self { registered: Vec::new(), pipes: Vec::new() };
        for signal in STOPPING.into_iter().chain([SIGCHLD]) {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            signals.registered.push(signal_hook::low_level::pipe::register(signal, write)?);
            signals.pipes.push((signal, read));
        }
        Ok(signals)
    }

    /// Waits for signals, or until `deadline`, and returns those that are to be passed on.
    fn wait(&self, deadline: Option<Instant>) -> io::Result<Vec<Signal>> {
        let rest = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let rest = rest.and_then(|rest| Timespec::try_from(rest).ok());
        let mut asked: Vec<PollFd<'_>> =
            self.pipes.iter().map(|(_, pipe)| PollFd::new(pipe, PollFlags::IN)).collect();
        match poll(&mut asked, rest.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut came = Vec::new();
        for (number, pipe) in &self.pipes {
            let mut pipe: &UnixStream = pipe;
            let read = pipe.read(&mut [0; 64]).unwrap_or(0);
            if read > 0 && *number != SIGCHLD {
                came.extend(Signal::from_named_raw(*number));
            }
        }
        Ok(came)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_engine::ErrorKind;

    use super::*;

    #[test]
    fn program_is_looked_for_before_anything_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_str();
        let kind =
            |program: &str| find(OsStr::new(program), path, folder.path()).map_err(|error| error.kind());
        assert_eq!(kind("migrate").unwrap_err(), ErrorKind::CommandNotFound);
        assert_eq!(kind("./migrate").unwrap_err(), ErrorKind::CommandNotFound);
        std::fs::write(folder.path().join("migrate"), "#!/bin/sh\n").unwrap();
        std::fs::create_dir(folder.path().join("folder")).unwrap();
        for program in ["migrate", "./migrate", "folder"] {
            assert_eq!(kind(program).unwrap_err(), ErrorKind::CommandNotExecutable, "{program}");
        }
        let file = folder.path().join("migrate");
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!((kind("migrate"), kind("./migrate")), (Ok(()), Ok(())));
    }
}
