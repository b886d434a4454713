//! Databases for tests: each its own, on servers that all tests of this process share.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use crate::BoxError;
use crate::catalog::{Catalog, Table};
use crate::conninfo::{ConnInfo, Surroundings};
use crate::dump::{PartReceiver, Receiver};
use crate::plan::Part;
use crate::rows::{RowEnd, RowSum};
use crate::snapshot::Holder;
use crate::wire::{Connection, Options};

/// Returns the server of a version, started when it is asked for first. It ends with this process.
fn server(programs: &Programs) -> &'static Server {
    static SERVERS: Mutex<BTreeMap<u32, &'static Server>> = Mutex::new(BTreeMap::new());
    let mut servers = SERVERS.lock().unwrap_or_else(PoisonError::into_inner);
    servers
        .entry(programs.major)
        .or_insert_with(|| Box::leak(Box::new(Server::start(programs, &Settings::default()))))
}

/// A database of its own, and the way to it.
pub(crate) struct Place {
    pub(crate) server: &'static Server,
    pub(crate) name: String,
    pub(crate) info: ConnInfo,
    pub(crate) options: Options,
}

impl Place {
    /// Makes a database on the newest server that is installed.
    pub(crate) fn new(name: &str, sql: &str) -> Option<Self> {
        let newest = Programs::newest();
        if newest.is_none() {
            println!("{SKIPPED}");
        }
        Some(Self::on(&newest?, name, sql))
    }

    /// Makes one on each version that is installed, the oldest first.
    pub(crate) fn on_all(name: &str, sql: &str) -> Vec<Self> {
        let all = Programs::all();
        if all.is_empty() {
            println!("{SKIPPED}");
        }
        all.iter().map(|programs| Self::on(programs, name, sql)).collect()
    }

    pub(crate) fn on(programs: &Programs, name: &str, sql: &str) -> Self {
        let server = server(programs);
        server.create_database(name);
        server.sql(name, sql);
        Self {
            server,
            name: name.to_owned(),
            info: way(server, name, "postgres"),
            options: Options::default(),
        }
    }

    /// Returns the same place for another user.
    pub(crate) fn as_user(&self, user: &str) -> Self {
        Self {
            server: self.server,
            name: self.name.clone(),
            info: way(self.server, &self.name, user),
            options: self.options.clone(),
        }
    }

    /// Returns another database of the same server, which has to be there.
    pub(crate) fn beside(&self, name: &str) -> Self {
        Self {
            server: self.server,
            name: name.to_owned(),
            info: way(self.server, name, &self.info.user),
            options: self.options.clone(),
        }
    }

    pub(crate) fn sql(&self, sql: &str) -> String {
        self.server.sql(&self.name, sql)
    }

    pub(crate) fn open(&self) -> Connection {
        Connection::open(&self.info, &self.options).unwrap()
    }

    pub(crate) fn hold(&self) -> (Holder, Catalog) {
        let mut holder = Holder::begin(self.open()).unwrap();
        let catalog = Catalog::read(holder.connection()).unwrap();
        (holder, catalog)
    }
}

fn way(server: &Server, database: &str, user: &str) -> ConnInfo {
    let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
    let (folder, port) = (server.socket_folder().display(), server.port());
    let text = format!("host={folder} port={port} user='{user}' dbname='{database}'");
    ConnInfo::resolve(&text, &surroundings).unwrap()
}

/// Keeps all rows in memory, by table and part.
#[derive(Default)]
pub(crate) struct Kept(Mutex<BTreeMap<(String, usize), Vec<u8>>>);

struct KeptPart<'a> {
    kept: &'a Kept,
    place: (String, usize),
    bytes: Vec<u8>,
}

impl Receiver for Kept {
    fn open(&self, part: &Part, table: &Table) -> Result<Box<dyn PartReceiver + '_>, BoxError> {
        let place = (table.name.name.clone(), part.number);
        Ok(Box::new(KeptPart { kept: self, place, bytes: Vec::new() }))
    }
}

