//! The `.env` file of the working directory.
//!
//! It gives values for `env:NAME` and nothing else: it never overrides a variable that is set, never
//! becomes part of the process's environment, and cannot set one of dbkeep's own variables.

use std::collections::BTreeMap;
use std::path::Path;

use crate::Result;
use crate::environment::Environment;
use crate::trust;

/// Reads the `.env` of the working directory, if there is one and it can be trusted, into `environment`.
///
/// One that others can write is left out with a warning, because most programs never notice such a file.
pub(crate) fn merge(environment: &mut Environment, warnings: &mut Vec<String>) -> Result<()> {
    let file = environment.working_directory.join(".env");
    match trust::read(&file) {
        Ok(None) => Ok(()),
        Ok(Some(text)) => {
            environment.env_file = parse(&text, &file, warnings);
            Ok(())
        }
        Err(error) => {
            warnings.push(match error.hint() {
                Some(hint) => format!("{} ({hint})", error.full_message()),
                None => error.full_message(),
            });
            Ok(())
        }
    }
}

/// Returns the values of a `.env` file; lines that make no sense become warnings without their contents.
fn parse(text: &str, file: &Path, warnings: &mut Vec<String>) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        match assignment(line) {
            Some((name, value)) => {
                values.insert(name.to_owned(), value);
            }
            None => warnings.push(format!("{}:{}: not NAME=value, left out", file.display(), number + 1)),
        }
    }
    values
}

/// Splits `export NAME="value" # comment` into name and value.
fn assignment(line: &str) -> Option<(&str, String)> {
    let line = line.strip_prefix("export ").map_or(line, str::trim_start);
    let (name, value) = line.split_once('=')?;
    let name = name.trim_end();
    let sound = !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.chars().all(|character| character.is_ascii_alphanumeric() || "_.-".contains(character));
    if !sound {
        return None;
    }
    let value = value.trim_start();
    let value = match value.chars().next() {
        Some('\'') => value[1..].split_once('\'')?.0.to_owned(),
        Some('"') => double_quoted(&value[1..])?,
        _ => {
            // A `#` within a word belongs to the value: passwords have them.
            let end = value.find(" #").or_else(|| value.find("\t#")).unwrap_or(value.len());
            value[..end].trim_end().to_owned()
        }
    };
    Some((name, value))
}

/// Returns the text up to the closing quote with its escapes resolved.
fn double_quoted(text: &str) -> Option<String> {
    let mut value = String::new();
    let mut characters = text.chars();
    loop {
        match characters.next()? {
            '"' => return Some(value),
            '\\' => match characters.next()? {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                other @ ('"' | '\\' | '$') => value.push(other),
                other => value.extend(['\\', other]),
            },
            other => value.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_as_other_tools_read_them() {
        let text = "# comment\n\nA=1\nexport B = two words # not this\nC='single # quoted'\nD=\"a\\nb\\\"c\"\nE=p#ss\nF=\nDATABASE_URL=postgres://u:p@h/d?x=1&y=2\n";
        let mut warnings = Vec::new();
        let values = parse(text, Path::new(".env"), &mut warnings);
        assert!(warnings.is_empty());
        let expected = [
            ("A", "1"),
            ("B", "two words"),
            ("C", "single # quoted"),
            ("D", "a\nb\"c"),
            ("DATABASE_URL", "postgres://u:p@h/d?x=1&y=2"),
            ("E", "p#ss"),
            ("F", ""),
        ];
        assert_eq!(values, expected.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
    }

    #[test]
    fn line_that_is_no_assignment_is_a_warning_without_its_contents() {
        let mut warnings = Vec::new();
        let values = parse("hunter2\nA='open\n1X=2\n", Path::new("/w/.env"), &mut warnings);
        assert!(values.is_empty());
        assert_eq!(
            warnings,
            [1, 2, 3].map(|line| format!("/w/.env:{line}: not NAME=value, left out")),
            "the contents may be a secret"
        );
    }
}
