//! Faults that tests ask for. Compiled only with the feature `fault-injection`, never into a release.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

#[cfg(not(debug_assertions))]
compile_error!("the feature fault-injection weakens keys and must not be in a release build");

/// The step to die at, and at which of its occurrences.
struct Target {
    step: String,
    remaining: AtomicU64,
}

/// Kills the process with SIGKILL at the step that `DBKEEP_TEST_KILL_AT=<step>[:n]` names. Waits at the one that
/// `DBKEEP_TEST_WAIT_AT=<step>:<path>` names, with all its other threads at work: until there is such a file.
pub(crate) fn at_step(name: &str) {
    wait_at(name);
    static TARGET: OnceLock<Option<Target>> = OnceLock::new();
    let Some(target) = TARGET.get_or_init(target) else { return };
    if target.step == name && target.remaining.fetch_sub(1, Ordering::SeqCst) == 1 {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        // The signal is on its way; nothing may be written in between.
        loop {
            std::thread::park();
        }
    }
}

fn wait_at(name: &str) {
    let Ok(wanted) = std::env::var("DBKEEP_TEST_WAIT_AT") else { return };
    let Some((step, path)) = wanted.split_once(':') else { return };
    while step == name && !std::path::Path::new(path).exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Says whether tests asked for keys that are cheap to derive.
pub(crate) fn cheap_keys() -> bool {
    std::env::var_os("DBKEEP_TEST_CHEAP_KEYS").is_some()
}

/// Returns the moment that `DBKEEP_TEST_NOW` says it is, so that a test can have old backups.
pub(crate) fn now() -> Option<jiff::Timestamp> {
    std::env::var("DBKEEP_TEST_NOW").ok()?.parse().ok()
}

fn target() -> Option<Target> {
    let wanted = std::env::var("DBKEEP_TEST_KILL_AT").ok()?;
    let (step, occurrence) = match wanted.rsplit_once(':') {
        Some((step, number)) => (step, number.parse().ok()?),
        None => (wanted.as_str(), 1),
    };
    Some(Target { step: step.to_owned(), remaining: AtomicU64::new(occurrence) })
}
