//! How a long operation tells what it does and learns that it should stop.

/// What an operation reports to while it works. Called from worker threads too.
///
/// Every method has an empty default, so an observer implements what it needs.
pub trait Observer: Send + Sync {
    /// Says whether the operation should stop at the next sound point.
    fn cancelled(&self) -> bool {
        false
    }

    /// A named step begins or ended, as `backup.pack-stored`. The names are part of no contract.
    fn step(&self, name: &'static str) {
        let _ = name;
    }

    /// A phase begins; `total` is the number of bytes to expect, 0 when unknown.
    fn phase(&self, name: &str, total: u64) {
        let _ = (name, total);
    }

    /// `bytes` more were dealt with in the present phase.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }

    /// So many of the tables that the present phase is about are done.
    fn tables(&self, done: u64, total: u64) {
        let _ = (done, total);
    }

    /// Something a person should know that does not stop the operation.
    fn warn(&self, message: &str) {
        let _ = message;
    }
}

/// An observer that wants to know nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unobserved;

impl Observer for Unobserved {}
