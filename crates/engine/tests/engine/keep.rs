//! What keeps backups trustworthy: verify, check, forget, keys, status, and the set-up.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use dbkeep_engine::check::{CheckRequest, ReadData};
use dbkeep_engine::forget::{self, Choice, ForgetRequest};
use dbkeep_engine::keys::{self, NewKey};
use dbkeep_engine::pin::{self, PinRequest};
use dbkeep_engine::report::{ForgetReport, VerifyStatus};
use dbkeep_engine::repository::{InitRequest, Store};
use dbkeep_engine::retention::Policy;
use dbkeep_engine::verify::VerifyRequest;
use dbkeep_engine::{Context, GlobalOptions, Id, KeyCost, Result, Unobserved, Watch, setup, status};
use jiff::{Timestamp, ToSpan};

use crate::fixture::{Fixture, insert, of, to, told};

fn all_data() -> CheckRequest {
    CheckRequest { read_data: ReadData::All, ..CheckRequest::default() }
}

/// Flips one bit in the middle of a file.
fn damage(path: &std::path::Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 3;
    bytes[middle] ^= 4;
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn sound_snapshots_are_proved_and_that_is_remembered() {
    let place = Fixture::new();
    drop(place.database("a.db", 3000));
    drop(place.database("b.db", 0));
    place.backup(&of(&["a.db", "b.db"])).unwrap();
    let report = place.verify(&VerifyRequest::default());
    assert_eq!((report.ok, report.damaged, report.exit_code()), (2, 0, 0));
    assert_eq!(report.checked[0].integrity, "ok");
    assert!(report.checked[0].bytes_read > 0);
    assert!(place.list().snapshots.iter().all(|row| row.verified.is_some()));
    let check = place.check(&all_data());
    assert!(check.ok && check.bytes_read > 0, "{check:?}");
    assert_eq!(place.warnings(), Vec::<String>::new());
}

#[test]
fn damage_is_found_named_and_remembered_and_the_next_backup_is_whole() {
    let place = Fixture::new();
    let a = place.database("a.db", 5000);
    let first = place.stored("a.db");
    let pack =
        place.objects("data").into_iter().max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    damage(&pack);
    let report = place.verify(&VerifyRequest::default());
    assert_eq!((report.ok, report.damaged, report.exit_code()), (0, 1, 4));
    assert_eq!(report.checked[0].status, VerifyStatus::Damaged);
    assert!(!report.checked[0].findings.is_empty());
    let check = place.check(&all_data());
    assert_eq!((check.ok, check.exit_code()), (false, 4));
    let finding = check.findings.iter().find(|finding| finding.kind == "pack-damaged").unwrap();
    assert_eq!(
        (finding.affects.as_slice(), finding.databases.as_slice()),
        ([first.snapshot.unwrap()].as_slice(), ["a".to_owned()].as_slice())
    );
    let list = place.list();
    assert_eq!((list.snapshots[0].integrity.as_deref(), list.snapshots[0].verified), (Some("damaged"), None));
    let status = status::run(&place.open().unwrap(), place.now()).unwrap();
    assert_eq!(status.databases[0].last_good, None);
    assert!(!status.databases[0].problems.is_empty());
    place.warnings();

    // What the damaged pack held is stored again, although the source did not change.
    let healed = place.stored("a.db");
    assert!(healed.bytes_added > 0 && healed.root == first.root, "{healed:?}");
    assert!(place.warnings().iter().any(|warning| warning.contains("1 packs are damaged or gone")));
    assert_eq!(place.verify(&VerifyRequest::default()).ok, 1);
    assert_eq!(place.restored(&to("healed.db")).rows, 5000);
    drop(a);
}

#[test]
fn pack_that_is_gone_is_not_relied_on_by_the_next_backup() {
    let place = Fixture::new();
    let a = place.database("a.db", 5000);
    place.stored("a.db");
    for pack in place.objects("data") {
        std::fs::remove_file(pack).unwrap();
    }
    let healed = place.stored("a.db");
    assert!(healed.bytes_added > 0, "{healed:?}");
    assert_eq!(place.restored(&to("healed.db")).rows, 5000);
    drop(a);
}

#[test]
fn snapshot_that_vanished_is_a_finding_until_that_is_accepted() {
    let place = Fixture::new();
    let a = place.database("a.db", 10);
    place.stored("a.db");
    insert(&a, 1);
    let gone = place.stored("a.db").snapshot.unwrap();
    std::fs::remove_file(place.path("backups/snapshots").join(gone.to_string())).unwrap();
    let report = place.verify(&VerifyRequest::default());
    let missing: Vec<_> = report.checked.iter().filter(|one| one.status == VerifyStatus::Missing).collect();
    assert_eq!((missing.len(), missing[0].snapshot, missing[0].database.as_str()), (1, gone, "a"));
    let check = place.check(&CheckRequest::default());
    assert_eq!(
        check.findings.iter().map(|finding| finding.kind.as_str()).collect::<Vec<_>>(),
        ["snapshot-removed"]
    );
    let accepted = place.check(&CheckRequest { accept_removed: true, ..CheckRequest::default() });
    assert!(accepted.ok, "{accepted:?}");
    assert!(place.check(&CheckRequest::default()).ok);
}

#[test]
fn snapshot_whose_file_is_damaged_leaves_the_others_usable() {
    let place = Fixture::new();
    let a = place.database("a.db", 10);
    let whole = place.stored("a.db").snapshot.unwrap();
    insert(&a, 1);
    let broken = place.stored("a.db").snapshot.unwrap();
    damage(&place.path("backups/snapshots").join(broken.to_string()));
    assert_eq!(place.list().snapshots.iter().map(|row| row.id).collect::<Vec<_>>(), [whole]);
    assert!(place.warnings()[0].starts_with(&format!("snapshot {} cannot be used", broken.short())));
    let report = place.verify(&VerifyRequest::default());
    let told: Vec<_> = report.checked.iter().map(|one| (one.snapshot, one.status)).collect();
    assert_eq!(told, [(whole, VerifyStatus::Ok), (broken, VerifyStatus::Damaged)]);
    let check = place.check(&CheckRequest { accept_removed: true, ..CheckRequest::default() });
    assert!(check.findings.iter().any(|finding| finding.kind == "snapshot-damaged"), "{check:?}");
    assert_eq!(place.restored(&to("copy.db")).rows, 10);
    place.stored("a.db");
}

#[test]
fn facts_that_vanish_are_missed() {
    let place = Fixture::new();
    drop(place.database("a.db", 10));
    place.stored("a.db");
    for fact in place.objects("dbkeep/facts") {
        std::fs::remove_file(fact).unwrap();
    }
    // A further backup does not make this host forget what it knows.
    place.stored("a.db");
    let check = place.check(&CheckRequest::default());
    assert_eq!(
        check.findings.iter().map(|finding| finding.kind.as_str()).collect::<Vec<_>>(),
        ["fact-missing"]
    );
}

#[test]
fn forgotten_snapshot_is_gone_on_purpose_and_the_last_good_one_stays() {
    let place = Fixture::new();
    let a = place.database("a.db", 10);
    let first = place.stored("a.db").snapshot.unwrap();
    insert(&a, 1);
    let second = place.stored("a.db").snapshot.unwrap();
    let forget = |ids: &[String], force: bool, dry_run: bool| {
        let choice = Choice::Named { snapshots: ids.to_vec(), force };
        let request = ForgetRequest { choice, database: None, dry_run };
        forget::run(&place.open().unwrap(), &request, place.now(), &place.watch())
    };
    let report = forget(&[first.to_string()], false, true).unwrap();
    assert_eq!((report.forgotten.len(), place.list().snapshots.len()), (1, 2));
    let report = forget(&[first.short()], false, false).unwrap();
    assert_eq!((report.forgotten[0].id, report.kept[0].id, report.exit_code()), (first, second, 0));
    let report = forget(&["latest".into()], false, false).unwrap();
    assert_eq!((report.refused[0].id, report.exit_code()), (second, 1));
    assert_eq!(place.list().snapshots.len(), 1);
    assert!(place.check(&CheckRequest::default()).ok);
    assert_eq!(forget(&["latest".into()], true, false).unwrap().forgotten.len(), 1);
    assert_eq!(told(&forget(&["abcd".into()], false, false).unwrap_err()).1, 1);
    assert_eq!(told(&forget(&[], false, false).unwrap_err()).1, 2);
}

/// What a policy would leave, or leaves, newest first.
fn left_by(place: &Fixture, policy: Policy, dry_run: bool) -> Result<Vec<Id>> {
    let request = ForgetRequest { choice: Choice::Policy(policy), database: None, dry_run };
    let report = forget::run(&place.open().unwrap(), &request, place.now(), &place.watch())?;
    Ok(report.kept.iter().map(|kept| kept.id).collect())
}

#[test]
fn policy_leaves_what_it_keeps_and_what_is_held() {
    let place = Fixture::new();
    let a = place.database("a.db", 10);
    let mut ids = Vec::new();
    for _ in 0..5 {
        insert(&a, 1);
        ids.insert(0, place.stored("a.db").snapshot.unwrap());
    }
    let pin = |pinned: bool| {
        let request = PinRequest { snapshot: "latest~3".to_owned(), database: None, pinned };
        pin::run(&place.open().unwrap(), &request, place.now()).unwrap()
    };
    assert!(pin(true).changed && !pin(true).changed);
    assert_eq!(pin(true).snapshot, ids[3]);

    let last_two = || Policy { last: 2, ..Policy::default() };
    assert_eq!(left_by(&place, last_two(), true).unwrap(), [ids[0], ids[1], ids[3]]);
    assert_eq!(place.list().snapshots.len(), 5);
    assert_eq!(left_by(&place, last_two(), false).unwrap(), [ids[0], ids[1], ids[3]]);
    let listed: Vec<Id> = place.list().snapshots.iter().map(|row| row.id).collect();
    assert_eq!(listed, [ids[0], ids[1], ids[3]]);
    assert!(place.check(&CheckRequest::default()).ok);
    // What is left can be restored, each by itself.
    let every = VerifyRequest { all: true, ..VerifyRequest::default() };
    assert_eq!((place.verify(&every).ok, place.verify(&every).damaged), (3, 0));

    let request = PinRequest { snapshot: ids[3].to_string(), database: None, pinned: false };
    assert!(pin::run(&place.open().unwrap(), &request, place.now()).unwrap().changed);
    assert_eq!(left_by(&place, last_two(), false).unwrap(), [ids[0], ids[1]]);
    assert_eq!(told(&left_by(&place, Policy::default(), false).unwrap_err()).1, 2);
}

/// Drops one snapshot by its id.
fn drop_one(store: &Store, id: Id, now: Timestamp, watch: &Watch) -> Result<ForgetReport> {
    let choice = Choice::Named { snapshots: vec![id.to_string()], force: false };
    forget::run(store, &ForgetRequest { choice, database: None, dry_run: false }, now, watch)
}

#[test]
fn two_that_drop_at_once_leave_a_good_one() {
    for (step, dropped_by_the_other) in [("forget.decided", true), ("forget.fact-stored", false)] {
        let place = Fixture::new();
        let a = place.database("a.db", 10);
        let ids = [(); 2].map(|()| {
            insert(&a, 1);
            place.stored("a.db").snapshot.unwrap()
        });
        let (store, now) = (place.open().unwrap(), place.now());
        let other = place.open().unwrap();
        let quiet: Watch = Arc::new(Unobserved);
        place.at_step(move |at| {
            if at == step {
                let report = drop_one(&other, ids[1], now, &quiet).unwrap();
                assert_eq!(report.forgotten.len(), usize::from(dropped_by_the_other));
            }
        });
        let ours = drop_one(&store, ids[0], now, &place.watch()).unwrap();
        assert_eq!(ours.forgotten.len(), usize::from(!dropped_by_the_other), "{ours:?}");
        place.at_step(|_| {});
        let left: Vec<Id> = place.list().snapshots.iter().map(|row| row.id).collect();
        assert_eq!(left, [ids[usize::from(!dropped_by_the_other)]]);
        // What stays is expected to be there, so its loss would be noticed.
        let check = place.check(&CheckRequest::default());
        assert!(check.ok, "{check:?}");
        std::fs::remove_file(&place.objects("snapshots")[0]).unwrap();
        assert!(!place.check(&CheckRequest::default()).ok);
    }
}

#[test]
fn snapshot_whose_removal_was_interrupted_goes_unless_it_is_the_last_good_one() {
    let place = Fixture::new();
    let a = place.database("a.db", 10);
    let ids = [(); 3].map(|()| {
        insert(&a, 1);
        place.stored("a.db").snapshot.unwrap()
    });
    let interrupted = |id: Id| {
        let file = place.path("backups/snapshots").join(id.to_string());
        let contents = std::fs::read(&file).unwrap();
        assert_eq!(
            drop_one(&place.open().unwrap(), id, place.now(), &place.watch()).unwrap().forgotten.len(),
            1
        );
        std::fs::write(&file, contents).unwrap();
    };
    // It counts for nothing: the other two cannot both go.
    interrupted(ids[0]);
    assert_eq!(
        drop_one(&place.open().unwrap(), ids[1], place.now(), &place.watch()).unwrap().forgotten.len(),
        1
    );
    let refused = drop_one(&place.open().unwrap(), ids[2], place.now(), &place.watch()).unwrap();
    assert_eq!(refused.refused.len(), 1, "{refused:?}");
    let everything = || Policy { within: Some(10.years()), ..Policy::default() };
    assert_eq!(left_by(&place, everything(), false).unwrap(), [ids[2]]);

    // Somebody removes the other one behind our back: then it is the last good one, and stays for good.
    insert(&a, 1);
    let newest = place.stored("a.db").snapshot.unwrap();
    interrupted(ids[2]);
    std::fs::remove_file(place.path("backups/snapshots").join(newest.to_string())).unwrap();
    let accept = CheckRequest { accept_removed: true, ..CheckRequest::default() };
    assert!(place.check(&accept).ok);
    assert_eq!(left_by(&place, Policy { last: 1, ..Policy::default() }, false).unwrap(), [ids[2]]);
    std::fs::remove_file(&place.objects("snapshots")[0]).unwrap();
    assert!(!place.check(&CheckRequest::default()).ok, "it is expected again");
}

#[test]
fn policy_forgets_nothing_while_something_is_missing() {
    let place = Fixture::new();
    let a = place.database("a.db", 10);
    for _ in 0..3 {
        insert(&a, 1);
        place.stored("a.db");
    }
    let snapshots = place.objects("snapshots");
    let contents = std::fs::read(&snapshots[0]).unwrap();
    let last = || Policy { last: 1, ..Policy::default() };
    let refused = |what: &str| {
        let error = left_by(&place, last(), false).unwrap_err();
        assert!(error.to_string().contains("listing has a gap"), "{what}: {error}");
        assert_eq!(told(&error).1, 1, "{what}");
    };
    std::fs::remove_file(&snapshots[0]).unwrap();
    refused("a snapshot is gone");
    let mut damaged = contents.clone();
    damaged[40] ^= 1;
    std::fs::write(&snapshots[0], damaged).unwrap();
    refused("a snapshot is damaged");
    std::fs::write(&snapshots[0], contents).unwrap();

    let fact = &place.objects("dbkeep/facts")[0];
    let contents = std::fs::read(fact).unwrap();
    std::fs::write(fact, "rot").unwrap();
    refused("a fact is damaged");
    // Any of them, not only the newest, which this host remembers.
    for fact in place.objects("dbkeep/facts") {
        let contents = std::fs::read(&fact).unwrap();
        std::fs::remove_file(&fact).unwrap();
        refused("a fact is gone");
        std::fs::write(&fact, contents).unwrap();
    }
    std::fs::write(fact, contents).unwrap();
    assert_eq!(left_by(&place, last(), false).unwrap().len(), 1);
}

#[test]
fn keys_are_added_and_removed_but_never_the_one_in_use() {
    let mut place = Fixture::new();
    drop(place.database("a.db", 1));
    place.stored("a.db");
    let store = place.open().unwrap();
    let original = keys::list(&store).unwrap().keys[0].clone();
    assert!(original.current);
    let added = keys::add(&store, &NewKey::Generate, place.now()).unwrap();
    assert!(added.key_file.as_ref().unwrap().exists());
    keys::add(&store, &NewKey::Password("second".into()), place.now()).unwrap();
    assert_eq!(keys::list(&store).unwrap().keys.len(), 3);
    assert!(keys::remove(&store, &original.id.to_string()).is_err());

    place.context.environment.variables.insert("DBKEEP_PASSWORD".into(), "second".into());
    let store = place.open().unwrap();
    keys::remove(&store, &original.short_id).unwrap();
    assert_eq!(told(&keys::remove(&store, "zz").unwrap_err()).1, 2);
    place.context.environment.variables.insert("DBKEEP_PASSWORD".into(), "secret".into());
    assert_eq!(place.open().unwrap_err().exit_code(), 12);
    // Without any other source the key file of the repository opens it.
    place.context.environment.variables.remove("DBKEEP_PASSWORD");
    assert!(place.open().is_ok());
}

#[test]
fn status_shows_configured_databases_and_those_of_the_repository() {
    let place = Fixture::with_config(
        "[repository]\nlocation = \"ROOT/backups\"\n[databases.shop]\nsqlite = \"ROOT/shop.db\"\n[databases.later]\nsqlite = \"ROOT/later.db\"\n[health]\nmax-age = \"1h\"\n",
    );
    drop(place.database("shop.db", 4));
    drop(place.database("other.db", 1));
    place.backup(&of(&["shop", "other.db"])).unwrap();
    let report = status::run(&place.open().unwrap(), place.now()).unwrap();
    let names: Vec<_> = report.databases.iter().map(|one| (one.name.as_str(), one.snapshots)).collect();
    assert_eq!(names, [("later", 0), ("other", 1), ("shop", 1)]);
    assert_eq!(report.databases[0].problems, ["it was never backed up"]);
    assert_eq!((report.databases[2].rows, report.databases[2].problems.len()), (Some(4), 0));
    assert!(report.bytes_stored > 0 && !report.recovery_sheet_shown && report.problems.is_empty());
    let later = place.now() + jiff::SignedDuration::from_hours(2);
    let report = status::run(&place.open().unwrap(), later).unwrap();
    assert_eq!(report.databases[2].problems, ["its last backup is older than health.max-age"]);
}

#[test]
fn set_up_makes_everything_once_and_backs_up() {
    let place = Fixture::new();
    std::fs::remove_file(place.context.config_file.clone().unwrap()).unwrap();
    let environment = place.context.environment.clone();
    let load = || {
        let mut context = Context::load(environment.clone(), &GlobalOptions::default()).unwrap();
        context.key_cost = KeyCost::Cheap;
        context
    };
    drop(place.database("data/app.db", 5));
    std::fs::write(place.path(".gitignore"), "/target").unwrap();
    let report = setup::run(&load(), &InitRequest::default(), place.now(), &place.watch()).unwrap();
    assert_eq!(report.backup.as_ref().unwrap().databases[0].name, "app");
    assert_eq!(std::fs::read_to_string(place.path(".gitignore")).unwrap(), "/target\n/backups/\n");
    assert_eq!(load().config.databases["app"].sqlite.as_deref(), Some("data/app.db"));
    assert!(report.setup.iter().all(|item| item.made));
    let error = setup::run(&load(), &InitRequest::default(), place.now(), &place.watch()).unwrap_err();
    assert_eq!(told(&error).0, "usage", "there is one already");
}
