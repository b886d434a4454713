//! dbkeep as a library: back up, verify and restore live databases.
//!
//! Programs begin with a [`Keeper`]: the [`keeper`] module has an example, and says what is stable. The command line
//! is made of the modules of the operations, one each, and of what they share: [`Context::load`] reads the
//! configuration, [`repository::open`] opens the repository, and the operations work on the [`repository::Store`] that
//! it returns. These may change with every version.
//!
//! Nothing here prints, and nothing below [`Environment::capture`] looks at the process's environment. `now` is an
//! argument of every operation of the modules.

#![deny(missing_docs)]

pub mod backup;
pub mod catalog;
pub mod check;
mod clock;
pub mod compare;
pub mod config;
mod context;
pub mod copy;
pub mod doctor;
mod dotenv;
pub mod drill;
mod environment;
mod error;
pub mod export;
pub mod files;
mod finding;
mod forecast;
pub mod forget;
mod git;
pub mod guard;
mod host_lock;
mod integrity;
pub mod keeper;
pub mod keys;
pub mod list;
pub mod manifest;
mod moment;
pub mod name;
pub mod pin;
pub mod prune;
pub mod report;
pub mod repository;
pub mod restore;
pub mod retention;
mod served;
pub mod session;
pub mod setup;
pub mod show;
pub mod size;
mod source;
mod state;
pub mod status;
mod suggest;
mod tables_done;
mod trust;
pub mod verify;

pub use context::{Context, GlobalOptions, KeyCost, Watch};
pub use dbkeep_postgres::conninfo::{redact, redact_within};
pub use dbkeep_repo::{Id, Secret};
pub use dbkeep_repo::{Observer, Unobserved};
pub use environment::Environment;
pub use error::{Error, ErrorKind, Result};
pub use integrity::Verify;
pub use jiff;
pub use keeper::Keeper;
pub use moment::{parse as parse_moment, written as write_moment};
