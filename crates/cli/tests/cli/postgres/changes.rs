//! A backup or a comparison while somebody rewrites tables: it begins again at a new moment, and gives up at last.

use std::fs;
use std::io::Write as _;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use dbkeep_testkit::postgres::Server;
use serde_json::json;

use super::{Shop, executable};
use crate::environment::{Run, TestEnvironment};

/// How a reading says that it begins again.
const AGAIN: &str = "it begins again at a new moment";

/// What of ours waits for a lock.
const WE_WAIT: &str = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
    WHERE NOT granted AND datname = 'shop' AND application_name LIKE 'dbkeep%'";

/// A migration in a session of its own: it takes `orders` for itself, as soon as it gets it, and has the shop hold other
/// rows when it commits.
struct Migration {
    session: Child,
    input: ChildStdin,
    name: String,
}

impl Migration {
    fn begin(server: &Server, number: usize) -> Self {
        let name = format!("migration {number}");
        let mut session = psql(server, &name).stdin(Stdio::piped()).spawn().unwrap();
        let mut input = session.stdin.take().unwrap();
        let sql = format!(
            "BEGIN; LOCK TABLE orders; TRUNCATE orders;
             INSERT INTO orders (user_id, note) SELECT 1 + n, '{name}' FROM generate_series(1, 100 + {number}) n;
             UPDATE users SET name = '{name}'; INSERT INTO audit.log (what) VALUES ('{name}');\n"
        );
        input.write_all(sql.as_bytes()).unwrap();
        Self { session, input, name }
    }

    /// Says whether it has the table, or stands in the queue for it.
    fn is_in_line(&self, server: &Server, is_granted: bool) -> bool {
        let line = format!(
            "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
             WHERE relation = 'orders'::regclass AND mode = 'AccessExclusiveLock' AND application_name = '{}'
               AND (granted OR NOT {is_granted})",
            self.name
        );
        server.sql("shop", &line) != "0"
    }

    /// Waits until it is through.
    fn commit(mut self) {
        self.input.write_all(b"COMMIT;\n").unwrap();
        drop(self.input);
        assert!(self.session.wait().unwrap().success(), "{} failed", self.name);
    }
}

/// Prepares a session that calls itself so.
fn psql(server: &Server, name: &str) -> Command {
    let mut command = Command::new(server.programs().program("psql"));
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "shop", "-h"]);
    command.arg(server.socket_folder()).args(["-p", &server.port().to_string()]);
    command.env("PGAPPNAME", name).stdout(Stdio::null()).stderr(Stdio::inherit());
    command
}

/// Waits until something is so; what would take forever fails.
#[track_caller]
fn until(mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < Duration::from_secs(120), "it never comes");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a line. A migration has the table that the line waits for, and commits when it does: the moment that the line
/// reads is always older. Further ones are in line before, up to so many; no number means that there is always one more.
#[track_caller]
fn run_beside_migrations(shop: &Shop, line: &[&str], migrations: Option<usize>) -> Run {
    let server = &shop.server;
    let mut first = Migration::begin(server, 1);
    until(|| first.is_in_line(server, true));
    thread::scope(|scope| {
        let reading = scope.spawn(|| shop.environment.run(line));
        let mut number = 1;
        loop {
            until(|| reading.is_finished() || server.sql("shop", WE_WAIT) != "0");
            if reading.is_finished() || migrations == Some(number) {
                break;
            }
            number += 1;
            let next = Migration::begin(server, number);
            until(|| next.is_in_line(server, false));
            first.commit();
            first = next;
        }
        first.commit();
        reading.join().unwrap()
    })
}

