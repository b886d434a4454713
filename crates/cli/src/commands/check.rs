//! `dbkeep check`: the repository itself.

use std::time::Duration;

use clap::Args;
use dbkeep_engine::check::{self, CheckRequest, ReadData};
use dbkeep_engine::report::CheckReport;

use crate::app::{App, short};
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;

const HELP: &str = "\
Checks structure and facts: every object's hash and authentication, every pack
against the index, every snapshot down to its last chunk, and snapshots that
were acknowledged and are gone. With --read-data every stored byte is read,
decrypted and hashed too; --read-data=10% reads a random tenth of the packs.

Examples:
  dbkeep check
  dbkeep check --read-data
  dbkeep check --read-data=10%

Exit codes: 0 nothing found, 1 failed, 2 usage, 4 findings, 10 no repository,
11 locked, 12 wrong password or no key, 130 interrupted";

/// Check the repository
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct CheckArgs {
    /// Read the data too, all of it or a share
    #[arg(long, value_name = "N%", num_args = 0..=1, require_equals = true, default_missing_value = "100%", value_parser = share)]
    pub(crate) read_data: Option<Share>,

    /// Accept that snapshots which were acknowledged are gone, after a deliberate `restic forget`
    #[arg(long)]
    pub(crate) accept_removed: bool,
}

/// A share of the data, in percent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share(pub(crate) u8);

fn share(text: &str) -> Result<Share, String> {
    let digits = text.strip_suffix('%').ok_or("a share is a number from 1 to 100 and `%`, as 10%")?;
    match digits.parse() {
        Ok(percent @ 1..=100) => Ok(Share(percent)),
        _ => Err("a share is a number from 1 to 100 and `%`, as 10%".into()),
    }
}

impl CheckArgs {
    /// Checks.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let store = app.open()?;
        let request = CheckRequest {
            read_data: match self.read_data {
                None => ReadData::None,
                Some(Share(100)) => ReadData::All,
                Some(Share(percent)) => ReadData::Percent(percent),
            },
            accept_removed: self.accept_removed,
        };
        let report = check::run(&store, &request, app.now(), &app.observer())?;
        app.watch.finish();
        show(app, &report);
        app.output.document(&report);
        Ok(Exit::from_code(report.exit_code()))
    }
}

/// Prints what was checked, and every finding with the snapshots that it affects.
fn show(app: &App, report: &CheckReport) {
    for finding in &report.findings {
        app.output.line(format_args!(
            "{} {} {}: {}",
            app.output.paint(Tone::Bad, "finding:"),
            finding.kind,
            human::visible(&finding.object),
            human::visible(&finding.message)
        ));
        if !finding.affects.is_empty() {
            let snapshots: Vec<_> = finding.affects.iter().map(short).collect();
            app.output.line(format_args!(
                "  affects {}{}",
                snapshots.join(", "),
                of_databases(&finding.databases)
            ));
        }
    }
    for note in &report.notes {
        app.output.note(format_args!("note: {}", human::visible(note)));
    }
    let read = match report.bytes_read {
        0 => "data not read".to_owned(),
        bytes => {
            let rate = human::rate(bytes, report.duration_ms).map(|rate| format!(", {rate}"));
            format!("{} of data read{}", human::size(bytes), rate.unwrap_or_default())
        }
    };
    let found = match report.findings.len() {
        0 => app.output.paint(Tone::Good, "nothing found"),
        findings => app.output.paint(Tone::Bad, human::counted(findings as u64, "finding")),
    };
    app.output.line(format_args!(
        "{}, {}, {}; {read}, {}: {found}",
        human::counted(report.snapshots, "snapshot"),
        human::counted(report.packs, "pack"),
        human::counted(report.blobs, "blob"),
        human::duration(Duration::from_millis(report.duration_ms)),
    ));
    if report.findings.is_empty() && report.bytes_read == 0 {
        app.output.note("the structure is sound; --read-data reads every stored byte as well");
    }
}

fn of_databases(names: &[String]) -> String {
    if names.is_empty() {
        return String::new();
    }
    let names: Vec<_> = names.iter().map(|name| human::visible(name)).collect();
    format!(" of {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_a_percentage() {
        assert_eq!(share("10%"), Ok(Share(10)));
        assert_eq!(share("100%"), Ok(Share(100)));
        for text in ["10", "0%", "101%", "-1%", "%", "ten%", "1.5%"] {
            assert!(share(text).is_err(), "{text}");
        }
    }
}
