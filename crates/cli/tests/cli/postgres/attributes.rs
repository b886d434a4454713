//! What a database has beside its contents, through the binary: it comes back with the database, and nothing that is
//! written about a snapshot is silent about it.

use std::fs;
use std::process::Command;

use dbkeep_testkit::postgres::Server;
use serde_json::json;

use super::Shop;

const SET: &str = "CREATE ROLE keeper; CREATE ROLE clerk;
    ALTER DATABASE shop SET search_path TO 'audit', 'public'; ALTER DATABASE shop SET \"shop.key\" TO 'hunter2';
    ALTER ROLE clerk IN DATABASE shop SET TimeZone TO 'UTC'; COMMENT ON DATABASE shop IS 'of ours';
    REVOKE ALL ON DATABASE shop FROM PUBLIC; GRANT CONNECT ON DATABASE shop TO clerk; ALTER DATABASE shop OWNER TO keeper;";

/// Returns everything that a database has beside its contents, as text.
fn attributes(server: &Server, name: &str) -> String {
    server.sql(
        "postgres",
        &format!(
            "SELECT datdba::regrole, datacl, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = '{name}';
             SELECT setrole::regrole, setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
             WHERE datname = '{name}' ORDER BY 1"
        ),
    )
}

#[test]
fn owner_rights_and_settings_of_a_database_come_back_under_any_name() {
    let Some(shop) = Shop::open() else { return };
    let (server, environment) = (&shop.server, &shop.environment);
    server.sql("postgres", SET);
    shop.back_up();
    let original = attributes(server, "shop");
    assert!(original.contains("keeper|{") && original.contains("hunter2"), "{original}");
    let report = environment.ok_json(&["restore", "latest", "--to", "another"]);
    assert_eq!(
        (&report["verified"], &report["left_out"], &report["notes"]),
        (&json!(true), &json!(0), &json!(null))
    );
    assert_eq!(attributes(server, "another"), original);
    environment.ok(["restore", "latest", "--to", "plain", "--no-owner", "--no-privileges"]);
    let plain = attributes(server, "plain");
    assert!(plain.starts_with("postgres||of ours\n-|{") && !plain.contains("clerk"), "{plain}");
    // Tables are not the database.
    environment.ok(["restore", "latest", "--to", "one_table", "--table", "users"]);
    assert_eq!(attributes(server, "one_table"), "postgres||");
    let report = environment.ok_json(&["drill"]);
    assert_eq!(report["drills"][0]["left_out"], 0, "{report:#}");

    // What is for one name alone is told with it, in plain text, and no secret of it in what is printed.
    let shown = environment.ok(["show", "latest"]);
    assert!(!shown.stdout.contains("hunter2") && !shown.stderr.contains("hunter2"));
    let report = environment.ok_json(&["export", "latest", "--out", "sql", "--format", "sql"]);
    let notes = report["databases"][0]["notes"].to_string();
    assert!(notes.contains("_settings.sql, for a database called"), "{notes}");
    assert!(!report.to_string().contains("hunter2"));
    let settings = fs::read_dir(environment.path("sql")).unwrap().map(|entry| entry.unwrap().path());
    let settings =
        settings.into_iter().find(|path| path.to_string_lossy().ends_with("_settings.sql")).unwrap();
    server.sql("postgres", "ALTER DATABASE shop RENAME TO kept");
    server.create_database("shop");
    let mut psql = Command::new(server.programs().program("psql"));
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-h"]);
    psql.arg(server.socket_folder()).args(["-p", &server.port().to_string(), "-f"]).arg(settings);
    assert!(psql.status().unwrap().success());
    assert_eq!(attributes(server, "shop"), original);
}
