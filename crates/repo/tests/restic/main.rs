//! The stock `restic` as the judge of what we read and write, both ways.
//!
//! Set `DBKEEP_TEST_RESTIC` to use another binary than the one in `PATH`. Without restic nothing is tested.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod keys;
mod locks;
mod repositories;
mod stock;
