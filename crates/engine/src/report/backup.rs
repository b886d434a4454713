//! What making a repository and backing up into it tell.

use std::path::PathBuf;

use dbkeep_repo::Id;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Engine, ErrorReport, TableRows};

/// What [`crate::repository::init`] made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct InitReport {
    /// Where the repository is.
    pub repository: String,
    /// What it is called inside.
    pub id: String,
    /// Where the generated key was written; `None` when a password was given.
    pub key_file: Option<PathBuf>,
    /// What `init --setup` made besides, and what it found in place.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub setup: Vec<SetupItem>,
    /// The first backup of `init --setup`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<Box<BackupReport>>,
}

/// One thing that `init --setup` took care of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SetupItem {
    /// The file or directory.
    pub path: PathBuf,
    /// Whether it was made or changed now; `false` when it was there already.
    pub made: bool,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum SessionStatus {
    /// Every database is done.
    Ok,
    /// Some failed and the others are safe, or the snapshots are there and could not be acknowledged.
    Partial,
    /// All failed.
    Failed,
}

/// What a backup session did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BackupReport {
    /// `YYYYMMDD_HHMMSS`, UTC.
    pub session: String,
    /// How it ended.
    pub status: SessionStatus,
    /// When it began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// Where the repository is.
    pub repository: String,
    /// Sums over `databases`.
    pub totals: BackupTotals,
    /// One entry a database, in the order of the sources.
    pub databases: Vec<DatabaseBackup>,
    /// One entry a configured copy.
    pub copies: Vec<CopyReport>,
    /// Nothing was written: this is what would be done.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// What a person should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Why the session failed when all of it did, that it was interrupted, that what is stored could not be
    /// acknowledged, or that only this report could not be written to its file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    /// Why the snapshots could not be acknowledged, until `error` says it.
    #[serde(skip)]
    pub(crate) unacknowledged: Option<ErrorReport>,
    /// The repository that this backup made, when it made one.
    #[serde(skip)]
    pub initialised: Option<InitReport>,
    /// Whether the recovery sheet of this repository was never shown on this host.
    #[serde(skip)]
    pub recovery_sheet_due: bool,
}

impl BackupReport {
    /// Returns what the process exits with: 0, 1 (all failed, nothing could be acknowledged, or only the report could not
    /// be written; 2, 10, 11, 12 when all failed for one such reason),
    /// 3 (some failed), 4 (a source is corrupt), 130.
    pub fn exit_code(&self) -> u8 {
        match self.status {
            _ if self.error.is_some() => self.error.as_ref().map_or(1, |error| error.exit_code),
            SessionStatus::Failed => 1,
            SessionStatus::Partial => 3,
            SessionStatus::Ok if self.copies.iter().any(|copy| copy.error.is_some()) => 3,
            SessionStatus::Ok => match self.databases.iter().any(|one| one.status == BackupStatus::Corrupt) {
                true => 4,
                false => 0,
            },
        }
    }
}

/// Sums over the databases of a session.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct BackupTotals {
    /// How many databases.
    pub databases: u64,
    /// How many of them failed.
    pub failed: u64,
    /// Rows of all tables.
    pub rows: u64,
    /// Size of all images.
    pub bytes_source: u64,
    /// What was read of the sources.
    pub bytes_read: u64,
    /// New database content, before compression.
    pub bytes_added: u64,
    /// What that takes in the repository.
    pub bytes_stored: u64,
    /// The share saved: 1 - stored / source; 0 for empty sources.
    pub ratio: f64,
}

// The only float is computed from integers and never NaN.
impl Eq for BackupTotals {}

/// How the backup of one database ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum BackupStatus {
    /// Stored.
    Ok,
    /// Stored, but the source is damaged.
    Corrupt,
    /// Not stored.
    Failed,
    /// Stored; the image is the parent's.
    Unchanged,
}

/// What a session did with one database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct DatabaseBackup {
    /// The name in the repository.
    pub name: String,
    /// Its engine.
    pub engine: Engine,
    /// Where it is; secrets are redacted.
    pub source: String,
    /// How it ended.
    pub status: BackupStatus,
    /// The new snapshot.
    pub snapshot: Option<Id>,
    /// The snapshot before it.
    pub parent: Option<Id>,
    /// Size of the image.
    pub bytes_source: u64,
    /// What was read of the source.
    pub bytes_read: u64,
    /// New content, before compression.
    pub bytes_added: u64,
    /// What that takes in the repository.
    pub bytes_stored: u64,
    /// SHA-256 over the ordered chunk ids.
    pub root: Option<Id>,
    /// The plain SHA-256 of the image, where it was computed.
    pub sha256: Option<Id>,
    /// Tables and their rows, by name.
    pub tables: Vec<TableRows>,
    /// Rows of all tables.
    pub rows: u64,
    /// `ok`, `not run`, or the first problem.
    pub integrity: String,
    /// How long it took.
    pub duration_ms: u64,
    /// Why it failed.
    pub error: Option<ErrorReport>,
    /// How the image was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// What a person should know: why a check did not run, what was not counted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What became of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CopyReport {
    /// The configured name.
    pub name: String,
    /// `ok`, `partial` (some snapshots are not there) or `failed`.
    pub status: String,
    /// Why not all is there.
    pub error: Option<ErrorReport>,
    /// How many snapshots were copied, those that earlier runs had not copied included.
    pub copied: u64,
    /// What that takes there.
    pub bytes_stored: u64,
}
