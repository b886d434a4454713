//! Limits of the server, of roles and of databases, and what may not be looked at.

use super::*;
use crate::place::Ended;

#[test]
fn slot_that_somebody_uses_is_only_a_note() {
    let Some(programs) = Programs::newest() else { return println!("{SKIPPED}") };
    if !programs.program("pg_receivewal").exists() {
        return println!("skipped: pg_receivewal is not installed");
    }
    let access = vec!["local replication all trust".to_owned()];
    let server = Server::start(&programs, &Settings { access, ..Settings::default() });
    server.sql("postgres", "SELECT pg_create_physical_replication_slot('used', true)");
    let (folder, port) = (server.socket_folder(), server.port().to_string());
    let script = r#"mkdir "$1/received" && exec "$0/pg_receivewal" -h "$1" -p "$2" -U postgres -D "$1/received" -S used"#;
    let bin = programs.program("");
    let _receiver = Ended::with_input(script, &[bin.as_os_str(), folder.as_os_str(), port.as_ref()]).unwrap();
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while server.sql("postgres", "SELECT active FROM pg_replication_slots") != "t" {
        assert!(std::time::Instant::now() < until, "nobody uses the slot");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(
        about(&asked(&info(&server.url("postgres")), &Asked::default()), "replication slot used"),
        ["Note: in use; a restored database does not have it"]
    );
}

#[test]
fn database_with_few_connections_left_is_a_warning_for_all_but_superusers() {
    let sql =
        "CREATE ROLE doctor_few LOGIN; CREATE TABLE t (id int PRIMARY KEY); GRANT SELECT ON t TO doctor_few;
               ALTER DATABASE doctor_few CONNECTION LIMIT 3";
    let Some(place) = Place::new("doctor_few", sql) else { return };
    let findings = asked(&place.as_user("doctor_few").info, &Asked::default());
    let told = about(&findings, "connections");
    // A worker of the server that looks after the tables may count too.
    assert!(
        ["1", "2"].iter().any(|free| {
            told == [format!(
                "Warning: the database has {free} free connections, and a backup takes up to 4 | \
             ALTER DATABASE \"doctor_few\" CONNECTION LIMIT -1;"
            )]
        }),
        "{told:?}"
    );
    assert!(about(&asked(&place.info, &Asked::default()), "connections").is_empty());
}

#[test]
fn role_without_a_second_connection_is_told_and_its_pace_is_not_guessed() {
    let sql = "CREATE ROLE doctor_one LOGIN CONNECTION LIMIT 1; CREATE TABLE t (id int PRIMARY KEY);
               INSERT INTO t VALUES (1); GRANT SELECT ON t TO doctor_one";
    let Some(place) = Place::new("doctor_one", sql) else { return };
    let findings = asked(&place.as_user("doctor_one").info, &Asked::default());
    assert_eq!(
        about(&findings, "size"),
        ["Note: 8.0 KiB in 1 table; how long a backup takes could not be measured"]
    );
    assert_eq!(
        about(&findings, "connections"),
        ["Warning: the role \"doctor_one\" has 0 free connections, and a backup takes up to 4 | \
             ALTER ROLE \"doctor_one\" CONNECTION LIMIT -1;"]
    );
}

#[test]
fn all_limits_of_time_are_told_and_none_of_them_ends_the_examination() {
    let sql =
        "CREATE TABLE t (id int PRIMARY KEY); ALTER DATABASE doctor_times SET statement_timeout = '90s';
               ALTER DATABASE doctor_times SET lock_timeout = '7s';
               ALTER DATABASE doctor_times SET idle_in_transaction_session_timeout = '2min'";
    for place in Place::on_all("doctor_times", sql) {
        let mut expected = "idle_in_transaction_session_timeout = 120000 ms, lock_timeout = 7000 ms, \
                            statement_timeout = 90000 ms"
            .to_owned();
        if place.server.programs().major >= 17 {
            place.sql("ALTER DATABASE doctor_times SET transaction_timeout = '3min'");
            expected.push_str(", transaction_timeout = 180000 ms");
        }
        let findings = asked(&place.info, &Asked { programs: programs(&place), ..Asked::default() });
        assert_eq!(
            about(&findings, "timeouts"),
            [format!("Note: {expected}; backups set this to none for their own transactions")]
        );
        assert!(worst(&findings) < Severity::Problem, "{findings:#?}");
    }
}

#[test]
fn question_that_the_server_refuses_is_a_problem_and_all_others_are_asked() {
    let sql = "CREATE ROLE doctor_blind LOGIN; CREATE TABLE t (id int PRIMARY KEY); GRANT SELECT ON t TO doctor_blind;
               REVOKE SELECT ON pg_catalog.pg_replication_slots FROM PUBLIC";
    for place in Place::on_all("doctor_blind", sql) {
        let how = Asked { programs: programs(&place), ..Asked::default() };
        let findings = asked(&place.as_user("doctor_blind").info, &how);
        let told = about(&findings, "server");
        let expected =
            "Problem: this could not be looked at: permission denied for view pg_replication_slots";
        assert!(told.len() == 1 && told[0].starts_with(expected), "{told:?}");
        assert_eq!(
            about(&findings, "rights"),
            ["Ok: doctor_blind can read all rows of 1 table and 0 sequences"]
        );
        assert_eq!(about(&findings, "size").len(), 1, "{findings:?}");
        let problems = findings.iter().filter(|finding| finding.severity == Severity::Problem).count();
        assert_eq!(problems, 1, "{findings:#?}");
    }
}

/// Has a database say that its server is older. No such server is at hand, and nothing else of one is needed.
const OLDER: &str = "
SET allow_system_table_mods = on;
ALTER FUNCTION pg_catalog.current_setting(text) RENAME TO setting_as_it_is;
CREATE FUNCTION pg_catalog.current_setting(text) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT CASE $1 WHEN 'server_version_num' THEN '110022' WHEN 'server_version' THEN '11.22 (Debian 11.22-1)'
                 ELSE pg_catalog.setting_as_it_is($1) END $$";

#[test]
fn server_that_is_too_old_is_told_before_anything_else_is_asked() {
    let Some(place) = Place::new("doctor_old", OLDER) else { return };
    let findings = asked(&place.info, &Asked::default());
    assert_eq!(
        about(&findings, "server"),
        ["Problem: PostgreSQL 11.22 is too old: the oldest that is understood is 12 | \
             upgrade the server, or use the pg_dump of its version"]
    );
    assert_eq!(findings.len(), 1);
    let mut connection = place.open();
    let error = Catalog::read(&mut connection).unwrap_err();
    assert!(matches!(error, Error::TooOld { version: 11, oldest: 12 }), "{error}");
    assert_eq!(connection.query("SELECT 1", &[]).unwrap().len(), 1, "the connection is as it was");
}
