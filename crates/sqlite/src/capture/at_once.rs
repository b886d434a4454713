//! Several databases at one and the same moment.
//!
//! A transaction over several databases in WAL mode becomes visible file by file, so looking
//! at them one after the other could see half of it. Writers are therefore held off all of
//! them while the read transactions begin, for the instant that takes. In rollback mode
//! SHARED on all does the same.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::capture::open::{Held, Site};
use crate::capture::{Capture, CaptureOptions};
use crate::{Error, Result};

/// How long to let go of everything before the next attempt; more with each one.
const PAUSE: Duration = Duration::from_millis(3);

pub(super) fn open(paths: &[PathBuf], options: &CaptureOptions) -> Vec<Result<Capture>> {
    let mut sites: Vec<Result<Site>> = paths.iter().map(|path| Site::look(path, options)).collect();
    loop {
        match hold_all(&sites, options) {
            Ok(held) => return captures(sites, held, options),
            // This one cannot be had; the others do not wait for it any longer.
            Err(Obstacle { index, error }) => sites[index] = Err(error),
        }
    }
}

/// The database that cannot be locked.
struct Obstacle {
    index: usize,
    error: Error,
}

/// Locks all sites, or says which one is in the way.
fn hold_all(sites: &[Result<Site>], options: &CaptureOptions) -> Result<Vec<Option<Held>>, Obstacle> {
    let deadline = Instant::now() + options.busy_timeout;
    let mut attempt = 0u32;
    loop {
        match try_hold_all(sites, options) {
            // Holding on to some while waiting for others could stop an application that
            // takes them in another order; so everything is given back first.
            Err(Obstacle { error: Error::Busy { .. }, .. }) if Instant::now() < deadline => {
                attempt = attempt.saturating_add(1);
                std::thread::sleep(PAUSE * attempt.min(10));
            }
            other => return other,
        }
    }
}

fn try_hold_all(sites: &[Result<Site>], options: &CaptureOptions) -> Result<Vec<Option<Held>>, Obstacle> {
    let mut held = Vec::with_capacity(sites.len());
    for (index, site) in sites.iter().enumerate() {
        held.push(match site {
            Ok(site) => Some(site.try_hold(options, true).map_err(|error| Obstacle { index, error })?),
            Err(_) => None,
        });
    }
    // Nobody can commit anywhere now: this is the moment. All transactions begin before the
    // first writer is let go.
    let mut gates = Vec::new();
    let mut begun = Vec::with_capacity(held.len());
    for (index, held) in held.into_iter().enumerate() {
        begun.push(match held {
            Some(Held::Gated(mut live, guard, gate)) => {
                let moment = live.try_begin().map_err(|error| Obstacle { index, error })?;
                gates.push((guard, gate));
                Some(Held::Live(live, moment))
            }
            other => other,
        });
    }
    drop(gates);
    Ok(begun)
}

fn captures(
    sites: Vec<Result<Site>>,
    held: Vec<Option<Held>>,
    options: &CaptureOptions,
) -> Vec<Result<Capture>> {
    sites
        .into_iter()
        .zip(held)
        .map(|(site, held)| {
            let site = site?;
            match held {
                Some(held) => Capture::of(site, held, options, true),
                None => Err(Error::Missing { path: site.identity.path }),
            }
        })
        .collect()
}
