//! `dbkeep doctor`: whether sources can be backed up.

use clap::Args;
use dbkeep_engine::doctor::{self, DoctorRequest};
use dbkeep_engine::report::{DoctorReport, ExaminedSource, Finding, Severity};

use crate::app::App;
use crate::exit::{Exit, Failure, general_hint};
use crate::human;
use crate::output::Tone;
use crate::usage;

const HELP: &str = "\
Looks whether each source can be backed up, completely, by this user and with
the programs that are here: one line a finding, and what to do about it. Without
a source, all of the configuration. Nothing is changed, and no repository is
made; of a server, a few MiB are read to say how long a backup takes.

Examples:
  dbkeep doctor
  dbkeep doctor env:DATABASE_URL
  dbkeep doctor app.db --json

Exit codes: 0 everything can be backed up, perhaps with warnings, 1 a source
could not be examined, 2 usage, 4 something cannot be backed up, or not
completely, 130 interrupted";

/// Look whether databases can be backed up completely
#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct DoctorArgs {
    /// A configured name, a path, a directory, a URL, or `env:NAME`; all configured ones by default
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,
}

impl DoctorArgs {
    /// Examines.
    pub(crate) fn run(&self, app: &App) -> Result<Exit, Failure> {
        for source in &self.sources {
            let hint = "keep the URL in an environment variable or in .env, and give env:NAME as the source";
            usage::warn_of_password(&app.output, source, hint);
        }
        let context = app.context()?;
        let request = DoctorRequest { sources: self.sources.clone() };
        let report = doctor::run(&context, &request, app.now(), &app.observer())?;
        app.watch.finish();
        show(app, &report);
        if let Some(error) = report.error() {
            let failure = Failure {
                kind: error.kind.clone(),
                message: error.message.clone(),
                hint: error.hint.clone().or_else(|| Some(general_hint(&error.kind).to_owned())),
                exit: Exit::from_code(report.exit_code()),
                report: None,
            };
            return Err(failure.with_report(&report));
        }
        app.output.document(&report);
        Ok(Exit::from_code(report.exit_code()))
    }
}

fn show(app: &App, report: &DoctorReport) {
    for source in &report.sources {
        show_source(app, source);
    }
    let location = human::visible(&report.repository.location);
    app.output.line(app.output.paint(Tone::Strong, format_args!("repository {location}")));
    report.repository.findings.iter().for_each(|finding| show_finding(app, finding));
    app.output.line("");
    let of_sources = report.sources.iter().flat_map(|source| &source.findings);
    let findings: Vec<&Finding> = of_sources.chain(&report.repository.findings).collect();
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count() as u64;
    let (problems, warnings) = (count(Severity::Problem), count(Severity::Warning));
    app.output.line(match (problems, warnings) {
        (0, 0) if report.error().is_none() => {
            app.output.paint(Tone::Good, "nothing is in the way of a backup")
        }
        (problems, warnings) => {
            format!("{}, {}", human::counted(problems, "problem"), human::counted(warnings, "warning"))
        }
    });
}

fn show_source(app: &App, source: &ExaminedSource) {
    let heading = format!(
        "{} ({}, {})",
        human::visible(&source.name),
        source.engine.word(),
        human::visible(&source.source)
    );
    app.output.line(app.output.paint(Tone::Strong, heading));
    source.findings.iter().for_each(|finding| show_finding(app, finding));
    if let Some(error) = &source.error {
        let advice = error.hint.clone();
        let message = error.message.clone();
        let subject = "not examined".to_owned();
        show_finding(app, &Finding { severity: Severity::Problem, subject, message, advice });
    }
    app.output.line("");
}

fn show_finding(app: &App, finding: &Finding) {
    let (word, tone) = match finding.severity {
        Severity::Ok => ("ok", Tone::Good),
        Severity::Note => ("note", Tone::Faint),
        Severity::Warning => ("warning", Tone::Notice),
        Severity::Problem => ("problem", Tone::Bad),
    };
    app.output.line(format_args!(
        "  {} {}: {}",
        app.output.paint(tone, format_args!("{word:<8}")),
        human::visible(&finding.subject),
        human::visible(&finding.message)
    ));
    if let Some(advice) = &finding.advice {
        app.output.line(format_args!("           -> {}", human::visible(advice)));
    }
}
