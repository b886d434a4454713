//! Images of every shape, stored and read back.

use std::collections::HashSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;

use dbkeep_repo::backend::FileKind;
use dbkeep_repo::check::{CheckOptions, ReadData, check};
use dbkeep_repo::format::pack::BlobKind;
use dbkeep_repo::format::tree::Tree;
use dbkeep_repo::index::Index;
use dbkeep_repo::read::ImageSink;
use dbkeep_repo::write::{ImageOptions, KnownChunk, KnownChunks, PART_CHUNKS, StoredImage, WriterOptions};
use dbkeep_repo::{Error, Id, Observer, Repository, Unobserved};

use crate::scene::{
    CHUNK, Memory, Slice, backup, bytes, commit, image, load, memory, meta, now, open, options, restore,
    small_packs,
};

/// Stores an image in a session of its own, with what is known of the last one.
fn save(repository: &Repository, contents: &[u8], options: &ImageOptions<'_>) -> StoredImage {
    let lock = repository.lock_shared(now()).unwrap();
    let index = Index::load(repository, &Unobserved).unwrap();
    let mut writer = repository.writer(&lock, index, &small_packs(), Arc::new(Unobserved)).unwrap();
    let image = writer.save_image(&mut Slice(contents), options).unwrap();
    commit(&mut writer, &image).unwrap();
    image
}

#[test]
fn images_of_every_length_come_back_as_they_were() {
    let (_, repository) = memory();
    let chunk = CHUNK as usize;
    let part = chunk * PART_CHUNKS;
    let lengths =
        [0, 1, 511, chunk - 1, chunk, chunk + 1, 3 * chunk, part - 1, part, part + 1, 2 * part, 2 * part + 5];
    for (seed, length) in lengths.into_iter().enumerate() {
        let contents = bytes(seed as u64, length);
        let snapshot = backup(&repository, &contents).unwrap();
        assert!(restore(&repository, &snapshot).unwrap() == contents, "{length} bytes");
        let found = image(&load(&repository), &snapshot).unwrap();
        assert_eq!(found.size(), length as u64);
        assert_eq!(found.chunks(), length.div_ceil(chunk));
    }
}

#[test]
fn roots_and_hashes_are_those_of_the_contents() {
    let (_, repository) = memory();
    let contents = bytes(9, 100_000);
    let stored = save(&repository, &contents, &ImageOptions { sha256: true, ..options() });
    let mut ids = Vec::new();
    for chunk in contents.chunks(CHUNK as usize) {
        ids.extend_from_slice(Id::of(chunk).as_bytes());
    }
    assert_eq!(stored.root(), Id::of(&ids));
    assert_eq!(stored.sha256, Some(*Id::of(&contents).as_bytes()));
    assert_eq!((stored.size, stored.bytes_read, stored.bytes_added), (100_000, 100_000, 100_000));
    let snapshot = repository.snapshots().unwrap().remove(0);
    assert_eq!(image(&load(&repository), &snapshot).unwrap().root(), stored.root());
}

#[test]
fn compression_levels_and_chunk_sizes_change_nothing_of_what_comes_back() {
    let (_, repository) = memory();
    let contents = bytes(5, 700_001);
    for (compression, chunk_size) in [(-7, 1 << 10), (1, 8 << 10), (3, 64 << 10), (19, 1 << 20)] {
        let lock = repository.lock_shared(now()).unwrap();
        let index = Index::load(&repository, &Unobserved).unwrap();
        let with = WriterOptions::default().compression(compression);
        let mut writer = repository.writer(&lock, index, &with, Arc::new(Unobserved)).unwrap();
        let stored =
            writer.save_image(&mut Slice(&contents), &ImageOptions { chunk_size, ..options() }).unwrap();
        let snapshot = commit(&mut writer, &stored).unwrap();
        drop(writer);
        assert!(stored.bytes_stored < stored.bytes_added);
        assert!(restore(&repository, &snapshot).unwrap() == contents);
    }
    let lock = repository.lock_shared(now()).unwrap();
    for (compression, chunk_size) in [(20, CHUNK), (-8, CHUNK)] {
        let with = WriterOptions::default().compression(compression);
        let refused = repository.writer(&lock, Index::new(), &with, Arc::new(Unobserved));
        assert!(matches!(refused, Err(Error::Unsupported { .. })), "{compression} {chunk_size}");
    }
}

