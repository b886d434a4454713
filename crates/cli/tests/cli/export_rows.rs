//! JSON, NDJSON and CSV exports hold every value: the tables are rebuilt from them and compared exactly.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use dbkeep_testkit::zoo;
use rusqlite::Connection;
use rusqlite::types::Value as Sql;
use serde_json::{Map, Value};

use crate::environment::{Run, TestEnvironment};

/// A text that is not UTF-8 cannot be bound as one: it is bound as bytes and cast.
#[derive(Clone, Debug, PartialEq)]
enum Cell {
    Plain(Sql),
    OddText(Vec<u8>),
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        other => panic!("{other} is not base64"),
    };
    let digits: Vec<u32> = text.bytes().filter(|b| *b != b'=').map(|byte| u32::from(digit(byte))).collect();
    let mut bytes = Vec::new();
    for group in digits.chunks(4) {
        let joined = group.iter().fold(0, |sum, digit| sum << 6 | digit) << (6 * (4 - group.len()));
        bytes.extend_from_slice(&joined.to_be_bytes()[1..group.len()]);
    }
    bytes
}

/// Reads a value as the metadata of the document says.
fn cell(value: &Value) -> Cell {
    let marked = value.as_object().map(|object| object.iter().next().unwrap());
    Cell::Plain(match (value, marked) {
        (Value::Null, _) => Sql::Null,
        (Value::Number(number), _) => match number.as_i64() {
            Some(whole) => Sql::Integer(whole),
            None => Sql::Real(number.as_f64().unwrap()),
        },
        (Value::String(text), _) => Sql::Text(text.clone()),
        (_, Some((mark, Value::String(text)))) => match mark.as_str() {
            "$integer" => Sql::Integer(text.parse().unwrap()),
            "$real" => Sql::Real(text.parse().unwrap()),
            "$blob" => Sql::Blob(base64(text)),
            "$text" => return Cell::OddText(base64(text)),
            other => panic!("{other}"),
        },
        other => panic!("{other:?}"),
    })
}

/// What an export holds: metadata, and for each table its rows.
struct Document {
    metadata: Value,
    order: Vec<String>,
    rows: BTreeMap<String, Vec<Vec<Cell>>>,
}

fn row(object: &Map<String, Value>, columns: &[String]) -> Vec<Cell> {
    assert_eq!(object.len(), columns.len());
    columns.iter().map(|column| cell(&object[column])).collect()
}

/// Returns the columns that an export has of a table.
fn columns(metadata: &Value, table: &str) -> Vec<String> {
    let columns = metadata["columns"][table].as_array().unwrap();
    columns.iter().map(|column| column["name"].as_str().unwrap().to_owned()).collect()
}

/// Returns the names of the tables in the order in which they stand in the text.
fn order_in(text: &str, metadata: &Value) -> Vec<String> {
    let rest = &text[text.find("\n\"tables\": {").unwrap()..];
    let place = |name: &String| rest.find(&format!("\n{}: [", Value::String(name.clone()))).unwrap();
    let mut names: Vec<String> = metadata["row_counts"].as_object().unwrap().keys().cloned().collect();
    names.sort_by_key(place);
    names
}

fn read_json(path: &Path) -> Document {
    let text = fs::read_to_string(path).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let metadata = document["metadata"].clone();
    let tables = document["tables"].as_object().unwrap();
    let read = |(table, rows): (&String, &Value)| {
        let columns = columns(&metadata, table);
        let rows = rows.as_array().unwrap().iter().map(|one| row(one.as_object().unwrap(), &columns));
        (table.clone(), rows.collect())
    };
    Document { rows: tables.iter().map(read).collect(), order: order_in(&text, &metadata), metadata }
}

fn read_ndjson(path: &Path) -> Document {
    let text = fs::read_to_string(path).unwrap();
    let mut lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let metadata = lines.next().unwrap()["metadata"].clone();
    let (mut rows, mut order) = (BTreeMap::<String, Vec<Vec<Cell>>>::new(), Vec::new());
    let mut ended = false;
    for line in lines {
        assert!(!ended, "something follows the end");
        if line.get("end").is_some() {
            ended = true;
            continue;
        }
        let table = line["table"].as_str().unwrap().to_owned();
        if order.last() != Some(&table) {
            order.push(table.clone());
        }
        let cells = row(line["row"].as_object().unwrap(), &columns(&metadata, &table));
        rows.entry(table).or_default().push(cells);
    }
    assert!(ended);
    Document { metadata, order, rows }
}

