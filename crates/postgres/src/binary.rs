//! Rows in the binary form of COPY, made of rows in its text form.
//!
//! A server spends most of a restore on taking text apart; in this form it is spared that. Rows come as servers write
//! them, in pieces of any size, and go into a buffer without a detour. Nothing is allocated for a value.
//!
//! A value that is not exactly as a server writes it is never guessed at: it is an error, and its table has to go in as
//! text. So is a row that is too long to be held in memory; in this form the length of a value stands before it.
//!
//! Source: the section "File Formats" of the page about COPY in PostgreSQL's manual. How the values of a type look is
//! written nowhere: the tests compare with what servers send.

mod columns;
mod numeric;
#[cfg(test)]
mod tests;
mod time;
mod values;

use memchr::{memchr, memchr2, memrchr};

pub(crate) use self::columns::encoder;
use crate::Error;

/// How the rows begin: what they are, no flags, nothing that would have to be skipped.
const HEADER: &[u8; 19] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// A number of values that no row has.
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// The length of NULL.
const NULL: [u8; 4] = (-1_i32).to_be_bytes();
/// Rows of more bytes as text are not held in memory.
const LONGEST_ROW: usize = 16 << 20;

/// Returns where the first value ends: at a tab, a line end, or with the bytes. Most values are short, which a search made
/// for long texts takes longer to find out.
fn end_of_value(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    const TABS: u64 = u64::from_ne_bytes([b'\t'; 8]);
    const LINE_ENDS: u64 = u64::from_ne_bytes([b'\n'; 8]);
    // The lowest bit that is set is the highest of the first byte that is zero; those above it may be wrong.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    for (number, eight) in bytes.as_chunks::<8>().0.iter().take(3).enumerate() {
        let word = u64::from_le_bytes(*eight);
        let found = zeros(word ^ TABS) | zeros(word ^ LINE_ENDS);
        if found != 0 {
            return number * 8 + found.trailing_zeros() as usize / 8;
        }
    }
    memchr2(b'\t', b'\n', bytes).unwrap_or(bytes.len())
}

/// Why a row cannot be sent in binary form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unsure {
    row: u64,
    column: usize,
    what: &'static str,
}

impl From<Unsure> for Error {
    fn from(Unsure { row, column, what }: Unsure) -> Self {
        Self::Unsure { row, column, what }
    }
}

type Result<T> = std::result::Result<T, Unsure>;

/// How the values of a column are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    /// As they are: text of any length, `json`, the labels of enumerations.
    Text,
    /// As it is, without the blanks that make each value of a column as long: the server adds them again, which takes it
    /// less time than to count them.
    Padded,
    /// The type `"char"`: one byte.
    Byte,
    Jsonb,
    Uuid,
    Bytea,
    Date,
    Time,
    Timestamp,
    TimestampTz,
}

impl Form {
    /// Returns that of a type that is built into servers; none when its values go as text. The numbers of these types
    /// are the same on all servers.
    fn of(type_oid: u32) -> Option<Self> {
        Some(match type_oid {
            16 => Self::Bool,
            17 => Self::Bytea,
            18 => Self::Byte,
            20 => Self::Int8,
            21 => Self::Int2,
            23 => Self::Int4,
            // text, json, char(n), varchar
            25 | 114 | 1042 | 1043 => Self::Text,
            26 => Self::Oid,
            700 => Self::Float4,
            701 => Self::Float8,
            1082 => Self::Date,
            1083 => Self::Time,
            1114 => Self::Timestamp,
            1184 => Self::TimestampTz,
            1700 => Self::Numeric,
            2950 => Self::Uuid,
            3802 => Self::Jsonb,
            _ => return None,
        })
    }

