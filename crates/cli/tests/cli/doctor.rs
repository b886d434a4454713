//! `doctor`: what is in the way of a backup is told before one is needed, in words, in JSON and by the exit code.

use std::fs;

use dbkeep_testkit::postgres::{Programs, SKIPPED, Server, Settings};
use serde_json::{Value, json};

use crate::environment::TestEnvironment;

/// Returns the findings of a source about something.
fn about<'d>(document: &'d Value, source: usize, subject: &str) -> Vec<&'d Value> {
    let findings = document["sources"][source]["findings"].as_array().unwrap();
    findings.iter().filter(|finding| finding["subject"] == subject).collect()
}

#[test]
fn sound_file_and_a_repository_to_be_made_are_fine() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 5);
    let before = environment.tree();
    let document = environment.ok_json(&["doctor", "app.db"]);
    assert!(environment.tree() == before, "nothing is changed");
    let source = &document["sources"][0];
    assert_eq!(source["name"], "app");
    assert_eq!((&source["engine"], &source["source"]), (&json!("sqlite"), &json!("app.db")));
    assert_eq!((&source["status"], &source["error"]), (&json!("ok"), &Value::Null));
    let file = about(&document, 0, "file");
    assert_eq!(file.len(), 1);
    assert_eq!((&file[0]["severity"], &file[0]["advice"]), (&json!("ok"), &Value::Null));
    assert!(file[0]["message"].as_str().unwrap().starts_with("SQLite database of "), "{document:#}");
    assert_eq!(about(&document, 0, "integrity")[0]["severity"], "note");
    let repository = &document["repository"];
    assert_eq!(repository["status"], "ok");
    assert_eq!(repository["findings"][0]["message"], "there is none yet: the first backup makes it");
    let shown = environment.ok(["doctor", "app.db"]);
    assert!(
        shown.stdout.starts_with("app (sqlite, app.db)\n  ok       file: SQLite database of "),
        "{}",
        shown.stdout
    );
    assert!(shown.stdout.ends_with("\nnothing is in the way of a backup\n"), "{}", shown.stdout);
    environment.ok(["backup", "app.db"]);
    let document = environment.ok_json(&["doctor", "app.db"]);
    assert_eq!(document["repository"]["findings"][0]["message"], "it opens, and has 1 snapshot");
}

#[test]
fn what_is_no_database_is_a_problem_and_what_is_not_there_a_failure() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 5);
    fs::write(environment.path("letter.db"), "Dear friend").unwrap();
    let (code, document) = environment.json(&["doctor", "app.db", "letter.db"]);
    assert_eq!(code, Some(4), "{document:#}");
    assert!(document["error"].is_null());
    assert_eq!(document["sources"][0]["status"], "ok", "one does not spoil the other");
    assert_eq!(document["sources"][1]["status"], "problem");
    assert_eq!(about(&document, 1, "file")[0]["message"], "it is no SQLite database");
    let run = environment.run(["doctor", "letter.db"]);
    assert!(
        run.stdout.contains("  problem  file: it is no SQLite database\n           -> give the path"),
        "{}",
        run.stdout
    );
    assert!(run.stdout.ends_with("\n1 problem, 0 warnings\n"), "{}", run.stdout);

    let (code, document) = environment.json(&["doctor", "letter.db", "gone.db"]);
    assert_eq!(code, Some(1), "{document:#}");
    assert_eq!(document["error"]["kind"], "missing");
    assert_eq!(document["sources"][1]["error"], document["error"]);
    environment.run(["doctor", "gone.db"]).expect_failure(1, "gone.db", "");
    environment.run(["doctor"]).expect_failure(2, "nothing to back up", "dbkeep.toml");
}

#[test]
fn repository_that_cannot_be_used_is_a_problem() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 5);
    environment.ok(["backup", "app.db"]);
    let first = |document: &Value| document["repository"]["findings"][0].clone();
    fs::write(environment.path("other"), "not the password\n").unwrap();
    let (code, document) = environment.json(&["--password-file", "other", "doctor", "app.db"]);
    assert_eq!((code, &document["repository"]["status"]), (Some(4), &json!("problem")), "{document:#}");
    assert!(first(&document)["message"].as_str().unwrap().contains("password"), "{document:#}");
    assert_eq!(document["sources"][0]["status"], "ok");
    fs::rename(environment.path("backups"), environment.path("elsewhere")).unwrap();
    let (code, document) = environment.json(&["doctor", "app.db"]);
    assert_eq!((code, &first(&document)["severity"]), (Some(4), &json!("problem")), "{document:#}");
    assert!(!environment.path("backups").exists(), "none is made");
}

