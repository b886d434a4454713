//! From the text of COPY to JSON objects.

use super::{Form, Utf8, push_part};
use crate::catalog::Column;
use crate::text::{Events, Malformed, Reader, Refusal};

/// What is not a text is known to be so only when all of it is there; nothing longer than this is anything else.
const LONGEST: usize = 64;

/// What stands between rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Before the first row.
    pub first: Vec<u8>,
    /// Before every other row.
    pub next: Vec<u8>,
    /// After every row.
    pub end: Vec<u8>,
}

impl Layout {
    /// A line a row.
    pub fn lines() -> Self {
        Self { first: Vec::new(), next: Vec::new(), end: b"\n".to_vec() }
    }

    /// The inside of an array, a row a line.
    pub fn array() -> Self {
        Self { first: b"\n".to_vec(), next: b",\n".to_vec(), end: Vec::new() }
    }
}

/// Turns rows of COPY into JSON.
#[derive(Debug)]
pub struct Encoder {
    reader: Reader,
    objects: Objects,
}

impl Encoder {
    /// Makes one that loses nothing. Columns that are computed are not in the rows.
    pub fn lossless(columns: &[Column], layout: Layout) -> Self {
        Self::new(columns, layout, |_| Form::Text)
    }

    /// Makes one for people and programs that expect numbers. Columns that are computed are not in the rows.
    pub fn readable(columns: &[Column], layout: Layout) -> Self {
        Self::new(columns, layout, |column| Form::of(&column.type_name))
    }

    fn new(columns: &[Column], layout: Layout, form: impl Fn(&Column) -> Form) -> Self {
        let stored = columns.iter().filter(|column| !column.generated);
        let columns: Vec<(Vec<u8>, Form)> =
            stored.enumerate().map(|(at, column)| (key(at, &column.name), form(column))).collect();
        let reader = Reader::new(columns.len());
        let objects = Objects {
            columns,
            layout,
            place: 0,
            is_first: true,
            value: Value::Before,
            held: Vec::new(),
            utf8: Utf8::default(),
        };
        Self { reader, objects }
    }

    /// Takes the next bytes of COPY, and adds the JSON that follows from them.
    ///
    /// # Errors
    /// When they are not rows of these columns, or not UTF-8.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Malformed> {
        self.reader.push(bytes, &mut Encoding { objects: &mut self.objects, out })
    }

    /// Returns how many rows there were.
    ///
    /// # Errors
    /// When the last one has no end.
    pub fn finish(self) -> Result<u64, Malformed> {
        self.reader.finish()
    }
}

/// Returns what stands before the value of a column.
fn key(at: usize, name: &str) -> Vec<u8> {
    let mut key = if at == 0 { b"\"".to_vec() } else { b",\"".to_vec() };
    push_part(&mut key, name.as_bytes());
    key.extend_from_slice(b"\":");
    key
}

#[derive(Debug)]
struct Objects {
    columns: Vec<(Vec<u8>, Form)>,
    layout: Layout,
    /// The column of the value.
    place: usize,
    is_first: bool,
    value: Value,
    /// What was held back of the value.
    held: Vec<u8>,
    utf8: Utf8,
}

/// How the value is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Value {
    /// Nothing of it is.
    Before,
    /// Held back until it is known whether it is what its form says.
    Held,
    /// As a string, whose quotes are open.
    String,
    /// As JSON.
    Json,
}

struct Encoding<'e> {
    objects: &'e mut Objects,
    out: &'e mut Vec<u8>,
}

impl Encoding<'_> {
    fn form(&self) -> Form {
        self.objects.columns.get(self.objects.place).map_or(Form::Text, |(_, form)| *form)
    }

    /// Writes what stands before the value.
    fn begin_value(&mut self) {
        if self.objects.place == 0 {
            self.begin_row();
        }
        if let Some((key, _)) = self.objects.columns.get(self.objects.place) {
            self.out.extend_from_slice(key);
        }
    }

    fn begin_row(&mut self) {
        let objects = &mut *self.objects;
        let before = if objects.is_first { &objects.layout.first } else { &objects.layout.next };
        self.out.extend_from_slice(before);
        self.out.push(b'{');
        objects.is_first = false;
    }

    /// What is held back turns out to be a text.
    fn open_string(&mut self) {
        self.out.push(b'"');
        push_part(self.out, &self.objects.held);
        self.objects.held.clear();
        self.objects.value = Value::String;
    }
}

impl Events for Encoding<'_> {
    fn part(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if bytes.contains(&0) {
            return Err("it has a zero byte".into());
        }
        self.objects.utf8.check(bytes)?;
        if self.objects.value == Value::Before {
            self.begin_value();
            self.objects.value = match self.form() {
                Form::Text => Value::String,
                Form::Json => Value::Json,
                _ => Value::Held,
            };
            if self.objects.value == Value::String {
                self.out.push(b'"');
            }
        }
        if self.objects.value == Value::Held {
            if self.objects.held.len() + bytes.len() <= LONGEST {
                self.objects.held.extend_from_slice(bytes);
                return Ok(());
            }
            self.open_string();
        }
        match self.objects.value {
            // Between the words of JSON a line end is as good as a space, and in its strings there is none.
            Value::Json => self.out.extend(bytes.iter().map(|byte| if *byte < 0x20 { b' ' } else { *byte })),
            _ => push_part(self.out, bytes),
        }
        Ok(())
    }

    fn end_value(&mut self, is_null: bool) -> Result<(), Refusal> {
        self.objects.utf8.end()?;
        match self.objects.value {
            Value::Before => {
                self.begin_value();
                self.out.extend_from_slice(if is_null { b"null" } else { b"\"\"" });
            }
            Value::Held => match self.form().word(&self.objects.held) {
                Some(word) => {
                    self.out.extend_from_slice(&word);
                    self.objects.held.clear();
                }
                None => {
                    self.open_string();
                    self.out.push(b'"');
                }
            },
            Value::String => self.out.push(b'"'),
            Value::Json => {}
        }
        self.objects.value = Value::Before;
        self.objects.place += 1;
        Ok(())
    }

    fn end_row(&mut self) -> Result<(), Refusal> {
        if self.objects.columns.is_empty() {
            self.begin_row();
        }
        self.out.push(b'}');
        self.out.extend_from_slice(&self.objects.layout.end);
        self.objects.place = 0;
        Ok(())
    }
}
