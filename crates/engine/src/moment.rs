//! Moments as people write them.

use jiff::civil::{Date, DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp, ToSpan, Zoned};

use crate::{Error, Result};

/// Returns the moment that `text` means.
///
/// Understood are RFC 3339, the id of a session, `2026-01-02 03:04` (in `zone`), `2026-01-02` and `yesterday`
/// (the end of that day), `yesterday 14:00`, `today 9:30`, `now`, and `2 hours ago`. A local time that the clocks
/// showed twice or never is an error.
pub fn parse(text: &str, now: Timestamp, zone: &TimeZone) -> Result<Timestamp> {
    let text = text.trim();
    let lower = text.to_lowercase();
    if lower == "now" {
        return Ok(now);
    }
    if let Some(moment) = crate::session::time_of(text) {
        return Ok(moment);
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    if let Some(moment) = ago(&lower, now, zone) {
        return Ok(moment);
    }
    match civil(&lower, now, zone) {
        Some(Civil::At(time)) => at(time, zone, text),
        Some(Civil::Day(day)) => end_of(day, zone, text),
        None => Err(unclear(text)),
    }
}

/// Writes a moment as the clocks of `zone` show it: RFC 3339, in whole seconds.
pub fn written(moment: Timestamp, zone: &TimeZone) -> String {
    moment.to_zoned(zone.clone()).strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

/// A moment on a calendar, without a zone.
enum Civil {
    At(DateTime),
    Day(Date),
}

/// Reads a date, with a time or without.
fn civil(text: &str, now: Timestamp, zone: &TimeZone) -> Option<Civil> {
    let today = now.to_zoned(zone.clone()).date();
    let (word, rest) = text.split_once([' ', 't']).unwrap_or((text, ""));
    let named = match text.split_whitespace().next()? {
        "today" => Some(today),
        "yesterday" => Some(today.yesterday().ok()?),
        _ => None,
    };
    let (day, rest) = match named {
        Some(day) => (day, text.split_once(' ').map_or("", |(_, rest)| rest)),
        None => (word.parse::<Date>().ok()?, rest),
    };
    match rest.trim() {
        "" => Some(Civil::Day(day)),
        time => Some(Civil::At(day.to_datetime(clock(time)?))),
    }
}

/// Reads `3:04`, `03:04` or `03:04:05.678`.
fn clock(text: &str) -> Option<Time> {
    let padded = if text.find(':') == Some(1) { format!("0{text}") } else { text.to_owned() };
    padded.contains(':').then(|| padded.parse().ok())?
}

/// Reads `2 hours ago`, `an hour ago`, `3d ago`.
fn ago(text: &str, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let amount = text.strip_suffix("ago")?.trim();
    let amount = match amount.split_once(' ') {
        Some(("a" | "an" | "one", unit)) => format!("1 {unit}"),
        _ => amount.to_owned(),
    };
    let span: Span = amount.parse().ok()?;
    if span.is_negative() {
        return None;
    }
    now.to_zoned(zone.clone()).checked_sub(span).ok().map(|zoned: Zoned| zoned.timestamp())
}

/// Returns the moment at which the clocks of `zone` show `time`.
fn at(time: DateTime, zone: &TimeZone, text: &str) -> Result<Timestamp> {
    let ambiguous = zone.to_ambiguous_timestamp(time);
    let explain = |what: &str, before, after| {
        Error::usage(
            format!("the clocks showed {text:?} {what} when they were changed"),
            format!("add the offset from UTC, as {before} or {after}"),
        )
    };
    match ambiguous.offset() {
        AmbiguousOffset::Unambiguous { .. } => ambiguous.unambiguous().map_err(|_| unclear(text)),
        AmbiguousOffset::Gap { before, after } => Err(explain("never", before, after)),
        AmbiguousOffset::Fold { before, after } => Err(explain("twice", before, after)),
    }
}

/// Returns the last moment of a day.
fn end_of(day: Date, zone: &TimeZone, text: &str) -> Result<Timestamp> {
    let next = day.tomorrow().ok().and_then(|next| next.to_zoned(zone.clone()).ok());
    let last = next.and_then(|next| next.timestamp().checked_sub(1.nanosecond()).ok());
    last.ok_or_else(|| unclear(text))
}

fn unclear(text: &str) -> Error {
    Error::usage(
        format!("{text:?} is no moment"),
        "write it as \"2026-01-02 03:04\", \"2026-01-02T03:04:05Z\", \"2 hours ago\" or \"yesterday\"",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn berlin() -> TimeZone {
        TimeZone::get("Europe/Berlin").unwrap()
    }

    fn moment(text: &str) -> String {
        let now = "2026-03-10T12:00:00Z".parse().unwrap();
        parse(text, now, &berlin()).map_or_else(|error| error.to_string(), |moment| moment.to_string())
    }

    #[test]
    fn moments_are_understood_as_people_write_them() {
        let cases = [
            ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05+01:00", "2026-01-02T02:04:05Z"),
            ("2026-01-02 03:04", "2026-01-02T02:04:00Z"),
            ("2026-01-02T03:04", "2026-01-02T02:04:00Z"),
            ("2026-01-02 3:04", "2026-01-02T02:04:00Z"),
            ("2026-01-02 03:04:05.5", "2026-01-02T02:04:05.5Z"),
            ("2026-01-02", "2026-01-02T22:59:59.999999999Z"),
            ("20260102_030405", "2026-01-02T03:04:05Z"),
            ("now", "2026-03-10T12:00:00Z"),
            ("2 hours ago", "2026-03-10T10:00:00Z"),
            ("an hour ago", "2026-03-10T11:00:00Z"),
            ("30m ago", "2026-03-10T11:30:00Z"),
            ("1 week ago", "2026-03-03T12:00:00Z"),
            ("Yesterday", "2026-03-09T22:59:59.999999999Z"),
            ("yesterday 14:00", "2026-03-09T13:00:00Z"),
            ("today 9:30", "2026-03-10T08:30:00Z"),
        ];
        for (text, expected) in cases {
            assert_eq!(moment(text), expected, "{text}");
        }
    }

    #[test]
    fn text_that_is_no_moment_is_refused() {
        for text in
            ["", "soon", "2026-13-01", "2026-01-02 25:00", "-2 hours ago", "2026-01-02 7", "in 2 hours"]
        {
            assert!(moment(text).ends_with("is no moment"), "{text}: {}", moment(text));
        }
    }

    #[test]
    fn local_time_that_was_shown_twice_or_never_is_refused_with_both_offsets() {
        let now = Timestamp::now();
        let twice = parse("2026-10-25 02:30", now, &berlin()).unwrap_err();
        assert_eq!(twice.to_string(), "the clocks showed \"2026-10-25 02:30\" twice when they were changed");
        assert_eq!(twice.hint().as_deref(), Some("add the offset from UTC, as +02 or +01"));
        let never = parse("2026-03-29 02:30", now, &berlin()).unwrap_err();
        assert_eq!(never.to_string(), "the clocks showed \"2026-03-29 02:30\" never when they were changed");
    }
}
