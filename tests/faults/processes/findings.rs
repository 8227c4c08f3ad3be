//! What runs found, and what they were made of: the summary.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::gaps::Gaps;

/// Something that must never be.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// Which check saw it.
    pub(crate) checker: String,
    /// What it saw.
    pub(crate) story: String,
}

/// Of one run, or of all together.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) violations: Vec<Finding>,
    /// Injections by kind.
    pub(crate) faults: BTreeMap<String, u64>,
    /// Injections that could not be done, by kind: how often, and why.
    pub(crate) skipped: BTreeMap<String, (u64, String)>,
    pub(crate) runs: u64,
    pub(crate) calls: u64,
    pub(crate) acknowledged: u64,
    pub(crate) steps: u64,
    pub(crate) gaps: Gaps,
    /// Those of runs in which the machine had no time for the nodes.
    pub(crate) busy_gaps: Gaps,
    pub(crate) spent: Duration,
}

impl Findings {
    pub(crate) fn violation(&mut self, checker: impl Into<String>, story: impl Into<String>) {
        self.violations.push(Finding {
            checker: checker.into(),
            story: story.into(),
        });
    }

    pub(crate) fn skip(&mut self, kind: &str, why: &str) {
        let (count, reason) = self.skipped.entry(kind.to_owned()).or_default();
        *count += 1;
        why.clone_into(reason);
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.violations.extend(other.violations);
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (kind, (count, reason)) in other.skipped {
            let skipped = self.skipped.entry(kind).or_default();
            *skipped = (skipped.0 + count, reason);
        }
        self.runs += other.runs;
        self.calls += other.calls;
        self.acknowledged += other.acknowledged;
        self.steps += other.steps;
        self.gaps.add(other.gaps);
        self.busy_gaps.add(other.busy_gaps);
        self.spent += other.spent;
    }

    /// All injections.
    pub(crate) fn fault_count(&self) -> u64 {
        self.faults.values().sum()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.spent.as_secs_f64() / 60.0;
        writeln!(
            f,
            "{} runs in {minutes:.1} minutes: {} calls ({} acknowledged), {} watch steps, {} faults",
            self.runs,
            self.calls,
            self.acknowledged,
            self.steps,
            self.fault_count()
        )?;
        let kinds: Vec<String> = self
            .faults
            .iter()
            .map(|(kind, count)| format!("{kind} {count}"))
            .collect();
        writeln!(
            f,
            "faults: {}",
            if kinds.is_empty() {
                "none".to_owned()
            } else {
                kinds.join(", ")
            }
        )?;
        if !self.gaps.is_empty() || self.busy_gaps.is_empty() {
            write!(f, "{}", self.gaps)?;
        }
        if !self.busy_gaps.is_empty() {
            write!(
                f,
                "while the machine was busy, which no cluster is to blame for: {}",
                self.busy_gaps
            )?;
        }
        for (kind, (count, why)) in &self.skipped {
            writeln!(f, "SKIPPED {count} × {kind}: {why}")?;
        }
        if self.skipped.is_empty() {
            writeln!(f, "skipped injections: none")?;
        }
        for Finding { checker, story } in &self.violations {
            writeln!(f, "VIOLATION {checker}: {story}")?;
        }
        writeln!(f, "violations: {}", self.violations.len())
    }
}
