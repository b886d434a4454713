//! Bringing rows back into tables that are there.
//!
//! One transaction: all rows or none. Foreign keys of the tables are dropped in it and made again at its end, which
//! checks them, so that neither the order of tables nor cycles matter and no superuser is needed. Triggers stay silent
//! meanwhile. What was restored is read and summed up again before it is committed.

use std::collections::BTreeSet;

use super::Wanted;
use super::live::{Filled, array, empty, filled, foreign, has_rows, relation, text};
use super::objects::session;
use super::tables::{keep_all_out, keep_writers_out, verify, was_foreign};
use crate::catalog::{Name, Sequence, Table};
use crate::conninfo::ConnInfo;
use crate::load::{put, set_sequences};
use crate::rows::RowSum;
use crate::snapshot::{SETTINGS, identifier};
use crate::wire::{Connection, Options};
use crate::{Error, Result};

/// Brings rows back into tables that are there and empty, all or nothing. With `replace` they may have rows, which are
/// gone then. Sequences that belong to the tables are set to where they stood.
///
/// # Errors
/// [`Error::Missing`] for tables and columns that are not there, [`Error::NotEmpty`] for tables with rows,
/// [`Error::Needed`] where foreign keys of other tables refer to rows that would go. Nothing is changed then, nor after
/// any other error.
pub fn restore_rows(info: &ConnInfo, options: &Options, wanted: &Wanted<'_>) -> Result<()> {
    let all = wanted.all()?;
    let mut connection = session(info, options)?;
    connection.execute("BEGIN")?;
    connection.execute(SETTINGS)?;
    connection.execute("SET LOCAL synchronous_commit = on")?;
    // A foreign partition cannot be locked, and has no rows here.
    let (foreign, names) = kinds(&mut connection, &all, wanted)?;
    let rows = lock_tables(&mut connection, &names, &wanted.rows(&names))?;
    let tables = numbers(&mut connection, &names)?;
    let known = [tables.clone(), numbers(&mut connection, &foreign)?].concat();
    refuse_newer_partitions(&mut connection, &known)?;
    let may_truncate = make_room(&mut connection, &tables, &rows, wanted.replace)?;
    if wanted.replace {
        (wanted.before)(&names.iter().cloned().collect::<Vec<_>>())?;
    }
    if !names.is_empty() {
        let all: Vec<String> = names.iter().map(|name| format!("ONLY {}", name.quoted())).collect();
        keep_all_out(&mut connection, &all.join(", "))?;
    }
    let keys = drop_foreign_keys(&mut connection, &tables)?;
    let triggers = silence_triggers(&mut connection, &tables)?;
    for one in &rows {
        let freeze = empty(&mut connection, &one.table, may_truncate)?;
        let pieces = 0..wanted.giver.pieces(one.stored)?;
        put(&mut connection, one.stored, pieces, wanted.giver, freeze)?;
    }
    set_owned_sequences(&mut connection, &wanted.catalog.sequences, &names)?;
    triggers.iter().chain(&keys).try_for_each(|statement| connection.execute(statement))?;
    verify(&mut connection, &rows)?;
    connection.execute("COMMIT")
}

/// Returns the tables whose rows were on another server and are, and those whose rows were here and are.
///
/// # Errors
/// [`Error::Missing`] for a table in whose place a foreign one is. One in the place of a foreign one is left to
/// [`refuse_newer_partitions`]: the backup has none of its rows.
fn kinds(
    connection: &mut Connection,
    all: &BTreeSet<Name>,
    wanted: &Wanted<'_>,
) -> Result<(BTreeSet<Name>, BTreeSet<Name>)> {
    let are = foreign(connection, all)?;
    let (were, own): (BTreeSet<Name>, BTreeSet<Name>) =
        all.iter().cloned().partition(|name| was_foreign(wanted.catalog, name));
    let place = "the database";
    match own.iter().find(|name| are.contains(name)) {
        Some(name) => Err(Error::Missing {
            place,
            what: vec![format!("table {}.{} (a foreign table is there)", name.schema, name.name)],
        }),
        None => Ok((were.intersection(&are).cloned().collect(), own)),
    }
}

