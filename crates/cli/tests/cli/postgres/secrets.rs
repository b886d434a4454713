//! Passwords of hostile characters that are right: everything works with them, and nothing shows them.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use dbkeep_testkit::postgres::Settings;

use super::{Shop, executable};
use crate::secrets::{ENDS, expect_hidden, expect_in_no_file, shows};

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

/// Arguments of a process can be seen by everybody on the machine while it runs, its variables by its user.
#[test]
fn programs_get_a_password_in_no_argument_and_only_those_that_reach_a_server_get_it_at_all() {
    let access = vec!["host all hostile 127.0.0.1/32 scram-sha-256".to_owned()];
    let Some(shop) = Shop::with(&Settings { access, ..Settings::default() }) else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    let password = ENDS.concat();
    server.sql("shop", &format!("CREATE ROLE hostile LOGIN SUPERUSER PASSWORD '{password}'"));
    // The server of a drill may belong to another user, who gets in here.
    let folder = server.socket_folder().join("programs");
    fs::create_dir(&folder).unwrap();
    let all = ["pg_dump", "pg_restore", "initdb", "postgres"];
    for name in all {
        let [arguments, variables] = ["arguments", "variables"].map(|what| {
            let path = folder.join(format!("{what} of {name}"));
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
            path
        });
        let script = format!(
            "printf '%s\\n' \"$0\" \"$@\" >>'{}'; env >>'{}'\nexec '{}' \"$@\"",
            arguments.display(),
            variables.display(),
            server.programs().program(name).display()
        );
        executable(&folder.join(name), &script);
    }
    let url =
        |database: &str| format!("postgres://hostile:{password}@127.0.0.1:{}/{database}", server.port());
    fs::write(environment.path(".env"), format!("URL={}\nBACK={}\n", url("shop"), url("back"))).unwrap();
    let text = format!("[databases.shop]\npostgres = \"env:URL\"\npg-bin-dir = \"{}\"\n", folder.display());
    fs::write(environment.path("dbkeep.toml"), text).unwrap();
    for line in [
        &["backup"][..],
        &["verify", "latest"],
        &["compare", "latest"],
        &["drill"],
        &["drill", "--server", "env:URL"],
        &["restore", "latest", "--to", "env:BACK"],
        &["restore", "latest", "--in-place", "--yes", "--table", "audit.log"],
        &["restore", "latest", "--in-place", "--yes"],
    ] {
        environment.ok(line);
    }
    let noted =
        |what: &str, name: &str| fs::read_to_string(folder.join(format!("{what} of {name}"))).unwrap();
    for name in all {
        let arguments = noted("arguments", name);
        assert!(arguments.lines().count() > 1 && !shows(&arguments), "{name}: {arguments}");
    }
    let told: BTreeSet<&str> = all.into_iter().filter(|name| shows(&noted("variables", name))).collect();
    assert_eq!(told, BTreeSet::from(["pg_dump"]));
    for line in noted("variables", "pg_dump").lines().filter(|line| shows(line)) {
        assert!(line.starts_with("PGPASSWORD="), "{line}");
    }
}
