//! What every backend must do; each implementation runs this suite in its tests.

use std::sync::Arc;

use super::{Backend, FileKind};
use crate::Id;
use crate::error::Error;

/// Runs the suite. `make` returns a backend at a place of its own where nothing is yet.
///
/// Panics where the backend does not do what [`Backend`] demands.
pub fn run(make: &dyn Fn() -> Arc<dyn Backend>) {
    nothing_is_listed_where_no_repository_is(&*make());
    create_may_be_repeated(&*make());
    objects_are_stored_read_listed_and_removed(&*make());
    ranges_are_read_exactly(&*make());
    same_name_is_written_once(&*make());
    config_is_never_replaced(&*make());
    place_with_objects_is_not_empty(make);
    lock_is_abandoned_when_its_holder_is_gone(&*make());
    many_threads_write_at_once(&make());
}

/// The kinds whose objects have names.
const NAMED: [FileKind; 6] =
    [FileKind::Key, FileKind::Lock, FileKind::Snapshot, FileKind::Index, FileKind::Pack, FileKind::Fact];

fn nothing_is_listed_where_no_repository_is(backend: &dyn Backend) {
    assert!(expect(backend.is_empty()));
    for kind in NAMED {
        let listing = backend.list(kind);
        assert!(matches!(listing, Err(Error::Listing { .. })), "{kind:?}: {listing:?}");
        let names = backend.names(kind);
        assert!(matches!(names, Err(Error::Listing { .. })), "{kind:?}: {names:?}");
    }
    let read = backend.read(FileKind::Config, &Id::NULL);
    assert!(matches!(read, Err(Error::Missing { kind: FileKind::Config, .. })), "{read:?}");
}

fn create_may_be_repeated(backend: &dyn Backend) {
    expect(backend.create());
    assert!(expect(backend.is_empty()), "an interrupted create leaves an empty place");
    expect(backend.create());
    expect(backend.write(FileKind::Config, &Id::NULL, b"config"));
    for kind in NAMED {
        assert_eq!(expect(backend.list(kind)), [], "{kind:?}");
    }
}

fn objects_are_stored_read_listed_and_removed(backend: &dyn Backend) {
    expect(backend.create());
    expect(backend.write(FileKind::Config, &Id::NULL, b"config"));
    assert_eq!(expect(backend.read(FileKind::Config, &Id::NULL)), b"config");
    assert_eq!(expect(backend.list(FileKind::Config)).len(), 1);
    for kind in NAMED {
        let contents: Vec<Vec<u8>> = vec![vec![], vec![1], vec![2; 100_000]];
        for contents in &contents {
            expect(backend.write(kind, &Id::of(contents), contents));
        }
        for contents in &contents {
            assert_eq!(&expect(backend.read(kind, &Id::of(contents))), contents);
        }
        let mut sizes: Vec<u64> = expect(backend.list(kind)).iter().map(|info| info.size).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [0, 1, 100_000], "{kind:?}");
        let mut names = expect(backend.names(kind));
        names.sort_unstable();
        let mut stored: Vec<Id> = contents.iter().map(|contents| Id::of(contents)).collect();
        stored.sort_unstable();
        assert_eq!(names, stored, "{kind:?}");

        let gone = Id::of(&contents[1]);
        expect(backend.remove(kind, &gone));
        expect(backend.remove(kind, &gone));
        let read = backend.read(kind, &gone);
        assert!(matches!(read, Err(Error::Missing { id, .. }) if id == gone), "{read:?}");
        assert!(matches!(backend.read_range(kind, &gone, 0, &mut [0]), Err(Error::Missing { .. })));
        assert_eq!(expect(backend.list(kind)).len(), 2);
        assert_eq!(expect(backend.names(kind)).len(), 2);

        // Those that are gone already are no error.
        let all = [&contents[0], &contents[1], &contents[2]].map(|contents| Id::of(contents));
        let mut told = Vec::new();
        let stopped = backend.remove_all(kind, &all, &mut |id| {
            told.push(*id);
            Err(Error::Cancelled)
        });
        assert!(matches!(stopped, Err(Error::Cancelled)), "{stopped:?}");
        assert_eq!((told.as_slice(), expect(backend.names(kind)).len()), (&all[..1], 1));
        told.clear();
        let removed = backend.remove_all(kind, &all, &mut |id| {
            told.push(*id);
            Ok(())
        });
        expect(removed);
        expect(backend.make_durable(kind));
        assert_eq!(told, all);
        assert_eq!(expect(backend.names(kind)), []);
    }
}

