//! How the process ends: exit codes, and failures as people and programs see them.

use std::fmt;

use dbkeep_engine::ErrorKind;
use serde::Serialize;
use serde_json::Value;

use crate::usage;

/// The exit codes that programs rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done, everything good.
    Done,
    /// Failed.
    Failed,
    /// Wrong usage or configuration.
    Usage,
    /// Some databases failed, the others are safely stored.
    Partly,
    /// Done, but a finding needs eyes.
    Finding,
    /// No repository there.
    NoRepository,
    /// Locked by another process.
    Locked,
    /// Wrong password or no key.
    Password,
    /// Interrupted; the store is sound.
    Interrupted,
    /// What a guarded command exited with, or what its guard says in its place, as `timeout(1)` does.
    OfCommand(u8),
}

impl Exit {
    /// Returns the code with this number; one that the contract does not know is a plain failure.
    pub(crate) fn from_code(code: u8) -> Self {
        match code {
            0 => Self::Done,
            2 => Self::Usage,
            3 => Self::Partly,
            4 => Self::Finding,
            10 => Self::NoRepository,
            11 => Self::Locked,
            12 => Self::Password,
            130 => Self::Interrupted,
            _ => Self::Failed,
        }
    }

    /// Returns the number that the shell sees.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Partly => 3,
            Self::Finding => 4,
            Self::NoRepository => 10,
            Self::Locked => 11,
            Self::Password => 12,
            Self::Interrupted => 130,
            Self::OfCommand(code) => code,
        }
    }
}

/// Why a command did not do what it was asked, with what to do about it.
///
/// Printed as `error:` and `hint:`, or as the `error` of the JSON document.
#[derive(Debug)]
pub(crate) struct Failure {
    /// A word that programs can match, as `no-repository`.
    pub(crate) kind: String,
    /// One sentence, lower case, without full stop.
    pub(crate) message: String,
    /// What to do.
    pub(crate) hint: Option<String>,
    /// How the process ends.
    pub(crate) exit: Exit,
    /// The command's own report, where there is one in spite of the failure.
    pub(crate) report: Option<Value>,
}

impl Failure {
    /// Makes a failure of wrong usage or configuration.
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            kind: "usage".into(),
            message: message.into(),
            hint: Some(hint.into()),
            exit: Exit::Usage,
            report: None,
        }
    }

    /// Makes a plain failure.
    pub(crate) fn failed(kind: &str, message: impl Into<String>, hint: Option<String>) -> Self {
        Self { kind: kind.into(), message: message.into(), hint, exit: Exit::Failed, report: None }
    }

    /// Makes the failure of a person who said no or pressed Ctrl-C at a question.
    pub(crate) fn interrupted() -> Self {
        Self {
            kind: "interrupted".into(),
            message: "interrupted".into(),
            hint: Some("nothing was changed; run the command again when you are ready".into()),
            exit: Exit::Interrupted,
            report: None,
        }
    }

    /// Hides the secrets of what was typed, wherever it is repeated.
    pub(crate) fn without_typed(self, line: &[String]) -> Self {
        Self {
            message: usage::without_typed(&self.message, line),
            hint: self.hint.map(|hint| usage::without_typed(&hint, line)),
            ..self
        }
    }

    /// Adds the command's own report.
    pub(crate) fn with_report(mut self, report: &impl Serialize) -> Self {
        self.report = serde_json::to_value(report).ok();
        self
    }

    /// Returns the one JSON document of a failed command: its report, if any, and the error.
    pub(crate) fn document(&self) -> Value {
        let mut document = match &self.report {
            Some(Value::Object(report)) => report.clone(),
            _ => serde_json::Map::new(),
        };
        document.insert(
            "error".into(),
            serde_json::json!({ "kind": self.kind, "message": self.message, "hint": self.hint }),
        );
        Value::Object(document)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// Returns what to do about an error of this kind where nothing better is known.
pub(crate) fn general_hint(kind: &str) -> &'static str {
    ErrorKind::of_word(kind)
        .and_then(ErrorKind::usual_hint)
        .unwrap_or("run it again with -vv to see what happens")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_the_contract_comes_back() {
        for code in [0, 1, 2, 3, 4, 10, 11, 12, 130] {
            assert_eq!(Exit::from_code(code).code(), code);
        }
        assert_eq!(Exit::from_code(77), Exit::Failed);
    }

    #[test]
    fn error_stands_beside_the_report() {
        let failure = Failure::failed("backup-failed", "nothing was stored", Some("look".into()))
            .with_report(&serde_json::json!({ "session": "20260102_030405" }));
        assert_eq!(
            failure.document(),
            serde_json::json!({
                "session": "20260102_030405",
                "error": { "kind": "backup-failed", "message": "nothing was stored", "hint": "look" }
            })
        );
    }
}
