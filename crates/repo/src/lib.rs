//! Encrypted, deduplicated storage in the restic v2 repository format.
//!
//! A [`Repository`] keeps snapshots of databases on a [`backend::Backend`]. Everything in it can be
//! checked and restored with stock `restic`. Bytes and their meaning are in [`mod@format`], which does no
//! I/O; nothing that comes from storage is trusted before its MAC was checked.

#![deny(missing_docs)]

pub mod backend;
pub mod cache;
pub mod check;
pub mod crypto;
pub mod direct;
pub mod durable;
pub mod error;
pub mod facts;
pub mod format;
mod id;
pub mod index;
mod keys;
pub mod lock;
mod mac;
mod observe;
pub mod process;
pub mod prune;
pub mod read;
mod repository;
mod scrypt;
mod secret;
mod sha;
pub mod write;

pub use cache::Cache;
pub use error::{Error, Result};
pub use facts::Facts;
pub use id::{Id, ParseIdError};
pub use keys::{KeyInfo, KeyOptions};
pub use lock::{ExclusiveLock, ReadLock, RepositoryLock, SharedLock};
pub use observe::{Observer, Unobserved};
pub use repository::{InitOptions, Repository};
pub use secret::Secret;
