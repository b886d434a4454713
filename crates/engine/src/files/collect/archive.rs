//! Goes through an archive (tar), whoever wrote it. Nothing is unpacked under the names in it.

use std::cell::Cell;
use std::io::{self, Read};
use std::rc::Rc;

use tar::{Archive, Entry, EntryType};

use super::super::spool::{Unpacked, unpacked};
use super::Collector;
use crate::export::written::{Summed, pump};

/// The most bytes of what describes one entry: its long name, its extended header, the map of its holes.
const LONGEST_HEADER: u64 = 8 << 20;

impl Collector<'_> {
    pub(super) fn archive(&mut self, name: &str, from: &mut dyn Read, depth: usize) -> Result<(), Unpacked> {
        let is_outermost = depth <= 1 && self.found.is_single && self.found.items.is_empty();
        let prefix = if is_outermost { String::new() } else { format!("{name}/") };
        let state = Rc::new(State::default());
        let mut archive = Archive::new(Blocks { from, state: Rc::clone(&state) });
        let mut entries = archive.entries().map_err(unpacked)?;
        loop {
            state.begin_header();
            let Some(entry) = entries.next() else { break };
            let mut entry = entry.map_err(unpacked)?;
            state.begin_contents();
            self.entry(&mut entry, &prefix, depth)?;
            // Whatever was not looked at is read here: what the next reading has to skip counts as its header.
            pump(&mut entry, &mut io::sink()).map_err(unpacked)?;
        }
        if !state.has_ended() {
            return Err(Unpacked::Damaged("the archive breaks off: its end is missing".to_owned()));
        }
        state.begin_contents();
        self.nothing_behind(&mut archive.into_inner())
    }

    fn entry(
        &mut self,
        entry: &mut Entry<'_, Blocks<'_>>,
        prefix: &str,
        depth: usize,
    ) -> Result<(), Unpacked> {
        let path = entry.path().map_err(unpacked)?.to_string_lossy().into_owned();
        let path = format!("{prefix}{}", path.trim_start_matches("./"));
        let kind = entry.header().entry_type();
        if let Some(why) = not_looked_at(entry, kind).map_err(unpacked)? {
            self.found.notes.push(format!("{path} was not looked at: {why}"));
            return Ok(());
        }
        if !holds_bytes(kind) {
            return Ok(());
        }
        let size = entry.size();
        let mut counted = Summed::new(entry);
        self.read(&path, &mut counted, None, depth + 1).map_err(Unpacked::Failed)?;
        match counted.finish().1.bytes == size {
            true => Ok(()),
            false => Err(Unpacked::Damaged(format!("the archive breaks off in {path}"))),
        }
    }

    /// Expects nothing but zeros behind the end: a header that was lost would look like the end.
    fn nothing_behind(&self, rest: &mut dyn Read) -> Result<(), Unpacked> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            match rest.read(&mut buffer).map_err(unpacked)? {
                0 => return Ok(()),
                count if buffer[..count].iter().any(|byte| *byte != 0) => {
                    return Err(Unpacked::Damaged("there is more behind the end of the archive".to_owned()));
                }
                _ => {}
            }
        }
    }
}

/// Says whether an entry of this kind is a file with contents.
fn holds_bytes(kind: EntryType) -> bool {
    kind.is_file() || kind.is_contiguous() || kind.is_gnu_sparse()
}

/// Says why an entry is no file that can be read, where somebody may take it for one.
fn not_looked_at(entry: &mut Entry<'_, Blocks<'_>>, kind: EntryType) -> io::Result<Option<&'static str>> {
    if kind.is_dir() || kind.is_pax_global_extensions() {
        return Ok(None);
    }
    if !holds_bytes(kind) {
        return Ok(Some("it is no plain file"));
    }
    let mut is_sparse = false;
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions {
            is_sparse |= extension?.key_bytes().starts_with(b"GNU.sparse.");
        }
    }
    Ok(is_sparse
        .then_some("its holes are described in a way that is not known here; unpack the archive first"))
}

/// What an archive is made of.
const BLOCK: u64 = 512;

/// How far an archive was read.
#[derive(Default)]
struct State {
    /// How many bytes were read.
    at: Cell<u64>,
    /// Where the next header begins.
    header: Cell<u64>,
    /// How many bytes may still be read.
    left: Cell<u64>,
    /// Whether what was read of the last block is zero.
    is_zero: Cell<bool>,
}

impl State {
    fn begin_header(&self) {
        self.header.set(self.at.get().next_multiple_of(BLOCK));
        self.left.set(LONGEST_HEADER);
    }

    fn begin_contents(&self) {
        self.left.set(u64::MAX);
    }

    /// Says whether a block of zeros stands where a header would, as the end of an archive is marked.
    fn has_ended(&self) -> bool {
        self.at.get() >= self.header.get() + BLOCK && self.is_zero.get()
    }

    fn advance(&self, bytes: &[u8]) {
        let (begin, end) = (self.at.get(), self.at.get() + bytes.len() as u64);
        let last_block = end.saturating_sub(1) / BLOCK * BLOCK;
        let was_zero = last_block >= begin || self.is_zero.get();
        let of_last = &bytes[usize::try_from(last_block.saturating_sub(begin)).unwrap_or(usize::MAX)..];
        self.is_zero.set(was_zero && of_last.iter().all(|byte| *byte == 0));
        self.at.set(end);
    }
}

