//! Looking out for others, from before the task runs until its databases are back: threads that look again and again.

use std::collections::BTreeSet;
use std::io::{self, PipeReader};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use super::asleep::Asleep;
use super::lookout::{Left, Lookout};
use super::openings::{Openings, Rested};
use super::task::Family;
use crate::{Error, Result};

/// The shortest and the longest time between two looks that nothing calls for.
const REST: Duration = Duration::from_millis(20);
const LONGEST_REST: Duration = Duration::from_secs(1);

/// How often a look at files may cost of the time between two: a tenth of one processor is enough. One at a server waits
/// most of its time.
const SHARE: u32 = 9;

/// What looks may cost that the opening of a file calls for: a tenth too, of which so much may be saved up.
const SAVED: Duration = Duration::from_millis(200);

/// How long it may be from the beginning of a look to its end, to the next one or to the moment when what was seen counts,
/// at files and at servers, which may be slow. Whoever stops this program, as Ctrl-Z does, stops its lookout too.
const LATE: Duration = Duration::from_secs(5);
const LATE_AT_SERVER: Duration = Duration::from_secs(15);

/// The lookouts of all databases of a guard, and what they have seen.
pub(super) struct Patrol<'g> {
    family: &'g Family,
    posts: Vec<Post>,
}

/// The lookout of one database. What it has seen can be read while it looks.
struct Post {
    is_remote: bool,
    file: Option<PathBuf>,
    lookout: Mutex<Box<dyn Lookout>>,
    looks: Mutex<Looks>,
    /// How long it may be from one look to the next.
    late: Duration,
    doubts: Mutex<BTreeSet<String>>,
    /// Whether something of the task is left at the database that could not be ended.
    is_left: AtomicBool,
}

/// When somebody looked.
#[derive(Default)]
struct Looks {
    /// When the last look began.
    last: Option<Instant>,
    /// The first time that was too long.
    blind: Option<Duration>,
}

impl Looks {
    /// Counts the time since the last look began, where it is longer than `late`.
    fn count(&mut self, now: Instant, late: Duration) {
        let gap = self.last.map(|last| now.saturating_duration_since(last));
        self.blind = self.blind.or(gap.filter(|gap| *gap > late));
    }
}

impl<'g> Patrol<'g> {
    pub(super) fn new(family: &'g Family, lookouts: Vec<Box<dyn Lookout>>) -> Self {
        let post = |lookout: Box<dyn Lookout>| Post {
            is_remote: lookout.is_remote(),
            late: if lookout.is_remote() { LATE_AT_SERVER } else { LATE },
            looks: Mutex::default(),
            file: lookout.file().map(Path::to_owned),
            lookout: Mutex::new(lookout),
            doubts: Mutex::default(),
            is_left: AtomicBool::new(false),
        };
        Self { family, posts: lookouts.into_iter().map(post).collect() }
    }

