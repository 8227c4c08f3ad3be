//! Many seeds of the simulation: a process for each, some at a time, added up.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command prints its progress and its result"
)]

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use clap::Args;
use rand::Rng as _;
use serde::{Deserialize, Serialize};

use crate::{
    check::{CheckOptions, check},
    history::History,
};

/// A seed that takes longer than this hangs; on an idle machine it takes a second or two.
const SEED_MAX: Duration = Duration::from_secs(900);
/// How often a running process is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Lines of a story that are shown.
const STORY_LINES: usize = 60;

/// Which seeds.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    /// This one alone
    #[arg(long)]
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
}

/// Simulates the seeds that are asked for, and says what came of it.
pub fn main(arguments: &Arguments) -> ExitCode {
    // The program of one seed is a binary of its own, built beside this one.
    let program = match std::env::current_exe() {
        Ok(this) => this.with_file_name("simulation"),
        Err(error) => {
            eprintln!("this program can't be found: {error}");
            return ExitCode::from(2);
        }
    };
    let campaign = Campaign {
        program,
        seeds: arguments.seeds(),
        seconds: arguments.seconds,
        parallel: arguments.parallel,
        keep: arguments.keep.clone(),
    };
    let (Some(first), all) = (campaign.seeds.first(), campaign.seeds.len()) else {
        eprintln!("no seeds were asked for");
        return ExitCode::from(2);
    };
    println!("{all} seeds from {} on, {} at a time", first.number, campaign.parallel);
    let summary = run(&campaign, |summary| {
        if summary.seeds % 10 == 0 || summary.seeds == all {
            println!("[{}/{all}] {}", summary.seeds, summary.line());
        }
    });
    println!("{}", summary.text());
    if summary.failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
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

/// One seed's result: the line of JSON with which its process ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// Equal for equal seeds.
    pub trace: String,
    /// Messages delivered, faults, elections.
    pub events: u64,
    /// Simulated time.
    pub simulated_ms: u64,
    /// Records committed.
    pub committed: u64,
    /// Leaderships.
    pub leaders: u64,
    /// Snapshots that went from one node to another.
    pub snapshots_sent: u64,
    /// Syncs of all disks.
    pub syncs: u64,
    /// How long a whole majority took to commit after the faults.
    pub recovered_ms: Option<u64>,
    /// Faults by kind.
    pub faults: BTreeMap<String, u64>,
    /// Calls by what became of them.
    pub calls: BTreeMap<String, u64>,
    /// How many things each checker looked at.
    pub checked: BTreeMap<String, u64>,
    /// The name of a checker, and its story.
    pub violations: Vec<(String, String)>,
}

/// One seed, and how many nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    /// Everything comes from it.
    pub number: u64,
    /// 3 or 5.
    pub nodes: usize,
}

/// What is to be simulated, and how.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// The program of one seed.
    pub program: PathBuf,
    /// In this order.
    pub seeds: Vec<Seed>,
    /// The length of the phase with faults, in simulated seconds.
    pub seconds: u64,
    /// Processes at a time.
    pub parallel: usize,
    /// Where histories of seeds that failed are kept.
    pub keep: Option<PathBuf>,
}

/// All seeds' results together.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// How many ended.
    pub seeds: usize,
    /// Added up; its `seed`, `nodes` and `trace` are those of the seed that ended last.
    pub total: Report,
    /// The longest time until a whole majority committed.
    pub recovered_max_ms: u64,
    /// Those that failed, and why.
    pub failed: Vec<(Seed, Vec<(String, String)>)>,
}

impl Summary {
    fn add(&mut self, seed: Seed, report: Report) {
        self.seeds += 1;
        let total = &mut self.total;
        (total.seed, total.nodes) = (report.seed, report.nodes);
        total.trace.clone_from(&report.trace);
        total.events += report.events;
        total.simulated_ms += report.simulated_ms;
        total.committed += report.committed;
        total.leaders += report.leaders;
        total.snapshots_sent += report.snapshots_sent;
        total.syncs += report.syncs;
        self.recovered_max_ms = self.recovered_max_ms.max(report.recovered_ms.unwrap_or(0));
        for (into, from) in [
            (&mut total.faults, report.faults),
            (&mut total.calls, report.calls),
            (&mut total.checked, report.checked),
        ] {
            for (name, count) in from {
                *into.entry(name).or_default() += count;
            }
        }
        if !report.violations.is_empty() {
            self.failed.push((seed, report.violations));
        }
    }

    /// One line for a ledger.
    #[must_use]
    pub fn line(&self) -> String {
        format!(
            "{} seeds, {:.0} min simulated, {} events, {} faults, {} calls, {} records, {} leaders, {} violations",
            self.seeds,
            self.total.simulated_ms as f64 / 60_000.0,
            self.total.events,
            self.total.faults.values().sum::<u64>(),
            self.total.calls.values().sum::<u64>(),
            self.total.committed,
            self.total.leaders,
            self.failed.len()
        )
    }

