//! What is stored beside each database: what it is, and the proof.
//!
//! `/<database>/manifest.json`, format 1. Times are RFC 3339 in UTC, sizes bytes. Fields may be added; a
//! change of meaning raises the format. What is read back comes from a repository that others may write, so it
//! is bounded and never trusted further than its own snapshot.

use std::collections::BTreeMap;
use std::fmt;

use dbkeep_postgres::facts::Facts;
use dbkeep_repo::Id;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::report::{Engine, TableRows};
use crate::{Error, Result};

/// The format that is written.
pub const FORMAT: u32 = 1;

/// The name of the file.
pub const FILE: &str = "manifest.json";

/// The largest manifest, and the largest catalog of a server, that is read and so that is written: two hundred thousand
/// tables fit.
pub const LIMIT: u64 = 128 << 20;

/// Makes sure that what is written about a database can be read again.
///
/// # Errors
/// [`Error::Unsupported`] when it is too long.
pub(crate) fn ensure_readable(text: &[u8]) -> Result<()> {
    if text.len() as u64 <= LIMIT {
        return Ok(());
    }
    Err(Error::Unsupported {
        what: format!(
            "the database has so many tables that {} MiB would have to tell of them",
            text.len() >> 20
        ),
        hint: Some("back it up in several parts: `schemas` of the configuration narrows each".to_owned()),
    })
}

/// What a snapshot is, and the proof.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Manifest {
    /// The format of this document.
    pub format: u32,
    /// The version of dbkeep that wrote it.
    pub dbkeep: String,
    /// The session it belongs to.
    pub session: String,
    /// The true name of the database.
    pub database: String,
    /// Its engine.
    pub engine: Engine,
    /// What the database is, wherever it is called so.
    pub identity: Identity,
    /// Where it was, as the user said; secrets are redacted.
    pub source: String,
    /// The label of the configuration.
    pub environment: Option<String>,
    /// The moment that the image shows.
    pub moment: Timestamp,
    /// When the backup of this database began.
    pub started: Timestamp,
    /// When its last byte was stored.
    pub finished: Timestamp,
    /// Who took it.
    pub user: String,
    /// What the working directory had checked out.
    pub git: Option<Git>,
    /// What the file's header says.
    pub sqlite: Option<SqliteFacts>,
    /// What the server says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<PostgresFacts>,
    /// What is stored: the image of a file, or all rows of a PostgreSQL database together.
    pub image: ImageFacts,
    /// Tables and their rows, by name; empty when they could not be counted, which `notes` then says.
    pub tables: Vec<TableRows>,
    /// Rows of all tables.
    pub rows: u64,
    /// Whether the database was sound.
    pub integrity: Integrity,
    /// How the snapshot was taken.
    pub options: Options,
    /// New content of this snapshot, before compression.
    pub bytes_added: u64,
    /// What a person should know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What a database says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Identity {
    /// A SQLite file.
    File(FileIdentity),
    /// A database of a PostgreSQL server.
    Server(ServerIdentity),
}

/// Which file a SQLite database is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FileIdentity {
    /// The host of the file.
    pub host: String,
    /// Its path without symbolic links.
    pub path: String,
    /// The file system.
    pub device: u64,
    /// The file within it.
    pub inode: u64,
}

/// Which database of which server a PostgreSQL database is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServerIdentity {
    /// The host and the port of the server, or the folder of its socket.
    pub server: String,
    /// The number that the server was given when it was made; unknown where it does not say.
    pub system: Option<String>,
    /// The name of the database.
    pub database: String,
    /// Its number.
    pub oid: u32,
}

impl Identity {
    /// Returns which database a file of a host is.
    pub(crate) fn of_file(host: &str, file: &dbkeep_sqlite::identify::Identity) -> Self {
        Self::File(FileIdentity {
            host: host.to_owned(),
            path: file.path.to_string_lossy().into_owned(),
            device: file.device,
            inode: file.inode,
        })
    }

