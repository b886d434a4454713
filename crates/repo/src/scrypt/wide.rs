//! Up to four lanes side by side: a row of each in one vector of AVX-512.
//!
//! A lane is a chain of operations that wait for each other, so four take hardly longer than one. A third of the time
//! goes by with page faults. Huge pages would save those, but not where a machine's host has to find the memory first:
//! there they took twice as long as the rest.

#![allow(unsafe_code)]

use std::arch::x86_64::{
    __m128i, __m512i, __mmask16, _mm_cvtsi128_si32, _mm_cvtsi128_si64, _mm_extract_epi64, _mm_set_epi64x,
    _mm512_add_epi32, _mm512_broadcast_i32x4, _mm512_castsi512_si128, _mm512_mask_mov_epi32,
    _mm512_mask_xor_epi32, _mm512_maskz_compress_epi32, _mm512_rol_epi32, _mm512_setzero_si512,
    _mm512_shuffle_epi32, _mm512_xor_si512,
};

use super::{BLOCK, DIAGONALS, Measures, SIDE_BY_SIDE};

/// 64 bytes of each lane, as Salsa20 sees them.
type Blocks = [__m512i; 4];

/// The memory of lanes that are mixed together.
pub(super) struct Lanes {
    measures: Measures,
    /// What scrypt calls V, of each lane.
    past: Vec<Vec<u8>>,
}

/// Says whether the processor has the instructions.
pub(super) fn is_here() -> bool {
    std::is_x86_feature_detected!("avx512f")
}

impl Lanes {
    /// Makes memory for at most four lanes. Only where the instructions are there.
    pub(super) fn new(measures: Measures, lanes: usize) -> Self {
        assert!(is_here() && lanes <= SIDE_BY_SIDE, "{lanes} lanes cannot be mixed side by side here");
        let length = measures.blocks * BLOCK * measures.rounds;
        Self { measures, past: (0..lanes).map(|_| vec![0; length]).collect() }
    }

    /// scryptROMix of each lane of `lanes`.
    pub(super) fn mix(&mut self, lanes: &mut [u8]) {
        // SAFETY: `new` has seen that the processor has what the function is compiled for; it has no other precondition.
        unsafe { mix(self.measures, lanes, &mut self.past) }
    }
}

/// scryptROMix of all lanes.
#[target_feature(enable = "avx512f")]
fn mix(Measures { blocks, rounds }: Measures, lanes: &mut [u8], past: &mut [Vec<u8>]) {
    let mut present = vec![[_mm512_setzero_si512(); 4]; blocks];
    let mut next = present.clone();
    let count = lanes.len() / (blocks * BLOCK);
    for (lane, bytes) in lanes.chunks_exact(blocks * BLOCK).enumerate() {
        for (block, bytes) in present.iter_mut().zip(bytes.as_chunks::<BLOCK>().0) {
            for (row, words) in block.iter_mut().zip(DIAGONALS) {
                let row_of_lane = diagonal(bytes, words);
                *row = _mm512_mask_mov_epi32(*row, mask(lane), _mm512_broadcast_i32x4(row_of_lane));
            }
        }
    }
    for round in 0..rounds {
        for (lane, past) in past[..count].iter_mut().enumerate() {
            let place = &mut past.as_chunks_mut::<BLOCK>().0[round * blocks..][..blocks];
            for (bytes, block) in place.iter_mut().zip(&present) {
                for (bytes, row) in bytes.as_chunks_mut().0.iter_mut().zip(block) {
                    *bytes = stored(of_lane(*row, lane));
                }
            }
        }
        mix_blocks(&present, &mut next);
        std::mem::swap(&mut present, &mut next);
    }
    for _ in 0..rounds {
        let last = present[blocks - 1];
        for (lane, past) in past[..count].iter().enumerate() {
            let chosen = _mm_cvtsi128_si32(of_lane(last[0], lane)).cast_unsigned() as usize & (rounds - 1);
            let place = &past.as_chunks::<BLOCK>().0[chosen * blocks..][..blocks];
            for (block, bytes) in present.iter_mut().zip(place) {
                for (row, bytes) in block.iter_mut().zip(bytes.as_chunks().0) {
                    let remembered = _mm512_broadcast_i32x4(loaded(bytes));
                    *row = _mm512_mask_xor_epi32(*row, mask(lane), *row, remembered);
                }
            }
        }
        mix_blocks(&present, &mut next);
        std::mem::swap(&mut present, &mut next);
    }
    for (lane, bytes) in lanes.chunks_exact_mut(blocks * BLOCK).enumerate() {
        for (bytes, block) in bytes.as_chunks_mut::<BLOCK>().0.iter_mut().zip(&present) {
            for (row, words) in block.iter().zip(DIAGONALS) {
                put_diagonal(bytes, words, of_lane(*row, lane));
            }
        }
    }
}

