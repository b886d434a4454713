//! `dbkeep forget`: drops snapshots by id, or those that a policy does not keep.

use clap::Args;
use dbkeep_engine::Id;
use dbkeep_engine::forget::{self, Choice, ForgetRequest};
use dbkeep_engine::prune::{self, PruneRequest};
use dbkeep_engine::report::{CopyForgetReport, ErrorReport, ForgetReport, PolicyReport, PruneReport};
use dbkeep_engine::repository::Store;
use dbkeep_engine::retention::Policy;
use jiff::{Span, Timestamp};
use serde::Serialize;

use crate::app::{App, short};
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;
use crate::table::{self, Value};

const HELP: &str = "\
By id, or by a policy: with --keep-… options every database keeps what one of
them keeps, and the rest of it is forgotten. Without any, the policy of the
configuration is carried out (24 hourly, 30 daily, 12 weekly, 24 monthly and 10
yearly ones, and everything of the last 14 days, unless it says otherwise), and
in each configured copy the policy of that copy; with --repo only where that is.
It leaves a database alone whose source looked wrong: found damaged, or half of
its size, tables or rows gone since the backup before. It removes no more than a
fifth of the snapshots of a database at once, and nothing while the clock cannot
be right. Look, then say with --accept that it is in order.

Days, weeks and months are those of your time zone. The last good snapshot of a
database, those that are held (`dbkeep pin`) and those of other tools always
stay. The snapshots are gone at once; the space that they took is given back by
--prune, or by `dbkeep prune`.

Examples:
  dbkeep forget --dry-run
  dbkeep forget --keep-daily 30 --keep-monthly 12 --dry-run
  dbkeep forget --keep-within 14d --keep-last 1 --database app
  dbkeep forget --keep-last 10 --prune
  dbkeep forget 4f2a91c0 9be1d3aa

Exit codes: 0 forgotten, 1 failed, or all refused, 2 usage, 3 some refused, or
a copy failed, 4 a database was left alone and nothing of it was to go, 10 no
repository, 11 locked, 12 wrong password or no key";

/// Forget snapshots
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ForgetArgs {
    /// Starts of ids, `latest`, or `latest~N`
    #[arg(value_name = "SNAPSHOT", conflicts_with = "keep")]
    pub(crate) snapshots: Vec<String>,

    #[command(flatten)]
    pub(crate) keep: KeepArgs,

    /// The database that `latest` means, or the only one that a policy is for
    #[arg(long, value_name = "N")]
    pub(crate) database: Option<String>,

    /// What made the policy of the configuration stop is in order
    #[arg(long, conflicts_with_all = ["keep", "snapshots"])]
    pub(crate) accept: bool,

    /// Forget also what is refused: the last good snapshot of a database, one that is held
    #[arg(long, conflicts_with = "keep", requires = "snapshots")]
    pub(crate) force: bool,

    /// Give back the space after that, as `dbkeep prune` does
    #[arg(long)]
    pub(crate) prune: bool,

    /// Print what would be forgotten and what stays, and stop
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A policy in options.
#[derive(Debug, Args)]
#[group(id = "keep", multiple = true)]
#[command(next_help_heading = "What stays")]
pub(crate) struct KeepArgs {
    /// The newest N
    #[arg(long, value_name = "N")]
    pub(crate) keep_last: Option<u32>,

    /// One of each of the last N hours that have any
    #[arg(long, value_name = "N")]
    pub(crate) keep_hourly: Option<u32>,

    /// One of each of the last N days
    #[arg(long, value_name = "N")]
    pub(crate) keep_daily: Option<u32>,

    /// One of each of the last N weeks, from Monday on
    #[arg(long, value_name = "N")]
    pub(crate) keep_weekly: Option<u32>,

    /// One of each of the last N months
    #[arg(long, value_name = "N")]
    pub(crate) keep_monthly: Option<u32>,

    /// One of each of the last N years
    #[arg(long, value_name = "N")]
    pub(crate) keep_yearly: Option<u32>,

    /// Everything younger, as 14d, 8w, 6mo or 2y
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) keep_within: Option<Span>,

    /// Everything with this tag
    #[arg(long, value_name = "T")]
    pub(crate) keep_tag: Vec<String>,
}

fn duration(text: &str) -> Result<Span, String> {
    match text.parse::<Span>() {
        Ok(span) if span.is_positive() => Ok(span),
        _ => Err("write it as 36h, 14d, 8w, 6mo or 2y".to_owned()),
    }
}

impl KeepArgs {
    fn is_given(&self) -> bool {
        let counts = [self.keep_last, self.keep_hourly, self.keep_daily, self.keep_weekly, self.keep_monthly];
        counts.iter().any(Option::is_some)
            || self.keep_yearly.is_some()
            || self.keep_within.is_some()
            || !self.keep_tag.is_empty()
    }

