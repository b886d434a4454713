//! A database is examined, with everything that may be wrong with it.

mod limits;
mod services;

use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use super::*;
use crate::catalog::Name;
use crate::conninfo::Surroundings;
use crate::place::{Bouncer, Place, standby};

struct Asked {
    filter: Filter,
    without_rows: Vec<Name>,
    programs: Option<std::path::PathBuf>,
    jobs: usize,
}

impl Default for Asked {
    fn default() -> Self {
        Self { filter: Filter::default(), without_rows: Vec::new(), programs: None, jobs: 2 }
    }
}

fn asked(info: &ConnInfo, asked: &Asked) -> Vec<Finding> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = Programs::all().into_iter().map(|programs| programs.program(""));
    let path = Some(std::env::join_paths(std::env::split_paths(&path).chain(installed)).unwrap());
    let request = Request {
        info,
        options: &Options::default(),
        filter: &asked.filter,
        without_rows: &asked.without_rows,
        jobs: asked.jobs,
        programs: asked.programs.as_deref(),
        path: path.as_ref(),
        sample: Duration::from_secs(5),
    };
    let mut findings = Vec::new();
    examine(&request, &mut findings).unwrap();
    findings
}

/// Returns the findings about something, as `severity: message | advice`.
fn about(findings: &[Finding], subject: &str) -> Vec<String> {
    let shown = |finding: &Finding| {
        let advice = finding.advice.as_ref().map(|advice| format!(" | {advice}")).unwrap_or_default();
        format!("{:?}: {}{advice}", finding.severity, finding.message)
    };
    findings.iter().filter(|finding| finding.subject == subject).map(shown).collect()
}

fn worst(findings: &[Finding]) -> Severity {
    findings.iter().map(|finding| finding.severity).max().unwrap()
}

fn programs(place: &Place) -> Option<std::path::PathBuf> {
    Some(place.server.programs().program(""))
}

#[test]
fn sound_database_has_nothing_but_good_news_and_notes() {
    for place in
        Place::on_all("doctor_sound", "CREATE TABLE t (id serial PRIMARY KEY); INSERT INTO t DEFAULT VALUES")
    {
        let findings = asked(&place.info, &Asked { programs: programs(&place), ..Asked::default() });
        let troubling: Vec<&Finding> = findings
            .iter()
            .filter(|finding| finding.severity > Severity::Note && finding.subject != "pg_restore")
            .collect();
        assert_eq!(troubling, Vec::<&Finding>::new());
        assert_eq!(about(&findings, "rights"), ["Ok: postgres can read all rows of 1 table and 1 sequence"]);
        assert_eq!(about(&findings, "size").len(), 1);
        assert!(about(&findings, "size")[0].ends_with("a backup takes seconds"), "{findings:?}");
        let dump = about(&findings, "pg_dump");
        let major = place.server.programs().major;
        assert!(dump[0].starts_with(&format!("Ok: pg_dump {major}.")), "{dump:?}");
        assert!(about(&findings, "connection")[0].ends_with("\"postgres\" is a superuser"));
    }
}

