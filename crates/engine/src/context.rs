//! What every operation starts from: the environment, the configuration, and where the repository is.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dbkeep_repo::{Observer, Secret};

use crate::config::{self, Config};
use crate::dotenv;
use crate::environment::Environment;
use crate::report::ConfigReport;
use crate::{Error, Result};

/// What a long operation reports to; shared with its worker threads.
pub type Watch = Arc<dyn Observer>;

/// What the command line says for all commands.
#[derive(Clone, Debug, Default)]
pub struct GlobalOptions {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--repo`.
    pub repository: Option<String>,
    /// `--password-file`.
    pub password_file: Option<PathBuf>,
    /// `--no-env-file`: leave a `.env` of the working directory alone.
    pub no_env_file: bool,
}

/// The environment, the configuration, and where the repository is.
#[derive(Clone, Debug)]
pub struct Context {
    /// The process around.
    pub environment: Environment,
    /// What the configuration says; the default without one.
    pub config: Config,
    /// Where the configuration is.
    pub config_file: Option<PathBuf>,
    /// Where the repository is.
    pub location: PathBuf,
    /// What said so: `--repo`, `DBKEEP_REPOSITORY`, the configuration's path, or `default`.
    pub location_from: String,
    /// A password that a person typed or a program gave; it counts before every other source.
    pub password: Option<Secret>,
    /// `--password-file`.
    pub password_file: Option<PathBuf>,
    /// How long the lock of a database is waited for, to restore something into it or to compare it.
    pub lock_patience: Duration,
    /// The cost of keys that are made; weaker than the default only in tests.
    pub key_cost: KeyCost,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// That the repository holds copies of another one; `None` for the primary.
    pub(crate) as_copy: Option<AsCopy>,
}

/// What is known of a repository because it holds copies of another one: see `copy/place.rs`.
#[derive(Clone, Debug)]
pub(crate) struct AsCopy {
    /// What the copy is called.
    pub(crate) name: String,
    /// What it is a copy of.
    pub(crate) primary: Box<Context>,
    /// It has a source of its password of its own; else those of the primary count.
    pub(crate) has_own_password: bool,
    /// The password of the primary, where that comes from a key file.
    pub(crate) lent: Option<Secret>,
    /// What stock tools cut files with in the primary.
    pub(crate) chunker_polynomial: Option<String>,
}

/// How expensive it is to try a password.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyCost {
    /// As strong as restic's.
    #[default]
    Strong,
    /// For tests: no protection.
    Cheap,
}

impl Context {
    /// Loads the configuration and the `.env` file, and decides where the repository is.
    pub fn load(mut environment: Environment, options: &GlobalOptions) -> Result<Self> {
        let mut warnings = Vec::new();
        if !options.no_env_file {
            dotenv::merge(&mut environment, &mut warnings)?;
        }
        let (config, config_file) = config::load(&environment, options.config.as_deref(), &mut warnings)?;
        let (location, location_from) = locate(&environment, &config, config_file.as_ref(), options)?;
        let password_file = options.password_file.as_deref().map(|file| environment.resolve_argument(file));
        let context = Self::of(environment, config, config_file);
        Ok(Self { location, location_from, password_file, warnings, ..context })
    }

    /// Returns the context of a configuration, without a place yet.
    pub(crate) fn of(environment: Environment, config: Config, config_file: Option<PathBuf>) -> Self {
        Self {
            environment,
            config,
            config_file,
            location: PathBuf::new(),
            location_from: String::new(),
            password: None,
            password_file: None,
            lock_patience: Duration::from_secs(10),
            key_cost: KeyCost::default(),
            warnings: Vec::new(),
            as_copy: None,
        }
    }

    /// Says that the repository is where the configuration has it, or would have it by default.
    pub(crate) fn locate_as_configured(&mut self) -> Result<()> {
        let options = GlobalOptions::default();
        (self.location, self.location_from) =
            locate(&self.environment, &self.config, self.config_file.as_ref(), &options)?;
        Ok(())
    }

    /// Returns the directory that relative paths of the configuration start from.
    pub fn config_base(&self) -> PathBuf {
        let parent = self.config_file.as_ref().and_then(|file| file.parent());
        parent.map_or_else(|| self.environment.working_directory.clone(), PathBuf::from)
    }

    /// Returns the name of the copy that this is the context of; `None` for the primary.
    pub fn copy_name(&self) -> Option<&str> {
        self.as_copy.as_ref().map(|copy| copy.name.as_str())
    }

    /// Returns the password file of the copy that this is the context of, where it has one of its own.
    pub fn copy_password_file(&self) -> Option<PathBuf> {
        let copy = self.as_copy.as_ref().filter(|copy| copy.has_own_password);
        let file = copy.and(self.config.repository.password_file.as_ref())?;
        Some(self.environment.resolve(file, &self.config_base()))
    }

    /// Returns what is in force, for `config show`.
    pub fn describe(&self) -> ConfigReport {
        ConfigReport {
            file: self.config_file.clone(),
            repository: self.location.display().to_string(),
            repository_from: self.location_from.clone(),
            password_from: crate::keys::describe_source(self),
            config: self.config.clone(),
            warnings: self.warnings.clone(),
        }
    }
}

/// Returns where the repository is, and what said so.
fn locate(
    environment: &Environment,
    config: &Config,
    config_file: Option<&PathBuf>,
    options: &GlobalOptions,
) -> Result<(PathBuf, String)> {
    let working_directory = &environment.working_directory;
    let (text, base, from) = if let Some(text) = &options.repository {
        (text.as_str(), working_directory.clone(), "--repo".to_owned())
    } else if let Some(text) = environment.variable("DBKEEP_REPOSITORY") {
        (text, working_directory.clone(), "DBKEEP_REPOSITORY".to_owned())
    } else if let (Some(text), Some(file)) = (&config.repository.location, config_file) {
        let base = file.parent().map_or_else(|| working_directory.clone(), PathBuf::from);
        (text.as_str(), base, file.display().to_string())
    } else {
        ("backups", working_directory.clone(), "default".to_owned())
    };
    if text.is_empty() {
        return Err(Error::usage("the location of the repository is empty", "give a directory"));
    }
    Ok((directory(environment, text, &base)?, from))
}

/// Returns the directory that a location means which is given as a path.
pub(crate) fn place(environment: &Environment, location: &Path) -> Result<PathBuf> {
    match location.to_str() {
        Some("") => Err(Error::usage("the location of the repository is empty", "give a directory")),
        Some(text) => directory(environment, text, &environment.working_directory),
        // Only a path can be no text.
        None => Ok(environment.resolve_argument(location)),
    }
}

/// Returns the directory that a location means.
pub(crate) fn directory(environment: &Environment, text: &str, base: &Path) -> Result<PathBuf> {
    // `s3:bucket`, `sftp:user@host:/path`, `rest:https://…` are places of restic and of later versions.
    if let Some((scheme, _)) = text.split_once(':')
        && scheme.len() > 1
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && scheme != "local"
    {
        return Err(Error::Unsupported {
            what: format!("repositories at {scheme}: locations are not supported by this version"),
            hint: Some("give a local directory (`./` before a name that has a colon)".to_owned()),
        });
    }
    let path = text.strip_prefix("local:").unwrap_or(text);
    Ok(environment.resolve(Path::new(path), base))
}
