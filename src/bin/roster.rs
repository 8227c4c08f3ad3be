//! The `roster` binary: the command line, and nothing else.

use std::process::ExitCode;

/// A server's threads free what others of them took, all the time, and the system's allocator is slow at that.
#[cfg(feature = "server")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    roster::cli::main()
}