#[test]
fn what_a_user_may_not_read_is_named_with_the_grant_that_mends_it() {
    let sql = r#"
        CREATE ROLE doctor_u LOGIN;
        CREATE SCHEMA closed; CREATE TABLE closed.t (id int PRIMARY KEY); GRANT SELECT ON closed.t TO doctor_u;
        CREATE SCHEMA many; GRANT USAGE ON SCHEMA many TO doctor_u;
        SELECT format('CREATE TABLE many.t%s (id int PRIMARY KEY)', n) FROM generate_series(10, 61) n \gexec
        CREATE TABLE "odd "" one" (id serial PRIMARY KEY); GRANT SELECT ON "odd "" one" TO doctor_u;
        CREATE TABLE secret (id int PRIMARY KEY, owner text); CREATE TABLE shown (LIKE secret INCLUDING ALL);
        ALTER TABLE shown ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON shown USING (owner = current_user);
        GRANT SELECT ON shown TO doctor_u; INSERT INTO shown VALUES (1, 'somebody');
        CREATE MATERIALIZED VIEW kept AS SELECT 1 AS one;
        SELECT lo_from_bytea(7001, 'x'), lo_from_bytea(7002, 'y'); GRANT SELECT ON LARGE OBJECT 7001 TO doctor_u;
    "#;
    let sql = sql.replace(
        r"SELECT format('CREATE TABLE many.t%s (id int PRIMARY KEY)', n) FROM generate_series(10, 61) n \gexec",
        &(10..62).map(|n| format!("CREATE TABLE many.t{n} (id int PRIMARY KEY);")).collect::<String>(),
    );
    let Some(place) = Place::new("doctor_rights", &sql) else { return };
    let findings = asked(&place.as_user("doctor_u").info, &Asked::default());
    assert_eq!(worst(&findings), Severity::Problem);
    assert_eq!(
        about(&findings, "schema \"closed\""),
        [
            "Problem: this user may not use it, and so nothing in it | GRANT USAGE ON SCHEMA \"closed\" TO \"doctor_u\";"
        ]
    );
    assert_eq!(
        about(&findings, "table \"closed\".\"t\""),
        Vec::<String>::new(),
        "USAGE is all that is missing"
    );
    assert_eq!(
        about(&findings, "table \"public\".\"secret\""),
        ["Problem: this user may not read it | GRANT SELECT ON TABLE \"public\".\"secret\" TO \"doctor_u\";"]
    );
    assert_eq!(
        about(&findings, "table \"public\".\"shown\""),
        ["Problem: row-level security hides rows of it from this user | ALTER ROLE \"doctor_u\" BYPASSRLS;"]
    );
    assert_eq!(
        about(&findings, "sequence \"public\".\"odd \"\" one_id_seq\""),
        ["Problem: this user may not read where it stands | \
          GRANT SELECT ON SEQUENCE \"public\".\"odd \"\" one_id_seq\" TO \"doctor_u\";"]
    );
    assert_eq!(findings.iter().filter(|finding| finding.subject.starts_with("table \"many\"")).count(), 50);
    assert_eq!(
        about(&findings, "schema \"many\""),
        [
            "Problem: 2 tables more that this user may not read | GRANT SELECT ON ALL TABLES IN SCHEMA \"many\" TO \"doctor_u\";"
        ]
    );
    assert_eq!(
        about(&findings, "large objects"),
        [
            "Problem: 1 large object that this user may not read | \
             GRANT SELECT ON LARGE OBJECT 7002 TO \"doctor_u\"; and so for the others",
            "Note: 2 large objects in the database",
        ]
    );
    assert!(
        about(&findings, "rights").is_empty() && about(&findings, "table \"public\".\"kept\"").is_empty()
    );
    // What is advised is what mends it.
    for finding in findings.iter().filter(|finding| finding.severity == Severity::Problem) {
        place.sql(finding.advice.as_deref().unwrap().split(" and so").next().unwrap());
    }
    let findings = asked(&place.as_user("doctor_u").info, &Asked::default());
    assert!(worst(&findings) < Severity::Problem, "{findings:#?}");
}

#[test]
fn only_what_is_to_be_backed_up_is_complained_about() {
    let sql = "CREATE ROLE doctor_part LOGIN; CREATE TABLE mine (id int PRIMARY KEY); GRANT SELECT ON mine TO doctor_part;
               CREATE SCHEMA auth; CREATE TABLE auth.users (id serial PRIMARY KEY)";
    let Some(place) = Place::new("doctor_part", sql) else { return };
    let info = place.as_user("doctor_part").info;
    assert_eq!(worst(&asked(&info, &Asked::default())), Severity::Problem);
    let name = |name: &str| Name { schema: "public".to_owned(), name: name.to_owned() };
    let public = Filter { schemas: vec!["public".to_owned()], ..Filter::default() };
    let table = Filter { tables: vec![name("mine"), name("gone")], ..Filter::default() };
    for filter in [public, table] {
        let findings = asked(&info, &Asked { filter, ..Asked::default() });
        assert!(worst(&findings) < Severity::Problem, "{findings:#?}");
        let gone = about(&findings, "table \"public\".\"gone\"");
        let expected =
            "Warning: it is to be backed up, and is not there | correct `tables` of the configuration";
        assert!(gone.is_empty() || gone == [expected], "{gone:?}");
    }
    let filter = Filter { schemas: vec!["public".to_owned(), "gone".to_owned()], ..Filter::default() };
    let findings = asked(&info, &Asked { filter, ..Asked::default() });
    assert_eq!(about(&findings, "schema \"gone\"").len(), 1);
}

