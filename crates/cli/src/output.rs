//! The two streams: results on standard output, everything else on standard error.
//!
//! A reader that goes away (`dbkeep list | head`) never changes what a command does: what is
//! written afterwards is dropped and the exit code stays what it would have been.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::{MultiProgress, ProgressDrawTarget};
use serde::Serialize;

use crate::event::Event;
use crate::exit::Failure;
use crate::human;

/// What was asked of the output on the command line.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Choices {
    /// One JSON document on standard output, nothing else there.
    pub(crate) json: bool,
    /// No messages, only results, warnings and errors.
    pub(crate) quiet: bool,
    /// One JSON event a line on standard error instead of text.
    pub(crate) events: bool,
    /// Progress bars, where standard error is a terminal.
    pub(crate) bars: bool,
    /// Colours, where the stream is a terminal.
    pub(crate) colours: bool,
}

/// The only thing in the program that prints. May be used from several threads.
pub(crate) struct Output {
    choices: Choices,
    colours_out: bool,
    colours_err: bool,
    bars: MultiProgress,
    results_lost: AtomicBool,
}

/// A colour with a meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// As it should be.
    Good,
    /// Needs eyes.
    Notice,
    /// Bad.
    Bad,
    /// Less important than its surroundings.
    Faint,
    /// More important than its surroundings.
    Strong,
}

impl Tone {
    fn code(self) -> &'static str {
        match self {
            Self::Good => "32",
            Self::Notice => "33",
            Self::Bad => "31",
            Self::Faint => "2",
            Self::Strong => "1",
        }
    }
}

impl Output {
    /// Opens the streams for one run.
    pub(crate) fn new(choices: Choices) -> Self {
        let err_is_terminal = io::stderr().is_terminal();
        let target = if choices.bars && err_is_terminal && !choices.quiet && !choices.events {
            ProgressDrawTarget::stderr()
        } else {
            ProgressDrawTarget::hidden()
        };
        Self {
            colours_out: choices.colours && io::stdout().is_terminal(),
            colours_err: choices.colours && err_is_terminal,
            bars: MultiProgress::with_draw_target(target),
            results_lost: AtomicBool::new(false),
            choices,
        }
    }

    /// Says whether a JSON document is the result.
    pub(crate) fn json(&self) -> bool {
        self.choices.json
    }

    /// Says whether standard error carries JSON events.
    pub(crate) fn events(&self) -> bool {
        self.choices.events
    }

    /// Returns the place where progress bars are drawn.
    pub(crate) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// Prints one line of the result for people. Nothing is printed with `--json`.
    pub(crate) fn line(&self, text: impl Display) {
        if !self.choices.json {
            self.write_result(&format!("{text}\n"));
        }
    }

    /// Prints the result as it is, with no line end added. Nothing is printed with `--json`.
    pub(crate) fn raw(&self, bytes: &[u8]) {
        if !self.choices.json {
            self.write_bytes(bytes);
        }
    }

    /// Prints the one JSON document of the run, when `--json` asks for it.
    pub(crate) fn document(&self, document: &impl Serialize) {
        if self.choices.json {
            let text = serde_json::to_string_pretty(document)
                .expect("reports are structs and maps with text keys, which JSON can always hold");
            self.write_result(&format!("{text}\n"));
        }
    }

    /// Prints a message for people on standard error; `--quiet` drops it.
    pub(crate) fn note(&self, text: impl Display) {
        if self.choices.quiet {
            return;
        }
        if self.choices.events {
            self.event(&Event::Message { message: &text.to_string() });
        } else {
            self.write_message(&format!("{text}\n"));
        }
    }

    /// Prints a warning, with what to do about it where there is something.
    pub(crate) fn warn(&self, text: &str, hint: Option<&str>) {
        if self.choices.events {
            self.event(&Event::Warning { message: text, hint });
            return;
        }
        let mut lines = format!("{} {}\n", self.paint_err(Tone::Notice, "warning:"), human::visible(text));
        if let Some(hint) = hint {
            lines += &format!("{} {}\n", self.paint_err(Tone::Strong, "hint:"), human::visible(hint));
        }
        self.write_message(&lines);
    }

    /// Prints why the command failed: `error:` and `hint:`, and the JSON document where asked for.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.document(&failure.document());
        self.failed(&failure.kind, &failure.message, failure.hint.as_deref());
    }

    /// Prints one error on standard error, with what to do about it.
    pub(crate) fn failed(&self, kind: &str, message: &str, hint: Option<&str>) {
        if self.choices.events {
            self.event(&Event::Error { kind, message, hint });
            return;
        }
        let mut lines = format!("{} {}\n", self.paint_err(Tone::Bad, "error:"), human::visible(message));
        if let Some(hint) = hint {
            lines += &format!("{} {}\n", self.paint_err(Tone::Strong, "hint:"), human::visible(hint));
        }
        self.write_message(&lines);
    }

    /// Writes one JSON event to standard error.
    pub(crate) fn event(&self, event: &Event<'_>) {
        let text = serde_json::to_string(event).expect("events are structs of texts and numbers");
        self.write_message(&format!("{text}\n"));
    }

    /// Returns `text` in the colour of `tone` where standard output shows colours.
    pub(crate) fn paint(&self, tone: Tone, text: impl Display) -> String {
        painted(self.colours_out, tone, text)
    }

    /// Says whether standard output shows colours.
    pub(crate) fn colours(&self) -> bool {
        self.colours_out
    }

    fn paint_err(&self, tone: Tone, text: impl Display) -> String {
        painted(self.colours_err, tone, text)
    }

    fn write_result(&self, text: &str) {
        self.write_bytes(text.as_bytes());
    }

    fn write_bytes(&self, bytes: &[u8]) {
        if self.results_lost.load(Ordering::Relaxed) {
            return;
        }
        let written = self.bars.suspend(|| {
            let mut stdout = io::stdout().lock();
            stdout.write_all(bytes).and_then(|()| stdout.flush())
        });
        if let Err(error) = written {
            self.results_lost.store(true, Ordering::Relaxed);
            if error.kind() != io::ErrorKind::BrokenPipe {
                self.warn(&format!("could not write to standard output: {error}"), None);
            }
        }
    }

    fn write_message(&self, text: &str) {
        self.bars.suspend(|| {
            // When nobody reads standard error there is nobody to tell.
            let _ = io::stderr().lock().write_all(text.as_bytes());
        });
    }

    /// Writes bytes of the log to standard error, between the bars.
    pub(crate) fn log_line(&self, bytes: &[u8]) {
        self.bars.suspend(|| {
            let _ = io::stderr().lock().write_all(bytes);
        });
    }
}

fn painted(colours: bool, tone: Tone, text: impl Display) -> String {
    if colours { format!("\x1b[{}m{text}\x1b[0m", tone.code()) } else { text.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_come_only_when_asked_for() {
        assert_eq!(painted(false, Tone::Bad, "x"), "x");
        assert_eq!(painted(true, Tone::Bad, "x"), "\x1b[31mx\x1b[0m");
    }
}
