//! Streams: contents that are cut by who sends them, stored from several threads and read forward.

use std::sync::Arc;
use std::thread;

use dbkeep_repo::backend::{Backend, FileKind};
use dbkeep_repo::check::{CheckOptions, ReadData, check};
use dbkeep_repo::format::snapshot::Snapshot;
use dbkeep_repo::format::tree::Tree;
use dbkeep_repo::index::Index;
use dbkeep_repo::read::Reader;
use dbkeep_repo::write::{PART_CHUNKS, StoredStream, Streams};
use dbkeep_repo::{Error, Id, Repository, Unobserved};

use crate::scene::{bytes, load, memory, meta, now, small_packs};

/// Sends contents with a cut after each of `lengths`, over and over.
fn send(streams: Streams<'_>, contents: &[u8], lengths: &[usize]) -> dbkeep_repo::Result<StoredStream> {
    let mut stream = streams.open();
    let mut rest = contents;
    let mut lengths = lengths.iter().cycle();
    while let Some(length) = lengths.next().filter(|_| !rest.is_empty()) {
        let (piece, later) = rest.split_at(rest.len().min(*length));
        // In several writes, as rows come.
        for some in piece.chunks(1000) {
            stream.write(some)?;
        }
        stream.cut()?;
        rest = later;
    }
    stream.finish()
}

