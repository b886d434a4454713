//! The log of begun and acknowledged transactions.
//!
//! One `write` a line on a file opened for appending: the page cache keeps it when the
//! writer is killed. (It says nothing after a power loss; that is tested elsewhere.)

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The log at a path. Lines are `start <seq>` before COMMIT and `ok <seq>` after it.
#[derive(Clone, Debug)]
pub struct Log {
    path: PathBuf,
}

/// More than the lines of a few transactions need.
const TAIL: u64 = 4096;

impl Log {
    /// Names the log at `path`, which need not exist yet.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Returns where the log is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the log for appending. Several processes may do so at once.
    pub fn writer(&self) -> io::Result<LogWriter> {
        Ok(LogWriter { file: OpenOptions::new().create(true).append(true).open(&self.path)? })
    }

    /// Returns the newest transaction known to be committed: the lower bound for a backup
    /// that begins now. 0 before the first.
    pub fn last_acknowledged(&self) -> io::Result<u64> {
        self.last("ok ")
    }

    /// Returns the newest transaction that may be committed: the upper bound for a backup
    /// that has just ended. 0 before the first.
    pub fn last_started(&self) -> io::Result<u64> {
        // `ok` counts too: another process may have written its line between ours.
        Ok(self.last("start ")?.max(self.last("ok ")?))
    }

    fn last(&self, word: &str) -> io::Result<u64> {
        let tail = match File::open(&self.path) {
            Ok(mut file) => tail(&mut file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let numbers = tail.lines().filter_map(|line| line.strip_prefix(word)?.parse::<u64>().ok());
        Ok(numbers.max().unwrap_or(0))
    }
}

/// Returns the complete lines at the end of the log.
fn tail(file: &mut File) -> io::Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
    let mut bytes = Vec::new();
    file.take(TAIL).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let end = text.rfind('\n').map_or(0, |end| end + 1);
    let start = if length > TAIL { text.find('\n').map_or(end, |start| start + 1) } else { 0 };
    Ok(text[start.min(end)..end].to_owned())
}

/// Appends lines.
#[derive(Debug)]
pub struct LogWriter {
    file: File,
}

impl LogWriter {
    /// Notes that transaction `seq` may be committed from now on.
    pub fn start(&mut self, seq: u64) -> io::Result<()> {
        self.file.write_all(format!("start {seq}\n").as_bytes())
    }

    /// Notes that transaction `seq` is committed.
    pub fn ok(&mut self, seq: u64) -> io::Result<()> {
        self.file.write_all(format!("ok {seq}\n").as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_from_the_last_complete_lines() {
        let folder = tempfile::tempdir().unwrap();
        let log = Log::at(folder.path().join("log"));
        assert_eq!(log.last_started().unwrap(), 0);
        let mut writer = log.writer().unwrap();
        for seq in 1..2000 {
            writer.start(seq).unwrap();
            writer.ok(seq).unwrap();
        }
        writer.start(2000).unwrap();
        writer.file.write_all(b"ok 20").unwrap();
        assert_eq!(log.last_acknowledged().unwrap(), 1999);
        assert_eq!(log.last_started().unwrap(), 2000);
    }
}
