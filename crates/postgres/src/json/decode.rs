//! From the lossless JSON objects back to the text of COPY.

use super::Utf8;
use crate::catalog::Column;
use crate::text::{Malformed, Refusal, push_null, push_value};

/// Turns lines of JSON into rows of COPY.
///
/// Each line is an object whose keys are the columns, in their order, and whose values are strings or `null`. Spaces
/// and escapes may be others than the encoder's, as other programs write them.
#[derive(Debug)]
pub struct Decoder {
    names: Vec<String>,
    /// The column whose key or value is read.
    place: usize,
    state: State,
    text: Text,
    /// The key, as far as it is read.
    key: Vec<u8>,
    rows: u64,
}

/// What comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// An object.
    Object,
    /// The first key, or the end of an object without any.
    FirstKey,
    /// A key.
    Key,
    /// The rest of a key.
    InKey,
    /// A colon.
    Colon,
    /// A value.
    Value,
    /// The rest of a string.
    InString,
    /// The rest of `null`, so many letters of which were there.
    InNull(usize),
    /// A comma, or the end of the object.
    Comma,
    /// The end of the line.
    LineEnd,
}

impl Decoder {
    /// Makes a decoder of rows with these columns; those that are computed are not in the rows.
    pub fn new(columns: &[Column]) -> Self {
        let stored = columns.iter().filter(|column| !column.generated);
        Self {
            names: stored.map(|column| column.name.clone()).collect(),
            place: 0,
            state: State::Object,
            text: Text::default(),
            key: Vec::new(),
            rows: 0,
        }
    }

