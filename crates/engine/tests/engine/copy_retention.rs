//! Retention where there are copies: each place keeps what its own policy says, and none harms another.

use dbkeep_engine::backup::BackupRequest;
use dbkeep_engine::copy::{self, CopyRequest};
use dbkeep_engine::forget::{self, Choice, ForgetRequest};
use dbkeep_engine::pin::{self, PinRequest};
use dbkeep_engine::report::{CopyForgetReport, PolicyReport};
use dbkeep_engine::{Context, Id, Result};
use rusqlite::Connection;

use crate::copies::{Other, all_to, copied, without_copies};
use crate::fixture::{Fixture, insert, of, rows, told};

const NOTHING_ELSE: &str = "hourly = 0, daily = 0, weekly = 0, monthly = 0, yearly = 0, within = \"0d\"";

/// The newest two stay here, four in `second`, one in `third`.
fn with_policies() -> Fixture {
    let copy = |name: &str, last: u32| {
        format!(
            "[[copies]]\nname = \"{name}\"\nlocation = \"ROOT/{name}\"\n\
             retention = {{ last = {last}, {NOTHING_ELSE} }}\n"
        )
    };
    let general = NOTHING_ELSE.replace(", ", "\n");
    Fixture::with_config(&format!(
        "[retention]\nlast = 2\n{general}\n{}{}",
        copy("second", 4),
        copy("third", 1)
    ))
}

fn by_itself(place: &Fixture, dry_run: bool) -> Result<PolicyReport> {
    by_itself_in(place, &place.context, None, dry_run)
}

fn by_itself_in(
    place: &Fixture,
    context: &Context,
    only: Option<&str>,
    dry_run: bool,
) -> Result<PolicyReport> {
    let store = dbkeep_engine::repository::open(context, place.now(), &place.watch())?;
    let choice = Choice::Configured { accept: false };
    let request = ForgetRequest { choice, database: only.map(str::to_owned), dry_run };
    forget::everywhere(&store, &request, place.now(), &place.watch())
}

/// Backs up another state of the database, everywhere.
fn back_up(place: &Fixture, a: &Connection) -> Id {
    insert(a, 1);
    place.stored("a.db").snapshot.unwrap()
}

fn there(place: &Fixture, location: &str) -> usize {
    Other::at(place, location).list().snapshots.len()
}

fn gone(report: &PolicyReport) -> Vec<usize> {
    let copies = report.copies.iter().map(|copy| copy.report.forgotten.len());
    std::iter::once(report.here.forgotten.len()).chain(copies).collect()
}

fn error_of(copy: &CopyForgetReport) -> &str {
    copy.error.as_ref().map_or("", |error| error.kind.as_str())
}

#[test]
fn each_place_keeps_what_its_own_policy_says() {
    let place = with_policies();
    let a = place.database("a.db", 10);
    let mut states = Vec::new();
    for _ in 0..6 {
        back_up(&place, &a);
        states.push(rows(&place.path("a.db")));
        let planned = by_itself(&place, true).unwrap();
        let done = by_itself(&place, false).unwrap();
        assert_eq!((gone(&done), done.exit_code()), (gone(&planned), 0), "{done:?}");
    }
    assert_eq!((place.list().snapshots.len(), there(&place, "second"), there(&place, "third")), (2, 4, 1));
    // What went here is whole there, and nothing comes back.
    let second = Other::at(&place, "second");
    let oldest = second.list().snapshots[3].id;
    assert_eq!(second.rows_of(&oldest, "third-of-six.db"), states[2]);
    back_up(&place, &a);
    assert_eq!((there(&place, "second"), there(&place, "third")), (5, 2), "only the new one was copied");
    for location in ["second", "third"] {
        Other::at(&place, location).expect_sound();
    }
}

#[test]
fn what_is_held_is_held_in_every_place() {
    let place = with_policies();
    let a = place.database("a.db", 10);
    let held = back_up(&place, &a);
    let request = PinRequest { snapshot: held.to_string(), database: None, pinned: true };
    pin::run(&place.open().unwrap(), &request, place.now()).unwrap();
    for _ in 0..3 {
        back_up(&place, &a);
        assert_eq!(by_itself(&place, false).unwrap().exit_code(), 0);
    }
    assert_eq!((place.list().snapshots.len(), there(&place, "third")), (3, 2));
}

