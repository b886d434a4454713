//! The cryptography of the format: AES-256-CTR with Poly1305-AES.
//!
//! Source: restic's design document, "Keys, Encryption and MAC". A sealed message is
//! `nonce (16) | ciphertext | tag (16)`. The nonce is both the first counter block (128 bits,
//! big endian) and, encrypted with a key of its own, the second half of the Poly1305 key.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use aes::cipher::{BlockCipherEncrypt, InnerIvInit, KeyInit, StreamCipher};
use aes::{Aes128Enc, Aes256Enc};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ctr::{Ctr128BE, CtrCore};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::error::{Error, Result};
use crate::mac::{Mac, Powers, TAG};

/// How many bytes sealing adds: the nonce before and the tag after.
pub const OVERHEAD: usize = NONCE + TAG;

/// The length of the random bytes that a sealed message begins with.
pub(crate) const NONCE: usize = 16;

/// Bytes are encrypted and authenticated in stripes of this size, so that each stripe is in the
/// first-level cache when the MAC reads it. A multiple of what the MAC takes at once.
const STRIPE: usize = 8 * 1024;

/// Why a sealed message cannot be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is shorter than any sealed message.
    #[error("too short to be a sealed message")]
    TooShort,
    /// The MAC is wrong: it was altered, or sealed with another key.
    #[error("authentication failed")]
    Forged,
}

/// The keys that seal everything in one repository. Cloning shares them; the last owner wipes them.
#[derive(Clone)]
pub struct MasterKey(Arc<Keys>);

struct Keys {
    raw: RawKeys,
    // Expanded once; all wipe themselves.
    encrypt: Aes256Enc,
    mac: Aes128Enc,
    powers: Powers,
}

/// The key bytes, in the order in which scrypt gives them.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
struct RawKeys {
    encrypt: [u8; 32],
    mac_k: [u8; 16],
    mac_r: [u8; 16],
}

/// The keys as JSON, as key files carry them.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct KeysJson {
    mac: MacJson,
    encrypt: String,
}

#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
struct MacJson {
    k: String,
    r: String,
}

impl MasterKey {
    /// Makes a new random key.
    pub fn generate() -> Result<Self> {
        let mut bytes = Zeroizing::new([0u8; 64]);
        fill_random(&mut *bytes)?;
        Ok(Self::from_bytes(&bytes))
    }

    /// Makes a key of 64 bytes: 32 for AES-256, 16 for the MAC's AES, 16 for Poly1305.
    pub fn from_bytes(bytes: &[u8; 64]) -> Self {
        let mut raw = RawKeys { encrypt: [0; 32], mac_k: [0; 16], mac_r: [0; 16] };
        raw.encrypt.copy_from_slice(&bytes[..32]);
        raw.mac_k.copy_from_slice(&bytes[32..48]);
        raw.mac_r.copy_from_slice(&bytes[48..]);
        Self::new(raw)
    }

    fn new(raw: RawKeys) -> Self {
        let encrypt = Aes256Enc::new(&raw.encrypt.into());
        let mac = Aes128Enc::new(&raw.mac_k.into());
        let powers = Powers::new(&raw.mac_r);
        Self(Arc::new(Keys { raw, encrypt, mac, powers }))
    }

    /// Appends `plain`, sealed under a fresh random nonce, to `out`: [`OVERHEAD`] bytes more than `plain`.
    ///
    /// Allocates only what `out` has to grow.
    pub fn seal(&self, plain: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let nonce = next_nonce()?;
        out.reserve(plain.len() + OVERHEAD);
        out.extend_from_slice(&nonce);

        let mut cipher = self.cipher(&nonce);
        let mut mac = self.mac();
        let mut stripes = plain.chunks_exact(STRIPE);
        for stripe in &mut stripes {
            let start = out.len();
            out.extend_from_slice(stripe);
            cipher.apply_keystream(&mut out[start..]);
            mac.update(&out[start..]);
        }
        let start = out.len();
        out.extend_from_slice(stripes.remainder());
        cipher.apply_keystream(&mut out[start..]);
        let tag = mac.finish(&out[start..], &self.pad(&nonce));
        out.extend_from_slice(&tag);
        Ok(())
    }

