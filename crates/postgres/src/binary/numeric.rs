//! Decimals: digits to the base of 10000, the place of the first one, and how many decimals are shown.

use super::values::sized;

/// Decimal digits in one of ours.
const GROUP: usize = 4;
/// More digits before the point no server has.
const LONGEST_WHOLE: usize = 131_072;
/// More decimals have no room in the number of them.
const LONGEST_FRACTION: usize = 0x3fff;

const POSITIVE: u16 = 0x0000;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
const INFINITY: u16 = 0xd000;
const NEGATIVE_INFINITY: u16 = 0xf000;
/// What servers send for the scale of what has none; they read it as nothing.
const INFINITE_SCALE: usize = 0x20;

/// Adds a value with its length before it; none when it is not as servers write it.
pub(super) fn put(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (sign, digits) = match text {
        b"NaN" => return special(NAN, 0, out),
        b"Infinity" => return special(INFINITY, INFINITE_SCALE, out),
        b"-Infinity" => return special(NEGATIVE_INFINITY, INFINITE_SCALE, out),
        [b'-', digits @ ..] => (NEGATIVE, digits),
        digits => (POSITIVE, digits),
    };
    let (whole, fraction) = match digits.iter().position(|byte| *byte == b'.') {
        Some(point) if point + 1 < digits.len() => (&digits[..point], &digits[point + 1..]),
        Some(_) => return None,
        None => (digits, &[][..]),
    };
    if whole.is_empty() || whole.len() > LONGEST_WHOLE || fraction.len() > LONGEST_FRACTION {
        return None;
    }
    sized(out, |out| finite(sign, without_zeros(whole), fraction, out))
}

fn special(sign: u16, scale: usize, out: &mut Vec<u8>) -> Option<()> {
    sized(out, |out| head(0, 0, sign, scale).map(|head| out.extend_from_slice(&head)))
}

/// Returns digits without zeros that mean nothing.
fn without_zeros(mut whole: &[u8]) -> &[u8] {
    while let [b'0', rest @ ..] = whole {
        whole = rest;
    }
    whole
}

/// Adds a number, its first and last digit other than zero.
fn finite(sign: u16, whole: &[u8], fraction: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let at = out.len();
    out.extend_from_slice(&[0; 8]);
    let first = out.len();
    // Of the first digit: how many there are behind it, up to the point.
    let mut weight = i32::try_from(whole.len().div_ceil(GROUP)).ok()? - 1;
    let (short, groups) = whole.split_at(whole.len() % GROUP);
    if !short.is_empty() {
        out.extend_from_slice(&group(short)?.to_be_bytes());
    }
    for digits in groups.chunks_exact(GROUP) {
        out.extend_from_slice(&group(digits)?.to_be_bytes());
    }
    for digits in fraction.chunks(GROUP) {
        let missing = GROUP - digits.len();
        let digit = group(digits)? * [1, 10, 100, 1_000][missing];
        if digit == 0 && out.len() == first {
            weight -= 1;
        } else {
            out.extend_from_slice(&digit.to_be_bytes());
        }
    }
    while out.len() > first && out.ends_with(&[0; 2]) {
        out.truncate(out.len() - 2);
    }
    let count = (out.len() - first) / 2;
    let (weight, sign) = if count == 0 { (0, POSITIVE) } else { (weight, sign) };
    let head = head(count, weight, sign, fraction.len())?;
    out[at..first].copy_from_slice(&head);
    Some(())
}

/// Returns what stands before the digits.
fn head(count: usize, weight: i32, sign: u16, decimals: usize) -> Option<[u8; 8]> {
    let [a, b] = u16::try_from(count).ok()?.to_be_bytes();
    let [c, d] = i16::try_from(weight).ok()?.to_be_bytes();
    let [e, f] = sign.to_be_bytes();
    let [g, h] = u16::try_from(decimals).ok()?.to_be_bytes();
    Some([a, b, c, d, e, f, g, h])
}

/// Returns the value of up to four decimal digits.
fn group(digits: &[u8]) -> Option<u16> {
    let mut value = 0;
    for digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value * 10 + u16::from(digit);
    }
    Some(value)
}