    /// Does `work` while the lookouts are on patrol: one for all files, and one for each server, which may be slow.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        let (end, alive) = io::pipe().map_err(Error::io("open a pipe beside", Path::new("/proc")))?;
        let failed = Error::io("start a thread at", Path::new("/proc"));
        let (remote, local): (Vec<&Post>, Vec<&Post>) = self.posts.iter().partition(|post| post.is_remote);
        let local = (!local.is_empty()).then_some(local);
        let rounds = local.into_iter().chain(remote.into_iter().map(|post| vec![post]));
        let end = &end;
        thread::scope(move |scope| {
            // Gone with this, also when the work panics: that ends the patrol.
            let alive = alive;
            let started = rounds.map(|posts| self.start(scope, posts, end)).collect::<io::Result<Vec<_>>>();
            let threads = started.map_err(failed)?;
            let done = work();
            drop(alive);
            // Each is waited for, whatever became of the others.
            let ended: Vec<bool> = threads.into_iter().map(|thread| thread.join().unwrap_or(false)).collect();
            if ended.contains(&false) {
                self.posts.iter().for_each(|post| post.doubt("the lookout for others ended before its time"));
            }
            Ok(done)
        })
    }

    fn start<'s, 'e>(
        &'e self,
        scope: &'s Scope<'s, 'e>,
        posts: Vec<&'e Post>,
        end: &'e PipeReader,
    ) -> io::Result<ScopedJoinHandle<'s, bool>> {
        thread::Builder::new().name("guard".to_owned()).spawn_scoped(scope, move || self.walk(&posts, end))
    }

    /// Looks exactly, at all databases.
    pub(super) fn look(&self) {
        for post in &self.posts {
            self.at(post, |lookout, group| lookout.look(group));
        }
    }

    /// Looks quickly, at all databases, at once.
    pub(super) fn glance(&self) {
        for post in &self.posts {
            self.at(post, |lookout, group| lookout.glance(group));
        }
    }

    /// Adds a reason at one database.
    pub(super) fn doubt(&self, place: usize, why: &str) {
        if let Some(post) = self.posts.get(place) {
            post.doubt(why);
        }
    }

    /// Ends what the task has left at the databases.
    pub(super) fn end_rest(&self) {
        for post in &self.posts {
            let group = *self.family.lock();
            // Held until everybody can know what was found.
            let mut lookout = post.lookout();
            match lookout.end_rest(group) {
                Ok(Left { others, of_task }) => {
                    post.is_left.store(!of_task.is_empty(), Ordering::SeqCst);
                    others.iter().chain(&of_task).for_each(|why| post.doubt(why));
                }
                Err(error) => post.add(Err(error)),
            }
        }
    }

    /// Says whether something of the task may still change a database.
    pub(super) fn is_left(&self, place: usize) -> bool {
        self.posts.get(place).is_some_and(|post| post.is_left.load(Ordering::SeqCst))
    }

    /// Returns the reasons of each database. That nobody has looked for too long is one, whether or not the threads that
    /// look have come to say so: after a stop the caller may be ahead of them.
    pub(super) fn doubts(&self) -> Vec<Vec<String>> {
        let doubts = |post: &Post| post.doubts().iter().cloned().chain(post.too_late()).collect();
        self.posts.iter().map(doubts).collect()
    }

    /// Looks until the patrol ends; says whether it came to that.
    fn walk(&self, posts: &[&Post], end: &PipeReader) -> bool {
        let is_remote = posts.iter().any(|post| post.is_remote);
        let share = if is_remote { 1 } else { SHARE };
        let mut openings = if is_remote { Openings::untold() } else { Openings::new() };
        let files: Vec<Option<&Path>> = posts.iter().map(|post| post.file.as_deref()).collect();
        let mut calls = Calls::new(Instant::now());
        let mut rested = Rested::Enough;
        let mut slept = None;
        loop {
            let began = Instant::now();
            let spent = processor_time();
            openings.listen(&files);
            openings.forget();
            // At once: whoever has opened a file may soon be gone.
            posts.iter().for_each(|post| self.at(post, |lookout, group| lookout.glance(group)));
            let looked = processor_time().saturating_sub(spent);
            let others = self.writers_beside(&mut slept, &mut openings);
            others.iter().filter_map(|file| posts.get(*file)).for_each(|post| post.doubt_somebody());
            let cost = began.elapsed();
            let now = Instant::now();
            if rested == Rested::Opened {
                calls.pay(looked, now);
            }
            let rest = (cost * share).clamp(REST, LONGEST_REST);
            rested = match openings.rest(end, calls.deaf_for(now).min(rest), rest) {
                Ok(Rested::Ended) => return true,
                Ok(rested) => rested,
                Err(_) => return false,
            };
        }
    }

    /// Returns the files that somebody closed, who could have written to them, while the task slept. `slept` is how it slept
    /// just before this was asked last, and then how it sleeps now: so what is told was done between that and the answer.
    fn writers_beside(&self, slept: &mut Option<Asleep>, openings: &mut Openings) -> BTreeSet<usize> {
        let asleep = if openings.tell_writers() { self.family.asleep() } else { None };
        let before = std::mem::replace(slept, asleep);
        let writers = openings.writers();
        let has_slept = !writers.is_empty() && before.is_some() && self.family.asleep() == before;
        if has_slept { writers } else { BTreeSet::new() }
    }

    /// Asks one lookout. What is started meanwhile must not be taken for somebody else: then it is asked again.
    fn at(&self, post: &Post, ask: impl Fn(&mut dyn Lookout, Option<u32>) -> Result<Vec<String>>) {
        loop {
            let group = *self.family.lock();
            // Held until everybody can know what was seen: who looks next may not see it any more.
            let mut lookout = post.lookout();
            post.begin_look();
            let seen = ask(lookout.as_mut(), group);
            post.looks().count(Instant::now(), post.late);
            if *self.family.lock() == group {
                return post.add(seen);
            }
        }
    }
}

