//! Where the log goes: standard error with `-v`, and a file when the configuration names one.
//!
//! One event is one line of fields. Files are rotated by time; the oldest are removed.

use std::fmt::{self, Write as _};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::exit::Failure;
use crate::human;
use crate::output::Output;

/// A log file as configured.
pub(crate) struct LogFile {
    /// The file; when it is rotated the date is put into the name, as `dbkeep.2026-01-02.log`.
    pub(crate) path: PathBuf,
    /// JSON objects instead of `key=value` text.
    pub(crate) json: bool,
    /// How much is written.
    pub(crate) level: LevelFilter,
    /// When a new file is begun.
    pub(crate) rotation: Rotation,
    /// How many files are kept.
    pub(crate) keep: usize,
}

/// Starts logging. Called once, before anything that logs.
pub(crate) fn start(output: &Arc<Output>, verbose: u8, file: Option<&LogFile>) -> Result<(), Failure> {
    let level = match verbose {
        0 => LevelFilter::OFF,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let terminal = tracing_subscriber::fmt::layer()
        .event_format(FieldsOnOneLine)
        .with_writer(ToOutput(Arc::clone(output)))
        .with_filter(level);
    let to_file = match file {
        Some(file) => {
            let appender = appender(file)?;
            let layer = if file.json {
                tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(appender).boxed()
            } else {
                tracing_subscriber::fmt::layer().event_format(FieldsOnOneLine).with_writer(appender).boxed()
            };
            Some(layer.with_filter(file.level))
        }
        None => None,
    };
    // A second start in one process (unit tests) keeps the first.
    let _ = tracing_subscriber::registry().with(to_file).with(terminal).try_init();
    Ok(())
}

fn appender(file: &LogFile) -> Result<RollingFileAppender, Failure> {
    let failed = |error: &dyn fmt::Display| {
        Failure::usage(
            format!("could not write the log file {}: {error}", file.path.display()),
            "set log.file in the configuration to a file in a directory that you may write to",
        )
    };
    let directory = match file.path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(directory).map_err(|error| failed(&error))?;
    let text = |part: Option<&std::ffi::OsStr>| part.map(|part| part.to_string_lossy().into_owned());
    let mut builder = RollingFileAppender::builder()
        .rotation(file.rotation.clone())
        .filename_prefix(text(file.path.file_stem()).unwrap_or_else(|| "dbkeep".into()))
        .max_log_files(file.keep.max(1));
    if let Some(suffix) = text(file.path.extension()) {
        builder = builder.filename_suffix(suffix);
    }
    builder.build(directory).map_err(|error| failed(&error))
}

/// Writes `time=… level=… target=… key=value …`, spans' fields first.
struct FieldsOnOneLine;

impl<S, N> FormatEvent<S, N> for FieldsOnOneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S%.3fZ");
        let level = event.metadata().level().as_str().to_ascii_lowercase();
        write!(writer, "time={now} level={level} target={}", event.metadata().target())?;
        let mut fields = Fields(String::new());
        event.record(&mut fields);
        writeln!(writer, "{}", fields.0)
    }
}

/// Collects fields as ` key=value`.
struct Fields(String);

impl Fields {
    fn add(&mut self, field: &Field, value: &str) {
        let quiet = !value.is_empty() && !value.contains([' ', '"', '=', '\\']);
        let value = human::visible(value);
        // Writing to a String cannot fail.
        let _ = if quiet {
            write!(self.0, " {}={value}", field.name())
        } else {
            write!(self.0, " {}=\"{}\"", field.name(), value.replace('"', "\\\""))
        };
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

/// Sends log lines to standard error so that they do not tear progress bars.
#[derive(Clone)]
struct ToOutput(Arc<Output>);

impl<'a> MakeWriter<'a> for ToOutput {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl io::Write for ToOutput {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.log_line(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