    /// Opens a sealed message in place and returns the plaintext inside of it.
    ///
    /// The MAC is checked first, in constant time; after an error `sealed` is as it was.
    pub fn open<'a>(&self, sealed: &'a mut [u8]) -> Result<&'a mut [u8], OpenError> {
        let length = sealed.len().checked_sub(OVERHEAD).ok_or(OpenError::TooShort)?;
        let (nonce, rest) = sealed.split_at_mut(NONCE);
        let (text, tag) = rest.split_at_mut(length);
        let nonce: [u8; NONCE] = nonce.as_ref().try_into().map_err(|_| OpenError::TooShort)?;

        let computed = self.mac().finish(text, &self.pad(&nonce));
        if !bool::from(computed[..].ct_eq(tag)) {
            return Err(OpenError::Forged);
        }
        self.cipher(&nonce).apply_keystream(text);
        Ok(text)
    }

    /// Returns the key for fingerprints of known chunks, so that a list of them tells nothing to
    /// somebody without the master key.
    pub fn fingerprint_key(&self) -> [u8; 32] {
        let raw = &self.0.raw;
        let mut material = Zeroizing::new([0u8; 64]);
        material[..32].copy_from_slice(&raw.encrypt);
        material[32..48].copy_from_slice(&raw.mac_k);
        material[48..].copy_from_slice(&raw.mac_r);
        blake3::derive_key("dbkeep 2026 fingerprints of known chunks", &*material)
    }

    /// Returns the key as the JSON that a key file seals.
    pub(crate) fn to_json(&self) -> Zeroizing<Vec<u8>> {
        let raw = &self.0.raw;
        let text = |bytes: &[u8]| BASE64.encode(bytes);
        let json = KeysJson {
            mac: MacJson { k: text(&raw.mac_k), r: text(&raw.mac_r) },
            encrypt: text(&raw.encrypt),
        };
        Zeroizing::new(serde_json::to_vec(&json).expect("three strings always become JSON"))
    }

    /// Reads a key from the JSON of a key file; `None` when it is none. The reason is not told, as a
    /// parser's message could quote the key.
    pub(crate) fn from_json(json: &[u8]) -> Option<Self> {
        let json: KeysJson = serde_json::from_slice(json).ok()?;
        let bytes = |text: &str| BASE64.decode(text).map(Zeroizing::new).ok();
        let raw = RawKeys {
            encrypt: bytes(&json.encrypt)?.as_slice().try_into().ok()?,
            mac_k: bytes(&json.mac.k)?.as_slice().try_into().ok()?,
            mac_r: bytes(&json.mac.r)?.as_slice().try_into().ok()?,
        };
        let is_set = |key: &[u8]| key.iter().any(|&byte| byte != 0);
        (is_set(&raw.encrypt) && is_set(&raw.mac_k) && is_set(&raw.mac_r)).then(|| Self::new(raw))
    }

    fn cipher(&self, nonce: &[u8; NONCE]) -> Ctr128BE<&Aes256Enc> {
        Ctr128BE::from_core(CtrCore::inner_iv_init(&self.0.encrypt, nonce.into()))
    }

    fn mac(&self) -> Mac<'_> {
        self.0.powers.begin()
    }

    /// Returns the second half of the Poly1305 key, which is another one for each message.
    fn pad(&self, nonce: &[u8; NONCE]) -> Zeroizing<[u8; TAG]> {
        let mut block = (*nonce).into();
        self.0.mac.encrypt_block(&mut block);
        Zeroizing::new(block.into())
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("MasterKey(***)")
    }
}

/// How many nonces a thread draws at once: a system call for each would cost a tenth of sealing a
/// small page. Kept short, because a virtual machine that is cloned while it runs clones them too.
const NONCES_AT_ONCE: usize = 16;

struct Nonces {
    bytes: [u8; NONCE * NONCES_AT_ONCE],
    used: usize,
}

thread_local! {
    static NONCES: RefCell<Nonces> =
        const { RefCell::new(Nonces { bytes: [0; NONCE * NONCES_AT_ONCE], used: NONCE * NONCES_AT_ONCE }) };
}

/// Returns 16 random bytes that nobody else got.
fn next_nonce() -> Result<[u8; NONCE]> {
    NONCES.with_borrow_mut(|nonces| {
        if nonces.used == nonces.bytes.len() {
            fill_random(&mut nonces.bytes)?;
            nonces.used = 0;
        }
        let mut nonce = [0; NONCE];
        nonce.copy_from_slice(&nonces.bytes[nonces.used..nonces.used + NONCE]);
        nonces.used += NONCE;
        Ok(nonce)
    })
}

/// Fills `bytes` from the operating system's generator.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    SystemRandom::new().fill(bytes).map_err(|_| Error::Random)
}

#[cfg(test)]
mod tests {
    use poly1305::Poly1305;

    use super::*;