#[test]
fn backup_whose_table_is_rewritten_begins_again_and_has_the_rows_of_one_new_moment() {
    let Some(shop) = Shop::open() else { return };
    // The first backup of all looks at the database before it makes a repository, and would wait there.
    shop.back_up();
    for locks in [None, Some("--yield")] {
        let url = shop.url();
        let line: Vec<&str> = ["backup", &url].into_iter().chain(locks).collect();
        let run = run_beside_migrations(&shop, &line, Some(1));
        run.expect(0);
        assert_eq!(run.stderr.matches(AGAIN).count(), 1, "{}", run.stderr);
        assert!(run.stderr.contains("warning: shop: \"public\".\"orders\" was "), "{}", run.stderr);
        assert_eq!(shop.server.sql("shop", "SELECT DISTINCT note FROM orders"), "migration 1");
        shop.environment.ok(["restore", "latest", "--to", "restored"]);
        shop.expect_same("shop", &shop.server, "restored");
        shop.server.sql("postgres", "DROP DATABASE restored");
    }
}

#[test]
fn backup_whose_table_is_rewritten_in_every_attempt_fails_and_makes_no_snapshot() {
    let Some(shop) = Shop::open() else { return };
    // The first backup of all looks at the database before it makes a repository, and would wait there.
    shop.back_up();
    for locks in [None, Some("--yield")] {
        let url = shop.url();
        let line: Vec<&str> = ["--json", "backup", &url].into_iter().chain(locks).collect();
        let run = run_beside_migrations(&shop, &line, None);
        run.expect(1);
        assert_eq!(run.stderr.matches(AGAIN).count(), 3, "{}", run.stderr);
        let document = run.document();
        let database = &document["databases"][0];
        assert_eq!((&database["status"], &database["error"]["kind"]), (&json!("failed"), &json!("changed")));
        assert_eq!(database["error"]["hint"], "start again when the migration is over", "{document:#}");
        assert_eq!(shop.snapshots(), 1, "that of the first backup");
    }
}

#[test]
fn comparison_whose_table_is_rewritten_begins_again_and_gives_up_at_last() {
    let Some(shop) = Shop::open() else { return };
    shop.back_up();
    let line = ["--json", "compare", "latest"];
    let text = format!("[databases.shop]\npostgres = \"{}\"\n", shop.url());
    fs::write(shop.environment.path("dbkeep.toml"), text).unwrap();
    let run = run_beside_migrations(&shop, &line, Some(1));
    run.expect(0);
    assert_eq!(run.stderr.matches(AGAIN).count(), 1, "{}", run.stderr);
    let document = run.document();
    let tables = document["tables"].as_array().unwrap();
    let rows = |name: &str| {
        let table = tables.iter().find(|table| table["name"] == name).unwrap();
        (table["rows_left"].as_u64().unwrap(), table["rows_right"].as_u64().unwrap())
    };
    assert_eq!((rows("public.orders"), rows("audit.log")), ((20_000, 101), (50, 51)), "{document:#}");

    let run = run_beside_migrations(&shop, &line, None);
    run.expect(1);
    assert_eq!(run.stderr.matches(AGAIN).count(), 3, "{}", run.stderr);
    assert_eq!(run.document()["error"]["kind"], "changed");
}

