//! A pooler between us and the server: one that shares connections is refused before anything is read, another is not.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use dbkeep_testkit::pooler::Pooler;
use dbkeep_testkit::postgres::{SKIPPED, Server, Settings};
use dbkeep_testkit::session::{Over, Session};
use serde_json::json;

use super::{SHOP, Shop};

const USER: (&str, &str) = ("pooled", "pooled");

/// Starts a shop whose user of poolers has a password.
fn shop() -> Option<Shop> {
    let access = vec!["host all pooled 127.0.0.1/32 scram-sha-256".to_owned()];
    let shop = Shop::with(&Settings { access, ..Settings::default() })?;
    shop.server.sql("shop", "CREATE ROLE pooled SUPERUSER LOGIN PASSWORD 'pooled'");
    Some(shop)
}

fn url(port: u16) -> String {
    format!("postgresql://pooled:pooled@127.0.0.1:{port}/shop")
}

#[test]
fn pooler_that_shares_connections_is_refused_and_one_of_sessions_is_not() {
    let Some(shop) = shop() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    let poolers = ["transaction", "session"].map(|mode| Pooler::start(server, mode, &[USER]));
    let [Some(transaction), Some(session)] = poolers else { return println!("{SKIPPED}: no pgbouncer") };

    let (code, document) = environment.json(&["backup", &url(transaction.port())]);
    let error = &document["error"];
    assert_eq!((code, error["kind"].as_str()), (Some(1), Some("pooler")), "{document:#}");
    assert!(error["hint"].as_str().unwrap().contains("address of the server itself"), "{error}");
    assert_eq!(shop.snapshots(), 0);
    let (code, report) = environment.json(&["doctor", &url(transaction.port())]);
    assert_eq!(code, Some(4), "{report:#}");
    assert!(report.to_string().contains("pooler"), "{report:#}");

    environment.ok(["backup", &url(session.port())]);
    environment.ok(["restore", "latest", "--to", &server.url("back")]);
    server.create_database("reference");
    server.sql("reference", SHOP);
    shop.expect_same("reference", server, "back");
}

/// An application that does nothing but short transactions until it is over.
fn keep_busy(server: &Server, pooler: &Pooler, is_over: &AtomicBool) {
    let mut psql = Command::new(server.programs().program("psql"));
    let mut session = Session::begin(psql.args(["-Xq", "-v", "ON_ERROR_STOP=1", "-d", &url(pooler.port())]));
    while !is_over.load(Ordering::Relaxed) {
        session.run(&"SELECT count(*), pg_sleep(random() * 0.004) FROM users;\n".repeat(20));
    }
    session.end();
}

#[test]
fn pooler_that_shares_connections_is_refused_while_others_keep_it_busy() {
    let Some(shop) = shop() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    let Some(pooler) = Pooler::start(server, "transaction", &[USER]) else {
        return println!("{SKIPPED}: no pgbouncer");
    };
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let over = Over(&is_over);
        let busy: Vec<_> = (0..6).map(|_| scope.spawn(|| keep_busy(server, &pooler, &is_over))).collect();
        let until = Instant::now() + Duration::from_secs(60);
        let pooled = "SELECT count(*) > 2 FROM pg_stat_activity WHERE usename = 'pooled'";
        while server.sql("postgres", pooled) != "t" {
            assert!(Instant::now() < until, "nobody is busy");
            thread::sleep(Duration::from_millis(20));
        }
        for line in [&["backup"][..], &["backup", "--yield"], &["backup", "--dry-run"], &["backup"]] {
            let (code, document) = environment.json(&[line, &[&url(pooler.port())]].concat());
            assert_eq!((code, &document["error"]["kind"]), (Some(1), &json!("pooler")), "{document:#}");
        }
        drop(over);
        busy.into_iter().for_each(|client| client.join().unwrap());
    });
    assert_eq!(shop.snapshots(), 0);
}

/// Who writes so for Prisma means a pooler that shares connections. Where a pooler answers, it cannot be told from here
/// that it does not.
#[test]
fn url_that_says_pooler_is_refused_where_one_answers_and_taken_where_the_server_does() {
    let Some(shop) = shop() else { return };
    let environment = &shop.environment;
    let Some(session) = Pooler::start(&shop.server, "session", &[USER]) else {
        return println!("{SKIPPED}: no pgbouncer");
    };
    let says = |port: u16| format!("{}?pgbouncer=true&schema=public", url(port));
    let (code, document) = environment.json(&["backup", &says(session.port())]);
    let error = &document["error"];
    assert_eq!((code, &error["kind"]), (Some(1), &json!("pooler")), "{document:#}");
    assert!(error["hint"].as_str().unwrap().contains("address of the server itself"), "{error}");
    let (_, report) = environment.json(&["doctor", &says(session.port())]);
    assert!(report.to_string().contains("the URL says that a pooler answers"), "{report:#}");
    assert_eq!(shop.snapshots(), 0);
    environment.ok(["backup", &says(shop.server.port())]);
}

#[test]
fn pooler_of_a_service_is_refused_with_the_address_to_use_instead() {
    let Some(shop) = shop() else { return };
    let environment = &shop.environment;
    // The port tells the one of transactions, and is free at an address that nobody else uses.
    let [high, low] = [std::process::id() / 250, std::process::id()].map(|number| number % 250 + 1);
    let address = format!("127.{high}.{low}.1");
    let pooler = Pooler::start_at((&address, 6543), &shop.server, "transaction", &[USER]);
    let Some(pooler) = pooler else { return println!("{SKIPPED}: no pgbouncer") };
    for (host, instead) in [
        ("aws-0-eu-central-1.pooler.supabase.com", "aws-0-eu-central-1.pooler.supabase.com:5432"),
        ("db.abcdefghijklm.supabase.co", "db.abcdefghijklm.supabase.co:5432"),
        ("ep-cool-1-pooler.eu-central-1.aws.neon.tech", "ep-cool-1.eu-central-1.aws.neon.tech:6543"),
    ] {
        let place = format!(
            "host={host} hostaddr={address} port={} user=pooled password=pooled dbname=shop sslmode=disable",
            pooler.port()
        );
        let run = environment.run(["backup", &place]);
        run.expect_failure(
            1,
            &format!("{host}:6543"),
            &format!("use the address without the pooler: {instead}"),
        );
        let (code, report) = environment.json(&["doctor", &place]);
        assert_eq!(code, Some(4), "{report:#}");
        let advice = format!("use postgresql://pooled@{instead}/shop");
        assert!(report["sources"][0].to_string().contains(&advice), "{report:#}");
    }
    assert_eq!(shop.snapshots(), 0);
}
