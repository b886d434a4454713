//! What a keeper is opened with: a configuration, from a file, from the process, or built in code.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dbkeep_repo::Secret;
use jiff::tz::TimeZone;

use super::{Result, options};
use crate::config::{self, Config, DatabaseConfig};
use crate::context::{self, Context, GlobalOptions, KeyCost};
use crate::environment::Environment;
use crate::{Error, trust};

/// Where backups go, what opens them, and which databases there are.
///
/// There are three ways to begin. Nothing of the process is looked at but with [`of_process`](Self::of_process), where
/// paths that are relative start from the working directory.
///
/// | begin with | configuration | variables, `.env`, key files |
/// |---|---|---|
/// | [`new`](Self::new) | built in code | none |
/// | [`from_file`](Self::from_file) | this `dbkeep.toml` | none |
/// | [`of_process`](Self::of_process) | the one that `dbkeep` would use | those that `dbkeep` would use |
///
/// ```
/// use dbkeep_engine::keeper::Settings;
///
/// let settings = Settings::new("/srv/backups", "/var/lib/app/dbkeep")
///     .password_file("/etc/app/backup.key")
///     .sqlite("app", "/srv/app/app.db")
///     .postgres("clinic", "postgresql://backup@db.example/clinic")
///     .configure(|config| {
///         if let Some(clinic) = config.databases.get_mut("clinic") {
///             clinic.exclude_data = Some(vec!["audit_log".to_owned()]);
///         }
///     });
/// ```
#[derive(Clone)]
pub struct Settings {
    context: Context,
    /// Where the repository is, as it was said in code.
    location: Option<PathBuf>,
    /// The file of a database that cannot be named.
    no_text: Option<PathBuf>,
}

impl Settings {
    /// Begins with nothing but the place of the repository, and the directory where this host remembers what it saw:
    /// best on another disk than the repository, and the same in every run.
    ///
    /// What is remembered is how a repository that vanished is told from one that was never made, how removed snapshots
    /// are noticed, and how unchanged data is recognised.
    ///
    /// ```
    /// use dbkeep_engine::keeper::Settings;
    ///
    /// let settings = Settings::new("/srv/backups", "/var/lib/app/dbkeep").password("secret");
    /// ```
    pub fn new(repository: impl AsRef<Path>, state: impl AsRef<Path>) -> Self {
        let context = Context::of(Environment::bare(state.as_ref()), Config::default(), None);
        Self { context, location: Some(repository.as_ref().to_owned()), no_text: None }
    }

    /// Begins with a `dbkeep.toml`; `state` is as with [`new`](Self::new).
    ///
    /// The file was named, so it may belong to anybody, as with `--config`. Relative paths in it start from its
    /// directory, and a `password-command` in it is run.
    ///
    /// ```
    /// use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let state = folder.path().join("state");
    /// # std::fs::write(folder.path().join("key"), "secret\n")?;
    ///
    /// let file = folder.path().join("dbkeep.toml");
    /// std::fs::write(&file, "[repository]\nlocation = \"backups\"\npassword-file = \"key\"\n")?;
    /// let keeper = Keeper::open(Settings::from_file(&file, state)?)?;
    /// assert_eq!(keeper.repository(), folder.path().join("backups"));
    /// # Ok(()) }
    /// ```
    pub fn from_file(config: impl AsRef<Path>, state: impl AsRef<Path>) -> Result<Self> {
        let file = std::path::absolute(config.as_ref()).map_err(Error::io("find", config.as_ref()))?;
        let text = trust::read_named(&file)?.ok_or_else(|| {
            Error::usage(
                format!("no configuration {}", file.display()),
                "give the path of a dbkeep.toml; `dbkeep config example` prints one to start from",
            )
        })?;
        let mut warnings = Vec::new();
        let config = config::parse(&text, &file, &mut warnings)?;
        let location = config.repository.location.is_none().then(|| PathBuf::from("backups"));
        let mut context = Context::of(Environment::bare(state.as_ref()), config, Some(file));
        context.warnings = warnings;
        Ok(Self { context, location, no_text: None })
    }

