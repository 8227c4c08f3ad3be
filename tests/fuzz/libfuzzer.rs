//! A target as libFuzzer's program: which one, says the name of the binary.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| roster_fuzz::run(env!("CARGO_BIN_NAME"), bytes));
