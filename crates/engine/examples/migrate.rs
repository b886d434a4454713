//! Runs SQL on a SQLite database, and undoes all of it when it fails, also what was committed half-way.
//!
//! ```sh
//! cargo run -p dbkeep-engine --example migrate -- app.db FOLDER migration.sql
//! ```
//!
//! The repository is made below FOLDER, which has the password in a file called `key`.
#![allow(clippy::print_stdout, reason = "a program tells what it did")]

use std::error::Error;
use std::path::{Path, PathBuf};

use dbkeep_engine::keeper::{BackupOptions, CompareOptions, Keeper, RestoreOptions, Settings};
use rusqlite::Connection;

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(database), Some(folder), Some(migration)) = (words.next(), words.next(), words.next()) else {
        return Err("give a database, a folder and a file of SQL".into());
    };
    let settings =
        Settings::new(folder.join("backups"), folder.join("state")).password_file(folder.join("key"));
    let keeper = Keeper::open(settings)?;

    // Stored and read back; without that nothing below begins.
    let before = keeper.safety_backup(&BackupOptions::new().source(&database).name("app"))?;
    let snapshot = before.snapshots().next().ok_or("nothing was stored")?;

    let migrated = migrate(&database, &migration);
    let changes = keeper.compare(&CompareOptions::new(snapshot))?;
    for table in changes.tables.iter().filter(|table| !table.is_same()) {
        println!(
            "{}: {} added, {} removed, {} changed",
            table.name, table.added, table.removed, table.changed
        );
    }
    for object in &changes.schema.added {
        println!("new {} {}", object.kind, object.name);
    }

    if let Err(error) = migrated {
        // What is there is backed up once more before it is overwritten.
        let back = keeper.restore(&RestoreOptions::new().snapshot(snapshot).in_place(true))?;
        println!("the migration failed ({error}), and is undone: {} rows as before", back.rows);
    }
    Ok(())
}

fn migrate(database: &Path, migration: &Path) -> Result<(), Box<dyn Error>> {
    let sql = std::fs::read_to_string(migration)?;
    Ok(Connection::open(database)?.execute_batch(&sql)?)
}