impl PartReceiver for KeptPart<'_> {
    fn take(&mut self, bytes: &[u8], _: &[RowEnd]) -> Result<(), BoxError> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn finish(self: Box<Self>, _: RowSum) -> Result<(), BoxError> {
        self.kept.0.lock().unwrap().insert(self.place, self.bytes);
        Ok(())
    }
}

impl Kept {
    pub(crate) fn table(&self, name: &str) -> String {
        let kept = self.0.lock().unwrap();
        let parts = kept.iter().filter(|((table, _), _)| table == name);
        parts.map(|(_, bytes)| String::from_utf8(bytes.clone()).unwrap()).collect()
    }

    /// Returns in how many parts a table came.
    pub(crate) fn parts(&self, name: &str) -> usize {
        self.0.lock().unwrap().keys().filter(|(table, _)| table == name).count()
    }
}

/// A pooler before a server, ended with the value.
pub(crate) struct Bouncer {
    shell: Ended,
    pub(crate) port: u16,
}

impl Bouncer {
    /// Starts one; none where it is not installed.
    pub(crate) fn start(server: &Server, mode: &str) -> Option<Self> {
        Command::new("pgbouncer").arg("--version").output().ok()?;
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let file = server.socket_folder().join(format!("{mode}.ini"));
        let text = format!(
            "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = {mode}\nignore_startup_parameters = extra_float_digits,options\n",
            server.socket_folder().display(),
            server.port()
        );
        // With `auth_type = any` everybody is one user, who is named for the database.
        std::fs::write(&file, text.replacen("port=", "user=postgres port=", 1)).unwrap();
        let shell = Ended::with_input(r#"exec pgbouncer -q "$0""#, &[file.as_os_str()])?;
        let mut bouncer = Self { shell, port };
        let until = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > until || bouncer.shell.0.try_wait().is_ok_and(|ended| ended.is_some()) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(bouncer)
    }
}

/// Makes a standby of a server, which has to let everybody in for that. Returns it with the way to one of its databases.
pub(crate) fn standby(server: &Server, database: &str) -> (Ended, ConnInfo) {
    let (folder, port) = (server.socket_folder(), server.port().to_string());
    let script = r#"
        "$0/pg_basebackup" -h "$1" -p "$2" -U postgres -D "$1/standby" -X stream -R -c fast &&
        exec "$0/postgres" -D "$1/standby" -c listen_addresses= -c unix_socket_directories="$1/standby""#;
    let bin = server.programs().program("");
    let standby = Ended::with_input(script, &[bin.as_os_str(), folder.as_os_str(), port.as_ref()]).unwrap();
    let way =
        format!("host={} port={port} user=postgres dbname={database}", folder.join("standby").display());
    let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
    let info = ConnInfo::resolve(&way, &surroundings).unwrap();
    let until = Instant::now() + Duration::from_secs(60);
    while Connection::open(&info, &Options::default()).is_err() {
        assert!(Instant::now() < until, "the standby does not start");
        std::thread::sleep(Duration::from_millis(50));
    }
    (standby, info)
}

/// A program that ends with the value, also where this process was killed: a shell ends it with its own input.
pub(crate) struct Ended(Child);

impl Ended {
    /// Starts a script of the shell, by a user who may run servers.
    pub(crate) fn with_input(script: &str, arguments: &[&std::ffi::OsStr]) -> Option<Self> {
        let script = format!("({script}) & program=$!; read -r _; kill -INT $program; wait $program");
        let mut command = Command::new(if is_root() { "runuser" } else { "sh" });
        if is_root() {
            command.args(["-u", "postgres", "--", "sh"]);
        }
        let command = command.args(["-c", &script]).args(arguments).current_dir("/");
        let shell = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        shell.ok().map(Self)
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Servers and poolers do not run as root.
fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n")
}