/// Locks the tables against writers, and makes sure that they have the columns.
fn lock_tables<'a>(
    connection: &mut Connection,
    names: &BTreeSet<Name>,
    rows: &[(&'a Table, RowSum)],
) -> Result<Vec<Filled<'a>>> {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for name in names {
        match relation(connection, name)? {
            Some(_) => there.push(format!("ONLY {}", name.quoted())),
            None => missing.push(format!("table {}.{}", name.schema, name.name)),
        }
    }
    if !there.is_empty() {
        keep_writers_out(connection, &there.join(", "))?;
    }
    // By the lock they are what they will be.
    let rows = filled(connection, rows)?;
    for one in &rows {
        missing.extend(missing_columns(connection, &one.table, &one.oid)?);
    }
    match missing.is_empty() {
        true => Ok(rows),
        false => Err(Error::Missing { place: "the database", what: missing }),
    }
}

fn numbers(connection: &mut Connection, names: &BTreeSet<Name>) -> Result<Vec<String>> {
    let found: Result<Vec<_>> = names.iter().map(|name| relation(connection, name)).collect();
    Ok(found?.into_iter().flatten().collect())
}

/// Refuses partitions that the backup does not have and that have rows: these would be neither those of the backup nor
/// gone.
fn refuse_newer_partitions(connection: &mut Connection, tables: &[String]) -> Result<()> {
    let sql = "WITH RECURSIVE down AS (
                   SELECT pg_catalog.unnest($1::pg_catalog.oid[]) AS oid
                   UNION
                   SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN down ON i.inhparent = down.oid
                   JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid AND c.relispartition)
               SELECT n.nspname, c.relname FROM down JOIN pg_catalog.pg_class c ON c.oid = down.oid
               JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
               WHERE c.relkind IN ('r', 'f') AND c.oid <> ALL ($1::pg_catalog.oid[]) ORDER BY 1, 2";
    let mut by = Vec::new();
    for row in connection.query(sql, &[Some(&array(tables))])? {
        let name = Name { schema: text(&row, 0)?, name: text(&row, 1)? };
        if !connection.query(&format!("SELECT FROM {} LIMIT 1", name.quoted()), &[])?.is_empty() {
            by.push(format!("partition {}.{}, which the backup does not have", name.schema, name.name));
        }
    }
    if by.is_empty() {
        Ok(())
    } else {
        Err(Error::Needed { what: "rows of a partitioned table".to_owned(), by })
    }
}

fn missing_columns(connection: &mut Connection, table: &Table, oid: &str) -> Result<Vec<String>> {
    let sql = "SELECT attname FROM pg_catalog.pg_attribute
               WHERE attrelid = $1::pg_catalog.oid AND attnum > 0 AND NOT attisdropped AND attgenerated = ''";
    let there: BTreeSet<String> =
        connection.query(sql, &[Some(oid)])?.into_iter().flatten().flatten().collect();
    let stored = table.columns.iter().filter(|column| !column.generated);
    let absent = stored.filter(|column| !there.contains(&column.name));
    let Name { schema, name } = &table.name;
    Ok(absent.map(|column| format!("column {} of table {schema}.{name}", column.name)).collect())
}

