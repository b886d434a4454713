//! `dbkeep compare` of PostgreSQL databases: two snapshots, and a snapshot and the live database, which have to tell the
//! same.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};
use serde_json::{Value, json};

use crate::environment::TestEnvironment;

/// Returns the server of these tests; it ends with the process.
fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| {
        Programs::newest_with_tls().map(|programs| Server::start(&programs, &Settings::default()))
    });
    if server.is_none() {
        eprintln!("{SKIPPED}");
    }
    server.as_ref()
}

/// A database of its own, with a snapshot of what it was.
struct Place {
    server: &'static Server,
    database: &'static str,
    environment: TestEnvironment,
}

impl Place {
    /// Makes the database, and backs it up.
    fn new(database: &'static str, sql: &str) -> Option<Self> {
        let server = server()?;
        server.create_database(database);
        server.sql(database, sql);
        let environment = TestEnvironment::new().with("DATABASE_URL", &server.url(database));
        let place = Self { server, database, environment };
        place.back_up();
        Some(place)
    }

    fn back_up(&self) {
        self.environment.ok(["backup", "env:DATABASE_URL"]);
    }

    fn sql(&self, sql: &str) {
        self.server.sql(self.database, sql);
    }

    /// Changes the database, and compares the snapshot with it as it is then, and with a snapshot of that.
    #[track_caller]
    fn changed(&self, sql: &str, arguments: &[&str]) -> Value {
        self.sql(sql);
        let live = self.environment.ok_json(&[&["compare", "latest", "--rows"], arguments].concat());
        self.back_up();
        let two =
            self.environment.ok_json(&[&["compare", "latest~1", "latest", "--rows"], arguments].concat());
        for key in ["same", "schema", "tables", "notes"] {
            assert_eq!(live[key], two[key], "{key} of the live database, and of a snapshot of it");
        }
        assert_eq!((&live["right"]["snapshot"], live["left"]["snapshot"].is_string()), (&Value::Null, true));
        live
    }
}

fn table<'r>(report: &'r Value, name: &str) -> &'r Value {
    let tables = report["tables"].as_array().unwrap();
    tables.iter().find(|table| table["name"] == name).unwrap_or_else(|| panic!("no {name} in {report:#}"))
}

/// Returns the rows of both sides, and how many were added, removed and changed.
fn counts(report: &Value, name: &str) -> [u64; 5] {
    let table = table(report, name);
    assert_eq!(table["error"], Value::Null, "{table:#}");
    ["rows_left", "rows_right", "added", "removed", "changed"].map(|key| table[key].as_u64().unwrap())
}

fn schema(report: &Value, list: &str) -> Vec<String> {
    let changes = report["schema"][list].as_array().unwrap();
    let told =
        |change: &Value| format!("{} {}", change["type"].as_str().unwrap(), change["name"].as_str().unwrap());
    changes.iter().map(told).collect()
}

#[test]
fn database_that_did_not_change_is_the_same_as_its_snapshot() {
    let Some(place) = Place::new(
        "unchanged",
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE e (n int);
        INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 5) n",
    ) else {
        return;
    };
    place.back_up();
    for line in [&["compare", "latest", "--exit-code"][..], &["compare", "latest~1", "latest", "--exit-code"]]
    {
        let run = place.environment.ok(line);
        assert!(run.stdout.ends_with("the same: 2 tables, 5 rows\n"), "{}", run.stdout);
    }
    // Rewritten, with its rows in another order: it still holds the same.
    place.sql("UPDATE t SET v = v WHERE id < 4");
    place.sql("VACUUM FULL t");
    assert_eq!(place.environment.ok_json(&["compare", "latest"])["same"], true);
}