/// Reads a CSV file field by field, keeping whether a field was in quotes.
fn csv(bytes: &[u8]) -> Vec<Vec<(bool, Vec<u8>)>> {
    let (mut records, mut record, mut at) = (Vec::new(), Vec::new(), 0);
    while at < bytes.len() {
        let is_quoted = bytes[at] == b'"';
        let mut field = Vec::new();
        if is_quoted {
            at += 1;
            loop {
                match (bytes[at], bytes.get(at + 1)) {
                    (b'"', Some(b'"')) => {
                        field.push(b'"');
                        at += 2;
                    }
                    (b'"', _) => {
                        at += 1;
                        break;
                    }
                    (byte, _) => {
                        field.push(byte);
                        at += 1;
                    }
                }
            }
        } else {
            while !matches!(bytes[at], b',' | b'\r') {
                field.push(bytes[at]);
                at += 1;
            }
        }
        record.push((is_quoted, field));
        match &bytes[at..at + 2.min(bytes.len() - at)] {
            [b',', ..] => {
                at += 1;
                // A comma at the end of a record is followed by one more empty field.
                if bytes[at..].starts_with(b"\r\n") {
                    record.push((false, Vec::new()));
                    at += 2;
                    records.push(std::mem::take(&mut record));
                }
            }
            b"\r\n" => {
                at += 2;
                records.push(std::mem::take(&mut record));
            }
            other => panic!("{other:?} behind a field"),
        }
    }
    assert!(record.is_empty());
    records
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn csv_cell((is_quoted, bytes): (bool, Vec<u8>)) -> Cell {
    let text = String::from_utf8(bytes).unwrap();
    if is_quoted {
        return Cell::Plain(Sql::Text(text));
    }
    let inner = |start: &str| text.strip_prefix(start).and_then(|rest| rest.strip_suffix('\''));
    Cell::Plain(match text.as_str() {
        "" => Sql::Null,
        "Infinity" => Sql::Real(f64::INFINITY),
        "-Infinity" => Sql::Real(f64::NEG_INFINITY),
        _ => match (inner("x'"), inner("text'")) {
            (Some(digits), _) => Sql::Blob(hex(digits)),
            (_, Some(digits)) => return Cell::OddText(hex(digits)),
            _ if text.contains(['.', 'e']) => Sql::Real(text.parse().unwrap()),
            _ => Sql::Integer(text.parse().unwrap()),
        },
    })
}

fn read_csv(directory: &Path) -> Document {
    let metadata: Value =
        serde_json::from_slice(&fs::read(directory.join("metadata.json")).unwrap()).unwrap();
    let mut rows = BTreeMap::new();
    for (table, file) in metadata["files"].as_object().unwrap() {
        let mut records = csv(&fs::read(directory.join(file.as_str().unwrap())).unwrap()).into_iter();
        let heading: Vec<String> =
            records.next().unwrap().into_iter().map(|(_, name)| String::from_utf8(name).unwrap()).collect();
        assert_eq!(heading, columns(&metadata, table));
        let records = records.map(|record| record.into_iter().map(csv_cell).collect()).collect();
        rows.insert(table.clone(), records);
    }
    Document { order: rows.keys().cloned().collect(), metadata, rows }
}

/// Makes a database of what a document holds, and of nothing else.
fn rebuild(document: &Document, path: &Path) {
    let connection = zoo::extended(Connection::open(path).unwrap()).unwrap();
    let settings = &document.metadata["settings"];
    for name in ["page_size", "encoding", "auto_vacuum"] {
        let value = settings[name].to_string().replace('"', "'");
        connection.execute_batch(&format!("PRAGMA {name}={value}")).unwrap();
    }
    connection
        .execute_batch(&format!(
            "PRAGMA foreign_keys=OFF; PRAGMA ignore_check_constraints=ON; PRAGMA synchronous=OFF; BEGIN;
             PRAGMA application_id={}; PRAGMA user_version={}; PRAGMA writable_schema=ON;",
            settings["application_id"], settings["user_version"]
        ))
        .unwrap();
    let schema = document.metadata["schema"].as_array().unwrap();
    let make = |kinds: &[&str]| {
        for object in schema.iter().filter(|object| kinds.contains(&object["type"].as_str().unwrap())) {
            // SQLite makes its own by itself: counters with a table that counts, indexes of a key.
            if let Some(sql) = object["sql"].as_str().filter(|_| object["name"] != "sqlite_sequence") {
                connection.execute_batch(sql).unwrap();
            }
        }
    };
    make(&["table"]);
    for (table, rows) in &document.rows {
        let facts = document.metadata["columns"][table].as_array().unwrap();
        let stored: Vec<usize> = (0..facts.len()).filter(|at| facts[*at]["generated"] == false).collect();
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let names: Vec<String> =
            stored.iter().map(|at| quoted(facts[*at]["name"].as_str().unwrap())).collect();
        for row in rows {
            let places: Vec<&str> = stored
                .iter()
                .map(|at| if matches!(row[*at], Cell::OddText(_)) { "CAST(? AS TEXT)" } else { "?" })
                .collect();
            let values = stored.iter().map(|at| match &row[*at] {
                Cell::Plain(value) => value.clone(),
                Cell::OddText(bytes) => Sql::Blob(bytes.clone()),
            });
            let sql =
                format!("INSERT INTO {}({}) VALUES({})", quoted(table), names.join(","), places.join(","));
            connection.execute(&sql, rusqlite::params_from_iter(values)).unwrap();
        }
    }
    make(&["index"]);
    make(&["view", "trigger"]);
    connection.execute_batch("PRAGMA writable_schema=OFF; COMMIT").unwrap();
}

/// Backs up the file and exports it; returns the paths of the files.
fn exported(
    environment: &TestEnvironment,
    path: &Path,
    name: &str,
    format: &str,
) -> (Value, Vec<std::path::PathBuf>) {
    let mut backup = environment.command(["--json", "backup", "--name", name]);
    backup.arg("--").arg(path);
    let report = Run::of(backup).document();
    let snapshot = report["databases"][0]["snapshot"].as_str().unwrap_or_else(|| panic!("{report:#}"));
    let out = environment.path(&format!("{name}-{format}"));
    let report =
        environment.ok_json(&["export", snapshot, "--out", out.to_str().unwrap(), "--format", format]);
    let files = report["files"].as_array().unwrap().iter();
    let paths = files.map(|file| out.join(file["path"].as_str().unwrap())).collect();
    (report, paths)
}

fn comes_back(format: &str, read: impl Fn(&Path) -> Document) {
    let environment = TestEnvironment::new();
    let mut tried = 0;
    for (number, fixture) in zoo::all().into_iter().enumerate() {
        let has_rows = matches!(fixture.kind, zoo::Kind::Database | zoo::Kind::NeedsExtension);
        // Virtual tables are compared below: their own tables are not in the document.
        let is_virtual = ["fts5", "rtree"].iter().any(|module| fixture.name.contains(module));
        let is_odd = fixture.name == "unknown-function-in-column" || fixture.name.starts_with("page-size");
        if !has_rows || fixture.is_large || is_virtual || (is_odd && fixture.name != "page-size-1024") {
            continue;
        }
        let folder = environment.path(&format!("zoo{number}"));
        fs::create_dir(&folder).unwrap();
        let path = fixture.make(&folder);
        let connection = zoo::extended(Connection::open(&path).unwrap()).unwrap();
        let virtuals: i64 = connection
            .query_row("SELECT count(*) FROM sqlite_schema WHERE type='table' AND rootpage=0", [], |row| {
                row.get(0)
            })
            .unwrap();
        drop(connection);
        if path.to_str().is_none() || virtuals > 0 {
            continue;
        }
        let before = zoo::contents(&path).unwrap();
        let (_, files) = exported(&environment, &path, &format!("n{number}"), format);
        let first = if format == "csv" { files[0].parent().unwrap() } else { &files[0] };
        let rebuilt = environment.path(&format!("rebuilt{number}.db"));
        rebuild(&read(first), &rebuilt);
        let after = zoo::contents(&rebuilt).unwrap();
        assert_eq!(after.settings, before.settings, "{fixture:?}");
        assert!(after == before, "{fixture:?}: {:?}", after.digest.differences(&before.digest));
        tried += 1;
    }
    assert!(tried > 20, "{tried}");
}

#[test]
fn tables_rebuilt_from_json_are_the_same() {
    comes_back("json", read_json);
}

#[test]
fn tables_rebuilt_from_ndjson_are_the_same() {
    comes_back("ndjson", read_ndjson);
}

#[test]
fn tables_rebuilt_from_csv_are_the_same() {
    comes_back("csv", read_csv);
}

#[test]
fn virtual_tables_show_their_rows_and_not_how_they_keep_them() {
    let environment = TestEnvironment::new();
    let path = environment.database(
        "app.db",
        "CREATE VIRTUAL TABLE words USING fts5(title, body);
         INSERT INTO words VALUES('one', 'fish'), ('two', 'more fish');
         CREATE VIRTUAL TABLE boxes USING rtree(id, x0, x1);
         INSERT INTO boxes VALUES(7, 1.5, 2.5);",
    );
    let (report, files) = exported(&environment, &path, "app", "json");
    let document = read_json(&files[0]);
    assert_eq!(document.order, ["words", "boxes"]);
    let text = |text: &str| Cell::Plain(Sql::Text(text.to_owned()));
    assert_eq!(document.rows["words"], [[text("one"), text("fish")], [text("two"), text("more fish")]]);
    let number = |number: f64| Cell::Plain(Sql::Real(number));
    assert_eq!(document.rows["boxes"], [[Cell::Plain(Sql::Integer(7)), number(1.5), number(2.5)]]);
    assert_eq!(report["databases"][0].get("notes"), None);
}

#[test]
fn tables_stand_in_the_order_in_which_they_depend_on_each_other() {
    let environment = TestEnvironment::new();
    let path = environment.database(
        "app.db",
        "PRAGMA foreign_keys=OFF;
         CREATE TABLE items(id INTEGER PRIMARY KEY, o REFERENCES orders(id));
         CREATE TABLE orders(id INTEGER PRIMARY KEY, u REFERENCES users(id));
         CREATE TABLE users(id INTEGER PRIMARY KEY, name TEXT);
         CREATE TABLE a(id INTEGER PRIMARY KEY, b REFERENCES b(id)); CREATE TABLE b(id INTEGER PRIMARY KEY, a REFERENCES a(id));
         INSERT INTO users VALUES(1, 'ada'); INSERT INTO orders VALUES(1, 1); INSERT INTO items VALUES(1, 1);
         INSERT INTO a VALUES(1, 1); INSERT INTO b VALUES(1, 1);",
    );
    let (_, files) = exported(&environment, &path, "app", "json");
    let document = read_json(&files[0]);
    assert_eq!(document.order, ["users", "orders", "items", "a", "b"]);
    assert_eq!(document.metadata["cycles"], serde_json::json!([["a", "b"]]));
    let (_, files) = exported(&environment, &path, "app", "ndjson");
    assert_eq!(read_ndjson(&files[0]).order, ["users", "orders", "items", "a", "b"]);
    let name = files[0].file_name().unwrap().to_str().unwrap();
    assert!(name.starts_with("app_2") && name.len() == "app_20260102_030405.ndjson".len(), "{name}");
}

#[test]
fn what_virtual_tables_do_not_show_is_not_left_out_without_a_word() {
    let environment = TestEnvironment::new();
    let path = environment.database(
        "app.db",
        "CREATE VIRTUAL TABLE words USING fts5(title, content='');
         INSERT INTO words(rowid, title) VALUES(1, 'fish');
         CREATE VIRTUAL TABLE stems USING fts4(title); INSERT INTO stems VALUES('more fish');
         PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = 'CREATE VIRTUAL TABLE stems USING fts4(title, tokenize=theirs)'
         WHERE name = 'stems';",
    );
    for format in ["json", "ndjson", "csv"] {
        let (report, files) = exported(&environment, &path, "app", format);
        let notes = report["databases"][0]["notes"].to_string();
        assert!(notes.contains("the index of virtual table words left out: it keeps no text"), "{notes}");
        assert!(notes.contains("virtual table stems left out: "), "{notes}");
        let document = match format {
            "json" => read_json(&files[0]),
            "ndjson" => read_ndjson(&files[0]),
            _ => read_csv(files[0].parent().unwrap()),
        };
        let text = Cell::Plain(Sql::Text("more fish".to_owned()));
        assert_eq!(document.rows["stems_content"], [[Cell::Plain(Sql::Integer(1)), text]], "{format}");
        assert!(!document.rows.contains_key("words_docsize"), "{format}");
    }
}
