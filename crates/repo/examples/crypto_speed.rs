//! Measures what sealing, opening and hashing cost on this machine, one core each.
//!
//! `cargo run --release -p dbkeep-repo --example crypto_speed`

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::cast_precision_loss)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use dbkeep_repo::Id;
use dbkeep_repo::crypto::MasterKey;
use dbkeep_repo::format::key::{Cost, KeyFile};

fn main() {
    let key = MasterKey::generate().unwrap();
    for size in [4 << 10, 16 << 10, 64 << 10, 1 << 20] {
        let plain = vec![7u8; size];
        let mut sealed = Vec::with_capacity(size + 64);
        measure("seal", size, || {
            sealed.clear();
            key.seal(&plain, &mut sealed).unwrap();
            black_box(&sealed);
        });
        let mut opened = sealed.clone();
        measure("open", size, || {
            opened.copy_from_slice(&sealed);
            black_box(key.open(&mut opened).unwrap());
        });
        measure("sha-256", size, || {
            black_box(Id::of(&plain));
        });
        let fingerprint = key.fingerprint_key();
        measure("keyed blake3", size, || {
            black_box(blake3::keyed_hash(&fingerprint, &plain));
        });
    }
    for p in [1, 5, 10] {
        let cost = Cost { log_n: 15, r: 8, p };
        let start = Instant::now();
        KeyFile::wrap_master(&key, "password", cost, "", "", jiff::Timestamp::UNIX_EPOCH).unwrap();
        println!("scrypt N=2^15 r=8 p={p}: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
    }
}

fn measure(what: &str, size: usize, mut work: impl FnMut()) {
    let mut rounds = 0u32;
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        (0..16).for_each(|_| work());
        rounds += 16;
    }
    let bytes = f64::from(rounds) * size as f64;
    println!("{what:>12} {:>5} KiB: {:.2} GB/s", size >> 10, bytes / start.elapsed().as_secs_f64() / 1e9);
}
