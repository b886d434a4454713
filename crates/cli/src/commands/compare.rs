//! `dbkeep compare`: what differs between two moments of a database.

use clap::Args;
use dbkeep_engine::compare::{self, CompareRequest};
use dbkeep_engine::report::{
    CellValue, ColumnChange, CompareReport, ComparedSequence, ComparedSide, ComparedTable, RowChange,
    RowKind, SchemaChange, SequenceValue, hex,
};

use crate::app::{App, short};
use crate::exit::{Exit, Failure};
use crate::human;
use crate::output::Tone;

const HELP: &str = "\
Compares schema, tables and rows. Without OTHER, or with `current`, SNAPSHOT is
compared with the live database, which is read as a backup reads it and never
written. Equal chunks of the repository are not read, so a small difference is
found quickly in a large database; `dbkeep verify` is what proves a snapshot.

Rows of a table without a declared key are told apart by their contents, in
SQLite also by their rowid. Columns that one side lacks are named and not
compared. Values of PostgreSQL are compared as the server writes them.

Examples:
  dbkeep compare latest
  dbkeep compare latest~1 latest --database app
  dbkeep compare 4f2a91c0 --table orders --rows --limit 50
  dbkeep compare latest --exit-code --json

Exit codes: 0 compared, 1 failed, 2 usage, 4 something differs (with
--exit-code) or a table could not be compared, 10 no repository, 11 locked,
12 wrong password or no key, 130 interrupted";

/// How many rows of a table are listed by default.
const LISTED: usize = 20;

/// Show what changed between a snapshot and another one, or the live database
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct CompareArgs {
    /// The start of an id, `latest`, or `latest~N`
    #[arg(value_name = "SNAPSHOT")]
    pub(crate) snapshot: String,

    /// The same, or `current` for the live database [default: current]
    #[arg(value_name = "OTHER")]
    pub(crate) other: Option<String>,

    /// The database that `latest` means
    #[arg(long, value_name = "N")]
    pub(crate) database: Option<String>,

    /// Only this table; may be given several times
    #[arg(long = "table", value_name = "N")]
    pub(crate) tables: Vec<String>,

    /// List the rows that differ, with their keys and the columns that changed
    #[arg(long)]
    pub(crate) rows: bool,

    /// How many rows of each table are listed [default: 20]
    #[arg(long, value_name = "N", requires = "rows")]
    pub(crate) limit: Option<usize>,

    /// Exit with 4 when something differs
    #[arg(long)]
    pub(crate) exit_code: bool,

    /// Compare also what seems to be another database
    #[arg(long)]
    pub(crate) force: bool,
}

impl CompareArgs {
    /// Compares.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        let store = app.open()?;
        let request = CompareRequest {
            snapshot: self.snapshot.clone(),
            other: self.other.clone(),
            database: self.database.clone(),
            tables: self.tables.clone(),
            rows: self.rows.then(|| self.limit.unwrap_or(LISTED)),
            force: self.force,
        };
        let report = compare::run(&store, &request, app.now(), &app.observer())?;
        app.watch.finish();
        show(app, &report, self.rows);
        app.output.document(&report);
        Ok(Exit::from_code(report.exit_code(self.exit_code)))
    }
}

/// Prints what differs: the schema, a line a table, the rows that were asked for, and the sum.
fn show(app: &App, report: &CompareReport, with_rows: bool) {
    for note in &report.notes {
        app.output.note(human::visible(note));
    }
    app.output.line(format_args!("{}  →  {}", side(app, &report.left), side(app, &report.right)));
    show_schema(app, report);
    show_tables(app, report);
    for sequence in &report.sequences {
        app.output.line(format_args!(
            " {} {}",
            app.output.paint(Tone::Notice, "~"),
            sequence_change(sequence)
        ));
    }
    if with_rows {
        report.tables.iter().filter(|table| !table.rows.is_empty()).for_each(|table| show_rows(app, table));
    }
    for table in &report.tables {
        if let Some(error) = &table.error {
            app.output.failed(
                "damaged",
                &format!("table {} could not be compared: {error}", table.name),
                None,
            );
        }
    }
    app.output.line(summary(report));
}

