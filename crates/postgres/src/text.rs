//! The text form of COPY: rows to values and back.
//!
//! A line a row, a tab between values, `\N` for NULL. A backslash, a tab and a line end inside of a value, and a few
//! other control characters, are written with a backslash before them, so a raw tab or line end is never part of a
//! value. Rows come in pieces of any size and a value is never held as a whole here, so that a row of 500 MB takes no
//! more memory than a short one.
//!
//! What is read is what servers write. The further spellings that `COPY FROM` would take (`\x41`, `\.`) are an error:
//! no server writes them, so they are a sign of damage. What servers write comes out of the writer byte by byte as it
//! went into the reader.
//!
//! Source: the section "File Formats" of the page about COPY in PostgreSQL's manual.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr3;

/// Bytes that are no rows of the table they are said to be of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("row {row}: {what}")]
pub struct Malformed {
    /// The number of the row, the first is 1.
    pub row: u64,
    /// What is wrong with it.
    pub what: Refusal,
}

/// Why a row is refused.
pub type Refusal = Cow<'static, str>;

/// Takes what rows consist of, in order. Each method may refuse, and says why.
pub trait Events {
    /// A part of a value, unescaped; a value is all parts up to its end.
    fn part(&mut self, bytes: &[u8]) -> Result<(), Refusal>;

    /// The end of a value. There were no parts if it is NULL; an empty text has none either.
    fn end_value(&mut self, is_null: bool) -> Result<(), Refusal>;

    /// The end of a row.
    fn end_row(&mut self) -> Result<(), Refusal>;
}

/// Splits rows into values.
#[derive(Debug)]
pub struct Reader {
    columns: usize,
    /// How many values of the row are complete.
    complete: usize,
    state: State,
    rows: u64,
}

/// Where the next byte stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// At the begin of a row.
    RowStart,
    /// At the begin of another value of the row.
    ValueStart,
    /// Inside of a value.
    Value,
    /// Behind a backslash; whether the value began with it.
    Escape { first: bool },
    /// Behind `\N`.
    Null,
}

