//! Feeds `dbkeep_fuzz::index` with what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dbkeep_fuzz::index(data));
