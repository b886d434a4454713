//! `docs/reference/json/`: a JSON schema of what each command prints with `--json`, made from the types behind it and
//! compared in a test. Clients in other languages take their types from there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use dbkeep_engine::keys::RecoverySheet;
use dbkeep_engine::report::{self, ErrorReport};
use dbkeep_engine::restore::RestorePlan;
use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema};
use serde_json::Value;

use crate::commands;
use crate::event::Event;

/// What a failed command prints, beside its own report where there is one.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct ErrorDocument {
    /// Why the command failed.
    error: ErrorReport,
}

/// What `restore` prints: what it did with one snapshot, with a session, or what it would do.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Restore {
    Done(report::RestoreOutcome),
    Planned(RestorePlan),
}

/// What `guard` prints: of the command that it ran, or of the guards that `--resume` finished.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Guard {
    Ran(Box<report::GuardReport>),
    Resumed {
        /// One entry a guard that had not ended.
        resumed: Vec<report::GuardReport>,
    },
}

/// What `verify` prints: of snapshots, or of files.
#[derive(JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "only its schema is used")]
enum Verify {
    Snapshots(report::VerifyReport),
    Files(report::FilesReport),
}

/// Returns the name of each file with the schema in it.
fn schemas() -> BTreeMap<&'static str, Schema> {
    BTreeMap::from([
        ("backup", command::<report::BackupReport>("backup")),
        ("check", command::<report::CheckReport>("check")),
        ("clean", command::<commands::forget::Document<'_>>("clean")),
        ("compare", command::<report::CompareReport>("compare")),
        ("completions", command::<commands::completions::CompletionsReport<'_>>("completions")),
        ("config-check", command::<commands::config::ConfigChecked<'_>>("config check")),
        ("config-example", command::<commands::config::ConfigExample<'_>>("config example")),
        ("config-show", command::<report::ConfigReport>("config show")),
        ("copy", command::<report::CopyRunReport>("copy")),
        ("demo", command::<commands::demo::DemoReport<'_>>("demo")),
        ("doctor", command::<report::DoctorReport>("doctor")),
        ("drill", command::<report::DrillReport>("drill")),
        ("error", made::<ErrorDocument>("What a command prints that failed", FAILED)),
        ("events", made::<Event<'_>>("A line that --progress=json writes to standard error", EVENT)),
        ("export", command::<report::ExportReport>("export")),
        ("forget", command::<commands::forget::Document<'_>>("forget")),
        ("guard", command::<Guard>("guard")),
        ("init", command::<report::InitReport>("init")),
        ("key-add", command::<report::KeyAddReport>("key add")),
        ("key-list", command::<report::KeyListReport>("key list")),
        ("key-remove", command::<report::KeyRemoveReport>("key remove")),
        ("key-show-recovery", command::<RecoverySheet>("key show-recovery")),
        ("list", command::<report::ListReport>("list")),
        ("man", command::<commands::man::ManReport<'_>>("man")),
        ("pin", command::<report::PinReport>("pin")),
        ("prune", command::<report::PruneReport>("prune")),
        ("restore", command::<Restore>("restore")),
        ("show", command::<report::ShowReport>("show")),
        ("size", command::<report::SizeReport>("size")),
        ("status", command::<report::StatusReport>("status")),
        ("unpin", command::<report::PinReport>("unpin")),
        ("verify", command::<Verify>("verify")),
    ])
}

const PRINTED: &str = "The one document on standard output. Fields may be added. Where the command fails, the document \
                       is that of error.json, with what there is of this one beside it.";

const FAILED: &str = "Exit codes 1, 2, 10, 11 and 12 always carry it; what the command has to tell in spite of the \
                      failure stands beside it.";

const EVENT: &str = "One JSON object a line. Kinds of events and fields may be added.";

fn command<T: JsonSchema>(name: &str) -> Schema {
    made::<T>(&format!("dbkeep {name} --json"), PRINTED)
}

fn made<T: JsonSchema>(title: &str, description: &str) -> Schema {
    let settings = SchemaSettings::draft2020_12().for_serialize().with_transform(ForReaders);
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    schema.insert("description".to_owned(), description.into());
    schema
}

/// Takes the words of Rust out of descriptions.
#[derive(Clone, Debug)]
struct ForReaders;

impl Transform for ForReaders {
    fn transform(&mut self, schema: &mut Schema) {
        if let Some(Value::String(text)) = schema.get_mut("description") {
            *text = for_readers(text);
        }
        transform_subschemas(self, schema);
    }
}

fn for_readers(text: &str) -> String {
    let mut text = text.replace("`None`", "null").replace('\n', " ");
    // An operation of the library is called as the command is: "[`crate::prune::run`]" is `prune`.
    while let Some((before, path, after)) = text
        .split_once("[`crate::")
        .and_then(|(before, rest)| rest.split_once("`]").map(|(path, after)| (before, path, after)))
        .filter(|(_, path, _)| path.ends_with("::run"))
    {
        text = format!("{before}`{}`{after}", path.trim_end_matches("::run"));
    }
    // "see [`Error::kind`]" leads nowhere outside of the library.
    match text.find([';', ':']).filter(|end| text[*end..].contains("see [`")) {
        Some(end) => format!("{}.", &text[..end]),
        None => text,
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/json")
}

#[test]
fn schemas_are_those_of_the_reports() {
    let update = std::env::var_os("DBKEEP_UPDATE_REFERENCE").is_some();
    let mut stale = Vec::new();
    for (name, schema) in schemas() {
        let path = folder().join(format!("{name}.json"));
        let made = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        if update {
            fs::write(&path, &made).unwrap();
        }
        if fs::read_to_string(&path).unwrap_or_default() != made {
            stale.push(name);
        }
    }
    assert!(
        stale.is_empty(),
        "not as the types are in docs/reference/json: {stale:?}; see docs/reference/cli.md"
    );
}

#[test]
fn every_command_has_a_schema_and_every_schema_a_command() {
    let mut expected: BTreeSet<String> = super::helps()
        .iter()
        .map(|(name, _)| name.replacen("dbkeep ", "", 1).replace(' ', "-"))
        // The last prints a schema itself, the others stand for those below them.
        .filter(|name| !["dbkeep", "key", "config", "config-schema"].contains(&name.as_str()))
        .collect();
    expected.extend(["error".to_owned(), "events".to_owned()]);
    let made: BTreeSet<String> = schemas().into_keys().map(str::to_owned).collect();
    assert_eq!(made, expected);
    let kept = fs::read_dir(folder()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert_eq!(kept.collect::<BTreeSet<_>>(), made.iter().map(|name| format!("{name}.json")).collect());
}

#[test]
fn descriptions_are_for_readers_of_json() {
    for (name, schema) in schemas() {
        let text = serde_json::to_string(&schema).unwrap();
        for word in ["`None`", "crate::", "[`"] {
            assert!(!text.contains(word), "{name} has {word}");
        }
    }
    assert_eq!(for_readers("A word for programs; see [`Error::kind`]."), "A word for programs.");
    assert_eq!(for_readers("What [`crate::prune::run`] did."), "What `prune` did.");
    assert_eq!(for_readers("Its id; `None` when\nit is missing."), "Its id; null when it is missing.");
}
