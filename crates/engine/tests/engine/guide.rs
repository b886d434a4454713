//! The Rust of `docs/guide/library.md`: each block of the page stands here between two marks, and is run.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use dbkeep_engine::keeper::{
    BackupOptions, CompareOptions, ForgetOptions, GuardOptions, Keeper, Progress, Report, RestoreOptions,
    Settings, Undecided, VerifyOptions,
};
use dbkeep_engine::retention::Policy;
use dbkeep_engine::{ErrorKind, KeyCost};
use rusqlite::Connection;
use tempfile::TempDir;

type Done = Result<(), Box<dyn std::error::Error>>;

#[test]
fn page_and_this_file_have_the_same_code() {
    let page =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/guide/library.md"));
    let of_page = between(&page.unwrap(), "```rust", "```");
    let here = between(include_str!("guide.rs"), "    // page: begin", "    // page: end");
    assert!(of_page.len() > 5);
    assert_eq!(of_page, here);
}

/// Returns the lines between marks, as far to the left as they go.
fn between(text: &str, begin: &str, end: &str) -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    let mut inside = false;
    let margin = begin.len() - begin.trim_start().len();
    for line in text.lines() {
        match (inside, line) {
            (false, line) if line == begin => blocks.push(String::new()),
            (false, _) => continue,
            (true, line) if line == end => {}
            (true, line) => {
                let block = blocks.last_mut().unwrap();
                block.push_str(line.get(margin..).unwrap_or_default());
                block.push('\n');
            }
        }
        inside = line != end;
    }
    blocks
}

/// A folder with a database of one row.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let connection = Connection::open(folder.path().join("app.db")).unwrap();
    connection.execute_batch("CREATE TABLE users(name); INSERT INTO users VALUES('ada')").unwrap();
    folder
}

/// The keeper of the first block.
fn keeper(folder: &Path) -> Keeper {
    let settings = Settings::new(folder.join("backups"), folder.join("state"))
        .password("correct horse")
        .key_cost(KeyCost::Cheap);
    Keeper::open(settings.sqlite("app", folder.join("app.db"))).unwrap()
}

#[test]
fn backup_is_proved() -> Done {
    let here = folder();
    let folder = here.path();
    // page: begin
    let settings = Settings::new(folder.join("backups"), folder.join("state"))
        .password("correct horse")
        .sqlite("app", folder.join("app.db"));
    let keeper = Keeper::open(settings)?;

    let backup = keeper.backup(&BackupOptions::new())?;
    let proof = keeper.verify(&VerifyOptions::new().session(&backup.session))?;
    println!("{} rows stored, {} snapshot proved", backup.totals.rows, proof.ok);
    // page: end
    assert_eq!((backup.totals.rows, proof.ok), (1, 1));
    Ok(())
}

#[test]
fn part_of_a_backup_is_told() -> Done {
    let here = folder();
    let folder = here.path();
    let keeper = keeper(folder);
    let mut told = 0;
    // page: begin
    let both = BackupOptions::new().source("app").source(folder.join("absent.db"));
    match keeper.backup(&both) {
        Ok(report) => println!("session {}", report.session),
        Err(error) => {
            println!("{}: {error:#}", error.kind());
            println!("hint: {}", error.hint().unwrap_or("none"));
            if let Some(Report::Backup(report)) = error.report() {
                told = report.databases.iter().filter(|one| one.snapshot.is_some()).count();
                println!("{told} of {} databases are stored", report.databases.len());
            }
        }
    }
    // page: end
    assert_eq!(told, 1);
    Ok(())
}

#[test]
fn migration_is_undone() -> Done {
    let here = folder();
    let folder = here.path();
    let keeper = keeper(folder);
    // page: begin
    let database = Connection::open(folder.join("app.db"))?;
    let migrate = || database.execute_batch("DELETE FROM users; ALTER TABLE absent ADD COLUMN x;");

    let options = GuardOptions::new().source("app").check("SELECT count(*) > 0 FROM users");
    if let Err(error) = keeper.guard(&options, migrate) {
        println!("{error}");
        if let Some(Report::Guard(report)) = error.report() {
            println!("{:?}; it had removed {} rows", report.outcome, report.changes[0].tables[0].removed);
        }
    }
    let users: i64 = database.query_row("SELECT count(*) FROM users", [], |row| row.get(0))?;
    assert_eq!(users, 1);
    // page: end
    Ok(())
}

