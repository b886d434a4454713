//! Who has a database open.
//!
//! An idle connection in rollback-journal mode holds no lock at all, so having got an exclusive lock
//! proves nothing. On Linux the kernel grants a write lease on a file only when nobody else has it open;
//! where it gives none, the descriptors of all processes are looked at.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::identify::{Identity, identity};
use crate::{Error, Result, raw};

/// A process that has a file open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Its number.
    pub pid: u32,
    /// Its name, as far as the system tells.
    pub name: String,
}

impl std::fmt::Display for Holder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name.as_str() {
            "" => write!(formatter, "process {}", self.pid),
            name => write!(formatter, "process {} ({name})", self.pid),
        }
    }
}

/// Whether other processes have a file open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Proved: nobody on this host.
    Nobody,
    /// Somebody; empty when who it is could not be found out.
    Somebody(Vec<Holder>),
    /// Nobody was found, but not all processes could be looked at.
    Unknown,
}

/// Finds out whether another process has the database `path` open, at this instant.
///
/// Other hosts that share a network file system are not seen. What this process itself has open
/// does not count.
pub fn is_open_elsewhere(path: &Path) -> Result<Usage> {
    let identity = identity(path)?;
    let lease = try_lease(&identity)?;
    if lease == Some(true) {
        return Ok(Usage::Nobody);
    }
    let (holders, complete) = scan(&identity, &|_| false);
    Ok(match (holders.is_empty(), lease) {
        (false, _) | (true, Some(false)) => Usage::Somebody(holders),
        (true, None) if complete => Usage::Nobody,
        (true, _) => Usage::Unknown,
    })
}

/// Looks for other processes that have a file open, without opening it: `passes` says which of them do not count, and is
/// asked before a process is looked at. The second value says whether all could be looked at.
pub fn open_in_others(identity: &Identity, passes: &dyn Fn(u32) -> bool) -> (Vec<Holder>, bool) {
    scan(identity, passes)
}

/// Returns who has the file open, as `process 4711 (app)`, for an error about its locks.
pub(crate) fn describe(path: &Path) -> String {
    let holders = identity(path).map(|identity| scan(&identity, &|_| false).0).unwrap_or_default();
    match holders.as_slice() {
        [] => "another process".into(),
        [holder] => holder.to_string(),
        [first, rest @ ..] => format!("{first} or one of {} others", rest.len()),
    }
}

/// Asks for a write lease and gives it back: `Some(true)` when nobody else has the file open,
/// `Some(false)` when somebody has, `None` when the kernel does not say.
#[cfg(target_os = "linux")]
fn try_lease(identity: &Identity) -> Result<Option<bool>> {
    // A descriptor is needed, and closing it cancels what locks this process has on the file. So none
    // may be open here, and the gate keeps our other threads from taking one meanwhile.
    let _gate = raw::while_closing();
    if open_in(Path::new("/proc/self/fd"), identity) != Some(false) {
        return Ok(None);
    }
    let path = &identity.path;
    let file = File::open(path).map_err(|source| Error::io("open", path, source))?;
    let metadata = file.metadata().map_err(|source| Error::io("look at", path, source))?;
    if (metadata.dev(), metadata.ino()) != (identity.device, identity.inode) {
        return Err(Error::Replaced { path: path.clone() });
    }
    Ok(lease(&file))
}

#[cfg(not(target_os = "linux"))]
fn try_lease(_: &Identity) -> Result<Option<bool>> {
    Ok(None)
}

/// `F_SETSIG` of Linux (fcntl(2)), which `libc` does not name.
#[cfg(target_os = "linux")]
const SET_SIGNAL: libc::c_int = 10;

#[cfg(target_os = "linux")]
fn lease(file: &File) -> Option<bool> {
    let descriptor = file.as_raw_fd();
    // SAFETY: these commands of fcntl take one number and touch no memory of ours; the descriptor is open.
    let command = |command, argument: libc::c_int| unsafe { libc::fcntl(descriptor, command, argument) };
    // Whoever opens the file while we hold the lease makes the kernel send a signal, by default one
    // that would end this process. This one is ignored by default.
    if command(SET_SIGNAL, libc::SIGURG) != 0 {
        return None;
    }
    if command(libc::F_SETLEASE, libc::F_WRLCK) == 0 {
        command(libc::F_SETLEASE, libc::F_UNLCK);
        return Some(true);
    }
    match std::io::Error::last_os_error().raw_os_error() {
        Some(libc::EAGAIN) => Some(false),
        _ => None,
    }
}