fn side(app: &App, side: &ComparedSide) -> String {
    match &side.snapshot {
        Some(id) => {
            let id = app.output.paint(Tone::Strong, short(id));
            format!("{} {id} ({})", human::visible(&side.database), app.time(side.moment))
        }
        None => format!("current ({})", human::visible(&side.source)),
    }
}

fn show_schema(app: &App, report: &CompareReport) {
    let schema = &report.schema;
    let groups = [
        ("+", Tone::Good, &schema.added),
        ("-", Tone::Bad, &schema.removed),
        ("~", Tone::Notice, &schema.changed),
    ];
    for (sign, tone, changes) in groups {
        for change in changes {
            app.output.line(format_args!(" {} {}", app.output.paint(tone, sign), schema_change(change)));
        }
    }
    for table in report.tables.iter().filter(|table| table.in_left && table.in_right) {
        let name = human::visible(&table.name);
        for column in &table.columns_renamed {
            let (left, right) = (human::visible(&column.left), human::visible(&column.right));
            app.output.line(format_args!("   column {name}.{left} is called {right}"));
        }
        for (columns, what) in [(&table.columns_added, "new"), (&table.columns_removed, "gone")] {
            for column in columns {
                let column = human::visible(column);
                app.output
                    .line(format_args!("   column {name}.{column} is {what}, its values are not compared"));
            }
        }
    }
}

pub(super) fn schema_change(change: &SchemaChange) -> String {
    let name = human::visible(&change.name);
    match (change.kind.as_str(), &change.left, &change.right) {
        ("setting", Some(left), Some(right)) => {
            format!("{name} {} → {}", human::visible(left), human::visible(right))
        }
        (kind, ..) => format!("{} {name}", human::visible(kind)),
    }
}

/// Says where a sequence stands on each side.
pub(super) fn sequence_change(sequence: &ComparedSequence) -> String {
    let value = |value: SequenceValue| match value.is_called {
        true => value.last_value.to_string(),
        false => format!("{} next", value.last_value),
    };
    let name = human::visible(&sequence.name);
    format!("sequence {name} {} → {}", value(sequence.left), value(sequence.right))
}

/// Prints a line for each table that differs, as `git diff --stat` does for files.
fn show_tables(app: &App, report: &CompareReport) {
    const GRAPH: u64 = 40;
    let differing: Vec<&ComparedTable> = report.tables.iter().filter(|table| !table.is_same()).collect();
    let width = |of: &dyn Fn(&ComparedTable) -> String| {
        differing.iter().map(|table| of(table).chars().count()).max().unwrap_or(0)
    };
    let name = |table: &ComparedTable| human::visible(&table.name).into_owned();
    let rows = |table: &ComparedTable| match table.error {
        Some(_) => "not compared".to_owned(),
        None => format!("{} → {} rows", human::count(table.rows_left), human::count(table.rows_right)),
    };
    let sum = |table: &ComparedTable| human::count(table.added + table.removed + table.changed);
    let (names, counts, sums) = (width(&name), width(&rows), width(&sum));
    let most = differing.iter().map(|table| table.added + table.removed + table.changed).max().unwrap_or(0);
    let scaled = |count: u64| if most <= GRAPH { count } else { (count * GRAPH).div_ceil(most) };
    for table in &differing {
        let part = |tone: Tone, sign: &str, count: u64| {
            let signs = sign.repeat(usize::try_from(scaled(count)).unwrap_or(0));
            app.output.paint(tone, signs)
        };
        let graph = [
            part(Tone::Good, "+", table.added),
            part(Tone::Bad, "-", table.removed),
            part(Tone::Notice, "~", table.changed),
        ];
        let line = format!(
            " {:names$} | {:>counts$} | {:>sums$} {}",
            name(table),
            rows(table),
            sum(table),
            graph.concat()
        );
        app.output.line(line.trim_end());
    }
}

