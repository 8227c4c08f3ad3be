//! What one seed's process says when it ends: one line of JSON, which `faults simulate` adds up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Outcome, Plan};
use crate::history::Answer;

/// One seed's result.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Which.
    pub(crate) seed: u64,
    /// How many nodes.
    pub(crate) nodes: usize,
    /// Equal for equal seeds.
    pub(crate) trace: String,
    /// Messages, faults, elections.
    pub(crate) events: u64,
    /// Simulated time.
    pub(crate) simulated_ms: u64,
    /// Records committed.
    pub(crate) committed: u64,
    /// Leaderships.
    pub(crate) leaders: u64,
    /// Syncs of all disks.
    pub(crate) syncs: u64,
    /// How long a whole majority took to commit after the faults.
    pub(crate) recovered_ms: Option<u64>,
    /// Faults by kind.
    pub(crate) faults: BTreeMap<String, u64>,
    /// Calls by what became of them.
    pub(crate) calls: BTreeMap<String, u64>,
    /// The name of a checker, and its story.
    pub(crate) violations: Vec<(String, String)>,
}

impl Report {
    /// Sums an outcome up.
    pub(crate) fn new(plan: &Plan, outcome: &Outcome) -> Self {
        let mut report = Self {
            seed: plan.seed,
            nodes: plan.nodes,
            trace: format!("{:016x}", outcome.trace),
            events: outcome.events,
            simulated_ms: millis(outcome.simulated),
            committed: outcome.committed,
            leaders: outcome.leaders,
            syncs: outcome.syncs,
            recovered_ms: outcome.recovered.map(millis),
            ..Self::default()
        };
        for fault in &outcome.history.faults {
            *report.faults.entry(fault.kind.clone()).or_default() += 1;
        }
        for call in &outcome.history.calls {
            let became = match call.answer {
                Answer::Done { .. } => "done",
                Answer::Rejected { .. } => "rejected",
                Answer::Failed { .. } => "failed",
                Answer::Unknown { .. } => "unknown",
            };
            *report.calls.entry(became.to_owned()).or_default() += 1;
        }
        report
            .calls
            .insert("watches".to_owned(), outcome.history.watches.len() as u64);
        if let Some(problem) = &outcome.problem {
            let (checker, story) = problem.split_once(": ").unwrap_or(("problem", problem));
            report.violations.push((checker.to_owned(), story.to_owned()));
        }
        report
    }
}

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
