//! `dbkeep demo`: sample databases, taken through the whole path.
//!
//! Each step runs this very program as a person would, in the demo's directory. A `dbkeep.toml` there
//! names the databases, the repository and the key, so that the same commands work afterwards.

mod databases;

use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use serde::Serialize;
use serde_json::Value;

use crate::app::App;
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;

const HELP: &str = "\
Makes five small databases in DIR and takes them through backup, list, show,
verify, a change, a second backup, restore to a new file, restore in place and
check, printing each command as you would type it. Everything stays in DIR, the
key too; delete the directory when you have seen enough.

Examples:
  dbkeep demo
  dbkeep demo /tmp/look

Exit codes: 0 all went well, 1 something did not, 2 DIR is not empty";

const CONFIG: &str = "\
# The configuration of the demo. `dbkeep config example` explains every setting.
[repository]
location = \"backups\"
# For a demo only: a key that lies beside the backups protects nothing.
password-file = \"demo.key\"
";

/// Try everything on sample databases
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct DemoArgs {
    /// Directory to make; must be empty or absent [default: a new ./dbkeep-demo]
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
}

impl DemoArgs {
    /// Runs the demo from beginning to end.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let mut demo = Demo { app, directory: self.make_directory()?, steps: Vec::new() };
        demo.make_databases()?;
        demo.first_backup()?;
        demo.look()?;
        demo.damage_and_second_backup()?;
        demo.restore()?;
        demo.check()?;
        demo.end();
        Ok(Exit::Done)
    }

    fn make_directory(&self) -> Result<PathBuf, Failure> {
        let directory = match &self.directory {
            Some(directory) => directory.clone(),
            None => fresh_directory(),
        };
        fs::create_dir_all(&directory).map_err(|error| failed("make", &directory, &error))?;
        let mut entries = fs::read_dir(&directory).map_err(|error| failed("read", &directory, &error))?;
        if entries.next().is_some() {
            return Err(Failure::usage(
                format!("{} is not empty", directory.display()),
                "give a directory that does not exist yet: `dbkeep demo DIR`",
            ));
        }
        fs::canonicalize(&directory).map_err(|error| failed("read", &directory, &error))
    }
}

/// Returns `dbkeep-demo`, or the first of `dbkeep-demo-2`, … that is free.
fn fresh_directory() -> PathBuf {
    let first = PathBuf::from("dbkeep-demo");
    std::iter::once(first.clone())
        .chain((2..1000).map(|number| PathBuf::from(format!("dbkeep-demo-{number}"))))
        .find(|directory| !directory.exists())
        .unwrap_or(first)
}

/// The demo while it runs.
struct Demo<'a> {
    app: &'a App,
    directory: PathBuf,
    steps: Vec<Step>,
}

/// What was made, and the commands that were run.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct DemoReport<'r> {
    /// Where everything is.
    directory: &'r Path,
    /// Each command, in order.
    steps: &'r [Step],
}

/// A command that was run.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct Step {
    /// As a person types it.
    command: String,
    /// What it ended with; `None` when a signal ended it.
    exit: Option<i32>,
    /// What it printed with `--json`.
    report: Value,
}

