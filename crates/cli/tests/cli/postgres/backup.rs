//! Backups: however a database is named, what is chosen of it, what a second one adds.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::{Shop, executable, keys};
use crate::environment::restic;
use crate::export::shell;

#[test]
fn database_is_backed_up_however_it_is_named() {
    let Some(shop) = Shop::open() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    let document = environment.ok_json(&["backup", &shop.url()]);
    assert_eq!((&document["status"], &document["totals"]["databases"]), (&json!("ok"), &json!(1)));
    let one = &document["databases"][0];
    assert_eq!((&one["name"], &one["engine"]), (&json!("shop"), &json!("postgres")));
    assert_eq!((&one["status"], &one["error"]), (&json!("ok"), &json!(null)), "{one:#}");
    let expected = "bytes_added bytes_read bytes_source bytes_stored duration_ms engine error integrity name parent root \
                    rows sha256 snapshot source status tables";
    let found = keys(one);
    for key in expected.split_whitespace() {
        assert!(found.contains(&key), "no {key} in {found:?}");
    }
    let tables = json!([{"name": "audit.log", "rows": 50}, {"name": "public.orders", "rows": 20_000},
        {"name": "public.users", "rows": 200}]);
    assert_eq!((&one["tables"], &one["rows"]), (&tables, &json!(20_250)));
    assert_eq!((&one["parent"], &one["sha256"]), (&json!(null), &json!(null)));
    for (key, length) in [("snapshot", 64), ("root", 64)] {
        assert_eq!(one[key].as_str().unwrap().len(), length, "{key}");
    }

    let folder = server.socket_folder().display();
    let words = format!("host={folder} port={} user=postgres dbname=shop", server.port());
    let again = environment.ok_json(&["backup", &words]);
    assert_eq!(again["databases"][0]["status"], "unchanged", "{again:#}");
    fs::write(environment.path(".env"), format!("DATABASE_URL=\"{}\"\n", shop.url())).unwrap();
    let again = environment.ok_json(&["backup", "env:DATABASE_URL"]);
    assert_eq!(again["databases"][0]["source"], "env:DATABASE_URL");
    fs::write(environment.path("dbkeep.toml"), "[databases.shop]\npostgres = \"env:DATABASE_URL\"\n")
        .unwrap();
    let again = environment.ok_json(&["backup"]);
    assert_eq!(
        (&again["databases"][0]["status"], &again["databases"][0]["root"]),
        (&json!("unchanged"), &one["root"])
    );
    assert_eq!(shop.snapshots(), 4);
    let run = environment.ok(["backup", "shop"]);
    assert!(run.stdout.contains("restore with:\n"), "the way back is printed: {}", run.stdout);
}

#[test]
fn of_several_hosts_the_first_that_answers_is_read_by_us_and_by_pg_dump() {
    let Some(shop) = Shop::open() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    let url = format!("postgresql://postgres@127.0.0.1:1,127.0.0.1:{0},localhost:{0}/shop", server.port());
    let note = with_noting_pg_dump(&shop, &url, "echo \"$PGHOST $PGPORT\"");
    environment.ok(["backup"]);
    assert_eq!(fs::read_to_string(&note).unwrap(), format!("127.0.0.1 {}\n", server.port()));
    let to = server.url("restored");
    environment.ok(["restore", "latest", "--to", &to]);
    shop.expect_same("shop", server, "restored");
}

/// Has what is at `url` backed up with a `pg_dump` that does its work and writes down before what a command says. Returns
/// where.
fn with_noting_pg_dump(shop: &Shop, url: &str, command: &str) -> PathBuf {
    let (programs, note) = (shop.server.programs(), shop.environment.path("note"));
    let folder = shop.with_programs_of_its_own(url);
    let script = format!(
        "[ \"$1\" = --version ] || {command} >>'{}'\nexec '{}' \"$@\"",
        note.display(),
        programs.program("pg_dump").display()
    );
    executable(&folder.join("pg_dump"), &script);
    symlink(programs.program("pg_restore"), folder.join("pg_restore")).unwrap();
    note
}

