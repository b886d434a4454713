//! The objects of the cache in binary: what each kind says, field by field.
//!
//! Numbers are little endian; a text or a list begins with its length (4 bytes), an optional field with 0 or 1.
//! There is one way to write an object, and reading refuses every other. A change here, as a field more, is a new
//! [`VERSION`](super::segment::VERSION): the encoders take objects apart whole, so that a new field does not compile.

use jiff::Timestamp;

use crate::Id;
use crate::crypto::OVERHEAD;
use crate::format::fact::{Fact, FactFile, SnapshotRef};
use crate::format::index::{IndexFile, IndexPack};
use crate::format::pack::{BlobKind, PackBlob};
use crate::format::snapshot::Snapshot;
use crate::format::{FormatError, FormatResult};

/// Bytes of one blob: id, kind, offset, length, length before compression.
pub(crate) const BLOB: usize = 32 + 1 + 3 * 4;

/// Returns a snapshot in binary. Its id is not part of it.
pub fn encode_snapshot(snapshot: &Snapshot) -> Vec<u8> {
    let Snapshot {
        id: _,
        time,
        parent,
        tree,
        paths,
        hostname,
        username,
        uid,
        gid,
        tags,
        original,
        program_version,
    } = snapshot;
    let mut out = Out(Vec::with_capacity(512));
    out.time(*time);
    out.optional_id(parent.as_ref());
    out.id(tree);
    out.texts(paths);
    out.text(hostname);
    out.text(username);
    out.number(*uid);
    out.number(*gid);
    out.texts(tags);
    out.optional_id(original.as_ref());
    out.text(program_version);
    out.0
}

/// Reads a snapshot. The id is left unset.
pub fn decode_snapshot(bytes: &[u8]) -> FormatResult<Snapshot> {
    let mut bytes = In(bytes);
    let snapshot = Snapshot {
        id: None,
        time: bytes.time()?,
        parent: bytes.optional_id()?,
        tree: bytes.id()?,
        paths: bytes.texts()?,
        hostname: bytes.text()?,
        username: bytes.text()?,
        uid: bytes.number()?,
        gid: bytes.number()?,
        tags: bytes.texts()?,
        original: bytes.optional_id()?,
        program_version: bytes.text()?,
    };
    bytes.end()?;
    Ok(snapshot)
}

/// Returns a fact in binary; `None` for a kind that only a newer program knows, which is not kept.
pub fn encode_fact(file: &FactFile) -> Option<Vec<u8>> {
    let FactFile { version, time, hostname, previous, fact } = file;
    let mut out = Out(Vec::with_capacity(512));
    out.number(*version);
    out.time(*time);
    out.text(hostname);
    out.list(previous, Out::id);
    match fact {
        Fact::Acknowledged { session, snapshots } => {
            out.byte(1);
            out.text(session);
            out.list(snapshots, Out::reference);
        }
        Fact::Forgotten { snapshots, reason } => {
            out.byte(2);
            out.list(snapshots, Out::reference);
            out.text(reason);
        }
        Fact::Verified { snapshot, level } => {
            out.byte(3);
            out.reference(snapshot);
            out.text(level);
        }
        Fact::Damaged { snapshots, findings } => {
            out.byte(4);
            out.list(snapshots, Out::reference);
            out.texts(findings);
        }
        Fact::Drilled { snapshot, passed, duration_ms } => {
            out.byte(5);
            out.reference(snapshot);
            out.byte(u8::from(*passed));
            out.long(*duration_ms);
        }
        Fact::Pinned { snapshot, reason } => {
            out.byte(6);
            out.reference(snapshot);
            out.text(reason);
        }
        Fact::Unpinned { snapshot } => {
            out.byte(7);
            out.reference(snapshot);
        }
        Fact::Accepted { snapshots, why } => {
            out.byte(8);
            out.list(snapshots, Out::reference);
            out.text(why);
        }
        Fact::Cleared { snapshots, why } => {
            out.byte(9);
            out.list(snapshots, Out::reference);
            out.text(why);
        }
        Fact::Other(_) => return None,
    }
    Some(out.0)
}

/// Reads a fact.
pub fn decode_fact(bytes: &[u8]) -> FormatResult<FactFile> {
    let mut bytes = In(bytes);
    let file = FactFile {
        version: bytes.number()?,
        time: bytes.time()?,
        hostname: bytes.text()?,
        previous: bytes.list(32, In::id)?,
        fact: bytes.fact()?,
    };
    bytes.end()?;
    Ok(file)
}

