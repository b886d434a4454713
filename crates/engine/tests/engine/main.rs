//! The engine as a library user runs it: whole operations on files in temporary directories.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a panic is how a test fails")]

mod backup;
mod cache;
mod compare;
mod copies;
mod copy_faults;
mod copy_retention;
mod damaged_sources;
mod export;
mod fixture;
mod guard;
mod keep;
mod large;
mod prune;
mod restore;
