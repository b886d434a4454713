//! Examines the repository that sources would be stored in.

use std::path::Path;

use dbkeep_repo::backend::FileKind;
use jiff::Timestamp;

use crate::Error;
use crate::context::{Context, Watch};
use crate::report::{ExaminedRepository, Finding, Health, Severity};
use crate::repository;

/// So much should be free at least.
const SCARCE: u64 = 1 << 30;

/// What was found of the repository.
pub(super) struct Storage {
    pub(super) report: ExaminedRepository,
    /// The bytes that are free where it is, if that is known.
    pub(super) free: Option<u64>,
}

/// Looks at it.
pub(super) fn look(context: &Context, now: Timestamp, watch: &Watch) -> Storage {
    let free = free_space(&context.location);
    let mut findings = vec![opened(context, now, watch)];
    findings.extend(writable(&context.location));
    findings.extend(room(free));
    let report = ExaminedRepository {
        location: context.location.display().to_string(),
        status: Health::of(&findings),
        findings,
    };
    Storage { report, free }
}

/// Says whether it opens with the password that is there.
fn opened(context: &Context, now: Timestamp, watch: &Watch) -> Finding {
    let failed = |error: &Error| {
        let finding = Finding::new(Severity::Problem, "repository", error.full_message());
        Finding { advice: error.hint(), ..finding }
    };
    match repository::open(context, now, watch) {
        Ok(store) => match store.repository().list(FileKind::Snapshot) {
            Ok(snapshots) => {
                let count = snapshots.len();
                let noun = if count == 1 { "snapshot" } else { "snapshots" };
                Finding::new(Severity::Ok, "repository", format!("it opens, and has {count} {noun}"))
            }
            Err(error) => failed(&error.into()),
        },
        Err(error @ Error::NoRepository { .. }) => match repository::may_be_made(context) {
            Ok(()) => {
                Finding::new(Severity::Note, "repository", "there is none yet: the first backup makes it")
            }
            Err(_) => failed(&error),
        },
        Err(error) => failed(&error),
    }
}

/// Says so if this user may not write there.
fn writable(location: &Path) -> Option<Finding> {
    let existing = location.ancestors().find(|directory| directory.is_dir())?;
    let refused = rustix::fs::access(existing, rustix::fs::Access::WRITE_OK).err()?;
    let message = format!("nothing can be written to {}: {refused}", existing.display());
    Some(
        Finding::new(Severity::Problem, "repository", message)
            .advise("check who owns it, and how it is mounted"),
    )
}

fn room(free: Option<u64>) -> Option<Finding> {
    let free = free?;
    let message = format!("{} are free where it is", super::file::size(free));
    Some(match free < SCARCE {
        true => Finding::new(Severity::Warning, "space", message)
            .advise("make room, or `dbkeep prune` what is not kept"),
        false => Finding::new(Severity::Ok, "space", message),
    })
}

fn free_space(location: &Path) -> Option<u64> {
    let existing = location.ancestors().find(|directory| directory.is_dir())?;
    let free = rustix::fs::statvfs(existing).ok()?;
    Some(free.f_bavail.saturating_mul(free.f_frsize))
}
