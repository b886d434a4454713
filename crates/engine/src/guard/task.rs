//! What is guarded: a program, or a closure of the program that uses this library.

use std::fmt::Display;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::asleep::Asleep;
use crate::Result;

/// How long a process that is being started may be what starts it.
const START: Duration = Duration::from_millis(100);

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

    /// Ends what is left of it after [`Task::run`], when it has failed. It has ended on return, as far as that can be
    /// brought about. May be called again.
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
        start.in_this_process();
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
    /// Takes down that it has begun, and in which group.
    pub(super) begun: &'s dyn Fn(Option<u32>),
}

impl Start<'_> {
    /// Returns the variables that a program gets. By the first one a guard inside it is refused, and what is left of the
    /// program is found again; by the second one its sessions on a server are known.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![(VARIABLE, mark(self.session)), (SESSION_NAME, session_name(self.session))]
    }

    /// Starts a program in a process group of its own: `spawn` returns the number of the group. Nobody is looked for
    /// meanwhile, so that the program is never taken for somebody else. While it runs, this process should leave guarded
    /// files alone: what it does there while the program sleeps is taken for somebody else's.
    ///
    /// # Errors
    /// That of `spawn`, and none of our own: once the program runs it is let run.
    pub fn group(&self, spawn: impl FnOnce() -> io::Result<u32>) -> io::Result<()> {
        let mut group = self.family.lock();
        let number = spawn()?;
        *group = Some(number);
        drop(group);
        self.family.set_running(true);
        (self.begun)(Some(number));
        Ok(())
    }

    /// Says that the task runs in this process.
    pub fn in_this_process(&self) {
        (self.begun)(None);
    }
}

/// The variable that says that a guard is at work: its session, the number of its process, when that began as the kernel
/// counts, and where the number counts: a run of a system, and a name space in it.
pub const VARIABLE: &str = "DBKEEP_GUARD";

/// Returns what the variable holds for a command of this process.
pub(super) fn mark(session: &str) -> String {
    let own = std::process::id();
    format!("{session} {own} {} {}", began(own).unwrap_or_default(), name_space())
}

/// Returns the session in such a value.
pub(super) fn session_of(mark: &str) -> &str {
    mark.split(' ').next().unwrap_or_default()
}

/// Says whether the guard of such a value is still at work.
pub(super) fn is_at_work(mark: &str) -> bool {
    let words: Vec<&str> = mark.split(' ').skip(1).collect();
    let [process, then, space] = words[..] else { return true };
    match (process.parse(), then.parse()) {
        (Ok(process), Ok(then)) if space == name_space() => began(process) == Some(then),
        // In a container of its own, on another machine, or no value of ours: better one guard too few.
        _ => true,
    }
}

/// Returns what names the processes that this one sees by number, as `4026531836@` and the number of the system's run.
fn name_space() -> String {
    let name = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let number = name.to_str().and_then(|name| name.strip_prefix("pid:[")?.strip_suffix(']'));
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("{}@{}", number.unwrap_or_default(), boot.trim())
}

/// Returns when a process began, in ticks of the kernel; `None` when it is gone.
pub(super) fn began(process: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    let (_, fields) = status.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// Says whether a group that a guard has started is still there. Its number may be that of another one by now.
pub(super) fn is_still_there(group: u32, then: Option<u64>) -> bool {
    let is_another = matches!((began(group), then), (Some(now), Some(then)) if now != then);
    !is_another && is_group_alive(group)
}

/// The variable by which clients of PostgreSQL call their sessions.
pub const SESSION_NAME: &str = "PGAPPNAME";

/// Returns what sessions of a program are called that this process guards. Guards of other hosts, or in containers that are
/// like each other, may have begun in the same second.
pub(super) fn session_name(session: &str) -> String {
    static OWN: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(()));
    format!("dbkeep guard {session} {:016x}", *OWN)
}

/// The processes that belong to the task: a group, once it is started.
#[derive(Debug, Default)]
pub(super) struct Family {
    group: Mutex<Option<u32>>,
    is_running: AtomicBool,
}

