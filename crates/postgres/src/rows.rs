//! Counting and hashing rows as COPY writes them.
//!
//! A table's hash does not depend on the order of its rows: each row is hashed by itself (XXH3, 128 bits, without its
//! line end), and the hashes are added, modulo 2^128. Adding keeps count of rows that are there twice, which an
//! exclusive or would not. It tells accidents, not forgers: those the repository's own hashes keep out.

use std::fmt;
use std::str::FromStr;

use memchr::memchr;
use twox_hash::XxHash3_128;

/// How many rows there are, and what they hold in any order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowSum {
    /// How many.
    pub rows: u64,
    /// The sum of the hashes of all.
    pub hash: RowHash,
}

/// The sum of the hashes of rows; written as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RowHash(u128);

impl fmt::Display for RowHash {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

impl FromStr for RowHash {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

impl RowSum {
    /// Returns the sum of both, as of a table that is read in parts.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, hash: RowHash(self.hash.0.wrapping_add(other.hash.0)) }
    }

    fn add(&mut self, hash: u128) {
        self.rows += 1;
        self.hash.0 = self.hash.0.wrapping_add(hash);
    }
}

/// Where a row ends in a piece of rows, and its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowEnd {
    /// The first byte behind its line end.
    pub at: usize,
    /// Some of the bits of its hash.
    pub hash: u64,
}

/// Sums up rows that come in pieces; a row may be in several.
#[derive(Default)]
pub struct RowSummer {
    sum: RowSum,
    /// Those of the last piece.
    ends: Vec<RowEnd>,
    /// The begin of a row whose end has not come yet.
    open: Option<Box<XxHash3_128>>,
}

impl RowSummer {
    /// Takes the next bytes. Returns where rows end in them.
    pub fn update(&mut self, piece: &[u8]) -> &[RowEnd] {
        self.ends.clear();
        let mut bytes = piece;
        while let Some(end) = memchr(b'\n', bytes) {
            let row = &bytes[..end];
            let hash = match self.open.take() {
                Some(mut open) => {
                    open.write(row);
                    open.finish_128()
                }
                None => XxHash3_128::oneshot(row),
            };
            self.sum.add(hash);
            bytes = &bytes[end + 1..];
            // The upper half of 128 bits.
            let hash = u64::try_from(hash >> 64).unwrap_or_default();
            self.ends.push(RowEnd { at: piece.len() - bytes.len(), hash });
        }
        if !bytes.is_empty() {
            self.open.get_or_insert_with(|| Box::new(XxHash3_128::new())).write(bytes);
        }
        &self.ends
    }

    /// Returns the sum so far; `None` in the middle of a row.
    pub fn sum(&self) -> Option<RowSum> {
        self.open.is_none().then_some(self.sum)
    }

    /// Returns the sum; `None` when the last row has no end.
    pub fn finish(self) -> Option<RowSum> {
        self.sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(pieces: &[&[u8]]) -> Option<RowSum> {
        let mut summer = RowSummer::default();
        for piece in pieces {
            let ends = summer.update(piece).to_vec();
            let expected: Vec<usize> = (1..=piece.len()).filter(|at| piece[at - 1] == b'\n').collect();
            assert_eq!(ends.iter().map(|end| end.at).collect::<Vec<_>>(), expected);
        }
        summer.finish()
    }

    #[test]
    fn sum_is_that_of_the_published_algorithm() {
        // XXH3 with 128 bits of nothing and of "a", as the reference implementation gives them.
        assert_eq!(sum(&[b"\n"]).unwrap().hash.to_string(), "99aa06d3014798d86001c324468d497f");
        assert_eq!(sum(&[b"a\n"]).unwrap().hash.to_string(), "a96faf705af16834e6c632b61e964e1f");
    }

    #[test]
    fn row_has_the_same_hash_however_it_comes() {
        let hashes = |pieces: &[&[u8]]| {
            let mut summer = RowSummer::default();
            pieces
                .iter()
                .flat_map(|piece| summer.update(piece).to_vec())
                .map(|end| end.hash)
                .collect::<Vec<_>>()
        };
        let whole = hashes(&[b"one\ntwo\n\n"]);
        assert_eq!(whole.len(), 3);
        assert_ne!(whole[0], whole[1]);
        assert_eq!(hashes(&[b"o", b"ne", b"\ntw", b"o\n", b"\n"]), whole);
    }

    #[test]
    fn row_without_an_end_is_no_table() {
        assert_eq!(sum(&[b"1\n2"]), None);
        assert_eq!(sum(&[]), Some(RowSum::default()));
    }

    #[test]
    fn rows_that_are_there_twice_count_twice() {
        let (once, twice) = (sum(&[b"a\n"]).unwrap(), sum(&[b"a\na\n"]).unwrap());
        assert_eq!(twice, once.plus(once));
        assert_ne!(twice.hash, RowHash::default());
    }

    proptest! {
        #[test]
        fn neither_order_nor_pieces_matter(
            rows in prop::collection::vec("[a-c\t]{0,300}", 0..20),
            cuts in prop::collection::vec(0_usize..3_000, 0..9),
        ) {
            let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
            let mut reversed = rows.clone();
            reversed.reverse();
            let other: String = reversed.iter().map(|row| format!("{row}\n")).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(text.len())).chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &text.as_bytes()[pair[0]..pair[1]]).collect();
            let whole = sum(&[text.as_bytes()]);
            prop_assert_eq!(sum(&pieces), whole);
            prop_assert_eq!(sum(&[other.as_bytes()]), whole);
            prop_assert_eq!(whole.unwrap().rows, rows.len() as u64);
            let hash = whole.unwrap().hash;
            prop_assert_eq!(hash.to_string().parse::<RowHash>(), Ok(hash));
        }
    }
}
