//! What can go wrong with a SQLite database, and what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// The result of an operation on a SQLite database.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the caller's own, carried through.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an operation on a SQLite database failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such file.
    #[error("no file {path}", path = path.display())]
    Missing {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The path is a directory, a socket or something else that is no regular file.
    #[error("{path} is not a regular file", path = path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
    },
    /// The file has zero bytes. SQLite takes that for a database without tables.
    #[error("{path} is empty", path = path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The main file has zero bytes, but a journal or a log lies beside it.
    #[error("{path} is empty, but {sibling} lies beside it", path = path.display(), sibling = sibling.display())]
    EmptyWithSibling {
        /// The database file.
        path: PathBuf,
        /// The file that would be lost if SQLite opened the database.
        sibling: PathBuf,
    },
    /// The contents are not those of a SQLite database.
    #[error("{path} is not a SQLite database", path = path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The contents look encrypted, as SQLCipher leaves them.
    #[error("{path} looks like an encrypted database", path = path.display())]
    Encrypted {
        /// The file.
        path: PathBuf,
    },
    /// Bytes of a database that do not follow the file format.
    #[error("damaged database: {what}")]
    Damaged {
        /// What was found, with the place.
        what: String,
    },
    /// A lock could not be had in time.
    #[error("{path} is locked by {holder}", path = path.display())]
    Busy {
        /// The database.
        path: PathBuf,
        /// Who holds the lock, as far as the system tells: `process 4711 (app)` or `another process`.
        holder: String,
    },
    /// A file could not be read or written.
    #[error("could not {action} {path}", path = path.display())]
    Io {
        /// `read`, `open`, `clone` …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// SQLite refused.
    #[error("SQLite failed on {path}: {message} (code {code})", path = path.display())]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// The extended result code of SQLite.
        code: i32,
        /// SQLite's own words.
        message: String,
    },
    /// Files of the database are there that this user must be able to read, and is not.
    #[error("no permission to read {path}", path = path.display())]
    Permission {
        /// The file that cannot be read.
        path: PathBuf,
    },
    /// An interrupted transaction has to be rolled back first, and we may not write.
    #[error("{path} was left in the middle of a transaction and cannot be written", path = path.display())]
    HotJournal {
        /// The database.
        path: PathBuf,
    },
    /// The file was replaced by another one while it was open.
    #[error("{path} was replaced by another file while it was being read", path = path.display())]
    Replaced {
        /// The database.
        path: PathBuf,
    },
    /// The file changed while it was read, in a way that no lock prevents.
    #[error("{path} changed while it was being read", path = path.display())]
    Changed {
        /// The database.
        path: PathBuf,
    },
    /// The write-ahead log does not hold what the read transaction promised.
    #[error("the write-ahead log of {path} does not match its index: {what}", path = path.display())]
    WalMismatch {
        /// The database.
        path: PathBuf,
        /// The first thing that did not fit.
        what: String,
        /// It is the very log that the index is of, so some of its bytes are not those that were committed.
        is_damage: bool,
    },
    /// The log grew too much while a capture kept it from beginning anew.
    #[error("the write-ahead log of {path}{others} grew by {by} bytes while it was being read, more than {limit}", path = path.display(), others = held_with(*others))]
    LogGrew {
        /// The database.
        path: PathBuf,
        /// How many more are held at the same instant on the same disk, whose growth counts too.
        others: usize,
        /// By how many bytes.
        by: u64,
        /// How many were allowed.
        limit: u64,
    },
    /// Something that exists but that dbkeep does not handle.
    #[error("{path}: {what}", path = path.display())]
    Unsupported {
        /// The database.
        path: PathBuf,
        /// What is not supported.
        what: String,
        /// What to do instead.
        hint: Option<String>,
    },
    /// The caller asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The consumer of the data failed.
    #[error("{0}")]
    Consumer(#[source] BoxError),
    /// A restore in place cannot change the size of a database's pages.
    #[error("{path} has pages of {target} bytes, the image pages of {image}", path = path.display())]
    PageSizeDiffers {
        /// The database to be restored.
        path: PathBuf,
        /// Its bytes in a page.
        target: u32,
        /// The image's bytes in a page.
        image: u32,
    },
    /// What was written is not what is read back; nothing was committed.
    #[error("{path} does not hold what was just written: {what}", path = path.display())]
    ReadBack {
        /// The database that was being restored.
        path: PathBuf,
        /// Where the difference is.
        what: String,
    },
    /// The image has no such table.
    #[error("no table {name} in the image")]
    NoSuchTable {
        /// The name that was asked for.
        name: String,
        /// Tables with similar names.
        candidates: Vec<String>,
    },
    /// The name is that of something whose rows cannot be taken out.
    #[error("{name} is {what}")]
    NotATable {
        /// The name that was asked for.
        name: String,
        /// `a view`, `part of the virtual table words` …
        what: String,
    },
    /// A table could not be written to its new place; nothing was changed there.
    #[error("could not restore table {table}: {message}")]
    Table {
        /// The table.
        table: String,
        /// What SQLite said.
        message: String,
    },
    /// The source of an image failed while SQLite or we read from it.
    #[error("could not read the image")]
    Source(#[source] io::Error),
}

impl Error {
    /// Returns what a person can do about it, where there is something.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Missing { .. } => "check the path; a database that was moved needs its new path".into(),
            Error::NotAFile { .. } => {
                "give the path of a database file, or of a directory that holds some".into()
            }
            Error::Empty { .. } => "an empty file holds nothing to back up; check the path".into(),
            Error::EmptyWithSibling { sibling, .. } => format!(
                "do not open it with SQLite, which would delete {}; copy both files away first",
                sibling.display()
            ),
            Error::NotADatabase { .. } => {
                "only SQLite files can be backed up; check that the path is right and the file undamaged"
                    .into()
            }
            Error::Encrypted { .. } => {
                "its bytes can be stored as they are, but not checked: the key stays with the application"
                    .into()
            }
            Error::Damaged { .. } => "restore an earlier snapshot; its contents were checked".into(),
            Error::Busy { .. } => "try again, raise the time to wait, or look whether the application uses \
                 locking_mode=EXCLUSIVE, which lets nobody else read"
                .into(),
            Error::Permission { path } => {
                format!("run as the user that owns {}, or give this user read permission", path.display())
            }
            Error::HotJournal { path } => {
                format!(
                    "open {} once with the application or with write permission, so that SQLite can roll back",
                    path.display()
                )
            }
            Error::Replaced { .. } | Error::Changed { .. } => {
                "run the backup again, at a moment when nothing replaces the file".into()
            }
            Error::WalMismatch { .. } => {
                "run the backup again; if it stays, check the database and its disk".into()
            }
            Error::LogGrew { .. } => {
                "run the backup when less is written, or make more room on the disk of the database".into()
            }
            Error::PageSizeDiffers { path, .. } => format!(
                "restore to a new file, stop the application, and put that file in the place of {} \
                 and its -wal, -shm and -journal",
                path.display()
            ),
            Error::ReadBack { .. } => {
                "nothing was changed; check the disk and its cable or driver before trying again".into()
            }
            Error::NoSuchTable { candidates, .. } if candidates.is_empty() => return None,
            Error::NoSuchTable { candidates, .. } => format!("did you mean {}?", candidates.join(", ")),
            Error::NotATable { .. } => "give the name of a table".into(),
            Error::Unsupported { hint, .. } => return hint.clone(),
            Error::Io { source, .. } => return io_hint(source),
            Error::Sqlite { .. }
            | Error::Cancelled
            | Error::Consumer(_)
            | Error::Source(_)
            | Error::Table { .. } => return None,
        };
        Some(hint)
    }

    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        match source.kind() {
            io::ErrorKind::NotFound => Error::Missing { path },
            io::ErrorKind::PermissionDenied => Error::Permission { path },
            _ => Error::Io { action, path, source },
        }
    }

    pub(crate) fn sqlite(path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_path_buf();
        match error {
            rusqlite::Error::SqliteFailure(failure, message) => {
                let message = message.unwrap_or_else(|| failure.to_string());
                Error::from_code(&path, failure.extended_code, message)
            }
            other => Error::Sqlite { path, code: 0, message: other.to_string() },
        }
    }

    pub(crate) fn from_code(path: &Path, code: i32, message: String) -> Self {
        let path = path.to_path_buf();
        match code & 0xff {
            rusqlite::ffi::SQLITE_BUSY => Error::Busy { path, holder: "another process".into() },
            rusqlite::ffi::SQLITE_NOTADB => Error::NotADatabase { path },
            rusqlite::ffi::SQLITE_CORRUPT => {
                Error::Damaged { what: format!("{}: {message}", path.display()) }
            }
            rusqlite::ffi::SQLITE_INTERRUPT => Error::Cancelled,
            rusqlite::ffi::SQLITE_FULL => {
                Error::Io { action: "write", path, source: io::ErrorKind::StorageFull.into() }
            }
            _ if code == rusqlite::ffi::SQLITE_READONLY_ROLLBACK => Error::HotJournal { path },
            _ => Error::Sqlite { path, code, message },
        }
    }

    pub(crate) fn unsupported(path: &Path, what: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Unsupported { path: path.to_path_buf(), what: what.into(), hint: Some(hint.into()) }
    }

    /// Says whether SQLite found the contents damaged, so that only a raw copy can save them.
    pub fn is_damage(&self) -> bool {
        matches!(self, Error::Damaged { .. } | Error::NotADatabase { .. })
    }
}

