//! Passwords of hostile characters that are right: everything works with them, and nothing shows them.

use std::fs;

use dbkeep_testkit::postgres::Settings;

use super::Shop;
use crate::secrets::{ENDS, expect_hidden, expect_in_no_file};

#[test]
fn hostile_password_works_however_it_is_written_and_shows_nowhere() {
    let access = vec!["host all hostile 127.0.0.1/32 scram-sha-256".to_owned()];
    let Some(shop) = Shop::with(&Settings { access, ..Settings::default() }) else { return };
    let password = format!("{}?#:' \\\"&%{}", ENDS[0], ENDS[1]);
    let quoted = password.replace('\'', "''");
    shop.server.sql("shop", &format!("CREATE ROLE hostile LOGIN SUPERUSER PASSWORD '{quoted}'"));
    let (environment, port) = (&shop.environment, shop.server.port());
    let encoded = password.replace('%', "%25");
    let words = password.replace('\\', "\\\\").replace('\'', "\\'");
    let places = |database: &str| {
        [
            format!("postgres://hostile:{encoded}@127.0.0.1:{port}/{database}"),
            format!(
                "application_name=x password  = '{words}' port={port} host=127.0.0.1 user=hostile dbname={database}"
            ),
        ]
    };
    fs::write(environment.path("dbkeep.toml"), "[log]\nfile = \"dbkeep.log\"\nlevel = \"trace\"\n").unwrap();
    for (number, place) in places("shop").iter().enumerate() {
        environment.ok(["backup", place, "--name", "shop", "--adopt-name"]);
        expect_hidden(environment, &["backup", place, "--name", "shop", "--adopt-name"]);
        expect_hidden(environment, &["doctor", place]);
        expect_hidden(environment, &["drill", "--server", place]);
        expect_hidden(environment, &["restore", "latest", "--to", place]);
        let target = &places(&format!("made{number}"))[number];
        let run = environment.ok(["-vvv", "restore", "latest", "--to", target]);
        let shown = format!("{}{}", run.stdout, run.stderr);
        assert!(!ENDS.iter().any(|end| shown.contains(end)), "{shown}");
        assert_eq!(shop.server.sql(&format!("made{number}"), "SELECT count(*) FROM orders").trim(), "20000");
    }
    // The same out of `.env`, where what stands in single quotes is taken as it is.
    let [url, _] = places("shop");
    fs::write(
        environment.path(".env"),
        format!("URL=\"{}\"\n", url.replace('\\', "\\\\").replace('"', "\\\"")),
    )
    .unwrap();
    let config =
        "[log]\nfile = \"dbkeep.log\"\nlevel = \"trace\"\n[databases.shop]\npostgres = \"env:URL\"\n";
    fs::write(environment.path("dbkeep.toml"), config).unwrap();
    for line in [
        &["backup", "shop", "--adopt-name"][..],
        &["doctor", "shop"],
        &["compare", "latest"],
        &["drill", "--server", "env:URL"],
        &["restore", "latest", "--to", "env:URL"],
        &["status"],
        &["show", "latest"],
    ] {
        expect_hidden(environment, line);
    }
    environment.ok(["backup", "shop"]);
    environment.ok(["compare", "latest"]);
    environment.ok(["drill", "--server", "env:URL"]);
    expect_in_no_file(&environment.path(".."));
}