#[test]
fn applications_of_the_same_machine_come_before_a_backup() {
    let Some(shop) = Shop::open() else { return };
    let note =
        with_noting_pg_dump(&shop, &shop.url(), "cat /proc/$$/stat /proc/$PPID/task/*/stat 2>/dev/null");
    shop.environment.ok(["backup", "--yield"]);
    let threads = fs::read_to_string(&note).unwrap();
    // The name of a thread may have spaces; `nice` is the 17th word behind it.
    let nice = |line: &str| -> i32 {
        line.rsplit_once(") ").unwrap().1.split(' ').nth(16).unwrap().parse().unwrap()
    };
    assert!(threads.contains("(pg_dump) ") && threads.contains("(dbkeep) "), "{threads}");
    assert!(threads.lines().all(|line| nice(line) >= 10), "{threads}");
}

#[test]
fn archive_of_a_later_version_is_stored_with_a_warning() {
    let Some(shop) = Shop::open() else { return };
    let (programs, environment) = (shop.server.programs(), &shop.environment);
    let folder = shop.with_programs_of_its_own(&shop.url());
    // The seventh byte is the second number of the version.
    let dump = "[ \"$1\" = --version ] && exec $real \"$@\"
        $real \"$@\" >programs/d && dd if=programs/d of=programs/minor bs=1 skip=6 count=1 2>programs/said &&
        printf '\\143' | dd of=programs/d bs=1 seek=6 conv=notrunc 2>programs/said && cat programs/d";
    let restore = "[ \"$1\" = --version ] && exec $real \"$@\"
        cat >programs/r && dd if=programs/minor of=programs/r bs=1 seek=6 conv=notrunc 2>programs/said && exec $real \"$@\" programs/r";
    for (name, script) in [("pg_dump", dump), ("pg_restore", restore)] {
        let script = format!("real='{}'\n{script}", programs.program(name).display());
        executable(&folder.join(name), &script);
    }
    let run = environment.ok(["backup"]);
    let note = "the archive of objects is of version 1.99, which is not known here: only pg_restore brings the objects back";
    assert!(run.stderr.contains(&format!("shop: {note}")), "{}{}", run.stdout, run.stderr);
    let shown = environment.ok_json(&["show", "latest"]);
    assert_eq!(shown["postgres"]["not_covered"], Value::Null, "they are in the snapshot: {shown:#}");
    environment.ok(["verify", "latest"]);
    environment.ok(["export", "latest", "--format", "tar.gz", "--out", "out"]);
    let verified = environment.ok_json(&["verify", environment.path("out").to_str().unwrap()]);
    let notes = verified["checked"][0]["notes"].to_string();
    assert!(
        notes.contains(note) && notes.contains("version 1.99 of its format is not known here"),
        "{notes}"
    );
    // Without its checksum nothing is known of an archive that cannot be read.
    environment.ok(["export", "latest", "--format", "bundle", "--out", "files"]);
    let folders = environment.path("files/backup_");
    let copied = format!("cp -r {}*/databases/shop_* alone && rm alone/SHA256SUMS", folders.display());
    shell(&environment.path(""), &copied);
    let alone = environment.ok_json(&["verify", environment.path("alone").to_str().unwrap()]);
    assert_eq!(alone["checked"][0]["integrity"], "not run", "{alone:#}");
    let verified = environment.ok_json(&["verify", "latest"]);
    assert_eq!(verified["checked"][0]["notes"], json!([note]), "{verified:#}");
    // What holds no objects, or goes without, needs nothing of it.
    for format in ["json", "ndjson", "csv"] {
        let exported = environment.ok(["export", "latest", "--format", format, "--out", format]);
        assert!(exported.stderr.contains(note), "{}", exported.stderr);
    }
    environment.ok(["verify", environment.path("ndjson").to_str().unwrap()]);
    shop.server.sql("postgres", "CREATE DATABASE emptied TEMPLATE shop");
    shop.server.sql("emptied", "TRUNCATE users, orders, audit.log");
    let to = shop.server.url("emptied");
    environment.ok(["restore", "latest", "--data-only", "--to", &to]);
    shop.expect_same("shop", &shop.server, "emptied");
    let back = shop.server.url("back");
    for line in [
        &["restore", "latest", "--to", &back][..],
        &["drill"],
        &["compare", "latest", "current"],
        &["export", "latest", "--format", "sql", "--out", "sql"],
    ] {
        environment.run(line).expect_failure(1, "version 1.99 of the format is not known", "a newer dbkeep");
    }
    // A guard that could not go back does not begin; a restore says that its safety backup is such a one.
    let guarded = environment.run(["guard", "--", "touch", "began"]);
    guarded.expect_failure(125, "version 1.99 of the format is not known", "a newer dbkeep");
    assert!(!environment.path("began").exists());
    let over = environment.ok(["restore", "latest", "--data-only", "--in-place", "--yes"]);
    assert!(over.stderr.contains(&format!("safety backup of shop: {note}")), "{}", over.stderr);
    shop.expect_same("shop", &shop.server, "emptied");
}