#[test]
fn equal_chunks_are_stored_once_whoever_meets_them_first() {
    let (backend, repository) = memory();
    // Eight different chunks, a thousand times, to eight workers that meet them at once.
    let eight = bytes(7, 8 * CHUNK as usize);
    let contents = eight.repeat(1000);
    let lock = repository.lock_shared(now()).unwrap();
    let with = WriterOptions::default().workers(8).pack_size(40_000);
    let mut writer = repository.writer(&lock, Index::new(), &with, Arc::new(Unobserved)).unwrap();
    let stored = writer.save_image(&mut Slice(&contents), &options()).unwrap();
    let snapshot = commit(&mut writer, &stored).unwrap();
    drop(writer);
    assert_eq!(stored.bytes_added, eight.len() as u64);
    let index = Index::load(&repository, &Unobserved).unwrap();
    let data = index.blobs().filter(|(kind, ..)| *kind == BlobKind::Data).count();
    assert_eq!(data, 8 + 1, "eight chunks and a manifest");
    assert!(restore(&repository, &snapshot).unwrap() == contents);

    let packs = backend.names(FileKind::Pack).len();
    let again = save(&repository, &contents, &options());
    assert_eq!((again.bytes_added, backend.names(FileKind::Pack).len()), (0, packs));
}

#[test]
fn known_chunks_save_work_and_never_change_the_result() {
    let (_, repository) = memory();
    let before = bytes(11, 50 * CHUNK as usize);
    let first = save(&repository, &before, &options());
    let mut after = before.clone();
    after[20 * CHUNK as usize] ^= 1;
    after.extend_from_slice(b"appended");
    let fresh = save(&memory().1, &after, &options());

    let mut lies = first.known();
    lies.chunks.rotate_left(1);
    let mut gone = first.known();
    // Chunks that the repository does not have: a list that belongs to another one.
    for chunk in &mut gone.chunks {
        *chunk = KnownChunk { id: Id::of(chunk.id.as_bytes()), ..*chunk };
    }
    let other_size = KnownChunks { chunk_size: 2 * CHUNK, ..first.known() };
    for known in [first.known(), lies, gone, other_size] {
        let stored = save(&repository, &after, &ImageOptions { known: Some(&known), ..options() });
        assert_eq!(stored.root(), fresh.root());
        let newest = repository.snapshots().unwrap();
        assert!(newest.iter().any(|snapshot| restore(&repository, snapshot).unwrap() == after));
    }
}

#[test]
fn blobs_in_packs_that_a_prune_has_marked_are_stored_again() {
    let (_, repository) = memory();
    let contents = bytes(12, 30 * CHUNK as usize);
    let first = save(&repository, &contents, &options());
    let mut index = Index::new();
    let stored = Index::load(&repository, &Unobserved).unwrap();
    for id in repository.list(FileKind::Index).unwrap() {
        let json = repository.load_unpacked(FileKind::Index, &id.id).unwrap();
        let mut file = dbkeep_repo::format::index::IndexFile::decode(&json).unwrap();
        file.packs_to_delete = std::mem::take(&mut file.packs);
        index.add_file(&file).unwrap();
    }
    assert_eq!(index.len(), stored.len());

    let lock = repository.lock_shared(now()).unwrap();
    let mut writer = repository.writer(&lock, index, &small_packs(), Arc::new(Unobserved)).unwrap();
    let known = first.known();
    let with = ImageOptions { known: Some(&known), ..options() };
    let again = writer.save_image(&mut Slice(&contents), &with).unwrap();
    assert_eq!(again.bytes_added, contents.len() as u64);
    assert_eq!(again.root(), first.root());
}

