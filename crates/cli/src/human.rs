//! How sizes, times, numbers and names are written for people.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Writes a size as `1.2 GiB`; below one KiB as whole bytes.
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would be shown as 1024.0 of the smaller unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Writes a rate as `84.0 MiB/s`; nothing when too little time passed to tell.
pub(crate) fn rate(bytes: u64, milliseconds: u64) -> Option<String> {
    let per_second = u128::from(bytes) * 1000 / u128::from(milliseconds.max(1));
    (milliseconds >= 100).then(|| format!("{}/s", size(u64::try_from(per_second).unwrap_or(u64::MAX))))
}

/// Writes a number with separators, as `1,234,567`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3);
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Writes a number with its noun: `1 row`, `2 rows`.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", count(number))
}

/// Writes a duration as `350 ms`, `4.1 s`, `3 min 12 s` or `2 h 5 min`.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// Writes a time in RFC 3339 with the offset of `zone`, to the second.
pub(crate) fn time(time: Timestamp, zone: &TimeZone) -> String {
    dbkeep_engine::write_moment(time, zone)
}

/// Writes how long ago `time` was, as `3 h ago`, in the largest unit that fits.
pub(crate) fn age(time: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second().saturating_sub(time.as_second());
    match seconds {
        ..-60 => "in the future".into(),
        -60..60 => "just now".into(),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => format!("{} d ago", seconds / 86_400),
    }
}

/// Makes control characters, and those that reorder text, visible.
///
/// Names come from databases and file systems of others: printed as they are, they could move
/// the cursor, change the window's title or show one name as another.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_treacherous) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\n' => shown.push_str("\\n"),
            '\r' => shown.push_str("\\r"),
            '\t' => shown.push_str("\\t"),
            _ if is_treacherous(character) => {
                // Writing to a String cannot fail.
                let _ = write!(shown, "\\u{{{:x}}}", u32::from(character));
            }
            _ => shown.push(character),
        }
    }
    Cow::Owned(shown)
}

fn is_treacherous(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Quotes an argument so that a POSIX shell reads it back as it is.
///
/// Control characters are written in the `$'…'` form, which bash, zsh and ksh understand, so that
/// the line can be printed and copied.
pub(crate) fn shell_quoted(argument: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "-_./:=@%+,~".contains(character);
    // A tilde is expanded at the start of a word only; elsewhere it is plain (`latest~1`).
    if !argument.is_empty() && argument.chars().all(plain) && !argument.starts_with('~') {
        return argument.to_owned();
    }
    if argument.chars().any(is_treacherous) {
        let mut quoted = String::from("$'");
        for character in argument.chars() {
            match character {
                '\'' | '\\' => quoted.extend(['\\', character]),
                _ if is_treacherous(character) => {
                    let mut bytes = [0; 4];
                    for byte in character.encode_utf8(&mut bytes).bytes() {
                        let _ = write!(quoted, "\\x{byte:02x}");
                    }
                }
                _ => quoted.push(character),
            }
        }
        quoted.push('\'');
        return quoted;
    }
    format!("'{}'", argument.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_a_person_says_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_288_490_189, "1.2 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn rates_are_not_guessed_from_an_instant() {
        assert_eq!(rate(1 << 20, 5), None);
        assert_eq!(rate(84 << 20, 1000).as_deref(), Some("84.0 MiB/s"));
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(counted(1, "row"), "1 row");
        assert_eq!(counted(1000, "row"), "1,000 rows");
    }

    #[test]
    fn durations_and_ages_use_the_unit_that_fits() {
        assert_eq!(duration(Duration::from_millis(12)), "12 ms");
        assert_eq!(duration(Duration::from_millis(4100)), "4.1 s");
        assert_eq!(duration(Duration::from_secs(192)), "3 min 12 s");
        assert_eq!(duration(Duration::from_secs(7500)), "2 h 5 min");
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        for (then, text) in [
            ("2026-01-02T03:04:00Z", "just now"),
            ("2026-01-02T03:00:00Z", "4 min ago"),
            ("2026-01-01T03:00:00Z", "24 h ago"),
            ("2025-12-30T03:00:00Z", "3 d ago"),
            ("2026-01-03T03:00:00Z", "in the future"),
        ] {
            assert_eq!(age(then.parse().unwrap(), now), text);
        }
    }

    #[test]
    fn times_carry_their_zone() {
        let moment: Timestamp = "2026-01-02T03:04:05.678Z".parse().unwrap();
        assert_eq!(time(moment, &TimeZone::UTC), "2026-01-02T03:04:05+00:00");
        let zone = TimeZone::fixed(jiff::tz::offset(2));
        assert_eq!(time(moment, &zone), "2026-01-02T05:04:05+02:00");
    }

    #[test]
    fn control_characters_and_reordering_are_shown_not_obeyed() {
        assert_eq!(visible("plain é 名"), "plain é 名");
        assert_eq!(visible("a\x1b[2Jb\nc\u{202e}d\u{9b}"), "a\\u{1b}[2Jb\\nc\\u{202e}d\\u{9b}");
    }

    #[test]
    fn quoted_arguments_survive_a_shell() {
        for argument in [
            "",
            "plain/path.db",
            "with space",
            "it's",
            "$HOME `id` \"x\" \\",
            "-n",
            "~root",
            "latest~2",
            "a*b?",
            "é 名",
        ] {
            let line = format!("printf %s {}", shell_quoted(argument));
            let output = std::process::Command::new("sh").arg("-c").arg(&line).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), argument, "{line}");
        }
        assert_eq!(shell_quoted("latest~2"), "latest~2");
        assert_eq!(shell_quoted("a\nb'c"), r"$'a\x0ab\'c'");
    }
}