/// Looks for other processes that have the file open; the second value says whether all were seen.
fn scan(identity: &Identity, passes: &dyn Fn(u32) -> bool) -> (Vec<Holder>, bool) {
    let Ok(processes) = fs::read_dir("/proc") else { return (Vec::new(), false) };
    let own = std::process::id();
    let mut holders = Vec::new();
    let mut complete = true;
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == own || passes(pid) {
            continue;
        }
        match open_in(&process.path().join("fd"), identity) {
            Some(true) => holders.push(Holder { pid, name: name_of(&process.path()) }),
            Some(false) => {}
            None => complete = false,
        }
    }
    (holders, complete)
}

fn name_of(process: &Path) -> String {
    fs::read_to_string(process.join("comm")).unwrap_or_default().trim().to_string()
}

/// Says whether the file is among the descriptors listed in `folder`; `None` when it may not be read.
fn open_in(folder: &Path, identity: &Identity) -> Option<bool> {
    let descriptors = match fs::read_dir(folder) {
        Ok(descriptors) => descriptors,
        // The process has ended meanwhile.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some(false),
        Err(_) => return None,
    };
    // Following the link asks for the open file itself, without opening it again.
    let is_it = |path: &Path| {
        fs::metadata(path).is_ok_and(|file| (file.dev(), file.ino()) == (identity.device, identity.inode))
    };
    Some(descriptors.flatten().any(|descriptor| is_it(&descriptor.path())))
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use rusqlite::Connection;

    use super::*;

    fn database(directory: &Path) -> std::path::PathBuf {
        let path = directory.join("app.db");
        Connection::open(&path).unwrap().execute_batch("CREATE TABLE t(a)").unwrap();
        path
    }

    /// A shell that keeps the file open for reading and does nothing else.
    fn keep_open(path: &Path) -> std::process::Child {
        let mut child = Command::new("sh")
            .args(["-c", "exec 3<\"$1\"; echo open; read -r _", "sh"])
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "open\n");
        child
    }

    #[test]
    fn file_nobody_has_open_is_proved_free() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(is_open_elsewhere(&database(directory.path())).unwrap(), Usage::Nobody);
    }

    #[test]
    fn process_without_any_lock_is_found_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = database(directory.path());
        let mut child = keep_open(&path);
        let Usage::Somebody(holders) = is_open_elsewhere(&path).unwrap() else { panic!("not found") };
        assert_eq!(holders, [Holder { pid: child.id(), name: "sh".into() }]);
        assert_eq!(describe(&path), format!("process {} (sh)", child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(is_open_elsewhere(&path).unwrap(), Usage::Nobody);
        assert_eq!(describe(&path), "another process");
    }

    #[test]
    fn process_that_passes_is_not_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = database(directory.path());
        let identity = identity(&path).unwrap();
        let mut child = keep_open(&path);
        let pid = child.id();
        assert_eq!(open_in_others(&identity, &|_| false).0, [Holder { pid, name: "sh".into() }]);
        assert_eq!(open_in_others(&identity, &|other| other == pid).0, []);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn looking_cancels_no_lock_of_this_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = database(directory.path());
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
        assert_ne!(is_open_elsewhere(&path).unwrap(), Usage::Somebody(Vec::new()));
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        let inode = format!(":{} ", std::fs::metadata(&path).unwrap().ino());
        assert!(locks.lines().any(|line| line.contains(&inode) && line.contains("POSIX")), "{locks}");
    }

    #[test]
    fn opening_the_file_while_it_is_looked_at_ends_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = database(directory.path());
        std::thread::scope(|scope| {
            let opener = scope.spawn(|| {
                for _ in 0..2000 {
                    let mut child = std::fs::File::open(&path).unwrap();
                    std::io::Read::read(&mut child, &mut [0; 16]).unwrap();
                }
            });
            while !opener.is_finished() {
                is_open_elsewhere(&path).unwrap();
            }
        });
    }
}
