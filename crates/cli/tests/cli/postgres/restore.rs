//! Restores: beside the original, on another server, over the original, a table, rows alone.

use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dbkeep_testkit::postgres::{Programs, Server, Settings};
use serde_json::{Value, json};

use super::{SHOP, Shop};

/// Somebody who is connected to a database.
pub(super) struct Guest(Child);

impl Guest {
    pub(super) fn of(server: &Server, database: &str) -> Self {
        let mut command = Command::new(server.programs().program("psql"));
        command.arg("-X").arg("-h").arg(server.socket_folder()).args(["-p", &server.port().to_string()]);
        command.args(["-U", "postgres", "-c", "SELECT pg_sleep(300)", database]).stdin(Stdio::null());
        let guest = Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        let there = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(300)%'";
        while server.sql("postgres", there) == "0" {
            assert!(Instant::now() < until, "nobody connects");
            thread::sleep(Duration::from_millis(20));
        }
        guest
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have been sent away.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn restore_makes_the_same_database_beside_the_original_and_on_a_newer_server() {
    let Some(shop) = Shop::open() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    let snapshot = shop.back_up();
    let plan = environment.ok_json(&["restore", "latest", "--dry-run"]);
    assert_eq!(plan["restores"][0]["action"], "create-database", "{plan:#}");
    let report = environment.ok_json(&["restore", "latest"]);
    assert_eq!((&report["snapshot"], &report["verified"]), (&json!(snapshot), &json!(true)), "{report:#}");
    assert_eq!((&report["rows"], &report["safety_snapshot"]), (&json!(20_250), &Value::Null));
    let names =
        server.sql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'shop_restored_%'");
    shop.expect_same("shop", server, &names);
    environment.ok_json(&["restore", &snapshot[..8], "--to", "odd \"name\""]);
    shop.expect_same("shop", server, "odd \"name\"");
    let taken = environment.run(["restore", "latest", "--to", "odd \"name\""]);
    taken.expect_failure(1, "already", "--to");
    assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_database WHERE datname ~ 'staging'"), "0");

    let newest = Programs::newest().unwrap();
    if newest.major == server.programs().major {
        return println!("skipped: there is no server of another version");
    }
    let newer = Server::start(&newest, &Settings::default());
    let report = environment.ok_json(&["restore", "latest", "--to", &newer.url("moved")]);
    assert_eq!(report["verified"], true);
    shop.expect_same("shop", &newer, "moved");
    // And what an application does next works: the sequence stands where it stood.
    let insert = "INSERT INTO orders (user_id, total) VALUES (1, 2) RETURNING id";
    assert_eq!(newer.sql("moved", insert), "20001");
}

#[test]
fn restore_over_the_original_keeps_the_old_database_and_asks_who_is_connected() {
    let Some(shop) = Shop::open() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    let snapshot = shop.back_up();
    server.create_database("reference");
    server.sql("reference", SHOP);
    server.sql("shop", "DELETE FROM orders WHERE id > 100; ALTER TABLE users ADD COLUMN age int");
    server.create_database("changed");
    let changed = (server.contents("shop"), server.schema(server.programs(), "shop"));
    let line = ["restore", &snapshot, "--in-place"];
    environment.run(line).expect_failure(2, "confirmation", "--yes");
    let in_place = ["restore", &snapshot, "--in-place", "--yes"];

    let guest = Guest::of(server, "shop");
    environment.run(in_place).expect_failure(1, "in use", "--force");
    assert_eq!((server.contents("shop"), server.schema(server.programs(), "shop")), changed);
    let leftovers = "SELECT count(*) FROM pg_database WHERE datname LIKE '%\\_dbkeep\\_%'";
    assert_eq!(server.sql("postgres", leftovers), "0", "nothing unfinished stays");
    drop(guest);

    let guest = Guest::of(server, "shop");
    let forced = environment.ok_json(&["restore", &snapshot, "--in-place", "--yes", "--force"]);
    assert_eq!(forced["verified"], true);
    drop(guest);
    shop.expect_same("reference", server, "shop");
    let safety = forced["safety_snapshot"].as_str().unwrap().to_owned();
    let notes = forced["notes"].to_string();
    let kept = server.sql("postgres", "SELECT datname FROM pg_database WHERE datname LIKE 'shop_before_%'");
    assert!(!kept.is_empty() && notes.contains(&kept), "{kept} is told in {notes}");
    assert_eq!((server.contents(&kept), server.schema(server.programs(), &kept)), changed);
    // The way back, as it is printed.
    environment.ok(["restore", &safety[..8], "--in-place", "--yes", "--no-safety-backup"]);
    assert_eq!((server.contents("shop"), server.schema(server.programs(), "shop")), changed);
}

#[test]
fn tables_and_rows_alone_come_back_without_the_rest() {
    let Some(shop) = Shop::open() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    shop.back_up();
    server.create_database("reference");
    server.sql("reference", SHOP);
    let rows = ["restore", "latest", "--data-only", "--in-place", "--yes", "--table", "users"];
    environment.run(rows).expect_failure(1, "foreign key", "drop what needs it");
    let report = environment.ok_json(&[&rows[..], &["--table", "orders"]].concat());
    assert!(report["safety_snapshot"].is_string(), "{report:#}");
    shop.expect_same("reference", server, "shop");

    server.create_database("empty");
    let schema = server.schema(server.programs(), "reference");
    server.sql("empty", &schema);
    environment.ok_json(&["restore", "latest", "--data-only", "--to", &server.url("empty")]);
    shop.expect_same("reference", server, "empty");
    environment.run(["restore", "latest", "--data-only", "--to", &server.url("empty")]).expect_failure(
        1,
        "not empty",
        "--in-place",
    );
}

#[test]
fn table_that_a_snapshot_does_not_have_is_named_and_nothing_is_made() {
    let Some(shop) = Shop::open() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    shop.back_up();
    let databases = || server.sql("postgres", "SELECT datname FROM pg_database ORDER BY 1");
    let before = databases();
    for place in [&["--in-place", "--yes"][..], &["--to", "other"]] {
        let line = [&["restore", "latest", "--table", "user"], place].concat();
        environment.run(line).expect_failure(1, "has no table public.user", "did you mean");
        let line = [&["restore", "latest", "--table", "nothing.like.it"], place].concat();
        environment.run(line).expect_failure(2, "no name of a table", "write it as");
    }
    assert_eq!(databases(), before);
    server.create_database("reference");
    server.sql("reference", SHOP);
    shop.expect_same("reference", server, "shop");
}

#[test]
fn table_that_would_come_back_open_to_others_is_not_restored() {
    let Some(shop) = Shop::open() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    server.sql(
        "shop",
        "CREATE ROLE keeper; CREATE ROLE modest LOGIN NOINHERIT; GRANT keeper TO modest;
         CREATE SCHEMA app AUTHORIZATION modest; SET ROLE modest; GRANT ALL ON SCHEMA app TO keeper;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC;
         CREATE TABLE app.closed (n int); REVOKE ALL ON app.closed FROM PUBLIC; ALTER TABLE app.closed OWNER TO keeper",
    );
    shop.back_up();
    server.sql("shop", "DROP TABLE app.closed");
    let url = shop.url().replace("postgres@", "modest@");
    let text = format!("[databases.shop]\npostgres = \"{url}\"\n");
    std::fs::write(environment.path("dbkeep.toml"), text).unwrap();
    let line = ["restore", "latest", "--table", "app.closed", "--in-place", "--yes"];
    let message = "app.closed would come back open to PUBLIC";
    environment.run(line).expect_failure(1, message, "--no-owner");
    let (code, report) = environment.json(&line);
    assert_eq!((code, &report["error"]["kind"]), (Some(1), &json!("permission")), "{report:#}");
    let rights =
        "SELECT relowner::regrole, (SELECT count(*) FROM aclexplode(relacl) WHERE grantee <> relowner)
                  FROM pg_class WHERE relname = 'closed'";
    let there = || server.sql("shop", rights);
    assert_eq!(there(), "");
    environment.ok_json(&[&line[..], &["--no-owner"]].concat());
    assert_eq!(there(), "modest|0");
}

/// Rows that are wrong only where they come in binary form: an added one, which the comparison or an index finds; and what
/// is made after the rows. A table without a key is compared while those of others are made.
const SPOILT: [(&str, &str); 3] = [
    ("-1", "ALTER TABLE fragile ADD PRIMARY KEY (n)"),
    ("2", "ALTER TABLE fragile ADD PRIMARY KEY (n)"),
    ("-1", "CREATE TABLE other (n int PRIMARY KEY)"),
];

#[test]
fn restore_whose_binary_rows_turn_out_to_be_wrong_begins_again_with_text() {
    let Some(shop) = Shop::open() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    for (number, (added, key)) in SPOILT.iter().enumerate() {
        let database = format!("fragile{number}");
        server.create_database(&database);
        let sql = format!(
            "CREATE FUNCTION spoil(n int) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
                 IF n = 1 AND current_query() ~ '[b]inary' THEN INSERT INTO public.fragile VALUES ({added}, ''); END IF;
                 RETURN true; END $$;
             CREATE TABLE fragile (n int CHECK (public.spoil(n)), t text);
             INSERT INTO fragile SELECT n, md5(n::text) FROM generate_series(1, 5000) n;
             {key}"
        );
        server.sql(&database, &sql);
        environment.ok_json(&["backup", &server.url(&database)]);
        assert_eq!(server.sql(&database, "SELECT count(*), min(n) FROM fragile"), "5000|1");
        let expected = (server.contents(&database), server.schema(server.programs(), &database));
        let again = format!("again{number}");
        let run = environment.ok(["restore", "--database", &database, "latest", "--to", &again]);
        assert!(run.stderr.contains("begins again and sends all rows as text"), "{}", run.stderr);
        assert!(run.stderr.contains("fragile"), "which table: {}", run.stderr);
        assert_eq!((server.contents(&again), server.schema(server.programs(), &again)), expected);
        assert_eq!(server.sql("postgres", "SELECT count(*) FROM pg_database WHERE datname ~ 'staging'"), "0");

        // Where nobody compares, nothing goes in as binary.
        let blind = format!("blind{number}");
        let line = ["restore", "--database", &database, "latest", "--to", &blind, "--verify", "none"];
        let run = environment.ok(line);
        assert!(!run.stderr.contains("as text"), "{}", run.stderr);
        assert_eq!(server.contents(&blind), expected.0);
    }
}
