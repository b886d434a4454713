//! The policies of the configuration, in one go: of the repository, and of each of its copies by its own.
//!
//! Where the repository cannot be judged nothing goes anywhere: what it has lost, a copy may be the last to have. A
//! copy that fails holds up nobody.

use jiff::Timestamp;

use super::{Choice, ForgetRequest, run, run_among};
use crate::context::Watch;
use crate::copy::names;
use crate::copy::place::{self, Place};
use crate::report::{CopyForgetReport, ErrorReport, ForgetReport, PolicyReport};
use crate::repository::Store;
use crate::{ErrorKind, Result};

/// Drops snapshots: by the configuration wherever that has a policy for, else only here.
pub fn everywhere(
    store: &Store,
    request: &ForgetRequest,
    now: Timestamp,
    watch: &Watch,
) -> Result<PolicyReport> {
    match request.choice {
        Choice::Configured { .. } => by_itself(store, request, now, watch),
        Choice::Named { .. } | Choice::Policy(_) => {
            Ok(PolicyReport { here: run(store, request, now, watch)?, copies: Vec::new() })
        }
    }
}

/// Drops what the policies of the configuration do not keep, in the repository and then in each configured copy. Days,
/// weeks and months are those of the user's zone.
///
/// An error is about the repository, and nothing
/// was dropped anywhere; what goes wrong in a copy is part of the report. Where the repository in use is not the
/// configured one, or is a copy itself, only that one is looked at.
fn by_itself(store: &Store, request: &ForgetRequest, now: Timestamp, watch: &Watch) -> Result<PolicyReport> {
    let here = run(store, request, now, watch)?;
    let places = place::configured(store.context()).into_iter();
    let copies = places.map(|(name, place)| in_copy(store, name, place, request, now, watch));
    Ok(PolicyReport { here, copies: copies.collect() })
}

fn in_copy(
    primary: &Store,
    name: String,
    place: Result<Place>,
    request: &ForgetRequest,
    now: Timestamp,
    watch: &Watch,
) -> CopyForgetReport {
    let location = place.as_ref().map(|place| place.location().to_owned()).unwrap_or_default();
    let done = place.and_then(|place| drop_there(primary, &place, request, now, watch));
    let (report, error) = match done {
        Ok(report) => (report, None),
        Err(error) => (ForgetReport::default(), Some(ErrorReport::from(&error))),
    };
    CopyForgetReport { name, location, report, error }
}

fn drop_there(
    primary: &Store,
    place: &Place,
    request: &ForgetRequest,
    now: Timestamp,
    watch: &Watch,
) -> Result<ForgetReport> {
    let nothing = || ForgetReport { dry_run: request.dry_run, ..ForgetReport::default() };
    let Some(copy) = place.open_if_made(primary, now, watch)? else { return Ok(nothing()) };
    // Others may copy to the same place: what they keep there is theirs to say.
    let done = names::owned(primary, &copy.afresh())
        .and_then(|ours| run_among(&copy, request, Some(&ours), now, watch));
    match done {
        // The database was not copied there yet.
        Err(error) if error.kind() == ErrorKind::NoSnapshot => Ok(nothing()),
        done => done.map_err(|error| place::at(&place.name, error)),
    }
}
