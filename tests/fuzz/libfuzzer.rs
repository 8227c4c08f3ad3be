//! A target as libFuzzer's program: which one, says the name of the binary. `FUZZ_SEEDS` names a folder that it writes
//! its seeds into first.

#![no_main]

const TARGET: &str = env!("CARGO_BIN_NAME");

libfuzzer_sys::fuzz_target!(
    init: {
        if let Some(folder) = std::env::var_os("FUZZ_SEEDS") {
            roster_fuzz::write_seeds(TARGET, folder.as_ref()).expect("the folder takes seeds");
        }
    },
    |bytes: &[u8]| roster_fuzz::run(TARGET, bytes)
);
