//! Who has a database open.
//!
//! An idle connection in rollback-journal mode holds no lock at all, so having got an exclusive lock
//! proves nothing. On Linux the kernel grants a write lease on a file only when nobody else has it open;
//! where it gives none, the descriptors of all processes are looked at.

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::identify::{self, Identity, identity};
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
/// does not count. Where the kernel does not say, nobody counts as proved only where all processes
/// can be seen, which is not so in a container.
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

/// Looks for other processes that hold a lock on a database or on the index of its log. The system tells that of every
/// process of this host, also of those whose descriptors may not be looked at.
pub fn locked_by_others(identity: &Identity, passes: &dyn Fn(u32) -> bool) -> Vec<Holder> {
    let Ok(locks) = fs::read_to_string("/proc/locks") else { return Vec::new() };
    let index = identify::sibling(&identity.path, "-shm");
    let index = fs::metadata(&index).ok().map(|file| (file.dev(), file.ino()));
    let files: Vec<(u64, u64)> = index.into_iter().chain([(identity.device, identity.inode)]).collect();
    let own = std::process::id();
    let mut pids: Vec<u32> = locks.lines().filter_map(|line| locker(line, &files)).collect();
    pids.sort_unstable();
    pids.dedup();
    let others = pids.into_iter().filter(|pid| *pid != own && !passes(*pid));
    others.map(|pid| Holder { pid, name: name_of(&Path::new("/proc").join(pid.to_string())) }).collect()
}

/// Returns who holds the lock of a line of `/proc/locks`, where it is on one of these files:
/// `1: POSIX  ADVISORY  WRITE 4711 08:02:1234 0 EOF`.
fn locker(line: &str, files: &[(u64, u64)]) -> Option<u32> {
    let fields: Vec<&str> = line.split_whitespace().filter(|field| *field != "->").collect();
    let (pid, place) = (fields.get(4)?, fields.get(5)?);
    let mut parts = place.split(':');
    let major = u32::from_str_radix(parts.next()?, 16).ok()?;
    let minor = u32::from_str_radix(parts.next()?, 16).ok()?;
    let inode: u64 = parts.next()?.parse().ok()?;
    let is_it = |(device, number): &(u64, u64)| {
        // File systems without a disk of their own show one number here and another one to programs.
        let is_on_it = rustix::fs::major(*device) == 0 || *device == rustix::fs::makedev(major, minor);
        *number == inode && is_on_it
    };
    files.iter().any(is_it).then(|| pid.parse().ok())?
}

/// Says whether all processes that could open a file are among those that this one sees: that is so on the host itself,
/// and in a container for a file that the container shares with nobody.
#[must_use]
pub fn sees_all(identity: &Identity) -> bool {
    // That of the first name space for processes (PROC_PID_INIT_INO).
    const FIRST: &str = "pid:[4026531836]";
    // The magic of overlayfs, on which containers have what is theirs alone.
    const OVERLAY: u64 = 0x794c_7630;
    let is_host = fs::read_link("/proc/self/ns/pid").is_ok_and(|name| name == Path::new(FIRST));
    // Where processes of others are hidden (`hidepid`), the first one is.
    let is_open = || Path::new("/proc/1").exists();
    let is_private = || {
        let overlaid = rustix::fs::statfs("/")
            .is_ok_and(|stat| u64::try_from(stat.f_type).unwrap_or(0) & 0xffff_ffff == OVERLAY);
        overlaid && fs::metadata("/").is_ok_and(|root| root.dev() == identity.device)
    };
    is_open() && (is_host || is_private())
}

/// Says whether a process that may not be looked at may write to a file, by its user and its groups. Those of root may
/// write to every file, and do not count; nor do those of our own user, which hide themselves for another reason.
#[must_use]
pub fn may_be_written_unseen(identity: &Identity) -> bool {
    let Ok(file) = fs::metadata(&identity.path) else { return false };
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    let is_process =
        |entry: &fs::DirEntry| entry.file_name().to_str().is_some_and(|name| name.parse::<u32>().is_ok());
    let is_hidden = |entry: &fs::DirEntry| {
        fs::read_dir(entry.path().join("fd"))
            .is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    };
    let own = rustix::process::geteuid().as_raw();
    processes.flatten().filter(is_process).filter(is_hidden).any(|entry| {
        let status = fs::read_to_string(entry.path().join("status")).unwrap_or_default();
        may_write(&status, own, (file.uid(), file.gid(), file.mode()))
    })
}

