//! Ctrl-C and its relatives.
//!
//! The first signal asks the operation to stop where the store is sound. A second one ends the
//! process at once, which the store survives too; it only leaves temporary files for the next run
//! to remove.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use signal_hook::SigId;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The signals by which a process is asked to stop.
const STOPPING: [i32; 3] = [SIGINT, SIGTERM, SIGHUP];

/// The wish to stop, as signals bring it.
pub(crate) struct Stop {
    flag: Arc<AtomicBool>,
    signals: Vec<i32>,
    registered: Mutex<Vec<SigId>>,
}

impl Stop {
    /// Takes signals from here on for the wish to stop.
    pub(crate) fn new() -> io::Result<Self> {
        // Whoever is started by `nohup` is meant to outlive its terminal, and so is what it starts.
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let signals =
            STOPPING.into_iter().filter(|signal| *signal != SIGHUP || !ignores(&status, SIGHUP)).collect();
        let stop = Self { flag: Arc::new(AtomicBool::new(false)), signals, registered: Mutex::default() };
        stop.resume()?;
        Ok(stop)
    }

    /// Returns the signals that are taken for it.
    pub(crate) fn signals(&self) -> &[i32] {
        &self.signals
    }

    /// Returns the flag that becomes true when the process is asked to stop.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// Lets signals be meant for somebody else, until `resume`: for a command that is run. They end nothing meanwhile.
    pub(crate) fn pause(&self) {
        for id in self.registered.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }

    /// Takes signals for the wish to stop again.
    pub(crate) fn resume(&self) -> io::Result<()> {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        for &signal in &self.signals {
            // Registered first, so that it sees the flag as the earlier signal left it.
            registered.push(signal_hook::flag::register_conditional_shutdown(signal, 130, self.flag())?);
            registered.push(signal_hook::flag::register(signal, self.flag())?);
        }
        Ok(())
    }

    /// Says whether the process was asked to stop.
    pub(crate) fn wanted(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }
}

/// Says whether a process ignores a signal, by its status as the system writes it.
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_signals_are_read_from_the_status_of_a_process() {
        let status = "Name:\tx\nSigBlk:\t0000000000000001\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert!(ignores(status, SIGHUP) && !ignores(status, SIGINT));
        assert!(!ignores("", SIGHUP));
    }
}
