//! Copies: a second repository that has what the first one has, whatever happens to either.

use std::path::{Path, PathBuf};

use dbkeep_engine::backup::BackupRequest;
use dbkeep_engine::check::{self, CheckRequest, ReadData};
use dbkeep_engine::copy::{self, CopyRequest};
use dbkeep_engine::forget::{self, Choice, ForgetRequest};
use dbkeep_engine::list::{self, ListRequest};
use dbkeep_engine::pin::{self, PinRequest};
use dbkeep_engine::report::{
    CopiedStatus, CopyRunReport, ListReport, RestoreOutcome, SessionStatus, SnapshotRow,
};
use dbkeep_engine::repository::{self, Store};
use dbkeep_engine::restore::{self, RestoreRequest};
use dbkeep_engine::verify::{self, VerifyRequest};
use dbkeep_engine::{Context, Id, Result, status};

use crate::fixture::{Fixture, insert, of, rows, to, told};

pub(crate) const SECOND: &str = "[[copies]]\nname = \"second\"\nlocation = \"ROOT/second\"\n";

/// The other repository of a fixture, as somebody who has only that sees it.
pub(crate) struct Other<'p> {
    pub(crate) place: &'p Fixture,
    pub(crate) context: Context,
}

impl<'p> Other<'p> {
    pub(crate) fn at(place: &'p Fixture, location: &str) -> Self {
        let mut context = place.context.clone();
        context.location = place.path(location);
        context.config.copies.clear();
        Self { place, context }
    }

    pub(crate) fn open(&self) -> Store {
        repository::open(&self.context, self.place.now(), &self.place.watch()).unwrap()
    }

    pub(crate) fn list(&self) -> ListReport {
        list::run(&self.open(), &ListRequest::default()).unwrap()
    }

    /// Makes sure that nothing is wrong with it, all data read, and that all its snapshots are what they were.
    #[track_caller]
    pub(crate) fn expect_sound(&self) {
        let all = CheckRequest { read_data: ReadData::All, ..CheckRequest::default() };
        let check = check::run(&self.open(), &all, self.place.now(), &self.place.watch()).unwrap();
        assert!(check.ok, "{check:?}");
        let all = VerifyRequest { all: true, ..VerifyRequest::default() };
        let proof = verify::run(&self.open(), &all, self.place.now(), &self.place.watch()).unwrap();
        assert_eq!(proof.damaged, 0, "{proof:?}");
    }

    /// Restores a snapshot from here and returns its rows.
    pub(crate) fn rows_of(&self, snapshot: &Id, file: &str) -> Vec<(i64, String)> {
        let store = self.open();
        let request = RestoreRequest { snapshot: Some(snapshot.to_string()), ..to(file) };
        let plan = restore::plan(&store, &request, self.place.now()).unwrap();
        let done = restore::run(&store, &plan, self.place.now(), &self.place.watch()).unwrap();
        assert!(matches!(done, RestoreOutcome::One(report) if report.verified && report.copy.is_none()));
        rows(&self.place.path(file))
    }
}

pub(crate) fn copied(place: &Fixture, request: &CopyRequest) -> Result<CopyRunReport> {
    copy::run(&place.open().unwrap(), request, place.now(), &place.watch())
}

pub(crate) fn all_to(to: &str) -> CopyRequest {
    CopyRequest { to: to.to_owned(), ..CopyRequest::default() }
}

pub(crate) fn without_copies(sources: &[&str]) -> BackupRequest {
    BackupRequest { copies: false, ..of(sources) }
}

/// What a copy must have in common with what it is a copy of.
fn likeness(row: &SnapshotRow) -> (String, String, Vec<String>, Option<String>, Option<u64>, String) {
    let row = row.clone();
    (row.time.to_string(), row.host, row.tags, row.session, row.rows, row.integrity.unwrap_or_default())
}

pub(crate) fn largest(mut files: Vec<PathBuf>) -> PathBuf {
    files.sort_by_key(|path| std::fs::metadata(path).unwrap().len());
    files.pop().unwrap()
}

