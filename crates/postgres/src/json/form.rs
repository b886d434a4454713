//! How the values of a type stand in readable JSON.
//!
//! What is lost, or rather what a reader of such JSON cannot know any more: how many zeros a decimal ended with, which
//! type a text had, whether a `json` value `null` was that or no value at all, white space inside of `json`, and what
//! the reader's own numbers and times cannot hold. `json` stands as it was stored: keys that are there twice, lone
//! surrogates and very deep nesting, which some readers refuse, are possible. The lossless form has none of that.

/// The largest whole number up to which JavaScript, and whoever reads JSON numbers as it does, tells all apart.
const SAFE_INTEGER: u64 = (1 << 53) - 1;
/// So many decimal digits every reader with numbers of 64 bits gives back as they were.
const SAFE_DIGITS: usize = 15;

/// How values stand in readable JSON; for the metadata of an export, for whoever reads it.
pub const VALUES: &str = "NULL is null; truth values, floating-point numbers, whole numbers up to 2^53-1 and decimals of up to 15 digits are true, false and numbers, and strings where they are none of these (NaN, Infinity, more digits); json and jsonb stand as they are; timestamps are as in RFC 3339, those with a zone in UTC, those without one without an offset, and as PostgreSQL writes them where that has no word for them (infinity, BC, years beyond 9999); everything else is a string as PostgreSQL writes it";

/// How values of a column stand in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As a string, as PostgreSQL writes it.
    Text,
    /// As `true` or `false`.
    Boolean,
    /// As a number up to 2^53-1, else as a string.
    Integer,
    /// As a number where 15 digits are enough, else as a string.
    Decimal,
    /// As a number where it is finite, else as a string.
    Float,
    /// As it is.
    Json,
    /// With a `T` between date and time, and a `Z` at the end where it has a zone.
    Timestamp {
        /// Whether it has a zone, which is UTC: connections are set so.
        zone: bool,
    },
}

impl Form {
    /// Returns that of a type, as the catalog names it. A type that somebody else made has a schema in its name, so
    /// that none is taken for one of these.
    pub fn of(type_name: &str) -> Self {
        let (before, precision) = type_name.split_once('(').unwrap_or((type_name, ""));
        let after = precision.split_once(')').map_or("", |(_, after)| after);
        match format!("{before}{after}").as_str() {
            "boolean" => Self::Boolean,
            "smallint" | "integer" | "bigint" | "oid" => Self::Integer,
            "numeric" => Self::Decimal,
            "real" | "double precision" => Self::Float,
            "json" | "jsonb" => Self::Json,
            "timestamp without time zone" => Self::Timestamp { zone: false },
            "timestamp with time zone" => Self::Timestamp { zone: true },
            _ => Self::Text,
        }
    }

    /// Returns what stands for a value in JSON; none where only a string can.
    pub(super) fn word(self, value: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(value).ok()?;
        match self {
            Self::Text | Self::Json => None,
            Self::Boolean => match text {
                "t" => Some(b"true".to_vec()),
                "f" => Some(b"false".to_vec()),
                _ => None,
            },
            Self::Integer => is_safe_integer(text).then(|| value.to_vec()),
            Self::Decimal => (is_safe_integer(text) || is_safe_decimal(text)).then(|| value.to_vec()),
            Self::Float => is_number(text).then(|| value.to_vec()),
            Self::Timestamp { zone } => timestamp(text, zone).map(String::into_bytes),
        }
    }
}

fn is_safe_integer(text: &str) -> bool {
    is_number(text) && text.parse::<i64>().is_ok_and(|number| number.unsigned_abs() <= SAFE_INTEGER)
}

fn is_safe_decimal(text: &str) -> bool {
    let Some((_, fraction)) = text.split_once('.') else { return false };
    let zeros = fraction.len() - fraction.trim_end_matches('0').len();
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_digit).collect();
    let leading = digits.iter().take_while(|digit| **digit == b'0').count();
    is_number(text)
        && !text.contains(['e', 'E'])
        && digits.len().saturating_sub(leading).saturating_sub(zeros) <= SAFE_DIGITS
}

/// Returns whether a text is a number in the grammar of JSON.
fn is_number(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    let (number, exponent) = text.split_once('e').map_or((text, None), |(number, rest)| (number, Some(rest)));
    let (whole, fraction) =
        number.split_once('.').map_or((number, None), |(whole, fraction)| (whole, Some(fraction)));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits(whole)
        && (whole == "0" || !whole.starts_with('0'))
        && fraction.is_none_or(digits)
        && exponent.is_none_or(|exponent| digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)))
}

/// Returns `"2026-01-02T03:04:05Z"` for `2026-01-02 03:04:05+00`; none for what RFC 3339 has no word for.
fn timestamp(text: &str, zone: bool) -> Option<String> {
    let (date, time) = text.split_once(' ')?;
    let time = if zone { time.strip_suffix("+00")? } else { time };
    let is = |text: &str, pattern: &str| {
        text.len() == pattern.len()
            && text.bytes().zip(pattern.bytes()).all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                wanted => byte == wanted,
            })
    };
    let (seconds, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let digits = !fraction.is_empty() && fraction.bytes().all(|byte| byte.is_ascii_digit());
    let known = is(date, "0000-00-00") && is(seconds, "00:00:00") && digits;
    known.then(|| format!("\"{date}T{time}{}\"", if zone { "Z" } else { "" }))
}
