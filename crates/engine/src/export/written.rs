//! What goes into a file, counted and hashed on its way.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};

use dbkeep_repo::Id;
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use ring::digest::{Context, SHA256};

/// What is written at once.
const BUFFER: usize = 256 << 10;

/// Length and SHA-256 of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sum {
    pub(crate) bytes: u64,
    pub(crate) sha256: Id,
}

impl Sum {
    /// Returns the line of a checksum file, as `sha256sum` writes and reads it.
    pub(crate) fn line(&self, name: &str) -> String {
        format!("{}  {name}\n", self.sha256)
    }
}

/// Counts and hashes what passes through it to another writer.
pub(crate) struct Summed<W> {
    inner: W,
    context: Context,
    bytes: u64,
}

impl<W> Summed<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, context: Context::new(&SHA256), bytes: 0 }
    }

    pub(crate) fn finish(self) -> (W, Sum) {
        (self.inner, Sum { bytes: self.bytes, sha256: id(self.context) })
    }
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(buffer)?;
        self.context.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Summed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.context.update(&buffer[..count]);
        self.bytes += count as u64;
        Ok(count)
    }
}

fn id(context: Context) -> Id {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    Id::new(bytes)
}

/// Returns the sum of bytes in memory.
pub(crate) fn sum_of(bytes: &[u8]) -> Sum {
    Sum { bytes: bytes.len() as u64, sha256: Id::of(bytes) }
}

/// Lets `fill` write a file, and returns its sum. On return the contents survive a power cut.
pub(super) fn write<E: From<io::Error>>(
    file: &File,
    fill: impl FnOnce(&mut Summed<BufWriter<&File>>) -> Result<(), E>,
) -> Result<Sum, E> {
    let mut out = Summed::new(BufWriter::with_capacity(BUFFER, file));
    fill(&mut out)?;
    out.flush()?;
    let (_, sum) = out.finish();
    file.sync_all()?;
    Ok(sum)
}

/// Copies everything that `from` gives.
pub(crate) fn pump(from: &mut dyn Read, to: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&buffer[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Compresses into `out` what `fill` writes.
pub(super) fn compress<W: Write, E: From<io::Error>>(
    out: &mut W,
    fill: impl FnOnce(&mut GzEncoder<&mut W>) -> Result<(), E>,
) -> Result<(), E> {
    let mut encoder = GzEncoder::new(out, Compression::default());
    fill(&mut encoder)?;
    encoder.finish()?;
    Ok(())
}

/// Reads a compressed file from its beginning and expects that these contents come out.
pub(super) fn reads_back(file: &File, expected: &Sum) -> io::Result<()> {
    let mut file = file;
    file.seek(SeekFrom::Start(0))?;
    let mut plain = Summed::new(io::sink());
    pump(&mut MultiGzDecoder::new(io::BufReader::with_capacity(BUFFER, file)), &mut plain)?;
    match plain.finish().1 == *expected {
        true => Ok(()),
        false => Err(other_contents()),
    }
}

/// Returns the error of a file that gives other bytes than were written.
pub(super) fn other_contents() -> io::Error {
    io::Error::other("it does not give back what was written into it; check the disk and the memory")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_file_that_changed_is_told() {
        let file = tempfile::tempfile().unwrap();
        write::<io::Error>(&file, |out| compress(out, |gzip| gzip.write_all(&[7; 100_000]))).unwrap();
        let sum = sum_of(&[7; 100_000]);
        reads_back(&file, &sum).unwrap();
        assert!(reads_back(&file, &sum_of(&[8; 100_000])).is_err());
        let length = file.metadata().unwrap().len();
        file.set_len(length - 9).unwrap();
        assert!(reads_back(&file, &sum).is_err());
    }

    #[test]
    fn sums_are_those_of_sha256sum() {
        let file = tempfile::tempfile().unwrap();
        let sum = write::<io::Error>(&file, |out| out.write_all(b"abc")).unwrap();
        assert_eq!(
            sum.line("abc.txt"),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  abc.txt\n"
        );
        assert_eq!(sum, sum_of(b"abc"));
    }
}
