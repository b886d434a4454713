//! Databases to capture, processes that use them, and the bytes that must come out.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use dbkeep_sqlite::capture::{Capture, CaptureOptions};
use rusqlite::Connection;
use rusqlite::fallible_iterator::FallibleIterator;

const ROLE: &str = "DBKEEP_SQLITE_TEST_ROLE";
const PATH: &str = "DBKEEP_SQLITE_TEST_PATH";

/// Another process. It says `ready`, then obeys lines on its standard input.
pub(crate) struct Other {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Other {
    /// Starts `role` on the database at `path` and waits until it is ready.
    pub(crate) fn start(role: &str, path: &Path) -> Self {
        let mut child = command(role, path).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut other = Other { child, input, output };
        other.wait_for("ready");
        other
    }

    /// Sends a line and waits for the answer that begins with `answer: `.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        writeln!(self.input.as_mut().unwrap(), "{}", line.replace('\n', " ")).unwrap();
        self.wait_for("answer: ")
    }

    fn wait_for(&mut self, start: &str) -> String {
        loop {
            let mut line = String::new();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "the other process ended");
            // The test harness may print on the same line.
            if let Some(at) = line.find(start) {
                return line[at + start.len()..].trim().to_string();
            }
        }
    }

    /// Ends its input, upon which it closes the database and exits.
    pub(crate) fn end(mut self) {
        self.input = None;
        assert!(self.child.wait().unwrap().success());
    }

    /// Stops it wherever it is, until it may go on.
    pub(crate) fn hold_up(&self) {
        self.signal("-STOP");
        let stat = format!("/proc/{}/stat", self.child.id());
        // The signal arrives when it arrives.
        while !std::fs::read_to_string(&stat).unwrap().contains(") T ") {}
    }

    pub(crate) fn go_on(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }

    /// Kills it without any chance to clean up.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The command that starts this test binary in a role.
pub(crate) fn command(role: &str, path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "role_of_a_started_process", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(PATH, path);
    command
}

/// Runs the role this process was started for, if it was.
pub(crate) fn play_role() {
    let (Ok(role), Ok(path)) = (std::env::var(ROLE), std::env::var(PATH)) else { return };
    match role.as_str() {
        "sql" => obey(&path),
        "churn" => super::churn::churn(&path),
        "trace" => super::locks::everything(&path),
        "transfer" => super::together::transfer(&path),
        "count" => super::speed::count(&path),
        "report" => super::situations::report_as_other_user(&path, false),
        "report together" => super::situations::report_as_other_user(&path, true),
        other => panic!("unknown role {other}"),
    }
}

/// Runs each line as SQL and answers `ok` with the first value, or the error.
fn obey(path: &str) {
    let connection = Connection::open(path).unwrap();
    connection.busy_timeout(Duration::ZERO).unwrap();
    println!("ready");
    for line in std::io::stdin().lines() {
        println!("answer: {}", run(&connection, &line.unwrap()));
    }
}

fn run(connection: &Connection, sql: &str) -> String {
    let all = || -> rusqlite::Result<String> {
        let mut value = String::from("ok");
        let mut batch = rusqlite::Batch::new(connection, sql);
        while let Some(mut statement) = batch.next()? {
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                value = format!("{:?}", row.get_ref(0)?);
            }
        }
        Ok(value)
    };
    all().unwrap_or_else(|error| format!("error {error}"))
}

/// A folder and the canonical path of a database that is to lie in it.
pub(crate) fn place(name: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join(name);
    (folder, path)
}

/// Makes a database by SQL in this process and closes it.
pub(crate) fn make(path: &Path, sql: &str) {
    let connection = Connection::open(path).unwrap();
    connection.execute_batch(sql).unwrap();
}

/// SQL for a table of `rows` rows of about a kibibyte.
pub(crate) fn fill(rows: u32) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS t(id INTEGER PRIMARY KEY, v, b);
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < {rows})
         INSERT INTO t(v, b) SELECT i, randomblob(1000) FROM n;"
    )
}

/// Reads a capture to its end in buffers of an odd size, settling where needed.
pub(crate) fn read_all(capture: &mut Capture) -> Vec<u8> {
    read_in(capture, 100_000)
}

pub(crate) fn read_in(capture: &mut Capture, step: usize) -> Vec<u8> {
    const CHUNK: u32 = 64 << 10;
    let mut image = Vec::new();
    let mut buffer = vec![0xaa; step];
    loop {
        let count = capture.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        image.extend_from_slice(&buffer[..count]);
    }
    if capture.needs_settling() {
        let size = capture
            .settle(CHUNK, &mut |index, bytes| {
                let at = index as usize * CHUNK as usize;
                if image.len() < at + bytes.len() {
                    image.resize(at + bytes.len(), 0);
                }
                image[at..at + bytes.len()].copy_from_slice(bytes);
                Ok(())
            })
            .unwrap();
        image.truncate(size as usize);
        assert_eq!(capture.size(), size);
    }
    image
}

/// What SQLite itself says the pages are, on a connection with an open transaction.
pub(crate) fn dbpage(connection: &Connection) -> Vec<u8> {
    let mut statement = connection.prepare("SELECT data FROM sqlite_dbpage('main') ORDER BY pgno").unwrap();
    let mut rows = statement.query([]).unwrap();
    let mut image = Vec::new();
    while let Some(row) = rows.next().unwrap() {
        image.extend_from_slice(row.get_ref(0).unwrap().as_blob().unwrap());
    }
    image
}

/// Opens an image and returns its integrity.
pub(crate) fn integrity(image: &[u8]) -> String {
    let connection = open(image);
    connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap()
}

/// Opens an image as a database.
pub(crate) fn open(image: &[u8]) -> Connection {
    dbkeep_sqlite::vfs::open_image(std::sync::Arc::new(image.to_vec())).unwrap()
}

pub(crate) fn capture(path: &Path) -> Capture {
    Capture::open(path, &CaptureOptions::default()).unwrap()
}

/// The names of the files beside `path`, sorted.
pub(crate) fn beside(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path.parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Compares without printing megabytes.
#[track_caller]
pub(crate) fn assert_same(left: &[u8], right: &[u8]) {
    if left != right {
        let at = left.iter().zip(right).position(|(a, b)| a != b);
        panic!("images differ: {} and {} bytes, first difference at {at:?}", left.len(), right.len());
    }
}
