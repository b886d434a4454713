//! Records and their values (<https://www.sqlite.org/fileformat2.html#record_format>), and when two are the same.
//!
//! Two values are the same when their type and their bytes are: 1 is not 1.0, a text is not a blob, 0.0 is not -0.0.
//! Keys are compared as SQLite tells rows apart: there 1 and 1.0 are one key, and collations count.

use crate::Result;
use crate::header::Encoding;
use crate::page::varint;

use super::pages::damaged;

/// A value of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Nothing. What is stored as NaN is read as this.
    Null,
    /// A whole number.
    Integer(i64),
    /// Any other number, infinities among them.
    Real(f64),
    /// A text, in UTF-8 if it is valid.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

/// Which keys SQLite takes for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Collation {
    /// Byte for byte; also stands in for collations that only the application knows.
    Binary,
    /// Without regard to the case of ASCII letters.
    NoCase,
    /// Without regard to spaces at the end.
    RTrim,
}

impl Collation {
    pub(super) fn named(name: &str) -> Self {
        match name.to_ascii_uppercase().as_str() {
            "NOCASE" => Self::NoCase,
            "RTRIM" => Self::RTrim,
            _ => Self::Binary,
        }
    }
}

/// Splits a record into its fields. Texts are in the encoding of the database.
pub(super) fn fields(record: &[u8]) -> Result<Vec<Value>> {
    parse(record).ok_or_else(|| damaged("a record is not as its own header says"))
}

fn parse(record: &[u8]) -> Option<Vec<Value>> {
    let (size, mut at) = varint(record)?;
    let header = record.get(..usize::try_from(size).ok()?)?;
    let mut body = record.get(header.len()..)?;
    let mut fields = Vec::new();
    while at < header.len() {
        let (kind, length) = varint(header.get(at..)?)?;
        at += length;
        let (value, rest) = field(kind, body)?;
        fields.push(value);
        body = rest;
    }
    (at == header.len()).then_some(fields)
}

fn field(kind: u64, body: &[u8]) -> Option<(Value, &[u8])> {
    let length = match kind {
        0 | 8 | 9 => 0,
        1..=4 => usize::try_from(kind).ok()?,
        5 => 6,
        6 | 7 => 8,
        10 | 11 => return None,
        _ => usize::try_from((kind - 12) / 2).ok()?,
    };
    let (bytes, rest) = body.split_at_checked(length)?;
    let value = match kind {
        0 => Value::Null,
        8 => Value::Integer(0),
        9 => Value::Integer(1),
        1..=6 => {
            let sign: u8 = if bytes[0] & 0x80 == 0 { 0 } else { 0xff };
            let mut whole = [sign; 8];
            whole[8 - length..].copy_from_slice(bytes);
            Value::Integer(i64::from_be_bytes(whole))
        }
        7 => {
            let real = f64::from_be_bytes(bytes.try_into().ok()?);
            if real.is_nan() { Value::Null } else { Value::Real(real) }
        }
        kind if kind % 2 == 0 => Value::Blob(bytes.to_vec()),
        _ => Value::Text(bytes.to_vec()),
    };
    Some((value, rest))
}

/// Appends a value so that two sequences of values give the same bytes only when they are the same.
pub(super) fn write_content(value: &Value, content: &mut Vec<u8>) {
    let mut bytes = |tag: u8, bytes: &[u8]| {
        content.push(tag);
        content.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
        content.extend_from_slice(bytes);
    };
    match value {
        Value::Null => content.push(0),
        Value::Integer(number) => bytes(1, &number.to_le_bytes()),
        Value::Real(number) => bytes(2, &number.to_bits().to_le_bytes()),
        Value::Text(text) => bytes(3, text),
        Value::Blob(blob) => bytes(4, blob),
    }
}

