//! What a person or a program sees of a running operation, and how it learns to stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dbkeep_engine::Observer;
use indicatif::{ProgressBar, ProgressStyle};

use crate::event::{Event, TableProgress};
use crate::human;
use crate::output::Output;

/// Events come at most this often while bytes flow.
const EVENT_EVERY: Duration = Duration::from_millis(200);

/// Phases of fewer bytes are over before a person could read their bar.
const WORTH_A_BAR: u64 = 4 << 20;

/// Shows progress and passes on the wish to stop. One for the whole run.
pub(crate) struct Watch {
    output: Arc<Output>,
    stop: Arc<AtomicBool>,
    phase: Mutex<Phase>,
    done: AtomicU64,
}

/// The present phase of the operation.
struct Phase {
    name: String,
    total: u64,
    tables: Option<TableProgress>,
    bar: ProgressBar,
    reported: Instant,
}

impl Watch {
    /// Watches an operation that stops when `stop` becomes true.
    pub(crate) fn new(output: Arc<Output>, stop: Arc<AtomicBool>) -> Self {
        let (bar, reported) = (ProgressBar::hidden(), Instant::now());
        let phase = Phase { name: String::new(), total: 0, tables: None, bar, reported };
        Self { output, stop, phase: Mutex::new(phase), done: AtomicU64::new(0) }
    }

    /// Ends the present phase and takes its bar off the screen.
    pub(crate) fn finish(&self) {
        let mut phase = self.phase();
        self.end(&mut phase);
    }

    fn phase(&self) -> std::sync::MutexGuard<'_, Phase> {
        // A thread that panicked while it drew leaves nothing that matters in a broken state.
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, phase: &mut Phase) {
        if phase.name.is_empty() {
            return;
        }
        if self.output.events() {
            self.report(phase);
        }
        phase.bar.finish_and_clear();
        self.output.bars().remove(&phase.bar);
        phase.name.clear();
    }

    fn report(&self, phase: &mut Phase) {
        phase.reported = Instant::now();
        let done = self.done.load(Ordering::Relaxed);
        self.output.event(&Event::Progress {
            phase: &phase.name,
            done,
            total: phase.total,
            tables: phase.tables,
        });
    }
}

impl Observer for Watch {
    fn cancelled(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn step(&self, name: &'static str) {
        tracing::trace!(step = name);
        if self.output.events() {
            self.output.event(&Event::Step { step: name });
        }
        #[cfg(feature = "fault-injection")]
        crate::fault::at_step(name);
    }

    fn phase(&self, name: &str, total: u64) {
        let mut phase = self.phase();
        self.end(&mut phase);
        self.done.store(0, Ordering::Relaxed);
        phase.name = name.to_owned();
        phase.total = total;
        phase.tables = None;
        if self.output.events() {
            self.output.event(&Event::Phase { phase: name, total });
        }
        phase.bar = self.output.bars().add(bar(name, total));
    }

    fn advance(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
        let mut phase = self.phase();
        phase.bar.inc(bytes);
        if self.output.events() && phase.reported.elapsed() >= EVENT_EVERY {
            self.report(&mut phase);
        }
    }

    fn tables(&self, done: u64, total: u64) {
        tracing::trace!(tables_done = done, tables = total);
        let mut phase = self.phase();
        phase.tables = Some(TableProgress { done, total });
        phase.bar.set_message(with_tables(&phase.name, done, total));
        if self.output.events() && phase.reported.elapsed() >= EVENT_EVERY {
            self.report(&mut phase);
        }
    }

    fn warn(&self, message: &str) {
        tracing::warn!(event = "warning", message);
        self.output.warn(message, None);
    }
}

/// Returns what stands before a bar: what is done, and how many tables of it are.
fn with_tables(name: &str, done: u64, total: u64) -> String {
    let tables = if total == 1 { "table" } else { "tables" };
    format!("{} ({done} of {total} {tables})", human::visible(name))
}

fn bar(name: &str, total: u64) -> ProgressBar {
    if (1..WORTH_A_BAR).contains(&total) {
        return ProgressBar::hidden();
    }
    let name = human::visible(name).into_owned();
    let (bar, template) = if total == 0 {
        (ProgressBar::new_spinner(), "{spinner} {msg}  {binary_bytes}  {binary_bytes_per_sec}  {elapsed}")
    } else {
        (
            ProgressBar::new(total),
            "{msg}  {wide_bar} {percent:>3} %  {binary_bytes} of {binary_total_bytes}  {binary_bytes_per_sec}  {eta} left",
        )
    };
    let style = ProgressStyle::with_template(template)
        .expect("the template has only placeholders that indicatif documents")
        .progress_chars("=> ");
    bar.with_style(style).with_message(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Choices;

    #[test]
    fn operation_stops_when_told_to() {
        let stop = Arc::new(AtomicBool::new(false));
        let watch = Watch::new(Arc::new(Output::new(Choices::default())), stop.clone());
        assert!(!watch.cancelled());
        stop.store(true, Ordering::Relaxed);
        assert!(watch.cancelled());
    }

    #[test]
    fn tables_that_are_done_stand_behind_the_name_of_the_phase_until_it_ends() {
        let watch = Watch::new(Arc::new(Output::new(Choices::default())), Arc::default());
        let shown = || watch.phase().bar.message();
        Observer::phase(&watch, "backup a\x1bb", WORTH_A_BAR);
        assert_eq!(shown(), "backup a\\u{1b}b");
        watch.tables(0, 12);
        watch.advance(1);
        watch.tables(3, 12);
        assert_eq!(shown(), "backup a\\u{1b}b (3 of 12 tables)");
        Observer::phase(&watch, "restore shop", WORTH_A_BAR);
        assert_eq!(shown(), "restore shop");
        watch.tables(1, 1);
        assert_eq!(shown(), "restore shop (1 of 1 table)");
    }

    #[test]
    fn bars_of_both_kinds_can_be_drawn() {
        for total in [0, WORTH_A_BAR] {
            let bar = bar("read a\x1bb", total);
            bar.inc(1);
            assert_eq!(bar.message(), "read a\\u{1b}b");
        }
        assert_eq!(bar("short", 10).message(), "");
    }
}
