//! Exports a database as one JSON document, or as one JSON object a row.

use std::io::{self, Write};

use dbkeep_sqlite::contents::{Selection, Table, Value};

use super::place::Finished;
use super::rows::Opened;
use super::text::{JSON_FORMAT, JSON_VALUES, Metadata, NDJSON_FORMAT, push_json, push_string};
use super::written::write;
use super::{Export, Exported, Subject};
use crate::report::TableRows;
use crate::{Error, Result};

/// How rows are laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Layout {
    /// `{"metadata":…,"tables":{"users":[…]}}`.
    Document,
    /// A line a row.
    Lines,
}

impl Export<'_> {
    /// Writes `{"metadata":{…},"tables":{"users":[{…}]}}`, a row a line.
    pub(super) fn json(&self, subject: &Subject, finished: &mut Vec<Finished>) -> Result<Exported> {
        self.json_file(subject, Layout::Document, finished)
    }

    /// Writes `{"metadata":{…}}`, then `{"table":"users","row":{…}}` for each row, and `{"end":{…}}`.
    pub(super) fn ndjson(&self, subject: &Subject, finished: &mut Vec<Finished>) -> Result<Exported> {
        self.json_file(subject, Layout::Lines, finished)
    }

    fn json_file(&self, subject: &Subject, layout: Layout, finished: &mut Vec<Finished>) -> Result<Exported> {
        let opened = self.open_rows(subject)?;
        let (tables, mut notes) = opened.readable_tables();
        let columns: Vec<(Selection, Vec<String>)> =
            tables.iter().map(|table| opened.selection(table, &mut notes)).collect();
        let mark = if layout == Layout::Document { JSON_FORMAT } else { NDJSON_FORMAT };
        let metadata = self.metadata(subject, &opened, &tables, (mark, JSON_VALUES), notes.clone())?;
        let staged = self.place.file()?;
        let mut counts = Vec::new();
        let sum = write(staged.file(), |out| {
            let mut document = Document { out, layout, opened: &opened };
            document.begin(&metadata)?;
            for (at, (table, (selection, names))) in tables.iter().zip(&columns).enumerate() {
                let rows = document.table(table, selection, names, at == 0)?;
                counts.push(TableRows { name: table.name.clone(), rows });
            }
            document.end(&counts)
        });
        let sum = sum.map_err(|failed| failed.into_error(self))?;
        drop(metadata);
        opened.finish(&counts)?;
        let ending = if layout == Layout::Document { "json" } else { "ndjson" };
        let name = format!("{}.{ending}", subject.stem());
        let checksum = self.checksum(&name, &sum)?;
        finished.push(Finished::File { staged, name, sum });
        finished.push(checksum);
        Ok(Exported { bytes: sum.bytes, sha256: None, notes })
    }
}

/// Why a document did not come about: reading told an error of ours, writing one of the system.
pub(super) enum Failed {
    Reading(Error),
    Writing(io::Error),
}

impl Failed {
    pub(super) fn into_error(self, export: &Export<'_>) -> Error {
        match self {
            Self::Reading(error) => error,
            Self::Writing(error) => export.write_failed(error),
        }
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Writing(error)
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Reading(error)
    }
}

/// A document that is being written.
struct Document<'d, W> {
    out: &'d mut W,
    layout: Layout,
    opened: &'d Opened<'d>,
}

impl<W: Write> Document<'_, W> {
    fn begin(&mut self, metadata: &Metadata<'_>) -> io::Result<()> {
        match self.layout {
            Layout::Document => {
                let text = serde_json::to_string_pretty(metadata)?;
                write!(self.out, "{{\n\"metadata\": {text},\n\"tables\": {{")
            }
            Layout::Lines => {
                let text = serde_json::to_string(metadata)?;
                writeln!(self.out, "{{\"metadata\":{text}}}")
            }
        }
    }

    fn table(
        &mut self,
        table: &Table,
        selection: &Selection,
        columns: &[String],
        is_first: bool,
    ) -> Result<u64, Failed> {
        let keys: Vec<String> = columns.iter().enumerate().map(|(at, name)| key(at, name)).collect();
        let mut start = String::new();
        push_string(&mut start, &table.name);
        if self.layout == Layout::Document {
            let comma = if is_first { "" } else { "," };
            write!(self.out, "{comma}\n{start}: [")?;
        }
        let start = format!("{{\"table\":{start},\"row\":");
        let (layout, out) = (self.layout, &mut *self.out);
        let mut line = String::new();
        let mut is_first_row = true;
        let rows = self.opened.each_row(table, selection, &mut |values| {
            line.clear();
            match layout {
                Layout::Document => line.push_str(if is_first_row { "\n" } else { ",\n" }),
                Layout::Lines => line.push_str(&start),
            }
            is_first_row = false;
            push_row(&mut line, &keys, values);
            if layout == Layout::Lines {
                line.push_str("}\n");
            }
            out.write_all(line.as_bytes())
        })?;
        if layout == Layout::Document {
            let end = if rows == 0 { "]" } else { "\n]" };
            out.write_all(end.as_bytes())?;
        }
        Ok(rows)
    }

    fn end(&mut self, counts: &[TableRows]) -> Result<(), Failed> {
        let rows: u64 = counts.iter().map(|table| table.rows).sum();
        match self.layout {
            Layout::Document => writeln!(self.out, "\n}}\n}}")?,
            // Without it a file that was cut at the end of a line would look whole.
            Layout::Lines => {
                writeln!(self.out, "{{\"end\":{{\"tables\":{},\"rows\":{rows}}}}}", counts.len())?;
            }
        }
        Ok(())
    }
}

/// Returns what stands before the value of a column.
fn key(at: usize, name: &str) -> String {
    let mut key = String::from(if at == 0 { "" } else { "," });
    push_string(&mut key, name);
    key.push(':');
    key
}

fn push_row(line: &mut String, keys: &[String], values: &[Value<'_>]) {
    line.push('{');
    for (key, value) in keys.iter().zip(values) {
        line.push_str(key);
        push_json(line, *value);
    }
    line.push('}');
}
