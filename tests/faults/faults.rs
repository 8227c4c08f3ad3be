//! Proven under faults: records what clients see while a cluster is harmed, and checks it against the promises.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test stops at the first surprise"))]

#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod history;
mod plants;

use clap::Parser as _;

/// Proven under faults.
#[derive(Debug, clap::Parser)]
enum Faults {
    /// Switches each planted bug on and waits until its checker catches it.
    Plants(plants::Arguments),
}

fn main() -> std::process::ExitCode {
    match Faults::parse() {
        Faults::Plants(arguments) => plants::run(&arguments),
    }
}
