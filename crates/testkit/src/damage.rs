//! Damages the objects of a repository, one at a time, and takes the damage back.
//!
//! Works on the files of a local repository directly, as a failing disk does.

use std::fs::{self, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::Rng;

/// What happens to one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One bit is inverted.
    Flip {
        /// Position of the byte.
        offset: u64,
        /// 0 to 7.
        bit: u8,
    },
    /// A block of up to 512 bytes reads as zeros.
    Zeroed {
        /// Position of the block.
        offset: u64,
    },
    /// Everything from here on is lost.
    Truncated {
        /// The new length.
        length: u64,
    },
    /// The object is gone.
    Deleted,
    /// The object holds the bytes of another one of its kind, and the other one those of it.
    Swapped {
        /// The other object, relative to the repository.
        with: PathBuf,
    },
    /// Foreign bytes are added at the end.
    Extended,
}

/// One damage to one object of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The object, relative to the repository.
    pub object: PathBuf,
    /// What happens to it.
    pub kind: Kind,
}

/// Puts the objects back as they were. Dropping it does so too.
#[derive(Debug)]
#[must_use = "dropping it repairs the damage"]
pub struct Undo {
    contents: Vec<(PathBuf, Vec<u8>, Permissions)>,
}

impl Undo {
    fn of(paths: &[PathBuf]) -> io::Result<Self> {
        let contents = paths
            .iter()
            .map(|path| Ok((path.clone(), fs::read(path)?, fs::metadata(path)?.permissions())))
            .collect::<io::Result<_>>()?;
        Ok(Self { contents })
    }

    /// Leaves the damage where it is.
    pub fn keep(mut self) {
        self.contents.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for (path, bytes, permissions) in &self.contents {
            // A file without write permission is replaced, not written to.
            let _ = fs::remove_file(path);
            if let Some(folder) = path.parent() {
                let _ = fs::create_dir_all(folder);
            }
            let restored =
                fs::write(path, bytes).and_then(|()| fs::set_permissions(path, permissions.clone()));
            if let Err(error) = restored {
                assert!(std::thread::panicking(), "could not undo the damage to {}: {error}", path.display());
            }
        }
    }
}

impl Damage {
    /// Does the damage to the repository at `repository`.
    pub fn apply(&self, repository: &Path) -> io::Result<Undo> {
        let path = repository.join(&self.object);
        let mut touched = vec![path.clone()];
        if let Kind::Swapped { with } = &self.kind {
            touched.push(repository.join(with));
        }
        let undo = Undo::of(&touched)?;
        if !matches!(self.kind, Kind::Deleted) {
            for path in &touched {
                fs::set_permissions(path, Permissions::from_mode(0o600))?;
            }
        }
        self.spoil(&path, &undo)?;
        Ok(undo)
    }

    fn spoil(&self, path: &Path, undo: &Undo) -> io::Result<()> {
        let bytes = &undo.contents[0].1;
        match &self.kind {
            Kind::Flip { offset, bit } => {
                let byte = bytes[usize::try_from(*offset).expect("the object is in memory")];
                OpenOptions::new().write(true).open(path)?.write_all_at(&[byte ^ (1 << bit)], *offset)
            }
            Kind::Zeroed { offset } => {
                let length = (bytes.len() as u64 - offset).min(512) as usize;
                OpenOptions::new().write(true).open(path)?.write_all_at(&vec![0; length], *offset)
            }
            Kind::Truncated { length } => OpenOptions::new().write(true).open(path)?.set_len(*length),
            Kind::Deleted => fs::remove_file(path),
            Kind::Swapped { .. } => {
                let (other, other_bytes, _) = &undo.contents[1];
                fs::write(path, other_bytes)?;
                fs::write(other, bytes)
            }
            Kind::Extended => {
                let longer = [bytes.as_slice(), b"not ours"].concat();
                fs::write(path, longer)
            }
        }
    }
}

impl std::fmt::Display for Damage {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}: {:?}", self.object.display(), self.kind)
    }
}

/// Returns every object of a repository, relative to it, sorted: config, keys, index files,
/// snapshots, packs and facts. Locks and temporary files are not objects.
pub fn objects(repository: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    collect(repository, repository, &mut found)?;
    found.retain(|object| !object.starts_with("locks") && !object.starts_with("dbkeep/tmp"));
    found.sort();
    Ok(found)
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, found)?;
        } else {
            found.push(path.strip_prefix(root).expect("found below the root").to_owned());
        }
    }
    Ok(())
}

/// Returns every way in which a whole object can be lost or cut: deleted, and truncated
/// to nothing, to half, and by one byte.
pub fn coarse(repository: &Path) -> io::Result<Vec<Damage>> {
    let mut all = Vec::new();
    for object in objects(repository)? {
        let length = fs::metadata(repository.join(&object))?.len();
        let mut add = |kind| all.push(Damage { object: object.clone(), kind });
        add(Kind::Deleted);
        let lengths = [0, length / 2, length.saturating_sub(1)];
        for (position, shorter) in lengths.into_iter().enumerate() {
            if shorter < length && !lengths[..position].contains(&shorter) {
                add(Kind::Truncated { length: shorter });
            }
        }
    }
    Ok(all)
}

