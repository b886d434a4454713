//! A pooler (pgbouncer) before a throw-away server.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::postgres::Server;

/// How long a pooler may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running pooler, which ends with the value, also where this process was killed: a shell ends it with its own input.
#[derive(Debug)]
pub struct Pooler {
    shell: Child,
    port: u16,
}

impl Pooler {
    /// Starts one in a mode (`session`, `transaction`) for some users with their passwords; `None` where it is not
    /// installed.
    ///
    /// # Panics
    /// When it is there and does not start.
    pub fn start(server: &Server, mode: &str, users: &[(&str, &str)]) -> Option<Self> {
        Self::start_at(("127.0.0.1", 0), server, mode, users)
    }

    /// Starts one as [`Self::start`] does, at an address of this machine. Port 0 is any that is free.
    ///
    /// # Panics
    /// When it is there and does not start.
    pub fn start_at(
        address: (&str, u16),
        server: &Server,
        mode: &str,
        users: &[(&str, &str)],
    ) -> Option<Self> {
        Command::new("pgbouncer").arg("--version").output().ok()?;
        Some(Self::try_start(address, server, mode, users).expect("the pooler starts"))
    }

    fn try_start(
        (host, port): (&str, u16),
        server: &Server,
        mode: &str,
        users: &[(&str, &str)],
    ) -> io::Result<Self> {
        let port = TcpListener::bind((host, port))?.local_addr()?.port();
        let file = |ending: &str| server.socket_folder().join(format!("pooler-{mode}.{ending}"));
        let known: String =
            users.iter().map(|(user, password)| format!("\"{user}\" \"{password}\"\n")).collect();
        fs::write(file("users"), known)?;
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = {host}\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\npool_mode = {mode}\n\
             ignore_startup_parameters = extra_float_digits,options\n",
            server.port(),
            file("users").display()
        );
        fs::write(file("ini"), text)?;
        let mut pooler = Self { shell: shell(&file("ini"))?, port };
        let until = Instant::now() + PATIENCE;
        while TcpStream::connect((host, port)).is_err() {
            if Instant::now() > until || pooler.shell.try_wait()?.is_some() {
                return Err(io::Error::other("nobody listens"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(pooler)
    }

    /// Returns the port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        let _ = self.shell.wait();
    }
}

/// Runs a pooler by a user who may: not root.
fn shell(file: &Path) -> io::Result<Child> {
    let script = r#"(exec pgbouncer -q "$0") & program=$!; read -r _; kill -INT $program; wait $program"#;
    let is_root = nix::unistd::geteuid().is_root();
    let mut command = Command::new(if is_root { "runuser" } else { "sh" });
    if is_root {
        command.args(["-u", "postgres", "--", "sh"]);
    }
    let command = command.args(["-c", script]).arg(file).current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}
