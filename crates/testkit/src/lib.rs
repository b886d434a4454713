//! Workloads with an oracle, generators and fault injection, for tests and benchmarks only.
//!
//! A black box: nothing here depends on the product's crates, so that a mistake in
//! them cannot hide itself here. The product is known by its command line alone.

// All numbers here are made here; none came from a disk that might lie.
#![allow(clippy::cast_possible_truncation)]

pub mod damage;
pub mod generate;
pub mod oracle;
pub mod pooler;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod restic;
mod rng;
pub mod session;
pub mod workload;
pub mod zoo;

pub use rng::Rng;
