//! Runs every command of the user guide, as printed, in the order of each page.
//!
//! A fenced block marked `sh` is run line by line by a shell, in a folder that holds what the page speaks of: a
//! database `app.db`, a folder `data/` with two more, the built `dbkeep` on the PATH, and a home of its own. One that is
//! marked `toml` is written into `dbkeep.toml` there, in the place of what was in it, one marked `bash` into `backup.sh`.
//! A line that calls `restic` or `sqlite3` is left out, and said so, where that program is not installed.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "a test says what it left out")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dbkeep_testkit::postgres::{Programs, SKIPPED, SUPERUSER, Server, Settings};
use rusqlite::Connection;

/// The world that a page of the guide is run in.
struct Reader {
    folder: tempfile::TempDir,
    /// For pages about PostgreSQL: a database `shop`, named by `.env`, and stock tools that find it.
    server: Option<Server>,
}

impl Reader {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["bin", "home", "work/data"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dbkeep"), folder.path().join("bin/dbkeep")).unwrap();
        let reader = Self { folder, server: None };
        reader.make_database("app.db", 1);
        reader.make_database("data/orders.db", 2);
        reader.make_database("data/stock", 3);
        reader
    }

    /// With a server; `None` when PostgreSQL is not installed.
    fn with_server() -> Option<Self> {
        let Some(programs) = Programs::newest_with_tls() else {
            println!("{SKIPPED}");
            return None;
        };
        let server = Server::start(&programs, &Settings::default());
        server.create_database("shop");
        server.sql(
            "shop",
            "CREATE TABLE users (id serial PRIMARY KEY, name text);
             INSERT INTO users (name) SELECT 'user ' || n FROM generate_series(1, 100) AS n;
             CREATE TABLE orders (id serial PRIMARY KEY, user_id int REFERENCES users, total numeric(10,2));
             INSERT INTO orders (user_id, total) SELECT n, n * 1.5 FROM generate_series(1, 100) AS n;
             CREATE TABLE sessions (token text)",
        );
        let reader = Self { server: Some(server), ..Self::new() };
        let variables = format!("DATABASE_URL={}\n", reader.server.as_ref().unwrap().url("shop"));
        fs::write(reader.work().join(".env"), variables).unwrap();
        Some(reader)
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    fn make_database(&self, name: &str, rows: u32) {
        let connection = Connection::open(self.work().join(name)).unwrap();
        connection.execute_batch("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)").unwrap();
        for row in 0..rows {
            connection.execute("INSERT INTO users (name) VALUES (?1)", [format!("user {row}")]).unwrap();
        }
    }

    /// Runs one command as a reader would type it.
    fn run_at(&self, line: &str, now: Option<&str>) -> Output {
        let path = format!("{}:{}", self.folder.path().join("bin").display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        command.args(["-c", line]).current_dir(self.work()).env_clear().env("PATH", path);
        command.env("HOME", self.folder.path().join("home"));
        if let Some(server) = &self.server {
            command.env("PGHOST", server.socket_folder()).env("PGPORT", server.port().to_string());
            command.env("PGUSER", SUPERUSER);
        }
        if let Some(now) = now {
            command.env("DBKEEP_TEST_NOW", now);
        }
        command.output().unwrap()
    }

    fn run(&self, line: &str) {
        let output = self.run_at(line, None);
        assert!(
            output.status.success(),
            "{line}\nended with {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Runs every `sh` line of a page.
    fn follow(&self, page: &str) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide").join(page);
        let steps = steps(&fs::read_to_string(path).unwrap());
        assert!(steps.iter().any(|step| matches!(step, Step::Run(_))), "{page} has no command");
        for step in steps {
            match step {
                Step::Configure(text) => fs::write(self.work().join("dbkeep.toml"), text).unwrap(),
                Step::Script(text) => fs::write(self.work().join("backup.sh"), text).unwrap(),
                Step::Run(line) => match missing_program(&line) {
                    Some(program) => println!("skipped, {program} is not installed: {line}"),
                    None => self.run(&line),
                },
            }
        }
    }
}

/// What a page tells a reader to do.
#[derive(Debug, PartialEq)]
enum Step {
    /// Type this.
    Run(String),
    /// Have this in `dbkeep.toml`.
    Configure(String),
    /// Have this in `backup.sh`.
    Script(String),
}

/// Returns the commands of all blocks marked `sh`, without comments, and the blocks marked `toml` and `bash`.
fn steps(page: &str) -> Vec<Step> {
    let mut block = None;
    let mut steps = Vec::new();
    for line in page.lines() {
        if line.starts_with("```") {
            block = if block.is_none() { Some(line.trim()) } else { None };
            match block {
                Some("```toml") => steps.push(Step::Configure(String::new())),
                Some("```bash") => steps.push(Step::Script(String::new())),
                _ => {}
            }
            continue;
        }
        match (block, steps.last_mut()) {
            (Some("```sh"), Some(Step::Run(command))) if command.ends_with("&&") => {
                command.push(' ');
                command.push_str(line.trim_end());
            }
            (Some("```sh"), _) if !line.trim().is_empty() => {
                steps.push(Step::Run(line.split(" # ").next().unwrap_or(line).trim_end().to_owned()));
            }
            (Some("```toml"), Some(Step::Configure(text))) | (Some("```bash"), Some(Step::Script(text))) => {
                text.push_str(line);
                text.push('\n');
            }
            _ => {}
        }
    }
    steps
}

/// Returns the stock program that `line` calls first and that is not here.
fn missing_program(line: &str) -> Option<&str> {
    let program = line.split_whitespace().next().filter(|word| !word.contains('='))?;
    let is_ours = program == "dbkeep";
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    (!is_ours && !found.status.success()).then_some(program)
}

#[test]
fn quick_start_works_as_printed() {
    Reader::new().follow("quick-start.md");
}

#[test]
fn restore_runbook_works_as_printed() {
    let reader = Reader::new();
    let long_ago = "2026-01-02T03:04:05Z";
    assert!(reader.run_at("dbkeep backup app.db --new-key", Some(long_ago)).status.success());
    reader.run("sqlite3 app.db \"insert into users (name) values ('later')\" || true");
    reader.run("dbkeep backup app.db");
    reader.run("cp \"$HOME\"/.config/dbkeep/keys/* key.txt");
    reader.follow("restore.md");
}

#[test]
fn page_about_keeping_works_as_printed() {
    Reader::new().follow("keeping-and-copying.md");
}

#[test]
fn page_about_comparing_works_as_printed() {
    Reader::new().follow("compare.md");
}

#[test]
fn page_about_the_doctor_works_as_printed() {
    Reader::new().follow("doctor.md");
}

#[test]
fn page_about_exports_of_postgresql_works_as_printed() {
    let Some(reader) = Reader::with_server() else { return };
    if let Some(program) = missing_program("jq") {
        println!("left out: {program} is not installed");
        return;
    }
    reader.follow("export-postgresql.md");
    reader.run("test \"$(psql -Atd from_sql -c 'SELECT count(*), sum(total) FROM orders')\" = '100|7575.00'");
    reader.run("test \"$(psql -Atd from_sql -c 'SELECT count(*) FROM users')\" = 100");
}

#[test]
fn page_about_drills_works_as_printed() {
    Reader::new().follow("drill.md");
}

#[test]
fn page_about_workflows_works_as_printed() {
    Reader::new().follow("github-actions.md");
}

#[test]
fn page_about_migrations_works_as_printed() {
    Reader::new().follow("migrations.md");
}

#[test]
fn page_about_exports_works_as_printed() {
    Reader::new().follow("export.md");
}

#[test]
fn page_about_postgresql_works_as_printed() {
    let Some(reader) = Reader::with_server() else { return };
    reader.follow("postgresql.md");
    let server = reader.server.as_ref().unwrap();
    for database in ["shop", "shop_yesterday", "by_hand"] {
        let users = server.sql(database, "SELECT count(*), sum(length(name)) FROM users");
        assert_eq!(users, "100|692", "{database}");
        assert_eq!(server.sql(database, "SELECT sum(total) FROM orders"), "7575.00", "{database}");
    }
}

#[test]
fn page_about_managed_servers_works_as_printed() {
    let Some(reader) = Reader::with_server() else { return };
    reader.follow("supabase.md");
    let restored = reader.server.as_ref().unwrap().sql("elsewhere", "SELECT count(*) FROM users");
    assert_eq!(restored, "100");
}

#[test]
fn security_page_works_as_printed() {
    let reader = Reader::new();
    reader.run("dbkeep backup app.db --new-key");
    reader.run("echo 'a second password' > second.txt");
    reader.follow("security.md");
}

/// Returns the commands of the blocks marked `crontab`: what stands behind the five fields of the time.
fn cron_commands(page: &str) -> Vec<&str> {
    let blocks = page.split("```crontab\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).filter_map(|line| line.splitn(6, ' ').nth(5)).collect()
}

#[test]
fn page_about_schedulers_works_as_printed_with_what_cron_gives() {
    let reader = Reader::new();
    reader.follow("schedulers.md");
    let home = reader.folder.path().join("home");
    fs::create_dir(home.join("bin")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_dbkeep"), home.join("bin/dbkeep")).unwrap();
    let page =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/guide/schedulers.md")).unwrap();
    let commands = cron_commands(&page);
    assert_eq!(commands.len(), 2);
    for command in commands {
        // What cron would take for the end of the line.
        assert!(!command.contains('%'), "{command}");
        let command = command.replace("/home/you/project", &reader.work().display().to_string());
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", &command]).current_dir(&home).env_clear();
        shell.env("HOME", &home).env("LOGNAME", "you").env("SHELL", "/bin/sh").env("PATH", "/usr/bin:/bin");
        let output = shell.output().unwrap();
        let printed = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        // Whatever is printed is mailed.
        assert_eq!((output.status.code(), printed.as_ref()), (Some(0), ""), "{command}");
    }
    // Two databases: by hand, by the first line, by the second.
    let listed = reader.run_at("dbkeep list --json", None);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).unwrap();
    let reasons = listed["snapshots"].as_array().unwrap().iter().map(|one| &one["reason"]);
    assert_eq!(reasons.collect::<Vec<_>>(), ["schedule"; 6]);
    // And what is wrong is told.
    fs::remove_file(reader.work().join("app.db")).unwrap();
    let failed = reader.run_at("./backup.sh", None);
    assert_eq!(failed.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("app"), "{failed:?}");
}

#[test]
fn only_blocks_marked_as_shell_are_commands() {
    let page = "```sh\none # why\n\ntwo\n```\n```\nnot this\n```\ntext\n```toml\n[a]\n\nb = 1\n```\n```sh\nthree\n```\n```bash\nfour\n```\n";
    let run = |line: &str| Step::Run(line.to_owned());
    let toml = Step::Configure("[a]\n\nb = 1\n".to_owned());
    let expected = [run("one"), run("two"), toml, run("three"), Step::Script("four\n".to_owned())];
    assert_eq!(steps(page), expected);
}
