//! Seeds that once showed something, and that a seed is one run: each in a process of its own.

use std::path::{Path, PathBuf};

use super::{Campaign, Report, Seed, child::Scratch, run};

/// The process of one seed: cargo builds it beside the tests, as it does every example.
fn simulation() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let release = own.parent().and_then(Path::parent).unwrap();
    let path = release.join("examples").join("simulation");
    assert!(path.exists(), "{} is not built", path.display());
    path
}

fn campaign(seeds: Vec<Seed>, seconds: u64, scratch: &Scratch) -> Campaign {
    Campaign {
        program: simulation(),
        seeds,
        seconds,
        parallel: 2,
        keep: None,
        folders: scratch.folders(),
    }
}

/// The seeds that are kept: a number, how many nodes, why.
fn kept() -> Vec<Seed> {
    let lines = include_str!("../sim/seeds.txt").lines();
    let lines = lines.filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let seeds: Vec<Seed> = lines
        .map(|line| {
            let mut words = line.split_whitespace();
            let mut number = || words.next().unwrap().parse::<u64>().unwrap();
            let (number, nodes) = (number(), usize::try_from(number()).unwrap());
            assert!(words.next().is_some(), "seed {number} stands there without a reason");
            Seed { number, nodes }
        })
        .collect();
    assert!(!seeds.is_empty());
    seeds
}

#[test]
fn seeds_that_once_failed_hold() {
    let seeds = kept();
    let scratch = Scratch::new().unwrap();
    let summary = run(&campaign(seeds.clone(), 12, &scratch), |_| {});
    assert_eq!(summary.seeds, seeds.len());
    assert!(summary.failed.is_empty(), "{}", summary.text());
    assert!(
        summary.total.events > 0 && summary.total.committed > 0,
        "{}",
        summary.text()
    );
}

/// Each run is a process; the keys of its hash maps are in its trace.
#[test]
fn a_seed_is_one_run_whoever_runs_it() {
    let scratch = Scratch::new().unwrap();
    let reports: Vec<Report> = (0..2)
        .map(|_| run(&campaign(vec![Seed { number: 3, nodes: 3 }], 6, &scratch), |_| {}).total)
        .collect();
    let figures = |report: &Report| {
        (
            report.trace.clone(),
            report.events,
            report.calls.clone(),
            report.committed,
        )
    };
    assert!(reports[0].events > 0 && !reports[0].trace.is_empty());
    let other = run(&campaign(vec![Seed { number: 4, nodes: 3 }], 6, &scratch), |_| {}).total;
    assert_ne!(reports[0].trace, other.trace, "the trace tells seeds apart");
    assert_eq!(figures(&reports[0]), figures(&reports[1]));
}
