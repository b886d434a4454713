//! `dbkeep config`: the configuration, checked, shown and explained.

use std::path::Path;

use clap::{Args, Subcommand};
use dbkeep_engine::config;
use dbkeep_engine::report::ConfigReport;
use dbkeep_engine::{redact, redact_within};
use serde::Serialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::exit::{Exit, Failure};
use crate::human;

const HELP: &str = "\
Examples:
  dbkeep config example > dbkeep.toml
  dbkeep config check

Exit codes: 0 good, 2 wrong configuration";

/// Check, show and explain the configuration
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ConfigArgs {
    #[command(subcommand)]
    pub(crate) command: ConfigCommand,
}

/// What to do with the configuration.
#[derive(Clone, Copy, Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say whether the configuration is sound
    #[command(after_help = "Exit codes: 0 sound, or none there, 2 wrong")]
    Check,
    /// Print what holds, with defaults and where each comes from
    #[command(after_help = "Passwords are never printed.\n\nExit codes: 0 shown, 2 wrong")]
    Show,
    /// Print a commented configuration with every setting
    #[command(after_help = "Example:\n  dbkeep config example > dbkeep.toml\n\nExit codes: 0 printed")]
    Example,
    /// Print the JSON schema of the configuration
    #[command(after_help = "Exit codes: 0 printed")]
    Schema,
}

/// That a configuration is sound.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ConfigChecked<'r> {
    /// It can be used; one that cannot is an error.
    ok: bool,
    /// The file; `None` when there is none.
    file: Option<&'r Path>,
    /// What is allowed but odd.
    warnings: &'r [String],
}

/// A configuration to begin with.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct ConfigExample<'r> {
    /// The text of the file.
    example: &'r str,
}

impl ConfigArgs {
    /// Checks, shows or explains.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        match self.command {
            ConfigCommand::Check => {
                let report = app.context()?.describe();
                app.output.line(match &report.file {
                    Some(file) => format!("{} is sound", human::visible(&file.to_string_lossy())),
                    None => "there is no configuration; every setting has its default".to_owned(),
                });
                let (file, warnings) = (report.file.as_deref(), report.warnings.as_slice());
                app.output.document(&ConfigChecked { ok: true, file, warnings });
            }
            ConfigCommand::Show => {
                let report = app.context()?.describe();
                show(app, &report)?;
                app.output.document(&without_passwords("", json!(report)));
            }
            ConfigCommand::Example => {
                app.output.raw(config::example().as_bytes());
                app.output.document(&ConfigExample { example: config::example() });
            }
            ConfigCommand::Schema => {
                app.output.raw(config::schema().as_bytes());
                app.output.document(&serde_json::from_str::<Value>(config::schema()).unwrap_or_default());
            }
        }
        Ok(Exit::Done)
    }
}

/// Prints what holds, as a configuration that could be saved, with where it comes from above.
fn show(app: &App, report: &ConfigReport) -> Result<(), Failure> {
    let file = report.file.as_ref().map_or_else(|| "none".into(), |file| file.to_string_lossy());
    app.output.line(format_args!("# configuration: {}", human::visible(&file)));
    app.output.line(format_args!(
        "# repository: {} (from {})",
        human::visible(&report.repository),
        human::visible(&report.repository_from)
    ));
    let password = report.password_from.as_deref().unwrap_or("the key file of the repository");
    app.output.line(format_args!("# password: from {}", human::visible(password)));
    let failed = |error: toml::ser::Error| {
        Failure::failed("config", format!("the configuration cannot be written as TOML: {error}"), None)
    };
    let config = toml::Value::try_from(&report.config).map_err(failed)?;
    let text = toml::to_string_pretty(&without_secrets("", config)).map_err(failed)?;
    app.output.raw(text.as_bytes());
    Ok(())
}

/// Redacts the passwords of URLs and connection strings in every text of a configuration. `key` is where it stands.
fn without_secrets(key: &str, value: toml::Value) -> toml::Value {
    match value {
        toml::Value::String(text) => toml::Value::String(shown(key, &text)),
        toml::Value::Array(values) => {
            toml::Value::Array(values.into_iter().map(|value| without_secrets(key, value)).collect())
        }
        toml::Value::Table(fields) => {
            let fields = fields.into_iter().map(|(name, value)| {
                let value = without_secrets(&name, value);
                (name, value)
            });
            toml::Value::Table(fields.collect())
        }
        other => other,
    }
}

/// Returns a text without its passwords. What says where a database is may be a URL that nobody wrote right.
fn shown(key: &str, text: &str) -> String {
    match key {
        "postgres" | "sqlite" | "server" | "location" | "repository" => redact(text),
        _ => redact_within(text),
    }
}

/// Redacts the passwords of URLs in every text of a document. `key` is where it stands.
fn without_passwords(key: &str, document: Value) -> Value {
    match document {
        Value::String(text) => Value::String(shown(key, &text)),
        Value::Array(values) => {
            Value::Array(values.into_iter().map(|value| without_passwords(key, value)).collect())
        }
        Value::Object(fields) => {
            let fields = fields.into_iter().map(|(name, value)| {
                let value = without_passwords(&name, value);
                (name, value)
            });
            Value::Object(fields.collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_of_urls_are_redacted_at_every_depth() {
        let document =
            json!({ "a": [{ "postgres": "postgres//u:p w@h/d", "run": "x 'http://a:b@c' y" }], "n": 1 });
        let hidden =
            json!({ "a": [{ "postgres": "postgres//u:***@h/d", "run": "x 'http://a:***@c' y" }], "n": 1 });
        assert_eq!(without_passwords("", document.clone()), hidden);
        let table = toml::Value::try_from(&document).unwrap();
        assert_eq!(json!(without_secrets("", table)), hidden);
    }
}
