//! Feeds `dbkeep_fuzz::lock` with what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dbkeep_fuzz::lock(data));
