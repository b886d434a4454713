//! What can go wrong with a PostgreSQL database, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::conninfo::ConnInfoError;
use crate::load::Difference;
use crate::rows::RowSum;
use crate::wire::Unresolved;

/// The result of an operation on a PostgreSQL database.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the caller's own, carried through.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why an operation on a PostgreSQL database failed. No text of it holds a password.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The connection string cannot be used.
    #[error(transparent)]
    ConnInfo(#[from] ConnInfoError),
    /// No server could be reached.
    #[error("could not connect to {place}")]
    Connect {
        /// Where.
        place: String,
        /// Why not.
        source: io::Error,
    },
    /// A server did not answer in time.
    #[error("{place} did not answer within {} s", after.as_secs())]
    TimedOut {
        /// Where.
        place: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// The connection cannot be protected as it was asked for.
    #[error("no TLS connection to {place}: {what}")]
    Tls {
        /// Where.
        place: String,
        /// Why not.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A file with certificates or a key cannot be used.
    #[error("could not use {path}: {what}", path = path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// The server wants a way to log in that is not supported, or that is not as safe as was asked for.
    #[error("could not log in at {place}: {what}")]
    Login {
        /// Where.
        place: String,
        /// Why not.
        what: String,
    },
    /// The server is not of the kind that was asked for.
    #[error("{place} is not {wanted}")]
    Target {
        /// Where.
        place: String,
        /// What was asked for.
        wanted: &'static str,
    },
    /// The server says no.
    #[error(transparent)]
    Server(Box<ServerError>),
    /// The connection is gone.
    #[error("the connection to the server is lost")]
    Lost {
        /// Why.
        source: io::Error,
    },
    /// The server says something that makes no sense here.
    #[error("the server does not speak the protocol: {what}")]
    Protocol {
        /// What was not understood.
        what: String,
    },
    /// Something of the whole server is in another encoding than that of the database.
    #[error("the server has a name, a comment or a setting that is not UTF-8")]
    NotUtf8,
    /// A table is not what it was at the moment that is read: reading another moment may succeed.
    #[error("{table} {what} while it was read")]
    Changed {
        /// The table.
        table: String,
        /// What happened to it.
        what: &'static str,
    },
    /// An index does not lead to all rows of its table.
    #[error("an index of {table} leads to {read} of its {there} rows: it is damaged")]
    Index {
        /// The table.
        table: String,
        /// How many rows came by the index.
        read: u64,
        /// How many rows the table has.
        there: u64,
    },
    /// A row is longer than what a server can send at once.
    #[error("a row of {table} is longer as text than a server can send, which is 1 GiB: {source}")]
    RowTooLong {
        /// The table.
        table: String,
        /// What the server says.
        source: Box<ServerError>,
    },
    /// A table could not be locked in time.
    #[error("{table} is locked by {by} for more than {} s", after.as_secs_f32())]
    Locked {
        /// The table.
        table: String,
        /// Who is in the way.
        by: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// Somebody waited for us, and the backup made way: reading another moment may succeed.
    #[error("the backup made way for {to}")]
    Yielded {
        /// Who waited, and for what.
        to: String,
    },
    /// Some of what should be read may not be.
    #[error("{} cannot be read by {user}: {}", count(names.len()), some(names, ", "))]
    Denied {
        /// Who may not.
        user: String,
        /// What.
        names: Vec<String>,
        /// The statements that permit it.
        remedies: Vec<String>,
    },
    /// Nothing of what was asked for is there.
    #[error("{what}")]
    Nothing {
        /// What is missing.
        what: String,
    },
    /// A pooler is in the way of `pg_dump`, whose settings it would hand to others.
    #[error(
        "a pooler answers at {place}, which hands connections on between transactions: pg_dump cannot work through it"
    )]
    Pooler {
        /// Where.
        place: String,
        /// The address without it, as far as it is known.
        direct: Option<String>,
    },
    /// Connections to the same address reach different servers.
    #[error("{place} leads to several servers, which cannot show the same moment")]
    SeveralServers {
        /// Where.
        place: String,
    },
    /// The server is older than what is understood.
    #[error("the server is PostgreSQL {version}; version {oldest} and newer ones can be read")]
    TooOld {
        /// Its major version.
        version: u32,
        /// The oldest that will do.
        oldest: u32,
    },
    /// Something that is to be restored is there already.
    #[error("{what} is there already")]
    Exists {
        /// What.
        what: String,
    },
    /// A program is not there that a backup of this server takes.
    #[error("no {program} for PostgreSQL {server} was found{}", newest.map(|newest| format!(": the newest here is {newest}")).unwrap_or_default())]
    NoTools {
        /// The program: `pg_dump`, or `pg_restore` where that is missing beside it.
        program: &'static str,
        /// The major version of the server.
        server: u32,
        /// The newest that was found.
        newest: Option<u32>,
    },
    /// No programs are there that make and run a server.
    #[error("no server of PostgreSQL {server} or newer can be started here{}", newest.map(|newest| format!(": the newest programs are of version {newest}")).unwrap_or_default())]
    NoServerPrograms {
        /// The major version that is needed.
        server: u32,
        /// The newest that was found.
        newest: Option<u32>,
    },
    /// A server that is thrown away afterwards cannot be started.
    #[error("could not start a server of our own: {what}")]
    Scratch {
        /// Why not.
        what: String,
    },
    /// A server of our own has ended.
    #[error("the server of our own has ended: {said}")]
    Ended {
        /// What its log says of that.
        said: String,
    },
    /// A server of our own is gone, and there is no room for one.
    #[error("{what}; {free} bytes are free")]
    NoRoom {
        /// What was noticed of it.
        what: String,
        /// The bytes that are free where it was.
        free: u64,
    },
    /// A program of PostgreSQL failed.
    #[error("{program} failed: {what}")]
    Tool {
        /// Its name.
        program: String,
        /// What it said.
        what: String,
    },
    /// The system refuses what it takes to go on.
    #[error("could not {what}")]
    System {
        /// What was tried, as `start a thread`.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The archive of objects cannot be used.
    #[error("could not read the archive of objects: {what}")]
    Archive {
        /// Why not.
        what: String,
    },
    /// The archive of objects is of a version that is not known here.
    #[error("could not read the archive of objects: version {major}.{minor} of the format is not known")]
    UnknownArchive {
        /// The first number of the version.
        major: u8,
        /// The second one.
        minor: u8,
    },
    /// What `pg_dump` wrote is something else than an archive.
    #[error("pg_dump ended as if all was well, but what it wrote is no archive")]
    NoArchive,
    /// A program said that it was done, but not all that it wrote is there.
    #[error("{program} ended as if all was well, but what it wrote is cut off")]
    CutOff {
        /// Its name.
        program: &'static str,
    },
    /// An object cannot be made.
    #[error("could not restore {object}")]
    Object {
        /// What it is and its name.
        object: String,
        /// Why not.
        source: Box<ServerError>,
        /// What to do.
        hint: Option<String>,
    },
    /// A database like the one that was backed up cannot be made on this server.
    #[error("the server cannot make a database with {what}")]
    Locale {
        /// The encoding and the order of text.
        what: String,
        /// What the server says, where it was asked.
        source: Option<Box<ServerError>>,
    },
    /// Something is not there that it takes.
    #[error("{place} has no {}", what.join(", no "))]
    Missing {
        /// What lacks it, as `the database`.
        place: &'static str,
        /// What.
        what: Vec<String>,
    },
    /// Tables have rows that are to be filled.
    #[error("not empty: {}", tables.join(", "))]
    NotEmpty {
        /// Their names.
        tables: Vec<String>,
    },
    /// A row cannot be sent in binary form with certainty; as text it can. No restore ends by it.
    #[error("column {column} of row {row} cannot be sent in binary form: {what}")]
    Unsure {
        /// The number of the row, the first is 1.
        row: u64,
        /// The number of the column.
        column: usize,
        /// Why not.
        what: &'static str,
    },
    /// Something cannot be replaced because of what needs it.
    #[error("{what} cannot be replaced because of {}", by.join(", "))]
    Needed {
        /// What.
        what: String,
        /// What needs it.
        by: Vec<String>,
    },
    /// A table would come back open to others than it was, because of what its database gives on all new tables; none of
    /// it was kept.
    #[error("{what} would come back open to {}: the database gives them rights on new tables, and this user may not take these back", to.join(", "))]
    Open {
        /// The table, or a sequence of it.
        what: String,
        /// Who would have rights.
        to: Vec<String>,
    },
    /// What was restored is not what it should be; none of it was kept.
    #[error("table {}.{} holds {} rows after it was restored, and should hold {}{}", difference.table.schema, difference.table.name, rows(difference.found), difference.expected.rows, same(difference))]
    Differs {
        /// How.
        difference: Box<Difference>,
    },
    /// A database of that name is there already.
    #[error("there is a database {database:?} already")]
    DatabaseExists {
        /// Its name.
        database: String,
    },
    /// There is no database of that name.
    #[error("there is no database {database:?}")]
    NoDatabase {
        /// Its name.
        database: String,
    },
    /// Somebody is connected to a database that is about to be renamed or dropped.
    #[error("database {database:?} is in use: {}", sessions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    InUse {
        /// Its name.
        database: String,
        /// Who is connected, as far as the server tells.
        sessions: Vec<Session>,
    },
    /// The connection was lost in the moment when one database took the place of another, and the server cannot be asked
    /// whether it did, or is still at it.
    #[error("the connection was lost while database {staging:?} took the name {name:?}")]
    Undecided {
        /// The name that it had before.
        staging: String,
        /// The name that it should get.
        name: String,
        /// Why the server cannot be asked, or why it was left.
        source: Box<Error>,
    },
    /// Somebody asked to stop.
    #[error("stopped")]
    Stopped,
    /// The receiver of the data failed.
    #[error(transparent)]
    Receiver(BoxError),
}

/// What a server answers when it refuses.
#[derive(Clone, Debug, Default, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ServerError {
    /// Whether the connection ends by it (`FATAL`, `PANIC`) or not (`ERROR`).
    pub severity: String,
    /// The code, as `42P01`.
    pub code: String,
    /// What the server says.
    pub message: String,
    /// More of it.
    pub detail: Option<String>,
    /// What the server advises.
    pub hint: Option<String>,
    /// Where in functions it happened.
    pub context: Option<String>,
    /// The schema that it is about.
    pub schema: Option<String>,
    /// The table that it is about.
    pub table: Option<String>,
}

