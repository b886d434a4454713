//! Values of every type and names of every kind, through the binary: on every version of the server, and from the oldest
//! to the newest.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use dbkeep_testkit::postgres::{Programs, SKIPPED, SUPERUSER, Server, Settings};
use serde_json::{Value, json};

use super::environment;
use crate::environment::TestEnvironment;
use crate::export::shell;

/// A value of every type that loses something on a wrong way, its extremes, and NULL.
const TYPES: &str = include_str!("../../../../postgres/tests/zoo/types.sql");

/// Names that are something else to whoever pastes them: an option, a keyword, and 63 bytes, the longest that there are.
const HOSTILE: [&str; 3] = [
    "-d x=y 'a' \"b\"\n\\; -- $1",
    "select",
    "\u{e4}\u{1f409}==========\u{e4}\u{1f409}==========\u{e4}\u{1f409}==========\u{e4}\u{1f409}=========",
];

/// A database of all types and names on one version, and a place to back it up to.
struct Zoo<'s> {
    server: &'s Server,
    environment: TestEnvironment,
    database: &'static str,
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns a name as people write it who name a table of a schema that is called the same.
fn written(name: &str) -> String {
    format!("{0}.{0}", quoted(name))
}

fn literal(name: &str) -> String {
    format!("E'{}'", name.replace('\\', "\\\\").replace('\'', "''"))
}

/// Returns the URL of a database for one who is called as it is.
fn url(server: &Server, database: &str) -> String {
    let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let folder = encoded(server.socket_folder().to_str().unwrap());
    format!("postgresql://{0}@{folder}:{1}/{0}", encoded(database), server.port())
}

/// Starts a server where everybody is known.
fn start(programs: &Programs) -> Server {
    let server = Server::start(programs, &Settings::default());
    for name in HOSTILE {
        server.sql("postgres", &format!("CREATE ROLE {} LOGIN SUPERUSER", quoted(name)));
    }
    server
}

impl<'s> Zoo<'s> {
    fn new(server: &'s Server, versions: &[Programs], database: &'static str) -> Self {
        server.create_database(database);
        server.sql(database, TYPES);
        for name in HOSTILE {
            assert!(name.len() <= 63);
            server.sql(database, &of_name(name));
        }
        Self { server, environment: environment(versions), database }
    }

    /// Restores a snapshot for one of the names.
    #[track_caller]
    fn restore(&self, snapshot: &str, target: &Server, database: &str) {
        let report = self.environment.ok_json(&["restore", snapshot, "--to", &url(target, database)]);
        assert_eq!((&report["verified"], &report["left_out"]), (&json!(true), &json!(0)), "{report:#}");
        assert_eq!((&report["rows"], &report["database"]), (&json!(ROWS), &json!(self.database)));
        assert_eq!(target.contents(database), self.server.contents(self.database));
    }

    #[track_caller]
    fn expect_same(&self, database: &str) {
        assert_eq!(self.server.contents(database), self.server.contents(self.database));
        expect_same_objects(self.server, database, self.database);
    }

    /// Moves the database to another server as stock programs do.
    fn move_by_stock_programs(&self, target: &Server, to: &str) {
        let path = self.environment.path("moved.sql");
        let file = path.to_str().unwrap();
        // Those of the newer server, which writes some objects in another way than the older one.
        stock(target.programs(), "pg_dump", self.server, self.database, &["-f", file], Stdio::null());
        target.create_database(to);
        let line = ["-qX", "-v", "ON_ERROR_STOP=1", "-o", "/dev/null", "-f", file];
        stock(target.programs(), "psql", target, to, &line, Stdio::null());
    }
}

/// Expects two databases of a server to have the same objects, as `pg_dump` says.
#[track_caller]
fn expect_same_objects(server: &Server, found: &str, expected: &str) {
    let schema = server.schema(server.programs(), expected);
    assert!(HOSTILE.iter().all(|name| schema.contains(&format!("TABLE {}", written(name)))), "{schema}");
    let found = server.schema(server.programs(), found);
    let first = found.lines().zip(schema.lines()).find(|(one, other)| one != other);
    assert!(found == schema, "the first that differs: {first:#?}");
}

