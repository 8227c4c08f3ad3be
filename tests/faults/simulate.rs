//! Many seeds of the simulation: a process for each, some at a time, added up.

#![allow(clippy::print_stdout, reason = "a failure is printed when it comes")]

pub mod child;
mod summary;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use self::child::{Folders, SWITCH};
pub use self::summary::Summary;
use crate::{
    check::{CheckOptions, Coverage, check},
    history::History,
};

/// A seed that takes longer than this hangs; on an idle machine it takes a few seconds.
const SEED_MAX: Duration = Duration::from_secs(900);
/// Lines of a story that are shown.
const STORY_LINES: usize = 60;
/// The exit code of a simulation that could not be set up, which is no fault of what is simulated.
pub const NOT_SET_UP: i32 = 2;

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
    /// What happened that must have happened somewhere, for all seeds together to prove anything.
    pub seen: BTreeMap<String, u64>,
    /// Whether it ended before its time, for what is told in `violations`: no checker can say anything then.
    pub aborted: bool,
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
    /// Where everything else is meanwhile.
    pub folders: Folders,
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
    let work = || {
        while let Some(&seed) = campaign.seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
            let report = one(campaign, seed);
            if child::is_ending() {
                return;
            }
            let report = report.unwrap_or_else(|error| failed(seed, "process", &error.to_string()));
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

/// One seed in its own process, judged.
fn one(campaign: &Campaign, seed: Seed) -> io::Result<Report> {
    // By hand, plants may be switched on for a whole campaign.
    let planted = std::env::var(SWITCH).ok();
    let ran = run_seed(
        &campaign.program,
        seed,
        campaign.seconds,
        &campaign.folders,
        planted.as_deref(),
    )?;
    let mut report = ran.report;
    if let Some(history) = &ran.history
        && !report.aborted
    {
        judge(&mut report, history)?;
    }
    if !report.violations.is_empty()
        && let (Some(keep), Some(history)) = (&campaign.keep, &ran.history)
    {
        fs::create_dir_all(keep)?;
        fs::copy(history, keep.join(format!("seed-{}-{}.jsonl", seed.number, seed.nodes)))?;
    }
    Ok(report)
}

/// What came of one process.
#[derive(Debug)]
pub struct Ran {
    /// What it says itself; the history is not judged yet.
    pub report: Report,
    /// What it recorded, if it came so far.
    pub history: Option<PathBuf>,
    /// In which the history is.
    _folder: TempDir,
}

/// Runs one seed to its end, with these plants alone.
///
/// # Errors
/// It could not be set up, or this program was told to end: nothing is known about the seed.
pub fn run_seed(program: &Path, seed: Seed, seconds: u64, folders: &Folders, planted: Option<&str>) -> io::Result<Ran> {
    let (folder, memory) = (
        tempfile::tempdir_in(&folders.disk)?,
        tempfile::tempdir_in(&folders.memory)?,
    );
    let history = folder.path().join("history.jsonl");
    let mut command = child::command(program, Signal::KILL);
    command
        .args(["--seed", &seed.number.to_string()])
        .args(["--nodes", &seed.nodes.to_string()])
        .args(["--seconds", &seconds.to_string()])
        .arg("--history")
        .arg(&history)
        .arg("--folder")
        .arg(memory.path())
        .env_remove(SWITCH)
        .envs(planted.map(|plants| (SWITCH, plants)));
    let said = child::finish(&mut command, folder.path(), SEED_MAX)?;
    let told = said
        .output
        .lines()
        .find_map(|line| serde_json::from_str::<Report>(line).ok());
    let report = match (told, said.status.map(|status| status.code())) {
        (Some(report), _) => report,
        (None, None) => failed(seed, "hang", &format!("within {SEED_MAX:?}: {}", said.end(STORY_LINES))),
        (None, Some(Some(NOT_SET_UP))) => return Err(io::Error::other(said.end(STORY_LINES))),
        (None, Some(_)) => failed(seed, "panic", &said.end(STORY_LINES)),
    };
    Ok(Ran {
        report,
        history: history.exists().then_some(history),
        _folder: folder,
    })
}

/// Asks every checker about the history.
fn judge(report: &mut Report, history: &Path) -> io::Result<()> {
    let history = History::read(history).map_err(io::Error::other)?;
    let checked = match std::panic::catch_unwind(|| check(&history, &CheckOptions::in_simulated_time())) {
        Ok(checked) => checked,
        // It said where. What it could not bear may be the very thing that it looks for.
        Err(_panicked) => {
            let story = "a checker panicked over the history".to_owned();
            report.violations.push(("check".to_owned(), story));
            return Ok(());
        }
    };
    let counts = checked
        .checked
        .iter()
        .map(|(checker, count)| ((*checker).to_owned(), *count as u64));
    report.checked.extend(counts);
    report.seen.extend(seen(&checked.coverage));
    let told = checked.violations.into_iter();
    report
        .violations
        .extend(told.map(|violation| (violation.checker.to_owned(), violation.story)));
    Ok(())
}

/// What the summary adds up, by the names under which it demands it.
fn seen(coverage: &Coverage) -> [(String, u64); 8] {
    [
        ("expiries", coverage.expiries),
        ("compacted", coverage.compacted),
        ("snapshots installed", coverage.snapshots_installed),
        ("resumes", coverage.resumes),
        ("unknown found", coverage.unknown_found),
        ("unknown not found", coverage.unknown_not_found),
        ("leader hit", coverage.leader_hit),
        ("majority lost", coverage.majority_lost),
    ]
    .map(|(name, count)| (name.to_owned(), count as u64))
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
