//! Passwords that people type, configure or keep in variables show in no output, document, log or file, however they are
//! written and whatever is wrong with them.

use std::fs;
use std::path::Path;

use crate::environment::TestEnvironment;

/// What a password begins and ends with.
pub(crate) const ENDS: [&str; 2] = ["s3cr", "et9x"];

/// Says whether something of a password is in a text.
pub(crate) fn shows(text: &str) -> bool {
    ENDS.iter().any(|end| text.contains(end))
}

/// Looks for passwords in everything that was written, and in names; `.env` and the configuration hold them.
#[track_caller]
pub(crate) fn expect_in_no_file(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert!(!shows(&name), "{}", path.display());
        if path.is_dir() {
            expect_in_no_file(&path);
        } else if name != ".env" && name != "dbkeep.toml" {
            let found = fs::read(&path).unwrap();
            assert!(!shows(&String::from_utf8_lossy(&found)), "it is in {}", path.display());
        }
    }
}

/// Runs a line in both forms and expects nothing of a password.
#[track_caller]
pub(crate) fn expect_hidden(environment: &TestEnvironment, line: &[&str]) {
    for options in [&["-vvv"][..], &["--json", "--progress=json"]] {
        let run = environment.run(options.iter().chain(line));
        let text = format!("{}\n{}", run.stdout, run.stderr);
        assert!(!shows(&text) && !text.contains("panicked"), "{line:?}: {text}");
    }
}

/// The ways in which a database is named, all of which lead nowhere.
const FORMS: [&str; 14] = [
    "postgres://u:{}@127.0.0.1:1/d",
    "POSTGRESQL+psycopg2://u:{}@127.0.0.1:1/d?sslmod=x",
    "postgres://u@127.0.0.1:1/d?password={}&sslmode=disable",
    "jdbc:postgresql://127.0.0.1:1/d?user=u&password={}",
    "host=127.0.0.1 port=1 password={}",
    "application_name=x host=127.0.0.1 port=1 password='{}'",
    "connect_timeout=5 PASSWORD  = {} host=127.0.0.1",
    "Server=127.0.0.1;Password={}",
    "mysql://u:{}@127.0.0.1/d",
    "postgres//u:{}@127.0.0.1/d",
    "u:{}@127.0.0.1/d",
    "\"postgres://u:{}@127.0.0.1:1/d\"",
    "sqlite+pysqlcipher://:{}@/app.db",
    "file:gone.db?_pragma_key={}",
];

#[test]
fn password_of_what_leads_nowhere_shows_nowhere() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 3);
    environment.ok(["backup", "app.db"]);
    let middles = ["?", "#", "@", "/", "'", " ", ":", "%", "\"", "&", "\\", "=", "/a?b@"];
    for (number, form) in FORMS.iter().enumerate() {
        for turn in 0..2 {
            let middle = middles[(2 * number + turn) % middles.len()];
            let text = &form.replace("{}", &format!("{}{middle}{}", ENDS[0], ENDS[1]));
            let config = format!(
                "[log]\nfile = \"dbkeep.log\"\nlevel = \"trace\"\n[drill]\nserver = {0}\n\
                 [databases.shop]\npostgres = {0}\n[databases.other]\npostgres = \"env:URL\"\n",
                toml_text(text)
            );
            fs::write(environment.path("dbkeep.toml"), config).unwrap();
            fs::write(environment.path(".env"), format!("URL={text}\n")).unwrap();
            for line in [
                &["backup", text][..],
                &["backup", "env:URL"],
                &["backup"],
                &["doctor", text],
                &["doctor"],
                &["restore", "latest", "--to", text],
                &["drill", "--server", text],
                &["compare", "latest", text],
                &["list", text],
                &["status"],
                &["config", "show"],
            ] {
                expect_hidden(&environment, line);
            }
        }
    }
    expect_in_no_file(&environment.path(".."));
}

#[test]
fn variable_of_the_process_is_as_secret_as_one_of_the_file() {
    for form in FORMS {
        let text = form.replace("{}", &format!("{}?/{}", ENDS[0], ENDS[1]));
        let environment = TestEnvironment::new().with("URL", &text);
        for line in [&["backup", "env:URL"][..], &["doctor", "env:URL"]] {
            expect_hidden(&environment, line);
        }
        expect_in_no_file(&environment.path(".."));
    }
}

#[test]
fn password_on_the_command_line_is_warned_of_wherever_a_url_may_stand() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 3);
    environment.ok(["backup", "app.db"]);
    for url in ["postgres://u:s3cr?et9x@127.0.0.1:1/d", "host=127.0.0.1 port=1 password='s3cr et9x'"] {
        for line in [
            &["backup", url][..],
            &["doctor", url],
            &["restore", "latest", "--to", url],
            &["drill", "--server", url],
        ] {
            let run = environment.run(line);
            let warning =
                "warning: a password on the command line can be seen by other users of this machine";
            assert!(run.stderr.contains(warning), "{line:?}: {}", run.stderr);
            assert!(run.stderr.contains("env:NAME"), "{line:?}: {}", run.stderr);
        }
    }
}

#[test]
fn connection_string_becomes_no_file() {
    let environment = TestEnvironment::new();
    environment.users("app.db", 3);
    environment.ok(["backup", "app.db"]);
    let run = environment.run(["restore", "latest", "--to", "application_name=x host=h password=s3cr"]);
    run.expect_failure(
        2,
        "app is a SQLite database, and application_name=x host=h password=*** leads to a PostgreSQL server",
        "give the path of a file",
    );
    expect_in_no_file(&environment.path(".."));
}

/// Returns a text as a configuration has it.
fn toml_text(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
