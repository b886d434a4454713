//! What this user may not read, and what is hidden from it.

use std::collections::{BTreeMap, BTreeSet};

use super::{Finding, Request, count, text};
use crate::Result;
use crate::catalog::{Catalog, Kind, Name, Table};
use crate::facts::Facts;
use crate::schema::Filter;
use crate::snapshot::identifier;
use crate::wire::Connection;

/// So many tables of a schema are named one by one.
const NAMED: usize = 50;

/// Looks at the rights of this user. The connection must be in a transaction.
pub(super) fn examine(
    connection: &mut Connection,
    catalog: &Catalog,
    facts: &Facts,
    request: &Request<'_>,
) -> Result<Vec<Finding>> {
    let filter = request.filter;
    let user = identifier(&facts.user);
    let tables: Vec<&Table> = catalog
        .tables
        .iter()
        // What has no rows of its own needs no right, but pg_dump locks what is partitioned.
        .filter(|table| matches!(table.kind, Kind::Ordinary | Kind::Partitioned) && filter.takes(&table.name))
        .collect();
    let sequences: Vec<&Name> = catalog
        .sequences
        .iter()
        .filter(|sequence| takes_sequence(filter, &sequence.name, sequence.owned_by.as_ref()))
        .map(|sequence| &sequence.name)
        .collect();
    let mut findings = closed_schemas(connection, &tables, &sequences, &user)?;
    findings.extend(unreadable_tables(connection, &tables, &user)?);
    findings.extend(unreadable_sequences(connection, catalog, filter, &user)?);
    findings.extend(hidden_rows(tables.iter().copied().filter(|table| request.reads(table)), &user));
    findings.extend(large_objects(connection, catalog, &user)?);
    if findings.is_empty() {
        let message = format!(
            "{} can read all rows of {} and {}",
            facts.user,
            count(tables.len(), "table"),
            count(sequences.len(), "sequence")
        );
        findings.push(Finding::ok("rights", message));
    }
    Ok(findings)
}

/// Returns whether a sequence is part of what is backed up; one that belongs to a table goes with it.
fn takes_sequence(filter: &Filter, name: &Name, owned_by: Option<&Name>) -> bool {
    match owned_by {
        Some(table) => filter.takes(table),
        None => filter.tables.is_empty() && filter.takes(name),
    }
}

fn closed_schemas(
    connection: &mut Connection,
    tables: &[&Table],
    sequences: &[&Name],
    user: &str,
) -> Result<Vec<Finding>> {
    let used: BTreeSet<&str> = tables
        .iter()
        .map(|table| &table.name)
        .chain(sequences.iter().copied())
        .map(|name| name.schema.as_str())
        .collect();
    let rows = connection.query(
        "SELECT nspname FROM pg_catalog.pg_namespace WHERE NOT pg_catalog.has_schema_privilege(oid, 'USAGE') ORDER BY 1",
        &[],
    )?;
    let closed = rows.iter().map(|row| text(row, 0)).filter(|schema| used.contains(schema));
    let finding = |schema: &str| {
        let name = identifier(schema);
        Finding::problem(format!("schema {name}"), "this user may not use it, and so nothing in it")
            .advise(format!("GRANT USAGE ON SCHEMA {name} TO {user};"))
    };
    Ok(closed.map(finding).collect())
}

fn unreadable_tables(connection: &mut Connection, tables: &[&Table], user: &str) -> Result<Vec<Finding>> {
    let rows = connection.query(
        "SELECT oid FROM pg_catalog.pg_class
         WHERE relkind IN ('r', 'p') AND NOT pg_catalog.has_table_privilege(oid, 'SELECT')",
        &[],
    )?;
    let refused: BTreeSet<&str> = rows.iter().map(|row| text(row, 0)).collect();
    let mut by_schema: BTreeMap<&str, Vec<&Table>> = BTreeMap::new();
    for table in tables.iter().filter(|table| refused.contains(table.oid.to_string().as_str())) {
        by_schema.entry(&table.name.schema).or_default().push(table);
    }
    let mut findings = Vec::new();
    for (schema, tables) in by_schema {
        findings.extend(tables.iter().take(NAMED).map(|table| {
            let name = table.name.quoted();
            Finding::problem(format!("table {name}"), "this user may not read it")
                .advise(format!("GRANT SELECT ON TABLE {name} TO {user};"))
        }));
        if tables.len() > NAMED {
            let schema = identifier(schema);
            let message =
                format!("{} more that this user may not read", count(tables.len() - NAMED, "table"));
            findings.push(
                Finding::problem(format!("schema {schema}"), message)
                    .advise(format!("GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {user};")),
            );
        }
    }
    Ok(findings)
}

fn unreadable_sequences(
    connection: &mut Connection,
    catalog: &Catalog,
    filter: &Filter,
    user: &str,
) -> Result<Vec<Finding>> {
    // What is no sequence is an error to the function, and conditions are tried in any order but for this one.
    let rows = connection.query(
        "SELECT oid FROM pg_catalog.pg_class
         WHERE CASE WHEN relkind = 'S' THEN NOT pg_catalog.has_sequence_privilege(oid, 'SELECT') ELSE false END",
        &[],
    )?;
    let refused: BTreeSet<&str> = rows.iter().map(|row| text(row, 0)).collect();
    let unreadable = catalog.sequences.iter().filter(|sequence| {
        refused.contains(sequence.oid.to_string().as_str())
            && takes_sequence(filter, &sequence.name, sequence.owned_by.as_ref())
    });
    let finding = |name: String| {
        Finding::problem(format!("sequence {name}"), "this user may not read where it stands")
            .advise(format!("GRANT SELECT ON SEQUENCE {name} TO {user};"))
    };
    Ok(unreadable.map(|sequence| finding(sequence.name.quoted())).collect())
}

/// Policies would make a table look empty; our connections make that an error, so the backup fails instead.
fn hidden_rows<'t>(tables: impl Iterator<Item = &'t Table>, user: &str) -> Vec<Finding> {
    tables
        .filter(|table| table.hidden)
        .map(|table| {
            let name = table.name.quoted();
            Finding::problem(format!("table {name}"), "row-level security hides rows of it from this user")
                .advise(format!("ALTER ROLE {user} BYPASSRLS;"))
        })
        .collect()
}

fn large_objects(connection: &mut Connection, catalog: &Catalog, user: &str) -> Result<Option<Finding>> {
    if catalog.large_objects == 0 {
        return Ok(None);
    }
    let rows = connection.query(
        "SELECT oid, pg_catalog.count(*) OVER () FROM pg_catalog.pg_largeobject_metadata m
         WHERE pg_catalog.current_setting('lo_compat_privileges') <> 'on'
           AND NOT pg_catalog.pg_has_role(lomowner, 'USAGE')
           AND NOT EXISTS (SELECT FROM pg_catalog.aclexplode(m.lomacl) AS a WHERE a.privilege_type = 'SELECT'
                           AND (a.grantee = 0 OR pg_catalog.pg_has_role(a.grantee, 'USAGE')))
         ORDER BY oid LIMIT 1",
        &[],
    )?;
    Ok(rows.first().map(|row| {
        let number = text(row, 1).parse().unwrap_or(1);
        let message = format!("{} that this user may not read", count(number, "large object"));
        let advice =
            format!("GRANT SELECT ON LARGE OBJECT {} TO {user}; and so for the others", text(row, 0));
        Finding::problem("large objects", message).advise(advice)
    }))
}
