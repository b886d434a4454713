//! What a database that tables are restored into has already.

use std::collections::BTreeSet;

use super::pick::name;
use crate::archive::Entry;
use crate::catalog::{Name, Table};
use crate::plan::{Part, Range};
use crate::rows::{RowSum, RowSummer};
use crate::wire::{Connection, Row};
use crate::{Error, Result};

/// Returns the number of a table or something like one.
pub(super) fn relation(connection: &mut Connection, name: &Name) -> Result<Option<String>> {
    let sql = "SELECT pg_catalog.to_regclass($1)::pg_catalog.oid";
    Ok(connection.query(sql, &[Some(&name.quoted())])?.pop().and_then(|mut row| row.pop()?))
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

/// Returns what a table holds, as the transaction of the session sees it. The columns are those of `table`, in that
/// order.
pub(super) fn sum(connection: &mut Connection, table: &Table) -> Result<RowSum> {
    // In no order, and all rows.
    let table = Table { key: None, extension: None, ..table.clone() };
    let part = Part { table: 0, number: 0, parts: 1, bytes: 0, range: Range::Whole };
    let mut rows = connection.copy_out(&part.statement(&table))?;
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
