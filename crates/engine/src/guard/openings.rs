//! That somebody opens a file is told by the system at once (inotify), though not by whom: so it is looked at just then.
//!
//! It comes beside looks that nothing calls for: the system tells nothing where its limits are reached, of a file that is
//! not there yet, or where somebody had the file open before.

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

/// What the system tells of files that are opened.
pub(super) struct Openings {
    queue: Option<queue::Queue>,
}

impl Openings {
    /// Listens at the files at these paths from now on. To be called before each look, since another file may be there.
    pub(super) fn listen<'p>(&mut self, paths: impl Iterator<Item = &'p Path>) {
        for path in paths {
            if let Some(queue) = &self.queue
                && !queue.listen(path)
            {
                self.queue = None;
            }
        }
    }

    /// Begins to listen, where the system can.
    pub(super) fn new() -> Self {
        Self { queue: queue::Queue::new() }
    }

    /// Listens to nothing.
    pub(super) fn untold() -> Self {
        Self { queue: None }
    }

    /// Forgets what was told so far: a look that begins now sees who is there.
    pub(super) fn forget(&self) {
        if let Some(queue) = &self.queue {
            queue.drain();
        }
    }

    /// Rests until the writing end of `end` is gone, somebody opens a file after `shortest`, or for `longest`.
    pub(super) fn rest(&self, end: &PipeReader, shortest: Duration, longest: Duration) -> io::Result<Rested> {
        if !shortest.is_zero() && wait(&[end.as_fd()], shortest)? == Some(0) {
            return Ok(Rested::Ended);
        }
        let both: Vec<BorrowedFd<'_>> =
            std::iter::once(end.as_fd()).chain(self.queue.as_ref().map(AsFd::as_fd)).collect();
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

#[cfg(target_os = "linux")]
mod queue {
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::path::Path;

    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    use rustix::io::Errno;

    /// A queue of the system's.
    pub(super) struct Queue(OwnedFd);

    impl Queue {
        pub(super) fn new() -> Option<Self> {
            init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).ok().map(Self)
        }

        /// Returns whether the file is listened at, or is not there.
        pub(super) fn listen(&self, path: &Path) -> bool {
            matches!(add_watch(&self.0, path, WatchFlags::OPEN), Ok(_) | Err(Errno::NOENT | Errno::NOTDIR))
        }

        pub(super) fn drain(&self) {
            let mut buffer = [0; 4096];
            while rustix::io::read(&self.0, &mut buffer).is_ok_and(|count| count > 0) {}
        }
    }

    impl AsFd for Queue {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod queue {
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::path::Path;

    /// There is none on this system.
    pub(super) struct Queue(OwnedFd);

    impl Queue {
        pub(super) fn new() -> Option<Self> {
            None
        }

        pub(super) fn listen(&self, _path: &Path) -> bool {
            false
        }

        pub(super) fn drain(&self) {}
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
        openings.listen(std::iter::once(path.as_path()));
        let rest = |openings: &Openings, shortest, longest| openings.rest(&end, shortest, longest).unwrap();
        assert_eq!(rest(&openings, Duration::ZERO, Duration::ZERO), Rested::Enough);
        drop(File::open(&path).unwrap());
        assert_eq!(rest(&openings, Duration::ZERO, LONG), Rested::Opened);
        openings.forget();
        assert_eq!(rest(&openings, Duration::ZERO, Duration::from_millis(1)), Rested::Enough);

        // Another one in its place, and one that comes later.
        std::fs::hard_link(&path, &other).unwrap();
        std::fs::remove_file(&path).unwrap();
        openings.listen(std::iter::once(path.as_path()));
        std::fs::write(&path, "y").unwrap();
        openings.listen(std::iter::once(path.as_path()));
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
}
