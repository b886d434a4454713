//! Moving a database that is beyond repair out of the way, whole, with the files beside it.
//!
//! A `-wal` or `-journal` does not say which database it belongs to: left beside another one, it would be
//! played into it, silently. And a database without its own loses transactions. So the order is:
//!
//! 1. give every file a second name (hard links), so that the retired set is complete,
//! 2. remove the first name of the database itself,
//! 3. remove those of the files beside it,
//!
//! with the folder synced after each. At every instant one complete set exists under one name, and a file
//! beside is never next to a database that is not its own: there is either the old one or none. After a
//! crash, calling [`retire`] again finishes the work.
//!
//! Where there are no hard links (FAT, some network file systems) the files are renamed, the database
//! first, so that nothing opens half a set; a crash between two renames leaves the set under two
//! names, and the next call moves the rest.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags, linkat, renameat_with, unlinkat};
use rustix::io::Errno;

use crate::identify::sibling;
use crate::{Error, Result};

/// The database first, then all that SQLite may keep beside it.
const SUFFIXES: [&str; 4] = ["", "-journal", "-wal", "-shm"];

/// One step of a retirement.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Gives a file a second name.
    Link(PathBuf, PathBuf),
    /// Makes the folder's names last.
    Sync,
    /// Removes the first name.
    Remove(PathBuf),
    /// Changes a file's name.
    Rename(PathBuf, PathBuf),
}

/// Moves the database `path` and the files beside it to `<path>.<label>`, `<path>.<label>-wal` and so on.
///
/// Nobody may have the database open. Returns the new name of the database, which has a number after the
/// label when the plain one is taken; `None` when nothing is there. Files left beside a missing
/// database are moved too, so that nothing foreign lies beside what comes next. On return all is on disk.
pub fn retire(path: &Path, label: &str) -> Result<Option<PathBuf>> {
    let present = present(path)?;
    if present.is_empty() {
        return Ok(None);
    }
    let retired = free_name(path, label)?;
    match run(&plan(path, &retired, &present), path) {
        Err(Error::Io { source, .. }) if no_hard_links(&source) => {
            run(&plan_without_links(path, &retired, &present), path)?;
        }
        done => done?,
    }
    Ok(Some(retired))
}

/// Returns the suffixes of the files that are there.
fn present(path: &Path) -> Result<Vec<&'static str>> {
    let mut present = Vec::new();
    for suffix in SUFFIXES {
        let file = sibling(path, suffix);
        match fs::symlink_metadata(&file) {
            Ok(metadata) if metadata.is_file() => present.push(suffix),
            Ok(_) => return Err(Error::NotAFile { path: file }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("look at", &file, error)),
        }
    }
    Ok(present)
}

/// Returns a name under which nothing lies, with any suffix.
fn free_name(path: &Path, label: &str) -> Result<PathBuf> {
    for number in 1..10_000 {
        let name = sibling(
            path,
            &format!(".{label}{}", if number == 1 { String::new() } else { format!("-{number}") }),
        );
        if present(&name)?.is_empty() {
            return Ok(name);
        }
    }
    Err(Error::Unsupported {
        path: path.to_path_buf(),
        what: format!("no name is free to move it to: .{label}-2, .{label}-3 … are all taken"),
        hint: Some("remove what earlier restores moved aside".into()),
    })
}

fn plan(path: &Path, retired: &Path, present: &[&str]) -> Vec<Step> {
    let link = |suffix: &&str| Step::Link(sibling(path, suffix), sibling(retired, suffix));
    let remove = |suffix: &&str| Step::Remove(sibling(path, suffix));
    let (database, beside): (Vec<&str>, Vec<&str>) = present.iter().partition(|suffix| suffix.is_empty());
    let mut steps: Vec<Step> = present.iter().map(link).collect();
    steps.push(Step::Sync);
    for part in [database, beside] {
        if !part.is_empty() {
            steps.extend(part.iter().map(remove));
            steps.push(Step::Sync);
        }
    }
    steps
}

fn plan_without_links(path: &Path, retired: &Path, present: &[&str]) -> Vec<Step> {
    let rename = |suffix: &&str| [Step::Rename(sibling(path, suffix), sibling(retired, suffix)), Step::Sync];
    present.iter().flat_map(rename).collect()
}

fn run(steps: &[Step], path: &Path) -> Result<()> {
    for step in steps {
        let failed = |action, path: &Path, error: Errno| Err(Error::io(action, path, error.into()));
        match step {
            Step::Link(from, to) => {
                if let Err(error) = linkat(CWD, from, CWD, to, AtFlags::empty()) {
                    undo_links(steps, step);
                    return failed("link", from, error);
                }
            }
            Step::Rename(from, to) => match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(error) => return failed("rename", from, error),
            },
            Step::Remove(file) => match unlinkat(CWD, file, AtFlags::empty()) {
                // SQLite itself may have removed it: an emptied log of a database that is gone.
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return failed("remove", file, error),
            },
            Step::Sync => sync_folder(path)?,
        }
    }
    Ok(())
}