    /// Takes the next bytes of JSON, and adds the text of COPY that follows from them.
    ///
    /// # Errors
    /// When they are not such lines. The decoder is of no use after that.
    pub fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        while let Some(&first) = bytes.first() {
            let taken = self.step(first, bytes, out);
            let taken = taken.map_err(|what| Malformed { row: self.rows + 1, what })?;
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Returns how many rows there were. The last line may be without a line end.
    ///
    /// # Errors
    /// When the last object is cut.
    pub fn finish(self) -> Result<u64, Malformed> {
        match self.state {
            State::Object => Ok(self.rows),
            State::LineEnd => Ok(self.rows + 1),
            _ => Err(Malformed { row: self.rows + 1, what: "it has no end".into() }),
        }
    }

    /// Takes at least the first byte. Returns how many it took.
    fn step(&mut self, first: u8, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Refusal> {
        match (self.state, first) {
            (State::InKey, _) => return self.key_part(bytes),
            (State::InString, _) => return self.string_part(bytes, out),
            (State::InNull(letters), byte) => self.null_part(letters, byte, out)?,
            (State::LineEnd, b'\n') => {
                self.rows += 1;
                self.state = State::Object;
            }
            (State::Object, b'\n') => return Err("it is an empty line".into()),
            (_, b'\n') => return Err("it goes on in the next line".into()),
            (_, b' ' | b'\t' | b'\r') => {}
            (State::Object, b'{') => self.state = State::FirstKey,
            (State::FirstKey | State::Comma, b'}') => self.end_object(out)?,
            (State::FirstKey | State::Key, b'"') => {
                self.key.clear();
                self.state = State::InKey;
            }
            (State::Colon, b':') => self.state = State::Value,
            (State::Value, b'"') => self.state = State::InString,
            (State::Value, b'n') => self.state = State::InNull(1),
            (State::Value, _) => return Err(self.named("the value of", "is neither a string nor null")),
            (State::Comma, b',') => {
                out.push(b'\t');
                self.state = State::Key;
            }
            (State::LineEnd, _) => return Err("there is something behind the object".into()),
            _ => return Err("it is not a JSON object".into()),
        }
        Ok(1)
    }

    fn key_part(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let (taken, is_end) = self.text.take(bytes, &mut |part| self.key.extend_from_slice(part))?;
        let expected = self.names.get(self.place).map(String::as_bytes);
        let expected = expected.ok_or("it has more keys than the table has columns")?;
        if !expected.starts_with(&self.key) || is_end && expected != self.key {
            return Err(self.named("the next key is not", ""));
        }
        if is_end {
            self.state = State::Colon;
        }
        Ok(taken)
    }

    fn string_part(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, Refusal> {
        let (taken, is_end) = self.text.take(bytes, &mut |part| push_value(out, part))?;
        if is_end {
            self.end_value();
        }
        Ok(taken)
    }

    fn null_part(&mut self, letters: usize, byte: u8, out: &mut Vec<u8>) -> Result<(), Refusal> {
        if b"null".get(letters) != Some(&byte) {
            return Err(self.named("the value of", "is neither a string nor null"));
        }
        self.state = State::InNull(letters + 1);
        if letters == 3 {
            push_null(out);
            self.end_value();
        }
        Ok(())
    }

    fn end_value(&mut self) {
        self.place += 1;
        self.state = State::Comma;
    }

    fn end_object(&mut self, out: &mut Vec<u8>) -> Result<(), Refusal> {
        if self.place < self.names.len() {
            return Err(self.named("there is no", ""));
        }
        out.push(b'\n');
        self.place = 0;
        self.state = State::LineEnd;
        Ok(())
    }

    /// Returns a refusal with the name of the column.
    fn named(&self, before: &str, after: &str) -> Refusal {
        let name = self.names.get(self.place).map_or("", String::as_str);
        format!("{before} {name:?} {after}").trim_end().to_owned().into()
    }
}

/// A JSON string that is being read.
#[derive(Debug, Default)]
struct Text {
    escape: Escape,
    /// The first half of a character, where one is written as two.
    high: Option<u32>,
    utf8: Utf8,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Escape {
    #[default]
    None,
    /// Behind a backslash.
    Begun,
    /// Behind `\u` and so many digits of this value.
    Digits(u32, u32),
}

impl Text {
    /// Takes bytes up to the end of the string at most, and gives their meaning. Returns how many it took, and whether
    /// the string has ended.
    fn take(&mut self, bytes: &[u8], give: &mut dyn FnMut(&[u8])) -> Result<(usize, bool), Refusal> {
        let plain = match self.escape {
            Escape::None => bytes.iter().position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\')),
            _ => Some(0),
        };
        let plain = plain.unwrap_or(bytes.len());
        if plain > 0 {
            self.no_half()?;
            self.utf8.check(&bytes[..plain])?;
            give(&bytes[..plain]);
            return Ok((plain, false));
        }
        self.utf8.end()?;
        match (self.escape, bytes[0]) {
            (Escape::None, b'"') => {
                self.no_half()?;
                return Ok((1, true));
            }
            (Escape::None, b'\\') => self.escape = Escape::Begun,
            (Escape::None, _) => return Err("it has a control character inside of a string".into()),
            (Escape::Begun, b'u') => self.escape = Escape::Digits(0, 0),
            (Escape::Begun, byte) => {
                self.no_half()?;
                give(&[meaning(byte).ok_or("it has a backslash that stands for nothing")?]);
                self.escape = Escape::None;
            }
            (Escape::Digits(count, value), byte) => {
                let digit = char::from(byte).to_digit(16).ok_or("it has a \\u without four digits")?;
                let value = value << 4 | digit;
                self.escape = Escape::Digits(count + 1, value);
                if count == 3 {
                    self.escape = Escape::None;
                    self.unit(value, give)?;
                }
            }
        }
        Ok((1, false))
    }

    /// Takes what `\u` stands for: a character or half of one.
    fn unit(&mut self, value: u32, give: &mut dyn FnMut(&[u8])) -> Result<(), Refusal> {
        let whole = match (self.high.take(), value) {
            (None, 0xd800..0xdc00) => {
                self.high = Some(value);
                return Ok(());
            }
            (Some(high), 0xdc00..0xe000) => 0x10000 + ((high - 0xd800) << 10) + (value - 0xdc00),
            (None, value) => value,
            (Some(_), _) => return Err(HALF.into()),
        };
        let character = char::from_u32(whole).ok_or(HALF)?;
        if character == '\0' {
            return Err("it has a zero character, which no text of PostgreSQL can hold".into());
        }
        give(character.encode_utf8(&mut [0; 4]).as_bytes());
        Ok(())
    }

    fn no_half(&self) -> Result<(), Refusal> {
        if self.high.is_none() { Ok(()) } else { Err(HALF.into()) }
    }
}

const HALF: &str = "it has half of a character";

/// Returns what a letter behind a backslash stands for.
fn meaning(byte: u8) -> Option<u8> {
    Some(match byte {
        b'"' | b'\\' | b'/' => byte,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        _ => return None,
    })
}
