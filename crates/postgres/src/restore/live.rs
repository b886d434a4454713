//! What a database that tables are restored into has already.

use std::collections::BTreeSet;

use super::pick::name;
use crate::archive::Entry;
use crate::catalog::{ExtensionRows, Name, Table};
use crate::plan::Part;
use crate::rows::{RowSum, RowSummer};
use crate::wire::{Connection, Row};
use crate::{Error, Result};

/// Returns the number of a table or something like one.
pub(super) fn relation(connection: &mut Connection, name: &Name) -> Result<Option<String>> {
    let sql = "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid";
    Ok(connection.query(sql, &[Some(&name.quoted())])?.pop().and_then(|mut row| row.pop()?))
}

/// Returns those of these names that are foreign tables now.
pub(super) fn foreign(connection: &mut Connection, names: &BTreeSet<Name>) -> Result<BTreeSet<Name>> {
    let sql = "SELECT FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1) AND relkind = 'f'";
    let mut foreign = BTreeSet::new();
    for name in names {
        if !connection.query(sql, &[Some(&name.quoted())])?.is_empty() {
            foreign.insert(name.clone());
        }
    }
    Ok(foreign)
}

/// Returns those objects that are not there, as people call them. What cannot be asked for by a name is taken for there:
/// the server says so when it is not, and nothing is changed then.
pub(super) fn missing(connection: &mut Connection, needs: &[&Entry]) -> Result<Vec<String>> {
    let mut missing = BTreeSet::new();
    for entry in needs {
        if !is_there(connection, entry)? {
            missing.insert(entry.title());
        }
    }
    Ok(missing.into_iter().collect())
}

fn is_there(connection: &mut Connection, entry: &Entry) -> Result<bool> {
    let quoted = name(entry).map(|name| name.quoted());
    let sql = match entry.kind.as_str() {
        "TABLE" | "VIEW" | "MATERIALIZED VIEW" | "FOREIGN TABLE" | "SEQUENCE" | "INDEX" => {
            "SELECT FROM pg_catalog.pg_class WHERE oid = pg_catalog.to_regclass($1) AND $2::pg_catalog.text IS NOT NULL"
        }
        "TYPE" | "DOMAIN" => {
            "SELECT FROM pg_catalog.pg_type WHERE oid = pg_catalog.to_regtype($1) AND $2::pg_catalog.text IS NOT NULL"
        }
        "SCHEMA" => {
            "SELECT FROM pg_catalog.pg_namespace WHERE $1::pg_catalog.text IS NOT DISTINCT FROM $1 AND nspname = $2"
        }
        "EXTENSION" => {
            "SELECT FROM pg_catalog.pg_extension WHERE $1::pg_catalog.text IS NOT DISTINCT FROM $1 AND extname = $2"
        }
        "FUNCTION" | "PROCEDURE" | "AGGREGATE" => {
            "SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
             WHERE pg_catalog.starts_with($2, p.proname || '(')
               AND pg_catalog.starts_with($1, pg_catalog.format('\"%s\".', replace(n.nspname, '\"', '\"\"')))"
        }
        "COLLATION" => {
            "SELECT FROM pg_catalog.pg_collation c JOIN pg_catalog.pg_namespace n ON n.oid = c.collnamespace
             WHERE c.collname = $2
               AND pg_catalog.starts_with($1, pg_catalog.format('\"%s\".', replace(n.nspname, '\"', '\"\"')))"
        }
        _ => return Ok(true),
    };
    Ok(!connection.query(sql, &[quoted.as_deref(), Some(&entry.tag)])?.is_empty())
}

