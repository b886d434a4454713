//! Whether sources can be backed up: completely, by this user, with these tools. Looks, and changes nothing.

mod file;
mod server;
mod storage;
#[cfg(test)]
mod tests;

use jiff::Timestamp;

use crate::context::{Context, Watch};
use crate::report::{DoctorReport, ErrorReport, ExaminedSource, Finding, Health};
use crate::source::{self, Place, Source, Unresolved};
use crate::{Error, Result};

/// What is examined.
#[derive(Clone, Debug, Default)]
pub struct DoctorRequest {
    /// The sources; all configured ones when there are none.
    pub sources: Vec<String>,
}

/// Examines sources, and the repository that they would be stored in.
///
/// A source that cannot be examined does not hold back the others. The repository is opened as for reading; nothing is
/// written to it, and none is made.
///
/// # Errors
/// When it is not known what to examine, or somebody wants to stop.
pub fn run(
    context: &Context,
    request: &DoctorRequest,
    now: Timestamp,
    watch: &Watch,
) -> Result<DoctorReport> {
    let resolved = source::resolve(context, &request.sources, None)?;
    let storage = storage::look(context, now, watch);
    let mut sources = Vec::with_capacity(resolved.len());
    for source in resolved {
        if watch.cancelled() {
            return Err(Error::Cancelled);
        }
        sources.push(match source {
            Ok(source) => examine(context, source, storage.free, watch)?,
            Err(unresolved) => not_examined(unresolved, Vec::new()),
        });
    }
    Ok(DoctorReport { sources, repository: storage.report })
}

fn examine(context: &Context, source: Source, free: Option<u64>, watch: &Watch) -> Result<ExaminedSource> {
    let mut findings = Vec::new();
    let examined = match &source.place {
        Place::File(path) => file::examine(path, free).map(|found| findings = found),
        Place::Server(server) => server::examine(context, server, watch, &mut findings),
    };
    match examined {
        Ok(()) => Ok(ExaminedSource {
            engine: source.engine(),
            name: source.name,
            source: source.shown,
            status: Health::of(&findings),
            findings,
            error: None,
        }),
        Err(Error::Cancelled) => Err(Error::Cancelled),
        Err(error) => Ok(not_examined(source.unreadable(error), findings)),
    }
}

/// Returns a source that was examined no further than to these findings.
fn not_examined(source: Unresolved, findings: Vec<Finding>) -> ExaminedSource {
    ExaminedSource {
        name: source.name,
        engine: source.engine,
        source: source.shown,
        status: Health::Problem,
        findings,
        error: Some(ErrorReport::from(&*source.error)),
    }
}
