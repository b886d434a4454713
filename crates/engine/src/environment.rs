//! What an operation knows of the process around it.
//!
//! [`Environment::capture`] is the only place that looks at variables, the working directory and the
//! user; everything below works with this value, so that a test or another program can bring its own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;

/// The variables, directories and names an operation works with.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The environment variables that are valid text.
    pub variables: BTreeMap<String, String>,
    /// The values of the `.env` file, for `env:NAME` only.
    pub env_file: BTreeMap<String, String>,
    /// The user's home; `None` for users without one.
    pub home: Option<PathBuf>,
    /// What relative paths of the command line start from.
    pub working_directory: PathBuf,
    /// Configuration and key files: `$XDG_CONFIG_HOME/dbkeep`.
    pub config_directory: PathBuf,
    /// The local state: `$XDG_STATE_HOME/dbkeep`.
    pub state_directory: PathBuf,
    /// Whether a person can be asked.
    pub terminal: bool,
    /// The name of this machine.
    pub host: String,
    /// The name of the user.
    pub user: String,
    /// What times without a zone are meant in.
    pub time_zone: TimeZone,
}

impl Environment {
    /// Reads the environment of this process, once. `terminal` says whether a person can be asked.
    pub fn capture(terminal: bool) -> std::io::Result<Self> {
        let variables: BTreeMap<_, _> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let home = std::env::home_dir().filter(|home| home.is_absolute());
        let working_directory = std::env::current_dir()?;
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Ok(Self::assemble(variables, home, working_directory, host, terminal, TimeZone::system()))
    }

    /// Returns an environment of this machine that has nothing of this process: no variables, no home, UTC. The working
    /// directory is empty until somebody asks for it.
    pub(crate) fn bare(state: &Path) -> Self {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let bare = Self::assemble(BTreeMap::new(), None, PathBuf::new(), host, false, TimeZone::UTC);
        Self { config_directory: state.to_owned(), state_directory: state.to_owned(), ..bare }
    }

    /// Returns an environment that has nothing to do with this process; all files are below `root`.
    pub fn isolated(root: &Path) -> Self {
        let home = root.join("home");
        Self::assemble(
            BTreeMap::new(),
            Some(home),
            root.to_owned(),
            "localhost".to_owned(),
            false,
            TimeZone::UTC,
        )
    }

    fn assemble(
        variables: BTreeMap<String, String>,
        home: Option<PathBuf>,
        working_directory: PathBuf,
        host: String,
        terminal: bool,
        time_zone: TimeZone,
    ) -> Self {
        // The XDG specification has relative paths ignored.
        let directory = |name: &str, fallback: &str| {
            let given = variables.get(name).map(PathBuf::from).filter(|path| path.is_absolute());
            given
                .or_else(|| Some(home.as_ref()?.join(fallback)))
                .unwrap_or_else(|| working_directory.join(fallback))
                .join("dbkeep")
        };
        let config_directory = directory("XDG_CONFIG_HOME", ".config");
        let state_directory = directory("XDG_STATE_HOME", ".local/state");
        let user = ["USER", "LOGNAME"]
            .iter()
            .find_map(|name| variables.get(*name).filter(|user| !user.is_empty()).cloned())
            .unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
        Self {
            variables,
            env_file: BTreeMap::new(),
            home,
            working_directory,
            config_directory,
            state_directory,
            terminal,
            host,
            user,
            time_zone,
        }
    }

    /// Returns the value of a variable; an empty one counts as not set.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns what `env:NAME` stands for: the variable, else the value in the `.env` file.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.variable(name)
            .or_else(|| self.env_file.get(name).map(String::as_str).filter(|value| !value.is_empty()))
    }

    /// Returns `path` with `~` replaced by the home and, when relative, below `base`.
    pub fn resolve(&self, path: &Path, base: &Path) -> PathBuf {
        let expanded = match (path.strip_prefix("~"), &self.home) {
            (Ok(rest), Some(home)) => home.join(rest),
            _ => path.to_owned(),
        };
        base.join(expanded)
    }

    /// Returns `path` as the command line means it.
    pub fn resolve_argument(&self, path: &Path) -> PathBuf {
        self.resolve(path, &self.working_directory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let variables =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Environment::assemble(
            variables,
            Some("/home/ada".into()),
            "/srv".into(),
            "host".into(),
            false,
            TimeZone::UTC,
        )
    }

    #[test]
    fn xdg_directories_are_honoured_unless_relative() {
        let plain = environment(&[]);
        assert_eq!(plain.config_directory, Path::new("/home/ada/.config/dbkeep"));
        assert_eq!(plain.state_directory, Path::new("/home/ada/.local/state/dbkeep"));
        let set = environment(&[("XDG_CONFIG_HOME", "/c"), ("XDG_STATE_HOME", "relative")]);
        assert_eq!(set.config_directory, Path::new("/c/dbkeep"));
        assert_eq!(set.state_directory, Path::new("/home/ada/.local/state/dbkeep"));
    }

    #[test]
    fn tilde_is_the_home_only_as_a_whole_component() {
        let environment = environment(&[]);
        let base = Path::new("/base");
        assert_eq!(environment.resolve(Path::new("~/x"), base), Path::new("/home/ada/x"));
        assert_eq!(environment.resolve(Path::new("~x"), base), Path::new("/base/~x"));
        assert_eq!(environment.resolve(Path::new("/x"), base), Path::new("/x"));
    }

    #[test]
    fn empty_variable_counts_as_not_set() {
        assert_eq!(environment(&[("A", "")]).variable("A"), None);
        assert_eq!(environment(&[("A", "b")]).variable("A"), Some("b"));
    }
}
