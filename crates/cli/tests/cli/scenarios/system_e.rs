//! A small PostgreSQL application before a migration: six tables, `DATABASE_URL` from `.env`, one JSON file.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};
use serde_json::{Value, json};

use super::expect_progress;
use crate::environment::TestEnvironment;
use crate::export::shell;

/// The tables in dependency order, and how many rows they have.
const TABLES: [(&str, u64); 6] = [
    ("users", 2),
    ("patients", 3),
    ("sessions", 4),
    ("patient_strategies", 2),
    ("patient_triggers", 2),
    ("action_items", 5),
];

const CLINIC: &str = "
    CREATE TABLE users (id uuid PRIMARY KEY, email text NOT NULL UNIQUE, created_at timestamptz NOT NULL);
    CREATE TABLE patients (
        id uuid PRIMARY KEY, therapist uuid NOT NULL REFERENCES users ON DELETE CASCADE,
        name text NOT NULL, born date, updated_at timestamp);
    CREATE TABLE sessions (
        id uuid PRIMARY KEY, patient uuid NOT NULL REFERENCES patients, began_at timestamptz NOT NULL,
        minutes int CHECK (minutes > 0), notes jsonb);
    CREATE TABLE patient_strategies (
        id uuid PRIMARY KEY, patient uuid NOT NULL REFERENCES patients, learnt_in uuid REFERENCES sessions, name text);
    CREATE TABLE patient_triggers (
        id uuid PRIMARY KEY, patient uuid NOT NULL REFERENCES patients, told_in uuid REFERENCES sessions, weight numeric(4,2));
    CREATE TABLE action_items (
        id serial PRIMARY KEY, session uuid NOT NULL REFERENCES sessions, trigger uuid REFERENCES patient_triggers,
        done boolean NOT NULL DEFAULT false, due timestamptz);
    CREATE TABLE schema_migrations (version text PRIMARY KEY);
    INSERT INTO users SELECT md5('u' || n)::uuid, 'user' || n || '@example.org', '2025-01-16 12:00:00.123456+01' FROM generate_series(1, 2) n;
    INSERT INTO patients SELECT md5('p' || n)::uuid, md5('u' || 1 + n % 2)::uuid, 'Zoë \"' || n, '1999-12-31', '2025-01-16 12:00:00.5' FROM generate_series(1, 3) n;
    INSERT INTO sessions SELECT md5('s' || n)::uuid, md5('p' || 1 + n % 3)::uuid, '2025-01-16 12:00+00', 50, '{\"mood\": 3}' FROM generate_series(1, 4) n;
    INSERT INTO patient_strategies SELECT md5('y' || n)::uuid, md5('p' || n)::uuid, md5('s' || n)::uuid, NULL FROM generate_series(1, 2) n;
    INSERT INTO patient_triggers SELECT md5('t' || n)::uuid, md5('p' || n)::uuid, NULL, 0.50 FROM generate_series(1, 2) n;
    INSERT INTO action_items (session, trigger, done, due) SELECT md5('s' || 1 + n % 4)::uuid, md5('t1')::uuid, n % 2 = 0, 'infinity' FROM generate_series(1, 5) n;
";

const CONFIGURATION: &str = "[databases.clinic]\npostgres = \"env:DATABASE_URL\"\nenvironment = \"production\"\n\
    tables = [\"users\", \"patients\", \"sessions\", \"patient_strategies\", \"patient_triggers\", \"action_items\"]\n";

/// An application with its database.
struct Application {
    server: Server,
    environment: TestEnvironment,
}

impl Application {
    fn new() -> Option<Self> {
        let Some(programs) = Programs::newest_with_tls() else {
            eprintln!("{SKIPPED}");
            return None;
        };
        let server = Server::start(&programs, &Settings::default());
        server.create_database("clinic");
        server.sql("clinic", CLINIC);
        let environment = TestEnvironment::new();
        let application = Self { server, environment };
        application.reach(&application.server.url("clinic"));
        fs::write(application.environment.path("dbkeep.toml"), CONFIGURATION).unwrap();
        Some(application)
    }

