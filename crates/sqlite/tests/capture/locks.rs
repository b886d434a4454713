//! The rule of descriptors: nothing we do cancels a lock, ours or another's.

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dbkeep_sqlite::capture::{Capture, CaptureOptions, Method};
use dbkeep_sqlite::identify::{self, Kind};

use crate::support::{Other, assert_same, beside, capture, fill, make, place, read_all};

fn forced(path: &Path, method: Method) -> Capture {
    let options = CaptureOptions { force_method: Some(method), ..CaptureOptions::default() };
    Capture::open(path, &options).unwrap()
}

const REFUSED: &str = "error database is locked";

#[test]
fn writers_are_held_off_until_the_image_is_read_whatever_else_looks_at_the_file() {
    let (_folder, path) = place("held.db");
    make(&path, &fill(50));
    let mut writer = Other::start("sql", &path);
    let mut first = forced(&path, Method::LockedImage);
    assert_eq!(writer.ask("INSERT INTO t(v) VALUES(1)"), REFUSED);

    assert!(matches!(identify::kind_of(&path).unwrap(), Kind::Database(_)));
    assert_eq!(identify::find_databases(path.parent().unwrap()).unwrap(), std::slice::from_ref(&path));
    assert_eq!(writer.ask("INSERT INTO t(v) VALUES(1)"), REFUSED);

    let mut second = forced(&path, Method::LockedImage);
    let image = read_all(&mut second);
    drop(second.inspection().unwrap().unwrap());
    second.finish().unwrap();
    drop(forced(&path, Method::TwoPass));
    drop(forced(&path, Method::Raw));
    assert_eq!(writer.ask("INSERT INTO t(v) VALUES(1)"), REFUSED);

    assert_same(&read_all(&mut first), &image);
    drop(first);
    assert_eq!(writer.ask("INSERT INTO t(v) VALUES(1)"), "ok");
}

#[test]
fn log_is_not_begun_anew_until_the_image_is_read_whatever_else_looks_at_the_file() {
    let (_folder, path) = place("kept.db");
    make(&path, &format!("PRAGMA journal_mode = wal; {}", fill(5)));
    let mut writer = Other::start("sql", &path);
    writer.ask("INSERT INTO t(v) VALUES(1)");
    let first = capture(&path);
    let busy = "Integer(1)";
    assert_eq!(writer.ask("PRAGMA wal_checkpoint(restart)"), busy);
    assert!(matches!(identify::kind_of(&path).unwrap(), Kind::Database(_)));
    let mut second = capture(&path);
    read_all(&mut second);
    drop(second.inspection().unwrap().unwrap());
    second.finish().unwrap();
    drop(forced(&path, Method::Raw));
    assert_eq!(writer.ask("PRAGMA wal_checkpoint(restart)"), busy);
    drop(first);
    assert_eq!(writer.ask("PRAGMA wal_checkpoint(restart)"), "Integer(0)");
}

#[test]
fn locks_of_a_process_are_respected_after_everything_was_tried_on_its_database() {
    let (_folder, path) = place("theirs.db");
    make(&path, &fill(5));
    let mut writer = Other::start("sql", &path);
    writer.ask("BEGIN EXCLUSIVE");
    let options = CaptureOptions { busy_timeout: Duration::from_millis(20), ..CaptureOptions::default() };
    for method in [None, Some(Method::Raw), Some(Method::TwoPass), Some(Method::DbPage)] {
        let options = CaptureOptions { force_method: method, ..options.clone() };
        assert!(Capture::open(&path, &options).is_err());
        assert!(identify::kind_of(&path).is_ok());
    }
    let mut third = Other::start("sql", &path);
    assert_eq!(third.ask("SELECT count(*) FROM t"), REFUSED);
    writer.ask("COMMIT");
    assert_eq!(third.ask("SELECT count(*) FROM t"), "Integer(5)");
}

#[test]
fn many_threads_capture_one_database_at_once() {
    for mode in ["wal", "delete"] {
        let (_folder, path) = place("many.db");
        make(&path, &format!("PRAGMA journal_mode = {mode}; {}", fill(200)));
        let mut application = Other::start("sql", &path);
        application.ask("UPDATE t SET v = 9");
        let held = forced(&path, Method::LockedImage);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let image = read_all(&mut capture(&path));
                        for _ in 0..15 {
                            assert_same(&read_all(&mut capture(&path)), &image);
                            drop(forced(&path, Method::Raw));
                            assert!(identify::kind_of(&path).is_ok());
                        }
                    })
                })
                .collect();
            scope.spawn(|| {
                let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
                stop.store(true, Ordering::Relaxed);
                outcomes.into_iter().for_each(|outcome| outcome.unwrap());
            });
            let question =
                if mode == "wal" { "PRAGMA wal_checkpoint(restart)" } else { "UPDATE t SET v = 8" };
            while !stop.load(Ordering::Relaxed) {
                let answer = application.ask(question);
                assert!(answer == REFUSED || answer == "Integer(1)", "{answer}");
            }
        });
        drop(held);
        assert_eq!(application.ask("UPDATE t SET v = 7"), "ok");
        assert_eq!(beside(&path).len(), if mode == "wal" { 3 } else { 1 });
    }
}

