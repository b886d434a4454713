//! What a database has beside its contents comes back with its name: owner, rights, settings, comment, limits.

use dbkeep_postgres::archive::Archive;
use dbkeep_postgres::attributes::Attributes;
use dbkeep_postgres::catalog::Catalog;
use dbkeep_postgres::globals::Globals;
use dbkeep_postgres::restore::{Loss, Place, Restore, RestoreOptions};
use dbkeep_postgres::snapshot::{Holder, identifier};
use dbkeep_postgres::wire::{Connection, Options};
use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use crate::support::{Backup, back_up, info, info_as, tools};

const NAME: &str = "shop\"; DROP DATABASE postgres; --'";

const SET: &str = r#"
    CREATE ROLE "the ""owner"; CREATE ROLE clerk LOGIN; CREATE ROLE guest;
    ALTER DATABASE NAME SET search_path TO '$user', 'a "schema", b', 'public';
    ALTER DATABASE NAME SET "my.secret" TO E'it''s = \\ "quoted", b'; ALTER DATABASE NAME SET statement_timeout TO '1h';
    ALTER ROLE clerk IN DATABASE NAME SET TimeZone TO 'UTC'; ALTER ROLE guest IN DATABASE NAME SET work_mem TO '7MB';
    COMMENT ON DATABASE NAME IS E'of ''ours''\n--'; ALTER DATABASE NAME CONNECTION LIMIT 5 IS_TEMPLATE true;
    ALTER DATABASE NAME OWNER TO "the ""owner";
    REVOKE ALL ON DATABASE NAME FROM PUBLIC; REVOKE TEMPORARY ON DATABASE NAME FROM "the ""owner";
    GRANT CONNECT ON DATABASE NAME TO clerk WITH GRANT OPTION; GRANT CREATE ON DATABASE NAME TO guest, postgres;
"#;

/// Returns everything that a database has beside its contents, as text.
fn all(server: &Server, name: &str) -> String {
    let name = name.replace('\'', "''");
    server.sql(
        "postgres",
        &format!(
            "SELECT datdba::regrole, datconnlimit, datistemplate, shobj_description(oid, 'pg_database'),
                    (SELECT string_agg(x::text, ' ' ORDER BY x::text) FROM unnest(datacl) x)
             FROM pg_database WHERE datname = '{name}';
             SELECT setrole::regrole, setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
             WHERE datname = '{name}' ORDER BY 1"
        ),
    )
}

fn attributes(server: &Server, name: &str) -> Attributes {
    let connection = Connection::open(&info(server, name), &Options::default()).unwrap();
    Globals::read(Holder::begin(connection).unwrap().connection()).unwrap().attributes
}

/// Restores by somebody under a name. Returns what could not be restored.
fn restore(
    backup: &Backup,
    server: &Server,
    (name, user): (&str, &str),
    how: &RestoreOptions,
    given: &Attributes,
) -> Vec<Loss> {
    let (place, archive) = (info_as(server, name, user), Archive::open(backup.archive.path()).unwrap());
    let mut restore =
        Restore::begin(&place, &Options::default(), how, archive, &backup.catalog, "1").unwrap();
    backup.fill(&mut restore, &backup.rows).unwrap();
    restore.give(given);
    restore.promote(&Place::New).unwrap().losses
}

