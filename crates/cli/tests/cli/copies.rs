//! Copies as people and programs meet them: `copy`, `[[copies]]`, and a restore that comes from one.

use std::fs;

use serde_json::{Value, json};

use crate::environment::{TestEnvironment, ask};

const CONFIG: &str = "\
[databases.app]
sqlite = \"app.db\"

[[copies]]
name = \"second\"
location = \"second\"
password-file = \"second.key\"

[[copies]]
name = \"third\"
location = \"third\"
retention = { daily = 7 }
";

fn with_copies() -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.users("app.db", 100);
    fs::write(environment.path("dbkeep.toml"), CONFIG).unwrap();
    fs::write(environment.path("second.key"), "a key of its own\n").unwrap();
    environment
}

fn users(environment: &TestEnvironment, file: &str) -> i64 {
    ask(&environment.path(file), "SELECT count(*) FROM users")
}

#[test]
fn backup_copies_and_says_so() {
    let environment = with_copies();
    let report = environment.ok_json(&["backup"]);
    let copy = |name: &str| -> Value {
        let copies = report["copies"].as_array().unwrap();
        copies.iter().find(|copy| copy["name"] == name).unwrap().clone()
    };
    for name in ["second", "third"] {
        assert_eq!((&copy(name)["status"], &copy(name)["error"]), (&json!("ok"), &Value::Null));
        assert!(environment.path(name).join("config").is_file());
    }
    let again = environment.ok(["backup"]);
    assert!(again.stdout.contains("copy second: ok, 1 snapshot copied"), "{}", again.stdout);
    let list = environment.ok(["list"]);
    assert!(list.stdout.contains("COPIES") && list.stdout.contains("second, third"), "{}", list.stdout);
    let status = environment.ok(["status"]);
    assert!(
        status.stdout.contains("copy third in third: 2 snapshots, complete, last copied"),
        "{}",
        status.stdout
    );
    assert!(status.stdout.contains("nothing is wrong"), "{}", status.stdout);

    let none = environment.ok_json(&["backup", "--copies", "none"]);
    assert_eq!(none["copies"], json!([]));
    let status = environment.ok_json(&["status"]);
    assert_eq!(status["copies"][0]["behind"], 1);
    let size = environment.ok_json(&["size"]);
    let packs =
        |repository: &str| environment.ok_json(&["--repo", repository, "size"])["bytes_stored"].clone();
    assert_eq!(size["copies"][1]["bytes_stored"], packs("third"));
    let shown = environment.ok(["size"]);
    assert!(
        shown.stdout.contains("copy third in third: ") && shown.stdout.contains("2 snapshots"),
        "{}",
        shown.stdout
    );
    assert!(shown.stdout.contains("problem: third: it is 1 snapshot behind"), "{}", shown.stdout);

    environment.ok(["forget", "--keep-last", "1"]);
    for command in ["status", "size"] {
        let shown = environment.ok([command]).stdout;
        assert!(shown.contains("0 snapshots (and 2 more that this repository does not have)"), "{shown}");
    }
}

#[test]
fn copy_that_fails_makes_a_backup_exit_3_and_names_itself() {
    let environment = with_copies();
    environment.ok(["backup"]);
    fs::write(environment.path("second.key"), "another\n").unwrap();
    fs::rename(environment.path("third"), environment.path("away")).unwrap();
    let (code, report) = environment.json(&["backup"]);
    assert_eq!((code, &report["status"]), (Some(3), &json!("partial")));
    assert_eq!(report["databases"][0]["error"], Value::Null);
    assert_eq!(report["copies"][0]["error"]["kind"], "wrong-password");
    assert_eq!(report["copies"][1]["error"]["kind"], "repository-gone");
    assert!(!environment.path("third").exists());

    let run = environment.run(["backup"]);
    run.expect_failure(3, "copy \"second\": wrong password", "--to-password-file");
    run.expect_failure(3, "copy \"third\": the repository at", "is the disk mounted?");
    let status = environment.ok(["status"]);
    assert!(status.stdout.contains("problem: third: it is 2 snapshots behind"), "{}", status.stdout);
    environment.run(["copy", "--to", "second"]).expect_failure(
        12,
        "copy \"second\": wrong password",
        "password",
    );
    environment.run(["copy", "--to", "third"]).expect_failure(10, "copy \"third\"", "mounted");

    fs::write(environment.path("second.key"), "a key of its own\n").unwrap();
    fs::rename(environment.path("away"), environment.path("third")).unwrap();
    let report = environment.ok_json(&["backup"]);
    assert_eq!((&report["copies"][0]["copied"], &report["copies"][1]["copied"]), (&json!(3), &json!(3)));
}

