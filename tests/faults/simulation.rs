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

use std::{path::PathBuf, process::ExitCode, thread, time::Duration};

use clap::Parser;
use rand_of_mad_turmoil::{SeedableRng as _, rngs::StdRng};
use simulate::child::Scratch;

/// Simulates one cluster, harms it, and says what came of it.
#[derive(Clone, Debug, Parser)]
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
    /// Keep the nodes' snapshots in this folder meanwhile, which is removed by whoever made it.
    #[arg(long)]
    folder: Option<PathBuf>,
}

/// The stack of the thread that simulates: as large as a main thread's.
const STACK_BYTES: usize = 8 << 20;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if std::env::var_os("RUST_LOG").is_some() {
        tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
            .with_writer(std::io::stderr)
            .init();
    }
    // Made before chance is simulated, so that a run is the same wherever its snapshots lie.
    let scratch = arguments.folder.is_none().then(Scratch::new).transpose();
    let scratch = match scratch {
        Ok(scratch) => scratch,
        Err(error) => return not_set_up(&error.to_string()),
    };
    let own = scratch.as_ref().map(|scratch| scratch.folders().memory);
    let folder = arguments.folder.clone().or(own).unwrap_or_default();
    // Plants of a test build are taken from `FAILPOINTS`.
    let _plants = fail::FailScenario::setup();
    // From here on, chance and time are simulated for the whole process.
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(arguments.seed));
    let _simulated_clocks = mad_turmoil::time::SimClocksGuard::init();
    // A thread takes the keys of its hash maps when it makes its first one. This one has made some, with keys from the
    // system; a new thread makes its first one now, with keys from the seed.
    let simulating = thread::Builder::new().stack_size(STACK_BYTES);
    let simulated = simulating.spawn(move || one_seed(&arguments, folder));
    let ended = simulated.map(thread::JoinHandle::join);
    match ended {
        Ok(Ok(Ok(report))) => {
            println!("{}", serde_json::to_string(&report).expect("a report is JSON"));
            if report.violations.is_empty() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Ok(Ok(Err(problem))) => not_set_up(&problem),
        // It said why.
        Ok(Err(_panicked)) => ExitCode::from(PANICKED),
        Err(error) => not_set_up(&error.to_string()),
    }
}

/// As the main thread of a program ends.
const PANICKED: u8 = 101;

fn not_set_up(problem: &str) -> ExitCode {
    println!("{problem}");
    u8::try_from(simulate::NOT_SET_UP).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Takes the thread for one seed.
fn one_seed(arguments: &Arguments, folder: PathBuf) -> Result<simulate::Report, String> {
    let plan = sim::Plan {
        seed: arguments.seed,
        nodes: arguments.nodes,
        clients: arguments.clients,
        safety: Duration::from_secs(arguments.seconds),
        trace: arguments.trace.clone(),
        folder,
    };
    let outcome = sim::simulate(&plan)?;
    let report = outcome.report(&plan);
    if let Some(path) = &arguments.history {
        outcome.history.write(path).map_err(|error| error.to_string())?;
    }
    Ok(report)
}