    /// Says whether this is the same database as `other`.
    ///
    /// Of a file two of host, path and file must agree: one that was replaced by a restore keeps its path, one that was
    /// moved keeps its inode, and a container that was made anew has another host name. On a server the name and either
    /// the server's number or its address must agree, or else both numbers, as after a renaming.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::File(one), Self::File(other)) => {
                let host = one.host == other.host;
                let path = one.path == other.path;
                let file = one.device == other.device && one.inode == other.inode;
                usize::from(host) + usize::from(path) + usize::from(file) >= 2
            }
            (Self::Server(one), Self::Server(other)) => {
                let system = one.system.is_some() && one.system == other.system;
                let server = one.server == other.server;
                let name = one.database == other.database;
                name && (system || server) || system && one.oid == other.oid
            }
            _ => false,
        }
    }

    /// Returns the host, or where the server is.
    pub fn host(&self) -> &str {
        match self {
            Self::File(file) => &file.host,
            Self::Server(server) => &server.server,
        }
    }

    /// Returns which file it is, for a SQLite database.
    pub fn file(&self) -> Option<&FileIdentity> {
        match self {
            Self::File(file) => Some(file),
            Self::Server(_) => None,
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (what, place) = match self {
            Self::File(file) => (&file.path, &file.host),
            Self::Server(server) => (&server.database, &server.server),
        };
        write!(out, "{} on {}", crate::name::printable(what), crate::name::printable(place))
    }
}

/// What the working directory had checked out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Git {
    /// The branch; `None` when no branch was checked out.
    pub branch: Option<String>,
    /// The commit; `None` before the first one.
    pub commit: Option<String>,
}

/// What the header of a SQLite file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SqliteFacts {
    /// Bytes a page.
    pub page_size: u32,
    /// How many pages the image has.
    pub page_count: u64,
    /// Bytes at the end of each page that SQLite leaves alone.
    #[serde(default)]
    pub reserved: u8,
    /// `utf-8`, `utf-16le` or `utf-16be`.
    pub encoding: String,
    /// `wal` or `rollback`.
    pub journal: String,
    /// The application's own mark.
    pub application_id: i32,
    /// The application's own version.
    pub user_version: i32,
    /// The SQLite that wrote last, as `3.45.1`.
    pub written_by: String,
}

/// What a PostgreSQL server says of a database, and the proof of its tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PostgresFacts {
    /// The server, the database and the user.
    pub server: Facts,
    /// The version of `pg_dump` that wrote the archive of its objects.
    pub tools: String,
    /// The SHA-256 of those objects as SQL text, without what is different in each rendering.
    pub objects: Id,
    /// Every table whose rows are stored, as the catalog beside the manifest has them.
    pub tables: Vec<TableProof>,
    /// Large objects: what they hold and whose they are, each as rows of a table; none where there are none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub large_objects: Vec<TableProof>,
    /// What of the database is not in the snapshot, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_covered: Vec<String>,
    /// What of the database was asked for.
    #[serde(default, skip_serializing_if = "Selection::is_everything")]
    pub selection: Selection,
}

/// The part of a database that was asked for, by names as people write them; everything when all lists are empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Selection {
    /// These schemas only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schemas: Vec<String>,
    /// These tables only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<String>,
    /// Not these tables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

impl Selection {
    /// Says whether nothing of the database was left out.
    pub fn is_everything(&self) -> bool {
        self.schemas.is_empty() && self.tables.is_empty() && self.exclude.is_empty()
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (what, names) in [("schemas", &self.schemas), ("tables", &self.tables)] {
            if !names.is_empty() {
                parts.push(format!("{what} {}", some_of(names)));
            }
        }
        if parts.is_empty() {
            parts.push("everything".to_owned());
        }
        if !self.exclude.is_empty() {
            parts.push(format!("without {}", some_of(&self.exclude)));
        }
        formatter.write_str(&parts.join(", "))
    }
}

/// Names the first few.
fn some_of(names: &[String]) -> String {
    const TOLD: usize = 5;
    let told = names.iter().take(TOLD).cloned().collect::<Vec<_>>().join(", ");
    match names.len().checked_sub(TOLD) {
        Some(more @ 1..) => format!("{told} and {more} more"),
        _ => told,
    }
}

/// The proof of a table: what a restored one must come to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TableProof {
    /// Its schema.
    pub schema: String,
    /// Its name there.
    pub name: String,
    /// The file of its rows, below `data/`; a directory of parts has `.parts` behind it.
    pub file: String,
    /// How many rows.
    pub rows: u64,
    /// The sum of the hashes of all rows: 32 hexadecimal digits.
    pub hash: String,
    /// Bytes, as COPY writes rows.
    pub size: u64,
    /// About how long its chunks are, in bytes; they end where rows end.
    pub chunk_size: u32,
    /// SHA-256 over the ordered chunk ids.
    pub root: Id,
}

