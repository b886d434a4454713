//! Exports of PostgreSQL databases, judged by what stock programs make of them: `psql`, `pg_restore`, `sha256sum`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};
use serde_json::{Value, json};

use crate::environment::{Run, TestEnvironment};
use crate::export::shell;

const SHOP: &str = r#"
    CREATE SCHEMA audit;
    CREATE TYPE mood AS ENUM ('good', 'so so');
    CREATE TABLE users (id uuid PRIMARY KEY, name text NOT NULL, seen timestamptz, flag boolean, mood mood);
    CREATE TABLE orders (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "user" uuid REFERENCES users, price numeric(12,2),
        double numeric GENERATED ALWAYS AS (price * 2) STORED, extra json, picture bytea, tags text[], at timestamp);
    CREATE TABLE audit.log (line text);
    CREATE TABLE "audit.log" (line text);
    CREATE TABLE "empty one" (x int);
    CREATE TABLE hens (id int PRIMARY KEY, egg int);
    CREATE TABLE eggs (id int PRIMARY KEY, hen int REFERENCES hens);
    ALTER TABLE hens ADD FOREIGN KEY (egg) REFERENCES eggs DEFERRABLE INITIALLY DEFERRED;
    CREATE TABLE hard ("a ""b""" text, "two	words" interval, amount money, markup xml);
    CREATE VIEW rich AS SELECT * FROM orders WHERE price > 100;
    CREATE MATERIALIZED VIEW totals AS SELECT "user", sum(price) AS sum FROM orders GROUP BY 1;
    CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'no'; END $$;
    INSERT INTO users VALUES
        ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', E'Ada "the \\ first"\n\tLovelace', '2026-01-02 03:04:05.123456+02', true, 'good'),
        ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12', '', 'infinity', NULL, 'so so');
    INSERT INTO orders ("user", price, extra, picture, tags, at) VALUES
        ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 1234567890.10, '{"$blob": "no", "a": [1, 1e400]}', '\x00ff', '{a,NULL,"b c"}', '2026-01-02 03:04:05'),
        (NULL, 'NaN', 'null', NULL, '[3:4]={x,y}', '0044-03-15 00:00:00 BC');
    INSERT INTO audit.log VALUES (E'\\.'), (NULL), ('');
    INSERT INTO "audit.log" VALUES ('public');
    INSERT INTO hard VALUES ('\N', '-1 day +02:00', 1234.5, 'x<a/>'), (E'a\rb\tc\\d\ne', NULL, NULL, NULL), ('', '-3 years', -1, '');
    INSERT INTO eggs VALUES (1, NULL), (2, NULL); INSERT INTO hens VALUES (1, 1), (2, NULL);
    UPDATE eggs SET hen = 1;
    CREATE TRIGGER stop BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION stop();
    REFRESH MATERIALIZED VIEW totals;
    SELECT lo_from_bytea(4711, '\x0102'); COMMENT ON LARGE OBJECT 4711 IS 'it''s one';
"#;

/// How many rows its tables have.
const ROWS: u64 = 15;

/// Takes the rows of all tables away, and whatever looks at those that come back.
const EMPTIED: &str = r#"
    ALTER TABLE users DISABLE TRIGGER ALL; ALTER TABLE orders DISABLE TRIGGER ALL;
    ALTER TABLE hens DISABLE TRIGGER ALL; ALTER TABLE eggs DISABLE TRIGGER ALL;
    TRUNCATE users, orders, audit.log, "audit.log", "empty one", hens, eggs, hard;
"#;

/// A server with a shop, and a repository with a snapshot of it.
struct Shop {
    server: Server,
    environment: TestEnvironment,
    session: String,
}

impl Shop {
    fn new() -> Option<Self> {
        let Some(programs) = Programs::newest_with_tls() else {
            eprintln!("{SKIPPED}");
            return None;
        };
        let server = Server::start(&programs, &Settings::default());
        server.create_database("shop");
        server.sql("shop", SHOP);
        let environment = TestEnvironment::new().with("DATABASE_URL", &server.url("shop"));
        let report = environment.ok_json(&["backup", "env:DATABASE_URL"]);
        let session = report["session"].as_str().unwrap().to_owned();
        Some(Self { server, environment, session })
    }