#[test]
fn packs_keep_their_size_and_their_kind() {
    let (backend, repository) = memory();
    let contents = bytes(13, 400 * CHUNK as usize);
    let snapshot = backup(&repository, &contents).unwrap();
    let sizes: Vec<_> = repository.list(FileKind::Pack).unwrap().into_iter().map(|file| file.size).collect();
    assert!(sizes.len() > 10);
    assert!(sizes.iter().all(|size| *size < 40_000 + 2_000), "{sizes:?}");
    assert_eq!(backend.names(FileKind::Index).len(), 1);
    let index = Index::load(&repository, &Unobserved).unwrap();
    let kinds: HashSet<_> =
        index.blobs().map(|(kind, _, location)| (location.pack, kind == BlobKind::Tree)).collect();
    assert_eq!(kinds.len(), sizes.len(), "no pack holds both kinds");
    assert!(restore(&repository, &snapshot).unwrap() == contents);
}

#[test]
fn no_pack_holds_more_than_ten_thousand_blobs() {
    let (_, repository) = memory();
    let lock = repository.lock_shared(now()).unwrap();
    let with = WriterOptions::default();
    let mut writer = repository.writer(&lock, Index::new(), &with, Arc::new(Unobserved)).unwrap();
    let contents: Vec<u8> = (0..12_000u32).flat_map(|number| number.to_le_bytes().repeat(256)).collect();
    let stored =
        writer.save_image(&mut Slice(&contents), &ImageOptions { chunk_size: 1024, ..options() }).unwrap();
    let snapshot = commit(&mut writer, &stored).unwrap();
    drop(writer);
    let index = Index::load(&repository, &Unobserved).unwrap();
    let mut counts = std::collections::HashMap::new();
    for (_, _, location) in index.blobs() {
        *counts.entry(location.pack).or_insert(0) += 1;
    }
    assert_eq!(counts.values().max(), Some(&10_000));
    assert!(restore(&repository, &snapshot).unwrap() == contents);
    assert_eq!(repository.list(FileKind::Index).unwrap().len(), 1);
}

#[test]
fn small_change_of_a_large_image_costs_a_small_tree() {
    let (_, repository) = memory();
    let mut contents = bytes(14, 20 * PART_CHUNKS * CHUNK as usize);
    save(&repository, &contents, &options());
    let trees = |index: &Index| {
        let trees = index.blobs().filter(|(kind, ..)| *kind == BlobKind::Tree);
        trees.map(|(_, _, location)| u64::from(location.length)).sum::<u64>()
    };
    let before = trees(&Index::load(&repository, &Unobserved).unwrap());
    contents[5 * PART_CHUNKS * CHUNK as usize] ^= 1;
    let changed = save(&repository, &contents, &options());
    let after = trees(&Index::load(&repository, &Unobserved).unwrap());
    assert_eq!(changed.bytes_added, u64::from(CHUNK));
    // One part of twenty, and the list of parts.
    assert!(after - before < before / 15, "{} of {before} bytes of trees were written anew", after - before);
}

