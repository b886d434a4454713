//! What went wrong, as a word that programs can rely on.

use std::fmt;

/// Makes the enum, its words, and the list of all.
macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $word:literal,)*) => {
        /// What went wrong, as a word that programs can rely on.
        ///
        /// These are the `kind`s of errors in the JSON of the command line. There may be new ones in every version, so
        /// a `match` needs an arm for the others.
        ///
        /// ```
        /// use dbkeep_engine::ErrorKind;
        ///
        /// assert_eq!(ErrorKind::NoRepository.word(), "no-repository");
        /// assert_eq!(ErrorKind::of_word("no-repository"), Some(ErrorKind::NoRepository));
        /// ```
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum ErrorKind {
            $($(#[$doc])* $name,)*
        }

        impl ErrorKind {
            /// All that this version knows.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Returns the word of the JSON contract.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

kinds! {
    /// What was asked for makes no sense.
    Usage = "usage",
    /// The configuration is wrong.
    Config = "config",
    /// A file that can run commands may have been written by somebody else.
    UnsafeFile = "unsafe-file",
    /// The source is neither a configured name nor anything that is there.
    UnknownSource = "unknown-source",
    /// An environment variable that is named is not set.
    NoVariable = "no-variable",
    /// A directory has no database in it.
    NoDatabases = "no-databases",
    /// The file is no SQLite database.
    NotADatabase = "not-a-database",
    /// The name belongs to another database, or would mean two of them.
    NameTaken = "name-taken",
    /// This version does not do it.
    Unsupported = "unsupported",
    /// It would do what may not be wanted; the hint says how to insist.
    Refused = "refused",
    /// There is no such snapshot.
    NoSnapshot = "no-snapshot",
    /// What was named fits several snapshots, or several databases.
    Ambiguous = "ambiguous",
    /// What was stored, or a source, is damaged.
    Damaged = "damaged",
    /// Snapshots are stored, but it could not be noted that they were told of.
    Unacknowledged = "unacknowledged",
    /// There is no repository.
    NoRepository = "no-repository",
    /// There was a repository, and it is gone: the disk may not be mounted.
    RepositoryGone = "repository-gone",
    /// A repository was to be made where something else is.
    NotEmpty = "not-empty",
    /// The repository has a format of another version.
    Version = "version",
    /// Something in the repository belongs to another one.
    Foreign = "foreign",
    /// The repository or its storage failed in another way.
    Repository = "repository",
    /// Another process has locked it.
    Locked = "locked",
    /// Nothing gave a password, or the repository has no key at all.
    NoPassword = "no-password",
    /// The password opens none of its keys.
    WrongPassword = "wrong-password",
    /// The command that should print the password failed.
    PasswordCommand = "password-command",
    /// A file could not be read or written.
    Io = "io",
    /// It may not be read or written by this user.
    Permission = "permission",
    /// A file, a database or a table is not there.
    Missing = "missing",
    /// There is not enough room.
    NoSpace = "no-space",
    /// The target of a restore exists.
    TargetExists = "target-exists",
    /// The target of a restore is used by somebody.
    TargetInUse = "target-in-use",
    /// What was restored is not sound, so it was not put into place.
    Unsound = "unsound",
    /// The backup before a restore in place failed, so nothing was restored.
    SafetyBackup = "safety-backup",
    /// The file has no bytes in it.
    Empty = "empty",
    /// The file is encrypted, and was to be read as a database.
    Encrypted = "encrypted",
    /// Somebody held a lock for longer than was waited.
    Busy = "busy",
    /// SQLite failed in another way.
    Sqlite = "sqlite",
    /// The connection string makes no sense.
    ConnectionString = "connection-string",
    /// The server could not be reached.
    Unreachable = "unreachable",
    /// No connection that is encrypted as wanted could be made.
    Tls = "tls",
    /// The server did not let the user in.
    Login = "login",
    /// A pooler stands between, and does not pass on what is needed.
    Pooler = "pooler",
    /// `pg_dump` or `pg_restore` is missing, or too old for the server.
    NoTools = "no-tools",
    /// The connection broke.
    ConnectionLost = "connection-lost",
    /// Tables were changed under the backup, again and again.
    Changed = "changed",
    /// It took longer than its `timeout`.
    TimedOut = "timed-out",
    /// The server answered with an error.
    Server = "server",
    /// Something about PostgreSQL failed in another way.
    Postgres = "postgres",
    /// All databases failed, for different reasons.
    AllFailed = "all-failed",
    /// Some databases or copies failed, for different reasons; the others are done.
    SomeFailed = "some-failed",
    /// Some snapshots could not be copied.
    NotAllCopied = "not-all-copied",
    /// The command of a guard is not there.
    CommandNotFound = "command-not-found",
    /// The command of a guard cannot be run.
    CommandNotExecutable = "command-not-executable",
    /// The command of a guard failed.
    CommandFailed = "command-failed",
    /// The command of a guard succeeded, and what was asked afterwards does not hold.
    CheckFailed = "check-failed",
    /// It was asked to stop, and everything is sound.
    Interrupted = "interrupted",
}

impl ErrorKind {
    /// Returns the kind with this word, as reports have it; `None` for a word of another version.
    pub fn of_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.word() == word)
    }

    /// Returns what to do about an error of this kind where nothing better is known.
    pub const fn usual_hint(self) -> Option<&'static str> {
        match self {
            Self::Interrupted => Some("the store is sound; run the same command again"),
            Self::Io | Self::Permission | Self::Missing => {
                Some("check the path, and that you may read and write there")
            }
            Self::Busy | Self::Locked => {
                Some("wait until the other process is done, then run the same command again")
            }
            Self::Damaged | Self::Repository => Some("`dbkeep check --read-data` says what is affected"),
            Self::WrongPassword => Some(
                "give the right one with --password-file or DBKEEP_PASSWORD_FILE; the recovery sheet has it",
            ),
            _ => None,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.word())
    }
}

/// Returns the kind of an error of the repository.
pub(super) fn of_repository(error: &dbkeep_repo::Error) -> ErrorKind {
    use dbkeep_repo::Error as Repo;
    match error {
        Repo::NoRepository { .. } => ErrorKind::NoRepository,
        Repo::NotEmpty { .. } => ErrorKind::NotEmpty,
        Repo::Version { .. } => ErrorKind::Version,
        Repo::WrongPassword | Repo::TooManyKeys { .. } => ErrorKind::WrongPassword,
        Repo::NoKey => ErrorKind::NoPassword,
        Repo::Locked { .. } => ErrorKind::Locked,
        Repo::NoSpace { .. } => ErrorKind::NoSpace,
        Repo::Cancelled => ErrorKind::Interrupted,
        Repo::Missing { .. }
        | Repo::BlobMissing { .. }
        | Repo::Short { .. }
        | Repo::Damaged { .. }
        | Repo::KeyDamaged { .. } => ErrorKind::Damaged,
        Repo::Foreign { .. } => ErrorKind::Foreign,
        _ => ErrorKind::Repository,
    }
}

/// Returns the kind of an error of a SQLite database.
pub(super) fn of_sqlite(error: &dbkeep_sqlite::Error) -> ErrorKind {
    use dbkeep_sqlite::Error as Sqlite;
    match error {
        Sqlite::Missing { .. } => ErrorKind::Missing,
        Sqlite::NotADatabase { .. } | Sqlite::NotAFile { .. } => ErrorKind::NotADatabase,
        Sqlite::Empty { .. } | Sqlite::EmptyWithSibling { .. } => ErrorKind::Empty,
        Sqlite::Encrypted { .. } => ErrorKind::Encrypted,
        Sqlite::Permission { .. } => ErrorKind::Permission,
        Sqlite::Damaged { .. } => ErrorKind::Damaged,
        Sqlite::Busy { .. } => ErrorKind::Busy,
        Sqlite::Cancelled => ErrorKind::Interrupted,
        Sqlite::Unsupported { .. } => ErrorKind::Unsupported,
        _ => ErrorKind::Sqlite,
    }
}

/// Returns the kind of an error of a PostgreSQL database.
pub(super) fn of_postgres(error: &dbkeep_postgres::Error) -> ErrorKind {
    use dbkeep_postgres::Error as Postgres;
    match error {
        error if error.is_of_full_disk() => ErrorKind::NoSpace,
        Postgres::ConnInfo(_) => ErrorKind::ConnectionString,
        Postgres::Connect { .. } | Postgres::TimedOut { .. } | Postgres::Target { .. } => {
            ErrorKind::Unreachable
        }
        Postgres::Tls { .. } | Postgres::Certificates { .. } => ErrorKind::Tls,
        Postgres::Login { .. } => ErrorKind::Login,
        Postgres::Server(server) => match server.code.get(..2) {
            Some("28") => ErrorKind::Login,
            Some("3D") => ErrorKind::Missing,
            _ if server.code == "42501" => ErrorKind::Permission,
            _ => ErrorKind::Server,
        },
        Postgres::Lost { .. } | Postgres::Ended { .. } => ErrorKind::ConnectionLost,
        Postgres::Changed { .. } | Postgres::Yielded { .. } => ErrorKind::Changed,
        Postgres::RowTooLong { .. } => ErrorKind::Server,
        Postgres::Locked { .. } => ErrorKind::Busy,
        Postgres::Denied { .. } | Postgres::Open { .. } => ErrorKind::Permission,
        Postgres::Nothing { .. } | Postgres::NoDatabase { .. } => ErrorKind::Missing,
        Postgres::Pooler { .. } | Postgres::SeveralServers { .. } => ErrorKind::Pooler,
        Postgres::NoTools { .. } => ErrorKind::NoTools,
        Postgres::DatabaseExists { .. } => ErrorKind::TargetExists,
        Postgres::InUse { .. } => ErrorKind::TargetInUse,
        Postgres::Stopped => ErrorKind::Interrupted,
        _ => ErrorKind::Postgres,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_one_a_kind_and_lead_back() {
        let mut seen = std::collections::HashSet::new();
        for kind in ErrorKind::ALL {
            let word = kind.word();
            assert!(seen.insert(word), "{word} stands for two kinds");
            assert_eq!(ErrorKind::of_word(word), Some(*kind));
            assert_eq!(kind.to_string(), word);
            assert!(word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-'), "{word}");
        }
        assert_eq!(ErrorKind::of_word("of tomorrow"), None);
    }
}
