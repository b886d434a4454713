//! What the working directory had checked out when a backup was taken.
//!
//! Read from the files of git itself: no program is run, so that nothing in a foreign directory can make us.
//! Whatever cannot be read is absent; a backup does not depend on it.

use std::fs;
use std::path::{Path, PathBuf};

use crate::manifest::Git;

/// Returns branch and commit of the work tree that `directory` is in.
pub(crate) fn describe(directory: &Path) -> Option<Git> {
    let git = directory.ancestors().find_map(git_directory)?;
    let head = small_text(&git.join("HEAD"))?;
    let Some(reference) = head.strip_prefix("ref: ") else {
        return Some(Git { branch: None, commit: commit(&head) });
    };
    let branch = reference.strip_prefix("refs/heads/").unwrap_or(reference).to_owned();
    Some(Git { branch: Some(branch), commit: resolve(&git, reference) })
}

/// Returns the directory of git beside or above a file: `.git`, or what the file `.git` of a further work tree names.
fn git_directory(directory: &Path) -> Option<PathBuf> {
    let git = directory.join(".git");
    if git.is_dir() {
        return Some(git);
    }
    let target = small_text(&git)?;
    Some(directory.join(target.strip_prefix("gitdir: ")?))
}

/// Returns the commit that a reference names, loose or packed.
fn resolve(git: &Path, reference: &str) -> Option<String> {
    if !reference.starts_with("refs/") || reference.split('/').any(|part| part == "..") {
        return None;
    }
    let common = small_text(&git.join("commondir")).map_or_else(|| git.to_owned(), |common| git.join(common));
    if let Some(text) = small_text(&common.join(reference)) {
        return commit(&text);
    }
    let packed = fs::read_to_string(common.join("packed-refs")).ok()?;
    packed.lines().find_map(|line| {
        let (id, name) = line.split_once(' ')?;
        (name == reference).then(|| commit(id))?
    })
}

/// Returns the first line of a small file.
fn small_text(path: &Path) -> Option<String> {
    let metadata = fs::metadata(path).ok()?;
    if !metadata.is_file() || metadata.len() > 4096 {
        return None;
    }
    fs::read_to_string(path).ok()?.lines().next().map(|line| line.trim().to_owned())
}

fn commit(text: &str) -> Option<String> {
    let text = text.trim();
    let is_id = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_id.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn branch_and_commit_are_found_from_below_loose_packed_and_detached() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, ".git/HEAD", "ref: refs/heads/feature/x\n");
        write(root, "deep/er/file", "");
        let below = root.join("deep/er");
        let expect = |branch: Option<&str>, commit: Option<&str>| {
            assert_eq!(
                describe(&below),
                Some(Git { branch: branch.map(str::to_owned), commit: commit.map(str::to_owned) })
            );
        };
        expect(Some("feature/x"), None);
        write(root, ".git/packed-refs", &format!("# pack-refs\n{COMMIT} refs/heads/feature/x\n"));
        expect(Some("feature/x"), Some(COMMIT));
        let newer = COMMIT.replace('0', "f");
        write(root, ".git/refs/heads/feature/x", &format!("{newer}\n"));
        expect(Some("feature/x"), Some(&newer));
        write(root, ".git/HEAD", &format!("{COMMIT}\n"));
        expect(None, Some(COMMIT));
    }

    #[test]
    fn further_work_tree_is_followed_to_the_common_directory() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        write(root, "main/.git/refs/heads/b", COMMIT);
        write(root, "main/.git/worktrees/w/HEAD", "ref: refs/heads/b\n");
        write(root, "main/.git/worktrees/w/commondir", "../..\n");
        write(root, "tree/.git", "gitdir: ../main/.git/worktrees/w\n");
        let found = describe(&root.join("tree")).unwrap();
        assert_eq!(found, Git { branch: Some("b".to_owned()), commit: Some(COMMIT.to_owned()) });
    }

    #[test]
    fn reference_that_leaves_the_directory_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), ".git/HEAD", "ref: refs/../../secret\n");
        write(root.path(), "secret", COMMIT);
        assert_eq!(describe(root.path()).unwrap().commit, None);
    }
}
