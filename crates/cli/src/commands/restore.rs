//! `dbkeep restore`: brings a database, a table or a moment back.

use std::time::Duration;

use clap::Args;
use dbkeep_engine::list::{self, ListRequest};
use dbkeep_engine::report::{RestoreOutcome, RestoreReport, SessionRestoreReport, SnapshotRow};
use dbkeep_engine::repository::Store;
use dbkeep_engine::restore::{self, Action, PlannedRestore, RestorePlan, RestoreRequest};
use dbkeep_engine::{Context, ErrorKind, Verify, redact};
use jiff::Timestamp;

use crate::app::{App, short};
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;
use crate::prompt;
use crate::usage;

const HELP: &str = "\
Without --in-place the database is built beside its target and renamed into
place at the end, so an interrupted restore never leaves something that starts.
A target that exists is refused.

With --in-place it goes back into the original, also while applications use
it: after you typed its name (or --yes) and after a verified safety backup,
only the pages that differ are written, in one transaction. An original too
damaged for that is stored as it is and moved aside. The safety backup is the
way back; its id is printed.

A PostgreSQL database is made beside the original on its server, or where --to
says: a URL, or another name on that server. It has a name that says it is
unfinished until every row was read again and compared. --in-place gives it the
name of the original, which is kept under another one; --force ends sessions
that are in the way. What this user may not make again (owners, extensions) is
listed; where rows of the snapshot are among it, as those in tables of an
extension, the database is not called verified. --table and --data-only go into a database that is there, all or
nothing; with --in-place they replace what is there.

With --session every database of that session is restored, each to its place
with --in-place, or below the directory that --to names.

--force overrides a refusal that names it; it never skips verification.

Where the repository is gone or damaged, the same snapshot is restored from the
first of its configured copies that has it, and the output says so.

Examples:
  dbkeep restore latest --to restored.db
  dbkeep restore --database shop --at \"2 hours ago\" --to earlier.db
  dbkeep restore 4f2a91c0 --in-place --dry-run
  dbkeep restore latest --table users --table orders --to some.db
  dbkeep restore --session latest --to restored/

Exit codes: 0 restored, 1 failed, 2 usage, 3 some databases of the session
failed, 4 restored, but as damaged as it was stored or without some of its rows,
10 no repository, 11 locked, 12 wrong password or no key, 130 interrupted";

/// Restore a database to a moment in time
#[derive(Debug, Args)]
#[command(after_help = HELP)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag that a person types")]
pub(crate) struct RestoreArgs {
    /// The start of an id, `latest`, or `latest~N`; on a terminal chosen from a list when left out
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshot: Option<String>,

    /// The database that `latest` and --at mean
    #[arg(long, value_name = "N")]
    pub(crate) database: Option<String>,

    /// Newest snapshot at or before TIME: "2026-01-02 03:04", RFC 3339, "2 hours ago"
    #[arg(long, value_name = "TIME", conflicts_with = "snapshot")]
    pub(crate) at: Option<String>,

    /// All databases of this session, or of the `latest`
    #[arg(long, value_name = "S", conflicts_with_all = ["snapshot", "at", "tables"])]
    pub(crate) session: Option<String>,

    /// File or database to create; must not exist [default: a new one beside the original]
    #[arg(long, value_name = "PATH|URL", conflicts_with = "in_place")]
    pub(crate) to: Option<String>,

    /// Restore only this table; may be repeated
    #[arg(long = "table", value_name = "NAME")]
    pub(crate) tables: Vec<String>,

    /// Restore only rows, into PostgreSQL tables that are there
    #[arg(long, conflicts_with = "session")]
    pub(crate) data_only: bool,

    /// Go back into the original place
    #[arg(long)]
    pub(crate) in_place: bool,

    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,

    /// Override a refusal that names this option
    #[arg(long)]
    pub(crate) force: bool,

    /// Do not back up what is there before --in-place
    #[arg(long)]
    pub(crate) no_safety_backup: bool,

