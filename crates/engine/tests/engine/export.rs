//! Exports that are stopped, or meet somebody else, on their way.

use std::fs;
use std::path::PathBuf;

use dbkeep_engine::export::{self, ExportRequest, Format};
use dbkeep_engine::files;
use dbkeep_engine::forget::{self, Choice, ForgetRequest};
use dbkeep_engine::report::{ExportReport, MissingDatabase, MissingStatus};
use dbkeep_engine::{Error, Result};

use crate::fixture::{Fixture, of};

fn two_databases() -> Fixture {
    let place = Fixture::new();
    place.database("app.db", 300);
    place.database("other.db", 10);
    let sources = [place.path("app.db"), place.path("other.db")].map(|path| path.display().to_string());
    place.backup(&of(&[&sources[0], &sources[1]])).unwrap();
    place
}

fn exported(place: &Fixture, format: Format) -> Result<ExportReport> {
    let request = ExportRequest {
        session: Some("latest".to_owned()),
        out: place.path("out"),
        format,
        ..ExportRequest::default()
    };
    export::run(&place.open()?, &request, place.now(), &place.watch())
}

#[test]
fn export_that_is_stopped_leaves_nothing() {
    for format in Format::ALL {
        for step in ["export.database-written", "export.written"] {
            let place = two_databases();
            *place.heard.cancel_at.lock().unwrap() = Some(step);
            let stopped = exported(&place, format);
            assert!(matches!(stopped, Err(Error::Cancelled)), "{format:?} at {step}: {stopped:?}");
            assert!(!place.path("out").exists(), "{format:?} at {step}");
            if format == Format::Bundle {
                *place.heard.cancel_at.lock().unwrap() = None;
                assert_eq!(exported(&place, format).unwrap().databases.len(), 2);
            }
        }
    }
}

#[test]
fn name_that_somebody_takes_meanwhile_stays_theirs() {
    for format in [Format::Bundle, Format::TarGz, Format::Db, Format::Csv] {
        let place = two_databases();
        let first = exported(&place, format).unwrap().files[0].path.clone();
        let name = PathBuf::from(first.split('/').next().unwrap());
        fs::remove_dir_all(place.path("out")).unwrap();
        let theirs = place.path("out").join(&name);
        let taken = theirs.clone();
        place.at_step(move |step| {
            if step == "export.written" {
                fs::write(&taken, "theirs").unwrap();
            }
        });
        let error = exported(&place, format).unwrap_err();
        assert_eq!((error.kind().word(), error.exit_code()), ("refused", 1), "{format:?}: {error}");
        assert!(error.to_string().ends_with(&format!("{} exists", name.display())), "{error}");
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
        assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 1, "{format:?}");
    }
}

#[test]
fn names_that_were_given_are_taken_back_when_a_later_one_is_taken() {
    for format in [Format::TarGz, Format::Db, Format::Csv] {
        let place = two_databases();
        let files = exported(&place, format).unwrap().files;
        let is_data = |path: &&str| !path.ends_with(".sha256");
        let mut names = files.iter().map(|file| file.path.split('/').next().unwrap()).filter(is_data);
        let last = names.next_back().unwrap().to_owned();
        fs::remove_dir_all(place.path("out")).unwrap();
        let theirs = place.path("out").join(&last);
        let taken = theirs.clone();
        place.at_step(move |step| {
            if step == "export.written" {
                fs::write(&taken, "theirs").unwrap();
            }
        });
        let error = exported(&place, format).unwrap_err();
        assert!(error.to_string().ends_with(&format!("{last} exists")), "{error}");
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
        assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 1, "{format:?}");
    }
}

