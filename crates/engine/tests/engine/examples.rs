//! The example programs, as `cargo test` built them: what they say, and what they leave behind.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use rusqlite::Connection;
use tempfile::TempDir;

/// A folder with a key and a database of three rows.
fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key"), "secret\n").unwrap();
    std::fs::set_permissions(folder.path().join("key"), PermissionsExt::from_mode(0o600)).unwrap();
    let database = folder.path().join("app.db");
    let connection = Connection::open(&database).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT);
             INSERT INTO users(name) VALUES ('ada'), ('grace'), ('mary')",
        )
        .unwrap();
    (folder, database)
}

/// Runs an example, which must end well, and returns what it printed.
fn run(name: &str, words: &[&Path]) -> String {
    run_to(0, name, words)
}

/// Runs an example, which must end with a code, and returns what it printed.
fn run_to(code: i32, name: &str, words: &[&Path]) -> String {
    // Test programs lie in `deps` beside `examples`.
    let here = std::env::current_exe().unwrap();
    let program = here.parent().unwrap().with_file_name("examples").join(name);
    assert!(program.exists(), "{} is not built: `cargo test` without --test builds it", program.display());
    // Nothing of the environment is needed, so nothing of it is given.
    let output = Command::new(&program).args(words).env_clear().output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{name}: {stderr}");
    assert_eq!(stderr, "", "the library prints nothing");
    String::from_utf8(output.stdout).unwrap()
}

fn names(database: &Path) -> Vec<String> {
    let connection = Connection::open(database).unwrap();
    let mut statement = connection.prepare("SELECT name FROM users ORDER BY id").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<rusqlite::Result<_>>().unwrap()
}

#[test]
fn back_up_and_prove_says_what_it_stored_and_restores_it() {
    let (folder, database) = folder();
    let said = run("back_up_and_prove", &[&database, folder.path()]);
    assert_eq!(
        said,
        "app: 3 rows in 1 tables, integrity ok\nproved 1 of 1\nrestored 3 rows, verified: true\n"
    );
    assert_eq!(names(&folder.path().join("restored.db")), ["ada", "grace", "mary"]);
}

#[test]
fn migrate_keeps_what_worked_and_undoes_what_failed_half_way() {
    let (folder, database) = folder();
    let migration = folder.path().join("migration.sql");
    std::fs::write(&migration, "CREATE TABLE orders(id); UPDATE users SET name = upper(name) WHERE id = 1;")
        .unwrap();
    let said = run("migrate", &[&database, folder.path(), &migration]);
    assert_eq!(said, "new table orders\nusers: 0 added, 0 removed, 1 changed\n");
    assert_eq!(names(&database), ["ADA", "grace", "mary"]);

    std::fs::write(&migration, "DELETE FROM users WHERE id > 1; ALTER TABLE absent ADD COLUMN x;").unwrap();
    let said = run_to(1, "migrate", &[&database, folder.path(), &migration]);
    assert_eq!(
        said,
        "users: 0 added, 2 removed, 0 changed\n\
         the change failed, and every database is as it was before: no such table: absent\n"
    );
    assert_eq!(names(&database), ["ADA", "grace", "mary"]);
}

#[test]
fn health_tells_how_everything_stands_and_stops_in_time() {
    let (folder, _) = folder();
    let config = folder.path().join("dbkeep.toml");
    let text = "[repository]\nlocation = \"backups\"\npassword-file = \"key\"\n\n\
                [databases.app]\nsqlite = \"app.db\"\n";
    std::fs::write(&config, text).unwrap();
    let state = folder.path().join("state");
    // What is done now is for people; the rest is to the letter.
    let health = |seconds: &str| -> (bool, String) {
        let said = run("health", &[&config, &state, Path::new(seconds)]);
        let (phases, results): (Vec<&str>, Vec<&str>) = said.lines().partition(|line| line.starts_with("… "));
        (phases.contains(&"… backup app"), results.join("\n"))
    };
    for snapshots in 1..=3 {
        let gone = if snapshots > 2 { 1 } else { 0 };
        let expected = format!(
            "backed up 1 databases\napp: sound, {snapshots} snapshots\nto keep the last two: {} stay, {gone} go",
            snapshots - gone
        );
        assert_eq!(health("600"), (true, expected));
    }
    // No time at all: nothing is stored, and the repository is as it was.
    let expected = "stopped: the time is over\napp: sound, 3 snapshots\nto keep the last two: 2 stay, 1 go";
    assert_eq!(health("0"), (false, expected.to_owned()));
}
