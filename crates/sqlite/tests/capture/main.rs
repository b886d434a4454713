//! Captures of databases that other processes are using.
//!
//! Other processes are this same test binary, started again with a role (`support::Other`).

#![allow(clippy::cast_possible_truncation, clippy::unwrap_used, clippy::print_stdout)]

mod churn;
mod locks;
mod situations;
mod speed;
mod support;
mod together;
mod unchanged;
mod zoo;

/// The entry of a started process; does nothing in a normal run.
#[test]
fn role_of_a_started_process() {
    support::play_role();
}
