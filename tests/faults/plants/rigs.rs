//! The harnesses as processes of their own, with a plant in their environment: the simulation of one seed, a scenario of
//! real processes, and the checkers. What they find is read from what they print.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use rustix::process::Signal;

use super::{Plant, lone::Failure};
use crate::simulate::{
    Ran, Seed,
    child::{self, Folders, SWITCH, Said},
    run_seed,
};

/// Nodes of a simulated cluster.
const NODES: usize = 3;
/// Simulated seconds with faults.
const SECONDS: u64 = 12;
/// Checking one history.
const CHECK_MAX: Duration = Duration::from_secs(180);
/// So much of a story is printed.
const STORY_LINES: usize = 14;
/// What begins a finding in the output of `check` and `run`.
const FINDING: &str = "VIOLATION ";

/// What a checker said.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) checker: String,
    pub(super) story: String,
}

/// Simulates one seed, planted or not, and asks every checker, unless it ended before its time: then its own problem
/// is all that can be said of it.
pub(super) fn simulate(plant: Option<&Plant>, seed: u64, folders: &Folders) -> Result<Vec<Finding>, Failure> {
    let number = Seed {
        number: seed,
        nodes: NODES,
    };
    let program = beside_this("simulation")?;
    let ran = run_seed(&program, number, SECONDS, folders, plant.map(switch).as_deref())
        .map_err(|error| format!("seed {seed}: {error}"))?;
    let told = ran.report.violations.iter();
    let mut findings: Vec<Finding> = told
        .map(|(checker, story)| Finding {
            checker: checker.clone(),
            story: story.lines().take(STORY_LINES).collect::<Vec<_>>().join("\n"),
        })
        .collect();
    if let Ran {
        history: Some(history),
        report,
        ..
    } = &ran
        && !report.aborted
    {
        findings.extend(check(history, &folders.disk)?);
    }
    Ok(findings)
}

/// Runs one scenario of real processes, with the planted server or the same one with nothing planted.
pub(super) fn run_processes(
    plant: Option<&Plant>,
    scenario: &str,
    seed: u64,
    longest: Duration,
    folder: &Path,
) -> Result<Vec<Finding>, Failure> {
    // It is asked to end, so that it unmounts its disks.
    let mut command = child::command(&std::env::current_exe()?, Signal::TERM);
    command.args(["run", "--seed", &seed.to_string(), "--only", scenario, "--binary"]);
    command.arg(beside_this("roster-planted")?);
    findings_of(scenario, switched(&mut command, plant), folder, longest)
}

fn check(history: &Path, disk: &Path) -> Result<Vec<Finding>, Failure> {
    let folder = tempfile::tempdir_in(disk)?;
    let mut command = child::command(&std::env::current_exe()?, Signal::KILL);
    command.arg("check").arg(history);
    findings_of("the check", switched(&mut command, None), folder.path(), CHECK_MAX)
}

/// Runs one of this program's own commands that prints what it finds.
fn findings_of(what: &str, command: &mut Command, folder: &Path, longest: Duration) -> Result<Vec<Finding>, Failure> {
    let said: Said = child::finish(command, folder, longest)?;
    let findings = findings_in(&said.output);
    if findings.is_empty() && !said.succeeded() {
        return Err(format!("{what} ended with {}", said.end(STORY_LINES)).into());
    }
    Ok(findings)
}

/// A program that was built with this one.
fn beside_this(name: &str) -> Result<PathBuf, Failure> {
    let path = std::env::current_exe()?.with_file_name(name);
    if path.exists() {
        return Ok(path);
    }
    Err(format!(
        "{} is not there: build all examples with --features failpoints",
        path.display()
    )
    .into())
}

/// What switches a plant on.
fn switch(plant: &Plant) -> String {
    format!("{}={}", plant.name, plant.actions)
}

fn switched<'c>(command: &'c mut Command, plant: Option<&Plant>) -> &'c mut Command {
    match plant {
        Some(plant) => command.env(SWITCH, switch(plant)),
        None => command.env_remove(SWITCH),
    }
}

/// The findings in what was printed: `VIOLATION NAME: STORY`, the story until the next one or an empty line.
fn findings_in(output: &str) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let mut telling = false;
    for line in output.lines() {
        if let Some((checker, story)) = line.strip_prefix(FINDING).and_then(|rest| rest.split_once(": ")) {
            findings.push(Finding {
                checker: checker.to_owned(),
                story: story.to_owned(),
            });
            telling = true;
        } else if line.trim().is_empty() {
            telling = false;
        } else if let Some(last) = findings.last_mut().filter(|_| telling)
            && last.story.lines().count() < STORY_LINES
        {
            last.story.push('\n');
            last.story.push_str(line);
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_read_with_their_stories() {
        let said = "checked: I1 4\n\nVIOLATION I4a: a read\n  at 7\n  seed 3\n\nVIOLATION D1: lost\nno more\n";
        let findings = findings_in(said);
        let names: Vec<_> = findings.iter().map(|finding| finding.checker.as_str()).collect();
        assert_eq!(names, ["I4a", "D1"]);
        assert_eq!(findings[0].story, "a read\n  at 7\n  seed 3");
        assert!(findings_in("no violation\n").is_empty());
    }
}
