//! What goes wrong with an export: wrong words, a directory that is not for it, damage in the repository, kill -9.
//! Nothing is overwritten, and nothing that is not whole has a name.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};

use crate::environment::TestEnvironment;

const FORMATS: [&str; 8] = ["bundle", "db", "gzip", "tar.gz", "sql", "json", "ndjson", "csv"];

fn with_backup() -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.users("app.db", 500);
    environment.users("other.db", 20);
    environment.ok(["backup", "app.db", "other.db"]);
    environment
}

/// Returns what is in a directory, without what is being built there.
fn named(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| !path.ends_with(".dbkeep-export"));
    paths.sort();
    paths
}

#[test]
fn session_or_snapshot_that_does_not_exist() {
    let environment = with_backup();
    let before = environment.tree();
    let session = environment.ok_json(&["list"])["snapshots"][0]["session"].as_str().unwrap().to_owned();
    let run = environment.run(["export", "--session", "20200101_000000", "--out", "out"]);
    run.expect_failure(
        1,
        "no snapshot of session \"20200101_000000\"",
        &format!("the newest session is {session}"),
    );
    environment.run(["export", "ffff", "--out", "out"]).expect_failure(
        1,
        "no snapshot \"ffff\"",
        "dbkeep list",
    );
    let run = environment.run(["export", &session, "--out", "out"]);
    run.expect_failure(1, "no snapshot", &format!("that is a session: --session {session}"));
    environment.run(["export", "latest", "--out", "out"]).expect_failure(
        2,
        "several databases",
        "--database",
    );
    let run = environment.run(["export", "--session", "latest", "--database", "ap", "--out", "out"]);
    run.expect_failure(1, "no snapshot of a database called \"ap\"", "did you mean \"app\"?");
    assert!(environment.tree() == before, "something changed");
}

#[test]
fn words_that_make_no_sense() {
    let environment = with_backup();
    environment.run(["export", "--out", "out"]).expect_failure(2, "SNAPSHOT", "export --help");
    environment.run(["export", "latest"]).expect_failure(2, "--out", "export --help");
    let run = environment.run(["export", "latest", "--session", "latest", "--out", "out"]);
    run.expect_failure(2, "cannot be used with", "export --help");
    let run = environment.run(["export", "latest", "--out", "out", "--format", "xml"]);
    run.expect_failure(2, "\"xml\" is no format of an export", "");
}

#[test]
fn directory_that_holds_something_else_is_refused_and_stays_as_it_is() {
    let environment = with_backup();
    let out = environment.path("mine");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("letter.txt"), "dear").unwrap();
    for format in FORMATS {
        let before = environment.tree();
        let run = environment.run(["export", "--session", "latest", "--out", "mine", "--format", format]);
        run.expect_failure(1, "is not empty: it holds letter.txt", "--out");
        let (code, document) =
            environment.json(&["export", "--session", "latest", "--out", "mine", "--format", format]);
        assert_eq!((code, &document["error"]["kind"]), (Some(1), &"refused".into()));
        assert!(environment.tree() == before, "{format}: something changed");
    }
    environment.run(["export", "--session", "latest", "--out", "app.db"]).expect_failure(
        1,
        "app.db",
        "check the path",
    );
}

#[test]
fn export_that_is_there_is_never_overwritten_and_others_may_lie_beside_it() {
    let environment = with_backup();
    let line = |format| ["export", "--session", "latest", "--out", "out", "--format", format];
    for format in FORMATS {
        environment.ok(line(format));
    }
    let before = environment.tree();
    for format in FORMATS {
        environment.run(line(format)).expect_failure(1, "exists", "remove it, or give another directory");
    }
    assert!(environment.tree() == before, "something changed");
    // Another session into the same directory.
    environment.ok(["backup", "app.db"]);
    environment.ok(line("bundle"));
}

#[test]
fn damage_in_the_repository_ends_an_export_with_nothing_written() {
    let environment = with_backup();
    let packs: Vec<PathBuf> = environment
        .tree()
        .into_iter()
        .map(|(path, _)| path)
        .filter(|path| path.to_string_lossy().contains("/backups/data/"))
        .collect();
    let sound: Vec<Vec<u8>> = packs.iter().map(|path| fs::read(path).unwrap()).collect();
    for format in FORMATS {
        // Whatever blob a flipped byte is in: that of a page that is read, or one that no row needs.
        let mut failed = 0;
        for part in 1..8 {
            for (path, sound) in packs.iter().zip(&sound) {
                let mut bytes = sound.clone();
                let at = bytes.len() * part / 8;
                bytes[at] ^= 1;
                let _ = fs::remove_file(path);
                fs::write(path, bytes).unwrap();
            }
            let out = format!("out-{format}-{part}");
            let (code, document) =
                environment.json(&["export", "--session", "latest", "--out", &out, "--format", format]);
            match code {
                Some(1) => {
                    failed += 1;
                    assert_eq!(document["error"]["kind"], "damaged", "{document:#}");
                    assert!(!environment.path(&out).exists(), "{format}: something was left");
                }
                // A byte between blobs, or in a directory that this host keeps a copy of.
                _ => assert_eq!(code, Some(0), "{format}: {document:#}"),
            }
            for (path, sound) in packs.iter().zip(&sound) {
                let _ = fs::remove_file(path);
                fs::write(path, sound).unwrap();
            }
        }
        assert!(failed >= 3, "{format}: only {failed} of 7 places were noticed");
    }
    environment.ok(["check", "--read-data"]);
}