/// Runs a program on a database.
#[track_caller]
fn stock(programs: &Programs, name: &str, server: &Server, database: &str, line: &[&str], input: Stdio) {
    let mut command = Command::new(programs.program(name));
    command.args(line).args(["-U", SUPERUSER, "-p", &server.port().to_string(), "-h"]);
    // In an option the name of a database may be a connection string.
    command.arg(server.socket_folder()).env("PGDATABASE", database).stdin(input);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{line:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// How many rows there are of all types and names.
const ROWS: u64 = 8 + 3 * 40;

/// Makes whatever has a name.
fn of_name(name: &str) -> String {
    let (it, text) = (quoted(name), literal(name));
    format!(
        "CREATE SCHEMA {it} AUTHORIZATION {it}; SET search_path = {it};
         CREATE TYPE \"kind of\" AS ENUM ({text}, 'other');
         CREATE SEQUENCE numbers OWNED BY NONE; SELECT setval('numbers', 7);
         CREATE TABLE {it} ({it} int PRIMARY KEY, kind \"kind of\" DEFAULT {text}, t text DEFAULT {text},
                            CONSTRAINT {it} CHECK ({it} > 0)) PARTITION BY RANGE ({it});
         CREATE TABLE \"first of\" PARTITION OF {it} FOR VALUES FROM (MINVALUE) TO (30);
         CREATE TABLE \"rest of\" PARTITION OF {it} DEFAULT;
         ALTER TABLE {it} OWNER TO {it}; GRANT SELECT ON \"first of\" TO {it} WITH GRANT OPTION;
         COMMENT ON COLUMN {it}.{it} IS {text};
         INSERT INTO {it} SELECT n, {text}, {text} || n FROM generate_series(1, 40) n;
         CREATE INDEX ON {it} (t) WHERE t <> {text};
         CREATE FUNCTION {it}({it} int) RETURNS text LANGUAGE sql RETURN {text} || {it};
         CREATE VIEW \"view of\" AS SELECT {it}.{it}({it}) AS {it} FROM {it};
         CREATE POLICY {it} ON {it} TO {it} USING (t <> {text});
         CREATE STATISTICS \"about\" ON {it}, t FROM \"rest of\""
    )
}

#[test]
fn values_of_all_types_and_names_of_all_kinds_come_back_on_every_version_and_on_the_newest() {
    let versions = Programs::all();
    if versions.is_empty() {
        return println!("{SKIPPED}");
    }
    let servers: Vec<Server> = versions.iter().map(start).collect();
    let newest = servers.last().unwrap();
    for (number, server) in servers.iter().enumerate() {
        // Each name is that of a database and of who logs in, also where there is one version only.
        let [database, beside, moved] = [0, 1, 2].map(|step| HOSTILE[(number + step) % HOSTILE.len()]);
        let zoo = Zoo::new(server, &versions, database);
        let environment = &zoo.environment;
        let report = environment.ok_json(&["backup", &url(server, database)]);
        let one = &report["databases"][0];
        assert_eq!((&one["name"], &one["status"]), (&json!(database), &json!("ok")), "{report:#}");
        assert_eq!((&one["rows"], &one["integrity"]), (&json!(ROWS), &json!("ok")), "{one:#}");
        let snapshot = one["snapshot"].as_str().unwrap();
        let verified = environment.ok_json(&["verify", snapshot]);
        assert_eq!(verified["checked"][0]["database"], database, "{verified:#}");
        zoo.restore(snapshot, server, beside);
        zoo.expect_same(beside);
        if number == 0 {
            zoo.restore(snapshot, newest, moved);
            zoo.move_by_stock_programs(newest, "reference");
            expect_same_objects(newest, moved, "reference");
            newest.sql("postgres", &format!("DROP DATABASE {}", quoted(moved)));
        }
        if number == 0 || number + 1 == servers.len() {
            is_listed(&zoo);
            rows_go_back_from_csv(&zoo, beside);
            tables_come_back_by_name(&zoo, snapshot);
        }
    }
}

/// Programs get the true name, people one line.
fn is_listed(zoo: &Zoo<'_>) {
    let of_name = format!("--database={}", zoo.database);
    let list = zoo.environment.ok_json(&["list", &of_name]);
    let [snapshot] = &list["snapshots"].as_array().unwrap()[..] else { panic!("{list:#}") };
    assert_eq!((&snapshot["database"], &snapshot["rows"]), (&json!(zoo.database), &json!(ROWS)));
    let run = zoo.environment.ok(["list"]);
    assert!(!run.stdout.replace('\n', "").contains(char::is_control), "{:?}", run.stdout);
    let short = snapshot["short_id"].as_str().unwrap();
    let lines: Vec<&str> = run.stdout.lines().filter(|line| line.contains(short)).collect();
    let start: String = zoo.database.chars().take(6).collect();
    assert!(lines.len() == 1 && lines[0].contains(&start), "{}", run.stdout);
}

/// Each file of an export is one table, whatever that is called, and stock psql fills it again.
fn rows_go_back_from_csv(zoo: &Zoo<'_>, database: &str) {
    let report = zoo.environment.ok_json(&["export", "latest", "--out", "csv", "--format", "csv"]);
    let metadata = report["files"].as_array().unwrap().iter().find_map(|file| {
        let path = file["path"].as_str().unwrap();
        path.ends_with("/metadata.json").then(|| zoo.environment.path("csv").join(path))
    });
    let metadata = metadata.unwrap();
    let folder = metadata.parent().unwrap();
    shell(folder, "sha256sum -c SHA256SUMS");
    let verified = zoo.environment.ok_json(&["verify", folder.to_str().unwrap()]);
    assert_eq!((&verified["ok"], &verified["checked"][0]["rows"]), (&json!(1), &json!(ROWS)), "{verified:#}");
    let metadata: Value = serde_json::from_slice(&fs::read(&metadata).unwrap()).unwrap();
    let tables = metadata["tables"].as_array().unwrap();
    for table in tables {
        let text = |key: &str| table[key].as_str().unwrap();
        let name = format!("{}.{}", quoted(text("schema")), quoted(text("table")));
        let columns = table["columns"].as_array().unwrap().iter();
        let columns: Vec<String> = columns.map(|column| quoted(column["name"].as_str().unwrap())).collect();
        zoo.server.sql(database, &format!("TRUNCATE {name}"));
        let copy = format!("COPY {name} ({}) FROM STDIN (FORMAT csv, HEADER)", columns.join(", "));
        let file = metadata["files"][text("name")].as_str().unwrap();
        let input = File::open(folder.join(file)).unwrap().into();
        let line = ["-qX", "-v", "ON_ERROR_STOP=1", "-c", &copy];
        stock(zoo.server.programs(), "psql", zoo.server, database, &line, input);
    }
    zoo.expect_same(database);
}

/// A table is named with quotes around its parts; a partitioned one stands for its partitions.
fn tables_come_back_by_name(zoo: &Zoo<'_>, snapshot: &str) {
    let (server, hostile) = (zoo.server, HOSTILE[0]);
    let to = server.url("some tables");
    let all = &written(hostile);
    let line = ["restore", snapshot, "--table", all, "--to", &to];
    let report = zoo.environment.ok_json(&line);
    assert_eq!((&report["verified"], &report["rows"]), (&json!(true), &json!(40)), "{report:#}");
    let rows = format!("SELECT r.* FROM {all} r ORDER BY 1");
    assert_eq!(server.sql("some tables", &rows), server.sql(zoo.database, &rows));
    let tables = "SELECT count(*) FROM pg_tables WHERE schemaname !~ '^(pg_|information_schema)'";
    assert_eq!(server.sql("some tables", tables), "3");
}
