//! What can be wrong with a database, a user, a server or its programs: one clear sentence, what to do, the exit code,
//! nothing stored, and no password anywhere.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dbkeep_testkit::postgres::{Server, Settings};
use serde_json::Value;

use super::{Shop, executable};

/// What the tests look for wherever it must not be.
const SECRET: &str = "hunter2secret";

/// Makes a shop with users who may not do everything.
fn shop() -> Option<Shop> {
    let access = ["modest", "blind"].map(|user| format!("host all {user} 127.0.0.1/32 scram-sha-256"));
    let shop = Shop::with(&Settings { access: access.to_vec(), ..Settings::default() })?;
    shop.server.sql(
        "shop",
        &format!(
            "CREATE ROLE modest LOGIN PASSWORD '{SECRET}'; CREATE ROLE blind LOGIN PASSWORD '{SECRET}';
             GRANT USAGE ON SCHEMA audit TO modest, blind;
             GRANT SELECT ON ALL TABLES IN SCHEMA public, audit TO modest, blind;
             GRANT SELECT ON ALL SEQUENCES IN SCHEMA public TO modest, blind;
             REVOKE SELECT ON orders FROM modest;
             ALTER TABLE users ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON users USING (name = current_user);
             ALTER ROLE modest BYPASSRLS"
        ),
    );
    Some(shop)
}

fn address(server: &Server, user: &str, password: &str, database: &str) -> String {
    format!("postgresql://{user}:{password}@127.0.0.1:{}/{database}", server.port())
}

/// Looks for the password in everything that was written, and in names.
fn expect_no_secret(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        assert!(!path.display().to_string().contains(SECRET), "{}", path.display());
        if path.is_dir() {
            expect_no_secret(&path);
        } else if path.file_name().is_none_or(|name| name != ".env") {
            let found = fs::read(&path).unwrap();
            let there = found.windows(SECRET.len()).any(|bytes| bytes == SECRET.as_bytes());
            assert!(!there, "the password is in {}", path.display());
        }
    }
}

#[test]
fn what_cannot_be_backed_up_is_said_in_one_sentence_and_nothing_is_stored() {
    let Some(shop) = shop() else { return };
    let server = &shop.server;
    let port = server.port();
    let cases = [
        (
            address(server, "modest", &format!("{SECRET}x"), "shop"),
            "login",
            "password authentication failed",
            "~/.pgpass",
        ),
        (
            format!("postgresql://u:{SECRET}@127.0.0.1:1/shop"),
            "unreachable",
            "could not connect to 127.0.0.1:1",
            "running",
        ),
        (
            format!("postgresql://u:{SECRET}@nowhere.invalid/shop"),
            "unreachable",
            "could not connect to nowhere.invalid:5432",
            "name of the host",
        ),
        (address(server, "blind", SECRET, "absent"), "missing", "\"absent\" does not exist", "psql -l"),
        (address(server, "modest", SECRET, "shop"), "permission", "\"public\".\"orders\"", "GRANT SELECT"),
        (address(server, "blind", SECRET, "shop"), "permission", "\"public\".\"users\"", "BYPASSRLS"),
        (
            format!("postgresql://u:{SECRET}@127.0.0.1:{port}/shop?sslmode=sometimes"),
            "connection-string",
            "sslmode",
            "",
        ),
        (format!("postgresql://u:{SECRET}@127.0.0.1:port/shop"), "connection-string", "port", ""),
    ];
    let environment = &shop.environment;
    fs::write(environment.path("dbkeep.toml"), "[log]\nfile = \"dbkeep.log\"\nlevel = \"trace\"\n").unwrap();
    for (url, kind, message, hint) in cases {
        let (code, document) = environment.json(&["backup", &url]);
        let error = &document["error"];
        let exit = if kind == "connection-string" { 2 } else { 1 };
        assert_eq!((code, error["kind"].as_str()), (Some(exit), Some(kind)), "{url}: {document:#}");
        assert!(error["message"].as_str().unwrap().contains(message), "{url}: {error}");
        assert!(error["hint"].as_str().unwrap_or_default().contains(hint), "{url}: {error}");
        assert!(!document.to_string().contains(SECRET), "{document:#}");
        let run = environment.run(["-vvv", "backup", &url]);
        run.expect(exit);
        let lines: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(lines.len() == 1 && lines[0].contains(message), "{url}: {}", run.stderr);
        for text in [&run.stdout, &run.stderr] {
            assert!(!text.contains(SECRET) && !text.contains("panicked"), "{url}: {text}");
        }
        assert_eq!(shop.snapshots(), 0, "{url}");
    }
    // From here on it succeeds, so that it is stored: with the password in `.env`, and in the address.
    server.sql("shop", "GRANT SELECT ON orders TO modest");
    fs::write(environment.path(".env"), format!("URL={}\n", address(server, "modest", SECRET, "shop")))
        .unwrap();
    let warned = environment.ok(["-vvv", "backup", &address(server, "modest", SECRET, "shop")]);
    assert!(warned.stderr.contains("env:"), "a password on a command line is warned of: {}", warned.stderr);
    environment.ok(["-vvv", "backup", "env:URL"]);
    for line in [&["list"][..], &["show", "latest"], &["verify"], &["status"], &["doctor", "env:URL"]] {
        let run = environment.run(std::iter::once("--json").chain(line.iter().copied()));
        assert!(!format!("{}{}{}", warned.stdout, run.stdout, run.stderr).contains(SECRET), "{line:?}");
    }
    assert_eq!(shop.snapshots(), 2);
    let restored = environment.ok(["restore", "latest", "--to", "x", "--dry-run"]);
    assert!(!restored.stdout.contains(SECRET));
    expect_no_secret(environment.path("..").as_path());
}