/// Returns a flip of one random bit for each object, and `more` damages of all kinds spread
/// over all objects, large ones as often as small ones. The same seed gives the same list.
pub fn random(repository: &Path, seed: u64, more: usize) -> io::Result<Vec<Damage>> {
    let rng = &mut Rng::new(seed);
    let objects = objects(repository)?;
    let mut all = Vec::with_capacity(objects.len() + more);
    for object in &objects {
        let length = fs::metadata(repository.join(object))?.len();
        all.push(Damage { object: object.clone(), kind: flip(rng, length) });
    }
    for _ in 0..more {
        let object = &objects[rng.below(objects.len() as u64) as usize];
        let length = fs::metadata(repository.join(object))?.len();
        let kind = match rng.below(10) {
            0 => Kind::Deleted,
            1 => Kind::Truncated { length: rng.below(length) },
            2 if length > 0 => zeroed(rng, &repository.join(object))?.unwrap_or_else(|| flip(rng, length)),
            3 => Kind::Extended,
            4 => swap(rng, repository, object, &objects)?.unwrap_or_else(|| flip(rng, length)),
            _ => flip(rng, length),
        };
        all.push(Damage { object: object.clone(), kind });
    }
    Ok(all)
}

/// Returns zeros somewhere in an object; `None` where there were zeros before, as in the last bytes of a pack.
fn zeroed(rng: &mut Rng, object: &Path) -> io::Result<Option<Kind>> {
    let bytes = fs::read(object)?;
    let offset = rng.below(bytes.len() as u64);
    let at = usize::try_from(offset).expect("the object is in memory");
    Ok(bytes[at..].iter().take(512).any(|byte| *byte != 0).then_some(Kind::Zeroed { offset }))
}

/// Returns a flip of every single bit of an object; for small ones.
pub fn every_bit(repository: &Path, object: &Path) -> io::Result<Vec<Damage>> {
    let length = fs::metadata(repository.join(object))?.len();
    let bits = (0..length).flat_map(|offset| (0..8).map(move |bit| Kind::Flip { offset, bit }));
    Ok(bits.map(|kind| Damage { object: object.to_owned(), kind }).collect())
}

fn flip(rng: &mut Rng, length: u64) -> Kind {
    Kind::Flip { offset: rng.below(length), bit: rng.below(8) as u8 }
}

/// Chooses another object of the same folder kind, so that its bytes are valid ones in the wrong place.
fn swap(rng: &mut Rng, repository: &Path, object: &Path, objects: &[PathBuf]) -> io::Result<Option<Kind>> {
    let kind = |path: &Path| path.components().next().map(|first| first.as_os_str().to_owned());
    let mut others: Vec<&PathBuf> =
        objects.iter().filter(|other| *other != object && kind(other) == kind(object)).collect();
    let bytes = fs::read(repository.join(object))?;
    while !others.is_empty() {
        let other = others.swap_remove(rng.below(others.len() as u64) as usize);
        if fs::read(repository.join(other))? != bytes {
            return Ok(Some(Kind::Swapped { with: other.clone() }));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn repository() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, contents) in
            [("config", "c"), ("data/aa/one", "first"), ("data/bb/two", "second"), ("locks/l", "l")]
        {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, contents).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o400)).unwrap();
        }
        folder
    }

    fn read_all(root: &Path) -> Vec<(PathBuf, Vec<u8>, u32)> {
        let read = |object: PathBuf| {
            let path = root.join(&object);
            (object, fs::read(&path).unwrap(), fs::metadata(&path).unwrap().permissions().mode())
        };
        objects(root).unwrap().into_iter().map(read).collect()
    }

    #[test]
    fn locks_are_not_objects() {
        let folder = repository();
        let names: Vec<_> = read_all(folder.path()).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(names, ["config", "data/aa/one", "data/bb/two"].map(PathBuf::from));
    }

    #[test]
    fn every_damage_changes_something_and_is_undone() {
        let folder = repository();
        let before = read_all(folder.path());
        let all = [coarse(folder.path()).unwrap(), random(folder.path(), 9, 100).unwrap()].concat();
        assert!(all.iter().any(|damage| matches!(damage.kind, Kind::Swapped { .. })));
        for damage in all {
            let undo = damage.apply(folder.path()).unwrap();
            assert_ne!(read_all(folder.path()), before, "{damage} changed nothing");
            drop(undo);
            assert_eq!(read_all(folder.path()), before, "{damage} was not undone");
        }
    }

    #[test]
    fn same_seed_gives_the_same_damage() {
        let folder = repository();
        assert_eq!(random(folder.path(), 4, 50).unwrap(), random(folder.path(), 4, 50).unwrap());
    }
}
