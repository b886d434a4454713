//! `dbkeep show`: what one snapshot holds.

use clap::Args;
use dbkeep_engine::manifest::Manifest;
use dbkeep_engine::report::{RepositoryFacts, ShowReport};
use dbkeep_engine::show as engine;

use crate::app::{App, short};
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;
use crate::table::{self, Value};

const HELP: &str = "\
Prints the manifest that was stored with the database (what it is, its tables
and rows, hashes, the integrity check) and what the repository knows of it.

Examples:
  dbkeep show latest
  dbkeep show 4f2a91c0 --json

Exit codes: 0 shown, 1 no such snapshot, 2 usage, 10 no repository, 12 wrong
password or no key";

/// Show what a snapshot holds
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct ShowArgs {
    /// The start of an id, `latest`, or `latest~N`
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshot: String,

    /// The database that `latest` means
    #[arg(long, value_name = "N")]
    pub(crate) database: Option<String>,
}

impl ShowArgs {
    /// Shows.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let store = app.open()?;
        let report = engine::run(&store, &self.snapshot, self.database.as_deref(), app.now())?;
        app.watch.finish();
        show(app, &report);
        app.output.document(&report);
        Ok(Exit::Done)
    }
}

/// Prints the snapshot for people: what it is, the proof, its tables.
fn show(app: &App, report: &ShowReport) {
    let output = &app.output;
    let facts = &report.repository;
    let title = match &report.manifest {
        Some(manifest) => human::visible(&manifest.database).into_owned(),
        None => "made by another tool".to_owned(),
    };
    output.line(format_args!("snapshot {}: {title}", output.paint(Tone::Strong, short(&facts.id))));
    if let Some(manifest) = &report.manifest {
        show_manifest(app, manifest);
    }
    show_facts(app, facts);
    if let Some(manifest) = &report.manifest {
        show_tables(app, manifest);
    }
}

fn show_manifest(app: &App, manifest: &Manifest) {
    let field = |name: &str, value: &str| field(app, name, value);
    field("moment", &format!("{} ({})", app.time(manifest.moment), human::age(manifest.moment, app.now())));
    field("source", &manifest.source);
    field("identity", &manifest.identity.to_string());
    field("session", &manifest.session);
    field("reason", &manifest.options.reason);
    field("tags", &manifest.options.tags.join(", "));
    field("environment", manifest.environment.as_deref().unwrap_or_default());
    if let Some(sqlite) = &manifest.sqlite {
        let pages = human::counted(sqlite.page_count, "page");
        field(
            "engine",
            &format!(
                "SQLite, {pages} of {} bytes, {}, journal {}, written by {}",
                sqlite.page_size, sqlite.encoding, sqlite.journal, sqlite.written_by
            ),
        );
    }
    if let Some(postgres) = &manifest.postgres {
        let tables = human::counted(postgres.tables.len() as u64, "table");
        let engine = format!(
            "PostgreSQL {}, {tables} with rows, objects by pg_dump {}",
            postgres.server.version, postgres.tools
        );
        field("engine", &engine);
        if !postgres.selection.is_everything() {
            field("holds", &postgres.selection.to_string());
        }
    }
    let image = &manifest.image;
    field(
        "size",
        &format!("{} ({} new in this snapshot)", human::size(image.size), human::size(manifest.bytes_added)),
    );
    field("read by", &image.method);
    field("root", &image.root.to_string());
    field("sha-256", &image.sha256.map(|id| id.to_string()).unwrap_or_default());
    let integrity = manifest.integrity.summary();
    let checked = match manifest.integrity.level.as_str() {
        "none" => String::new(),
        level => format!(" ({level} check)"),
    };
    let tone = if integrity == "ok" { Tone::Good } else { Tone::Bad };
    let integrity = app.output.paint(tone, human::visible(&integrity));
    app.output.line(format_args!("  {:<12} {integrity}{checked}", "integrity"));
    for problem in manifest.integrity.problems.iter().skip(1) {
        field("", problem);
    }
    for note in &manifest.notes {
        field("note", note);
    }
    if let Some(git) = &manifest.git {
        let branch = git.branch.as_deref().unwrap_or("no branch");
        field("git", &format!("{branch} {}", git.commit.as_deref().unwrap_or_default()));
    }
    let seconds = manifest.finished.duration_since(manifest.started).unsigned_abs();
    field(
        "taken by",
        &format!("{} with dbkeep {} in {}", manifest.user, manifest.dbkeep, human::duration(seconds)),
    );
}

fn show_facts(app: &App, facts: &RepositoryFacts) {
    field(app, "id", &facts.id.to_string());
    field(app, "tree", &facts.tree.to_string());
    field(app, "parent", &facts.parent.map(|id| id.to_string()).unwrap_or_default());
    field(app, "chunks", &human::count(facts.chunks));
    field(app, "paths", &facts.paths.join(", "));
    match facts.verified {
        Some(time) => {
            field(app, "verified", &format!("{} ({})", app.time(time), human::age(time, app.now())));
        }
        None => field(app, "verified", "not yet: `dbkeep verify` reads it back and proves it"),
    }
    for finding in &facts.findings {
        let finding = app.output.paint(Tone::Bad, human::visible(finding));
        app.output.line(format_args!("  {:<12} {finding}", "damaged"));
    }
}

fn show_tables(app: &App, manifest: &Manifest) {
    if manifest.tables.is_empty() {
        return;
    }
    app.output.line("");
    let rows =
        manifest.tables.iter().map(|table| vec![table.name.as_str().into(), human::count(table.rows).into()]);
    let total = vec![Value::toned("total", Tone::Faint), human::count(manifest.rows).into()];
    table::print(&app.output, &[table::text("TABLE"), table::number("ROWS")], rows.chain([total]));
}

/// Prints one line of the description; nothing for an empty value.
fn field(app: &App, name: &str, value: &str) {
    if !value.is_empty() {
        app.output.line(format_args!("  {name:<12} {}", human::visible(value)));
    }
}