#[test]
fn server_is_examined_for_the_user_who_will_back_up() {
    let Some(programs) = Programs::newest_with_tls() else { return println!("{SKIPPED}") };
    let access = vec!["host all modest 127.0.0.1/32 scram-sha-256".to_owned()];
    let server = Server::start(&programs, &Settings { access, ..Settings::default() });
    server.create_database("shop");
    server.sql(
        "shop",
        "CREATE ROLE modest LOGIN PASSWORD 'hunter2';
         CREATE TABLE seen (id int PRIMARY KEY); GRANT SELECT ON seen TO modest;
         CREATE TABLE secret (id int PRIMARY KEY);
         CREATE TABLE mine (id int PRIMARY KEY, owner text); GRANT SELECT ON mine TO modest;
         ALTER TABLE mine ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON mine USING (owner = current_user)",
    );
    let port = server.port();
    let url = |user: &str, password: &str| format!("postgresql://{user}:{password}@127.0.0.1:{port}/shop");
    let environment = TestEnvironment::new().with("MODEST", &url("modest", "hunter2"));
    let environment = environment.with("WRONG", &url("modest", "hunter3")).with("ALL", &server.url("shop"));

    let document = environment.ok_json(&["doctor", "env:ALL"]);
    assert_eq!(document["sources"][0]["name"], "shop");
    assert_eq!(document["sources"][0]["engine"], "postgres");
    assert_eq!(about(&document, 0, "rights")[0]["severity"], "ok");

    let (code, document) = environment.json(&["doctor", "env:MODEST"]);
    assert_eq!((code, &document["sources"][0]["status"]), (Some(4), &json!("problem")), "{document:#}");
    let finding = |severity: &str, subject: &str, message: &str, advice: &str| json!({ "severity": severity, "subject": subject, "message": message, "advice": advice });
    assert_eq!(
        about(&document, 0, "table \"public\".\"secret\""),
        [&finding(
            "problem",
            "table \"public\".\"secret\"",
            "this user may not read it",
            "GRANT SELECT ON TABLE \"public\".\"secret\" TO \"modest\";"
        )]
    );
    assert_eq!(
        about(&document, 0, "table \"public\".\"mine\""),
        [&finding(
            "problem",
            "table \"public\".\"mine\"",
            "row-level security hides rows of it from this user",
            "ALTER ROLE \"modest\" BYPASSRLS;"
        )]
    );
    assert!(about(&document, 0, "table \"public\".\"seen\"").is_empty());
    let shown = environment.run(["doctor", "env:MODEST"]);
    shown.expect(4);
    assert!(shown.stdout.starts_with("shop (postgres, env:MODEST)\n"), "{}", shown.stdout);
    let line =
        "  problem  table \"public\".\"secret\": this user may not read it\n           -> GRANT SELECT ON";
    assert!(shown.stdout.contains(line), "{}", shown.stdout);

    // What the configuration leaves out is nobody's business.
    let text = "[databases.shop]\npostgres = \"env:MODEST\"\ntables = [\"seen\"]\n";
    fs::write(environment.path("dbkeep.toml"), text).unwrap();
    let document = environment.ok_json(&["doctor"]);
    assert_eq!(
        about(&document, 0, "rights")[0]["message"],
        "modest can read all rows of 1 table and 0 sequences"
    );
    fs::remove_file(environment.path("dbkeep.toml")).unwrap();

    let wrong = environment.run(["-vv", "doctor", "env:WRONG"]);
    wrong.expect_failure(1, "password authentication failed for user \"modest\"", "password");
    assert!(
        !format!("{}{}", wrong.stdout, wrong.stderr).contains("hunter"),
        "{}{}",
        wrong.stdout,
        wrong.stderr
    );
    drop(server);
    environment.run(["doctor", "env:MODEST"]).expect_failure(
        1,
        "could not connect to",
        "is the server running",
    );
    let (code, document) = environment.json(&["doctor", "env:MODEST"]);
    assert_eq!((code, &document["error"]["kind"]), (Some(1), &json!("unreachable")), "{document:#}");
    assert_eq!(document["sources"][0]["status"], "problem");
}
