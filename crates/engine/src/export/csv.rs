//! Exports a database as one CSV file a table (RFC 4180: commas, CR LF, quotes doubled, names in the first line).
//!
//! Texts are always in quotes and nothing else ever is. So NULL (nothing) differs from the empty text (`""`), a number
//! from a text of digits, and a blob (`x'…'`) from a text that looks like one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;

use dbkeep_sqlite::contents::{Table, Value};

use super::json::Failed;
use super::place::Finished;
use super::text::CSV_FORMAT;
use super::written::{Sum, sum_of, write};
use super::{Export, Exported, Subject};
use crate::report::{ExportedFile, TableRows};
use crate::{Result, name};

/// How values stand in CSV; part of the metadata, for whoever reads it.
const CSV_VALUES: &str = "RFC 4180; text is always in quotes and nothing else is; NULL is nothing at all, the empty text is \"\"; floating-point numbers have a point or an exponent, or are Infinity or -Infinity; a blob is x'<hex>'; text'<hex>' are the bytes of a text that is not valid in the encoding of the database";

/// The file that says what the directory holds.
pub(crate) const METADATA: &str = "metadata.json";
/// The file with the checksums of all others, as `sha256sum -c` reads it.
pub(crate) const SUMS: &str = "SHA256SUMS";

impl Export<'_> {
    /// Writes a directory with a file for each table, `metadata.json` and `SHA256SUMS`.
    pub(super) fn csv(&self, subject: &Subject, finished: &mut Vec<Finished>) -> Result<Exported> {
        let opened = self.open_rows(subject)?;
        let (tables, mut notes) = opened.readable_tables();
        let columns: Vec<_> = tables.iter().map(|table| opened.selection(table, &mut notes)).collect();
        let folder = self.place.folder()?;
        let stem = subject.stem();
        let mut names = BTreeMap::new();
        let mut counts = Vec::new();
        let mut sums: Vec<(String, Sum)> = Vec::new();
        for (number, (table, (selection, columns))) in tables.iter().zip(&columns).enumerate() {
            let file_name = file_name(table, number);
            let file = folder.create(&file_name).map_err(|error| self.write_failed(error))?;
            let sum = write(&file, |out| -> Result<(), Failed> {
                let mut line = String::new();
                columns.iter().enumerate().for_each(|(at, name)| push(&mut line, at, Value::Text(name)));
                line.push_str("\r\n");
                out.write_all(line.as_bytes())?;
                let rows = opened.each_row(table, selection, &mut |values| {
                    line.clear();
                    values.iter().enumerate().for_each(|(at, value)| push(&mut line, at, *value));
                    line.push_str("\r\n");
                    out.write_all(line.as_bytes())
                })?;
                counts.push(TableRows { name: table.name.clone(), rows });
                Ok(())
            });
            sums.push((file_name.clone(), sum.map_err(|failed| failed.into_error(self))?));
            names.insert(table.name.clone(), file_name);
        }
        let mut metadata =
            self.metadata(subject, &opened, &tables, (CSV_FORMAT, CSV_VALUES), notes.clone())?;
        metadata.files = Some(names);
        let mut text = serde_json::to_vec_pretty(&metadata).expect("metadata has string keys only");
        text.push(b'\n');
        drop(metadata);
        opened.finish(&counts)?;
        let small = |name: &str, text: &[u8]| -> Result<(String, Sum)> {
            let file = folder.create(name).map_err(|error| self.write_failed(error))?;
            let written = write(&file, |out| out.write_all(text));
            Ok((name.to_owned(), written.map_err(|error| self.write_failed(error))?))
        };
        sums.push(small(METADATA, &text)?);
        let list: String = sums.iter().map(|(name, sum)| sum.line(name)).collect();
        sums.push(small(SUMS, list.as_bytes())?);
        debug_assert_eq!(sums.last().map(|(_, sum)| *sum), Some(sum_of(list.as_bytes())));
        let bytes = sums.iter().map(|(_, sum)| sum.bytes).sum();
        let file = |(name, sum): (String, Sum)| ExportedFile {
            path: format!("{stem}/{name}"),
            bytes: sum.bytes,
            sha256: sum.sha256,
        };
        let files = sums.into_iter().map(file).collect();
        finished.push(Finished::Folder { folder, name: stem, files });
        Ok(Exported { bytes, sha256: None, notes })
    }
}

/// Returns the name of the file of a table. A name that makes no file name gets a number; the metadata tells which.
fn file_name(table: &Table, number: usize) -> String {
    let encoded = name::encode(&table.name);
    match encoded.len() {
        0 | 201.. => format!("table-{}.csv", number + 1),
        _ => format!("{encoded}.csv"),
    }
}

/// Adds a field.
fn push(line: &mut String, at: usize, value: Value<'_>) {
    if at > 0 {
        line.push(',');
    }
    // Writing to a String cannot fail.
    match value {
        Value::Null => {}
        Value::Integer(number) => _ = write!(line, "{number}"),
        Value::Real(number) if number.is_infinite() => {
            line.push_str(if number < 0.0 { "-Infinity" } else { "Infinity" });
        }
        Value::Real(number) => _ = write!(line, "{number:?}"),
        Value::Text(text) => _ = write!(line, "\"{}\"", text.replace('"', "\"\"")),
        Value::Blob(bytes) => push_hex(line, "x'", bytes),
        Value::OddText(bytes) => push_hex(line, "text'", bytes),
    }
}

fn push_hex(line: &mut String, start: &str, bytes: &[u8]) {
    line.push_str(start);
    for byte in bytes {
        line.extend([byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])));
    }
    line.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_tell_what_kind_of_value_they_are() {
        let mut line = String::new();
        let values = [
            Value::Null,
            Value::Text(""),
            Value::Integer(-5),
            Value::Text("-5"),
            Value::Real(1.0),
            Value::Text("a \"b\",\r\nc"),
            Value::Blob(b"\x00\xff"),
            Value::Text("x'00ff'"),
            Value::OddText(b"\xff"),
        ];
        values.iter().enumerate().for_each(|(at, value)| push(&mut line, at, *value));
        assert_eq!(line, ",\"\",-5,\"-5\",1.0,\"a \"\"b\"\",\r\nc\",x'00ff',\"x'00ff'\",text'ff'");
    }
}
