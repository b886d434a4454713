//! That somebody opens a file is told by the system at once (inotify), though not by whom: so it is looked at just then.
//!
//! It comes beside looks that nothing calls for: the system tells nothing where its limits are reached, of a file that is
//! not there yet, or where somebody had the file open before.

use std::collections::BTreeSet;
use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// What ended a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rested {
    /// It is over.
    Enough,
    /// Somebody has opened a file.
    Opened,
    /// The patrol has ended.
    Ended,
}

/// What the system tells of files that are opened, and closed again by somebody who could have written to them.
pub(super) struct Openings {
    opened: Option<queue::Queue>,
    /// One of its own, since it calls for no look.
    written: Option<queue::Queue>,
}

impl Openings {
    /// Begins to listen, where the system can.
    pub(super) fn new() -> Self {
        Self { opened: queue::Queue::new(Told::Opened), written: queue::Queue::new(Told::Written) }
    }

    /// Listens to nothing.
    pub(super) fn untold() -> Self {
        Self { opened: None, written: None }
    }

    /// Listens at the files at these paths from now on. To be called before each look, since another file may be there.
    pub(super) fn listen(&mut self, files: &[Option<&Path>]) {
        for queue in [&mut self.opened, &mut self.written] {
            let listens = |queue: &mut queue::Queue| {
                let mut paths = files.iter().enumerate().filter_map(|(place, path)| Some((place, (*path)?)));
                paths.all(|(place, path)| queue.listen(place, path))
            };
            *queue = queue.take().and_then(|mut queue| listens(&mut queue).then_some(queue));
        }
    }

    /// Forgets who opened a file so far: a look that begins now sees who is there.
    pub(super) fn forget(&mut self) {
        if let Some(queue) = &mut self.opened {
            queue.drain();
        }
    }

    /// Says whether the system tells that somebody could have written.
    pub(super) fn tell_writers(&self) -> bool {
        self.written.is_some()
    }

    /// Returns which files, by their place among those that are listened at, were closed since this was asked last by
    /// somebody who could have written to them.
    pub(super) fn writers(&mut self) -> BTreeSet<usize> {
        self.written.as_mut().map(queue::Queue::drain).unwrap_or_default()
    }

    /// Rests until the writing end of `end` is gone, somebody opens a file after `shortest`, or for `longest`.
    pub(super) fn rest(&self, end: &PipeReader, shortest: Duration, longest: Duration) -> io::Result<Rested> {
        if !shortest.is_zero() && wait(&[end.as_fd()], shortest)? == Some(0) {
            return Ok(Rested::Ended);
        }
        let both: Vec<BorrowedFd<'_>> =
            std::iter::once(end.as_fd()).chain(self.opened.as_ref().map(AsFd::as_fd)).collect();
        Ok(match wait(&both, longest.saturating_sub(shortest))? {
            Some(0) => Rested::Ended,
            Some(_) => Rested::Opened,
            None => Rested::Enough,
        })
    }
}

