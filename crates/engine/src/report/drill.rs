//! What drills tell.

use dbkeep_repo::Id;
use serde::Serialize;

use super::{ErrorReport, Verified};

/// What drills found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DrillReport {
    /// One entry a snapshot.
    pub drills: Vec<Drilled>,
    /// How many passed.
    pub ok: u64,
    /// How many did not, or could not be tried.
    pub failed: u64,
    /// Why nothing could be tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
}

/// What the drill of one snapshot found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Drilled {
    /// The snapshot.
    pub snapshot: Id,
    /// Its database.
    pub database: String,
    /// What came out.
    pub status: DrillStatus,
    /// From the begin to the last answer.
    pub duration_ms: u64,
    /// Rows in the restored database.
    pub rows: u64,
    /// What is wrong with it.
    pub findings: Vec<String>,
    /// What was asked.
    pub assertions: Vec<TriedAssertion>,
    /// How many things could not be restored, and so were not tried; `notes` tells them.
    pub left_out: u64,
    /// What a person should know.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Why it could not be tried.
    pub error: Option<ErrorReport>,
}

/// Whether a snapshot passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DrillStatus {
    /// Everything was as it should be.
    Ok,
    /// Something was not, or it could not be tried.
    Failed,
}

/// A query and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TriedAssertion {
    /// The query.
    pub sql: String,
    /// What it should give.
    pub expected: String,
    /// What it gave, or why that is no value.
    pub found: String,
    /// Whether that is the same.
    pub ok: bool,
}

impl DrillReport {
    pub(crate) fn of(drills: Vec<Drilled>) -> Self {
        let ok = drills.iter().filter(|drill| drill.status == DrillStatus::Ok).count() as u64;
        let failed = drills.len() as u64 - ok;
        let errors = drills.iter().filter_map(|drill| drill.error.as_ref());
        let error =
            (errors.clone().count() == drills.len()).then(|| errors.clone().next().cloned()).flatten();
        Self { drills, ok, failed, error }
    }

    /// Returns what the process exits with: 4 where something is wrong, 3 where some could not be tried, and what the
    /// first says where none could.
    pub fn exit_code(&self) -> u8 {
        if let Some(error) = &self.error {
            return error.exit_code;
        }
        if self.drills.iter().any(|drill| drill.error.is_some()) {
            return 3;
        }
        if self.failed > 0 { 4 } else { 0 }
    }
}

impl Drilled {
    /// Returns the row of a snapshot that should be there.
    pub(crate) fn lost(lost: Verified) -> Self {
        Self {
            snapshot: lost.snapshot,
            database: lost.database,
            status: DrillStatus::Failed,
            duration_ms: 0,
            rows: 0,
            findings: lost.findings,
            assertions: Vec::new(),
            left_out: 0,
            notes: Vec::new(),
            error: None,
        }
    }
}
