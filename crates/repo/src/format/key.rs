//! Key files: a password's access to the master key. The only objects that are not sealed.
//!
//! Source: restic's design document, "Keys, Encryption and MAC".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::{FormatError, FormatResult};
use crate::crypto::{MasterKey, fill_random};
use crate::error::{Error, Result};
use crate::scrypt;

/// The most memory that a key may make us use for one lane: 128·N·r bytes. Two are mixed at a time.
const MEMORY_LIMIT: u64 = 256 << 20;

/// The most memory for what the lanes begin and end with: 128·r·p bytes.
const LANES_LIMIT: u64 = 16 << 20;

/// The most work that a key may make us do: 128·N·r·p bytes mixed. Stock restic calibrates p so that a
/// key takes half a second, which is 32 MiB times ten or so.
const WORK_LIMIT: u64 = 2 << 30;

/// The cost of turning a password into a key, as scrypt counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// The binary logarithm of N.
    pub log_n: u8,
    /// The block size.
    pub r: u32,
    /// How often it is done.
    pub p: u32,
}

impl Cost {
    /// Returns the cost if we are ready to pay it.
    fn accept(n: u64, r: u64, p: u64) -> FormatResult<Self> {
        let refuse = || FormatError::new(format!("scrypt with N={n}, r={r}, p={p} is refused"));
        if n < 2 || !n.is_power_of_two() || r == 0 || p == 0 {
            return Err(refuse());
        }
        let memory = n.checked_mul(r).and_then(|blocks| blocks.checked_mul(128)).ok_or_else(refuse)?;
        let work = memory.checked_mul(p).ok_or_else(refuse)?;
        // What the lanes begin and end with is in memory at once.
        let lanes = r.checked_mul(p).and_then(|blocks| blocks.checked_mul(128)).ok_or_else(refuse)?;
        if memory > MEMORY_LIMIT || work > WORK_LIMIT || lanes > LANES_LIMIT {
            return Err(refuse());
        }
        Ok(Self {
            log_n: u8::try_from(n.trailing_zeros()).map_err(|_| refuse())?,
            r: u32::try_from(r).map_err(|_| refuse())?,
            p: u32::try_from(p).map_err(|_| refuse())?,
        })
    }
}

/// The contents of a key file.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFile {
    /// When it was made.
    pub created: Timestamp,
    /// Who made it.
    #[serde(default)]
    pub username: String,
    /// Where it was made.
    #[serde(default)]
    pub hostname: String,
    /// The key derivation; always `scrypt`.
    pub kdf: String,
    /// scrypt's N, a power of two.
    #[serde(rename = "N")]
    pub n: u64,
    /// scrypt's r.
    pub r: u64,
    /// scrypt's p.
    pub p: u64,
    /// Random bytes that make equal passwords give different keys.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub salt: Vec<u8>,
    /// The master key as JSON, sealed with the key derived from the password.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub data: Vec<u8>,
}

impl std::fmt::Debug for KeyFile {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("KeyFile")
            .field("created", &self.created)
            .field("username", &self.username)
            .field("hostname", &self.hostname)
            .finish_non_exhaustive()
    }
}

impl KeyFile {
    /// Wraps `master` for `password`.
    ///
    /// Fails when the cost is one that [`KeyFile::unwrap_master`] would refuse.
    pub fn wrap_master(
        master: &MasterKey,
        password: &str,
        cost: Cost,
        username: &str,
        hostname: &str,
        now: Timestamp,
    ) -> Result<Self> {
        let n = 1u64.checked_shl(u32::from(cost.log_n)).unwrap_or(0);
        let (r, p) = (u64::from(cost.r), u64::from(cost.p));
        let cost = Cost::accept(n, r, p).map_err(|error| Error::Unsupported { what: error.to_string() })?;
        let mut salt = vec![0; 64];
        fill_random(&mut salt)?;
        let user = derive(password, &salt, cost);
        let mut data = Vec::new();
        user.seal(&master.to_json(), &mut data)?;
        Ok(Self {
            created: now,
            username: username.to_owned(),
            hostname: hostname.to_owned(),
            kdf: "scrypt".to_owned(),
            n,
            r,
            p,
            salt,
            data,
        })
    }

    /// Opens the master key with `password`; `Ok(None)` when the password is not this key's.
    ///
    /// Takes as long as the key's cost says, which [`KeyFile::decode`] has bounded.
    pub fn unwrap_master(&self, password: &str) -> FormatResult<Option<MasterKey>> {
        let user = derive(password, &self.salt, self.cost()?);
        let mut data = Zeroizing::new(self.data.clone());
        match user.open(&mut data) {
            Err(_) => Ok(None),
            Ok(json) => {
                let master = MasterKey::from_json(json);
                master.map(Some).ok_or_else(|| FormatError::new("it opens, but holds no master key"))
            }
        }
    }