/// Waits for the first of several descriptors that has something to tell, at most for `time`.
fn wait(descriptors: &[BorrowedFd<'_>], time: Duration) -> io::Result<Option<usize>> {
    let until = Instant::now() + time;
    loop {
        let mut asked: Vec<PollFd<'_>> =
            descriptors.iter().map(|one| PollFd::from_borrowed_fd(*one, PollFlags::IN)).collect();
        let left = until.saturating_duration_since(Instant::now());
        let ready = poll(&mut asked, Timespec::try_from(left).ok().as_ref());
        match ready {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(asked.iter().position(|one| !one.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// What a queue tells.
#[derive(Clone, Copy)]
enum Told {
    Opened,
    Written,
}

#[cfg(target_os = "linux")]
mod queue {
    use std::collections::{BTreeMap, BTreeSet};
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::path::Path;

    use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
    use rustix::io::Errno;

    use super::Told;

    /// A queue of the system's.
    pub(super) struct Queue {
        told: OwnedFd,
        flags: WatchFlags,
        /// The places where each file was, by the numbers that the system has for files: one may be moved to another place.
        places: BTreeMap<i32, BTreeSet<usize>>,
    }

    impl Queue {
        pub(super) fn new(what: Told) -> Option<Self> {
            let flags = match what {
                Told::Opened => WatchFlags::OPEN,
                Told::Written => WatchFlags::CLOSE_WRITE,
            };
            let told = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok()?;
            Some(Self { told, flags, places: BTreeMap::new() })
        }

        /// Returns whether the file is listened at, or is not there.
        pub(super) fn listen(&mut self, place: usize, path: &Path) -> bool {
            match add_watch(&self.told, path, self.flags) {
                Ok(number) => {
                    self.places.entry(number).or_default().insert(place);
                    true
                }
                Err(error) => matches!(error, Errno::NOENT | Errno::NOTDIR),
            }
        }

        /// Returns the places of the files that it was told of since; those of all files where the system has lost count.
        pub(super) fn drain(&mut self) -> BTreeSet<usize> {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = Reader::new(&self.told, &mut buffer);
            let mut places = BTreeSet::new();
            while let Ok(event) = reader.next() {
                if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                    places.extend(self.places.values().flatten());
                }
                // Of a file that is gone the system tells that too.
                if event.events().bits() & self.flags.bits() != 0 {
                    places.extend(self.places.get(&event.wd()).into_iter().flatten());
                }
            }
            places
        }
    }

    impl AsFd for Queue {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.told.as_fd()
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod queue {
    use std::collections::BTreeSet;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::path::Path;

    use super::Told;

    /// There is none on this system.
    pub(super) struct Queue(OwnedFd);

    impl Queue {
        pub(super) fn new(_what: Told) -> Option<Self> {
            None
        }

        pub(super) fn listen(&mut self, _place: usize, _path: &Path) -> bool {
            false
        }

        pub(super) fn drain(&mut self) -> BTreeSet<usize> {
            BTreeSet::new()
        }
    }

    impl AsFd for Queue {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn opening_of_a_file_ends_a_rest_and_so_does_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("app.db"), folder.path().join("other.db"));
        std::fs::write(&path, "x").unwrap();
        let (end, alive) = std::io::pipe().unwrap();
        let mut openings = Openings::new();
        openings.listen(&[Some(&path)]);
        let rest = |openings: &Openings, shortest, longest| openings.rest(&end, shortest, longest).unwrap();
        assert_eq!(rest(&openings, Duration::ZERO, Duration::ZERO), Rested::Enough);
        drop(File::open(&path).unwrap());
        assert_eq!(rest(&openings, Duration::ZERO, LONG), Rested::Opened);
        openings.forget();
        assert_eq!(rest(&openings, Duration::ZERO, Duration::from_millis(1)), Rested::Enough);

        // Another one in its place, and one that comes later.
        std::fs::hard_link(&path, &other).unwrap();
        std::fs::remove_file(&path).unwrap();
        openings.listen(&[Some(&path)]);
        std::fs::write(&path, "y").unwrap();
        openings.listen(&[Some(&path)]);
        openings.forget();
        drop(File::open(&path).unwrap());
        assert_eq!(rest(&openings, Duration::ZERO, LONG), Rested::Opened);
        openings.forget();
        drop(File::open(&other).unwrap());
        assert_eq!(rest(&openings, Duration::ZERO, LONG), Rested::Opened, "the first one");

        drop(alive);
        assert_eq!(rest(&openings, LONG, LONG), Rested::Ended);
        assert_eq!(rest(&Openings::untold(), Duration::ZERO, LONG), Rested::Ended);
    }

    #[test]
    fn only_who_could_have_written_is_told_and_at_which_file() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a.db", "b.db", "c.db"].map(|name| folder.path().join(name));
        let files = [Some(paths[0].as_path()), None, Some(paths[1].as_path())];
        for path in &paths[..2] {
            std::fs::write(path, "x").unwrap();
        }
        let mut openings = Openings::new();
        openings.listen(&files);
        drop(File::open(&paths[0]).unwrap());
        assert_eq!(openings.writers(), BTreeSet::new());
        let write = |path| drop(File::options().write(true).open(path).unwrap());
        write(&paths[1]);
        assert_eq!(openings.writers(), BTreeSet::from([2]));
        assert_eq!(openings.writers(), BTreeSet::new(), "each one once");
        // The first file takes the place of the second one.
        std::fs::remove_file(&paths[1]).unwrap();
        std::fs::hard_link(&paths[0], &paths[1]).unwrap();
        std::fs::remove_file(&paths[0]).unwrap();
        openings.listen(&files);
        openings.writers();
        write(&paths[1]);
        assert_eq!(openings.writers(), BTreeSet::from([0, 2]));
        // Who only reads is the last one to close a file that is gone.
        let reader = File::open(&paths[1]).unwrap();
        std::fs::remove_file(&paths[1]).unwrap();
        drop(reader);
        assert_eq!(openings.writers(), BTreeSet::new());
        assert_eq!(Openings::untold().writers(), BTreeSet::new());
    }
}