#[test]
fn copy_that_fails_holds_up_neither_the_repository_nor_the_others() {
    let place = with_policies();
    let a = place.database("a.db", 10);
    back_up(&place, &a);
    back_up(&place, &a);
    std::fs::rename(place.path("second"), place.path("unmounted")).unwrap();
    insert(&a, 1);
    place.backup(&of(&["a.db"])).unwrap();
    let report = by_itself(&place, false).unwrap();
    let [second, third] = report.copies.as_slice() else { panic!("{report:?}") };
    assert_eq!((error_of(second), second.name.as_str()), ("repository-gone", "second"));
    assert!(second.error.as_ref().unwrap().message.starts_with("copy \"second\": "), "{second:?}");
    assert_eq!((gone(&report), report.exit_code()), (vec![1, 0, 0], 3));
    // Two of three at once is more than a fifth.
    assert_eq!((third.report.frozen.len(), third.report.refused.len()), (1, 2));
    assert!(!place.path("second").exists());
}

#[test]
fn nothing_goes_anywhere_while_the_repository_cannot_be_judged() {
    let place = with_policies();
    let a = place.database("a.db", 10);
    let first = back_up(&place, &a);
    back_up(&place, &a);
    let before = [there(&place, "second"), there(&place, "third")];
    std::fs::remove_file(place.path("backups/snapshots").join(first.to_string())).unwrap();
    let (kind, code, message) = told(&by_itself(&place, false).unwrap_err());
    assert_eq!((kind, code), ("refused", 1));
    assert!(message.contains("the listing has a gap"), "{message}");
    assert_eq!([there(&place, "second"), there(&place, "third")], before);
    std::fs::remove_dir_all(place.path("backups")).unwrap();
    assert_eq!(by_itself(&place, false).unwrap_err().kind().word(), "repository-gone");
    assert_eq!([there(&place, "second"), there(&place, "third")], before);
}

#[test]
fn gap_in_a_copy_stops_its_policy_only() {
    let place = with_policies();
    let a = place.database("a.db", 10);
    for _ in 0..3 {
        back_up(&place, &a);
    }
    let newest = Other::at(&place, "third").list().snapshots[0].id;
    std::fs::remove_file(place.path("third/snapshots").join(newest.to_string())).unwrap();
    let report = by_itself(&place, false).unwrap();
    assert_eq!((report.copies[1].error.as_ref().unwrap().exit_code, report.exit_code()), (1, 3));
    assert_eq!((gone(&report), there(&place, "third")), (vec![1, 0, 0], 2));
    // The next copy brings back what is missing.
    copied(&place, &all_to("third")).unwrap();
    assert_eq!(there(&place, "third"), 3);
    assert_eq!(error_of(&by_itself(&place, false).unwrap().copies[1]), "");
}

#[test]
fn copy_that_was_never_made_or_lacks_the_database_is_no_failure() {
    let place = with_policies();
    let a = place.database("a.db", 10);
    place.backup(&without_copies(&["a.db"])).unwrap();
    let report = by_itself(&place, false).unwrap();
    assert_eq!((report.exit_code(), report.copies.len()), (0, 2), "{report:?}");
    assert!(!place.path("second").exists());

    copied(&place, &all_to("third")).unwrap();
    drop(place.database("b.db", 1));
    place.backup(&BackupRequest { copies: false, ..of(&["b.db"]) }).unwrap();
    let report = by_itself_in(&place, &place.context, Some("b"), false).unwrap();
    assert_eq!(report.exit_code(), 0, "{report:?}");
    drop(a);
}

