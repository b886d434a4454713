//! Examines a PostgreSQL database.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use dbkeep_postgres::doctor::{self, Request};
use dbkeep_postgres::wire::Options;

use crate::context::{Context, Watch};
use crate::report::{Finding, Severity};
use crate::source::Server;
use crate::source::server::jobs;
use crate::{Error, Result};

/// The longest time for which reading is tried.
const SAMPLE: Duration = Duration::from_secs(5);

/// Examines it. After an error the findings are those that came before it.
pub(super) fn examine(
    context: &Context,
    server: &Server,
    watch: &Watch,
    findings: &mut Vec<Finding>,
) -> Result<()> {
    let stop = Arc::clone(watch);
    let options = Options { stop: Arc::new(move || stop.cancelled()), ..Options::default() };
    let path = context.environment.variable("PATH").map(OsString::from);
    let request = Request {
        info: &server.info,
        options: &options,
        filter: &server.filter,
        without_rows: &server.exclude_data,
        jobs: jobs(),
        programs: server.tools.as_deref(),
        path: path.as_ref(),
        sample: SAMPLE,
    };
    let mut found = Vec::new();
    let examined = doctor::examine(&request, &mut found);
    findings.extend(found.into_iter().map(Finding::from));
    examined.map_err(|error| match error {
        dbkeep_postgres::Error::Stopped => Error::Cancelled,
        error => error.into(),
    })
}

impl From<doctor::Finding> for Finding {
    fn from(finding: doctor::Finding) -> Self {
        let severity = match finding.severity {
            doctor::Severity::Ok => Severity::Ok,
            doctor::Severity::Note => Severity::Note,
            doctor::Severity::Warning => Severity::Warning,
            doctor::Severity::Problem => Severity::Problem,
        };
        Self { severity, subject: finding.subject, message: finding.message, advice: finding.advice }
    }
}
