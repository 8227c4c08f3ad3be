//! Seeds that once showed something, and that a seed is one run: each in a process of its own, which is this one again.

use super::{
    Arguments, Parser as _, one_seed,
    simulate::{Campaign, Report, Seed, run},
};

/// The process of one seed: started by the tests below, which say which.
#[test]
#[ignore = "it is the process of one seed, which other tests start"]
fn one_seed_of_the_environment() {
    let report = one_seed(&Arguments::parse_from(["simulation"])).unwrap();
    // The harness of tests has begun this line.
    println!("\n{}", serde_json::to_string(&report).unwrap());
}

fn campaign(seeds: Vec<Seed>, seconds: u64) -> Campaign {
    let before = [
        "--exact",
        "tests::one_seed_of_the_environment",
        "--ignored",
        "--nocapture",
    ];
    Campaign {
        program: std::env::current_exe().unwrap(),
        before: before.map(str::to_owned).to_vec(),
        seeds,
        seconds,
        parallel: 2,
        keep: None,
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
    let summary = run(&campaign(seeds.clone(), 12), |_| {});
    assert_eq!(summary.seeds, seeds.len());
    assert!(summary.failed.is_empty(), "{}", summary.text());
    assert!(
        summary.total.events > 0 && summary.total.committed > 0,
        "{}",
        summary.text()
    );
}

#[test]
fn a_seed_is_one_run_whoever_runs_it() {
    let reports: Vec<Report> = (0..2)
        .map(|_| run(&campaign(vec![Seed { number: 3, nodes: 3 }], 6), |_| {}).total)
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
    assert_eq!(figures(&reports[0]), figures(&reports[1]));
}
