//! Connection strings as `host=db user='a b'`.

use super::{ConnInfoError, Settings};

/// Reads `key=value` pairs: values that hold spaces stand in single quotes, a backslash takes the next character as
/// it is.
pub(super) fn parse(text: &str) -> Result<Settings, ConnInfoError> {
    let mut settings = Settings::default();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|character: char| character == '=' || character.is_whitespace());
        let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
        let after = after.trim_start();
        let value = after.strip_prefix('=').ok_or_else(|| {
            // Not shown whole: a password with a space in it, not quoted, ends up here.
            ConnInfoError::new("a word of the connection string has no `=` after it")
                .with_hint("values with spaces stand in single quotes")
        })?;
        let (value, after) = read_value(value.trim_start())?;
        settings.set_known(name, value)?;
        rest = after.trim_start();
    }
    Ok(settings)
}

/// Returns a value and what follows it.
fn read_value(text: &str) -> Result<(String, &str), ConnInfoError> {
    let quoted = text.starts_with('\'');
    let mut characters = text.char_indices().skip(usize::from(quoted));
    let mut value = String::new();
    while let Some((place, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &text[place + 1..])),
            space if !quoted && space.is_whitespace() => return Ok((value, &text[place..])),
            other => value.push(other),
        }
    }
    if quoted {
        return Err(ConnInfoError::new("a quoted value of the connection string has no end"));
    }
    Ok((value, ""))
}
