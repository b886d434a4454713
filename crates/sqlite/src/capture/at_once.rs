//! Several databases at one and the same moment.
//!
//! A transaction over several databases in WAL mode becomes visible file by file, so looking
//! at them one after the other could see half of it. Writers are therefore held off all of
//! them while the read transactions begin, for the instant that takes. In rollback mode
//! SHARED on all does the same.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::capture::growth::Membership;
use crate::capture::open::{Held, Site};
use crate::capture::{Capture, CaptureOptions};
use crate::{Error, Result};

/// How long to let go of everything before the next attempt; more with each one.
const PAUSE: Duration = Duration::from_millis(3);

/// How long one attempt waits for one lock. An application may hold it and wait for one that
/// we hold, so this is short, and then everything is given back.
const PATIENCE: Duration = Duration::from_millis(20);

pub(super) fn open(paths: &[PathBuf], options: &CaptureOptions) -> Vec<Result<Capture>> {
    let mut sites: Vec<Result<Site>> = paths.iter().map(|path| Site::look(path, options)).collect();
    let mut timeout = options.busy_timeout;
    loop {
        match hold_all(&mut sites, options, timeout) {
            Ok(held) => return captures(sites, held, options),
            // This one cannot be had; the others do not wait for it any longer, and for each further one only half as
            // long: their writers are held up again and again meanwhile.
            Err(Obstacle { index, error }) => {
                timeout /= 2;
                let error = match &sites[index] {
                    Ok(site) => site.name_holder(error),
                    Err(_) => error,
                };
                sites[index] = Err(error);
            }
        }
    }
}

/// The database that cannot be locked.
struct Obstacle {
    index: usize,
    error: Error,
}

/// Locks all sites, or says which one is in the way.
fn hold_all(
    sites: &mut [Result<Site>],
    options: &CaptureOptions,
    timeout: Duration,
) -> Result<Vec<Option<Held>>, Obstacle> {
    let deadline = Instant::now() + timeout;
    let mut attempt = 0;
    loop {
        let began = Instant::now();
        match try_hold_all(sites, options, attempt) {
            Err(Obstacle { error: Error::Busy { .. }, index }) if Instant::now() < deadline => {
                attempt += 1;
                // At least as long as it held what it got, so that writers get through half of the time.
                let pause = PAUSE * u32::try_from(attempt.min(5)).unwrap_or(5);
                std::thread::sleep(pause.max(began.elapsed()));
                // It may have changed to WAL mode meanwhile, or back, and is held in another way then.
                if let Ok(site) = &sites[index] {
                    sites[index] = Site::look(&site.identity.path, options);
                }
            }
            other => return other,
        }
    }
}

fn try_hold_all(
    sites: &[Result<Site>],
    options: &CaptureOptions,
    attempt: usize,
) -> Result<Vec<Option<Held>>, Obstacle> {
    let mut all: Vec<Option<Held>> = sites.iter().map(|_| None).collect();
    for index in order(sites.len(), attempt) {
        if let Ok(site) = &sites[index] {
            let held = site.hold(options, PATIENCE, true).and_then(|held| held.ensure_gated(site));
            all[index] = Some(held.map_err(|error| Obstacle { index, error })?);
        }
    }
    // Nobody can commit anywhere now: this is the moment. All transactions begin before the
    // first writer is let go.
    let mut gates = Vec::new();
    let mut begun = Vec::with_capacity(all.len());
    for (index, held) in all.into_iter().enumerate() {
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

/// The order of an attempt. An application that takes its locks in one order lets those
/// through who take them in the same one; nobody knows which it is, so each gets its turn.
fn order(count: usize, attempt: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    if let Some(middle) = (attempt / 2).checked_rem(count) {
        order.rotate_left(middle);
    }
    if attempt % 2 == 1 {
        order.reverse();
    }
    order
}

fn captures(
    sites: Vec<Result<Site>>,
    held: Vec<Option<Held>>,
    options: &CaptureOptions,
) -> Vec<Result<Capture>> {
    let mut members = Membership::of_all(sites.iter().flatten().map(|site| &site.identity)).into_iter();
    sites
        .into_iter()
        .zip(held)
        .map(|(site, held)| {
            let site = site?;
            let member = members.next();
            match held {
                Some(held) => {
                    let mut capture = Capture::of(site, held, options, true)?;
                    capture.group = member;
                    Ok(capture)
                }
                None => Err(Error::Missing { path: site.identity.path }),
            }
        })
        .collect()
}
