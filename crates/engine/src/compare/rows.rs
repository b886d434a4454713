//! From what was found to what is reported.

use dbkeep_sqlite::compare::{
    Change, ColumnDifference, Comparison, RowDifference, SchemaObject, TableComparison, Value,
};

use crate::report::{
    CellValue, ColumnChange, CompareReport, ComparedSide, ComparedTable, RenamedColumn, RowChange, RowKind,
    SchemaChange, SchemaReport,
};

/// Writes down what was found.
pub(super) fn report(found: Comparison, left: ComparedSide, right: ComparedSide) -> CompareReport {
    let same = found.is_same();
    let objects = |objects: Vec<SchemaObject>| objects.into_iter().map(schema_change).collect();
    let schema = SchemaReport {
        added: objects(found.schema.added),
        removed: objects(found.schema.removed),
        changed: objects(found.schema.changed),
    };
    let tables = found.tables.into_iter().map(table).collect();
    CompareReport { same, left, right, schema, tables, sequences: Vec::new(), notes: Vec::new() }
}

fn schema_change(object: SchemaObject) -> SchemaChange {
    SchemaChange { kind: object.kind, name: object.name, left: object.left, right: object.right }
}

fn table(found: TableComparison) -> ComparedTable {
    let [columns_removed, columns_added] = found.columns;
    let renamed = found.renamed.into_iter();
    let differing = found.added + found.removed + found.changed;
    let listed = found.listed.len() as u64;
    ComparedTable {
        name: found.name,
        rows_left: found.rows[0],
        rows_right: found.rows[1],
        added: found.added,
        removed: found.removed,
        changed: found.changed,
        in_left: found.exists[0],
        in_right: found.exists[1],
        key: found.key,
        columns_added,
        columns_removed,
        columns_renamed: renamed.map(|(left, right)| RenamedColumn { left, right }).collect(),
        rows: found.listed.into_iter().map(row).collect(),
        more: differing.saturating_sub(listed),
        error: found.problem,
    }
}

fn row(found: RowDifference) -> RowChange {
    let change = match found.change {
        Change::Added => RowKind::Added,
        Change::Removed => RowKind::Removed,
        Change::Changed => RowKind::Changed,
    };
    let column = |one: ColumnDifference| ColumnChange {
        name: one.name,
        left: one.left.map(value),
        right: one.right.map(value),
    };
    let key = found.key.into_iter().map(|(name, key)| (name, value(key))).collect();
    RowChange { change, key, columns: found.columns.into_iter().map(column).collect() }
}

fn value(value: Value) -> CellValue {
    match value {
        Value::Null => CellValue::Null,
        Value::Integer(number) => CellValue::Integer(number),
        Value::Real(number) => CellValue::Real(number),
        Value::Text(text) => match String::from_utf8(text) {
            Ok(text) => CellValue::Text(text),
            Err(error) => CellValue::TextBytes(error.into_bytes()),
        },
        Value::Blob(blob) => CellValue::Blob(blob),
    }
}
