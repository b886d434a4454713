//! A writer that never stops: the transactions of a seed, at full speed or paced, with hostile company.
//!
//! It runs as a process of its own (`dbkeep-workload`), so that it can be killed and so
//! that its locks are those of a stranger. Several may write into one database: the
//! next number is read under the write lock. What was begun and what was acknowledged
//! stands in an append-only log that outlives kill -9.

mod log;
mod process;
mod writer;

pub use log::Log;
pub use process::{Process, binary};
pub use writer::{JournalMode, Options, Report, Synchronous, Writer};