#[test]
fn directory_inside_of_a_repository_is_refused() {
    let place = two_databases();
    let repository = place.context.location.clone();
    let before = fs::read_dir(repository.join("locks")).unwrap().count();
    std::os::unix::fs::symlink(repository.join("locks"), place.path("link")).unwrap();
    for out in [repository.join("locks"), repository.join("new/deep"), place.path("link/new")] {
        let request = ExportRequest {
            session: Some("latest".to_owned()),
            out: out.clone(),
            ..ExportRequest::default()
        };
        let error = export::run(&place.open().unwrap(), &request, place.now(), &place.watch()).unwrap_err();
        assert_eq!(error.kind().word(), "refused", "{error}");
        assert!(error.to_string().contains("is inside of the repository"), "{error}");
    }
    assert_eq!(fs::read_dir(repository.join("locks")).unwrap().count(), before);
    assert!(!repository.join("new").exists());
}

/// Makes a session of two databases, and a later one, and removes a snapshot of the first.
fn with_a_hole(place: &Fixture, how: impl Fn(&Fixture, &dbkeep_repo::Id)) -> ExportRequest {
    let snapshots = place.list().snapshots;
    let session = snapshots[0].session.clone().unwrap();
    let other = snapshots.iter().find(|one| one.database.as_deref() == Some("other")).unwrap().id;
    place.stored(&place.path("other.db").display().to_string());
    how(place, &other);
    ExportRequest { session: Some(session), out: place.path("out"), ..ExportRequest::default() }
}

fn missing(status: MissingStatus) -> Vec<MissingDatabase> {
    vec![MissingDatabase { database: "other".to_owned(), status }]
}

#[test]
fn database_of_the_session_that_was_forgotten_is_named_as_missing() {
    let place = two_databases();
    let request = with_a_hole(&place, |place, other| {
        let choice = Choice::Named { snapshots: vec![other.to_string()], force: false };
        let request = ForgetRequest { choice, database: None, dry_run: false };
        let report = forget::run(&place.open().unwrap(), &request, place.now(), &place.watch()).unwrap();
        assert_eq!(report.forgotten.len(), 1);
    });
    place.warnings();
    let report = export::run(&place.open().unwrap(), &request, place.now(), &place.watch()).unwrap();
    assert_eq!((report.databases.len(), report.exit_code()), (1, 0));
    assert_eq!(report.missing, missing(MissingStatus::Forgotten));
    let warnings = place.warnings();
    assert!(
        warnings.iter().any(|one| one.contains("other of session") && one.contains("was forgotten")),
        "{warnings:?}"
    );
    let bundle = place.path("out").join(format!("backup_{}", report.session));
    let read = |name: &str| fs::read_to_string(bundle.join(name)).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&read("manifests/backup_manifest.json")).unwrap();
    let expected = serde_json::json!([{ "database": "other", "status": "forgotten" }]);
    assert_eq!(manifest["missing"], expected);
    let told: serde_json::Value = serde_json::from_str(&read("backup_report.json")).unwrap();
    assert_eq!(told["errors"][0]["error"], "its snapshot was forgotten");
    assert!(read("logs/backup.log").contains("event=missing database=other"));
    let verified = files::verify(&place.context.environment, &[bundle], &place.watch()).unwrap();
    assert_eq!((verified.ok, verified.damaged), (1, 0));
    assert_eq!(verified.files[0].notes, ["other of this session is not in it: its snapshot was forgotten"]);
    // Who asks for one database does not ask for the others.
    let one = ExportRequest { database: Some("app".to_owned()), out: place.path("one"), ..request };
    let report = export::run(&place.open().unwrap(), &one, place.now(), &place.watch()).unwrap();
    assert!(report.missing.is_empty());
}

#[test]
fn database_of_the_session_that_is_lost_makes_the_export_partial() {
    let place = two_databases();
    let request = with_a_hole(&place, |place, other| {
        fs::remove_file(place.context.location.join("snapshots").join(other.to_string())).unwrap();
    });
    let report = export::run(&place.open().unwrap(), &request, place.now(), &place.watch()).unwrap();
    assert_eq!((report.databases.len(), report.exit_code()), (1, 3));
    assert_eq!(report.missing, missing(MissingStatus::Lost));
}
