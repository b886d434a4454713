//! What a SQLite file and its write-ahead log are, and how a live one is read.
//!
//! The modules that know bytes only (`header`, `wal`) do no input or output. Everything
//! that touches a database which another process may be using goes through SQLite's own
//! file layer (`raw`, `live`): a second descriptor on the same file, once closed, would
//! cancel the POSIX locks of every SQLite connection in this process.

#![deny(missing_docs)]

pub mod apply;
pub mod capture;
pub mod compare;
pub mod contents;
pub mod dump;
pub mod error;
pub mod extract;
pub mod header;
pub mod holders;
pub mod identify;
pub mod inspect;
pub mod live;
pub mod load;
pub mod page;
pub mod position;
pub mod raw;
pub mod retire;
pub mod rows;
pub mod split;
pub mod vfs;
pub mod wal;

pub use error::{BoxError, Error, Result};

#[cfg(test)]
mod hostile;
#[cfg(test)]
mod zoo;
