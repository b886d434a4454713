//! Lock files: somebody uses the repository.
//!
//! Source: restic's design document, "Locks". `program`, `machine_id` and `boot_id` are ours; restic
//! ignores them.
//!
//! The host name of our locks is not the plain one. On the host that a lock names, `restic unlock` sends
//! SIGHUP to its process to see whether it is there (`processExists` in restic's `lock_unix.go`). That
//! would end a dbkeep, or the program that it is a part of.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{FormatResult, is_zero};

/// The word that marks a lock as written by dbkeep.
pub const PROGRAM: &str = "dbkeep";

/// What follows the host name in our locks. People see it in restic's messages.
const HOST_MARK: &str = " (dbkeep)";

/// The contents of a lock file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockFile {
    /// When the lock was taken or last refreshed, by the holder's clock.
    pub time: Timestamp,
    /// Whether nobody else may use the repository.
    #[serde(default)]
    pub exclusive: bool,
    /// On which host the holder runs; see [`LockFile::host`].
    #[serde(default)]
    pub hostname: String,
    /// Under which user.
    #[serde(default)]
    pub username: String,
    /// As which process.
    #[serde(default)]
    pub pid: u32,
    /// With which user id.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// With which group id.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
    /// The program that wrote it; restic says nothing here.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program: String,
    /// The holder's machine; empty where the system does not tell. A host name may belong to several machines.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub machine_id: String,
    /// The start of that machine's kernel, which all of its containers share; empty where the system does not tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boot_id: String,
}

impl LockFile {
    /// Says whether dbkeep wrote it.
    pub fn is_ours(&self) -> bool {
        self.program == PROGRAM
    }

    /// Returns the plain name of the holder's host.
    pub fn host(&self) -> &str {
        self.hostname.strip_suffix(HOST_MARK).unwrap_or(&self.hostname)
    }

    /// Returns the host name to write into a lock of ours.
    pub fn mark_host(host: &str) -> String {
        format!("{host}{HOST_MARK}")
    }

    /// Says whether this lock and a wanted one cannot be held at once.
    pub fn conflicts_with(&self, exclusive: bool) -> bool {
        exclusive || self.exclusive
    }

    /// Returns the JSON.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always become JSON")
    }

    /// Reads the JSON.
    pub fn decode(json: &[u8]) -> FormatResult<Self> {
        Ok(serde_json::from_slice(json)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_of_restic_is_read_and_is_not_ours() {
        let json = br#"{"time":"2015-06-27T12:18:51.759239612+02:00","exclusive":false,"hostname":"kasimir",
            "username":"fd0","pid":13607,"uid":1000,"gid":100}"#;
        let lock = LockFile::decode(json).unwrap();
        assert_eq!((lock.pid, lock.uid, lock.is_ours()), (13607, 1000, false));
        assert!(lock.conflicts_with(true) && !lock.conflicts_with(false));
        let ours = LockFile { program: PROGRAM.to_owned(), exclusive: true, ..lock };
        let read = LockFile::decode(&ours.encode()).unwrap();
        assert!(read.is_ours() && read.conflicts_with(false));
    }

    #[test]
    fn host_name_is_not_the_plain_one() {
        let json = br#"{"time":"2015-06-27T12:18:51Z","hostname":"kasimir"}"#;
        let lock = LockFile::decode(json).unwrap();
        assert_eq!(lock.host(), "kasimir");
        let ours = LockFile { hostname: LockFile::mark_host("kasimir"), ..lock };
        assert_ne!(ours.hostname, "kasimir");
        assert_eq!(ours.host(), "kasimir");
    }
}
