//! What `pg_dump` writes of a database of which only some is wanted.
//!
//! By itself it writes what was named and nothing that this needs: no schema and no type of a table that was named, no
//! extension with a schema. Such an archive cannot be restored anywhere. So the schemas of what the tables that are
//! wanted need are written too, without their other tables: types, functions of defaults and checks, orders of text,
//! sequences, tables that they inherit from; and all extensions. References that leave what is wanted (foreign keys,
//! policies, triggers, views) are not followed: a restore lists them.

use std::collections::BTreeSet;
use std::ffi::OsString;

use crate::Result;
use crate::catalog::{Name, value};
use crate::schema::Filter;
use crate::wire::{Connection, Row};

/// From this version on `pg_dump` can be told of extensions.
const EXTENSIONS: u32 = 14;

/// What goes into an archive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// These schemas; all when there are none.
    schemas: BTreeSet<String>,
    /// But not these tables, views and sequences of them.
    without: BTreeSet<Name>,
    /// The schemas of which all tables, views and sequences are left out.
    without_all: BTreeSet<String>,
    /// These extensions; all when no schemas are named.
    extensions: Vec<String>,
    /// Tables that are no part of what is wanted, and that it needs.
    pub(crate) needed: BTreeSet<Name>,
    /// Sequences of that kind, and views.
    pub(crate) needed_others: BTreeSet<Name>,
}

/// A table, view or sequence.
struct Relation {
    oid: String,
    name: Name,
    kind: String,
    /// The table that a sequence is of.
    of: Option<String>,
}

impl Extent {
    /// Reads what the transaction of a connection sees. The filter has all partitions by name.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub fn read(connection: &mut Connection, filter: &Filter) -> Result<Self> {
        if filter.is_everything() {
            return Ok(Self::default());
        }
        let rows = connection.query(RELATIONS, &[])?;
        let relations: Vec<Relation> = rows.iter().map(Relation::of).collect::<Result<_>>()?;
        let tables = relations.iter().filter(|it| it.is_table() && filter.takes(&it.name));
        let roots: Vec<&str> = tables.map(|it| it.oid.as_str()).collect();
        let needs = connection.query(NEEDS, &[Some(&format!("{{{}}}", roots.join(",")))])?;
        let (mut schemas, mut needed) = (BTreeSet::new(), BTreeSet::new());
        for row in &needs {
            match value(row, 0)? {
                "schema" => schemas.insert(value(row, 1)?.to_owned()),
                _ => needed.insert(value(row, 1)?.to_owned()),
            };
        }
        let mut extensions = Vec::new();
        for row in &connection.query(OWN_EXTENSIONS, &[])? {
            extensions.push(value(row, 0)?.to_owned());
        }
        Ok(Self::of(filter, &relations, &needed, schemas, extensions))
    }

    /// Pure.
    fn of(
        filter: &Filter,
        relations: &[Relation],
        needed: &BTreeSet<String>,
        schemas: BTreeSet<String>,
        extensions: Vec<String>,
    ) -> Self {
        let mut extent = Self { extensions, ..Self::default() };
        if !filter.schemas.is_empty() || !filter.tables.is_empty() {
            extent.schemas = schemas;
            let named = filter.tables.iter().filter(|table| filter.takes(table));
            extent.schemas.extend(named.map(|table| table.schema.clone()));
            if filter.tables.is_empty() {
                extent.schemas.extend(filter.schemas.iter().cloned());
            }
        }
        let taken: BTreeSet<&str> =
            relations.iter().filter(|it| filter.takes(&it.name)).map(|it| it.oid.as_str()).collect();
        let mut kept = BTreeSet::new();
        for relation in relations {
            if !extent.has_schema(&relation.name.schema) {
                continue;
            }
            let wanted = taken.contains(relation.oid.as_str())
                || relation.of.as_deref().is_some_and(|table| taken.contains(table));
            let is_needed = needed.contains(&relation.oid);
            if is_needed && !wanted {
                let into = if relation.is_table() { &mut extent.needed } else { &mut extent.needed_others };
                into.insert(relation.name.clone());
            }
            if wanted || is_needed {
                kept.insert(relation.name.schema.clone());
            } else {
                extent.without.insert(relation.name.clone());
            }
        }
        extent.without_all = extent.without.iter().map(|name| name.schema.clone()).collect();
        extent.without_all.retain(|schema| !kept.contains(schema));
        extent
    }

    fn has_schema(&self, schema: &str) -> bool {
        self.schemas.is_empty() || self.schemas.contains(schema)
    }

    /// Returns whether something of that name is in the archive.
    pub(crate) fn takes(&self, name: &Name) -> bool {
        self.has_schema(&name.schema) && !self.without.contains(name)
    }

    /// Returns whether there are extensions that a `pg_dump` of this version leaves out.
    pub(crate) fn lacks_extensions(&self, major: u32) -> bool {
        major < EXTENSIONS && !self.schemas.is_empty() && !self.extensions.is_empty()
    }

    /// Returns what a `pg_dump` of this version calls it.
    pub(crate) fn arguments(&self, major: u32) -> Vec<OsString> {
        let schemas = self.schemas.iter().map(|schema| format!("--schema={}", pattern(schema)));
        let whole = self.without_all.iter().map(|schema| format!("--exclude-table={}.*", pattern(schema)));
        let some = self.without.iter().filter(|name| !self.without_all.contains(&name.schema));
        let some =
            some.map(|name| format!("--exclude-table={}.{}", pattern(&name.schema), pattern(&name.name)));
        // Where no schema is named all of them are written anyhow.
        let extensions = self.extensions.iter().filter(|_| major >= EXTENSIONS && !self.schemas.is_empty());
        let extensions = extensions.map(|name| format!("--extension={}", pattern(name)));
        schemas.chain(whole).chain(some).chain(extensions).map(OsString::from).collect()
    }
}

