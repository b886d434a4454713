//! What a restore into a database in use must never do: lose what was written meanwhile, go over another database, take
//! a part for the whole, or point a wrong way back.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use dbkeep_testkit::postgres::{Server, Settings};
use serde_json::Value;

use super::{SHOP, Shop};

/// Writes rows into `orders` one by one. Returns those that the server acknowledged.
fn write_orders(server: &Server, count: usize) -> BTreeSet<String> {
    let mut command = Command::new(server.programs().program("psql"));
    command.args(["-XqAt", "-h"]).arg(server.socket_folder()).args(["-p", &server.port().to_string()]);
    command.args(["-U", "postgres", "shop"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut psql = command.stderr(Stdio::null()).spawn().unwrap();
    let mut input = psql.stdin.take().unwrap();
    let feeding = thread::spawn(move || {
        for number in 0..count {
            let row =
                format!("INSERT INTO orders (user_id, note) VALUES (1, 'new {number}') RETURNING note;\n");
            if input.write_all(row.as_bytes()).is_err() {
                return;
            }
        }
    });
    let output = psql.wait_with_output().unwrap();
    feeding.join().unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

fn new_orders(server: &Server, database: &str) -> BTreeSet<String> {
    let rows = server.sql(database, "SELECT note FROM orders WHERE note LIKE 'new %'");
    rows.lines().map(str::to_owned).collect()
}

/// Returns the command that is printed as the way back.
#[track_caller]
fn way_back(stdout: &str) -> Vec<String> {
    let mut lines = stdout.lines().skip_while(|line| !line.contains("back to it with:"));
    let line = lines.nth(1).unwrap_or_else(|| panic!("no way back in {stdout}"));
    line.split_whitespace().skip_while(|word| *word != "restore").map(str::to_owned).collect()
}

#[test]
fn what_is_committed_while_a_table_is_replaced_is_in_the_safety_backup_or_in_the_table() {
    let Some(shop) = Shop::open() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    shop.back_up();
    for arguments in [&["--table", "orders"][..], &["--table", "orders", "--data-only"]] {
        let (acknowledged, report) = thread::scope(|scope| {
            let writer = scope.spawn(|| write_orders(server, 20_000));
            while new_orders(server, "shop").len() < 200 {
                thread::sleep(Duration::from_millis(10));
            }
            let restore = ["restore", "latest", "--in-place", "--yes"];
            let report = environment.ok_json(&[&restore[..], arguments].concat());
            (writer.join().unwrap(), report)
        });
        let safety = report["safety_snapshot"].as_str().unwrap();
        server.create_database("kept");
        server.sql("kept", &format!("{SHOP} TRUNCATE orders"));
        let to = server.url("kept");
        environment.ok_json(&["restore", safety, "--table", "orders", "--data-only", "--to", &to]);
        let mut there = new_orders(server, "kept");
        assert!(!there.is_empty(), "the safety backup has what was there");
        there.extend(new_orders(server, "shop"));
        let lost: Vec<&String> = acknowledged.difference(&there).collect();
        assert!(
            lost.is_empty(),
            "{} of {} acknowledged rows are gone: {lost:?}",
            lost.len(),
            acknowledged.len()
        );
        server.sql("postgres", "DROP DATABASE kept");
    }
}

#[test]
fn way_back_that_is_printed_leads_back_and_leaves_other_tables_alone() {
    let Some(shop) = Shop::open() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    shop.back_up();
    // What is left out of backups on purpose is kept all the same before it is replaced.
    let config = format!("[databases.shop]\npostgres = {:?}\nexclude-data = [\"orders\"]\n", shop.url());
    fs::write(environment.path("dbkeep.toml"), config).unwrap();
    let orders = || server.sql("shop", "SELECT count(*), sum(total) FROM orders");
    for arguments in [&["--table", "orders"][..], &["--table", "public.orders", "--data-only"]] {
        server.sql("shop", "DELETE FROM orders WHERE id % 7 = 0");
        let before = orders();
        let run = environment.ok([&["restore", "latest", "--in-place", "--yes"][..], arguments].concat());
        assert_ne!(orders(), before);
        server.sql("shop", "UPDATE users SET name = 'written later' WHERE id = 1");
        let mut back = way_back(&run.stdout);
        back.push("--yes".to_owned());
        environment.ok(&back);
        assert_eq!(orders(), before, "{back:?}");
        assert_eq!(server.sql("shop", "SELECT name FROM users WHERE id = 1"), "written later");
    }
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_database WHERE datname ~ '_before_'"), "0");
    // Of a table that was not there nothing is kept.
    fs::remove_file(environment.path("dbkeep.toml")).unwrap();
    server.sql("shop", "DROP TABLE audit.log; DELETE FROM orders WHERE id % 7 = 0");
    let before = orders();
    let restore = ["restore", "latest", "--in-place", "--yes", "--table", "audit.log", "--table", "orders"];
    let run = environment.ok(restore);
    let mut back = way_back(&run.stdout);
    assert!(!back.contains(&"audit.log".to_owned()), "{back:?}");
    back.push("--yes".to_owned());
    environment.ok(&back);
    assert_eq!(orders(), before, "{back:?}");
}

#[test]
fn table_that_was_dropped_comes_back_though_nothing_of_it_can_be_kept() {
    let Some(shop) = Shop::open() else { return };
    shop.back_up();
    shop.server.create_database("reference");
    shop.server.sql("reference", SHOP);
    shop.server.sql("shop", "DROP TABLE orders");
    let restore = ["restore", "latest", "--in-place", "--yes", "--table", "orders"];
    let report = shop.environment.ok_json(&restore);
    assert_eq!(report["safety_snapshot"], Value::Null, "{report:#}");
    assert!(report["bytes_written"].as_u64().unwrap() > 500_000, "{report:#}");
    shop.expect_same("reference", &shop.server, "shop");
    // Only what came back was written.
    let restore = ["restore", "latest", "--to", &shop.server.url("log"), "--table", "audit.log"];
    let report = shop.environment.ok_json(&restore);
    assert_eq!((report["rows"].as_u64(), report["tables"].as_array().map(Vec::len)), (Some(50), Some(1)));
    assert!(report["bytes_written"].as_u64().unwrap() < 5_000, "{report:#}");
}

#[test]
fn database_of_another_server_is_not_gone_over_by_mistake() {
    let Some(shop) = Shop::open() else { return };
    shop.back_up();
    let other = Server::start(shop.server.programs(), &Settings::default());
    other.create_database("shop");
    other.sql("shop", "CREATE TABLE orders (precious text); INSERT INTO orders VALUES ('yes')");
    let config = format!("[databases.shop]\npostgres = {:?}\n", other.url("shop"));
    fs::write(shop.environment.path("dbkeep.toml"), config).unwrap();
    for more in [&[][..], &["--table", "orders"], &["--data-only"], &["--dry-run"]] {
        let restore = [&["restore", "latest", "--in-place", "--yes"][..], more].concat();
        shop.environment.run(&restore).expect_failure(1, "another database", "--force");
    }
    assert_eq!(other.sql("shop", "SELECT precious FROM orders"), "yes");
    assert_eq!(shop.snapshots(), 1, "nothing of it comes into the history of the first");
    shop.environment.ok_json(&["restore", "latest", "--in-place", "--yes", "--force"]);
    shop.expect_same("shop", &other, "shop");
}

#[test]
fn part_of_a_database_does_not_take_the_place_of_all_of_it() {
    let Some(shop) = Shop::open() else { return };
    let config = format!("[databases.shop]\npostgres = {:?}\nexclude = [\"orders\"]\n", shop.url());
    fs::write(shop.environment.path("dbkeep.toml"), config).unwrap();
    shop.environment.ok(["backup", "shop"]);
    let shown = shop.environment.ok(["show", "latest"]);
    assert!(shown.stdout.contains("everything, without public.orders"), "{}", shown.stdout);
    let in_place = ["restore", "latest", "--in-place", "--yes"];
    shop.environment.run(in_place).expect_failure(1, "a part of shop only", "--table");
    assert_eq!(shop.server.sql("shop", "SELECT count(*) FROM orders"), "20000");
    shop.environment.ok(["restore", "latest", "--in-place", "--yes", "--table", "audit.log"]);
    shop.environment.ok(["restore", "latest", "--in-place", "--yes", "--force"]);
    assert_eq!(shop.server.sql("shop", "SELECT to_regclass('orders') IS NULL"), "t");
}

#[test]
fn who_is_connected_is_told_before_anything_is_read() {
    let Some(shop) = Shop::open() else { return };
    shop.back_up();
    let guest = super::restore::Guest::of(&shop.server, "shop");
    let restore = ["restore", "latest", "--in-place", "--dry-run"];
    shop.environment.run(restore).expect_failure(1, "in use", "--force");
    assert_eq!(shop.snapshots(), 1);
    drop(guest);
}

#[test]
fn path_is_no_name_for_a_database() {
    let Some(shop) = Shop::open() else { return };
    shop.back_up();
    shop.environment.users("app.db", 3);
    shop.environment.ok(["backup", &shop.url(), "app.db"]);
    for to in ["./shop.db", "restored/", "/srv/shop.db", ".hidden"] {
        let run = shop.environment.run(["restore", "latest", "--database", "shop", "--to", to]);
        run.expect_failure(2, "looks like a path", "URL");
    }
    let long = "x".repeat(64);
    let run = shop.environment.run(["restore", "latest", "--database", "shop", "--to", &long]);
    run.expect_failure(2, "too long", "63 bytes");
    let databases = || shop.server.sql("postgres", "SELECT count(*) FROM pg_database");
    let before = databases();
    let (code, report) = shop.environment.json(&["restore", "--session", "latest", "--to", "restored/"]);
    assert_eq!((code, databases()), (Some(3), before), "{report:#}");
    let of_shop =
        report["restores"].as_array().unwrap().iter().find(|one| one["database"] == "shop").unwrap();
    assert!(of_shop["error"]["message"].as_str().unwrap().contains("does not go to restored/"), "{report:#}");
    assert!(shop.environment.path("restored/app.db").exists(), "{report:#}");
}
