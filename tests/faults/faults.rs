//! Proven under faults: records what clients see while a cluster is harmed, and checks it against the promises.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test stops at the first surprise"))]

#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod check;
mod compose;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod history;
#[cfg(test)]
#[path = "../loopback/mod.rs"]
mod loopback;
mod plants;
mod processes;
#[allow(dead_code, unreachable_pub, reason = "each part uses its share")]
mod recorder;
mod seeds;
// What it is made of is tested here; whole runs need a binary of their own.
#[cfg(test)]
#[allow(dead_code, reason = "each part uses its share")]
mod sim;
#[allow(unreachable_pub, reason = "each part uses its share")]
mod simulate;
#[allow(dead_code, unreachable_pub, reason = "each part uses its share")]
mod story;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod traffic;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod witness;

use std::process::ExitCode;

use clap::Parser;

/// Harms clusters, and checks what clients saw
#[derive(Parser)]
enum Command {
    /// Planted bugs, each until its checker catches it
    Plants(plants::Arguments),
    /// Recorded histories
    Check(check::Arguments),
    /// The compose cluster
    Compose(compose::Arguments),
    /// Real processes
    Run(processes::Arguments),
    /// Simulated clusters, a process for each seed
    Simulate(seeds::Arguments),
}

fn main() -> ExitCode {
    match Command::parse() {
        Command::Plants(arguments) => plants::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Compose(arguments) => compose::run(&arguments),
        Command::Run(arguments) => processes::run(&arguments),
        Command::Simulate(arguments) => seeds::main(&arguments),
    }
}
