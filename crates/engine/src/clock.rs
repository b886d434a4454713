//! The time within an operation.

use std::time::Instant;

use jiff::{SignedDuration, Timestamp};

/// The time as it goes on from the moment that an operation was given. It never jumps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    began: Timestamp,
    started: Instant,
}

impl Clock {
    pub(crate) fn start(now: Timestamp) -> Self {
        Self { began: now, started: Instant::now() }
    }

    /// Returns when the operation began.
    pub(crate) fn began(&self) -> Timestamp {
        self.began
    }

    /// Returns the present time.
    pub(crate) fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.started.elapsed()).unwrap_or(SignedDuration::MAX);
        self.began.saturating_add(passed).unwrap_or(self.began)
    }

    /// Returns how many milliseconds have passed since `earlier`, a time of this clock.
    pub(crate) fn milliseconds_since(&self, earlier: Timestamp) -> u64 {
        u64::try_from(self.now().duration_since(earlier).as_millis()).unwrap_or(0)
    }
}
