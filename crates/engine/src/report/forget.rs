//! What dropping snapshots tells.

use std::path::PathBuf;

use dbkeep_repo::Id;
use jiff::Timestamp;
use serde::Serialize;

use super::ErrorReport;

/// What [`crate::forget::run`] decided and did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct ForgetReport {
    /// What stays, and why.
    pub kept: Vec<Kept>,
    /// What is gone.
    pub forgotten: Vec<Forgotten>,
    /// What was asked for and stays nevertheless.
    pub refused: Vec<Refused>,
    /// The databases that the policy of the configuration left as they are, because something looked wrong.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<Frozen>,
    /// Nothing was removed: this is what would be.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dry_run: bool,
}

impl ForgetReport {
    /// Says that nothing of a database was forgotten after all.
    pub(crate) fn refuse(&mut self, database: &str, why: &str) {
        let is_of = |one: &Forgotten| one.database.as_deref() == Some(database);
        for one in self.forgotten.extract_if(.., |one| is_of(one)) {
            let Forgotten { id, time, database } = one;
            self.refused.push(Refused { id, time, database, why: why.to_owned() });
        }
    }

    /// Returns what the process exits with: 1 where all was refused, 3 where some was, 4 where nothing was to go and
    /// something looked wrong, else 0.
    pub fn exit_code(&self) -> u8 {
        match (self.refused.is_empty(), self.forgotten.is_empty()) {
            (true, _) if !self.frozen.is_empty() => 4,
            (true, _) => 0,
            (false, true) => 1,
            (false, false) => 3,
        }
    }
}

/// A snapshot that stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Kept {
    /// The snapshot.
    pub id: Id,
    /// The moment of its contents.
    pub time: Timestamp,
    /// Its database; `None` when another tool made it.
    pub database: Option<String>,
    /// Why.
    pub reasons: Vec<String>,
}

/// A snapshot that was forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Forgotten {
    /// The snapshot.
    pub id: Id,
    /// The moment of its contents.
    pub time: Timestamp,
    /// Its database; `None` when another tool made it.
    pub database: Option<String>,
}

/// A database that the policy of the configuration left as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Frozen {
    /// Its name.
    pub database: String,
    /// What looked wrong.
    pub why: String,
}

/// A snapshot that was not forgotten though it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct Refused {
    /// The snapshot.
    pub id: Id,
    /// The moment of its contents.
    pub time: Timestamp,
    /// Its database; `None` when another tool made it.
    pub database: Option<String>,
    /// Why.
    pub why: String,
}

/// What [`crate::forget::everywhere`] did, in the repository and in its copies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct PolicyReport {
    /// In the repository itself.
    #[serde(flatten)]
    pub here: ForgetReport,
    /// In its copies, in the order of the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<CopyForgetReport>,
}

/// What became of one copy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[non_exhaustive]
pub struct CopyForgetReport {
    /// What it is called.
    pub name: String,
    /// Where it is; empty where that makes no sense.
    pub location: PathBuf,
    /// What was decided and done there.
    #[serde(flatten)]
    pub report: ForgetReport,
    /// Why nothing was.
    pub error: Option<ErrorReport>,
}

impl PolicyReport {
    /// Returns what the process exits with: that of the repository where there are no copies; 3 where something was
    /// refused or failed in some of the places, 1 where in all.
    pub fn exit_code(&self) -> u8 {
        let codes: Vec<u8> = std::iter::once(self.here.exit_code())
            .chain(self.copies.iter().map(CopyForgetReport::exit_code))
            .collect();
        let bad = |code: &u8| !matches!(code, 0 | 4);
        match codes.iter().filter(|code| bad(code)).count() {
            _ if codes.contains(&130) => 130,
            0 => codes.into_iter().max().unwrap_or(0),
            count if count == codes.len() && codes.iter().all(|code| *code != 3) => 1,
            _ => 3,
        }
    }
}

impl CopyForgetReport {
    fn exit_code(&self) -> u8 {
        self.error.as_ref().map_or(self.report.exit_code(), |error| error.exit_code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(forgotten: usize, refused: usize, frozen: usize) -> ForgetReport {
        let (id, time) = (Id::NULL, Timestamp::UNIX_EPOCH);
        ForgetReport {
            forgotten: vec![Forgotten { id, time, database: None }; forgotten],
            refused: vec![Refused { id, time, database: None, why: String::new() }; refused],
            frozen: vec![Frozen { database: String::new(), why: String::new() }; frozen],
            ..ForgetReport::default()
        }
    }

    fn copy(report: ForgetReport) -> CopyForgetReport {
        CopyForgetReport { report, ..CopyForgetReport::default() }
    }

    fn failed(exit_code: u8) -> CopyForgetReport {
        let error = ErrorReport { kind: String::new(), message: String::new(), hint: None, exit_code };
        CopyForgetReport { error: Some(error), ..CopyForgetReport::default() }
    }

    #[test]
    fn exit_code_is_3_where_some_places_failed_and_1_where_all_did() {
        let code =
            |here: ForgetReport, copies: Vec<CopyForgetReport>| PolicyReport { here, copies }.exit_code();
        for (here, alone) in [((1, 0, 0), 0), ((0, 0, 1), 4), ((0, 2, 1), 1), ((1, 2, 1), 3)] {
            let here = || place(here.0, here.1, here.2);
            assert_eq!(code(here(), vec![]), alone);
            let with_good = if alone == 1 { 3 } else { alone };
            assert_eq!(code(here(), vec![copy(place(1, 0, 0))]), with_good);
            assert_eq!(
                code(here(), vec![copy(place(0, 0, 1))]),
                with_good.max(if alone == 0 { 4 } else { 0 })
            );
            assert_eq!(code(here(), vec![failed(10), copy(place(1, 0, 0))]), 3);
            assert_eq!(code(here(), vec![failed(10), failed(12)]), if alone == 1 { 1 } else { 3 });
            assert_eq!(code(here(), vec![failed(130), failed(12)]), 130);
        }
    }
}