fn io_hint(source: &io::Error) -> Option<String> {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Some("free some space and run it again".into())
        }
        _ => None,
    }
}

/// Returns the end of a subject: the logs that were held together with it.
fn held_with(others: usize) -> String {
    match others {
        0 => String::new(),
        1 => ", with that of another database that is held at the same instant,".to_owned(),
        _ => format!(", with those of {others} other databases that are held at the same instant,"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_names_the_database_and_hints_at_exclusive_mode() {
        let error = Error::from_code(Path::new("/a/b.db"), rusqlite::ffi::SQLITE_BUSY, String::new());
        assert_eq!(error.to_string(), "/a/b.db is locked by another process");
        assert!(error.hint().unwrap().contains("locking_mode=EXCLUSIVE"));
    }

    #[test]
    fn full_disk_is_told_as_such_with_the_path() {
        let error = Error::from_code(Path::new("/a/b.db"), rusqlite::ffi::SQLITE_FULL, String::new());
        assert_eq!(error.to_string(), "could not write /a/b.db");
        assert!(error.hint().unwrap().contains("space"));
    }

    #[test]
    fn missing_file_and_missing_permission_are_told_apart() {
        let path = Path::new("/x");
        let missing = Error::io("read", path, io::Error::from(io::ErrorKind::NotFound));
        assert!(matches!(missing, Error::Missing { .. }));
        let denied = Error::io("read", path, io::Error::from(io::ErrorKind::PermissionDenied));
        assert!(matches!(denied, Error::Permission { .. }));
        let other = Error::io("read", path, io::Error::from(io::ErrorKind::StorageFull));
        assert!(other.hint().unwrap().contains("space"));
    }
}
