//! What was found damaged, in the words that facts keep, and what it is about.
//!
//! A finding is either about the storage of one repository (a pack that has rotted or is gone: the same snapshot in
//! another repository is not concerned), or about the contents (rows that are not what the manifest says, an index of
//! the database that is malformed: the same bytes are as wrong in every copy, and storing them again mends nothing).

use crate::Error;

/// Returns what was found, with all digits of a damaged object's id.
pub(crate) fn finding(error: &Error) -> String {
    match error {
        Error::Repo(dbkeep_repo::Error::Damaged { kind, id, what }) => {
            format!("{} {id}: {what}", kind.word())
        }
        Error::Repo(dbkeep_repo::Error::Missing { kind, id }) => {
            format!("{} {id}: it is missing", kind.word())
        }
        other => other.full_message(),
    }
}

/// Says whether an error means that the snapshot is damaged, as opposed to storage that cannot be read now.
pub(crate) fn is_damage(error: &Error) -> bool {
    match error {
        Error::Damaged { .. } => true,
        Error::Repo(error) => is_repo_damage(error),
        _ => false,
    }
}

fn is_repo_damage(error: &dbkeep_repo::Error) -> bool {
    use dbkeep_repo::Error as Repo;
    matches!(
        error,
        Repo::Missing { .. }
            | Repo::Short { .. }
            | Repo::Damaged { .. }
            | Repo::BlobMissing { .. }
            | Repo::Unsupported { .. }
    )
}

/// Says whether a finding is about the storage: reading every blob of the snapshot, with its hash, shows whether it still
/// holds.
///
/// What is not known to be about the storage counts as about the contents, which only a check of these clears.
pub(crate) fn is_of_storage(finding: &str) -> bool {
    let Some((object, rest)) = finding.split_once(' ') else { return false };
    let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
    match object {
        "pack" | "index" | "blob" | "tree" => digits >= 8,
        // With fewer digits it is what the manifest and the image of the snapshot do not agree about.
        "snapshot" => digits == 64,
        // Its name may be anything, and what is wrong comes last.
        "file" => rest.rsplit_once("\": ").is_some_and(|(_, what)| what.contains(" of its blobs are ")),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use dbkeep_repo::backend::FileKind;
    use dbkeep_repo::format::pack::BlobKind;
    use dbkeep_repo::{Error as Repo, Id};

    use super::*;

    #[test]
    fn what_the_storage_lost_is_told_from_what_was_always_wrong() {
        let id = Id::of(b"object");
        for error in [
            Repo::Damaged {
                kind: FileKind::Pack,
                id,
                what: "blob 12345678 is not what was sealed".to_owned(),
            },
            Repo::Missing { kind: FileKind::Pack, id },
            Repo::Short { kind: FileKind::Pack, id, end: 7 },
            Repo::BlobMissing { kind: BlobKind::Data, id },
            Repo::Missing { kind: FileKind::Snapshot, id },
        ] {
            let found = finding(&Error::from(error));
            assert!(is_of_storage(&found), "{found}");
        }
        // As `check` words them.
        for found in [
            format!("tree {id}: no index names it"),
            format!("index {id}: blobs of pack {id} do not follow each other"),
            format!("file \"a.db\": 3 of its blobs are in no index, the first is {id}"),
            "file \"a: b\": 3 of its blobs are only in packs that wait for their removal".to_owned(),
        ] {
            assert!(is_of_storage(&found), "{found}");
        }
        // As `verify` words them, and what nobody knows.
        for found in [
            "the database is damaged: row 3 missing from index users_name".to_owned(),
            "table \"pack 0123456789\" has 3 rows, the manifest says 4".to_owned(),
            "the image has another SHA-256 than the manifest says".to_owned(),
            format!("snapshot {} is damaged: the image has other chunks than the manifest says", id.short()),
            "the manifest of snapshot 01234567 is damaged: it is not there".to_owned(),
            "file \"2 of its blobs are\": it claims 3 bytes and its blobs have 4".to_owned(),
            "directory \"a\": it has no tree".to_owned(),
            "pack".to_owned(),
            String::new(),
        ] {
            assert!(!is_of_storage(&found), "{found}");
        }
    }
}
