//! `dbkeep prune`: the space of what no snapshot needs.

use clap::Args;
use dbkeep_engine::prune::{self, PruneRequest};
use dbkeep_engine::report::PruneReport;
use jiff::{SignedDuration, Span};

use crate::app::App;
use crate::exit::{Exit, Failure};
use crate::human;

const HELP: &str = "\
Forgetting removes snapshots; this gives back the space that they took. Packs that
no snapshot needs are marked, and the first prune after the time of grace removes
them when still nothing needs them. Packs that are partly used are copied as far
as they are used, the emptiest first, until at most --max-unused of the data is
unused; many small packs are merged. Nobody else can work on the repository
meanwhile, and nothing is changed while anything in it cannot be read.

With --grace 0 everything goes at once: for a full disk, and where you know that
nobody else uses the repository.

Examples:
  dbkeep prune --dry-run
  dbkeep prune --dry-run -vv      what becomes of each pack
  dbkeep prune
  dbkeep prune --grace 0

Exit codes: 0 done, 1 failed or refused, 2 usage, 10 no repository, 11 locked,
12 wrong password or no key, 130 interrupted";

/// Give back the space of forgotten snapshots
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct PruneArgs {
    /// Print what would be done, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// How much of the data may be unused
    #[arg(long, value_name = "N%", default_value = "5%", value_parser = share)]
    pub(crate) max_unused: u16,

    /// How long a marked pack waits before it is removed
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = grace)]
    pub(crate) grace: SignedDuration,
}

/// Reads a share as tenths of a per cent.
fn share(text: &str) -> Result<u16, String> {
    const FORM: &str = "a share is a number from 0 to 100 and `%`, as 5% or 2.5%";
    let digits = text.strip_suffix('%').ok_or(FORM)?;
    let (whole, tenths) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(tenths) || tenths.len() != 1 {
        return Err(FORM.into());
    }
    let per_mille =
        whole.parse::<u16>().ok().and_then(|whole| whole.checked_mul(10)?.checked_add(tenths.parse().ok()?));
    per_mille.filter(|per_mille| *per_mille <= 1000).ok_or_else(|| FORM.into())
}

/// Reads a duration of hours, minutes, days of 24 hours.
fn grace(text: &str) -> Result<SignedDuration, String> {
    const FORM: &str = "write it as 24h, 90m, 7d, or 0";
    if text == "0" {
        return Ok(SignedDuration::ZERO);
    }
    let span: Span = text.parse().map_err(|_| FORM)?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| FORM)?;
    if duration.is_negative() { Err(FORM.into()) } else { Ok(duration) }
}

impl PruneArgs {
    /// Prunes.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let store = app.open()?;
        let request = PruneRequest {
            max_unused_per_mille: self.max_unused,
            grace: self.grace,
            dry_run: self.dry_run,
            ..PruneRequest::default()
        };
        let report = prune::run(&store, &request, app.now(), &app.observer())?;
        app.watch.finish();
        show(app, &report);
        app.output.document(&report);
        Ok(Exit::Done)
    }
}

/// Prints what went, what waits, and what stays.
pub(super) fn show(app: &App, report: &PruneReport) {
    let output = &app.output;
    let did = |done: &'static str, would: &'static str| if report.dry_run { would } else { done };
    let packs = |count, bytes| format!("{} ({})", human::counted(count, "pack"), human::size(bytes));
    output.line(format_args!(
        "{} {}",
        did("removed", "would remove"),
        packs(report.packs_removed, report.bytes_freed)
    ));
    if report.packs_marked > 0 {
        let from = report.free_from.map(|time| format!(": a prune from {} on removes them", app.time(time)));
        output.line(format_args!(
            "{} {}{}",
            did("marked", "would mark"),
            packs(report.packs_marked, report.bytes_marked),
            from.unwrap_or_default()
        ));
    }
    if report.packs_rewritten > 0 {
        output.line(format_args!(
            "{} {}, {}",
            did("copied what is used of", "would copy what is used of"),
            human::counted(report.packs_rewritten, "pack"),
            human::size(report.bytes_rewritten)
        ));
    }
    if report.packs_taken_back > 0 {
        output.line(format_args!(
            "{} {} that were marked and are needed again",
            did("took back", "would take back"),
            human::counted(report.packs_taken_back, "pack")
        ));
    }
    if report.packs_waiting > 0 {
        output.note(format_args!(
            "{} wait since an earlier prune",
            packs(report.packs_waiting, report.bytes_waiting)
        ));
    }
    if report.packs_unnamed > 0 {
        output.note(format_args!(
            "{} that no index names may still be needed by somebody: a later prune removes them",
            human::counted(report.packs_unnamed, "pack")
        ));
    }
    output.note(format_args!(
        "{} are needed, {} of partly used packs are not",
        human::size(report.bytes_used),
        human::size(report.bytes_unused)
    ));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_a_percentage_with_a_tenth() {
        for (text, per_mille) in [("5%", 50), ("0%", 0), ("100%", 1000), ("2.5%", 25), ("0.1%", 1)] {
            assert_eq!(share(text), Ok(per_mille), "{text}");
        }
        for text in ["5", "%", "101%", "100.1%", "-1%", "+1%", "1.25%", ".5%", "five%", "99999999%"] {
            assert!(share(text).is_err(), "{text}");
        }
    }

    #[test]
    fn grace_is_a_duration() {
        let hours = SignedDuration::from_hours;
        for (text, expected) in [("24h", hours(24)), ("7d", hours(168)), ("0", hours(0)), ("0s", hours(0))] {
            assert_eq!(grace(text), Ok(expected), "{text}");
        }
        for text in ["-1h", "1", "soon", "", "1mo"] {
            assert!(grace(text).is_err(), "{text}");
        }
    }
}
