//! What operations tell: the values behind every table and every JSON document.
//!
//! Names and order of the fields are a contract with programs that read `--json`. Times are RFC 3339 in
//! UTC, sizes bytes, durations milliseconds.

mod backup;
mod compare;
mod copy;
mod doctor;
mod drill;
mod export;
mod forget;
mod guard;
mod restore;
mod space;

use std::path::PathBuf;

use dbkeep_repo::Id;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::manifest::Manifest;

pub use backup::{
    BackupReport, BackupStatus, BackupTotals, CopyReport, DatabaseBackup, InitReport, SessionStatus,
    SetupItem,
};
pub use compare::{
    CellValue, ColumnChange, CompareReport, ComparedSequence, ComparedSide, ComparedTable, RenamedColumn,
    RowChange, RowKind, SchemaChange, SchemaReport, SequenceValue, hex,
};
pub use copy::{CopiedSnapshot, CopiedStatus, CopyRunReport};
pub use doctor::{DoctorReport, ExaminedRepository, ExaminedSource, Finding, Health, Severity};
pub use drill::{DrillReport, DrillStatus, Drilled, TriedAssertion};
pub use export::{
    CheckedFile, DatabaseExport, ExportReport, ExportTotals, ExportedFile, FileFacts, FilesReport,
    MissingDatabase, MissingStatus,
};
pub use forget::{CopyForgetReport, ForgetReport, Forgotten, Frozen, Kept, PolicyReport, Refused};
pub use guard::{DatabaseChanges, GuardCheck, GuardOutcome, GuardReport, GuardedDatabase, GuardedStatus};
pub use restore::{RestoreOutcome, RestoreReport, RestoreStatus, SessionRestoreReport};
pub use space::{DatabaseSize, PruneReport, SizeReport};

/// An error as it stands in a report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ErrorReport {
    /// A word for programs; see [`crate::ErrorKind`].
    pub kind: String,
    /// One sentence, with its causes.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// What the process exits with when this is all there is.
    #[serde(skip)]
    pub exit_code: u8,
}

impl From<&Error> for ErrorReport {
    fn from(error: &Error) -> Self {
        Self {
            kind: error.kind().word().to_owned(),
            message: error.full_message(),
            hint: error.hint(),
            exit_code: error.exit_code(),
        }
    }
}

/// Which engine a database belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// A SQLite file.
    Sqlite,
    /// A PostgreSQL database.
    Postgres,
}

impl Engine {
    /// Returns the word in tags and reports.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
        }
    }
}

/// A table and how many rows it has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TableRows {
    /// The name.
    pub name: String,
    /// The rows.
    pub rows: u64,
}

/// The snapshots of a repository, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ListReport {
    /// One entry a snapshot.
    pub snapshots: Vec<SnapshotRow>,
}

/// One snapshot in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SnapshotRow {
    /// Its id.
    pub id: Id,
    /// The first eight digits of it.
    pub short_id: String,
    /// When it was taken.
    pub time: Timestamp,
    /// The database; `None` for a snapshot that other tools made.
    pub database: Option<String>,
    /// Its engine.
    pub engine: Option<Engine>,
    /// The session it belongs to.
    pub session: Option<String>,
    /// Why it was taken.
    pub reason: Option<String>,
    /// Tags of the user, without our own.
    pub tags: Vec<String>,
    /// The host that took it.
    pub host: String,
    /// Rows of all tables.
    pub rows: Option<u64>,
    /// How many tables.
    pub tables: Option<u64>,
    /// Size of the image.
    pub bytes_source: Option<u64>,
    /// New content of this snapshot.
    pub bytes_added: Option<u64>,
    /// `ok`, `not run`, the first problem, or `damaged` when it was found damaged later.
    pub integrity: Option<String>,
    /// When it was last proved.
    pub verified: Option<Timestamp>,
    /// When it was last restored in a drill.
    pub drilled: Option<Timestamp>,
    /// Whether it is held for good.
    pub pinned: bool,
    /// The configured copies that have it, as far as this host knows.
    pub copies: Vec<String>,
}

