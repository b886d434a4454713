//! `dbkeep compare` as people and programs meet it.

use rusqlite::Connection;

use crate::environment::TestEnvironment;

const CHANGES: &str = "UPDATE users SET name = 'it''s me' WHERE id = 2;
                       DELETE FROM users WHERE id = 3;
                       INSERT INTO users(id, name) VALUES (9, x'00ff');
                       CREATE TABLE notes(text);
                       INSERT INTO notes VALUES ('a'), ('b');
                       PRAGMA user_version = 4";

/// An environment with a backup, and a database that has changed since.
fn changed() -> TestEnvironment {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 5);
    environment.ok(["backup", "app.db"]);
    Connection::open(path).unwrap().execute_batch(CHANGES).unwrap();
    environment
}

#[test]
fn document_of_a_comparison_has_the_keys_of_the_contract() {
    let environment = changed();
    let report = environment.ok_json(&["compare", "latest"]);
    assert_eq!(report["same"], false);
    assert_eq!(report["schema"]["added"][0]["name"], "notes");
    assert_eq!(report["schema"]["removed"], serde_json::json!([]));
    assert_eq!(report["schema"]["changed"][0]["name"], "user_version");
    let table = |name: &str| {
        let tables = report["tables"].as_array().unwrap();
        tables.iter().find(|table| table["name"] == name).unwrap().clone()
    };
    let counts = |name: &str| {
        let table = table(name);
        ["rows_left", "rows_right", "added", "removed", "changed"].map(|key| table[key].as_u64().unwrap())
    };
    assert_eq!(counts("users"), [5, 5, 1, 1, 1]);
    assert_eq!(counts("notes"), [0, 2, 2, 0, 0]);
    assert_eq!(table("users")["rows"], serde_json::json!([]), "rows are listed when they are asked for");

    let (code, report) =
        environment.json(&["compare", "latest", "current", "--exit-code", "--rows", "--table", "users"]);
    assert_eq!(code, Some(4));
    assert!(report.get("error").is_none());
    assert_eq!(report["tables"].as_array().unwrap().len(), 1);
    assert_eq!(report["schema"]["added"], serde_json::json!([]), "only that table was asked for");
    let rows = &report["tables"][0]["rows"];
    assert_eq!(rows[0]["change"], "changed");
    assert_eq!(rows[0]["key"], serde_json::json!({ "id": 2 }));
    assert_eq!(rows[0]["columns"][0]["name"], "name");
    assert_eq!(rows[0]["columns"][0]["right"], "it's me");
    assert_eq!(rows[1]["change"], "removed");
    assert!(rows[1]["columns"][0].get("right").is_none());
    assert_eq!(rows[2]["columns"][0]["right"], serde_json::json!({ "$blob": "AP8=" }));
}

#[test]
fn differences_are_printed_a_line_a_table_and_rows_on_request() {
    let environment = changed();
    let run = environment.ok(["compare", "latest"]);
    for line in [
        " + table notes",
        " ~ user_version 0 → 4",
        " notes | 0 → 2 rows | 2 ++",
        " users | 5 → 5 rows | 3 +-~",
        "2 of 2 tables differ: 3 rows added, 1 removed, 1 changed; 2 changes of the schema",
    ] {
        assert!(run.stdout.lines().any(|printed| printed == line), "{line} is not in\n{}", run.stdout);
    }
    assert!(!run.stdout.contains("it''s me"), "{}", run.stdout);
    let run = environment.ok(["compare", "latest", "--rows", "--limit", "2"]);
    for text in [" ~ id=2  name: '", "' → 'it''s me'", " - id=3  name='", "   … and 1 more"] {
        assert!(run.stdout.contains(text), "{text} is not in\n{}", run.stdout);
    }
    assert!(!run.stdout.contains("x'00ff'"), "{}", run.stdout);
    assert!(environment.ok(["compare", "latest", "--rows"]).stdout.contains(" + id=9  name=x'00ff'"));
}

#[test]
fn what_is_the_same_is_said_with_exit_code_0() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 5);
    environment.ok(["backup", "app.db"]);
    environment.ok(["backup", "app.db"]);
    for line in [&["compare", "latest", "--exit-code"][..], &["compare", "latest~1", "latest", "--exit-code"]]
    {
        assert!(environment.ok(line).stdout.contains("the same: 1 table, 5 rows"));
        assert_eq!(environment.ok_json(line)["same"], true);
    }
}

#[test]
fn last_line_tells_of_a_schema_that_differs_and_of_tables_that_could_not_be_compared() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 5);
    environment.ok(["backup", "app.db"]);
    let connection = Connection::open(&path).unwrap();
    connection.execute_batch("CREATE INDEX by_name ON users(name)").unwrap();
    let run = environment.ok(["compare", "latest"]);
    let last = "0 of 1 table differ: 0 rows added, 0 removed, 0 changed; 1 change of the schema";
    assert_eq!(run.stdout.lines().last(), Some(last), "{}", run.stdout);

    // A count of cells that its page does not have.
    let root: u64 = connection
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'users'", [], |row| row.get::<_, i64>(0))
        .unwrap()
        .unsigned_abs();
    drop(connection);
    let mut bytes = std::fs::read(&path).unwrap();
    let page = usize::try_from(root - 1).unwrap() * 4096;
    bytes[page + 4] += 1;
    std::fs::write(&path, bytes).unwrap();
    let run = environment.run(["compare", "latest"]);
    assert_eq!(run.code, Some(4), "{}", run.stderr);
    let last = "0 of 1 table differ: 0 rows added, 0 removed, 0 changed; 1 change of the schema; 1 table not compared";
    assert_eq!(run.stdout.lines().last(), Some(last), "{}", run.stdout);
    assert!(run.stderr.contains("table users could not be compared"), "{}", run.stderr);
}

#[test]
fn names_and_values_cannot_move_the_cursor() {
    let environment = TestEnvironment::new();
    let path = environment.database("app.db", "CREATE TABLE t(a)");
    environment.ok(["backup", "app.db"]);
    let sql = "CREATE TABLE \"\u{1b}[2Jx\"(\"\u{1b}[1m\"); INSERT INTO \"\u{1b}[2Jx\" VALUES('\u{1b}[31m');
               INSERT INTO t VALUES('\u{1b}]0;title\u{7}')";
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
    let run = environment.ok(["compare", "latest", "--rows"]);
    assert!(!run.stdout.contains('\u{1b}') && !run.stderr.contains('\u{1b}'), "{:?}", run.stdout);
}