#[test]
fn chunks_replaced_and_cut_off_after_the_first_pass_are_what_is_stored() {
    let (_, repository) = memory();
    let chunk = CHUNK as usize;
    let before = bytes(15, 10 * chunk + 100);
    let lock = repository.lock_shared(now()).unwrap();
    let mut writer = repository.writer(&lock, Index::new(), &small_packs(), Arc::new(Unobserved)).unwrap();
    let with = ImageOptions { sha256: true, ..options() };

    // Changed in the middle, grown at the end.
    let mut image = writer.save_image(&mut Slice(&before), &with).unwrap();
    let mut grown = before.clone();
    grown[3 * chunk..4 * chunk].fill(7);
    grown.extend_from_slice(&bytes(16, 2 * chunk));
    for (index, bytes) in grown.chunks(chunk).enumerate() {
        writer.replace_chunk(&mut image, index as u64, bytes).unwrap();
    }
    assert_eq!((image.size, image.sha256), (grown.len() as u64, None));
    let first = commit(&mut writer, &image).unwrap();

    // Shrunk into the middle of a chunk, then to a whole one.
    let shrunk = &grown[..5 * chunk + 9];
    writer.replace_chunk(&mut image, 5, &shrunk[5 * chunk..]).unwrap();
    assert_eq!(image.size, shrunk.len() as u64);
    let second = commit(&mut writer, &image).unwrap();
    assert!(writer.truncate(&mut image, 3 * u64::from(CHUNK) + 1).is_err());
    writer.truncate(&mut image, 3 * u64::from(CHUNK)).unwrap();
    let third = commit(&mut writer, &image).unwrap();

    // Nothing changed: nothing happens.
    let mut same = writer.save_image(&mut Slice(&before), &with).unwrap();
    for (index, bytes) in before.chunks(chunk).enumerate() {
        writer.replace_chunk(&mut same, index as u64, bytes).unwrap();
    }
    assert_eq!(same.sha256, Some(*Id::of(&before).as_bytes()));
    assert!(writer.replace_chunk(&mut same, 12, b"far behind the end").is_err());
    assert!(writer.replace_chunk(&mut same, 11, b"behind a short chunk").is_err());
    drop(writer);

    assert!(restore(&repository, &first).unwrap() == grown);
    assert!(restore(&repository, &second).unwrap() == shrunk);
    assert!(restore(&repository, &third).unwrap() == grown[..3 * chunk]);
}

#[test]
fn zeros_are_stored_once_and_left_out_where_the_target_is_zero() {
    struct Counting(Memory, AtomicU64);
    impl ImageSink for Counting {
        fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
            self.1.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            self.0.write_at(offset, bytes)
        }
        fn starts_zeroed(&self) -> bool {
            true
        }
    }
    let (_, repository) = memory();
    let chunk = CHUNK as usize;
    let mut contents = vec![0; 3000 * chunk + 77];
    contents[1500 * chunk..1501 * chunk].copy_from_slice(&bytes(17, chunk));
    let stored = save(&repository, &contents, &options());
    assert_eq!(stored.bytes_added, 2 * u64::from(CHUNK) + 77);
    let snapshot = repository.snapshots().unwrap().remove(0);
    let reader = load(&repository);
    let image = image(&reader, &snapshot).unwrap();
    let sink = Counting(Memory::zeroed(image.size()), AtomicU64::new(0));
    reader.restore(&image, &sink, &Unobserved).unwrap();
    assert_eq!(sink.1.into_inner(), u64::from(CHUNK));
    assert!(sink.0.into_bytes() == contents);
    // Where the target is not zero, they are written.
    assert!(restore(&repository, &snapshot).unwrap() == contents);
}

#[test]
fn many_databases_share_packs_in_one_session() {
    let (backend, repository) = memory();
    let lock = repository.lock_shared(now()).unwrap();
    let with = WriterOptions::default();
    let mut writer = repository.writer(&lock, Index::new(), &with, Arc::new(Unobserved)).unwrap();
    let mut images = Vec::new();
    for seed in 0..100 {
        images.push(writer.save_image(&mut Slice(&bytes(seed, 20_000)), &options()).unwrap());
    }
    // The chunks are readable before anything is committed.
    writer.flush().unwrap();
    let shared = writer.shared_index();
    let blob = repository.reader(&shared).blob(BlobKind::Data, &images[42].chunks[1].id).unwrap();
    assert!(blob == bytes(42, 20_000)[CHUNK as usize..2 * CHUNK as usize]);
    assert_eq!(backend.names(FileKind::Pack).len(), 1);
    let snapshot = commit(&mut writer, &images[99]).unwrap();
    drop(writer);
    assert!(restore(&repository, &snapshot).unwrap() == bytes(99, 20_000));
}

