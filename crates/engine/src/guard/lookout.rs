//! Who else has a guarded database open.
//!
//! Two looks: an exact one before the task starts and after it has ended, and a quick one that is repeated in between.
//! Neither takes a lock that would be in the task's way.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dbkeep_sqlite::holders::{self, Holder, Usage};
use dbkeep_sqlite::identify::{self, FileSystem, Identity, Kind};

use super::task::belongs;
use crate::Result;

/// How often, and after what pauses, the system is asked again who has a file open.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(20);

/// Looks out for others at one database. What it returns are reasons why it cannot be shown that nobody else wrote.
pub(super) trait Lookout: Send {
    /// Looks before the task starts and after it has ended. `group` are the task's processes.
    fn look(&mut self, group: Option<u32>) -> Result<Vec<String>>;

    /// Looks while the task may run.
    fn glance(&mut self, group: Option<u32>) -> Result<Vec<String>>;

    /// Ends what the task has left at the database, when its processes are gone.
    fn end_rest(&mut self, _group: Option<u32>) -> Result<()> {
        Ok(())
    }
}

/// Looks out for processes that have a file open.
pub(super) struct FileLookout {
    path: PathBuf,
    /// The file that was backed up. A task may put another one in its place, while others still have this one open.
    first: Option<Identity>,
    /// The task runs in this process: its connections lose their locks when a descriptor of ours is closed, so the file
    /// is not opened to find out.
    in_process: bool,
}

impl FileLookout {
    pub(super) fn new(path: &Path, in_process: bool) -> Self {
        Self { path: path.to_owned(), first: identify::identity(path).ok(), in_process }
    }

    /// Returns the files to look at: the one that was backed up, and the one that is there now.
    fn files(&self) -> Vec<Identity> {
        let now = identify::identity(&self.path).ok().filter(|now| Some(now) != self.first.as_ref());
        self.first.iter().cloned().chain(now).collect()
    }

    /// Returns the processes that are seen, and whether all could be looked at.
    fn seen(&self, group: Option<u32>) -> (Vec<String>, bool) {
        let mut complete = true;
        let mut seen = Vec::new();
        for file in self.files() {
            let (others, all) = holders::open_in_others(&file, &|pid| belongs(pid, group));
            complete &= all;
            seen.extend(others.iter().map(had_it_open));
        }
        (seen, complete)
    }
}

impl Lookout for FileLookout {
    fn look(&mut self, group: Option<u32>) -> Result<Vec<String>> {
        let (mut doubts, complete) = self.seen(group);
        if matches!(identify::kind_of(&self.path)?, Kind::Missing) {
            return Ok(doubts);
        }
        match identify::file_system(&self.path)? {
            FileSystem::Network(kind) => doubts.push(format!(
                "it lies on another machine ({kind}), and who has it open there cannot be seen from here"
            )),
            FileSystem::Local | FileSystem::Userspace => {}
        }
        if doubts.is_empty() {
            doubts.extend(self.unseen(group, complete)?);
        }
        Ok(doubts)
    }

    fn glance(&mut self, group: Option<u32>) -> Result<Vec<String>> {
        Ok(self.seen(group).0)
    }
}

impl FileLookout {
    /// Asks the system whether somebody has it open whom we cannot see: a process of another user, or one outside of the
    /// container that we are in.
    fn unseen(&self, group: Option<u32>, complete: bool) -> Result<Option<String>> {
        const UNSEEN: &str = "a process that cannot be seen from here had it open";
        const UNKNOWN: &str =
            "not all processes can be looked at, so one of another user may have had it open";
        if self.in_process {
            return Ok((!complete).then(|| UNKNOWN.to_owned()));
        }
        for _ in 0..TRIES {
            match holders::is_open_elsewhere(&self.path)? {
                Usage::Nobody => return Ok(None),
                Usage::Somebody(holders) if holders.is_empty() => {}
                Usage::Somebody(holders) => {
                    return Ok(holders.iter().find(|one| !belongs(one.pid, group)).map(had_it_open));
                }
                Usage::Unknown => return Ok(Some(UNKNOWN.to_owned())),
            }
            // Whoever only passed by, as a program that makes an index of files, is gone in a moment.
            std::thread::sleep(PAUSE);
        }
        Ok(Some(UNSEEN.to_owned()))
    }
}

fn had_it_open(holder: &Holder) -> String {
    format!("{holder} had it open")
}
