//! Repositories that one program makes and the other reads.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use dbkeep_repo::backend::FileKind;
use dbkeep_repo::format::fact::Fact;
use dbkeep_repo::format::index::IndexFile;
use dbkeep_repo::format::pack::{BlobKind, PackBlob, TRAILER, decode_header, decode_trailer};
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::format::tree::Tree;
use dbkeep_repo::index::Index;
use dbkeep_repo::{Cache, Error, Id, Repository, Unobserved};
use jiff::Timestamp;

use crate::stock::{Stock, count};

#[test]
fn repository_that_restic_made_is_read_to_the_last_byte() {
    let Some(stock) = Stock::find() else { return };
    let ours = stock.init_theirs();
    let names = write_odd_files(&stock);
    stock.run(&["backup", "--tag", "one,two", stock.path("files").to_str().unwrap()]);

    assert_eq!(stock.json(&["cat", "config"])["id"], ours.id());
    let theirs = &stock.json(&["snapshots"])[0];
    let snapshots = ours.snapshots().unwrap();
    assert_eq!(theirs["id"], snapshots[0].id.unwrap().to_string());
    assert_eq!(theirs["tree"], snapshots[0].tree.to_string());
    assert_eq!(theirs["time"].as_str().unwrap().parse::<Timestamp>().unwrap(), snapshots[0].time);
    assert_eq!(snapshots[0].tags, ["one", "two"]);

    let indexed = indexed_blobs(&ours);
    let (stored, trees) = stored_blobs(&ours);
    assert_eq!(indexed, stored);
    let found: BTreeSet<_> =
        trees.iter().flat_map(|tree| &tree.nodes).map(|node| node.name.clone()).collect();
    assert!(names.is_subset(&found), "{names:?} {found:?}");
}

/// Writes files whose names need quoting, and returns these as we show them.
fn write_odd_files(stock: &Stock) -> BTreeSet<String> {
    let folder = stock.path("files");
    fs::create_dir(&folder).unwrap();
    let names = ["plain", "a\"b\\c", "a\nb\tc\x07", "<é€😀&>", "\u{ad}\u{2028}\u{a0}\u{e000}", "%41 ?#"];
    for name in names {
        fs::write(folder.join(name), name.repeat(10_000)).unwrap();
    }
    fs::write(folder.join(OsStr::from_bytes(b"bad\xff")), b"").unwrap();
    std::os::unix::fs::symlink("plain", folder.join("link")).unwrap();
    names.into_iter().chain(["bad\u{fffd}", "link"]).map(str::to_owned).collect()
}

/// A pack, a blob in it, and where.
type Places = BTreeSet<(Id, Id, u32, u32)>;

fn indexed_blobs(repository: &Repository) -> Places {
    let mut blobs = BTreeSet::new();
    for info in repository.list(FileKind::Index).unwrap() {
        let json = repository.load_unpacked(FileKind::Index, &info.id).unwrap();
        for pack in IndexFile::decode(&json).unwrap().packs {
            blobs.extend(pack.blobs.iter().map(|blob| (pack.id, blob.id, blob.offset, blob.length)));
        }
    }
    blobs
}

/// Opens all packs without an index and every blob in them.
fn stored_blobs(repository: &Repository) -> (Places, Vec<Tree>) {
    let (mut blobs, mut trees) = (Places::new(), Vec::new());
    for info in repository.list(FileKind::Pack).unwrap() {
        let mut pack = repository.backend().read(FileKind::Pack, &info.id).unwrap();
        assert_eq!(Id::of(&pack), info.id);
        let trailer = pack[pack.len() - TRAILER..].try_into().unwrap();
        let length = usize::try_from(decode_trailer(trailer, info.size).unwrap()).unwrap();
        let end = pack.len() - TRAILER;
        let header = repository.key().open(&mut pack[end - length..end]).unwrap().to_vec();
        for blob in decode_header(&header, info.size).unwrap() {
            let plain = open_blob(repository, &mut pack, &blob);
            assert_eq!(Id::of(&plain), blob.id);
            if blob.kind == BlobKind::Tree {
                trees.push(Tree::decode(&plain).unwrap());
            }
            blobs.insert((info.id, blob.id, blob.offset, blob.length));
        }
    }
    (blobs, trees)
}

fn open_blob(repository: &Repository, pack: &mut [u8], blob: &PackBlob) -> Vec<u8> {
    let range = usize::try_from(blob.offset).unwrap()..usize::try_from(blob.end()).unwrap();
    let opened = repository.key().open(&mut pack[range]).unwrap();
    let length = usize::try_from(blob.plain_length()).unwrap();
    let plain = match blob.uncompressed_length {
        Some(_) => zstd::bulk::decompress(opened, length).unwrap(),
        None => opened.to_vec(),
    };
    assert_eq!(plain.len(), length);
    plain
}

