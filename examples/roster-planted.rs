//! `roster` as a test build may break it: the same program, with the plants and crash points that `FAILPOINTS` names.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Read from the environment once; in force until the process ends.
    let _planted = fail::FailScenario::setup();
    roster::cli::main()
}
