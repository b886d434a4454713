//! What of the contents needs to be known before one relies on a backup.

use super::{Finding, Request, count, listed, text};
use crate::Result;
use crate::catalog::{Catalog, Kind, Name, Table};
use crate::facts::Facts;
use crate::schema::Filter;
use crate::snapshot::identifier;
use crate::wire::Connection;

/// Looks at the contents. The connection must be in a transaction.
pub(super) fn examine(
    connection: &mut Connection,
    catalog: &Catalog,
    facts: &Facts,
    request: &Request<'_>,
) -> Result<Vec<Finding>> {
    let filter = request.filter;
    let mut findings = missing_tables(catalog, filter);
    findings.extend(foreign_tables(catalog, filter));
    findings.extend(unlogged_tables(catalog, facts, request));
    findings.extend(tables_without_key(catalog, filter));
    if catalog.large_objects > 0 {
        let number = usize::try_from(catalog.large_objects).unwrap_or(usize::MAX);
        findings.push(Finding::note(
            "large objects",
            format!("{} in the database", count(number, "large object")),
        ));
    }
    findings.extend(extensions(facts));
    findings.extend(invalid_indexes(connection, filter)?);
    Ok(findings)
}

fn names<'a>(tables: impl Iterator<Item = &'a Table>) -> Vec<String> {
    tables.map(|table| table.name.quoted()).collect()
}

fn missing_tables(catalog: &Catalog, filter: &Filter) -> Vec<Finding> {
    let missing = crate::catalog::missing(catalog, &filter.tables);
    let finding = |name: &Name| {
        let message = "it is to be backed up, and is not there";
        Finding::warning(format!("table {}", name.quoted()), message)
            .advise("correct `tables` of the configuration")
    };
    let schemas = filter.schemas.iter().filter(|schema| {
        !catalog.tables.iter().any(|table| &table.name.schema == *schema)
            && !catalog.sequences.iter().any(|sequence| &sequence.name.schema == *schema)
    });
    let empty = |schema: &String| {
        Finding::warning(format!("schema {}", identifier(schema)), "it is to be backed up, and has no tables")
            .advise("correct `schemas` of the configuration")
    };
    missing.into_iter().map(finding).chain(schemas.map(empty)).collect()
}

fn foreign_tables(catalog: &Catalog, filter: &Filter) -> Option<Finding> {
    let foreign =
        names(catalog.tables.iter().filter(|table| table.kind == Kind::Foreign && filter.takes(&table.name)));
    (!foreign.is_empty()).then(|| {
        let message =
            format!("their rows are on other servers, and in no backup of this one: {}", listed(&foreign));
        Finding::note("foreign tables", message)
    })
}

fn unlogged_tables(catalog: &Catalog, facts: &Facts, request: &Request<'_>) -> Option<Finding> {
    let unlogged = catalog.tables.iter().filter(|table| !table.logged && request.reads(table));
    let unlogged = names(unlogged);
    (!unlogged.is_empty()).then(|| match facts.in_recovery {
        true => {
            let message = format!("a standby does not have their rows: {}", listed(&unlogged));
            Finding::problem("unlogged tables", message)
                .advise("back up the primary, or leave their data out")
        }
        false => {
            let message =
                format!("a crash of the server empties them; a backup has their rows: {}", listed(&unlogged));
            Finding::note("unlogged tables", message)
        }
    })
}

fn tables_without_key(catalog: &Catalog, filter: &Filter) -> Option<Finding> {
    let without = catalog.with_rows().filter(|table| table.key.is_none() && filter.takes(&table.name));
    let without = names(without);
    (!without.is_empty()).then(|| {
        let message = format!(
            "nothing tells their rows apart, so backups share less, and comparisons show a row that was changed as one that \
             went and one that came: {}",
            listed(&without)
        );
        Finding::note("tables without a key", message)
    })
}

fn extensions(facts: &Facts) -> Option<Finding> {
    let extensions = facts.extensions.iter().filter(|extension| extension.name != "plpgsql");
    let extensions: Vec<String> =
        extensions.map(|extension| format!("{} {}", extension.name, extension.version)).collect();
    (!extensions.is_empty()).then(|| {
        // All of them: who makes a server for a restore needs each.
        let message = format!("a server that this is restored into needs these: {}", extensions.join(", "));
        Finding::note("extensions", message)
    })
}

/// Indexes that a failed `CREATE INDEX CONCURRENTLY` left. `pg_dump` leaves them out.
fn invalid_indexes(connection: &mut Connection, filter: &Filter) -> Result<Vec<Finding>> {
    let rows = connection.query(
        "SELECT n.nspname, t.relname, x.relname FROM pg_catalog.pg_index i
         JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid AND x.relkind = 'i'
         JOIN pg_catalog.pg_class t ON t.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = t.relnamespace
         WHERE NOT i.indisvalid AND n.nspname !~ '^pg_' ORDER BY 1, 3",
        &[],
    )?;
    let finding = |row: &crate::wire::Row| {
        let table = Name { schema: text(row, 0).to_owned(), name: text(row, 1).to_owned() };
        let index = Name { schema: text(row, 0).to_owned(), name: text(row, 2).to_owned() }.quoted();
        filter.takes(&table).then(|| {
            let message =
                format!("it is not valid, and a backup does not have it; it is on {}", table.quoted());
            Finding::warning(format!("index {index}"), message)
                .advise(format!("REINDEX INDEX CONCURRENTLY {index}; or DROP INDEX CONCURRENTLY {index};"))
        })
    };
    Ok(rows.iter().filter_map(finding).collect())
}
