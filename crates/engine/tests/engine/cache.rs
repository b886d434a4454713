//! What this host keeps of a repository makes commands quick and never makes them wrong.

use dbkeep_engine::check::{CheckRequest, ReadData};
use dbkeep_engine::forget::{self, Choice, ForgetRequest};
use dbkeep_engine::list::{self, ListRequest};
use dbkeep_engine::report::VerifyStatus;
use dbkeep_engine::repository::{self, Store};
use dbkeep_engine::verify::{self, VerifyRequest};
use dbkeep_engine::{Context, backup, show, status};

use crate::fixture::{Fixture, insert, of, rows, snapshot, to, told};

/// Returns how another machine sees the place: with a state of its own.
fn other_machine(place: &Fixture) -> Context {
    let mut context = place.context.clone();
    context.environment.state_directory = place.path("state-elsewhere");
    context
}

/// Flips a bit in every object of a folder of the repository.
fn spoil(place: &Fixture, folder: &str) {
    let objects = place.objects(folder);
    assert!(!objects.is_empty());
    for path in objects {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[40] ^= 4;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn what_another_machine_stores_and_forgets_is_seen() {
    let place = Fixture::new();
    let shop = place.database("shop.db", 10);
    let first = place.stored("shop.db").snapshot.unwrap();
    insert(&shop, 5);
    let second = place.stored("shop.db").snapshot.unwrap();
    let listed = || place.list().snapshots.iter().map(|row| row.id).collect::<Vec<_>>();
    assert_eq!(listed(), [second, first]);

    let context = other_machine(&place);
    let other: Store = repository::open(&context, place.now(), &place.watch()).unwrap();
    let choice = Choice::Named { snapshots: vec![first.to_string()], force: false };
    let request = ForgetRequest { choice, database: None, dry_run: false };
    forget::run(&other, &request, place.now(), &place.watch()).unwrap();
    assert_eq!(listed(), [second]);
    let status = status::run(&place.open().unwrap(), place.now()).unwrap();
    assert!(status.problems.is_empty(), "{:?}", status.problems);

    insert(&shop, 5);
    let third = backup::run(&context, &of(&["shop.db"]), place.now(), &place.watch()).unwrap();
    let third = third.databases[0].snapshot.unwrap();
    assert_eq!(listed(), [third, second]);
    let there = list::run(&other, &ListRequest::default()).unwrap();
    assert_eq!(there.snapshots.iter().map(|row| row.id).collect::<Vec<_>>(), [third, second]);
    assert!(place.check(&CheckRequest::default()).ok);
}

#[test]
fn check_and_verify_see_what_the_cache_hides() {
    for folder in ["snapshots", "index"] {
        let place = Fixture::new();
        drop(place.database("shop.db", 10));
        let stored = place.stored("shop.db");
        place.restored(&snapshot(&stored, to("before.db")));
        let opened_before = place.open().unwrap();
        show::run(&opened_before, "latest", None, place.now()).unwrap();
        spoil(&place, folder);
        // This host can still restore, with what it has kept.
        place.restored(&snapshot(&stored, to("restored.db")));
        assert_eq!(rows(&place.path("restored.db")), rows(&place.path("shop.db")), "{folder}");
        let warnings = place.warnings();
        let expected = match folder {
            "snapshots" => "cannot be read any more",
            _ => "a part of the index cannot be read",
        };
        assert!(warnings.iter().any(|warning| warning.contains(expected)), "{warnings:?}");
        if folder == "snapshots" {
            let status = status::run(&opened_before, place.now()).unwrap();
            assert!(status.problems.iter().any(|problem| problem.contains("gone or damaged")), "{status:?}");
        } else {
            // What others could not restore is not acknowledged.
            let error = place.backup(&of(&["shop.db"])).unwrap_err();
            assert_eq!(told(&error).0, "damaged", "{error:?}");
        }

        let found = place.check(&CheckRequest { read_data: ReadData::All, ..CheckRequest::default() });
        assert!(!found.ok, "{folder}");
        let verify = VerifyRequest::default();
        let verified = verify::run(&opened_before, &verify, place.now(), &place.watch()).unwrap();
        assert_eq!((verified.ok, verified.damaged), (0, 1), "{folder}: {verified:?}");
        assert_eq!(verified.checked[0].status, VerifyStatus::Damaged, "{folder}");
    }
}

#[test]
fn nothing_that_is_kept_can_be_read_without_the_key() {
    let place = Fixture::new();
    drop(place.database("very-secret.db", 10));
    place.stored("very-secret.db");
    // The first command after a backup keeps what it stored.
    drop(place.stored("very-secret.db"));
    let mut folders = vec![place.context.environment.state_directory.clone()];
    let mut kinds = std::collections::BTreeSet::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if folder.ends_with("cache") {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                kinds.insert(name.split('-').next().unwrap().to_owned());
                let bytes = std::fs::read(&path).unwrap();
                assert!(!bytes.windows(11).any(|window| window == b"very-secret"), "{name}");
                let mode = std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions());
                assert_eq!(mode & 0o777, 0o600, "{name}");
            }
        }
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["fact", "index", "snapshot"]);
}
