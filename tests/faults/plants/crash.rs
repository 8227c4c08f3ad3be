//! Crash points: a node dies at each step of writing, installing and purging for snapshots, and comes back with all
//! that it acknowledged (FAULTS rows 27 to 29).
//!
//! The node that dies is a process of its own: this program again, with `FAILPOINTS` in its environment. It registers,
//! says what was acknowledged, writes a snapshot, and so on until it dies; or it dies while it starts from what another
//! one left. Then a process without crash points starts on the same directory and lists what is there.

use std::{os::unix::process::ExitStatusExt as _, path::Path, time::Duration};

use rustix::process::Signal;

use super::lone::{Failure, Lone};
use crate::simulate::child::{self, SWITCH, Said};

/// Registers between two snapshots.
const REGISTERS: u64 = 30;
/// Snapshots after which a node that should have died gives up.
const SNAPSHOTS: u64 = 3;
/// One life of a process, on a busy machine.
const LIFE_MAX: Duration = Duration::from_secs(120);
/// So much of what a process said is told.
const STORY_LINES: usize = 14;

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
        if !died_at(point, &output) {
            return Ok(Err(format!(
                "{}, life {life}: the process was to die there, and ended with {}",
                point.name,
                output.end(STORY_LINES)
            )));
        }
        if acknowledged == 0 {
            return Ok(Err(format!(
                "{}, life {life}: nothing was acknowledged before, so nothing could be lost",
                point.name
            )));
        }
        let after = child("list", folder, None)?;
        let lines = after.output.lines();
        let mut listed = lines.filter_map(|line| line.strip_prefix("listed ")?.parse::<u64>().ok());
        match listed.next_back() {
            Some(listed) if listed >= acknowledged => {}
            Some(listed) => {
                return Ok(Err(format!(
                    "{}, life {life}: {acknowledged} registers were acknowledged, {listed} are there",
                    point.name
                )));
            }
            None => {
                return Ok(Err(format!(
                    "{}, life {life}: it does not start again: {}",
                    point.name,
                    after.end(STORY_LINES)
                )));
            }
        }
    }
    Ok(Ok(format!("died twice, {acknowledged} acknowledged, all there")))
}

/// Whether the process ended where it was to: it aborts on a panic, and `fail` names the point in its own.
fn died_at(point: &Point, said: &Said) -> bool {
    let signal = said.status.and_then(|status| status.signal());
    let last_words = format!("failpoint {} panic", point.name);
    signal == Some(Signal::ABORT.as_raw()) && said.errors.contains(&last_words)
}

fn last_acknowledged(said: &Said) -> u64 {
    let lines = said.output.lines();
    let acknowledged = lines.filter_map(|line| line.strip_prefix("acknowledged ")?.parse().ok());
    acknowledged.max().unwrap_or(0)
}

fn child(part: &str, folder: &Path, switch: Option<&str>) -> Result<Said, Failure> {
    let said = tempfile::tempdir_in(folder)?;
    let mut command = child::command(&std::env::current_exe()?, Signal::KILL);
    command
        .args(["plants", "--child", part, "--folder"])
        .arg(folder.join("node"))
        .env_remove(SWITCH)
        .envs(switch.map(|switch| (SWITCH, switch)));
    Ok(child::finish(&mut command, said.path(), LIFE_MAX)?)
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
                super::verdict::say(&format!("acknowledged {}", first + REGISTERS));
                lone.snapshot().await?;
            }
        }
        super::verdict::say(&format!("listed {}", lone.hub.view().state.instance_count()));
        lone.stop().await
    })
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;

    #[test]
    fn only_who_aborts_at_the_point_died_there() {
        let point = &POINTS[0];
        let said = |status: i32, errors: &str| Said {
            output: String::new(),
            errors: errors.to_owned(),
            status: Some(ExitStatus::from_raw(status)),
        };
        let there = format!("thread 'main' panicked at src/x.rs:\nfailpoint {} panic\n", point.name);
        assert!(died_at(point, &said(6, &there)));
        assert!(!died_at(
            point,
            &said(6, "thread 'main' panicked at src/x.rs:\nanother panic\n")
        ));
        assert!(!died_at(point, &said(9, &there)), "killed from outside");
        assert!(!died_at(point, &said(1 << 8, &there)), "ended by itself");
        assert!(
            !died_at(
                point,
                &Said {
                    status: None,
                    ..said(0, &there)
                }
            ),
            "hung"
        );
    }
}