#[test]
fn what_did_not_change_is_not_stored_again_and_every_command_knows_the_database() {
    let Some(shop) = Shop::open() else { return };
    let environment = &shop.environment;
    let first = environment.ok_json(&["backup", &shop.url()])["databases"][0].clone();
    let bytes = first["bytes_added"].as_u64().unwrap();
    assert!(bytes > 500_000, "{first:#}");
    let second = environment.ok_json(&["backup", &shop.url()])["databases"][0].clone();
    assert_eq!((&second["status"], &second["parent"]), (&json!("unchanged"), &first["snapshot"]));
    assert_eq!(second["root"], first["root"]);
    // The archive of objects has the time of its making.
    assert!(second["bytes_added"].as_u64().unwrap() < 16 << 10, "no row is stored again: {second:#}");
    shop.server.sql("shop", "INSERT INTO orders (user_id, total) SELECT 7, 1 FROM generate_series(1, 200)");
    let third = environment.ok_json(&["backup", &shop.url()])["databases"][0].clone();
    assert_eq!(third["status"], "ok");
    assert!(third["bytes_added"].as_u64().unwrap() * 5 < bytes, "200 of 20,200 rows are new: {third:#}");

    let list = environment.ok_json(&["list", "--database", "shop"]);
    let newest = &list["snapshots"][0];
    assert_eq!(list["snapshots"].as_array().unwrap().len(), 3);
    assert_eq!((&newest["id"], &newest["engine"]), (&third["snapshot"], &json!("postgres")));
    assert_eq!((&newest["rows"], &newest["tables"]), (&json!(20_450), &json!(3)));
    let shown = environment.ok_json(&["show", "latest"]);
    assert_eq!((&shown["database"], &shown["engine"]), (&json!("shop"), &json!("postgres")), "{shown:#}");
    assert_eq!(shown["postgres"]["server"]["database"], "shop", "{shown:#}");
    environment.ok(["show", "latest"]);
    let verified = environment.ok_json(&["verify", "--all"]);
    assert_eq!((&verified["ok"], &verified["damaged"]), (&json!(3), &json!(0)));
    assert_eq!(verified["checked"][0]["database"], "shop");
    let checked = environment.ok_json(&["check", "--read-data"]);
    assert_eq!((&checked["ok"], &checked["snapshots"]), (&json!(true), &json!(3)));
    let status = environment.ok(["status"]);
    assert!(status.stdout.contains("shop"), "{}", status.stdout);
    if let Some(mut restic) = restic(environment) {
        let output = restic.args(["check", "--read-data"]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn configuration_chooses_what_of_a_database_is_stored() {
    let Some(shop) = Shop::open() else { return };
    let environment = &shop.environment;
    let configure = |more: &str| {
        let text = format!("[databases.shop]\npostgres = \"{}\"\n{more}", shop.url());
        fs::write(environment.path("dbkeep.toml"), text).unwrap();
        let document = environment.ok_json(&["backup"]);
        let database = &document["databases"][0];
        let rows = database["tables"].as_array().unwrap().iter();
        let tables: Vec<String> =
            rows.map(|table| format!("{}={}", table["name"].as_str().unwrap(), table["rows"])).collect();
        (tables.join(" "), database.to_string())
    };
    let (tables, _) = configure("schemas = [\"audit\"]\ntimeout = \"5m\"\n");
    assert_eq!(tables, "audit.log=50");
    let (tables, told) = configure("tables = [\"users\", \"audit.log\", \"absent\"]\n");
    assert_eq!(tables, "audit.log=50 public.users=200");
    assert!(told.contains("absent"), "a missing one is told: {told}");
    let run = environment.ok(["backup"]);
    assert!(format!("{}{}", run.stdout, run.stderr).contains("absent"), "{}{}", run.stdout, run.stderr);
    let (tables, _) = configure("exclude = [\"orders\"]\nenvironment = \"production\"\n");
    assert_eq!(tables, "audit.log=50 public.users=200");
    assert_eq!(environment.ok_json(&["show", "latest"])["environment"], "production");
    let (tables, told) = configure("exclude-data = [\"audit.log\"]\n");
    assert_eq!(tables, "public.orders=20000 public.users=200");
    assert!(told.contains("audit"), "what is left out is told: {told}");
    let report = environment.ok_json(&["restore", "latest", "--to", "again"]);
    assert_eq!(report["verified"], true);
    assert_eq!(shop.server.sql("again", "SELECT count(*) FROM audit.log"), "0");
    shop.server.sql("shop", "TRUNCATE audit.log");
    shop.expect_same("shop", &shop.server, "again");
}

#[test]
fn tables_are_counted_while_they_are_backed_up_and_restored() {
    let Some(shop) = Shop::open() else { return };
    shop.server.sql("shop", "CREATE TABLE empty (n int); SELECT lo_from_bytea(0, 'no table')");
    let counts = |line: &[&str]| -> Vec<(u64, u64)> {
        let run = shop.environment.ok(["-vvv"].iter().chain(line));
        let number = |line: &str, field: &str| {
            let start = line.find(field)? + field.len();
            line[start..].split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
        };
        let count = |line: &str| Some((number(line, "tables_done=")?, number(line, "tables=")?));
        run.stderr.lines().filter_map(count).collect()
    };
    let all = [(0, 4), (1, 4), (2, 4), (3, 4), (4, 4)];
    assert_eq!(counts(&["backup", &shop.url()]), all);
    // Those without rows are known before the phase begins, or while it goes on.
    let restored = counts(&["restore", "latest", "--to", &shop.server.url("back")]);
    assert!(restored.is_sorted() && restored.last() == Some(&(4, 4)), "{restored:?}");
    let one = counts(&["restore", "latest", "--to", &shop.server.url("some"), "--table", "users"]);
    assert_eq!(one, [(0, 1), (1, 1)]);

    // Programs are told when a phase ends, however fast it was.
    let run = shop.environment.ok(["--progress=json", "restore", "latest", "--to", &shop.server.url("told")]);
    let events = run.stderr.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let told: Vec<Value> = events.filter_map(|event| event.get("tables").cloned()).collect();
    assert_eq!(told.last(), Some(&json!({ "done": 4, "total": 4 })), "{}", run.stderr);
}

#[test]
fn bytes_are_counted_while_they_are_backed_up() {
    let Some(shop) = Shop::open() else { return };
    shop.server.sql(
        "shop",
        "CREATE TABLE large AS SELECT n, md5(n::text) || md5((-n)::text) AS filler FROM generate_series(1, 160000) n",
    );
    // Events come a few times a second: there is something to wait for.
    let line = ["--json", "--progress=json", "backup", "--compression", "19", &shop.url()];
    let run = shop.environment.ok(line);
    let events: Vec<Value> = run.stderr.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of_rows = |event: &&Value| event["event"] == "progress" && event["phase"] == "backup shop";
    let told: Vec<&Value> = events.iter().filter(of_rows).collect();
    let numbers = |key: fn(&Value) -> &Value| -> Vec<u64> {
        told.iter().map(|event| key(event).as_u64().unwrap()).collect()
    };
    let (bytes, tables) = (numbers(|event| &event["done"]), numbers(|event| &event["tables"]["done"]));
    assert!(bytes.is_sorted() && tables.is_sorted(), "{}", run.stderr);
    let rising: BTreeSet<&u64> = bytes.iter().filter(|done| **done > 0).collect();
    assert!(rising.len() > 1, "{bytes:?}");
    assert_eq!(tables.last(), Some(&4), "{}", run.stderr);
    // All bytes were told, and how many there would be about.
    let read = run.document()["databases"][0]["bytes_read"].as_u64().unwrap();
    assert_eq!(bytes.last(), Some(&read));
    let totals: BTreeSet<u64> = numbers(|event| &event["total"]).into_iter().collect();
    assert!(
        totals.len() == 1 && totals.iter().all(|total| (read / 2..read * 3).contains(total)),
        "{totals:?}"
    );
}
