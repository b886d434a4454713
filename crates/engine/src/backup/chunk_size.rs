//! How long the chunks of an image are.
//!
//! Short chunks make a small change cheap, and every chunk costs an entry in lists and index. So a database has the
//! shortest chunks of which it does not need too many. The measurements are in `docs/design/repository.md`.

/// No image is cut finer: below, what a snapshot's lists cost outgrows what is saved.
pub(super) const SHORTEST: u32 = 16 << 10;

/// No image is cut coarser: above, the change of one page stores too much.
const LONGEST: u32 = 1 << 20;

/// So many chunks take about 64 MiB while they are stored.
const FEW_ENOUGH: u64 = 1 << 18;

/// A database that grew or shrank keeps its chunks, which are found again, until they are so many times off.
const FAR_OFF: u32 = 4;

/// Returns the length of the chunks of an image in bytes: a power of two and a multiple of the page size.
///
/// `last` is the length in the last snapshot of the same database, from a manifest that others may have written.
pub(super) fn choose(image_size: u64, page_size: u32, last: Option<u32>) -> u32 {
    let shortest = SHORTEST.max(page_size);
    let mut wanted = shortest;
    while wanted < LONGEST && image_size.div_ceil(wanted.into()) > FEW_ENOUGH {
        wanted *= 2;
    }
    let usable = |last: &u32| {
        last.is_power_of_two()
            && (shortest..=LONGEST).contains(last)
            && *last < wanted.saturating_mul(FAR_OFF)
            && wanted < last.saturating_mul(FAR_OFF)
    };
    last.filter(usable).unwrap_or(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const KIB: u32 = 1 << 10;

    #[test]
    fn larger_databases_have_longer_chunks() {
        let sizes =
            [(0, 16), (2 * GIB, 16), (4 * GIB, 16), (5 * GIB, 32), (50 * GIB, 256), (256 * GIB, 1024)];
        for (size, kib) in sizes {
            assert_eq!(choose(size, 4096, None), kib * KIB, "{size}");
        }
        assert_eq!(choose(u64::MAX, 4096, None), LONGEST);
    }

    #[test]
    fn chunk_holds_whole_pages() {
        assert_eq!(choose(1000, 65536, None), 65536);
        assert_eq!(choose(1000, 65536, Some(16 * KIB)), 65536);
        assert_eq!(choose(1000, 512, None), 16 * KIB);
    }

    #[test]
    fn chunks_stay_as_they_are_until_they_are_far_off() {
        assert_eq!(choose(5 * GIB, 4096, Some(16 * KIB)), 16 * KIB);
        assert_eq!(choose(3 * GIB, 4096, Some(32 * KIB)), 32 * KIB);
        assert_eq!(choose(17 * GIB, 4096, Some(16 * KIB)), 128 * KIB);
        assert_eq!(choose(GIB, 4096, Some(64 * KIB)), 16 * KIB);
    }

    #[test]
    fn length_that_nobody_chose_is_not_kept() {
        for last in [0, 1, 3 * 16 * KIB, 8 * KIB, u32::MAX, 1 << 31] {
            assert_eq!(choose(GIB, 4096, Some(last)), 16 * KIB, "{last}");
        }
    }
}
