//! A command that is run to be guarded: a process group of its own, signals and the terminal passed on, and a limit to
//! its time, all as `timeout(1)` does it.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use dbkeep_engine::Error;
use dbkeep_engine::guard::{Ended, SESSION_NAME, Start, Task, is_group_alive};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, kill_current_process_group,
    kill_process_group, waitid, waitpid,
};
use signal_hook::SigId;
use signal_hook::consts::{SIGCHLD, SIGQUIT};

use crate::signals::Stop;
use crate::terminal::Terminal;

/// How long a command that was asked to end may take before it is killed.
const KILL_AFTER: Duration = Duration::from_secs(10);

/// How long one that was continued in vain is left alone.
const PAUSE: Duration = Duration::from_millis(100);

/// A command that is guarded.
pub(crate) struct Program<'p> {
    words: Vec<OsString>,
    timeout: Option<Duration>,
    /// Whether its results go where messages go, because ours are the one document on standard output.
    json: bool,
    stop: &'p Stop,
    kill_after: Duration,
    /// Its number stays that of the command until this is dropped, since nobody asks for the first process before.
    group: Option<Pid>,
}

impl<'p> Program<'p> {
    pub(crate) fn new(words: &[OsString], timeout: Option<Duration>, json: bool, stop: &'p Stop) -> Self {
        Self { words: words.to_vec(), timeout, json, stop, kill_after: KILL_AFTER, group: None }
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
        let signals = Signals::listen(self.stop).map_err(failed)?;
        let terminal = Terminal::open();
        let (mut group, mut ours_again) = (None, None);
        let spawned = start.group(|| {
            // From here on they are the command's, and not before: others may be looked for until now.
            ours_again = Some(Paused::begin(self.stop));
            if self.stop.wanted() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let number = command.spawn()?.id();
            group = i32::try_from(number).ok().and_then(Pid::from_raw);
            Ok(number)
        });
        spawned.map_err(|source| match self.stop.wanted() {
            true => Error::Cancelled,
            false => Error::NotStarted { program: shown(&self.words), source },
        })?;
        self.group = group;
        let Some(group) = group else {
            return Err(failed_to_wait(&self.words, io::ErrorKind::InvalidData.into()));
        };
        let wait = Wait {
            group,
            terminal: terminal.as_ref(),
            signals: &signals,
            timeout: self.timeout,
            kill_after: self.kill_after,
        };
        let ended = wait.to_the_end().map_err(|source| failed_to_wait(&self.words, source));
        if let Some(terminal) = &terminal {
            terminal.take_back(group);
        }
        drop(ours_again);
        ended
    }

    fn end_rest(&mut self) {
        let Some(group) = self.group else { return };
        for signal in [Signal::TERM, Signal::KILL] {
            if !is_alive(group) {
                return;
            }
            let _ = kill_process_group(group, signal);
            // One that is stopped could not end.
            let _ = kill_process_group(group, Signal::CONT);
            let deadline = Instant::now() + self.kill_after;
            while is_alive(group) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // From here on the number may be that of another group.
        if let Some(group) = self.group.take() {
            let _ = waitpid(Some(group), WaitOptions::NOHANG);
        }
    }
}

fn is_alive(group: Pid) -> bool {
    u32::try_from(group.as_raw_nonzero().get()).is_ok_and(is_group_alive)
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
    kill_after: Duration,
}

impl Wait<'_> {
    fn to_the_end(&self) -> io::Result<Ended> {
        let began = Instant::now();
        // What is done next when it does not end by itself.
        let mut steps = self.timeout.map(|timeout| (began + timeout, Signal::TERM));
        let mut timed_out = false;
        self.lend_at_once();
        loop {
            if let Some(ended) = self.ended()? {
                return Ok(if timed_out { Ended::TimedOut(self.timeout.unwrap_or_default()) } else { ended });
            }
            if let Some(signal) = self.stopped()? {
                self.stop_too(signal);
            }
            if let Some((at, signal)) = steps
                && Instant::now() >= at
            {
                timed_out = true;
                self.send(signal);
                steps = (signal == Signal::TERM).then(|| (Instant::now() + self.kill_after, Signal::KILL));
            }
            for signal in self.signals.wait(steps.map(|(at, _)| at))? {
                self.send(signal);
            }
        }
    }