fn rows(sum: Option<RowSum>) -> u64 {
    sum.map_or(0, |sum| sum.rows)
}

fn same(difference: &Difference) -> &'static str {
    if rows(difference.found) == difference.expected.rows { " others" } else { "" }
}

impl Error {
    pub(crate) fn protocol(what: impl Into<String>) -> Self {
        Self::Protocol { what: what.into() }
    }

    /// Says whether it comes of a disk that is full: the server's, or one that a program writes to.
    pub fn is_of_full_disk(&self) -> bool {
        match self {
            Self::NoRoom { .. } => true,
            Self::Tool { what, .. } => says_full(what),
            Self::System { source, .. } => {
                matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
            }
            error => error.code() == Some(DISK_FULL),
        }
    }

    /// Says whether it is no answer of the server to a statement, but says that it cannot carry out any: its room, its
    /// memory, its disk, somebody who ends sessions, its own end.
    pub fn is_of_the_server(&self) -> bool {
        self.code().is_some_and(is_of_the_server)
    }

    /// Returns the code of the server, as `42P01`, when it was the server that refused.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Server(error)
            | Self::Object { source: error, .. }
            | Self::RowTooLong { source: error, .. } => Some(&error.code),
            _ => None,
        }
    }

    /// Returns what to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ConnInfo(error) => error.hint().map(str::to_owned),
            Self::Connect { source, .. } => connect_hint(source),
            Self::TimedOut { .. } => {
                Some("is the address right, and does a firewall let it through?".to_owned())
            }
            Self::Tls { hint, .. } => hint.clone(),
            Self::Server(error) => error.advice(),
            Self::Lost { .. } => Some("the log of the server says why; then start again".to_owned()),
            Self::Target { .. } => Some("`target_session_attrs` of the connection asks for it".to_owned()),
            Self::Changed { .. } => Some("start again when the migration is over".to_owned()),
            Self::Index { table, .. } => {
                Some(format!("REINDEX TABLE {table} makes its indexes anew; queries of applications miss rows, too"))
            }
            Self::RowTooLong { .. } => Some(
                "a bytea has twice its bytes as text: make the row shorter, or leave the rows of the table out with \
                 `exclude-data` and keep them in another way"
                    .to_owned(),
            ),
            Self::Locked { .. } => {
                Some("start again when that transaction is over, or wait longer for it (`lock-timeout`)".to_owned())
            }
            Self::Yielded { .. } => Some("start again when the migration is over".to_owned()),
            Self::Denied { remedies, .. } => Some(format!("an owner or a superuser permits it: {}", some(remedies, "; "))),
            Self::Pooler { direct, .. } => Some(match direct {
                Some(direct) => format!("use the address without the pooler: {direct}"),
                None => "use the address of the server itself, or of a pooler in session mode".to_owned(),
            }),
            Self::Login { what, .. } => what.contains("none is known").then(|| {
                "a snapshot keeps no password: name the database in the configuration, or give its URL, as env:NAME"
                    .to_owned()
            }),
            Self::SeveralServers { .. } => Some("use the address of one server".to_owned()),
            Self::NoTools { server, .. } => Some(format!(
                "install postgresql-client-{server} (Debian, Ubuntu) or postgresql{server} (Red Hat, Alpine), or name \
                 the folder of the programs with `pg-bin-dir`"
            )),
            Self::NoServerPrograms { server, .. } => Some(format!(
                "install postgresql-{server} (Debian, Ubuntu) or postgresql{server}-server (Red Hat), or name a server \
                 for scratch databases with --server or `[drill] server`"
            )),
            Self::Scratch { .. } | Self::Ended { .. } => {
                Some("name a server for scratch databases with --server or `[drill] server`".to_owned())
            }
            Self::Object { source, hint, .. } => hint.clone().or_else(|| source.advice()),
            Self::Locale { .. } => Some(
                "`locale -a` on the server lists what its system has, `SELECT collname FROM pg_collation` what it knows"
                    .to_owned(),
            ),
            Self::DatabaseExists { .. } => {
                Some("choose another name with --to, or go over the original with --in-place".to_owned())
            }
            Self::InUse { .. } => {
                Some("stop what uses it, or end its sessions with --force".to_owned())
            }
            Self::Undecided { staging, name, .. } => Some(format!(
                "either all of it happened or nothing: when {staging:?} is still listed by `psql -l` and nobody is \
                 connected to the server for dbkeep any more, nothing did, and {name:?} is what it was"
            )),
            Self::NoDatabase { .. } => Some("`psql -l` lists the databases of a server".to_owned()),
            Self::Archive { .. } => {
                Some("`pg_restore --list` of the newest PostgreSQL shows whether it is whole".to_owned())
            }
            Self::Missing { place: "the database", .. } => Some(
                "make that first, restore the tables that are named together with these, or restore into a new database"
                    .to_owned(),
            ),
            Self::NotEmpty { .. } => Some("--in-place replaces their rows".to_owned()),
            Self::Exists { .. } => {
                Some("--in-place replaces it in the original database; or restore into a new one".to_owned())
            }
            Self::Needed { .. } => Some(
                "drop what needs it and make it again afterwards, or restore into a new database and take over from \
                 there what is wanted"
                    .to_owned(),
            ),
            Self::Open { .. } => Some(
                "restore as a user who may do what its owner may, or with --no-owner, so that it belongs to this one"
                    .to_owned(),
            ),
            Self::Tool { what, .. } => tool_hint(what),
            Self::NotUtf8 => Some(
                "somebody gave it to a role, a tablespace or a database from a database of another encoding; `\\du+`, \
                 `\\db+`, `\\l+` and `\\drds` of psql show all: rename it, or write it anew, from that database"
                    .to_owned(),
            ),
            Self::CutOff { .. } | Self::NoRoom { .. } => Some(room_for_files()),
            Self::NoArchive => Some(
                "is it a script that prints more than the archive? `pg-bin-dir` of the configuration says which one is \
                 used, else PATH does"
                    .to_owned(),
            ),
            Self::UnknownArchive { .. } => {
                Some("a newer dbkeep may know it; `pg_restore` of the version that wrote it does".to_owned())
            }
            Self::Differs { .. } => Some("the server or what is between did this: look into its log".to_owned()),
            Self::Missing { .. }
            | Self::Certificates { .. }
            | Self::TooOld { .. }
            | Self::Nothing { .. }
            | Self::Protocol { .. }
            | Self::System { .. }
            | Self::Stopped
            | Self::Unsure { .. }
            | Self::Receiver(_) => None,
        }
    }
}

