//! In which order and in which pieces packs are read. Pure.

use std::ops::Range;

/// The most bytes fetched at once; a blob that is larger is fetched alone.
const RUN: u64 = 4 << 20;
/// Bytes after which a fetch ends where the image goes on elsewhere: what it writes together is fetched together.
const ENOUGH: u64 = 2 << 20;
/// Bytes that nobody wants and that are read nevertheless, because a second request costs more.
const GAP: u64 = 64 << 10;

/// A blob that is wanted, and what for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Piece {
    /// The pack, by its number in the index.
    pub(crate) pack: u32,
    /// Where in the pack it begins.
    pub(crate) offset: u32,
    /// The chunk of the image that it is. A blob that is several chunks has several pieces, one behind the other.
    pub(crate) chunk: u32,
    /// Its sealed length.
    pub(crate) length: u32,
    /// Its uncompressed length; 0 when it is stored uncompressed.
    pub(crate) uncompressed: u32,
}

/// A stretch of a pack, and the pieces in it, as places in the list of pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) pack: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
    pub(crate) pieces: Range<usize>,
}

impl Piece {
    fn end(&self) -> u64 {
        u64::from(self.offset) + u64::from(self.length)
    }

    pub(crate) fn uncompressed_length(&self) -> Option<u32> {
        (self.uncompressed != 0).then_some(self.uncompressed)
    }

    /// Says whether this chunk is the one behind `other` in the image.
    pub(crate) fn follows(&self, other: &Self) -> bool {
        other.chunk.checked_add(1) == Some(self.chunk)
    }

    /// Says whether this is the same blob.
    pub(crate) fn is_blob_of(&self, other: &Self) -> bool {
        (self.pack, self.offset) == (other.pack, other.offset)
    }
}

/// Sorts the pieces by place and returns the stretches to read, in the order in which the image
/// begins to need them: so it is written nearly from front to back.
pub(crate) fn runs(pieces: &mut [Piece]) -> Vec<Run> {
    pieces.sort_unstable();
    let mut runs: Vec<(u32, Run)> = Vec::new();
    for (place, piece) in pieces.iter().enumerate() {
        if let Some((first, run)) = runs.last_mut() {
            let run_end = u64::from(run.offset) + u64::from(run.length);
            let length = piece.end().max(run_end) - u64::from(run.offset);
            let near = run.pack == piece.pack && u64::from(piece.offset) <= run_end + GAP;
            let inside = piece.end() <= run_end;
            let fits = length <= RUN && (length <= ENOUGH || piece.follows(&pieces[place - 1]));
            if near && (inside || fits) {
                run.length = u32::try_from(length).unwrap_or(u32::MAX);
                run.pieces.end = place + 1;
                *first = piece.chunk.min(*first);
                continue;
            }
        }
        let run =
            Run { pack: piece.pack, offset: piece.offset, length: piece.length, pieces: place..place + 1 };
        runs.push((piece.chunk, run));
    }
    runs.sort_by_key(|(first, _)| *first);
    runs.into_iter().map(|(_, run)| run).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(pack: u32, offset: u32, length: u32, chunk: u32) -> Piece {
        Piece { pack, offset, chunk, length, uncompressed: 0 }
    }

    #[test]
    fn neighbours_are_read_at_once_and_strangers_are_not() {
        let mut pieces = vec![
            piece(1, 0, 1000, 4),
            piece(0, 1000, 1000, 3),
            piece(0, 0, 1000, 5),
            piece(0, 500_000, 10, 1),
            piece(0, 0, 1000, 2),
        ];
        let runs = runs(&mut pieces);
        let shape: Vec<_> = runs.iter().map(|run| (run.pack, run.offset, run.length)).collect();
        assert_eq!(shape, [(0, 500_000, 10), (0, 0, 2000), (1, 0, 1000)]);
        let chunks: Vec<_> = pieces[runs[1].pieces.clone()].iter().map(|piece| piece.chunk).collect();
        assert_eq!(chunks, [2, 5, 3]);
        assert!(pieces[0].is_blob_of(&pieces[1]) && !pieces[1].is_blob_of(&pieces[2]));
    }

    #[test]
    fn runs_end_at_four_mebibytes_unless_one_blob_is_larger() {
        let mebibyte = 1 << 20;
        let mut pieces: Vec<_> =
            (0..10).map(|number| piece(0, number * mebibyte, mebibyte, number)).collect();
        pieces.push(piece(0, 10 * mebibyte, 9 * mebibyte, 10));
        let lengths: Vec<_> = runs(&mut pieces).iter().map(|run| run.length / mebibyte).collect();
        assert_eq!(lengths, [4, 4, 2, 9]);
    }

    #[test]
    fn long_run_ends_where_the_image_goes_on_elsewhere() {
        let half = 1 << 19;
        let chunks = [0, 1, 2, 20, 21, 22, 40, 41, 42];
        let place = |at: usize| u32::try_from(at).unwrap() * half;
        let mut pieces: Vec<_> =
            chunks.iter().enumerate().map(|(at, chunk)| piece(0, place(at), half, *chunk)).collect();
        let lengths: Vec<_> = runs(&mut pieces).iter().map(|run| run.length / half).collect();
        assert_eq!(lengths, [6, 3]);
    }

    #[test]
    fn every_piece_is_in_exactly_one_run_that_covers_it() {
        let mut state = 7u64;
        let mut random = move |below: u32| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            u32::try_from(state >> 33).unwrap() % below
        };
        let mut pieces: Vec<_> =
            (0..3000).map(|chunk| piece(random(9), random(64) * 300_000, 290_000, chunk)).collect();
        let runs = runs(&mut pieces);
        let mut seen = vec![0; pieces.len()];
        for run in &runs {
            for place in run.pieces.clone() {
                let piece = pieces[place];
                assert_eq!(piece.pack, run.pack);
                assert!(
                    piece.offset >= run.offset
                        && piece.end() <= u64::from(run.offset) + u64::from(run.length)
                );
                seen[place] += 1;
            }
        }
        assert!(seen.iter().all(|count| *count == 1));
    }
}