/// The manifest of a snapshot, and what the repository knows of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ShowReport {
    /// What was stored with it; `None` for a snapshot that other tools made.
    #[serde(flatten)]
    pub manifest: Option<Manifest>,
    /// What the repository knows.
    pub repository: RepositoryFacts,
}

/// What the repository knows of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RepositoryFacts {
    /// The snapshot.
    pub id: Id,
    /// Its tree.
    pub tree: Id,
    /// The snapshot before it.
    pub parent: Option<Id>,
    /// How many chunks the image has.
    pub chunks: u64,
    /// Its tags, ours among them.
    pub tags: Vec<String>,
    /// Its paths.
    pub paths: Vec<String>,
    /// Whether it counts as good: see [`crate::catalog::Entry::is_good`].
    pub good: bool,
    /// When it was last proved.
    pub verified: Option<Timestamp>,
    /// What was found damaged.
    pub findings: Vec<String>,
}

/// What a verification found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct VerifyReport {
    /// One entry a snapshot.
    pub checked: Vec<Verified>,
    /// How many kept their promise.
    pub ok: u64,
    /// How many did not, those that are missing included.
    pub damaged: u64,
}

impl VerifyReport {
    /// Returns what the process exits with: 0 or 4.
    pub fn exit_code(&self) -> u8 {
        if self.damaged == 0 { 0 } else { 4 }
    }
}

/// What was found of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Verified {
    /// The snapshot.
    pub snapshot: Id,
    /// Its database.
    pub database: String,
    /// What it turned out to be.
    pub status: VerifyStatus,
    /// Everything that is wrong.
    pub findings: Vec<String>,
    /// When it was taken; `None` when it is missing.
    pub time: Option<Timestamp>,
    /// `ok`, `not run`, or the first problem.
    pub integrity: String,
    /// What was read, before decryption counted as plain bytes.
    pub bytes_read: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// What could not be verified, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What a snapshot turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum VerifyStatus {
    /// It is what its manifest says.
    Ok,
    /// It is not.
    Damaged,
    /// It was acknowledged, never forgotten, and is gone.
    Missing,
}

/// What a check of the repository found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CheckReport {
    /// Nothing was found.
    pub ok: bool,
    /// How many packs there are.
    pub packs: u64,
    /// How many blobs are in them.
    pub blobs: u64,
    /// How many snapshots there are.
    pub snapshots: u64,
    /// How much data was read.
    pub bytes_read: u64,
    /// Everything that is wrong.
    pub findings: Vec<CheckFinding>,
    /// What is odd but harms nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// How long it took.
    pub duration_ms: u64,
}

impl CheckReport {
    /// Returns what the process exits with: 0 or 4.
    pub fn exit_code(&self) -> u8 {
        if self.ok { 0 } else { 4 }
    }
}

/// One thing that is wrong with the repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CheckFinding {
    /// A word for programs.
    pub kind: String,
    /// What is damaged or gone.
    pub object: String,
    /// The snapshots that need it.
    pub affects: Vec<Id>,
    /// One sentence.
    pub message: String,
    /// The databases of those snapshots.
    pub databases: Vec<String>,
}

/// What [`crate::pin::run`] did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PinReport {
    /// The snapshot.
    pub snapshot: Id,
    /// The moment of its contents.
    pub time: Timestamp,
    /// Its database; `None` when another tool made it.
    pub database: Option<String>,
    /// Whether it is held now.
    pub pinned: bool,
    /// Whether it was not so before.
    pub changed: bool,
}