#[test]
fn report_of_a_copy_has_its_keys() {
    let environment = with_copies();
    environment.ok(["backup", "--copies", "none"]);
    let report = environment.ok_json(&["copy", "--to", "third"]);
    for key in
        ["copy", "location", "status", "snapshots", "copied", "present", "dropped", "failed", "bytes_read"]
    {
        assert!(report.get(key).is_some(), "{key} is missing in {report:#}");
    }
    let one = &report["snapshots"][0];
    assert_eq!(
        (&one["status"], &one["database"], &one["error"]),
        (&json!("copied"), &json!("app"), &Value::Null)
    );
    assert_eq!((one["snapshot"].as_str().unwrap().len(), one["copy"].as_str().unwrap().len()), (64, 64));
    let shown = environment.ok(["copy", "latest", "--to", "third"]);
    assert!(shown.stdout.contains("there already"), "{}", shown.stdout);
    assert!(
        shown.stdout.contains("copy third is complete: 0 snapshots copied, 1 there before"),
        "{}",
        shown.stdout
    );
}

#[test]
fn places_and_snapshots_that_make_no_sense_are_refused() {
    let environment = with_copies();
    environment.ok(["backup", "--copies", "none"]);
    let copy = |to: &str| environment.run(["copy", "--to", to]);
    copy("./backups").expect_failure(2, "cannot be copied to", "a place of its own");
    copy("./backups/inside").expect_failure(2, "one lies within the other", "a place of its own");
    copy("sekond").expect_failure(2, "no copy called \"sekond\"", "did you mean \"second\"?");
    copy("s3:bucket").expect_failure(1, "s3: locations are not supported", "local directory");
    environment.run(["copy", "beef", "--to", "third"]).expect_failure(
        1,
        "no snapshot \"beef\"",
        "dbkeep list",
    );
    environment.run(["copy"]).expect_failure(2, "--to", "dbkeep copy --help");
    fs::create_dir(environment.path("full")).unwrap();
    fs::write(environment.path("full/letter.txt"), "mine").unwrap();
    copy("./full").expect_failure(10, "no repository at", "");
    fs::write(environment.path("dbkeep.toml"), CONFIG.replace("\"third\"", "\"second\"")).unwrap();
    environment.run(["backup"]).expect_failure(2, "two copies are called \"second\"", "");
    let same_place = CONFIG.replace("location = \"third\"", "location = \"./second/\"");
    fs::write(environment.path("dbkeep.toml"), same_place).unwrap();
    environment.run(["backup"]).expect_failure(2, "\"second\" and \"third\" have the same location", "");
    assert!(!environment.path("second").exists() && !environment.path("third").exists());
}

#[test]
fn restore_from_a_copy_says_so_and_its_way_back_works_as_printed() {
    let environment = with_copies();
    environment.ok(["backup"]);
    fs::remove_dir_all(environment.path("backups")).unwrap();
    let run = environment.ok(["restore", "latest", "--to", "back.db"]);
    assert!(run.stdout.contains("from       the copy second"), "{}", run.stdout);
    assert!(
        run.stderr.contains("the copy \"second\" at") && run.stderr.contains("is gone"),
        "{}",
        run.stderr
    );
    assert_eq!(users(&environment, "back.db"), 100);
    let plan = environment.ok_json(&["restore", "latest", "--to", "none.db", "--dry-run"]);
    assert_eq!(plan["restores"][0]["copy"], "second");

    environment.database("app.db", "DELETE FROM users WHERE id > 40");
    let run = environment.ok(["restore", "latest", "--in-place", "--yes"]);
    assert_eq!(users(&environment, "app.db"), 100);
    let line = run.stdout.lines().find(|line| line.contains("--in-place")).unwrap().trim();
    assert!(line.contains("--repo") && line.contains("--password-file"), "{line}");
    let mut words: Vec<&str> = line.split_whitespace().skip(1).collect();
    words.push("--yes");
    environment.ok(&words);
    assert_eq!(users(&environment, "app.db"), 40, "what was there before");

    let (code, other) = environment.json(&["list"]);
    assert_eq!(
        (code, &other["error"]["kind"]),
        (Some(10), &json!("repository-gone")),
        "only a restore does that"
    );
    assert!(
        other["error"]["hint"].as_str().unwrap().contains("its copies meanwhile (second, third)"),
        "{other:#}"
    );
}