/// Returns what an index file says of packs, in binary.
pub fn encode_index(file: &IndexFile) -> Vec<u8> {
    // What it replaced, and when packs were written, is of no use to whoever looks for blobs.
    let IndexFile { supersedes: _, packs, packs_to_delete } = file;
    let blobs: usize = packs.iter().chain(packs_to_delete).map(|pack| pack.blobs.len()).sum();
    let mut out = Out(Vec::with_capacity(64 + 40 * (packs.len() + packs_to_delete.len()) + BLOB * blobs));
    let marked =
        packs.iter().map(|pack| (pack, false)).chain(packs_to_delete.iter().map(|pack| (pack, true)));
    for (IndexPack { id, time: _, blobs }, is_marked) in marked {
        out.id(id);
        out.byte(u8::from(is_marked));
        out.list(blobs, Out::blob);
    }
    out.0
}

/// A pack in the binary of an index file.
#[derive(Clone, Copy, Debug)]
pub struct PackRecord<'r> {
    /// The name of the pack.
    pub id: Id,
    /// A prune has marked it.
    pub marked: bool,
    blobs: &'r [[u8; BLOB]],
}

impl<'r> PackRecord<'r> {
    /// Returns its blobs.
    pub fn blobs(&self) -> impl ExactSizeIterator<Item = PackBlob> + use<'r> {
        self.blobs.iter().map(blob)
    }
}

/// Reads the packs of an index file; every blob of them is sound: see [`IndexFile::decode`].
pub fn decode_index(bytes: &[u8]) -> FormatResult<Vec<PackRecord<'_>>> {
    let mut bytes = In(bytes);
    let mut packs = Vec::new();
    while !bytes.0.is_empty() {
        packs.push(read_pack(&mut bytes)?);
    }
    // As the encoder writes them, so that there is one way to write an index.
    match packs.is_sorted_by_key(|pack: &PackRecord<'_>| pack.marked) {
        true => Ok(packs),
        false => Err(FormatError::new("marked packs do not come last")),
    }
}

fn read_pack<'r>(bytes: &mut In<'r>) -> FormatResult<PackRecord<'r>> {
    let id = bytes.id()?;
    let marked = bytes.flag()?;
    let count = bytes.number()? as usize;
    let length = count.checked_mul(BLOB).ok_or_else(cut_off)?;
    let blobs = bytes.take(length)?;
    let (blobs, _) = blobs.as_chunks::<BLOB>();
    for bytes in blobs {
        let blob = blob(bytes);
        let has_place = blob.length as usize >= OVERHEAD && blob.offset.checked_add(blob.length).is_some();
        if bytes[32] > 1 || !has_place {
            return Err(FormatError::new("a blob of no kind or with an impossible place"));
        }
    }
    Ok(PackRecord { id, marked, blobs })
}

fn blob(bytes: &[u8; BLOB]) -> PackBlob {
    let (id, rest) = bytes.split_first_chunk::<32>().expect("a blob has 45 bytes");
    let number = |at| u32::from_le_bytes([rest[at], rest[at + 1], rest[at + 2], rest[at + 3]]);
    let uncompressed = number(9);
    PackBlob {
        id: Id::new(*id),
        kind: if rest[0] == 0 { BlobKind::Data } else { BlobKind::Tree },
        offset: number(1),
        length: number(5),
        uncompressed_length: (uncompressed != 0).then_some(uncompressed),
    }
}

/// What is written.
struct Out(Vec<u8>);

impl Out {
    fn byte(&mut self, byte: u8) {
        self.0.push(byte);
    }

