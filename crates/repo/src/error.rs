//! What can go wrong with a repository, and what to do about it.

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;

use crate::Id;
use crate::backend::FileKind;
use crate::format::pack::BlobKind;

/// The result of everything in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of somebody else's that passed through a repository operation.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What can go wrong with a repository.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An object that was asked for is not there.
    #[error("{} is missing", name(*.kind, .id))]
    Missing {
        /// What kind of object.
        kind: FileKind,
        /// Its name.
        id: Id,
    },
    /// No index file names a blob that something needs.
    #[error("blob {id} is in no index")]
    BlobMissing {
        /// What it holds.
        kind: BlobKind,
        /// Its name.
        id: Id,
    },
    /// An object ends before the bytes that were asked for.
    #[error("{} ends before byte {end}", name(*.kind, .id))]
    Short {
        /// What kind of object.
        kind: FileKind,
        /// Its name.
        id: Id,
        /// Where the bytes asked for would have ended.
        end: u64,
    },
    /// A folder of the repository could not be listed completely.
    #[error("could not list {what}")]
    Listing {
        /// The folder.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// Storage failed.
    #[error("could not {what}")]
    Io {
        /// What was being done to which path, as `read /backups/config`.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// The storage is full.
    #[error("no space left for {needed} bytes in {path}")]
    NoSpace {
        /// The folder that is full.
        path: PathBuf,
        /// The size of what was to be written.
        needed: u64,
        /// What the system said.
        source: io::Error,
    },
    /// An object is not what was once written.
    #[error("{} is damaged: {what}", name(*.kind, .id))]
    Damaged {
        /// What kind of object.
        kind: FileKind,
        /// Its name.
        id: Id,
        /// What is wrong with it.
        what: String,
    },
    /// A different object is stored under the name already.
    #[error("another {} is there already", name(*.kind, .id))]
    Taken {
        /// What kind of object.
        kind: FileKind,
        /// The name.
        id: Id,
    },
    /// There is no repository at the place.
    #[error("no repository at {location}")]
    NoRepository {
        /// Where.
        location: String,
    },
    /// A repository was to be made where something is already.
    #[error("{location} is not empty")]
    NotEmpty {
        /// Where.
        location: String,
    },
    /// The repository has a format version that dbkeep does not use.
    #[error("the repository has format version {found}, dbkeep needs version 2")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The place holds parts of a repository, but not one that can be opened.
    #[error("{location} is not a complete repository: {what}")]
    Foreign {
        /// Where.
        location: String,
        /// What is odd.
        what: String,
    },
    /// None of the passwords opens a key of the repository.
    #[error("wrong password")]
    WrongPassword,
    /// The repository has no key at all, or no password was given.
    #[error("no key for the repository")]
    NoKey,
    /// The password may be right; the key that it would open is damaged.
    #[error("key {id:.8} is damaged")]
    KeyDamaged {
        /// The key.
        id: Id,
    },
    /// The repository has more keys than are tried for a password.
    #[error("none of the {tried} newest of {keys} keys can be opened with the password")]
    TooManyKeys {
        /// How many were tried.
        tried: usize,
        /// How many there are.
        keys: usize,
    },
    /// The key that is used now, or the last one, was to be removed.
    #[error("key {id:.8} cannot be removed: {why}")]
    KeyNeeded {
        /// The key.
        id: Id,
        /// Why it stays.
        why: &'static str,
    },
    /// Somebody else holds a lock that does not go with the one wanted.
    #[error(
        "the repository is locked{} by {program} (process {pid} on {host}, user {user}) since {since}",
        if *exclusive { " exclusively" } else { "" }
    )]
    Locked {
        /// Whether that lock is exclusive.
        exclusive: bool,
        /// Which program wrote it.
        program: String,
        /// The process that holds it.
        pid: u32,
        /// On which host.
        host: String,
        /// Under which user.
        user: String,
        /// When the lock was written or last refreshed.
        since: Timestamp,
    },
    /// The lock of this process was removed or could not be kept alive, so others may have changed the repository.
    #[error("the lock on the repository was lost")]
    LockLost,
    /// Somebody changed the repository while that must not happen.
    #[error("the repository was changed meanwhile: {what}")]
    Changed {
        /// How.
        what: String,
    },
    /// The observer asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The operating system gave no random numbers.
    #[error("no random numbers from the system")]
    Random,
    /// A value is outside of what the format can hold.
    #[error("{what}")]
    Unsupported {
        /// What, and what the limit is.
        what: String,
    },
    /// Bytes changed in memory between reading and writing them.
    #[error("data changed in memory while it was stored: {what}")]
    Memory {
        /// Where it was noticed.
        what: String,
    },
    /// What was to be stored or restored failed on its own side.
    #[error(transparent)]
    Source(BoxError),
}