#[test]
fn source_that_fails_does_not_end_the_session() {
    let (_, repository) = memory();
    let lock = repository.lock_shared(now()).unwrap();
    let mut writer = repository.writer(&lock, Index::new(), &small_packs(), Arc::new(Unobserved)).unwrap();
    let mut left = 3_000_000;
    let mut failing = |buffer: &mut [u8]| {
        if left == 0 {
            return Err("the disk is gone".into());
        }
        let count = buffer.len().min(left);
        left -= count;
        Ok(count)
    };
    let failed = writer.save_image(&mut failing, &options());
    assert!(matches!(failed, Err(Error::Source(error)) if error.to_string() == "the disk is gone"));
    let contents = bytes(18, 100_000);
    let stored = writer.save_image(&mut Slice(&contents), &options()).unwrap();
    let snapshot = commit(&mut writer, &stored).unwrap();
    drop(writer);
    assert!(restore(&repository, &snapshot).unwrap() == contents);
    let everything = CheckOptions { read_data: ReadData::All, ..CheckOptions::default() };
    assert!(check(&repository, &everything, &Unobserved).unwrap().ok);
}

#[test]
fn cancelled_backup_stops_and_leaves_no_snapshot() {
    struct Stop(AtomicBool);
    impl Observer for Stop {
        fn cancelled(&self) -> bool {
            self.0.load(Ordering::Relaxed)
        }
        fn step(&self, name: &'static str) {
            if name == "backup.pack-stored" {
                self.0.store(true, Ordering::Relaxed);
            }
        }
    }
    let (backend, repository) = memory();
    let watch = Arc::new(Stop(AtomicBool::new(false)));
    let contents = bytes(19, 20_000_000);
    let stopped = crate::scene::backup_watched(&repository, &contents, watch);
    assert!(matches!(stopped, Err(Error::Cancelled)));
    assert!(backend.names(FileKind::Snapshot).is_empty());
    let again = open(Arc::new(backend.after_crash()));
    assert!(check(&again, &CheckOptions::default(), &Unobserved).unwrap().ok);
}

#[test]
fn any_part_of_an_image_can_be_read_and_each_chunk_is_shown_once() {
    let (_, repository) = memory();
    let contents = bytes(20, 600 * CHUNK as usize + 123);
    let snapshot = backup(&repository, &contents).unwrap();
    let reader = load(&repository);
    let image = image(&reader, &snapshot).unwrap();
    for cache in [0, 10 * CHUNK as usize, 1 << 30] {
        let (shown, seen) = mpsc::channel();
        let show = move |offset: u64, bytes: &[u8]| shown.send((offset, bytes.to_vec())).unwrap();
        let random = reader.random(&image, cache, Some(Box::new(show))).unwrap();
        assert_eq!(random.size(), contents.len() as u64);
        let mut page = vec![0; 512];
        for at in (0..contents.len() - 512).step_by(1024).take(300).chain([2_000_000, 77, 1_234_567, 0]) {
            random.read_at(at as u64, &mut page).unwrap();
            assert!(page == contents[at..at + 512], "{at}");
        }
        let mut stretch = vec![0; 50_000];
        random.read_at(1_000_001, &mut stretch).unwrap();
        assert!(stretch == contents[1_000_001..1_050_001]);
        assert!(random.read_at(contents.len() as u64 - 511, &mut page).is_err());
        random.read_rest(&Unobserved).unwrap();
        assert_eq!(random.read_rest(&Unobserved).unwrap(), 0);
        drop(random);

        let mut whole = vec![0; contents.len()];
        let mut count = 0;
        for (offset, bytes) in seen {
            count += bytes.len();
            whole[usize::try_from(offset).unwrap()..][..bytes.len()].copy_from_slice(&bytes);
        }
        assert_eq!(count, contents.len());
        assert!(whole == contents);
    }
}

