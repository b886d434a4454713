//! `prune`, `clean`, `forget --prune` and `size` as programs and people see them.

use rusqlite::Connection;

use crate::environment::TestEnvironment;

/// A place with three snapshots of one database, one of another.
fn place() -> TestEnvironment {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 400);
    environment.users("other.db", 10);
    for round in 0..3 {
        let change = format!("UPDATE users SET name = name || '{round}'");
        Connection::open(&path).unwrap().execute_batch(&change).unwrap();
        environment.ok(["backup", "app.db"]);
    }
    environment.ok(["backup", "other.db"]);
    environment
}

#[test]
fn prune_tells_what_went_and_what_waits() {
    let environment = place();
    let ids: Vec<String> = environment.ok_json(&["list", "--database", "app"])["snapshots"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["id"].as_str().unwrap().to_owned())
        .collect();
    environment.ok(["forget", &ids[1], &ids[2]]);
    let planned = environment.ok(["-vv", "prune", "--dry-run"]).stderr;
    let marked = environment.ok_json(&["prune"]);
    let fates: Vec<&str> = planned.lines().filter(|line| line.contains("event=planned")).collect();
    assert_eq!(fates.len() as u64, marked["packs_marked"].as_u64().unwrap(), "{planned}");
    assert!(
        fates.iter().all(|line| line.contains("fate=mark pack=") && line.contains("used=0")),
        "{planned}"
    );
    assert!(marked["packs_marked"].as_u64().unwrap() > 0, "{marked}");
    assert!(marked["bytes_marked"].as_u64().unwrap() > 0, "{marked}");
    assert_eq!((&marked["packs_removed"], &marked["bytes_freed"]), (&0.into(), &0.into()));
    assert!(marked["free_from"].is_string(), "{marked}");
    let size = environment.ok_json(&["size"]);
    assert_eq!(size["bytes_waiting"], marked["bytes_marked"]);
    let shown = environment.ok(["prune"]);
    assert!(shown.stdout.contains("removed 0 packs"), "{}", shown.stdout);
    assert!(shown.stderr.contains("wait since an earlier prune"), "{}", shown.stderr);

    let removed = environment.ok_json(&["prune", "--grace", "0"]);
    assert!(removed["packs_removed"].as_u64() >= marked["packs_marked"].as_u64(), "{removed}");
    assert!(removed["bytes_freed"].as_u64() >= marked["bytes_marked"].as_u64(), "{removed}");
    assert_eq!(removed["packs_marked"], 0);
    assert_eq!(environment.ok_json(&["check", "--read-data"])["ok"], true);
    assert_eq!(environment.ok_json(&["size"])["bytes_unused"], 0);
    environment.ok(["restore", &ids[0], "--to", "again.db"]);
}

#[test]
fn clean_keeps_the_newest_of_each_database_and_gives_space_back() {
    let environment = place();
    let planned = environment.ok_json(&["clean", "1", "--dry-run"]);
    assert_eq!((planned["forgotten"].as_array().unwrap().len(), &planned["dry_run"]), (2, &true.into()));
    assert!(planned["prune"]["packs_marked"].as_u64().unwrap() > 0, "{planned}");
    assert_eq!(planned["prune"]["dry_run"], true);
    assert_eq!(environment.ok_json(&["list"])["snapshots"].as_array().unwrap().len(), 4);

    let done = environment.ok_json(&["clean", "1"]);
    assert_eq!(done["forgotten"], planned["forgotten"]);
    assert_eq!(done["prune"]["packs_marked"], planned["prune"]["packs_marked"]);
    let left = environment.ok_json(&["list"]);
    assert_eq!(left["snapshots"].as_array().unwrap().len(), 2);
    // The same in the long form: nothing is left to do.
    let again = environment.ok_json(&["forget", "--keep-last", "1", "--prune"]);
    assert_eq!(
        (again["forgotten"].as_array().unwrap().len(), &again["prune"]["packs_marked"]),
        (0, &0.into())
    );
    let without = environment.ok_json(&["forget", "--keep-last", "1"]);
    assert!(without.get("prune").is_none(), "{without}");
    environment.run(["clean", "0"]).expect_failure(2, "0 is not in 1..", "dbkeep clean --help");
}

#[test]
fn size_says_what_each_database_costs() {
    let environment = place();
    let report = environment.ok_json(&["size"]);
    let mut keys: Vec<&String> = report.as_object().unwrap().keys().collect();
    keys.sort();
    let expected =
        "bytes_shared bytes_stored bytes_unused bytes_waiting copies databases disk_free packs".split(' ');
    assert!(keys.iter().copied().eq(expected), "{keys:?}");
    let app = &report["databases"][0];
    let one = std::fs::metadata(environment.path("app.db")).unwrap().len();
    assert_eq!((&app["name"], &app["snapshots"]), (&"app".into(), &3.into()));
    assert_eq!(app["bytes_source"], 3 * one);
    assert!(app["bytes_unique"].as_u64().unwrap() > 0);
    assert_eq!(report["databases"][1]["name"], "other");
    assert_eq!(report["bytes_unused"], 0);
    assert!(report["disk_free"].as_u64().unwrap() > 0);
    let shown = environment.ok(["size"]).stdout;
    for word in ["DATABASE", "AS PLAIN COPIES", "STORED", "app", "other", "free on that disk"] {
        assert!(shown.contains(word), "{shown}");
    }
    assert!(!shown.contains("dbkeep prune"), "{shown}");
}

#[test]
fn prune_of_a_damaged_repository_is_refused_and_changes_nothing() {
    let environment = place();
    environment.ok(["forget", "--keep-last", "1"]);
    let snapshots = environment.path("backups/snapshots");
    let first = std::fs::read_dir(&snapshots).unwrap().next().unwrap().unwrap().path();
    let aside = environment.path("aside");
    std::fs::rename(&first, &aside).unwrap();
    for line in [&["prune"][..], &["prune", "--grace", "0"], &["prune", "--dry-run"]] {
        let (code, document) = environment.json(line);
        assert_eq!((code, &document["error"]["kind"]), (Some(1), &"refused".into()), "{document}");
        let message = document["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("nothing is pruned while the listing has a gap"), "{message}");
        assert!(document["error"]["hint"].as_str().unwrap().contains("dbkeep check"), "{document}");
    }
    std::fs::rename(&aside, &first).unwrap();
    environment.ok(["prune", "--grace", "0"]);
    assert_eq!(environment.ok_json(&["check", "--read-data"])["ok"], true);
}

#[test]
fn options_that_make_no_sense_are_wrong_usage() {
    let environment = place();
    for line in [
        ["prune", "--max-unused", "5"],
        ["prune", "--max-unused", "101%"],
        ["prune", "--grace", "soon"],
        ["prune", "--grace", "-1h"],
        ["clean", "ten", "--json"],
    ] {
        assert_eq!(environment.run(line).code, Some(2), "{line:?}");
    }
    let absent = environment.run(["prune", "--repo", "nowhere"]);
    assert_eq!(absent.code, Some(10), "{}", absent.stderr);
}
