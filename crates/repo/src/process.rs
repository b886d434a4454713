//! Who this process is: for locks, key files and facts.

use std::fs;
use std::sync::OnceLock;

use crate::Id;

/// This process, as others should know it.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    pub(crate) hostname: String,
    pub(crate) username: String,
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// The machine and its present boot; empty where the system tells neither.
    pub(crate) host_id: String,
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
            host_id: host_id(),
        }
    }
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

/// Returns a hash over the machine's id, which is confidential, and its present boot's.
fn host_id() -> String {
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    if machine.is_empty() && boot.is_empty() {
        return String::new();
    }
    format!("{:.32}", Id::of(format!("dbkeep host\n{machine}\n{boot}").as_bytes()))
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
