//! The binary as people and programs meet it: wiring, output, JSON, exit codes. One test binary.

#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a panic is how a test fails, a line how one is left out"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "moving a repository away is what a person does, not what we do"
)]

mod bad_input;
mod compare;
mod compare_server;
mod contract;
mod copies;
mod demo;
mod doctor;
mod drill;
mod environment;
mod export;
mod export_faults;
mod export_rows;
mod export_server;
mod file_systems;
mod guard;
mod kill;
mod output;
mod postgres;
mod prune;
mod retention;
mod scenarios;
mod schema;
mod secrets;
mod usage;
mod verify_file;
