//! Who this process is: for locks, key files and facts.

use std::fs;
use std::sync::OnceLock;
use std::time::Duration;

use crate::Id;

/// This process, as others should know it.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) hostname: String,
    pub(crate) username: String,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The machine; empty where the system does not tell.
    pub(crate) machine_id: String,
    /// The start of its kernel; empty where the system does not tell.
    pub(crate) boot_id: String,
}

impl Process {
    /// Returns this process.
    pub(crate) fn current() -> &'static Self {
        static CURRENT: OnceLock<Process> = OnceLock::new();
        CURRENT.get_or_init(Self::look_up)
    }

    fn look_up() -> Self {
        let uid = rustix::process::getuid().as_raw();
        Self {
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            username: user_name(uid, &fs::read_to_string("/etc/passwd").unwrap_or_default()),
            pid: std::process::id(),
            uid,
            gid: rustix::process::getgid().as_raw(),
            machine_id: hashed_id("/etc/machine-id"),
            boot_id: hashed_id("/proc/sys/kernel/random/boot_id"),
        }
    }
}

/// Returns a time that only ever grows, also while the computer sleeps. It begins anew when the machine starts.
pub fn running_time() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = rustix::time::ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = rustix::time::ClockId::Monotonic;
    Duration::try_from(rustix::time::clock_gettime(clock)).unwrap_or_default()
}

/// Returns what tells one start of the machine from another; empty where the system does not tell.
pub fn boot_id() -> &'static str {
    &Process::current().boot_id
}

/// Returns the name of a user in the text of `/etc/passwd`, else the number as text.
fn user_name(uid: u32, passwd: &str) -> String {
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    name.map_or_else(|| uid.to_string(), str::to_owned)
}

/// Returns a hash over an id of the system, as the machine's is confidential; empty where there is none.
fn hashed_id(path: &str) -> String {
    match fs::read_to_string(path) {
        Ok(id) if !id.trim().is_empty() => format!("{:.32}", Id::of(format!("dbkeep\n{id}").as_bytes())),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_is_named_or_numbered() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\n#:\nann:x:1000:1000::/home/ann:/bin/sh\n";
        assert_eq!(user_name(1000, passwd), "ann");
        assert_eq!(user_name(0, passwd), "root");
        assert_eq!(user_name(77, passwd), "77");
    }

    #[test]
    fn this_process_is_known() {
        let process = Process::current();
        assert_eq!(process.pid, std::process::id());
        assert!(!process.hostname.is_empty());
    }
}