/// Says the same of one process, by its status as the system writes it, and of a file by owner, group and mode.
fn may_write(status: &str, own: u32, (owner, group, mode): (u32, u32, u32)) -> bool {
    let numbers = |name: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().filter_map(|number| number.parse().ok()).collect()
    };
    let users = numbers("Uid:");
    // The effective one decides.
    let Some(user) = users.get(1).copied().filter(|user| *user != 0 && *user != own) else { return false };
    let groups = [numbers("Gid:"), numbers("Groups:")].concat();
    let by_owner = user == owner && mode & 0o200 != 0;
    let by_group = groups.contains(&group) && mode & 0o020 != 0;
    by_owner || by_group || mode & 0o002 != 0
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
    let mut complete = sees_all(identity);
    let number = |process: fs::DirEntry| process.file_name().to_str()?.parse::<u32>().ok();
    let mut pids: Vec<u32> = processes.flatten().filter_map(number).filter(|pid| *pid != own).collect();
    // Whoever passes by in a moment has most often just been started.
    pids.sort_unstable_by(|one, other| other.cmp(one));
    for pid in pids.into_iter().filter(|pid| !passes(*pid)) {
        let process = Path::new("/proc").join(pid.to_string());
        match open_in(&process.join("fd"), identity) {
            Some(true) => holders.push(Holder { pid, name: name_of(&process) }),
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
    fn lock_is_found_in_the_table_of_the_system_by_its_file() {
        let files = [(rustix::fs::makedev(8, 2), 1234), (rustix::fs::makedev(0, 40), 77)];
        let of = |line: &str| locker(line, &files);
        assert_eq!(of("1: POSIX  ADVISORY  WRITE 4711 08:02:1234 0 EOF"), Some(4711));
        assert_eq!(of("1: -> POSIX  ADVISORY  READ 12 08:02:1234 128 128"), Some(12));
        // Without a disk of its own.
        assert_eq!(of("2: OFDLCK ADVISORY  READ -1 00:1c:77 0 EOF"), None);
        assert_eq!(of("2: POSIX  ADVISORY  READ 13 00:1c:77 0 EOF"), Some(13));
        for other in [
            "1: POSIX  ADVISORY  WRITE 4711 08:03:1234 0 EOF",
            "1: POSIX  ADVISORY  WRITE 4711 08:02:123 0 EOF",
            "",
            "x",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn process_that_locks_it_is_found_without_its_descriptors() {
        let directory = tempfile::tempdir().unwrap();
        for journal in ["DELETE", "WAL"] {
            let path = directory.path().join(journal);
            let connection = Connection::open(&path).unwrap();
            connection.execute_batch(&format!("PRAGMA journal_mode = {journal}; CREATE TABLE t(a)")).unwrap();
            drop(connection);
            let identity = identity(&path).unwrap();
            assert_eq!(locked_by_others(&identity, &|_| false), []);
            let script = "import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                          c.execute('BEGIN IMMEDIATE')\nprint('locked', flush=True)\nsys.stdin.read()";
            let child = Command::new("python3")
                .args(["-c", script])
                .arg(&path)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn();
            let Ok(mut child) = child else { return eprintln!("skipped: python3 is not installed") };
            BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
            let found: Vec<u32> = locked_by_others(&identity, &|_| false).iter().map(|one| one.pid).collect();
            assert_eq!(found, [child.id()], "{journal}");
            assert_eq!(locked_by_others(&identity, &|pid| pid == child.id()), []);
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn process_of_another_user_may_write_by_the_mode_of_the_file() {
        let status = |user: u32, groups: &str| {
            format!(
                "Name:\tx\nUid:\t{user}\t{user}\t{user}\t{user}\nGid:\t50\t50\t50\t50\nGroups:\t{groups}\n"
            )
        };
        let own = 1000;
        let may = |user, groups: &str, file| may_write(&status(user, groups), own, file);
        assert!(!may(33, "", (1000, 1000, 0o644)) && !may(33, "", (1000, 1000, 0o660)));
        assert!(may(33, "7 1000 ", (1000, 1000, 0o664)) && may(33, "", (1000, 50, 0o660)));
        assert!(may(33, "", (1000, 1000, 0o666)));
        assert!(may(33, "", (33, 1000, 0o644)), "the owner is somebody else");
        assert!(!may(0, "0", (0, 0, 0o666)), "root may write to everything");
        assert!(!may(own, "", (own, own, 0o644)) && !may_write("", own, (1, 1, 0o666)));
    }

    /// Runs what a test does in a name space of its own, as in a container. Only root may make one.
    #[test]
    fn nobody_is_not_proved_in_a_container() {
        const INSIDE: &str = "DBKEEP_TEST_CONTAINED";
        if let Some(path) = std::env::var_os(INSIDE) {
            let identity = identity(Path::new(&path)).unwrap();
            assert!(!sees_all(&identity), "processes outside are not seen");
            assert!(!scan(&identity, &|_| false).1);
            // The kernel gives no lease to whoever neither owns the file nor may have one.
            assert_eq!(is_open_elsewhere(Path::new(&path)).unwrap(), Usage::Unknown);
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = database(directory.path());
        if !rustix::process::geteuid().is_root() {
            return eprintln!("skipped: not root");
        }
        std::os::unix::fs::chown(&path, Some(1000), Some(1000)).unwrap();
        let mut child = keep_open(&path);
        let name = "holders::tests::nobody_is_not_proved_in_a_container";
        let inside = Command::new("unshare")
            .args([
                "--pid",
                "--fork",
                "--mount-proc",
                "setpriv",
                "--bounding-set=-lease",
                "--inh-caps=-lease",
            ])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(INSIDE, &path)
            .output();
        child.kill().unwrap();
        child.wait().unwrap();
        let Ok(inside) = inside else { return eprintln!("skipped: unshare is not installed") };
        let told =
            String::from_utf8_lossy(&inside.stdout).into_owned() + &String::from_utf8_lossy(&inside.stderr);
        if told.contains("Operation not permitted") {
            return eprintln!("skipped: no name spaces: {told}");
        }
        assert!(inside.status.success() && told.contains("1 passed"), "{told}");
    }

    #[test]
    fn looking_cancels_no_lock_of_this_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = database(directory.path());
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch("BEGIN EXCLUSIVE").unwrap();
        assert_ne!(is_open_elsewhere(&path).unwrap(), Usage::Somebody(Vec::new()));
        let inode = format!(":{} ", std::fs::metadata(&path).unwrap().ino());
        // A list that changes while it is read may lack a line.
        let is_held = || {
            let locks = std::fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|line| line.contains(&inode) && line.contains("POSIX"))
        };
        assert!((0..100).any(|_| is_held()), "the lock is gone");
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