/// Returns the first of several, and how many there are more.
fn some(names: &[String], between: &str) -> String {
    const SHOWN: usize = 5;
    let first = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(between);
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => first,
        Some(more) => format!("{first}{between}and {more} more"),
    }
}

fn count(number: usize) -> String {
    if number == 1 { "one object".to_owned() } else { format!("{number} objects") }
}

/// Returns whether a code says that the server cannot carry out any statement.
pub(crate) fn is_of_the_server(code: &str) -> bool {
    matches!(code.get(..2), Some("53" | "57")) || matches!(code, "58000" | "58030" | "XX001" | "XX002")
}

/// Returns what to do when a program fails, by what it said: it is asked to speak English.
fn tool_hint(what: &str) -> Option<String> {
    if !says_full(what) {
        return None;
    }
    // It passes on what the server says.
    match ["ERROR:", "FATAL:", "PANIC:"].iter().any(|said| what.contains(said)) {
        true => Some(SERVER_IS_FULL.to_owned()),
        false => Some(room_for_files()),
    }
}

/// Says whether a program that was asked to speak English says that a disk is full.
fn says_full(text: &str) -> bool {
    ["No space left on device", "Disk quota exceeded"].iter().any(|said| text.contains(said))
}

/// How a server calls its disk being full.
const DISK_FULL: &str = "53100";
const SERVER_IS_FULL: &str = "the disk of the server is full: make room where the message says";

