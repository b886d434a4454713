//! What is guarded: a program, or a closure of the program that uses this library.

use std::fmt::Display;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::Result;

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Exited(u8),
    /// This signal ended it.
    Signalled(u8),
    /// It took longer than it may, and was ended.
    TimedOut(Duration),
    /// A closure said why it failed.
    Failed(String),
}

impl Ended {
    /// Says whether it did what it should, as far as it says so itself.
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Exited(0))
    }

    /// Returns the code that a shell sees: 128 and the number of the signal, 124 for one that took too long.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exited(code) => *code,
            Self::Signalled(signal) => 128u8.saturating_add(*signal),
            Self::TimedOut(_) => 124,
            Self::Failed(_) => 1,
        }
    }

    /// Returns why it counts as failed, in words; `None` when it succeeded.
    pub fn failure(&self) -> Option<String> {
        match self {
            Self::Exited(0) => None,
            Self::Exited(code) => Some(format!("it exited with {code}")),
            Self::Signalled(signal) => Some(format!("signal {signal} ended it")),
            Self::TimedOut(after) => {
                Some(format!("it took longer than {} s, and was ended", after.as_secs_f64()))
            }
            Self::Failed(why) => Some(why.clone()),
        }
    }
}

/// Something that changes databases, and that a guard runs.
pub trait Task {
    /// Runs it to its end.
    ///
    /// # Errors
    /// Only when it could not be started: then nothing has changed anything.
    fn run(&mut self, start: &Start<'_>) -> Result<Ended>;

    /// Says whether it runs in this process.
    fn is_in_process(&self) -> bool {
        false
    }

    /// Ends what is left of it after [`Task::run`], before databases are restored. Called at most once.
    fn end_rest(&mut self) {}
}

/// A closure that is guarded.
pub struct Closure<F>(F);

/// Returns a closure as a task. While it runs, this process counts as the one that may write.
pub fn closure<F, E>(run: F) -> Closure<F>
where
    F: FnMut() -> std::result::Result<(), E>,
    E: Display,
{
    Closure(run)
}

impl<F, E> Task for Closure<F>
where
    F: FnMut() -> std::result::Result<(), E>,
    E: Display,
{
    fn run(&mut self, start: &Start<'_>) -> Result<Ended> {
        start.in_this_process()?;
        Ok(match (self.0)() {
            Ok(()) => Ended::Exited(0),
            Err(error) => Ended::Failed(error.to_string()),
        })
    }

    fn is_in_process(&self) -> bool {
        true
    }
}

/// What a task is given to start with.
pub struct Start<'s> {
    pub(super) session: &'s str,
    pub(super) family: &'s Family,
    pub(super) begun: &'s dyn Fn(Option<u32>) -> Result<()>,
}

impl Start<'_> {
    /// Returns the variables that a program gets. By the first one a guard inside it is refused, and what is left of the
    /// program is found again; by the second one its sessions on a server are known.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![(VARIABLE, self.session.to_owned()), (SESSION_NAME, session_name(self.session))]
    }

    /// Starts a program in a process group of its own: `spawn` returns the number of the group. Nobody is looked for
    /// meanwhile, so that the program is never taken for somebody else.
    ///
    /// # Errors
    /// That of `spawn`, and none of our own: once the program runs it is let run.
    pub fn group(&self, spawn: impl FnOnce() -> io::Result<u32>) -> io::Result<()> {
        let mut group = self.family.lock();
        let number = spawn()?;
        *group = Some(number);
        drop(group);
        // A record that lacks the group is complete enough: its processes are found by their variable.
        if let Err(error) = (self.begun)(Some(number)) {
            tracing::warn!(event = "record", error = %error, "the record of the guard could not be brought up to date");
        }
        Ok(())
    }

    /// Says that the task runs in this process.
    ///
    /// # Errors
    /// When that could not be recorded.
    pub fn in_this_process(&self) -> Result<()> {
        (self.begun)(None)
    }
}

/// The variable that says that a guard is at work, and which.
pub const VARIABLE: &str = "DBKEEP_GUARD";

/// The variable by which clients of PostgreSQL call their sessions.
pub const SESSION_NAME: &str = "PGAPPNAME";

/// Returns what sessions of a guarded program are called.
pub(super) fn session_name(session: &str) -> String {
    format!("dbkeep guard {session}")
}