impl Family {
    /// Returns the group as it stays until the guard is dropped.
    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Option<u32>> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that the task has begun, or has ended. In between this process leaves the databases alone.
    pub(super) fn set_running(&self, is_running: bool) {
        self.is_running.store(is_running, Ordering::SeqCst);
    }

    /// Returns whether all of it sleeps, while it runs.
    pub(super) fn asleep(&self) -> Option<Asleep> {
        let group = *self.lock();
        group.filter(|_| self.is_running.load(Ordering::SeqCst)).and_then(Asleep::of)
    }
}

/// Says whether a process belongs to a group, or to this process, or is gone.
pub(super) fn belongs(pid: u32, group: Option<u32>) -> bool {
    if pid == std::process::id() {
        return true;
    }
    match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) if group.is_some() && group_in(&text) == group => true,
        Ok(text) => {
            wait_until_started(pid, &text);
            false
        }
        // It has ended: what it wrote is told by the other proofs, and it has nothing open.
        Err(error) => is_gone(&error),
    }
}

/// Says whether a process is of a group.
pub(super) fn is_member(pid: u32, group: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|text| group_in(&text) == Some(group))
}

/// Waits while a process is one that this process is about to start: until it becomes another program it is this one, and
/// has open what we have. That takes no time; one that stays what it is, is somebody else.
fn wait_until_started(pid: u32, status: &str) {
    if parent_in(status) != Some(std::process::id()) {
        return;
    }
    let program = |process: &str| std::fs::read_link(format!("/proc/{process}/exe")).ok();
    let ours = program("self");
    let deadline = Instant::now() + START;
    while ours.is_some() && program(&pid.to_string()) == ours && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn is_gone(error: &io::Error) -> bool {
    const NO_SUCH_PROCESS: i32 = rustix::io::Errno::SRCH.raw_os_error();
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(NO_SUCH_PROCESS)
}

/// Says whether anything of a process group still runs. One that has ended and that nobody has asked about does not.
pub fn is_group_alive(group: u32) -> bool {
    let Ok(processes) = numbered(Path::new("/proc")) else { return true };
    let mut hides = !Path::new("/proc/1").exists();
    for pid in processes {
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(text) if group_in(&text) == Some(group) && !has_ended(&text) => return true,
            Ok(_) => {}
            Err(error) => hides |= !is_gone(&error),
        }
    }
    hides && takes_signals(group)
}

/// Returns the processes of a group. An error says that one could not be asked.
pub(super) fn members(group: u32) -> io::Result<Vec<u32>> {
    let mut members = Vec::new();
    for pid in numbered(Path::new("/proc"))? {
        match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(text) if group_in(&text) == Some(group) => members.push(pid),
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(members)
}

/// Returns the numbers by which entries of a folder are called, as processes in `/proc` are, and their threads.
pub(super) fn numbered(folder: &Path) -> io::Result<Vec<u32>> {
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    let entries = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    Ok(entries.into_iter().filter_map(number).collect())
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

fn parent_in(status: &str) -> Option<u32> {
    let (_, fields) = status.rsplit_once(')')?;
    fields.split_whitespace().nth(1)?.parse().ok()
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
    fn guard_in_the_variable_is_at_work_as_long_as_its_process_is_there() {
        let ours = mark("20260102_030405");
        assert_eq!(session_of(&ours), "20260102_030405");
        assert!(is_at_work(&ours) && is_at_work("20260102_030405"));
        let own = std::process::id();
        let space = name_space();
        assert!(!is_at_work(&format!("20260102_030405 {own} 1 {space}")), "another one has its number");
        assert!(
            is_at_work(&format!("20260102_030405 {own} 1 7{space}")),
            "numbers of a container are others"
        );
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(!is_at_work(&format!("20260102_030405 {} 7 {space}", child.id())));
    }

    #[test]
    fn group_lives_as_long_as_one_of_it_runs() {
        use std::os::unix::process::CommandExt;
        let mut child = std::process::Command::new("sleep").arg("60").process_group(0).spawn().unwrap();
        assert!(is_group_alive(child.id()));
        let then = began(child.id());
        assert!(then.is_some() && is_still_there(child.id(), then) && is_still_there(child.id(), None));
        assert!(!is_still_there(child.id(), Some(1)), "another group has its number");
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
