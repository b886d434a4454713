//! The commands, one file each: what can be typed, what it calls, how its report is shown.

pub(crate) mod backup;
pub(crate) mod check;
pub(crate) mod clean;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod copy;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod drill;
pub(crate) mod export;
pub(crate) mod forget;
pub(crate) mod guard;
pub(crate) mod init;
pub(crate) mod key;
pub(crate) mod list;
pub(crate) mod man;
pub(crate) mod pin;
pub(crate) mod prune;
pub(crate) mod restore;
pub(crate) mod show;
pub(crate) mod size;
pub(crate) mod status;
pub(crate) mod verify;

use dbkeep_engine::Verify;

use crate::output::Tone;
use crate::table::Value;

/// How thoroughly a database is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Level {
    /// SQLite's quick_check.
    Quick,
    /// SQLite's integrity_check.
    Full,
    /// Nothing; the report says so.
    None,
}

/// Shows the result of an integrity check: `ok`, `not run`, or that there are problems.
fn integrity(result: &str) -> Value {
    match result {
        "ok" => Value::toned("ok", Tone::Good),
        "not run" => Value::toned("not run", Tone::Notice),
        _ if result.starts_with("not run") => Value::toned("not run", Tone::Notice),
        problem => Value::toned(clipped(problem, 40), Tone::Bad),
    }
}

/// Cuts a text to fit a table.
fn clipped(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

impl Level {
    /// Returns the depth as the engine knows it.
    fn depth(self) -> Verify {
        match self {
            Self::Quick => Verify::Quick,
            Self::Full => Verify::Full,
            Self::None => Verify::None,
        }
    }
}
