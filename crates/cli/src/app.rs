//! What every command works with: the output, the watch over the operation, the engine's context.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dbkeep_engine::config::{LogFormat, LogRotation};
use dbkeep_engine::report::ErrorReport;
use dbkeep_engine::repository::{self, Store};
use dbkeep_engine::{Context, Environment, Error, GlobalOptions, Id, Secret};
use jiff::Timestamp;
use tracing_appender::rolling::Rotation;
use tracing_subscriber::filter::LevelFilter;

use crate::args::Global;
use crate::exit::{Exit, Failure, general_hint};
use crate::human;
use crate::logging::{self, LogFile};
use crate::output::Output;
use crate::prompt;
use crate::signals::Stop;
use crate::watch::Watch;

/// One run of the program.
pub(crate) struct App {
    /// Where results and messages go.
    pub(crate) output: Arc<Output>,
    /// What sees the progress of the operation and can stop it.
    pub(crate) watch: Arc<Watch>,
    /// What asks the operation to stop.
    pub(crate) stop: Stop,
    /// The options that every command takes.
    pub(crate) global: Global,
    /// What was read from the process's environment, once.
    environment: Environment,
}

impl App {
    /// Starts a run: signals from here on ask the operation to stop.
    pub(crate) fn start(output: Arc<Output>, global: &Global) -> Result<Self, Failure> {
        let stop = Stop::new().map_err(|error| environment_failed(&error))?;
        let terminal = io::stdin().is_terminal() && io::stderr().is_terminal();
        let environment = Environment::capture(terminal).map_err(|error| environment_failed(&error))?;
        let watch = Arc::new(Watch::new(Arc::clone(&output), stop.flag()));
        Ok(Self { output, watch, stop, global: global.clone(), environment })
    }

    /// Returns what was read from the process's environment.
    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }

    /// Loads the configuration, says what is odd about it, and starts the log.
    pub(crate) fn context(&self) -> Result<Context, Failure> {
        let options = GlobalOptions {
            config: self.global.config.clone(),
            repository: self.global.repo.clone(),
            password_file: self.global.password_file.clone(),
            no_env_file: self.global.no_env_file,
        };
        #[cfg_attr(not(feature = "fault-injection"), expect(unused_mut, reason = "only tests weaken keys"))]
        let mut context = Context::load(self.environment.clone(), &options)?;
        #[cfg(feature = "fault-injection")]
        if crate::fault::cheap_keys() {
            context.key_cost = dbkeep_engine::KeyCost::Cheap;
        }
        for warning in &context.warnings {
            self.output.warn(warning, None);
        }
        logging::start(&self.output, self.global.verbose, log_file(&context)?.as_ref())?;
        Ok(context)
    }

    /// Opens the repository. On a terminal a password is asked for where nothing gives one.
    pub(crate) fn open(&self) -> Result<Store, Failure> {
        let mut context = self.context()?;
        self.with_password(&mut context, |context| repository::open(context, self.now(), &self.observer()))
    }

    /// Runs `act`, and once more with a password from the terminal where nothing else gave one.
    pub(crate) fn with_password<T>(
        &self,
        context: &mut Context,
        act: impl Fn(&Context) -> Result<T, Error>,
    ) -> Result<T, Failure> {
        match act(context) {
            Err(Error::NoPassword { location, .. }) if self.can_ask() => {
                let password = prompt::password(&location)?;
                context.password = Some(Secret::new(password));
                Ok(act(context)?)
            }
            done => Ok(done?),
        }
    }

    /// Returns the watch as the engine takes it.
    pub(crate) fn observer(&self) -> dbkeep_engine::Watch {
        Arc::clone(&self.watch) as dbkeep_engine::Watch
    }

    /// Says whether a person can be asked.
    pub(crate) fn can_ask(&self) -> bool {
        self.environment.terminal && !self.output.json() && !self.output.events()
    }

    /// Writes a time as the user's zone has it.
    pub(crate) fn time(&self, time: Timestamp) -> String {
        human::time(time, &self.environment.time_zone)
    }

    /// Reads the clock. Once an operation; everything below takes the time as an argument.
    #[expect(clippy::unused_self, reason = "commands get everything from outside through the run")]
    pub(crate) fn now(&self) -> Timestamp {
        #[cfg(feature = "fault-injection")]
        if let Some(now) = crate::fault::now() {
            return now;
        }
        Timestamp::now()
    }

    /// Prints why one database of several failed.
    pub(crate) fn failed(&self, name: Option<&str>, error: &ErrorReport) {
        let message = match name {
            Some(name) => format!("{name}: {}", error.message),
            None => error.message.clone(),
        };
        let hint = error.hint.as_deref().unwrap_or_else(|| general_hint(&error.kind));
        self.output.failed(&error.kind, &message, Some(hint));
    }

    /// Returns a command line for a person to copy that works from every directory: this program, this
    /// repository, this way to the password, then `words`.
    pub(crate) fn command_line(&self, context: &Context, words: &[&str]) -> String {
        let mut line = vec![program()];
        let everyday = context.environment.config_directory.join("dbkeep.toml");
        let config = context.config_file.as_ref().filter(|file| **file != everyday);
        if let Some(file) = config {
            line.extend(["--config".to_owned(), text_of(&absolute(context, file))]);
        }
        let from_config = context.config_file.as_ref().map(|file| file.display().to_string());
        if from_config.as_deref() != Some(context.location_from.as_str()) {
            line.extend(["--repo".to_owned(), text_of(&context.location)]);
        }
        if let Some(file) = context.password_file.clone().or_else(|| context.copy_password_file()) {
            line.extend(["--password-file".to_owned(), text_of(&absolute(context, &file))]);
        }
        line.extend(words.iter().map(|&word| word.to_owned()));
        line.iter().map(|word| human::shell_quoted(word)).collect::<Vec<_>>().join(" ")
    }
}

