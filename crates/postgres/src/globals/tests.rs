//! Against real servers: what is read on one makes the same roles on a fresh one.

use std::process::Command;

use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};

use super::*;
use crate::conninfo::{ConnInfo, Surroundings};
use crate::place::Place;
use crate::snapshot::Holder;
use crate::wire::Options;

const GLOBALS: &str = r#"
CREATE ROLE "o'neil ""the"" $$ \one; DROP ROLE postgres --" LOGIN PASSWORD 'it''s \ secret' VALID UNTIL '2031-02-03 04:05:06+01';
CREATE ROLE "-é
newline" NOINHERIT CREATEDB CREATEROLE CONNECTION LIMIT 7;
CREATE ROLE admin SUPERUSER REPLICATION BYPASSRLS VALID UNTIL 'infinity'; CREATE ROLE worker; CREATE ROLE team; CREATE ROLE last;
COMMENT ON ROLE worker IS E'a ''comment'';\n-- \\ more';
GRANT team TO worker WITH ADMIN OPTION; GRANT pg_read_all_data TO team; GRANT "-é
newline" TO "o'neil ""the"" $$ \one; DROP ROLE postgres --";
SET ROLE worker; GRANT team TO last; RESET ROLE;
ALTER ROLE worker SET search_path TO '$user', 'a "schema", b', 'public'; ALTER ROLE last SET search_path TO '';
ALTER ROLE worker SET "my.setting" TO E'it''s = \\ "quoted", b'; ALTER ROLE worker SET work_mem TO '7MB';
ALTER ROLE ALL SET lock_timeout TO '9s';
GRANT SET ON PARAMETER session_replication_role TO worker WITH GRANT OPTION; GRANT ALTER SYSTEM ON PARAMETER work_mem TO PUBLIC;
ALTER ROLE worker IN DATABASE "the; db" SET TimeZone TO 'UTC'; ALTER DATABASE "the; db" SET statement_timeout TO '1h';
CREATE ROLE "ééééééééééééééééééééééééééééééé=" LOGIN; CREATE ROLE "select" NOLOGIN; CREATE ROLE "user"; CREATE ROLE "a=b/c*,{d}";
GRANT "user" TO "ééééééééééééééééééééééééééééééé="; GRANT "a=b/c*,{d}" TO "select" WITH ADMIN OPTION;
ALTER ROLE "select" SET work_mem TO '5MB'; COMMENT ON ROLE "a=b/c*,{d}" IS 'a=b';
GRANT SET ON PARAMETER session_replication_role TO "a=b/c*,{d}", "ééééééééééééééééééééééééééééééé=" WITH GRANT OPTION;
GRANT CONNECT, TEMPORARY ON DATABASE "the; db" TO "a=b/c*,{d}", "select", "user" WITH GRANT OPTION;
ALTER ROLE "ééééééééééééééééééééééééééééééé=" IN DATABASE "the; db" SET search_path TO "a=b", 'select';
ALTER DATABASE "the; db" OWNER TO team; REVOKE CONNECT ON DATABASE "the; db" FROM PUBLIC; GRANT CONNECT ON DATABASE "the; db" TO worker;
COMMENT ON DATABASE "the; db" IS 'of ours'; ALTER DATABASE "the; db" CONNECTION LIMIT 5 IS_TEMPLATE true;
"#;

const TABLESPACE: [&str; 4] = [
    "SET allow_in_place_tablespaces = on",
    "CREATE TABLESPACE \"fast \"\"disk\" OWNER worker LOCATION ''",
    "GRANT CREATE ON TABLESPACE \"fast \"\"disk\" TO team",
    "ALTER TABLESPACE \"fast \"\"disk\" SET (random_page_cost = 1.5)",
];

