//! Throw-away PostgreSQL servers.
//!
//! A server lives in a folder of its own and dies with the process that started it, however that ends: a shell
//! between the two waits for the end of its input. PostgreSQL refuses to run as root, so there it runs as the user
//! `postgres`.

use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// What a test prints when there is no server to ask.
pub const SKIPPED: &str = "skipped: PostgreSQL is not installed";

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// The role that the server belongs to.
pub const SUPERUSER: &str = "postgres";

/// The programs of one version.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
    /// The major version.
    pub major: u32,
}

/// How a server is set up, beside what is usual.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Lines of `pg_hba.conf` before the last ones, which let everybody in.
    pub access: Vec<String>,
    /// Settings as `name = value`.
    pub configuration: Vec<String>,
    /// The certificate and the key of the server, as PEM.
    pub certificate: Option<(String, String)>,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    programs: Programs,
    folder: tempfile::TempDir,
    port: u16,
    shell: Child,
    input: Option<ChildStdin>,
}

impl Programs {
    /// Returns the programs of all versions on this machine, the oldest first.
    pub fn all() -> Vec<Self> {
        let mut found: Vec<Self> = folders().into_iter().filter_map(Self::in_folder).collect();
        found.sort_by_key(|programs| programs.major);
        found.dedup_by_key(|programs| programs.major);
        found
    }

    /// Returns the programs of the newest version.
    pub fn newest() -> Option<Self> {
        Self::all().pop()
    }

    /// Returns the programs of the newest version whose server can do TLS.
    pub fn newest_with_tls() -> Option<Self> {
        Self::all().into_iter().rfind(|programs| {
            let libraries = Command::new("ldd").arg(programs.program("postgres")).output();
            libraries.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains("libssl"))
        })
    }

    fn in_folder(folder: PathBuf) -> Option<Self> {
        let output = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        let version =
            text.split_whitespace().find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
        let digits = version.split(|character: char| !character.is_ascii_digit()).next()?;
        Some(Self { folder, major: digits.parse().ok()? })
    }

    /// Returns a program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// Where servers are installed: `DBKEEP_TEST_POSTGRES` (a list as PATH is one), and Debian's folders.
fn folders() -> Vec<PathBuf> {
    let said = std::env::var_os("DBKEEP_TEST_POSTGRES").unwrap_or_default();
    // An empty text is one empty path, in which whatever is on PATH would be found.
    let said = std::env::split_paths(&said).filter(|path| path.is_absolute()).collect::<Vec<_>>();
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    said.into_iter().chain(versions.map(|entry| entry.path().join("bin"))).collect()
}

