//! Names of databases, and how they are written where not every character is allowed.

/// The longest encoded name: with a suffix it must fit into the 255 bytes of a file name.
const LONGEST: usize = 200;

/// Says why `name` cannot be the name of a database, if it cannot.
pub fn check(name: &str) -> Result<(), String> {
    if name.trim().is_empty() {
        return Err("a database needs a name".to_owned());
    }
    if encode(name).len() > LONGEST {
        return Err(format!("the name is longer than {LONGEST} bytes"));
    }
    Ok(())
}

/// Returns `name` percent-encoded, so that it can be part of a path, a tag and a file name.
///
/// Encoded are `/`, `\`, `,`, `%`, control characters and those that turn the direction of text, spaces at
/// both ends, and the names `.` and `..`. [`decode`] gives the name back.
pub fn encode(name: &str) -> String {
    let dots = matches!(name, "." | "..");
    let last = name.chars().count().saturating_sub(1);
    let mut encoded = String::with_capacity(name.len());
    for (position, character) in name.chars().enumerate() {
        let outer = position == 0 || position == last;
        let plain =
            !(is_special(character) || (dots && character == '.') || (outer && character.is_whitespace()));
        if plain {
            encoded.push(character);
            continue;
        }
        let mut bytes = [0; 4];
        for byte in character.encode_utf8(&mut bytes).bytes() {
            encoded.push('%');
            encoded.extend(
                [byte >> 4, byte & 15].map(|digit| char::from(b"0123456789ABCDEF"[usize::from(digit)])),
            );
        }
    }
    encoded
}

/// Says whether a character may mean something else in a path, a tag or on a terminal.
fn is_special(character: char) -> bool {
    matches!(character, '/' | '\\' | ',' | '%')
        || character.is_control()
        || matches!(character, '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Returns the name that [`encode`] encoded; `None` when it is not the encoding of a name.
pub fn decode(encoded: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        bytes.push(digit(*high)? << 4 | digit(*low)?);
        rest = tail;
    }
    String::from_utf8(bytes).ok()
}

/// Returns text with everything escaped that could move the cursor or hide something on a terminal.
pub fn printable(text: &str) -> String {
    let unsafe_for_terminals =
        |character: char| is_special(character) && !matches!(character, '/' | '\\' | ',' | '%');
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if unsafe_for_terminals(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_encoding() {
        let cases = [
            ("app", "app"),
            ("a/b", "a%2Fb"),
            ("..", "%2E%2E"),
            ("...", "..."),
            (".hidden", ".hidden"),
            ("a,b%c", "a%2Cb%25c"),
            ("line\nend", "line%0Aend"),
            (" edge ", "%20edge%20"),
            ("in the middle", "in the middle"),
            ("ünïcode 🦀", "ünïcode 🦀"),
            ("\u{202e}gpj", "%E2%80%AEgpj"),
        ];
        for (name, encoded) in cases {
            assert_eq!(encode(name), encoded);
            assert_eq!(decode(encoded).as_deref(), Some(name));
        }
    }

    #[test]
    fn text_that_is_no_encoding_is_told() {
        for text in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    #[test]
    fn empty_and_endless_names_are_refused() {
        assert!(check(" ").is_err());
        assert!(check(&"x".repeat(201)).is_err());
        assert!(check(&"/".repeat(70)).is_err());
        assert!(check("x y").is_ok());
    }

    proptest::proptest! {
        #[test]
        fn every_name_comes_back_and_is_one_file_name(name in ".*") {
            let encoded = encode(&name);
            proptest::prop_assert!(!encoded.contains(['/', ',', '\0', '\n']));
            proptest::prop_assert!(encoded != "." && encoded != "..");
            proptest::prop_assert_eq!(decode(&encoded), Some(name));
        }
    }
}