/// Returns a pattern that fits one name only: in double quotes no sign has a meaning.
fn pattern(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

impl Relation {
    fn of(row: &Row) -> Result<Self> {
        Ok(Self {
            oid: value(row, 0)?.to_owned(),
            name: Name { schema: value(row, 1)?.to_owned(), name: value(row, 2)?.to_owned() },
            kind: value(row, 3)?.to_owned(),
            of: row.get(4).cloned().flatten(),
        })
    }

    fn is_table(&self) -> bool {
        matches!(self.kind.as_str(), "r" | "p")
    }
}

/// Everything that `pg_dump` takes for a table, but for what extensions made, and sequences of identity columns, which go
/// with their tables.
const RELATIONS: &str = "
    SELECT c.oid, n.nspname, c.relname, c.relkind, o.refobjid
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_depend o ON c.relkind = 'S' AND o.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
          AND o.objid = c.oid AND o.refclassid = o.classid AND o.refobjsubid > 0 AND o.deptype IN ('a', 'i')
    WHERE c.relkind IN ('r', 'p', 'f', 'm', 'v', 'S') AND c.relpersistence <> 't'
      AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema' AND o.deptype IS DISTINCT FROM 'i'
      AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                      AND e.objid = c.oid AND e.deptype = 'e')";

/// What tables need, through all steps: schemas by name, tables, views and sequences by number. A partition stands without
/// what it is a part of, and a sequence without the table that it is of. What an extension made needs the extension.
const NEEDS: &str = "
    WITH RECURSIVE needed (classid, objid) AS (
        SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid, pg_catalog.unnest($1::pg_catalog.oid[])
        UNION
        SELECT next.classid, next.objid FROM needed n CROSS JOIN LATERAL (
            SELECT d.refclassid, d.refobjid FROM pg_catalog.pg_depend d
            WHERE d.classid = n.classid AND d.objid = n.objid AND d.deptype IN ('n', 'a', 'i', 'e')
              AND NOT (d.deptype = 'a' AND d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
                       AND d.refclassid = d.classid)
              AND (d.deptype = 'e' OR NOT EXISTS (
                  SELECT FROM pg_catalog.pg_depend e
                  WHERE e.classid = n.classid AND e.objid = n.objid AND e.deptype = 'e'))
            UNION ALL
            SELECT 'pg_catalog.pg_attrdef'::pg_catalog.regclass, a.oid FROM pg_catalog.pg_attrdef a
            WHERE n.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND a.adrelid = n.objid
            UNION ALL
            SELECT 'pg_catalog.pg_constraint'::pg_catalog.regclass, k.oid FROM pg_catalog.pg_constraint k
            WHERE k.contype = 'c'
              AND ((n.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND k.conrelid = n.objid)
                   OR (n.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND k.contypid = n.objid))
            UNION ALL
            SELECT 'pg_catalog.pg_rewrite'::pg_catalog.regclass, r.oid FROM pg_catalog.pg_rewrite r
            WHERE n.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND r.ev_class = n.objid AND r.ev_type = '1'
        ) AS next (classid, objid))
    SELECT 'schema', s.nspname::pg_catalog.text FROM needed n JOIN pg_catalog.pg_namespace s ON s.oid = n.objid
    WHERE n.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass
      AND s.nspname !~ '^pg_' AND s.nspname <> 'information_schema'
    UNION ALL
    SELECT 'relation', n.objid::pg_catalog.text FROM needed n
    WHERE n.classid = 'pg_catalog.pg_class'::pg_catalog.regclass";

