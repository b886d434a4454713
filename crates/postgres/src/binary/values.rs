//! Values that are neither decimals nor times.

use memchr::memchr;

use crate::text::unescaped;

/// Which version of the type's binary form it is.
const JSONB: u8 = 1;

/// Adds a value of a length that is always the same.
pub(super) fn fixed<const N: usize>(value: [u8; N], out: &mut Vec<u8>) -> Option<()> {
    out.extend_from_slice(&u32::try_from(N).ok()?.to_be_bytes());
    out.extend_from_slice(&value);
    Some(())
}

/// Adds a value whose length is known when it was written.
pub(super) fn sized(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<()> {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    write(out)?;
    let length = i32::try_from(out.len() - at - 4).ok()?;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Some(())
}

pub(super) fn truth(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match text {
        b"t" => fixed([1], out),
        b"f" => fixed([0], out),
        _ => None,
    }
}

pub(super) fn int2(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    fixed(i16::try_from(integer(text)?).ok()?.to_be_bytes(), out)
}

pub(super) fn int4(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    fixed(i32::try_from(integer(text)?).ok()?.to_be_bytes(), out)
}

pub(super) fn int8(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    fixed(integer(text)?.to_be_bytes(), out)
}

pub(super) fn oid(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    fixed(u32::try_from(integer(text)?).ok()?.to_be_bytes(), out)
}

fn integer(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    // So many digits are never more than 64 bits.
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    let mut value = 0_u64;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u64::from(digit);
    }
    if is_negative { 0_i64.checked_sub_unsigned(value) } else { i64::try_from(value).ok() }
}

pub(super) fn float4(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let value = match text {
        b"NaN" => 0x7fc0_0000,
        b"Infinity" => f32::INFINITY.to_bits(),
        b"-Infinity" => f32::NEG_INFINITY.to_bits(),
        text => {
            let value: f32 = decimal(text)?.parse().ok()?;
            let is_exact = value.is_normal() || value.is_subnormal() || is_zero(text);
            is_exact.then(|| value.to_bits())?
        }
    };
    fixed(value.to_be_bytes(), out)
}

pub(super) fn float8(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let value = match text {
        b"NaN" => 0x7ff8_0000_0000_0000,
        b"Infinity" => f64::INFINITY.to_bits(),
        b"-Infinity" => f64::NEG_INFINITY.to_bits(),
        text => {
            let value: f64 = decimal(text)?.parse().ok()?;
            let is_exact = value.is_normal() || value.is_subnormal() || is_zero(text);
            is_exact.then(|| value.to_bits())?
        }
    };
    fixed(value.to_be_bytes(), out)
}

/// Returns the text if it begins as a number; other words would be taken for numbers too.
fn decimal(text: &[u8]) -> Option<&str> {
    let begins = matches!(text, [b'0'..=b'9', ..] | [b'-', b'0'..=b'9', ..]);
    if begins { std::str::from_utf8(text).ok() } else { None }
}

/// Other ways to write nothing are numbers that are too small.
fn is_zero(text: &[u8]) -> bool {
    matches!(text, b"0" | b"-0")
}

pub(super) fn text(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match memchr(b'\\', text) {
        None => {
            out.extend_from_slice(&i32::try_from(text.len()).ok()?.to_be_bytes());
            out.extend_from_slice(text);
            Some(())
        }
        Some(_) => sized(out, |out| unescape(text, out)),
    }
}

/// Returns a text without the blanks at its end. A blank is never part of an escape.
pub(super) fn without_blanks(mut text: &[u8]) -> &[u8] {
    while let Some(shorter) = text.strip_suffix(&[b' '; 8]) {
        text = shorter;
    }
    while let Some(shorter) = text.strip_suffix(b" ") {
        text = shorter;
    }
    text
}

pub(super) fn jsonb(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    sized(out, |out| {
        out.push(JSONB);
        unescape(text, out)
    })
}

fn unescape(mut text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    while let Some(at) = memchr(b'\\', text) {
        out.extend_from_slice(&text[..at]);
        out.push(unescaped(*text.get(at + 1)?)?);
        text = &text[at + 2..];
    }
    out.extend_from_slice(text);
    Some(())
}

/// One of 128 bytes; how servers write the others depends on their version.
pub(super) fn byte(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let byte = match text {
        [] => 0,
        [b'\\', escape] => unescaped(*escape)?,
        [byte] if byte.is_ascii() && *byte != b'\\' => *byte,
        _ => return None,
    };
    fixed([byte], out)
}

/// Where each byte of it begins, with the strokes between them.
const UUID_BYTES: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

pub(super) fn uuid(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let text: &[u8; 36] = text.try_into().ok()?;
    if [text[8], text[13], text[18], text[23]] != [b'-'; 4] {
        return None;
    }
    let mut value = [0; 16];
    let mut bad = 0;
    for (byte, at) in value.iter_mut().zip(UUID_BYTES) {
        let (high, low) = (hex(text[at]), hex(text[at + 1]));
        bad |= high | low;
        *byte = high << 4 | low & 0xf;
    }
    if bad < 0x10 { fixed(value, out) } else { None }
}

pub(super) fn bytea(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let digits = text.strip_prefix(br"\\x")?;
    if digits.len() % 2 != 0 {
        return None;
    }
    sized(out, |out| {
        let mut bad = 0;
        out.extend(digits.chunks_exact(2).map(|pair| {
            let (high, low) = (hex(pair[0]), hex(pair[1]));
            bad |= high | low;
            high << 4 | low & 0xf
        }));
        (bad < 0x10).then_some(())
    })
}

/// Returns the value of a digit as servers write it; 16 or more for what is none.
fn hex(digit: u8) -> u8 {
    HEX[usize::from(digit)]
}

const HEX: [u8; 256] = {
    let mut table = [0xff; 256];
    let digits = b"0123456789abcdef";
    let mut value = 0;
    while value < 16 {
        table[digits[value as usize] as usize] = value;
        value += 1;
    }
    table
};
