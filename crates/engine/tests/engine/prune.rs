//! Space comes back, and nothing that this host remembers of a repository ever brings back a chunk that is gone.

use std::collections::HashSet;
use std::fs::{File, FileTimes};
use std::path::PathBuf;
use std::time::SystemTime;

use dbkeep_engine::backup;
use dbkeep_engine::check::{CheckRequest, ReadData};
use dbkeep_engine::forget::{self, Choice, ForgetRequest};
use dbkeep_engine::prune::{self, PruneRequest};
use dbkeep_engine::report::{DatabaseBackup, PruneReport, SizeReport};
use dbkeep_engine::{Id, Result, size};
use jiff::SignedDuration;

use crate::fixture::{Fixture, insert, of, rows, snapshot, to, told};

const DAY: SignedDuration = SignedDuration::from_hours(24);

fn at_once() -> PruneRequest {
    PruneRequest { grace: SignedDuration::ZERO, ..PruneRequest::default() }
}

fn pruned(place: &Fixture, request: &PruneRequest) -> Result<PruneReport> {
    prune::run(&place.open().unwrap(), request, place.now(), &place.watch())
}

fn measured(place: &Fixture) -> SizeReport {
    size::run(&place.open().unwrap(), place.now(), &place.watch()).unwrap()
}

fn forgotten(place: &Fixture, snapshots: &[&DatabaseBackup]) {
    let snapshots = snapshots.iter().map(|one| one.snapshot.unwrap().to_string()).collect();
    let request =
        ForgetRequest { choice: Choice::Named { snapshots, force: true }, database: None, dry_run: false };
    let report = forget::run(&place.open().unwrap(), &request, place.now(), &place.watch()).unwrap();
    assert_eq!(report.refused, []);
}

/// Lets a day and more pass, for this host and for the storage.
fn let_a_day_pass(place: &Fixture) -> PruneRequest {
    let long_ago = SystemTime::now() - std::time::Duration::from_secs(3 * 24 * 3600);
    for path in place.objects("index").into_iter().chain(place.objects("data")) {
        File::open(path).unwrap().set_times(FileTimes::new().set_modified(long_ago)).unwrap();
    }
    place.later(DAY * 2);
    PruneRequest::default()
}

#[track_caller]
fn assert_sound(place: &Fixture) {
    let report = place.check(&CheckRequest { read_data: ReadData::All, ..CheckRequest::default() });
    assert!(report.ok, "{:?}", report.findings);
    assert_eq!(report.notes, Vec::<String>::new());
}

#[track_caller]
fn assert_restores(place: &Fixture, backup: &DatabaseBackup, expected: &[(i64, String)]) {
    let name = format!("restored-{}.db", place.now().as_second());
    place.restored(&snapshot(backup, to(&name)));
    assert_eq!(rows(&place.path(&name)), expected);
}

/// Forgets everything and prunes by `prune`; then the same contents are backed up again by the same host, with all that it
/// remembers: index files, snapshots, the list of chunks, the position of the source.
fn same_contents_again(prune: impl Fn(&Fixture)) {
    let place = Fixture::new();
    let shop = place.database("shop.db", 4000);
    shop.pragma_update(None, "journal_mode", "wal").unwrap();
    insert(&shop, 1);
    place.stored("shop.db");
    // Now everything is known, and the source did not change since.
    let second = place.stored("shop.db");
    assert_eq!(second.bytes_read, 0);
    let first = place.list().snapshots[1].id;
    let choice = Choice::Named {
        snapshots: vec![first.to_string(), second.snapshot.unwrap().to_string()],
        force: true,
    };
    let request = ForgetRequest { choice, database: None, dry_run: false };
    forget::run(&place.open().unwrap(), &request, place.now(), &place.watch()).unwrap();
    prune(&place);
    let expected = rows(&place.path("shop.db"));
    for _ in 0..2 {
        let again = place.stored("shop.db");
        assert_eq!(again.root, second.root);
        assert_restores(&place, &again, &expected);
    }
    // What is marked may go now.
    let later = let_a_day_pass(&place);
    pruned(&place, &later).unwrap();
    assert_sound(&place);
    insert(&shop, 3);
    let changed = place.stored("shop.db");
    assert_restores(&place, &changed, &rows(&place.path("shop.db")));
    assert_eq!(place.verify(&Default::default()).damaged, 0);
    assert_sound(&place);
}

#[test]
fn same_contents_are_stored_again_after_their_packs_were_removed() {
    same_contents_again(|place| {
        let report = pruned(place, &at_once()).unwrap();
        assert!(report.packs_removed > 0 && report.bytes_used == 0, "{report:?}");
    });
}

#[test]
fn same_contents_are_stored_again_while_their_packs_wait() {
    same_contents_again(|place| {
        let report = pruned(place, &PruneRequest::default()).unwrap();
        assert!(report.packs_marked > 0 && report.packs_removed == 0, "{report:?}");
    });
}

