//! What became of the plants, and how it is told.

use std::{collections::BTreeSet, io::Write as _, process::ExitCode, time::Duration};

use super::{Plant, lone::Failure, rigs::Finding};

/// What became of one plant, or of a run without any.
pub(super) struct Verdict {
    pub(super) name: String,
    pub(super) good: bool,
    pub(super) line: String,
    pub(super) story: String,
    /// Simulation and processes: the seed at which it ended.
    pub(super) seed: u64,
}

impl Verdict {
    pub(super) fn of(name: &str, good: bool, line: String, story: &str) -> Self {
        Self {
            name: name.to_owned(),
            good,
            line,
            story: story.to_owned(),
            seed: 0,
        }
    }

    pub(super) fn not_run(name: &str, error: &Failure) -> Self {
        Self::of(name, false, format!("could not be run: {error}"), "")
    }

    pub(super) fn tell(self) -> Self {
        let mark = if self.good { "ok  " } else { "FAIL" };
        let mut told = format!("{mark} {:36} {}", self.name, self.line);
        for line in self.story.lines() {
            told.push_str("\n         ");
            told.push_str(line);
        }
        say(&told);
        self
    }
}

/// Says what became of all of them.
pub(super) fn sum_up(verdicts: &[Verdict], took: Duration) -> ExitCode {
    let escaped: Vec<&Verdict> = verdicts.iter().filter(|verdict| !verdict.good).collect();
    say(&format!(
        "\nplants: {} runs in {:.0?}, {} as they should be, {} not",
        verdicts.len(),
        took,
        verdicts.len() - escaped.len(),
        escaped.len()
    ));
    for verdict in &escaped {
        say(&format!("  FAIL {}: {}", verdict.name, verdict.line));
    }
    if escaped.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Whether one of the checkers that the plant names found it; the names of the others are collected.
pub(super) fn caught(plant: &Plant, findings: &[Finding], others: &mut BTreeSet<String>) -> Option<Verdict> {
    let by_name = findings
        .iter()
        .find(|finding| plant.caught_by.contains(&finding.checker.as_str()));
    let also: BTreeSet<&str> = findings.iter().map(|finding| finding.checker.as_str()).collect();
    let Some(finding) = by_name else {
        others.extend(also.into_iter().map(str::to_owned));
        return None;
    };
    let also: Vec<&str> = also.into_iter().filter(|name| *name != finding.checker).collect();
    let also = if also.is_empty() {
        String::new()
    } else {
        format!(" (and {})", also.join(", "))
    };
    Some(Verdict::of(
        plant.name,
        true,
        format!("caught by {}{also}", finding.checker),
        &finding.story,
    ))
}

pub(super) fn escaped(plant: &Plant, budget: &str, others: &BTreeSet<String>) -> Verdict {
    let others: Vec<&str> = others.iter().map(String::as_str).collect();
    let others = if others.is_empty() {
        "nobody".to_owned()
    } else {
        others.join(", ")
    };
    let line = format!(
        "ESCAPED {} in {budget}; {others} found something",
        plant.caught_by.join(" and ")
    );
    Verdict::of(plant.name, false, line, "")
}

/// A line for whoever reads the run.
pub(super) fn say(line: &str) {
    // A reader that left is no failure of the run.
    let _left = writeln!(std::io::stdout(), "{line}");
}

pub(super) fn complain(line: &str) {
    let _left = writeln!(std::io::stderr(), "{line}");
}
