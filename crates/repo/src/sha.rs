//! SHA-256 of several messages at once.
//!
//! One message leaves most of a processor's SHA unit idle, because each round waits for the one
//! before. Four messages, round by round side by side, are hashed in about half the time (4.0 against
//! 2.1 GB/s a core on Zen 5); where one ends, the next one takes its place. Where there is no such unit,
//! eight messages of the same length go side by side through AVX2, which is about three times as fast
//! as one alone. For what is left over, and elsewhere, there is `ring`.
//!
//! Source: FIPS 180-4; Intel's description of the SHA extensions for the order of words in registers.

#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;

use crate::Id;

/// Returns the SHA-256 of every message.
pub(crate) fn ids(messages: &[&[u8]], ids: &mut Vec<Id>) {
    ids.clear();
    #[cfg(target_arch = "x86_64")]
    if messages.len() >= unit::LANES && unit_is_right() {
        ids.resize(messages.len(), Id::NULL);
        // SAFETY: the processor has all features that the function is compiled for; it has no other precondition.
        unsafe { unit::digests(messages, ids) };
        return;
    }
    let mut rest = messages;
    while !rest.is_empty() {
        let hashed = side_by_side(rest, ids);
        if hashed == 0 {
            ids.push(Id::of(rest[0]));
        }
        rest = &rest[hashed.max(1)..];
    }
}

/// Appends the SHA-256 of the first few messages and returns how many those were: 0 when they differ in
/// length, are too few, or the processor cannot.
#[cfg(target_arch = "x86_64")]
fn side_by_side(messages: &[&[u8]], ids: &mut Vec<Id>) -> usize {
    if let Some(eight) = messages.first_chunk().filter(|eight| wide_is_right() && are_equally_long(*eight)) {
        // SAFETY: the processor has the feature that the function is compiled for; it has no other precondition.
        ids.extend(unsafe { wide::digests(eight) });
        return eight.len();
    }
    0
}

/// Says whether the SHA unit is here and gives the digests that `ring` gives; tried once a process.
///
/// A wrong digest would store a blob under a wrong name, and nothing after it would notice before a restore.
#[cfg(target_arch = "x86_64")]
fn unit_is_right() -> bool {
    static IS_RIGHT: OnceLock<bool> = OnceLock::new();
    *IS_RIGHT.get_or_init(|| {
        let digests = |messages: &[&[u8]; 2 * unit::LANES]| {
            let mut ids = [Id::NULL; 2 * unit::LANES];
            // SAFETY: only called where the processor has the features.
            unsafe { unit::digests(messages, &mut ids) };
            ids
        };
        unit::is_here() && agrees_with_ring(false, digests) && agrees_with_ring(true, digests)
    })
}

/// The same for eight messages through AVX2.
#[cfg(target_arch = "x86_64")]
fn wide_is_right() -> bool {
    static IS_RIGHT: OnceLock<bool> = OnceLock::new();
    *IS_RIGHT.get_or_init(|| {
        // SAFETY: only called where the processor has the feature.
        wide::is_here() && agrees_with_ring(false, |messages: &[&[u8]; 8]| unsafe { wide::digests(messages) })
    })
}

