//! The key derivation of the format: scrypt.
//!
//! Opening a repository is mostly this, and short commands are mostly opening it. So the lanes of a key go two ways:
//! up to four side by side in the vectors of one thread where the processor has AVX-512 (`wide`), else one by one in
//! each of two threads (`narrow`). A key of five lanes takes 105 ms or 145 ms by that, on a machine where the
//! `scrypt` crate takes 240 ms. The tests compare all of them.
//!
//! Source: RFC 7914. Blocks are kept with their words in the order of the diagonals, as all implementations
//! with vectors do: then the four words of a row go through a quarter round together.

mod narrow;
#[cfg(target_arch = "x86_64")]
mod wide;

use std::num::NonZeroU32;
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;
use std::sync::{Mutex, PoisonError};
use std::thread;

use ring::pbkdf2::{self, PBKDF2_HMAC_SHA256};
use zeroize::Zeroizing;

use crate::format::key::Cost;

/// How many threads mix.
const THREADS: usize = 2;
/// How many lanes a thread mixes side by side, at most.
const SIDE_BY_SIDE: usize = 4;
/// What lanes that are side by side may take together, unless it is one. Each needs memory of its own.
const MEMORY: usize = 96 << 20;

/// Bytes of one block, as Salsa20 sees them.
const BLOCK: usize = 64;
/// Where the words of a block are in its bytes: diagonals of a square of words.
const DIAGONALS: [[usize; 4]; 4] = [[0, 5, 10, 15], [4, 9, 14, 3], [8, 13, 2, 7], [12, 1, 6, 11]];

/// The measures of a lane.
#[derive(Clone, Copy)]
struct Measures {
    /// How many blocks a lane has: 2·r.
    blocks: usize,
    /// How many states of itself it remembers: N, a power of two.
    rounds: usize,
}

/// How lanes are mixed on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    #[cfg(target_arch = "x86_64")]
    Wide,
    Narrow,
}

/// One way to mix lanes, with the memory for it.
enum Mixer {
    #[cfg(target_arch = "x86_64")]
    Wide(wide::Lanes),
    Narrow(narrow::Lane),
}

/// Fills `key` with what scrypt makes of a password. The cost is one that was accepted.
///
/// Uses two threads when there is more than one lane. Each takes 96 MiB of memory at most, or 128·N·r bytes when that
/// is more.
pub(crate) fn derive(password: &[u8], salt: &[u8], cost: Cost, key: &mut [u8]) {
    derive_by(way(), password, salt, cost, key);
}

fn derive_by(way: Way, password: &[u8], salt: &[u8], cost: Cost, key: &mut [u8]) {
    let measures = Measures { blocks: 2 * cost.r as usize, rounds: 1 << cost.log_n };
    let mut lanes = Zeroizing::new(vec![0; measures.blocks * BLOCK * cost.p as usize]);
    stretch(password, salt, &mut lanes);
    mix_all(way, &mut lanes, measures);
    stretch(password, &lanes, key);
}

/// PBKDF2 with one iteration.
fn stretch(password: &[u8], salt: &[u8], out: &mut [u8]) {
    pbkdf2::derive(PBKDF2_HMAC_SHA256, NonZeroU32::MIN, salt, password, out);
}

/// Mixes all lanes, group by group, in several threads.
fn mix_all(way: Way, lanes: &mut [u8], measures: Measures) {
    let length = measures.blocks * BLOCK;
    let count = lanes.len() / length;
    let group = side_by_side(measures, count);
    let left = Mutex::new(lanes.chunks_mut(length * group));
    let work = || {
        let mut mixer = Mixer::new(way, measures, group);
        loop {
            let lanes = left.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(lanes) = lanes else { return };
            mixer.mix(lanes);
        }
    };
    thread::scope(|scope| {
        for _ in 1..THREADS.min(count) {
            // Where no thread can be had, this one does it all.
            let _ = thread::Builder::new().name("key".to_owned()).spawn_scoped(scope, work);
        }
        work();
    });
}

/// Returns how many lanes a thread takes at a time.
fn side_by_side(measures: Measures, count: usize) -> usize {
    let memory = measures.blocks * BLOCK * measures.rounds;
    count.div_ceil(THREADS).min(SIDE_BY_SIDE).min(MEMORY / memory).max(1)
}

/// Chosen once a process: the wide way where the processor has it and it agrees with the narrow one.
///
/// A wrong key would make a repository that nobody else can open.
fn way() -> Way {
    #[cfg(target_arch = "x86_64")]
    {
        static WAY: OnceLock<Way> = OnceLock::new();
        *WAY.get_or_init(|| if wide::is_here() && is_right(Way::Wide) { Way::Wide } else { Way::Narrow })
    }
    #[cfg(not(target_arch = "x86_64"))]
    Way::Narrow
}

/// Says whether a way gives what the narrow one gives, with full and partly filled groups of lanes.
#[cfg(target_arch = "x86_64")]
fn is_right(way: Way) -> bool {
    let measures = Measures { blocks: 4, rounds: 16 };
    (1..=SIDE_BY_SIDE).all(|count| {
        let lanes: Vec<u8> = (0..count * measures.blocks * BLOCK)
            .map(|place| (place * 167 + place / 251).to_le_bytes()[0])
            .collect();
        let [one, other] = [way, Way::Narrow].map(|way| {
            let mut lanes = lanes.clone();
            Mixer::new(way, measures, count).mix(&mut lanes);
            lanes
        });
        one == other
    })
}

impl Mixer {
    /// Makes a mixer for so many lanes at a time.
    fn new(way: Way, measures: Measures, lanes: usize) -> Self {
        match way {
            #[cfg(target_arch = "x86_64")]
            Way::Wide if lanes > 1 => Self::Wide(wide::Lanes::new(measures, lanes)),
            _ => Self::Narrow(narrow::Lane::new(measures)),
        }
    }

    /// scryptROMix of each lane of `lanes`, at most as many as the mixer was made for.
    fn mix(&mut self, lanes: &mut [u8]) {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Wide(mixer) => mixer.mix(lanes),
            Self::Narrow(mixer) => mixer.mix(lanes),
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
            password in any::<Vec<u8>>(), salt in any::<Vec<u8>>(), log_n in 1u8..9, r in 1u32..17, p in 1u32..11,
        ) {
            let cost = Cost { log_n, r, p };
            let mut expected = [0; 64];
            // The crate wants N below 2^(16·r).
            let params = ::scrypt::Params::new(log_n, r, p).unwrap();
            ::scrypt::scrypt(&password, &salt, &params, &mut expected).unwrap();
            for way in [way(), Way::Narrow] {
                let mut key = [0; 64];
                derive_by(way, &password, &salt, cost, &mut key);
                prop_assert_eq!(hex(&key), hex(&expected));
            }
        }
    }

    #[test]
    fn lanes_side_by_side_stay_within_their_memory() {
        let at = |log_n: u32, count| side_by_side(Measures { blocks: 16, rounds: 1 << log_n }, count);
        // One lane takes 128, 32, 16, 4 MiB.
        assert_eq!((at(17, 2), at(17, 8)), (1, 1));
        assert_eq!((at(15, 1), at(15, 2), at(15, 5), at(15, 16)), (1, 1, 3, 3));
        assert_eq!((at(14, 5), at(14, 6), at(14, 7)), (3, 3, 4));
        assert_eq!(at(12, 100), 4);
    }
}
