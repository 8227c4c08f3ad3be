//! Crash points: a node dies at each step of writing, installing and purging for snapshots, and comes back with all
//! that it acknowledged (FAULTS rows 27 to 29).
//!
//! The node that dies is a process of its own: this program again, with `FAILPOINTS` in its environment. It registers,
//! says what was acknowledged, writes a snapshot, and so on until it dies; or it dies while it starts from what another
//! one left. Then a process without crash points starts on the same directory and lists what is there.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use super::lone::{Failure, Lone};

/// Registers between two snapshots.
const REGISTERS: u64 = 30;
/// Snapshots after which a node that should have died gives up.
const SNAPSHOTS: u64 = 3;
/// The environment in which `fail` finds what to switch on.
pub(super) const SWITCH: &str = "FAILPOINTS";

/// One step at which the process may end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    /// The mark in `src/`.
    pub(super) name: &'static str,
    /// When it is passed.
    pub(super) passed: Passed,
}

/// When a node passes a crash point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passed {
    /// While it writes a snapshot and purges the log behind it.
    Writing,
    /// While it puts a snapshot in place of its state; it does so when it starts, too.
    Installing,
}

/// All of them, in the order in which they are passed.
pub(super) const POINTS: &[Point] = &[
    Point {
        name: "crash-before-snapshot-sync",
        passed: Passed::Writing,
    },
    Point {
        name: "crash-before-snapshot-rename",
        passed: Passed::Writing,
    },
    Point {
        name: "crash-after-snapshot-rename",
        passed: Passed::Writing,
    },
    Point {
        name: "crash-before-older-snapshot-removed",
        passed: Passed::Writing,
    },
    Point {
        name: "crash-before-purge",
        passed: Passed::Writing,
    },
    Point {
        name: "crash-after-purge",
        passed: Passed::Writing,
    },
    Point {
        name: "crash-before-snapshot-settled",
        passed: Passed::Installing,
    },
    Point {
        name: "crash-after-snapshot-settled",
        passed: Passed::Installing,
    },
];

/// Walks through one crash point; what was looked at, or what was lost.
pub(super) fn walk(point: &Point, folder: &Path) -> Result<Result<String, String>, Failure> {
    let mut acknowledged = 0;
    // The first snapshot has no older one; the later ones have.
    for life in 1..=2_u64 {
        let switch = format!("{}={}*off->1*panic", point.name, life - 1);
        let output = match point.passed {
            Passed::Writing => child("write", folder, Some(&switch))?,
            Passed::Installing => {
                let whole = child("write", folder, None)?;
                acknowledged = acknowledged.max(last_acknowledged(&whole));
                child("list", folder, Some(&format!("{}=1*panic", point.name)))?
            }
        };
        acknowledged = acknowledged.max(last_acknowledged(&output));
        if output.status.success() {
            return Ok(Err(format!("{}: the process was to die there and did not", point.name)));
        }
        let after = child("list", folder, None)?;
        let said = String::from_utf8_lossy(&after.stdout).into_owned();
        let listed = said
            .lines()
            .find_map(|line| line.strip_prefix("listed ")?.parse::<u64>().ok());
        match listed {
            Some(listed) if listed >= acknowledged => {}
            Some(listed) => {
                return Ok(Err(format!(
                    "{}, life {life}: {acknowledged} registers were acknowledged, {listed} are there",
                    point.name
                )));
            }
            None => {
                let why = String::from_utf8_lossy(&after.stderr).into_owned();
                return Ok(Err(format!(
                    "{}, life {life}: it does not start again: {why}",
                    point.name
                )));
            }
        }
    }
    Ok(Ok(format!("died twice, {acknowledged} acknowledged, all there")))
}

fn last_acknowledged(output: &Output) -> u64 {
    let said = String::from_utf8_lossy(&output.stdout);
    let acknowledged = said
        .lines()
        .filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
    acknowledged.max().unwrap_or(0)
}

fn child(part: &str, folder: &Path, switch: Option<&str>) -> Result<Output, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args(["plants", "--child", part, "--folder"])
        .arg(folder)
        .stdin(Stdio::null());
    command.env_remove(SWITCH);
    if let Some(switch) = switch {
        command.env(SWITCH, switch);
    }
    Ok(command.output()?)
}

/// What the child does.
pub(super) fn play(part: &str, folder: &Path) -> Result<(), Failure> {
    let _switched = fail::FailScenario::setup();
    roster::telemetry::abort_on_panic();
    if part == "power" {
        return super::power::write_on_the_disk(folder);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let lone = Lone::start(folder).await?;
        let term = lone.lead().await?;
        if part == "write" {
            for _ in 0..SNAPSHOTS {
                let first = lone.hub.view().state.instance_count() as u64;
                for number in first..first + REGISTERS {
                    lone.register(term, number).await?;
                }
                super::run::say(&format!("acknowledged {}", first + REGISTERS));
                lone.snapshot().await?;
            }
        }
        super::run::say(&format!("listed {}", lone.hub.view().state.instance_count()));
        lone.stop().await
    })
}