#[test]
fn panic_of_a_thread_that_reads_leaves_nobody_waiting() {
    let (_, repository) = memory();
    let contents = bytes(23, 400 * CHUNK as usize);
    let snapshot = backup(&repository, &contents).unwrap();
    let reader = load(&repository);
    let image = image(&reader, &snapshot).unwrap();
    let calls = AtomicUsize::new(0);
    let show = move |_: u64, _: &[u8]| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        assert!(call == 0 || call > 60, "call {call}");
    };
    let random = reader.random(&image, 1 << 20, Some(Box::new(show))).unwrap();
    let mut page = vec![0; 512];
    for at in (0..contents.len()).step_by(CHUNK as usize) {
        // Here or on a thread of the reader's own, which ends by it.
        let read = catch_unwind(AssertUnwindSafe(|| random.read_at(at as u64, &mut page).unwrap()));
        assert!(read.is_err() || page == contents[at..at + 512], "{at}");
    }
    // Not everything was shown, and nobody may take it for that.
    assert!(matches!(random.read_rest(&Unobserved), Err(Error::Source(_))));
    drop(random);
}

#[test]
fn chunk_that_is_opened_again_must_be_the_one_whose_hash_was_compared() {
    let (backend, repository) = memory();
    // Stored as it is: no chunk of it becomes shorter.
    let noise = (0..10 * CHUNK / 8).flat_map(|number: u32| Id::of(&number.to_le_bytes()).as_bytes().to_vec());
    let contents: Vec<u8> = noise.collect();
    let snapshot = backup(&repository, &contents).unwrap();
    let reader = load(&repository);
    let image = image(&reader, &snapshot).unwrap();
    // Room for one chunk: each is opened anew.
    let random = reader.random(&image, 0, None).unwrap();
    let place = |chunk: usize| reader.index().read().get(BlobKind::Data, &image.ids()[chunk]).unwrap();
    let same = |chunk: &usize| {
        let (one, other) = (place(0), place(*chunk));
        one.pack == other.pack
            && one.length == other.length
            && one.uncompressed_length == other.uncompressed_length
    };
    let twin = (1..40).find(same).unwrap();
    let mut page = vec![0; 512];
    let read = |chunk: usize, page: &mut [u8]| random.read_at(image.span(chunk).0, page);
    for chunk in [0, twin, 0, twin] {
        read(chunk, &mut page).unwrap();
        assert!(page == contents[usize::try_from(image.span(chunk).0).unwrap()..][..512]);
    }
    // Both are sealed with our key, and as long as the index says; only the contents tell them apart.
    backend.alter(FileKind::Pack, &place(0).pack, |pack| {
        let (one, other) = (place(0), place(twin));
        for at in 0..one.length as usize {
            pack.swap(one.offset as usize + at, other.offset as usize + at);
        }
    });
    assert!(matches!(read(0, &mut page), Err(Error::Damaged { .. })));
}

#[test]
fn damage_among_announced_chunks_is_told_to_who_reads_it_and_only_there() {
    let (backend, repository) = memory();
    let contents = bytes(25, 100 * CHUNK as usize);
    let snapshot = backup(&repository, &contents).unwrap();
    let reader = load(&repository);
    let image = image(&reader, &snapshot).unwrap();
    let damaged = 41;
    let place = reader.index().read().get(BlobKind::Data, &image.ids()[damaged]).unwrap();
    backend.alter(FileKind::Pack, &place.pack, |pack| pack[place.offset as usize + 40] ^= 1);
    let seen = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&seen);
    let count = move |_: u64, bytes: &[u8]| {
        counted.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    };
    let random = reader.random(&image, 1 << 30, Some(Box::new(count))).unwrap();
    // From the last to the first, as the check of a tree goes.
    let offsets: Vec<u64> = (0..image.chunks()).rev().map(|chunk| image.span(chunk).0).collect();
    assert!(random.announce(&offsets) > 0);
    let mut page = vec![0; 512];
    for (chunk, offset) in (0..image.chunks()).rev().zip(offsets) {
        let read = random.read_announced(offset, &mut page);
        if chunk == damaged {
            assert!(matches!(read, Err(Error::Damaged { .. })), "{read:?}");
        } else {
            read.unwrap();
            assert!(page == contents[usize::try_from(offset).unwrap()..][..512], "{chunk}");
        }
    }
    assert!(random.read_if_cached(0, &mut page) && page == contents[..512]);
    assert!(!random.read_if_cached(image.span(damaged).0, &mut page));
    assert!(matches!(random.read_rest(&Unobserved), Err(Error::Damaged { .. })));
    assert_eq!(seen.load(Ordering::Relaxed), (contents.len() - image.span(damaged).1 as usize) as u64);
}

