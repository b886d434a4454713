//! What an export of rows says of the PostgreSQL database that they are of.

use std::collections::BTreeMap;

use dbkeep_postgres::archive::{Archive, Stage};
use dbkeep_postgres::catalog::{Identity, Name, Sequence};
use dbkeep_postgres::script;
use serde::Serialize;

use super::{Member, Opened, label};
use crate::export::text::{Counts, Origin};

/// The mark of a readable JSON document.
pub const SERVED_JSON_FORMAT: &str = "dbkeep postgres json 1";
/// The mark of a lossless document of one JSON object a row.
pub const SERVED_NDJSON_FORMAT: &str = "dbkeep postgres ndjson 1";
/// The mark of a directory of CSV files.
pub const SERVED_CSV_FORMAT: &str = "dbkeep postgres csv 1";

/// What is said of a database beside its rows.
#[derive(Debug, Serialize)]
pub(super) struct Metadata<'m> {
    #[serde(flatten)]
    origin: Origin<'m>,
    server_version: &'m str,
    encoding: &'m str,
    values: &'static str,
    pub(super) row_counts: Counts,
    rows: u64,
    /// In the order of the rows.
    tables: Vec<TableFacts<'m>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) files: Option<BTreeMap<String, String>>,
    cycles: Vec<Vec<String>>,
    sequences: Vec<SequenceFacts<'m>>,
    schema: Vec<ObjectFacts>,
    notes: Vec<String>,
}

#[derive(Debug, Serialize)]
struct TableFacts<'m> {
    name: String,
    schema: &'m str,
    table: &'m str,
    rows: u64,
    /// The sum of the hashes of all rows, as COPY writes them.
    row_hash: &'m str,
    bytes: u64,
    columns: Vec<ColumnFacts<'m>>,
    key: &'m [String],
    references: Vec<Reference<'m>>,
}

#[derive(Debug, Serialize)]
struct ColumnFacts<'m> {
    name: &'m str,
    #[serde(rename = "type")]
    type_name: &'m str,
    not_null: bool,
    /// Computed from others, so that no row has it.
    generated: bool,
    identity: Option<&'static str>,
    default: Option<&'m str>,
}

#[derive(Debug, Serialize)]
struct Reference<'m> {
    columns: &'m [String],
    table: String,
    referenced: &'m [String],
}

#[derive(Debug, Serialize)]
struct SequenceFacts<'m> {
    name: String,
    last_value: Option<i64>,
    is_called: bool,
    owned_by: Option<&'m Name>,
}

#[derive(Debug, Serialize)]
struct ObjectFacts {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    schema: Option<String>,
    stage: &'static str,
    sql: String,
}

impl Opened<'_> {
    /// Says what is known of the database.
    pub(super) fn metadata<'m>(
        &'m self,
        members: &[Member<'m>],
        cycles: Vec<Vec<String>>,
        archive: Option<Archive>,
        (format, values): (&'static str, &'static str),
        notes: &[String],
    ) -> Metadata<'m> {
        let server = &self.served.facts.server;
        let counts = members.iter().map(|member| (member.label.clone(), member.proof.rows)).collect();
        Metadata {
            origin: self.export.origin(self.subject, format),
            server_version: &server.version,
            encoding: &server.properties.encoding,
            values,
            row_counts: Counts(counts),
            rows: members.iter().map(|member| member.proof.rows).sum(),
            tables: members.iter().map(table).collect(),
            files: None,
            cycles,
            sequences: self.served.catalog.sequences.iter().map(sequence).collect(),
            schema: archive.map(objects).unwrap_or_default(),
            notes: notes.to_vec(),
        }
    }
}

fn table<'m>(member: &Member<'m>) -> TableFacts<'m> {
    let table = member.table;
    let columns = table.columns.iter().map(|column| ColumnFacts {
        name: &column.name,
        type_name: &column.type_name,
        not_null: column.not_null,
        generated: column.generated,
        identity: column.identity.map(|identity| match identity {
            Identity::Always => "always",
            Identity::ByDefault => "by-default",
        }),
        default: column.default.as_deref(),
    });
    let references = table.foreign_keys.iter().map(|key| Reference {
        columns: &key.columns,
        table: label(&key.table),
        referenced: &key.referenced,
    });
    TableFacts {
        name: member.label.clone(),
        schema: &table.name.schema,
        table: &table.name.name,
        rows: member.proof.rows,
        row_hash: &member.proof.hash,
        bytes: member.proof.size,
        columns: columns.collect(),
        key: table.key.as_ref().map_or(&[], |key| &key.columns),
        references: references.collect(),
    }
}

fn sequence(sequence: &Sequence) -> SequenceFacts<'_> {
    SequenceFacts {
        name: label(&sequence.name),
        last_value: sequence.readable.then_some(sequence.last_value),
        is_called: sequence.is_called,
        owned_by: sequence.owned_by.as_ref(),
    }
}

fn objects(archive: Archive) -> Vec<ObjectFacts> {
    let entries = archive.entries.into_iter();
    let facts = entries.filter(|entry| !entry.definition.is_empty() && !script::is_setting(entry));
    let facts = facts.map(|entry| ObjectFacts {
        kind: entry.kind.to_lowercase(),
        name: entry.tag,
        schema: entry.schema,
        stage: match entry.stage {
            Stage::BeforeRows => "before-rows",
            Stage::Rows => "rows",
            Stage::AfterRows => "after-rows",
            Stage::Privileges => "privileges",
            Stage::Last => "last",
        },
        sql: entry.definition,
    });
    facts.collect()
}
