//! Facts: what happened to a snapshot, in a side folder that stock tools ignore.
//!
//! Each fact is a sealed, immutable, content-named object that names its predecessors, so that a fact
//! that was removed leaves a hole. Our own format, version 1.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{FormatError, FormatResult};
use crate::Id;

/// The version of fact files that this program writes.
pub const VERSION: u32 = 1;

/// The contents of a fact file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FactFile {
    /// The version of this format.
    pub version: u32,
    /// When it was written.
    pub time: Timestamp,
    /// On which host.
    #[serde(default)]
    pub hostname: String,
    /// The facts that its writer knew as the newest.
    #[serde(default)]
    pub previous: Vec<Id>,
    /// What happened.
    pub fact: Fact,
}

/// A snapshot, known by more than its id: a stock tool that changes tags gives it another id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SnapshotRef {
    /// Its id when the fact was written.
    pub id: Id,
    /// Its root directory.
    pub tree: Id,
    /// The name of the database.
    pub database: String,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Fact {
    /// The user was told that these snapshots are stored.
    Acknowledged {
        /// The session.
        session: String,
        /// Its snapshots.
        snapshots: Vec<SnapshotRef>,
    },
    /// These snapshots are dropped on purpose; written before they are.
    Forgotten {
        /// The snapshots.
        snapshots: Vec<SnapshotRef>,
        /// Who or what wanted it.
        reason: String,
    },
    /// The snapshot was found good.
    Verified {
        /// The snapshot.
        snapshot: SnapshotRef,
        /// How thoroughly.
        level: String,
    },
    /// Something that these snapshots need is damaged.
    Damaged {
        /// The snapshots.
        snapshots: Vec<SnapshotRef>,
        /// What is damaged.
        findings: Vec<String>,
    },
    /// The snapshot was restored to scratch and queried.
    Drilled {
        /// The snapshot.
        snapshot: SnapshotRef,
        /// Whether everything was as it should be.
        passed: bool,
        /// How long it took, in milliseconds; 0 where nobody measured it.
        duration_ms: u64,
    },
    /// The snapshot is kept whatever the retention says.
    Pinned {
        /// The snapshot.
        snapshot: SnapshotRef,
        /// Why.
        reason: String,
    },
    /// The snapshot is no longer pinned.
    Unpinned {
        /// The snapshot.
        snapshot: SnapshotRef,
    },
    /// That these snapshots are gone is in order.
    Accepted {
        /// The snapshots.
        snapshots: Vec<SnapshotRef>,
        /// Why.
        why: String,
    },
    /// What looks wrong about these snapshots is in order: a policy may go on.
    Cleared {
        /// The snapshots; none where it was something else, as the clock.
        snapshots: Vec<SnapshotRef>,
        /// What looked wrong.
        why: String,
    },
    /// A fact of a newer program, kept as it is.
    Other(serde_json::Value),
}

/// The facts that this program knows, as their JSON has them.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Known {
    Acknowledged {
        session: String,
        snapshots: Vec<SnapshotRef>,
    },
    Forgotten {
        snapshots: Vec<SnapshotRef>,
        reason: String,
    },
    Verified {
        snapshot: SnapshotRef,
        level: String,
    },
    Damaged {
        snapshots: Vec<SnapshotRef>,
        findings: Vec<String>,
    },
    Drilled {
        snapshot: SnapshotRef,
        passed: bool,
        #[serde(default)]
        duration_ms: u64,
    },
    Pinned {
        snapshot: SnapshotRef,
        reason: String,
    },
    Unpinned {
        snapshot: SnapshotRef,
    },
    Accepted {
        snapshots: Vec<SnapshotRef>,
        why: String,
    },
    Cleared {
        snapshots: Vec<SnapshotRef>,
        why: String,
    },
}

const KNOWN_KINDS: [&str; 9] = [
    "acknowledged",
    "forgotten",
    "verified",
    "damaged",
    "drilled",
    "pinned",
    "unpinned",
    "accepted",
    "cleared",
];

