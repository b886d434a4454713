//! The demo, as a newcomer runs it.

use crate::environment::{TestEnvironment, ask};

#[test]
fn demo_takes_five_databases_through_the_whole_path_and_leaves_them_to_look_at() {
    let environment = TestEnvironment::without_password();
    let run = environment.ok(["demo"]);
    for expected in [
        "$ dbkeep backup\n",
        "$ dbkeep list\n",
        "$ dbkeep show latest --database mingus\n",
        "$ dbkeep verify\n",
        "$ dbkeep restore latest --database mingus --to mingus-restored.db\n",
        "$ dbkeep restore latest~1 --database alerts --in-place --yes\n",
        "$ dbkeep check --read-data\n",
        "What to try next:",
    ] {
        assert!(run.stdout.contains(expected), "{expected:?} is not in:\n{}", run.stdout);
    }
    let demo = environment.path("dbkeep-demo");
    assert_eq!(ask::<i64>(&demo.join("alerts.db"), "SELECT count(*) FROM alert_rules"), 5);
    assert_eq!(ask::<i64>(&demo.join("mingus-restored.db"), "SELECT count(*) FROM users"), 5);
    // The key stays inside, and nothing is left anywhere else.
    assert!(demo.join("demo.key").exists());
    let left: Vec<_> =
        std::fs::read_dir(environment.home()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left, Vec::<std::path::PathBuf>::new());

    // The same commands work there afterwards, and a second demo takes a new directory.
    let mut list = environment.command(["list"]);
    list.current_dir(&demo);
    crate::environment::Run::of(list).expect(0);
    environment.ok(["demo"]);
    assert!(environment.path("dbkeep-demo-2").exists());
}

#[test]
fn demo_with_json_is_one_document() {
    let environment = TestEnvironment::without_password();
    let document = environment.ok_json(&["demo", "look"]);
    let steps = document["steps"].as_array().unwrap();
    assert!(steps.len() >= 9);
    assert!(steps.iter().all(|step| step["exit"] == 0 && step["report"].is_object()), "{document:#}");
    let backup = steps.iter().find(|step| step["command"] == "dbkeep backup").unwrap();
    assert_eq!(backup["report"]["totals"]["rows"], 27);
}

#[test]
fn demo_refuses_a_directory_that_is_not_empty() {
    let environment = TestEnvironment::without_password();
    environment.users("mine/app.db", 1);
    let before = environment.tree();
    environment.run(["demo", "mine"]).expect_failure(2, "mine is not empty", "dbkeep demo DIR");
    assert_eq!(environment.tree(), before);
}
