//! Which objects of an archive belong to some of its tables.
//!
//! Pure: the list of an archive and names in, objects out.

use std::collections::{BTreeMap, BTreeSet};

use crate::archive::{Archive, Entry, Stage};
use crate::catalog::{Catalog, Name};
use crate::snapshot::identifier;

/// What to make for some tables.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pick<'a> {
    /// What is made, in the order of the archive: the tables and everything that is nothing without them.
    pub(super) entries: Vec<&'a Entry>,
    /// What these need beside each other.
    pub(super) needs: Vec<&'a Entry>,
}

impl<'a> Pick<'a> {
    /// Returns what is made at a stage, in its order.
    ///
    /// A table becomes a part of one that is there already when it has its indexes and keys. The server takes these for the
    /// parts of the other's; where there are none it makes some, which are in the way of those of the archive.
    pub(super) fn at(&self, stage: Stage) -> Vec<&'a Entry> {
        let of_stage = self.entries.iter().filter(|entry| entry.stage == stage && !self.joins_another(entry));
        let mut all: Vec<&Entry> = of_stage.copied().collect();
        if stage == Stage::AfterRows {
            let is_index =
                |entry: &&Entry| matches!(entry.kind.as_str(), "INDEX" | "CONSTRAINT" | "INDEX ATTACH");
            let place = all.iter().rposition(is_index).map_or(0, |last| last + 1);
            let joins = self.entries.iter().filter(|entry| self.joins_another(entry));
            all.splice(place..place, joins.copied());
        }
        all
    }

    /// Returns whether a table becomes a part of one that is not made beside it.
    fn joins_another(&self, entry: &Entry) -> bool {
        if entry.kind != "TABLE ATTACH" {
            return false;
        }
        let whole = self.entries.iter().any(|other| {
            other.kind == "TABLE"
                && entry.needs.contains(&other.id)
                && (&other.schema, &other.tag) != (&entry.schema, &entry.tag)
        });
        !whole
    }
}

/// Returns what belongs to tables. With `needs`, also everything that they need, but no other table.
pub(super) fn pick<'a>(
    archive: &'a Archive,
    catalog: &Catalog,
    tables: &BTreeSet<Name>,
    needs: bool,
) -> Pick<'a> {
    let sequences: BTreeSet<Name> = catalog
        .sequences
        .iter()
        .filter(|sequence| sequence.owned_by.as_ref().is_some_and(|table| tables.contains(table)))
        .map(|sequence| sequence.name.clone())
        .collect();
    let mut picked: BTreeMap<i32, &Entry> = BTreeMap::new();
    let roots = archive.entries.iter().filter(|entry| match entry.kind.as_str() {
        // A partition may be a foreign one.
        "TABLE" | "FOREIGN TABLE" => name(entry).is_some_and(|name| tables.contains(&name)),
        "SEQUENCE" => name(entry).is_some_and(|name| sequences.contains(&name)),
        _ => false,
    });
    picked.extend(roots.map(|entry| (entry.id, entry)));
    let by_id: BTreeMap<i32, &Entry> = archive.entries.iter().map(|entry| (entry.id, entry)).collect();
    // What belongs to something stands behind it, so once through is enough.
    for entry in &archive.entries {
        if belongs(entry, &picked) {
            picked.insert(entry.id, entry);
        }
    }
    if needs {
        add_needs(&by_id, &mut picked);
        // And what is said of what was added.
        for entry in &archive.entries {
            let said = matches!(entry.kind.as_str(), "COMMENT" | "SECURITY LABEL" | "ACL");
            if said && !entry.needs.is_empty() && entry.needs.iter().all(|need| picked.contains_key(need)) {
                picked.insert(entry.id, entry);
            }
        }
    }
    let all = picked.values().flat_map(|entry| &entry.needs);
    let missing: BTreeSet<i32> = all.filter(|need| !picked.contains_key(need)).copied().collect();
    Pick {
        entries: archive.entries.iter().filter(|entry| picked.contains_key(&entry.id)).collect(),
        needs: missing.iter().filter_map(|need| by_id.get(need).copied()).collect(),
    }
}

