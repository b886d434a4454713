//! Storing, reading and checking, as callers of the crate see it.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

mod copies;
mod crash;
mod damage;
mod images;
mod interplay;
mod prune;
mod prune_crashes;
mod scene;
mod streams;