    fn policy(&self) -> Policy {
        Policy {
            last: self.keep_last.unwrap_or(0),
            hourly: self.keep_hourly.unwrap_or(0),
            daily: self.keep_daily.unwrap_or(0),
            weekly: self.keep_weekly.unwrap_or(0),
            monthly: self.keep_monthly.unwrap_or(0),
            yearly: self.keep_yearly.unwrap_or(0),
            within: self.keep_within,
            tags: self.keep_tag.clone(),
        }
    }
}

impl ForgetArgs {
    /// Forgets.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let choice = if !self.snapshots.is_empty() {
            Choice::Named { snapshots: self.snapshots.clone(), force: self.force }
        } else if self.keep.is_given() {
            Choice::Policy(self.keep.policy())
        } else {
            Choice::Configured { accept: self.accept }
        };
        forget(app, choice, self.database.as_deref(), self.dry_run, self.prune)
    }
}

/// What was forgotten, and what the prune after that did, in the repository and in its copies.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub(crate) struct Document<'r> {
    #[serde(flatten)]
    here: InPlace<&'r ForgetReport>,
    /// In its copies, in the order of the configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    copies: Vec<InPlace<&'r CopyForgetReport>>,
}

/// The same of one place.
#[derive(Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
struct InPlace<R> {
    #[serde(flatten)]
    forgotten: R,
    /// What the prune after that did.
    #[serde(skip_serializing_if = "Option::is_none")]
    prune: Option<PruneReport>,
}

/// Forgets, and prunes after that where it is asked for.
pub(super) fn forget(
    app: &App,
    choice: Choice,
    database: Option<&str>,
    dry_run: bool,
    prune: bool,
) -> Result<Exit, Failure> {
    let store = app.open()?;
    let by_policy = !matches!(choice, Choice::Named { .. });
    let request = ForgetRequest { choice, database: database.map(str::to_owned), dry_run };
    let mut report = forget::everywhere(&store, &request, app.now(), &app.observer())?;
    app.watch.finish();
    match by_policy {
        true => show_plans(app, &report, database),
        false => show(app, &report.here),
    }
    if Exit::from_code(report.exit_code()) == Exit::Failed {
        return Err(all_refused(&report.here, by_policy).with_report(&report));
    }
    let mut pruned = (None, vec![None; report.copies.len()]);
    if prune {
        // What was forgotten is gone, whatever became of the space.
        let here = prune_after(app, &store, &report.here);
        pruned.0 = Some(here.map_err(|failure| failure.with_report(&report))?);
        pruned.1 = report.copies.iter_mut().map(|copy| prune_copy(app, &store, copy)).collect();
    }
    let copies = report.copies.iter().zip(pruned.1);
    app.output.document(&Document {
        here: InPlace { forgotten: &report.here, prune: pruned.0 },
        copies: copies.map(|(forgotten, prune)| InPlace { forgotten, prune }).collect(),
    });
    Ok(Exit::from_code(report.exit_code()))
}

fn prune_after(app: &App, store: &Store, report: &ForgetReport) -> Result<PruneReport, Failure> {
    let report = prune_once(app, store, report)?;
    app.watch.finish();
    super::prune::show(app, &report);
    Ok(report)
}

fn prune_once(app: &App, store: &Store, report: &ForgetReport) -> dbkeep_engine::Result<PruneReport> {
    let mut request = PruneRequest { dry_run: report.dry_run, ..PruneRequest::default() };
    if report.dry_run {
        request.without = report.forgotten.iter().map(|forgotten| forgotten.id).collect();
    }
    prune::run(store, &request, app.now(), &app.observer())
}

/// Prunes a copy in which the policy was carried out. Where that fails it is noted there, and the others go on.
fn prune_copy(app: &App, primary: &Store, copy: &mut CopyForgetReport) -> Option<PruneReport> {
    // One that was never made has nothing to give back.
    if copy.error.is_some() || is_empty(&copy.report) {
        return None;
    }
    let store = dbkeep_engine::copy::open(primary, &copy.name, app.now(), &app.observer());
    let pruned = store.and_then(|store| prune_once(app, &store, &copy.report));
    app.watch.finish();
    show_heading(app, copy);
    match pruned {
        Ok(report) => {
            super::prune::show(app, &report);
            Some(report)
        }
        Err(error) => {
            let error = ErrorReport::from(&error);
            app.failed(Some(&human::visible(&copy.name)), &error);
            copy.error = Some(error);
            None
        }
    }
}