/// scryptBlockMix of each lane.
#[target_feature(enable = "avx512f")]
fn mix_blocks(blocks: &[Blocks], out: &mut [Blocks]) {
    let (even, odd) = out.split_at_mut(blocks.len() / 2);
    let mut block = blocks[blocks.len() - 1];
    for ((even, odd), [first, second]) in even.iter_mut().zip(odd).zip(blocks.as_chunks().0) {
        block = salsa(&block, first);
        *even = block;
        block = salsa(&block, second);
        *odd = block;
    }
}

/// Salsa20/8 of what two blocks differ by, of each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn salsa(one: &Blocks, other: &Blocks) -> Blocks {
    let mut block = *one;
    for (row, other) in block.iter_mut().zip(other) {
        *row = _mm512_xor_si512(*row, *other);
    }
    let [mut a, mut b, mut c, mut d] = block;
    for _ in 0..8 {
        b = _mm512_xor_si512(b, _mm512_rol_epi32::<7>(_mm512_add_epi32(a, d)));
        c = _mm512_xor_si512(c, _mm512_rol_epi32::<9>(_mm512_add_epi32(b, a)));
        d = _mm512_xor_si512(d, _mm512_rol_epi32::<13>(_mm512_add_epi32(c, b)));
        a = _mm512_xor_si512(a, _mm512_rol_epi32::<18>(_mm512_add_epi32(d, c)));
        // A row becomes a column: turned by one, two and three words.
        (b, c, d) = (
            _mm512_shuffle_epi32::<0b00_11_10_01>(d),
            _mm512_shuffle_epi32::<0b01_00_11_10>(c),
            _mm512_shuffle_epi32::<0b10_01_00_11>(b),
        );
    }
    let [w, x, y, z] = block;
    [_mm512_add_epi32(a, w), _mm512_add_epi32(b, x), _mm512_add_epi32(c, y), _mm512_add_epi32(d, z)]
}

/// The words of a lane in a row of all.
fn mask(lane: usize) -> __mmask16 {
    0b1111 << (4 * lane)
}

/// Returns the row of one lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn of_lane(row: __m512i, lane: usize) -> __m128i {
    _mm512_castsi512_si128(_mm512_maskz_compress_epi32(mask(lane), row))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn loaded(bytes: &[u8; 16]) -> __m128i {
    let half = |at: usize| i64::from_le_bytes(bytes.as_chunks().0[at]);
    _mm_set_epi64x(half(1), half(0))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn stored(row: __m128i) -> [u8; 16] {
    let (low, high) = (_mm_cvtsi128_si64(row).cast_unsigned(), _mm_extract_epi64::<1>(row).cast_unsigned());
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

/// Returns the row that the words at these places of a block make.
#[target_feature(enable = "avx512f")]
fn diagonal(block: &[u8; BLOCK], places: [usize; 4]) -> __m128i {
    let mut row = [0; 16];
    for (word, place) in row.as_chunks_mut::<4>().0.iter_mut().zip(places) {
        *word = block.as_chunks().0[place];
    }
    loaded(&row)
}

#[target_feature(enable = "avx512f")]
fn put_diagonal(block: &mut [u8; BLOCK], places: [usize; 4], row: __m128i) {
    for (word, place) in stored(row).as_chunks::<4>().0.iter().zip(places) {
        block.as_chunks_mut().0[place] = *word;
    }
}
