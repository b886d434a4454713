//! Rows of tables that extensions made: where the extension is not, is another one, or is for others.

use dbkeep_postgres::Result;
use dbkeep_postgres::catalog::Table;
use dbkeep_postgres::restore::{Loss, Place, Restore, Unfilled};
use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use crate::support::{Backup, back_up, info, tools};

/// A schedule, and a table of the user's own.
const ORIGIN: &str = "CREATE SCHEMA cron;
    CREATE TABLE cron.job (id int PRIMARY KEY, command text);
    CREATE TABLE cron.run (id int PRIMARY KEY, job int REFERENCES cron.job);
    CREATE TABLE mine (n int); INSERT INTO mine VALUES (1), (2), (3);
    INSERT INTO cron.job VALUES (1, 'vacuum'), (2, 'nothing'); INSERT INTO cron.run VALUES (7, 2);";

const TABLES: [&str; 2] = ["job", "run"];

/// Makes every new database have an extension of that name, whose tables are made by `sql`.
fn install(server: &Server, sql: &str) {
    let closed =
        |is: bool| format!("UPDATE pg_database SET datallowconn = {} WHERE datname = 'template0'", !is);
    server.sql("postgres", &closed(false));
    server.sql(
        "template0",
        &format!("DROP EXTENSION IF EXISTS clockwork; DROP SCHEMA IF EXISTS cron; CREATE SCHEMA cron; {sql}"),
    );
    server.pretend_extension("template0", "clockwork", "cron", &TABLES);
    server.sql("postgres", &closed(true));
}

fn uninstall(server: &Server) {
    server.sql("postgres", "UPDATE pg_database SET datallowconn = true WHERE datname = 'template0'");
    server.sql("template0", "DROP EXTENSION clockwork; DROP SCHEMA cron");
    server.sql("postgres", "UPDATE pg_database SET datallowconn = false WHERE datname = 'template0'");
}

/// Restores, and compares all rows that went in. Returns what did not.
fn restore(backup: &Backup, server: &Server, database: &str) -> Result<(Vec<Unfilled>, Vec<Loss>)> {
    let mut restore: Restore<'_> = backup.begin(&info(server, database))?;
    restore.create(&backup.properties)?;
    restore.before_rows()?;
    let tables = backup.tables();
    let only_tables: Vec<&Table> = tables.iter().map(|(table, _)| *table).collect();
    let unfilled = restore.rows(&only_tables, &backup.rows)?;
    assert_eq!(restore.after_rows(&tables)?, []);
    restore.last()?;
    Ok((unfilled, restore.promote(&Place::New)?.losses))
}

fn names(unfilled: &[Unfilled]) -> Vec<(&str, &str)> {
    unfilled.iter().map(|one| (one.table.name.as_str(), one.why.as_str())).collect()
}

/// Its columns have types of an extension, which not every server has.
const HSTORE: &str = r#"CREATE SCHEMA ext; CREATE EXTENSION hstore SCHEMA ext;
    CREATE TABLE settings (id int PRIMARY KEY, h ext.hstore, hs ext.hstore[]);
    CREATE INDEX by_key ON settings USING gin (h);
    INSERT INTO settings VALUES (1, '"a b"=>"tab	 \"quoted\" \\ é", "null"=>"NULL", empty=>"", none=>NULL', '{"a=>1",NULL,""}'),
        (2, '', '{}'), (3, NULL, NULL);
    INSERT INTO settings (id, h) SELECT n, ext.hstore('key ' || n, repeat(n::text, 100)) FROM generate_series(4, 2000) n"#;

#[test]
fn values_of_types_of_an_extension_come_back_as_they_were() {
    let mut has_one = false;
    for programs in &Programs::all() {
        let server = Server::start(programs, &Settings::default());
        let there = "SELECT count(*) FROM pg_available_extensions WHERE name = 'hstore'";
        if server.sql("postgres", there) == "0" {
            continue;
        }
        has_one = true;
        server.create_database("origin");
        server.sql("origin", HSTORE);
        let backup = back_up(&server, "origin", &tools(programs));
        assert_eq!(restore(&backup, &server, "back").unwrap(), (vec![], vec![]));
        for sql in [
            "SELECT * FROM settings ORDER BY id",
            "SELECT id FROM settings WHERE h OPERATOR(ext.?) 'key 77'",
            "SELECT md5(string_agg(encode(ext.hstore_send(h), 'hex'), ',' ORDER BY id)) FROM settings",
        ] {
            assert_eq!(server.sql("back", sql), server.sql("origin", sql), "{sql}");
        }
    }
    if !has_one {
        println!("skipped: no server with hstore is installed");
    }
}

#[test]
fn rows_of_an_extension_go_in_where_they_can_and_are_told_where_they_cannot() {
    for programs in &Programs::all() {
        let server = Server::start(programs, &Settings::default());
        server.create_database("origin");
        server.sql("origin", ORIGIN);
        server.pretend_extension("origin", "clockwork", "cron", &TABLES);
        let backup = back_up(&server, "origin", &tools(programs));
        let (unfilled, losses) = restore(&backup, &server, "without").unwrap();
        let why = "the extension clockwork could not be restored";
        assert_eq!(names(&unfilled), [("job", why), ("run", why)]);
        assert_eq!(losses.len(), 1, "{losses:?}");
        assert_eq!(losses[0].what, "extension clockwork");
        assert_eq!(server.sql("without", "SELECT count(*) FROM mine"), "3");

        let job = "CREATE TABLE cron.job (id int PRIMARY KEY, command text);";
        let run = "CREATE TABLE cron.run (id int PRIMARY KEY, job int REFERENCES cron.job);";
        install(&server, &format!("{job} {run}"));
        assert_eq!(restore(&backup, &server, "with it").unwrap(), (vec![], vec![]));
        let count = "SELECT (SELECT count(*) FROM cron.job), (SELECT count(*) FROM cron.run), (SELECT count(*) FROM mine)";
        assert_eq!(server.sql("with it", count), "2|1|3");

        // One that has no such column, and one whose rows refer to what did not come.
        install(&server, &format!("CREATE TABLE cron.job (id int PRIMARY KEY, line text); {run}"));
        let (unfilled, losses) = restore(&backup, &server, "another version").unwrap();
        assert_eq!(losses, []);
        assert_eq!(unfilled.len(), 2, "{unfilled:?}");
        assert!(unfilled[0].why.contains("\"command\" of relation \"job\""), "{unfilled:?}");
        assert!(unfilled[1].why.contains("violates foreign key constraint"), "{unfilled:?}");
        assert_eq!(server.sql("another version", count), "0|0|3");

        // What the extension has there already stays, and is not doubled.
        install(&server, &format!("{job} {run} INSERT INTO cron.job VALUES (2, 'of its own')"));
        let (unfilled, _) = restore(&backup, &server, "taken").unwrap();
        assert_eq!(unfilled[0].table.name, "job");
        assert_eq!(server.sql("taken", "SELECT * FROM cron.job"), "2|of its own");
        uninstall(&server);
    }
    if Programs::all().is_empty() {
        println!("{SKIPPED}");
    }
}
