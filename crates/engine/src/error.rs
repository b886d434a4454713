//! What can go wrong in an operation, and what to do about it.

mod kind;

use std::io;
use std::path::PathBuf;

use jiff::Timestamp;

pub use kind::ErrorKind;

/// The result of an operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for makes no sense.
    #[error("{message}")]
    Usage {
        /// What is wrong.
        message: String,
        /// What to do instead.
        hint: Option<String>,
    },
    /// The configuration is wrong.
    #[error("{}{}: {message}", file.display(), line.map(|line| format!(":{line}")).unwrap_or_default())]
    Config {
        /// The file.
        file: PathBuf,
        /// The line, where it is known; the first is 1.
        line: Option<usize>,
        /// What is wrong.
        message: String,
        /// What to do instead.
        hint: Option<String>,
    },
    /// A file of the working directory that can run commands may have been written by somebody else.
    #[error("{} is not used: {why}", file.display())]
    UnsafeFile {
        /// The file.
        file: PathBuf,
        /// Who owns it, or who can write it.
        why: String,
    },

    /// The source is neither a configured name nor a file, a directory or a URL.
    #[error("no database called {name:?} is configured, and there is no such file")]
    UnknownSource {
        /// What was asked for.
        name: String,
        /// Names that are near.
        suggestion: Option<String>,
    },
    /// The value of a variable is neither a URL nor the path of a file.
    #[error("{shown} leads to no file")]
    LeadsNowhere {
        /// The variable, as `env:NAME`; never its value.
        shown: String,
    },
    /// A directory without databases.
    #[error("no SQLite database in {}", path.display())]
    NoDatabases {
        /// The directory.
        path: PathBuf,
    },
    /// The file is there and is no SQLite database.
    #[error("{} is not a SQLite database", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
        /// What it looks like, or what to do.
        hint: Option<String>,
    },
    /// A variable that a source or a setting names is not set.
    #[error("the environment variable {name} is not set")]
    NoVariable {
        /// Its name.
        name: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Something that this version does not do.
    #[error("{what}")]
    Unsupported {
        /// What, as a sentence.
        what: String,
        /// What to do instead.
        hint: Option<String>,
    },
    /// The name belongs to another database.
    #[error("the name {name:?} belongs to another database: {known}, not {found}")]
    NameTaken {
        /// The name.
        name: String,
        /// The database that has it.
        known: String,
        /// The database that was given.
        found: String,
    },
    /// Two sources of one session have the same name.
    #[error("two databases would be called {name:?}: {first} and {second}")]
    SameName {
        /// The name.
        name: String,
        /// The first source.
        first: String,
        /// The second.
        second: String,
    },

    /// No snapshot has such an id, or none is left after narrowing.
    #[error("no snapshot {wanted}")]
    NoSnapshot {
        /// What was asked for, in words.
        wanted: String,
        /// What there is.
        hint: Option<String>,
    },
    /// The prefix of an id fits several snapshots.
    #[error("{prefix:?} fits {} snapshots: {}", candidates.len(), candidates.join(", "))]
    AmbiguousSnapshot {
        /// What was asked for.
        prefix: String,
        /// What it fits, in words.
        candidates: Vec<String>,
    },
    /// `latest` where there are several databases.
    #[error("the repository holds several databases: {}", candidates.join(", "))]
    AmbiguousDatabase {
        /// What was asked for.
        wanted: String,
        /// The databases.
        candidates: Vec<String>,
    },

    /// A repository was here, and is not.
    #[error("the repository at {location} is gone: it was last used {}", last_used.map_or_else(|| "at an unknown time".to_owned(), |time| format!("{time:.0}")))]
    RepositoryGone {
        /// Where it was.
        location: String,
        /// When this host last saw it.
        last_used: Option<Timestamp>,
        /// The names of its copies.
        copies: Vec<String>,
    },
    /// There is no repository, and this operation makes none.
    #[error("no repository at {location}")]
    NoRepository {
        /// Where.
        location: String,
    },
    /// No source of a password gave one.
    #[error("no password for the repository at {location}")]
    NoPassword {
        /// Where.
        location: String,
        /// The file that was looked for.
        key_file: Option<PathBuf>,
    },
    /// There is no file where the password should be.
    #[error("the password file {} does not exist", path.display())]
    NoPasswordFile {
        /// The file.
        path: PathBuf,
        /// What names it, as `--password-file`.
        named_by: &'static str,
    },
    /// The command that should give the password did not.
    #[error("the password command failed: {why}")]
    PasswordCommand {
        /// How it ended; never its output.
        why: String,
    },

    /// The target of a restore exists.
    #[error("{} exists", path.display())]
    TargetExists {
        /// The file.
        path: PathBuf,
    },
    /// The target of a restore is used by somebody.
    #[error("{} is in use{}", path.display(), by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default())]
    TargetInUse {
        /// The file.
        path: PathBuf,
        /// By whom, where that is known.
        by: Option<String>,
    },
    /// The operation would do what the user may not want; `--force` does it.
    #[error("{what}")]
    Refused {
        /// What speaks against it.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// What was restored is not sound, so it was not put into place.
    #[error("the restored database is not sound: {problem}")]
    Unsound {
        /// The first problem.
        problem: String,
    },
    /// The backup before a restore in place failed, so nothing was restored.
    #[error("the safety backup failed, nothing was restored")]
    SafetyBackup {
        /// Why.
        source: Box<Error>,
    },
    /// A guard failed itself after it had started its command. Its record stays.
    #[error("the guard of session {session} could not be finished")]
    GuardUnfinished {
        /// The session of its backup.
        session: String,
        /// Why.
        source: Box<Error>,
    },
    /// What the repository holds is damaged.
    #[error("{what} is damaged: {finding}")]
    Damaged {
        /// What.
        what: String,
        /// How.
        finding: String,
    },
    /// There is not enough room.
    #[error("not enough space for {}: {needed} bytes are needed, {free} are free", path.display())]
    NoSpace {
        /// What was to be written.
        path: PathBuf,
        /// The bytes it needs.
        needed: u64,
        /// The bytes there are.
        free: u64,
    },
    /// Several databases failed; each said why in the report.
    #[error("{failed} of {total} databases failed; the first: {first}")]
    AllFailed {
        /// How many failed.
        failed: usize,
        /// How many there were.
        total: usize,
        /// What the first said.
        first: String,
    },
    /// A file could not be read or written.
    #[error("could not {action} {}", path.display())]
    Io {
        /// What was done, as "read".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file that is there for a moment only could not be made, written or read.
    #[error("could not keep a temporary file in {}", folder.display())]
    Temporary {
        /// Where it is kept.
        folder: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The report of a backup has no place; the backup itself is done.
    #[error("could not write the report {}", path.display())]
    ReportUnwritten {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Snapshots are durable, and the repository could not note that the user was told of them.
    #[error("{snapshots} {} stored but could not be acknowledged", if *snapshots == 1 { "snapshot is" } else { "snapshots are" })]
    Unacknowledged {
        /// How many.
        snapshots: usize,
        /// Why.
        source: Box<Error>,
    },
    /// Something is wrong with a copy, not with the repository that is copied.
    #[error("copy {copy:?}")]
    AtCopy {
        /// What the copy is called.
        copy: String,
        /// What.
        source: Box<Error>,
    },
    /// Another process copies to the same place.
    #[error("another process of this host copies there already")]
    CopyBusy,
    /// Several snapshots could not be copied; each said why in the report.
    #[error("{failed} of {total} snapshots could not be copied; the first: {first}")]
    NotAllCopied {
        /// How many.
        failed: usize,
        /// Of how many that were to be copied.
        total: usize,
        /// What the first said.
        first: String,
    },
    /// The command of a guard could not be started.
    #[error("{program} could not be started")]
    NotStarted {
        /// Its name.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The user stopped it.
    #[error("interrupted")]
    Cancelled,

    /// The repository says no.
    #[error(transparent)]
    Repo(#[from] dbkeep_repo::Error),
    /// The database says no.
    #[error(transparent)]
    Sqlite(#[from] dbkeep_sqlite::Error),
    /// The server says no.
    #[error(transparent)]
    Postgres(#[from] dbkeep_postgres::Error),
    /// A backup took longer than its configuration allows.
    #[error("it took longer than the {} s of its `timeout`", after.as_secs())]
    TimedOut {
        /// How long that is.
        after: std::time::Duration,
    },
}

/// Returns the hint for a guard whose record stays: what to do first, and how it is finished then.
pub(crate) fn finished_by_resume(first: Option<String>) -> String {
    const RESUME: &str = "`dbkeep guard --resume` says where the databases stand, and finishes it; until then the next \
                          guard of them is refused";
    match first {
        Some(first) if first.contains("guard --resume") => first,
        Some(first) => format!("{first}; {RESUME}"),
        None => RESUME.to_owned(),
    }
}

impl Error {
    /// Returns the error of a wrong request.
    pub fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage { message: message.into(), hint: Some(hint.into()) }
    }

    /// Returns a function that makes an I/O error of what was done to a file.
    pub(crate) fn io(action: &'static str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }

    /// Makes an error of what happened to a file in the folder of temporary files.
    pub(crate) fn temporary(source: io::Error) -> Self {
        Self::Temporary { folder: std::env::temp_dir(), source }
    }

    /// Returns what went wrong, as a word that programs can rely on.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Usage { .. } => ErrorKind::Usage,
            Self::Config { .. } => ErrorKind::Config,
            Self::UnsafeFile { .. } => ErrorKind::UnsafeFile,
            Self::UnknownSource { .. } => ErrorKind::UnknownSource,
            Self::LeadsNowhere { .. } => ErrorKind::Missing,
            Self::NoDatabases { .. } => ErrorKind::NoDatabases,
            Self::NotADatabase { .. } => ErrorKind::NotADatabase,
            Self::NoVariable { .. } => ErrorKind::NoVariable,
            Self::Unsupported { .. } => ErrorKind::Unsupported,
            Self::NameTaken { .. } | Self::SameName { .. } => ErrorKind::NameTaken,
            Self::NoSnapshot { .. } => ErrorKind::NoSnapshot,
            Self::AmbiguousSnapshot { .. } | Self::AmbiguousDatabase { .. } => ErrorKind::Ambiguous,
            Self::RepositoryGone { .. } => ErrorKind::RepositoryGone,
            Self::NoRepository { .. } => ErrorKind::NoRepository,
            Self::NoPassword { .. } => ErrorKind::NoPassword,
            Self::Temporary { source, .. } if is_full(source) => ErrorKind::NoSpace,
            Self::NoPasswordFile { .. }
            | Self::ReportUnwritten { .. }
            | Self::Temporary { .. }
            | Self::Io { .. } => ErrorKind::Io,
            Self::Unacknowledged { .. } => ErrorKind::Unacknowledged,
            Self::PasswordCommand { .. } => ErrorKind::PasswordCommand,
            Self::TargetExists { .. } => ErrorKind::TargetExists,
            Self::TargetInUse { .. } => ErrorKind::TargetInUse,
            Self::Refused { .. } => ErrorKind::Refused,
            Self::Unsound { .. } => ErrorKind::Unsound,
            Self::SafetyBackup { .. } => ErrorKind::SafetyBackup,
            Self::GuardUnfinished { source, .. } => source.kind(),
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::NoSpace { .. } => ErrorKind::NoSpace,
            Self::AllFailed { .. } => ErrorKind::AllFailed,
            Self::AtCopy { source, .. } => source.kind(),
            Self::CopyBusy => ErrorKind::Locked,
            Self::NotAllCopied { .. } => ErrorKind::NotAllCopied,
            Self::NotStarted { source, .. } => match source.kind() {
                io::ErrorKind::NotFound => ErrorKind::CommandNotFound,
                _ => ErrorKind::CommandNotExecutable,
            },
            Self::Cancelled => ErrorKind::Interrupted,
            Self::Repo(error) => kind::of_repository(error),
            Self::Sqlite(error) => kind::of_sqlite(error),
            Self::Postgres(error) => kind::of_postgres(error),
            Self::TimedOut { .. } => ErrorKind::TimedOut,
        }
    }

    /// Returns what the process exits with when this ends it.
    pub fn exit_code(&self) -> u8 {
        match self.kind() {
            ErrorKind::Usage
            | ErrorKind::Config
            | ErrorKind::UnsafeFile
            | ErrorKind::NameTaken
            | ErrorKind::NoVariable
            | ErrorKind::ConnectionString => 2,
            ErrorKind::Ambiguous if matches!(self, Self::AmbiguousDatabase { .. }) => 2,
            _ if matches!(self, Self::AtCopy { source, .. } if source.exit_code() == 2) => 2,
            ErrorKind::NoRepository | ErrorKind::RepositoryGone => 10,
            ErrorKind::Locked => 11,
            ErrorKind::NoPassword | ErrorKind::WrongPassword | ErrorKind::PasswordCommand => 12,
            ErrorKind::Interrupted => 130,
            _ => 1,
        }
    }

    /// Returns what to do about it, where we know.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. }
            | Self::Config { hint, .. }
            | Self::NotADatabase { hint, .. }
            | Self::NoVariable { hint, .. }
            | Self::Unsupported { hint, .. }
            | Self::NoSnapshot { hint, .. }
            | Self::Refused { hint, .. } => hint.clone(),
            Self::UnsafeFile { file, .. } => Some(format!(
                "it can run commands, so it must belong to you and nobody else may write it: `chmod go-w {}`, or name it with --config",
                file.display()
            )),
            Self::UnknownSource { suggestion, .. } => Some(match suggestion {
                Some(near) => format!("did you mean {near:?}?"),
                None => "give a path to a SQLite file, a directory, or a name from the configuration".to_owned(),
            }),
            Self::LeadsNowhere { .. } => Some(
                "its value is no URL that begins with postgresql:// or sqlite:, and no path of a file that is there; \
                 it is not shown, because it may be a secret"
                    .to_owned(),
            ),
            Self::NoDatabases { .. } => Some("files are recognised by content, not by suffix".to_owned()),
            Self::NameTaken { .. } => Some(
                "give this database a name of its own with --name; if it is the same one in a new place, add --adopt-name"
                    .to_owned(),
            ),
            Self::SameName { .. } => {
                Some("back them up one by one with --name, or name them in the configuration".to_owned())
            }
            Self::AmbiguousSnapshot { .. } => Some("give more digits of the id".to_owned()),
            Self::AmbiguousDatabase { candidates, .. } => {
                candidates.first().map(|first| format!("add --database, as in --database {first}"))
            }
            Self::RepositoryGone { copies, .. } => Some(format!(
                "is the disk mounted? Nothing was made there. {}`dbkeep init` makes a new repository if the old one is really gone",
                match copies.as_slice() {
                    [] => String::new(),
                    names => format!("`dbkeep restore` reads its copies meanwhile ({}). ", names.join(", ")),
                }
            )),
            Self::NoRepository { .. } => {
                Some("name the right place with --repo, or make a repository with `dbkeep init`".to_owned())
            }
            Self::NoPassword { key_file, .. } => Some(match key_file {
                Some(file) => format!(
                    "set DBKEEP_PASSWORD_FILE, give --password-file, or bring the key file back to {}",
                    file.display()
                ),
                None => "set DBKEEP_PASSWORD_FILE, give --password-file, or let a new repository make its own key with --new-key"
                    .to_owned(),
            }),
            Self::NoPasswordFile { named_by, .. } => Some(format!(
                "{named_by} names it: correct the path, mount the disk it is on, or write the password of the recovery sheet into it"
            )),
            Self::PasswordCommand { .. } => Some("run the `password-command` of the configuration by hand".to_owned()),
            Self::TargetExists { .. } => Some(
                "give another path with --to, or go back into the original place with --in-place".to_owned(),
            ),
            Self::TargetInUse { .. } => {
                Some("stop what uses it, or restore to a new path with --to".to_owned())
            }
            Self::Unsound { .. } => Some("the target is as it was; try an older snapshot".to_owned()),
            Self::SafetyBackup { .. } => {
                Some("the target is as it was; --no-safety-backup restores without one".to_owned())
            }
            Self::GuardUnfinished { source, .. } => Some(finished_by_resume(source.hint())),
            Self::Damaged { .. } => Some("run `dbkeep check --read-data` to see what is affected".to_owned()),
            Self::NoSpace { .. } => Some("free some space, or choose another place".to_owned()),
            Self::AtCopy { copy, source } => match source.kind() {
                ErrorKind::WrongPassword => Some(format!(
                    "the copy {copy:?} was made with another password than is used now: name its own as `password-file` of that copy in the configuration, or with --to-password-file"
                )),
                ErrorKind::NameTaken => Some(format!(
                    "copy to a place of its own, or back it up under another name with --name; if it is the same one in a new place, `dbkeep copy --to {copy} --adopt-name`"
                )),
                ErrorKind::RepositoryGone => Some(
                    "is the disk mounted? Nothing was made there; the next backup or `dbkeep copy` catches up. If the copy is really gone, `dbkeep init --repo` makes a new one in its place"
                        .to_owned(),
                ),
                _ => source.hint(),
            },
            Self::CopyBusy => Some("wait until it is done; what it has not copied, the next copy does".to_owned()),
            Self::NotAllCopied { .. } => Some(
                "`dbkeep check --read-data` tells what is damaged; one that cannot be saved any more is dropped with `dbkeep forget`"
                    .to_owned(),
            ),
            Self::NotStarted { source, .. } => Some(match source.kind() {
                io::ErrorKind::NotFound => {
                    "check how it is spelled; a command line for a shell is given as `sh -c '…'`".to_owned()
                }
                _ => "make it executable with `chmod +x`, and begin a script with `#!/bin/sh` or the like".to_owned(),
            }),
            Self::AllFailed { .. } | Self::Cancelled => None,
            Self::Io { source, .. } => io_hint(source),
            Self::Temporary { source, .. } => temporary_hint(source),
            Self::ReportUnwritten { .. } => Some(
                "only the report is missing: what the backup stored is safe, and was printed; --report needs a file in a directory that can be written"
                    .to_owned(),
            ),
            Self::Unacknowledged { .. } => Some(
                "they can be restored, but `check` would not notice if they vanished; make the repository writable and back up again"
                    .to_owned(),
            ),
            Self::Repo(error) => error.hint(),
            Self::Sqlite(error) => error.hint(),
            Self::Postgres(error) => error.hint(),
            Self::TimedOut { .. } => {
                Some("nothing of it was kept; raise `timeout`, or leave out rows with `exclude-data`".to_owned())
            }
        }
    }

    /// Returns the message with those of its causes, each once.
    pub fn full_message(&self) -> String {
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let text = error.to_string();
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = error.source();
        }
        message
    }
}

/// Says whether there was no room.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Returns what to do about an error of a temporary file that people meet.
fn temporary_hint(error: &io::Error) -> Option<String> {
    let hint = match error.kind() {
        _ if is_full(error) => "free some space there, or let the variable TMPDIR name another folder",
        io::ErrorKind::NotFound
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::PermissionDenied
        | io::ErrorKind::ReadOnlyFilesystem => {
            "let the variable TMPDIR name a folder that is there and can be written"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Returns what to do about an I/O error that people meet.
fn io_hint(error: &io::Error) -> Option<String> {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            Some("check the path; a directory has to be there before something is put into it".to_owned())
        }
        io::ErrorKind::PermissionDenied => {
            Some("check the permissions, or run as the user that owns it".to_owned())
        }
        _ if is_full(error) => Some("free some space, or choose another place".to_owned()),
        io::ErrorKind::ReadOnlyFilesystem => Some("choose a place that can be written".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folder_of_temporary_files_that_is_not_there_is_told_from_one_that_is_full() {
        let hint = |kind: io::ErrorKind| Error::temporary(kind.into()).hint();
        assert!(hint(io::ErrorKind::StorageFull).unwrap().starts_with("free some space"));
        assert!(hint(io::ErrorKind::NotFound).unwrap().contains("a folder that is there"));
        assert_eq!(hint(io::ErrorKind::InvalidInput), None);
    }
}