#[test]
fn same_contents_are_stored_again_after_their_packs_waited_and_went() {
    same_contents_again(|place| {
        pruned(place, &PruneRequest::default()).unwrap();
        let later = let_a_day_pass(place);
        assert!(pruned(place, &later).unwrap().packs_removed > 0);
    });
}

#[test]
fn what_another_machine_prunes_is_never_relied_on_here() {
    let place = Fixture::new();
    let shop = place.database("shop.db", 4000);
    let first = place.stored("shop.db");
    place.stored("shop.db");
    let mut context = place.context.clone();
    context.environment.state_directory = place.path("state-elsewhere");
    let there = || dbkeep_engine::repository::open(&context, place.now(), &place.watch()).unwrap();
    let snapshots = place.list().snapshots.iter().map(|row| row.id.to_string()).collect();
    let request =
        ForgetRequest { choice: Choice::Named { snapshots, force: true }, database: None, dry_run: false };
    forget::run(&there(), &request, place.now(), &place.watch()).unwrap();
    prune::run(&there(), &at_once(), place.now(), &place.watch()).unwrap();
    let again = place.stored("shop.db");
    assert_eq!(again.root, first.root);
    assert_restores(&place, &again, &rows(&place.path("shop.db")));
    // And the other way round.
    insert(&shop, 10);
    let other = backup::run(&context, &of(&["shop.db"]), place.now(), &place.watch()).unwrap();
    assert_restores(&place, &other.databases[0], &rows(&place.path("shop.db")));
    assert_sound(&place);
}

#[test]
fn snapshots_that_stay_are_exact_after_a_year_of_forgetting_and_pruning() {
    let place = Fixture::new();
    let shop = place.database("shop.db", 2000);
    let mut kept: Vec<(DatabaseBackup, Vec<(i64, String)>)> = Vec::new();
    for round in 0..24 {
        insert(&shop, 40);
        shop.execute("UPDATE items SET text = text || ?1 WHERE id % 97 = ?1", [round]).unwrap();
        kept.push((place.stored("shop.db"), rows(&place.path("shop.db"))));
        if round % 3 == 2 {
            let (gone, _) = kept.remove(kept.len() / 2);
            forgotten(&place, &[&gone]);
            let request = match round % 2 {
                0 => at_once(),
                _ => PruneRequest { max_unused_per_mille: 0, ..let_a_day_pass(&place) },
            };
            pruned(&place, &request).unwrap();
            assert_sound(&place);
        }
    }
    for (backup, expected) in &kept {
        assert_restores(&place, backup, expected);
    }
    assert!(place.objects("index").len() < 24, "they were merged");
    let report = pruned(&place, &at_once()).unwrap();
    assert_eq!(report.packs_unnamed + report.packs_waiting, 0);
    assert!(report.bytes_unused * 19 <= report.bytes_used, "{report:?}");
}

#[test]
fn dry_run_says_what_would_be_done_and_does_nothing() {
    let place = Fixture::new();
    drop(place.database("a.db", 3000));
    drop(place.database("b.db", 3000));
    let a = place.stored("a.db");
    place.stored("b.db");
    let files = || [place.objects("data"), place.objects("index")].concat();
    let before: Vec<PathBuf> = files();
    let nothing = pruned(&place, &PruneRequest { dry_run: true, ..at_once() }).unwrap();
    assert_eq!((nothing.packs_removed, nothing.dry_run), (0, true));
    let without: HashSet<Id> = [a.snapshot.unwrap()].into();
    let planned = pruned(&place, &PruneRequest { dry_run: true, without, ..at_once() }).unwrap();
    assert!(planned.packs_removed > 0 && planned.dry_run, "{planned:?}");
    assert_eq!(files(), before);
    forgotten(&place, &[&a]);
    let done = pruned(&place, &at_once()).unwrap();
    assert_eq!(
        PruneReport { bytes_rewritten: 0, ..done },
        PruneReport { bytes_rewritten: 0, dry_run: false, ..planned }
    );
}

#[test]
fn nothing_is_pruned_while_something_is_missing_or_cannot_be_read() {
    let place = Fixture::new();
    let shop = place.database("shop.db", 3000);
    let first = place.stored("shop.db");
    insert(&shop, 100);
    let second = place.stored("shop.db");
    forgotten(&place, &[&first]);
    let data = place.objects("data");
    let hide = |path: PathBuf| {
        let aside = path.with_extension("aside");
        std::fs::rename(&path, &aside).unwrap();
        (path, aside)
    };
    let snapshot = place.path("backups/snapshots").join(second.snapshot.unwrap().to_string());
    let facts = place.path("backups/dbkeep/facts");
    let largest = data.iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap().clone();
    for path in [snapshot, facts, place.objects("index")[0].clone(), largest] {
        let (path, aside) = hide(path);
        let before = place.objects("data");
        let error = pruned(&place, &at_once()).unwrap_err();
        let (kind, code, message) = told(&error);
        assert_eq!((kind, code), ("refused", 1), "{}: {message}", path.display());
        assert!(message.starts_with("nothing is pruned"), "{message}");
        assert!(error.hint().unwrap().contains("dbkeep check"));
        assert_eq!(place.objects("data"), before);
        std::fs::rename(aside, path).unwrap();
    }
    pruned(&place, &at_once()).unwrap();
    assert_restores(&place, &second, &rows(&place.path("shop.db")));
}

