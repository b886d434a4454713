//! The engine as a library user runs it: whole operations on files in temporary directories.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a panic is how a test fails")]
#![allow(clippy::print_stdout, reason = "the guide prints")]

mod backup;
mod cache;
mod compare;
mod copies;
mod copy_faults;
mod copy_retention;
mod damaged_sources;
mod examples;
mod export;
mod fixture;
mod guard;
mod guide;
mod keep;
mod keeper;
mod large;
mod prune;
mod restore;
mod verify_server;
