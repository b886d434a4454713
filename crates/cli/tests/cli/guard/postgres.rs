//! Guarded migrations of PostgreSQL databases by stock `psql`.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use dbkeep_testkit::postgres::Settings;
use serde_json::Value;

use crate::environment::Run;
use crate::postgres::Shop;

/// A shop whose environment leads `psql` to it, as `DATABASE_URL` and the variables of libpq do.
pub(crate) fn shop() -> Option<Shop> {
    shop_with(&Settings::default())
}

pub(crate) fn shop_with(settings: &Settings) -> Option<Shop> {
    let Shop { server, environment } = Shop::with(settings)?;
    let (folder, port) = (server.socket_folder().display().to_string(), server.port().to_string());
    let environment = environment
        .with("DATABASE_URL", &server.url("shop"))
        .with("PGHOST", &folder)
        .with("PGPORT", &port)
        .with("PGUSER", "postgres")
        .with("PGDATABASE", "shop");
    Some(Shop { server, environment })
}

/// Guards the shop while a shell runs a script.
fn guard(shop: &Shop, options: &[&str], script: &str) -> Run {
    let command = ["--", "sh", "-c", script];
    shop.environment.run([&["--json", "guard", "env:DATABASE_URL"][..], options, &command[..]].concat())
}

/// Writes a migration that `psql -f` runs.
fn migration(shop: &Shop, sql: &str) {
    std::fs::write(shop.environment.path("migration.sql"), sql).unwrap();
}

const PSQL: &str = "psql -qX -v ON_ERROR_STOP=1 -f migration.sql";

/// Expects the database of before, by what stock tools say.
#[track_caller]
fn expect(shop: &Shop, contents: &[String], schema: &str) {
    assert_eq!(shop.server.contents("shop"), contents);
    assert_eq!(shop.server.schema(shop.server.programs(), "shop"), schema);
}

fn state(shop: &Shop) -> (Vec<String>, String) {
    (shop.server.contents("shop"), shop.server.schema(shop.server.programs(), "shop"))
}

#[track_caller]
fn outcome(run: &Run) -> Value {
    run.document()["outcome"].clone()
}

#[test]
fn migration_that_works_is_kept_and_told() {
    let Some(shop) = shop() else { return };
    migration(&shop, "CREATE TABLE invoices (id int); DELETE FROM orders WHERE id <= 10;");
    let run = guard(&shop, &["--check", "SELECT count(*) = 19990 FROM orders"], PSQL);
    run.expect(0);
    let report = run.document();
    assert_eq!((&report["outcome"], &report["exit"]), (&"succeeded".into(), &0.into()), "{report:#}");
    assert_eq!(report["databases"][0]["alone"], true, "{report:#}");
    let table = |name: &str| {
        let tables = report["changes"][0]["tables"].as_array().unwrap();
        tables.iter().find(|table| table["name"].as_str().unwrap().ends_with(name)).cloned().unwrap()
    };
    assert_eq!(table("orders")["removed"], 10);
    assert_eq!(shop.server.sql("shop", "SELECT count(*) FROM invoices"), "0");
}

#[test]
fn migration_without_a_transaction_that_fails_half_way_is_undone() {
    let Some(shop) = shop() else { return };
    let (contents, schema) = state(&shop);
    migration(
        &shop,
        "ALTER TABLE users ADD COLUMN email text;
         UPDATE users SET name = upper(name);
         DROP TABLE orders;
         DROP SCHEMA audit CASCADE;
         SELECT nonsense;
         CREATE TABLE never (a int);",
    );
    let run = guard(&shop, &[], PSQL);
    run.expect(3);
    let report = run.document();
    assert_eq!(report["outcome"], "restored", "{report:#}\n{}", run.stderr);
    let one = &report["databases"][0];
    assert_eq!((&one["status"], &one["alone"]), (&"restored".into(), &true.into()), "{one:#}");
    let removed = report["changes"][0]["schema"]["removed"].as_array().unwrap();
    assert!(removed.iter().any(|change| change["name"].as_str().unwrap().contains("orders")), "{removed:?}");
    expect(&shop, &contents, &schema);
    // The failed state is a snapshot, which says so.
    let safety = shop.environment.ok_json(&["show", one["safety_snapshot"].as_str().unwrap()]);
    assert_eq!(safety["options"]["reason"], "pre-restore");
    assert_eq!(safety["rows"], 200, "{safety:#}");
}