fn room_for_files() -> String {
    let folder = std::env::temp_dir();
    format!(
        "it is kept in {} for a moment: free some space there, or let the variable TMPDIR name another folder",
        folder.display()
    )
}

fn connect_hint(error: &io::Error) -> Option<String> {
    if error.get_ref().is_some_and(|inner| inner.is::<Unresolved>()) {
        return Some(
            "is the name of the host right, and can this machine look names up (DNS, /etc/hosts)?".to_owned(),
        );
    }
    let hint = match error.kind() {
        io::ErrorKind::ConnectionRefused => "is the server running, and does it listen there?",
        io::ErrorKind::NotFound => "no socket is there: is the server running, and is the folder right?",
        io::ErrorKind::PermissionDenied => "this user may not use the socket of the server",
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            "the network does not lead there; some hosts have an IPv6 address only"
        }
        io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::UnexpectedEof => {
            "somebody listens there and hangs up: is it PostgreSQL, and does it let this machine in?"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

/// Who is connected to a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The number of the server's process.
    pub process: i32,
    /// The role.
    pub user: String,
    /// What it calls itself.
    pub application: String,
}

impl std::fmt::Display for Session {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { process, user, application } = self;
        write!(out, "{user} (process {process}")?;
        if !application.is_empty() {
            write!(out, ", {application}")?;
        }
        write!(out, ")")
    }
}

