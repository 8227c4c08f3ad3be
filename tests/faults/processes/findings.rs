//! What runs found, and what they were made of: the summary.

use std::{collections::BTreeMap, fmt, time::Duration};

use tokio::{task::JoinSet, time::timeout};

use super::gaps::Gaps;
use crate::history::{Answer, History};

/// The harness itself failed, or could not show what a run is there to show.
pub(crate) const HARNESS: &str = "the-harness-works";

/// Something that must never be.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    /// Which check saw it.
    pub(crate) checker: String,
    /// What it saw.
    pub(crate) story: String,
}

/// Injections of one kind that were not made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Skipped {
    /// How many.
    pub(crate) count: u64,
    /// So many of them because this machine lacks what they need.
    pub(crate) lacks: u64,
    /// Why the last one was not made.
    pub(crate) why: String,
}

/// Of one run, or of all together.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) violations: Vec<Finding>,
    /// Injections by kind.
    pub(crate) faults: BTreeMap<String, u64>,
    /// Injections that were not made, by kind.
    pub(crate) skipped: BTreeMap<String, Skipped>,
    /// Scenarios that this machine could not do, or not to the end, and why.
    pub(crate) skipped_scenarios: Vec<(String, String)>,
    pub(crate) runs: u64,
    pub(crate) calls: u64,
    pub(crate) acknowledged: u64,
    pub(crate) steps: u64,
    pub(crate) gaps: Gaps,
    /// Those of runs in which the machine had no time for the nodes.
    pub(crate) busy_gaps: Gaps,
    /// How long it took in the end until every node answered; the longest.
    pub(crate) healing: Duration,
    /// How many other campaigns ran on this machine at one time.
    pub(crate) beside: usize,
    pub(crate) spent: Duration,
}

impl Findings {
    /// Waits until clients that were told to stop have ended. One that panicked recorded no more, and what it would have
    /// seen is missing.
    pub(crate) async fn clients_end(&mut self, clients: &mut JoinSet<()>, within: Duration) {
        let all = timeout(within, async {
            while let Some(ended) = clients.join_next().await {
                if let Err(error) = ended {
                    self.violation(HARNESS, format!("a client did not end in order: {error}"));
                }
            }
        });
        if all.await.is_err() {
            let story = format!("a client did not end within {within:?} of being told to");
            self.violation("clients-end", story);
        }
    }

    pub(crate) fn violation(&mut self, checker: impl Into<String>, story: impl Into<String>) {
        self.violations.push(Finding {
            checker: checker.into(),
            story: story.into(),
        });
    }

    /// So many injections can't be made on this machine.
    pub(crate) fn lack(&mut self, kind: &str, times: u64, why: &str) {
        let skipped = self.skip(kind, times, why);
        skipped.lacks += times;
    }

    /// An injection was not made, or nothing met it; the machine is not to blame.
    pub(crate) fn miss(&mut self, kind: &str, why: &str) {
        self.skip(kind, 1, why);
    }

    fn skip(&mut self, kind: &str, times: u64, why: &str) -> &mut Skipped {
        let skipped = self.skipped.entry(kind.to_owned()).or_default();
        skipped.count += times;
        why.clone_into(&mut skipped.why);
        skipped
    }

    /// Counts what one run's history holds.
    pub(crate) fn count(&mut self, history: &History) {
        self.calls = history.calls.len() as u64;
        let done = history
            .calls
            .iter()
            .filter(|call| matches!(call.answer, Answer::Done { .. }));
        self.acknowledged = done.count() as u64;
        self.steps = history.watches.iter().map(|watch| watch.steps.len() as u64).sum();
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.violations.extend(other.violations);
        for (kind, count) in other.faults {
            *self.faults.entry(kind).or_default() += count;
        }
        for (kind, Skipped { count, lacks, why }) in other.skipped {
            let skipped = self.skipped.entry(kind).or_default();
            *skipped = Skipped {
                count: skipped.count + count,
                lacks: skipped.lacks + lacks,
                why,
            };
        }
        self.skipped_scenarios.extend(other.skipped_scenarios);
        self.runs += other.runs;
        self.calls += other.calls;
        self.acknowledged += other.acknowledged;
        self.steps += other.steps;
        self.gaps.add(other.gaps);
        self.busy_gaps.add(other.busy_gaps);
        self.healing = self.healing.max(other.healing);
        self.beside = self.beside.max(other.beside);
        self.spent += other.spent;
    }

    /// All injections.
    pub(crate) fn fault_count(&self) -> u64 {
        self.faults.values().sum()
    }

    /// All injections that were not made.
    pub(crate) fn skipped_count(&self) -> u64 {
        self.skipped.values().map(|skipped| skipped.count).sum()
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
        if !self.healing.is_zero() {
            let within_ms = self.healing.as_millis();
            writeln!(f, "whole again after the last fault: within {within_ms} ms")?;
        }
        if self.beside > 0 {
            writeln!(f, "other campaigns on this machine meanwhile: {}", self.beside)?;
        }
        for (kind, Skipped { count, why, .. }) in &self.skipped {
            writeln!(f, "SKIPPED {count} × {kind}: {why}")?;
        }
        for (name, why) in &self.skipped_scenarios {
            writeln!(f, "SKIPPED {name}: {why}")?;
        }
        writeln!(
            f,
            "skipped: {} injections, {} scenarios",
            self.skipped_count(),
            self.skipped_scenarios.len()
        )?;
        for Finding { checker, story } in &self.violations {
            writeln!(f, "VIOLATION {checker}: {story}")?;
        }
        writeln!(f, "violations: {}", self.violations.len())
    }
}