/// The image in the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ImageFacts {
    /// The name of the file, or of the directory of parts without `.parts`; `data` for the rows of a server.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Bytes a chunk; 0 where they are cut by content.
    pub chunk_size: u32,
    /// How many chunks.
    pub chunks: u64,
    /// How many parts; 0 when it is one file.
    pub parts: u64,
    /// SHA-256 over the ordered chunk ids; for a server over those of its objects, tables and large objects.
    pub root: Id,
    /// The plain SHA-256, where it was computed.
    pub sha256: Option<Id>,
    /// How it was read.
    pub method: String,
    /// Whether the file is a copy of bytes that SQLite could not open.
    #[serde(default)]
    pub raw: bool,
}

/// Whether a database was sound.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Integrity {
    /// What the check came to.
    pub result: IntegrityResult,
    /// How deep it went: `quick`, `full`, `none`; `rows` where every row was read and summed up, as of a server.
    pub level: String,
    /// The problems, at most a hundred.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// What an integrity check came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum IntegrityResult {
    /// It found nothing.
    Ok,
    /// It was not asked for, or could not run.
    NotRun,
    /// It found problems.
    Corrupt,
}

impl IntegrityResult {
    /// Returns the word in the tag of a snapshot.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotRun => "not-run",
            Self::Corrupt => "corrupt",
        }
    }
}

impl Integrity {
    /// Returns `ok`, `not run`, or the first problem.
    pub fn summary(&self) -> String {
        match self.result {
            IntegrityResult::Ok => "ok".to_owned(),
            IntegrityResult::NotRun => "not run".to_owned(),
            IntegrityResult::Corrupt => {
                self.problems.first().cloned().unwrap_or_else(|| "the database is damaged".to_owned())
            }
        }
    }
}

/// How a snapshot was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Options {
    /// Why.
    pub reason: String,
    /// The user's tags.
    pub tags: Vec<String>,
    /// The depth of the check that was asked for.
    pub verify: String,
    /// Whether all databases of the session show one instant.
    pub at_once: bool,
    /// The level of zstd.
    pub compression: i32,
    /// Keys of later versions.
    #[serde(flatten)]
    pub more: BTreeMap<String, serde_json::Value>,
}

