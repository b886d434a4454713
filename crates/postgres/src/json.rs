//! Rows as JSON objects, and back.
//!
//! Two kinds. The *lossless* one writes each value as PostgreSQL writes it, as a JSON string, or `null`: an object a
//! line, the keys are the columns in their order. It is made from the text of COPY and turned into it again, so loading
//! it costs what a COPY costs, and nothing is lost that COPY keeps. The *readable* one writes numbers, truth values,
//! times and nested JSON as programs expect them (`Form`); what it loses is listed there.
//!
//! Both stream: rows come in pieces of any size, and no value is held in memory as a whole.

mod decode;
mod encode;
mod form;
#[cfg(test)]
mod tests;

pub use decode::Decoder;
pub use encode::{Encoder, Layout};
pub use form::{Form, VALUES};

use crate::text::Refusal;

/// Tells whether bytes that come in pieces are UTF-8.
#[derive(Debug, Default)]
struct Utf8 {
    /// The begin of a character whose end has not come yet.
    open: Vec<u8>,
}

impl Utf8 {
    const REFUSED: &'static str = "it has a text that is not UTF-8";

    /// Takes the next bytes.
    fn check(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while let (false, Some((first, rest))) = (self.open.is_empty(), bytes.split_first()) {
            self.open.push(*first);
            bytes = rest;
            match std::str::from_utf8(&self.open) {
                Ok(_) => self.open.clear(),
                Err(error) if error.error_len().is_some() => return Err(Self::REFUSED.into()),
                Err(_) => {}
            }
        }
        match std::str::from_utf8(bytes) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_some() => Err(Self::REFUSED.into()),
            Err(error) => {
                self.open.extend_from_slice(&bytes[error.valid_up_to()..]);
                Ok(())
            }
        }
    }

    /// The text ends here.
    fn end(&self) -> Result<(), Refusal> {
        if self.open.is_empty() { Ok(()) } else { Err(Self::REFUSED.into()) }
    }
}

/// Adds a part of a text as it stands between the quotes of a JSON string.
fn push_part(out: &mut Vec<u8>, mut bytes: &[u8]) {
    while let Some(at) = bytes.iter().position(|byte| matches!(byte, 0..0x20 | b'"' | b'\\')) {
        out.extend_from_slice(&bytes[..at]);
        match bytes[at] {
            byte @ (b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            byte => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
        }
        bytes = &bytes[at + 1..];
    }
    out.extend_from_slice(bytes);
}
