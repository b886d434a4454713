//! One snapshot: its manifest, and what the repository knows of it.

use dbkeep_repo::read::{Image, Reader};
use dbkeep_repo::write::PARTS_SUFFIX;
use jiff::Timestamp;

use crate::catalog::{Catalog, Entry};
use crate::manifest::{self, Manifest};
use crate::report::{Engine, RepositoryFacts, ShowReport};
use crate::repository::Store;
use crate::{Error, Result};

/// Shows a snapshot: an id prefix, `latest`, or `latest~N`.
pub fn run(store: &Store, snapshot: &str, database: Option<&str>, now: Timestamp) -> Result<ShowReport> {
    let _lock = store.repository().lock_for_reading(&**store.watch(), now)?;
    let catalog = Catalog::load(store)?;
    let entry = catalog.choose(snapshot, database)?;
    let reader = store.reader(&catalog)?;
    let manifest = entry.database.is_some().then(|| manifest(&reader, entry)).transpose()?;
    let chunks = match &manifest {
        Some(manifest) if manifest.engine == Engine::Postgres => manifest.image.chunks,
        Some(manifest) => image(&reader, entry, manifest)?.chunks() as u64,
        None => 0,
    };
    let repository = RepositoryFacts {
        id: entry.id,
        tree: entry.snapshot.tree,
        parent: entry.snapshot.parent,
        chunks,
        tags: entry.snapshot.tags.clone(),
        paths: entry.snapshot.paths.clone(),
        good: entry.is_good(),
        verified: entry.history.verified,
        findings: entry.history.damage.clone(),
    };
    Ok(ShowReport { manifest, repository })
}

/// Reads the manifest of a snapshot of ours.
pub(crate) fn manifest(reader: &Reader, entry: &Entry) -> Result<Manifest> {
    let of = format!("the manifest of snapshot {}", entry.id.short());
    let path = format!("{}/{}", entry.directory(), manifest::FILE);
    let node = reader
        .find(&entry.snapshot, &path)?
        .ok_or_else(|| Error::Damaged { what: of.clone(), finding: "it is not there".to_owned() })?;
    let manifest = Manifest::decode(&reader.file(&node, manifest::LIMIT)?, &of)?;
    if Some(&manifest.database) != entry.database.as_ref() {
        return Err(Error::Damaged {
            what: of,
            finding: format!("it is of the database {:?}", manifest.database),
        });
    }
    Ok(manifest)
}

/// Finds the image of a snapshot. One that has another size or root than the manifest says is damaged.
pub(crate) fn image(reader: &Reader, entry: &Entry, manifest: &Manifest) -> Result<Image> {
    let damaged =
        |finding: String| Error::Damaged { what: format!("snapshot {}", entry.id.short()), finding };
    if manifest.engine == Engine::Postgres {
        return Err(Error::Unsupported {
            what: format!("snapshot {} is of a PostgreSQL database, which is no file", entry.id.short()),
            hint: None,
        });
    }
    // The name comes from the manifest and goes into a path of the snapshot only.
    let name = &manifest.image.name;
    let image = reader.image(&entry.snapshot, &entry.directory(), name)?;
    let image = image.ok_or_else(|| damaged(format!("neither {name} nor {name}{PARTS_SUFFIX} is in it")))?;
    if image.size() != manifest.image.size {
        return Err(damaged(format!("the image has {} bytes, not {}", image.size(), manifest.image.size)));
    }
    if image.root() != manifest.image.root {
        return Err(damaged("the image has other chunks than the manifest says".to_owned()));
    }
    Ok(image)
}