    /// Puts a URL into `.env`.
    fn reach(&self, url: &str) {
        let path = self.environment.path(".env");
        fs::write(&path, format!("NODE_ENV=production\nDATABASE_URL=\"{url}\"\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Returns all rows of the six tables and their foreign keys, as the server says them.
    fn contents(&self, database: &str) -> String {
        let rows = TABLES.map(|(table, _)| format!("SELECT t FROM {table} t ORDER BY id;"));
        let keys = "SELECT relname, conname, pg_get_constraintdef(k.oid) FROM pg_constraint k JOIN pg_class c ON c.oid = conrelid
            WHERE connamespace = 'public'::regnamespace AND relname <> 'schema_migrations' ORDER BY 1, 2";
        self.server.sql(database, &format!("SET TimeZone = 'UTC'; {}{keys}", rows.concat()))
    }
}

#[test]
fn six_tables_are_exported_in_dependency_order_verified_and_restored() {
    let Some(application) = Application::new() else { return };
    let environment = &application.environment;
    let run = environment.ok(["--json", "--progress=json", "backup", "--reason", "pre-migration"]);
    expect_progress(&run, "backup clinic", Some(TABLES.len()));
    let report = run.document();
    assert_eq!((&report["status"], &report["totals"]["rows"]), (&"ok".into(), &18.into()), "{report:#}");

    // One JSON file with a timestamp in its name, row counts per table, file size, progress.
    let line = ["--json", "--progress=json", "export", "latest", "--out", "exports", "--format", "json"];
    let run = environment.ok(line);
    expect_progress(&run, "export clinic", None);
    let report = run.document();
    let session = report["session"].as_str().unwrap();
    assert_eq!(report["files"].as_array().unwrap().len(), 2, "the document and its checksum: {report:#}");
    let path = environment.path(&format!("exports/clinic_{session}.json"));
    assert_eq!(report["files"][0]["bytes"], fs::metadata(&path).unwrap().len());
    shell(&environment.path("exports"), "sha256sum -c *.sha256");
    let text = fs::read_to_string(&path).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let metadata = &document["metadata"];
    assert_eq!(
        (&metadata["environment"], &metadata["reason"]),
        (&"production".into(), &"pre-migration".into())
    );
    let counts: serde_json::Map<String, Value> =
        TABLES.iter().map(|(table, rows)| ((*table).to_owned(), json!(rows))).collect();
    assert_eq!(metadata["row_counts"], Value::Object(counts));
    let order: Vec<&str> =
        metadata["tables"].as_array().unwrap().iter().map(|table| table["name"].as_str().unwrap()).collect();
    assert_eq!(order, TABLES.map(|(table, _)| table));
    let place = |table: &str| text.find(&format!("\n\"{table}\": [")).unwrap();
    assert!(TABLES.windows(2).all(|pair| place(pair[0].0) < place(pair[1].0)));

    // UUIDs, timestamps and foreign keys intact.
    let ask = |sql: &str| application.server.sql("clinic", sql);
    let patient = &document["tables"]["patients"][0];
    let name = patient["name"].as_str().unwrap();
    assert_eq!(patient["id"], ask(&format!("SELECT id FROM patients WHERE name = '{name}'")));
    assert_eq!(
        (&patient["born"], &patient["updated_at"]),
        (&"1999-12-31".into(), &"2025-01-16T12:00:00.5".into())
    );
    assert_eq!(document["tables"]["users"][0]["created_at"], "2025-01-16T11:00:00.123456Z");
    assert_eq!(document["tables"]["sessions"][0]["notes"], json!({ "mood": 3 }));
    let users = document["tables"]["users"].as_array().unwrap();
    for patient in document["tables"]["patients"].as_array().unwrap() {
        assert!(users.iter().any(|user| user["id"] == patient["therapist"]), "{patient}");
    }

    // The export is verified, with neither server nor password,
    let checked = TestEnvironment::without_password().ok_json(&["verify", path.to_str().unwrap()]);
    assert_eq!((&checked["ok"], &checked["damaged"]), (&1.into(), &0.into()), "{checked:#}");
    let checked = &checked["checked"][0];
    assert_eq!(
        (&checked["rows"], &checked["checksum"], &checked["database"]),
        (&18.into(), &"ok".into(), &"clinic".into())
    );
    environment.ok(["verify", "latest"]);

    // and the backup can be restored.
    let before = application.contents("clinic");
    application.server.sql("clinic", "UPDATE patients SET name = 'migrated'; DELETE FROM action_items");
    let restored = environment.ok_json(&["restore", "latest", "--to", "clinic_before"]);
    assert_eq!((&restored["verified"], &restored["rows"]), (&true.into(), &18.into()), "{restored:#}");
    assert_eq!(application.contents("clinic_before"), before);
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(application.server.sql("clinic_before", tables), "6", "and nothing else");
    // The next number is given by the sequence, which went along.
    application
        .server
        .sql("clinic_before", "INSERT INTO action_items (session) SELECT id FROM sessions LIMIT 1");
    assert_eq!(application.server.sql("clinic_before", "SELECT max(id) FROM action_items"), "6");
}

#[test]
fn migration_that_fails_is_undone_with_the_tables_that_no_backup_was_to_have() {
    let Some(application) = Application::new() else { return };
    let environment = &application.environment;
    let before = application.contents("clinic");
    let versions = "SELECT count(*) FROM schema_migrations";
    // Each statement commits, and the sixth one fails.
    fs::write(
        environment.path("migration.sql"),
        "INSERT INTO schema_migrations VALUES ('2025-01');
         ALTER TABLE patients DROP COLUMN born;
         DROP TABLE action_items;
         UPDATE users SET email = email || '.old';
         CREATE TABLE appointments (id uuid);
         ALTER TABLE sessions ADD CHECK (minutes > 60);",
    )
    .unwrap();
    let psql = application.server.programs().program("psql").display().to_string();
    let url = application.server.url("clinic");
    let line = ["guard", "--", &psql, "-qX", "-v", "ON_ERROR_STOP=1", "-f", "migration.sql", &url];
    let (code, report) = environment.json(&line);
    assert_eq!((code, &report["outcome"]), (Some(3), &"restored".into()), "{report:#}");
    assert_eq!(application.contents("clinic"), before);
    assert_eq!(application.server.sql("clinic", versions), "0");
    assert_eq!(application.server.sql("clinic", "SELECT to_regclass('appointments') IS NULL"), "t");
}

#[test]
fn table_that_is_missing_is_reported_and_everything_in_the_way_is_one_clear_sentence() {
    let Some(application) = Application::new() else { return };
    let environment = &application.environment;
    application
        .server
        .sql("clinic", "ALTER TABLE action_items DROP COLUMN trigger; DROP TABLE patient_triggers");
    let run = environment.ok(["backup"]);
    let said = format!("{}{}", run.stdout, run.stderr);
    assert!(said.contains("patient_triggers") && said.contains("was asked for and is not there"), "{said}");
    let report = environment.ok_json(&["export", "latest", "--out", "exports", "--format", "json"]);
    let notes = report["databases"][0]["notes"].to_string();
    assert!(notes.contains("patient_triggers") && notes.contains("is not there"), "{report:#}");
    let path = environment.path("exports").join(report["files"][0]["path"].as_str().unwrap());
    let document: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(document["tables"].as_object().unwrap().len(), 5);
    assert_eq!(document["tables"]["action_items"].as_array().unwrap().len(), 5);

    // No permission to write: to a file system where nobody may, or to a directory that is not ours.
    let closed = match is_root() {
        true => "/sys/exports".to_owned(),
        false => {
            fs::create_dir(environment.path("closed")).unwrap();
            fs::set_permissions(environment.path("closed"), fs::Permissions::from_mode(0o500)).unwrap();
            "closed/exports".to_owned()
        }
    };
    let run = environment.run(["export", "latest", "--out", &closed, "--format", "json"]);
    run.expect(1);
    assert!(run.stderr.contains("exports") && run.stderr.contains("ermi"), "{}", run.stderr);

    // A URL that is none, a server that is not there, a database that is not there.
    let fails = |url: &str, message: &str| {
        application.reach(url);
        let run = environment.run(["backup"]);
        assert!(matches!(run.code, Some(1 | 2)), "{url}: {:?}\n{}", run.code, run.stderr);
        let errors: Vec<&str> = run.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        assert!(
            errors.iter().any(|error| error.contains(message)),
            "{url}: {message:?} is not in {}",
            run.stderr
        );
        assert!(!run.stderr.contains("hunter2") && !run.stdout.contains("hunter2"), "{}", run.stderr);
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
    };
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    fails("postgresql://ada:hunter2@127.0.0.1:notaport/clinic", "port");
    fails(&format!("postgresql://ada:hunter2@127.0.0.1:{port}/clinic"), "127.0.0.1");
    fails(&application.server.url("nowhere"), "nowhere");
    fs::remove_file(environment.path(".env")).unwrap();
    environment.run(["backup"]).expect_failure(2, "DATABASE_URL is not set", "");
}

fn is_root() -> bool {
    std::process::Command::new("id").arg("-u").output().unwrap().stdout == b"0\n"
}