    /// Begins with what the command line would use in this process: its variables, the `dbkeep.toml` and `.env` that it
    /// would find (under its rules for whom to trust), the key files and the state of this user.
    ///
    /// ```no_run
    /// use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///
    /// let keeper = Keeper::open(Settings::of_process()?)?;
    /// # Ok(()) }
    /// ```
    pub fn of_process() -> Result<Self> {
        let environment = Environment::capture(false).map_err(Error::io("find", Path::new(".")))?;
        Self::in_environment(environment)
    }

    /// Does what [`of_process`](Self::of_process) does, with this environment in the place of the process's.
    ///
    /// ```
    /// use dbkeep_engine::Environment;
    /// use dbkeep_engine::keeper::{Keeper, Settings};
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    ///
    /// let mut environment = Environment::isolated(folder.path());
    /// environment.variables.insert("DBKEEP_REPOSITORY".to_owned(), "elsewhere".to_owned());
    /// let keeper = Keeper::open(Settings::in_environment(environment)?)?;
    /// assert_eq!(keeper.repository(), folder.path().join("elsewhere"));
    /// # Ok(()) }
    /// ```
    pub fn in_environment(environment: Environment) -> Result<Self> {
        // A library asks nobody.
        let environment = Environment { terminal: false, ..environment };
        let context = Context::load(environment, &GlobalOptions::default())?;
        Ok(Self { context, location: None, no_text: None })
    }

    /// Says where the repository is, whatever the configuration and the environment say.
    ///
    /// ```
    /// # use dbkeep_engine::keeper::Settings;
    /// let settings = Settings::new("/srv/backups", "/var/lib/app/dbkeep").repository("/mnt/disk/backups");
    /// ```
    #[must_use]
    pub fn repository(mut self, location: impl AsRef<Path>) -> Self {
        self.location = Some(location.as_ref().to_owned());
        self
    }