    fn number(&mut self, number: u32) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn long(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn id(&mut self, id: &Id) {
        self.0.extend_from_slice(id.as_bytes());
    }

    fn optional_id(&mut self, id: Option<&Id>) {
        self.byte(u8::from(id.is_some()));
        if let Some(id) = id {
            self.id(id);
        }
    }

    fn time(&mut self, time: Timestamp) {
        self.0.extend_from_slice(&time.as_second().to_le_bytes());
        self.0.extend_from_slice(&time.subsec_nanosecond().to_le_bytes());
    }

    fn length(&mut self, length: usize) {
        self.number(u32::try_from(length).expect("objects are read whole and have at most 128 MiB"));
    }

    fn text(&mut self, text: impl AsRef<str>) {
        let text = text.as_ref();
        self.length(text.len());
        self.0.extend_from_slice(text.as_bytes());
    }

    fn list<T>(&mut self, list: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.length(list.len());
        for item in list {
            write(self, item);
        }
    }

    fn texts(&mut self, texts: &[String]) {
        self.list(texts, |out, text| out.text(text));
    }

    fn reference(&mut self, reference: &SnapshotRef) {
        let SnapshotRef { id, tree, database } = reference;
        self.id(id);
        self.id(tree);
        self.text(database);
    }

    fn blob(&mut self, blob: &PackBlob) {
        let PackBlob { id, kind, offset, length, uncompressed_length } = blob;
        self.id(id);
        self.byte(match kind {
            BlobKind::Data => 0,
            BlobKind::Tree => 1,
        });
        self.number(*offset);
        self.number(*length);
        self.number(uncompressed_length.unwrap_or(0));
    }
}

/// What is still to be read.
struct In<'b>(&'b [u8]);

impl<'b> In<'b> {
    fn take(&mut self, length: usize) -> FormatResult<&'b [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> FormatResult<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or_else(cut_off)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn number(&mut self) -> FormatResult<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn long(&mut self) -> FormatResult<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn flag(&mut self) -> FormatResult<bool> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(FormatError::new(format!("{other} is neither yes nor no"))),
        }
    }

    fn id(&mut self) -> FormatResult<Id> {
        Ok(Id::new(self.array()?))
    }

    fn optional_id(&mut self) -> FormatResult<Option<Id>> {
        self.flag()?.then(|| self.id()).transpose()
    }

    fn time(&mut self) -> FormatResult<Timestamp> {
        let second = i64::from_le_bytes(self.array()?);
        let nanosecond = i32::from_le_bytes(self.array()?);
        let time = Timestamp::new(second, nanosecond).ok();
        time.filter(|time| time.as_second() == second && time.subsec_nanosecond() == nanosecond)
            .ok_or_else(|| FormatError::new("an impossible time"))
    }

    fn text(&mut self) -> FormatResult<String> {
        let length = self.number()? as usize;
        let text = std::str::from_utf8(self.take(length)?);
        Ok(text.map_err(|_| FormatError::new("a text that is no UTF-8"))?.to_owned())
    }

    /// Reads a list whose items take at least `least` bytes each: memory is only taken for what can be there.
    fn list<T>(
        &mut self,
        least: usize,
        mut read: impl FnMut(&mut Self) -> FormatResult<T>,
    ) -> FormatResult<Vec<T>> {
        let count = self.number()? as usize;
        let mut list = Vec::with_capacity(count.min(self.0.len() / least));
        for _ in 0..count {
            list.push(read(self)?);
        }
        Ok(list)
    }

    fn texts(&mut self) -> FormatResult<Vec<String>> {
        self.list(4, Self::text)
    }

    fn reference(&mut self) -> FormatResult<SnapshotRef> {
        Ok(SnapshotRef { id: self.id()?, tree: self.id()?, database: self.text()? })
    }

    fn references(&mut self) -> FormatResult<Vec<SnapshotRef>> {
        self.list(68, Self::reference)
    }

    fn fact(&mut self) -> FormatResult<Fact> {
        Ok(match self.array()? {
            [1] => Fact::Acknowledged { session: self.text()?, snapshots: self.references()? },
            [2] => Fact::Forgotten { snapshots: self.references()?, reason: self.text()? },
            [3] => Fact::Verified { snapshot: self.reference()?, level: self.text()? },
            [9] => Fact::Cleared { snapshots: self.references()?, why: self.text()? },
            [4] => Fact::Damaged { snapshots: self.references()?, findings: self.texts()? },
            [5] => {
                Fact::Drilled { snapshot: self.reference()?, passed: self.flag()?, duration_ms: self.long()? }
            }
            [6] => Fact::Pinned { snapshot: self.reference()?, reason: self.text()? },
            [7] => Fact::Unpinned { snapshot: self.reference()? },
            [8] => Fact::Accepted { snapshots: self.references()?, why: self.text()? },
            [other] => return Err(FormatError::new(format!("{other} is no kind of fact"))),
        })
    }

    fn end(&self) -> FormatResult<()> {
        if self.0.is_empty() { Ok(()) } else { Err(FormatError::new("bytes after the end")) }
    }
}

fn cut_off() -> FormatError {
    FormatError::new("cut off")
}
