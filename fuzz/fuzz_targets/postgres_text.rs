//! Feeds `dbkeep_fuzz::postgres_text` with what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dbkeep_fuzz::postgres_text(data));
