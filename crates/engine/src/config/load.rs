//! Finds, reads and validates a configuration.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use toml::de::{DeTable, DeValue};

use super::{Command, Config, CopyConfig, RetentionConfig};
use crate::drill::Assertion;
use crate::environment::Environment;
use crate::state::plain;
use crate::suggest::nearest;
use crate::{Error, Result, redact_within, trust};

/// Loads the configuration that is in force: `named`, else `DBKEEP_CONFIG`, else `dbkeep.toml` of the
/// working directory, else the user's. Without any it is the default.
///
/// Returns the file as well. A `dbkeep.toml` of the working directory that others can write is an error.
pub fn load(
    environment: &Environment,
    named: Option<&Path>,
    warnings: &mut Vec<String>,
) -> Result<(Config, Option<PathBuf>)> {
    let named = named.or_else(|| environment.variable("DBKEEP_CONFIG").map(Path::new));
    if let Some(path) = named {
        let file = environment.resolve_argument(path);
        let text = trust::read_named(&file)?.ok_or_else(|| Error::Usage {
            message: format!("no configuration {}", file.display()),
            hint: Some("`dbkeep config example` prints one to start from".to_owned()),
        })?;
        return parse(&text, &file, warnings).map(|config| (config, Some(file)));
    }
    let local = environment.working_directory.join("dbkeep.toml");
    if let Some(text) = trust::read(&local)? {
        return parse(&text, &local, warnings).map(|config| (config, Some(local)));
    }
    let own = environment.config_directory.join("dbkeep.toml");
    if let Some(text) = trust::read_named(&own)? {
        return parse(&text, &own, warnings).map(|config| (config, Some(own)));
    }
    Ok((Config::default(), None))
}

/// Reads a configuration from its text; `file` is for messages.
pub fn parse(text: &str, file: &Path, warnings: &mut Vec<String>) -> Result<Config> {
    let wrong = |range: Option<Range<usize>>, message: String, hint: Option<String>| Error::Config {
        file: file.to_owned(),
        line: range.map(|range| line_of(text, range.start)),
        message,
        hint,
    };
    // The message may quote a value, which may be a URL.
    let message = |error: &toml::de::Error| redact_within(&one_line(error.message()));
    let broken = |error: &toml::de::Error| wrong(error.span(), message(error), None);

    let table = DeTable::parse(text).map_err(|error| broken(&error))?;
    let schema: Value = serde_json::from_str(super::schema()).expect("schema.json is JSON: a test reads it");
    if let Some(unknown) = unknown_key(table.get_ref(), &schema, &schema, "") {
        return Err(wrong(Some(unknown.range), unknown.message, unknown.hint));
    }
    let config = Config::deserialize(toml::de::Deserializer::from(table)).map_err(|error| broken(&error))?;
    validate(&config, warnings).map_err(|(message, hint)| wrong(None, message, hint))?;
    Ok(config)
}

/// Checks a configuration that was made in code. Passwords in it are not remarked on: they came from the program.
pub(crate) fn check(config: &Config) -> Result<()> {
    validate(config, &mut Vec::new()).map_err(|(message, hint)| Error::Usage { message, hint })
}

/// A key that the schema does not know.
struct Unknown {
    range: Range<usize>,
    message: String,
    hint: Option<String>,
}

