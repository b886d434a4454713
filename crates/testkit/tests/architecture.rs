//! The rules of the layout that no compiler checks: who may depend on whom, where asynchronous
//! code and terminal output may stand, which licences come in, what the sources must not contain.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The crates of ours that each crate may use outside its tests.
const ALLOWED: [(&str, &[&str]); 8] = [
    ("dbkeep-repo", &[]),
    ("dbkeep-sqlite", &[]),
    ("dbkeep-postgres", &[]),
    ("dbkeep-engine", &["dbkeep-repo", "dbkeep-sqlite", "dbkeep-postgres"]),
    ("dbkeep", &["dbkeep-engine", "dbkeep-repo"]),
    ("dbkeep-testkit", &[]),
    ("dbkeep-fuzz", &["dbkeep-repo", "dbkeep-sqlite", "dbkeep-postgres", "dbkeep-engine"]),
    ("dbkeep-bench", &["dbkeep-repo", "dbkeep-sqlite", "dbkeep-engine", "dbkeep-testkit"]),
];

/// What belongs to the terminal or to a server, and so to no library of ours.
const NOT_BELOW_CLI: [&str; 8] =
    ["clap", "axum", "tokio", "indicatif", "comfy-table", "inquire", "tracing-subscriber", "anyhow"];

/// Permissive licences; an expression is fine when one side of each `OR` is, and both sides of each `AND`.
const PERMISSIVE: [&str; 12] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Unicode-3.0",
    "Zlib",
    "Unlicense",
    "CC0-1.0",
    "NCSA",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace is there")
}

/// It downloads what this platform does not build: a fresh machine has only what it does.
fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--all-features"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Returns name → names of the dependencies outside tests, for the crates of this workspace.
fn our_dependencies(metadata: &Value) -> BTreeMap<String, Vec<String>> {
    let members = metadata["workspace_members"].as_array().expect("members");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .filter(|package| members.contains(&package["id"]))
        .map(|package| {
            let dependencies = package["dependencies"].as_array().expect("dependencies");
            let names = dependencies
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| text(&dependency["name"]));
            (text(&package["name"]), names.collect())
        })
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

#[test]
fn crates_depend_only_on_those_below_them() {
    let dependencies = our_dependencies(&metadata());
    let ours: Vec<&String> = dependencies.keys().collect();
    for (name, uses) in &dependencies {
        let allowed = ALLOWED.iter().find(|(crate_name, _)| crate_name == name);
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("{name} has no place in the layout yet"));
        for used in uses.iter().filter(|used| ours.contains(used)) {
            assert!(allowed.contains(&used.as_str()), "{name} must not depend on {used}");
        }
    }
}

#[test]
fn libraries_know_no_terminal_and_no_runtime() {
    for (name, uses) in our_dependencies(&metadata()) {
        if matches!(name.as_str(), "dbkeep" | "dbkeep-bench" | "dbkeep-fuzz") {
            continue;
        }
        for used in uses {
            assert!(!NOT_BELOW_CLI.contains(&used.as_str()), "{name} must not depend on {used}");
        }
    }
}

#[test]
fn every_dependency_is_permissive_and_from_the_registry() {
    for package in metadata()["packages"].as_array().expect("packages") {
        let name = text(&package["name"]);
        let licence = package["license"].as_str().unwrap_or("none given");
        assert!(is_permissive(licence), "{name} has the licence {licence}");
        if let Some(source) = package["source"].as_str() {
            assert!(source.starts_with("registry+"), "{name} comes from {source}");
        }
    }
}

fn is_permissive(expression: &str) -> bool {
    let expression = expression.replace(" / ", " OR ").replace('/', " OR ");
    let plain = expression.replace(['(', ')'], "");
    plain.split(" AND ").all(|part| part.split(" OR ").any(|term| PERMISSIVE.contains(&term.trim())))
}

/// Calls `visit` with the path and text of every Rust file of ours.
fn each_source(visit: &mut dyn FnMut(&Path, &str)) {
    let mut folders = vec![root().join("crates"), root().join("bench"), root().join("fuzz")];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            if path.is_dir() && !path.ends_with("target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let contents = std::fs::read_to_string(&path).expect("sources are UTF-8");
                visit(&path, &contents);
            }
        }
    }
}