impl Manifest {
    /// Returns the document, for people as well: indented, with a line end.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = serde_json::to_vec_pretty(self).expect("a manifest has string keys only");
        text.push(b'\n');
        text
    }

    /// Reads a document; `of` names it in errors.
    pub fn decode(bytes: &[u8], of: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            format: u32,
        }
        let damaged =
            |error: serde_json::Error| Error::Damaged { what: of.to_owned(), finding: error.to_string() };
        let version: Version = serde_json::from_slice(bytes).map_err(damaged)?;
        if version.format != FORMAT {
            return Err(Error::Unsupported {
                what: format!("{of} has format {}, this version reads format {FORMAT}", version.format),
                hint: Some("use a newer dbkeep; stock restic can restore the file as it is".to_owned()),
            });
        }
        serde_json::from_slice(bytes).map_err(damaged)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a manifest as a small database has it.
    pub(crate) fn sample() -> Manifest {
        Manifest {
            format: FORMAT,
            dbkeep: "0.1.0".to_owned(),
            session: "20260102_030405".to_owned(),
            database: "app".to_owned(),
            engine: Engine::Sqlite,
            identity: identity("host", "/srv/app.db", 7),
            source: "app.db".to_owned(),
            environment: None,
            moment: "2026-01-02T03:04:05Z".parse().unwrap(),
            started: "2026-01-02T03:04:05Z".parse().unwrap(),
            finished: "2026-01-02T03:04:06Z".parse().unwrap(),
            user: "ada".to_owned(),
            git: None,
            sqlite: None,
            postgres: None,
            image: ImageFacts {
                name: "app.db".to_owned(),
                size: 4096,
                chunk_size: 65536,
                chunks: 1,
                parts: 0,
                root: Id::of(b"root"),
                sha256: None,
                method: "locked image".to_owned(),
                raw: false,
            },
            tables: vec![TableRows { name: "users".to_owned(), rows: 11 }],
            rows: 11,
            integrity: Integrity { result: IntegrityResult::Ok, level: "quick".to_owned(), problems: vec![] },
            options: Options {
                reason: "manual".to_owned(),
                tags: vec![],
                verify: "quick".to_owned(),
                at_once: false,
                compression: 3,
                more: BTreeMap::new(),
            },
            bytes_added: 4096,
            notes: vec![],
        }
    }

    fn identity(host: &str, path: &str, inode: u64) -> Identity {
        let (host, path) = (host.to_owned(), path.to_owned());
        Identity::File(FileIdentity { host, path, device: 1, inode })
    }

    fn served(server: &str, system: Option<&str>, database: &str, oid: u32) -> Identity {
        let system = system.map(str::to_owned);
        Identity::Server(ServerIdentity {
            server: server.to_owned(),
            system,
            database: database.to_owned(),
            oid,
        })
    }

    #[test]
    fn database_of_a_server_is_the_same_when_name_and_server_agree() {
        let shop = served("db:5432", Some("7"), "shop", 100);
        assert!(shop.is_same(&served("db:5432", Some("7"), "shop", 200)), "replaced by a restore");
        assert!(shop.is_same(&served("pooler:6543", Some("7"), "shop", 100)), "reached in another way");
        assert!(shop.is_same(&served("db:5432", Some("8"), "shop", 100)), "a server made anew");
        assert!(shop.is_same(&served("db:5432", Some("7"), "old_shop", 100)), "renamed");
        assert!(!shop.is_same(&served("db:5432", Some("7"), "other", 101)), "another one of that server");
        assert!(!shop.is_same(&served("db2:5432", Some("8"), "shop", 100)), "another server");
        assert!(!served("a:1", None, "shop", 1).is_same(&served("b:1", None, "shop", 1)), "nothing is known");
        assert!(!shop.is_same(&identity("db:5432", "shop", 100)));
    }

    #[test]
    fn manifest_survives_writing_and_reading() {
        let manifest = sample();
        assert_eq!(Manifest::decode(&manifest.encode(), "it").unwrap(), manifest);
    }

    #[test]
    fn what_could_not_be_read_again_is_not_written() {
        let table = |number: usize| TableProof {
            schema: "public".to_owned(),
            name: format!("table_{number}"),
            file: format!("public.table_{number}.copy"),
            rows: 1_000_000,
            hash: "0".repeat(32),
            size: 100_000_000,
            chunk_size: 1536,
            root: Id::of(b"root"),
        };
        let facts = |tables: usize| PostgresFacts {
            server: Facts::default(),
            tools: "16.4".to_owned(),
            objects: Id::of(b"objects"),
            tables: (0..tables).map(table).collect(),
            large_objects: vec![],
            not_covered: vec![],
            selection: Selection::default(),
        };
        let text = |tables: usize| Manifest { postgres: Some(facts(tables)), ..sample() }.encode();
        ensure_readable(&text(200_000)).unwrap();
        let error = ensure_readable(&text(600_000)).unwrap_err();
        assert!(
            error.to_string().contains("so many tables") && error.hint().unwrap().contains("schemas"),
            "{error}"
        );
    }

    #[test]
    fn selection_names_the_first_few_of_what_was_asked_for() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut selection = Selection { exclude: names(&["public.log"]), ..Selection::default() };
        assert_eq!(selection.to_string(), "everything, without public.log");
        selection.schemas = names(&["a", "b", "c", "d", "e", "f", "g"]);
        assert_eq!(selection.to_string(), "schemas a, b, c, d, e and 2 more, without public.log");
        assert!(!selection.is_everything() && Selection::default().is_everything());
    }

    #[test]
    fn later_format_and_damage_are_told_apart() {
        let text = String::from_utf8(sample().encode()).unwrap();
        let later = text.replace("\"format\": 1", "\"format\": 2");
        let error = Manifest::decode(later.as_bytes(), "the manifest of 4f2a").unwrap_err();
        assert_eq!(error.to_string(), "the manifest of 4f2a has format 2, this version reads format 1");
        assert_eq!(Manifest::decode(&text.as_bytes()[..40], "it").unwrap_err().kind().word(), "damaged");
    }

    #[test]
    fn database_is_the_same_when_two_of_host_path_and_file_agree() {
        let app = identity("a", "/srv/app.db", 7);
        assert!(app.is_same(&identity("a", "/srv/app.db", 8)), "replaced by a restore");
        assert!(app.is_same(&identity("a", "/srv/moved.db", 7)), "moved");
        assert!(app.is_same(&identity("b", "/srv/app.db", 7)), "a container made anew");
        assert!(!app.is_same(&identity("a", "/srv/other.db", 8)), "another one of that name");
        assert!(!app.is_same(&identity("b", "/srv/app.db", 8)), "the same path on another host");
    }
}