    /// Returns the cost of deriving the key, when it is one that we accept.
    pub fn cost(&self) -> FormatResult<Cost> {
        Cost::accept(self.n, self.r, self.p)
    }

    /// Returns the JSON.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers always become JSON")
    }

    /// Reads the JSON and refuses derivations that are unknown or would cost too much.
    pub fn decode(json: &[u8]) -> FormatResult<Self> {
        let key: Self = serde_json::from_slice(json)?;
        if key.kdf != "scrypt" {
            return Err(FormatError::new(format!("unknown key derivation {:?}", key.kdf)));
        }
        key.cost()?;
        Ok(key)
    }
}

/// Turns a password into the key that seals the master key.
fn derive(password: &str, salt: &[u8], cost: Cost) -> MasterKey {
    let mut bytes = Zeroizing::new([0u8; 64]);
    scrypt::derive(password.as_bytes(), salt, cost, &mut *bytes);
    MasterKey::from_bytes(&bytes)
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&BASE64.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    BASE64.decode(text).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> (MasterKey, KeyFile) {
        let master = MasterKey::generate().unwrap();
        let cost = Cost { log_n: 4, r: 8, p: 1 };
        let now = Timestamp::UNIX_EPOCH;
        let key = KeyFile::wrap_master(&master, "right", cost, "u", "h", now).unwrap();
        (master, key)
    }

    #[test]
    fn only_the_right_password_opens() {
        let (master, key) = key();
        let key = KeyFile::decode(&key.encode()).unwrap();
        let opened = key.unwrap_master("right").unwrap().unwrap();
        assert_eq!(opened.fingerprint_key(), master.fingerprint_key());
        assert!(key.unwrap_master("wrong").unwrap().is_none());
        assert!(key.unwrap_master("").unwrap().is_none());
    }

    #[test]
    fn key_that_restic_made_is_opened() {
        // Made by restic 0.14 with the password "x"; `restic cat masterkey` gave the expected key.
        let json = br#"{"created":"2026-11-21T01:31:40.720393119Z","username":"root","hostname":"vm","kdf":"scrypt","N":32768,"r":8,"p":10,"salt":"wYurCyC1KOnvVXvH7p2zQNDZ0wLmQor9/vgLmJGRtVQi9Bb4UWiTH0GM5SePQzvW4/T3Qbulpf9PfFlIJrG8ig==","data":"d2ATSo+Wm0zRnSO8tA47ySjLZOUUcqcb1D4fadosZiiWOdAU18aVKzQJcjah4FpbfVLL70kBtINKfAYW47z5+ZrPeGbyUsFBXsXDi86wDhUUt0pkmK3rKcjPXQnfw6DD+bSzQazHBgLTt3fmnOaSTKBbZL94ZhTxJbHLcNQuLE3CD74m7viG/ky2qpRhcr3f2F/HpEETpwOohvtiQabnFA=="}"#;
        let key = KeyFile::decode(json).unwrap();
        let opened = key.unwrap_master("x").unwrap().unwrap();
        let expected = br#"{"mac":{"k":"LWbfTXvwLsYQeN5WNkueiQ==","r":"9HuTBlQW6gT8EscJnAHWDg=="},"encrypt":"HurXiNgnTSFdHWPEh/H4/sts0f//K8D2sxzOIkjO+iA="}"#;
        assert_eq!(opened.to_json().as_slice(), expected);
        assert_eq!(key.encode(), json);
    }

    #[test]
    fn hostile_parameters_are_refused_before_they_cost() {
        let (_, key) = key();
        let refused = |n, r, p| KeyFile::decode(&KeyFile { n, r, p, ..key.clone() }.encode()).is_err();
        assert!(refused(1 << 40, 8, 1));
        assert!(refused(1 << 15, 1 << 20, 1));
        assert!(refused(1 << 15, 8, 1 << 20));
        assert!(refused(2, 1, 1 << 23));
        assert!(refused(u64::MAX, u64::MAX, u64::MAX));
        assert!(refused(1 << 63, 1 << 63, 2));
        assert!(refused(1000, 8, 1));
        assert!(refused(1, 8, 1));
        assert!(refused(0, 8, 1));
        assert!(refused(1 << 15, 0, 1));
        assert!(refused(1 << 15, 8, 0));
        assert!(!refused(1 << 15, 8, 20));
        let pbkdf2 = KeyFile { kdf: "pbkdf2".to_owned(), ..key };
        assert!(KeyFile::decode(&pbkdf2.encode()).is_err());
    }
}
