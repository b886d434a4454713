//! Values as SQL literals that every SQLite reads back as the very same value.
//!
//! A decimal is a risk: SQLite converts it with a few roundings of its own, which differ between versions and
//! processors, and version 3.40 misreads one in some thousand random numbers, also when written with twenty digits as
//! its own `.dump` does. So a number is written with the fewest digits only where an error in the conversion a hundred
//! times larger than the known ones cannot change it, and as an exact product of whole numbers where no decimal is safe.

use std::fmt::Write as _;

use crate::contents::{Value, Wide};

/// Adds a value.
pub(super) fn push(line: &mut String, value: Value<'_>, wide: Option<Wide>) {
    match value {
        Value::Null => line.push_str("NULL"),
        // The smallest whole number has no literal: its positive part is one too large.
        Value::Integer(i64::MIN) => line.push_str("(-9223372036854775807-1)"),
        // Writing to a String cannot fail, here and below.
        Value::Integer(number) => _ = write!(line, "{number}"),
        Value::Real(number) => line.push_str(&real(number)),
        Value::Text(value) => line.push_str(&text(value, wide)),
        Value::OddText(bytes) => {
            line.push_str("CAST(");
            push_hex(line, bytes);
            line.push_str(" AS TEXT)");
        }
        Value::Blob(bytes) => push_hex(line, bytes),
    }
}

fn push_hex(line: &mut String, bytes: &[u8]) {
    line.reserve(bytes.len() * 2 + 3);
    line.push_str("x'");
    for byte in bytes {
        line.extend([byte >> 4, byte & 15].map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])));
    }
    line.push('\'');
}

/// Returns a text. A carriage return is written by its number, because `sqlite3` drops one at the end of a line that
/// it reads; a text with a zero byte as bytes, because a statement ends there.
pub(super) fn text(text: &str, wide: Option<Wide>) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    if text.contains('\0') {
        let bytes = wide.map_or_else(|| text.as_bytes().to_vec(), |wide| wide.encode(text));
        push(&mut literal, Value::OddText(&bytes), wide);
        return literal;
    }
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    if !text.contains('\r') {
        return quoted(text);
    }
    let mut mark = "\\r".to_owned();
    let mut number = 0;
    while text.contains(&mark) {
        number += 1;
        // It ends in another way than it begins, so that no two of them overlap.
        mark = format!("\\r{number};");
    }
    format!("replace({},'{mark}',char(13))", quoted(&text.replace('\r', &mark)))
}

/// Returns a floating-point number.
pub fn real(number: f64) -> String {
    if number.is_nan() {
        // SQLite stores none: it makes NULL of it.
        return "NULL".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "9e999" } else { "-9e999" }.to_owned();
    }
    let shortest = format!("{number:?}");
    if number == 0.0 || is_safe(&shortest, number) {
        return shortest;
    }
    let long = format!("{number:.17e}");
    if is_safe(&long, number) { long } else { product(number) }
}

/// Says whether a decimal is still read as `number` when the conversion is wrong by one part in 2^56.
fn is_safe(decimal: &str, number: f64) -> bool {
    // Beyond these the powers of ten themselves are rounded, and results near the smallest number as well.
    if !(1e-280..1e280).contains(&number.abs()) {
        return false;
    }
    if number.fract() == 0.0 && number.abs() < 9e15 {
        return true;
    }
    let Some((digits, exponent)) = digits_of(decimal) else { return false };
    let around = [digits - (digits >> 56), digits + (digits >> 56)];
    around.into_iter().all(|digits| format!("{digits}e{exponent}").parse() == Ok(number.abs()))
}