/// Returns the first key below `table` that `schema` does not allow.
fn unknown_key(table: &DeTable<'_>, schema: &Value, root: &Value, path: &str) -> Option<Unknown> {
    let schema = referenced(schema, root);
    for (key, value) in table {
        let name: &str = key.get_ref();
        let place = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let known = schema["properties"]
            .get(name)
            .or_else(|| schema["additionalProperties"].as_object().map(|_| &schema["additionalProperties"]));
        let Some(below) = known else {
            let keys = schema["properties"].as_object().into_iter().flat_map(|keys| keys.keys());
            let names: Vec<&str> = keys.map(String::as_str).collect();
            let hint = match nearest(name, names.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("known here: {}", names.join(", ")),
            };
            return Some(Unknown {
                range: key.span(),
                message: format!("unknown key `{place}`"),
                hint: Some(hint),
            });
        };
        let found = match value.get_ref() {
            DeValue::Table(inner) => unknown_key(inner, below, root, &place),
            DeValue::Array(items) => items.iter().find_map(|item| match item.get_ref() {
                DeValue::Table(inner) => unknown_key(inner, &referenced(below, root)["items"], root, &place),
                _ => None,
            }),
            _ => None,
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

/// Follows a `$ref` within the schema.
fn referenced<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    let pointer = schema["$ref"].as_str().and_then(|reference| reference.strip_prefix('#'));
    pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

/// What is wrong, and what to do.
type Complaint = (String, Option<String>);

/// Checks what types cannot say.
fn validate(config: &Config, warnings: &mut Vec<String>) -> Result<(), Complaint> {
    let repository = &config.repository;
    one_password(repository.password_file.is_some(), repository.password_command.as_ref(), "[repository]")?;
    if repository.compression.is_some_and(|level| !(1..=19).contains(&level)) {
        return Err(("`repository.compression` is not between 1 and 19".to_owned(), None));
    }
    for (name, database) in &config.databases {
        crate::name::check(name).map_err(|why| (format!("[databases.{name}]: {why}"), None))?;
        if database.sqlite.is_some() == database.postgres.is_some() {
            let hint = "give the path of a file in `sqlite`, or a URL in `postgres`".to_owned();
            return Err((format!("[databases.{name}] needs one of `sqlite` and `postgres`"), Some(hint)));
        }
        if has_password(database.postgres.as_deref()) {
            warnings.push(format!(
                "[databases.{name}] holds a password: keep it in a variable and write \"env:NAME\""
            ));
        }
        fixed_duration(database.timeout.as_deref(), &format!("databases.{name}.timeout"))?;
        fixed_duration(database.lock_timeout.as_deref(), &format!("databases.{name}.lock-timeout"))?;
        for text in database.assertions.iter().flatten() {
            if let Err(error) = text.parse::<Assertion>() {
                return Err((format!("`databases.{name}.assert`: {error}"), error.hint()));
            }
        }
        retention(database.retention.as_ref(), &format!("databases.{name}.retention"))?;
    }
    if has_password(config.drill.server.as_deref()) {
        warnings.push("[drill] holds a password: keep it in a variable and write \"env:NAME\"".to_owned());
    }
    copies(&config.copies)?;
    retention(config.retention.as_ref(), "retention")?;
    if let Some(health) = &config.health {
        duration(health.max_age.as_deref(), "health.max-age")?;
    }
    for (name, notify) in &config.notify {
        let known = ["failure", "warning", "recovery", "weekly-report"];
        if let Some(word) = notify.on.iter().find(|word| !known.contains(&word.as_str())) {
            return Err((
                format!("`notify.{name}.on` has no {word:?}"),
                Some(format!("known: {}", known.join(", "))),
            ));
        }
    }
    let levels = ["error", "warn", "info", "debug", "trace"];
    if config.log.level.as_deref().is_some_and(|level| !levels.contains(&level)) {
        return Err(("`log.level` is unknown".to_owned(), Some(format!("known: {}", levels.join(", ")))));
    }
    Ok(())
}

fn copies(copies: &[CopyConfig]) -> Result<(), Complaint> {
    let mut names = BTreeSet::new();
    for (number, copy) in copies.iter().enumerate() {
        if copy.name.is_empty() || copy.location.is_empty() {
            return Err(("each of [[copies]] needs `name` and `location`".to_owned(), None));
        }
        if !names.insert(&copy.name) {
            return Err((format!("two copies are called {:?}", copy.name), None));
        }
        if let Some(other) = copies[..number].iter().find(|other| place_of(other) == place_of(copy)) {
            let what = format!("copies {:?} and {:?} have the same location", other.name, copy.name);
            return Err((what, Some("give each a directory of its own".to_owned())));
        }
        one_password(
            copy.password_file.is_some(),
            copy.password_command.as_ref(),
            &format!("copy {:?}", copy.name),
        )?;
        retention(copy.retention.as_ref(), &format!("retention of copy {:?}", copy.name))?;
    }
    Ok(())
}

/// Returns where a copy is, however it is written.
fn place_of(copy: &CopyConfig) -> PathBuf {
    plain(Path::new(copy.location.strip_prefix("local:").unwrap_or(&copy.location)))
}

fn one_password(file: bool, command: Option<&Command>, place: &str) -> Result<(), Complaint> {
    match command {
        Some(_) if file => Err((format!("{place} has both `password-file` and `password-command`"), None)),
        Some(command) if command.words().is_empty() => {
            Err((format!("`password-command` of {place} is empty"), None))
        }
        _ => Ok(()),
    }
}

fn retention(retention: Option<&RetentionConfig>, place: &str) -> Result<(), Complaint> {
    let within = retention.and_then(|retention| retention.within.as_deref());
    let is_none = |text: &str| text.parse::<jiff::Span>().is_ok_and(|span| span.is_zero());
    duration(within.filter(|text| !is_none(text)), &format!("{place}.within"))
}

fn duration(text: Option<&str>, place: &str) -> Result<(), Complaint> {
    match text.map(str::parse::<jiff::Span>) {
        Some(Ok(span)) if span.is_positive() => Ok(()),
        None => Ok(()),
        Some(_) => Err((
            format!("`{place}` is no duration"),
            Some("write it as \"30m\", \"26h\" or \"14d\"".to_owned()),
        )),
    }
}

/// A month is longer than another: what is waited for has to have one length.
fn fixed_duration(text: Option<&str>, place: &str) -> Result<(), Complaint> {
    duration(text, place)?;
    match text {
        Some(text) if crate::source::server::duration(text).is_none() => Err((
            format!("`{place}` has no fixed length"),
            Some("write it in days at most, as \"10s\", \"26h\" or \"14d\"".to_owned()),
        )),
        _ => Ok(()),
    }
}

/// Says whether a URL has a password in it.
fn has_password(url: Option<&str>) -> bool {
    url.is_some_and(|url| crate::source::server::redact(url) != url)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
}

fn one_line(message: &str) -> String {
    message.split_whitespace().collect::<Vec<_>>().join(" ")
}

impl Command {
    /// Returns the program and its arguments. Quotes, single or double, keep words together.
    pub fn words(&self) -> Vec<String> {
        let line = match self {
            Self::Words(words) => return words.clone(),
            Self::Line(line) => line,
        };
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quote = None;
        for character in line.chars() {
            match (quote, character) {
                (Some(open), close) if open == close => quote = None,
                (None, '\'' | '"') => {
                    quote = Some(character);
                    word.get_or_insert_default();
                }
                (None, space) if space.is_whitespace() => words.extend(word.take()),
                _ => word.get_or_insert_default().push(character),
            }
        }
        words.extend(word);
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config> {
        parse(text, Path::new("dbkeep.toml"), &mut Vec::new())
    }

    fn complaint(text: &str) -> (String, Option<String>) {
        let error = read(text).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        (error.to_string(), error.hint())
    }

    /// The example as it is when all comments of keys and tables are taken away.
    fn uncommented() -> String {
        let lines = crate::config::example().lines();
        let active = lines
            .filter_map(|line| line.strip_prefix("# "))
            .filter(|line| line.starts_with('[') || line.contains(" = "));
        active.map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn example_says_nothing_until_its_comments_are_removed() {
        assert_eq!(read(crate::config::example()).unwrap(), Config::default());
        let text = uncommented().replace("password-command", "#password-command");
        let config = read(&text).unwrap();
        assert_eq!(config.databases["shop"].sqlite.as_deref(), Some("data/shop.db"));
        assert_eq!(config.copies[0].name, "secondary");
        assert_eq!(config.log.keep, Some(14));
    }

    #[test]
    fn example_names_every_key_of_the_schema() {
        fn keys(schema: &Value, names: &mut BTreeSet<String>) {
            for (name, below) in schema["properties"].as_object().into_iter().flatten() {
                names.insert(name.clone());
                keys(below, names);
            }
            for part in ["items", "additionalProperties"].iter().filter_map(|part| schema.get(part)) {
                keys(part, names);
            }
            for below in schema["$defs"].as_object().into_iter().flat_map(|defs| defs.values()) {
                keys(below, names);
            }
        }
        let schema: Value = serde_json::from_str(crate::config::schema()).unwrap();
        let mut names = BTreeSet::new();
        keys(&schema, &mut names);
        assert!(names.len() > 30, "{names:?}");
        let example = crate::config::example();
        for name in names {
            let used = example.contains(&format!("# {name} = ")) || example.contains(&format!("[{name}"));
            assert!(used, "{name} is missing in the example");
        }
    }

    #[test]
    fn schema_and_types_know_the_same_keys() {
        // What serde writes for a full configuration must be allowed by the schema.
        let text = uncommented().replace("password-command", "#password-command");
        let config = read(&text).unwrap();
        let written = toml::to_string(&config).unwrap();
        assert_eq!(read(&written).unwrap(), config);
    }

    #[test]
    fn unknown_key_names_its_line_and_the_key_that_was_meant() {
        let (message, hint) = complaint("[repository]\nlocation = \"x\"\npasword-file = \"y\"\n");
        assert_eq!(message, "dbkeep.toml:3: unknown key `repository.pasword-file`");
        assert_eq!(hint.as_deref(), Some("did you mean `password-file`?"));
        let (message, hint) = complaint("[databases.a]\nsqllite = \"x\"\n");
        assert_eq!(message, "dbkeep.toml:2: unknown key `databases.a.sqllite`");
        assert_eq!(hint.as_deref(), Some("did you mean `sqlite`?"));
        let (message, _) =
            complaint("[[copies]]\nname = \"a\"\nlocation = \"b\"\nretention = { dayly = 3 }\n");
        assert_eq!(message, "dbkeep.toml:4: unknown key `copies.retention.dayly`");
        let (message, hint) = complaint("retain = 3\n");
        assert_eq!(message, "dbkeep.toml:1: unknown key `retain`");
        assert!(hint.unwrap().starts_with("known here: "));
    }

    #[test]
    fn url_in_the_wrong_place_does_not_show_its_password() {
        let text = "[databases]\nshop = \"postgres://u:hun ter2@h/d\"\n";
        let (message, _) = complaint(text);
        assert!(message.contains("u:***@h/d") && !message.contains("ter2"), "{message}");
    }

    #[test]
    fn wrong_values_are_refused_with_the_place() {
        assert!(complaint("[repository]\nlocation = 3\n").0.starts_with("dbkeep.toml:2: invalid type"));
        assert!(complaint("[repository\n").0.starts_with("dbkeep.toml:1: "));
        assert_eq!(
            complaint("[databases.a]\n").0,
            "dbkeep.toml: [databases.a] needs one of `sqlite` and `postgres`"
        );
        let (message, hint) = complaint("[databases.a]\nsqlite = \"x\"\nassert = [\"SELECT 1\"]\n");
        assert_eq!(message, "dbkeep.toml: `databases.a.assert`: \"SELECT 1\" is no query with its answer");
        assert!(hint.unwrap().contains("QUERY=EXPECTED"));
        assert_eq!(
            complaint("[retention]\nwithin = \"soon\"\n").0,
            "dbkeep.toml: `retention.within` is no duration"
        );
        assert_eq!(
            complaint("[repository]\ncompression = 99\n").0,
            "dbkeep.toml: `repository.compression` is not between 1 and 19"
        );
        let both = "[repository]\npassword-file = \"a\"\npassword-command = \"b\"\n";
        assert_eq!(
            complaint(both).0,
            "dbkeep.toml: [repository] has both `password-file` and `password-command`"
        );
    }

    #[test]
    fn command_is_split_without_a_shell() {
        let line = Command::Line("pass show 'my key' \"\" $HOME".to_owned());
        assert_eq!(line.words(), ["pass", "show", "my key", "", "$HOME"]);
    }

    #[test]
    fn configuration_is_looked_for_in_order() {
        let root = tempfile::tempdir().unwrap();
        let mut environment = Environment::isolated(root.path());
        let mut warnings = Vec::new();
        assert_eq!(load(&environment, None, &mut warnings).unwrap(), (Config::default(), None));

        let location = |environment: &Environment, named: Option<&Path>| {
            let (config, _) = load(environment, named, &mut Vec::new()).unwrap();
            config.repository.location.unwrap()
        };
        let write = |path: &Path, location: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("[repository]\nlocation = \"{location}\"\n")).unwrap();
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
            std::fs::set_permissions(path, mode).unwrap();
        };
        write(&environment.config_directory.join("dbkeep.toml"), "user");
        assert_eq!(location(&environment, None), "user");
        write(&root.path().join("dbkeep.toml"), "local");
        assert_eq!(location(&environment, None), "local");
        write(&root.path().join("variable.toml"), "variable");
        environment.variables.insert("DBKEEP_CONFIG".to_owned(), "variable.toml".to_owned());
        assert_eq!(location(&environment, None), "variable");
        write(&root.path().join("named.toml"), "named");
        assert_eq!(location(&environment, Some(Path::new("named.toml"))), "named");
        assert_eq!(
            load(&environment, Some(Path::new("absent.toml")), &mut warnings).unwrap_err().exit_code(),
            2
        );
    }
}
