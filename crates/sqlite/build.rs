//! Refuses a build whose bundled SQLite would lack what dbkeep needs.
//!
//! The options are given to the build of `libsqlite3-sys` by the environment
//! variable `LIBSQLITE3_FLAGS`, which `.cargo/config.toml` of this workspace sets.
//! Without this check a missing option would show as an undefined symbol at link time.

const NEEDED: [&str; 2] = ["-DSQLITE_ENABLE_SNAPSHOT", "-DSQLITE_ENABLE_DBPAGE_VTAB"];

fn main() {
    println!("cargo::rerun-if-env-changed=LIBSQLITE3_FLAGS");
    let flags = std::env::var("LIBSQLITE3_FLAGS").unwrap_or_default();
    for needed in NEEDED.iter().filter(|needed| !flags.contains(*needed)) {
        println!(
            "cargo::error=the bundled SQLite needs {needed}: build inside the workspace, install with \
             `cargo install --path`, or set LIBSQLITE3_FLAGS=\"{}\"",
            NEEDED.join(" ")
        );
    }
}