/// The role `trace`: everything a backup does with a database, for an observer of system calls.
pub(crate) fn everything(path: &str) {
    let path = Path::new(path);
    println!("ready");
    for method in [None, Some(Method::LockedImage), Some(Method::DbPage), Some(Method::TwoPass)] {
        let options = CaptureOptions { force_method: method, ..CaptureOptions::default() };
        let mut first = Capture::open(path, &options).unwrap();
        let mut second = Capture::open(path, &options).unwrap();
        assert!(identify::kind_of(path).is_ok());
        let inspection = first.inspection().unwrap();
        assert!(!read_all(&mut second).is_empty());
        second.finish().unwrap();
        assert!(!read_all(&mut first).is_empty());
        assert!(identify::kind_of(path).is_ok());
        drop(forced(path, Method::Raw));
        drop(inspection);
        first.finish().unwrap();
    }
}

/// What a trace says about one inode: which descriptors are open and whether locks are held.
#[derive(Default)]
struct File {
    /// Held byte ranges as `(start, length)`, as set by this process.
    locks: Vec<(u64, u64)>,
    closes: u32,
    locked: u32,
}

impl File {
    fn lock(&mut self, kind: &str, start: u64, length: u64) {
        let end = start + length;
        // The ranges SQLite uses are the same for locking and unlocking, or the unlocked one is larger.
        self.locks.retain(|&(from, size)| from + size <= start || from >= end);
        if kind != "F_UNLCK" {
            self.locks.push((start, length));
            self.locked += 1;
        }
    }

    fn close(&mut self, line: &str) {
        self.closes += 1;
        // SQLite gives back the lock that says "the index is in use" (byte 128 of it) by closing
        // the one descriptor that its connections in a process share, after the last of them.
        self.locks.retain(|&(start, _)| start != 128);
        assert!(self.locks.is_empty(), "closed while {:?} is locked: {line}", self.locks);
    }
}

/// Follows `fcntl` locks and `close` calls of a trace made with `strace -f -y`.
fn judge(trace: &str, path: &Path) -> (File, File) {
    let (mut main, mut index) = (File::default(), File::default());
    let main_tag = format!("<{}>", path.display());
    let index_tag = format!("<{}>", identify::sibling(path, "-shm").display());
    for line in trace.lines() {
        let file = match line {
            _ if line.contains(&main_tag) => &mut main,
            _ if line.contains(&index_tag) => &mut index,
            _ => continue,
        };
        let text = |key: &str| {
            let at = line.find(key)? + key.len();
            line[at..].split([',', '}']).next().map(str::trim)
        };
        let number = |key: &str| text(key).and_then(|text| text.parse::<u64>().ok());
        if line.contains("F_SETLK") && line.contains("= 0") {
            let length = number("l_len=").filter(|&length| length > 0).unwrap_or(u64::MAX / 2);
            file.lock(text("l_type=").unwrap(), number("l_start=").unwrap(), length);
        } else if line.contains("close(") {
            file.close(line);
        } else if line.contains("dup") && !line.contains("ENOENT") {
            panic!("a duplicate is as dangerous as a second descriptor: {line}");
        }
    }
    (main, index)
}

fn strace(path: &Path) -> Option<String> {
    if Command::new("strace").arg("-V").output().is_err() {
        println!("skipped: strace is not installed");
        return None;
    }
    let (_folder, log) = place("trace");
    let role = crate::support::command("trace", path);
    let mut command = Command::new("strace");
    command.args(["-f", "-y", "-e", "trace=fcntl,close,dup,dup2,dup3", "-o"]).arg(&log);
    command.arg(role.get_program()).args(role.get_args());
    for (key, value) in role.get_envs() {
        command.env(key, value.unwrap());
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    if !log.exists() || !text.contains("ready") {
        println!("skipped: processes cannot be traced here");
        return None;
    }
    assert!(output.status.success(), "{text}");
    Some(std::fs::read_to_string(log).unwrap())
}

#[test]
fn no_descriptor_is_closed_while_a_lock_is_held() {
    for mode in ["wal", "delete"] {
        let (_folder, path) = place("traced.db");
        make(&path, &format!("PRAGMA journal_mode = {mode}; {}", fill(50)));
        let mut application = Other::start("sql", &path);
        application.ask("UPDATE t SET v = 1");
        let Some(trace) = strace(&path) else { return };
        let (main, index) = judge(&trace, &path);
        assert!(main.locked >= 8 && main.closes >= 2, "{} locks, {} closes", main.locked, main.closes);
        assert_eq!(index.locked > 0, mode == "wal");
        assert!(main.locks.is_empty() && index.locks.is_empty());
    }
}

#[test]
fn judge_of_traces_sees_a_close_under_a_lock() {
    let lock =
        "7 fcntl(5</a.db>, F_SETLK, {l_type=F_RDLCK, l_whence=SEEK_SET, l_start=1073741826, l_len=510}) = 0";
    let unlock = "7 fcntl(5</a.db>, F_SETLK, {l_type=F_UNLCK, l_whence=SEEK_SET, l_start=0, l_len=0}) = 0";
    let close = "7 close(6</a.db>) = 0";
    judge(&[lock, unlock, close].join("\n"), Path::new("/a.db"));
    let bad = std::panic::catch_unwind(|| judge(&[lock, close].join("\n"), Path::new("/a.db")));
    assert!(bad.is_err());
}
