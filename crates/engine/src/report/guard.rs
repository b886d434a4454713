//! What a guarded command came to.

use dbkeep_repo::Id;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{ComparedSequence, ComparedTable, Engine, ErrorReport, SchemaReport};

/// What a guard did.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GuardReport {
    /// The session of the backup to go back to; empty when there is none.
    pub session: String,
    /// The command, word by word; secrets are redacted.
    pub command: Vec<String>,
    /// What the command exited with, as a shell sees it: 128 and the signal, 124 for one that took too long. `None` when
    /// it was never started, and where that is not known any more.
    pub exit: Option<u8>,
    /// What became of the databases.
    pub outcome: GuardOutcome,
    /// Why the command counts as failed; `None` when it does not.
    pub failure: Option<String>,
    /// Whether that is a check after the command rather than the command itself.
    pub check_failed: bool,
    /// When the guard began.
    pub started: Timestamp,
    /// When it ended.
    pub finished: Timestamp,
    /// How long the command ran.
    pub duration_ms: u64,
    /// One entry a database.
    pub databases: Vec<GuardedDatabase>,
    /// What the command changed, one entry a database that could be compared.
    pub changes: Vec<DatabaseChanges>,
    /// What a person should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What the guard itself failed at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

impl GuardReport {
    /// Returns what the process exits with: what the command did, 1 for a check that failed after it, and 125 where the
    /// guard itself failed.
    pub fn exit_code(&self) -> u8 {
        match (&self.error, self.exit) {
            (Some(_), _) | (None, None) => 125,
            (None, Some(0)) if self.failure.is_some() => 1,
            (None, Some(code)) => code,
        }
    }
}

/// What became of the databases.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum GuardOutcome {
    /// The command succeeded, and so did all checks.
    Succeeded,
    /// It failed, and every database is as it was before.
    Restored,
    /// It failed, and what it did was kept.
    Kept,
    /// There was no verified backup, so it was not started.
    BackupFailed,
    /// Its guard was killed before it was started; nothing is left to be done.
    NotStarted,
}

/// One database of a guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GuardedDatabase {
    /// Its name.
    pub name: String,
    /// Its engine.
    pub engine: Engine,
    /// Where it is; secrets are redacted.
    pub source: String,
    /// What became of it.
    pub status: GuardedStatus,
    /// The snapshot to go back to.
    pub snapshot: Option<Id>,
    /// Whether it can be shown that nothing but the command wrote.
    pub alone: bool,
    /// Why not, one sentence each.
    pub doubts: Vec<String>,
    /// The integrity after the command: `ok`, `not run`, or the first problem.
    pub integrity: String,
    /// The queries that were asked after the command.
    pub checks: Vec<GuardCheck>,
    /// The backup of the failed state, which was made before the restore.
    pub safety_snapshot: Option<Id>,
    /// What the restore wrote.
    pub bytes_written: u64,
    /// In how many pages.
    pub pages_written: u64,
    /// How long the restore took.
    pub restore_ms: u64,
    /// What went wrong with this database.
    pub error: Option<ErrorReport>,
}

/// What became of one database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum GuardedStatus {
    /// Nothing is known of it yet, or the command was not started.
    Untouched,
    /// It is as it was before.
    Unchanged,
    /// It was changed, and is so.
    Changed,
    /// It was changed, and is as it was before again.
    Restored,
}

/// A query that was asked after the command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GuardCheck {
    /// The query.
    pub sql: String,
    /// Its answer, or why there is none.
    pub found: String,
    /// Whether that is as it should be.
    pub ok: bool,
}

/// What differs in a database after the command.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DatabaseChanges {
    /// Its name.
    pub database: String,
    /// Whether nothing differs.
    pub same: bool,
    /// What differs in the schema: `left` is before, `right` after.
    pub schema: SchemaReport,
    /// Every table that differs.
    pub tables: Vec<ComparedTable>,
    /// Every sequence that stands elsewhere.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sequences: Vec<ComparedSequence>,
    /// What a person should know.
    pub notes: Vec<String>,
    /// Why it could not be compared.
    pub error: Option<ErrorReport>,
}