    /// Gives the password of the repository. It counts before every other source of one.
    ///
    /// ```
    /// # use dbkeep_engine::keeper::Settings;
    /// let settings = Settings::new("/srv/backups", "/var/lib/app/dbkeep").password("secret");
    /// ```
    #[must_use]
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.context.password = Some(Secret::new(password.into()));
        self
    }

    /// Names the file that holds the password, or a key that was made; line ends at its end do not count.
    ///
    /// ```
    /// # use dbkeep_engine::keeper::Settings;
    /// let settings = Settings::new("/srv/backups", "/var/lib/app/dbkeep").password_file("/etc/app/backup.key");
    /// ```
    #[must_use]
    pub fn password_file(mut self, file: impl AsRef<Path>) -> Self {
        self.context.password = None;
        self.context.password_file = Some(file.as_ref().to_owned());
        self
    }

    /// Adds a SQLite database, under the name that it has in the repository.
    ///
    /// ```
    /// # use dbkeep_engine::keeper::Settings;
    /// let settings = Settings::new("/srv/backups", "/var/lib/app/dbkeep").sqlite("app", "/srv/app/app.db");
    /// ```
    #[must_use]
    pub fn sqlite(mut self, name: impl Into<String>, file: impl AsRef<Path>) -> Self {
        let text = file.as_ref().to_str().map(str::to_owned);
        if text.is_none() {
            self.no_text.get_or_insert_with(|| file.as_ref().to_owned());
        }
        let database = DatabaseConfig { sqlite: text, ..DatabaseConfig::default() };
        self.context.config.databases.insert(name.into(), database);
        self
    }

    /// Adds a PostgreSQL database: a URL, a connection string, or `env:NAME`.
    ///
    /// ```
    /// # use dbkeep_engine::keeper::Settings;
    /// let url = "postgresql://backup@db.example/clinic";
    /// let settings = Settings::new("/srv/backups", "/var/lib/app/dbkeep").postgres("clinic", url);
    /// ```
    #[must_use]
    pub fn postgres(mut self, name: impl Into<String>, url: impl Into<String>) -> Self {
        let database = DatabaseConfig { postgres: Some(url.into()), ..DatabaseConfig::default() };
        self.context.config.databases.insert(name.into(), database);
        self
    }

    /// Says everything else that a `dbkeep.toml` can say. It is checked when the keeper is opened.
    ///
    /// ```
    /// # use dbkeep_engine::keeper::Settings;
    /// use dbkeep_engine::config::RetentionConfig;
    ///
    /// let settings = Settings::new("/srv/backups", "/var/lib/app/dbkeep")
    ///     .configure(|config| config.retention = Some(RetentionConfig { daily: Some(7), ..Default::default() }));
    /// ```
    #[must_use]
    pub fn configure(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.context.config);
        self
    }

    /// Gives a variable for `env:NAME`. The process's own are not looked at for that.
    ///
    /// ```
    /// # use dbkeep_engine::keeper::Settings;
    /// let settings = Settings::new("/srv/backups", "/var/lib/app/dbkeep")
    ///     .variable("DATABASE_URL", "postgresql://backup@db.example/clinic")
    ///     .postgres("clinic", "env:DATABASE_URL");
    /// ```
    #[must_use]
    pub fn variable(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.context.environment.env_file.insert(name.into(), value.into());
        self
    }

    /// Says what zone days, weeks and times without a zone are of; UTC by default, and with
    /// [`of_process`](Self::of_process) the machine's.
    ///
    /// ```
    /// # use dbkeep_engine::keeper::Settings;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use dbkeep_engine::jiff::tz::TimeZone;
    ///
    /// let zone = TimeZone::get("Europe/Berlin")?;
    /// let settings = Settings::new("/srv/backups", "/var/lib/app/dbkeep").time_zone(zone);
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn time_zone(mut self, zone: TimeZone) -> Self {
        self.context.environment.time_zone = zone;
        self
    }

    /// Says how long the lock of a database is waited for, to restore into it or to compare it; 10 seconds by default.
    ///
    /// ```
    /// # use dbkeep_engine::keeper::Settings;
    /// use std::time::Duration;
    ///
    /// let settings = Settings::new("/srv/backups", "/var/lib/app/dbkeep").patience(Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.context.lock_patience = patience;
        self
    }

    /// Says how expensive it is to try a password of a repository that is made; anything but the default is for tests.
    ///
    /// ```
    /// # use dbkeep_engine::keeper::Settings;
    /// use dbkeep_engine::KeyCost;
    ///
    /// let in_tests = Settings::new("/tmp/backups", "/tmp/state").password("secret").key_cost(KeyCost::Cheap);
    /// ```
    #[must_use]
    pub fn key_cost(mut self, cost: KeyCost) -> Self {
        self.context.key_cost = cost;
        self
    }

    /// Returns the context that operations work in. Paths are absolute from here on.
    pub(super) fn into_context(self) -> Result<Context> {
        let Self { mut context, location, no_text } = self;
        no_text.as_deref().map(|file| options::text(file.as_os_str())).transpose()?;
        let environment = &mut context.environment;
        if environment.working_directory.as_os_str().is_empty() {
            let here = std::env::current_dir().map_err(Error::io("find", Path::new(".")))?;
            environment.working_directory = here;
        }
        environment.state_directory = environment.resolve_argument(&environment.state_directory);
        environment.config_directory = environment.resolve_argument(&environment.config_directory);
        if let Some(file) = &context.password_file {
            context.password_file = Some(context.environment.resolve_argument(file));
        }
        config::check(&context.config)?;
        if let Some(location) = location {
            context.location = context::place(&context.environment, &location)?;
            context.location_from = "settings".to_owned();
            context.config.repository.location = context.location.to_str().map(str::to_owned);
        } else if context.location.as_os_str().is_empty() {
            context.locate_as_configured()?;
        }
        Ok(context)
    }
}

/// Shows where the repository is, and no secret: a URL may hold one, and so may every variable.
impl fmt::Debug for Settings {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let location = self.location.as_ref().unwrap_or(&self.context.location);
        out.debug_struct("Settings").field("repository", location).finish_non_exhaustive()
    }
}
