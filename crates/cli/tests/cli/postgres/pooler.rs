//! A pooler between us and the server: one that shares connections is refused before anything is read, another is not.

use dbkeep_testkit::pooler::Pooler;
use dbkeep_testkit::postgres::{SKIPPED, Settings};

use super::{SHOP, Shop};

const PASSWORD: &str = "pooled";

#[test]
fn pooler_that_shares_connections_is_refused_and_one_of_sessions_is_not() {
    let access = vec!["host all pooled 127.0.0.1/32 scram-sha-256".to_owned()];
    let Some(shop) = Shop::with(&Settings { access, ..Settings::default() }) else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    server.sql("shop", &format!("CREATE ROLE pooled SUPERUSER LOGIN PASSWORD '{PASSWORD}'"));
    let poolers = ["transaction", "session"].map(|mode| Pooler::start(server, mode, &[("pooled", PASSWORD)]));
    let [Some(transaction), Some(session)] = poolers else { return println!("{SKIPPED}: no pgbouncer") };
    let url = |pooler: &Pooler| format!("postgresql://pooled:{PASSWORD}@127.0.0.1:{}/shop", pooler.port());

    let (code, document) = environment.json(&["backup", &url(&transaction)]);
    let error = &document["error"];
    assert_eq!((code, error["kind"].as_str()), (Some(1), Some("pooler")), "{document:#}");
    assert!(error["hint"].as_str().unwrap().contains("address of the server itself"), "{error}");
    assert_eq!(shop.snapshots(), 0);
    let (code, report) = environment.json(&["doctor", &url(&transaction)]);
    assert_eq!(code, Some(4), "{report:#}");
    assert!(report.to_string().contains("pooler"), "{report:#}");

    environment.ok(["backup", &url(&session)]);
    environment.ok(["restore", "latest", "--to", &server.url("back")]);
    server.create_database("reference");
    server.sql("reference", SHOP);
    shop.expect_same("reference", server, "back");
}