/// Everything on one screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct StatusReport {
    /// Where the repository is.
    pub repository: String,
    /// What it is called inside.
    pub id: String,
    /// One entry a database: those configured and those in the repository.
    pub databases: Vec<DatabaseStatus>,
    /// How many snapshots there are, those of other tools included.
    pub snapshots: u64,
    /// What the packs take.
    pub bytes_stored: u64,
    /// What is free where the repository is.
    pub disk_free: Option<u64>,
    /// The configured copies.
    pub copies: Vec<CopyStatus>,
    /// What is wrong; empty when nothing is.
    pub problems: Vec<String>,
    /// Whether the recovery sheet was shown on this host.
    pub recovery_sheet_shown: bool,
}

/// One database on the screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct DatabaseStatus {
    /// The name.
    pub name: String,
    /// Its engine.
    pub engine: Option<Engine>,
    /// Where it is.
    pub source: Option<String>,
    /// How many snapshots it has.
    pub snapshots: u64,
    /// The newest.
    pub last_backup: Option<Timestamp>,
    /// Its id.
    pub last_snapshot: Option<Id>,
    /// The newest good one.
    pub last_good: Option<Timestamp>,
    /// When one of its snapshots was last proved.
    pub last_verified: Option<Timestamp>,
    /// When a backup is due next; `None` without a schedule.
    pub next_run: Option<Timestamp>,
    /// Size of the newest image.
    pub bytes_source: Option<u64>,
    /// Rows of the newest image.
    pub rows: Option<u64>,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// One configured copy on the screen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CopyStatus {
    /// The configured name.
    pub name: String,
    /// Where it is.
    pub location: String,
    /// Whether it could be opened now; else the numbers are what this host remembers.
    pub reachable: bool,
    /// How many snapshots of the repository it has.
    pub snapshots: u64,
    /// How many others it has: those that were forgotten here, or that came from elsewhere. `None` where it could not be
    /// opened.
    pub other_snapshots: Option<u64>,
    /// How many it lacks, without those that were dropped there on purpose.
    pub behind: u64,
    /// How many were dropped there on purpose.
    pub dropped: u64,
    /// The newest snapshot of the repository that it has.
    pub newest: Option<Id>,
    /// What its packs take; `None` where it could not be opened.
    pub bytes_stored: Option<u64>,
    /// What is free where it is.
    pub disk_free: Option<u64>,
    /// When copying there from this host last went well.
    pub last_copied: Option<Timestamp>,
    /// When it last went wrong, unless it went well since.
    pub failed: Option<Timestamp>,
    /// Why.
    pub error: Option<ErrorReport>,
    /// What is wrong.
    pub problems: Vec<String>,
}

/// The keys of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct KeyListReport {
    /// One entry a key, oldest first.
    pub keys: Vec<KeyRow>,
}

/// One key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct KeyRow {
    /// The id of its file.
    pub id: Id,
    /// The first eight digits of it.
    pub short_id: String,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// Who made it.
    pub user: String,
    /// Where.
    pub host: String,
    /// Whether this command used it.
    pub current: bool,
}

/// A key that was added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct KeyAddReport {
    /// The id of its file.
    pub id: Id,
    /// Where the generated key was written; `None` when a password was given.
    pub key_file: Option<PathBuf>,
}

/// A key that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct KeyRemoveReport {
    /// The id of its file.
    pub id: Id,
}

/// What a configuration holds, and where it comes from.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ConfigReport {
    /// The file; `None` when there is none.
    pub file: Option<PathBuf>,
    /// Where the repository is, and what said so.
    pub repository: String,
    /// What said where the repository is: `--repo`, `DBKEEP_REPOSITORY`, the file, or `default`.
    pub repository_from: String,
    /// What gives the password; the password itself is never here.
    pub password_from: Option<String>,
    /// The settings, defaults included; `dbkeep config schema` prints their schema.
    #[cfg_attr(feature = "schema", schemars(with = "std::collections::BTreeMap<String, serde_json::Value>"))]
    pub config: crate::config::Config,
    /// What is allowed but odd.
    pub warnings: Vec<String>,
}
