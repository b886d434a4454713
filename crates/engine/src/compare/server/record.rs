//! A row as it is compared: its key, and what else both sides have of it.
//!
//! A value is its text as the server writes it. Of a long one the length, the hash (BLAKE3) and the beginning are kept,
//! so that a row takes little memory however long its values are; two values are the same when these are.

use dbkeep_postgres::text::{Events, Reader, Refusal};

use crate::report::CellValue;

/// A value up to this length is kept as it is.
const WHOLE: usize = 64 << 10;
/// So much is kept of a longer one, to be shown.
const BEGIN: usize = 1 << 10;

const NULL: u8 = 0;
const TEXT: u8 = 1;
const LONG: u8 = 2;

/// Which of the columns of a side are compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fields {
    /// How many columns are stored.
    pub(super) columns: usize,
    /// The places of those that tell rows apart.
    pub(super) key: Vec<usize>,
    /// The places of the others that both sides have.
    pub(super) rest: Vec<usize>,
}

/// A row as it is compared. Equal bytes are equal values, and the other way round.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) key: Vec<u8>,
    pub(super) rest: Vec<u8>,
}

/// Takes a row.
pub(super) type Take<'t> = dyn FnMut(Record) -> Result<(), Refusal> + 't;

/// Makes records of rows that come in pieces.
pub(super) struct Records<'f> {
    reader: Reader,
    row: Gathered<'f>,
}

struct Gathered<'f> {
    fields: &'f Fields,
    /// The values of the row so far, encoded.
    values: Vec<Vec<u8>>,
    open: Value,
}

/// A value whose end has not come.
#[derive(Default)]
struct Value {
    length: u64,
    begin: Vec<u8>,
    hasher: Option<Box<blake3::Hasher>>,
}

impl<'f> Records<'f> {
    pub(super) fn new(fields: &'f Fields) -> Self {
        let row = Gathered { fields, values: Vec::new(), open: Value::default() };
        Self { reader: Reader::new(fields.columns), row }
    }

    /// Takes the next bytes, and hands out the rows that are complete by them.
    pub(super) fn push(&mut self, bytes: &[u8], take: &mut Take<'_>) -> Result<(), String> {
        let mut gathering = Gathering { row: &mut self.row, take };
        self.reader.push(bytes, &mut gathering).map_err(|error| error.to_string())
    }

    /// Ends the rows.
    pub(super) fn finish(self) -> Result<u64, String> {
        self.reader.finish().map_err(|error| error.to_string())
    }
}

struct Gathering<'g, 'f, 't> {
    row: &'g mut Gathered<'f>,
    take: &'g mut Take<'t>,
}

impl Events for Gathering<'_, '_, '_> {
    fn part(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        self.row.open.push(bytes);
        Ok(())
    }

    fn end_value(&mut self, is_null: bool) -> Result<(), Refusal> {
        let value = std::mem::take(&mut self.row.open);
        self.row.values.push(if is_null { vec![NULL] } else { value.encode() });
        Ok(())
    }

    fn end_row(&mut self) -> Result<(), Refusal> {
        let values = std::mem::take(&mut self.row.values);
        let put = |places: &[usize]| -> Vec<u8> {
            places.iter().filter_map(|place| values.get(*place)).flatten().copied().collect()
        };
        let fields = self.row.fields;
        (self.take)(Record { key: put(&fields.key), rest: put(&fields.rest) })
    }
}

impl Value {
    fn push(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        match &mut self.hasher {
            Some(hasher) => drop(hasher.update(bytes)),
            None if self.begin.len() + bytes.len() <= WHOLE => self.begin.extend_from_slice(bytes),
            None => {
                let mut hasher = Box::new(blake3::Hasher::new());
                hasher.update(&self.begin).update(bytes);
                let missing = BEGIN.saturating_sub(self.begin.len()).min(bytes.len());
                self.begin.extend_from_slice(&bytes[..missing]);
                self.begin.truncate(BEGIN);
                self.begin.shrink_to_fit();
                self.hasher = Some(hasher);
            }
        }
    }

    /// Returns its bytes: what it is, its length, its hash where it is long, and what is kept of it.
    fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.begin.len() + 41);
        bytes.push(if self.hasher.is_some() { LONG } else { TEXT });
        bytes.extend_from_slice(&self.length.to_le_bytes());
        if let Some(hasher) = &self.hasher {
            bytes.extend_from_slice(hasher.finalize().as_bytes());
        }
        bytes.extend_from_slice(&self.begin);
        bytes
    }
}

/// A value that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept<'v> {
    Null,
    Text(&'v [u8]),
    /// The beginning of a long one, its length and all of what was kept.
    Long(&'v [u8], u64, &'v [u8]),
}

