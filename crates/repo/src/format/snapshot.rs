//! Snapshots: one database at one moment, or whatever a stock restic backed up.
//!
//! Source: restic's design document, "Snapshots".

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{FormatResult, is_zero, null_as_default};
use crate::Id;

/// The contents of a snapshot file. Fields that are unknown are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The name of the object; not part of it. Set on everything that was read or stored.
    #[serde(skip)]
    pub id: Option<Id>,
    /// When the backup was made.
    pub time: Timestamp,
    /// The snapshot before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Id>,
    /// The root directory.
    pub tree: Id,
    /// What was backed up.
    #[serde(default, deserialize_with = "null_as_default")]
    pub paths: Vec<String>,
    /// On which host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// By whom.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// By which user id.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub uid: u32,
    /// By which group id.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub gid: u32,
    /// Words to find it by.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The first snapshot of which this is a copy with other tags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<Id>,
    /// The program that made it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program_version: String,
}

impl Snapshot {
    /// Makes a snapshot of `tree`, with nothing said about it yet.
    pub fn new(time: Timestamp, tree: Id) -> Self {
        Self {
            id: None,
            time,
            parent: None,
            tree,
            paths: Vec::new(),
            hostname: String::new(),
            username: String::new(),
            uid: 0,
            gid: 0,
            tags: Vec::new(),
            original: None,
            program_version: String::new(),
        }
    }

    /// Returns what follows `name=` in the first tag that begins so.
    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.iter().find_map(|tag| tag.strip_prefix(name)?.strip_prefix('='))
    }

    /// Returns the JSON.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, ids and times always become JSON")
    }

    /// Reads the JSON. The id is left unset.
    pub fn decode(json: &[u8]) -> FormatResult<Self> {
        Ok(serde_json::from_slice(json)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshot_of_restic_is_read() {
        let json = br#"{"time":"2015-01-02T18:10:50.895208559+01:00",
            "tree":"2da81727b6585232894cfbb8f8bdab8d1eccd3d8f7c92bc934d62e62e618ffdf","paths":null,
            "hostname":"kasimir","username":"fd0","uid":1000,"gid":100,"tags":["NL","session=x"],
            "original":"251c2e5841355f743f9d4ffd3260bee765acee40a6229857e32b60446991b837","summary":{"files_new":1}}"#;
        let snapshot = Snapshot::decode(json).unwrap();
        assert_eq!(snapshot.time.to_string(), "2015-01-02T17:10:50.895208559Z");
        assert_eq!(snapshot.tag("session"), Some("x"));
        assert_eq!(snapshot.tag("sess"), None);
        assert!(snapshot.original.is_some() && snapshot.paths.is_empty());
        assert_eq!(Snapshot::decode(&snapshot.encode()).unwrap(), snapshot);
    }

    #[test]
    fn least_snapshot_is_written_as_restic_writes_it() {
        let snapshot = Snapshot {
            paths: vec!["/shop".to_owned()],
            hostname: "h".to_owned(),
            ..Snapshot::new("2026-03-01T14:05:00.5Z".parse().unwrap(), Id::NULL)
        };
        let zeros = "0".repeat(64);
        let expected = format!(
            r#"{{"time":"2026-03-01T14:05:00.5Z","tree":"{zeros}","paths":["/shop"],"hostname":"h"}}"#
        );
        assert_eq!(String::from_utf8(snapshot.encode()).unwrap(), expected);
    }
}