#[test]
fn no_function_of_ours_is_asynchronous() {
    let keyword = ["async", " fn"].concat();
    each_source(&mut |path, contents| {
        assert!(!contents.contains(&keyword), "{} has an asynchronous function", path.display());
    });
}

#[test]
fn every_file_says_what_it_owns() {
    each_source(&mut |path, contents| {
        let first = contents.lines().find(|line| !line.trim().is_empty() && !line.starts_with("#!"));
        let opens = first.is_some_and(|line| line.starts_with("//!"));
        assert!(opens, "{} does not open with a `//!` line", path.display());
    });
}

#[test]
fn unsafe_code_stands_only_where_it_may() {
    const MAY: [&str; 8] = [
        "repo/src/mac",
        "repo/src/scrypt/wide",
        "repo/src/sha",
        "sqlite/src/live",
        "sqlite/src/raw",
        "sqlite/src/vfs",
        "sqlite/src/holders",
        "sqlite/src/capture/log_sync",
    ];
    let keywords = [["unsafe", " {"].concat(), ["unsafe", " fn"].concat(), ["unsafe", " impl"].concat()];
    each_source(&mut |path, contents| {
        let is_product =
            path.to_string_lossy().contains("/src/") && !path.to_string_lossy().contains("testkit");
        let may = MAY.iter().any(|place| path.to_string_lossy().contains(place));
        let has = keywords.iter().any(|keyword| contents.contains(keyword.as_str()));
        assert!(!is_product || may || !has, "{} has unsafe code", path.display());
    });
}

#[test]
fn only_durable_renames_and_syncs() {
    // What a restore moves aside lies beside a database, of which the repository knows nothing.
    let may = ["repo/src/durable.rs", "sqlite/src/retire.rs"];
    let forbidden = ["fs::rename(", "rename_with(", "renameat(", "renameat_with("];
    each_source(&mut |path, contents| {
        let place = path.to_string_lossy();
        if place.contains("/tests/") || place.contains("testkit") || place.contains("bench") {
            return;
        }
        let product = contents.split("#[cfg(test)]").next().unwrap_or_default();
        let renames = forbidden.iter().any(|call| product.contains(call));
        assert!(!renames || may.iter().any(|file| place.ends_with(file)), "{place} renames by itself");
    });
}

#[test]
fn libraries_read_the_environment_in_one_place() {
    // The second finds the working directory for paths that are relative, the third cleans what programs inherit.
    let may = ["engine/src/environment.rs", "engine/src/keeper/settings.rs", "postgres/src/tools.rs"];
    let forbidden = ["env::var", "env::home_dir(", "env::current_dir(", "TimeZone::system("];
    let libraries =
        ["repo", "sqlite", "postgres", "engine"].map(|name| root().join("crates").join(name).join("src"));
    each_source(&mut |path, contents| {
        let place = path.to_string_lossy();
        let is_test =
            place.contains("/tests/") || place.ends_with("/tests.rs") || place.ends_with("/hostile.rs");
        if is_test || !libraries.iter().any(|library| path.starts_with(library)) {
            return;
        }
        let product = contents.split("#[cfg(test)]").next().unwrap_or_default();
        let reads = product
            .lines()
            .filter(|line| !line.trim_start().starts_with("//"))
            .any(|line| forbidden.iter().any(|call| line.contains(call)));
        assert!(
            !reads || may.iter().any(|file| place.ends_with(file)),
            "{place} reads the environment by itself"
        );
    });
}

#[test]
fn permissive_expressions_are_told_from_others() {
    for licence in ["MIT", "MIT/Apache-2.0", "(MIT OR Apache-2.0) AND Unicode-3.0", "GPL-2.0 OR MIT"] {
        assert!(is_permissive(licence), "{licence}");
    }
    for licence in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "none given", ""] {
        assert!(!is_permissive(licence), "{licence}");
    }
}