#[test]
fn what_surprises_after_a_restore_is_said_before() {
    let sql = r#"
        CREATE UNLOGGED TABLE fast (n int); CREATE TABLE keyed (id int PRIMARY KEY, n int);
        CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; CREATE FOREIGN TABLE far (n int) SERVER s;
        CREATE EXTENSION pg_trgm;
        INSERT INTO keyed VALUES (1, 1), (2, 1);
        ALTER DATABASE doctor_contents SET statement_timeout = '90s';
    "#;
    let Some(programs) = Programs::newest_with_tls() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.create_database("doctor_contents");
    let sql = match server.psql("template1", "CREATE EXTENSION pg_trgm").unwrap().status.success() {
        true => sql.to_owned(),
        false => sql.replace("CREATE EXTENSION pg_trgm;", ""),
    };
    server.sql("doctor_contents", &sql);
    assert!(
        !server
            .psql("doctor_contents", "CREATE UNIQUE INDEX CONCURRENTLY broken ON keyed (n)")
            .unwrap()
            .status
            .success()
    );
    let findings = asked(&info(&server.url("doctor_contents")), &Asked::default());
    assert_eq!(
        about(&findings, "foreign tables"),
        ["Note: their rows are on other servers, and in no backup of this one: \"public\".\"far\""]
    );
    assert_eq!(
        about(&findings, "unlogged tables"),
        ["Note: a crash of the server empties them; a backup has their rows: \"public\".\"fast\""]
    );
    assert_eq!(
        about(&findings, "tables without a key"),
        [
            "Note: nothing tells their rows apart, so backups share less, and comparisons show a row that was changed as one that \
             went and one that came: \"public\".\"fast\""
        ]
    );
    assert_eq!(
        about(&findings, "index \"public\".\"broken\""),
        ["Warning: it is not valid, and a backup does not have it; it is on \"public\".\"keyed\" | \
          REINDEX INDEX CONCURRENTLY \"public\".\"broken\"; or DROP INDEX CONCURRENTLY \"public\".\"broken\";"]
    );
    assert_eq!(
        about(&findings, "timeouts"),
        ["Note: statement_timeout = 90000 ms; backups set this to none for their own transactions"]
    );
    let extensions = about(&findings, "extensions");
    assert!(
        !sql.contains("pg_trgm")
            || extensions[0].starts_with("Note: a server that this is restored into needs these: pg_trgm 1.")
    );
}

fn info(text: &str) -> ConnInfo {
    let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
    ConnInfo::resolve(text, &surroundings).unwrap()
}

#[test]
fn what_the_server_does_beside_is_told_and_poolers_are_known_by_how_they_behave() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let configuration = ["max_prepared_transactions = 5", "wal_level = logical"].map(str::to_owned).to_vec();
    let server = Server::start(&programs, &Settings { configuration, ..Settings::default() });
    server.create_database("busy");
    server.sql("busy", "CREATE TABLE t (id int PRIMARY KEY); CREATE ROLE narrow LOGIN CONNECTION LIMIT 3; GRANT SELECT ON t TO narrow");
    server.sql("busy", "BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'it''s open'");
    server.sql("busy", "SELECT pg_create_physical_replication_slot('left', true)");
    let url = server.url("busy");
    let findings = asked(&info(&url), &Asked::default());
    assert_eq!(
        about(&findings, "prepared transactions"),
        [
            "Warning: 1 transaction waiting for COMMIT PREPARED: a backup has none of the changes, and waits for the locks | \
          COMMIT PREPARED 'it''s open'; or ROLLBACK PREPARED 'it''s open';"
        ]
    );
    let slot = about(&findings, "replication slot left");
    assert!(slot[0].starts_with("Warning: nobody uses it, and it holds back "), "{slot:?}");
    assert!(slot[0].ends_with("| SELECT pg_drop_replication_slot('left'); if it is not needed"), "{slot:?}");
    assert!(about(&findings, "connections").is_empty());
    let many = asked(&info(&url), &Asked { jobs: 80, ..Asked::default() });
    assert!(
        about(&many, "connections")[0].starts_with("Warning: the server of 60 connections has "),
        "{many:?}"
    );
    let narrow = asked(&info(&url.replace("postgres@", "narrow@")), &Asked::default());
    assert_eq!(
        about(&narrow, "connections"),
        [
            "Warning: the role \"narrow\" has 2 free connections, and a backup takes up to 4 | ALTER ROLE \"narrow\" CONNECTION LIMIT -1;"
        ]
    );
    assert!(about(&findings, "pooler").is_empty(), "nothing is between");
    for (mode, expected) in [
        (
            "transaction",
            "Problem: a pooler that shares connections answers: pg_dump would spoil connections of others, and its archive \
             could be wrong | use the address of the server itself, or a pool with pool_mode = session",
        ),
        (
            "session",
            "Warning: a pooler answers: whether it shares connections among clients cannot be told from here | \
             use the address of the server itself, or a pool with pool_mode = session",
        ),
    ] {
        let Some(bouncer) = Bouncer::start(&server, mode) else {
            return println!("skipped: pgbouncer is not installed");
        };
        let through = format!("postgresql://postgres@127.0.0.1:{}/busy?sslmode=disable", bouncer.port);
        assert_eq!(about(&asked(&info(&through), &Asked::default()), "pooler"), [expected]);
    }
}

