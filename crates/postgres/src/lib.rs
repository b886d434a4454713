//! What a PostgreSQL database is: reaching it, reading it at one moment, bringing it back.
//!
//! Everything here blocks, with timeouts. Nothing of it knows the repository.

pub mod conninfo;
mod error;
pub mod wire;

pub use error::{BoxError, Error, Result, ServerError};