/// Returns what would be broken when tables are dropped: what is no part of them and needs them, as people call it.
pub(super) fn dependents(connection: &mut Connection, tables: &[String]) -> Result<Vec<String>> {
    let sql = "
        WITH tables AS (SELECT pg_catalog.unnest($1::pg_catalog.oid[]) AS oid),
        sequences AS (
            SELECT d.objid AS oid FROM pg_catalog.pg_depend d JOIN tables t ON d.refobjid = t.oid
            JOIN pg_catalog.pg_class c ON c.oid = d.objid AND c.relkind = 'S'
            WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
              AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.deptype IN ('a', 'i')),
        relations AS (
            SELECT oid FROM tables UNION SELECT oid FROM sequences
            UNION SELECT i.indexrelid FROM pg_catalog.pg_index i JOIN tables t ON i.indrelid = t.oid),
        types AS (
            SELECT y.oid FROM pg_catalog.pg_type y JOIN tables t ON y.typrelid = t.oid
            UNION SELECT y.typarray FROM pg_catalog.pg_type y JOIN tables t ON y.typrelid = t.oid WHERE y.typarray <> 0),
        found AS (
            SELECT DISTINCT d.classid, d.objid, d.objsubid FROM pg_catalog.pg_depend d
            WHERE d.deptype = 'n' AND (
                (d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.refobjid IN (SELECT oid FROM relations))
                OR (d.refclassid = 'pg_catalog.pg_type'::pg_catalog.regclass AND d.refobjid IN (SELECT oid FROM types)))
            UNION
            SELECT 'pg_catalog.pg_publication_rel'::pg_catalog.regclass, p.oid, 0
            FROM pg_catalog.pg_publication_rel p JOIN tables t ON p.prrelid = t.oid
            UNION
            SELECT 'pg_catalog.pg_class'::pg_catalog.regclass, h.inhrelid, 0
            FROM pg_catalog.pg_inherits h JOIN tables t ON h.inhparent = t.oid)
        SELECT DISTINCT coalesce(pg_catalog.pg_describe_object('pg_catalog.pg_class'::pg_catalog.regclass, w.ev_class, 0),
                        pg_catalog.pg_describe_object(f.classid, f.objid, f.objsubid))
        FROM found f
        LEFT JOIN pg_catalog.pg_rewrite w ON f.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND w.oid = f.objid
        LEFT JOIN pg_catalog.pg_constraint k
               ON f.classid = 'pg_catalog.pg_constraint'::pg_catalog.regclass AND k.oid = f.objid
        LEFT JOIN pg_catalog.pg_trigger g ON f.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass AND g.oid = f.objid
        LEFT JOIN pg_catalog.pg_policy y ON f.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND y.oid = f.objid
        LEFT JOIN pg_catalog.pg_attrdef a
               ON f.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND a.oid = f.objid
        WHERE NOT (f.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND f.objid IN (SELECT oid FROM relations))
          AND coalesce(w.ev_class, k.conrelid, g.tgrelid, y.polrelid, a.adrelid, 0)
              NOT IN (SELECT oid FROM tables)
        ORDER BY 1";
    let rows = connection.query(sql, &[Some(&array(tables))])?;
    Ok(rows.into_iter().flatten().flatten().collect())
}

/// Returns numbers as an array of the server.
pub(super) fn array(numbers: &[String]) -> String {
    format!("{{{}}}", numbers.join(","))
}

/// A table that is there, and what its rows must come to.
pub(super) struct Filled<'a> {
    /// As it was backed up; which rows of an extension's table are the user's is what the server says.
    pub(super) table: Table,
    /// Its number.
    pub(super) oid: String,
    pub(super) expected: RowSum,
    /// Where it comes from.
    pub(super) stored: &'a Table,
}

/// Looks at tables that are there. Those that are not are left out.
pub(super) fn filled<'a>(
    connection: &mut Connection,
    rows: &[(&'a Table, RowSum)],
) -> Result<Vec<Filled<'a>>> {
    let sql = "SELECT e.extname, coalesce(e.extcondition[pg_catalog.array_position(e.extconfig, $1::pg_catalog.oid)], '')
               FROM pg_catalog.pg_extension e WHERE $1::pg_catalog.oid = ANY (e.extconfig)";
    let mut found = Vec::new();
    for (stored, expected) in rows {
        let Some(oid) = relation(connection, &stored.name)? else { continue };
        let extension = connection.query(sql, &[Some(&oid)])?.pop();
        let extension = extension.map(|row| -> Result<ExtensionRows> {
            Ok(ExtensionRows { name: text(&row, 0)?, condition: text(&row, 1)? })
        });
        let table = Table { key: None, extension: extension.transpose()?, ..(*stored).clone() };
        found.push(Filled { table, oid, expected: *expected, stored });
    }
    Ok(found)
}

/// Deletes the rows of a table that a backup has. Returns whether that left an empty file, which rows may be put into that
/// nobody has to look at again.
pub(super) fn empty(connection: &mut Connection, table: &Table, may_truncate: bool) -> Result<bool> {
    let name = table.name.quoted();
    if table.extension.is_some() {
        // What the extension itself put there stays.
        let condition = Part::of_all().condition(table);
        connection.execute(&format!("DELETE FROM ONLY {name}{condition}"))?;
        return Ok(false);
    }
    if may_truncate {
        connection.execute(&format!("TRUNCATE ONLY {name}"))?;
    }
    Ok(may_truncate)
}

/// Says whether a table has rows that a backup would have.
pub(super) fn has_rows(connection: &mut Connection, table: &Table) -> Result<bool> {
    let condition = Part::of_all().condition(table);
    let sql = format!("SELECT FROM ONLY {}{condition} LIMIT 1", table.name.quoted());
    Ok(!connection.query(&sql, &[])?.is_empty())
}

/// Returns what a table holds, as the transaction of the session sees it. The columns are those of `table`, in that
/// order.
pub(super) fn sum(connection: &mut Connection, table: &Table) -> Result<RowSum> {
    let mut rows = connection.copy_out(&Part::of_all().statement(table))?;
    let mut summer = RowSummer::default();
    while let Some(piece) = rows.next_piece()? {
        summer.update(piece);
    }
    summer.finish().ok_or_else(|| Error::protocol("a row without an end"))
}

/// Returns a value of a row that must be there.
pub(super) fn text(row: &Row, column: usize) -> Result<String> {
    let value = row.get(column).cloned().flatten();
    value.ok_or_else(|| Error::protocol(format!("column {column} of an answer is missing")))
}
