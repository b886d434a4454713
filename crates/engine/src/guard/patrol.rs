//! Looking out for others, from before the task runs until its databases are back: a thread that looks again and again.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::lookout::Lookout;
use super::task::Family;
use crate::{Error, Result};

/// The shortest time between two looks. A look that takes long makes it longer: a tenth of one processor is enough.
const REST: Duration = Duration::from_millis(20);

/// How often a look may cost of the time between two.
const SHARE: u32 = 9;

/// The lookouts of all databases of a guard, and what they have seen.
pub(super) struct Patrol<'g> {
    family: &'g Family,
    posts: Mutex<Vec<Post>>,
    ended: Mutex<bool>,
    wake: Condvar,
}

/// The lookout of one database.
struct Post {
    lookout: Box<dyn Lookout>,
    doubts: BTreeSet<String>,
}

impl<'g> Patrol<'g> {
    pub(super) fn new(family: &'g Family, lookouts: Vec<Box<dyn Lookout>>) -> Self {
        let post = |lookout| Post { lookout, doubts: BTreeSet::new() };
        Self {
            family,
            posts: Mutex::new(lookouts.into_iter().map(post).collect()),
            ended: Mutex::new(false),
            wake: Condvar::new(),
        }
    }

    /// Does `work` while the lookouts are on patrol.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        *self.ended() = false;
        thread::scope(|scope| {
            let patrol = thread::Builder::new().name("guard".to_owned());
            let failed = Error::io("start a thread at", std::path::Path::new("/proc"));
            let patrol = patrol.spawn_scoped(scope, || self.walk()).map_err(failed)?;
            let end = EndPatrol(self);
            let done = work();
            drop(end);
            if patrol.join().is_err() {
                self.doubt_all("the lookout for others ended before its time");
            }
            Ok(done)
        })
    }

    /// Looks exactly, at all databases.
    pub(super) fn look(&self) {
        let group = self.family.lock();
        for post in self.posts().iter_mut() {
            let seen = post.lookout.look(*group);
            post.add(seen);
        }
    }

    /// Looks quickly, at all databases, at once.
    pub(super) fn glance(&self) {
        // Held while it is looked at, so that nothing is started in between and taken for somebody else.
        let group = self.family.lock();
        for post in self.posts().iter_mut() {
            let seen = post.lookout.glance(*group);
            post.add(seen);
        }
    }

    /// Adds a reason at one database.
    pub(super) fn doubt(&self, place: usize, why: &str) {
        if let Some(post) = self.posts().get_mut(place) {
            post.doubts.insert(why.to_owned());
        }
    }

    fn doubt_all(&self, why: &str) {
        for post in self.posts().iter_mut() {
            post.doubts.insert(why.to_owned());
        }
    }

    /// Ends what the task has left at the databases.
    pub(super) fn end_rest(&self) {
        let group = self.family.lock();
        for post in self.posts().iter_mut() {
            if let Err(error) = post.lookout.end_rest(*group) {
                tracing::warn!(event = "rest", error = %error.full_message(), "something of the command is left");
            }
        }
    }

    /// Returns the reasons of each database.
    pub(super) fn doubts(&self) -> Vec<Vec<String>> {
        self.posts().iter().map(|post| post.doubts.iter().cloned().collect()).collect()
    }

    fn walk(&self) {
        loop {
            let began = Instant::now();
            self.glance();
            let rest = REST.max(began.elapsed() * SHARE);
            let ended = self.ended();
            let (ended, _) = self
                .wake
                .wait_timeout_while(ended, rest, |ended| !*ended)
                .unwrap_or_else(PoisonError::into_inner);
            if *ended {
                return;
            }
        }
    }

    fn posts(&self) -> std::sync::MutexGuard<'_, Vec<Post>> {
        self.posts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> std::sync::MutexGuard<'_, bool> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Post {
    fn add(&mut self, seen: Result<Vec<String>>) {
        match seen {
            Ok(doubts) => self.doubts.extend(doubts),
            Err(error) => {
                self.doubts
                    .insert(format!("who else used it could not be found out: {}", error.full_message()));
            }
        }
    }
}

/// Ends the patrol, also when the work panics.
struct EndPatrol<'p, 'g>(&'p Patrol<'g>);

impl Drop for EndPatrol<'_, '_> {
    fn drop(&mut self) {
        *self.0.ended() = true;
        self.0.wake.notify_all();
    }
}
