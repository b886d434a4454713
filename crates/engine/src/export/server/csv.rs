//! Exports a PostgreSQL database as one CSV file a table, as `COPY … WITH (FORMAT csv, HEADER)` takes it.
//!
//! Nothing that is not a number or a truth value is without quotes, so NULL (nothing) differs from the empty text (`""`).
//! Fields are written as they come: a row of any length takes no more memory than a short one.

use std::collections::BTreeMap;
use std::io::Write;

use dbkeep_postgres::catalog::Column;
use dbkeep_postgres::json::Form;
use dbkeep_postgres::text::{Events, Malformed, Reader, Refusal};

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
        let mut notes = self.notes_about_rows();
        let archive = self.objects(&mut notes)?;
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
        let mut metadata = self.metadata(&members, cycles, archive, (SERVED_CSV_FORMAT, VALUES), &notes);
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
        let mut encoder = Encoder::new(&member.table.columns);
        let name = &member.table.name;
        let mut text = Encoder::heading(&member.table.columns);
        out.write_all(&text)?;
        let read = self.rows(member.proof, &mut |bytes| {
            text.clear();
            encoder.push(bytes, &mut text).map_err(|error| self.malformed(name, &error))?;
            out.write_all(&text).map_err(|error| self.export.write_failed(error))
        })?;
        let counted = encoder.finish().map_err(|error| self.malformed(name, &error))?;
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

/// So long a number may be: longer ones no server writes, and they stand in quotes like everything else.
const LONGEST_WORD: usize = 1 << 20;

/// Turns rows as COPY writes them into lines of CSV.
struct Encoder {
    reader: Reader,
    line: Line,
}

/// Where in a line the next bytes stand.
struct Line {
    /// Which columns are numbers or truth values.
    bare: Vec<bool>,
    /// How many fields are complete.
    complete: usize,
    /// Whether the field has its first quote.
    is_quoted: bool,
    /// What has come of a field that may not need quotes.
    word: Vec<u8>,
}

impl Encoder {
    fn new(columns: &[Column]) -> Self {
        let bare: Vec<bool> = stored(columns).map(|column| is_bare(&column.type_name)).collect();
        let reader = Reader::new(bare.len());
        Self { reader, line: Line { bare, complete: 0, is_quoted: false, word: Vec::new() } }
    }

    /// Returns the line of names.
    fn heading(columns: &[Column]) -> Vec<u8> {
        let mut text = Vec::new();
        for (place, column) in stored(columns).enumerate() {
            text.extend_from_slice(if place > 0 { b",\"" } else { b"\"" });
            push_quoted(&mut text, column.name.as_bytes());
            text.push(b'"');
        }
        text.extend_from_slice(b"\r\n");
        text
    }

    /// Takes the next bytes, and adds what becomes of them.
    fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        self.reader.push(bytes, &mut Writing { line: &mut self.line, out })
    }

    /// Returns how many rows there were.
    fn finish(self) -> Result<u64, Malformed> {
        self.reader.finish()
    }
}

struct Writing<'w> {
    line: &'w mut Line,
    out: &'w mut Vec<u8>,
}

impl Events for Writing<'_> {
    fn part(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let Line { bare, complete, is_quoted, word } = &mut *self.line;
        let is_bare = bare.get(*complete).copied().unwrap_or_default();
        if !*is_quoted && is_bare && is_plain(bytes) && word.len() + bytes.len() <= LONGEST_WORD {
            word.extend_from_slice(bytes);
            return Ok(());
        }
        if !std::mem::replace(is_quoted, true) {
            self.out.push(b'"');
            self.out.append(word);
        }
        push_quoted(self.out, bytes);
        Ok(())
    }

    fn end_value(&mut self, is_null: bool) -> Result<(), Refusal> {
        let Line { bare, complete, is_quoted, word } = &mut *self.line;
        match (std::mem::take(is_quoted), is_null) {
            (true, _) => self.out.push(b'"'),
            (false, true) => {}
            (false, false) if word.is_empty() => self.out.extend_from_slice(b"\"\""),
            (false, false) => self.out.append(word),
        }
        *complete += 1;
        if *complete < bare.len() {
            self.out.push(b',');
        }
        Ok(())
    }

    fn end_row(&mut self) -> Result<(), Refusal> {
        self.line.complete = 0;
        self.out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// Returns the columns that rows have values of.
fn stored(columns: &[Column]) -> impl Iterator<Item = &Column> {
    columns.iter().filter(|column| !column.generated)
}

/// Says whether nothing of a value means something in CSV.
fn is_plain(value: &[u8]) -> bool {
    value.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

/// Adds what stands between quotes, or a part of it.
fn push_quoted(text: &mut Vec<u8>, value: &[u8]) {
    for part in value.split_inclusive(|byte| *byte == b'"') {
        text.extend_from_slice(part);
        if part.ends_with(b"\"") {
            text.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(types: &[&str]) -> Vec<Column> {
        let column = |name: &&str| Column {
            name: format!("a \"{name}\""),
            type_name: (*name).to_owned(),
            ..Column::default()
        };
        types.iter().map(column).collect()
    }

    /// Returns the lines of rows that come in pieces.
    fn encoded(types: &[&str], rows: &[u8], piece: usize) -> String {
        let (mut encoder, mut out) = (Encoder::new(&columns(types)), Vec::new());
        rows.chunks(piece).for_each(|bytes| encoder.push(bytes, &mut out).unwrap());
        assert_eq!(encoder.finish().unwrap(), rows.split(|byte| *byte == b'\n').count() as u64 - 1);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn fields_tell_nothing_from_an_empty_text_and_numbers_from_texts() {
        let types = ["integer", "text", "double precision", "text", "numeric", "bigint", "text", "text"];
        let rows =
            b"\\N\t\t-5.0e+10\t-5\tNaN\t\tsay \"hi\",\\r\\n\"\"\t\\\\.\n1\t\\N\t2\t\\\\N\t3,4\t\\t\t\t\"\n";
        let expected = ",\"\",-5.0e+10,\"-5\",NaN,\"\",\"say \"\"hi\"\",\r\n\"\"\"\"\",\"\\.\"\r\n\
                        1,,2,\"\\N\",\"3,4\",\"\t\",\"\",\"\"\"\"\r\n";
        for piece in [1, 2, 3, 7, 1000] {
            assert_eq!(encoded(&types, rows, piece), expected, "in pieces of {piece}");
        }
        assert_eq!(encoded(&[], b"\n\n", 1), "\r\n\r\n");
        let heading = String::from_utf8(Encoder::heading(&columns(&["text", "integer"]))).unwrap();
        assert_eq!(heading, "\"a \"\"text\"\"\",\"a \"\"integer\"\"\"\r\n");
        assert_eq!(Encoder::heading(&[]), b"\r\n");
    }

    #[test]
    fn row_of_any_length_is_written_as_it_comes() {
        for (value, what) in [(b'x', "text"), (b'"', "text"), (b'7', "numeric")] {
            let (mut encoder, mut out) = (Encoder::new(&columns(&[what])), Vec::new());
            let (piece, mut written, mut held) = (vec![value; 64 << 10], 0, 0);
            for _ in 0..256 {
                encoder.push(&piece, &mut out).unwrap();
                written += out.len();
                held = held.max(out.capacity() + encoder.line.word.capacity());
                out.clear();
            }
            encoder.push(b"\n", &mut out).unwrap();
            let length = if value == b'"' { 32 << 20 } else { 16 << 20 };
            assert_eq!(written + out.len(), length + 4, "{what}");
            assert!(held <= 4 << 20, "{held} bytes held of a row of {length}");
        }
    }
}