#[test]
fn rows_that_came_went_and_changed_are_told_by_their_keys() {
    let Some(place) = Place::new(
        "keyed",
        r"CREATE TABLE users (id int PRIMARY KEY, name text, note text);
        INSERT INTO users VALUES (1, 'ada', ''), (2, E'tab\there', 'x'), (3, E'back\\slash', NULL), (10, 'ten', 'same');
        CREATE TABLE pairs (b text, a text, n numeric, PRIMARY KEY (a, b)); INSERT INTO pairs VALUES ('x', 'y', 1)",
    ) else {
        return;
    };
    let report = place.changed(
        r"UPDATE users SET note = NULL WHERE id = 1;
        UPDATE users SET name = E'line\nend' WHERE id = 2; DELETE FROM users WHERE id = 3;
        INSERT INTO users VALUES (4, E'\\N', 'new'); UPDATE pairs SET n = 1.0",
        &[],
    );
    assert_eq!(report["same"], false);
    assert_eq!(counts(&report, "public.users"), [4, 4, 1, 1, 2]);
    assert_eq!(table(&report, "public.users")["key"], json!(["id"]));
    assert_eq!(
        table(&report, "public.users")["rows"],
        json!([
            { "change": "changed", "key": { "id": 1 }, "columns": [{ "name": "note", "left": "", "right": null }] },
            { "change": "changed", "key": { "id": 2 },
              "columns": [{ "name": "name", "left": "tab\there", "right": "line\nend" }] },
            { "change": "removed", "key": { "id": 3 },
              "columns": [{ "name": "name", "left": "back\\slash" }, { "name": "note", "left": null }] },
            { "change": "added", "key": { "id": 4 },
              "columns": [{ "name": "name", "right": "\\N" }, { "name": "note", "right": "new" }] },
        ])
    );
    assert_eq!(counts(&report, "public.pairs"), [1, 1, 0, 0, 1]);
    assert_eq!(
        table(&report, "public.pairs")["rows"],
        json!([{ "change": "changed", "key": { "a": "y", "b": "x" },
                 "columns": [{ "name": "n", "left": "1", "right": "1.0" }] }])
    );
    assert_eq!(report["schema"], json!({ "added": [], "removed": [], "changed": [] }));
    let run =
        place.environment.run(["compare", "latest~1", "latest", "--exit-code", "--rows", "--limit", "2"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    for text in [" public.users | 4 → 4 rows | 4 +-~~", " ~ id=1  note: '' → NULL", "   … and 2 more"] {
        assert!(run.stdout.contains(text), "{text} is not in\n{}", run.stdout);
    }
}

#[test]
fn rows_without_a_key_are_counted_as_often_as_they_are_there() {
    let Some(place) = Place::new("keyless", "CREATE TABLE log (line text, n int);
        INSERT INTO log SELECT 'twice', 1 FROM generate_series(1, 3); INSERT INTO log VALUES ('once', NULL), ('', 2)") else {
        return;
    };
    let sql = "DELETE FROM log WHERE ctid = (SELECT min(ctid) FROM log WHERE line = 'twice');
        INSERT INTO log VALUES ('once', NULL), ('once', NULL), (NULL, 2)";
    let report = place.changed(sql, &[]);
    assert_eq!(counts(&report, "public.log"), [5, 7, 3, 1, 0]);
    let rows = table(&report, "public.log")["rows"].as_array().unwrap();
    let added = |row: &Value| row["change"] == "added" && row["key"] == json!({});
    assert_eq!(rows.iter().filter(|row| added(row)).count(), 3);
    let once = json!([{ "name": "line", "right": "once" }, { "name": "n", "right": null }]);
    assert_eq!(rows.iter().filter(|row| row["columns"] == once).count(), 2, "{rows:#?}");
    let gone = json!([{ "name": "line", "left": "twice" }, { "name": "n", "left": 1 }]);
    assert_eq!(rows.iter().filter(|row| row["columns"] == gone).count(), 1, "{rows:#?}");
}

#[test]
fn tables_and_columns_that_came_went_or_became_others_are_named() {
    let Some(place) = Place::new(
        "columns",
        "CREATE TABLE gone (id int PRIMARY KEY); INSERT INTO gone VALUES (1), (2);
        CREATE TABLE t (id int PRIMARY KEY, a text, b text, c int);
        INSERT INTO t SELECT n, 'a' || n, 'b' || n, n FROM generate_series(1, 9) n;
        CREATE TABLE swap (id int PRIMARY KEY, x text, y text); INSERT INTO swap VALUES (1, 'x', 'y')",
    ) else {
        return;
    };
    let sql = "DROP TABLE gone; CREATE TABLE came (id int); INSERT INTO came VALUES (7);
        ALTER TABLE t RENAME a TO name; ALTER TABLE t DROP b; ALTER TABLE t ADD d text DEFAULT 'new';
        ALTER TABLE t ALTER c TYPE bigint; UPDATE t SET c = 100 WHERE id = 3;
        ALTER TABLE swap RENAME x TO z; ALTER TABLE swap RENAME y TO x; ALTER TABLE swap RENAME z TO y";
    let report = place.changed(sql, &[]);
    assert_eq!(schema(&report, "added"), ["table public.came"]);
    assert_eq!(schema(&report, "removed"), ["constraint public.gone gone_pkey", "table public.gone"]);
    assert_eq!(schema(&report, "changed"), ["table public.swap", "table public.t"]);
    assert_eq!(counts(&report, "public.gone"), [2, 0, 0, 2, 0]);
    assert_eq!(counts(&report, "public.came"), [0, 1, 1, 0, 0]);
    let came = table(&report, "public.came");
    assert_eq!((&came["in_left"], &came["in_right"]), (&json!(false), &json!(true)));
    assert_eq!(came["rows"][0]["columns"], json!([{ "name": "id", "right": 7 }]));
    let t = table(&report, "public.t");
    assert_eq!(counts(&report, "public.t"), [9, 9, 0, 0, 1]);
    assert_eq!((&t["columns_added"], &t["columns_removed"]), (&json!(["d"]), &json!(["b"])));
    assert_eq!(t["columns_renamed"], json!([{ "left": "a", "right": "name" }]));
    assert_eq!(t["rows"][0]["columns"], json!([{ "name": "c", "left": 3, "right": 100 }]));
    // The bytes of its rows are the same, and mean something else.
    assert_eq!(counts(&report, "public.swap"), [1, 1, 0, 0, 1]);
    let changed = &report["schema"]["changed"][1];
    assert!(changed["left"].as_str().unwrap().contains("c integer"), "{changed}");
    assert!(changed["right"].as_str().unwrap().contains("c bigint"), "{changed}");
}

#[test]
fn objects_that_are_no_tables_are_named_and_only_those_of_the_tables_that_were_asked_for() {
    let Some(place) = Place::new(
        "objects",
        "CREATE TABLE t (id int PRIMARY KEY, v text); CREATE TABLE u (id int);
        CREATE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 1'; CREATE VIEW w AS SELECT 1 AS n;
        INSERT INTO t VALUES (1, 'a'); CREATE SEQUENCE s",
    ) else {
        return;
    };
    let sql = "CREATE INDEX by_v ON t (v); CREATE OR REPLACE FUNCTION f(int) RETURNS int LANGUAGE sql AS 'SELECT 2';
        DROP VIEW w; CREATE INDEX of_u ON u (id); GRANT SELECT ON t TO pg_monitor; SELECT nextval('s')";
    let report = place.changed(sql, &[]);
    assert_eq!(report["same"], false);
    assert_eq!(schema(&report, "added"), ["acl public.TABLE t", "index public.by_v", "index public.of_u"]);
    assert_eq!(schema(&report, "removed"), ["view public.w"]);
    assert_eq!(schema(&report, "changed"), ["function public.f(integer)"]);
    assert_eq!(counts(&report, "public.t"), [1, 1, 0, 0, 0]);
    let value = |is_called: bool| json!({ "last_value": 1, "is_called": is_called });
    let sequence = json!({ "name": "public.s", "left": value(false), "right": value(true) });
    assert_eq!(report["sequences"], json!([sequence]));
    let run = place.environment.ok(["compare", "latest~1", "latest"]);
    let last = "0 of 2 tables differ: 0 rows added, 0 removed, 0 changed; 1 sequence elsewhere; 5 changes of the schema";
    assert_eq!(run.stdout.lines().last(), Some(last), "{}", run.stdout);
    assert!(run.stdout.contains(" ~ function public.f(integer)\n"), "{}", run.stdout);
    assert!(run.stdout.contains(" ~ sequence public.s 1 next → 1\n"), "{}", run.stdout);

    for right in ["latest", "current"] {
        let line = ["compare", "latest~1", right, "--table", "u"];
        let report = place.environment.ok_json(&line);
        assert_eq!(
            (schema(&report, "added"), schema(&report, "changed").len()),
            (vec!["index public.of_u".into()], 0)
        );
        assert_eq!(report["tables"].as_array().unwrap().len(), 1);
        assert_eq!(report.get("sequences"), None, "it belongs to no table");
        let run = place.environment.run(["compare", "latest~1", right, "--table", "public.uu"]);
        run.expect_failure(1, "neither side has a table public.uu", "did you mean public.u?");
    }
}

#[test]
fn odd_names_long_values_and_partitions_are_compared_like_all_others() {
    let Some(place) = Place::new(
        "odd",
        r#"CREATE SCHEMA "a.b"; CREATE TABLE "a.b"."c ""d"" $1" ("key 'k'" text PRIMARY KEY, "v\n" text);
        INSERT INTO "a.b"."c ""d"" $1" VALUES ('1', 'one'), (E'\\.', repeat('long', 500000)), ('x', repeat('y', 3000000));
        CREATE TABLE events (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE events_1 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');
        CREATE TABLE events_2 PARTITION OF events FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');
        INSERT INTO events VALUES (1, '2026-01-05'), (2, '2026-02-05');
        CREATE TABLE becomes (n int); INSERT INTO becomes VALUES (1), (2)"#,
    ) else {
        return;
    };
    let sql = r#"UPDATE "a.b"."c ""d"" $1" SET "v\n" = repeat('long', 499999) || 'lonG' WHERE "key 'k'" = E'\\.';
        INSERT INTO events VALUES (3, '2026-02-06'); DROP TABLE becomes;
        CREATE TABLE becomes (n int) PARTITION BY RANGE (n)"#;
    let report = place.changed(sql, &[]);
    let odd = r#""a.b"."c ""d"" $1""#;
    assert_eq!(counts(&report, odd), [3, 3, 0, 0, 1]);
    let row = &table(&report, odd)["rows"][0];
    assert_eq!(row["key"], json!({ "key 'k'": "\\." }));
    assert_eq!(row["columns"][0]["name"], "v\\n");
    let long = json!({ "$long": { "begin": "long".repeat(256), "bytes": 2_000_000 } });
    assert_eq!((&row["columns"][0]["left"], &row["columns"][0]["right"]), (&long, &long));
    assert_eq!(
        (counts(&report, "public.events_1"), counts(&report, "public.events_2")),
        ([1, 1, 0, 0, 0], [1, 2, 1, 0, 0])
    );
    assert!(report["tables"].as_array().unwrap().iter().all(|table| table["name"] != "public.events"));
    assert_eq!(counts(&report, "public.becomes"), [2, 0, 0, 2, 0]);
    for right in ["latest", "current"] {
        let report =
            place.environment.ok_json(&["compare", "latest~1", right, "--table", "events", "--table", odd]);
        assert_eq!(report["tables"].as_array().unwrap().len(), 3, "{report:#}");
        let run = place.environment.ok(["compare", "latest~1", right, "--table", odd, "--rows"]);
        assert!(run.stdout.contains("longlon…' (2,000,000 bytes) → 'long"), "{}", run.stdout);
    }
}

#[test]
fn large_objects_are_compared() {
    let Some(place) = Place::new("objects_of_size", "CREATE TABLE t (id int)") else { return };
    assert_eq!(place.environment.ok_json(&["compare", "latest"])["tables"].as_array().unwrap().len(), 1);
    let report = place.changed(r"SELECT lo_from_bytea(4711, '\x0102'), lo_from_bytea(4712, '\x03')", &[]);
    assert_eq!(counts(&report, "pg_catalog.pg_largeobject"), [0, 2, 2, 0, 0]);
    let [two, live] =
        ["latest", "current"].map(|right| place.environment.ok_json(&["compare", "latest~1", right]));
    assert_eq!(two["tables"], live["tables"], "without rows told");
    let report = place.changed(r"SELECT lo_put(4711, 1, '\xff'); COMMENT ON LARGE OBJECT 4712 IS 'c'", &[]);
    assert_eq!(counts(&report, "pg_catalog.pg_largeobject"), [2, 2, 0, 0, 1]);
    let row = &table(&report, "pg_catalog.pg_largeobject")["rows"][0];
    assert_eq!(row["key"], json!({ "oid": 4711, "start": 0 }));
    assert_eq!(counts(&report, "pg_catalog.pg_largeobject_metadata"), [2, 2, 0, 0, 1]);
    let report = place.changed("SELECT lo_unlink(4711), lo_unlink(4712)", &[]);
    assert_eq!(counts(&report, "pg_catalog.pg_largeobject"), [2, 0, 0, 2, 0]);
}

#[test]
fn few_rows_of_a_large_table_are_read_when_few_changed() {
    let Some(place) = Place::new(
        "many",
        "CREATE TABLE t (id int PRIMARY KEY, v text);
        INSERT INTO t SELECT n, 'value of ' || n FROM generate_series(1, 60000) n; ANALYZE t",
    ) else {
        return;
    };
    let report = place.changed(
        "UPDATE t SET v = 'new' WHERE id % 20000 = 7; DELETE FROM t WHERE id = 30000;
        INSERT INTO t VALUES (70000, 'last')",
        &[],
    );
    assert_eq!(counts(&report, "public.t"), [60_000, 60_000, 1, 1, 3]);
    for right in ["latest", "current"] {
        let run = place.environment.ok(["-vv", "compare", "latest~1", right]);
        let line = run.stderr.lines().find(|line| line.contains("rows compared"));
        let line = line.unwrap_or_else(|| panic!("{}", run.stderr));
        for side in ["left=", "right="] {
            let after = &line[line.find(side).unwrap() + side.len()..];
            let rows: u64 =
                after.split(|letter: char| !letter.is_ascii_digit()).next().unwrap().parse().unwrap();
            assert!((4..6_000).contains(&rows), "{line}");
        }
    }
}

#[test]
fn live_database_is_compared_as_it_was_at_one_moment() {
    let Some(place) =
        Place::new("busy", "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    else {
        return;
    };
    let end = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let both = "DO $$ BEGIN FOR n IN 1..20 LOOP
                INSERT INTO a SELECT count(*) + 1 FROM a; INSERT INTO b SELECT count(*) + 1 FROM b; COMMIT;
                END LOOP; END $$";
            while !end.load(Ordering::SeqCst) {
                place.sql(both);
            }
        });
        let mut seen = Vec::new();
        while seen.len() < 4 {
            let report = place.environment.ok_json(&["compare", "latest"]);
            let (a, b) = (counts(&report, "public.a"), counts(&report, "public.b"));
            assert_eq!(a, b, "rows of one transaction in two tables");
            assert_eq!(a[2], a[1], "all of them are new");
            seen.push(a[1]);
        }
        end.store(true, Ordering::SeqCst);
        assert!(
            seen.windows(2).all(|pair| pair[0] <= pair[1]) && seen[0] < seen[3],
            "somebody wrote: {seen:?}"
        );
    });
}

