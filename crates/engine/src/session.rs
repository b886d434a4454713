//! The id of a session: one run over one or more databases.

use std::collections::HashSet;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// How the id is written, in UTC.
const FORMAT: &str = "%Y%m%d_%H%M%S";

/// Returns the id of a session that begins at `now`: `YYYYMMDD_HHMMSS` in UTC, of the next second that is
/// not taken.
pub fn next_id(now: Timestamp, taken: &HashSet<String>) -> String {
    let mut moment = now;
    loop {
        let id = moment.to_zoned(TimeZone::UTC).strftime(FORMAT).to_string();
        if !taken.contains(&id) {
            return id;
        }
        moment = moment.saturating_add(SignedDuration::from_secs(1)).unwrap_or(moment);
    }
}

/// Returns the second that an id stands for; `None` when it is no id of a session.
pub fn time_of(id: &str) -> Option<Timestamp> {
    let well_formed = id.len() == 15
        && id
            .bytes()
            .enumerate()
            .all(|(at, byte)| if at == 8 { byte == b'_' } else { byte.is_ascii_digit() });
    if !well_formed {
        return None;
    }
    let time = jiff::civil::DateTime::strptime(FORMAT, id).ok()?;
    time.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_that_is_taken_gets_the_next_free_second() {
        let now = "2026-01-02T03:04:59.9Z".parse().unwrap();
        let mut taken = HashSet::new();
        for expected in ["20260102_030459", "20260102_030500", "20260102_030501"] {
            let id = next_id(now, &taken);
            assert_eq!(id, expected);
            taken.insert(id);
        }
    }

    #[test]
    fn id_stands_for_its_second() {
        assert_eq!(time_of("20260102_030405"), Some("2026-01-02T03:04:05Z".parse().unwrap()));
        for text in ["20260102030405", "20261302_030405", "2026010_2030405", "latest", "20260102_03040x"] {
            assert_eq!(time_of(text), None, "{text}");
        }
    }
}
