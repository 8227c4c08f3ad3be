//! Proven under faults: records what clients see while a cluster is harmed, and checks it against the promises.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test stops at the first surprise"))]

#[allow(dead_code, unreachable_pub, reason = "each part uses its share")]
mod check;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod history;
#[allow(dead_code, unreachable_pub, reason = "each part uses its share")]
mod story;
#[allow(dead_code, unreachable_pub, unused_imports, reason = "each part uses its share")]
mod witness;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// Harms clusters, records what their clients see, and checks it against the promises.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check histories: each promise by its checker. The exit code is 1 if any was broken.
    Check {
        /// Histories, as the other commands write them.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            // Nobody is left to tell if that fails.
            let _told = writeln!(io::stderr(), "faults: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match command {
        Command::Check { files } => check_files(&files),
    }
}

fn check_files(files: &[PathBuf]) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut is_clean = true;
    for file in files {
        let history = history::History::read(file)?;
        let report = check::check(&history, &check::CheckOptions::default());
        writeln!(io::stdout(), "{}: {report}", file.display())?;
        is_clean &= report.is_clean();
    }
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
