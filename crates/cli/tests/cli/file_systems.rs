//! Repositories and restores on file systems that lack what a Unix one has.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::environment::{TestEnvironment, ask, restic};

/// An exFAT stick keeps no modes and knows no links: `DBKEEP_TEST_PLAIN_DISK` names a folder on one.
#[test]
fn disk_without_modes_and_links_holds_a_repository_and_takes_a_restore() {
    let Ok(disk) = std::env::var("DBKEEP_TEST_PLAIN_DISK") else {
        println!("skipped: DBKEEP_TEST_PLAIN_DISK names no file system without modes and links");
        return;
    };
    let disk = Path::new(&disk);
    assert!(lacks_modes_and_links(disk), "{} is none", disk.display());
    let repository = disk.join("stick");
    let environment = TestEnvironment::new().with("DBKEEP_REPOSITORY", repository.to_str().unwrap());
    let original = environment.users("app.db", 3000);
    environment.ok(["init"]);
    environment.ok(["backup", "app.db"]);
    rusqlite::Connection::open(&original)
        .unwrap()
        .execute_batch("DELETE FROM users WHERE id > 1000")
        .unwrap();
    environment.ok(["backup", "app.db"]);
    environment.ok(["check", "--read-data"]);

    let target = disk.join("restored.db");
    environment.ok(["restore", "latest~1", "--to", target.to_str().unwrap()]);
    assert_eq!(ask::<i64>(&target, "SELECT count(*) FROM users"), 3000);
    environment
        .run(["restore", "latest", "--to", target.to_str().unwrap()])
        .expect_failure(1, "exists", "--to");
    assert_eq!(ask::<i64>(&target, "SELECT count(*) FROM users"), 3000, "nothing was replaced");
    environment.ok(["restore", "latest", "--in-place", "--yes"]);
    environment.ok(["verify", "--all"]);

    if let Some(mut stock) = restic(&environment) {
        let checked = stock.arg("--repo").arg(&repository).args(["check", "--read-data"]).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }
    fs::remove_dir_all(&repository).unwrap();
    fs::remove_file(&target).unwrap();
}

fn lacks_modes_and_links(disk: &Path) -> bool {
    let (file, link) = (disk.join("probe"), disk.join("probe-link"));
    fs::write(&file, b"").unwrap();
    _ = fs::set_permissions(&file, fs::Permissions::from_mode(0o600));
    let mode = file.metadata().unwrap().permissions().mode() & 0o777;
    let lacks = mode != 0o600 && fs::hard_link(&file, &link).is_err();
    fs::remove_file(&file).unwrap();
    lacks
}
