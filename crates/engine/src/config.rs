//! The configuration: `dbkeep.toml`.
//!
//! The keys are listed once, in `config/schema.json`. Unknown ones are errors with a suggestion.

mod load;
mod text;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use load::check;
pub use load::{load, parse};
pub use text::{example, schema};

/// Everything a configuration can say. Every part has a default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Config {
    /// Where backups go.
    pub repository: RepositoryConfig,
    /// Further places.
    pub copies: Vec<CopyConfig>,
    /// The databases, by name.
    pub databases: BTreeMap<String, DatabaseConfig>,
    /// What is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention: Option<RetentionConfig>,
    /// When things are done.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleConfig>,
    /// What counts as healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health: Option<HealthConfig>,
    /// How backups are tried.
    pub drill: DrillConfig,
    /// Who is told.
    pub notify: BTreeMap<String, NotifyConfig>,
    /// Where events are written besides stderr.
    pub log: LogConfig,
}

/// Where backups go, and how they are opened and made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RepositoryConfig {
    /// A directory; relative to the directory of the configuration.
    pub location: Option<String>,
    /// A file whose first line end is cut off.
    pub password_file: Option<PathBuf>,
    /// A command that prints the password.
    pub password_command: Option<Command>,
    /// The level of zstd, 1 to 19; 3 by default.
    pub compression: Option<i32>,
}

/// A command: a list of words, or one string that is split at spaces (quotes group words). No shell is used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Command {
    /// One string.
    Line(String),
    /// The program and its arguments.
    Words(Vec<String>),
}

/// A further place for backups.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct CopyConfig {
    /// What it is called.
    pub name: String,
    /// A directory.
    pub location: String,
    /// The primary's by default.
    pub password_file: Option<PathBuf>,
    /// The primary's by default.
    pub password_command: Option<Command>,
    /// What is kept there; the general policy by default.
    pub retention: Option<RetentionConfig>,
}

/// One database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DatabaseConfig {
    /// A SQLite file; relative to the directory of the configuration.
    pub sqlite: Option<String>,
    /// A PostgreSQL URL or connection string, or `env:NAME`.
    pub postgres: Option<String>,
    /// A label for the manifest, as `production`.
    pub environment: Option<String>,
    /// The PostgreSQL schemas to back up.
    pub schemas: Option<Vec<String>>,
    /// Only these tables.
    pub tables: Option<Vec<String>>,
    /// Not these tables.
    pub exclude: Option<Vec<String>>,
    /// Tables whose rows are left out.
    pub exclude_data: Option<Vec<String>>,
    /// How long a backup may take.
    pub timeout: Option<String>,
    /// How long a backup waits for a table that somebody has locked; a minute by default.
    pub lock_timeout: Option<String>,
    /// The folder of `pg_dump` and `pg_restore`; relative to the directory of the configuration.
    pub pg_bin_dir: Option<PathBuf>,
    /// What a restored one answers in a drill, as `SELECT count(*) FROM users = 11`.
    #[serde(rename = "assert")]
    pub assertions: Option<Vec<String>>,
    /// What is kept; the general policy by default.
    pub retention: Option<RetentionConfig>,
}

/// How backups are tried.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DrillConfig {
    /// The PostgreSQL server for databases that are thrown away: a URL or `env:NAME`; one of our own by default.
    pub server: Option<String>,
}

/// What is kept. A key that is absent has the value of the general policy, or else the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct RetentionConfig {
    /// The newest of all; 0 by default.
    pub last: Option<u32>,
    /// One for each of the last hours that have any; 24 by default.
    pub hourly: Option<u32>,
    /// One for each of the last days; 30 by default.
    pub daily: Option<u32>,
    /// One for each of the last weeks; 12 by default.
    pub weekly: Option<u32>,
    /// One for each of the last months; 24 by default.
    pub monthly: Option<u32>,
    /// One for each of the last years; 10 by default.
    pub yearly: Option<u32>,
    /// Everything younger; `14d` by default, `0d` for no such floor.
    pub within: Option<String>,
    /// Everything with one of these tags.
    pub tags: Option<Vec<String>>,
}

/// When things are done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct ScheduleConfig {
    /// Backups.
    pub backup: Option<String>,
    /// Health checks.
    pub health: Option<String>,
    /// Drills.
    pub drill: Option<String>,
    /// Reclaiming of space.
    pub prune: Option<String>,
    /// The zone the times are meant in; the machine's by default.
    pub timezone: Option<String>,
}

/// What counts as healthy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct HealthConfig {
    /// The oldest a last backup may be.
    pub max_age: Option<String>,
    /// The fewest backups of a database.
    pub min_backups: Option<u32>,
    /// The least free space.
    pub disk_free: Option<String>,
}

/// Who is told, and of what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct NotifyConfig {
    /// A Slack webhook, or `env:NAME`.
    pub slack: Option<String>,
    /// What is told: `failure`, `warning`, `recovery`, `weekly-report`.
    pub on: Vec<String>,
}

/// Where events are written besides stderr.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct LogConfig {
    /// A file; relative to the directory of the configuration.
    pub file: Option<PathBuf>,
    /// How lines look.
    pub format: LogFormat,
    /// When a new file is begun.
    pub rotate: LogRotation,
    /// How many old files are kept; 14 by default.
    pub keep: Option<usize>,
    /// The least important events written, `error` to `trace`; `info` by default.
    pub level: Option<String>,
}

/// How lines of a log look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON document a line.
    Json,
}

/// When a new log file is begun.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogRotation {
    /// Each day.
    #[default]
    Daily,
    /// Each hour.
    Hourly,
    /// Never.
    Never,
}