/// Adds what comes before the rows and is needed, through all steps.
fn add_needs<'a>(by_id: &BTreeMap<i32, &'a Entry>, picked: &mut BTreeMap<i32, &'a Entry>) {
    let mut waiting: Vec<i32> = picked.values().flat_map(|entry| entry.needs.clone()).collect();
    while let Some(id) = waiting.pop() {
        let Some(entry) = by_id.get(&id).filter(|_| !picked.contains_key(&id)) else { continue };
        if entry.stage == Stage::BeforeRows && !matches!(entry.kind.as_str(), "TABLE" | "FOREIGN TABLE") {
            picked.insert(id, entry);
            waiting.extend(&entry.needs);
        }
    }
}

/// Returns the name of what has one in a schema.
pub(super) fn name(entry: &Entry) -> Option<Name> {
    Some(Name { schema: entry.schema.clone()?, name: entry.tag.clone() })
}

/// Returns whether something is nothing without what was picked.
fn belongs(entry: &Entry, picked: &BTreeMap<i32, &Entry>) -> bool {
    let needed = || entry.needs.iter().filter_map(|need| picked.get(need).copied());
    match entry.kind.as_str() {
        // These may be about other tables as well: whose they are stands at the begin of their name.
        "CONSTRAINT" | "CHECK CONSTRAINT" | "TRIGGER" | "RULE" | "POLICY" | "DEFAULT" => {
            needed().any(|table| {
                entry.schema == table.schema
                    && entry.tag.strip_prefix(&table.tag).is_some_and(|rest| rest.starts_with(' '))
            })
        }
        "FK CONSTRAINT" => needed().any(|table| table.kind == "TABLE" && alters(&entry.definition, table)),
        "INDEX" | "STATISTICS" | "ROW SECURITY" | "SEQUENCE OWNED BY" => needed().next().is_some(),
        "TABLE ATTACH" => needed().any(|table| table.schema == entry.schema && table.tag == entry.tag),
        // An index becomes a part of one that is there together with its table.
        "INDEX ATTACH" => needed().any(|index| enlarges(&entry.definition, index)),
        "COMMENT" | "SECURITY LABEL" | "ACL" => {
            !entry.needs.is_empty() && entry.needs.iter().all(|need| picked.contains_key(need))
        }
        _ => false,
    }
}

/// Returns whether a definition alters a table.
fn alters(definition: &str, table: &Entry) -> bool {
    ["ALTER TABLE ONLY ", "ALTER TABLE "].iter().any(|begin| {
        definition.strip_prefix(begin).is_some_and(|rest| goes_on_with(rest, table, &table.tag, "\n"))
    })
}

/// Returns whether a definition gives a part to an index, which may be that of a constraint.
fn enlarges(definition: &str, index: &Entry) -> bool {
    // The name of a constraint stands behind that of its table, and both may have spaces.
    let behind_spaces = index.tag.match_indices(' ').map(|(place, space)| &index.tag[place + space.len()..]);
    let names: Vec<&str> = match index.kind.as_str() {
        "INDEX" => vec![&index.tag],
        "CONSTRAINT" => behind_spaces.collect(),
        _ => Vec::new(),
    };
    definition
        .strip_prefix("ALTER INDEX ")
        .is_some_and(|rest| names.iter().any(|name| goes_on_with(rest, index, name, " ATTACH PARTITION ")))
}

