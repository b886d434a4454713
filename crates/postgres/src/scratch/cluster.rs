//! A server of our own, for as long as this process lives: on a socket in a folder that nobody else may enter,
//! without a port, and without caring for power cuts.
//!
//! A database that is restored may hold functions that run while it is restored. So it is restored by a role that is
//! no superuser: such a one may not run programs or read files of this machine.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::conninfo::{ConnInfo, Surroundings};
use crate::snapshot::identifier;
use crate::tools::{self, Tools};
use crate::wire::{Connection, Options};
use crate::{Error, Result};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long one may take to end before it is killed.
const LAST_PATIENCE: Duration = Duration::from_secs(20);
/// How long one that is lost may take to end by itself: it gives its processes five seconds.
const LAST_WORDS: Duration = Duration::from_secs(6);
/// The role that the server belongs to.
const SUPERUSER: &str = "dbkeep_owner";
/// The role that restores.
const ROLE: &str = "dbkeep_drill";
/// Names the socket; no network port is opened.
const PORT: u16 = 5432;
/// What it takes at a time for its write-ahead log, in bytes: where less is free it cannot go on.
const SEGMENT: u64 = 16 << 20;
/// The file of its folder that it says everything to.
const LOG: &str = "log";
/// How a server says that it is not ready yet.
const STARTING_UP: &str = "57P03";
/// The longest path of a socket that systems take.
const LONGEST_SOCKET: usize = 100;

/// A server of our own. It ends when this goes.
#[derive(Debug)]
pub struct Cluster {
    folder: PathBuf,
    info: ConnInfo,
    server: Child,
    watchdog: Child,
    pipe: Option<ChildStdin>,
}

/// Returns the user and the group that a server must belong to: none where this process may run one itself.
/// PostgreSQL refuses to run as root, and belongs to the user `postgres` there.
///
/// # Errors
/// [`Error::Scratch`] when this is root, and there is no such user.
pub fn owner(is_root: bool) -> Result<Option<(u32, u32)>> {
    if !is_root {
        return Ok(None);
    }
    let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let of_line = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let mut numbers = fields.skip(1).map(str::parse);
        (name == "postgres").then_some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    let found = users.lines().find_map(of_line);
    let what = || "PostgreSQL does not run as root, and there is no user postgres".to_owned();
    found.map(Some).ok_or_else(|| Error::Scratch { what: what() })
}

impl Cluster {
    /// Makes a server in a folder and starts it. The folder is empty but for files of the caller's, belongs to
    /// `owner` where there is one, and nobody else may enter it. It is removed when this process is killed.
    ///
    /// # Errors
    /// [`Error::Scratch`] or [`Error::Tool`] with what the programs said.
    pub fn start(tools: &Tools, folder: &Path, owner: Option<(u32, u32)>, options: &Options) -> Result<Self> {
        if folder.as_os_str().len() > LONGEST_SOCKET - ".s.PGSQL.5432".len() {
            let what = format!("the path {} is too long for a socket", folder.display());
            return Err(Error::Scratch { what });
        }
        let data = folder.join("data");
        let mut initdb = as_owner(tools.offline("initdb"), owner);
        initdb.args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C", "-U", SUPERUSER, "-D"]);
        initdb.arg(&data);
        tools::run(initdb, temporary()?, &options.stop)?;
        let (watchdog, pipe) = start_watchdog(folder, owner)?;
        let log = folder.join(LOG);
        let server = start_server(tools, &data, folder, &log, owner)?;
        let folder = folder.to_owned();
        let mut cluster =
            Self { info: info(&folder, SUPERUSER)?, folder, server, watchdog, pipe: Some(pipe) };
        let id = cluster.server.id();
        cluster.tell(&format!("{id}\n"));
        cluster.wait(&log, options).map_err(|error| cluster.explained(error))?;
        Ok(cluster)
    }

    /// Returns the way to it, for a role that may make databases, sees all rows in them, and may do nothing else.
    pub fn info(&self) -> &ConnInfo {
        &self.info
    }

