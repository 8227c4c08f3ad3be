//! What happened in a run; and that a run in which too little happened proves nothing and is rejected.

use std::fmt;

use super::{Case, Findings, timeline::SNAPSHOT_INSTALLED};
use crate::{
    history::{Answer, Start},
    story::Story,
    witness::What,
};

/// What a run must have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Demands {
    /// Calls that were done, at the least.
    pub done: usize,
    /// Those within faults.
    pub done_during_faults: usize,
    /// A fault that put the leader into a minority, or ended or stopped it.
    pub leader_hit: bool,
    /// A time without a majority.
    pub majority_lost: bool,
    /// So many leaders, at the least.
    pub leader_changes: usize,
    /// A lease that ended for want of renewal.
    pub expiry: bool,
    /// An unknown write that is in the log, and one that is not.
    pub unknown_both_ways: bool,
    /// A watch that was resumed.
    pub resume: bool,
    /// A watch that was reset because its history was gone.
    pub compacted: bool,
    /// A snapshot that was installed: a fault, or its like, of kind `snapshot_installed`.
    pub snapshot_installed: bool,
}

/// What happened in a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    pub calls: usize,
    pub done: usize,
    pub done_during_faults: usize,
    pub failed: usize,
    pub unknown: usize,
    pub unknown_found: usize,
    pub unknown_not_found: usize,
    pub faults: usize,
    pub leader_hit: usize,
    pub majority_lost: usize,
    pub leader_changes: usize,
    pub snapshots_installed: usize,
    pub expiries: usize,
    pub watches: usize,
    pub changes: usize,
    pub resumes: usize,
    pub resets: usize,
    pub compacted: usize,
}

impl Coverage {
    pub(super) fn of(case: &Case<'_>) -> Self {
        let mut coverage = Self {
            faults: case.history.faults.len(),
            leader_changes: case.witness.terms.len().saturating_sub(1),
            ..Self::default()
        };
        coverage.count_calls(case);
        for fault in &case.history.faults {
            coverage.leader_hit += usize::from(fault.hit_leader);
            coverage.majority_lost += usize::from(!fault.majority_left);
            coverage.snapshots_installed += usize::from(fault.kind == SNAPSHOT_INSTALLED);
        }
        let expired = |event: &&crate::witness::Event| matches!(event.what, What::Expired(_));
        coverage.expiries = case.witness.events.iter().filter(expired).count();
        for stream in &case.history.watches {
            coverage.watches += 1;
            coverage.resumes += usize::from(matches!(stream.start, Start::After(_)) && !stream.steps.is_empty());
            for step in &stream.steps {
                coverage.changes += step.changes.len();
                coverage.resets += usize::from(step.reset.is_some());
                coverage.compacted += usize::from(step.reset.as_deref() == Some("COMPACTED"));
            }
        }
        coverage
    }

    fn count_calls(&mut self, case: &Case<'_>) {
        for call in &case.history.calls {
            self.calls += 1;
            match call.answer {
                Answer::Done { .. } | Answer::Rejected { .. } => {
                    self.done += 1;
                    let harmed = !case.timeline.is_calm(call.sent, call.ended);
                    self.done_during_faults += usize::from(harmed);
                }
                Answer::Failed { .. } => self.failed += 1,
                Answer::Unknown { .. } => self.unknown += 1,
            }
        }
        for group in case.matches.groups.values() {
            let unknown = |call: &Answer| matches!(call, Answer::Unknown { .. });
            let all = group.attempts.iter().all(|it| unknown(&it.call.answer));
            if all && !group.attempts.is_empty() {
                self.unknown_found += usize::from(!group.commands.is_empty());
                self.unknown_not_found += usize::from(group.commands.is_empty());
            }
        }
    }

    pub(super) fn check(&self, demands: &Demands, findings: &mut Findings<'_>) {
        findings.looked("coverage", 1);
        let missing = [
            (self.done < demands.done, format!("{} calls were done", self.done)),
            (
                self.done_during_faults < demands.done_during_faults,
                format!("{} calls were done during faults", self.done_during_faults),
            ),
            (
                demands.leader_hit && self.leader_hit == 0,
                "no fault hit a leader".to_owned(),
            ),
            (
                demands.majority_lost && self.majority_lost == 0,
                "the majority was never lost".to_owned(),
            ),
            (
                self.leader_changes < demands.leader_changes,
                format!("the leader changed {} times", self.leader_changes),
            ),
            (demands.expiry && self.expiries == 0, "no lease expired".to_owned()),
            (
                demands.unknown_both_ways && (self.unknown_found == 0 || self.unknown_not_found == 0),
                format!(
                    "{} unknown writes were found in the log and {} were not",
                    self.unknown_found, self.unknown_not_found
                ),
            ),
            (demands.resume && self.resumes == 0, "no watch was resumed".to_owned()),
            (
                demands.compacted && self.compacted == 0,
                "no watch was reset by COMPACTED".to_owned(),
            ),
            (
                demands.snapshot_installed && self.snapshots_installed == 0,
                "no snapshot was installed".to_owned(),
            ),
        ];
        for (_, what) in missing.into_iter().filter(|(is_missing, _)| *is_missing) {
            findings.violate("coverage", Story::new(format!("the run proves too little: {what}")));
        }
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "seen: {} calls ({} done, {} of them during faults; {} failed; {} unknown, of {} writes of which {} are in the \
             log); {} faults ({} hit the leader, {} took the majority), {} leader changes, {} snapshots installed, {} \
             expiries; {} watches with {} changes, {} resumes, {} resets ({} compacted)",
            self.calls,
            self.done,
            self.done_during_faults,
            self.failed,
            self.unknown,
            self.unknown_found + self.unknown_not_found,
            self.unknown_found,
            self.faults,
            self.leader_hit,
            self.majority_lost,
            self.leader_changes,
            self.snapshots_installed,
            self.expiries,
            self.watches,
            self.changes,
            self.resumes,
            self.resets,
            self.compacted,
        )
    }
}
