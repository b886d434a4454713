//! The key derivation of the format: scrypt.
//!
//! Opening a repository is mostly this, and short commands are mostly opening it. So each lane is mixed by code that
//! the compiler turns into vector instructions, and two lanes are mixed side by side, which takes half of the time
//! that the `scrypt` crate takes. The tests compare with that crate.
//!
//! Source: RFC 7914. Blocks are kept with their words in the order of the diagonals, as all implementations
//! with vectors do: then the four words of a row go through a quarter round together.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::thread;

use ring::pbkdf2::{self, PBKDF2_HMAC_SHA256};
use zeroize::Zeroizing;

use crate::format::key::Cost;

/// How many lanes are mixed at once: each needs memory of its own, 128·N·r bytes.
const AT_ONCE: usize = 2;

/// Four words that the same is done with.
type Row = [u32; 4];
/// 64 bytes, as Salsa20 sees them: diagonals of a square of words.
type Block = [Row; 4];

/// Where the words of a block are in its bytes.
const DIAGONALS: [[usize; 4]; 4] = [[0, 5, 10, 15], [4, 9, 14, 3], [8, 13, 2, 7], [12, 1, 6, 11]];

/// Fills `key` with what scrypt makes of a password. The cost is one that was accepted.
///
/// Uses two threads and 256·N·r bytes of memory when there is more than one lane.
pub(crate) fn derive(password: &[u8], salt: &[u8], cost: Cost, key: &mut [u8]) {
    let rounds = 1 << cost.log_n;
    let mut lanes = Zeroizing::new(vec![0; 128 * cost.r as usize * cost.p as usize]);
    stretch(password, salt, &mut lanes);
    mix_all(&mut lanes, 128 * cost.r as usize, rounds);
    stretch(password, &lanes, key);
}

/// PBKDF2 with one iteration.
fn stretch(password: &[u8], salt: &[u8], out: &mut [u8]) {
    pbkdf2::derive(PBKDF2_HMAC_SHA256, NonZeroU32::MIN, salt, password, out);
}

/// Mixes all lanes, some side by side.
fn mix_all(lanes: &mut [u8], length: usize, rounds: usize) {
    let threads = AT_ONCE.min(lanes.len() / length);
    let left = Mutex::new(lanes.chunks_exact_mut(length));
    let work = || {
        let mut mixer = Mixer::new(length / size_of::<Block>(), rounds);
        loop {
            let lane = left.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(lane) = lane else { return };
            mixer.mix(lane);
        }
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            // Where no thread can be had, this one does it all.
            let _ = thread::Builder::new().name("key".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
}

/// The memory of one thread: what scrypt calls V, and the block that is mixed, twice.
struct Mixer {
    blocks: usize,
    past: Vec<Block>,
    present: Vec<Block>,
    next: Vec<Block>,
}

impl Mixer {
    fn new(blocks: usize, rounds: usize) -> Self {
        let empty = [[0; 4]; 4];
        Self {
            blocks,
            past: vec![empty; blocks * rounds],
            present: vec![empty; blocks],
            next: vec![empty; blocks],
        }
    }

    /// scryptROMix. The number of rounds is a power of two.
    fn mix(&mut self, lane: &mut [u8]) {
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn examples_of_the_standard_come_out() {
        // RFC 7914, section 12. The last one, which takes 1 GiB, is left out.
        let examples = [
            (
                ("", "", Cost { log_n: 4, r: 1, p: 1 }),
                "77d6576238657b203b19ca42c18a0497f16b4844e3074ae8dfdffa3fede21442\
                 fcd0069ded0948f8326a753a0fc81f17e8d3e0fb2e0d3628cf35e20c38d18906",
            ),
            (
                ("password", "NaCl", Cost { log_n: 10, r: 8, p: 16 }),
                "fdbabe1c9d3472007856e7190d01e9fe7c6ad7cbc8237830e77376634b373162\
                 2eaf30d92e22a3886ff109279d9830dac727afb94a83ee6d8360cbdfa2cc0640",
            ),
            (
                ("pleaseletmein", "SodiumChloride", Cost { log_n: 14, r: 8, p: 1 }),
                "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2\
                 d5432955613f0fcf62d49705242a9af9e61e85dc0d651e40dfcf017b45575887",
            ),
        ];
        for ((password, salt, cost), expected) in examples {
            let mut key = [0; 64];
            derive(password.as_bytes(), salt.as_bytes(), cost, &mut key);
            assert_eq!(hex(&key), expected, "{cost:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_cost_gives_the_key_that_others_derive(
            password in any::<Vec<u8>>(), salt in any::<Vec<u8>>(), log_n in 1u8..9, r in 1u32..17, p in 1u32..9,
        ) {
            let (mut key, mut expected) = ([0; 64], [0; 64]);
            derive(&password, &salt, Cost { log_n, r, p }, &mut key);
            // The crate wants N below 2^(16·r).
            let params = ::scrypt::Params::new(log_n, r, p).unwrap();
            ::scrypt::scrypt(&password, &salt, &params, &mut expected).unwrap();
            prop_assert_eq!(hex(&key), hex(&expected));
        }
    }
}