#[test]
fn repository_that_we_made_is_accepted_by_restic() {
    let Some(stock) = Stock::find() else { return };
    let ours = stock.init_ours();
    let config = stock.json(&["cat", "config"]);
    assert_eq!((config["version"].as_u64(), config["id"].as_str()), (Some(2), Some(ours.id())));
    assert_eq!(stock.json(&["snapshots"]), serde_json::json!([]));
    stock.run(&["check", "--read-data"]);
    assert_eq!(stock.run(&["list", "locks"]), "");
    assert_eq!(stock.run(&["list", "keys"]).trim(), ours.key_id().to_string());
}

#[test]
fn restic_backs_up_into_our_repository_and_leaves_our_facts_alone() {
    let Some(stock) = Stock::find() else { return };
    let ours = stock.init_ours();
    let fact = Fact::Acknowledged { session: "s".to_owned(), snapshots: Vec::new() };
    let fact = ours.append_fact(fact, &[], Timestamp::now()).unwrap();
    write_odd_files(&stock);
    stock.run(&["backup", stock.path("files").to_str().unwrap()]);
    stock.run(&["backup", "--tag", "keep", stock.path("files").to_str().unwrap()]);
    assert_eq!(ours.snapshots().unwrap().len(), 2);
    let cache = || Cache::new(&ours, stock.path("cache"), Arc::new(Unobserved));
    let kept = || {
        let snapshots = ours.each_snapshot_through(Some(&cache())).unwrap();
        let index = Index::load_distrusting(&ours, &Unobserved, &|_| false, Some(&cache())).unwrap();
        (snapshots.into_iter().map(|(id, _)| id).collect::<Vec<_>>(), index.blobs().count())
    };
    assert_eq!(kept().0.len(), 2);

    stock.run(&["forget", "--keep-last", "1", "--group-by", "", "--prune"]);
    stock.run(&["check", "--read-data"]);
    let left = ours.snapshots().unwrap()[0].id.unwrap();
    assert_eq!(kept(), (vec![left], indexed_blobs(&ours).len()), "what restic forgot is in no cache");
    assert_eq!(ours.facts().unwrap().heads(), [fact]);
    let left = ours.snapshots().unwrap();
    assert_eq!((left.len(), &*left[0].tags), (1, &["keep".to_owned()][..]));
    assert_eq!(indexed_blobs(&ours), stored_blobs(&ours).0);
}

#[test]
fn snapshot_that_we_write_and_drop_is_seen_by_restic() {
    let Some(stock) = Stock::find() else { return };
    let ours = stock.init_ours();
    fs::write(stock.path("file"), b"contents").unwrap();
    stock.run(&["backup", stock.path("file").to_str().unwrap()]);
    let theirs = ours.snapshots().unwrap().remove(0);
    let tags = ["session=20260301_140500", "database=shop"].map(str::to_owned).to_vec();
    let paths = vec!["/shop".to_owned()];
    let snapshot =
        Snapshot { tags, paths, hostname: "h".to_owned(), ..Snapshot::new(theirs.time, theirs.tree) };
    let id = ours.save_unpacked(FileKind::Snapshot, &snapshot.encode()).unwrap();

    let listed = stock.json(&["snapshots", "--tag", "database=shop"]);
    assert_eq!(listed[0]["id"], id.to_string());
    assert_eq!(listed[0]["paths"][0], "/shop");
    stock.run(&["check"]);

    // Restic changes tags by storing the snapshot anew under another id.
    stock.run(&["tag", "--add", "more", &id.to_string()]);
    let changed = ours.snapshots().unwrap().into_iter().find(|found| found.tags.len() == 3).unwrap();
    assert_eq!(changed.original, Some(id));

    let lock = ours.lock_shared(Timestamp::now()).unwrap();
    ours.forget(&[changed.id.unwrap()], "test", &lock, Timestamp::now(), |_| Ok::<_, dbkeep_repo::Error>(()))
        .unwrap();
    assert_eq!(stock.json(&["snapshots"]).as_array().unwrap().len(), 1);
}

#[test]
fn version_1_of_the_repository_is_refused_and_its_upgrade_is_not() {
    let Some(stock) = Stock::find() else { return };
    stock.run(&["init", "--repository-version", "1"]);
    let refused = stock.open("secret").unwrap_err();
    assert!(matches!(refused, Error::Version { found: 1 }), "{refused:?}");
    stock.run(&["migrate", "upgrade_repo_v2"]);
    stock.open("secret").unwrap();
}

#[test]
fn what_an_interrupted_init_left_does_not_disturb_restic() {
    let Some(stock) = Stock::find() else { return };
    stock.init_ours();
    fs::remove_file(stock.repository().join("config")).unwrap();
    assert!(matches!(stock.open("secret"), Err(Error::NoRepository { .. })));
    let again = stock.init_ours();
    assert_eq!(count(&stock.repository().join("keys")), 1);
    assert_eq!(stock.json(&["cat", "config"])["id"], again.id());
}

#[test]
fn place_of_another_program_is_no_repository_of_ours() {
    let Some(stock) = Stock::find() else { return };
    fs::create_dir(stock.repository()).unwrap();
    fs::write(stock.repository().join("config"), "[repository]\nversion = 1\n").unwrap();
    let error = stock.open("secret").unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error:?}");
}
