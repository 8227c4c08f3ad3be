//! Run after run: what is printed meanwhile, what is kept, and the ledger.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::signal::unix::{SignalKind, signal};

use super::{
    cluster::Plan,
    disk::Disks,
    findings::{Findings, HARNESS},
    gaps::Gaps,
    injections::Made,
    ledger::{Line, beside},
    machine::Machine,
    random,
    scenarios::{SCENARIOS, Scenario},
    stage::Stage,
    work::{ROUND, Work},
};
use crate::{
    check::{self, CheckOptions, Demands},
    history::{History, Run},
    traffic,
};

/// Clients of each cluster: two of most kinds.
const CLIENTS: u32 = 13;
/// Where libfaketime's library for programs with threads is installed.
const FAKE_CLOCKS: [&str; 3] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];
const HISTORY: &str = "history.jsonl";
const REPORT: &str = "report.txt";
/// Lies in a run's folder until its verdict is there. A folder that still has it when the tool is gone was not kept on
/// purpose: `scripts/faults` clears its disks away.
const UNDER_WAY: &str = "under-way";
/// Healed, a cluster answers on every node by then, on a machine that keeps time. Goal G11 allows 60 s for a node that
/// needs a snapshot of a day; these were away for seconds, and half of that is checker A3's bound, too.
const HEALED_WITHIN: Duration = Duration::from_secs(30);

/// Harms real processes and checks what clients saw
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Everything that is chosen by chance comes from it [default: a new one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Harm at random, with faults that overlap, for so long; without it, each scenario is run once
    #[arg(long)]
    minutes: Option<f64>,
    /// These scenarios only
    #[arg(long, num_args = 1.., value_name = "NAME")]
    only: Vec<String>,
    /// How many nodes; at random, both in turn
    #[arg(long, value_parser = ["3", "5"])]
    nodes: Option<String>,
    /// Say which scenarios there are, and end
    #[arg(long)]
    list: bool,
    /// Append a line to docs/faults-ledger.md
    #[arg(long)]
    ledger: bool,
    /// Keep histories, logs and disks of runs without a violation, too
    #[arg(long)]
    keep: bool,
    /// Where the clusters live; not on a tmpfs
    #[arg(long, env = "ROSTER_FAULTS_DIR", default_value = "/var/tmp/roster-faults")]
    dir: PathBuf,
    /// The binary whose nodes are harmed
    #[arg(long, env = "ROSTER_BIN", default_value = "bin/roster")]
    binary: PathBuf,
}

/// Prints a line. Nobody is told if nobody listens.
pub(crate) fn say(line: impl AsRef<str>) {
    let mut out = io::stdout().lock();
    let _written = writeln!(out, "{}", line.as_ref()).and_then(|()| out.flush());
}

/// Does what was asked for; 1 = a violation was found, 2 = it could not be done.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    if arguments.list {
        for scenario in SCENARIOS {
            let seconds = scenario.expected().as_secs();
            say(format!("{:<28} {seconds:>4} s  {}", scenario.name, scenario.about));
        }
        say(expected(&SCENARIOS.iter().collect::<Vec<_>>()));
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    // On this thread: the kernel ends the nodes with the thread that started them.
    let outcome = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        tokio::select! {
            outcome = everything(arguments) => outcome,
            _interrupted = interrupt.recv() => Err(io::ErrorKind::Interrupted.into()),
            _terminated = terminate.recv() => Err(io::ErrorKind::Interrupted.into()),
            _hung_up = hang_up.recv() => Err(io::ErrorKind::Interrupted.into()),
        }
    });
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(&error),
    }
}

/// How long these take together.
fn expected(scenarios: &[&Scenario]) -> String {
    let all: Duration = scenarios.iter().map(|scenario| scenario.expected()).sum();
    let minutes = all.as_secs_f64() / 60.0;
    format!("{} scenarios, about {minutes:.0} minutes", scenarios.len())
}

fn failed(error: &io::Error) -> ExitCode {
    say(format!("faults: {error}"));
    ExitCode::from(2)
}

/// What all runs share.
struct Campaign<'a> {
    arguments: &'a Arguments,
    disks: Disks,
    fake_clock: Option<PathBuf>,
    folder: PathBuf,
    binary: PathBuf,
}