/// Everything that there is to know, as text.
fn all(server: &Server) -> String {
    let options = if server.programs().major >= 16 { "inherit_option, set_option" } else { "NULL, NULL" };
    [
        "SELECT rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin, rolreplication, rolbypassrls,
                rolconnlimit, rolpassword, rolvaliduntil, shobj_description(oid, 'pg_authid') FROM pg_authid ORDER BY 1",
        &format!(
            "SELECT roleid::regrole::text, member::regrole::text, grantor::regrole::text, admin_option, {options} FROM pg_auth_members ORDER BY 1, 2, 3"
        ),
        "SELECT setrole::regrole::text, datname, setconfig FROM pg_db_role_setting LEFT JOIN pg_database d ON d.oid = setdatabase ORDER BY 1, 2",
        "SELECT spcname, spcowner::regrole, spcacl, spcoptions FROM pg_tablespace ORDER BY 1",
        "SELECT parname, paracl FROM pg_parameter_acl ORDER BY 1",
        "SELECT datname, datdba::regrole, datacl, datconnlimit, datistemplate, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname LIKE 'the%'",
    ]
    .iter()
    .map(|sql| server.sql("postgres", sql) + "\n\n")
    .collect()
}

fn read(server: &Server, user: &str) -> Globals {
    let surroundings = Surroundings { variable: &|_| None, home: None, user: None };
    let (folder, port) = (server.socket_folder().display(), server.port());
    let text = format!("host={folder} port={port} user={user} dbname='the; db'");
    let info = ConnInfo::resolve(&text, &surroundings).unwrap();
    let mut holder = Holder::begin(Connection::open(&info, &Options::default()).unwrap()).unwrap();
    Globals::read(holder.connection()).unwrap()
}

/// Runs a file with stock `psql`, as people do.
fn run(server: &Server, sql: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), sql).unwrap();
    let mut command = Command::new(server.programs().program("psql"));
    command.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-h"]);
    command.arg(server.socket_folder()).args(["-p", &server.port().to_string(), "-f"]).arg(file.path());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}\n{sql}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_belongs_to_a_server_is_the_same_on_a_fresh_one_of_every_version() {
    let versions = Programs::all();
    if versions.is_empty() {
        println!("{SKIPPED}");
    }
    for programs in versions {
        let server = Server::start(&programs, &Settings::default());
        server.create_database("the; db");
        server.sql("postgres", GLOBALS);
        let set = TABLESPACE.map(|statement| format!("{statement};\n")).concat();
        run(&server, &set);
        let globals = read(&server, "postgres");
        assert_eq!(globals.not_read, Vec::<String>::new());
        let fresh = Server::start(&programs, &Settings::default());
        run(&fresh, &globals.server_sql());
        fresh.create_database("the; db");
        run(&fresh, &globals.database_sql());
        let (before, after) = (all(&server), all(&fresh));
        assert!(before.contains("SCRAM-SHA-256$") && before.contains("worker=s*/"));
        assert!(before.contains("ééééééééééééééééééééééééééééééé=|"), "63 bytes are a whole name");
        assert_eq!(before, after, "PostgreSQL {}", programs.major);
        // It may be run again.
        let roles: Vec<String> =
            globals.server.iter().filter(|statement| statement.starts_with("DO ")).cloned().collect();
        run(&fresh, &text(&roles));

        assert!(!format!("{globals:?}").contains("SCRAM"), "nobody sees it by chance");
        server.sql("postgres", "CREATE ROLE plain LOGIN; GRANT CONNECT ON DATABASE \"the; db\" TO plain");
        let seen = read(&server, "plain");
        assert_eq!(
            seen.not_read,
            ["passwords of roles: not in the snapshot, since this user may not read them"]
        );
        assert!(
            !seen.server_sql().contains("PASSWORD") && seen.server_sql().contains("CREATE ROLE \"worker\"")
        );
    }
}

#[test]
fn names_of_roles_are_read_back_whatever_they_hold() {
    let sql = "CREATE ROLE names_plain; CREATE ROLE \"names \"\"x\"\"\ny\" NOLOGIN";
    let Some(place) = Place::new("names of roles", sql) else { return };
    let (mut holder, _) = place.hold();
    let globals = Globals::read(holder.connection()).unwrap();
    let names = role_names(&globals.server_sql());
    let mut ours: Vec<&str> =
        names.iter().map(String::as_str).filter(|name| name.starts_with("names")).collect();
    ours.sort_unstable();
    assert_eq!(ours, ["names \"x\"\ny", "names_plain"]);
    assert!(names.contains(&"postgres".to_owned()));
    assert_eq!(role_names("no roles"), [""; 0]);
}