    /// Let all objects of a PostgreSQL database belong to the user who restores
    #[arg(long)]
    pub(crate) no_owner: bool,

    /// Leave out who may use what in a PostgreSQL database
    #[arg(long)]
    pub(crate) no_privileges: bool,

    /// Print the plan and stop
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Integrity check of what was restored: quick, full or none
    #[arg(long, value_name = "LEVEL", default_value = "quick", hide_possible_values = true)]
    pub(crate) verify: super::Level,
}

impl RestoreArgs {
    /// Names a part of a target in no error, where that is no path and holds a password.
    fn without_target(&self, error: dbkeep_engine::Error) -> Failure {
        match self.to.as_deref().filter(|to| error.kind() == ErrorKind::Io && redact(to) != *to) {
            Some(to) => Failure::usage(
                format!("{} is no path of a file that can be made", redact(to)),
                "give the path of a file to create, or the URL of a PostgreSQL database",
            ),
            None => error.into(),
        }
    }

    /// Plans, asks, restores, and says how to go back.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        if let Some(to) = &self.to {
            let hint = "keep the URL in an environment variable or in .env, and give --to env:NAME";
            usage::warn_of_password(&app.output, to, hint);
        }
        let mut context = app.context()?;
        let open = |context: &Context| restore::open(context, app.now(), &app.observer());
        let store = app.with_password(&mut context, open)?;
        let request = self.request(app, &store)?;
        let plan = restore::plan(&store, &request, app.now()).map_err(|error| self.without_target(error))?;
        if self.dry_run {
            show_plan(app, &plan);
            app.output.document(&plan);
            return Ok(Exit::Done);
        }
        self.confirm(app, &plan)?;
        let outcome = restore::run(&store, &plan, app.now(), &app.observer())?;
        app.watch.finish();
        match &outcome {
            RestoreOutcome::One(report) => {
                show_one(app, report);
                say_way_back(app, store.context(), &plan, report);
            }
            RestoreOutcome::Session(report) => show_session(app, store.context(), &plan, report),
        }
        app.output.document(&outcome);
        Ok(Exit::from_code(outcome.exit_code()))
    }

    fn request(&self, app: &App, store: &Store) -> Result<RestoreRequest, Failure> {
        let named = self.snapshot.is_some() || self.at.is_some() || self.session.is_some();
        let snapshot = if named { self.snapshot.clone() } else { Some(self.chosen(app, store)?) };
        Ok(RestoreRequest {
            snapshot,
            database: self.database.clone(),
            at: self.at.clone(),
            session: self.session.clone(),
            to: self.to.clone(),
            tables: self.tables.clone(),
            data_only: self.data_only,
            in_place: self.in_place,
            force: self.force,
            safety_backup: !self.no_safety_backup,
            safety_check: Verify::Quick,
            verify: self.verify.depth(),
            owners: !self.no_owner,
            privileges: !self.no_privileges,
            attributes: true,
        })
    }

    /// Lets a person choose a snapshot from a list.
    fn chosen(&self, app: &App, store: &Store) -> Result<String, Failure> {
        if !app.can_ask() {
            return Err(Failure::usage(
                "which snapshot is to be restored?",
                "name it, as in `dbkeep restore latest`; `dbkeep list` shows what there is",
            ));
        }
        let request = ListRequest { database: self.database.clone(), ..ListRequest::default() };
        let mut rows = list::run(store, &request)?.snapshots;
        rows.retain(|row| row.database.is_some());
        app.watch.finish();
        if rows.is_empty() {
            return Err(Failure::failed(
                "no-snapshot",
                "there is no snapshot to choose from",
                Some("`dbkeep list` shows what there is".into()),
            ));
        }
        let now = app.now();
        let chosen = prompt::choice(
            "Restore which snapshot?",
            rows.iter().map(|row| choice(app, row, now)).collect(),
        )?;
        Ok(rows[chosen].id.to_string())
    }

    /// Has a person confirm that something is overwritten.
    fn confirm(&self, app: &App, plan: &RestorePlan) -> Result<(), Failure> {
        if self.yes || !plan.overwrites() {
            return Ok(());
        }
        if !app.can_ask() {
            return Err(Failure::usage(
                "a restore over what is there needs a confirmation",
                "look at the plan with --dry-run, then confirm with --yes",
            ));
        }
        show_plan(app, plan);
        prompt::typed_confirmation("What is there now is overwritten.", plan.confirmation())
    }
}