#[test]
fn migration_in_one_transaction_leaves_nothing_to_be_undone() {
    let Some(shop) = shop() else { return };
    let (contents, schema) = state(&shop);
    migration(&shop, "BEGIN; DROP TABLE orders; SELECT nonsense; COMMIT;");
    let run = guard(&shop, &[], PSQL);
    run.expect(3);
    let report = run.document();
    assert_eq!(report["databases"][0]["status"], "unchanged", "{report:#}");
    assert_eq!(report["databases"][0]["safety_snapshot"], Value::Null);
    expect(&shop, &contents, &schema);
}

#[test]
fn migration_that_hangs_is_ended_on_the_server_too() {
    let Some(shop) = shop() else { return };
    let (contents, schema) = state(&shop);
    // What is committed before, and a lock that would be in everybody's way for a quarter of an hour.
    migration(
        &shop,
        "DELETE FROM orders; BEGIN; LOCK TABLE users IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(900);",
    );
    let run = guard(&shop, &["--timeout", "3"], PSQL);
    run.expect(124);
    assert_eq!(outcome(&run), "restored", "{}\n{}", run.stdout, run.stderr);
    expect(&shop, &contents, &schema);
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE query ~ 'pg_sleep' AND pid <> pg_backend_pid()";
    assert_eq!(shop.server.sql("postgres", sessions), "0");
}

#[test]
fn database_that_the_command_drops_comes_back() {
    let Some(shop) = shop() else { return };
    let (contents, schema) = state(&shop);
    for script in [
        "psql -qX -d postgres -c 'DROP DATABASE shop'; exit 1",
        "psql -qX -d postgres -c 'DROP DATABASE shop'; psql -qX -d postgres -c 'CREATE DATABASE shop'; exit 1",
        // It says that all went well.
        "psql -qX -d postgres -c 'DROP DATABASE shop'",
    ] {
        let run = guard(&shop, &[], script);
        run.expect(1);
        assert_eq!(outcome(&run), "restored", "{script}: {}\n{}", run.stdout, run.stderr);
        expect(&shop, &contents, &schema);
    }
}

