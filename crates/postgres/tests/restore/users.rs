//! Restores by users who may not do everything.

use dbkeep_postgres::archive::Archive;
use dbkeep_postgres::restore::{Place, Restore, RestoreOptions};
use dbkeep_postgres::wire::Options;
use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use crate::roundtrip::make;
use crate::support::{back_up, info_as, stock_dump, tools};

#[test]
fn user_who_may_only_make_databases_restores_all_but_what_is_listed() {
    for programs in &Programs::all() {
        let server = Server::start(programs, &Settings::default());
        make(&server, "origin");
        server.sql(
            "origin",
            "ALTER TABLE app.child OWNER TO pg_monitor; GRANT SELECT ON app.parent TO pg_monitor",
        );
        server.sql("postgres", "CREATE ROLE modest LOGIN CREATEDB");
        let backup = back_up(&server, "origin", &tools(programs));
        let place = info_as(&server, "brought back", "modest");
        let how = RestoreOptions { jobs: 2, owners: false, ..RestoreOptions::default() };
        let archive = || Archive::open(backup.archive.path()).unwrap();
        let mut restore =
            Restore::begin(&place, &Options::default(), &how, archive(), &backup.catalog, "1").unwrap();
        backup.fill(&mut restore, &backup.rows).unwrap();
        let promoted = restore.promote(&Place::New).unwrap();
        let lost: Vec<&str> = promoted.losses.iter().map(|loss| loss.what.as_str()).collect();
        assert_eq!(lost, ["event trigger watch"]);
        let owner = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'app'::regnamespace";
        assert_eq!(server.sql("brought back", owner), "modest");
        let text = stock_dump(programs, &server, "brought back", "-s");
        assert!(text.contains("GRANT SELECT ON TABLE app.parent TO pg_monitor"), "{text}");

        // With owners: those that it may not give are listed one by one.
        let place = info_as(&server, "again", "modest");
        let mut restore = Restore::begin(
            &place,
            &Options::default(),
            &RestoreOptions { owners: true, ..how },
            archive(),
            &backup.catalog,
            "1",
        )
        .unwrap();
        backup.fill(&mut restore, &backup.rows).unwrap();
        let lost: Vec<String> = restore.losses().iter().map(|loss| loss.what.clone()).collect();
        assert!(lost.contains(&"owner \"pg_monitor\" of table app.child".to_owned()), "{lost:?}");
        assert!(lost.contains(&"owner \"postgres\" of table app.parent".to_owned()), "{lost:?}");
        restore.promote(&Place::New).unwrap();
    }
    if Programs::all().is_empty() {
        println!("{SKIPPED}");
    }
}
