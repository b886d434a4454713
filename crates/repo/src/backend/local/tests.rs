//! The local backend against crashes, full disks, missing folders and odd files.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use super::*;

fn repository() -> (tempfile::TempDir, LocalBackend) {
    let folder = tempfile::tempdir().unwrap();
    let backend = LocalBackend::new(folder.path().join("repository"));
    backend.create().unwrap();
    backend.write(FileKind::Config, &Id::NULL, b"config").unwrap();
    (folder, backend)
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files_below(&path));
        }
        found.push(path);
    }
    found
}

#[test]
fn local_folder_conforms() {
    let folders = Mutex::new(Vec::new());
    super::super::conformance::run(&|| {
        let folder = tempfile::tempdir().unwrap();
        let backend = LocalBackend::new(folder.path().join("a/b"));
        folders.lock().unwrap().push(folder);
        Arc::new(backend)
    });
}

#[test]
fn everything_is_for_this_user_only() {
    let (_folder, backend) = repository();
    for kind in FileKind::ALL {
        backend.write(kind, &Id::of(b"x"), b"config").unwrap();
    }
    backend.write_held_lock(&Id::of(b"l"), b"l").unwrap();
    let found = files_below(backend.root());
    assert!(found.len() > 256 + 14);
    for path in found {
        let mode = path.metadata().unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, if path.is_dir() { 0o700 } else { 0o600 }, "{}", path.display());
    }
}

#[test]
fn folder_that_is_missing_is_an_error_and_not_an_empty_listing() {
    for (kind, folder) in [
        (FileKind::Key, "keys"),
        (FileKind::Snapshot, "snapshots"),
        (FileKind::Index, "index"),
        (FileKind::Pack, "data"),
    ] {
        let (_folder, backend) = repository();
        fs::remove_dir_all(backend.root().join(folder)).unwrap();
        assert!(matches!(backend.list(kind), Err(Error::Listing { .. })), "{folder}");
        fs::write(backend.root().join(folder), b"").unwrap();
        assert!(matches!(backend.list(kind), Err(Error::Listing { .. })), "{folder} is a file");
    }
}

#[test]
fn folders_that_copying_leaves_out_are_made_again() {
    let (_folder, backend) = repository();
    let id = Id::of(b"x");
    for folder in ["locks", "dbkeep"] {
        fs::remove_dir_all(backend.root().join(folder)).unwrap();
    }
    fs::remove_dir_all(backend.root().join("data").join(format!("{id:.2}"))).unwrap();
    for kind in [FileKind::Lock, FileKind::Fact, FileKind::Pack] {
        assert_eq!(backend.list(kind).unwrap(), []);
        backend.write(kind, &id, b"x").unwrap();
        assert_eq!(backend.list(kind).unwrap().len(), 1);
    }
    // Without a config this is no repository, so the folder may just as well be an unmounted disk.
    fs::remove_file(backend.root().join("config")).unwrap();
    fs::remove_dir_all(backend.root().join("locks")).unwrap();
    assert!(backend.list(FileKind::Lock).is_err());
}

#[test]
fn nothing_is_made_where_the_disk_of_the_repository_is_not_mounted_any_more() {
    let (scratch, backend) = repository();
    durable::rename(backend.root(), &scratch.path().join("disk")).unwrap();
    fs::create_dir(backend.root()).unwrap();
    for kind in [FileKind::Pack, FileKind::Lock, FileKind::Fact, FileKind::Index] {
        assert!(backend.write(kind, &Id::of(b"x"), b"x").is_err(), "{kind:?}");
    }
    assert!(backend.write_held_lock(&Id::of(b"x"), b"x").is_err());
    assert_eq!(fs::read_dir(backend.root()).unwrap().count(), 0);
}

#[test]
fn folder_instead_of_an_object_is_an_error() {
    let (_folder, backend) = repository();
    fs::create_dir(backend.root().join("snapshots").join(Id::of(b"x").to_string())).unwrap();
    assert!(matches!(backend.list(FileKind::Snapshot), Err(Error::Listing { .. })));
}