impl Demo<'_> {
    fn report(&self) -> DemoReport<'_> {
        DemoReport { directory: &self.directory, steps: &self.steps }
    }

    fn make_databases(&mut self) -> Result<(), Failure> {
        self.tell("Five SQLite databases, and a configuration that names them:");
        let mut config = CONFIG.to_owned();
        for database in &databases::ALL {
            let path = self.directory.join(database.file());
            database.make(&path).map_err(|error| sqlite_failed(&path, &error))?;
            let rows = databases::total_rows(&path).map_err(|error| sqlite_failed(&path, &error))?;
            self.app.output.line(format_args!("  {:<26} {}", database.file(), human::counted(rows, "row")));
            config += &format!("\n[databases.{}]\nsqlite = \"{}\"\n", database.name, database.file());
        }
        self.write("dbkeep.toml", config.as_bytes())?;
        let key = random_key().map_err(|error| failed("read", Path::new("/dev/urandom"), &error))?;
        self.write("demo.key", format!("{key}\n").as_bytes())?;
        self.app.output.line(format_args!("  {:<26} the configuration", "dbkeep.toml"));
        self.app.output.line(format_args!("  {:<26} the key; in real life it is kept elsewhere", "demo.key"));
        self.tell("The commands below are run in this directory:");
        self.app.output.line(format_args!("$ cd {}", human::shell_quoted(&self.directory.to_string_lossy())));
        Ok(())
    }

    fn first_backup(&mut self) -> Result<(), Failure> {
        self.tell("A repository, and the first backup of all five, in one session:");
        self.dbkeep(&["init"])?;
        self.dbkeep(&["backup"])
    }

    fn look(&mut self) -> Result<(), Failure> {
        self.tell("What there is now:");
        self.dbkeep(&["list"])?;
        self.dbkeep(&["show", "latest", "--database", "mingus"])?;
        self.tell("Proof: everything is read back, decrypted, hashed, counted and checked:");
        self.dbkeep(&["verify"])
    }

    fn damage_and_second_backup(&mut self) -> Result<(), Failure> {
        self.tell("Life goes on. One application adds users; another loses all its alert rules by mistake:");
        self.sql("mingus.db", databases::NEW_USERS)?;
        self.sql("alerts.db", databases::MISTAKE)?;
        self.tell("The next backup stores what changed, and nothing else:");
        self.dbkeep(&["backup", "--tag", "after-the-mistake"])
    }

    fn restore(&mut self) -> Result<(), Failure> {
        self.tell("A restore to a new file never touches the original:");
        self.dbkeep(&["restore", "latest", "--database", "mingus", "--to", "mingus-restored.db"])?;
        self.tell(
            "And the lost rules come back into the database in use, from the backup before the mistake:",
        );
        self.dbkeep(&["restore", "latest~1", "--database", "alerts", "--in-place", "--yes"])?;
        self.count("alerts.db", "alert_rules")
    }

    fn check(&mut self) -> Result<(), Failure> {
        self.tell("Last, the repository itself, every stored byte of it:");
        self.dbkeep(&["check", "--read-data"])?;
        self.dbkeep(&["status"])
    }

    fn end(&self) {
        self.tell("Everything is there to look at. What to try next:");
        for line in [
            "dbkeep list                                    all snapshots, the safety backup too",
            "dbkeep restore                                 choose a snapshot from a list",
            "dbkeep restore --session latest --to all       a whole session, into a directory",
            "dbkeep key show-recovery                       the sheet that restores without this machine",
            "restic -r backups -p demo.key snapshots        the same, with stock restic",
            "dbkeep backup path/to/your.db                  your own database, into ./backups where you are",
        ] {
            self.app.output.line(format_args!("  {line}"));
        }
        self.app.output.document(&self.report());
    }

    /// Prints what comes next.
    fn tell(&self, text: &str) {
        self.app.output.line("");
        self.app.output.line(self.app.output.paint(Tone::Strong, text));
    }

    /// Runs one command as a person would type it, and shows what it prints.
    fn dbkeep(&mut self, words: &[&str]) -> Result<(), Failure> {
        use dbkeep_engine::Observer as _;
        if self.app.watch.cancelled() {
            return Err(Failure::interrupted());
        }
        let typed = std::iter::once("dbkeep").chain(words.iter().copied()).map(human::shell_quoted);
        let typed = typed.collect::<Vec<_>>().join(" ");
        self.app.output.line(format_args!("$ {typed}"));
        let mut command = self.command(words)?;
        let output = if self.app.output.json() {
            command.arg("--json").stderr(Stdio::null()).output()
        } else {
            command.stdout(Stdio::inherit()).stderr(Stdio::inherit()).output()
        };
        let output = output.map_err(|error| failed("run", Path::new("dbkeep"), &error))?;
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
        self.steps.push(Step { command: typed.clone(), exit: output.status.code(), report });
        if output.status.success() {
            return Ok(());
        }
        let mut failure = Failure::failed(
            "demo",
            format!("`{typed}` failed"),
            Some(format!("what it said is above; the files are in {}", self.directory.display())),
        );
        if output.status.code() == Some(i32::from(Exit::Interrupted.code())) {
            failure.exit = Exit::Interrupted;
        }
        Err(failure.with_report(&self.report()))
    }

    fn command(&self, words: &[&str]) -> Result<Command, Failure> {
        let program = std::env::current_exe().map_err(|error| failed("find", Path::new("dbkeep"), &error))?;
        let mut command = Command::new(program);
        if std::env::args().next().is_some_and(|called| !called.contains('/')) {
            command.arg0("dbkeep");
        }
        // The demo stands for itself: nothing of the user's set-up is used, and nothing is left in it.
        for name in ["DBKEEP_CONFIG", "DBKEEP_REPOSITORY", "DBKEEP_PASSWORD", "DBKEEP_PASSWORD_FILE"] {
            command.env_remove(name);
        }
        command
            .args(words)
            .current_dir(&self.directory)
            .env("XDG_STATE_HOME", self.directory.join(".state"))
            .stdin(Stdio::null());
        Ok(command)
    }

    fn sql(&self, file: &str, statement: &str) -> Result<(), Failure> {
        let path = self.directory.join(file);
        self.app.output.line(format_args!("{file}> {statement}"));
        databases::execute(&path, statement).map_err(|error| sqlite_failed(&path, &error))
    }

    fn count(&self, file: &str, table: &str) -> Result<(), Failure> {
        let path = self.directory.join(file);
        let rows = databases::rows(&path, table).map_err(|error| sqlite_failed(&path, &error))?;
        self.app.output.line(format_args!("{file}> SELECT count(*) FROM {table};\n{rows}"));
        Ok(())
    }

    fn write(&self, name: &str, contents: &[u8]) -> Result<(), Failure> {
        let path = self.directory.join(name);
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        file.and_then(|mut file| io::Write::write_all(&mut file, contents))
            .map_err(|error| failed("write", &path, &error))
    }
}

/// Returns a key for the demo: 128 random bits.
fn random_key() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn failed(action: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::failed(
        "io",
        format!("could not {action} {}: {error}", path.display()),
        Some("give a directory that you may write to: `dbkeep demo DIR`".into()),
    )
}

fn sqlite_failed(path: &Path, error: &rusqlite::Error) -> Failure {
    Failure::failed(
        "sqlite",
        format!("could not use the sample database {}: {error}", path.display()),
        Some("give a directory on a local disk: `dbkeep demo DIR`".into()),
    )
}
