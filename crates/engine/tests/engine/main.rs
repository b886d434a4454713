//! The engine as a library user runs it: whole operations on files in temporary directories.

mod backup;
mod fixture;
