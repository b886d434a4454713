//! What differs in the objects of two databases, by the archives that `pg_dump` made of them. Pure.

use std::collections::{BTreeMap, BTreeSet};

use dbkeep_postgres::archive::{Archive, Entry};
use dbkeep_postgres::catalog::Name;
use dbkeep_postgres::facts::Facts;

use crate::report::{SchemaChange, SchemaReport};
use crate::served;

/// What an object is known by: its kind, its schema, its name.
type Key<'a> = (String, &'a str, &'a str);

/// Adds what differs in the objects. `tables` are those that are meant with what is theirs; all objects without any.
pub(super) fn objects(
    left: &Archive,
    right: &Archive,
    tables: Option<&BTreeSet<Name>>,
    into: &mut SchemaReport,
) {
    let (mut lefts, mut rights) = (by_key(left, tables), by_key(right, tables));
    let keys: BTreeSet<Key<'_>> = lefts.keys().chain(rights.keys()).cloned().collect();
    for key in keys {
        let (lefts, rights) =
            (lefts.remove(&key).unwrap_or_default(), rights.remove(&key).unwrap_or_default());
        one(&key, lefts, rights, into);
    }
}

/// Compares all objects of one name; operators and casts may share one.
fn one(key: &Key<'_>, mut lefts: Vec<String>, mut rights: Vec<String>, into: &mut SchemaReport) {
    lefts.retain(|left| match rights.iter().position(|right| right == left) {
        Some(place) => {
            rights.remove(place);
            false
        }
        None => true,
    });
    let mut rights = rights.into_iter();
    let mut lefts = lefts.into_iter();
    loop {
        let (left, right) = (lefts.next(), rights.next());
        let list = match (&left, &right) {
            (None, None) => return,
            (None, Some(_)) => &mut into.added,
            (Some(_), None) => &mut into.removed,
            (Some(_), Some(_)) => &mut into.changed,
        };
        list.push(SchemaChange { kind: key.0.clone(), name: shown(key), left, right });
    }
}

fn shown(key: &Key<'_>) -> String {
    if key.1.is_empty() {
        return key.2.to_owned();
    }
    match key.0.as_str() {
        // Only of these the tag is a name and nothing else.
        "table" | "view" | "materialized view" | "sequence" | "index" | "foreign table" | "type"
        | "domain" => served::shown(&Name { schema: key.1.to_owned(), name: key.2.to_owned() }),
        _ => format!("{}.{}", key.1, key.2),
    }
}

fn by_key<'a>(archive: &'a Archive, tables: Option<&BTreeSet<Name>>) -> BTreeMap<Key<'a>, Vec<String>> {
    let meant = |entry: &&Entry| tables.is_none_or(|tables| belongs(archive, entry, tables));
    let mut found: BTreeMap<Key<'a>, Vec<String>> = BTreeMap::new();
    for entry in archive.entries.iter().filter(meant).filter(|entry| !is_of_archive(entry)) {
        let key =
            (entry.kind.to_lowercase(), entry.schema.as_deref().unwrap_or_default(), entry.tag.as_str());
        found.entry(key).or_default().push(text(entry));
    }
    found.values_mut().for_each(|texts| texts.sort_unstable());
    found
}

/// Returns whether an entry is no object: it says how the archive is to be read, or what the server counted.
fn is_of_archive(entry: &Entry) -> bool {
    matches!(entry.kind.as_str(), "ENCODING" | "STDSTRINGS" | "SEARCHPATH" | "STATISTICS DATA")
}

/// Returns whether an entry is one of some tables, or one that has no sense without it.
fn belongs(archive: &Archive, entry: &Entry, tables: &BTreeSet<Name>) -> bool {
    let is_table = |entry: &Entry| {
        let name = Name { schema: entry.schema.clone().unwrap_or_default(), name: entry.tag.clone() };
        entry.kind == "TABLE" && tables.contains(&name)
    };
    let stands_alone = matches!(
        entry.kind.as_str(),
        "TABLE"
            | "VIEW"
            | "MATERIALIZED VIEW"
            | "FUNCTION"
            | "PROCEDURE"
            | "AGGREGATE"
            | "TYPE"
            | "DOMAIN"
            | "SEQUENCE"
    );
    let of = |table: &&Entry| entry.needs.contains(&table.id) && is_table(table);
    if stands_alone {
        return is_table(entry);
    }
    match archive.entries.iter().find(of) {
        // A foreign key needs the table that it refers to as well, and is of the other one.
        Some(table) if entry.kind == "FK CONSTRAINT" => {
            archive
                .entries
                .iter()
                .any(|one| is_table(one) && one.schema == entry.schema && is_of(entry, &one.tag))
                || is_of(entry, &table.tag)
        }
        found => found.is_some(),
    }
}

/// Returns whether the tag of a constraint begins with the name of a table.
fn is_of(entry: &Entry, table: &str) -> bool {
    entry.tag.strip_prefix(table).is_some_and(|rest| rest.starts_with(' '))
}

/// Returns what is compared of an object.
fn text(entry: &Entry) -> String {
    let mut text = entry.definition.trim().to_owned();
    let known = [
        ("Owner", Some(&entry.owner).filter(|owner| !owner.is_empty())),
        ("Tablespace", entry.tablespace.as_ref()),
        ("Access method", entry.access_method.as_ref().filter(|method| *method != "heap")),
    ];
    for (what, value) in known {
        if let Some(value) = value {
            text.push_str(&format!("\n-- {what}: {value}"));
        }
    }
    text
}

