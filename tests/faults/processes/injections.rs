//! Whether a scenario made the injections that it is named after. One that made none is clean, and proves nothing.

use std::collections::BTreeMap;

use super::findings::{Findings, Skipped};
use crate::history::History;

/// How many injections of each kind must be made.
pub(crate) type Injections = BTreeMap<&'static str, u64>;

/// What came of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Made {
    /// All were.
    All,
    /// Some were not, as the machine lacks what they need: why.
    Lacks(String),
    /// Some were not, and the machine is not to blame: which.
    TooFew(String),
}

/// Counts the faults that stand in the history.
pub(crate) fn made(wanted: &Injections, history: &History, findings: &Findings) -> Made {
    let mut lacks = Vec::new();
    for (&kind, &times) in wanted {
        let recorded = history.faults.iter().filter(|fault| fault.kind == kind).count() as u64;
        if recorded >= times {
            continue;
        }
        let skipped = findings.skipped.get(kind).cloned().unwrap_or_default();
        let Skipped {
            lacks: lacking, why, ..
        } = skipped;
        let told = format!("{recorded} of {times} × {kind}");
        if recorded + lacking < times {
            let why = if why.is_empty() {
                String::new()
            } else {
                format!(": {why}")
            };
            return Made::TooFew(format!("{told} were made{why}"));
        }
        lacks.push(format!("{told}: {why}"));
    }
    if lacks.is_empty() {
        Made::All
    } else {
        Made::Lacks(lacks.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Fault, Run};

    fn history(kinds: &[&str]) -> History {
        let fault = |kind: &&str| Fault {
            kind: (*kind).to_owned(),
            nodes: Vec::new(),
            hit_leader: false,
            majority_left: true,
            from: 0,
            until: Some(1),
            details: String::new(),
        };
        let mut history = History::new(Run {
            harness: "test".to_owned(),
            seed: 1,
            nodes: 3,
            replay: String::new(),
        });
        history.faults = kinds.iter().map(fault).collect();
        history
    }

    #[test]
    fn what_was_not_injected_is_never_taken_for_done() {
        let wanted = Injections::from([("kill", 2), ("power_cut", 3)]);
        let mut findings = Findings::default();
        let all = ["kill", "power_cut", "kill", "power_cut", "power_cut"];
        assert_eq!(made(&wanted, &history(&all), &findings), Made::All);
        // Nothing was counted: the script just did not do it.
        let few = made(&wanted, &history(&all[..1]), &findings);
        assert_eq!(few, Made::TooFew("1 of 2 × kill were made".to_owned()));
        // The machine lacks something.
        findings.lack("power_cut", 3, "not root");
        let lacks = made(&wanted, &history(&["kill", "kill"]), &findings);
        assert_eq!(lacks, Made::Lacks("0 of 3 × power_cut: not root".to_owned()));
        // It does not explain what else is missing.
        findings.miss("kill", "no leader");
        let few = made(&wanted, &history(&["kill"]), &findings);
        assert_eq!(few, Made::TooFew("1 of 2 × kill were made: no leader".to_owned()));
    }
}
