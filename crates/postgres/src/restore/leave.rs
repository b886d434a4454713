//! What a restored database can be without.
//!
//! Rows need tables, and tables need what their definitions name: without one of these a restore ends. Whatever else a
//! server refuses is lost by itself and told. Pure: judged by what an object is and by the code of the server, never by
//! what the server says, since that is in the language of the server.

use std::collections::{BTreeSet, HashMap};

use crate::archive::{Archive, Entry};
use crate::error::is_of_the_server;

/// The objects that rows cannot be without.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Essential(BTreeSet<i32>);

impl Essential {
    /// Returns the tables and sequences of an archive, and all that they need.
    pub(super) fn of(archive: &Archive) -> Self {
        let by_id: HashMap<i32, &Entry> = archive.entries.iter().map(|entry| (entry.id, entry)).collect();
        let roots =
            archive.entries.iter().filter(|entry| matches!(entry.kind.as_str(), "TABLE" | "SEQUENCE"));
        let mut waiting: Vec<i32> = roots.map(|entry| entry.id).collect();
        let mut found = BTreeSet::new();
        while let Some(id) = waiting.pop() {
            if let Some(entry) = by_id.get(&id).filter(|_| found.insert(id)) {
                waiting.extend(&entry.needs);
            }
        }
        Self(found)
    }

    /// Returns whether a restore goes on without an object that the server refuses with this code.
    pub(super) fn can_be_left(&self, entry: &Entry, code: &str) -> bool {
        match entry.kind.as_str() {
            // The view itself is there. Its query may do anything, even to ask another server.
            "MATERIALIZED VIEW DATA" => !code.starts_with("57P"),
            // Without it everybody would see what policies hide.
            "ROW SECURITY" => false,
            // The partition is there, and what it is a part of is in no archive.
            "TABLE ATTACH" => is_absent(code),
            _ => !self.0.contains(&entry.id) && !is_from_outside(code),
        }
    }
}

/// Returns whether a code is no answer to a statement, but says that it cannot be carried out now: because of other
/// sessions, or of the server itself.
pub(crate) fn is_from_outside(code: &str) -> bool {
    let class = code.get(..2).unwrap_or_default();
    is_of_the_server(code) || matches!(class, "25" | "40") || code == "55P03"
}

/// Returns whether a code says that a table or its schema is not there.
fn is_absent(code: &str) -> bool {
    matches!(code, "42P01" | "3F000")
}

/// Returns whether a table that is brought back into a database in use can be without something: what is only said of
/// it. Its indexes, constraints, triggers and policies are a part of it, and whoever replaces a table would miss them.
pub(super) fn is_beside_a_table(kind: &str) -> bool {
    matches!(kind, "ACL" | "COMMENT" | "DEFAULT ACL" | "SECURITY LABEL")
}

/// Returns whether an object is nothing without another one, so that it goes where that one goes.
pub(super) fn goes_with_another(kind: &str) -> bool {
    matches!(
        kind,
        "COMMENT"
            | "SECURITY LABEL"
            | "ACL"
            | "PUBLICATION TABLE"
            | "PUBLICATION TABLES IN SCHEMA"
            | "SUBSCRIPTION TABLE"
            | "SERVER"
            | "USER MAPPING"
            | "FOREIGN TABLE"
            | "TABLE ATTACH"
            | "INDEX ATTACH"
            | "MATERIALIZED VIEW DATA"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Stage;

    fn entry(id: i32, kind: &str, needs: &[i32]) -> Entry {
        Entry::sample(id, kind, Stage::BeforeRows, needs)
    }

    #[test]
    fn what_rows_need_is_never_left_and_other_things_only_where_the_server_can_go_on() {
        let entries = vec![
            entry(1, "SCHEMA", &[]),
            entry(2, "TYPE", &[1]),
            entry(3, "FUNCTION", &[2]),
            entry(4, "TABLE", &[3]),
            entry(5, "SEQUENCE", &[]),
            entry(6, "FUNCTION", &[4]),
            entry(7, "VIEW", &[4, 6]),
            entry(8, "TABLE ATTACH", &[4]),
            entry(9, "MATERIALIZED VIEW DATA", &[7]),
            entry(10, "ROW SECURITY", &[4]),
            entry(11, "EXTENSION", &[]),
        ];
        let archive = Archive { server: None, entries };
        let essential = Essential::of(&archive);
        let left = |code: &str| -> Vec<i32> {
            let left = archive.entries.iter().filter(|entry| essential.can_be_left(entry, code));
            left.map(|entry| entry.id).collect()
        };
        assert_eq!(left("42501"), [6, 7, 9, 11]);
        assert_eq!(left("42P01"), [6, 7, 8, 9, 11]);
        assert_eq!(left("08001"), [6, 7, 9, 11], "another server that is asked");
        for outside in ["53100", "40P01", "57014", "58030", "25P02", "XX001"] {
            assert_eq!(left(outside), [9], "{outside}");
        }
        assert_eq!(left("57P01"), [0; 0], "the session has ended");
    }
}
