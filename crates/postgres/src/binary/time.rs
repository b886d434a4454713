//! Dates and times, as ISO 8601 with the years of PostgreSQL: days and microseconds since the year 2000.

use super::values::fixed;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Days from the first of the year 1 to the one that is counted from.
const EPOCH: i64 = 730_119;
/// The dates that servers have: from 4714-11-24 BC to 5874897-12-31.
const DATES: std::ops::Range<i64> = -2_451_545..2_145_031_949;
/// The times that servers have: from 4714-11-24 BC to the end of 294276.
const TIMES: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

pub(super) fn date(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let days = match text {
        b"infinity" => i32::MAX,
        b"-infinity" => i32::MIN,
        text => {
            let (text, is_before) = era(text);
            let (days, rest) = days(text, is_before)?;
            i32::try_from(days).ok().filter(|_| rest.is_empty() && DATES.contains(&days))?
        }
    };
    fixed(days.to_be_bytes(), out)
}

pub(super) fn time(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (time, rest) = time_of_day(text)?;
    (rest.is_empty() && time <= DAY).then_some(())?;
    fixed(time.to_be_bytes(), out)
}

pub(super) fn timestamp(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    moment(text, out, |rest| rest.is_empty().then_some(0))
}

pub(super) fn timestamp_tz(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    moment(text, out, offset)
}

/// Adds a timestamp. `offset` says how far the clock is before the one that is counted by.
fn moment(text: &[u8], out: &mut Vec<u8>, offset: impl FnOnce(&[u8]) -> Option<i64>) -> Option<()> {
    let moment = match text {
        b"infinity" => i64::MAX,
        b"-infinity" => i64::MIN,
        text => {
            let (text, is_before) = era(text);
            let (days, rest) = days(text, is_before)?;
            let (time, rest) = time_of_day(rest.strip_prefix(b" ")?)?;
            let local = days.checked_mul(DAY)?.checked_add(time).filter(|_| time < DAY)?;
            local.checked_sub(offset(rest)?).filter(|moment| TIMES.contains(moment))?
        }
    };
    fixed(moment.to_be_bytes(), out)
}

/// Takes off what stands behind years before the year 1.
fn era(text: &[u8]) -> (&[u8], bool) {
    match text.strip_suffix(b" BC") {
        Some(text) => (text, true),
        None => (text, false),
    }
}

/// Reads a date: the days since the one that is counted from, and what stands behind it.
fn days(text: &[u8], is_before: bool) -> Option<(i64, &[u8])> {
    let width = text.iter().position(|byte| *byte == b'-')?;
    let [b'-', m, n, b'-', d, e, rest @ ..] = &text[width..] else { return None };
    // Longer ones have no zero before them.
    if !(4..=7).contains(&width) || width > 4 && text[0] == b'0' {
        return None;
    }
    let mut year = 0;
    for byte in &text[..width] {
        year = year * 10 + digit(*byte)?;
    }
    let (month, day) = (two(*m, *n)?, two(*d, *e)?);
    if year == 0 {
        return None;
    }
    // The year before the year 1 is 1 BC.
    let year = if is_before { 1 - year } else { year };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let (before, length) = match month {
        1 => (0, 31),
        2 => (31, if is_leap { 29 } else { 28 }),
        3 => (59, 31),
        4 => (90, 30),
        5 => (120, 31),
        6 => (151, 30),
        7 => (181, 31),
        8 => (212, 31),
        9 => (243, 30),
        10 => (273, 31),
        11 => (304, 30),
        12 => (334, 31),
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    let leap_day = i64::from(is_leap && month > 2);
    let past = year - 1;
    let years = past * 365 + past.div_euclid(4) - past.div_euclid(100) + past.div_euclid(400);
    Some((years + before + leap_day + day - 1 - EPOCH, rest))
}

/// Reads a time of a day in microseconds, and what stands behind it.
fn time_of_day(text: &[u8]) -> Option<(i64, &[u8])> {
    let [h, i, b':', m, n, b':', s, t, rest @ ..] = text else { return None };
    let (hours, minutes, seconds) = (two(*h, *i)?, two(*m, *n)?, two(*s, *t)?);
    if hours > 24 || minutes > 59 || seconds > 59 {
        return None;
    }
    let (fraction, rest) = match rest {
        [b'.', rest @ ..] => fraction(rest)?,
        rest => (0, rest),
    };
    Some((hours * HOUR + minutes * MINUTE + seconds * SECOND + fraction, rest))
}

/// Reads up to six decimals of a second.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let (mut value, mut unit, mut width) = (0, SECOND, 0);
    while let Some(byte) = text.get(width).filter(|byte| byte.is_ascii_digit()) {
        unit /= 10;
        if unit == 0 {
            return None;
        }
        value += digit(*byte)? * unit;
        width += 1;
    }
    (width > 0).then(|| (value, &text[width..]))
}

/// Reads how far a clock is before that of Greenwich: `+05`, `+05:30` or `-00:25:21`.
fn offset(text: &[u8]) -> Option<i64> {
    let (sign, hours, rest) = match text {
        [b'+', h, i, rest @ ..] => (1, two(*h, *i)?, rest),
        [b'-', h, i, rest @ ..] => (-1, two(*h, *i)?, rest),
        _ => return None,
    };
    let (minutes, seconds) = match rest {
        [] => (0, 0),
        [b':', m, n] => (two(*m, *n)?, 0),
        [b':', m, n, b':', s, t] => (two(*m, *n)?, two(*s, *t)?),
        _ => return None,
    };
    let is_possible = hours < 16 && minutes < 60 && seconds < 60;
    is_possible.then_some(sign * (hours * HOUR + minutes * MINUTE + seconds * SECOND))
}

fn two(tens: u8, ones: u8) -> Option<i64> {
    Some(digit(tens)? * 10 + digit(ones)?)
}

fn digit(byte: u8) -> Option<i64> {
    let digit = byte.wrapping_sub(b'0');
    (digit < 10).then_some(i64::from(digit))
}