    /// The figures in full, and each failure's story.
    #[must_use]
    pub fn text(&self) -> String {
        let list = |counts: &BTreeMap<String, u64>| {
            let each = counts.iter().map(|(name, count)| format!("{name} {count}"));
            each.collect::<Vec<_>>().join(", ")
        };
        let mut text = format!(
            "{}\nfaults:    {}\ncalls:     {}\nchecked:   {}\nsnapshots: {} sent; syncs: {}; the longest wait for a commit after healing: {} ms\n",
            self.line(),
            list(&self.total.faults),
            list(&self.total.calls),
            list(&self.total.checked),
            self.total.snapshots_sent,
            self.total.syncs,
            self.recovered_max_ms,
        );
        for (seed, violations) in &self.failed {
            text += &format!(
                "\nseed {} with {} nodes failed: {}\n",
                seed.number,
                seed.nodes,
                seed.replay()
            );
            for (checker, story) in violations {
                let story: Vec<&str> = story.lines().take(STORY_LINES).collect();
                text += &format!("  {checker}: {}\n", story.join("\n    "));
            }
        }
        text
    }
}

impl Seed {
    /// The command that runs it again.
    #[must_use]
    pub fn replay(&self) -> String {
        format!("scripts/simulate --seed {} --nodes {}", self.number, self.nodes)
    }
}

/// Runs every seed; `progress` is told after each.
pub fn run(campaign: &Campaign, progress: impl Fn(&Summary) + Sync) -> Summary {
    let (next, summary) = (AtomicUsize::new(0), Mutex::new(Summary::default()));
    let stop = AtomicBool::new(false);
    let work = || {
        while !stop.load(Ordering::Relaxed)
            && let Some(&seed) = campaign.seeds.get(next.fetch_add(1, Ordering::Relaxed))
        {
            let report = one(campaign, seed).unwrap_or_else(|error| failed(seed, "process", &error.to_string()));
            let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
            for (checker, story) in &report.violations {
                println!(
                    "{}: {checker}: {}",
                    seed.replay(),
                    story.lines().next().unwrap_or_default()
                );
            }
            summary.add(seed, report);
            progress(&summary);
        }
    };
    thread::scope(|scope| {
        for _ in 0..campaign.parallel.max(1) {
            scope.spawn(work);
        }
    });
    summary.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// One seed in its own process.
fn one(campaign: &Campaign, seed: Seed) -> io::Result<Report> {
    let folder = tempfile::tempdir()?;
    let (out, errors) = (folder.path().join("out"), folder.path().join("errors"));
    let history = folder.path().join("history.jsonl");
    let mut process = Command::new(&campaign.program)
        .args(["--seed", &seed.number.to_string()])
        .args(["--nodes", &seed.nodes.to_string()])
        .args(["--seconds", &campaign.seconds.to_string()])
        .arg("--history")
        .arg(&history)
        .stdin(Stdio::null())
        .stdout(fs::File::create(&out)?)
        .stderr(fs::File::create(&errors)?)
        .spawn()?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = process.try_wait()? {
            break status;
        }
        if began.elapsed() > SEED_MAX {
            process.kill()?;
            process.wait()?;
            return Ok(failed(seed, "hang", &format!("it did not end within {SEED_MAX:?}")));
        }
        thread::sleep(LOOK_EVERY);
    };
    let said = fs::read_to_string(&out)?;
    let report = said.lines().find_map(|line| serde_json::from_str::<Report>(line).ok());
    let mut report = report.unwrap_or_else(|| {
        let errors = fs::read_to_string(&errors).unwrap_or_default();
        let last: Vec<&str> = errors
            .lines()
            .filter(|line| !line.trim().is_empty())
            .take(STORY_LINES)
            .collect();
        failed(seed, "panic", &format!("{status}\n{}", last.join("\n")))
    });
    if history.exists() {
        judge(&mut report, &history)?;
    }
    if !report.violations.is_empty()
        && let Some(keep) = &campaign.keep
        && history.exists()
    {
        fs::create_dir_all(keep)?;
        fs::copy(
            &history,
            keep.join(format!("seed-{}-{}.jsonl", seed.number, seed.nodes)),
        )?;
    }
    Ok(report)
}

/// Asks every checker about the history.
fn judge(report: &mut Report, history: &Path) -> io::Result<()> {
    let history = History::read(history).map_err(io::Error::other)?;
    let checked = check(&history, &CheckOptions::default());
    let counts = checked
        .checked
        .iter()
        .map(|(checker, count)| ((*checker).to_owned(), *count as u64));
    report.checked.extend(counts);
    let told = checked.violations.into_iter();
    report
        .violations
        .extend(told.map(|violation| (violation.checker.to_owned(), violation.story)));
    Ok(())
}

fn failed(seed: Seed, checker: &str, story: &str) -> Report {
    Report {
        seed: seed.number,
        nodes: seed.nodes,
        violations: vec![(checker.to_owned(), story.to_owned())],
        ..Report::default()
    }
}

#[cfg(test)]
mod tests;
