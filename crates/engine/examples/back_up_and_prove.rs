//! Backs up one SQLite database and proves the backup, then restores it beside the original.
//!
//! ```sh
//! cargo run -p dbkeep-engine --example back_up_and_prove -- app.db FOLDER
//! ```
//!
//! The repository is made below FOLDER, which has the password in a file called `key`.
#![allow(clippy::print_stdout, reason = "a program tells what it did")]

use std::error::Error;
use std::path::PathBuf;

use dbkeep_engine::keeper::{BackupOptions, Keeper, RestoreOptions, Settings, VerifyOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(database), Some(folder)) = (words.next(), words.next()) else {
        return Err("give a database and a folder".into());
    };

    // The state is what tells a repository that vanished from one that was never made: keep it apart from the backups.
    let settings =
        Settings::new(folder.join("backups"), folder.join("state")).password_file(folder.join("key"));
    let keeper = Keeper::open(settings)?;

    // Success means: stored, acknowledged, and of a database that was found sound.
    let backup = keeper.backup(&BackupOptions::new().source(&database))?;
    for one in &backup.databases {
        println!(
            "{}: {} rows in {} tables, integrity {}",
            one.name,
            one.rows,
            one.tables.len(),
            one.integrity
        );
    }

    // Reads everything back, and compares each hash and row count.
    let proof = keeper.verify(&VerifyOptions::new().session(&backup.session))?;
    println!("proved {} of {}", proof.ok, proof.checked.len());

    let restored = keeper.restore(&RestoreOptions::new().to(folder.join("restored.db")))?;
    println!("restored {} rows, verified: {}", restored.rows, restored.verified);
    Ok(())
}
