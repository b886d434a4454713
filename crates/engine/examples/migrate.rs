//! Runs SQL on a SQLite database under a guard: when it fails all of it is undone, also what was committed half-way.
//!
//! ```sh
//! cargo run -p dbkeep-engine --example migrate -- app.db FOLDER migration.sql
//! ```
//!
//! The repository is made below FOLDER, which has the password in a file called `key`.
#![allow(clippy::print_stdout, reason = "a program tells what it did")]

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use dbkeep_engine::keeper::{GuardOptions, Keeper, Report, Settings};
use dbkeep_engine::report::GuardReport;
use rusqlite::Connection;

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(database), Some(folder), Some(migration)) = (words.next(), words.next(), words.next()) else {
        return Err("give a database, a folder and a file of SQL".into());
    };
    let settings =
        Settings::new(folder.join("backups"), folder.join("state")).password_file(folder.join("key"));
    let keeper = Keeper::open(settings)?;

    // The database is stored and read back before the migration begins; without that it does not.
    let options = GuardOptions::new().source(&database).check("SELECT count(*) > 0 FROM users");
    match keeper.guard(&options, || migrate(&database, &migration)) {
        Ok(guarded) => {
            show_changes(&guarded.report);
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            if let Some(Report::Guard(report)) = error.report() {
                show_changes(report);
            }
            println!("{error}");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn migrate(database: &Path, migration: &Path) -> Result<(), Box<dyn Error>> {
    let sql = std::fs::read_to_string(migration)?;
    Ok(Connection::open(database)?.execute_batch(&sql)?)
}

/// Says what the migration did, whether it stays or not.
fn show_changes(report: &GuardReport) {
    for changes in &report.changes {
        for object in &changes.schema.added {
            println!("new {} {}", object.kind, object.name);
        }
        for table in changes.tables.iter().filter(|table| table.in_left && table.in_right) {
            let (added, removed, changed) = (table.added, table.removed, table.changed);
            println!("{}: {added} added, {removed} removed, {changed} changed", table.name);
        }
    }
}
