//! What an export wrote, and what became of plain files that were looked at.

use dbkeep_repo::Id;
use jiff::Timestamp;
use serde::Serialize;

use super::{TableRows, VerifyStatus};

/// What an export wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExportReport {
    /// The session.
    pub session: String,
    /// The format, as on the command line.
    pub format: String,
    /// The directory.
    pub out: String,
    /// Sums over the databases.
    pub totals: ExportTotals,
    /// One entry a database.
    pub databases: Vec<DatabaseExport>,
    /// The databases that the session had and that are not in the export, because their snapshots are gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<MissingDatabase>,
    /// Every file, by its path in the directory.
    pub files: Vec<ExportedFile>,
    /// How long it took.
    pub duration_ms: u64,
}

impl ExportReport {
    /// Returns what the process exits with: 0, 3 where a snapshot of the session is lost, or 4 where a database was
    /// damaged when it was backed up.
    pub fn exit_code(&self) -> u8 {
        if self.missing.iter().any(|one| one.status == MissingStatus::Lost) {
            return 3;
        }
        if self.databases.iter().any(|one| one.status == "corrupt") { 4 } else { 0 }
    }
}

/// Sums over an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExportTotals {
    /// How many databases.
    pub databases: u64,
    /// Rows of all tables.
    pub rows: u64,
    /// Size of all images.
    pub bytes_source: u64,
    /// Size of all files.
    pub bytes_written: u64,
}

/// A database of a session that is not there any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct MissingDatabase {
    /// Its name.
    pub database: String,
    /// What became of its snapshot.
    pub status: MissingStatus,
}

/// What became of a snapshot that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum MissingStatus {
    /// It was forgotten.
    Forgotten,
    /// It should be there.
    Lost,
}

impl MissingDatabase {
    /// Says what became of it.
    pub fn why(&self) -> &'static str {
        match self.status {
            MissingStatus::Forgotten => "its snapshot was forgotten",
            MissingStatus::Lost => "its snapshot is lost or cannot be read",
        }
    }
}

/// One database of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DatabaseExport {
    /// Its name.
    pub database: String,
    /// The snapshot.
    pub snapshot: Id,
    /// The moment that it shows.
    pub moment: Timestamp,
    /// `ok`, or `corrupt` where the source was damaged.
    pub status: String,
    /// Tables and their rows, by name.
    pub tables: Vec<TableRows>,
    /// Rows of all tables.
    pub rows: u64,
    /// Size of the image.
    pub bytes_source: u64,
    /// Size of the files with its contents.
    pub bytes_written: u64,
    /// The plain SHA-256 of the image, where the format holds the image.
    pub sha256: Option<Id>,
    /// `ok`, `not run`, or the first problem, when it was backed up.
    pub integrity: String,
    /// What is not in the export, and what else a person should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A file of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExportedFile {
    /// Its path in the directory of the export.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Id,
}

/// What plain files turned out to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FilesReport {
    /// One entry a database, and one for each other file that is not what it should be.
    pub checked: Vec<CheckedFile>,
    /// How many are what they say.
    pub ok: u64,
    /// How many are not, those that are missing included.
    pub damaged: u64,
    /// What each path holds as a whole.
    pub files: Vec<FileFacts>,
}

impl FilesReport {
    /// Returns what the process exits with: 0 or 4.
    pub fn exit_code(&self) -> u8 {
        if self.damaged == 0 { 0 } else { 4 }
    }
}

/// Who wrote a file, a directory or an archive, when and where, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FileFacts {
    /// The path.
    pub path: String,
    /// `dbkeep 0.1.0`, or what kind of script; `None` when nothing says so.
    pub written_by: Option<String>,
    /// The session, or what a script called its run.
    pub session: Option<String>,
    /// When, as it is written there.
    pub time: Option<String>,
    /// Who took the backup.
    pub user: Option<String>,
    /// Where.
    pub host: Option<String>,
    /// The branch that was checked out.
    pub git_branch: Option<String>,
    /// The commit that was checked out.
    pub git_commit: Option<String>,
    /// What was not looked at.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// What was found in one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CheckedFile {
    /// The snapshot that it was exported from, where it says so.
    pub snapshot: Option<Id>,
    /// The database; empty for a file that holds none.
    pub database: String,
    /// What it turned out to be.
    pub status: VerifyStatus,
    /// Everything that is wrong.
    pub findings: Vec<String>,
    /// The path of the file in what was given.
    pub file: String,
    /// `db`, `gzip`, `sql`, `json`, `ndjson`, `csv`, or `file`.
    pub form: String,
    /// Tables and their rows, as they were counted.
    pub tables: Vec<TableRows>,
    /// Rows of all tables.
    pub rows: u64,
    /// Length of the file.
    pub bytes: Option<u64>,
    /// SHA-256 of the file.
    pub sha256: Option<Id>,
    /// `ok`, `wrong`, or `none` when no checksum is there to compare with.
    pub checksum: String,
    /// `ok`, `not run`, or the first problem.
    pub integrity: String,
    /// What files of this form cannot bring back.
    pub cannot_hold: Vec<String>,
    /// What else a person should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}
