//! The name that a restored database gets.

use std::thread;
use std::time::Duration;

use dbkeep_postgres::Error;
use dbkeep_postgres::restore::{Place, remove_unfinished, unfinished};
use dbkeep_postgres::wire::{Connection, Options};
use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use crate::support::{back_up, differences, info, stock_dump, tools};

/// Names that are something else to whoever pastes them: 63 bytes, the longest that there are.
const HOSTILE: [&str; 3] = [
    "-d x=y 'a' \"b\"\n\\; -- $1",
    "select",
    "\u{e4}\u{1f409}==========\u{e4}\u{1f409}==========\u{e4}\u{1f409}==========\u{e4}\u{1f409}=========",
];

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What a database has beside its contents, as the server lists it.
fn beside_contents(server: &Server, name: &str) -> String {
    let name = name.replace('\'', "''");
    server.sql(
        "postgres",
        &format!(
            "SELECT pg_get_userbyid(datdba), datconnlimit, datistemplate, shobj_description(oid, 'pg_database'),
                    (SELECT string_agg(coalesce(grantee::regrole::text, '') || privilege_type || is_grantable, ' ' ORDER BY 1)
                     FROM aclexplode(datacl)),
                    (SELECT string_agg(setrole::regrole || array_to_string(setconfig, ' '), ' ' ORDER BY setrole)
                     FROM pg_db_role_setting WHERE setdatabase = d.oid)
             FROM pg_database d WHERE datname = E'{}'",
            name.replace('\\', "\\\\")
        ),
    )
}

#[test]
fn restored_database_takes_the_place_of_another_with_what_that_one_has() {
    let versions = Programs::all();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    for programs in &versions {
        let server = Server::start(programs, &Settings::default());
        server.sql("postgres", "CREATE ROLE \"it's \"\"me\" LOGIN; CREATE ROLE other LOGIN CREATEDB");
        for name in HOSTILE {
            assert!(name.len() <= 63);
            server.create_database(name);
            let (name_sql, table) = (quoted(name), quoted(name));
            server.sql(
                name,
                &format!(
                    "CREATE SCHEMA {table}; CREATE TABLE {table}.{table} ({table} int PRIMARY KEY, t text)"
                ),
            );
            server.sql(
                name,
                &format!("INSERT INTO {table}.{table} SELECT n, 'row ' || n FROM generate_series(1, 100) n"),
            );
            let backup = back_up(&server, name, &tools(programs));
            let before = stock_dump(programs, &server, name, "-b");
            server.sql(name, &format!("INSERT INTO {table}.{table} VALUES (101, 'later')"));
            for change in [
                "SET search_path = \"$user\", public, \"a \"\"b\"",
                "SET default_transaction_read_only = on",
                "SET app.\"Mine\" = 'x=y''z'",
                "CONNECTION LIMIT 7",
                "IS_TEMPLATE true",
                "OWNER TO other",
            ] {
                server.sql("postgres", &format!("ALTER DATABASE {name_sql} {change}"));
            }
            server.sql(
                "postgres",
                &format!("ALTER ROLE \"it's \"\"me\" IN DATABASE {name_sql} SET work_mem = '5MB'"),
            );
            server.sql("postgres", &format!("REVOKE ALL ON DATABASE {name_sql} FROM PUBLIC; GRANT CONNECT ON DATABASE {name_sql} TO \"it's \"\"me\" WITH GRANT OPTION"));
            server.sql("postgres", &format!("COMMENT ON DATABASE {name_sql} IS 'it''s \"mine\"'"));
            let beside = beside_contents(&server, name);
            assert!(beside.contains("work_mem=5MB") && beside.contains("it's \"mine\""), "{beside}");

            let place = info(&server, name);
            let mut restore = backup.begin(&place).unwrap();
            backup.fill(&mut restore, &backup.rows).unwrap();
            let user = Connection::open(&place, &Options::default()).unwrap();
            let error = restore.promote(&Place::Over { disconnect: false }).unwrap_err();
            let Error::InUse { database, sessions } = &error else { panic!("{error}") };
            assert_eq!((database.as_str(), sessions.len(), sessions[0].process), (name, 1, user.process()));
            assert!(matches!(restore.promote(&Place::New), Err(Error::DatabaseExists { .. })));
            let promoted = restore.promote(&Place::Over { disconnect: true }).unwrap();
            assert_eq!(promoted.losses, []);
            let old = promoted.before.unwrap();
            assert!(old.ends_with("_before_4f2a") && old.len() <= 63, "{old}");
            assert_eq!(
                differences(&before, &stock_dump(programs, &server, name, "-b")),
                Vec::<String>::new()
            );
            assert_eq!(beside_contents(&server, name), beside);
            let count = format!("SELECT count(*) FROM {table}.{table}");
            assert_eq!(
                (server.sql(name, &count), server.sql(&old, &count)),
                ("100".to_owned(), "101".to_owned())
            );
            assert_eq!(unfinished(&place, &Options::default()).unwrap(), []);
        }
    }
}

#[test]
fn session_that_is_about_to_be_gone_is_not_in_the_way() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("shop");
    server.sql("shop", "CREATE TABLE t (n int)");
    let backup = back_up(&server, "shop", &tools(&programs));
    let place = info(&server, "shop");
    let mut restore = backup.begin(&place).unwrap();
    backup.fill(&mut restore, &backup.rows).unwrap();
    let leaving = Connection::open(&place, &Options::default()).unwrap();
    let promoted = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(200));
            drop(leaving);
        });
        restore.promote(&Place::Over { disconnect: false })
    });
    assert!(promoted.unwrap().before.is_some());
}