impl Error {
    /// Makes the error for storage that failed; a full disk gets its own kind.
    pub(crate) fn storage(action: &str, path: &std::path::Path, needed: u64, source: io::Error) -> Self {
        if is_full(&source) {
            let folder = path.parent().unwrap_or(path);
            return Self::NoSpace { path: folder.to_owned(), needed, source };
        }
        Self::Io { what: format!("{action} {}", path.display()), source }
    }

    /// Says whether the storage refused to be written to (read-only, or no permission).
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
            }
            _ => false,
        }
    }

    /// Returns what a person can do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Damaged { kind: FileKind::Lock, .. } => {
                "if nobody else uses the repository, remove all locks with `restic unlock --remove-all`"
            }
            Self::Missing { .. } | Self::BlobMissing { .. } | Self::Short { .. } | Self::Damaged { .. } => {
                "run `dbkeep check` to learn which snapshots are affected"
            }
            Self::Listing { .. } => "is the disk mounted, and may this user read all of the repository?",
            Self::NoSpace { .. } => "free some space or use another disk; everything stored so far is safe",
            Self::NoRepository { .. } => "make one with `dbkeep init`, or is the disk not mounted?",
            Self::NotEmpty { .. } => "choose a new or an empty folder",
            Self::Version { found: 1 } => "upgrade it with `restic migrate upgrade_repo_v2`",
            Self::Version { .. } => "it was made by a newer program: use that one, or a newer dbkeep",
            Self::Foreign { .. } => "was the repository copied completely?",
            Self::WrongPassword => "is it the password or key file of this repository?",
            Self::NoKey => {
                "give a password file with --password-file, or restore the folder `keys` from a copy"
            }
            Self::KeyDamaged { .. } => {
                "restore this file from a copy, or open the repository with another password"
            }
            Self::TooManyKeys { .. } => "remove keys that are not needed with `restic key remove`",
            Self::Locked { program, host, .. } if program == "dbkeep" => {
                return Some(format!(
                    "wait until it is done; the lock of a dbkeep that is gone ends by itself: at once on {host}, elsewhere after half an hour"
                ));
            }
            Self::Locked { .. } => "wait until it is done; if that process is gone, run `restic unlock`",
            Self::LockLost => {
                "was the computer asleep? start again; nothing that was acknowledged is affected"
            }
            Self::Changed { .. } => {
                "run the same command again, and find out who works on the repository without a lock"
            }
            Self::Memory { .. } => "the memory of this computer may be faulty: test it before trusting it",
            Self::Io { .. } if self.is_read_only() => "may this user write to the repository?",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// Returns how messages name an object; there is only one config.
fn name(kind: FileKind, id: &Id) -> String {
    match kind {
        FileKind::Config => kind.word().to_owned(),
        _ => format!("{} {id:.8}", kind.word()),
    }
}

/// Says whether the error means a full disk or an exhausted quota.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_is_told_apart_with_folder_and_size() {
        let source = io::Error::from_raw_os_error(28);
        let error = Error::storage("write", std::path::Path::new("/b/data/aa/x"), 4711, source);
        assert_eq!(error.to_string(), "no space left for 4711 bytes in /b/data/aa");
        assert!(error.hint().is_some());
    }

    #[test]
    fn objects_are_named_by_the_start_of_their_id() {
        let damaged = |kind| Error::Damaged { kind, id: Id::NULL, what: "odd".to_owned() }.to_string();
        assert_eq!(damaged(FileKind::Snapshot), "snapshot 00000000 is damaged: odd");
        assert_eq!(damaged(FileKind::Config), "config is damaged: odd");
    }

    #[test]
    fn damaged_lock_that_keeps_everybody_out_can_be_got_rid_of() {
        let damaged = |kind| Error::Damaged { kind, id: Id::NULL, what: "odd".to_owned() };
        let hint = |kind| damaged(kind).hint().unwrap();
        assert!(hint(FileKind::Lock).contains("unlock") && !hint(FileKind::Index).contains("unlock"));
    }

    #[test]
    fn lock_of_a_dbkeep_and_of_restic_get_different_hints() {
        let locked = |program: &str| Error::Locked {
            exclusive: true,
            program: program.to_owned(),
            pid: 7,
            host: "h".to_owned(),
            user: "u".to_owned(),
            since: Timestamp::UNIX_EPOCH,
        };
        assert_eq!(
            locked("restic").to_string(),
            "the repository is locked exclusively by restic (process 7 on h, user u) since 1970-01-01T00:00:00Z"
        );
        assert!(locked("restic").hint().is_some_and(|hint| hint.contains("restic unlock")));
        assert!(locked("dbkeep").hint().is_some_and(|hint| !hint.contains("unlock")));
    }
}
