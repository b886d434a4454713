//! Where a database stood when it was captured, and whether it still stands there.
//!
//! Pure: two positions in, a decision out. When in doubt the answer is "changed", which costs
//! a full read. The change counter in the header is no test: a transaction that spilled and
//! was rolled back, and every checkpoint, change bytes without moving it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::capture::Layout;
use crate::header::HEADER_SIZE;
use crate::identify;
use crate::wal::Mark;

/// How long the kernel's own clock stands still at most, by which it stamps files that were written: 10 ms, with room.
const TICK: Duration = Duration::from_millis(50);

/// The same where a file system keeps no parts of seconds: FAT knows every other second.
const LONG_TICK: Duration = Duration::from_millis(2050);

/// What the system says about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// The number of the device.
    pub device: u64,
    /// The number of the inode on it.
    pub inode: u64,
    /// The size in bytes.
    pub size: u64,
    /// When the contents changed last, in nanoseconds since 1970.
    pub modified: i64,
    /// When anything about the file changed last, in nanoseconds since 1970.
    pub changed: i64,
}

impl FileState {
    /// Asks the system about `path`, without opening it.
    pub fn of(path: &Path) -> Result<Self> {
        let metadata = identify::metadata(path)?;
        let nanoseconds =
            |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Ok(FileState {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
            changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        })
    }

    /// Returns how long a later write could still carry the same time as the last one.
    ///
    /// Until then the same times prove nothing: another write may follow within the same tick of the clock.
    /// The clock may stand still meanwhile, so whoever has waited asks again.
    pub fn unsettled(&self) -> Duration {
        self.unsettled_at(clock_of_files())
    }

    /// The same at a time in nanoseconds since 1970.
    fn unsettled_at(&self, now: i64) -> Duration {
        let last = self.modified.max(self.changed);
        // Whole seconds: most likely the file system keeps no parts of them.
        let tick = if last % 1_000_000_000 == 0 { LONG_TICK } else { TICK };
        let rest = last.saturating_add(nanoseconds(tick)).saturating_sub(now);
        Duration::from_nanos(u64::try_from(rest).unwrap_or(0)).min(tick)
    }
}

/// A place in a write-ahead log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalPosition {
    /// The generation of the log.
    pub salt: [u32; 2],
    /// The number of frames that belong to the image.
    pub frame: u32,
    /// The chain of checksums after the last of them.
    pub checksum: [u32; 2],
}

impl From<Mark> for WalPosition {
    fn from(mark: Mark) -> Self {
        WalPosition { salt: mark.salt, frame: mark.frame, checksum: mark.checksum }
    }
}

/// The state of a database at the moment of a capture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Bytes in a page.
    pub page_size: u32,
    /// Pages in the database.
    pub page_count: u32,
    /// What lay in the log; `None` when the main file alone was the database.
    pub wal: Option<WalPosition>,
    /// The main file.
    pub file: FileState,
    /// The bytes 24 to 39 and 92 to 99 of the main file: counters that SQLite itself relies on.
    pub counters: Vec<u8>,
    /// The run of the system: after a crash times may have gone back.
    pub boot: String,
    /// Whether the file system is on this machine.
    pub local: bool,
    /// The time of the capture in nanoseconds since 1970, not later than the look at the file.
    pub taken: i64,
}

impl Position {
    /// Puts together a position from what was seen while the database was locked.
    pub(crate) fn new(
        layout: Layout,
        wal: Option<Mark>,
        file: FileState,
        main_header: &[u8; HEADER_SIZE],
        scene: &Scene,
    ) -> Self {
        Position {
            page_size: layout.page_size,
            page_count: layout.page_count,
            wal: wal.map(WalPosition::from),
            file,
            counters: [&main_header[24..40], &main_header[92..100]].concat(),
            boot: scene.boot.clone(),
            local: scene.local,
            taken: scene.taken,
        }
    }

    /// Says whether the image of this position is surely the same, byte for byte, as that of
    /// `earlier`, a position of the same database from another time.
    pub fn is_unchanged_since(&self, earlier: &Position) -> bool {
        self.is_where(earlier) && (self.wal.is_some() || !earlier.is_racy())
    }

    /// Says whether it is known in which run of the system it was taken. Otherwise it is never the same as a later one.
    pub fn has_boot(&self) -> bool {
        !self.boot.is_empty()
    }

    /// Says whether nothing was committed since `earlier`, a position of the same database that
    /// was taken when its file had settled ([`FileState::unsettled`]).
    pub fn is_where(&self, earlier: &Position) -> bool {
        let same_place = self.file.device == earlier.file.device
            && self.file.inode == earlier.file.inode
            && self.page_size == earlier.page_size
            && self.page_count == earlier.page_count
            && self.local
            && earlier.local
            && self.has_boot()
            && self.boot == earlier.boot;
        same_place
            && match (&self.wal, &earlier.wal) {
                // The same frames over a main file that only checkpoints may have changed,
                // and those move bytes, not contents.
                (Some(now), Some(then)) => now == then,
                (None, None) => self.file == earlier.file && self.counters == earlier.counters,
                _ => false,
            }
    }