/// Returns one line of the list to choose from.
fn choice(app: &App, row: &SnapshotRow, now: Timestamp) -> String {
    let figure = |value: Option<u64>, text: fn(u64) -> String| value.map(text).unwrap_or_default();
    format!(
        "{}  {}  {:<12}  {}  {:>10}  {:>10} rows  {}  {}",
        row.short_id,
        app.time(row.time),
        human::age(row.time, now),
        row.database.as_deref().unwrap_or_default(),
        figure(row.bytes_source, human::size),
        figure(row.rows, human::count),
        row.integrity.as_deref().unwrap_or("-"),
        row.reason.as_deref().unwrap_or_default(),
    )
}

/// Prints what a restore will do.
fn show_plan(app: &App, plan: &RestorePlan) {
    let output = &app.output;
    if let Some(session) = &plan.session {
        output.line(format_args!("session {}", human::visible(session)));
    }
    for one in &plan.restores {
        output.line(format_args!(
            "{} from snapshot {} of {} ({})",
            output.paint(Tone::Strong, human::visible(&one.database)),
            short(&one.snapshot),
            app.time(one.moment),
            human::age(one.moment, app.now())
        ));
        output.line(format_args!("  to      {}", human::visible(&one.target)));
        if let Some(copy) = &one.copy {
            output.line(format_args!("  from    the copy {}", human::visible(copy)));
        }
        output.line(format_args!("  how     {}", how(one)));
        if !one.tables.is_empty() {
            output.line(format_args!("  tables  {}", human::visible(&one.tables.join(", "))));
        }
        let free =
            one.bytes_free.map(|free| format!(", {} free there", human::size(free))).unwrap_or_default();
        output.line(format_args!("  size    {}{free}", human::size(one.bytes_image)));
        if one.overwrites() {
            let safety =
                if one.safety_backup { "what is there is backed up first" } else { "no safety backup" };
            output.line(format_args!("  safety  {safety}"));
        }
        for note in &one.notes {
            output.line(format_args!("  note    {}", human::visible(note)));
        }
        if let Some(error) = &one.error {
            app.failed(Some(&one.database), error);
        }
    }
}

fn how(planned: &PlannedRestore) -> &'static str {
    match planned.action {
        Action::Create => "a new file, renamed into place at the end",
        Action::ReplacePages => "the pages that differ, in one transaction, while applications run",
        Action::ReplaceFile => "the damaged original is moved aside and a new file takes its place",
        Action::CopyTables if planned.overwrites() => {
            "the tables replace those in the live database, in one transaction"
        }
        Action::CopyTables => "the tables, in a new file",
        Action::CreateDatabase => "a new database, which gets its name when all of it was compared",
        Action::AddTables => "the tables with what is theirs, in one transaction",
        Action::ReplaceTables => {
            "the tables with what is theirs in place of those that are there, in one transaction"
        }
        Action::FillTables => "rows into tables that are empty, in one transaction",
        Action::ReplaceRows => "rows in place of those that are there, in one transaction",
        Action::ReplaceDatabase => {
            "a new database, which takes the name of the original when all of it was compared; the original is kept under another name"
        }
    }
}

