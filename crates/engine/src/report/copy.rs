//! What copying to another repository tells.

use std::path::PathBuf;

use dbkeep_repo::Id;
use jiff::Timestamp;
use serde::Serialize;

use super::{ErrorReport, SessionStatus};

/// What [`crate::copy::run`] did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CopyRunReport {
    /// The configured name of the copy, else its location.
    pub copy: String,
    /// Where it is.
    pub location: PathBuf,
    /// How it ended.
    pub status: SessionStatus,
    /// What was copied, repaired or failed, newest first; what was there before only where it was named.
    pub snapshots: Vec<CopiedSnapshot>,
    /// How many were copied, those whose copies were repaired included.
    pub copied: u64,
    /// How many were there before.
    pub present: u64,
    /// How many were dropped there on purpose, and so not copied again.
    pub dropped: u64,
    /// How many failed.
    pub failed: u64,
    /// What was read of the source, as plain bytes.
    pub bytes_read: u64,
    /// What was stored there.
    pub bytes_stored: u64,
    /// What was read back there.
    pub bytes_verified: u64,
    /// How long it took.
    pub duration_ms: u64,
    /// Nothing was written: this is what would be done.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
    /// Why it ended early, or why all of it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    /// The snapshots of the source that are there now.
    #[serde(skip)]
    pub(crate) held: Vec<Id>,
}

impl CopyRunReport {
    /// Returns what the process exits with: 0, 3 (some failed), 130, or for a copy that failed wholly what its error says.
    pub fn exit_code(&self) -> u8 {
        match (&self.error, self.status) {
            (Some(error), _) if error.exit_code == 130 => 130,
            (_, SessionStatus::Ok) => 0,
            (_, SessionStatus::Partial) => 3,
            (error, SessionStatus::Failed) => error.as_ref().map_or(1, |error| error.exit_code),
        }
    }

    /// Returns why it is not complete; `None` when it is.
    pub(crate) fn trouble(&self) -> Option<ErrorReport> {
        let failed: Vec<&ErrorReport> = self.snapshots.iter().filter_map(|one| one.error.as_ref()).collect();
        match (&self.error, failed.as_slice()) {
            (Some(error), _) => Some(error.clone()),
            (None, []) => None,
            (None, [only]) => Some((*only).clone()),
            (None, [first, ..]) => {
                let error = ErrorReport::from(&crate::Error::NotAllCopied {
                    failed: failed.len(),
                    total: failed.len() + usize::try_from(self.copied).unwrap_or(usize::MAX),
                    first: first.message.clone(),
                });
                // Nothing is damaged then.
                let by_name = failed.iter().all(|error| error.kind == "name-taken");
                Some(if by_name { ErrorReport { hint: first.hint.clone(), ..error } } else { error })
            }
        }
    }
}

/// One snapshot that was to be copied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CopiedSnapshot {
    /// The snapshot of the source.
    pub snapshot: Id,
    /// The snapshot that is its copy.
    pub copy: Option<Id>,
    /// Its database; `None` when another tool made it.
    pub database: Option<String>,
    /// The moment of its contents; `None` where it cannot be read.
    pub time: Option<Timestamp>,
    /// What became of it.
    pub status: CopiedStatus,
    /// Why it failed.
    pub error: Option<ErrorReport>,
}

/// What became of one snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum CopiedStatus {
    /// It is there now; in a plan: it would be copied.
    Copied,
    /// It was there and damaged, and is whole again; in a plan: it would be repaired.
    Repaired,
    /// It was there.
    Present,
    /// It could not be copied, and is not there.
    Failed,
}