impl Reader {
    /// Makes a reader of rows of a table with so many columns.
    pub fn new(columns: usize) -> Self {
        Self { columns, complete: 0, state: State::RowStart, rows: 0 }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// When they are not what a server writes for a table with so many columns, or `events` refuses. The reader is of
    /// no use after that.
    pub fn push(&mut self, mut bytes: &[u8], events: &mut impl Events) -> Result<(), Malformed> {
        while let Some(&first) = bytes.first() {
            let taken = self.step(first, bytes, events);
            let taken = taken.map_err(|what| Malformed { row: self.rows + 1, what })?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Returns how many rows there were.
    ///
    /// # Errors
    /// When the last one has no end.
    pub fn finish(self) -> Result<u64, Malformed> {
        match self.state {
            State::RowStart => Ok(self.rows),
            _ => Err(Malformed { row: self.rows + 1, what: "it has no end".into() }),
        }
    }

    /// Takes at least the first byte. Returns how many it took.
    fn step(&mut self, first: u8, bytes: &[u8], events: &mut impl Events) -> Result<usize, Refusal> {
        match (self.state, first) {
            // A table without columns has lines without anything.
            (State::RowStart, b'\n') if self.columns == 0 => self.end_row(events)?,
            (State::RowStart, _) if self.columns == 0 => {
                return Err("it has a value, but the table has no columns".into());
            }
            (State::Escape { first: true }, b'N') => self.state = State::Null,
            (State::Escape { .. }, byte) => {
                events.part(&[unescaped(byte).ok_or("it has a backslash that stands for nothing")?])?;
                self.state = State::Value;
            }
            (State::Null, b'\t' | b'\n') => self.end_value(first, true, events)?,
            (State::Null, _) => return Err("it has a value that begins as NULL".into()),
            (_, b'\t' | b'\n') => self.end_value(first, false, events)?,
            (state, b'\\') => self.state = State::Escape { first: state != State::Value },
            _ => {
                let plain = memchr3(b'\t', b'\n', b'\\', bytes).unwrap_or(bytes.len());
                events.part(&bytes[..plain])?;
                self.state = State::Value;
                return Ok(plain);
            }
        }
        Ok(1)
    }

    fn end_value(&mut self, by: u8, is_null: bool, events: &mut impl Events) -> Result<(), Refusal> {
        self.complete += 1;
        if self.complete > self.columns {
            return Err("it has more values than the table has columns".into());
        }
        events.end_value(is_null)?;
        match by {
            b'\n' => self.end_row(events),
            _ => {
                self.state = State::ValueStart;
                Ok(())
            }
        }
    }

    fn end_row(&mut self, events: &mut impl Events) -> Result<(), Refusal> {
        if self.complete < self.columns {
            return Err("it has fewer values than the table has columns".into());
        }
        events.end_row()?;
        self.rows += 1;
        self.complete = 0;
        self.state = State::RowStart;
        Ok(())
    }
}

/// Returns what a byte behind a backslash stands for.
pub(crate) fn unescaped(byte: u8) -> Option<u8> {
    Some(match byte {
        b'\\' => b'\\',
        b't' => b'\t',
        b'n' => b'\n',
        b'r' => b'\r',
        b'b' => 0x08,
        b'f' => 0x0c,
        b'v' => 0x0b,
        _ => return None,
    })
}

/// Returns what stands behind the backslash for a byte that needs one.
fn escaped(byte: u8) -> Option<u8> {
    Some(match byte {
        b'\\' => b'\\',
        b'\t' => b't',
        b'\n' => b'n',
        b'\r' => b'r',
        0x08 => b'b',
        0x0c => b'f',
        0x0b => b'v',
        _ => return None,
    })
}

/// Adds a value or a part of one, as a server writes it.
pub fn push_value(out: &mut Vec<u8>, mut value: &[u8]) {
    while let Some(at) = value.iter().position(|byte| escaped(*byte).is_some()) {
        out.extend_from_slice(&value[..at]);
        out.extend(escaped(value[at]).map(|letter| [b'\\', letter]).into_iter().flatten());
        value = &value[at + 1..];
    }
    out.extend_from_slice(value);
}

/// Adds NULL.
pub fn push_null(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\N");
}

/// Adds a row, as a server writes it; `None` is NULL.
pub fn push_row<'v>(out: &mut Vec<u8>, values: impl IntoIterator<Item = Option<&'v [u8]>>) {
    for (number, value) in values.into_iter().enumerate() {
        if number > 0 {
            out.push(b'\t');
        }
        match value {
            Some(value) => push_value(out, value),
            None => push_null(out),
        }
    }
    out.push(b'\n');
}

/// Hands out whole rows. One row is held in memory.
#[derive(Debug)]
pub struct Rows {
    reader: Reader,
    row: Gathered,
}

/// A row that is being gathered.
#[derive(Debug, Default)]
struct Gathered {
    bytes: Vec<u8>,
    /// Where each value stands; none for NULL.
    values: Vec<Option<Range<usize>>>,
    start: usize,
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub struct Row<'r>(&'r Gathered);

impl<'r> Row<'r> {
    /// Returns its values, unescaped; `None` is NULL.
    pub fn values(self) -> impl ExactSizeIterator<Item = Option<&'r [u8]>> {
        self.0.values.iter().map(|range| range.clone().map(|range| &self.0.bytes[range]))
    }
}

impl Rows {
    /// Makes a reader of rows of a table with so many columns.
    pub fn new(columns: usize) -> Self {
        Self { reader: Reader::new(columns), row: Gathered::default() }
    }

    /// Takes the next bytes, and hands out the rows that are complete by them.
    ///
    /// # Errors
    /// Those of [`Reader::push`], and what `take` refuses.
    pub fn push(
        &mut self,
        bytes: &[u8],
        take: &mut dyn FnMut(Row<'_>) -> Result<(), Refusal>,
    ) -> Result<(), Malformed> {
        self.reader.push(bytes, &mut Gathering { row: &mut self.row, take })
    }

    /// Returns how many rows there were.
    ///
    /// # Errors
    /// When the last one has no end.
    pub fn finish(self) -> Result<u64, Malformed> {
        self.reader.finish()
    }
}

struct Gathering<'g> {
    row: &'g mut Gathered,
    take: &'g mut dyn FnMut(Row<'_>) -> Result<(), Refusal>,
}

impl Events for Gathering<'_> {
    fn part(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.row.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn end_value(&mut self, is_null: bool) -> Result<(), Refusal> {
        let end = self.row.bytes.len();
        self.row.values.push((!is_null).then_some(self.row.start..end));
        self.row.start = end;
        Ok(())
    }

    fn end_row(&mut self) -> Result<(), Refusal> {
        (self.take)(Row(self.row))?;
        self.row.bytes.clear();
        self.row.values.clear();
        self.row.start = 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