/// Reads an archive, and what describes an entry no further than is sensible: it is kept in memory.
struct Blocks<'r> {
    from: &'r mut dyn Read,
    state: Rc<State>,
}

impl Read for Blocks<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.state.left.get();
        if left == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "what describes a file is too long"));
        }
        let wanted = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.from.read(&mut buffer[..wanted])?;
        self.state.left.set(left - count as u64);
        if count > 0 {
            self.state.advance(&buffer[..count]);
        }
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dbkeep_repo::Unobserved;
    use tar::{Builder, Header};

    use super::*;
    use crate::environment::Environment;
    use crate::report::{FilesReport, VerifyStatus};

    fn database() -> Vec<u8> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.db");
        let sql = "CREATE TABLE t(a); INSERT INTO t VALUES(1), (2)";
        rusqlite::Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        std::fs::read(path).unwrap()
    }

    fn header(kind: EntryType, size: usize) -> Header {
        let mut header = Header::new_gnu();
        header.set_size(size as u64);
        header.set_entry_type(kind);
        header.set_mode(0o600);
        header
    }

    fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (name, contents) in files {
            builder.append_data(&mut header(EntryType::Regular, contents.len()), name, *contents).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn verified(name: &str, bytes: &[u8]) -> crate::Result<FilesReport> {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        let watch: crate::context::Watch = Arc::new(Unobserved);
        crate::files::verify(&Environment::isolated(root.path()), &[path], &watch)
    }

    #[track_caller]
    fn finding_of(bytes: &[u8]) -> String {
        let report = verified("x.tar", bytes).unwrap();
        let damaged = report.checked.iter().find(|one| one.status == VerifyStatus::Damaged);
        damaged.unwrap_or_else(|| panic!("{report:#?}")).findings[0].clone()
    }

    #[test]
    fn archive_that_lost_its_end_or_a_header_is_damaged() {
        let database = database();
        let whole = archive(&[("one.db", &database), ("two.db", &database)]);
        assert_eq!(verified("x.tar", &whole).unwrap().ok, 2);
        let second = 512 + database.len();
        let missing = "the archive breaks off: its end is missing";
        assert_eq!(finding_of(&whole[..second]), missing);
        assert_eq!(finding_of(&whole[..second * 2]), missing);
        let mut lost = whole.clone();
        lost[second..second + 512].fill(0);
        assert_eq!(finding_of(&lost), "there is more behind the end of the archive");
        let odd = [whole.clone(), b"trailing".to_vec()].concat();
        assert_eq!(finding_of(&odd), "there is more behind the end of the archive");
        // Some programs fill the end up with zeros to a whole record.
        assert_eq!(verified("x.tar", &[whole, vec![0; 20480]].concat()).unwrap().ok, 2);
    }

    #[test]
    fn rest_of_a_block_may_hold_anything() {
        let mut bytes = archive(&[("a.sql", b"CREATE TABLE t(a);\n")]);
        bytes[512 + 100] = b'x';
        assert_eq!(verified("x.tar", &bytes).unwrap().ok, 1);
        assert_eq!(finding_of(&bytes[..1024]), "the archive breaks off: its end is missing");
    }

    #[test]
    fn entries_that_are_no_files_are_named() {
        let database = database();
        let mut builder = Builder::new(Vec::new());
        let sizes = database.len();
        builder.append_data(&mut header(EntryType::Regular, sizes), "a.db", &*database).unwrap();
        builder.append_link(&mut header(EntryType::Link, 0), "same.db", "a.db").unwrap();
        builder.append_link(&mut header(EntryType::Symlink, 0), "link.db", "/etc/passwd").unwrap();
        builder.append_data(&mut header(EntryType::Directory, 0), "folder", io::empty()).unwrap();
        builder.append_data(&mut header(EntryType::Continuous, sizes), "solid.db", &*database).unwrap();
        let report = verified("x.tar", &builder.into_inner().unwrap()).unwrap();
        assert_eq!((report.ok, report.damaged), (2, 0), "{report:#?}");
        let notes =
            ["same.db", "link.db"].map(|name| format!("{name} was not looked at: it is no plain file"));
        assert_eq!(report.files[0].notes, notes);
    }

    #[test]
    fn name_that_would_fill_the_memory_is_not_read() {
        use std::io::Write as _;
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(header_with_sum(EntryType::GNULongName, 1 << 30).as_bytes()).unwrap();
        // Far more than is read.
        for _ in 0..32 {
            packed.write_all(&vec![b'a'; 1 << 20]).unwrap();
        }
        let report = verified("x.tar.gz", &packed.finish().unwrap()).unwrap();
        assert_eq!(report.checked[0].findings, ["what describes a file is too long"]);
    }

    fn header_with_sum(kind: EntryType, size: usize) -> Header {
        let mut header = header(kind, size);
        header.set_path("././@LongLink").unwrap();
        header.set_cksum();
        header
    }

    #[test]
    fn archives_within_archives_end_at_some_depth() {
        let mut bytes = archive(&[("a.db", &database())]);
        for _ in 0..3000 {
            bytes = archive(&[("x.tar", &bytes)]);
        }
        let bytes = archive(&[("x.tar", &bytes), ("b.db", &database())]);
        let report = verified("x.tar", &bytes).unwrap();
        assert_eq!(report.ok, 1, "{report:#?}");
        assert!(
            report.files[0].notes.iter().any(|note| note.contains("more than 8 levels deep")),
            "{report:#?}"
        );
    }
}