/// Removes the second names that were given before `failed`, so that a failed attempt leaves no trace.
fn undo_links(steps: &[Step], failed: &Step) {
    for step in steps.iter().take_while(|step| *step != failed) {
        if let Step::Link(_, to) = step {
            // What cannot be removed is a second name of a file that is still in its place: harmless.
            let _ = unlinkat(CWD, to, AtFlags::empty());
        }
    }
}

fn sync_folder(path: &Path) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let sync = File::open(folder).and_then(|folder| folder.sync_all());
    sync.map_err(|source| Error::io("sync", folder, source))
}

fn no_hard_links(error: &io::Error) -> bool {
    // EPERM is what FAT answers; EMLINK, a file with too many names already.
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    type Files = BTreeMap<String, String>;

    fn files(folder: &Path) -> Files {
        let read = |entry: io::Result<fs::DirEntry>| {
            let path = entry.unwrap().path();
            (path.file_name().unwrap().to_str().unwrap().to_string(), fs::read_to_string(path).unwrap())
        };
        fs::read_dir(folder).unwrap().map(read).collect()
    }

    fn old_set(folder: &Path) -> PathBuf {
        for (name, content) in
            [("a.db", "old"), ("a.db-wal", "log"), ("a.db-shm", "index"), ("a.db-journal", "undo")]
        {
            fs::write(folder.join(name), content).unwrap();
        }
        folder.join("a.db")
    }

    fn retired_set() -> Files {
        [("", "old"), ("-wal", "log"), ("-shm", "index"), ("-journal", "undo")]
            .map(|(suffix, content)| (format!("a.db.before{suffix}"), content.to_string()))
            .into()
    }

    #[test]
    fn whole_set_goes_to_one_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = old_set(folder.path());
        let retired = retire(&path, "before").unwrap();
        assert_eq!(retired, Some(folder.path().join("a.db.before")));
        assert_eq!(files(folder.path()), retired_set());
        assert_eq!(retire(&path, "before").unwrap(), None);
    }

    #[test]
    fn crash_after_any_step_leaves_a_complete_set_and_nothing_foreign() {
        let steps = plan(Path::new("x"), Path::new("y"), &SUFFIXES).len();
        for done in 0..=steps {
            let folder = tempfile::tempdir().unwrap();
            let path = old_set(folder.path());
            let plan = plan(&path, &folder.path().join("a.db.before"), &present(&path).unwrap());
            run(&plan[..done], &path).unwrap();

            let now = files(folder.path());
            let whole =
                |name: &str| SUFFIXES.iter().all(|suffix| now.contains_key(&format!("{name}{suffix}")));
            assert!(whole("a.db") || whole("a.db.before"), "after {done} steps: {now:?}");
            let database = now.get("a.db").map(String::as_str);
            assert!(matches!(database, None | Some("old")), "after {done} steps");
            // A database in its old place still has everything of its own.
            assert!(database.is_none() || whole("a.db"), "after {done} steps: {now:?}");

            // The next call finishes; nothing is left beside what comes next.
            retire(&path, "before").unwrap();
            let after = files(folder.path());
            assert!(after.keys().all(|name| name.starts_with("a.db.before")), "{after:?}");
            assert!(retired_set().iter().all(|(name, content)| {
                let second = name.replace("before", "before-2");
                after.get(name) == Some(content) || after.get(&second) == Some(content)
            }));
        }
    }

    #[test]
    fn crash_without_hard_links_never_leaves_a_database_with_half_its_files() {
        let steps = plan_without_links(Path::new("x"), Path::new("y"), &SUFFIXES).len();
        for done in 0..=steps {
            let folder = tempfile::tempdir().unwrap();
            let path = old_set(folder.path());
            let plan =
                plan_without_links(&path, &folder.path().join("a.db.before"), &present(&path).unwrap());
            run(&plan[..done], &path).unwrap();
            let now = files(folder.path());
            let beside = SUFFIXES.iter().filter(|suffix| now.contains_key(&format!("a.db{suffix}"))).count();
            assert!(!now.contains_key("a.db") || beside == 4, "after {done} steps: {now:?}");
            assert_eq!(now.len(), 4, "nothing is lost");
        }
    }

    #[test]
    fn files_beside_a_missing_database_are_moved_too() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        fs::write(folder.path().join("a.db-wal"), "log").unwrap();
        retire(&path, "before").unwrap();
        assert_eq!(files(folder.path()), [("a.db.before-wal".to_string(), "log".to_string())].into());
    }

    #[test]
    fn name_that_is_taken_is_never_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = old_set(folder.path());
        // Only a file beside of an earlier set is left, but it must not join this one.
        fs::write(folder.path().join("a.db.before-wal"), "earlier").unwrap();
        let retired = retire(&path, "before").unwrap();
        assert_eq!(retired, Some(folder.path().join("a.db.before-2")));
        assert_eq!(files(folder.path())["a.db.before-wal"], "earlier");
        assert_eq!(files(folder.path())["a.db.before-2-wal"], "log");
    }

    #[test]
    fn folder_in_place_of_a_file_is_refused_before_anything_moves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        fs::write(&path, "old").unwrap();
        fs::create_dir(folder.path().join("a.db-wal")).unwrap();
        assert!(matches!(retire(&path, "before"), Err(Error::NotAFile { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    }
}
