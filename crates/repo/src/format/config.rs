//! The object `config`, which makes a place a repository.
//!
//! Source: restic's design document, "Repository Format". Sealed, never compressed.

use serde::{Deserialize, Serialize};

use super::{FormatError, FormatResult};
use crate::crypto::fill_random;
use crate::error::Result;

/// The only format version that dbkeep uses.
pub const VERSION: u32 = 2;

/// The contents of `config`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// The version of the format.
    pub version: u32,
    /// A random name of the repository, 64 hexadecimal digits.
    pub id: String,
    /// What restic cuts files with; ours are cut otherwise. Hexadecimal.
    pub chunker_polynomial: String,
}

impl Config {
    /// Makes the config of a new repository.
    pub fn generate() -> Result<Self> {
        let mut id = [0; 32];
        fill_random(&mut id)?;
        let chunker_polynomial = format!("{:x}", random_irreducible_polynomial()?);
        Ok(Self { version: VERSION, id: crate::Id::new(id).to_string(), chunker_polynomial })
    }

    /// Returns the JSON.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a number and two strings always become JSON")
    }

    /// Reads the JSON. The caller judges the version, which may be any.
    pub fn decode(json: &[u8]) -> FormatResult<Self> {
        let config: Self = serde_json::from_slice(json)?;
        if config.id.parse::<crate::Id>().is_err() {
            return Err(FormatError::new("its id is not 64 hexadecimal digits"));
        }
        Ok(config)
    }
}

/// The degree that restic's chunker demands.
const DEGREE: u32 = 53;

/// Draws polynomials over GF(2) until one is irreducible; about one in 53 is.
fn random_irreducible_polynomial() -> Result<u64> {
    loop {
        let mut bytes = [0; 8];
        fill_random(&mut bytes)?;
        // Bit 53 makes the degree, bit 0 keeps x from being a factor.
        let polynomial = u64::from_le_bytes(bytes) & ((1 << DEGREE) - 1) | 1 << DEGREE | 1;
        if is_irreducible(polynomial) {
            return Ok(polynomial);
        }
    }
}

/// Says whether a polynomial of degree 53 has no factors (Rabin's test).
///
/// 53 is prime, so it is enough that x^(2^53) = x modulo the polynomial and that it shares no factor
/// with x^2 + x: neither x (bit 0 is set) nor x + 1 (an odd number of terms).
fn is_irreducible(polynomial: u64) -> bool {
    if polynomial & 1 == 0 || polynomial.count_ones().is_multiple_of(2) {
        return false;
    }
    let mut power = 2;
    for _ in 0..DEGREE {
        power = square_modulo(power, polynomial);
    }
    power == 2
}

fn square_modulo(value: u64, polynomial: u64) -> u64 {
    let mut square = 0u128;
    for bit in 0..DEGREE {
        square |= u128::from(value >> bit & 1) << (2 * bit);
    }
    for bit in (DEGREE..2 * DEGREE).rev() {
        if square >> bit & 1 == 1 {
            square ^= u128::from(polynomial) << (bit - DEGREE);
        }
    }
    u64::try_from(square).expect("the remainder has less than 53 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polynomials_that_restic_made_are_irreducible() {
        // From restic's design document and from repositories that restic 0.14 made.
        for polynomial in [0x0025_b468_838d_cb75, 0x0033_1e0f_861b_33eb] {
            assert!(is_irreducible(polynomial));
        }
    }

    #[test]
    fn products_are_not_irreducible() {
        for polynomial in [1 << 53, 1 << 53 | 1, (1 << 53) | 3, 0x0025_b468_838d_cb75 ^ 2] {
            assert!(!is_irreducible(polynomial), "{polynomial:x}");
        }
    }

    #[test]
    fn new_config_is_read_back() {
        let config = Config::generate().unwrap();
        assert_eq!(config.version, 2);
        assert_eq!(config.chunker_polynomial.len(), 14);
        assert_eq!(Config::decode(&config.encode()).unwrap(), config);
        assert_ne!(Config::generate().unwrap().id, config.id);
    }

    #[test]
    fn config_with_an_odd_id_is_refused() {
        assert!(Config::decode(br#"{"version":2,"id":"x","chunker_polynomial":"1"}"#).is_err());
        assert!(Config::decode(b"{}").is_err());
    }
}
