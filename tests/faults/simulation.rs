//! One seed of the simulation, in a process of its own: `simulation --seed 7 --nodes 5`.
//!
//! Linking this binary overrides `getrandom` and `clock_gettime` for all of it, so that hash maps, random numbers and
//! clocks come from the seed. That is why it is a binary of its own; `faults simulate` starts it, once for each seed.

#![allow(clippy::print_stdout, reason = "its result is a line of JSON on the standard output")]

#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod check;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod history;
#[allow(dead_code, unreachable_pub, reason = "each part uses its share")]
mod recorder;
mod sim;
#[allow(dead_code, unreachable_pub, reason = "each part uses its share")]
mod simulate;
#[allow(dead_code, unreachable_pub, reason = "each part uses its share")]
mod story;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod traffic;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod witness;

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
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .init();
    }
    match one_seed(&arguments) {
        Ok(report) => {
            println!("{}", serde_json::to_string(&report).expect("a report is JSON"));
            if report.violations.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(problem) => {
            println!("{problem}");
            ExitCode::from(2)
        }
    }
}

/// Takes the whole process for one seed. Plants of a test build are taken from `FAILPOINTS`.
fn one_seed(arguments: &Arguments) -> Result<simulate::Report, String> {
    let _plants = fail::FailScenario::setup();
    // From here on, chance and time are simulated for the whole process.
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(arguments.seed));
    let _simulated_clocks = mad_turmoil::time::SimClocksGuard::init();

    let plan = sim::Plan {
        seed: arguments.seed,
        nodes: arguments.nodes,
        clients: arguments.clients,
        safety: Duration::from_secs(arguments.seconds),
        trace: arguments.trace.clone(),
    };
    let outcome = sim::simulate(&plan)?;
    let report = outcome.report(&plan);
    if let Some(path) = &arguments.history {
        outcome.history.write(path).map_err(|error| error.to_string())?;
    }
    Ok(report)
}