#[test]
fn way_past_what_cannot_be_read_is_told_and_leads_there() {
    for (kind, folder) in [("snapshot", "snapshots"), ("fact", "dbkeep/facts")] {
        let place = Fixture::new();
        let shop = place.database("shop.db", 3000);
        let first = place.stored("shop.db");
        insert(&shop, 100);
        let second = place.stored("shop.db");
        let harmed = match kind {
            "snapshot" => place.path("backups/snapshots").join(first.snapshot.unwrap().to_string()),
            _ => place.objects("dbkeep/facts")[0].clone(),
        };
        File::options().write(true).open(&harmed).unwrap().set_len(30).unwrap();
        let error = pruned(&place, &PruneRequest::default()).unwrap_err();
        let (_, _, message) = told(&error);
        assert!(message.starts_with("nothing is pruned") && message.contains(kind), "{message}");
        let name = harmed.file_name().unwrap().to_str().unwrap();
        let hint = error.hint().unwrap().to_owned();
        assert!(hint.contains(&format!("{folder}/{name}")), "{hint}");
        assert!(hint.contains("dbkeep check --accept-removed"), "{hint}");

        std::fs::remove_file(&harmed).unwrap();
        assert!(pruned(&place, &PruneRequest::default()).is_err());
        place.check(&CheckRequest { accept_removed: true, ..CheckRequest::default() });
        pruned(&place, &at_once()).unwrap();
        assert_sound(&place);
        assert_restores(&place, &second, &rows(&place.path("shop.db")));
    }
}

#[test]
fn snapshots_whose_data_is_lost_can_be_forgotten_and_pruned() {
    let place = Fixture::new();
    let shop = place.database("shop.db", 3000);
    let first = place.stored("shop.db");
    insert(&shop, 100);
    let second = place.stored("shop.db");
    for pack in place.objects("data") {
        std::fs::remove_file(pack).unwrap();
    }
    let error = pruned(&place, &PruneRequest::default()).unwrap_err();
    assert!(error.hint().unwrap().contains("dbkeep forget ID --force"), "{error:?}");
    // What is there still is stored again.
    let third = place.stored("shop.db");
    assert!(pruned(&place, &PruneRequest::default()).is_err());
    forgotten(&place, &[&first, &second]);
    pruned(&place, &PruneRequest::default()).unwrap();
    assert_sound(&place);
    assert_restores(&place, &third, &rows(&place.path("shop.db")));
}

#[test]
fn size_tells_what_each_database_costs_alone() {
    let place = Fixture::new();
    let a = place.database("a.db", 3000);
    drop(place.database("b.db", 10));
    let first = place.stored("a.db");
    place.stored("b.db");
    let one = measured(&place);
    assert_eq!(one.databases.iter().map(|size| &*size.name).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((one.databases[0].snapshots, one.databases[0].bytes_source), (1, first.bytes_source));
    assert!(one.databases[0].bytes_unique > 10 * one.databases[1].bytes_unique, "{one:?}");
    assert_eq!((one.bytes_unused, one.packs), (0, place.objects("data").len() as u64));
    let stored: u64 = place.objects("data").iter().map(|path| std::fs::metadata(path).unwrap().len()).sum();
    assert_eq!(one.bytes_stored, stored);
    assert!(one.disk_free.is_some());

    // A second snapshot of the same costs next to nothing, though it is a plain copy more.
    place.stored("a.db");
    let two = measured(&place);
    assert_eq!((two.databases[0].snapshots, two.databases[0].bytes_source), (2, 2 * first.bytes_source));
    assert!(two.databases[0].bytes_unique - one.databases[0].bytes_unique < 4000, "{two:?}");

    // The same contents under another name are nobody's alone.
    std::fs::copy(place.path("a.db"), place.path("c.db")).unwrap();
    place.stored("c.db");
    let three = measured(&place);
    assert!(three.bytes_shared > one.databases[0].bytes_unique / 2, "{three:?}");
    assert!(three.databases[0].bytes_unique < 10_000, "{three:?}");
    drop(a);
}

#[test]
fn size_of_an_empty_repository_is_nothing() {
    let place = Fixture::new();
    dbkeep_engine::repository::init(&place.context, &Default::default(), place.now(), &place.watch())
        .unwrap();
    let report = measured(&place);
    assert_eq!((report.databases.len(), report.bytes_stored, report.packs), (0, 0, 0));
    assert_eq!(pruned(&place, &PruneRequest::default()).unwrap().packs_removed, 0);
}