#[test]
fn guards_that_were_killed_are_finished() -> Done {
    let here = folder();
    let keeper = keeper(here.path());
    // page: begin
    for report in keeper.resume_guards(Undecided::Report)? {
        println!("{}: {:?}", report.session, report.error);
    }
    // page: end
    assert_eq!(keeper.resume_guards(Undecided::Report)?, []);
    Ok(())
}

#[test]
fn way_back_is_gone_by_hand() -> Done {
    let here = folder();
    let folder = here.path();
    let keeper = keeper(folder);
    let count = || {
        Connection::open(folder.join("app.db"))?.query_row("SELECT count(*) FROM users", [], |row| row.get(0))
    };
    let deploy =
        || Connection::open(folder.join("app.db")).unwrap().execute_batch("DELETE FROM users").is_err();
    // page: begin
    let before = keeper.safety_backup(&BackupOptions::new().source("app"))?;
    if !deploy() {
        let changes = keeper.compare(&CompareOptions::new("latest").database("app"))?;
        println!("{} rows were removed", changes.tables[0].removed);
        keeper.restore_session(&before.session, &RestoreOptions::new().in_place(true))?;
    }
    // page: end
    assert_eq!(count(), Ok::<i64, rusqlite::Error>(1));
    Ok(())
}

#[test]
fn backup_is_watched() -> Done {
    let here = folder();
    let keeper = keeper(here.path());
    let mut stored = 0;
    // page: begin
    let progress = Progress::new();
    let watched = keeper.watched(Arc::new(progress.clone()));
    let backup = thread::spawn(move || watched.backup(&BackupOptions::new()));
    while !backup.is_finished() {
        let phase = progress.present();
        println!("{}: {} of {} bytes", phase.name, phase.done, phase.total);
        thread::sleep(Duration::from_millis(50));
    }
    match backup.join().expect("operations do not panic") {
        Ok(report) => stored = report.totals.databases,
        // `progress.cancel()` from any thread leads here; the repository is sound.
        Err(error) if error.kind() == ErrorKind::Interrupted => println!("stopped"),
        Err(error) => return Err(error.into()),
    }
    // page: end
    assert_eq!(stored, 1);
    Ok(())
}

#[test]
fn policy_is_followed() -> Done {
    let here = folder();
    let keeper = keeper(here.path());
    keeper.backup(&BackupOptions::new())?;
    // page: begin
    let policy = Policy { last: 3, daily: 7, weekly: 4, ..Policy::default() };
    let report = keeper.forget(&ForgetOptions::policy(policy))?;
    println!("{} kept, {} forgotten", report.here.kept.len(), report.here.forgotten.len());

    for database in keeper.status()?.databases {
        println!("{}: last good backup {:?}", database.name, database.last_good);
    }
    // page: end
    assert_eq!((report.here.kept.len(), report.here.forgotten.len()), (1, 0));
    Ok(())
}

#[test]
fn settings_come_from_a_file() -> Done {
    let here = folder();
    let folder = here.path();
    std::fs::write(folder.join("key"), "correct horse\n")?;
    let text = "[repository]\nlocation = \"backups\"\npassword-file = \"key\"\n[databases.app]\nsqlite = \"app.db\"\n";
    std::fs::write(folder.join("dbkeep.toml"), text)?;
    // page: begin
    let settings = Settings::from_file(folder.join("dbkeep.toml"), folder.join("state"))?
        .configure(|config| config.repository.compression = Some(10));
    let keeper = Keeper::open(settings)?;
    // page: end
    assert_eq!(keeper.backup(&BackupOptions::new())?.totals.databases, 1);
    Ok(())
}