#[test]
fn unfinished_restore_is_listed_and_dropped_when_nobody_works_on_it() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("shop");
    server.sql("shop", "CREATE TABLE t (n int)");
    let backup = back_up(&server, "shop", &tools(&programs));
    let (place, options) = (info(&server, "shop"), Options::default());
    let mut restore = backup.begin(&place).unwrap();
    restore.create(&backup.properties).unwrap();
    let found = unfinished(&place, &options).unwrap();
    assert_eq!(found[0].database, "shop_dbkeep_staging_4f2a");
    assert_eq!(found[0].description.as_deref(), Some("unfinished restore of shop by dbkeep"));
    assert_eq!((found.len(), found[0].sessions.len()), (1, 1));
    let staging = found[0].database.clone();
    let error = remove_unfinished(&place, &options, &staging).unwrap_err();
    assert!(matches!(&error, Error::InUse { database, .. } if *database == staging), "{error}");
    // Another restore at the same time takes another name.
    let mut second = backup.begin(&place).unwrap();
    second.create(&backup.properties).unwrap();
    assert_eq!(second.staging().database, "shop_dbkeep_staging_4f2a_2");
    second.discard().unwrap();
    drop(restore);
    let gone = || unfinished(&place, &options).unwrap().iter().all(|found| found.sessions.is_empty());
    while !gone() {
        std::thread::yield_now();
    }
    remove_unfinished(&place, &options, &staging).unwrap();
    assert_eq!(unfinished(&place, &options).unwrap(), []);
    for name in ["shop", "nothing_dbkeep_staging_1"] {
        assert!(matches!(remove_unfinished(&place, &options, name), Err(Error::NoDatabase { .. })), "{name}");
    }
    assert_eq!(server.sql("shop", "SELECT count(*) FROM t"), "0");
}

#[test]
fn order_of_text_that_the_server_does_not_have_is_told_before_anything_is_made() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("shop");
    let backup = back_up(&server, "shop", &tools(&programs));
    let mut properties = backup.properties.clone();
    properties.collate = "tlh_KX.UTF-8".to_owned();
    let mut restore = backup.begin(&info(&server, "new")).unwrap();
    let error = restore.create(&properties).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server cannot make a database with encoding UTF8, collation tlh_KX.UTF-8, character type C.UTF-8"
    );
    assert!(error.hint().unwrap().contains("locale -a"));
    assert_eq!(unfinished(&info(&server, "new"), &Options::default()).unwrap(), []);
}

#[test]
fn order_of_text_is_the_one_of_the_backup_whatever_the_server_takes_for_the_usual_one() {
    for programs in Programs::all().into_iter().filter(|programs| programs.major >= 15) {
        let server = Server::start(&programs, &Settings::default());
        let icu = "CREATE DATABASE template_icu TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US' LC_COLLATE 'C' LC_CTYPE 'C'";
        if !server.psql("postgres", icu).unwrap().status.success() {
            println!("skipped: PostgreSQL {} has no ICU", programs.major);
            continue;
        }
        server.create_database("shop");
        let rules = if programs.major >= 16 { " ICU_RULES '&a < g'" } else { "" };
        server.sql("postgres", &format!(
            "CREATE DATABASE shop_icu TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'{rules} LC_COLLATE 'C' LC_CTYPE 'C'"
        ));
        // From here on a database is ordered by ICU where nothing else is said.
        server.sql(
            "postgres",
            "UPDATE pg_database SET datistemplate = false WHERE datname IN ('template0', 'template_icu')",
        );
        server.sql("postgres", "ALTER DATABASE template0 RENAME TO template_before");
        server.sql("postgres", "ALTER DATABASE template_icu RENAME TO template0");
        server.sql(
            "postgres",
            "UPDATE pg_database SET datistemplate = true, datallowconn = false, datcollversion = NULL WHERE datname = 'template0'",
        );
        let properties = |database: &str| {
            server.sql("postgres", &format!(
                "SELECT to_jsonb(d) - '{{oid,datname,datfrozenxid,datminmxid,dathasloginevt,datcollversion}}'::text[]
                 FROM pg_database d WHERE datname = '{database}'"
            ))
        };
        for database in ["shop", "shop_icu"] {
            let backup = back_up(&server, database, &tools(&programs));
            let new = format!("{database}_new");
            let mut restore = backup.begin(&info(&server, &new)).unwrap();
            restore.create(&backup.properties).unwrap();
            restore.promote(&Place::New).unwrap();
            assert_eq!(properties(&new), properties(database), "{}", programs.major);
        }
    }
}

#[test]
fn server_that_is_too_old_for_an_object_is_named() {
    let versions = Programs::all();
    let (Some(old), Some(new)) = (versions.first(), versions.last().filter(|new| new.major >= 18)) else {
        return println!("{SKIPPED}");
    };
    if old.major >= 18 {
        return println!("{SKIPPED}");
    }
    let (old, new) = (Server::start(old, &Settings::default()), Server::start(new, &Settings::default()));
    new.create_database("shop");
    new.sql("shop", "CREATE TABLE t (n int, twice int GENERATED ALWAYS AS (n * 2) VIRTUAL)");
    let backup = back_up(&new, "shop", &tools(new.programs()));
    let mut restore = backup.begin(&info(&old, "shop")).unwrap();
    let error = backup.fill(&mut restore, &backup.rows).unwrap_err();
    assert_eq!(error.to_string(), "could not restore table public.t");
    let (old, new) = (old.programs().major, new.programs().major);
    let hint = format!(
        "this server is PostgreSQL {old}, the backup is of PostgreSQL {new}: restore into {new} or newer"
    );
    assert_eq!(error.hint(), Some(hint));
    restore.discard().unwrap();
}
