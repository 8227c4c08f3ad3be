//! The `roster` binary: the command line, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    roster::cli::main()
}