/// Returns whether a text goes on with a name in the schema of an object, and something behind it. `pg_dump` quotes names
/// only where they need it.
fn goes_on_with(text: &str, object: &Entry, name: &str, behind: &str) -> bool {
    let schema = object.schema.clone().unwrap_or_default();
    let ways = |name: &str| [name.to_owned(), identifier(name)];
    ways(&schema)
        .iter()
        .any(|schema| ways(name).iter().any(|name| text.starts_with(&format!("{schema}.{name}{behind}"))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Sequence;

    fn entry(id: i32, kind: &str, tag: &str, definition: &str, needs: &[i32]) -> Entry {
        let stage = if id < 10 { Stage::BeforeRows } else { Stage::AfterRows };
        Entry {
            tag: tag.to_owned(),
            schema: Some("s".to_owned()),
            definition: definition.to_owned(),
            ..Entry::sample(id, kind, stage, needs)
        }
    }

    fn named(name: &str) -> Name {
        Name { schema: "s".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn partition_joins_a_table_that_is_there_when_it_has_its_indexes() {
        let archive = Archive {
            server: None,
            entries: vec![
                entry(1, "TABLE", "all", "", &[]),
                entry(2, "TABLE", "part", "", &[]),
                entry(3, "TABLE ATTACH", "part", "", &[1, 2]),
                entry(10, "CONSTRAINT", "all pk", "", &[1]),
                entry(11, "CONSTRAINT", "part part_pk", "", &[2, 10]),
                entry(12, "INDEX", "i", "", &[1]),
                entry(13, "INDEX", "part_i", "", &[2, 12]),
                entry(
                    14,
                    "INDEX ATTACH",
                    "part_pk",
                    "ALTER INDEX s.pk ATTACH PARTITION s.part_pk",
                    &[2, 1, 11, 10],
                ),
                entry(
                    15,
                    "INDEX ATTACH",
                    "part_i",
                    "ALTER INDEX s.\"i\" ATTACH PARTITION s.part_i",
                    &[2, 1, 13, 12],
                ),
                entry(16, "TRIGGER", "part t", "", &[2]),
            ],
        };
        let order = |names: &[&str]| {
            let names = names.iter().map(|name| named(name)).collect();
            let pick = pick(&archive, &Catalog::default(), &names, false);
            let ids = |stage| pick.at(stage).iter().map(|entry| entry.id).collect::<Vec<_>>();
            (ids(Stage::BeforeRows), ids(Stage::AfterRows))
        };
        assert_eq!(order(&["all", "part"]), (vec![1, 2, 3], vec![10, 11, 12, 13, 14, 15, 16]));
        assert_eq!(order(&["part"]), (vec![2], vec![11, 13, 3, 16]));
    }

    #[test]
    fn table_takes_along_what_is_nothing_without_it_and_says_what_it_needs() {
        let archive = Archive {
            server: None,
            entries: vec![
                entry(1, "SCHEMA", "s", "", &[]),
                entry(2, "TYPE", "mood", "", &[1]),
                entry(3, "TABLE", "a", "", &[1, 2]),
                entry(4, "SEQUENCE", "a_id", "", &[1, 3]),
                entry(5, "TABLE", "a b", "", &[1]),
                entry(6, "COMMENT", "COLUMN a.x", "", &[3]),
                entry(7, "VIEW", "v", "", &[3]),
                entry(10, "CONSTRAINT", "a pk", "", &[3]),
                entry(11, "CONSTRAINT", "a b pk", "", &[5]),
                entry(12, "FK CONSTRAINT", "a b x", "ALTER TABLE ONLY s.a\n    ADD", &[3, 5, 11]),
                entry(13, "FK CONSTRAINT", "a b x", "ALTER TABLE ONLY s.\"a b\"\n    ADD", &[3, 5, 10]),
                entry(14, "INDEX", "i", "", &[3]),
                entry(15, "COMMENT", "INDEX i", "", &[14]),
                entry(16, "COMMENT", "VIEW v", "", &[7]),
            ],
        };
        let catalog = Catalog {
            sequences: vec![Sequence {
                name: named("a_id"),
                owned_by: Some(named("a")),
                ..Sequence::default()
            }],
            ..Catalog::default()
        };
        let ids = |entries: &[&Entry]| entries.iter().map(|entry| entry.id).collect::<Vec<_>>();
        let only = |name| BTreeSet::from([named(name)]);
        let found = pick(&archive, &catalog, &only("a"), false);
        assert_eq!(ids(&found.entries), [3, 4, 6, 10, 12, 14, 15]);
        assert_eq!(ids(&found.needs), [1, 2, 5, 11]);
        let found = pick(&archive, &catalog, &only("a b"), false);
        assert_eq!((ids(&found.entries), ids(&found.needs)), (vec![5, 11, 13], vec![1, 3, 10]));
        let found = pick(&archive, &catalog, &only("a"), true);
        assert_eq!(ids(&found.entries), [1, 2, 3, 4, 6, 10, 12, 14, 15]);
        assert_eq!(ids(&found.needs), [5, 11], "no other table");
    }
}