/// Puts a `pg_dump` first in the PATH that keeps its lock of `orders` when it has written everything, once: until there
/// is a file `go on`, or somebody ends its session. A backup that neither makes way nor is told to go on does so after a
/// minute, and the test sees that it did not begin again.
fn with_pg_dump_that_holds_on(shop: &Shop) -> TestEnvironment {
    let environment = TestEnvironment::new();
    let real = shop.server.programs().program("");
    let (bin, real) = (environment.path("bin"), real.display());
    fs::create_dir(&bin).unwrap();
    let here = environment.path("");
    let script = format!(
        "{real}/pg_dump \"$@\" || exit
         [ \"$1\" = --version ] || [ -e {here}/held ] && exit
         touch {here}/held
         {{ echo 'BEGIN; LOCK TABLE orders IN ACCESS SHARE MODE;'
           left=1200
           while [ ! -e '{here}/go on' ] && [ -e {here}/held ] && [ $left -gt 0 ]; do
             echo 'SELECT 1;'; sleep 0.05; left=$((left - 1))
           done
         }} | {real}/psql -X -q -v ON_ERROR_STOP=1 >/dev/null\n",
        here = here.display()
    );
    executable(&bin.join("pg_dump"), &script);
    executable(&bin.join("pg_restore"), &format!("exec {real}/pg_restore \"$@\""));
    environment.with("PATH", &format!("{}:/usr/bin:/bin", bin.display()))
}

/// Who is in the way of a migration, by what they call themselves.
const IN_THE_WAY: &str =
    "SELECT string_agg(DISTINCT split_part(other.application_name, ' ', 2), ',') FROM pg_locks l
    JOIN pg_stat_activity a USING (pid) CROSS JOIN LATERAL unnest(pg_blocking_pids(pid)) AS b (pid)
    JOIN pg_stat_activity other ON other.pid = b.pid
    WHERE NOT l.granted AND a.application_name = 'a migration'";

fn migration(shop: &Shop) -> Child {
    let sql = "ALTER TABLE orders ALTER COLUMN note TYPE varchar(99)";
    psql(&shop.server, "a migration").args(["-c", sql]).stdin(Stdio::null()).spawn().unwrap()
}

/// Waits until our `pg_dump` has written everything and still has its locks.
fn until_held(shop: &Shop, environment: &TestEnvironment) {
    let held = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
        WHERE relation = 'orders'::regclass AND granted AND application_name LIKE '% pg_dump %'";
    until(|| environment.path("held").exists() && shop.server.sql("shop", held) != "0");
}

#[test]
fn migration_waits_until_a_backup_is_done_that_was_not_told_to_yield() {
    let Some(shop) = Shop::open() else { return };
    let environment = with_pg_dump_that_holds_on(&shop);
    let run = thread::scope(|scope| {
        let backup = scope.spawn(|| environment.run(["backup", &shop.url()]));
        until_held(&shop, &environment);
        let mut migration = migration(&shop);
        // Beside `pg_dump` the backup itself has the table.
        until(|| shop.server.sql("shop", IN_THE_WAY) == ",pg_dump");
        fs::write(environment.path("go on"), "").unwrap();
        let run = backup.join().unwrap();
        assert!(migration.wait().unwrap().success());
        run
    });
    run.expect(0);
    assert!(!run.stderr.contains(AGAIN), "{}", run.stderr);
    assert_eq!(note_in_snapshot(&environment, &shop), "text");
}

#[test]
fn migration_gets_through_while_a_yielding_backup_goes_on() {
    let Some(shop) = Shop::open() else { return };
    let environment = with_pg_dump_that_holds_on(&shop);
    let run = thread::scope(|scope| {
        let backup = scope.spawn(|| environment.run(["backup", &shop.url(), "--yield"]));
        until_held(&shop, &environment);
        // Nobody tells `pg_dump` to go on: it ends because the backup makes way.
        assert!(migration(&shop).wait().unwrap().success());
        backup.join().unwrap()
    });
    run.expect(0);
    assert_eq!(run.stderr.matches(AGAIN).count(), 1, "{}", run.stderr);
    assert!(run.stderr.contains("shop: the backup made way for process "), "{}", run.stderr);
    assert!(
        run.stderr.contains(", a migration, active), for public.orders: it begins again"),
        "{}",
        run.stderr
    );
    assert!(!environment.path("go on").exists());
    assert_eq!(note_in_snapshot(&environment, &shop), "character varying");
}

/// Returns the type of a column in the newest snapshot.
fn note_in_snapshot(environment: &TestEnvironment, shop: &Shop) -> String {
    environment.ok(["restore", "latest", "--to", "restored"]);
    shop.server.sql(
        "restored",
        "SELECT data_type FROM information_schema.columns WHERE table_name = 'orders' AND column_name = 'note'",
    )
}