    /// Returns how it ended, once it has. It stays known to the system, so that its group is nobody else's.
    fn ended(&self) -> io::Result<Option<Ended>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        Ok(waitid(WaitId::Pid(self.group), options)?.as_ref().and_then(ended))
    }

    /// Returns by which signal it was stopped since this was asked last.
    fn stopped(&self) -> io::Result<Option<Signal>> {
        match waitid(WaitId::Pid(self.group), WaitIdOptions::STOPPED | WaitIdOptions::NOHANG) {
            Ok(status) => Ok(status.and_then(|status| Signal::from_named_raw(status.stopping_signal()?))),
            // It has ended since `ended` was asked: one of which only the end is left is no child that could stop.
            Err(rustix::io::Errno::CHILD) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a signal, and makes sure that it is heard: one that is stopped hears nothing.
    fn send(&self, signal: Signal) {
        let _ = kill_process_group(self.group, signal);
        let _ = kill_process_group(self.group, Signal::CONT);
    }

    /// Lends the terminal before anybody asks for it, so that its keys reach the command alone. Behind a pipe may be a
    /// program of our own group that reads it, as `less` does.
    fn lend_at_once(&self) {
        let Some(terminal) = self.terminal else { return };
        if terminal.is_ours() && io::stdout().is_terminal() {
            terminal.lend(self.group);
            // It may have asked for the terminal before it had it.
            let _ = kill_process_group(self.group, Signal::CONT);
        }
    }

    /// Stops as the command did, as one job of the shell, and goes on with it.
    fn stop_too(&self, by: Signal) {
        let Some(terminal) = self.terminal else { return };
        let asks_for_it = [Signal::TTIN, Signal::TTOU].contains(&by);
        if !asks_for_it || !terminal.is_ours() {
            terminal.take_back(self.group);
            let _ = kill_current_process_group(Signal::TSTP);
        }
        // Here we were continued, in the foreground or not.
        if terminal.is_ours() {
            terminal.lend(self.group);
        } else {
            // Nobody stops a job that has no shell any more. It would ask again and again.
            std::thread::sleep(PAUSE);
        }
        let _ = kill_process_group(self.group, Signal::CONT);
    }
}

/// Returns how a process ended; `None` when it did not.
fn ended(status: &WaitIdStatus) -> Option<Ended> {
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
    fn listen(stop: &Stop) -> io::Result<Self> {
        let mut signals = Self { registered: Vec::new(), pipes: Vec::new() };
        for &signal in stop.signals().iter().chain(&[SIGQUIT, SIGCHLD]) {
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
        // What nobody else takes does again what it does by itself; otherwise it would be without effect from here on.
        let always = Arc::new(AtomicBool::new(true));
        if let Err(error) = signal_hook::flag::register_conditional_default(SIGQUIT, always) {
            tracing::warn!(event = "signals", %error, "SIGQUIT has no effect any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_engine::ErrorKind;
    use rustix::process::test_kill_process_group;

    use super::*;

    /// Runs a line of a shell to its end, as a guarded command.
    #[expect(clippy::zombie_processes, reason = "who drops the program asks for it")]
    fn run<'s>(script: &str, stop: &'s Stop) -> (Program<'s>, Ended) {
        let child = Command::new("sh").args(["-c", script]).process_group(0).spawn().unwrap();
        let group = Pid::from_child(&child);
        let kill_after = Duration::from_millis(100);
        let mut program = Program::new(&[], None, false, stop);
        (program.kill_after, program.group) = (kill_after, Some(group));
        let signals = Signals::listen(stop).unwrap();
        let wait = Wait { group, terminal: None, signals: &signals, timeout: None, kill_after };
        let ended = wait.to_the_end().unwrap();
        (program, ended)
    }

    #[test]
    fn number_of_the_group_is_nobody_elses_until_its_rest_has_ended() {
        let stop = Stop::new().unwrap();
        for (script, expected) in [("exit 3", Ended::Exited(3)), ("kill -KILL $$", Ended::Signalled(9))] {
            let (mut program, ended) = run(script, &stop);
            let group = program.group.unwrap();
            assert_eq!(ended, expected);
            program.end_rest();
            assert_eq!(test_kill_process_group(group), Ok(()), "the system still knows it");
            drop(program);
            assert_eq!(test_kill_process_group(group), Err(rustix::io::Errno::SRCH));
        }
    }

    #[test]
    #[expect(clippy::zombie_processes, reason = "who drops the program asks for it")]
    fn end_between_two_questions_is_no_failure() {
        let stop = Stop::new().unwrap();
        let signals = Signals::listen(&stop).unwrap();
        let child = Command::new("sh").args(["-c", "exit 3"]).process_group(0).spawn().unwrap();
        let group = Pid::from_child(&child);
        let mut program = Program::new(&[], None, false, &stop);
        program.group = Some(group);
        let wait = Wait { group, terminal: None, signals: &signals, timeout: None, kill_after: KILL_AFTER };
        while wait.ended().unwrap().is_none() {
            std::thread::yield_now();
        }
        assert_eq!(wait.stopped().unwrap(), None);
        assert_eq!(wait.to_the_end().unwrap(), Ended::Exited(3));
    }

    #[test]
    fn rest_that_hears_nothing_has_ended_when_that_is_said() {
        let stop = Stop::new().unwrap();
        let (mut program, ended) = run("(trap '' TERM; sleep 1000) & exit 0", &stop);
        let group = program.group.unwrap();
        assert_eq!(ended, Ended::Exited(0));
        assert!(is_alive(group));
        program.end_rest();
        assert!(!is_alive(group));
    }

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