fn all_refused(report: &ForgetReport, by_policy: bool) -> Failure {
    let (why, hint) = match report.frozen.as_slice() {
        [] => {
            let why = report.refused.first().map(|refused| format!(": {}", refused.why)).unwrap_or_default();
            let hint = if by_policy { "run it again" } else { "--force forgets it all the same" };
            (why, hint.to_owned())
        }
        [only] => (
            format!(": {:?}: {}", only.database, only.why),
            format!(
                "look at it, then `dbkeep forget --accept --database {}`",
                human::visible(&only.database)
            ),
        ),
        [first, rest @ ..] => (
            format!(": {:?}: {} (and {} more databases)", first.database, first.why, rest.len()),
            "look at each, then `dbkeep forget --accept --database NAME`".to_owned(),
        ),
    };
    Failure::failed("refused", format!("nothing was forgotten{why}"), Some(hint))
}

/// Prints what is gone and what was refused, with the reason.
fn show(app: &App, report: &ForgetReport) {
    let (done, left) = if report.dry_run { ("would forget", "would keep") } else { ("forgot", "kept") };
    for forgotten in &report.forgotten {
        app.output.line(format_args!("{done} {}", short(&forgotten.id)));
    }
    for refused in &report.refused {
        app.output.line(format_args!(
            "{} {}: {}",
            app.output.paint(Tone::Notice, left),
            short(&refused.id),
            human::visible(&refused.why)
        ));
    }
}

/// Prints what the policies come to, here and in the copies.
fn show_plans(app: &App, report: &PolicyReport, only: Option<&str>) {
    show_plan(app, &report.here, only);
    for copy in &report.copies {
        show_heading(app, copy);
        match &copy.error {
            // It names the copy.
            Some(error) => app.failed(None, error),
            None if is_empty(&copy.report) => app.output.note("nothing is there to be judged"),
            None => show_plan(app, &copy.report, only),
        }
    }
}

fn is_empty(report: &ForgetReport) -> bool {
    report.kept.is_empty() && report.forgotten.is_empty() && report.refused.is_empty()
}

fn show_heading(app: &App, copy: &CopyForgetReport) {
    let place = copy.location.display().to_string();
    let heading = format!("copy {} in {}:", human::visible(&copy.name), human::visible(&place));
    app.output.line("");
    app.output.line(app.output.paint(Tone::Strong, heading));
}

/// Prints what a policy comes to: every snapshot of a database under its name, newest first, what becomes of it and why.
fn show_plan(app: &App, report: &ForgetReport, only: Option<&str>) {
    let kept = report.kept.iter().map(|one| (&one.database, one.time, one.id, Some(one.reasons.join(", "))));
    let gone = report.forgotten.iter().map(|one| (&one.database, one.time, one.id, None));
    let left =
        report.refused.iter().map(|one| (&one.database, one.time, one.id, Some("left alone".to_owned())));
    let mut rows: Vec<_> = kept
        .chain(gone)
        .chain(left)
        .filter(|(database, ..)| only.is_none() || database.as_deref() == only)
        .collect();
    // By name, those of other tools last; within a database the newest first.
    rows.sort_by(|(one, one_time, one_id, _), (other, other_time, other_id, _)| {
        (one.is_none(), one, other_time, other_id).cmp(&(other.is_none(), other, one_time, one_id))
    });
    let columns = [
        table::text("DATABASE"),
        table::text("SNAPSHOT"),
        table::text("TIME"),
        table::text(if report.dry_run { "WOULD" } else { "DID" }),
        table::text("WHY"),
    ];
    let row = |(database, time, id, reasons): (&Option<String>, Timestamp, Id, Option<String>)| {
        let (verdict, why) = match reasons {
            Some(reasons) => (Value::toned("keep", Tone::Good), Value::from(reasons)),
            None => (Value::toned("forget", Tone::Notice), Value::none()),
        };
        vec![
            database.as_deref().map_or_else(|| Value::toned("(not ours)", Tone::Faint), Value::from),
            Value::toned(short(&id), Tone::Strong),
            app.time(time).into(),
            verdict,
            why,
        ]
    };
    table::print(&app.output, &columns, rows.into_iter().map(row));
    for frozen in &report.frozen {
        let name = human::visible(&frozen.database);
        app.output.note(format_args!(
            "{} {name} is left alone: {}: look at it, then `dbkeep forget --accept --database {name}`",
            app.output.paint(Tone::Notice, "note:"),
            human::visible(&frozen.why)
        ));
    }
    let gone = human::counted(report.forgotten.len() as u64, "snapshot");
    let done = if report.dry_run { "would be forgotten" } else { "forgotten" };
    app.output.note(format_args!("{gone} {done}"));
}