#[test]
fn kill_at_any_step_leaves_only_whole_files_and_the_next_export_cleans_up() {
    if !cfg!(feature = "fault-injection") {
        eprintln!("skipped: needs the feature fault-injection");
        return;
    }
    let environment = with_backup();
    let (mut killed, mut told) = (0, 0);
    for format in FORMATS {
        let steps = [
            "export.database-written:1",
            "export.database-written:2",
            "export.written:1",
            "export.named:1",
            "export.named:2",
            "export.named:3",
            "export.named:4",
            "export.published:1",
        ];
        for (number, step) in steps.into_iter().enumerate() {
            let out = format!("out-{format}-{number}");
            let line = ["export", "--session", "latest", "--out", &out, "--format", format];
            let output = environment.command(line).env("DBKEEP_TEST_KILL_AT", step).output().unwrap();
            // A bundle and an archive have fewer names to give.
            if output.status.signal() != Some(9) {
                assert!(output.status.success() && step.starts_with("export.named"), "{format} {step}");
                continue;
            }
            killed += 1;
            let out = environment.path(&out);
            let there = named(&out);
            if matches!(step, "export.database-written:1" | "export.database-written:2" | "export.written:1")
            {
                assert!(there.is_empty(), "{format} {step}: {there:?}");
            }
            let (checksums, others): (Vec<&PathBuf>, Vec<&PathBuf>) =
                there.iter().partition(|path| path.extension().is_some_and(|ending| ending == "sha256"));
            for path in &others {
                let report = environment.ok_json(&["verify", path.to_str().unwrap()]);
                assert_eq!(report["damaged"], 0, "{format} {step}: {report:#}");
                let has_checksum = checksums.contains(&&PathBuf::from(format!("{}.sha256", path.display())));
                assert!(has_checksum || path.is_dir(), "{format} {step}: {}", path.display());
            }
            // What did not get its name is missed.
            if !there.is_empty() {
                let (code, report) = environment.json(&["verify", out.to_str().unwrap()]);
                let lacking = checksums.len().saturating_sub(others.len());
                assert_eq!(report["damaged"], lacking, "{format} {step}: {report:#}");
                assert_eq!(code, Some(if lacking > 0 { 4 } else { 0 }), "{format} {step}: {report:#}");
                told += usize::from(lacking > 0);
            }
            // The next one removes what the dead one was building, and is not in its way.
            let again = environment.run(line);
            match there.is_empty() {
                true => again.expect(0),
                false => again.expect_failure(1, "exists", ""),
            }
            if there.is_empty() {
                assert!(!out.join(".dbkeep-export").exists(), "{format} {step}");
            }
        }
    }
    assert!(killed > 40 && told > 15, "{killed} {told}");
}

#[test]
fn snapshot_of_a_damaged_database_comes_out_as_it_is_and_is_not_called_good() {
    let environment = TestEnvironment::new();
    let path = environment.users("app.db", 3000);
    rusqlite::Connection::open(&path)
        .unwrap()
        .execute_batch("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode = DELETE;")
        .unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096 * 3..4096 * 3 + 2000].fill(0xa5);
    fs::write(&path, &bytes).unwrap();
    let (code, report) = environment.json(&["backup", "app.db"]);
    assert_eq!(code, Some(4));
    let snapshot = report["databases"][0]["snapshot"].as_str().unwrap().to_owned();
    let (code, report) = environment.json(&["export", &snapshot, "--out", "out"]);
    assert_eq!((code, &report["databases"][0]["status"]), (Some(4), &"corrupt".into()), "{report:#}");
    let bundle = named(&environment.path("out")).remove(0);
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(bundle.join("manifests/backup_manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["databases"]["app"]["integrity_check"], false);
    assert_eq!(manifest["databases"]["app"]["status"], "corrupt");
    assert_ne!(manifest["databases"]["app"]["error"], serde_json::Value::Null);
    assert_eq!(environment.json(&["verify", bundle.to_str().unwrap()]).0, Some(4));
    // Its rows cannot be read: that is an error, never a shorter table.
    for format in ["sql", "json", "ndjson", "csv"] {
        let (code, report) = environment.json(&["export", &snapshot, "--out", "rows", "--format", format]);
        assert_eq!((code, &report["error"]["kind"]), (Some(1), &"damaged".into()), "{format}: {report:#}");
        assert!(!environment.path("rows").exists());
    }
}

#[test]
fn raw_copy_comes_out_with_what_belongs_to_it() {
    let environment = TestEnvironment::new();
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(16384)
    .collect();
    fs::write(environment.path("vault.db"), &noise).unwrap();
    fs::write(environment.path("vault.db-wal"), &noise[..4096]).unwrap();
    let report = environment.ok_json(&["backup", "vault.db"]);
    let session = report["session"].as_str().unwrap();
    environment.ok(["export", "latest", "--out", "out", "--format", "db"]);
    let out = environment.path("out");
    assert_eq!(fs::read(out.join(format!("vault_{session}.db"))).unwrap(), noise);
    assert_eq!(fs::read(out.join(format!("vault_{session}.db-wal"))).unwrap(), noise[..4096]);
    let run = environment.run(["export", "latest", "--out", "rows", "--format", "json"]);
    run.expect_failure(1, "vault is a raw copy", "--format db");
}
