//! Exports the rows of a PostgreSQL database as one readable JSON document, or lossless as one JSON object a row.

use std::io::Write;

use dbkeep_postgres::json::{Encoder, Layout, VALUES};

use super::metadata::{Metadata, SERVED_JSON_FORMAT, SERVED_NDJSON_FORMAT};
use super::{Member, Opened};
use crate::export::json::Failed;
use crate::export::place::Finished;
use crate::export::text::push_string;
use crate::export::written::write;
use crate::export::{Exported, Format};
use crate::{Error, Result};

/// How values stand in lossless JSON; part of the metadata, for whoever reads it.
const LOSSLESS: &str = "NULL is null; everything else is a string as PostgreSQL writes it (DateStyle ISO, time zone UTC, IntervalStyle postgres, extra_float_digits 1, bytea in hex), as COPY and the input of each type take it";

/// How rows are laid out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `{"metadata":…,"tables":{"users":[…]}}`.
    Document,
    /// A line a row.
    Lines,
}

impl Opened<'_> {
    /// Writes `{"metadata":{…},"tables":{"users":[{…}]}}`, or `{"metadata":{…}}`, `{"table":"users","row":{…}}` for each
    /// row, and `{"end":{…}}`.
    pub(super) fn json(&self, format: Format, finished: &mut Vec<Finished>) -> Result<Exported> {
        let form = if format == Format::Json { Form::Document } else { Form::Lines };
        let mark = match form {
            Form::Document => (SERVED_JSON_FORMAT, VALUES),
            Form::Lines => (SERVED_NDJSON_FORMAT, LOSSLESS),
        };
        let (members, cycles) = self.members();
        let mut notes = self.notes_about_rows();
        let archive = self.objects(&mut notes)?;
        let metadata = self.metadata(&members, cycles, archive, mark, &notes);
        let staged = self.export.place.file()?;
        let sum = write(staged.file(), |out| -> Result<(), Failed> {
            begin(out, form, &metadata)?;
            let mut rows = 0;
            for (at, member) in members.iter().enumerate() {
                rows += self.table(out, form, member, at == 0)?;
            }
            end(out, form, members.len(), rows)?;
            Ok(())
        });
        let sum = sum.map_err(|failed| failed.into_error(self.export))?;
        let name = format!("{}.{}", self.subject.stem(), format.word());
        let checksum = self.export.checksum(&name, &sum)?;
        finished.push(Finished::File { staged, name, sum });
        finished.push(checksum);
        Ok(Exported { bytes: sum.bytes, sha256: None, notes })
    }

    fn table(
        &self,
        out: &mut impl Write,
        form: Form,
        member: &Member<'_>,
        is_first: bool,
    ) -> Result<u64, Failed> {
        let columns = &member.table.columns;
        let mut start = String::new();
        push_string(&mut start, &member.label);
        let mut encoder = match form {
            Form::Document => {
                let comma = if is_first { "" } else { "," };
                write!(out, "{comma}\n{start}: [")?;
                Encoder::readable(columns, Layout::array())
            }
            Form::Lines => {
                let start = format!("{{\"table\":{start},\"row\":").into_bytes();
                let layout = Layout { first: start.clone(), next: start, end: b"}\n".to_vec() };
                Encoder::lossless(columns, layout)
            }
        };
        let name = &member.table.name;
        let mut text = Vec::new();
        let rows = self.rows(member.proof, &mut |bytes| {
            text.clear();
            encoder.push(bytes, &mut text).map_err(|error| self.malformed(name, &error))?;
            out.write_all(&text).map_err(|error| self.export.write_failed(error))
        })?;
        let encoded = encoder.finish().map_err(|error| self.malformed(name, &error))?;
        if encoded != rows {
            let finding = format!("{encoded} rows of table {} came instead of {rows}", member.label);
            return Err(Error::Damaged { what: self.subject.what(), finding }.into());
        }
        if form == Form::Document {
            out.write_all(if rows == 0 { b"]" } else { b"\n]" })?;
        }
        Ok(rows)
    }
}

fn begin(out: &mut impl Write, form: Form, metadata: &Metadata<'_>) -> std::io::Result<()> {
    match form {
        Form::Document => {
            let text = serde_json::to_string_pretty(metadata)?;
            write!(out, "{{\n\"metadata\": {text},\n\"tables\": {{")
        }
        Form::Lines => {
            let text = serde_json::to_string(metadata)?;
            writeln!(out, "{{\"metadata\":{text}}}")
        }
    }
}

fn end(out: &mut impl Write, form: Form, tables: usize, rows: u64) -> std::io::Result<()> {
    match form {
        Form::Document => writeln!(out, "\n}}\n}}"),
        // Without it a file that was cut at the end of a line would look whole.
        Form::Lines => writeln!(out, "{{\"end\":{{\"tables\":{tables},\"rows\":{rows}}}}}"),
    }
}