    /// Exports, and returns the report.
    fn export(&self, format: &str) -> Value {
        self.environment.ok_json(&["export", "latest", "--out", format, "--format", format])
    }

    fn path(&self, format: &str, ending: &str) -> PathBuf {
        self.environment.path(&format!("{format}/shop_{}{ending}", self.session))
    }

    /// Verifies a path without repository and password.
    #[track_caller]
    fn verified(&self, path: &Path) -> Value {
        let report = TestEnvironment::without_password().ok_json(&["verify", path.to_str().unwrap()]);
        assert_eq!((&report["ok"], &report["damaged"]), (&1.into(), &0.into()), "{report:#}");
        assert_eq!(report["checked"][0]["database"], "shop", "{report:#}");
        report["checked"][0].clone()
    }

    /// Expects that a path is found damaged.
    #[track_caller]
    fn damaged(&self, path: &Path, finding: &str) {
        let (code, report) = TestEnvironment::without_password().json(&["verify", path.to_str().unwrap()]);
        assert_eq!(code, Some(4), "{report:#}");
        assert!(report["checked"].to_string().contains(finding), "{finding:?} is not in {report:#}");
    }

    /// Runs a file with stock psql, which stops at the first error.
    #[track_caller]
    fn psql(&self, database: &str, line: &str) {
        let folder = self.server.socket_folder().display();
        let port = self.server.port();
        let line = line.replace(
            "psql",
            &format!("psql -X -q -v ON_ERROR_STOP=1 -h {folder} -p {port} -U postgres -d {database}"),
        );
        shell(&self.environment.path(""), &line);
    }

