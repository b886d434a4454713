//! `docs/reference/cli.md`, made from the definition of the command line and compared in a test.

mod json;

use crate::args;

const INTRODUCTION: &str = "\
# Command line

This page is made from the help texts of the program; a test compares the two. To write it anew, run
`DBKEEP_UPDATE_REFERENCE=1 cargo test -p dbkeep reference`. So are the JSON schemas of what `--json` prints, one a
command, in [json/](json/).

Results go to stdout, progress and messages to stderr. Every command takes the global options that stand under
`dbkeep` below. With `--json` there is exactly one JSON document on stdout, also on failure and for wrong usage; exit
codes 1, 2, 10, 11 and 12 always carry a top-level `\"error\":{\"kind\":\"…\",\"message\":\"…\",\"hint\":\"…\"}`, beside the
command's own report where there is one. Times are RFC 3339 in UTC, sizes bytes, durations milliseconds.
";

/// Returns each command that can be typed with its help text, in the order of the help.
fn helps() -> Vec<(String, String)> {
    let mut definition = args::definition().disable_help_subcommand(true);
    definition.build();
    let mut helps = Vec::new();
    collect("dbkeep", &definition, &mut helps);
    helps
}

fn collect(name: &str, command: &clap::Command, helps: &mut Vec<(String, String)>) {
    // Not as wide as the terminal of whoever runs the test.
    let help = command.clone().term_width(100).render_help().to_string();
    helps.push((name.to_owned(), help));
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        collect(&format!("{name} {}", below.get_name()), below, helps);
    }
}

/// Returns the page.
fn page() -> String {
    let mut page = INTRODUCTION.to_owned();
    for (name, help) in helps() {
        let help = if name == "dbkeep" { help } else { without_global_options(&help) };
        page += &format!("\n## {name}\n\n```text\n{}\n```\n", help.trim_end());
    }
    page
}

fn without_global_options(help: &str) -> String {
    let Some(start) = help.find("Global options:\n") else { return help.to_owned() };
    let rest = &help[start..];
    let end = rest.find("\n\n").map_or(rest.len(), |end| end + 2);
    format!("{}{}", &help[..start], &rest[end..])
}

#[test]
fn reference_is_what_the_program_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/cli.md");
    let made = page();
    if std::env::var_os("DBKEEP_UPDATE_REFERENCE").is_some() {
        std::fs::write(path, &made).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    assert!(kept == made, "docs/reference/cli.md is not what the program says: see its first lines");
}

#[test]
fn every_help_text_is_reviewed() {
    for (name, help) in helps() {
        insta::assert_snapshot!(name.replace(' ', "-"), help);
    }
}

#[test]
fn every_help_text_says_how_it_ends() {
    for (name, help) in helps() {
        let first = help.lines().next().unwrap_or_default();
        assert!(!first.is_empty() && !first.ends_with('.'), "{name}: {first}");
        assert!(help.contains("Exit codes:"), "{name} has no exit codes");
    }
}