impl ServerError {
    /// Returns what to do: what is known of the code, else what the server advises.
    fn advice(&self) -> Option<String> {
        let known = match self.code.as_str() {
            "28P01" => "the password is wrong, or the user: ~/.pgpass, PGPASSWORD or the URL says them",
            "28000" => {
                "the server does not let this user in from here: pg_hba.conf of the server says who may"
            }
            "3D000" => "`psql -l` lists the databases of a server",
            DISK_FULL => SERVER_IS_FULL,
            "53300" => "the server has no connection left: fewer jobs need fewer",
            "57P03" => "the server is starting up or shutting down: try again in a moment",
            "55P03" => "other sessions use the table: try again when they are done",
            "53200" => {
                "the server has no room for more locks: `max_locks_per_transaction` of it says how many"
            }
            "42501" => "`dbkeep doctor` lists what this user may not read",
            _ => return self.hint.clone(),
        };
        Some(known.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_disk_of_the_server_is_told_from_one_here() {
        let hint = |what: &str| Error::Tool { program: "pg_dump".to_owned(), what: what.to_owned() }.hint();
        let here = "pg_dump: error: could not write to output file: No space left on device";
        assert!(hint(here).unwrap().contains("TMPDIR"));
        let there = "pg_dump: error: query failed: ERROR:  could not write to file \"base/pgsql_tmp/1\": No space left on device";
        assert_eq!(hint(there).unwrap(), SERVER_IS_FULL);
        assert_eq!(hint("pg_dump: error: query failed"), None);
    }
}
