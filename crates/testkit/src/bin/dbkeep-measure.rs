//! Runs one command and writes what it cost into a file.
//!
//! A process of its own because the kernel counts the memory of the parent at the time
//! of `exec` as the child's: measured from here, the floor is this small program's.
#![allow(clippy::print_stderr)]

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};
use std::time::Instant;

use dbkeep_testkit::process::Cost;
use nix::sys::resource::{UsageWho, getrusage};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(report), Some(program)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: dbkeep-measure REPORT COMMAND [ARG]…");
        return ExitCode::from(2);
    };
    match measure(Command::new(program).args(arguments)) {
        Ok((cost, code)) => {
            let json = serde_json::to_vec(&cost).expect("numbers can always be written as JSON");
            match std::fs::write(&report, json) {
                Ok(()) => code,
                Err(error) => {
                    eprintln!("error: {}: {error}", report.display());
                    ExitCode::from(126)
                }
            }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(127)
        }
    }
}

fn measure(command: &mut Command) -> std::io::Result<(Cost, ExitCode)> {
    let began = Instant::now();
    let status = command.status()?;
    let seconds = began.elapsed().as_secs_f64();
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let time = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let cost = Cost {
        seconds,
        user_seconds: time(usage.user_time()),
        system_seconds: time(usage.system_time()),
        // Linux counts in KiB.
        peak_rss: usage.max_rss() as u64 * 1024,
        signal: status.signal(),
    };
    let code = status.code().map_or(137, |code| u8::try_from(code).unwrap_or(u8::MAX));
    Ok((cost, ExitCode::from(code)))
}