#[test]
fn files_of_a_snapshot_are_found_by_path() {
    let (_, repository) = memory();
    let snapshot = backup(&repository, b"contents").unwrap();
    let reader = load(&repository);
    let manifest = reader.find(&snapshot, "/shop/manifest.json").unwrap().unwrap();
    assert_eq!(reader.file(&manifest, 100).unwrap(), b"{}");
    assert!(matches!(reader.file(&manifest, 1), Err(Error::Unsupported { .. })));
    for absent in ["/shop/other", "/other", "/shop/manifest.json/deeper", "/"] {
        assert_eq!(reader.find(&snapshot, absent).unwrap(), None, "{absent}");
    }
    assert_eq!(reader.find(&snapshot, "shop").unwrap().unwrap().mode & 0o777, meta().mode & 0o777 | 0o110);
}

#[test]
fn target_that_fails_and_a_wish_to_stop_end_a_restore() {
    struct Full;
    impl ImageSink for Full {
        fn write_at(&self, offset: u64, _: &[u8]) -> io::Result<()> {
            if offset > 1_000_000 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
    }
    struct Stop;
    impl Observer for Stop {
        fn cancelled(&self) -> bool {
            true
        }
    }
    let (_, repository) = memory();
    let snapshot = backup(&repository, &bytes(21, 3_000_000)).unwrap();
    let reader = load(&repository);
    let image = image(&reader, &snapshot).unwrap();
    let Err(Error::Source(source)) = reader.restore(&image, &Full, &Unobserved) else {
        panic!("it must fail")
    };
    let kind = source.downcast_ref::<io::Error>().map(io::Error::kind);
    assert_eq!(kind, Some(io::ErrorKind::StorageFull));
    assert!(matches!(reader.restore(&image, &Memory::default(), &Stop), Err(Error::Cancelled)));
    assert!(matches!(check(&repository, &CheckOptions::default(), &Stop), Err(Error::Cancelled)));
}

#[test]
fn image_with_a_part_missing_or_renamed_is_refused() {
    let (_, repository) = memory();
    let contents = bytes(22, 3 * PART_CHUNKS * CHUNK as usize);
    let lock = repository.lock_shared(now()).unwrap();
    let mut writer = repository.writer(&lock, Index::new(), &small_packs(), Arc::new(Unobserved)).unwrap();
    let stored = writer.save_image(&mut Slice(&contents), &options()).unwrap();
    let node = writer.save_image_nodes(&stored, "shop.db", &meta()).unwrap().remove(0);
    writer.flush().unwrap();
    let reader = repository.reader(writer.shared_index());
    assert_eq!(reader.image_of(&node).unwrap().size(), contents.len() as u64);
    let parts = reader.tree(&node.subtree.unwrap()).unwrap();
    let mut missing = parts.clone();
    missing.nodes.remove(1);
    let mut renamed = parts.clone();
    renamed.nodes[2].name = "00003".to_owned();
    let mut emptied = parts.clone();
    emptied.nodes[0].subtree = Some(writer.save_tree(&Tree { nodes: Vec::new() }).unwrap());
    for wrong in [missing, renamed, emptied] {
        let tree = writer.save_tree(&wrong).unwrap();
        writer.flush().unwrap();
        let refused = reader.image_of(&meta().directory("shop.db.parts", tree));
        assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
    }
}