/// What looks may cost that the opening of a file calls for.
struct Calls {
    /// From when on there is something saved up again.
    from: Instant,
}

impl Calls {
    fn new(now: Instant) -> Self {
        Self { from: now }
    }

    /// Takes what a look has cost.
    fn pay(&mut self, cost: Duration, now: Instant) {
        let earliest = now.checked_sub(SAVED * (SHARE + 1)).unwrap_or(self.from);
        self.from = self.from.max(earliest) + cost * (SHARE + 1);
    }

    /// Returns for how long no call is answered.
    fn deaf_for(&self, now: Instant) -> Duration {
        self.from.saturating_duration_since(now)
    }
}

/// Returns what this thread has had of a processor.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

impl Post {
    /// Begins a look, and counts the time until now by the same clock: none is lost where this thread stands still.
    fn begin_look(&self) {
        let now = Instant::now();
        let mut looks = self.looks();
        looks.count(now, self.late);
        looks.last = Some(now);
    }

    /// Returns the reason when nobody has looked for longer than it may be. It stays the same once it is one.
    fn too_late(&self) -> Option<String> {
        let mut looks = self.looks();
        looks.count(Instant::now(), self.late);
        let blind = looks.blind?;
        Some(format!("nobody looked out for others for {} s: was this program stopped?", blind.as_secs()))
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, seen: Result<Vec<String>>) {
        match seen {
            Ok(doubts) => self.doubts().extend(doubts),
            Err(error) => {
                self.doubt(&format!("who else used it could not be found out: {}", error.full_message()));
            }
        }
    }

    fn doubt(&self, why: &str) {
        self.doubts().insert(why.to_owned());
    }

    /// Doubts it because of somebody who could have written to it, unless somebody is known who did.
    fn doubt_somebody(&self) {
        if self.doubts().is_empty() {
            self.doubt("somebody who was not seen had it open while the command slept");
        }
    }

