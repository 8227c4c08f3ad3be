//! One seed of the simulation, in a process of its own: `simulation --seed 7 --nodes 5`.
//!
//! Linking this binary overrides `getrandom` and `clock_gettime` for all of it, so that hash maps, random numbers and
//! clocks come from the seed. That is why it is a binary of its own; `faults simulate` starts it, once for each seed.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test stops at the first surprise"))]
#![allow(clippy::print_stdout, reason = "its result is a line of JSON on the standard output")]

#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod history;
#[allow(dead_code, unreachable_pub, reason = "each part uses its share")]
mod recorder;
mod sim;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod traffic;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Parser;
use rand_of_mad_turmoil::{SeedableRng as _, rngs::StdRng};

/// Simulates one cluster, harms it, and says what came of it.
#[derive(Debug, Parser)]
struct Arguments {
    /// Everything comes from it.
    #[arg(long)]
    seed: u64,
    /// How many nodes.
    #[arg(long, default_value_t = 3)]
    nodes: usize,
    /// How many clients.
    #[arg(long, default_value_t = 9)]
    clients: usize,
    /// The length of the phase with faults, in simulated seconds.
    #[arg(long, default_value_t = 12)]
    seconds: u64,
    /// Write the history to this file.
    #[arg(long)]
    history: Option<PathBuf>,
    /// Write every event of the trace to this file.
    #[arg(long)]
    trace: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // In a build with the feature `failpoints`: the plants that the environment names.
    let _planted = fail::FailScenario::setup();
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .init();
    }
    // Before anything of the process has asked for chance or time.
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(arguments.seed));
    let _simulated_clocks = mad_turmoil::time::SimClocksGuard::init();

    let plan = sim::Plan {
        seed: arguments.seed,
        nodes: arguments.nodes,
        clients: arguments.clients,
        safety: Duration::from_secs(arguments.seconds),
        trace: arguments.trace,
    };
    let outcome = match sim::simulate(&plan) {
        Ok(outcome) => outcome,
        Err(problem) => {
            println!("{}", serde_json::json!({ "seed": plan.seed, "setup": problem }));
            return ExitCode::from(2);
        }
    };
    if let Some(path) = &arguments.history
        && let Err(error) = outcome.history.write(path)
    {
        println!(
            "{}",
            serde_json::json!({ "seed": plan.seed, "setup": error.to_string() })
        );
        return ExitCode::from(2);
    }
    let report = sim::Report::new(&plan, &outcome);
    println!("{}", serde_json::to_string(&report).expect("a report is JSON"));
    if report.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