#[test]
fn other_databases_and_other_engines_are_refused() {
    let Some(place) = Place::new("refusing", "CREATE TABLE t (id int)") else { return };
    place.environment.users("app.db", 3);
    place.environment.ok(["backup", "app.db"]);
    let ids = place.environment.ok_json(&["list"]);
    let id = |engine: &str| {
        let snapshots = ids["snapshots"].as_array().unwrap();
        let one = snapshots.iter().find(|snapshot| snapshot["engine"] == engine).unwrap();
        one["id"].as_str().unwrap().to_owned()
    };
    let (sqlite, postgres) = (id("sqlite"), id("postgres"));
    let run = place.environment.run(["compare", &sqlite, &postgres, "--force"]);
    run.expect_failure(2, "they cannot be compared", "compare two snapshots of one database");
    // The same name leads to another database.
    let server = place.server;
    server.sql("postgres", "ALTER DATABASE refusing RENAME TO refusing_before");
    server.create_database("refusing");
    server.sql("refusing", "CREATE TABLE t (id int); INSERT INTO t VALUES (1)");
    server.sql("postgres", "ALTER DATABASE refusing RENAME TO another");
    let environment = place.environment.with("DATABASE_URL", &server.url("another"));
    let run = environment.run(["compare", &postgres]);
    run.expect_failure(1, "another database than that of the snapshot", "--force");
    let report = environment.ok_json(&["compare", &postgres, "--force"]);
    assert_eq!(counts(&report, "public.t"), [0, 1, 1, 0, 0]);
}