/// Stores contents, each in a thread of its own, as files of one snapshot.
fn store(repository: &Repository, contents: &[(&str, Vec<u8>, &[usize])]) -> (Snapshot, Vec<StoredStream>) {
    let lock = repository.lock_shared(now()).unwrap();
    let index = Index::load(repository, &Unobserved).unwrap();
    let mut writer = repository.writer(&lock, index, &small_packs(), Arc::new(Unobserved)).unwrap();
    let streams = writer.streams().unwrap();
    let stored: Vec<StoredStream> = thread::scope(|scope| {
        let threads: Vec<_> = contents
            .iter()
            .map(|(_, contents, lengths)| scope.spawn(move || send(streams, contents, lengths).unwrap()))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut nodes = Vec::new();
    for ((name, _, _), stream) in contents.iter().zip(&stored) {
        nodes.extend(writer.save_stream_nodes(stream, name, &meta()).unwrap());
    }
    let directory = writer.save_tree(&Tree { nodes }).unwrap();
    let root = writer.save_tree(&Tree { nodes: vec![meta().directory("shop", directory)] }).unwrap();
    let mut snapshot = Snapshot::new(now(), root);
    snapshot.paths = vec!["/shop".to_owned()];
    (writer.commit(snapshot).unwrap(), stored)
}

fn forward(reader: &Reader, snapshot: &Snapshot, name: &str) -> dbkeep_repo::Result<Vec<u8>> {
    let image = Arc::new(reader.image(snapshot, "/shop", name)?.expect("there is one"));
    let mut found = Vec::new();
    let mut forward = reader.forward(&image, 0..image.chunks())?;
    while let Some(some) = forward.next()? {
        found.extend_from_slice(some);
    }
    Ok(found)
}

#[test]
fn streams_of_every_length_come_back_whatever_their_cuts() {
    let (_, repository) = memory();
    let odd: &[usize] = &[2000, 1, 777, 50_000, 12];
    let contents = [
        ("empty", bytes(1, 0), odd),
        ("one", bytes(2, 1), odd),
        ("rows", bytes(3, 3_000_000), odd),
        ("small", bytes(4, 2_000_000), &[700][..]),
        ("long", bytes(5, 4_500_000), &[3_000_000][..]),
        ("zeros", vec![0; 2_500_000], &[900][..]),
    ];
    let (snapshot, stored) = store(&repository, &contents);
    let reader = load(&repository);
    for ((name, contents, _), stored) in contents.iter().zip(&stored) {
        assert!(forward(&reader, &snapshot, name).unwrap() == *contents, "{name}");
        assert_eq!(stored.size, contents.len() as u64, "{name}");
        let image = reader.image(&snapshot, "/shop", name).unwrap().unwrap();
        assert_eq!(image.root(), stored.root(), "{name}");
        assert_eq!(image.ids().len(), stored.pieces.len(), "{name}");
    }
    let [_, one, rows, small, long, zeros] = stored.as_slice() else { panic!() };
    assert_eq!(one.pieces.len(), 1);
    // Pieces of one byte are there several times.
    assert!(rows.bytes_added > rows.size - 200, "{}", rows.bytes_added);
    assert_eq!(rows.pieces[..3].iter().map(|piece| piece.length).collect::<Vec<_>>(), [2000, 1, 777]);
    assert_eq!(rows.pieces[0].id, Id::of(&contents[2].1[..2000]));
    assert!(small.pieces.len() > 2 * PART_CHUNKS);
    assert_eq!(
        long.pieces.iter().map(|piece| piece.length).collect::<Vec<_>>()[..3],
        [1 << 20, 1 << 20, 902_848]
    );
    assert!(zeros.bytes_added < 2000, "a piece of zeros and a rest: {}", zeros.bytes_added);
    let found = check(
        &repository,
        &CheckOptions { read_data: ReadData::All, ..CheckOptions::default() },
        &Unobserved,
    );
    assert_eq!(found.unwrap().findings, []);
}

#[test]
fn rows_that_were_put_in_cost_their_own_pieces_and_little_of_the_list() {
    let (backend, repository) = memory();
    let before = bytes(7, 6_000_000);
    store(&repository, &[("rows", before.clone(), &[500])]);
    let size = || backend.list(FileKind::Pack).unwrap().iter().map(|file| file.size).sum::<u64>();
    let first = size();
    let mut after = before[..3_000_000].to_vec();
    after.extend(bytes(8, 500));
    after.extend_from_slice(&before[3_000_000..]);
    let (snapshot, stored) = store(&repository, &[("rows", after.clone(), &[500])]);
    assert_eq!(stored[0].bytes_added, 500);
    let list = 12_000 * 67;
    assert!(size() - first < list / 3, "{} bytes are new", size() - first);
    assert!(forward(&load(&repository), &snapshot, "rows").unwrap() == after);
}

#[test]
fn stretches_in_the_middle_are_read_alone() {
    let (_, repository) = memory();
    let contents = bytes(9, 3_000_000);
    let (snapshot, _) = store(&repository, &[("rows", contents.clone(), &[3000])]);
    let reader = load(&repository);
    let image = Arc::new(reader.image(&snapshot, "/shop", "rows").unwrap().unwrap());
    let read = |chunks: std::ops::Range<usize>| {
        let mut forward = reader.forward(&image, chunks).unwrap();
        let mut found = Vec::new();
        while let Some(some) = forward.next().unwrap() {
            found.extend_from_slice(some);
        }
        found
    };
    assert!(read(10..900) == contents[30_000..2_700_000]);
    assert!(read(999..1000) == contents[2_997_000..]);
    assert!(read(5..5).is_empty());
    let mut unhashed = reader.forward_unhashed(&image, 999..1000).unwrap();
    assert!(unhashed.next().unwrap().unwrap() == &contents[2_997_000..]);
    assert!(unhashed.next().unwrap().is_none());
}

#[test]
fn damage_is_found_where_it_is_met_and_nothing_comes_after_it() {
    let (backend, repository) = memory();
    let contents = bytes(10, 3_000_000);
    let (snapshot, _) = store(&repository, &[("rows", contents.clone(), &[3000])]);
    let reader = load(&repository);
    let image = Arc::new(reader.image(&snapshot, "/shop", "rows").unwrap().unwrap());
    // In the middle of every data pack, so that some blob of each is hit.
    let packs = reader.index().read().packs().iter().map(|pack| pack.id).collect::<Vec<_>>();
    for pack in packs {
        backend.alter(FileKind::Pack, &pack, |bytes| {
            let middle = bytes.len() / 3;
            bytes[middle] ^= 1;
        });
    }
    for hashed in [true, false] {
        let chunks = 0..image.chunks();
        let forward =
            if hashed { reader.forward(&image, chunks) } else { reader.forward_unhashed(&image, chunks) };
        let mut forward = forward.unwrap();
        let mut found = Vec::new();
        let error = loop {
            match forward.next() {
                Ok(Some(some)) => found.extend_from_slice(some),
                Ok(None) => panic!("damage was not noticed"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Damaged { .. }), "{error}");
        assert!(contents.starts_with(&found));
        assert!(forward.next().unwrap().is_none());
    }
}

#[test]
fn error_of_the_storage_ends_all_streams_and_is_told_once() {
    let (backend, repository) = memory();
    let lock = repository.lock_shared(now()).unwrap();
    let writer = repository.writer(&lock, Index::new(), &small_packs(), Arc::new(Unobserved)).unwrap();
    backend.fail_after(1);
    let streams = writer.streams().unwrap();
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> =
            (0..3).map(|seed| scope.spawn(move || send(streams, &bytes(seed, 4_000_000), &[900]))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(results.iter().all(|result| matches!(result, Err(Error::Source(_)))), "{results:?}");
    let error = writer.check().unwrap_err();
    assert!(!matches!(error, Error::Source(_)), "{error}");
    backend.recover();
}