#[test]
fn names_that_are_no_ids_are_left_out() {
    let (_folder, backend) = repository();
    fs::write(backend.root().join("snapshots/tmp-123"), b"x").unwrap();
    fs::write(backend.root().join(format!("snapshots/{}-tmp-1", Id::of(b"x"))), b"x").unwrap();
    assert_eq!(backend.list(FileKind::Snapshot).unwrap(), []);
}

#[test]
fn place_with_a_file_of_somebody_else_is_not_empty() {
    for foreign in ["notes.txt", "data/notes.txt", "dbkeep/notes.txt", "photos"] {
        let folder = tempfile::tempdir().unwrap();
        let backend = LocalBackend::new(folder.path());
        backend.create().unwrap();
        assert!(backend.is_empty().unwrap());
        match foreign {
            "photos" => fs::create_dir(folder.path().join(foreign)).unwrap(),
            _ => fs::write(folder.path().join(foreign), b"x").unwrap(),
        }
        assert!(!backend.is_empty().unwrap(), "{foreign}");
    }
}

#[test]
fn temporary_files_of_writers_that_are_gone_are_removed() {
    let (_folder, backend) = repository();
    fs::write(backend.temporary().join("0123.tmp"), b"half a pack").unwrap();
    let writing = backend.stage(b"in progress").unwrap();
    assert_eq!(backend.clean_temporary().unwrap(), 1);
    assert!(writing.path().exists());
}

#[test]
fn object_that_cannot_be_read_names_its_path() {
    let (_folder, backend) = repository();
    let id = Id::of(b"x");
    fs::create_dir(backend.root().join("index").join(id.to_string())).unwrap();
    let error = backend.read(FileKind::Index, &id).unwrap_err();
    assert!(error.to_string().contains("/index/"), "{error}");
}

#[test]
fn object_larger_than_any_is_not_read() {
    let (_folder, backend) = repository();
    let id = Id::of(b"x");
    let file = File::create(backend.root().join("index").join(id.to_string())).unwrap();
    file.set_len(OBJECT_LIMIT + 1).unwrap();
    assert!(matches!(backend.read(FileKind::Index, &id), Err(Error::Damaged { .. })));
}

#[test]
fn disk_that_fills_up_is_told_apart() {
    // A file system of a fixed size needs a mount, so the test runs itself in a namespace of its own.
    if let Ok(folder) = std::env::var("DBKEEP_TEST_FULL_DISK") {
        fill(&LocalBackend::new(folder));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let command = "mount -t tmpfs -o size=2m,mode=700 none \"$0\" && \"$@\"";
    let test = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", command])
        .arg(folder.path())
        .arg(test)
        .args(["--exact", "backend::local::tests::disk_that_fills_up_is_told_apart", "--nocapture"])
        .env("DBKEEP_TEST_FULL_DISK", folder.path())
        .output();
    match output {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("running 1 test") => {
            assert!(output.status.success(), "{output:?}");
        }
        other => println!("skipped: no file system can be mounted: {other:?}"),
    }
}

fn fill(backend: &LocalBackend) {
    backend.create().unwrap();
    let mut stored = Vec::new();
    let error = loop {
        let contents = vec![u8::try_from(stored.len()).unwrap(); 300_000];
        match backend.write(FileKind::Pack, &Id::of(&contents), &contents) {
            Ok(()) => stored.push(contents),
            Err(error) => break error,
        }
    };
    let folder = backend.root().join("data");
    match &error {
        Error::NoSpace { path, needed, .. } => {
            assert!(path.starts_with(&folder));
            assert_eq!(*needed, 300_000);
        }
        other => panic!("{other:?}"),
    }
    assert!(!stored.is_empty());
    for contents in &stored {
        assert_eq!(&backend.read(FileKind::Pack, &Id::of(contents)).unwrap(), contents);
    }
    assert_eq!(backend.list(FileKind::Pack).unwrap().len(), stored.len());
    assert_eq!(fs::read_dir(backend.temporary()).unwrap().count(), 0, "what was half written is gone");
    assert!(backend.free_space().unwrap().unwrap() < 300_000);
    backend.remove(FileKind::Pack, &Id::of(&stored[0])).unwrap();
    let small = [1; 1000];
    backend.write(FileKind::Pack, &Id::of(&small), &small).unwrap();
}

#[test]
fn writer_that_is_killed_leaves_whole_objects_only() {
    // The writer is this test in another process.
    if let Ok(folder) = std::env::var("DBKEEP_TEST_WRITE_IN") {
        let backend = LocalBackend::new(folder);
        for number in 0u64.. {
            let contents = number.to_le_bytes().repeat(20_000);
            backend.write(FileKind::Pack, &Id::of(&contents), &contents).unwrap();
            println!("\nstored {}", Id::of(&contents));
        }
    }
    let mut half_written = 0;
    for round in 0..12 {
        let (_folder, backend) = repository();
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "backend::local::tests::writer_that_is_killed_leaves_whole_objects_only",
                "--nocapture",
            ])
            .env("DBKEEP_TEST_WRITE_IN", backend.root())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stored = Vec::new();
        for line in BufReader::new(writer.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            stored.extend(line.strip_prefix("stored ").map(|id| id.parse::<Id>().unwrap()));
            if stored.len() > round {
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        let listed = backend.list(FileKind::Pack).unwrap();
        for info in &listed {
            assert_eq!(Id::of(&backend.read(FileKind::Pack, &info.id).unwrap()), info.id);
        }
        for id in stored {
            assert!(listed.iter().any(|info| info.id == id), "{id} was reported as stored");
        }
        half_written += backend.clean_temporary().unwrap();
        assert_eq!(fs::read_dir(backend.temporary()).unwrap().count(), 0);
    }
    println!("{half_written} half-written files were cleaned up");
}

/// Runs a test of this file in another process under strace. `None` where that cannot be done.
fn under_strace(test: &str, root: &Path, trace: &Path, options: &[&str]) -> Option<String> {
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o"])
        .arg(trace)
        .args(["-e", "trace=fsync,renameat2"])
        .args(options)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("backend::local::tests::{test}"), "--nocapture"])
        .env("DBKEEP_TEST_TRACED", root)
        .output();
    match output {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("running 1 test") => {
            assert!(output.status.success(), "{output:?}");
            Some(fs::read_to_string(trace).unwrap())
        }
        other => {
            println!("skipped: strace does not run: {other:?}");
            None
        }
    }
}