#[test]
fn name_in_another_encoding_is_told_with_what_mends_it() {
    let Some(shop) = Shop::open() else { return };
    let server = &shop.server;
    server.sql("postgres", "CREATE DATABASE older ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'");
    server.sql("older", "CREATE ROLE U&\"m\\00fcller\"");
    let what = "the server has a name, a comment or a setting that is not UTF-8";
    shop.environment.run(["backup", &shop.url()]).expect_failure(
        1,
        what,
        "rename it, or write it anew, from that database",
    );
    // What was found beside it is told as well.
    let (code, examined) = shop.environment.json(&["doctor", &shop.url()]);
    let findings = examined["sources"][0]["findings"].as_array().unwrap();
    let found = |subject: &str, said: &str| {
        findings
            .iter()
            .any(|one| one["subject"] == subject && one["message"].as_str().unwrap().contains(said))
    };
    let told = findings.iter().filter(|one| one["message"].as_str().unwrap().contains(what)).count();
    assert_eq!((code, told), (Some(4), 1), "{examined:#}");
    assert!(found("globals", what) && found("size", ""), "{examined:#}");
    // Where something in the database is theirs, pg_dump writes the name first.
    let number = server.sql("older", "SELECT oid FROM pg_roles WHERE rolname ~ '^m.ller$'");
    server.sql("shop", &format!("SET allow_system_table_mods = on; UPDATE pg_class SET relowner = {number} WHERE relname = 'users'"));
    shop.environment.run(["backup", &shop.url()]).expect_failure(
        1,
        what,
        "rename it, or write it anew, from that database",
    );
    assert_eq!(shop.snapshots(), 0);
    server.sql("older", "ALTER ROLE U&\"m\\00fcller\" RENAME TO mueller; ALTER ROLE mueller SET application_name = U&'\\00fc'");
    let (code, examined) = shop.environment.json(&["doctor", &shop.url()]);
    assert!(code == Some(4) && examined.to_string().contains(what), "{examined:#}");
    server.sql("older", "ALTER ROLE mueller RESET ALL");
    shop.environment.ok(["backup", &shop.url()]);
}

