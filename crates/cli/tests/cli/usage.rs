//! Lines that make no sense, and lines that only ask.

use crate::environment::TestEnvironment;

#[test]
fn wrong_usage_is_one_sentence_with_a_hint_and_exit_code_2() {
    let environment = TestEnvironment::new();
    for (line, message, hint) in [
        (&["restor"][..], "unrecognized subcommand 'restor'", "'restore'"),
        (&["backup", "--compresion", "3"], "unexpected argument '--compresion' found", "'--compression'"),
        (&["backup", "--compression", "40"], "40 is not in 1..=19", "see `dbkeep backup --help`"),
        (&["list", "--last", "many"], "invalid value 'many' for '--last <N>'", "see `dbkeep list --help`"),
        (&["show"], "required arguments were not provided: <SNAPSHOT>", "see `dbkeep show --help`"),
        (&["check", "--read-data=0%"], "a share is a number from 1 to 100", "see `dbkeep check --help`"),
        (&["key"], "a command is missing", "`dbkeep key --help` lists the commands"),
        (&[], "a command is missing", "`dbkeep --help` lists the commands"),
        (&["-q", "-v", "list"], "cannot be used with", "see `dbkeep list --help`"),
        (
            &["restore", "latest", "--in-place", "--to", "x"],
            "cannot be used with",
            "see `dbkeep restore --help`",
        ),
        (&["frobnicate"], "unrecognized subcommand 'frobnicate'", "see `dbkeep --help`"),
    ] {
        let run = environment.run(line);
        run.expect_failure(2, message, hint);
        assert_eq!(run.stdout, "", "{line:?}");
        assert_eq!(run.stderr.lines().filter(|line| line.starts_with("error: ")).count(), 1, "{line:?}");
    }
    assert_eq!(environment.tree(), []);
}

#[test]
fn wrong_usage_with_json_is_one_document_with_the_error() {
    let environment = TestEnvironment::new();
    for line in [&["restor"][..], &["backup", "--compresion", "3"], &["show"], &[]] {
        let (code, document) = environment.json(line);
        assert_eq!(code, Some(2), "{line:?}");
        assert_eq!(document["error"]["kind"], "usage", "{line:?}");
        assert!(document["error"]["message"].is_string() && document["error"]["hint"].is_string());
    }
}

#[test]
fn password_typed_in_a_url_is_not_repeated() {
    let environment = TestEnvironment::new();
    let run = environment.run(["list", "postgres://ada:hunter2@db.example/app"]);
    run.expect_failure(2, "postgres://ada:***@db.example/app", "see `dbkeep list --help`");
    assert!(!run.stderr.contains("hunter2"), "{}", run.stderr);
    let (_, document) = environment.json(&["list", "postgres://ada:hunter2@db.example/app"]);
    assert!(!document.to_string().contains("hunter2"), "{document}");
}

#[test]
fn help_and_version_are_results() {
    let environment = TestEnvironment::new();
    let help = environment.ok(["restore", "--help"]);
    assert!(help.stdout.starts_with("Restore a database to a moment in time\n\nUsage: dbkeep restore"));
    assert_eq!(help.stderr, "");
    assert_eq!(environment.ok(["help", "restore"]).stdout, help.stdout);
    assert_eq!(environment.ok(["restore", "-h"]).stdout, help.stdout);
    assert_eq!(environment.ok(["--version"]).stdout, format!("dbkeep {}\n", env!("CARGO_PKG_VERSION")));
    let document = environment.ok_json(&["--version"]);
    assert_eq!(document["text"], format!("dbkeep {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn completions_exist_for_every_shell_and_know_the_options() {
    let environment = TestEnvironment::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = environment.ok(["completions", shell]).stdout;
        assert!(script.contains("no-safety-backup"), "{shell}");
    }
    let script = environment.path("dbkeep.bash");
    std::fs::write(&script, environment.ok(["completions", "bash"]).stdout).unwrap();
    let parsed = std::process::Command::new("bash").arg("-n").arg(&script).status().unwrap();
    assert!(parsed.success());
}

#[test]
fn manual_has_a_page_for_every_command() {
    let environment = TestEnvironment::new();
    let document = environment.ok_json(&["man", "pages/man1"]);
    assert_eq!(document["directory"], "pages/man1");
    for page in ["dbkeep.1", "dbkeep-restore.1", "dbkeep-key-show-recovery.1"] {
        let text = std::fs::read_to_string(environment.path("pages/man1").join(page)).unwrap();
        assert!(text.starts_with(".ie") || text.starts_with(".TH"), "{page}: {text:.60}");
    }
    let restore = std::fs::read_to_string(environment.path("pages/man1/dbkeep-restore.1")).unwrap();
    assert!(restore.contains("in\\-place") || restore.contains("in-place"));
}
