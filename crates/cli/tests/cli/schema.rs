//! Every document that a test reads is compared with its schema in `docs/reference/json`, field by field.
//!
//! The schemas allow fields that they do not describe, since some may be added; here such a field is an error.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;

use serde_json::{Map, Value};

/// The schemas by the name of their command, as `key list`.
static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/json");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    files
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap();
            let group = ["key-", "config-"].into_iter().find(|group| name.starts_with(group));
            let name = group.map_or(name.to_owned(), |_| name.replacen('-', " ", 1));
            (name, serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
        })
        .collect()
});

/// Expects the document of a command line to be what the schemas say.
#[track_caller]
pub(crate) fn expect(arguments: &[&str], code: Option<i32>, document: &Value) {
    let mut report = document.clone();
    if !matches!(code, Some(0 | 3 | 4)) {
        let error = report.as_object_mut().and_then(|fields| fields.remove("error"));
        let error = Value::Object(Map::from_iter(error.map(|error| ("error".to_owned(), error))));
        compare("error", &error, arguments);
    }
    let Some(command) = command(arguments) else { return };
    if report.as_object().is_some_and(|fields| !fields.is_empty()) {
        compare(&command, &report, arguments);
    }
}

#[track_caller]
fn compare(name: &str, document: &Value, arguments: &[&str]) {
    let root = &SCHEMAS[name];
    if let Err(why) = check(root, root, document, "") {
        panic!("{arguments:?}: not as docs/reference/json has it for {name}: {why}\n{document:#}");
    }
}

/// Returns the command that is called: the first word or the first two that have a schema.
fn command(arguments: &[&str]) -> Option<String> {
    let words = arguments.iter().enumerate();
    words.into_iter().find_map(|(place, word)| {
        let two = arguments.get(place + 1).map(|next| format!("{word} {next}"));
        two.into_iter().chain([(*word).to_owned()]).find(|name| SCHEMAS.contains_key(name))
    })
}

/// What a schema may say here. Another word would be passed over in silence.
const WORDS: [&str; 17] = [
    "$schema",
    "$defs",
    "$ref",
    "title",
    "description",
    "type",
    "properties",
    "required",
    "additionalProperties",
    "items",
    "prefixItems",
    "anyOf",
    "oneOf",
    "const",
    "enum",
    "pattern",
    "format",
];

/// Words about the size of numbers and lists, which the types of the program see to.
const SIZES: [&str; 5] = ["minimum", "maximum", "minItems", "maxItems", "default"];

fn check(root: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let Some(schema) = schema.as_object() else { return Ok(()) };
    if let Some(word) = schema.keys().find(|word| ![&WORDS[..], &SIZES].concat().contains(&word.as_str())) {
        return Err(format!("{place}: the test does not know the word {word}"));
    }
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        check(root, &root["$defs"][name.trim_start_matches("#/$defs/")], value, place)?;
    }
    if let Some(choices) = schema.get("anyOf").or(schema.get("oneOf")).and_then(Value::as_array) {
        let found: Vec<_> = choices.iter().map(|choice| check(root, choice, value, place)).collect();
        if found.iter().all(Result::is_err) {
            return Err(found.into_iter().filter_map(Result::err).collect::<Vec<_>>().join(" | "));
        }
    }
    let is_other = |word: &str, differs: &dyn Fn(&Value) -> bool| schema.get(word).is_some_and(differs);
    if is_other("const", &|only| only != value)
        || is_other("enum", &|all| all.as_array().is_some_and(|all| !all.contains(value)))
        || is_other("type", &|kind| !is_of(kind, value))
        || is_other("pattern", &|_| !is_id(value))
    {
        return Err(format!("{place}: {value} is not as {}", Value::Object(schema.clone())));
    }
    match value {
        Value::Object(fields) if schema.get("type").is_some_and(|kind| kind == "object") => {
            check_fields(root, schema, fields, place)
        }
        Value::Array(items) => check_items(root, schema, items, place),
        _ => Ok(()),
    }
}

fn check_fields(
    root: &Value,
    schema: &Map<String, Value>,
    fields: &Map<String, Value>,
    place: &str,
) -> Result<(), String> {
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten() {
        if !fields.contains_key(name.as_str().unwrap_or_default()) {
            return Err(format!("{place}: no {name}"));
        }
    }
    for (name, value) in fields {
        let known = schema.get("properties").and_then(|all| all.get(name));
        let known = known.or(schema.get("additionalProperties"));
        let known = known.ok_or_else(|| format!("{place}: {name} is not described"))?;
        check(root, known, value, &format!("{place}.{name}"))?;
    }
    Ok(())
}

fn check_items(
    root: &Value,
    schema: &Map<String, Value>,
    items: &[Value],
    place: &str,
) -> Result<(), String> {
    for (number, item) in items.iter().enumerate() {
        let first = schema.get("prefixItems").and_then(|all| all.get(number));
        if let Some(known) = first.or(schema.get("items")) {
            check(root, known, item, &format!("{place}[{number}]"))?;
        }
    }
    Ok(())
}

fn is_of(kind: &Value, value: &Value) -> bool {
    match kind {
        Value::Array(kinds) => kinds.iter().any(|kind| is_of(kind, value)),
        _ => match kind.as_str().unwrap_or_default() {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "string" => value.is_string(),
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.is_number(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("no type {other}"),
        },
    }
}

/// The only pattern is that of an id.
fn is_id(value: &Value) -> bool {
    let digits = value.as_str().unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
}

#[test]
fn document_that_is_not_as_described_is_found() {
    let root = &SCHEMAS["pin"];
    let sound = serde_json::json!({
        "snapshot": "0".repeat(64), "time": "2026-01-02T03:04:05Z", "database": null, "pinned": true, "changed": true
    });
    assert_eq!(check(root, root, &sound, ""), Ok(()));
    for (field, value) in [
        ("snapshot", Value::from("xyz")),
        ("pinned", Value::from("yes")),
        ("database", Value::from(1)),
        ("another", Value::Null),
    ] {
        let mut wrong = sound.clone();
        wrong[field] = value;
        assert!(check(root, root, &wrong, "").is_err(), "{field}");
    }
    let mut lacking = sound.clone();
    lacking.as_object_mut().unwrap().remove("time");
    assert!(check(root, root, &lacking, "").unwrap_err().contains("time"));
    assert_eq!(command(&["--repo", "x", "key", "list"]).as_deref(), Some("key list"));
}
