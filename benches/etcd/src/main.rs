//! Roster and etcd at the work of a registry, side by side.
//!
//! `etcd` drives an etcd cluster through one workload, as `roster bench` drives Roster: the same closed loops, clocks,
//! histograms and figures (`roster::cli::bench::measure`), and the same object printed. `compare` starts three nodes of
//! each by turns, lets both commands run, and prints one table. `echo` measures what a call costs with nothing behind it.
//! `scale` fills Roster with a million instances, keeps them alive under load, and says what that size costs.

mod compare;
mod echo;
mod etcd;
mod problem;
mod scale;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::problem::Problem;

/// As the binary that drives Roster has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures etcd with the means of `roster bench`, and both side by side
#[derive(Parser, Debug)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    Etcd(etcd::EtcdArgs),
    Compare(compare::CompareArgs),
    Echo(echo::EchoArgs),
    Scale(scale::ScaleArgs),
    #[command(hide = true)]
    EchoServer(echo::EchoServerArgs),
    #[command(hide = true)]
    KillAndRestart(compare::KillAndRestartArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Etcd(args) => args.run().await,
        Command::Compare(args) => args.run().await,
        Command::Echo(args) => args.run().await,
        Command::Scale(args) => args.run().await,
        Command::EchoServer(args) => args.run().await,
        Command::KillAndRestart(args) => args.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(Problem(problem)) => {
            eprintln!("bench-etcd: {problem}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_makes_sense() {
        super::Arguments::command().debug_assert();
    }
}