pub(crate) fn objects(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(objects(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

pub(crate) fn spoil(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let place = bytes.len() / 3;
    bytes[place] ^= 8;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn backup_brings_every_configured_copy_up_to_date() {
    let place =
        Fixture::with_config(&format!("{SECOND}[[copies]]\nname = \"third\"\nlocation = \"ROOT/third\"\n"));
    let a = place.database("a.db", 3000);
    drop(place.database("b.db", 5));
    let report =
        place.backup(&BackupRequest { tags: vec!["weekly".to_owned()], ..of(&["a.db", "b.db"]) }).unwrap();
    assert_eq!(report.exit_code(), 0);
    let told: Vec<_> =
        report.copies.iter().map(|copy| (copy.name.as_str(), copy.status.as_str(), copy.copied)).collect();
    assert_eq!(told, [("second", "ok", 2), ("third", "ok", 2)]);
    let first_size = report.copies[0].bytes_stored;

    insert(&a, 1);
    let report = place.backup(&of(&["a.db"])).unwrap();
    assert_eq!(report.copies[0].copied, 1);
    assert!(report.copies[0].bytes_stored * 4 < first_size, "only what is new travels: {report:?}");

    let here: Vec<_> = place.list().snapshots.iter().map(likeness).collect();
    for location in ["second", "third"] {
        let other = Other::at(&place, location);
        let there = other.list();
        assert_eq!(there.snapshots.iter().map(likeness).collect::<Vec<_>>(), here);
        assert!(there.snapshots.iter().all(|row| row.verified.is_some()), "{there:?}");
        other.expect_sound();
        let newest = there.snapshots[0].id;
        assert_eq!(other.rows_of(&newest, &format!("{location}.db")), rows(&place.path("a.db")));
    }
}

#[test]
fn copy_is_found_by_the_id_of_what_it_is_a_copy_of() {
    let place = Fixture::with_config(SECOND);
    drop(place.database("a.db", 10));
    let id = place.stored("a.db").snapshot.unwrap();
    let other = Other::at(&place, "second");
    assert_ne!(other.list().snapshots[0].id, id);
    assert_eq!(other.rows_of(&id, "by-id.db").len(), 10);
}

#[test]
fn what_is_there_is_neither_read_nor_stored_again() {
    let place = Fixture::new();
    let a = place.database("a.db", 2000);
    place.stored("a.db");
    insert(&a, 1);
    let newest = place.stored("a.db").snapshot.unwrap();
    let one = CopyRequest { snapshots: vec!["latest~1".to_owned()], ..all_to("./second") };
    let first = copied(&place, &one).unwrap();
    assert_eq!((first.copied, first.present, first.status), (1, 0, SessionStatus::Ok));
    assert!(first.bytes_read > 50_000 && first.bytes_verified >= first.bytes_stored, "{first:?}");
    let plan = copied(&place, &CopyRequest { dry_run: true, ..all_to("./second") }).unwrap();
    assert_eq!((plan.copied, plan.present, plan.snapshots[0].snapshot), (1, 1, newest));
    let second = copied(&place, &all_to("./second")).unwrap();
    assert_eq!((second.copied, second.present), (1, 1));
    assert!(second.bytes_read < first.bytes_read / 2, "{second:?}");
    let before = objects(&place.path("second"));
    let third = copied(&place, &all_to("./second")).unwrap();
    assert_eq!((third.copied, third.present, third.bytes_read, third.bytes_stored), (0, 2, 0, 0));
    assert_eq!(objects(&place.path("second")), before, "a copy that has everything is left alone");
}

#[test]
fn plan_of_a_copy_makes_nothing() {
    let place = Fixture::new();
    drop(place.database("a.db", 10));
    place.stored("a.db");
    let plan = copied(&place, &CopyRequest { dry_run: true, ..all_to("./second") }).unwrap();
    assert_eq!((plan.copied, plan.dry_run, plan.exit_code()), (1, true, 0));
    assert!(!place.path("second").exists());
}

#[test]
fn what_a_copy_forgot_stays_forgotten_unless_it_is_named() {
    let place = Fixture::with_config(SECOND);
    let a = place.database("a.db", 10);
    place.stored("a.db");
    insert(&a, 1);
    place.stored("a.db");
    let other = Other::at(&place, "second");
    let choice = Choice::Named { snapshots: vec!["latest~1".to_owned()], force: false };
    let request = ForgetRequest { choice, database: None, dry_run: false };
    forget::run(&other.open(), &request, place.now(), &place.watch()).unwrap();
    let again = copied(&place, &all_to("second")).unwrap();
    assert_eq!((again.copied, again.present, again.dropped), (0, 1, 1));
    let named = CopyRequest { snapshots: vec!["latest~1".to_owned()], ..all_to("second") };
    assert_eq!(copied(&place, &named).unwrap().copied, 1);
    let again = copied(&place, &all_to("second")).unwrap();
    assert_eq!((again.present, again.dropped), (2, 0));
    other.expect_sound();
}

#[test]
fn snapshot_that_vanished_from_a_copy_is_copied_again() {
    let place = Fixture::with_config(SECOND);
    drop(place.database("a.db", 10));
    place.stored("a.db");
    let other = Other::at(&place, "second");
    let gone = other.list().snapshots[0].id;
    std::fs::remove_file(place.path("second/snapshots").join(gone.to_string())).unwrap();
    assert_eq!(copied(&place, &all_to("second")).unwrap().copied, 1);
    other.expect_sound();
}

#[test]
fn pin_goes_along_and_what_is_decided_in_the_copy_stays() {
    let place = Fixture::with_config(SECOND);
    drop(place.database("a.db", 10));
    place.stored("a.db");
    let pin = |store: &Store, pinned| {
        let request = PinRequest { snapshot: "latest".to_owned(), database: None, pinned };
        pin::run(store, &request, place.now()).unwrap();
    };
    let other = Other::at(&place, "second");
    pin(&place.open().unwrap(), true);
    assert!(!other.list().snapshots[0].pinned);
    copied(&place, &all_to("second")).unwrap();
    assert!(other.list().snapshots[0].pinned);
    pin(&other.open(), false);
    copied(&place, &all_to("second")).unwrap();
    assert!(!other.list().snapshots[0].pinned, "it was let go there");

    let third = Other::at(&place, "third");
    copied(&place, &all_to("./third")).unwrap();
    assert!(third.list().snapshots[0].pinned, "held when it was copied");
}

#[test]
fn damage_in_the_source_fails_that_snapshot_only_and_shows_nothing_half_copied() {
    let place = Fixture::new();
    let a = place.database("a.db", 4000);
    let whole = place.stored("a.db").snapshot.unwrap();
    let before = objects(&place.path("backups/data"));
    insert(&a, 4000);
    let broken = place.stored("a.db").snapshot.unwrap();
    let new =
        objects(&place.path("backups/data")).into_iter().filter(|pack| !before.contains(pack)).collect();
    spoil(&largest(new));
    let report = copied(&place, &all_to("./second")).unwrap();
    assert_eq!(
        (report.copied, report.failed, report.status, report.exit_code()),
        (1, 1, SessionStatus::Partial, 3)
    );
    let failed = report.snapshots.iter().find(|one| one.status == CopiedStatus::Failed).unwrap();
    let error = failed.error.as_ref().unwrap();
    assert_eq!((failed.snapshot, error.kind.as_str()), (broken, "damaged"));
    assert!(error.message.contains("pack") && error.hint.is_some(), "{error:?}");
    let other = Other::at(&place, "second");
    assert_eq!(other.list().snapshots.len(), 1);
    assert_eq!(other.rows_of(&whole, "whole.db").len(), 4000);
    other.expect_sound();

    // What could not be copied is not forgotten: a source that is healed is copied whole.
    place.backup(&without_copies(&["a.db"])).unwrap();
    let report = copied(&place, &all_to("./second")).unwrap();
    assert_eq!((report.copied, report.failed), (2, 0), "{report:?}");
    assert_eq!(other.rows_of(&broken, "healed.db"), rows(&place.path("a.db")));
    other.expect_sound();
}

#[test]
fn snapshot_that_is_lost_in_the_source_is_told_unless_the_copy_has_it() {
    let place = Fixture::with_config(SECOND);
    let a = place.database("a.db", 10);
    let copied_before = place.stored("a.db").snapshot.unwrap();
    insert(&a, 1);
    let never_copied = place.backup(&without_copies(&["a.db"])).unwrap().databases[0].snapshot.unwrap();
    for id in [copied_before, never_copied] {
        std::fs::remove_file(place.path("backups/snapshots").join(id.to_string())).unwrap();
    }
    let report = copied(&place, &all_to("second")).unwrap();
    let told: Vec<_> = report.snapshots.iter().map(|one| (one.snapshot, one.status)).collect();
    assert_eq!(told, [(never_copied, CopiedStatus::Failed)]);
    assert!(report.error.is_some() && report.exit_code() == 1);
}

#[test]
fn pack_that_does_not_read_back_is_never_relied_on() {
    let place = Fixture::new();
    drop(place.database("a.db", 4000));
    place.stored("a.db");
    let data = place.path("second/data");
    let mut spoilt = false;
    place.at_step(move |step| {
        if step == "copy.packs-stored" && !std::mem::replace(&mut spoilt, true) {
            spoil(&largest(objects(&data)));
        }
    });
    let report = copied(&place, &all_to("./second")).unwrap();
    assert_eq!((report.copied, report.failed, report.exit_code()), (0, 1, 1));
    let error = report.error.unwrap();
    assert_eq!(error.kind, "damaged");
    assert!(error.message.contains("does not read back"), "{error:?}");
    assert_eq!(objects(&place.path("second/snapshots")), Vec::<PathBuf>::new());
    assert_eq!(objects(&place.path("second/index")), Vec::<PathBuf>::new(), "no index names the bad pack");
    assert_eq!(copied(&place, &all_to("./second")).unwrap().copied, 1);
    let other = Other::at(&place, "second");
    other.expect_sound();
    assert_eq!(other.rows_of(&other.list().snapshots[0].id, "back.db").len(), 4000);
}

#[test]
fn copy_that_was_found_damaged_is_repaired_by_the_next_one() {
    let place = Fixture::with_config(SECOND);
    drop(place.database("a.db", 4000));
    place.stored("a.db");
    let other = Other::at(&place, "second");
    spoil(&largest(objects(&place.path("second/data"))));
    assert_eq!(copied(&place, &all_to("second")).unwrap().copied, 0, "nobody has noticed yet");
    let all = CheckRequest { read_data: ReadData::All, ..CheckRequest::default() };
    assert!(!check::run(&other.open(), &all, place.now(), &place.watch()).unwrap().ok);
    assert_eq!(other.list().snapshots[0].integrity.as_deref(), Some("damaged"));

    let report = copied(&place, &all_to("second")).unwrap();
    assert_eq!(report.snapshots[0].status, CopiedStatus::Repaired, "{report:?}");
    let row = &other.list().snapshots[0];
    assert_eq!((row.integrity.as_deref(), row.verified.is_some()), (Some("ok"), true));
    assert_eq!(other.list().snapshots.len(), 1);
    assert_eq!(other.rows_of(&row.id, "repaired.db"), rows(&place.path("a.db")));
    assert_eq!(copied(&place, &all_to("second")).unwrap().copied, 0);
}

#[test]
fn copy_of_a_database_that_could_not_be_checked_does_not_become_good() {
    let place = Fixture::with_config(SECOND);
    drop(place.database("a.db", 10));
    let request = BackupRequest { verify: dbkeep_engine::Verify::None, ..of(&["a.db"]) };
    assert_eq!(place.backup(&request).unwrap().exit_code(), 0);
    let row = &Other::at(&place, "second").list().snapshots[0];
    assert_eq!((row.integrity.as_deref(), row.verified), (Some("not run"), None));
}

#[test]
fn place_that_is_the_repository_itself_is_refused() {
    let place = Fixture::new();
    drop(place.database("a.db", 10));
    place.stored("a.db");
    std::os::unix::fs::symlink(place.path("backups"), place.path("link")).unwrap();
    for (location, why) in [
        ("./backups", "its own place"),
        ("./x/../backups/", "its own place"),
        ("./link", "its own place"),
        ("./backups/second", "lies within"),
        ("./link/second", "lies within"),
        (".", "lies within"),
    ] {
        let (kind, code, message) = told(&copied(&place, &all_to(location)).unwrap_err());
        assert_eq!((kind, code), ("usage", 2), "{location}");
        assert!(message.contains(why), "{location}: {message}");
    }
    let duplicate = place.path("duplicate");
    assert!(
        std::process::Command::new("cp")
            .arg("-r")
            .arg(place.path("backups"))
            .arg(&duplicate)
            .status()
            .unwrap()
            .success()
    );
    let (_, code, message) = told(&copied(&place, &all_to("./duplicate")).unwrap_err());
    assert!(code == 2 && message.contains("duplicated file by file"), "{message}");
    assert_eq!(objects(&place.path("backups/snapshots")).len(), 1);
}

#[test]
fn word_that_names_no_copy_makes_no_repository() {
    let place = Fixture::with_config(SECOND);
    drop(place.database("a.db", 10));
    place.backup(&without_copies(&["a.db"])).unwrap();
    let error = copied(&place, &all_to("secnd")).unwrap_err();
    assert_eq!((error.exit_code(), error.hint().as_deref()), (2, Some("did you mean \"second\"?")));
    assert!(!place.path("secnd").exists() && !place.path("second").exists());
}

#[test]
fn copy_with_a_wrong_key_says_which_and_harms_nothing() {
    let place = Fixture::with_config(&format!("{SECOND}password-file = \"ROOT/second.key\"\n"));
    std::fs::write(place.path("second.key"), "another secret\n").unwrap();
    drop(place.database("a.db", 10));
    assert_eq!(place.backup(&of(&["a.db"])).unwrap().exit_code(), 0);
    let mut other = Other::at(&place, "second");
    other.context.environment.variables.insert("DBKEEP_PASSWORD".to_owned(), "another secret".to_owned());
    assert_eq!(other.list().snapshots.len(), 1, "it has its own key");
    let before = objects(&place.path("second"));

    std::fs::write(place.path("second.key"), "wrong\n").unwrap();
    let report = place.backup(&of(&["a.db"])).unwrap();
    assert_eq!((report.exit_code(), report.status), (3, SessionStatus::Partial));
    assert!(report.databases[0].error.is_none() && report.error.is_none());
    let error = report.copies[0].error.clone().unwrap();
    assert_eq!(
        (error.kind.as_str(), error.message.as_str()),
        ("wrong-password", "copy \"second\": wrong password")
    );
    let (kind, code, _) = told(&copied(&place, &all_to("second")).unwrap_err());
    assert_eq!((kind, code), ("wrong-password", 12));
    std::fs::remove_file(place.path("second.key")).unwrap();
    assert!(copied(&place, &all_to("second")).is_err());
    assert_eq!(objects(&place.path("second")), before);

    std::fs::write(place.path("elsewhere.key"), "another secret\n").unwrap();
    let request = CopyRequest { password_file: Some("elsewhere.key".into()), ..all_to("second") };
    assert_eq!(copied(&place, &request).unwrap().copied, 1, "what was missed is caught up");
}

#[test]
fn copy_that_is_gone_is_not_made_anew_and_is_caught_up_when_it_is_back() {
    let place = Fixture::with_config(SECOND);
    let a = place.database("a.db", 10);
    place.stored("a.db");
    std::fs::rename(place.path("second"), place.path("unmounted")).unwrap();
    std::fs::create_dir(place.path("second")).unwrap();
    insert(&a, 1);
    let report = place.backup(&of(&["a.db"])).unwrap();
    let error = report.copies[0].error.clone().unwrap();
    assert_eq!((report.exit_code(), error.kind.as_str()), (3, "repository-gone"));
    assert!(error.hint.unwrap().contains("mounted"));
    assert_eq!(objects(&place.path("second")), Vec::<PathBuf>::new());
    assert_eq!(told(&copied(&place, &all_to("second")).unwrap_err()).1, 10);

    std::fs::remove_dir(place.path("second")).unwrap();
    std::fs::rename(place.path("unmounted"), place.path("second")).unwrap();
    insert(&a, 1);
    let report = place.backup(&of(&["a.db"])).unwrap();
    assert_eq!((report.exit_code(), report.copies[0].copied), (0, 2));
    Other::at(&place, "second").expect_sound();
}

#[test]
fn copies_of_the_configuration_belong_to_its_repository_only() {
    let place = Fixture::with_config(&format!("[repository]\nlocation = \"ROOT/backups\"\n{SECOND}"));
    drop(place.database("a.db", 10));
    let mut elsewhere = place.context.clone();
    elsewhere.location = place.path("elsewhere");
    let request = of(&["a.db"]);
    let report = dbkeep_engine::backup::run(&elsewhere, &request, place.now(), &place.watch()).unwrap();
    assert_eq!((report.copies.len(), report.exit_code()), (0, 0));
    assert!(!place.path("second").exists());
    assert_eq!(place.backup(&request).unwrap().copies[0].copied, 1);
}

#[test]
fn key_file_of_the_primary_opens_its_copies_when_the_primary_is_gone() {
    let mut place = Fixture::with_config(SECOND);
    place.context.environment.variables.remove("DBKEEP_PASSWORD");
    drop(place.database("a.db", 10));
    let report = place.backup(&BackupRequest { new_key: true, ..of(&["a.db"]) }).unwrap();
    assert_eq!(report.exit_code(), 0, "{report:?}");
    let keys = objects(&place.context.environment.config_directory.join("keys"));
    assert_eq!(keys.len(), 2, "one for each repository: {keys:?}");
    std::fs::remove_dir_all(place.path("backups")).unwrap();
    assert_eq!(Other::at(&place, "second").list().snapshots.len(), 1);
}

#[test]
fn password_that_was_only_typed_is_not_written_down_for_a_copy() {
    let place = Fixture::with_config(SECOND);
    drop(place.database("a.db", 10));
    place.stored("a.db");
    assert_eq!(objects(&place.context.environment.config_directory.join("keys")), Vec::<PathBuf>::new());
}

#[test]
fn session_of_failed_databases_still_catches_up() {
    let place = Fixture::with_config(SECOND);
    drop(place.database("a.db", 10));
    place.backup(&without_copies(&["a.db"])).unwrap();
    std::fs::write(place.path("b.db"), "SQLite format 3\0 and then nothing").unwrap();
    let report = place.backup(&of(&["a.db", "missing.db"])).unwrap();
    assert_eq!((report.exit_code(), report.copies[0].copied), (3, 2));
}

/// Where the primary stands is nothing any more.
fn damage_all(place: &Fixture) {
    place.objects("data").iter().for_each(|pack| spoil(pack));
}

#[test]
fn restore_comes_from_a_copy_when_every_pack_is_damaged_and_says_so() {
    let place = Fixture::with_config(SECOND);
    let a = place.database("a.db", 4000);
    place.stored("a.db");
    let expected = rows(&place.path("a.db"));
    insert(&a, 10);
    damage_all(&place);
    place.warnings();
    let report = place.restored(&to("back.db"));
    assert_eq!((report.copy.as_deref(), report.verified), (Some("second"), true));
    assert_eq!(rows(&place.path("back.db")), expected);
    let warnings = place.warnings();
    assert!(warnings.iter().any(|one| one.contains("restored from the copy \"second\"")), "{warnings:?}");
}

#[test]
fn restore_comes_from_a_copy_when_a_pack_turns_out_to_be_damaged_on_the_way() {
    let place = Fixture::with_config(SECOND);
    drop(place.database("a.db", 4000));
    place.stored("a.db");
    // The manifest can be read, so that the damage is met in the middle.
    spoil(&largest(place.objects("data")));
    for (request, file) in [(to("back.db"), "back.db"), (RestoreRequest { in_place: true, ..to("") }, "a.db")]
    {
        let request = RestoreRequest { to: request.to.filter(|to| !to.is_empty()), ..request };
        let report = place.restored(&request);
        assert_eq!(report.copy.as_deref(), Some("second"));
        assert_eq!(rows(&place.path(file)).len(), 4000);
        assert_eq!(report.safety_snapshot.is_some(), file == "a.db");
    }
    let other = Other::at(&place, "second");
    let safety =
        other.list().snapshots.iter().find(|row| row.reason.as_deref() == Some("pre-restore")).cloned();
    assert_eq!(other.rows_of(&safety.unwrap().id, "safety.db").len(), 4000, "the way back is in the copy");
}

#[test]
fn restore_comes_from_a_copy_when_the_primary_is_gone() {
    let config = format!("{SECOND}[[copies]]\nname = \"third\"\nlocation = \"ROOT/third\"\n");
    let place = Fixture::with_config(&config);
    let a = place.database("a.db", 500);
    place.stored("a.db");
    insert(&a, 1);
    let newest = place.stored("a.db");
    std::fs::remove_dir_all(place.path("backups")).unwrap();
    let open = || restore::open(&place.context, place.now(), &place.watch());
    let restored = |request: &RestoreRequest| {
        let store = open().unwrap();
        let plan = restore::plan(&store, request, place.now()).unwrap();
        let RestoreOutcome::One(report) = restore::run(&store, &plan, place.now(), &place.watch()).unwrap()
        else {
            panic!("one was asked for")
        };
        *report
    };
    let report = restored(&to("one.db"));
    assert_eq!((report.copy.as_deref(), report.rows), (Some("second"), 501));
    assert_eq!(rows(&place.path("one.db")), rows(&place.path("a.db")));
    let by_id = RestoreRequest { snapshot: newest.snapshot.map(|id| id.to_string()), ..to("two.db") };
    assert_eq!(restored(&by_id).rows, 501);

    // The first copy is damaged as well, then gone as well.
    let packs = objects(&place.path("second/data"));
    packs.iter().for_each(|pack| spoil(pack));
    assert_eq!(restored(&to("three.db")).copy.as_deref(), Some("third"));
    std::fs::remove_dir_all(place.path("second")).unwrap();
    assert_eq!(restored(&to("four.db")).copy.as_deref(), Some("third"));
    assert_eq!(rows(&place.path("three.db")), rows(&place.path("four.db")));

    std::fs::remove_dir_all(place.path("third")).unwrap();
    let (kind, code, message) = told(&open().unwrap_err());
    assert_eq!((kind, code), ("repository-gone", 10));
    assert!(message.contains("backups"), "it is about the repository: {message}");
    assert!(!place.path("backups").exists());
}

#[test]
fn snapshot_that_the_primary_lost_is_restored_from_a_copy_and_never_an_older_one_in_its_place() {
    let place = Fixture::with_config(SECOND);
    let a = place.database("a.db", 10);
    let older = place.stored("a.db").snapshot.unwrap();
    insert(&a, 1);
    let newest = place.stored("a.db").snapshot.unwrap();
    let file = |id: Id| place.path("backups/snapshots").join(id.to_string());
    std::fs::remove_file(file(newest)).unwrap();
    let report = place.restored(&to("latest.db"));
    assert_eq!((report.copy.as_deref(), report.rows), (Some("second"), 11));
    let by_id = RestoreRequest { snapshot: Some(newest.to_string()), ..to("by-id.db") };
    assert_eq!(place.restored(&by_id).rows, 11);
    let named = RestoreRequest { snapshot: Some(older.to_string()), ..to("older.db") };
    let report = place.restored(&named);
    assert_eq!((report.copy, report.rows), (None, 10), "what is whole comes from the repository");

    // A copy that lacks what is damaged has no substitute for it.
    insert(&a, 1);
    let request = without_copies(&["a.db"]);
    let uncopied = place.backup(&request).unwrap().databases[0].snapshot.unwrap();
    damage_all(&place);
    let wanted = RestoreRequest { snapshot: Some(uncopied.to_string()), ..to("none.db") };
    assert_eq!(place.restore(&wanted).unwrap_err().kind().word(), "damaged");
    assert!(!place.path("none.db").exists());
}

#[test]
fn databases_of_a_session_come_from_where_each_is_whole() {
    let place = Fixture::with_config(SECOND);
    drop(place.database("a.db", 4000));
    let before = place.objects("data");
    place.backup(&without_copies(&["a.db"])).unwrap();
    let pack_of_a: Vec<_> = place.objects("data").into_iter().filter(|pack| !before.contains(pack)).collect();
    drop(place.database("b.db", 7));
    drop(place.database("c.db", 8));
    let report = place.backup(&of(&["a.db", "b.db", "c.db"])).unwrap();
    spoil(&largest(pack_of_a));
    let lost = report.databases[2].snapshot.unwrap();
    std::fs::remove_file(place.path("backups/snapshots").join(lost.to_string())).unwrap();
    let request =
        RestoreRequest { session: Some(report.session.clone()), to: Some("all".to_owned()), ..to("") };
    let RestoreOutcome::Session(done) = place.restore(&request).unwrap() else { panic!("a session") };
    assert_eq!(done.status, SessionStatus::Ok, "{done:?}");
    let mut told: Vec<_> =
        done.restores.iter().map(|one| (one.database.as_str(), one.copy.as_deref(), one.rows)).collect();
    told.sort_unstable();
    assert_eq!(told, [("a", Some("second"), 4000), ("b", None, 7), ("c", Some("second"), 8)]);
    for (name, count) in [("a", 4000), ("b", 7), ("c", 8)] {
        assert_eq!(rows(&place.path(&format!("all/{name}.db"))).len(), count);
    }
}

#[test]
fn wrong_password_of_the_primary_is_no_reason_to_read_a_copy() {
    let mut place = Fixture::with_config(SECOND);
    drop(place.database("a.db", 10));
    place.stored("a.db");
    place.context.environment.variables.insert("DBKEEP_PASSWORD".to_owned(), "wrong".to_owned());
    let error = restore::open(&place.context, place.now(), &place.watch()).unwrap_err();
    assert_eq!((error.kind().word(), error.exit_code()), ("wrong-password", 12));
}

#[test]
fn list_and_status_tell_where_copies_are_and_what_is_missing() {
    let place = Fixture::with_config(SECOND);
    let a = place.database("a.db", 10);
    let status = || status::run(&place.open().unwrap(), place.now()).unwrap().copies.remove(0);
    place.backup(&without_copies(&["a.db"])).unwrap();
    let never = status();
    assert_eq!((never.snapshots, never.behind, never.last_copied), (0, 1, None));
    assert!(never.problems[0].contains("nothing was ever copied"), "{never:?}");

    let second = place.stored("a.db");
    let copied_to = |row: &SnapshotRow| row.copies.clone();
    assert_eq!(place.list().snapshots.iter().map(copied_to).collect::<Vec<_>>(), [["second"], ["second"]]);
    let good = status();
    assert_eq!((good.snapshots, good.behind, good.reachable), (2, 0, true));
    assert_eq!(good.newest, second.snapshot);
    assert!(good.last_copied.is_some() && good.error.is_none() && good.problems.is_empty(), "{good:?}");

    std::fs::rename(place.path("second"), place.path("unmounted")).unwrap();
    insert(&a, 1);
    assert_eq!(place.backup(&of(&["a.db"])).unwrap().exit_code(), 3);
    let list: Vec<_> = place.list().snapshots.iter().map(copied_to).collect();
    assert_eq!(list, [vec![], vec!["second".to_owned()], vec!["second".to_owned()]]);
    let away = status();
    assert_eq!((away.snapshots, away.behind, away.reachable), (2, 1, false));
    assert_eq!(away.error.as_ref().map(|error| error.kind.as_str()), Some("repository-gone"));
    assert!(away.failed.is_some() && away.last_copied == good.last_copied);
    assert!(away.problems.iter().any(|problem| problem.contains("1 snapshot behind")), "{away:?}");

    std::fs::rename(place.path("unmounted"), place.path("second")).unwrap();
    let back = status();
    assert_eq!((back.behind, back.reachable), (1, true), "it is looked at, not remembered");
    assert!(back.problems.iter().any(|problem| problem.contains("the last copy failed")), "{back:?}");
    place.stored("a.db");
    assert_eq!((status().behind, status().problems.len()), (0, 0));
}
