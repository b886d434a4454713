//! Whose a session on a server is: the command's, or that of what the command has left behind.

use std::thread;
use std::time::Duration;

use super::postgres::{shop, shop_with};
use dbkeep_testkit::postgres::Settings;

use crate::environment::Run;
use crate::postgres::Shop;

fn guard(shop: &Shop, url: &str, script: &str) -> Run {
    shop.environment.run(["--json", "guard", url, "--", "sh", "-c", script])
}

/// Sessions over TCP are told by their sockets, whatever they call themselves.
#[test]
fn command_that_comes_over_tcp_under_any_name_is_undone() {
    let Some(shop) = shop() else { return };
    let contents = shop.server.contents("shop");
    let url = format!("postgresql://postgres@127.0.0.1:{}/shop", shop.server.port());
    let script = format!(
        "psql -qX '{url}?application_name=migrate' -c 'DELETE FROM orders' -c 'SELECT pg_sleep(0.5)'; exit 7"
    );
    let run = guard(&shop, &url, &script);
    run.expect(7);
    let report = run.document();
    assert_eq!(report["outcome"], "restored", "{report:#}");
    assert_eq!(shop.server.contents("shop"), contents);
}

/// It bears the name that the command was given, and goes on to write when the command is gone.
#[test]
fn daemon_that_the_command_starts_is_somebody_else() {
    let Some(shop) = shop() else { return };
    shop.server.sql("shop", "CREATE TABLE theirs (a int)");
    let tcp = format!("postgresql://postgres@127.0.0.1:{}/shop", shop.server.port());
    for url in [shop.url(), tcp] {
        let script = format!(
            "setsid psql -qX '{url}' -c 'INSERT INTO theirs VALUES (1)' -c 'SELECT pg_sleep(20)' </dev/null >daemon 2>&1 & \
             until test \"$(psql -qAtX -c 'SELECT count(*) FROM theirs')\" != 0; do sleep 0.1; done; \
             psql -qX -c 'DELETE FROM orders'; exit 1"
        );
        let run = guard(&shop, "env:DATABASE_URL", &script);
        run.expect(1);
        let report = run.document();
        assert_eq!(report["outcome"], "kept", "{url}: {report:#}");
        assert_eq!(report["databases"][0]["alone"], false, "{report:#}");
        assert_eq!(shop.server.sql("shop", "SELECT count(*) FROM theirs"), "1");
        shop.server.sql("shop", "TRUNCATE theirs");
        let daemons = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ 'sleep.20' \
                       AND pid <> pg_backend_pid()";
        shop.server.sql("postgres", daemons);
    }
}

#[test]
fn daemon_of_a_command_that_succeeds_goes_on() {
    let Some(shop) = shop() else { return };
    let script = "setsid sh -c \"psql -qX -c 'SELECT pg_sleep(4)' && touch survived || touch ended\" </dev/null >/dev/null 2>&1 & \
                  until test \"$(psql -qAtX -c \"SELECT count(*) FROM pg_stat_activity WHERE query ~ 'sleep.4'\")\" = 2; \
                  do sleep 0.1; done";
    let run = guard(&shop, "env:DATABASE_URL", script);
    run.expect(0);
    assert_eq!(run.document()["outcome"], "succeeded");
    let (survived, ended) = (shop.environment.path("survived"), shop.environment.path("ended"));
    while !survived.exists() && !ended.exists() {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(survived.exists(), "nobody ended its session");
}

/// Anybody may commit it, at any time, and needs no session until then.
#[test]
fn transaction_that_was_prepared_is_not_rolled_back() {
    let configuration = vec!["max_prepared_transactions = 5".to_owned()];
    let Some(shop) = shop_with(&Settings { configuration, ..Settings::default() }) else { return };
    shop.server.sql("shop", "CREATE TABLE theirs (a int)");
    shop.server.sql("shop", "BEGIN; INSERT INTO theirs VALUES (1); PREPARE TRANSACTION 'theirs'");
    let run = guard(&shop, "env:DATABASE_URL", "psql -qX -c 'DELETE FROM orders'; exit 1");
    run.expect(1);
    let report = run.document();
    assert_eq!(report["outcome"], "kept", "{report:#}");
    assert!(
        report["databases"][0]["doubts"].to_string().contains("a prepared transaction waits"),
        "{report:#}"
    );
    shop.server.sql("shop", "COMMIT PREPARED 'theirs'");
    assert_eq!(shop.server.sql("shop", "SELECT count(*) FROM theirs"), "1");
}

/// Who may not see all sees that others are there, and not what they are called.
#[test]
fn owner_who_is_no_superuser_sees_others_and_goes_back_without_them() {
    let Some(shop) = shop() else { return };
    shop.server.sql("postgres", "CREATE ROLE ada LOGIN CREATEDB");
    shop.server.sql("postgres", "CREATE DATABASE hers OWNER ada");
    let url = shop.server.url("hers").replace("postgres@", "ada@");
    let psql = format!("psql -qX '{url}'");
    shop.environment
        .run(["guard", &url, "--", "sh", "-c", &format!("{psql} -c 'CREATE TABLE t AS SELECT 1 AS a'")])
        .expect(0);
    let script = format!("{psql} -c 'DELETE FROM t'; exit 1");

    let mut other = std::process::Command::new(shop.server.programs().program("psql"));
    let mut other = other
        .args(["-qX", &shop.server.url("hers"), "-c", "SELECT pg_sleep(600)"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while shop.server.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = 'hers'") == "0" {
        thread::sleep(Duration::from_millis(20));
    }
    let run = guard(&shop, &url, &script);
    run.expect(1);
    assert_eq!(run.document()["outcome"], "kept", "{}", run.stdout);
    assert_eq!(shop.server.sql("hers", "SELECT count(*) FROM t"), "0");

    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ 'sleep.600' AND pid <> pg_backend_pid()";
    shop.server.sql("postgres", end);
    other.wait().unwrap();
    shop.server.sql("hers", "INSERT INTO t VALUES (1)");
    let run = guard(&shop, &url, &script);
    run.expect(1);
    assert_eq!(run.document()["outcome"], "restored", "{}\n{}", run.stdout, run.stderr);
    assert_eq!(shop.server.sql("hers", "SELECT a FROM t"), "1");
}

#[test]
fn database_that_cannot_go_back_holds_back_all_others() {
    let Some(shop) = shop() else { return };
    shop.server.sql("postgres", "CREATE ROLE bob LOGIN");
    shop.server.sql("postgres", "CREATE DATABASE his OWNER bob");
    let url = shop.server.url("his").replace("postgres@", "bob@");
    let psql = format!("psql -qX '{url}'");
    let path = shop.environment.users("app.db", 10);
    shop.environment
        .run(["guard", &url, "--", "sh", "-c", &format!("{psql} -c 'CREATE TABLE t AS SELECT 1 AS a'")])
        .expect(0);
    let script = format!("{psql} -c 'DELETE FROM t'; sqlite3 app.db 'DELETE FROM users'; exit 1");
    let run = shop.environment.run(["--json", "guard", &url, "app.db", "--", "sh", "-c", &script]);
    run.expect(125);
    assert!(run.stderr.contains("guard --resume"), "{}", run.stderr);
    assert_eq!(crate::environment::ask::<i64>(&path, "SELECT count(*) FROM users"), 0, "all or none");
    assert_eq!(shop.server.sql("his", "SELECT count(*) FROM t"), "0");
}