    fn key() -> MasterKey {
        let bytes: Vec<u8> = (1..=64).collect();
        MasterKey::from_bytes(bytes.as_slice().try_into().unwrap())
    }

    fn sealed(key: &MasterKey, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        key.seal(plain, &mut out).unwrap();
        out
    }

    /// Opens a message block by block, as the design document describes it.
    fn open_slowly(key: &MasterKey, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, rest) = sealed.split_first_chunk::<16>()?;
        let (text, tag) = rest.split_last_chunk::<16>()?;
        let mut s = (*nonce).into();
        key.0.mac.encrypt_block(&mut s);
        let mut mac_key = key.0.raw.mac_r.to_vec();
        mac_key.extend_from_slice(&s);
        let mac_key: [u8; 32] = mac_key.try_into().unwrap();
        let expected: [u8; 16] = Poly1305::new(&mac_key.into()).compute_unpadded(text).into();
        let mut counter = u128::from_be_bytes(*nonce);
        let mut plain = Vec::new();
        for block in text.chunks(16) {
            let mut stream = counter.to_be_bytes().into();
            key.0.encrypt.encrypt_block(&mut stream);
            plain.extend(block.iter().zip(stream).map(|(byte, key)| byte ^ key));
            counter = counter.wrapping_add(1);
        }
        (expected == *tag).then_some(plain)
    }

    #[test]
    fn every_length_is_sealed_as_documented() {
        let key = key();
        let plain: Vec<u8> = (0..40_000u32).map(|number| number.to_le_bytes()[0]).collect();
        let around = |edge: usize| edge - 70..edge + 70;
        for length in (0..200).chain(around(STRIPE)).chain(around(3 * STRIPE)).chain([40_000]) {
            let mut message = sealed(&key, &plain[..length]);
            assert_eq!(message.len(), length + OVERHEAD);
            assert_eq!(open_slowly(&key, &message).as_deref(), Some(&plain[..length]), "{length}");
            assert_eq!(key.open(&mut message).unwrap(), &plain[..length], "{length}");
        }
    }

    #[test]
    fn counter_has_128_bits() {
        let key = key();
        let mut stream = [0; 48];
        key.cipher(&[0xff; 16]).apply_keystream(&mut stream);
        let mut second = [0; 16].into();
        key.0.encrypt.encrypt_block(&mut second);
        assert_eq!(stream[16..32], second[..]);
    }

    #[test]
    fn message_is_appended() {
        let mut out = b"before".to_vec();
        key().seal(b"plain", &mut out).unwrap();
        assert!(out.starts_with(b"before"));
        assert_eq!(key().open(&mut out[6..]).unwrap(), b"plain");
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_found_and_changes_nothing() {
        let key = key();
        let message = sealed(&key, b"some plain text of more than two blocks");
        for position in 0..message.len() {
            for bit in 0..8 {
                let mut damaged = message.clone();
                damaged[position] ^= 1 << bit;
                let before = damaged.clone();
                assert_eq!(key.open(&mut damaged), Err(OpenError::Forged));
                assert_eq!(damaged, before);
            }
        }
        for length in 0..message.len() {
            let expected = if length < OVERHEAD { OpenError::TooShort } else { OpenError::Forged };
            assert_eq!(key.open(&mut message[..length].to_vec()), Err(expected));
        }
        let other = MasterKey::generate().unwrap();
        assert_eq!(other.open(&mut message.clone()), Err(OpenError::Forged));
    }

    #[test]
    fn no_two_nonces_are_the_same() {
        let nonces: Vec<_> = (0..4)
            .map(|_| std::thread::spawn(|| (0..500).map(|_| next_nonce().unwrap()).collect::<Vec<_>>()))
            .collect::<Vec<_>>()
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect();
        let distinct: std::collections::HashSet<_> = nonces.iter().collect();
        assert_eq!(distinct.len(), 2000);
        assert!(!distinct.contains(&[0; NONCE]));
    }

    #[test]
    fn key_survives_json_and_nothing_else_passes() {
        let key = key();
        let json = key.to_json();
        let read = MasterKey::from_json(&json).unwrap();
        assert_eq!(read.fingerprint_key(), key.fingerprint_key());
        assert_eq!(format!("{read:?}"), "MasterKey(***)");
        for length in 0..json.len() {
            assert!(MasterKey::from_json(&json[..length]).is_none());
        }
        let zero = MasterKey::from_bytes(&[0; 64]).to_json();
        assert!(MasterKey::from_json(&zero).is_none());
    }
}