#[test]
fn file_is_synced_before_it_is_named_and_its_folder_after() {
    let id = Id::of(b"x");
    if let Ok(folder) = std::env::var("DBKEEP_TEST_TRACED") {
        return LocalBackend::new(folder).write(FileKind::Pack, &id, b"x").unwrap();
    }
    let (folder, backend) = repository();
    let test = "file_is_synced_before_it_is_named_and_its_folder_after";
    let Some(trace) = under_strace(test, backend.root(), &folder.path().join("trace"), &["-y"]) else {
        return;
    };
    let calls: Vec<&str> = trace.lines().collect();
    assert_eq!(calls.len(), 3, "{trace}");
    assert!(calls[0].contains("fsync(") && calls[0].contains("/dbkeep/tmp/"), "{trace}");
    assert!(calls[1].contains("renameat2(") && calls[1].contains("RENAME_NOREPLACE"), "{trace}");
    assert!(calls[2].contains("fsync(") && calls[2].contains(&format!("/data/{id:.2}>")), "{trace}");
}

#[test]
fn sync_that_fails_fails_the_write_and_leaves_nothing() {
    let id = Id::of(b"x");
    if let Ok(folder) = std::env::var("DBKEEP_TEST_TRACED") {
        let error = LocalBackend::new(folder).write(FileKind::Pack, &id, b"x").unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error:?}");
        return;
    }
    // The first sync is of the file, the second of its folder.
    for (failing, syncs) in [("fsync:error=EIO:when=1", 1), ("fsync:error=EIO:when=2", 2)] {
        let (folder, backend) = repository();
        let (trace, option) = (folder.path().join("trace"), format!("inject={failing}"));
        let test = "sync_that_fails_fails_the_write_and_leaves_nothing";
        let Some(trace) = under_strace(test, backend.root(), &trace, &["-e", &option]) else { return };
        assert_eq!(trace.matches("fsync(").count(), syncs, "a failed sync is not tried again: {trace}");
        assert_eq!(backend.list(FileKind::Pack).unwrap(), []);
        assert_eq!(fs::read_dir(backend.temporary()).unwrap().count(), 0);
        backend.write(FileKind::Pack, &id, b"x").unwrap();
    }
}
