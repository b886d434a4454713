//! What `doctor` tells.

use serde::{Deserialize, Serialize};

use super::{Engine, ErrorReport};

/// What [`crate::doctor::run`] found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DoctorReport {
    /// Each source, in the order in which they were given.
    pub sources: Vec<ExaminedSource>,
    /// Where they would be stored.
    pub repository: ExaminedRepository,
}

/// A source that was examined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExaminedSource {
    /// What it is called in the repository.
    pub name: String,
    /// Its engine.
    pub engine: Engine,
    /// Where it is, for people; secrets are redacted.
    pub source: String,
    /// The worst of what was found; a problem where it could not be examined.
    pub status: Health,
    /// What was found, before the error where there is one.
    pub findings: Vec<Finding>,
    /// Why it could not be examined, or no further.
    pub error: Option<ErrorReport>,
}

/// The repository, examined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExaminedRepository {
    /// Where it is.
    pub location: String,
    /// The worst of what was found.
    pub status: Health,
    /// What was found.
    pub findings: Vec<Finding>,
}

/// How something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// It can be backed up.
    Ok,
    /// It can be backed up, but something about it may surprise.
    Warning,
    /// It cannot be backed up, or not completely.
    Problem,
}

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It was looked at and is right.
    Ok,
    /// Good to know.
    Note,
    /// A backup can be made, but something about it may surprise.
    Warning,
    /// A backup fails, or is not complete.
    Problem,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is about, as `connection` or `table "public"."users"`.
    pub subject: String,
    /// What is so, in one line.
    pub message: String,
    /// What to do: a command where there is one.
    pub advice: Option<String>,
}

impl Finding {
    pub(crate) fn new(severity: Severity, subject: &str, message: impl Into<String>) -> Self {
        Self { severity, subject: subject.to_owned(), message: message.into(), advice: None }
    }

    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

impl Health {
    /// Returns how something stands of which this was found.
    pub(crate) fn of(findings: &[Finding]) -> Self {
        match findings.iter().map(|finding| finding.severity).max() {
            Some(Severity::Problem) => Self::Problem,
            Some(Severity::Warning) => Self::Warning,
            _ => Self::Ok,
        }
    }
}

impl DoctorReport {
    /// Returns what the process exits with: that of the first source that could not be examined, 4 where there is a
    /// problem, else 0.
    pub fn exit_code(&self) -> u8 {
        if let Some(error) = self.error() {
            return error.exit_code;
        }
        let health = self.sources.iter().map(|source| source.status).chain([self.repository.status]).max();
        if health == Some(Health::Problem) { 4 } else { 0 }
    }

    /// Returns why the first source that could not be examined could not.
    pub fn error(&self) -> Option<&ErrorReport> {
        self.sources.iter().find_map(|source| source.error.as_ref())
    }
}
