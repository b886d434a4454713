//! What a PostgreSQL database is: reaching it, reading it at one moment, bringing it back.
//!
//! Everything here blocks, with timeouts. Nothing of it knows the repository.

#![deny(missing_docs)]

pub mod archive;
pub mod attributes;
mod binary;
pub mod capture;
pub mod catalog;
pub mod conninfo;
pub mod doctor;
pub mod dump;
mod error;
pub mod extent;
pub mod facts;
pub mod globals;
pub mod json;
pub mod large_objects;
pub mod load;
pub mod locks;
mod marks;
pub mod order;
#[cfg(test)]
mod place;
pub mod plan;
pub mod presence;
pub mod restore;
pub mod rows;
pub mod schema;
pub mod scratch;
pub mod script;
pub mod snapshot;
pub mod text;
pub mod tools;
mod watch;
pub mod wire;

pub use error::{BoxError, Error, Result, ServerError, Session};
