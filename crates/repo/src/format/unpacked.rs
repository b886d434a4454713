//! How indexes, snapshots, locks and facts are wrapped before they are sealed.
//!
//! Source: restic's design document, "Unpacked Data Format": plain JSON, or the byte 2 followed by
//! JSON compressed with zstd. The config is never compressed.

use std::io::Read;

use super::{FormatError, FormatResult};

/// The most that such an object may hold when decompressed.
pub const LIMIT: usize = 128 << 20;

const COMPRESSED: u8 = 2;

/// A frame may ask for no larger window than 128 MiB (zstd's own default).
const WINDOW_LOG_MAX: u32 = 27;

/// The level of zstd. Nearly all of an index is random names: a higher level takes longer, and its result is larger (an
/// index of 7.3 MB becomes 2.2 MB at 350 MB/s; on level 3 it becomes 2.4 MB at 210 MB/s).
const LEVEL: i32 = 1;

/// Compresses `json` and marks it as compressed.
pub fn encode(json: &[u8]) -> Vec<u8> {
    let mut out = vec![COMPRESSED];
    let compressed =
        zstd::bulk::compress(json, LEVEL).expect("level 1 exists and the buffer is as large as zstd asks");
    out.extend_from_slice(&compressed);
    out
}

/// Returns the JSON, which is at most [`LIMIT`] bytes long.
pub fn decode(bytes: &[u8]) -> FormatResult<Vec<u8>> {
    match bytes.first() {
        Some(b'{' | b'[') => Ok(bytes.to_vec()),
        Some(&COMPRESSED) => decompress(&bytes[1..]),
        Some(version) => Err(FormatError::new(format!("unknown encoding {version}"))),
        None => Err(FormatError::new("empty")),
    }
}

fn decompress(bytes: &[u8]) -> FormatResult<Vec<u8>> {
    let broken = |error: std::io::Error| FormatError::new(format!("cannot be decompressed: {error}"));
    let mut decoder = zstd::stream::read::Decoder::with_buffer(bytes).map_err(broken)?;
    decoder.window_log_max(WINDOW_LOG_MAX).map_err(broken)?;
    let mut json = Vec::new();
    let limit = u64::try_from(LIMIT).expect("128 MiB fit 64 bits");
    decoder.take(limit + 1).read_to_end(&mut json).map_err(broken)?;
    if json.len() > LIMIT {
        return Err(FormatError::new(format!("more than {LIMIT} bytes after decompression")));
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_and_plain_json_are_read() {
        assert_eq!(decode(&encode(b"{\"a\":1}")).unwrap(), b"{\"a\":1}");
        assert_eq!(decode(b"[1]").unwrap(), b"[1]");
    }

    #[test]
    fn what_is_neither_is_refused() {
        for bytes in [&b""[..], b"\x01{}", b"\x02", b"\x02{}", b" {}"] {
            assert!(decode(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn every_truncation_is_an_error() {
        let whole = encode(&b"some text that is long enough to be compressed ".repeat(50));
        for length in 0..whole.len() {
            assert!(decode(&whole[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn bomb_is_refused_without_being_held() {
        let mut bomb = vec![COMPRESSED];
        let zeros = std::io::repeat(0).take(LIMIT as u64 + 1);
        zstd::stream::copy_encode(zeros, &mut bomb, 1).unwrap();
        assert!(bomb.len() < 64 << 10);
        assert!(decode(&bomb).unwrap_err().to_string().contains("after decompression"));
    }
}
