//! Exports that are stopped, or meet somebody else, on their way.

use std::fs;
use std::path::PathBuf;

use dbkeep_engine::export::{self, ExportRequest, Format};
use dbkeep_engine::report::ExportReport;
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
        assert_eq!((error.kind(), error.exit_code()), ("refused", 1), "{format:?}: {error}");
        assert!(error.to_string().ends_with(&format!("{} exists", name.display())), "{error}");
        assert_eq!(fs::read_to_string(&theirs).unwrap(), "theirs");
        assert_eq!(fs::read_dir(place.path("out")).unwrap().count(), 1, "{format:?}");
    }
}