/// A session of somebody else, who has nothing to do with the command: it commits a row, and stays for a while.
fn connect(shop: &Shop, seconds: f64) -> Child {
    let mut child = Command::new(shop.server.programs().program("psql"));
    child.args(["-qX", "-U", "postgres", "-h"]).arg(shop.server.socket_folder());
    let stay = format!("SELECT 'other', pg_sleep({seconds})");
    child.args([
        "-p",
        &shop.server.port().to_string(),
        "-c",
        "INSERT INTO theirs VALUES (1)",
        "-c",
        &stay,
        "shop",
    ]);
    child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn wait_for_session(shop: &Shop, marker: &str) {
    let sql =
        format!("SELECT count(*) FROM pg_stat_activity WHERE query ~ '{marker}' AND pid <> pg_backend_pid()");
    while shop.server.sql("postgres", &sql) == "0" {
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn sequence_that_was_put_back_goes_on_where_it_was() {
    let Some(shop) = shop() else { return };
    let value = || shop.server.sql("shop", "SELECT last_value FROM orders_id_seq");
    // A rollback takes neither back.
    migration(&shop, "BEGIN; SELECT setval('orders_id_seq', 1); SELECT nonsense;");
    let run = guard(&shop, &[], PSQL);
    run.expect(3);
    let report = run.document();
    assert_eq!(report["databases"][0]["status"], "restored", "{report:#}");
    let sequence = &report["changes"][0]["sequences"][0];
    assert_eq!(
        (&sequence["left"]["last_value"], &sequence["right"]["last_value"]),
        (&20000.into(), &1.into())
    );
    assert_eq!(value(), "20000");

    migration(&shop, "BEGIN; SELECT nextval('orders_id_seq'); SELECT nonsense;");
    let run = guard(&shop, &[], PSQL);
    run.expect(3);
    let report = run.document();
    assert_eq!(report["databases"][0]["status"], "unchanged", "a number that nobody has: {report:#}");
    assert!(run.stderr.contains("sequence public.orders_id_seq 20000 → 20001"), "{}", run.stderr);
    assert_eq!(value(), "20001");
}

#[test]
fn who_comes_while_the_way_back_is_prepared_is_not_rolled_back() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    let Some(shop) = shop() else { return };
    shop.server.sql("shop", "CREATE TABLE theirs (a int)");
    let go_on = shop.environment.path("go-on");
    let staged = "SELECT count(*) FROM pg_database WHERE datname ~ 'dbkeep_staging'";
    let script = "psql -qX -c 'DELETE FROM orders'; exit 1";
    let mut command =
        shop.environment.command(["--json", "guard", "env:DATABASE_URL", "--", "sh", "-c", script]);
    command.env("DBKEEP_TEST_WAIT_AT", format!("restore.staged:{}", go_on.display()));
    let run = thread::scope(|scope| {
        let run = scope.spawn(|| Run::of(command));
        while shop.server.sql("postgres", staged) == "0" {
            thread::sleep(Duration::from_millis(20));
        }
        // It comes and goes long before the new database could take the name, and too fast to be met.
        shop.server.sql("shop", "INSERT INTO theirs VALUES (1)");
        std::fs::write(&go_on, "").unwrap();
        run.join().unwrap()
    });
    run.expect(1);
    let report = run.document();
    assert_eq!(report["outcome"], "kept", "{report:#}");
    let doubts = report["databases"][0]["doubts"].to_string();
    assert!(
        doubts.contains("it was written after the command had ended") || doubts.contains("was connected"),
        "{doubts}"
    );
    assert_eq!(shop.server.sql("shop", "SELECT count(*) FROM theirs"), "1");
    assert_eq!(shop.server.sql("postgres", staged), "0", "nothing is left of it");
    assert_eq!(shop.environment.json(&["guard", "--resume"]).1["resumed"], serde_json::json!([]));
}

#[test]
fn guard_is_finished_after_a_kill_at_any_step() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    let Some(shop) = shop() else { return };
    let (contents, schema) = state(&shop);
    let script = "psql -qX -c 'DELETE FROM orders'; exit 1";
    for step in [
        "guard.taken-down",
        "restore.safety-backup",
        "restore.staged",
        "restore.promoted",
        "guard.restored-one",
    ] {
        let line = ["guard", "env:DATABASE_URL", "--", "sh", "-c", script];
        let status = shop.environment.command(line).env("DBKEEP_TEST_KILL_AT", step).output().unwrap().status;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{step} was not reached");
        let run = shop.environment.run(["--json", "guard", "--resume", "--on-failure", "restore"]);
        assert_eq!(run.code, Some(0), "{step}: {}", run.stderr);
        expect(&shop, &contents, &schema);
    }
}

#[test]
fn guard_is_not_finished_where_the_variable_leads_to_another_database() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    let Some(shop) = shop() else { return };
    shop.server.create_database("production");
    shop.server.sql("production", "CREATE TABLE precious AS SELECT 1 AS a");
    std::fs::write(
        shop.environment.path("dbkeep.toml"),
        "[databases.shop]\npostgres = \"env:DATABASE_URL\"\n",
    )
    .unwrap();
    let script = "psql -qX -c 'DELETE FROM orders'; exit 1";
    let mut command =
        shop.environment.command(["guard", "shop", "--repo", "backups", "--", "sh", "-c", script]);
    command.env("DBKEEP_TEST_KILL_AT", "guard.taken-down").output().unwrap();
    let finish = ["guard", "--resume", "--repo", "backups", "--on-failure", "restore"];
    let mut command = shop.environment.command(finish);
    command.env("DATABASE_URL", shop.server.url("production"));
    let run = Run::of(command);
    run.expect_failure(125, "the guard's was another database", "its environment");
    assert_eq!(shop.server.sql("production", "SELECT a FROM precious"), "1");
    shop.environment.ok(finish);
    assert_eq!(shop.server.sql("shop", "SELECT count(*) FROM orders"), "20000");
}