/// Adds what differs in the database itself: how it orders text, which extensions it has in which version.
pub(super) fn properties(left: &Facts, right: &Facts, into: &mut SchemaReport) {
    let (one, other) = (&left.properties, &right.properties);
    let provider = |provider: &Option<(String, String)>| {
        provider.as_ref().map_or_else(|| "libc".to_owned(), |(name, locale)| format!("{name} {locale}"))
    };
    let settings = [
        ("encoding", one.encoding.clone(), other.encoding.clone()),
        ("collate", one.collate.clone(), other.collate.clone()),
        ("character type", one.character_type.clone(), other.character_type.clone()),
        ("locale provider", provider(&one.provider), provider(&other.provider)),
        ("ICU rules", one.icu_rules.clone().unwrap_or_default(), other.icu_rules.clone().unwrap_or_default()),
    ];
    for (name, left, right) in settings.into_iter().filter(|(_, left, right)| left != right) {
        into.changed.push(changed("setting", name, left, right));
    }
    for extension in &left.extensions {
        let same = right.extensions.iter().find(|other| other.name == extension.name);
        if let Some(other) = same.filter(|other| other.version != extension.version) {
            let (left, right) = (extension.version.clone(), other.version.clone());
            into.changed.push(changed("setting", &format!("extension {}", extension.name), left, right));
        }
    }
}

fn changed(kind: &str, name: &str, left: String, right: String) -> SchemaChange {
    SchemaChange { kind: kind.to_owned(), name: name.to_owned(), left: Some(left), right: Some(right) }
}

#[cfg(test)]
mod tests {
    use dbkeep_postgres::archive::Stage;
    use dbkeep_postgres::facts::Extension;

    use super::*;

    fn entry(id: i32, kind: &str, tag: &str, definition: &str, needs: &[i32]) -> Entry {
        Entry {
            id,
            kind: kind.to_owned(),
            tag: tag.to_owned(),
            schema: Some("public".to_owned()),
            owner: "ada".to_owned(),
            stage: Stage::BeforeRows,
            definition: definition.to_owned(),
            drop: String::new(),
            tablespace: None,
            access_method: None,
            needs: needs.to_vec(),
        }
    }

    fn archive(entries: &[Entry]) -> Archive {
        Archive { server: None, entries: entries.to_vec() }
    }

    fn names(changes: &[SchemaChange]) -> Vec<String> {
        changes.iter().map(|change| format!("{} {}", change.kind, change.name)).collect()
    }

    fn compared(left: &[Entry], right: &[Entry], tables: Option<&[&str]>) -> [Vec<String>; 3] {
        let mut report = SchemaReport::default();
        let name = |name: &&str| Name { schema: "public".to_owned(), name: (*name).to_owned() };
        let tables = tables.map(|tables| tables.iter().map(name).collect());
        objects(&archive(left), &archive(right), tables.as_ref(), &mut report);
        [&report.added, &report.removed, &report.changed].map(|changes| names(changes))
    }

    #[test]
    fn objects_are_known_by_kind_and_name_whatever_their_number() {
        let left = [
            entry(1, "TABLE", "a b", "CREATE TABLE x", &[]),
            entry(2, "FUNCTION", "f(integer)", "one", &[]),
            entry(3, "INDEX", "gone", "CREATE INDEX", &[1]),
            entry(4, "OPERATOR", "=", "for one", &[]),
            entry(5, "OPERATOR", "=", "for two", &[]),
        ];
        let mut given = left[0].clone();
        given.owner = "grace".to_owned();
        let right = [
            entry(9, "OPERATOR", "=", "for two", &[]),
            entry(8, "OPERATOR", "=", "for one", &[]),
            entry(7, "FUNCTION", "f(integer)", "two", &[]),
            entry(6, "VIEW", "v", "CREATE VIEW", &[]),
            given,
        ];
        let [added, removed, changed] = compared(&left, &right, None);
        assert_eq!(added, ["view public.v"]);
        assert_eq!(removed, ["index public.gone"]);
        assert_eq!(changed, ["function public.f(integer)", "table public.\"a b\""]);
        assert_eq!(compared(&left, &left, None), [const { Vec::<String>::new() }; 3]);
    }

    #[test]
    fn with_tables_named_only_they_and_what_is_theirs_count() {
        let left = [entry(1, "TABLE", "a", "a", &[]), entry(2, "TABLE", "b", "b", &[])];
        let mut right = left.to_vec();
        right.extend([
            entry(3, "INDEX", "of_a", "", &[1]),
            entry(4, "INDEX", "of_b", "", &[2]),
            entry(5, "FK CONSTRAINT", "b b_to_a", "", &[1, 2]),
            entry(6, "FK CONSTRAINT", "a a_to_b", "", &[1, 2]),
            entry(7, "VIEW", "v", "", &[1]),
            entry(8, "TABLE", "a_copy", "", &[1]),
        ]);
        let added = |tables: &[&str]| compared(&left, &right, Some(tables))[0].clone();
        assert_eq!(added(&["a"]), ["fk constraint public.a a_to_b", "index public.of_a"]);
        assert_eq!(added(&["b"]), ["fk constraint public.b b_to_a", "index public.of_b"]);
    }

    #[test]
    fn properties_and_versions_of_extensions_count() {
        let mut left = Facts::default();
        left.properties.collate = "C".to_owned();
        let extension =
            |version: &str| Extension { name: "hstore".into(), version: version.into(), schema: "x".into() };
        left.extensions = vec![extension("1.7")];
        let mut right = left.clone();
        let mut report = SchemaReport::default();
        properties(&left, &right, &mut report);
        assert_eq!(report, SchemaReport::default());
        right.properties.collate = "de_DE".to_owned();
        right.extensions = vec![extension("1.8")];
        properties(&left, &right, &mut report);
        assert_eq!(names(&report.changed), ["setting collate", "setting extension hstore"]);
        assert_eq!(report.changed[1].right.as_deref(), Some("1.8"));
    }
}