/// Makes sure that the tables are empty or may be emptied. Returns whether they can be: not while foreign keys of other
/// tables refer to them.
fn make_room(
    connection: &mut Connection,
    tables: &[String],
    rows: &[Filled<'_>],
    replace: bool,
) -> Result<bool> {
    let mut filled = Vec::new();
    for Filled { table, .. } in rows {
        if has_rows(connection, table)? {
            filled.push(format!("{}.{}", table.name.schema, table.name.name));
        }
    }
    if !filled.is_empty() && !replace {
        return Err(Error::NotEmpty { tables: filled });
    }
    let sql = "SELECT DISTINCT pg_catalog.format('foreign key %I of table %s', c.conname, c.conrelid::pg_catalog.regclass)
               FROM pg_catalog.pg_constraint c
               WHERE c.contype = 'f' AND c.confrelid = ANY ($1::pg_catalog.oid[]) AND c.conrelid <> ALL ($1::pg_catalog.oid[])
               ORDER BY 1";
    let by: Vec<String> =
        connection.query(sql, &[Some(&array(tables))])?.into_iter().flatten().flatten().collect();
    if !filled.is_empty() && !by.is_empty() {
        return Err(Error::Needed { what: filled.join(", "), by });
    }
    Ok(by.is_empty())
}

/// Drops the foreign keys of tables. Returns the statements that make them again. Those of a partition are dropped with
/// that of the whole.
fn drop_foreign_keys(connection: &mut Connection, tables: &[String]) -> Result<Vec<String>> {
    let sql = "WITH RECURSIVE up AS (
                   SELECT c.oid, c.conparentid FROM pg_catalog.pg_constraint c
                   WHERE c.contype = 'f' AND c.conrelid = ANY ($1::pg_catalog.oid[])
                   UNION
                   SELECT c.oid, c.conparentid FROM pg_catalog.pg_constraint c JOIN up ON c.oid = up.conparentid)
               SELECT n.nspname, r.relname, c.conname, pg_catalog.pg_get_constraintdef(c.oid), r.relkind,
                      pg_catalog.obj_description(c.oid, 'pg_constraint')
               FROM pg_catalog.pg_constraint c JOIN up ON up.oid = c.oid AND c.conparentid = 0
               JOIN pg_catalog.pg_class r ON r.oid = c.conrelid JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
               ORDER BY c.oid";
    let rows = connection.query(sql, &[Some(&array(tables))])?;
    let mut again = Vec::new();
    for row in rows {
        let table = Name { schema: text(&row, 0)?, name: text(&row, 1)? }.quoted();
        let constraint = identifier(&text(&row, 2)?);
        connection.execute(&format!("ALTER TABLE {table} DROP CONSTRAINT {constraint}"))?;
        again.push(format!("ALTER TABLE {table} ADD CONSTRAINT {constraint} {}", text(&row, 3)?));
        if let Some(comment) = row.get(5).cloned().flatten() {
            let comment = crate::snapshot::literal(&comment);
            again.push(format!("COMMENT ON CONSTRAINT {constraint} ON {table} IS {comment}"));
        }
    }
    Ok(again)
}

/// Lets the triggers of tables do nothing. Returns the statements that make them as they were.
fn silence_triggers(connection: &mut Connection, tables: &[String]) -> Result<Vec<String>> {
    let sql = "SELECT n.nspname, r.relname, t.tgname, t.tgenabled FROM pg_catalog.pg_trigger t
               JOIN pg_catalog.pg_class r ON r.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = r.relnamespace
               WHERE NOT t.tgisinternal AND t.tgenabled <> 'D' AND t.tgrelid = ANY ($1::pg_catalog.oid[])
               ORDER BY t.oid";
    let rows = connection.query(sql, &[Some(&array(tables))])?;
    let mut again = Vec::new();
    for row in rows {
        let table = Name { schema: text(&row, 0)?, name: text(&row, 1)? }.quoted();
        let trigger = identifier(&text(&row, 2)?);
        let enable = match text(&row, 3)?.as_str() {
            "R" => "ENABLE REPLICA",
            "A" => "ENABLE ALWAYS",
            _ => "ENABLE",
        };
        connection.execute(&format!("ALTER TABLE ONLY {table} DISABLE TRIGGER {trigger}"))?;
        again.push(format!("ALTER TABLE ONLY {table} {enable} TRIGGER {trigger}"));
    }
    Ok(again)
}

/// Sets the sequences of tables, so that an error later takes that back too.
fn set_owned_sequences(
    connection: &mut Connection,
    sequences: &[Sequence],
    names: &BTreeSet<Name>,
) -> Result<()> {
    let mut there = Vec::new();
    for sequence in sequences {
        let owned = sequence.owned_by.as_ref().is_some_and(|table| names.contains(table));
        if owned && sequence.readable && relation(connection, &sequence.name)?.is_some() {
            // It has another file from here on, so what is set is part of the transaction.
            connection.execute(&format!("ALTER SEQUENCE {} RESTART", sequence.name.quoted()))?;
            there.push(sequence.clone());
        }
    }
    set_sequences(connection, &there)
}
