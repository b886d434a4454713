//! Feeds `dbkeep_fuzz::json_lines` with what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| dbkeep_fuzz::json_lines(data));