/// Returns the digits of a decimal as a number of 25 digits, and the power of ten that it is to be multiplied with.
fn digits_of(decimal: &str) -> Option<(u128, i32)> {
    const WIDTH: usize = 25;
    let unsigned = decimal.trim_start_matches('-');
    let (mantissa, exponent) = unsigned.split_once('e').unwrap_or((unsigned, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits: String = [whole, fraction].concat();
    let mut exponent = exponent.parse::<i32>().ok()? - i32::try_from(fraction.len()).ok()?;
    digits = digits.trim_start_matches('0').to_owned();
    let missing = WIDTH.checked_sub(digits.len())?;
    exponent -= i32::try_from(missing).ok()?;
    digits.extend(std::iter::repeat_n('0', missing));
    Some((digits.parse().ok()?, exponent))
}

/// Returns a number as a whole number multiplied or divided by powers of two, each step of which is exact.
fn product(number: f64) -> String {
    const STEP: u32 = 60;
    let bits = number.to_bits();
    let fraction = bits & ((1 << 52) - 1);
    let (mantissa, exponent) = match (bits >> 52) & 0x7ff {
        0 => (fraction, -1074),
        exponent => (fraction | 1 << 52, i32::try_from(exponent).unwrap_or(0) - 1075),
    };
    let sign = if number.is_sign_negative() { "-" } else { "" };
    let mut literal = format!("({sign}{mantissa}.0");
    let operator = if exponent < 0 { '/' } else { '*' };
    let mut left = exponent.unsigned_abs();
    while left > 0 {
        let step = left.min(STEP);
        _ = write!(literal, "{operator}{}.0", 1u64 << step);
        left -= step;
    }
    literal.push(')');
    literal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_people_write_stay_as_they_are() {
        for (number, literal) in [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (1.0, "1.0"),
            (-1.5, "-1.5"),
            (12.34, "12.34"),
            (61000.5, "61000.5"),
            (0.1, "0.1"),
            (1e16, "1e16"),
            (f64::INFINITY, "9e999"),
            (f64::NEG_INFINITY, "-9e999"),
        ] {
            assert_eq!(real(number), literal);
        }
    }

    #[test]
    fn numbers_at_the_edges_are_exact_products() {
        assert_eq!(real(4.0e-324), format!("(1.0{})", divisions(1074)));
        assert!(real(f64::MAX).starts_with("(9007199254740991.0*1152921504606846976.0*"));
        assert!(real(-f64::MIN_POSITIVE).starts_with("(-4503599627370496.0/"));
    }

    fn divisions(by: u32) -> String {
        let whole = "/1152921504606846976.0".repeat((by / 60) as usize);
        format!("{whole}/{}.0", 1u64 << (by % 60))
    }

    #[test]
    fn texts_are_quoted_and_survive_line_ends() {
        assert_eq!(text("it's\nfine", None), "'it''s\nfine'");
        assert_eq!(text("a\r\nb", None), "replace('a\\r\nb','\\r',char(13))");
        assert_eq!(text("\\r\r", None), "replace('\\r\\r1;','\\r1;',char(13))");
        assert_eq!(text("a\0b", None), "CAST(x'610062' AS TEXT)");
        assert_eq!(text("a\0", Some(Wide::Big)), "CAST(x'00610000' AS TEXT)");
    }

    #[test]
    fn whole_numbers_at_the_edges_have_literals() {
        let mut line = String::new();
        push(&mut line, Value::Integer(i64::MIN), None);
        push(&mut line, Value::Integer(i64::MAX), None);
        assert_eq!(line, "(-9223372036854775807-1)9223372036854775807");
    }

    proptest::proptest! {
        #[test]
        fn every_number_is_read_back_bit_by_bit(bits: u64) {
            let number = f64::from_bits(bits);
            proptest::prop_assume!(!number.is_nan());
            let connection = rusqlite::Connection::open_in_memory().unwrap();
            let read: f64 = connection.query_row(&format!("SELECT {}", real(number)), [], |row| row.get(0)).unwrap();
            proptest::prop_assert_eq!(read.to_bits(), bits, "{}", real(number));
        }

        #[test]
        fn every_text_is_read_back(value: String) {
            let connection = rusqlite::Connection::open_in_memory().unwrap();
            let query = format!("SELECT {}", text(&value, None));
            let read: String = connection.query_row(&query, [], |row| row.get(0)).unwrap();
            proptest::prop_assert_eq!(read, value);
        }
    }
}