#[test]
fn missing_and_unsafe_programs_are_told() {
    let Some(place) = Place::new("doctor_programs", "CREATE TABLE t (id int PRIMARY KEY)") else { return };
    let major = place.server.programs().major;
    let folder = tempfile::tempdir().unwrap();
    let with =
        |folder: &Path| asked(&place.info, &Asked { programs: Some(folder.to_owned()), ..Asked::default() });
    let findings = with(folder.path());
    assert_eq!(worst(&findings), Severity::Problem);
    let missing = about(&findings, "pg_dump");
    assert!(
        missing[0].starts_with(&format!("Problem: no pg_dump for PostgreSQL {major} was found")),
        "{missing:?}"
    );
    assert!(missing[0].contains(&format!("postgresql-client-{major}")), "{missing:?}");
    let make = |name: &str| {
        let program = folder.path().join(name);
        std::fs::write(&program, format!("#!/bin/sh\necho '{name} (PostgreSQL) {major}.0'\n")).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&program, mode).unwrap();
    };
    make("pg_dump");
    let missing = about(&with(folder.path()), "pg_restore");
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(
        missing[0].starts_with(&format!("Problem: no pg_restore for PostgreSQL {major} was found")),
        "{missing:?}"
    );
    assert!(missing[0].contains(&format!("postgresql-client-{major}")), "{missing:?}");
    make("pg_restore");
    let unsafe_one = about(&with(folder.path()), "pg_restore");
    assert_eq!(unsafe_one.len(), 1, "{unsafe_one:?}");
    assert!(
        unsafe_one[0].starts_with("Warning") && unsafe_one[0].contains("CVE-2026-116314"),
        "{unsafe_one:?}"
    );
    assert!(unsafe_one[0].contains(&format!("update to {major}.")), "{unsafe_one:?}");
}

#[test]
fn hosted_database_is_known_by_its_roles_and_hosts() {
    for (host, roles, service) in [
        ("localhost", &["supabase_admin"][..], Service::Supabase),
        ("db.x.supabase.co", &[], Service::Supabase),
        ("aws-0-x.pooler.supabase.com", &[], Service::Supabase),
        ("ep-x.eu.aws.neon.tech", &[], Service::Neon),
        ("localhost", &["neon_superuser"], Service::Neon),
        ("x.rds.amazonaws.com", &[], Service::Rds),
        ("localhost", &["rds_superuser"], Service::Rds),
        ("localhost", &["cloudsqlsuperuser"], Service::CloudSql),
        ("x.postgres.database.azure.com", &[], Service::Azure),
        ("notsupabase.co", &["postgres"], Service::Other),
    ] {
        assert_eq!(Service::of(host, roles), service, "{host} {roles:?}");
    }
}

#[test]
fn database_of_a_supabase_project_says_what_is_not_in_it() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    server.sql(
        "postgres",
        "CREATE ROLE supabase_admin; CREATE SCHEMA auth; CREATE TABLE auth.users (id uuid PRIMARY KEY);
                            CREATE SCHEMA storage; CREATE TABLE storage.objects (id uuid PRIMARY KEY)",
    );
    let findings = asked(&info(&server.url("postgres")), &Asked::default());
    let notes = about(&findings, "service");
    assert!(notes[0].starts_with("Note: Supabase: the files of Storage, Edge Functions, keys"), "{notes:?}");
    assert!(notes[1].contains("session pooler (<region>.pooler.supabase.com:5432"), "{notes:?}");
    assert!(notes[2].starts_with("Note: schemas that Supabase manages: auth, storage; "), "{notes:?}");
    assert!(worst(&findings) < Severity::Problem);
}

