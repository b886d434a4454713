//! One lane after another, in code that every compiler turns into the vectors that its machine has.

use super::{BLOCK, DIAGONALS, Measures};

/// Four words that the same is done with.
type Row = [u32; 4];
/// 64 bytes, as Salsa20 sees them.
type Block = [Row; 4];

/// The memory of one lane at a time: what scrypt calls V, and the state that is mixed, twice.
pub(super) struct Lane {
    blocks: usize,
    past: Vec<Block>,
    present: Vec<Block>,
    next: Vec<Block>,
}

impl Lane {
    pub(super) fn new(Measures { blocks, rounds }: Measures) -> Self {
        let empty = [[0; 4]; 4];
        Self {
            blocks,
            past: vec![empty; blocks * rounds],
            present: vec![empty; blocks],
            next: vec![empty; blocks],
        }
    }

    /// scryptROMix of each lane, one after the other.
    pub(super) fn mix(&mut self, lanes: &mut [u8]) {
        for lane in lanes.chunks_exact_mut(self.blocks * BLOCK) {
            self.mix_one(lane);
        }
    }

    /// scryptROMix. The number of rounds is a power of two.
    fn mix_one(&mut self, lane: &mut [u8]) {
        let Self { blocks, past, present, next } = self;
        for (block, bytes) in present.iter_mut().zip(lane.as_chunks().0) {
            *block = read(bytes);
        }
        for place in past.chunks_exact_mut(*blocks) {
            place.copy_from_slice(present);
            mix_blocks(place, |_| [[0; 4]; 4], next);
            std::mem::swap(present, next);
        }
        let rounds = past.len() / *blocks;
        for _ in 0..rounds {
            let chosen = present[*blocks - 1][0][0] as usize & (rounds - 1);
            let chosen = &past[chosen * *blocks..][..*blocks];
            mix_blocks(present, |number| chosen[number], next);
            std::mem::swap(present, next);
        }
        for (block, bytes) in present.iter().zip(lane.as_chunks_mut().0) {
            write(block, bytes);
        }
    }
}

/// scryptBlockMix of `blocks`, each combined with what `with` gives for its number.
#[inline(always)]
fn mix_blocks(blocks: &[Block], with: impl Fn(usize) -> Block, out: &mut [Block]) {
    let combined = |number: usize| xor_block(&blocks[number], &with(number));
    let half = blocks.len() / 2;
    let (even, odd) = out.split_at_mut(half);
    let mut block = combined(blocks.len() - 1);
    for (number, (even, odd)) in even.iter_mut().zip(odd).enumerate() {
        block = salsa(&xor_block(&block, &combined(2 * number)));
        *even = block;
        block = salsa(&xor_block(&block, &combined(2 * number + 1)));
        *odd = block;
    }
}

/// Salsa20/8, whose words are in the order of diagonals before and after.
#[inline(always)]
fn salsa(block: &Block) -> Block {
    let [mut a, mut b, mut c, mut d] = *block;
    for _ in 0..8 {
        b = xor(&b, &rotated(&sum(&a, &d), 7));
        c = xor(&c, &rotated(&sum(&b, &a), 9));
        d = xor(&d, &rotated(&sum(&c, &b), 13));
        a = xor(&a, &rotated(&sum(&d, &c), 18));
        (b, c, d) = (turned(&d, 1), turned(&c, 2), turned(&b, 3));
    }
    [sum(&a, &block[0]), sum(&b, &block[1]), sum(&c, &block[2]), sum(&d, &block[3])]
}

#[inline(always)]
fn sum(one: &Row, other: &Row) -> Row {
    std::array::from_fn(|word| one[word].wrapping_add(other[word]))
}

#[inline(always)]
fn xor(one: &Row, other: &Row) -> Row {
    std::array::from_fn(|word| one[word] ^ other[word])
}

#[inline(always)]
fn xor_block(one: &Block, other: &Block) -> Block {
    std::array::from_fn(|row| xor(&one[row], &other[row]))
}

#[inline(always)]
fn rotated(row: &Row, bits: u32) -> Row {
    row.map(|word| word.rotate_left(bits))
}

/// Returns the words of a row, beginning with the one at `first`.
#[inline(always)]
fn turned(row: &Row, first: usize) -> Row {
    std::array::from_fn(|word| row[(first + word) % 4])
}

fn read(bytes: &[u8; 64]) -> Block {
    let words = bytes.as_chunks().0;
    DIAGONALS.map(|row| row.map(|word| u32::from_le_bytes(words[word])))
}

fn write(block: &Block, bytes: &mut [u8; 64]) {
    let words = bytes.as_chunks_mut().0;
    for (row, places) in block.iter().zip(DIAGONALS) {
        for (word, place) in row.iter().zip(places) {
            words[place] = word.to_le_bytes();
        }
    }
}