    fn lookout(&self) -> MutexGuard<'_, Box<dyn Lookout>> {
        self.lookout.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubts(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::asleep::tests::Group;
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn looks_that_openings_call_for_cost_a_tenth_of_a_processor_at_most() {
        let began = Instant::now();
        let mut calls = Calls::new(began);
        let mut now = began + 5000 * MS;
        let mut at_once = 0;
        while calls.deaf_for(now).is_zero() {
            calls.pay(20 * MS, now);
            at_once += 1;
        }
        assert_eq!(at_once, 11, "200 ms are saved up, and the last one may go beyond");
        assert_eq!(calls.deaf_for(now), 200 * MS);
        // However often a file is opened now.
        let mut looks = 0;
        for _ in 0..10_000 {
            now += MS;
            if calls.deaf_for(now).is_zero() {
                calls.pay(20 * MS, now);
                looks += 1;
            }
        }
        assert_eq!(looks, 50, "a second of ten");
        let mut dear = Calls::new(began);
        dear.pay(500 * MS, began);
        assert_eq!(dear.deaf_for(began), 5000 * MS, "nothing is saved at the start");
    }

    /// A lookout that is blind to everybody.
    struct Blind(PathBuf);

    impl Lookout for Blind {
        fn look(&mut self, _group: Option<u32>) -> Result<Vec<String>> {
            Ok(Vec::new())
        }

        fn glance(&mut self, _group: Option<u32>) -> Result<Vec<String>> {
            Ok(Vec::new())
        }

        fn file(&self) -> Option<&Path> {
            Some(&self.0)
        }
    }

    /// Returns the doubts that there are of an unseen writer at a file beside a script, while it runs or after it, as soon as
    /// there is one, and after `most` at the latest. With `we_write` this process opens the file for writing again and again.
    fn doubts_beside(script: &str, while_it_runs: bool, we_write: bool, most: Duration) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        std::fs::write(&path, "x").unwrap();
        let command = Group::start(script, folder.path());
        let family = Family::default();
        *family.lock() = Some(command.number());
        family.set_running(while_it_runs);
        let patrol = Patrol::new(&family, vec![Box::new(Blind(path.clone()))]);
        // A busy machine has its own: that nobody looked for a while.
        let doubts = || -> Vec<String> {
            patrol.doubts().remove(0).into_iter().filter(|why| why.contains("not seen")).collect()
        };
        let visits = || {
            let began = Instant::now();
            while doubts().is_empty() && began.elapsed() < most {
                thread::sleep(50 * MS);
                if we_write {
                    drop(std::fs::File::options().write(true).open(&path).unwrap());
                }
            }
        };
        patrol.during(visits).unwrap();
        doubts()
    }

    #[test]
    fn who_writes_while_the_command_sleeps_is_noticed_though_no_look_sees_him() {
        let doubts = doubts_beside("sleep 60; true", true, true, Duration::from_secs(30));
        assert_eq!(doubts, ["somebody who was not seen had it open while the command slept"]);
    }

    #[test]
    fn what_the_command_writes_or_the_guard_itself_is_nobody_elses() {
        let none: [&str; 0] = [];
        let most = Duration::from_secs(1);
        assert_eq!(
            doubts_beside("while :; do : >> app.db; done", true, true, most),
            none,
            "it may be the command"
        );
        let children = "while :; do true >> app.db | true; sleep 0.01; done";
        assert_eq!(doubts_beside(children, true, false, most), none);
        assert_eq!(doubts_beside("sleep 60; true", false, true, most), none, "it does not run any more");
    }

    #[test]
    fn nobody_has_to_say_that_nobody_looks() {
        const HOUR: Duration = Duration::from_secs(3600);
        let family = Family::default();
        let doubts_of = |late: Duration, look_again: bool| {
            let mut patrol = Patrol::new(&family, vec![Box::new(Blind(PathBuf::from("app.db")))]);
            patrol.posts[0].late = late;
            assert!(patrol.doubts()[0].is_empty(), "it has not begun");
            patrol.look();
            thread::sleep(2 * MS);
            if look_again {
                patrol.glance();
                // A look that comes too late makes up for nothing.
                patrol.posts[0].late = HOUR;
            }
            patrol.doubts().remove(0)
        };
        assert!(doubts_of(HOUR, false).is_empty() && doubts_of(HOUR, true).is_empty());
        for look_again in [false, true] {
            let doubts = doubts_of(MS, look_again);
            assert_eq!(doubts.len(), 1, "{doubts:?}");
            assert!(doubts[0].starts_with("nobody looked out for others for "), "{doubts:?}");
        }
    }

    #[test]
    fn processor_time_goes_on_with_work_alone() {
        let before = processor_time();
        thread::sleep(50 * MS);
        let asleep = processor_time() - before;
        assert!(asleep < 50 * MS, "{asleep:?}");
    }
}