#[test]
fn programs_that_are_missing_or_too_old_are_named_with_the_package_to_install() {
    let Some(shop) = Shop::open() else { return };
    let major = shop.server.programs().major;
    let folder = shop.with_programs_of_its_own(&shop.url());
    let program = folder.join("pg_dump");
    executable(&program, "echo 'pg_dump (PostgreSQL) 11.3'");
    let run = shop.environment.run(["backup"]);
    let message = format!("no pg_dump for PostgreSQL {major} was found: the newest here is 11");
    run.expect_failure(1, &message, &format!("postgresql-client-{major}"));
    fs::remove_file(&program).unwrap();
    let run = shop.environment.run(["backup"]);
    run.expect_failure(1, &format!("no pg_dump for PostgreSQL {major} was found"), "pg-bin-dir");
    // Alone it would be found out only after all rows were read.
    pass_on(&shop, &folder, "pg_dump", None);
    let (code, document) = shop.environment.json(&["backup"]);
    assert_eq!((code, document["error"]["kind"].as_str()), (Some(1), Some("no-tools")), "{document:#}");
    let run = shop.environment.run(["--progress=json", "backup"]);
    let events: Vec<Value> = run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let message = format!("no pg_restore for PostgreSQL {major} was found");
    let error = events.iter().find(|event| event["event"] == "error").unwrap();
    assert!(error["message"].as_str().unwrap().ends_with(&message), "{error}");
    assert!(error["hint"].as_str().unwrap().contains(&format!("postgresql-client-{major}")), "{error}");
    let is_read = |event: &Value| event["phase"].as_str().is_some_and(|phase| phase.starts_with("backup"));
    assert!(!events.iter().any(is_read), "nothing is read before that: {events:?}");
    assert_eq!(shop.snapshots(), 0);
}

/// Makes a program that the real one does the work of, and that says it is of a version where one is given.
fn pass_on(shop: &Shop, folder: &Path, name: &str, version: Option<&str>) {
    let real = shop.server.programs().program(name);
    let says = version.map(|version| {
        format!("if [ \"$1\" = --version ]; then echo '{name} (PostgreSQL) {version}'; exit; fi\n")
    });
    let script = format!("{}exec '{}' \"$@\"", says.unwrap_or_default(), real.display());
    executable(&folder.join(name), &script);
}

#[test]
fn what_programs_wrote_that_is_no_archive_or_lost_without_a_word_is_noticed() {
    let Some(shop) = Shop::open() else { return };
    let folder = shop.with_programs_of_its_own(&shop.url());
    for forgetful in ["pg_dump", "pg_restore"] {
        for name in ["pg_dump", "pg_restore"] {
            pass_on(&shop, &folder, name, None);
        }
        let real = shop.server.programs().program(forgetful).display().to_string();
        let script = format!("[ \"$1\" = --version ] && exec {real} \"$@\"\n{real} \"$@\" | head -c 1500");
        executable(&folder.join(forgetful), &script);
        let run = shop.environment.run(["backup"]);
        run.expect_failure(
            1,
            &format!("{forgetful} ended as if all was well, but what it wrote is cut off"),
            "TMPDIR",
        );
    }
    pass_on(&shop, &folder, "pg_restore", None);
    let real = shop.server.programs().program("pg_dump").display().to_string();
    executable(
        &folder.join("pg_dump"),
        &format!("[ \"$1\" = --version ] || echo Welcome\nexec {real} \"$@\""),
    );
    let what = "pg_dump ended as if all was well, but what it wrote is no archive";
    shop.environment.run(["backup"]).expect_failure(1, what, "pg-bin-dir");
    assert_eq!(shop.snapshots(), 0);
}