/// Returns whether nothing was violated.
async fn everything(arguments: &Arguments) -> io::Result<bool> {
    let began = Instant::now();
    let seed = arguments
        .seed
        .unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    let chosen = chosen(&arguments.only)?;
    let folder = arguments.dir.join(format!("run-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let binary = fs::canonicalize(&arguments.binary)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", arguments.binary.display())))?;
    let campaign = Campaign {
        arguments,
        disks: Disks::find_out(&folder),
        fake_clock: FAKE_CLOCKS.iter().map(PathBuf::from).find(|library| library.exists()),
        folder,
        binary,
    };
    say(format!("seed {seed}"));
    if let Disks::Folders(why) = &campaign.disks {
        say(format!("no disks of their own for the nodes: {why}"));
    }
    let mut total = Findings::default();
    match arguments.minutes {
        Some(minutes) => {
            let span = Duration::from_secs_f64(minutes * 60.0);
            for round in 0.. {
                let left = span.saturating_sub(began.elapsed());
                if left < ROUND / 4 && round > 0 {
                    break;
                }
                let work = Work::Random(left.min(ROUND));
                total.add(campaign.one(work, seed.wrapping_add(round)).await?);
            }
        }
        None => {
            say(expected(&chosen));
            for scenario in chosen {
                total.add(campaign.one(Work::Scenario(scenario), seed).await?);
            }
        }
    }
    total.spent = began.elapsed();
    say(format!("\n{total}"));
    if arguments.ledger {
        Line::of("processes", &total, seed).enter()?;
    }
    // Empty unless something was kept.
    let _kept = fs::remove_dir(&campaign.folder);
    Ok(total.violations.is_empty())
}

fn chosen(only: &[String]) -> io::Result<Vec<&'static Scenario>> {
    if only.is_empty() {
        return Ok(SCENARIOS.iter().collect());
    }
    let find = |name: &String| {
        let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
        found.ok_or_else(|| io::Error::other(format!("no scenario {name:?}; --list names them")))
    };
    only.iter().map(find).collect()
}

impl Campaign<'_> {
    fn plan(&self, work: Work, seed: u64) -> Plan {
        let asked = self.arguments.nodes.as_deref().and_then(|nodes| nodes.parse().ok());
        let (nodes, flags, jumps) = match work {
            Work::Scenario(scenario) => (
                scenario.nodes.or(asked).unwrap_or(3),
                scenario.flags,
                scenario.jumps_clocks(),
            ),
            // Every third cluster has five nodes, every fourth clocks that jump.
            Work::Random(_) => (
                asked.unwrap_or(if seed.is_multiple_of(3) { 5 } else { 3 }),
                random::FLAGS,
                seed.is_multiple_of(4),
            ),
        };
        Plan {
            nodes,
            clients: CLIENTS,
            binary: self.binary.clone(),
            disks: self.disks.clone(),
            flags: flags.iter().map(|&flag| flag.to_owned()).collect(),
            fake_clock: self.fake_clock.clone().filter(|_| jumps),
        }
    }

    /// One cluster, from its first start to the verdict.
    async fn one(&self, work: Work, seed: u64) -> io::Result<Findings> {
        let began = Instant::now();
        let plan = self.plan(work, seed);
        let folder = self.folder.join(format!("{}-{}-{seed}", work.name(), plan.nodes));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(UNDER_WAY), "")?;
        let replay = match work {
            Work::Scenario(scenario) => format!("--seed {seed} --nodes {} --only {}", plan.nodes, scenario.name),
            Work::Random(span) => format!(
                "--seed {seed} --nodes {} --minutes {:.1}",
                plan.nodes,
                span.as_secs_f64() / 60.0
            ),
        };
        let run = Run {
            harness: "processes".to_owned(),
            seed,
            nodes: u32::try_from(plan.nodes).unwrap_or(u32::MAX),
            replay: format!("scripts/faults {replay}"),
        };
        say(format!("\n{} ({} nodes, seed {seed})", work.name(), plan.nodes));
        let (machine, others) = (Machine::watch(), beside());
        let (history, mut findings) = match self.play(work, &plan, run.clone(), &folder).await {
            Ok(played) => played,
            Err(error) => {
                // The next cluster may fare better; this one proved nothing, and that counts as a failure.
                let mut findings = Findings::default();
                findings.violation(HARNESS, error.to_string());
                (History::new(run), findings)
            }
        };
        let busy = machine.was_busy();
        drop(machine);
        findings.beside = others.max(beside());
        if let Some(busy) = &busy {
            // It may explain what did not come in time; it excuses nothing.
            for finding in &mut findings.violations {
                finding.story = format!("{} (the machine was busy: {busy})", finding.story);
            }
            say(format!(
                "  the machine was busy, so nothing is demanded within a time (A1, gaps, healing): {busy}"
            ));
        }
        judge(work, &history, busy.is_some(), &folder, &mut findings)?;
        findings.runs = 1;
        findings.spent = began.elapsed();
        findings.count(&history);
        self.tell(work, &findings, &folder, &history);
        if findings.violations.is_empty() && !self.arguments.keep {
            fs::remove_dir_all(&folder)?;
        } else {
            fs::remove_file(folder.join(UNDER_WAY))?;
        }
        Ok(findings)
    }

    /// A script that fails is a violation, and what was seen until then is looked at all the same.
    async fn play(&self, work: Work, plan: &Plan, run: Run, folder: &Path) -> io::Result<(History, Findings)> {
        let options = traffic::Options {
            seed: run.seed,
            ..traffic::Options::default()
        };
        let mut stage = Stage::open(plan, run, options, folder).await?;
        stage.wait(WARM_UP).await;
        let played = match work {
            Work::Scenario(scenario) => scenario.run(&mut stage).await,
            Work::Random(span) => random::round(&mut stage, span).await,
        };
        if let Err(error) = played {
            let story = format!("the script was not played to its end: {error}");
            stage.findings.violation(HARNESS, story);
        }
        stage.settle(work.calm_end()).await
    }

    fn tell(&self, work: Work, findings: &Findings, folder: &Path, history: &History) {
        let verdict = match (findings.violations.is_empty(), findings.skipped_scenarios.first()) {
            (true, None) => format!("ok {}", work.name()),
            (true, Some((name, why))) => format!("SKIPPED {name}: {why};"),
            (false, _) => format!("VIOLATED {}", work.name()),
        };
        say(format!(
            "{verdict} in {:.0} s: {} calls, {} acknowledged, {} watch steps, {} log records, {} faults",
            findings.spent.as_secs_f64(),
            findings.calls,
            findings.acknowledged,
            findings.steps,
            history.logs.len(),
            findings.fault_count(),
        ));
        for finding in &findings.violations {
            say(format!("VIOLATION {}: {}", finding.checker, finding.story));
        }
        if !findings.violations.is_empty() || self.arguments.keep {
            say(format!("kept: {} ({HISTORY}, {REPORT}, logs, disks)", folder.display()));
            say(format!("again: {}", history.run.replay));
        }
    }
}

