//! Restores on real servers, of every version that is installed.
#![allow(clippy::unwrap_used)] // a test that cannot go on ends

mod attributes;
mod crashes;
mod extensions;
mod labels;
mod losses;
mod roundtrip;
mod settings;
mod support;
mod swap;
mod tables;
mod tablespaces;
mod users;
