//! Exports a PostgreSQL database as one CSV file a table, as `COPY … WITH (FORMAT csv, HEADER)` takes it.
//!
//! Nothing that is not a number or a truth value is without quotes, so NULL (nothing) differs from the empty text (`""`).

use std::collections::BTreeMap;
use std::io::Write;

use dbkeep_postgres::catalog::Column;
use dbkeep_postgres::json::Form;
use dbkeep_postgres::text::{Row, Rows};

use super::metadata::SERVED_CSV_FORMAT;
use super::{Member, Opened};
use crate::export::Exported;
use crate::export::csv::{METADATA, SUMS};
use crate::export::json::Failed;
use crate::export::place::Finished;
use crate::export::written::{Sum, write};
use crate::report::ExportedFile;
use crate::served::file_name;
use crate::{Error, Result};

/// How values stand in CSV; part of the metadata, for whoever reads it.
const VALUES: &str = "RFC 4180 with names in the first line; NULL is nothing at all, the empty text is \"\"; numbers and truth values are without quotes, everything else is in quotes, as PostgreSQL writes it; COPY … WITH (FORMAT csv, HEADER) takes it";

impl Opened<'_> {
    /// Writes a directory with a file for each table, `metadata.json` and `SHA256SUMS`.
    pub(super) fn csv(&self, finished: &mut Vec<Finished>) -> Result<Exported> {
        let (members, cycles) = self.members();
        let notes = self.notes_about_rows();
        let folder = self.export.place.folder()?;
        let mut sums: Vec<(String, Sum)> = Vec::new();
        let mut names = BTreeMap::new();
        for member in &members {
            let name = csv_name(member);
            let file = folder.create(&name).map_err(|error| self.export.write_failed(error))?;
            let sum = write(&file, |out| self.csv_table(member, out));
            sums.push((name.clone(), sum.map_err(|failed| failed.into_error(self.export))?));
            names.insert(member.label.clone(), name);
        }
        let mut metadata =
            self.metadata(&members, cycles, self.archive()?, (SERVED_CSV_FORMAT, VALUES), &notes);
        metadata.files = Some(names);
        let mut text = serde_json::to_vec_pretty(&metadata).expect("metadata has string keys only");
        text.push(b'\n');
        sums.push((METADATA.to_owned(), self.export.small_file(&folder, METADATA, &text)?));
        let list: String = sums.iter().map(|(name, sum)| sum.line(name)).collect();
        sums.push((SUMS.to_owned(), self.export.small_file(&folder, SUMS, list.as_bytes())?));
        let stem = self.subject.stem();
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

    fn csv_table(&self, member: &Member<'_>, out: &mut impl Write) -> Result<(), Failed> {
        let stored: Vec<&Column> = member.table.columns.iter().filter(|column| !column.generated).collect();
        let bare: Vec<bool> = stored.iter().map(|column| is_bare(&column.type_name)).collect();
        let mut line = Vec::new();
        for (at, column) in stored.iter().enumerate() {
            push(&mut line, at, false, Some(column.name.as_bytes()));
        }
        line.extend_from_slice(b"\r\n");
        out.write_all(&line)?;
        let name = &member.table.name;
        let mut rows = Rows::new(stored.len());
        let mut failed = None;
        let mut take = |row: Row<'_>| {
            line.clear();
            for (at, value) in row.values().enumerate() {
                push(&mut line, at, bare.get(at).copied().unwrap_or_default(), value);
            }
            line.extend_from_slice(b"\r\n");
            out.write_all(&line).map_err(|error| {
                failed = Some(error);
                "it could not be written".into()
            })
        };
        let read = self.rows(member.proof, &mut |bytes| {
            rows.push(bytes, &mut take).map_err(|error| self.malformed(name, &error))
        });
        if let Some(error) = failed {
            return Err(error.into());
        }
        let (read, counted) = (read?, rows.finish().map_err(|error| self.malformed(name, &error))?);
        if read != counted {
            let finding = format!("{counted} rows of table {} came instead of {read}", member.label);
            return Err(Error::Damaged { what: self.subject.what(), finding }.into());
        }
        Ok(())
    }
}

/// Returns the name of the file of a table.
fn csv_name(member: &Member<'_>) -> String {
    let name = file_name(&member.table.name);
    let name = name.strip_suffix(".copy").unwrap_or(&name);
    let bare = name.strip_prefix("public.").filter(|bare| *bare == member.label);
    format!("{}.csv", bare.unwrap_or(name))
}

/// Says whether values of a type are numbers or truth values.
fn is_bare(type_name: &str) -> bool {
    matches!(Form::of(type_name), Form::Boolean | Form::Integer | Form::Decimal | Form::Float)
}

/// Adds a field.
fn push(line: &mut Vec<u8>, at: usize, is_bare: bool, value: Option<&[u8]>) {
    if at > 0 {
        line.push(b',');
    }
    let Some(value) = value else { return };
    let is_word = |value: &[u8]| {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        !value.is_empty() && value.iter().all(plain)
    };
    if is_bare && is_word(value) {
        line.extend_from_slice(value);
        return;
    }
    line.push(b'"');
    for part in value.split_inclusive(|byte| *byte == b'"') {
        line.extend_from_slice(part);
        if part.ends_with(b"\"") {
            line.push(b'"');
        }
    }
    line.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_tell_nothing_from_an_empty_text_and_numbers_from_texts() {
        let mut line = Vec::new();
        let fields: [(bool, Option<&[u8]>); 8] = [
            (true, None),
            (false, Some(b"")),
            (true, Some(b"-5.0e+10")),
            (false, Some(b"-5")),
            (true, Some(b"NaN")),
            (true, Some(b"")),
            (false, Some(b"say \"hi\",\r\n\"\"")),
            (false, Some(b"\\.")),
        ];
        for (at, (is_bare, value)) in fields.into_iter().enumerate() {
            push(&mut line, at, is_bare, value);
        }
        let expected = ",\"\",-5.0e+10,\"-5\",NaN,\"\",\"say \"\"hi\"\",\r\n\"\"\"\"\",\"\\.\"";
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }
}