/// Prints what was restored.
fn show_one(app: &App, report: &RestoreReport) {
    let output = &app.output;
    tracing::info!(
        event = "restored",
        database = report.database,
        snapshot = short(&report.snapshot),
        target = report.target,
        safety_snapshot = report.safety_snapshot.as_ref().map(short),
        duration_ms = report.duration_ms,
        error = report.error.as_ref().map(|error| error.message.as_str())
    );
    if let Some(error) = &report.error {
        app.failed(Some(&report.database), error);
        return;
    }
    output.line(format_args!(
        "restored {} from snapshot {} to {}",
        output.paint(Tone::Strong, human::visible(&report.database)),
        short(&report.snapshot),
        human::visible(&report.target)
    ));
    output.line(format_args!(
        "  moment     {} ({})",
        app.time(report.moment),
        human::age(report.moment, app.now())
    ));
    if let Some(copy) = &report.copy {
        let copy = human::visible(copy);
        output.line(format_args!(
            "  from       {}",
            output.paint(Tone::Notice, format_args!("the copy {copy}"))
        ));
    }
    for table in &report.tables {
        output.line(format_args!(
            "  table      {}: {}",
            human::visible(&table.name),
            human::counted(table.rows, "row")
        ));
    }
    let pages = match report.pages_written {
        0 => String::new(),
        pages => format!(" in {}", human::counted(pages, "page")),
    };
    output.line(format_args!(
        "  written    {}{pages}, {}, {}",
        human::size(report.bytes_written),
        human::counted(report.rows, "row"),
        human::duration(Duration::from_millis(report.duration_ms))
    ));
    let verified = if report.verified {
        output.paint(Tone::Good, "verified")
    } else {
        output.paint(Tone::Notice, "not verified")
    };
    output.line(format_args!(
        "  integrity  {}; every hash was compared: {verified}",
        human::visible(&report.integrity)
    ));
    if let Some(aside) = &report.moved_aside {
        output.line(format_args!(
            "  original   damaged; moved aside to {}",
            human::visible(&aside.to_string_lossy())
        ));
    }
    for note in &report.notes {
        output.note(format_args!("note: {}", human::visible(note)));
    }
}

/// Prints how to undo a restore in place.
fn say_way_back(app: &App, context: &Context, plan: &RestorePlan, report: &RestoreReport) {
    if let Some(safety) = &report.safety_snapshot {
        // It was stored where the restore came from.
        let copy = report.copy.as_deref().and_then(|name| context.of_copy(name));
        let context = copy.as_ref().unwrap_or(context);
        let mut words = vec!["restore".to_owned(), short(safety), "--in-place".to_owned()];
        let planned = plan.restores.iter().find(|planned| planned.snapshot == report.snapshot);
        words.extend(planned.into_iter().flat_map(|planned| narrowing(planned, &report.safety_tables)));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        app.output.line("what was there before is kept; back to it with:");
        app.output.line(format_args!("  {}", app.command_line(context, &words)));
    }
}

/// Returns what keeps the way back from going over more of a server than was replaced.
fn narrowing(planned: &PlannedRestore, kept: &[String]) -> Vec<String> {
    let rows = (planned.action == Action::ReplaceRows).then(|| "--data-only".to_owned());
    let partly = matches!(planned.action, Action::ReplaceRows | Action::ReplaceTables);
    let tables = kept.iter().filter(|_| partly);
    rows.into_iter().chain(tables.flat_map(|table| ["--table".to_owned(), table.clone()])).collect()
}

fn show_session(app: &App, context: &Context, plan: &RestorePlan, report: &SessionRestoreReport) {
    for one in &report.restores {
        show_one(app, one);
        say_way_back(app, context, plan, one);
    }
    let done = report.restores.iter().filter(|one| one.error.is_none()).count();
    app.output.line(format_args!(
        "session {}: {done} of {} restored",
        human::visible(&report.session),
        human::counted(report.restores.len() as u64, "database")
    ));
    if let Some(error) = report.error.as_ref().filter(|_| report.restores.is_empty()) {
        app.failed(None, error);
    }
}