    /// Adds a value with its length before it; none when it is not as servers write it.
    fn put(self, text: &[u8], out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Bool => values::truth(text, out),
            Self::Int2 => values::int2(text, out),
            Self::Int4 => values::int4(text, out),
            Self::Int8 => values::int8(text, out),
            Self::Oid => values::oid(text, out),
            Self::Float4 => values::float4(text, out),
            Self::Float8 => values::float8(text, out),
            Self::Numeric => numeric::put(text, out),
            Self::Text => values::text(text, out),
            Self::Padded => values::text(values::without_blanks(text), out),
            Self::Byte => values::byte(text, out),
            Self::Jsonb => values::jsonb(text, out),
            Self::Uuid => values::uuid(text, out),
            Self::Bytea => values::bytea(text, out),
            Self::Date => time::date(text, out),
            Self::Time => time::time(text, out),
            Self::Timestamp => time::timestamp(text, out),
            Self::TimestampTz => time::timestamp_tz(text, out),
        }
    }
}

/// Makes binary rows of text.
#[derive(Debug)]
pub(crate) struct Encoder {
    forms: Vec<Form>,
    /// How many columns there are, as it stands before each row.
    head: [u8; 2],
    /// The begin of a row whose end has not come yet.
    open: Vec<u8>,
    rows: u64,
}

impl Encoder {
    /// Makes one for rows of such columns. No table of a server has more than 1600.
    fn new(forms: Vec<Form>) -> Option<Self> {
        let head = i16::try_from(forms.len()).ok()?.to_be_bytes();
        Some(Self { forms, head, open: Vec::new(), rows: 0 })
    }

    /// Adds what stands before all rows.
    pub(crate) fn begin(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(HEADER);
    }

    /// Takes the next bytes and adds the rows that are complete by them.
    ///
    /// # Errors
    /// When one of them is not as servers write it; the encoder is of no use after that, nor is what it added.
    pub(crate) fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<()> {
        if !self.open.is_empty() {
            let Some(end) = memchr(b'\n', bytes) else { return self.keep(bytes) };
            self.keep(&bytes[..=end])?;
            bytes = &bytes[end + 1..];
            let mut open = std::mem::take(&mut self.open);
            self.row(&open, out)?;
            open.clear();
            self.open = open;
        }
        // A raw line end is never part of a value.
        let whole = memrchr(b'\n', bytes).map_or(0, |end| end + 1);
        let (mut rows, rest) = bytes.split_at(whole);
        while !rows.is_empty() {
            rows = self.row(rows, out)?;
        }
        self.keep(rest)
    }

    /// Adds what stands behind all rows.
    ///
    /// # Errors
    /// When the last row has no end.
    pub(crate) fn finish(&self, out: &mut Vec<u8>) -> Result<()> {
        if !self.open.is_empty() {
            return Err(self.unsure(0, "it has no end"));
        }
        out.extend_from_slice(&TRAILER);
        Ok(())
    }

    fn keep(&mut self, bytes: &[u8]) -> Result<()> {
        if self.open.len() + bytes.len() > LONGEST_ROW {
            return Err(self.unsure(0, "it is too long"));
        }
        self.open.extend_from_slice(bytes);
        Ok(())
    }

    /// Adds the first of some rows, which all have an end. Returns the others.
    fn row<'b>(&mut self, mut bytes: &'b [u8], out: &mut Vec<u8>) -> Result<&'b [u8]> {
        out.extend_from_slice(&self.head);
        let count = self.forms.len();
        for (column, form) in self.forms.iter().enumerate() {
            let end = end_of_value(bytes);
            let is_last = column + 1 == count;
            if bytes.get(end) != Some(if is_last { &b'\n' } else { &b'\t' }) {
                return Err(self.unsure(column, "there are more or fewer values"));
            }
            let value = &bytes[..end];
            bytes = &bytes[end + 1..];
            if value == b"\\N" {
                out.extend_from_slice(&NULL);
            } else if form.put(value, out).is_none() {
                return Err(self.unsure(column, "it is not written as servers write it"));
            }
        }
        if count == 0 {
            // Lines without anything.
            bytes = bytes.strip_prefix(b"\n").ok_or_else(|| self.unsure(0, "there are no columns"))?;
        }
        self.rows += 1;
        Ok(bytes)
    }

    fn unsure(&self, column: usize, what: &'static str) -> Unsure {
        Unsure { row: self.rows + 1, column: column + 1, what }
    }
}