impl Serialize for Fact {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let known = match self.clone() {
            Self::Acknowledged { session, snapshots } => Known::Acknowledged { session, snapshots },
            Self::Forgotten { snapshots, reason } => Known::Forgotten { snapshots, reason },
            Self::Verified { snapshot, level } => Known::Verified { snapshot, level },
            Self::Damaged { snapshots, findings } => Known::Damaged { snapshots, findings },
            Self::Drilled { snapshot, passed, duration_ms } => {
                Known::Drilled { snapshot, passed, duration_ms }
            }
            Self::Pinned { snapshot, reason } => Known::Pinned { snapshot, reason },
            Self::Unpinned { snapshot } => Known::Unpinned { snapshot },
            Self::Accepted { snapshots, why } => Known::Accepted { snapshots, why },
            Self::Cleared { snapshots, why } => Known::Cleared { snapshots, why },
            Self::Other(value) => return value.serialize(serializer),
        };
        known.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Fact {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let kind = value.get("kind").and_then(serde_json::Value::as_str);
        let Some(kind) = kind else {
            return Err(serde::de::Error::missing_field("kind"));
        };
        if !KNOWN_KINDS.contains(&kind) {
            return Ok(Self::Other(value));
        }
        Ok(match Known::deserialize(value).map_err(serde::de::Error::custom)? {
            Known::Acknowledged { session, snapshots } => Self::Acknowledged { session, snapshots },
            Known::Forgotten { snapshots, reason } => Self::Forgotten { snapshots, reason },
            Known::Verified { snapshot, level } => Self::Verified { snapshot, level },
            Known::Damaged { snapshots, findings } => Self::Damaged { snapshots, findings },
            Known::Drilled { snapshot, passed, duration_ms } => {
                Self::Drilled { snapshot, passed, duration_ms }
            }
            Known::Pinned { snapshot, reason } => Self::Pinned { snapshot, reason },
            Known::Unpinned { snapshot } => Self::Unpinned { snapshot },
            Known::Accepted { snapshots, why } => Self::Accepted { snapshots, why },
            Known::Cleared { snapshots, why } => Self::Cleared { snapshots, why },
        })
    }
}

impl FactFile {
    /// Returns the JSON.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings, ids and JSON always become JSON")
    }

    /// Reads the JSON. A fact of an unknown kind is kept; a file of a newer version is an error.
    pub fn decode(json: &[u8]) -> FormatResult<Self> {
        let file: Self = serde_json::from_slice(json)?;
        if file.version != VERSION {
            return Err(FormatError::new(format!("version {} of facts is unknown", file.version)));
        }
        Ok(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(fact: Fact) -> FactFile {
        FactFile {
            version: 1,
            time: Timestamp::UNIX_EPOCH,
            hostname: "h".to_owned(),
            previous: vec![Id::of(b"p")],
            fact,
        }
    }

    fn snapshot() -> SnapshotRef {
        SnapshotRef { id: Id::of(b"s"), tree: Id::of(b"t"), database: "shop".to_owned() }
    }

    #[test]
    fn every_kind_is_read_back() {
        let text = || "text".to_owned();
        let facts = [
            Fact::Acknowledged { session: text(), snapshots: vec![snapshot()] },
            Fact::Forgotten { snapshots: vec![snapshot()], reason: text() },
            Fact::Verified { snapshot: snapshot(), level: text() },
            Fact::Damaged { snapshots: vec![snapshot()], findings: vec![text()] },
            Fact::Drilled { snapshot: snapshot(), passed: true, duration_ms: 1234 },
            Fact::Pinned { snapshot: snapshot(), reason: text() },
            Fact::Unpinned { snapshot: snapshot() },
            Fact::Accepted { snapshots: vec![snapshot()], why: text() },
            Fact::Cleared { snapshots: vec![snapshot()], why: text() },
        ];
        for (fact, kind) in facts.into_iter().zip(KNOWN_KINDS) {
            let file = file(fact);
            let json = file.encode();
            assert!(String::from_utf8_lossy(&json).contains(&format!("\"kind\":\"{kind}\"")));
            assert_eq!(FactFile::decode(&json).unwrap(), file);
        }
    }

    #[test]
    fn fact_of_a_newer_program_is_kept_as_it_is() {
        let json = br#"{"version":1,"time":"1970-01-01T00:00:00Z","fact":{"kind":"copied","to":"x"}}"#;
        let file = FactFile::decode(json).unwrap();
        assert!(matches!(&file.fact, Fact::Other(value) if value["to"] == "x"));
        assert_eq!(FactFile::decode(&file.encode()).unwrap(), file);
    }

    #[test]
    fn drill_of_an_older_program_has_no_duration() {
        let drilled = Fact::Drilled { snapshot: snapshot(), passed: true, duration_ms: 0 };
        let json = String::from_utf8(file(drilled.clone()).encode()).unwrap();
        let older = json.replace(",\"duration_ms\":0", "");
        assert_ne!(older, json);
        assert_eq!(FactFile::decode(older.as_bytes()).unwrap().fact, drilled);
    }

    #[test]
    fn newer_version_and_known_kind_without_its_fields_are_errors() {
        for json in [
            &br#"{"version":2,"time":"1970-01-01T00:00:00Z","fact":{"kind":"copied"}}"#[..],
            br#"{"version":1,"time":"1970-01-01T00:00:00Z","fact":{"kind":"forgotten"}}"#,
            br#"{"version":1,"time":"1970-01-01T00:00:00Z","fact":{}}"#,
        ] {
            assert!(FactFile::decode(json).is_err());
        }
    }
}