    /// Returns why something on it failed: for want of room, where the server is gone and little of that is left, else what
    /// its log says of its end. Its folder goes with it, so this is asked before.
    pub fn explained(&mut self, error: Error) -> Error {
        let until = Instant::now() + LAST_WORDS;
        while is_lost(&error) && !self.has_ended() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        let free = rustix::fs::statvfs(&self.folder).map_or(u64::MAX, |disk| disk.f_bavail * disk.f_frsize);
        let said = self.has_ended().then(|| last_words(&read(&self.folder.join(LOG))));
        explained(error, free, said)
    }

    /// Makes roles that policies may name. Nobody logs in as one, nobody is a member of one, and none may do anything.
    ///
    /// # Errors
    /// When the server cannot be asked. A name that it does not take is left out.
    pub fn make_roles(&self, names: &[String], options: &Options) -> Result<()> {
        let mut info = self.info.clone();
        info.user = SUPERUSER.to_owned();
        let mut connection = Connection::open(&info, options)?;
        for name in names {
            match connection.execute(&format!("CREATE ROLE {} NOLOGIN", identifier(name))) {
                // One of that name is there, or none can be: what needs it is told when it is restored.
                Ok(()) | Err(Error::Server(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits until it answers, and makes the role.
    fn wait(&mut self, log: &Path, options: &Options) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            if (options.stop)() {
                return Err(Error::Stopped);
            }
            let ended = self.has_ended();
            match Connection::open(&self.info, options) {
                Ok(mut connection) => {
                    connection.execute(&format!("CREATE ROLE {ROLE} LOGIN CREATEDB BYPASSRLS"))?;
                    self.info.user = ROLE.to_owned();
                    return Ok(());
                }
                Err(Error::Stopped) => return Err(Error::Stopped),
                Err(error) if error.code().is_some_and(|code| code != STARTING_UP) => {
                    return Err(match error.is_of_the_server() {
                        true => error,
                        false => Error::Scratch { what: error.to_string() },
                    });
                }
                Err(_) if !ended && Instant::now() < until => thread::sleep(Duration::from_millis(50)),
                Err(error) => {
                    let said = read(log);
                    let last = said.lines().last().map_or_else(|| error.to_string(), str::to_owned);
                    return Err(Error::Scratch { what: last });
                }
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        self.server.try_wait().ok().flatten().is_some()
    }

    /// Tells the watchdog something.
    fn tell(&mut self, line: &str) {
        // When it is gone, the next drill cleans up.
        if let Some(pipe) = &mut self.pipe {
            let _ = pipe.write_all(line.as_bytes());
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.has_ended() {
            self.tell("done\n");
        }
        // The watchdog ends it so that it gives back what the system lends to it, as its shared memory. A process
        // that nobody waited for keeps its number, so no other one can be meant.
        drop(self.pipe.take());
        let until = Instant::now() + LAST_PATIENCE;
        while !self.has_ended() && Instant::now() < until {
            thread::sleep(Duration::from_millis(10));
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
        let _ = self.watchdog.wait();
    }
}

/// Returns why something failed on a server beside which so many bytes are free, and of whose end, where it has ended,
/// this is said.
fn explained(error: Error, free: u64, said: Option<String>) -> Error {
    let is_gone = is_lost(&error) || matches!(error, Error::Scratch { .. }) || error.is_of_the_server();
    match (is_gone && free < SEGMENT, said) {
        (true, _) => Error::NoRoom { what: error.to_string(), free },
        (false, Some(said)) if is_lost(&error) => Error::Ended { said },
        _ => error,
    }
}

/// Returns whether an error comes of a server that ends, or of a connection to it.
fn is_lost(error: &Error) -> bool {
    matches!(error, Error::Lost { .. } | Error::Connect { .. } | Error::TimedOut { .. })
        || error.code().is_some_and(|code| code.starts_with("57P"))
}

/// Returns what a log says of the end of its server: a panic, how a process of it ended, or who ended it.
fn last_words(log: &str) -> String {
    let signs = ["PANIC:  ", "was terminated by ", "exited with exit code ", " shutdown request"];
    // These come and go.
    let is_of_the_server = |line: &&str| !line.contains("background worker");
    let line =
        signs.iter().find_map(|sign| log.lines().filter(is_of_the_server).rfind(|line| line.contains(sign)));
    // Before the level stands when, and which process.
    let line = line.map(|line| line.split_once(":  ").map_or(line, |(_, said)| said));
    line.unwrap_or("its log does not say why").to_owned()
}

/// Reads a log. Names of databases with other encodings stand in it as they are.
fn read(log: &Path) -> String {
    fs::read(log).map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Starts what ends the server and removes the folder when this process is killed.
fn start_watchdog(folder: &Path, owner: Option<(u32, u32)>) -> Result<(Child, ChildStdin)> {
    let script = "read -r server || exit; read -r word; [ \"$word\" = done ] && exit
        kill -QUIT \"$server\"; tries=0
        while [ $tries -lt 200 ] && [ -e \"$0/data/postmaster.pid\" ] && kill -0 \"$server\" 2>/dev/null
        do sleep 0.1; tries=$((tries + 1)); done; rm -rf \"$0\"";
    let mut shell = as_owner(Command::new("/bin/sh"), owner);
    shell.args(["-c", script]).arg(folder).stdin(Stdio::piped());
    let mut shell = detached(shell, None)?;
    let pipe = shell.stdin.take();
    let pipe = pipe.ok_or_else(|| Error::Scratch { what: "a shell without input".to_owned() })?;
    Ok((shell, pipe))
}

fn start_server(
    tools: &Tools,
    data: &Path,
    folder: &Path,
    log: &Path,
    owner: Option<(u32, u32)>,
) -> Result<Child> {
    let log = fs::File::create(log).map_err(|source| Error::System { what: "write a log", source })?;
    let mut server = as_owner(tools.offline("postgres"), owner);
    server.arg("-D").arg(data);
    let folders = format!("unix_socket_directories=\"{}\"", folder.display());
    let port = format!("port={PORT}");
    let settings = [
        "listen_addresses=",
        &folders,
        &port,
        "unix_socket_permissions=0700",
        "fsync=off",
        "full_page_writes=off",
        "synchronous_commit=off",
        "wal_level=minimal",
        "max_wal_senders=0",
        "max_connections=20",
        "max_prepared_transactions=0",
        "max_locks_per_transaction=1024",
        "shared_buffers=64MB",
        "maintenance_work_mem=64MB",
        "max_wal_size=1GB",
        "logging_collector=off",
        // One that crashed is told as such, and not found again as if nothing had been.
        "restart_after_crash=off",
        // The last words of its log are its own.
        "log_min_error_statement=panic",
        // In its folder, where it is as large as that allows and is removed with it.
        "dynamic_shared_memory_type=mmap",
        "jit=off",
    ];
    for setting in settings {
        server.args(["-c", setting]);
    }
    detached(server, Some(log))
}

/// Starts a program that no Ctrl-C reaches: whoever started it ends it.
fn detached(mut command: Command, log: Option<fs::File>) -> Result<Child> {
    command.process_group(0).stdout(Stdio::null()).stderr(log.map_or_else(Stdio::null, Stdio::from));
    command.spawn().map_err(|source| Error::System { what: "start a program", source })
}

/// Has a program run as the user that servers belong to.
fn as_owner(mut command: Command, owner: Option<(u32, u32)>) -> Command {
    if let Some((user, group)) = owner {
        command.uid(user).gid(group);
    }
    command.current_dir("/");
    command
}

fn info(folder: &Path, user: &str) -> Result<ConnInfo> {
    let surroundings = Surroundings { variable: &|_| None, home: None, user: Some(user) };
    let quoted = folder.display().to_string().replace('\\', "\\\\").replace('\'', "\\'");
    let text = format!("host='{quoted}' port={PORT} user={user} dbname=postgres");
    Ok(ConnInfo::resolve(&text, &surroundings)?)
}

fn temporary() -> Result<fs::File> {
    tempfile::tempfile().map_err(|source| Error::System { what: "make a temporary file", source })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use dbkeep_testkit::postgres;

    use super::super::{Answer, Place};
    use super::*;
    use crate::ServerError;

    fn folder() -> (tempfile::TempDir, Option<(u32, u32)>) {
        let folder = tempfile::Builder::new().prefix("dbkeep-drill-").tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
        // The owner of a folder that was just made is who runs this.
        let is_root = std::os::unix::fs::MetadataExt::uid(&fs::metadata(folder.path()).unwrap()) == 0;
        let owner = owner(is_root).unwrap();
        if let Some((user, group)) = owner {
            chown(folder.path(), Some(user), Some(group)).unwrap();
        }
        (folder, owner)
    }

    #[test]
    fn server_of_our_own_has_no_port_and_no_power_and_leaves_nothing() {
        let Some(programs) = postgres::Programs::newest() else { return println!("{}", postgres::SKIPPED) };
        let tools = Tools::find_server(programs.major, Some(&programs.program("")), None).unwrap();
        let (folder, owner) = folder();
        let cluster = Cluster::start(&tools, folder.path(), owner, &Options::default()).unwrap();
        let place = Place::begin(cluster.info(), &Options::default(), "0123456789abcdef").unwrap();
        let mut connection = Connection::open(cluster.info(), &Options::default()).unwrap();
        connection.execute("CREATE DATABASE dbkeep_drill_0123456789abcdef").unwrap();
        let ask = |sql: &str| place.ask(sql);
        let value = |text: &str| Answer::Value(Some(text.to_owned()));
        assert_eq!(ask("SHOW listen_addresses").unwrap(), value(""));
        assert_eq!(ask("SELECT usesuper FROM pg_user WHERE usename = current_user").unwrap(), value("f"));
        assert_eq!(ask("SELECT NULL").unwrap(), Answer::Value(None));
        assert_eq!(ask("SELECT 1 WHERE false").unwrap(), Answer::Nothing);
        assert_eq!(ask("SELECT 1, 2").unwrap(), Answer::Several);
        let refused = ask("COPY pg_class TO PROGRAM 'true'").unwrap_err();
        assert_eq!(refused.code(), Some("42501"));
        place.finish().unwrap();
        let names = connection.query("SELECT 1 FROM pg_database WHERE datname LIKE 'dbkeep%'", &[]).unwrap();
        assert!(names.is_empty());
        let process = cluster.server.id();
        drop(cluster);
        assert!(!Path::new(&format!("/proc/{process}")).exists());
    }

    #[test]
    fn server_that_is_gone_is_told_by_the_room_there_is_or_by_its_log() {
        let lost = || Error::Lost { source: std::io::ErrorKind::UnexpectedEof.into() };
        let server = |code: &str| {
            let error =
                ServerError { code: code.to_owned(), message: code.to_owned(), ..ServerError::default() };
            Error::Server(Box::new(error))
        };
        let told = |error: Error, free: u64, said: Option<&str>| {
            explained(error, free, said.map(str::to_owned)).to_string()
        };
        let lost_text = "the connection to the server is lost";
        let killed = Some("server process (PID 7) was terminated by signal 9: Killed");
        assert_eq!(told(lost(), SEGMENT - 1, killed), format!("{lost_text}; {} bytes are free", SEGMENT - 1));
        assert_eq!(
            told(lost(), SEGMENT, killed),
            "the server of our own has ended: server process (PID 7) was terminated by signal 9: Killed"
        );
        assert_eq!(told(lost(), SEGMENT, None), lost_text);
        for code in ["57P01", "57P02", "58030", "53200"] {
            assert_eq!(told(server(code), 0, killed), format!("{code}; 0 bytes are free"));
            assert_eq!(told(server(code), SEGMENT, None), code);
        }
        assert_eq!(told(server("42P01"), 0, killed), "42P01", "it answers");
        assert_eq!(told(Error::Stopped, 0, killed), "stopped");
    }

    #[test]
    fn server_that_crashed_is_told_by_what_its_log_says_of_it() {
        let Some(programs) = postgres::Programs::newest() else { return println!("{}", postgres::SKIPPED) };
        let tools = Tools::find_server(programs.major, Some(&programs.program("")), None).unwrap();
        let (folder, owner) = folder();
        let mut cluster = Cluster::start(&tools, folder.path(), owner, &Options::default()).unwrap();
        let mut connection = Connection::open(cluster.info(), &Options::default()).unwrap();
        let refused = connection.execute("SELECT 'secret' FROM nothing").unwrap_err();
        assert_eq!(cluster.explained(refused).code(), Some("42P01"));
        let killed = Command::new("kill").args(["-KILL", &connection.process().to_string()]).status();
        assert!(killed.unwrap().success());
        let lost = connection.execute("SELECT 1").unwrap_err();
        let said = cluster.explained(lost).to_string();
        // What the process is called depends on the version.
        assert!(said.starts_with("the server of our own has ended: "), "{said}");
        assert!(said.contains(" (PID ") && said.contains("was terminated by signal 9"), "{said}");
    }

    #[test]
    fn end_of_a_server_is_told_by_the_line_that_is_about_it() {
        let begin = "2026-11-21 09:30:00.000 UTC [7] LOG:  ";
        let log = |lines: &[&str]| lines.iter().map(|line| format!("{begin}{line}\n")).collect::<String>();
        let usual = "background worker \"parallel worker\" (PID 9) exited with exit code 1";
        let crashed = "server process (PID 8) was terminated by signal 11: Segmentation fault";
        let last = "database system is shut down";
        assert_eq!(last_words(""), "its log does not say why");
        assert_eq!(last_words(&log(&[usual])), "its log does not say why");
        assert_eq!(last_words(&log(&[usual, crashed, usual, last])), crashed);
        assert_eq!(
            last_words(&log(&["received fast shutdown request", usual, last])),
            "received fast shutdown request"
        );
        let panic = "2026-11-21 09:30:00.000 UTC [8] PANIC:  could not write to file\n";
        assert_eq!(last_words(&format!("{panic}{}", log(&[crashed]))), "could not write to file");
    }

    #[test]
    fn abandoned_databases_are_dropped_and_those_at_work_are_not() {
        let Some(programs) = postgres::Programs::newest() else { return println!("{}", postgres::SKIPPED) };
        let server = postgres::Server::start(&programs, &postgres::Settings::default());
        let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
        let info = ConnInfo::resolve(&server.url("postgres"), &surroundings).unwrap();
        for name in ["dbkeep_drill_00000000000000aa", "dbkeep_drill_mine", "dbkeep_drill_00000000000000bb_x"]
        {
            server.create_database(name);
        }
        let first = Place::begin(&info, &Options::default(), "00000000000000bb").unwrap();
        let second = Place::begin(&info, &Options::default(), "00000000000000cc").unwrap();
        let left = || {
            server.sql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'dbkeep%' ORDER BY 1")
        };
        assert_eq!(left(), "dbkeep_drill_00000000000000bb_x\ndbkeep_drill_mine");
        drop(first);
        assert_eq!(left(), "dbkeep_drill_mine");
        second.finish().unwrap();

        // The session that waits is ended by somebody; whoever works on the database shows that it is wanted.
        let living = Place::begin(&info, &Options::default(), "00000000000000dd").unwrap();
        server.create_database("dbkeep_drill_00000000000000dd_staging");
        let of_it = "FROM pg_stat_activity WHERE application_name = 'dbkeep_drill_00000000000000dd'";
        server.sql("postgres", &format!("SELECT pg_terminate_backend(pid, 60000) {of_it}"));
        let mut at_work =
            Connection::open(&living.info().with_database("postgres"), &Options::default()).unwrap();
        let count = format!("SELECT count(*) {of_it}");
        assert_eq!(server.sql("postgres", &count), "1", "it has the name");
        let staging = "dbkeep_drill_00000000000000dd_staging\ndbkeep_drill_mine";
        let begin_another = || Place::begin(&info, &Options::default(), "00000000000000ee").unwrap();
        begin_another().finish().unwrap();
        assert_eq!(left(), staging);
        at_work.execute("SET application_name = 'of another name'").unwrap();
        let mut inside = Connection::open(
            &info.with_database("dbkeep_drill_00000000000000dd_staging"),
            &Options::default(),
        )
        .unwrap();
        begin_another().finish().unwrap();
        assert_eq!(left(), staging, "somebody is in it");
        assert_eq!(inside.query("SELECT 1", &[]).unwrap(), [[Some("1".to_owned())]]);
        living.finish().unwrap();
        assert_eq!(left(), "dbkeep_drill_mine");
    }
}
