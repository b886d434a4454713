//! Runs every fuzz target over its corpus, over what our own encoders write, and over damaged versions of both.
//!
//! The corpora are what fuzzing found worth keeping; `scripts/campaign fuzz` goes on from them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::fs;
use std::path::Path;

use dbkeep_fuzz::{TARGETS, Target, verified};
use dbkeep_repo::Id;
use dbkeep_repo::backend::FileKind;
use dbkeep_repo::cache::{record, segment};
use dbkeep_repo::format::config::Config;
use dbkeep_repo::format::fact::{Fact, FactFile, SnapshotRef};
use dbkeep_repo::format::index::{IndexFile, IndexPack};
use dbkeep_repo::format::pack::{self, BlobKind, PackBlob};
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::format::tree::{Node, Tree};
use dbkeep_repo::format::unpacked;
use dbkeep_repo::write::{KnownChunk, KnownChunks};
use dbkeep_sqlite::split::{self, Single};
use jiff::Timestamp;
use rusqlite::Connection;

fn blobs() -> Vec<PackBlob> {
    let blob = |number: u8, offset, uncompressed_length| PackBlob {
        id: Id::of(&[number]),
        kind: if number.is_multiple_of(2) { BlobKind::Data } else { BlobKind::Tree },
        offset,
        length: 100,
        uncompressed_length,
    };
    vec![blob(0, 0, Some(4096)), blob(1, 100, None), blob(2, 200, Some(65536))]
}

/// A database of a few pages, and the log that a writer who was stopped left beside it.
fn database() -> (Vec<u8>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seed.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "PRAGMA page_size = 512; PRAGMA journal_mode = WAL; CREATE TABLE t (a INTEGER PRIMARY KEY, b);
             CREATE TABLE w (k TEXT PRIMARY KEY, v) WITHOUT ROWID; CREATE INDEX tb ON t (b);
             PRAGMA wal_checkpoint(TRUNCATE);",
        )
        .unwrap();
    for row in 0..60 {
        connection.execute("INSERT INTO t (b) VALUES (?1)", [format!("row {row}").repeat(5)]).unwrap();
        connection.execute("INSERT INTO w VALUES (?1, 1)", [format!("key {row}")]).unwrap();
    }
    let log = fs::read(path.with_extension("db-wal")).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    (fs::read(&path).unwrap(), log)
}

/// A database with tables of each kind, a long value and free pages.
fn tables() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seed.db");
    let connection = Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "PRAGMA page_size = 512; CREATE TABLE t (a INTEGER PRIMARY KEY, b); CREATE TABLE n (b);
             CREATE TABLE w (k TEXT PRIMARY KEY, v) WITHOUT ROWID; CREATE TABLE gone (x); CREATE INDEX nb ON n (b);
             WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 12)
             INSERT INTO t SELECT i, 'row ' || hex(zeroblob(35)) FROM c;
             INSERT INTO w SELECT b || a, NULL FROM t; INSERT INTO n SELECT a FROM t;
             INSERT INTO t VALUES (99, hex(zeroblob(700))); INSERT INTO gone VALUES (zeroblob(1500)); DROP TABLE gone",
        )
        .unwrap();
    fs::read(&path).unwrap()
}

/// One document of each kind that lies beside files, about the file of two rows that lies beside it.
fn documents() -> Vec<Vec<u8>> {
    let hash = Id::of(b"\"x\"\r\n1\r\n2\r\n");
    let texts = [
        format!("{hash}  a.csv\n\\{hash} *./a.csv\nSHA256 (a.csv) = {hash}\n"),
        format!("{hash}\n"),
        format!(
            r#"{{"backup_session":"1","databases":{{"a":{{"success":true,"backup_path":"x/a.csv","backup_hash":"{hash}","tables":["a"],"total_records":2}}}},"missing":[{{"database":"b","status":"forgotten"}}]}}"#
        ),
        format!(
            r#"{{"timestamp":"t","type":"hourly","filename":"a.csv","size_bytes":11,"checksum":"{hash}","database_stats":{{"tables":{{"a":2}}}}}}"#
        ),
        r#"{"timestamp":"t","hostname":"h","user":"u","git_branch":"main","git_commit":"4a"}"#.to_owned(),
        r#"{"format":"dbkeep csv 1","database":"a","row_counts":{"t":2},"files":{"t":"a.csv"}}"#.to_owned(),
    ];
    (0..).zip(texts).map(|(choice, text): (u8, String)| [&[choice], text.as_bytes()].concat()).collect()
}