fn ranges_are_read_exactly(backend: &dyn Backend) {
    expect(backend.create());
    let contents: Vec<u8> = (0..=255).collect();
    let id = Id::of(&contents);
    expect(backend.write(FileKind::Pack, &id, &contents));
    for (offset, length) in [(0usize, 256usize), (0, 0), (256, 0), (255, 1), (100, 50)] {
        let mut buffer = vec![0; length];
        expect(backend.read_range(FileKind::Pack, &id, offset as u64, &mut buffer));
        assert_eq!(buffer, contents[offset..offset + length]);
    }
    for (offset, length) in [(256, 1), (0, 257), (200, 57), (u64::MAX, 1)] {
        let read = backend.read_range(FileKind::Pack, &id, offset, &mut vec![0; length]);
        assert!(read.is_err(), "{offset}+{length}");
        if offset < 1 << 60 {
            assert!(matches!(read, Err(Error::Short { .. })), "{read:?}");
        }
    }
}

fn same_name_is_written_once(backend: &dyn Backend) {
    expect(backend.create());
    let id = Id::of(b"contents");
    expect(backend.write(FileKind::Pack, &id, b"contents"));
    expect(backend.write(FileKind::Pack, &id, b"contents"));
    let other = backend.write(FileKind::Pack, &id, b"something else");
    assert!(matches!(other, Err(Error::Taken { .. })), "{other:?}");
    assert_eq!(expect(backend.read(FileKind::Pack, &id)), b"contents");
}

fn config_is_never_replaced(backend: &dyn Backend) {
    expect(backend.create());
    expect(backend.write(FileKind::Config, &Id::NULL, b"one"));
    expect(backend.write(FileKind::Config, &Id::NULL, b"one"));
    let other = backend.write(FileKind::Config, &Id::NULL, b"two");
    assert!(matches!(other, Err(Error::Taken { .. })), "{other:?}");
    assert_eq!(expect(backend.read(FileKind::Config, &Id::NULL)), b"one");
}

fn place_with_objects_is_not_empty(make: &dyn Fn() -> Arc<dyn Backend>) {
    for kind in FileKind::ALL {
        let backend = make();
        expect(backend.create());
        expect(backend.write(kind, &Id::of(b"x"), b"x"));
        // A key alone is what an interrupted init leaves.
        assert_eq!(expect(backend.is_empty()), kind == FileKind::Key, "{kind:?}");
    }
}

fn lock_is_abandoned_when_its_holder_is_gone(backend: &dyn Backend) {
    expect(backend.create());
    let id = Id::of(b"lock");
    let holder = expect(backend.write_held_lock(&id, b"lock"));
    assert_eq!(expect(backend.read(FileKind::Lock, &id)), b"lock");
    assert_ne!(expect(backend.is_abandoned(&id)), Some(true));
    drop(holder);
    assert_ne!(expect(backend.is_abandoned(&id)), Some(false));
    assert_eq!(expect(backend.list(FileKind::Lock)).len(), 1, "dropping the holder removes nothing");
}

fn many_threads_write_at_once(backend: &Arc<dyn Backend>) {
    expect(backend.create());
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let backend = Arc::clone(backend);
            scope.spawn(move || {
                for number in 0..16u8 {
                    // Half of the objects are written by two threads at once.
                    let contents = [thread / (1 + number % 2), number].repeat(500);
                    expect(backend.write(FileKind::Pack, &Id::of(&contents), &contents));
                }
            });
        }
    });
    let listed = expect(backend.list(FileKind::Pack));
    assert_eq!(listed.len(), 8 * 8 + 4 * 8);
    for info in listed {
        assert_eq!(Id::of(&expect(backend.read(FileKind::Pack, &info.id))), info.id);
    }
    assert_eq!(expect(backend.clean_temporary()), 0);
}

/// Returns the value of what must not fail.
#[expect(clippy::panic, reason = "a panic is how a test fails")]
fn expect<T>(result: crate::Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("backend failed: {error:?}"))
}