    /// Says whether the file was written so shortly before the capture that a later write
    /// could carry the same time.
    fn is_racy(&self) -> bool {
        !self.file.unsettled_at(self.taken).is_zero()
    }
}

/// What is the same for all databases of one run, and has to be known for a position.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    boot: String,
    local: bool,
    taken: i64,
}

impl Scene {
    pub(crate) fn new(local: bool) -> Self {
        Scene { boot: boot_id(), local, taken: clock_of_files() }
    }
}

/// Returns the time by which the kernel stamps files, in nanoseconds since 1970. It may lag behind what programs are told.
#[cfg(target_os = "linux")]
fn clock_of_files() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec)
}

/// Returns the time by which files are stamped, in nanoseconds since 1970.
#[cfg(not(target_os = "linux"))]
fn clock_of_files() -> i64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, nanoseconds)
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

/// Returns what names this run of the system; empty where the system does not tell.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_string())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    fn position() -> Position {
        Position {
            page_size: 4096,
            page_count: 7,
            wal: None,
            file: FileState {
                device: 1,
                inode: 2,
                size: 7 * 4096,
                modified: 100 * SECOND,
                changed: 100 * SECOND,
            },
            counters: vec![1; 24],
            boot: "a".into(),
            local: true,
            taken: 110 * SECOND,
        }
    }

    fn changed(change: impl Fn(&mut Position)) -> bool {
        let mut later = Position { taken: 500 * SECOND, ..position() };
        change(&mut later);
        !later.is_unchanged_since(&position())
    }

    #[test]
    fn same_file_with_the_same_times_is_unchanged() {
        assert!(!changed(|_| {}));
    }

    #[test]
    fn any_difference_of_the_file_is_a_change() {
        assert!(changed(|later| later.file.inode = 3));
        assert!(changed(|later| later.file.device = 3));
        assert!(changed(|later| later.file.size += 1));
        assert!(changed(|later| later.file.modified += 1));
        assert!(changed(|later| later.file.changed += 1));
        assert!(changed(|later| later.counters[3] = 9));
        assert!(changed(|later| later.page_count = 8));
        assert!(changed(|later| later.boot = "b".into()));
        assert!(changed(|later| later.local = false));
    }

    #[test]
    fn file_written_just_before_the_capture_proves_nothing() {
        let later = Position { taken: 500 * SECOND, ..position() };
        for taken in [100 * SECOND, 102 * SECOND] {
            assert!(!later.is_unchanged_since(&Position { taken, ..position() }));
        }
        let settled = 102 * SECOND + nanoseconds(TICK);
        assert!(later.is_unchanged_since(&Position { taken: settled, ..position() }));
        let mut touched = position();
        touched.file.changed = 109 * SECOND;
        assert!(!touched.is_unchanged_since(&touched), "the inode changed a second before the capture");
    }

    #[test]
    fn parts_of_a_second_prove_that_a_tick_is_over() {
        let mut fine = position();
        fine.file.modified += 123_456_789;
        let at =
            |after: Duration| Position { taken: fine.file.modified + nanoseconds(after), ..fine.clone() };
        assert!(!fine.is_unchanged_since(&at(Duration::from_millis(49))));
        assert!(fine.is_unchanged_since(&at(Duration::from_millis(50))));
        assert!(!fine.is_unchanged_since(&Position { taken: 50 * SECOND, ..fine.clone() }), "a clock behind");
    }

    #[test]
    fn log_decides_alone_where_there_is_one() {
        let wal = |frame| Some(WalPosition { salt: [1, 2], frame, checksum: [3, 4] });
        let earlier = Position { wal: wal(5), ..position() };
        let mut later = Position { wal: wal(5), taken: 500 * SECOND, ..position() };
        later.file.modified += 7;
        later.file.size += 4096;
        assert!(later.is_unchanged_since(&earlier), "a checkpoint moves bytes only");
        assert!(!Position { wal: wal(6), ..later.clone() }.is_unchanged_since(&earlier));
        assert!(!Position { wal: None, ..later.clone() }.is_unchanged_since(&earlier));
        assert!(!later.is_unchanged_since(&position()));
        assert!(!Position { boot: "b".into(), ..later }.is_unchanged_since(&earlier));
    }

    #[test]
    fn position_without_a_boot_id_is_never_unchanged() {
        let mut unknown = position();
        unknown.boot = String::new();
        assert!(!unknown.is_unchanged_since(&unknown));
    }
}