    /// Returns every row of every table, as the server says it.
    fn contents(&self, database: &str) -> String {
        let tables = [
            "users",
            "orders",
            "audit.log",
            "\"audit.log\"",
            "\"empty one\"",
            "hens",
            "eggs",
            "hard",
            "totals",
        ];
        let ask = |table: &&str| {
            let rows = self.server.sql(database, &format!("SELECT t FROM {table} t ORDER BY t::text"));
            format!("{table}:\n{rows}\n")
        };
        let schema = "
            SELECT relname, relkind FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
                WHERE nspname IN ('public', 'audit') ORDER BY nspname, relname;
            SELECT conname, pg_get_constraintdef(c.oid) FROM pg_constraint c JOIN pg_namespace n ON n.oid = connamespace
                WHERE nspname IN ('public', 'audit') ORDER BY 1, 2;
            SELECT last_value, is_called FROM orders_id_seq";
        tables.iter().map(ask).collect::<String>() + &self.server.sql(database, schema)
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn database_of_a_server_is_exported_in_every_form_and_comes_back_from_each() {
    let Some(shop) = Shop::new() else { return };
    let original = shop.contents("shop");
    readable_json(&shop);
    ndjson(&shop, &original);
    csv(&shop, &original);
    sql(&shop, &original);
    files(&shop, &original);
    no_file(&shop);
}

fn readable_json(shop: &Shop) {
    let report = shop.export("json");
    let path = shop.path("json", ".json");
    assert_eq!(report["files"][0]["path"], format!("shop_{}.json", shop.session));
    assert_eq!(report["files"][0]["bytes"], fs::metadata(&path).unwrap().len());
    assert_eq!((mode(&path), mode(&shop.path("json", ".json.sha256"))), (0o600, 0o600));
    shell(&shop.environment.path("json"), "sha256sum -c *.sha256");
    let text = fs::read_to_string(&path).unwrap();
    // What one program takes for a number is too large for another: the value stands as it is.
    let document: Value = serde_json::from_str(&text.replace("1e400", "7")).unwrap();
    let orders = &document["tables"]["orders"];
    assert_eq!(
        orders[0],
        json!({
            "id": 1, "user": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "price": 1_234_567_890.1,
            "extra": { "$blob": "no", "a": [1, 7] }, "picture": "\\x00ff", "tags": "{a,NULL,\"b c\"}",
            "at": "2026-01-02T03:04:05"
        })
    );
    assert_eq!((&orders[1]["price"], &orders[1]["user"]), (&"NaN".into(), &Value::Null));
    let users = &document["tables"]["users"];
    assert_eq!(users[0]["name"], "Ada \"the \\ first\"\n\tLovelace");
    assert_eq!(
        (&users[0]["seen"], &users[1]["seen"]),
        (&"2026-01-02T01:04:05.123456Z".into(), &"infinity".into())
    );
    assert_eq!((&users[0]["flag"], &users[1]["flag"]), (&true.into(), &Value::Null));

    let metadata = &document["metadata"];
    assert_eq!(
        (&metadata["format"], &metadata["engine"]),
        (&"dbkeep postgres json 1".into(), &"postgres".into())
    );
    assert_eq!(metadata["session"], shop.session);
    let counts = json!({ "users": 2, "orders": 2, "audit.log": 3, "public.\"audit.log\"": 1, "empty one": 0, "hens": 2, "eggs": 2, "hard": 3 });
    assert_eq!((&metadata["row_counts"], &metadata["rows"]), (&counts, &ROWS.into()));
    assert_eq!(metadata["cycles"], json!([["eggs", "hens"]]));
    let order: Vec<&str> =
        metadata["tables"].as_array().unwrap().iter().map(|table| table["name"].as_str().unwrap()).collect();
    let place = |name: &str| order.iter().position(|table| *table == name).unwrap();
    assert!(place("users") < place("orders"), "{order:?}");
    let stands = |name: &str| text.find(&format!("\n{}: [", Value::from(name))).unwrap();
    assert!(order.windows(2).all(|pair| stands(pair[0]) < stands(pair[1])), "{order:?}");
    let facts = &metadata["tables"][place("orders")];
    assert_eq!(facts["references"], json!([{ "columns": ["user"], "table": "users", "referenced": ["id"] }]));
    assert_eq!(
        (&facts["columns"][3]["generated"], &facts["columns"][2]["type"]),
        (&true.into(), &"numeric(12,2)".into())
    );
    let notes = metadata["notes"].to_string();
    for note in ["column double of orders", "materialized view totals", "1 large objects left out"] {
        assert!(notes.contains(note), "{notes}");
    }

    let checked = shop.verified(&path);
    assert_eq!(
        (&checked["checksum"], &checked["rows"], &checked["form"]),
        (&"ok".into(), &ROWS.into(), &"json".into())
    );
    assert!(checked["cannot_hold"].to_string().contains("zeros at the end of decimals"), "{checked:#}");
    let short = shop.environment.path("short.json");
    fs::write(&short, text.replace(",\n{\"id\":2,\"hen\":1}", "")).unwrap();
    shop.damaged(&short, "table \\\"eggs\\\" has 1 rows, its metadata says 2");
}

fn ndjson(shop: &Shop, original: &str) {
    shop.export("ndjson");
    let path = shop.path("ndjson", ".ndjson");
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.contains("{\"table\":\"audit.log\",\"row\":{\"line\":\"\\\\.\"}}\n"), "{text}");
    assert!(text.ends_with(&format!("{{\"end\":{{\"tables\":8,\"rows\":{ROWS}}}}}\n")), "{text}");
    let checked = shop.verified(&path);
    assert_eq!(
        (&checked["checksum"], &checked["rows"], &checked["integrity"]),
        (&"ok".into(), &ROWS.into(), &"ok".into())
    );
    // Through COPY into an empty database, with nothing but the file: every table comes to the same sum.
    let script = shop.environment.path("from-ndjson.sql");
    fs::write(&script, script_of(&text)).unwrap();
    shop.server.create_database("from_ndjson");
    shop.psql("from_ndjson", &format!("psql -f {}", script.display()));
    let environment = TestEnvironment::new().with("BACK", &shop.server.url("from_ndjson"));
    environment.ok(["backup", "env:BACK"]);
    let sums = |environment: &TestEnvironment| {
        let shown = environment.ok_json(&["show", "latest"]);
        let sum = |table: &Value| ["schema", "name", "rows", "hash"].map(|key| table[key].to_string());
        shown["postgres"]["tables"].as_array().unwrap().iter().map(sum).collect::<Vec<_>>()
    };
    assert_eq!(sums(&environment), sums(&shop.environment));
    assert_eq!(shop.contents("from_ndjson"), original);
    ndjson_by_the_guide(shop, &path, &text, original);

    // A value that changed is found without any checksum: by the sum of the table's rows.
    let changed = shop.environment.path("changed.ndjson");
    fs::write(&changed, text.replace("\"price\":\"1234567890.10\"", "\"price\":\"1234567890.11\"")).unwrap();
    shop.damaged(&changed, "the rows of table \\\"orders\\\" are not those of the snapshot");
    fs::write(&changed, text.replace(",\"flag\":null", "")).unwrap();
    shop.damaged(&changed, "no column \\\"flag\\\"");
    let cut: String = text.split_inclusive('\n').take(5).collect();
    fs::write(&changed, cut).unwrap();
    shop.damaged(&changed, "");
}

/// Brings every table back with the commands that the guide shows for one, which has no values to be careful with, into a
/// database whose own settings would change some.
fn ndjson_by_the_guide(shop: &Shop, path: &Path, text: &str, original: &str) {
    const PAGE: &str = include_str!("../../../../docs/guide/export-postgresql.md");
    let page = PAGE.split("Rows from NDJSON").nth(1).unwrap();
    let command = page.split("```").nth(1).unwrap().strip_prefix("sh\n").unwrap();
    let command = command.replace("dbkeep verify", concat!(env!("CARGO_BIN_EXE_dbkeep"), " verify"));
    // The newest of this database, beside an older one and a newer one of another database.
    let newest = shop.environment.path("exports/shop_20261122_093000.ndjson");
    fs::create_dir(newest.parent().unwrap()).unwrap();
    for other in ["shop_20261121_093000.ndjson", "shop_2_20261123_093000.ndjson"] {
        fs::write(newest.with_file_name(other), "another").unwrap();
    }
    fs::copy(path, &newest).unwrap();
    if Command::new("jq").arg("--version").output().is_err() {
        eprintln!("left out: jq is not installed");
        return;
    }
    shop.server.sql("postgres", "CREATE DATABASE by_the_guide TEMPLATE shop");
    shop.server.sql("by_the_guide", EMPTIED);
    let settings = "ALTER DATABASE by_the_guide SET array_nulls = off; ALTER DATABASE by_the_guide SET xmloption = document";
    shop.server.sql("postgres", settings);
    let metadata: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    for table in metadata["metadata"]["tables"].as_array().unwrap() {
        let (schema, name) = (table["schema"].as_str().unwrap(), table["table"].as_str().unwrap());
        let in_a_shell = format!("{}.{}", quoted(schema), quoted(name)).replace('"', "\\\"");
        let command = command
            .replace("\"orders\"", &table["name"].to_string())
            .replace("TRUNCATE orders", &format!("DELETE FROM {in_a_shell}"))
            .replace("copy orders", &format!("copy {in_a_shell}"))
            .replace(" --dbname=from_sql", "");
        if table["rows"] == 0 {
            let without_psql = command.split(" &&\npsql").next().unwrap();
            shell(&shop.environment.path(""), without_psql);
            assert_eq!(fs::read_to_string(shop.environment.path("columns.txt")).unwrap(), "");
            continue;
        }
        shop.psql("by_the_guide", &command);
    }
    shop.server.sql("postgres", "ALTER DATABASE by_the_guide RESET ALL");
    assert_eq!(shop.contents("by_the_guide"), original);
    // A part of an export changes nothing, wherever it ends.
    let reached = shop.environment.path("reached");
    let line_ends: Vec<usize> = text.match_indices('\n').map(|(place, _)| place + 1).collect();
    let all_rows = line_ends[line_ends.len() - 2];
    for length in [text.len() / 2, line_ends[12], all_rows] {
        fs::write(&newest, &text[..length]).unwrap();
        let command = command.replace("psql", &format!("touch {} #", reached.display()));
        let output =
            Command::new("sh").args(["-c", &command]).current_dir(shop.environment.path("")).output();
        let output = output.unwrap();
        assert!(!output.status.success() && !reached.exists(), "{length}: {output:?}");
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Returns what brings a lossless export back: its objects, and rows as COPY takes them.
fn script_of(text: &str) -> String {
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let metadata = lines.next().unwrap()["metadata"].take();
    let rows: Vec<Value> = lines.collect();
    let objects = |script: &mut String, stage: &str| {
        for object in metadata["schema"].as_array().unwrap().iter().filter(|object| object["stage"] == stage)
        {
            *script += &format!("{};\n", object["sql"].as_str().unwrap());
        }
    };
    let mut script = String::from("SET check_function_bodies = off;\n");
    objects(&mut script, "before-rows");
    for table in metadata["tables"].as_array().unwrap() {
        let columns =
            table["columns"].as_array().unwrap().iter().filter(|column| column["generated"] == false);
        let columns: Vec<&str> = columns.map(|column| column["name"].as_str().unwrap()).collect();
        let quoted: Vec<String> = columns.iter().map(|column| quoted(column)).collect();
        let (schema, name) = (table["schema"].as_str().unwrap(), table["table"].as_str().unwrap());
        script += &format!("COPY \"{schema}\".\"{name}\" ({}) FROM stdin;\n", quoted.join(", "));
        for line in rows.iter().filter(|line| line["table"] == table["name"]) {
            let value = |column: &&str| match &line["row"][column] {
                Value::Null => "\\N".to_owned(),
                Value::String(text) => {
                    text.replace('\\', "\\\\").replace('\n', "\\n").replace('\t', "\\t").replace('\r', "\\r")
                }
                other => panic!("{other} is not as PostgreSQL writes it"),
            };
            script += &(columns.iter().map(value).collect::<Vec<_>>().join("\t") + "\n");
        }
        script += "\\.\n";
    }
    for sequence in metadata["sequences"].as_array().unwrap() {
        let (name, value) = (sequence["name"].as_str().unwrap(), &sequence["last_value"]);
        script += &format!("SELECT setval('public.{name}', {value}, {});\n", sequence["is_called"]);
    }
    objects(&mut script, "after-rows");
    objects(&mut script, "last");
    script
}

fn csv(shop: &Shop, original: &str) {
    shop.export("csv");
    let folder = shop.path("csv", "");
    shell(&folder, "sha256sum -c SHA256SUMS");
    let log = fs::read_to_string(folder.join("audit.log.csv")).unwrap();
    assert_eq!(log, "\"line\"\r\n\"\\.\"\r\n\r\n\"\"\r\n");
    let users = fs::read_to_string(folder.join("users.csv")).unwrap();
    assert!(users.starts_with("\"id\",\"name\",\"seen\",\"flag\",\"mood\"\r\n\"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\",\"Ada \"\"the"), "{users}");
    assert!(users.ends_with("\"\",\"infinity\",,\"so so\"\r\n"), "{users}");
    let checked = shop.verified(&folder);
    assert_eq!((&checked["rows"], &checked["form"]), (&ROWS.into(), &"csv".into()));

    // The server takes every file.
    shop.server.sql("postgres", "CREATE DATABASE from_csv TEMPLATE shop");
    shop.server.sql("from_csv", EMPTIED);
    let metadata: Value = serde_json::from_slice(&fs::read(folder.join("metadata.json")).unwrap()).unwrap();
    for table in metadata["tables"].as_array().unwrap() {
        let text = |key: &str| table[key].as_str().unwrap().to_owned();
        let columns =
            table["columns"].as_array().unwrap().iter().filter(|column| column["generated"] == false);
        let columns: Vec<String> =
            columns.map(|column| quoted(column["name"].as_str().unwrap()).replace('"', "\\\"")).collect();
        let file = folder.join(metadata["files"][text("name")].as_str().unwrap());
        let copy = format!(
            "psql -c \"\\\\copy \\\"{}\\\".\\\"{}\\\" ({}) FROM '{}' WITH (FORMAT csv, HEADER)\"",
            text("schema"),
            text("table"),
            columns.join(", "),
            file.display()
        );
        shop.psql("from_csv", &copy);
    }
    assert_eq!(shop.contents("from_csv"), original);
    fs::write(folder.join("eggs.csv"), "\"id\",\"hen\"\r\n1,1\r\n").unwrap();
    shop.damaged(&folder, "table \\\"eggs\\\" has 1 rows");
}

fn sql(shop: &Shop, original: &str) {
    shop.server.sql("shop", "CREATE ROLE clerk LOGIN PASSWORD 'hunter2'; ALTER TABLE users OWNER TO clerk; GRANT SELECT ON orders TO clerk");
    shop.environment.ok(["backup", "env:DATABASE_URL"]);
    let report = shop.export("sql");
    let stem = report["session"].as_str().unwrap().to_owned();
    let path = |ending: &str| shop.environment.path(&format!("sql/shop_{stem}{ending}"));
    shell(&shop.environment.path("sql"), "sha256sum -c *.sha256");
    shop.server
        .sql("shop", "ALTER TABLE users OWNER TO postgres; REVOKE ALL ON orders FROM clerk; DROP ROLE clerk");
    assert!(report["databases"][0]["notes"].to_string().contains("hashes of their passwords"), "{report:#}");
    let checked = shop.verified(&path(".sql"));
    assert_eq!(
        (&checked["rows"], &checked["form"], &checked["checksum"]),
        (&ROWS.into(), &"sql".into(), &"ok".into())
    );

    shop.psql("postgres", &format!("psql -f {}", path("_roles.sql").display()));
    shop.server.create_database("from_sql");
    shop.psql("from_sql", &format!("psql -f {}", path(".sql").display()));
    assert_eq!(shop.contents("from_sql"), original);
    let owner = shop.server.sql("from_sql", "SELECT relowner::regrole, has_table_privilege('clerk', 'orders', 'SELECT') FROM pg_class WHERE oid = 'users'::regclass");
    assert_eq!(owner, "clerk|t");
    let object = shop.server.sql("from_sql", "SELECT lo_get(4711), obj_description(4711, 'pg_largeobject')");
    assert_eq!(object, "\\x0102|it's one");
    // The trigger that would have refused the rows is there now.
    assert!(
        !shop
            .server
            .psql("from_sql", "INSERT INTO users (id, name) VALUES (gen_random_uuid(), 'x')")
            .unwrap()
            .status
            .success()
    );

    let text = fs::read_to_string(path(".sql")).unwrap();
    let cut = shop.environment.path("cut.sql");
    fs::write(&cut, &text[..text.len() - 20]).unwrap();
    shop.damaged(&cut, "it breaks off");
    fs::write(&cut, text.replace("\npublic\n", "\n")).unwrap();
    shop.damaged(&cut, &format!("{} rows", ROWS - 1));
    shop.verified(&shop.environment.path("sql"));
    shop.server.sql("postgres", "DROP DATABASE from_sql");
}

fn files(shop: &Shop, original: &str) {
    let snapshot = shop.environment.ok_json(&["list"])["snapshots"][0]["id"].as_str().unwrap().to_owned();
    let exported = |format: &str| -> PathBuf {
        let report = shop.environment.ok_json(&["export", &snapshot, "--out", format, "--format", format]);
        assert!(
            report["databases"][0]["notes"].to_string().contains("hashes of their passwords"),
            "{report:#}"
        );
        let session = report["session"].as_str().unwrap();
        shop.environment.path(&format!("{format}/backup_{session}"))
    };
    let bundle = exported("bundle");
    shell(&bundle, "sha256sum -c SHA256SUMS && cd databases/* && sha256sum -c SHA256SUMS");
    let database = fs::read_dir(bundle.join("databases")).unwrap().next().unwrap().unwrap().path();
    for name in [
        "README.txt",
        "manifest.json",
        "catalog.json",
        "schema.sql",
        "globals.sql",
        "settings.sql",
        "data/public.users.copy",
    ] {
        assert_eq!(mode(&database.join(name)), 0o600, "{name}");
    }
    let manifest: Value =
        serde_json::from_slice(&fs::read(bundle.join("manifests/backup_manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["databases"]["shop"]["engine"], "postgres", "{manifest:#}");
    assert_eq!(manifest["databases"]["shop"]["total_records"], ROWS);
    let checked = shop.verified(&bundle);
    assert_eq!(
        (&checked["rows"], &checked["form"], &checked["integrity"]),
        (&ROWS.into(), &"postgres".into(), &"ok".into())
    );
    shop.verified(&database);

    let archive = exported("tar.gz").with_extension("tar.gz");
    let checked = shop.verified(&archive);
    assert_eq!(
        (&checked["rows"], &checked["form"], &checked["integrity"]),
        (&ROWS.into(), &"postgres".into(), &"ok".into())
    );
    shell(
        &shop.environment.path(""),
        &format!("mkdir unpacked && tar xzf {} -C unpacked", archive.display()),
    );
    let inside = Path::new("unpacked")
        .join(bundle.file_name().unwrap())
        .join("databases")
        .join(database.file_name().unwrap());
    let inside = shop.environment.path(inside.to_str().unwrap());
    shell(&inside, &format!("diff -r . {}", database.display()));

    // As README.txt says, with stock programs.
    shop.server.create_database("from_files");
    let (folder, port) = (shop.server.socket_folder().display(), shop.server.port());
    let restore = |section: &str| {
        let line = format!(
            "pg_restore -h {folder} -p {port} -U postgres --no-owner --no-privileges --section={section} -d from_files schema.dump"
        );
        shell(&inside, &line);
    };
    restore("pre-data");
    let catalog: Value = serde_json::from_slice(&fs::read(inside.join("catalog.json")).unwrap()).unwrap();
    for proof in checked_tables(&inside) {
        let table = catalog["tables"]
            .as_array()
            .unwrap()
            .iter()
            .find(|table| {
                table["name"]["name"] == proof["name"] && table["name"]["schema"] == proof["schema"]
            })
            .unwrap();
        let columns =
            table["columns"].as_array().unwrap().iter().filter(|column| column.get("generated").is_none());
        let columns: Vec<String> =
            columns.map(|column| quoted(column["name"].as_str().unwrap()).replace('"', "\\\"")).collect();
        shop.psql(
            "from_files",
            &format!(
                "psql -c \"\\\\copy \\\"{}\\\".\\\"{}\\\" ({}) FROM '{}/data/{}'\"",
                proof["schema"].as_str().unwrap(),
                proof["name"].as_str().unwrap(),
                columns.join(", "),
                inside.display(),
                proof["file"].as_str().unwrap()
            ),
        );
    }
    restore("post-data");
    shop.server.sql("from_files", "REFRESH MATERIALIZED VIEW totals; SELECT setval('orders_id_seq', 2)");
    assert_eq!(shop.contents("from_files"), original);

    let rows = inside.join("data/public.eggs.copy");
    fs::write(&rows, "1\t1\n2\t2\n").unwrap();
    shop.damaged(&inside, "the rows of eggs have another hash than manifest.json says");
    fs::write(&rows, "1\t1\n").unwrap();
    shop.damaged(&inside, "eggs has 1 rows, manifest.json says 2");
    fs::remove_file(&rows).unwrap();
    shop.damaged(&inside, "data/public.eggs.copy is not there");
    let schema = database.join("schema.sql");
    fs::write(&schema, fs::read_to_string(&schema).unwrap().replace("price > ", "price < ")).unwrap();
    fs::remove_file(database.join("SHA256SUMS")).unwrap();
    shop.damaged(&database, "schema.sql is not what manifest.json says");
}

fn checked_tables(inside: &Path) -> Vec<Value> {
    let manifest: Value = serde_json::from_slice(&fs::read(inside.join("manifest.json")).unwrap()).unwrap();
    manifest["postgres"]["tables"].as_array().unwrap().clone()
}

fn no_file(shop: &Shop) {
    for format in ["db", "gzip"] {
        let run: Run = shop.environment.run(["export", "latest", "--out", "none", "--format", format]);
        run.expect_failure(
            1,
            &format!("it has no file that --format {format} could give back"),
            "sql, ndjson, json or csv",
        );
        assert!(!shop.environment.path("none").exists());
    }
}