/// Returns the digits of an id that people are shown and type.
pub(crate) fn short(id: &Id) -> String {
    id.short()
}

/// Returns how this program was called: by name, or by its whole path where it was called by one.
fn program() -> String {
    let called = std::env::args().next().unwrap_or_default();
    if !called.contains('/') {
        return "dbkeep".to_owned();
    }
    std::env::current_exe().map_or(called, |path| text_of(&path))
}

fn absolute(context: &Context, path: &Path) -> PathBuf {
    context.environment.working_directory.join(path)
}

fn text_of(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn environment_failed(error: &io::Error) -> Failure {
    Failure::failed(
        "io",
        format!("could not read the environment of this process: {error}"),
        Some("does the working directory still exist?".into()),
    )
}

fn log_file(context: &Context) -> Result<Option<LogFile>, Failure> {
    let settings = &context.config.log;
    let Some(file) = &settings.file else { return Ok(None) };
    let level = match &settings.level {
        None => LevelFilter::INFO,
        Some(level) => level.parse().map_err(|_| {
            Failure::usage(
                format!("log.level is {level:?}, which is no level"),
                "use error, warn, info, debug or trace",
            )
        })?,
    };
    Ok(Some(LogFile {
        path: context.environment.resolve(file, &context.config_base()),
        json: settings.format == LogFormat::Json,
        level,
        rotation: match settings.rotate {
            LogRotation::Daily => Rotation::DAILY,
            LogRotation::Hourly => Rotation::HOURLY,
            LogRotation::Never => Rotation::NEVER,
        },
        keep: settings.keep.unwrap_or(14),
    }))
}

impl From<dbkeep_engine::Error> for Failure {
    fn from(error: dbkeep_engine::Error) -> Self {
        Self {
            kind: error.kind().word().to_owned(),
            message: error.full_message(),
            hint: error.hint().or_else(|| Some(general_hint(error.kind().word()).to_owned())),
            exit: Exit::from_code(error.exit_code()),
            report: None,
        }
    }
}
