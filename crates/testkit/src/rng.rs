//! The one source of chance here: small, fast, and the same on every machine for ever.

/// A splitmix64 generator. Not for secrets; for tests that a seed must repeat exactly.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Returns the generator of `seed`; neighbouring seeds give unrelated numbers.
    pub fn new(seed: u64) -> Self {
        let mut rng = Self(seed);
        rng.0 = rng.next() ^ seed.rotate_left(32);
        rng
    }

    /// Returns the generator of one thing (`number`) among many that share a seed.
    pub fn of(seed: u64, number: u64) -> Self {
        Self::new(seed ^ number.wrapping_mul(0xD6E8_FEB8_6659_FD93))
    }

    /// Returns the next 64 random bits.
    #[allow(clippy::should_implement_trait)] // an iterator without end would say less
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns a number below `bound`; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // The high half of a product: its bias is far below what any test here could see.
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }

    /// Returns a number in `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high - low + 1)
    }

    /// Says yes `times` times in `of` on average.
    pub fn chance(&mut self, times: u64, of: u64) -> bool {
        self.below(of) < times
    }

    /// Fills `buffer` with bytes that do not compress.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut words = buffer.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.next().to_le_bytes());
        }
        let rest = words.into_remainder();
        let last = self.next().to_le_bytes();
        rest.copy_from_slice(&last[..rest.len()]);
    }

    /// Appends text of `length` bytes that compresses about as written language does.
    pub fn text(&mut self, length: usize, out: &mut Vec<u8>) {
        let end = out.len() + length;
        while out.len() < end {
            // The smaller of two draws: few words are frequent, many are rare.
            let word = WORDS.get_or_init(vocabulary);
            let index = self.below(VOCABULARY).min(self.below(VOCABULARY));
            out.extend_from_slice(&word[index as usize]);
            out.push(b' ');
        }
        out.truncate(end);
    }
}

const VOCABULARY: u64 = 2000;
static WORDS: std::sync::OnceLock<Vec<Vec<u8>>> = std::sync::OnceLock::new();

fn vocabulary() -> Vec<Vec<u8>> {
    let mut rng = Rng::new(42);
    let letter = |rng: &mut Rng| b'a' + rng.below(26) as u8;
    (0..VOCABULARY)
        .map(|_| {
            let length = rng.between(3, 10);
            (0..length).map(|_| letter(&mut rng)).collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_change() {
        let mut rng = Rng::new(7);
        let first: Vec<u64> = (0..3).map(|_| rng.next()).collect();
        assert_eq!(first, [Rng::new(7).next(), first[1], first[2]]);
        assert_ne!(Rng::of(7, 1).next(), Rng::of(7, 2).next());
    }

    #[test]
    fn below_stays_below_and_reaches_all() {
        let mut rng = Rng::new(1);
        let mut seen = [false; 5];
        (0..1000).for_each(|_| seen[rng.below(5) as usize] = true);
        assert_eq!(seen, [true; 5]);
    }

    #[test]
    fn text_has_the_asked_length() {
        let mut out = Vec::new();
        Rng::new(3).text(137, &mut out);
        assert_eq!(out.len(), 137);
        assert!(out.iter().all(|byte| byte.is_ascii_lowercase() || *byte == b' '));
    }
}
