//! `dbkeep size`: what each database really costs.

use clap::Args;
use dbkeep_engine::report::{CopyStatus, DatabaseSize, SizeReport};
use dbkeep_engine::size;

use crate::app::App;
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;
use crate::table::{self, Value};

const HELP: &str = "\
For each database: how many snapshots there are, what they would take as plain
copies, and what is stored for them and for no other database. Nothing but the
directories of the snapshots is read.

Examples:
  dbkeep size
  dbkeep size --json

Exit codes: 0 shown, 1 failed, 2 usage, 10 no repository, 11 locked,
12 wrong password or no key";

/// Show what each database costs
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct SizeArgs {}

impl SizeArgs {
    /// Measures.
    #[expect(clippy::unused_self, reason = "as every command")]
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let store = app.open()?;
        let report = size::run(&store, app.now(), &app.observer())?;
        app.watch.finish();
        show(app, &report);
        app.output.document(&report);
        Ok(Exit::Done)
    }
}

fn show(app: &App, report: &SizeReport) {
    let output = &app.output;
    if report.databases.is_empty() {
        output.line("no databases yet: `dbkeep backup path/to/app.db` takes the first backup");
    } else {
        let columns = [
            table::text("DATABASE"),
            table::number("SNAPSHOTS"),
            table::number("AS PLAIN COPIES").spare(1),
            table::number("STORED"),
            table::number("SAVED").spare(2),
        ];
        table::print(output, &columns, report.databases.iter().map(row));
        output.line("");
    }
    if report.bytes_shared > 0 {
        output.line(format_args!("{} more are stored for several of them", human::size(report.bytes_shared)));
    }
    output.line(format_args!(
        "{} in {}",
        human::size(report.bytes_stored),
        human::counted(report.packs, "pack")
    ));
    if report.bytes_unused > 0 {
        let waiting = match report.bytes_waiting {
            0 => String::new(),
            bytes => format!(" ({} wait for their time of grace)", human::size(bytes)),
        };
        output.line(output.paint(
            Tone::Notice,
            format_args!(
                "{} of it is of no use any more{waiting}: `dbkeep prune`",
                human::size(report.bytes_unused)
            ),
        ));
    }
    if let Some(free) = report.disk_free {
        output.line(format_args!("{} free on that disk", human::size(free)));
    }
    for copy in &report.copies {
        show_copy(app, copy);
    }
}

/// Prints what a copy takes, and what is wrong with it.
fn show_copy(app: &App, copy: &CopyStatus) {
    let name = human::visible(&copy.name);
    let size = copy.bytes_stored.map_or_else(|| "size unknown".to_owned(), human::size);
    let free = copy.disk_free.map(|free| format!(", {} free there", human::size(free))).unwrap_or_default();
    let location = human::visible(&copy.location);
    let snapshots = super::status::snapshots_of(copy);
    app.output.line(format_args!("copy {name} in {location}: {size}, {snapshots}{free}"));
    for problem in &copy.problems {
        let mark = app.output.paint(Tone::Notice, "problem:");
        app.output.line(format_args!("{mark} {name}: {}", human::visible(problem)));
    }
}

fn row(database: &DatabaseSize) -> Vec<Value> {
    vec![
        database.name.as_str().into(),
        human::count(database.snapshots).into(),
        human::size(database.bytes_source).into(),
        Value::toned(human::size(database.bytes_unique), Tone::Strong),
        saved(database).map_or_else(Value::none, Value::from),
    ]
}

/// Returns the share that is saved, as `93.1 %`.
fn saved(database: &DatabaseSize) -> Option<String> {
    let source = u128::from(database.bytes_source);
    let saved = source.checked_sub(u128::from(database.bytes_unique))?;
    let per_mille = (saved * 1000).checked_div(source)?;
    Some(format!("{}.{} %", per_mille / 10, per_mille % 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_that_is_saved_is_told_where_there_is_one() {
        let of = |bytes_source, bytes_unique| {
            saved(&DatabaseSize { bytes_source, bytes_unique, ..DatabaseSize::default() })
        };
        assert_eq!(of(1000, 69).as_deref(), Some("93.1 %"));
        assert_eq!(of(10, 10).as_deref(), Some("0.0 %"));
        assert_eq!(of(10, 11), None);
        assert_eq!(of(0, 0), None);
    }
}