fn show_rows(app: &App, table: &ComparedTable) {
    app.output.line("");
    app.output.line(app.output.paint(Tone::Strong, human::visible(&table.name)));
    for row in &table.rows {
        let (sign, tone) = match row.change {
            RowKind::Added => ("+", Tone::Good),
            RowKind::Removed => ("-", Tone::Bad),
            RowKind::Changed => ("~", Tone::Notice),
        };
        app.output.line(format_args!(" {} {}", app.output.paint(tone, sign), row_text(row)));
    }
    if table.more > 0 {
        app.output.line(format_args!("   … and {} more", human::count(table.more)));
    }
}

fn row_text(row: &RowChange) -> String {
    let key = row.key.iter().map(|(name, value)| format!("{}={}", human::visible(name), shown(value)));
    let column = |column: &ColumnChange| {
        let name = human::visible(&column.name);
        match (&column.left, &column.right) {
            (Some(left), Some(right)) => format!("{name}: {} → {}", shown(left), shown(right)),
            (left, right) => {
                format!("{name}={}", left.as_ref().or(right.as_ref()).map(shown).unwrap_or_default())
            }
        }
    };
    let columns: Vec<String> = row.columns.iter().map(column).collect();
    let key: Vec<String> = key.collect();
    [key.join(", "), columns.join(", ")]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("  ")
}

/// Shows a value as SQL writes it, long ones cut.
fn shown(value: &CellValue) -> String {
    const WIDTH: usize = 60;
    match value {
        CellValue::Null => "NULL".to_owned(),
        CellValue::Integer(number) => number.to_string(),
        CellValue::Real(number) => format!("{number:?}"),
        CellValue::Text(text) => {
            let cut = super::clipped(text, WIDTH);
            format!("'{}'", human::visible(&cut.replace('\'', "''")))
        }
        CellValue::TextBytes(bytes) => format!("text {}", bytes_shown(bytes)),
        CellValue::Blob(bytes) => bytes_shown(bytes),
        CellValue::Long { begin, bytes } => {
            let cut = super::clipped(begin, WIDTH);
            format!("'{}' ({} bytes)", human::visible(&cut.replace('\'', "''")), human::count(*bytes))
        }
    }
}

fn bytes_shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 16;
    match bytes.get(..SHOWN).filter(|_| bytes.len() > SHOWN) {
        None => format!("x'{}'", hex(bytes)),
        Some(first) => format!("x'{}…' ({} bytes)", hex(first), human::count(bytes.len() as u64)),
    }
}

/// Returns the last line: how much differs.
fn summary(report: &CompareReport) -> String {
    let tables = human::counted(report.tables.len() as u64, "table");
    if report.same {
        let rows: u64 = report.tables.iter().map(|table| table.rows_left).sum();
        return format!("the same: {tables}, {}", human::counted(rows, "row"));
    }
    let sum = |of: fn(&ComparedTable) -> u64| report.tables.iter().map(of).sum::<u64>();
    let (added, removed, changed) = (sum(|one| one.added), sum(|one| one.removed), sum(|one| one.changed));
    let unknown = report.tables.iter().filter(|table| table.error.is_some()).count() as u64;
    let differing = report.tables.iter().filter(|table| !table.is_same()).count() as u64 - unknown;
    let mut parts = vec![format!(
        "{} of {tables} differ: {} added, {} removed, {} changed",
        human::count(differing),
        human::counted(added, "row"),
        human::count(removed),
        human::count(changed)
    )];
    let schema = &report.schema;
    let schema = schema.added.len() + schema.removed.len() + schema.changed.len();
    if !report.sequences.is_empty() {
        parts.push(format!("{} elsewhere", human::counted(report.sequences.len() as u64, "sequence")));
    }
    if schema > 0 {
        parts.push(format!("{} of the schema", human::counted(schema as u64, "change")));
    }
    if unknown > 0 {
        parts.push(format!("{} not compared", human::counted(unknown, "table")));
    }
    parts.join("; ")
}