/// The processes that belong to the task: a group, once it is started.
#[derive(Debug, Default)]
pub(super) struct Family {
    group: Mutex<Option<u32>>,
}

impl Family {
    /// Returns the group as it stays until the guard is dropped.
    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Option<u32>> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says whether a process belongs to a group, or to this process, or is gone.
pub(super) fn belongs(pid: u32, group: Option<u32>) -> bool {
    if pid == std::process::id() {
        return true;
    }
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => group.is_some() && group_in(&text) == group,
        // It has ended: what it wrote is told by the other proofs, and it has nothing open.
        Err(error) => is_gone(&error),
    }
}

fn is_gone(error: &io::Error) -> bool {
    const NO_SUCH_PROCESS: i32 = rustix::io::Errno::SRCH.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(NO_SUCH_PROCESS)
}

/// Says whether anything of a process group still runs. One that has ended and that nobody has asked about does not.
pub fn is_group_alive(group: u32) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    let mut hides = !std::path::Path::new("/proc/1").exists();
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(text) if group_in(&text) == Some(group) && !has_ended(&text) => return true,
            Ok(_) => {}
            Err(error) => hides |= !is_gone(&error),
        }
    }
    hides && takes_signals(group)
}

/// Says whether there is a process in a group that signals could be sent to, whoever may send them.
fn takes_signals(group: u32) -> bool {
    let group = i32::try_from(group).ok().and_then(rustix::process::Pid::from_raw);
    group.is_some_and(|group| match rustix::process::test_kill_process_group(group) {
        Ok(()) => true,
        Err(error) => error == rustix::io::Errno::PERM,
    })
}

/// Says whether the status of a process is that of one that has ended.
fn has_ended(status: &str) -> bool {
    let state = status.rsplit_once(')').and_then(|(_, fields)| fields.split_whitespace().next());
    matches!(state, Some("Z" | "X"))
}

/// Returns the process group in the status of a process, as the kernel writes it. Its name stands in brackets before, and
/// may hold anything.
fn group_in(status: &str) -> Option<u32> {
    let (_, fields) = status.rsplit_once(')')?;
    fields.split_whitespace().nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_that_a_shell_sees() {
        let cases = [
            (Ended::Exited(0), 0, None),
            (Ended::Exited(3), 3, Some("it exited with 3")),
            (Ended::Signalled(9), 137, Some("signal 9 ended it")),
            (
                Ended::TimedOut(Duration::from_millis(1500)),
                124,
                Some("it took longer than 1.5 s, and was ended"),
            ),
            (Ended::Failed("no such column".to_owned()), 1, Some("no such column")),
        ];
        for (ended, code, failure) in cases {
            assert_eq!((ended.exit_code(), ended.failure().as_deref()), (code, failure));
            assert_eq!(ended.is_success(), code == 0);
        }
    }

    #[test]
    fn group_is_read_behind_any_name() {
        assert_eq!(group_in("12 (sh) S 1 77 77 0"), Some(77));
        assert_eq!(group_in("12 (a) R 5 6) S 1 78 78 0"), Some(78));
        assert_eq!(group_in("12 (kthreadd) S 0 0 0 0"), Some(0));
        assert_eq!(group_in("12 sh S 1"), None);
        assert!(has_ended("12 (sh) Z 1 77 77 0") && !has_ended("12 (Z) S 1 77 77 0"));
    }

    #[test]
    fn group_lives_as_long_as_one_of_it_runs() {
        use std::os::unix::process::CommandExt;
        let mut child = std::process::Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        assert!(is_group_alive(child.id()));
        child.kill().unwrap();
        // Nobody has asked for it yet, so the system still knows it.
        while is_group_alive(child.id()) {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(!is_group_alive(child.id()));
    }

    #[test]
    fn process_belongs_to_its_group_only() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let own = u32::try_from(rustix::process::getpgrp().as_raw_nonzero().get()).unwrap();
        assert!(belongs(child.id(), Some(own)) && !belongs(child.id(), Some(own + 1)));
        assert!(!belongs(child.id(), None), "before anything was started nobody belongs to it");
        assert!(belongs(std::process::id(), None));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(belongs(child.id(), None), "one that has ended is nobody");
    }
}
