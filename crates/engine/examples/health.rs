//! Backs up what a `dbkeep.toml` names, for a limited time, and says how everything stands and what a policy would
//! drop.
//!
//! ```sh
//! cargo run -p dbkeep-engine --example health -- dbkeep.toml STATE SECONDS
//! ```
//!
//! STATE is the directory where this host remembers what it saw.
#![allow(clippy::print_stdout, reason = "a program tells what it did")]

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dbkeep_engine::keeper::{BackupOptions, ForgetOptions, Keeper, Settings};
use dbkeep_engine::retention::Policy;
use dbkeep_engine::{ErrorKind, Observer};

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args_os().skip(1);
    let (Some(config), Some(state), Some(seconds)) = (words.next(), words.next(), words.next()) else {
        return Err("give a dbkeep.toml, a directory and a number of seconds".into());
    };
    let limit = Duration::from_secs(seconds.to_str().ok_or("SECONDS is a number")?.parse()?);
    let keeper = Keeper::open(Settings::from_file(PathBuf::from(config), PathBuf::from(state))?)?;
    for warning in keeper.warnings() {
        println!("warning: {warning}");
    }
    back_up(&keeper, limit);

    let status = keeper.status()?;
    for database in &status.databases {
        let sound = if database.problems.is_empty() { "sound" } else { "needs eyes" };
        println!("{}: {sound}, {} snapshots", database.name, database.snapshots);
        for problem in &database.problems {
            println!("  {problem}");
        }
    }

    let policy = Policy { last: 2, ..Policy::default() };
    let plan = keeper.forget(&ForgetOptions::policy(policy).dry_run(true))?;
    println!("to keep the last two: {} stay, {} go", plan.here.kept.len(), plan.here.forgotten.len());
    Ok(())
}

/// Tells what is done, and asks to stop when the time is over.
struct Until(Instant);

impl Observer for Until {
    fn cancelled(&self) -> bool {
        Instant::now() >= self.0
    }

    fn phase(&self, name: &str, _bytes: u64) {
        println!("… {name}");
    }

    fn warn(&self, message: &str) {
        println!("warning: {message}");
    }
}

/// Backs up all that is configured. When the time is over it stops where the repository is sound.
fn back_up(keeper: &Keeper, limit: Duration) {
    let watch = Arc::new(Until(Instant::now() + limit));
    match keeper.watched(watch).backup(&BackupOptions::new()) {
        Ok(report) => println!("backed up {} databases", report.totals.databases),
        Err(error) if error.kind() == ErrorKind::Interrupted => println!("stopped: the time is over"),
        Err(error) => {
            println!("{error:#}");
            println!("hint: {}", error.hint().unwrap_or("see the log"));
        }
    }
}