/// Appends a value of a key, so that two keys give the same bytes only when SQLite takes them for one, and the order
/// of the bytes is near to that of the keys. False for NULL, which is never the same as another.
pub(super) fn write_key(value: &Value, collation: Collation, encoding: Encoding, key: &mut Vec<u8>) -> bool {
    match value {
        Value::Null => return false,
        Value::Integer(number) => write_integer(*number, key),
        Value::Real(number) => match whole(*number) {
            Some(number) => write_integer(number, key),
            None => {
                let bits = number.to_bits();
                let ordered = if number.is_sign_negative() { !bits } else { bits | 1 << 63 };
                key.push(2);
                key.extend_from_slice(&ordered.to_be_bytes());
            }
        },
        Value::Text(text) => {
            key.push(3);
            match collation {
                Collation::Binary => write_escaped(text, key),
                _ => write_escaped(&folded(&utf8(text, encoding), collation), key),
            }
        }
        Value::Blob(blob) => {
            key.push(4);
            write_escaped(blob, key);
        }
    }
    true
}

fn write_integer(number: i64, key: &mut Vec<u8>) {
    key.push(1);
    key.extend_from_slice(&(number.cast_unsigned() ^ 1 << 63).to_be_bytes());
}

/// Returns the whole number that compares as equal.
#[expect(clippy::cast_possible_truncation, reason = "only numbers that a whole number holds exactly")]
fn whole(number: f64) -> Option<i64> {
    // 2^63, the first number that is too large.
    const END: f64 = 9_223_372_036_854_775_808.0;
    (number.trunc() == number && (-END..END).contains(&number)).then_some(number as i64)
}

/// Writes bytes so that their end can be told, and the order stays.
fn write_escaped(bytes: &[u8], key: &mut Vec<u8>) {
    for byte in bytes {
        key.push(*byte);
        if *byte == 0 {
            key.push(0xff);
        }
    }
    key.extend_from_slice(&[0, 0]);
}

/// Returns what a collation of SQLite compares, for texts in UTF-8.
fn folded(text: &[u8], collation: Collation) -> Vec<u8> {
    match collation {
        Collation::Binary => text.to_vec(),
        Collation::RTrim => {
            text[..text.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1)].to_vec()
        }
        Collation::NoCase => {
            // SQLite stops at a zero byte, and compares lengths then.
            let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
            let mut folded = text[..end].to_ascii_lowercase();
            folded.resize(text.len(), 0);
            folded
        }
    }
}