/// Keeps the newest two here and three in the archive, and nothing else.
const POLICIES: &str = "\
[retention]
last = 2
hourly = 0
daily = 0
weekly = 0
monthly = 0
yearly = 0
within = \"0d\"

[databases.app]
sqlite = \"app.db\"

[[copies]]
name = \"archive\"
location = \"archive\"
retention = { last = 3 }

[[copies]]
name = \"later\"
location = \"later\"
";

#[test]
fn forget_without_options_carries_out_the_policy_of_every_place() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 100);
    fs::write(environment.path("dbkeep.toml"), POLICIES).unwrap();
    environment.ok(["backup", "--copies", "none"]);
    let unmade = environment.ok(["forget"]);
    assert!(unmade.stdout.contains("copy archive in ") && unmade.stderr.contains("nothing is there"));
    for round in 0..4 {
        environment.database("app.db", &format!("INSERT INTO users VALUES (1000 + {round}, 'new')"));
        environment.ok(["backup"]);
        environment.ok(["forget"]);
    }
    let count = |repository: &str| {
        let list = environment.ok_json(&["--repo", repository, "list"]);
        list["snapshots"].as_array().unwrap().len()
    };
    assert_eq!((count("backups"), count("archive"), count("later")), (2, 3, 2));

    environment.database("app.db", "DELETE FROM users WHERE id = 1");
    environment.ok(["backup"]);
    let planned = environment.ok_json(&["forget", "--dry-run", "--prune"]);
    let report = environment.ok_json(&["forget", "--prune"]);
    for (name, place) in
        [("here", &report), ("archive", &report["copies"][0]), ("later", &report["copies"][1])]
    {
        let kept = place["kept"].as_array().unwrap();
        let expected = if name == "archive" { 3 } else { 2 };
        assert_eq!((kept.len(), place["forgotten"].as_array().unwrap().len()), (expected, 1), "{name}");
        assert!(place["prune"]["packs_marked"].as_u64().unwrap() > 0, "{name}: {place:#}");
    }
    assert_eq!(report["copies"][0]["forgotten"], planned["copies"][0]["forgotten"]);
    assert_eq!(
        (&report["copies"][0]["name"], &report["copies"][0]["error"]),
        (&json!("archive"), &Value::Null)
    );
    assert!(report["copies"][0]["location"].as_str().unwrap().ends_with("/archive"));

    // A copy that cannot be opened is named; the others go on.
    environment.database("app.db", "DELETE FROM users WHERE id = 2");
    environment.ok(["backup"]);
    fs::rename(environment.path("archive"), environment.path("away")).unwrap();
    let (code, report) = environment.json(&["forget"]);
    assert_eq!((code, &report["copies"][0]["error"]["kind"]), (Some(3), &json!("repository-gone")));
    assert_eq!((count("backups"), count("later")), (2, 2));
    environment.run(["forget"]).expect_failure(
        3,
        "copy \"archive\": the repository at",
        "is the disk mounted?",
    );

    // By hand, and where one place is named, only that place.
    fs::rename(environment.path("away"), environment.path("archive")).unwrap();
    let by_hand = environment.ok_json(&["forget", "--keep-last", "1"]);
    assert!(by_hand.get("copies").is_none());
    assert_eq!((count("backups"), count("archive"), count("later")), (1, 4, 2));
    let there = environment.ok_json(&["--repo", "archive", "forget"]);
    assert!(there.get("copies").is_none());
    assert_eq!((count("archive"), count("later")), (3, 2));
    for repository in ["backups", "archive", "later"] {
        environment.ok(["--repo", repository, "check", "--read-data"]);
    }
}