impl Server {
    /// Starts a server of a version.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start(programs: &Programs, settings: &Settings) -> Self {
        Self::try_start(programs, settings).expect("the server starts")
    }

    fn try_start(programs: &Programs, settings: &Settings) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("dbkeep-postgres-").tempdir()?;
        if let Some((user, group)) = owner() {
            chown(folder.path(), Some(user), Some(group))?;
        }
        let data = folder.path().join("data");
        let mut initdb = unprivileged(&programs.program("initdb"));
        initdb.args([
            "--no-sync",
            "--auth=trust",
            "--encoding=UTF8",
            "--locale=C.UTF-8",
            "-U",
            SUPERUSER,
            "-D",
        ]);
        succeed(&initdb.arg(&data).output()?)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        configure(&data, folder.path(), port, settings)?;
        let mut shell = unprivileged(Path::new("sh"));
        // Each line that it reads is a crash. The last command takes the folder away, also where this process was
        // killed.
        let script = r#"while :; do "$0" -D "$1" >>"$2/log" 2>&1 </dev/null & server=$!
            read -r _ || break; kill -QUIT $server; wait $server; done
            kill -INT $server; wait $server; rm -rf "$1""#;
        shell.args(["-c", script]).arg(programs.program("postgres")).arg(&data).arg(folder.path());
        let mut shell = shell.stdin(Stdio::piped()).spawn()?;
        let input = shell.stdin.take();
        let server = Self { programs: programs.clone(), folder, port, shell, input };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&self) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let socket = self.folder.path().join(format!(".s.PGSQL.{}", self.port));
            if socket.exists() && self.psql("postgres", "SELECT 1")?.status.success() {
                return Ok(());
            }
            if Instant::now() > until {
                let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
                return Err(io::Error::other(format!("the server does not start:\n{log}")));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends the server as a power cut does (`pg_ctl stop -m immediate`), starts it again, and waits until it is
    /// ready.
    ///
    /// # Panics
    /// When it does not come back.
    pub fn crash(&self) {
        let started = || {
            self.psql("postgres", "SELECT pg_postmaster_start_time()").ok().filter(|it| it.status.success())
        };
        let before = started().map(|output| output.stdout);
        let mut input = self.input.as_ref().expect("the input is closed when the value goes");
        input.write_all(b"\n").expect("the shell reads");
        let until = Instant::now() + PATIENCE;
        while started().is_none_or(|output| Some(output.stdout) == before) {
            assert!(Instant::now() < until, "the server does not come back");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the folder of the socket.
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the programs of its version.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Returns the URL of a database for the superuser, through the socket.
    pub fn url(&self, database: &str) -> String {
        let folder = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgresql://{SUPERUSER}@{folder}:{}/{database}", self.port)
    }

    /// Runs SQL with stock psql, and returns what it printed.
    pub fn psql(&self, database: &str, sql: &str) -> io::Result<Output> {
        let program = self.programs.program("psql");
        let program = if program.exists() { program } else { PathBuf::from("psql") };
        let mut command = Command::new(program);
        command.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", SUPERUSER, "-h"]);
        // In an option the name of a database may be a connection string.
        command.env("PGDATABASE", database);
        command.arg(self.folder.path()).args(["-p", &self.port.to_string(), "-c", sql]).output()
    }

    /// Runs SQL, and returns what it printed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn sql(&self, database: &str, sql: &str) -> String {
        let output = self.psql(database, sql).expect("psql runs");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
    }

    /// Returns what a database holds, as stock psql tells it: a line for each table with the count and a hash of its
    /// rows, whatever their order, and one for each sequence with where it stands.
    ///
    /// # Panics
    /// When it cannot be asked.
    #[track_caller]
    pub fn contents(&self, database: &str) -> Vec<String> {
        let user = "NOT IN ('pg_catalog', 'information_schema')";
        // A row has a name that no column has, and names of tables may hold anything: the server writes what it is asked.
        let rows =
            "count(*) || ' ' || coalesce(md5(string_agg(a_row::text, E'\n' ORDER BY a_row::text)), '')";
        let tables = self.sql(
            database,
            &format!(
                "SELECT string_agg(format($$SELECT %L || ' ' || {rows} FROM ONLY %s a_row$$, name, name), '; ' ORDER BY name)
                 FROM (SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables WHERE schemaname {user}) tables"
            ),
        );
        let sequences = "SELECT format('%I.%I %s', schemaname, sequencename, last_value) FROM pg_sequences";
        let told = self.sql(database, &format!("{tables}; {sequences} WHERE schemaname {user} ORDER BY 1"));
        told.lines().map(str::to_owned).collect()
    }

    /// Returns the objects of a database as `pg_dump` of some version writes them, without what differs each time.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn schema(&self, programs: &Programs, database: &str) -> String {
        let mut command = Command::new(programs.program("pg_dump"));
        command.args(["-s", "-U", SUPERUSER, "-h"]).arg(self.folder.path());
        command.args(["-p", &self.port.to_string()]).env("PGDATABASE", database);
        let output = command.output().expect("pg_dump runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let differs = ["\\restrict", "\\unrestrict", "-- Dumped from"];
        let kept = text.lines().filter(|line| !differs.iter().any(|start| line.starts_with(start)));
        kept.collect::<Vec<_>>().join("\n")
    }

    /// Makes tables of a schema those of an extension whose rows are the user's, as those of a scheduler are. Nothing
    /// is installed of it, so no other database can have it.
    ///
    /// # Panics
    /// When there is no such table.
    #[track_caller]
    pub fn pretend_extension(&self, database: &str, name: &str, schema: &str, tables: &[&str]) {
        let oids: Vec<String> =
            tables.iter().map(|table| format!("'{schema}.{table}'::regclass::oid")).collect();
        let conditions = vec!["''"; tables.len()].join(", ");
        let members =
            tables.iter().map(|table| format!("ALTER EXTENSION {name} ADD TABLE {schema}.{table};"));
        self.sql(
            database,
            &format!(
                "SET allow_system_table_mods = on;
                 INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion, extconfig,
                                           extcondition)
                 SELECT 4000000000, '{name}', 10, '{schema}'::regnamespace, false, '1.0', ARRAY[{}], ARRAY[{conditions}];
                 {}",
                oids.join(", "),
                members.collect::<String>()
            ),
        );
    }

    /// Makes an empty database.
    pub fn create_database(&self, name: &str) {
        self.sql("postgres", &format!("CREATE DATABASE \"{}\"", name.replace('"', "\"\"")));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.input.take());
        // The shell ends by itself; the folder goes with `folder`.
        let _ = self.shell.wait();
    }
}

/// Writes the configuration.
fn configure(data: &Path, folder: &Path, port: u16, settings: &Settings) -> io::Result<()> {
    let mut lines = vec![
        format!("port = {port}"),
        "listen_addresses = '127.0.0.1'".to_owned(),
        format!("unix_socket_directories = '{}'", folder.display()),
        "fsync = off".to_owned(),
        "max_connections = 60".to_owned(),
        "shared_buffers = 64MB".to_owned(),
    ];
    if let Some((certificate, key)) = &settings.certificate {
        private(&data.join("server.crt"), certificate)?;
        private(&data.join("server.key"), key)?;
        lines.push("ssl = on".to_owned());
    }
    lines.extend(settings.configuration.iter().cloned());
    private(&data.join("postgresql.auto.conf"), &(lines.join("\n") + "\n"))?;
    let mut access = settings.access.clone();
    access.extend(["local all all trust".to_owned(), "host all all 127.0.0.1/32 trust".to_owned()]);
    private(&data.join("pg_hba.conf"), &(access.join("\n") + "\n"))
}

/// Writes a file that only the server can read.
fn private(path: &Path, text: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;

    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    owner().map_or(Ok(()), |(user, group)| chown(path, Some(user), Some(group)))
}

/// Prepares a program that does not run as root.
fn unprivileged(program: &Path) -> Command {
    if owner().is_none() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program).current_dir("/");
    command
}

/// Returns whom servers belong to when we are root.
fn owner() -> Option<(u32, u32)> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    let user = nix::unistd::User::from_name("postgres").ok()??;
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

fn succeed(output: &Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
}