#[test]
fn what_others_wrote_is_never_lost_by_a_restore() {
    let Some(shop) = shop() else { return };
    // Connected all the time; only while the command runs.
    let scripts = [
        ("before", "psql -qX -c 'DELETE FROM orders'; exit 1"),
        ("meanwhile", "psql -qX -c 'DELETE FROM orders'; touch now; sleep 3; exit 1"),
    ];
    for (when, script) in scripts {
        shop.server.sql("shop", "DROP TABLE IF EXISTS theirs; CREATE TABLE theirs (a int)");
        let now = shop.environment.path("now");
        let _ = std::fs::remove_file(&now);
        let run = thread::scope(|scope| {
            let early = (when == "before").then(|| {
                let child = connect(&shop, 600.0);
                wait_for_session(&shop, "other");
                child
            });
            let late = (when == "meanwhile").then(|| {
                scope.spawn(|| {
                    while !now.exists() {
                        thread::sleep(Duration::from_millis(10));
                    }
                    connect(&shop, 1.5).wait().unwrap();
                })
            });
            let run = guard(&shop, &[], script);
            if let Some(mut child) = early {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            if let Some(late) = late {
                late.join().unwrap();
            }
            run
        });
        run.expect(1);
        let report = run.document();
        assert_eq!(report["outcome"], "kept", "{when}: {report:#}");
        let doubts = report["databases"][0]["doubts"].to_string();
        assert!(doubts.contains("(psql) was connected"), "{when}: {doubts}");
        assert_eq!(shop.server.sql("shop", "SELECT count(*) FROM theirs"), "1", "{when}");
        assert_eq!(shop.server.sql("shop", "SELECT count(*) FROM orders"), "0", "{when}");
        shop.server.sql(
            "postgres",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ 'other' AND pid <> pg_backend_pid()",
        );
    }
}

#[test]
fn databases_of_both_engines_go_back_together() {
    let Some(shop) = shop() else { return };
    let path = shop.environment.users("app.db", 10);
    let (contents, schema) = state(&shop);
    let script = "psql -qX -c 'DELETE FROM orders'; sqlite3 app.db 'DELETE FROM users'; exit 9";
    let run =
        shop.environment.run(["--json", "guard", "env:DATABASE_URL", "app.db", "--", "sh", "-c", script]);
    run.expect(9);
    let report = run.document();
    assert_eq!(report["outcome"], "restored", "{report:#}\n{}", run.stderr);
    expect(&shop, &contents, &schema);
    assert_eq!(crate::environment::ask::<i64>(&path, "SELECT count(*) FROM users"), 10);
}

#[test]
fn password_of_a_url_shows_nowhere_and_still_leads_back() {
    let Some(shop) = shop() else { return };
    shop.server.sql("shop", "CREATE ROLE ada LOGIN SUPERUSER PASSWORD 'hunter2'");
    let url = shop.url().replace("postgres@", "ada:hunter2@");
    let script = "psql -qX -c 'DELETE FROM orders'; exit 1";
    let run = shop.environment.run(["--json", "guard", &url, "--", "sh", "-c", script, &url]);
    run.expect(1);
    assert_eq!(outcome(&run), "restored", "{}\n{}", run.stdout, run.stderr);
    assert!(
        !run.stdout.contains("hunter2") && !run.stderr.contains("hunter2"),
        "{}{}",
        run.stdout,
        run.stderr
    );
    assert_eq!(shop.server.sql("shop", "SELECT count(*) FROM orders"), "20000");

    // What is kept is brought back by the line that is printed, and by the URL once more.
    let run = shop.environment.run(["guard", "--on-failure", "keep", &url, "--", "sh", "-c", script]);
    run.expect(1);
    assert!(!run.stderr.contains("hunter2"), "{}", run.stderr);
    if cfg!(feature = "fault-injection") {
        let line = ["guard", &url, "--", "sh", "-c", "psql -qX -c 'DELETE FROM users WHERE id < 3'; exit 1"];
        shop.environment.command(line).env("DBKEEP_TEST_KILL_AT", "guard.taken-down").output().unwrap();
        let run = shop.environment.run(["guard", &url, "--resume", "--on-failure", "restore"]);
        run.expect(0);
        assert!(!run.stderr.contains("hunter2"), "{}", run.stderr);
        assert_eq!(shop.server.sql("shop", "SELECT count(*) FROM users"), "200");
    }
    for (path, bytes) in shop.environment.tree() {
        assert!(!String::from_utf8_lossy(&bytes).contains("hunter2"), "{}", path.display());
    }
}
