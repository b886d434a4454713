//! Feeds `dbkeep_fuzz::postgres_json` with what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dbkeep_fuzz::postgres_json(data));
