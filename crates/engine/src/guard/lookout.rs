//! Who else has a guarded database open.
//!
//! Two looks: an exact one before the task starts and after it has ended, and a quick one that is repeated in between.
//! Neither takes a lock that would be in the task's way.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dbkeep_sqlite::holders::{self, Holder, Usage};
use dbkeep_sqlite::identify::{self, FileSystem, Identity, Kind};

use super::task::belongs;
use crate::Result;

/// How often, and after what pauses, the system is asked again who has a file open.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(20);

const UNKNOWN: &str = "not all processes can be looked at, so one of another user may have had it open";

/// Looks out for others at one database. What it returns are reasons why it cannot be shown that nobody else wrote.
pub(super) trait Lookout: Send {
    /// Looks before the task starts and after it has ended. `group` are the task's processes.
    fn look(&mut self, group: Option<u32>) -> Result<Vec<String>>;

    /// Looks while the task may run.
    fn glance(&mut self, group: Option<u32>) -> Result<Vec<String>>;

    /// Returns the file that whoever wants to write has to open, where it is one.
    fn file(&self) -> Option<&Path> {
        None
    }

    /// Says whether another machine is asked, which may be slow.
    fn is_remote(&self) -> bool {
        false
    }

    /// Ends what the task has left at the database, when its processes are gone, and looks out meanwhile.
    fn end_rest(&mut self, _group: Option<u32>) -> Result<Left> {
        Ok(Left::default())
    }
}

/// Who is at a database when what the task has left there was to be ended, one sentence each.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Others.
    pub(super) others: Vec<String>,
    /// What is left of the task, and may still change the database.
    pub(super) of_task: Vec<String>,
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

/// Who is seen at a file, and who may be there unseen.
struct Seen {
    others: Vec<String>,
    /// Whether all processes could be looked at.
    complete: bool,
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

    fn seen(&self, group: Option<u32>) -> Seen {
        let mut seen = Seen { others: Vec::new(), complete: true };
        let passes = |pid: u32| belongs(pid, group);
        for file in self.files() {
            let (others, complete) = holders::open_in_others(&file, &passes);
            seen.others.extend(others.iter().map(had_it_open));
            if !complete {
                seen.complete = false;
                let locked = holders::locked_by_others(&file, &passes);
                seen.others.extend(locked.iter().map(had_it_open));
            }
        }
        seen
    }

    /// Returns why somebody may open it while the command runs whom no look would see.
    fn blind(&self) -> Option<String> {
        let files = self.files();
        if files.iter().any(|file| !holders::sees_all(file)) {
            return Some(
                "processes outside of this container, or hidden from this user, may have had it open"
                    .to_owned(),
            );
        }
        files.iter().any(holders::may_be_written_unseen).then(|| UNKNOWN.to_owned())
    }

    /// Returns why the way back may lead to another file than the one that was backed up and judged.
    fn moved(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        let Ok(entry) = std::fs::symlink_metadata(&self.path) else { return None };
        match identify::canonical(&self.path) {
            Ok(now) if now != first.path => Some(format!("it leads to another file now, {}", now.display())),
            Err(_) if entry.is_symlink() => Some("it leads to a file that is not there".to_owned()),
            _ => {
                let links = std::fs::metadata(&self.path).map_or(1, |file| file.nlink());
                (links > 1)
                    .then(|| format!("its file has {links} names, and all of them would be overwritten"))
            }
        }
    }

    /// Asks the system whether somebody has it open whom we cannot see: a process of another user, or one outside of the
    /// container that we are in.
    fn unseen(&self, group: Option<u32>, complete: bool) -> Result<Option<String>> {
        const UNSEEN: &str = "a process that cannot be seen from here had it open";
        if self.in_process {
            return Ok((!complete).then(|| UNKNOWN.to_owned()));
        }
        for _ in 0..TRIES {
            match holders::is_open_elsewhere(&self.path)? {
                Usage::Nobody => return Ok(None),
                Usage::Somebody(holders) if holders.is_empty() => {}
                Usage::Somebody(holders) => {
                    let stranger = holders.iter().find(|one| !belongs(one.pid, group)).map(had_it_open);
                    // What is the command's explains what the system says, and so hides whoever is not seen.
                    return Ok(stranger.or_else(|| (!complete).then(|| UNKNOWN.to_owned())));
                }
                Usage::Unknown => return Ok(Some(UNKNOWN.to_owned())),
            }
            // Whoever only passed by, as a program that makes an index of files, is gone in a moment.
            std::thread::sleep(PAUSE);
        }
        Ok(Some(UNSEEN.to_owned()))
    }
}

impl Lookout for FileLookout {
    fn file(&self) -> Option<&Path> {
        Some(&self.path)
    }

    fn look(&mut self, group: Option<u32>) -> Result<Vec<String>> {
        let Seen { others: mut doubts, complete } = self.seen(group);
        doubts.extend(self.moved());
        if matches!(identify::kind_of(&self.path)?, Kind::Missing) {
            return Ok(doubts);
        }
        doubts.extend(elsewhere(identify::file_system(&self.path)?));
        if !complete {
            doubts.extend(self.blind());
        }
        if doubts.is_empty() {
            doubts.extend(self.unseen(group, complete)?);
        }
        Ok(doubts)
    }

    fn glance(&mut self, group: Option<u32>) -> Result<Vec<String>> {
        Ok(self.seen(group).others)
    }
}

/// Returns why those who have a file open cannot be seen from this machine.
fn elsewhere(system: FileSystem) -> Option<String> {
    match system {
        FileSystem::Network(kind) => Some(format!(
            "it lies on another machine ({kind}), and who has it open there cannot be seen from here"
        )),
        FileSystem::Userspace => Some(
            "it lies behind a program (FUSE), maybe on another machine, and who has it open there cannot be seen from here"
                .to_owned(),
        ),
        FileSystem::Local => None,
    }
}

fn had_it_open(holder: &Holder) -> String {
    format!("{holder} had it open")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_on_this_machine_is_seen_from_here() {
        assert_eq!(elsewhere(FileSystem::Local), None);
        for (system, word) in [(FileSystem::Network("NFS"), "NFS"), (FileSystem::Userspace, "FUSE")] {
            assert!(elsewhere(system).unwrap().contains(word));
        }
    }

    #[test]
    fn way_that_leads_elsewhere_than_before_is_a_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("app.db"), folder.path().join("other.db"));
        for file in [&path, &other] {
            std::fs::write(file, "x").unwrap();
        }
        let lookout = FileLookout::new(&path, true);
        assert_eq!(lookout.moved(), None);
        std::fs::hard_link(&path, folder.path().join("second")).unwrap();
        assert!(lookout.moved().unwrap().contains("2 names"));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(lookout.moved(), None, "one that is gone is made anew");
        std::os::unix::fs::symlink(&other, &path).unwrap();
        assert!(lookout.moved().unwrap().ends_with("other.db"));
        std::fs::remove_file(&other).unwrap();
        assert!(lookout.moved().unwrap().contains("not there"));

        // A link that is one from the start leads where it led.
        std::fs::write(&other, "x").unwrap();
        let lookout = FileLookout::new(&path, true);
        assert_eq!(lookout.moved(), None);
    }
}
