//! Every object that has a name of its own: is it whole, and does it say what it should?

use super::packs::Packs;
use super::{Harm, Problem, stop_if_cancelled};
use crate::backend::FileKind;
use crate::error::{Error, Result};
use crate::format::config::Config;
use crate::format::index::IndexFile;
use crate::format::key::KeyFile;
use crate::format::lock::LockFile;
use crate::format::snapshot::Snapshot;
use crate::index::Index;
use crate::observe::Observer;
use crate::{Id, Repository};

/// Checks the object that makes the place a repository.
pub(super) fn config(repository: &Repository, problems: &mut Vec<Problem>) -> Result<()> {
    let mut problem =
        |what: String| problems.push(Problem::new("config-damaged", "config", what, Harm::None));
    let mut sealed = match repository.backend().read(FileKind::Config, &Id::NULL) {
        Ok(sealed) => sealed,
        Err(error) => {
            problem(error.to_string());
            return Ok(());
        }
    };
    match repository.key().open(&mut sealed).map(|json| Config::decode(json)) {
        Ok(Ok(config)) if config.id == repository.id() => {}
        Ok(Ok(_)) => problem("it is of another repository than the one that was opened".to_owned()),
        Ok(Err(error)) => problem(error.to_string()),
        Err(error) => problem(error.to_string()),
    }
    Ok(())
}

/// Checks the keys. They are not sealed; their names are the hashes of their contents.
pub(super) fn keys(repository: &Repository, problems: &mut Vec<Problem>) -> Result<()> {
    let keys = repository.list(FileKind::Key)?;
    let own = repository.key_id();
    if !keys.iter().any(|key| key.id == own) {
        let what = "the key that the repository was opened with is gone";
        problems.push(Problem::of("key-missing", FileKind::Key, &own, &what, Harm::None));
    }
    for key in keys {
        let what = match repository.backend().read(FileKind::Key, &key.id) {
            Ok(contents) if Id::of(&contents) != key.id => "its SHA-256 is not its name".to_owned(),
            Ok(contents) => match KeyFile::decode(&contents) {
                Ok(_) => continue,
                Err(error) => error.to_string(),
            },
            Err(Error::Missing { .. }) => continue,
            Err(error) => error.to_string(),
        };
        problems.push(Problem::of("key-damaged", FileKind::Key, &key.id, &what, Harm::None));
    }
    Ok(())
}

/// Checks the locks. One that vanishes meanwhile was released.
pub(super) fn locks(repository: &Repository, problems: &mut Vec<Problem>) -> Result<()> {
    for lock in repository.list(FileKind::Lock)? {
        let what = match repository.load_unpacked(FileKind::Lock, &lock.id) {
            Ok(json) => match LockFile::decode(&json) {
                Ok(_) => continue,
                Err(error) => error.to_string(),
            },
            Err(Error::Missing { .. }) => continue,
            Err(error) => error.to_string(),
        };
        problems.push(Problem::of("lock-damaged", FileKind::Lock, &lock.id, &what, Harm::None));
    }
    Ok(())
}

/// Reads all snapshots. One that cannot be read is itself what is affected.
pub(super) fn snapshots(repository: &Repository, problems: &mut Vec<Problem>) -> Result<Vec<Snapshot>> {
    let mut snapshots = Vec::new();
    for (id, snapshot) in repository.each_snapshot()? {
        match snapshot {
            Ok(snapshot) => snapshots.push(snapshot),
            Err(error) => problems.push(Problem::of(
                "snapshot-damaged",
                FileKind::Snapshot,
                &id,
                &error,
                Harm::Snapshots(vec![id]),
            )),
        }
    }
    Ok(snapshots)
}

/// Checks the facts, and what they say against the snapshots that are there.
pub(super) fn facts(
    repository: &Repository,
    snapshots: &[Snapshot],
    known_heads: &[Id],
    problems: &mut Vec<Problem>,
) -> Result<()> {
    let facts = repository.facts()?;
    for (id, what) in facts.damaged() {
        problems.push(Problem::of("fact-damaged", FileKind::Fact, id, &what, Harm::None));
    }
    for id in facts.missing(known_heads) {
        let what = "a later fact or this computer remembers it";
        problems.push(Problem::of("fact-missing", FileKind::Fact, &id, &what, Harm::None));
    }
    // A snapshot whose file is there and damaged is reported as that.
    let damaged: Vec<Id> =
        problems.iter().filter(|problem| problem.kind == "snapshot-damaged").flat_map(ids).collect();
    for gone in repository.lost_snapshots(&facts, snapshots, None)? {
        if !damaged.contains(&gone.id) {
            let what =
                format!("a backup of {:?} that was acknowledged and never forgotten is gone", gone.database);
            let harm = Harm::Snapshots(vec![gone.id]);
            problems.push(Problem::of("snapshot-removed", FileKind::Snapshot, &gone.id, &what, harm));
        }
    }
    Ok(())
}

fn ids(problem: &Problem) -> Vec<Id> {
    match &problem.harm {
        Harm::Snapshots(ids) => ids.clone(),
        _ => Vec::new(),
    }
}

/// Reads all index files. What only a damaged one knew is found missing later, where a snapshot needs it.
pub(super) fn index(
    repository: &Repository,
    packs: &mut Packs,
    watch: &dyn Observer,
    problems: &mut Vec<Problem>,
) -> Result<Index> {
    let files = repository.list(FileKind::Index)?;
    watch.phase("reading the index", files.iter().map(|file| file.size).sum());
    let mut index = Index::new();
    for file in files {
        stop_if_cancelled(watch)?;
        let json = repository.load_unpacked(FileKind::Index, &file.id);
        let decoded = json.and_then(|json| {
            IndexFile::decode(&json)
                .map_err(|error| crate::repository::damaged(FileKind::Index, &file.id, &error))
        });
        match decoded {
            Ok(decoded) => {
                packs.add(&file.id, &decoded, problems);
                index.add_file(&decoded)?;
            }
            Err(error) => {
                problems.push(Problem::of("index-damaged", FileKind::Index, &file.id, &error, Harm::None));
            }
        }
        watch.advance(file.size);
    }
    Ok(index)
}
