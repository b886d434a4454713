//! Others who come first when the command has ended: until the last moment nothing of theirs is rolled back unasked.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

const WRITTEN: &str = "it was written after the command had ended";

/// Does something once, at a step.
fn once_at(fixture: &Fixture, wanted: &'static str, run: impl FnOnce() + Send + 'static) {
    let mut run = Some(run);
    fixture.at_step(move |step| {
        if step == wanted
            && let Some(run) = run.take()
        {
            run();
        }
    });
}

#[test]
fn what_is_written_first_after_the_command_has_ended_is_not_rolled_back() {
    for journal in ["DELETE", "WAL"] {
        for step in ["guard.taken-down", "guard.judged", "guard.restoring", "restore.begun"] {
            let fixture = Fixture::new();
            let path = database(&fixture, "app.db");
            execute(&path, &format!("PRAGMA journal_mode = {journal}"));
            let file = path.clone();
            once_at(&fixture, step, move || insert(&Connection::open(&file).unwrap(), 1));
            let report = guarded(&fixture, &of(&["app.db"]), || {
                execute(&path, "DELETE FROM items");
                Err("x".to_owned())
            });
            let report = report.unwrap();
            assert_eq!((report.outcome, &report.error), (GuardOutcome::Kept, &None), "{step}: {report:#?}");
            let one = &report.databases[0];
            assert_eq!((one.status, one.safety_snapshot), (GuardedStatus::Changed, None), "{step}");
            assert_eq!(one.doubts, [WRITTEN], "{step} {journal}");
            assert_eq!(rows(&path), 1, "{step} {journal}");
            assert_eq!(resumed(&fixture, None).unwrap(), [], "{step}");
        }
    }
}

#[test]
fn who_opens_it_after_the_command_has_ended_is_seen() {
    for step in ["guard.ended", "guard.taken-down", "guard.judged", "guard.restoring"] {
        let fixture = Fixture::new();
        let path = database(&fixture, "app.db");
        let (file, holder) = (path.clone(), std::sync::Arc::new(std::sync::Mutex::new(None)));
        let slot = std::sync::Arc::clone(&holder);
        once_at(&fixture, step, move || *slot.lock().unwrap() = Some(keep_open(&file)));
        let report = guarded(&fixture, &of(&["app.db"]), || {
            execute(&path, "DELETE FROM items");
            Err("x".to_owned())
        });
        let child = holder.lock().unwrap().take().unwrap();
        let expected = format!("process {} (sh) had it open", child.id());
        end(child);
        let report = report.unwrap();
        assert_eq!(report.outcome, GuardOutcome::Kept, "{step}");
        assert_eq!((report.databases[0].doubts.as_slice(), rows(&path)), (&[expected][..], 0), "{step}");
    }
}

#[test]
fn person_is_asked_again_when_others_have_come_meanwhile() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    let asked = AtomicUsize::new(0);
    let decide = |report: &GuardReport| {
        if asked.fetch_add(1, Ordering::SeqCst) == 0 {
            assert!(report.databases[0].alone);
            insert(&Connection::open(&path).unwrap(), 1);
            return Ok(Choice::Restore);
        }
        assert_eq!(report.databases[0].doubts, [WRITTEN]);
        Ok(Choice::Keep)
    };
    let mut task = guard::closure(|| {
        execute(&path, "DELETE FROM items");
        Err("x")
    });
    let request = GuardRequest { on_failure: OnFailure::Ask, ..of(&["app.db"]) };
    let report = guard::run(&fixture.context, &request, &mut task, &decide, fixture.now(), &fixture.watch());
    assert_eq!((report.unwrap().outcome, asked.into_inner(), rows(&path)), (GuardOutcome::Kept, 2, 1));
}

#[test]
fn second_database_that_others_open_while_the_first_goes_back_is_left_alone() {
    let fixture = Fixture::new();
    let (path, other) = (database(&fixture, "app.db"), database(&fixture, "other.db"));
    let (file, holder) = (other.clone(), std::sync::Arc::new(std::sync::Mutex::new(None)));
    let slot = std::sync::Arc::clone(&holder);
    once_at(&fixture, "restore.committed", move || *slot.lock().unwrap() = Some(keep_open(&file)));
    let report = guarded(&fixture, &of(&["app.db", "other.db"]), || {
        execute(&path, "DELETE FROM items");
        execute(&other, "DELETE FROM items");
        Err("x".to_owned())
    });
    end(holder.lock().unwrap().take().unwrap());
    let report = report.unwrap();
    assert_eq!((report.outcome, report.exit_code()), (GuardOutcome::Kept, 125), "{report:#?}");
    assert!(report.error.unwrap().message.contains("(sh) had it open"));
    assert_eq!((rows(&path), rows(&other)), (10, 0));
}

#[test]
fn second_database_that_was_written_meanwhile_is_told_and_finished_by_a_person() {
    let fixture = Fixture::new();
    let (path, other) = (database(&fixture, "app.db"), database(&fixture, "other.db"));
    let file = other.clone();
    once_at(&fixture, "guard.restored-one", move || insert(&Connection::open(&file).unwrap(), 1));
    let report = guarded(&fixture, &of(&["app.db", "other.db"]), || {
        execute(&path, "DELETE FROM items");
        execute(&other, "DELETE FROM items");
        Err("x".to_owned())
    });
    let report = report.unwrap();
    assert_eq!((report.outcome, report.exit_code()), (GuardOutcome::Kept, 125), "{report:#?}");
    let error = report.error.unwrap();
    assert!(
        error.message.contains(WRITTEN) && error.hint.unwrap().contains("guard --resume"),
        "{}",
        error.message
    );
    assert_eq!((rows(&path), rows(&other)), (10, 1));

    let report = resumed(&fixture, None).unwrap().remove(0);
    assert!(report.error.is_some(), "somebody has to say what becomes of what was written");
    assert_eq!(rows(&other), 1);
    let report = resumed(&fixture, Some(OnFailure::Restore)).unwrap().remove(0);
    assert_eq!((report.outcome, report.error), (GuardOutcome::Restored, None));
    assert_eq!((rows(&path), rows(&other)), (10, 10));
}
