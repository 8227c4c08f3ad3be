//! The command that simulates many seeds: which, what is printed meanwhile, and the ledger.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command prints its progress and its result"
)]

use std::{io, path::PathBuf, process::ExitCode, time::Instant};

use clap::Args;
use rand::Rng as _;

use crate::{
    processes::ledger::{Line, beside},
    simulate::{Campaign, Seed, child, run},
};

/// Which seeds.
#[derive(Clone, Debug, Args)]
pub(crate) struct Arguments {
    /// This one alone
    #[arg(long, conflicts_with_all = ["seeds", "first"])]
    seed: Option<u64>,
    /// So many, one after the other
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them; else by chance, and printed
    #[arg(long)]
    first: Option<u64>,
    /// How many nodes; else 3 and 5 in turns
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=7))]
    nodes: Option<u8>,
    /// The length of the phase with faults, in simulated seconds
    #[arg(long, default_value_t = 12)]
    seconds: u64,
    /// Processes at a time
    #[arg(long, default_value_t = 2)]
    parallel: usize,
    /// Keep the histories of seeds that failed in this folder
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Append a line to docs/faults-ledger.md
    #[arg(long)]
    ledger: bool,
}

/// Simulates the seeds that are asked for, and says what came of it.
pub(crate) fn main(arguments: &Arguments) -> ExitCode {
    // The program of one seed is a binary of its own, built beside this one.
    let program = match std::env::current_exe() {
        Ok(this) => this.with_file_name("simulation"),
        Err(error) => {
            eprintln!("this program can't be found: {error}");
            return ExitCode::from(2);
        }
    };
    let arguments = arguments.clone();
    let ended = child::with_scratch(move |folders| {
        let campaign = Campaign {
            program,
            seeds: arguments.seeds(),
            seconds: arguments.seconds,
            parallel: arguments.parallel,
            keep: arguments.keep.clone(),
            folders: folders.clone(),
        };
        simulate(&campaign, arguments.ledger).unwrap_or_else(|error| said(&error))
    });
    ended.unwrap_or_else(|error| said(&error))
}

fn said(error: &io::Error) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(2)
}

fn simulate(campaign: &Campaign, ledger: bool) -> io::Result<ExitCode> {
    let (began, others) = (Instant::now(), beside());
    let (Some(first), Some(last)) = (campaign.seeds.first(), campaign.seeds.last()) else {
        return Err(io::Error::other("no seeds were asked for"));
    };
    let all = campaign.seeds.len();
    println!("{all} seeds from {} on, {} at a time", first.number, campaign.parallel);
    let summary = run(campaign, |summary| {
        if summary.seeds % 10 == 0 || summary.seeds == all {
            println!("[{}/{all}] {}", summary.seeds, summary.line());
        }
    });
    let told_to_end = child::is_ending();
    // They are taken in their order: those that ended are the first.
    let ended = campaign.seeds.get(summary.seeds.saturating_sub(1));
    let last = ended.filter(|_| told_to_end).unwrap_or(last);
    println!("{}", summary.text());
    if ledger && summary.seeds > 0 {
        let line = Line {
            harness: "simulation",
            seeds: format!("{}–{} ({} runs)", first.number, last.number, summary.seeds),
            spent: began.elapsed(),
            calls: summary.total.calls.values().sum(),
            faults: summary.total.faults.values().sum(),
            skipped: "nothing".to_owned(),
            beside: others.max(beside()),
            violations: summary.failed.len() + summary.lacks().len(),
        };
        line.enter()?;
    }
    if told_to_end {
        println!("told to end after {} of {all} seeds", summary.seeds);
        return Ok(ExitCode::FAILURE);
    }
    Ok(if summary.failed.is_empty() && summary.lacks().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl Arguments {
    fn seeds(&self) -> Vec<Seed> {
        let first = self
            .seed
            .or(self.first)
            .unwrap_or_else(|| u64::from(rand::rng().random::<u32>()));
        let count = if self.seed.is_some() { 1 } else { self.seeds };
        let nodes = |number: u64| match self.nodes {
            Some(nodes) => usize::from(nodes),
            None if self.seed.is_some() => 3,
            None => 3 + 2 * usize::from(number % 2 == 1),
        };
        let numbers = first..first.saturating_add(count);
        numbers
            .map(|number| Seed {
                number,
                nodes: nodes(number),
            })
            .collect()
    }
}
