//! The harnesses as processes of their own, with a plant in their environment: the simulation of one seed, a scenario of
//! real processes, and the checkers. What they find is read from what they print.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use super::{Plant, crash::SWITCH, lone::Failure};

/// One seed of the simulation ends within this, or hangs.
const SEED_MAX: Duration = Duration::from_secs(240);
/// Checking one history.
const CHECK_MAX: Duration = Duration::from_secs(180);
const LOOK_EVERY: Duration = Duration::from_millis(20);
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

/// Simulates one seed, planted or not, and asks every checker.
pub(super) fn simulate(plant: Option<&Plant>, seed: u64, folder: &Path) -> Result<Vec<Finding>, Failure> {
    let history = folder.join(format!("seed-{seed}.jsonl"));
    let mut command = Command::new(beside_this("simulation")?);
    command.args(["--seed", &seed.to_string(), "--history"]).arg(&history);
    let said = finish(switched(&mut command, plant), folder, SEED_MAX)?;
    let mut findings = Vec::new();
    let line = said.output.lines().rev().find(|line| line.starts_with('{'));
    let report: Option<serde_json::Value> = line.and_then(|line| serde_json::from_str(line).ok());
    match report {
        Some(report) if report.get("setup").is_some() => return Err(format!("seed {seed}: {report}").into()),
        Some(report) => {
            let violations = report
                .get("violations")
                .and_then(|all| all.as_array())
                .cloned()
                .unwrap_or_default();
            for violation in violations {
                let text = |at: usize| {
                    violation
                        .get(at)
                        .and_then(|it| it.as_str())
                        .unwrap_or_default()
                        .to_owned()
                };
                findings.push(Finding {
                    checker: text(0),
                    story: text(1),
                });
            }
        }
        None => findings.push(Finding {
            checker: "ends".to_owned(),
            story: format!(
                "the simulation ended with {}: {}",
                said.ended,
                last_lines(&said.output, STORY_LINES)
            ),
        }),
    }
    if history.exists() {
        findings.extend(check(&history, folder)?);
        std::fs::remove_file(&history)?;
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
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["run", "--seed", &seed.to_string(), "--only", scenario, "--binary"]);
    command.arg(beside_this("roster-planted")?);
    let said = finish(switched(&mut command, plant), folder, longest)?;
    let findings = findings_in(&said.output);
    if findings.is_empty() && !said.succeeded {
        return Err(format!(
            "{scenario} ended with {}: {}",
            said.ended,
            last_lines(&said.output, STORY_LINES)
        )
        .into());
    }
    Ok(findings)
}

fn check(history: &Path, folder: &Path) -> Result<Vec<Finding>, Failure> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("check").arg(history);
    let said = finish(switched(&mut command, None), folder, CHECK_MAX)?;
    let findings = findings_in(&said.output);
    if findings.is_empty() && !said.succeeded {
        return Err(format!(
            "the check ended with {}: {}",
            said.ended,
            last_lines(&said.output, STORY_LINES)
        )
        .into());
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

fn switched<'c>(command: &'c mut Command, plant: Option<&Plant>) -> &'c mut Command {
    match plant {
        Some(plant) => command.env(SWITCH, format!("{}={}", plant.name, plant.actions)),
        None => command.env_remove(SWITCH),
    }
}

/// What a process said and how it ended.
struct Said {
    output: String,
    ended: String,
    succeeded: bool,
}

/// Runs a process to its end, or to the end of our patience.
fn finish(command: &mut Command, folder: &Path, longest: Duration) -> Result<Said, Failure> {
    let path = folder.join("said");
    let file = File::create(&path)?;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()?;
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break Some(status);
        }
        if began.elapsed() > longest {
            child.kill()?;
            child.wait()?;
            break None;
        }
        thread::sleep(LOOK_EVERY);
    };
    let mut output = Vec::new();
    File::open(&path)?.read_to_end(&mut output)?;
    Ok(Said {
        output: String::from_utf8_lossy(&output).into_owned(),
        ended: status.map_or_else(|| format!("no end within {longest:?}"), |status| status.to_string()),
        succeeded: status.is_some_and(|status| status.success()),
    })
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

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
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