#[test]
fn database_under_another_name_has_what_the_original_had() {
    for programs in &Programs::all() {
        let server = Server::start(programs, &Settings::default());
        server.create_database(NAME);
        server.sql(NAME, "CREATE TABLE t (n int)");
        server.sql("postgres", &SET.replace("NAME", &identifier(NAME)));
        let before = all(&server, NAME);
        assert!(before.contains("my.secret") && before.contains("clerk=c*/"), "{before}");
        let (mut backup, given) = (back_up(&server, NAME, &tools(programs)), attributes(&server, NAME));
        // As it is stored, and as an older backup stored it.
        assert_eq!(backup.catalog.database, None);
        let older = serde_json::to_string(&backup.catalog).unwrap();
        backup.catalog.database = Some(given.clone());
        let stored: Catalog = serde_json::from_str(&serde_json::to_string(&backup.catalog).unwrap()).unwrap();
        assert_eq!(stored.database, Some(given.clone()));
        assert_eq!(serde_json::from_str::<Catalog>(&older).unwrap().database, None);
        assert!(!format!("{given:?}").contains("quoted"), "values of settings may be secret");
        let how = RestoreOptions::default();
        assert_eq!(restore(&backup, &server, ("another; name", "postgres"), &how, &given), []);
        assert_eq!(all(&server, "another; name"), before, "PostgreSQL {}", programs.major);
        assert_eq!(all(&server, NAME), before, "the original is as it was");

        // What the archive says of the original is not said to it: it may have changed since.
        server.sql("postgres", &format!("COMMENT ON DATABASE {} IS 'newer'", identifier(NAME)));
        server.sql("postgres", &format!("GRANT ALL ON DATABASE {} TO PUBLIC", identifier(NAME)));
        let newer = all(&server, NAME);
        assert_eq!(restore(&backup, &server, ("yet another", "postgres"), &how, &given), []);
        assert_eq!(all(&server, NAME), newer);

        // Parts that are not wanted are left out without a word, and nothing is granted to nobody.
        let how = RestoreOptions { owners: false, privileges: false, ..how };
        assert_eq!(restore(&backup, &server, ("plain", "postgres"), &how, &given), []);
        let plain = all(&server, "plain");
        assert!(plain.starts_with("postgres|5|t|of 'ours'\n--|\n-|{"), "{plain}");
        assert_eq!(plain.lines().count(), 3, "settings of the database alone: {plain}");
        let how = RestoreOptions { owners: false, privileges: true, ..how };
        assert_eq!(restore(&backup, &server, ("given", "postgres"), &how, &given), []);
        assert!(all(&server, "given").contains("clerk=c*/postgres"), "{}", all(&server, "given"));

        // In place it is what the database has now that counts.
        server.sql("postgres", "ALTER DATABASE \"another; name\" SET statement_timeout TO '2h'");
        let now = all(&server, "another; name");
        let mut restore = backup.begin(&info(&server, "another; name")).unwrap();
        backup.fill(&mut restore, &backup.rows).unwrap();
        restore.give(&given);
        let promoted = restore.promote(&Place::Over { disconnect: false }).unwrap();
        assert_eq!((promoted.losses, all(&server, "another; name")), (vec![], now));
    }
    if Programs::all().is_empty() {
        println!("{SKIPPED}");
    }
}

#[test]
fn what_cannot_be_given_is_told_one_by_one_and_the_rest_is_given() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("shop");
    server.sql("postgres", &SET.replace("NAME", "shop"));
    let (backup, given) = (back_up(&server, "shop", &tools(&programs)), attributes(&server, "shop"));
    let other = Server::start(&programs, &Settings::default());
    other.sql("postgres", "CREATE ROLE modest LOGIN CREATEDB; CREATE ROLE clerk");
    let losses = restore(&backup, &other, ("moved", "modest"), &RestoreOptions::default(), &given);
    let lost: Vec<(&str, &str)> = losses.iter().map(|loss| (loss.what.as_str(), loss.why.as_str())).collect();
    let (no_owner, no_guest) = ("role \"the \"owner\" does not exist", "role \"guest\" does not exist");
    let of_clerk = lost.iter().filter(|(what, _)| what.contains("for \"clerk\"")).count();
    let others: Vec<(&str, &str)> =
        lost.iter().copied().filter(|(what, _)| !what.contains("for \"clerk\"")).collect();
    assert_eq!(of_clerk, 1, "a role of others, whose settings are not for this user: {lost:?}");
    assert_eq!(
        others,
        [
            ("setting my.secret of the database", "permission denied to set parameter \"my.secret\""),
            ("setting work_mem of the database for \"guest\"", no_guest),
            ("owner \"the \"\"owner\" of the database", no_owner),
            ("privilege CREATE on the database for \"the \"\"owner\"", no_owner),
            ("privilege CONNECT on the database for \"the \"\"owner\"", no_owner),
            ("privilege CREATE on the database for \"guest\"", no_guest),
        ]
    );
    let found = all(&other, "moved");
    assert!(found.starts_with("modest|5|t|of 'ours'"), "{found}");
    assert!(found.contains("statement_timeout=1h") && found.contains("clerk=c*/modest"), "{found}");
}
