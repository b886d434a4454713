//! Large databases for measurements, made quickly and the same every time.
//!
//! All are real SQLite databases that pass `quick_check`: what is measured is what a
//! user would have.

pub mod page;
pub mod records;
pub mod shop;
pub mod sparse;

/// Parses a size as `256M`, `2G`, `64K` or plain bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim().trim_end_matches("iB").trim_end_matches('B');
    let (digits, shift) = match text.chars().last()? {
        'K' | 'k' => (&text[..text.len() - 1], 10),
        'M' | 'm' => (&text[..text.len() - 1], 20),
        'G' | 'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_understood() {
        assert_eq!(parse_size("2G"), Some(2 << 30));
        assert_eq!(parse_size("256MiB"), Some(256 << 20));
        assert_eq!(parse_size("64K"), Some(64 << 10));
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size("many"), None);
    }
}
