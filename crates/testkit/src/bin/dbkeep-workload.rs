//! Writes the transactions of a seed into a SQLite database until told to stop.
//!
//! Prints `writing` after the first commit and a JSON report at the end. Ends when its
//! standard input is closed, so that no writer outlives the test that started it.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::Read;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dbkeep_testkit::workload::{JournalMode, Options, Synchronous, Writer};

const USAGE: &str = "usage: dbkeep-workload DATABASE [--seed N] [--journal wal|delete|truncate|persist]
  [--synchronous off|normal|full] [--rate PER_SECOND] [--transactions N] [--milliseconds N]
  [--page-size N] [--autocheckpoint PAGES] [--log FILE] [--hostile]";

fn main() -> ExitCode {
    let options = match parse(std::env::args_os().skip(1)) {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("error: {problem}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match write(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn write(options: Options) -> Result<(), Box<dyn std::error::Error>> {
    let mut writer = Writer::open(options)?;
    let stop = stop_at_end_of_input()?;
    let mut announced = false;
    let report = writer.run(&|| stop.load(Ordering::Relaxed), &mut |_| {
        if !announced {
            println!("writing");
            announced = true;
        }
    })?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

fn stop_at_end_of_input() -> std::io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    std::thread::Builder::new().name("stdin".to_owned()).spawn(move || {
        // An error ends the wait just as the end of input does.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        told.store(true, Ordering::Relaxed);
    })?;
    Ok(stop)
}

fn parse(mut arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Options, String> {
    let database = arguments.next().ok_or("no database is given")?;
    let mut options = Options::new(database, 1);
    while let Some(name) = arguments.next() {
        let name = name.to_string_lossy().into_owned();
        if name == "--hostile" {
            options.hostile = true;
            continue;
        }
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        if name == "--log" {
            options.log = Some(value.into());
            continue;
        }
        let text = value.to_string_lossy();
        let number = || text.parse::<u64>().map_err(|_| format!("{name}: {text} is not a number"));
        let unknown = || format!("{name}: {text} is unknown");
        match name.as_str() {
            "--seed" => options.seed = number()?,
            "--rate" => options.rate = Some(number()?),
            "--transactions" => options.transactions = Some(number()?),
            "--milliseconds" => options.duration = Some(Duration::from_millis(number()?)),
            "--page-size" => options.page_size = Some(number()?.try_into().map_err(|_| unknown())?),
            "--autocheckpoint" => options.autocheckpoint = Some(number()?.try_into().map_err(|_| unknown())?),
            "--journal" => options.journal = JournalMode::named(&text).ok_or_else(unknown)?,
            "--synchronous" => options.synchronous = Synchronous::named(&text).ok_or_else(unknown)?,
            _ => return Err(format!("{name} is unknown")),
        }
    }
    Ok(options)
}
