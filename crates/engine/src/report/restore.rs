//! What bringing databases back tells.

use std::path::PathBuf;

use dbkeep_repo::Id;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ErrorReport, SessionStatus, TableRows};

/// What a restore did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct RestoreReport {
    /// What was restored.
    pub snapshot: Id,
    /// Its database.
    pub database: String,
    /// Where it is now.
    pub target: String,
    /// The moment that was reached.
    pub moment: Timestamp,
    /// The backup of what was there before.
    pub safety_snapshot: Option<Id>,
    /// Which of the tables of a server that were named it has, as they were written: the way back names them.
    #[serde(skip)]
    pub safety_tables: Vec<String>,
    /// Rows of all tables restored, as the manifest or the copy counted them; without those that could not be.
    pub rows: u64,
    /// What was written to the target.
    pub bytes_written: u64,
    /// How many pages of it.
    pub pages_written: u64,
    /// `ok`, `not run`, or the first problem.
    pub integrity: String,
    /// How long it took.
    pub duration_ms: u64,
    /// Every hash was compared, the check was run and found nothing, and no row of the snapshot is missing.
    pub verified: bool,
    /// The copy that it was restored from; `None` for the repository itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub copy: Option<String>,
    /// In a session: whether this one was restored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<RestoreStatus>,
    /// In a session: why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    /// The tables that were restored, when not all were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<TableRows>,
    /// Where a damaged original went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub moved_aside: Option<PathBuf>,
    /// How many things of a server could not be restored, as owners or an extension; `notes` tells them.
    pub left_out: u64,
    /// What a person should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl RestoreReport {
    /// Returns what the process exits with: 0, or 4 when what was restored is as damaged as its source was, or lacks
    /// rows that were stored.
    pub fn exit_code(&self) -> u8 {
        match (&self.error, self.integrity.as_str()) {
            (Some(error), _) => error.exit_code,
            (None, "ok" | "not run") => 0,
            (None, _) => 4,
        }
    }
}

/// Whether one database of a session was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum RestoreStatus {
    /// It was.
    Ok,
    /// It was not; its target is as it was.
    Failed,
}

/// What the restore of a session did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct SessionRestoreReport {
    /// The session.
    pub session: String,
    /// How it ended.
    pub status: SessionStatus,
    /// One entry a database.
    pub restores: Vec<RestoreReport>,
    /// Why it failed, when all of it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

impl SessionRestoreReport {
    /// Returns what the process exits with.
    pub fn exit_code(&self) -> u8 {
        match self.status {
            SessionStatus::Failed => self.error.as_ref().map_or(1, |error| error.exit_code),
            SessionStatus::Partial => 3,
            SessionStatus::Ok => self.restores.iter().map(RestoreReport::exit_code).max().unwrap_or(0),
        }
    }
}

/// What [`crate::restore::run`] did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum RestoreOutcome {
    /// One snapshot.
    One(Box<RestoreReport>),
    /// All databases of a session.
    Session(SessionRestoreReport),
}

impl RestoreOutcome {
    /// Returns what the process exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::One(report) => report.exit_code(),
            Self::Session(report) => report.exit_code(),
        }
    }
}