#[test]
fn encoding_that_holds_anything_is_a_warning() {
    let Some(place) = Place::new("doctor_plain", "SELECT 1") else { return };
    place.sql(
        "CREATE DATABASE doctor_bytes ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    );
    let findings = asked(&info(&place.server.url("doctor_bytes")), &Asked::default());
    assert_eq!(about(&findings, "encoding").len(), 1);
    assert!(about(&asked(&place.info, &Asked::default()), "encoding").is_empty());
}

#[test]
fn rows_that_are_left_out_may_be_hidden() {
    let sql = "CREATE ROLE doctor_left LOGIN; CREATE TABLE logs (id int PRIMARY KEY);
               INSERT INTO logs SELECT generate_series(1, 1000); ALTER TABLE logs ENABLE ROW LEVEL SECURITY;
               GRANT SELECT ON logs TO doctor_left";
    let Some(place) = Place::new("doctor_left", sql) else { return };
    let info = place.as_user("doctor_left").info;
    assert_eq!(worst(&asked(&info, &Asked::default())), Severity::Problem);
    let without_rows = vec![Name { schema: "public".to_owned(), name: "logs".to_owned() }];
    let findings = asked(&info, &Asked { without_rows, ..Asked::default() });
    assert!(worst(&findings) < Severity::Problem, "{findings:#?}");
    assert_eq!(about(&findings, "size"), ["Note: 0 B in 0 tables"]);
}

#[test]
fn rules_of_order_that_changed_are_told() {
    let Some(programs) = Programs::newest_with_tls() else { return println!("{SKIPPED}") };
    let server = Server::start(&programs, &Settings::default());
    let made = "CREATE DATABASE sorted LOCALE_PROVIDER icu ICU_LOCALE 'de' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0";
    if programs.major < 15 || !server.psql("postgres", made).unwrap().status.success() {
        return println!("skipped: this server has no ICU");
    }
    server.sql(
        "sorted",
        "CREATE COLLATION \"d e\" (provider = icu, locale = 'de'); CREATE COLLATION unused (provider = icu, locale = 'fr');
         CREATE TABLE t (a text COLLATE \"d e\" PRIMARY KEY)",
    );
    let about_order = |findings: &[Finding]| {
        let subjects = findings.iter().filter(|finding| finding.subject.starts_with("collation"));
        subjects
            .map(|finding| (finding.subject.clone(), finding.severity, finding.advice.clone().unwrap()))
            .collect::<Vec<_>>()
    };
    assert_eq!(about_order(&asked(&info(&server.url("sorted")), &Asked::default())), []);
    server.sql(
        "sorted",
        "UPDATE pg_collation SET collversion = '0' WHERE collname IN ('d e', 'unused');
         UPDATE pg_database SET datcollversion = '0' WHERE datname = 'sorted'",
    );
    let advice = |text: &str| text.to_owned();
    assert_eq!(
        about_order(&asked(&info(&server.url("sorted")), &Asked::default())),
        [
            (
                advice("collation \"public\".\"d e\""),
                Severity::Warning,
                advice("reindex what uses it, then ALTER COLLATION \"public\".\"d e\" REFRESH VERSION;")
            ),
            (
                advice("collation of the database"),
                Severity::Warning,
                advice("REINDEX DATABASE \"sorted\"; ALTER DATABASE \"sorted\" REFRESH COLLATION VERSION;")
            ),
        ]
    );
}

#[test]
fn standby_is_examined_as_one() {
    let Some(programs) = Programs::newest_with_tls() else { return println!("{SKIPPED}") };
    let access = vec!["local replication all trust".to_owned()];
    let server = Server::start(&programs, &Settings { access, ..Settings::default() });
    server.sql(
        "postgres",
        "CREATE TABLE t (id serial PRIMARY KEY); CREATE UNLOGGED TABLE fast (id int PRIMARY KEY)",
    );
    let (_standby, way) = standby(&server, "postgres");
    let findings = asked(&way, &Asked::default());
    assert!(
        about(&findings, "standby")[0].starts_with("Warning: the server is a standby that ends queries"),
        "{findings:?}"
    );
    assert_eq!(
        about(&findings, "unlogged tables"),
        [
            "Problem: a standby does not have their rows: \"public\".\"fast\" | back up the primary, or leave their data out"
        ]
    );
    let problems = findings.iter().filter(|finding| finding.severity == Severity::Problem).count();
    assert_eq!(problems, 1, "all else can be looked at: {findings:#?}");
    let without_rows = vec![Name { schema: "public".to_owned(), name: "fast".to_owned() }];
    let findings = asked(&way, &Asked { without_rows, ..Asked::default() });
    assert!(worst(&findings) < Severity::Problem, "{findings:#?}");
}