impl Kept<'_> {
    /// Returns it as it is told. Whole numbers are numbers.
    pub(super) fn told(self, is_integer: bool) -> CellValue {
        match self {
            Kept::Null => CellValue::Null,
            Kept::Text(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => match text.parse().ok().filter(|_| is_integer) {
                    Some(number) => CellValue::Integer(number),
                    None => CellValue::Text(text.to_owned()),
                },
                Err(_) => CellValue::TextBytes(bytes.to_vec()),
            },
            Kept::Long(begin, bytes, _) => {
                let valid = begin.utf8_chunks().next().map_or("", |chunk| chunk.valid());
                CellValue::Long { begin: valid.to_owned(), bytes }
            }
        }
    }
}

/// Returns the values of the key or the rest of a record.
pub(super) fn values(mut bytes: &[u8]) -> Vec<Kept<'_>> {
    let mut values = Vec::new();
    while let Some((value, rest)) = value(bytes) {
        values.push(value);
        bytes = rest;
    }
    values
}

fn value(bytes: &[u8]) -> Option<(Kept<'_>, &[u8])> {
    let (what, rest) = bytes.split_first()?;
    if *what == NULL {
        return Some((Kept::Null, rest));
    }
    let (length, kept) = rest.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    if *what == TEXT {
        let (text, rest) = kept.split_at_checked(usize::try_from(length).ok()?)?;
        return Some((Kept::Text(text), rest));
    }
    let (begin, rest) = kept.get(32..)?.split_at_checked(BEGIN)?;
    Some((Kept::Long(begin, length, &kept[..32 + BEGIN]), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(fields: &Fields, pieces: &[&[u8]]) -> Vec<Record> {
        let mut found = Vec::new();
        let mut records = Records::new(fields);
        for piece in pieces {
            let mut take = |record| {
                found.push(record);
                Ok(())
            };
            records.push(piece, &mut take).unwrap();
        }
        records.finish().unwrap();
        found
    }

    fn fields(columns: usize, key: &[usize], rest: &[usize]) -> Fields {
        Fields { columns, key: key.to_vec(), rest: rest.to_vec() }
    }

    #[test]
    fn values_come_out_as_they_went_in_wherever_columns_stand() {
        let rows: &[&[u8]] = &[b"a\\tb\t\\N\t", b"\t7\n"];
        let found = records(&fields(4, &[3], &[2, 1, 0]), rows);
        assert_eq!(values(&found[0].key), [Kept::Text(b"7")]);
        assert_eq!(values(&found[0].rest), [Kept::Text(b""), Kept::Null, Kept::Text(b"a\tb")]);
        let told: Vec<CellValue> = values(&found[0].rest).iter().map(|value| value.told(false)).collect();
        assert_eq!(told, [CellValue::Text(String::new()), CellValue::Null, CellValue::Text("a\tb".into())]);
        assert_eq!(values(&found[0].key)[0].told(true), CellValue::Integer(7));
    }

    #[test]
    fn no_two_rows_have_one_record() {
        let rows = b"a\tb\nab\t\n\tab\n\\N\tab\n\\N\t\\N\n\t\n";
        let found = records(&fields(2, &[0, 1], &[]), &[rows]);
        for (place, one) in found.iter().enumerate() {
            assert!(found[place + 1..].iter().all(|other| other != one), "{one:?}");
        }
    }

    #[test]
    fn long_values_take_little_and_are_told_apart_by_their_last_byte() {
        let one = vec![b'x'; WHOLE * 3];
        let mut other = one.clone();
        *other.last_mut().unwrap() = b'y';
        let row = |value: &[u8]| [value, b"\tend\n"].concat();
        let fields = fields(2, &[0], &[1]);
        let whole = records(&fields, &[&row(&one)]);
        let bytes = row(&one);
        let pieces: Vec<&[u8]> = bytes.chunks(1000).collect();
        assert_eq!(records(&fields, &pieces), whole, "however it comes");
        assert_ne!(records(&fields, &[&row(&other)])[0].key, whole[0].key);
        assert!(whole[0].key.len() < 2 * BEGIN);
        assert_eq!(values(&whole[0].rest), [Kept::Text(b"end")]);
        let told = values(&whole[0].key)[0].told(false);
        assert_eq!(told, CellValue::Long { begin: "x".repeat(BEGIN), bytes: WHOLE as u64 * 3 });
        for length in [WHOLE, WHOLE + 1] {
            let found = records(&fields, &[&row(&vec![b'x'; length])]);
            assert_eq!(matches!(values(&found[0].key)[0], Kept::Long(..)), length > WHOLE);
        }
    }

    #[test]
    fn row_with_too_few_values_or_without_an_end_is_refused() {
        let fields = fields(2, &[0], &[1]);
        assert!(Records::new(&fields).push(b"1\n", &mut |_| Ok(())).is_err());
        let mut cut = Records::new(&fields);
        cut.push(b"1\t2", &mut |_| Ok(())).unwrap();
        assert!(cut.finish().is_err());
    }
}