/// Traffic without harm, before the first.
const WARM_UP: Duration = Duration::from_secs(2);

/// Adds what the history shows to what was found while it was made.
fn judge(work: Work, history: &History, busy: bool, folder: &Path, findings: &mut Findings) -> io::Result<()> {
    let made = work.made(history, findings);
    let mut demands = work.demands();
    match &made {
        Made::All => {}
        Made::Lacks(why) => {
            findings.skipped_scenarios.push((work.name().to_owned(), why.clone()));
            // What those injections would have brought about can't be demanded.
            demands = Demands {
                done: demands.done,
                ..Demands::default()
            };
        }
        // A script that broke off has said so.
        Made::TooFew(_) if !findings.violations.is_empty() => {}
        Made::TooFew(which) => findings.violation(HARNESS, format!("{}: {which}", work.name())),
    }
    let gaps = Gaps::of(history);
    if busy {
        findings.busy_gaps = gaps;
    } else {
        for story in gaps.too_long() {
            findings.violation("gap", story.clone());
        }
        findings.gaps = gaps;
        if findings.healing > HEALED_WITHIN {
            let story = format!(
                "every node answered only {:.1} s after the last fault was taken back: at most {} s are allowed",
                findings.healing.as_secs_f64(),
                HEALED_WITHIN.as_secs()
            );
            findings.violation("whole-again-after-healing", story);
        }
    }
    if history.logs.is_empty() {
        if findings.violations.is_empty() {
            findings.violation(
                HARNESS,
                "no node's log was read, so nothing of the run could be checked",
            );
        }
        return Ok(());
    }
    let mut options = CheckOptions {
        coverage: demands,
        ..CheckOptions::default()
    };
    if busy {
        options = options.on_a_busy_machine();
    }
    if !work.is_timely() {
        options.success_min = None;
    }
    ask_checkers(history, &options, folder, findings)
}

/// Asks every checker; what they say stands beside the history.
fn ask_checkers(history: &History, options: &CheckOptions, folder: &Path, findings: &mut Findings) -> io::Result<()> {
    let report = check::check(history, options);
    fs::write(folder.join(REPORT), report.to_string())?;
    say(format!("  {}", report.coverage));
    for note in &report.notes {
        say(format!("  note: {note}"));
    }
    for violation in report.violations {
        findings.violation(violation.checker, violation.story);
    }
    Ok(())
}

/// A generator for what a round chooses, apart from what its harms choose.
pub(super) fn chance(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ 0x5eed_0f0f_5eed)
}
