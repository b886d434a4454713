//! Stock restic reads what we write, and we read what it writes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use dbkeep_repo::backend::LocalBackend;
use dbkeep_repo::check::{CheckOptions, ReadData, check};
use dbkeep_repo::{Repository, Unobserved};

use crate::scene::{Memory, backup, bytes, init, load, open, restore};

/// Finds restic; says so when there is none.
fn restic() -> Option<PathBuf> {
    let found = std::env::var_os("DBKEEP_TEST_RESTIC").map(PathBuf::from).or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|folder| folder.join("restic")).find(|file| file.is_file())
    });
    if found.is_none() {
        eprintln!("skipped: restic is not installed");
    }
    found
}

fn run(restic: &Path, repository: &Path, arguments: &[&str]) -> String {
    let output = Command::new(restic)
        .args(["--no-cache", "--repo"])
        .arg(repository)
        .args(arguments)
        .env("RESTIC_PASSWORD", "open sesame")
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "restic {arguments:?}: {text}");
    text
}

fn sound(repository: &Repository) {
    let options = CheckOptions { read_data: ReadData::All, ..CheckOptions::default() };
    let report = check(repository, &options, &Unobserved).unwrap();
    assert!(report.ok, "{:?}", report.findings);
}

#[test]
fn restic_checks_and_restores_what_we_store() {
    let Some(restic) = restic() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let place = scratch.path().join("repository");
    let repository = init(Arc::new(LocalBackend::new(&place)));
    // One image that is a file, and one that is large enough to be stored in parts.
    let small = bytes(1, 300_001);
    let large = bytes(2, 4096 * 2500 + 17);
    let first = backup(&repository, &small).unwrap();
    let second = backup(&repository, &large).unwrap();
    backup(&repository, b"").unwrap();

    assert!(run(&restic, &place, &["check", "--read-data"]).contains("no errors were found"));
    let target = scratch.path().join("restored");
    let to = ["--target", target.to_str().unwrap()];
    let id = first.id.unwrap().to_string();
    run(&restic, &place, &["restore", &id, to[0], to[1]]);
    assert!(std::fs::read(target.join("shop/shop.db")).unwrap() == small);
    let id = second.id.unwrap().to_string();
    run(&restic, &place, &["restore", &id, to[0], to[1]]);
    let mut joined = Vec::new();
    for part in ["00000", "00001", "00002"] {
        joined.extend(std::fs::read(target.join("shop/shop.db.parts").join(part).join("part")).unwrap());
    }
    assert!(joined == large);
    assert!(restore(&repository, &first).unwrap() == small);
    assert!(restore(&repository, &second).unwrap() == large);
    sound(&repository);
}

#[test]
fn we_check_and_restore_what_restic_stores() {
    let Some(restic) = restic() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let place = scratch.path().join("repository");
    run(&restic, &place, &["init", "--repository-version", "2"]);
    // Large enough for several chunks, which restic cuts by content, at lengths of its own.
    let contents = bytes(3, 9_000_000);
    let folder = scratch.path().join("folder");
    std::fs::create_dir_all(folder.join("deep")).unwrap();
    std::fs::write(folder.join("deep/large.db"), &contents).unwrap();
    std::fs::write(folder.join("empty"), b"").unwrap();
    std::os::unix::fs::symlink("empty", folder.join("link")).unwrap();
    run(&restic, &place, &["backup", folder.to_str().unwrap()]);

    let repository = open(Arc::new(LocalBackend::new(&place)));
    sound(&repository);
    let snapshot = repository.snapshots().unwrap().remove(0);
    let reader = load(&repository);
    let directory = folder.join("deep");
    let image = reader.image(&snapshot, directory.to_str().unwrap(), "large.db").unwrap().unwrap();
    assert!(image.chunks() > 1 && image.chunk_size().is_none());
    let sink = Memory::default();
    reader.restore(&image, &sink, &Unobserved).unwrap();
    assert!(sink.into_bytes() == contents);

    let random = reader.random(&image, 1 << 20, None).unwrap();
    let mut piece = vec![0; 3_000_000];
    random.read_at(1_234_567, &mut piece).unwrap();
    assert!(piece == contents[1_234_567..4_234_567]);

    // Both kinds of snapshots live side by side.
    let ours = backup(&repository, &contents).unwrap();
    run(&restic, &place, &["backup", folder.to_str().unwrap()]);
    assert!(run(&restic, &place, &["check", "--read-data"]).contains("no errors were found"));
    assert_eq!(repository.snapshots().unwrap().len(), 3);
    sound(&repository);
    assert!(restore(&repository, &ours).unwrap() == contents);
}
