//! What `--progress=json` writes to standard error: one JSON object a line.

use serde::Serialize;

/// Something that happened while a command ran.
#[derive(Debug, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(tag = "event", rename_all = "lowercase")]
pub(crate) enum Event<'e> {
    /// A new phase began, and the one before it ended.
    Phase {
        /// What is done, for people.
        phase: &'e str,
        /// How many bytes there are to go; 0 where nobody knows.
        total: u64,
    },
    /// The present phase goes on, or ends.
    Progress {
        /// What is done, for people.
        phase: &'e str,
        /// How many bytes of it are done.
        done: u64,
        /// How many there are; 0 where nobody knows.
        total: u64,
        /// How many tables are done, where they are counted.
        #[serde(skip_serializing_if = "Option::is_none")]
        tables: Option<TableProgress>,
    },
    /// The operation reached a step of its own.
    Step {
        /// Its name.
        step: &'e str,
    },
    /// Something that a person may want to know.
    Message {
        /// One line.
        message: &'e str,
    },
    /// Something that a person should look at.
    Warning {
        /// One sentence.
        message: &'e str,
        /// What to do about it.
        hint: Option<&'e str>,
    },
    /// Why the command failed, or one database of several.
    Error {
        /// A word for programs.
        kind: &'e str,
        /// One sentence, with its causes.
        message: &'e str,
        /// What to do about it.
        hint: Option<&'e str>,
    },
}

/// How far a phase is by tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct TableProgress {
    /// How many are done.
    pub(crate) done: u64,
    /// How many there are.
    pub(crate) total: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_told_apart_by_one_word() {
        let warning = Event::Warning { message: "odd", hint: None };
        let written = serde_json::to_string(&warning).unwrap();
        assert_eq!(written, r#"{"event":"warning","message":"odd","hint":null}"#);
        let progress = |tables| {
            let event = Event::Progress { phase: "read app", done: 1, total: 2, tables };
            serde_json::to_string(&event).unwrap()
        };
        assert_eq!(progress(None), r#"{"event":"progress","phase":"read app","done":1,"total":2}"#);
        let tables =
            r#"{"event":"progress","phase":"read app","done":1,"total":2,"tables":{"done":3,"total":4}}"#;
        assert_eq!(progress(Some(TableProgress { done: 3, total: 4 })), tables);
    }
}