/// Returns a text in UTF-8. What is no valid UTF-16 is replaced; UTF-8 stays as it is, valid or not.
pub(super) fn utf8(text: &[u8], encoding: Encoding) -> Vec<u8> {
    let unit: fn([u8; 2]) -> u16 = match encoding {
        Encoding::Utf8 => return text.to_vec(),
        Encoding::Utf16Le => u16::from_le_bytes,
        Encoding::Utf16Be => u16::from_be_bytes,
    };
    let units = text.chunks_exact(2).map(|pair| unit([pair[0], pair[1]]));
    char::decode_utf16(units)
        .map(|char| char.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect::<String>()
        .into_bytes()
}

impl Value {
    /// Makes what SQLite gives of a column of type REAL: whole numbers are stored in it as such, to save space.
    pub(super) fn into_real(self) -> Self {
        match self {
            #[expect(clippy::cast_precision_loss, reason = "as SQLite does")]
            Self::Integer(number) => Self::Real(number as f64),
            other => other,
        }
    }

    /// Converts a text from the encoding of its database to UTF-8.
    pub(super) fn into_utf8(self, encoding: Encoding) -> Self {
        match self {
            Self::Text(text) => Self::Text(utf8(&text, encoding)),
            other => other,
        }
    }

    /// Takes a value as SQLite gives it.
    pub(super) fn of(value: rusqlite::types::ValueRef<'_>) -> Self {
        use rusqlite::types::ValueRef;
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(number) => Self::Integer(number),
            ValueRef::Real(number) => Self::Real(number),
            ValueRef::Text(text) => Self::Text(text.to_vec()),
            ValueRef::Blob(blob) => Self::Blob(blob.to_vec()),
        }
    }

    /// Says whether two values are the same: type and bytes.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            // As numbers, 0.0 and -0.0 would be.
            (Self::Real(one), Self::Real(other)) => one.to_bits() == other.to_bits(),
            _ => self == other,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(value: &Value, collation: Collation) -> Vec<u8> {
        let mut key = Vec::new();
        assert!(write_key(value, collation, Encoding::Utf8, &mut key));
        key
    }

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn keys_are_one_where_sqlite_takes_them_for_one() {
        let binary = Collation::Binary;
        assert_eq!(key(&Value::Integer(1), binary), key(&Value::Real(1.0), binary));
        assert_eq!(key(&Value::Real(-0.0), binary), key(&Value::Integer(0), binary));
        let large = Value::Integer((1 << 53) + 1);
        assert_ne!(key(&large, binary), key(&Value::Real(9_007_199_254_740_992.0), binary));
        assert_ne!(
            key(&Value::Integer(i64::MAX), binary),
            key(&Value::Real(9.223_372_036_854_776e18), binary)
        );
        assert_ne!(key(&text("a"), binary), key(&Value::Blob(b"a".to_vec()), binary));
        assert_ne!(key(&text("a"), binary), key(&text("A"), binary));
        assert_eq!(key(&text("aÄ"), Collation::NoCase), key(&text("AÄ"), Collation::NoCase));
        assert_ne!(key(&text("ä"), Collation::NoCase), key(&text("Ä"), Collation::NoCase));
        assert_eq!(key(&text("a  "), Collation::RTrim), key(&text("a"), Collation::RTrim));
        assert_ne!(key(&text("a"), Collation::RTrim), key(&text("A"), Collation::RTrim));
        assert!(!write_key(&Value::Null, binary, Encoding::Utf8, &mut Vec::new()));
    }

    #[test]
    fn records_of_no_sound_form_are_damage() {
        for record in [&[][..], &[5, 0], &[2, 10], &[2, 11], &[3, 1, 1, 7], &[2, 6, 1], &[3, 0x81], &[0x81]] {
            assert!(fields(record).is_err(), "{record:?}");
        }
        assert_eq!(fields(&[3, 8, 9]).unwrap(), [Value::Integer(0), Value::Integer(1)]);
        assert_eq!(fields(&[2, 3, 0xff, 0xff, 0xfe]).unwrap(), [Value::Integer(-2)]);
        let nan = [2, 7, 0x7f, 0xf8, 0, 0, 0, 0, 0, 1];
        assert_eq!(fields(&nan).unwrap(), [Value::Null]);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<i64>().prop_map(Value::Integer),
            (-3i64..3).prop_map(Value::Integer),
            any::<f64>().prop_filter("SQLite has none", |real| !real.is_nan()).prop_map(Value::Real),
            prop::collection::vec(0u8..3, 0..5).prop_map(Value::Text),
            prop::collection::vec(0u8..3, 0..5).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_of_records_panic(record in prop::collection::vec(any::<u8>(), 0..40)) {
            let _ = fields(&record);
        }

        #[test]
        fn contents_and_keys_are_the_same_only_for_the_same_values(
            one in prop::collection::vec(any_value(), 0..4),
            other in prop::collection::vec(any_value(), 0..4),
        ) {
            let written = |values: &[Value]| {
                let mut content = Vec::new();
                values.iter().for_each(|value| write_content(value, &mut content));
                content
            };
            let same = one.len() == other.len() && one.iter().zip(&other).all(|(one, other)| one.is_same(other));
            prop_assert_eq!(written(&one) == written(&other), same);

            let key = |values: &[Value]| {
                let mut key = Vec::new();
                let whole = values
                    .iter()
                    .all(|value| write_key(value, Collation::Binary, Encoding::Utf8, &mut key));
                whole.then_some(key)
            };
            if let (Some(left), Some(right)) = (key(&one), key(&other)) {
                let alike = |one: &Value, other: &Value| match (one, other) {
                    (Value::Integer(one), Value::Real(other)) | (Value::Real(other), Value::Integer(one)) => {
                        whole(*other) == Some(*one)
                    }
                    (one, other) => one == other,
                };
                let alike = one.len() == other.len()
                    && one.iter().zip(&other).all(|(one, other)| alike(one, other));
                prop_assert_eq!(left == right, alike);
            }
        }
    }
}