/// Says whether `digests` is right about messages that end everywhere in a block, each lane with other bytes, and where
/// they are to be `uneven` with another length.
#[cfg(target_arch = "x86_64")]
fn agrees_with_ring<const LANES: usize>(
    uneven: bool,
    digests: impl Fn(&[&[u8]; LANES]) -> [Id; LANES],
) -> bool {
    const LONGER: usize = 37;
    let mut bytes = Vec::with_capacity(64 * LANES);
    let mut seed = Id::of(b"dbkeep tries its hashing");
    while bytes.len() < 192 + LANES * (8 + LONGER) {
        bytes.extend_from_slice(seed.as_bytes());
        seed = Id::of(seed.as_bytes());
    }
    [0, 1, 55, 56, 63, 64, 119, 120, 191, 192].into_iter().all(|length| {
        let end = |lane| if uneven { length + lane * LONGER } else { length };
        let messages: [&[u8]; LANES] = std::array::from_fn(|lane| &bytes[lane * 8..][..end(lane)]);
        digests(&messages) == messages.map(Id::of)
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn side_by_side(_: &[&[u8]], _: &mut Vec<Id>) -> usize {
    0
}

const BLOCK: usize = 64;

/// The first 32 bits of the fractional parts of the square roots of the first eight primes.
const START: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// The first 32 bits of the fractional parts of the cube roots of the first sixty-four primes.
#[rustfmt::skip]
const ROUNDS: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

#[cfg(target_arch = "x86_64")]
fn are_equally_long(messages: &[&[u8]]) -> bool {
    messages.iter().all(|message| message.len() == messages[0].len())
}

/// What follows the whole blocks of a message: the rest of it, a one, zeros, and its length in bits.
#[cfg(target_arch = "x86_64")]
fn tail(message: &[u8]) -> ([u8; 2 * BLOCK], usize) {
    let mut tail = [0; 2 * BLOCK];
    let rest = message.len() % BLOCK;
    let end = if rest < BLOCK - 8 { BLOCK } else { 2 * BLOCK };
    tail[..rest].copy_from_slice(&message[message.len() - rest..]);
    tail[rest] = 0x80;
    tail[end - 8..end].copy_from_slice(&(message.len() as u64 * 8).to_be_bytes());
    (tail, end)
}

/// Four messages through the SHA unit.
#[cfg(target_arch = "x86_64")]
mod unit {
    use std::arch::x86_64::{
        __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_blend_epi16, _mm_cvtsi128_si64, _mm_set_epi32,
        _mm_set_epi64x, _mm_setzero_si128, _mm_sha256msg1_epu32, _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32,
        _mm_shuffle_epi8, _mm_shuffle_epi32, _mm_unpackhi_epi64,
    };

    use super::{BLOCK, ROUNDS, START, tail};
    use crate::Id;

    /// How many messages go side by side.
    pub(super) const LANES: usize = 4;

    pub(super) fn is_here() -> bool {
        std::is_x86_feature_detected!("sha")
            && std::is_x86_feature_detected!("sse4.1")
            && std::is_x86_feature_detected!("ssse3")
    }

    /// The states of some lanes, in the order that the SHA instructions want: words a, b, e, f and c, d, g, h.
    #[derive(Clone, Copy)]
    struct States<const LANES: usize> {
        abef: [__m128i; LANES],
        cdgh: [__m128i; LANES],
    }

    /// A message on its way through a lane.
    struct Message<'m> {
        /// Its place among all messages.
        place: usize,
        /// The blocks that are to be fed yet, of the message itself, and then of what follows them.
        whole: &'m [[u8; BLOCK]],
        tail: [u8; 2 * BLOCK],
        tail_at: usize,
        tail_end: usize,
    }

    impl<'m> Message<'m> {
        fn new(place: usize, message: &'m [u8]) -> Self {
            let (tail, tail_end) = tail(message);
            Self { place, whole: message.as_chunks().0, tail, tail_at: 0, tail_end }
        }

        /// Returns the blocks that can be fed one after the other; none at its end.
        fn blocks(&self) -> &[[u8; BLOCK]] {
            match self.whole {
                [] => self.tail[self.tail_at..self.tail_end].as_chunks().0,
                whole => whole,
            }
        }

        fn skip(&mut self, blocks: usize) {
            match self.whole {
                [] => self.tail_at += blocks * BLOCK,
                whole => self.whole = &whole[blocks..],
            }
        }
    }

    /// Writes the digests of messages of any lengths, of which there are as many as lanes at least.
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    pub(super) fn digests(messages: &[&[u8]], digests: &mut [Id]) {
        // The longest ones first, so that all lanes end at nearly the same time.
        let mut order: Vec<usize> = (0..messages.len()).collect();
        order.sort_by_key(|place| std::cmp::Reverse(messages[*place].len()));
        let mut waiting = order.into_iter().map(|place| Message::new(place, messages[place]));
        let mut lanes: [Option<Message<'_>>; LANES] = std::array::from_fn(|_| waiting.next());
        let mut states = start();
        while let [Some(first), Some(second), Some(third), Some(fourth)] = &mut lanes {
            let together = [first, second, third, fourth];
            feed(&mut states, together);
            for (place, lane) in lanes.iter_mut().enumerate() {
                if let Some(done) = lane.take_if(|message| message.blocks().is_empty()) {
                    digests[done.place] = digest(&states, place);
                    states.set(place, &start());
                    *lane = waiting.next();
                }
            }
        }
        for (place, lane) in lanes.iter_mut().enumerate() {
            let Some(message) = lane else { continue };
            let mut state = States { abef: [states.abef[place]], cdgh: [states.cdgh[place]] };
            while !message.blocks().is_empty() {
                feed(&mut state, [&mut *message]);
            }
            digests[message.place] = digest(&state, 0);
        }
    }

    /// Feeds as many blocks of each message as all of them have.
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn feed<const LANES: usize>(states: &mut States<LANES>, mut messages: [&mut Message<'_>; LANES]) {
        let blocks = messages.each_ref().map(|message| message.blocks());
        let count = blocks.iter().map(|blocks| blocks.len()).min().unwrap_or(0);
        for block in 0..count {
            *states = compress(*states, blocks.map(|blocks| &blocks[block]));
        }
        messages.iter_mut().for_each(|message| message.skip(count));
    }

    impl<const LANES: usize> States<LANES> {
        /// Puts the only state of another one into a lane.
        fn set(&mut self, lane: usize, state: &States<1>) {
            self.abef[lane] = state.abef[0];
            self.cdgh[lane] = state.cdgh[0];
        }
    }

    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn start<const LANES: usize>() -> States<LANES> {
        let [a, b, c, d, e, f, g, h] = START.map(u32::cast_signed);
        States { abef: [_mm_set_epi32(a, b, e, f); LANES], cdgh: [_mm_set_epi32(c, d, g, h); LANES] }
    }

    /// Feeds one block of each message.
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    #[inline]
    fn compress<const LANES: usize>(before: States<LANES>, blocks: [&[u8; BLOCK]; LANES]) -> States<LANES> {
        let big_endian = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        let mut words = [[_mm_setzero_si128(); 4]; LANES];
        for (words, block) in words.iter_mut().zip(blocks) {
            for (word, bytes) in words.iter_mut().zip(block.as_chunks::<16>().0) {
                *word = _mm_shuffle_epi8(load(bytes), big_endian);
            }
        }
        let States { mut abef, mut cdgh } = before;
        for quad in 0..16 {
            let constant = constants(quad);
            for lane in 0..LANES {
                let words = &mut words[lane];
                let sum = _mm_add_epi32(words[quad % 4], constant);
                cdgh[lane] = _mm_sha256rnds2_epu32(cdgh[lane], abef[lane], sum);
                abef[lane] = _mm_sha256rnds2_epu32(abef[lane], cdgh[lane], _mm_shuffle_epi32(sum, 0x0e));
                if quad < 12 {
                    words[quad % 4] = schedule(words, quad);
                }
            }
        }
        for lane in 0..LANES {
            abef[lane] = _mm_add_epi32(abef[lane], before.abef[lane]);
            cdgh[lane] = _mm_add_epi32(cdgh[lane], before.cdgh[lane]);
        }
        States { abef, cdgh }
    }

    /// Returns the four message words that come sixteen after those of `quad`.
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    #[inline]
    fn schedule(words: &[__m128i; 4], quad: usize) -> __m128i {
        let [first, second, third, fourth] = [0, 1, 2, 3].map(|step| words[(quad + step) % 4]);
        let sum = _mm_add_epi32(_mm_sha256msg1_epu32(first, second), _mm_alignr_epi8(fourth, third, 4));
        _mm_sha256msg2_epu32(sum, fourth)
    }

    #[target_feature(enable = "sha,sse4.1,ssse3")]
    #[inline]
    fn constants(quad: usize) -> __m128i {
        let [first, second, third, fourth] = [0, 1, 2, 3].map(|step| ROUNDS[quad * 4 + step].cast_signed());
        _mm_set_epi32(fourth, third, second, first)
    }

    /// The compiler makes one instruction of this.
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    #[inline]
    fn load(bytes: &[u8; 16]) -> __m128i {
        let both = u128::from_le_bytes(*bytes);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of 128 bits")]
        let (low, high) = (both as i64, (both >> 64) as i64);
        _mm_set_epi64x(high, low)
    }

    /// Returns the digest that a lane has come to.
    #[target_feature(enable = "sha,sse4.1,ssse3")]
    fn digest<const LANES: usize>(states: &States<LANES>, lane: usize) -> Id {
        let feba = _mm_shuffle_epi32(states.abef[lane], 0x1b);
        let dchg = _mm_shuffle_epi32(states.cdgh[lane], 0xb1);
        let halves = [_mm_blend_epi16(feba, dchg, 0xf0), _mm_alignr_epi8(dchg, feba, 8)];
        let mut digest = [0; 32];
        for (place, half) in digest.chunks_exact_mut(16).zip(halves) {
            let words = [_mm_cvtsi128_si64(half), _mm_cvtsi128_si64(_mm_unpackhi_epi64(half, half))];
            for (place, word) in place.chunks_exact_mut(8).zip(words) {
                // Two words of 32 bits, the first one in the lower half.
                place.copy_from_slice(&word.rotate_left(32).to_be_bytes());
            }
        }
        Id::new(digest)
    }
}

/// Eight messages through AVX2: each register holds the same word of all of them. The compiler makes
/// vector instructions of loops over the lanes.
#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{BLOCK, ROUNDS, START, tail};
    use crate::Id;

    /// How many messages go side by side.
    const LANES: usize = 8;

    /// The same word of every lane.
    type Words = [u32; LANES];

    pub(super) fn is_here() -> bool {
        std::is_x86_feature_detected!("avx2")
    }

    /// Returns the digests of messages of one length.
    #[target_feature(enable = "avx2")]
    pub(super) fn digests(messages: &[&[u8]; LANES]) -> [Id; LANES] {
        let mut state = START.map(|word| [word; LANES]);
        for block in 0..messages[0].len() / BLOCK {
            compress(&mut state, messages, block * BLOCK);
        }
        let tails = messages.map(tail);
        let mut lanes = [&[][..]; LANES];
        for (lane, (tail, _)) in lanes.iter_mut().zip(&tails) {
            *lane = tail;
        }
        for block in 0..tails[0].1 / BLOCK {
            compress(&mut state, &lanes, block * BLOCK);
        }
        let mut digests = [[0; 32]; LANES];
        for (lane, digest) in digests.iter_mut().enumerate() {
            for (place, words) in digest.chunks_exact_mut(4).zip(&state) {
                place.copy_from_slice(&words[lane].to_be_bytes());
            }
        }
        digests.map(Id::new)
    }

    /// Feeds the block at `offset` of each message.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn compress(state: &mut [Words; 8], messages: &[&[u8]; LANES], offset: usize) {
        let mut schedule = [[0; LANES]; 16];
        for (lane, message) in messages.iter().enumerate() {
            let block = message[offset..offset + BLOCK].as_chunks::<4>().0;
            for (words, bytes) in schedule.iter_mut().zip(block) {
                words[lane] = u32::from_be_bytes(*bytes);
            }
        }
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
        for round in 0..64 {
            if round >= 16 {
                schedule[round % 16] = next(&schedule, round);
            }
            let words = schedule[round % 16];
            let mut new_a = [0; LANES];
            let mut new_e = [0; LANES];
            for lane in 0..LANES {
                let (a, b, c, e, f, g) = (a[lane], b[lane], c[lane], e[lane], f[lane], g[lane]);
                let choice = (e & f) ^ (!e & g);
                let sum = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
                let first = h[lane].wrapping_add(sum).wrapping_add(choice);
                let first = first.wrapping_add(ROUNDS[round]).wrapping_add(words[lane]);
                let majority = (a & b) ^ (a & c) ^ (b & c);
                let sum = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
                new_a[lane] = first.wrapping_add(sum).wrapping_add(majority);
                new_e[lane] = first.wrapping_add(d[lane]);
            }
            (h, g, f, e, d, c, b, a) = (g, f, e, new_e, c, b, a, new_a);
        }
        for (words, added) in state.iter_mut().zip([a, b, c, d, e, f, g, h]) {
            for (word, added) in words.iter_mut().zip(added) {
                *word = word.wrapping_add(added);
            }
        }
    }

    /// Returns the message words of a round from the seventeenth on.
    #[target_feature(enable = "avx2")]
    #[inline]
    fn next(schedule: &[Words; 16], round: usize) -> Words {
        let [oldest, second, tenth, fifteenth] = [0, 1, 9, 14].map(|step| schedule[(round + step) % 16]);
        let mut words = [0; LANES];
        for (lane, word) in words.iter_mut().enumerate() {
            let (near, far) = (second[lane], fifteenth[lane]);
            let near = near.rotate_right(7) ^ near.rotate_right(18) ^ (near >> 3);
            let far = far.rotate_right(17) ^ far.rotate_right(19) ^ (far >> 10);
            *word = oldest[lane].wrapping_add(near).wrapping_add(tenth[lane]).wrapping_add(far);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(seed: u8, length: usize) -> Vec<u8> {
        let mut state = u32::from(seed) + 1;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_be_bytes()[0]
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn messages_side_by_side_have_the_digests_that_they_have_alone() {
        let mut found = Vec::new();
        for length in (0..200).chain([4095, 4096, 4097, 65536]) {
            let messages: Vec<_> = (0..11).map(|seed| message(seed, length)).collect();
            let slices: Vec<_> = messages.iter().map(Vec::as_slice).collect();
            ids(&slices, &mut found);
            let alone: Vec<_> = slices.iter().map(|message| Id::of(message)).collect();
            assert_eq!(found, alone, "length {length}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn lane_that_gives_a_wrong_digest_is_noticed() {
        let right = |messages: &[&[u8]; 4]| messages.map(Id::of);
        assert!(agrees_with_ring(false, right) && agrees_with_ring(true, right));
        for (uneven, lane, length) in [(false, 0, 0), (false, 3, 56), (true, 2, 192 + 2 * 37)] {
            assert!(!agrees_with_ring(uneven, |messages: &[&[u8]; 4]| {
                let mut digests = right(messages);
                if messages[lane].len() == length {
                    digests[lane] = Id::NULL;
                }
                digests
            }));
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn wide_lanes_give_the_same_digests() {
        if !wide::is_here() {
            return;
        }
        for length in (0..200).chain([65536]) {
            let messages: [Vec<u8>; 8] =
                std::array::from_fn(|seed| message(u8::try_from(seed).unwrap(), length));
            // SAFETY: the processor has AVX2.
            let digests = unsafe { wide::digests(&std::array::from_fn(|lane| messages[lane].as_slice())) };
            assert_eq!(digests, messages.each_ref().map(|message| Id::of(message)), "length {length}");
        }
    }

    #[test]
    fn messages_of_different_lengths_are_hashed_too() {
        let mut found = Vec::new();
        for count in [0, 1, 3, 4, 5, 9, 31u8] {
            for lengths in [
                |seed: usize| seed / 5 * 100,
                |seed| seed * 997 % 4001,
                |seed| if seed == 2 { 9000 } else { seed % 3 },
            ] {
                let messages: Vec<_> =
                    (0..count).map(|seed| message(seed, lengths(usize::from(seed)))).collect();
                let slices: Vec<_> = messages.iter().map(Vec::as_slice).collect();
                ids(&slices, &mut found);
                assert_eq!(found, slices.iter().map(|message| Id::of(message)).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn known_digest_comes_out() {
        let mut found = Vec::new();
        ids(&[b"abc".as_slice(); 4], &mut found);
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".parse().unwrap();
        assert_eq!(found, [expected; 4]);
    }
}