/// The extensions that somebody made.
const OWN_EXTENSIONS: &str =
    "SELECT extname FROM pg_catalog.pg_extension WHERE oid >= 16384 ORDER BY extname";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::Place;

    const SQL: &str = r#"
        CREATE SCHEMA words; CREATE SCHEMA deep; CREATE SCHEMA other; CREATE SCHEMA audit;
        CREATE TYPE words.mood AS ENUM ('ok'); CREATE TABLE words.unused (n int); CREATE VIEW words.seen AS SELECT 1;
        CREATE FUNCTION deep.is_fine(text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
        CREATE DOMAIN words.short AS text CHECK (deep.is_fine(VALUE));
        CREATE TABLE other.parent (n int); CREATE TABLE other.stranger (n int PRIMARY KEY); CREATE SEQUENCE other.numbers;
        CREATE TABLE audit.log (m words.mood[], s words.short, id bigint DEFAULT nextval('other.numbers'),
                                r int REFERENCES other.stranger) INHERITS (other.parent);
        CREATE TABLE audit."x""y" (id serial); CREATE VIEW audit.v AS SELECT 1;
        CREATE TABLE users (id serial)"#;

    fn arguments(place: &Place, filter: &Filter) -> Vec<String> {
        let (mut holder, _) = place.hold();
        let extent = Extent::read(holder.connection(), filter).unwrap();
        extent.arguments(99).into_iter().map(|it| it.into_string().unwrap()).collect()
    }

    #[test]
    fn what_tables_need_is_written_with_them_and_no_other_table() {
        let name = |schema: &str, name: &str| Name { schema: schema.to_owned(), name: name.to_owned() };
        let only = Filter { tables: vec![name("audit", "log")], ..Filter::default() };
        let without = Filter { without: vec![name("public", "users")], ..Filter::default() };
        let schema = Filter { schemas: vec!["audit".to_owned()], ..Filter::default() };
        let from_elsewhere = [r#"--exclude-table="words".*"#, r#"--exclude-table="other"."stranger""#];
        let schemas = ["audit", "deep", "other", "words"].map(|it| format!("--schema=\"{it}\""));
        for place in Place::on_all("extents", SQL) {
            let mut expected = schemas.to_vec();
            expected.push(from_elsewhere[0].to_owned());
            expected.extend(
                [r#""audit"."v""#, r#""audit"."x""y""#, r#""audit"."x""y_id_seq""#]
                    .map(|it| format!("--exclude-table={it}")),
            );
            expected.push(from_elsewhere[1].to_owned());
            assert_eq!(arguments(&place, &only), expected);
            let expected: Vec<String> =
                schemas.iter().cloned().chain(from_elsewhere.map(str::to_owned)).collect();
            assert_eq!(arguments(&place, &schema), expected);
            assert_eq!(arguments(&place, &without), ["--exclude-table=\"public\".\"users\""]);
            assert_eq!(arguments(&place, &Filter::default()), [""; 0]);
            let (mut holder, _) = place.hold();
            let extent = Extent::read(holder.connection(), &only).unwrap();
            assert_eq!(extent.needed, [name("other", "parent")].into());
            assert_eq!(extent.needed_others, [name("other", "numbers")].into());
            assert!(extent.takes(&name("words", "mood")) && !extent.takes(&name("words", "unused")));
        }
    }
}