/// Returns what our own encoders give a target to read.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
    let tree = || {
        let file = Node::file("app.db", now, 65536, vec![Id::of(b"chunk"), Id::of(b"another")]);
        Tree { nodes: vec![file, Node::directory("app.db.parts", now, Id::of(b"tree"))] }
    };
    match name {
        "pack_header" => {
            let mut bytes = 336u32.to_le_bytes().to_vec();
            bytes.extend(pack::encode_header(&blobs()));
            vec![bytes]
        }
        "index" => {
            let pack = |number: u8| IndexPack { id: Id::of(&[number]), time: Some(now), blobs: blobs() };
            let file = IndexFile { packs: vec![pack(1)], packs_to_delete: vec![pack(2)], ..Default::default() };
            vec![file.encode(), IndexFile::default().encode()]
        }
        "tree" => vec![tree().encode().unwrap()],
        "snapshot" => vec![Snapshot::new(now, Id::of(b"tree")).encode()],
        "config" => vec![Config::generate().unwrap().encode()],
        "fact" => {
            let snapshot =
                SnapshotRef { id: Id::of(b"s"), tree: Id::of(b"t"), database: "app".to_owned() };
            let fact = Fact::Acknowledged { session: "20260102_030405".to_owned(), snapshots: vec![snapshot] };
            let file =
                FactFile { version: 1, time: now, hostname: "host".to_owned(), previous: vec![Id::of(b"f")], fact };
            vec![file.encode()]
        }
        "postgres_text" => {
            let rows: [&[u8]; 3] = [b"\x00\n\n", b"\x01a\\n\\\\N\n\\N\n\n", b"\x02\xc3\xa9\\t\t\\N\n\t\r\n"];
            rows.map(<[u8]>::to_vec).to_vec()
        }
        "postgres_json" => {
            let lines = [
                "\0{}\n{ }\n",
                "\u{1}{\"a\":\"1\\n\\u00e9\\ud83d\\ude00\"}\n{\"a\":null}",
                "\u{3}{\"a\":\"\",\"b \\\"\":\"\\\\N\",\"\u{fc}\":null}\n",
            ];
            lines.map(|line| line.as_bytes().to_vec()).to_vec()
        }
        "unpacked" => vec![unpacked::encode(br#"{"packs":[]}"#), b"{}".to_vec()],
        "known_chunks" => {
            let chunk = KnownChunk { fingerprint: [7; 32], id: Id::of(b"chunk") };
            vec![KnownChunks { chunk_size: 65536, chunks: vec![chunk; 3] }.encode()]
        }
        "sqlite_header" => vec![database().0[..100].to_vec()],
        "wal" => vec![[&[0], database().1.as_slice()].concat()],
        "rows" => vec![[&[0, 0], database().0.as_slice()].concat()],
        // Changes of a byte, and of a page into another.
        "compare" => {
            let changes: [&[u8]; 3] = [&[0, 1, 1, 0xff, 1, 1], &[1, 2, 6, 200, 0, 7, 9, 100, 1, 1], &[0, 1, 7, 5, 0, 0]];
            changes.into_iter().map(|changes| [changes, tables().as_slice()].concat()).collect()
        }
        "cache" => {
            let snapshot = record::encode_snapshot(&Snapshot::new(now, Id::of(b"tree")));
            let fact = FactFile::decode(&seeds("fact")[0]).unwrap();
            let index = IndexFile::decode(&seeds("index")[0]).unwrap();
            let objects = [
                (FileKind::Snapshot, snapshot),
                (FileKind::Fact, record::encode_fact(&fact).unwrap()),
                (FileKind::Index, record::encode_index(&index)),
            ];
            let segment = |(choice, (kind, object)): (u8, (FileKind, Vec<u8>))| {
                let mut draft = segment::Draft::new(&segment::Header { kind, repository: Id::NULL });
                draft.add(&Id::of(b"one"), &object);
                draft.add(&Id::of(b"two"), &object);
                [&[choice], draft.plain()].concat()
            };
            (0..).zip(objects).map(segment).collect()
        }
        "sql_split" => [
            "CREATE TABLE t(a DEFAULT ';' /* ; */, \"b;\", [c], `d`) -- end",
            "CREATE TEMP TRIGGER t AFTER INSERT ON a BEGIN SELECT CASE WHEN 1 THEN ';' END; END",
            "CREATE VIEW v AS SELECT 4\n/\n.5, t\ngo",
            "CREATE INDEX i ON t(a) /* end",
        ]
        .map(|sql| sql.as_bytes().to_vec())
        .into(),
        "json_document" => [
            r#"{"metadata":{"format":"dbkeep json 1","database":"a","row_counts":{"t":2,"u":0}},"tables":{"t":[{"a":1.5,"b":null},{"a":{"$blob":"AA=="},"b":{"$integer":"9223372036854775807"}}],"u":[]}}"#,
            r#"{"exported":"today","users":[{"id":1}],"tables":{"orders":[{}],"x":7},"tags":[1,2]}"#,
        ]
        .map(|text| text.as_bytes().to_vec())
        .into(),
        "json_lines" => [
            "{\"metadata\":{\"format\":\"dbkeep ndjson 1\",\"row_counts\":{\"t\":1,\"u\":0}}}\n{\"table\":\"t\",\"row\":{\"a\":{\"$real\":\"Infinity\"}}}\n{\"end\":{\"tables\":2,\"rows\":1}}\n",
            "{\"id\":1,\"end\":2}\n\n{\"id\":2}\n",
        ]
        .map(|text| text.as_bytes().to_vec())
        .into(),
        "documents" => documents(),
        "archive" => {
            let mut archive = tar::Builder::new(Vec::new());
            let long = format!("{}/rows.csv", "long".repeat(40));
            for (name, contents) in
                [("a.json", &b"{\"users\":[{\"id\":1}]}"[..]), (&long, b"x\n1\n"), ("b.sql", b"CREATE TABLE t(a);\n")]
            {
                let mut header = tar::Header::new_gnu();
                header.set_size(contents.len() as u64);
                archive.append_data(&mut header, name, contents).unwrap();
            }
            vec![archive.into_inner().unwrap()]
        }
        // Keys and locks name their fields as stock tools do: text is the clearer seed.
        "key_file" => vec![br#"{"created":"2026-01-02T03:04:05Z","username":"u","hostname":"h","kdf":"scrypt","N":32768,"r":8,"p":1,"salt":"c2FsdA==","data":"ZGF0YQ=="}"#.to_vec()],
        "lock" => vec![br#"{"time":"2026-01-02T03:04:05Z","exclusive":false,"hostname":"h","username":"u","pid":7,"uid":1,"gid":1}"#.to_vec()],
        _ => panic!("{name} has no seed"),
    }
}

/// Returns the files that fuzzing kept for a target.
fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
    let Ok(entries) = fs::read_dir(&folder) else { return Vec::new() };
    entries.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect()
}

/// Gives `target` the bytes whole, cut at every length and with every byte changed in turn.
///
/// Long inputs are cut and changed at about a thousand places.
fn with_damage(run: fn(&[u8]), bytes: &[u8]) {
    run(bytes);
    let step = bytes.len() / 1000 + 1;
    for at in (0..bytes.len()).step_by(step) {
        run(&bytes[..at]);
        for change in [0x01, 0x80, 0xff] {
            let mut damaged = bytes.to_vec();
            damaged[at] ^= change;
            run(&damaged);
        }
    }
}

#[test]
fn no_target_breaks_on_seeds_corpus_or_damage() {
    for (name, run) in TARGETS {
        for input in seeds(name) {
            with_damage(run, &input);
        }
        for input in corpus(name) {
            run(&input);
        }
    }
}

fn is_good(contents: &[(&str, &[u8])]) -> bool {
    verified(contents).is_some_and(|report| report.ok > 0 && report.damaged == 0)
}

#[test]
fn every_seed_is_really_parsed() {
    // A target that refuses its own seed would test nothing.
    let accepted = |name: &str, bytes: &[u8]| match name {
        "pack_header" => pack::decode_header(&bytes[4..], 336 + bytes.len() as u64 - 4).is_ok(),
        "index" => IndexFile::decode(bytes).is_ok(),
        "tree" => Tree::decode(bytes).is_ok(),
        "snapshot" => Snapshot::decode(bytes).is_ok(),
        "config" => Config::decode(bytes).is_ok(),
        "fact" => FactFile::decode(bytes).is_ok(),
        "unpacked" => unpacked::decode(bytes).is_ok(),
        "known_chunks" => KnownChunks::decode(bytes).is_ok(),
        "key_file" => dbkeep_repo::format::key::KeyFile::decode(bytes).is_ok_and(|key| key.cost().is_ok()),
        "lock" => dbkeep_repo::format::lock::LockFile::decode(bytes).is_ok(),
        "sqlite_header" => dbkeep_sqlite::header::Header::parse(bytes.try_into().unwrap()).is_ok(),
        "wal" => bytes.len() > 33 && bytes[1..5] == [0x37, 0x7f, 0x06, 0x82],
        "cache" => {
            let kind = [FileKind::Snapshot, FileKind::Fact, FileKind::Index][usize::from(bytes[0])];
            let header = segment::Header { kind, repository: Id::NULL };
            let is_read = |object: &[u8]| match kind {
                FileKind::Snapshot => record::decode_snapshot(object).is_ok(),
                FileKind::Fact => record::decode_fact(object).is_ok(),
                _ => record::decode_index(object).is_ok_and(|packs| packs.len() == 2),
            };
            let records = segment::records(&bytes[1..], &header).unwrap();
            records.len() == 2 && records.into_iter().all(|(_, range)| is_read(&bytes[1..][range]))
        }
        "rows" => bytes[2..].starts_with(b"SQLite format 3\0"),
        "compare" => bytes[2 + 4 * usize::from(bytes[1])..].starts_with(b"SQLite format 3\0"),
        "sql_split" => {
            let single = split::single(std::str::from_utf8(bytes).unwrap());
            single != Single::More && (single == Single::Cut) == bytes.contains(&b'4')
        }
        "postgres_text" => {
            let mut rows = dbkeep_postgres::text::Rows::new(usize::from(bytes[0]));
            rows.push(&bytes[1..], &mut |_| Ok(())).is_ok()
                && rows.finish() == Ok(2 + u64::from(bytes[0] == 1))
        }
        "postgres_json" => {
            let mut decoder = dbkeep_postgres::json::Decoder::new(&dbkeep_fuzz::columns(bytes[0]));
            decoder.push(&bytes[1..], &mut Vec::new()).is_ok() && decoder.finish().is_ok_and(|rows| rows > 0)
        }
        "json_document" => is_good(&[("a.json", bytes)]),
        "json_lines" => is_good(&[("a.ndjson", bytes)]),
        "archive" => is_good(&[("a.tar", bytes)]),
        // Beside a file that they are not about, they tell of one that is missing, or of nothing.
        "documents" => {
            let names = [
                "SHA256SUMS",
                "a.csv.sha256",
                "backup_manifest.json",
                "a.csv.meta.json",
                "backup-metadata.1.json",
                "metadata.json",
            ];
            let csv = b"\"x\"\r\n1\r\n2\r\n";
            is_good(&[(names[usize::from(bytes[0])], &bytes[1..]), ("a.csv", csv)])
        }
        _ => false,
    };
    for (name, _) in TARGETS {
        for seed in seeds(name) {
            assert!(accepted(name, &seed), "{name}: {}", String::from_utf8_lossy(&seed));
        }
    }
}

#[test]
fn every_target_has_a_program_for_the_fuzzer() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets");
    let mut programs: Vec<String> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    programs.sort();
    let mut names: Vec<&str> = TARGETS.iter().map(|(name, _): &Target| *name).collect();
    names.sort_unstable();
    assert_eq!(programs, names);
}
