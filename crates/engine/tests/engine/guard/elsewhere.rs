//! A command that leaves the way to another file behind: that one was never backed up or looked at.

use super::*;

#[test]
fn link_that_leads_to_another_database_is_not_followed_by_a_restore() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    let other = database(&fixture, "other.db");
    insert(&Connection::open(&other).unwrap(), 3);
    let report = guarded(&fixture, &of(&["app.db"]), || {
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        Err("x".to_owned())
    });
    let report = report.unwrap();
    assert_eq!(report.outcome, GuardOutcome::Kept, "{report:#?}");
    let doubts = &report.databases[0].doubts;
    assert!(doubts.iter().any(|doubt| doubt.contains("leads to another file now")), "{doubts:?}");
    assert_eq!(rows(&other), 13, "the other one is untouched");
}

#[test]
fn file_of_two_names_is_kept() {
    let fixture = Fixture::new();
    let path = database(&fixture, "app.db");
    let second = fixture.path("second.db");
    let report = guarded(&fixture, &of(&["app.db"]), || {
        std::fs::hard_link(&path, &second).unwrap();
        execute(&path, "DELETE FROM items");
        Err("x".to_owned())
    });
    let report = report.unwrap();
    assert_eq!(report.outcome, GuardOutcome::Kept, "{report:#?}");
    let doubts = &report.databases[0].doubts;
    assert_eq!(doubts, &["its file has 2 names, and all of them would be overwritten"]);
    assert_eq!(rows(&second), 0);
}

#[test]
fn database_that_is_named_by_a_link_from_the_start_is_brought_back() {
    let fixture = Fixture::new();
    let path = database(&fixture, "real.db");
    std::os::unix::fs::symlink(&path, fixture.path("app.db")).unwrap();
    let report = guarded(&fixture, &of(&["app.db"]), || {
        execute(&path, "DELETE FROM items");
        Err("x".to_owned())
    });
    let report = report.unwrap();
    assert_eq!((report.outcome, rows(&path)), (GuardOutcome::Restored, 10), "{report:#?}");
    assert!(fixture.path("app.db").is_symlink());
}