#[test]
fn programs_that_lack_a_security_fix_are_warned_of_once_and_used() {
    let Some(shop) = Shop::open() else { return };
    let major = shop.server.programs().major;
    let folder = shop.with_programs_of_its_own(&shop.url());
    let warnings = |version: &str| {
        for name in ["pg_dump", "pg_restore"] {
            pass_on(&shop, &folder, name, Some(version));
        }
        let run = shop.environment.ok(["backup"]);
        let about = |line: &&str| line.starts_with("warning: ") && line.contains("security fix");
        run.stderr.lines().filter(about).map(str::to_owned).collect::<Vec<_>>()
    };
    let told = warnings(&format!("{major}.0"));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with(&format!("warning: shop: pg_dump {major}.0 ")), "{told:?}");
    assert!(
        told[0].contains("CVE-2026-116314") && told[0].contains(&format!("install {major}.")),
        "{told:?}"
    );
    assert_eq!(warnings(&format!("{major}.99")), [""; 0]);
    assert_eq!(shop.snapshots(), 2);
}

/// A session that holds a table until it goes.
struct Holder(Child);

impl Holder {
    fn of(server: &Server, table: &str) -> Self {
        let mut command = Command::new(server.programs().program("psql"));
        command.arg("-X").arg("-h").arg(server.socket_folder()).args(["-p", &server.port().to_string()]);
        let sql = format!("BEGIN; LOCK TABLE {table}; SELECT pg_sleep(300)");
        command.args(["-U", "postgres", "-c", &sql, "shop"]).stdout(Stdio::null()).stderr(Stdio::null());
        let holder = Self(command.stdin(Stdio::null()).spawn().unwrap());
        let locked = format!(
            "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND granted AND relation = '{table}'::regclass"
        );
        let until = Instant::now() + Duration::from_secs(60);
        while server.sql("shop", &locked) == "0" {
            assert!(Instant::now() < until, "the table is never locked");
            thread::sleep(Duration::from_millis(20));
        }
        holder
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn backup_waits_for_a_locked_table_no_longer_than_it_may() {
    let Some(shop) = Shop::open() else { return };
    let _holder = Holder::of(&shop.server, "orders");
    // In a moment nobody finds out which one it is.
    let times = [
        ("3s", "public.orders is locked by ", "for more than 3 s"),
        ("0.0001s", "", "for more than 0.001 s"),
    ];
    for (time, table, told) in times {
        let text = format!("[databases.shop]\npostgres = \"{}\"\nlock-timeout = \"{time}\"\n", shop.url());
        fs::write(shop.environment.path("dbkeep.toml"), text).unwrap();
        let (code, document) = shop.environment.json(&["backup"]);
        assert_eq!((code, document["error"]["kind"].as_str()), (Some(1), Some("busy")), "{document:#}");
        let message = document["error"]["message"].as_str().unwrap();
        assert!(message.contains(table) && message.contains(told), "{message}");
        shop.environment.run(["backup"]).expect_failure(1, "is locked by", "when that transaction is over");
    }
    assert_eq!(shop.snapshots(), 0);
    fs::write(
        shop.environment.path("dbkeep.toml"),
        "[databases.shop]\npostgres = \"env:URL\"\nlock-timeout = \"1mo\"\n",
    )
    .unwrap();
    shop.environment.run(["config", "check"]).expect_failure(
        2,
        "`databases.shop.lock-timeout` has no fixed length",
        "10s",
    );
}

#[test]
fn backup_that_takes_longer_than_it_may_is_ended() {
    let Some(shop) = Shop::open() else { return };
    let holder = Holder::of(&shop.server, "orders");
    let text = format!("[databases.shop]\npostgres = \"{}\"\ntimeout = \"1s\"\n", shop.url());
    fs::write(shop.environment.path("dbkeep.toml"), text).unwrap();
    let (code, document) = shop.environment.json(&["backup"]);
    assert_eq!((code, document["error"]["kind"].as_str()), (Some(1), Some("timed-out")), "{document:#}");
    shop.environment.run(["backup"]).expect_failure(1, "the 1 s of its `timeout`", "raise `timeout`");
    assert_eq!(shop.snapshots(), 0);
    drop(holder);
    shop.server.sql("shop", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(300)%' AND pid <> pg_backend_pid()");
    let text = format!("[databases.shop]\npostgres = \"{}\"\ntimeout = \"10m\"\n", shop.url());
    fs::write(shop.environment.path("dbkeep.toml"), text).unwrap();
    shop.environment.ok(["backup"]);
}
