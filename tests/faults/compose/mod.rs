//! The compose cluster: three containers, harmed by what operators have at hand, under the same traffic and before the
//! same checkers as all others.
//!
//! | file | what it holds |
//! |---|---|
//! | `docker` | the project: the commands that start, harm and end it |
//! | `cluster` | its nodes as clients see them, and samples of them |
//! | `harm` | kill, pause, disconnect, a volume that is removed, `down` and `up` |
//! | `stage` | one run, from the first start to the evidence |
//!
//! The project, its network, its volumes and the folder of its history are made for the run and go with it, however it
//! ends; only a violation leaves the history behind. The image is `scripts/compose-test`'s to make.

mod cluster;
mod docker;
mod harm;
mod stage;

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    check::{CheckOptions, Demands, check},
    history::{History, Run},
    processes::{
        findings::{Findings, HARNESS},
        gaps::Gaps,
        ledger::{Line, beside},
        machine::Machine,
        say,
    },
};
use cluster::Cluster;
use docker::Project;
use harm::Harm;
use stage::Stage;

/// The compose file's nodes.
const NODES: usize = 3;
/// Traffic without harm, before the first one and between two.
const CALM: Duration = Duration::from_secs(3);

/// Harms the compose cluster and checks what clients saw
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Everything that is chosen by chance comes from it [default: a new one, which is printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Go on with harms in another order until so much time is over; without it, each is done once
    #[arg(long)]
    minutes: Option<f64>,
    /// The image of the nodes
    #[arg(long, env = "ROSTER_IMAGE", default_value = "roster:local")]
    image: String,
    #[arg(long, default_value = "cluster/docker-compose.yml", help = "The compose file")]
    file: PathBuf,
    /// The name of the compose project, which must not exist [default: one of this process]
    #[arg(long, env = "COMPOSE_PROJECT_NAME")]
    project: Option<String>,
    /// Where the history is written, and data directories are copied to
    #[arg(long, env = "ROSTER_FAULTS_DIR", default_value = "/var/tmp/roster-faults")]
    dir: PathBuf,
    /// Append a line to docs/faults-ledger.md
    #[arg(long)]
    ledger: bool,
    /// Keep the history of a run without a violation, too
    #[arg(long)]
    keep: bool,
}

/// Does what was asked for; 1 = a violation was found, 2 = it could not be done.
pub(crate) fn run(arguments: &Arguments) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    match runtime.block_on(whole(arguments)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => failed(&error),
    }
}

fn failed(error: &io::Error) -> ExitCode {
    say(format!("faults compose: {error}"));
    ExitCode::from(2)
}

/// Returns whether nothing was violated.
async fn whole(arguments: &Arguments) -> io::Result<bool> {
    let began = Instant::now();
    let seed = arguments
        .seed
        .unwrap_or_else(|| rand::rng().random_range(0..1_000_000_000));
    let folder = arguments.dir.join(format!("compose-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let own = || format!("roster-faults-{}", std::process::id());
    let name = arguments.project.clone().unwrap_or_else(own);
    let project = Project::new(name, &arguments.file, &arguments.image, NODES)?;
    let minutes = arguments.minutes.map(|minutes| format!(" --minutes {minutes}"));
    let run = Run {
        harness: "compose".to_owned(),
        seed,
        nodes: u32::try_from(NODES).unwrap_or(u32::MAX),
        replay: format!(
            "scripts/compose-test --faults --seed {seed}{}",
            minutes.unwrap_or_default()
        ),
    };
    say(format!("the compose cluster (seed {seed})"));
    let mut terminate = signal(SignalKind::terminate())?;
    let (machine, others) = (Machine::watch(), beside());
    let outcome = tokio::select! {
        outcome = play(arguments, project.clone(), run, &folder) => outcome,
        _interrupted = tokio::signal::ctrl_c() => Err(io::ErrorKind::Interrupted.into()),
        _terminated = terminate.recv() => Err(io::ErrorKind::Interrupted.into()),
    };
    let busy = machine.was_busy();
    drop(machine);
    let cleared = tokio::task::spawn_blocking(move || project.down(true)).await;
    let (history, mut findings) = outcome?;
    cleared.map_err(io::Error::other)??;
    judge(arguments, &history, busy, &mut findings);
    findings.beside = others.max(beside());
    findings.spent = began.elapsed();
    say(format!("\n{findings}"));
    if arguments.ledger {
        Line::of("compose", &findings, seed).enter()?;
    }
    let is_clean = findings.violations.is_empty();
    if is_clean && !arguments.keep {
        fs::remove_dir_all(&folder)?;
    } else {
        say(format!("kept: {} (history.jsonl)", folder.display()));
        say(format!("again: {}", history.run.replay));
    }
    Ok(is_clean)
}

/// From the first start to the evidence.
async fn play(arguments: &Arguments, project: Project, run: Run, folder: &Path) -> io::Result<(History, Findings)> {
    let began = Instant::now();
    let mut order = StdRng::seed_from_u64(run.seed);
    let mut stage = Stage::open(Cluster::new(project, NODES), run, folder).await?;
    let span = arguments.minutes.map(|minutes| Duration::from_secs_f64(minutes * 60.0));
    'rounds: loop {
        let mut harms = Harm::ALL;
        harms.shuffle(&mut order);
        for harm in harms {
            stage.wait(CALM).await;
            if span.is_some_and(|span| began.elapsed() >= span) {
                break 'rounds;
            }
            harm.run(&mut stage).await?;
        }
        if span.is_none() {
            break;
        }
    }
    stage.settle().await
}

/// Counts what there is, and asks every checker.
fn judge(arguments: &Arguments, history: &History, busy: Option<String>, findings: &mut Findings) {
    findings.runs = 1;
    findings.count(history);
    let gaps = Gaps::of(history);
    let mut options = CheckOptions::default();
    match busy {
        Some(busy) => {
            // It may explain what did not come in time; it excuses nothing.
            for finding in &mut findings.violations {
                finding.story = format!("{} (the machine was busy: {busy})", finding.story);
            }
            say(format!(
                "the machine was busy, so more is borne of what is late, and no part of the calls must succeed (A1): {busy}"
            ));
            options = options.on_a_busy_machine();
            findings.busy_gaps = gaps;
        }
        None => findings.gaps = gaps,
    }
    if arguments.minutes.is_none() {
        // Every harm was done once: if it hit nothing, the run proves nothing.
        options.coverage = Demands {
            done: 500,
            done_during_faults: 50,
            leader_hit: true,
            majority_lost: true,
            leader_changes: 2,
            expiry: true,
            resume: true,
            ..Demands::default()
        };
    }
    if history.logs.is_empty() && findings.violations.is_empty() {
        let story = "no node's log was read, so nothing of the run could be checked";
        findings.violation(HARNESS, story);
    }
    let report = check(history, &options);
    if report.is_clean() {
        say(report.to_string());
    }
    for violation in report.violations {
        findings.violation(violation.checker, violation.story);
    }
}
