//! What an export wrote, and what became of plain files that were looked at.

use dbkeep_repo::Id;
use jiff::Timestamp;
use serde::Serialize;

use super::TableRows;

/// What an export wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
    /// Every file, by its path in the directory.
    pub files: Vec<ExportedFile>,
    /// How long it took.
    pub duration_ms: u64,
}

impl ExportReport {
    /// Returns what the process exits with: 0, or 4 where a database was damaged when it was backed up.
    pub fn exit_code(&self) -> u8 {
        if self.databases.iter().any(|one| one.status == "corrupt") { 4 } else { 0 }
    }
}

/// Sums over an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

/// One database of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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
pub struct ExportedFile {
    /// Its path in the directory of the export.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256.
    pub sha256: Id,
}