#[test]
fn policy_of_a_copy_is_carried_out_alone_where_the_copy_is_named() {
    let place = with_policies();
    let a = place.database("a.db", 10);
    back_up(&place, &a);
    back_up(&place, &a);
    let mut there = place.context.clone();
    for location in ["third", "./second/../third/"] {
        there.location = place.path(location);
        back_up(&place, &a);
        let report = by_itself_in(&place, &there, None, true).unwrap();
        assert!(report.copies.is_empty(), "{report:?}");
        assert_eq!(report.here.kept.len(), 1, "by the policy of the copy: {report:?}");
    }
    // Nor is what is backed up into a copy by hand copied from there, or that copy a copy of itself.
    let report = dbkeep_engine::backup::run(&there, &of(&["a.db"]), place.now(), &place.watch()).unwrap();
    assert_eq!((report.copies.len(), report.exit_code()), (0, 0));
}

#[test]
fn two_copies_at_one_place_are_refused() {
    let place = Fixture::with_config(
        "[[copies]]\nname = \"second\"\nlocation = \"ROOT/second\"\n\
         [[copies]]\nname = \"link\"\nlocation = \"ROOT/link\"\n",
    );
    std::fs::create_dir(place.path("second")).unwrap();
    std::os::unix::fs::symlink(place.path("second"), place.path("link")).unwrap();
    drop(place.database("a.db", 10));
    let report = place.backup(&of(&["a.db"])).unwrap();
    assert_eq!((report.copies[0].status.as_str(), report.exit_code()), ("ok", 3));
    let error = report.copies[1].error.as_ref().unwrap();
    assert_eq!((error.kind.as_str(), error.exit_code), ("usage", 2));
    assert!(error.message.contains("\"second\" and \"link\" are at the same place"), "{error:?}");
    let report = by_itself(&place, false).unwrap();
    assert_eq!((error_of(&report.copies[0]), error_of(&report.copies[1])), ("", "usage"));
}

#[test]
fn copy_into_a_place_that_has_a_stricter_policy_never_brings_back_what_went() {
    let place = with_policies();
    let a = place.database("a.db", 10);
    for _ in 0..4 {
        back_up(&place, &a);
        by_itself(&place, false).unwrap();
        let all = CopyRequest { to: "third".to_owned(), ..CopyRequest::default() };
        let report = copy::run(&place.open().unwrap(), &all, place.now(), &place.watch()).unwrap();
        assert_eq!((report.copied, report.exit_code()), (0, 0), "{report:?}");
        assert_eq!(there(&place, "third"), 1);
    }
}

#[test]
fn databases_that_others_copy_to_the_same_place_are_left_to_them() {
    let place = with_policies();
    let mut elsewhere = place.context.clone();
    elsewhere.location = place.path("elsewhere");
    elsewhere.config.copies.clear();
    let theirs = [place.database("two/a.db", 5), place.database("two/b.db", 5)];
    let to_third = CopyRequest { to: place.path("third").display().to_string(), ..CopyRequest::default() };
    for _ in 0..3 {
        theirs.iter().for_each(|one| insert(one, 1));
        let sources = of(&["two/a.db", "two/b.db"]);
        dbkeep_engine::backup::run(&elsewhere, &sources, place.now(), &place.watch()).unwrap();
        let store = dbkeep_engine::repository::open(&elsewhere, place.now(), &place.watch()).unwrap();
        assert_eq!(copy::run(&store, &to_third, place.now(), &place.watch()).unwrap().copied, 2);
    }
    // One of theirs is called as one of ours is, and is not ours.
    let a = place.database("a.db", 10);
    for _ in 0..2 {
        insert(&a, 1);
        let report = place.backup(&of(&["a.db"])).unwrap();
        let error = report.copies[1].error.as_ref().unwrap();
        assert!(error.message.contains("belongs to another database"), "{error:?}");
        assert!(error.hint.as_ref().unwrap().contains("--adopt-name"), "{error:?}");
        let report = by_itself(&place, false).unwrap();
        assert_eq!((gone(&report), report.exit_code()), (vec![0, 0, 0], 0), "{report:?}");
        let reasons = report.copies[1].report.kept.iter().map(|kept| kept.reasons.join(", "));
        assert_eq!(reasons.collect::<Vec<_>>(), ["it is none of the databases of the repository"; 6]);
    }
    assert_eq!(there(&place, "third"), 6);
}
