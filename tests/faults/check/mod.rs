//! The invariants, each a checker with its name. A history is checked against its own log, and against itself.
//!
//! **Soundness.** What a checker calls a violation contradicts a promise, whatever was unknown, retried, paused or
//! late: where a history leaves a choice open, the choice that excuses the system is taken. **What this leaves unseen**
//! is said at each checker.
//!
//! | file | invariants |
//! |---|---|
//! | `order` | I3, I4b, I4c, I6, R1, W9, L3: one sweep through time, in which every answered call finds its place in the log |
//! | `writes` | I2, D1, N2: answers against the log |
//! | `reads`, `overviews` | I4a, I6, and what a wrong record means: N1, N3, L4, L5 |
//! | `watch` | W1–W8, W10, W12, W13; `liveness`: W11 |
//! | `leases` | L1, L2, L6 |
//! | `fencing` | N1, N3 in the log itself |
//! | `nodes` | R1, R2, R3, D2 |
//! | `availability` | A1, A2, A3 |
//! | `coverage` | that the run could prove anything |
//! | `wgl` | I5: a second opinion that looks at neither the log's order nor revisions |
//!
//! I1, and what the fold finds in the log itself, come from the [witness](crate::witness).

mod availability;
mod command;
mod coverage;
mod fencing;
mod leases;
mod liveness;
mod nodes;
mod options;
mod order;
mod overviews;
mod reads;
mod report;
mod timeline;
mod watch;
mod wgl;
mod writes;

use crate::{
    history::History,
    story::Story,
    witness::{Matches, Witness, WitnessOptions},
};

pub use command::{Arguments, run};
pub use coverage::{Coverage, Demands};
pub use options::CheckOptions;
pub use report::{Report, Violation};

use order::Order;
use report::Findings;
use timeline::Timeline;

/// Everything that a checker may look at.
struct Case<'a> {
    history: &'a History,
    witness: &'a Witness,
    matches: &'a Matches<'a>,
    options: &'a CheckOptions,
    order: &'a Order,
    timeline: &'a Timeline,
}

/// Checks every invariant.
#[must_use]
pub fn check(history: &History, options: &CheckOptions) -> Report {
    let mut findings = Findings::new(history);
    let witness = Witness::of(history, WitnessOptions::default());
    if witness.log_records == 0 {
        let story = Story::new("the history has no node's log: there is nothing that it could be checked against");
        findings.violate("I1", story);
        return findings.report(Coverage::default());
    }
    findings.looked("I1", witness.log_records);
    for flaw in &witness.flaws {
        findings.violate(flaw.checker, Story::new(flaw.story.clone()));
    }
    if !witness.is_whole {
        findings.note("the log lacks records: nothing else can be judged by it".to_owned());
        return findings.report(Coverage::default());
    }
    let matches = Matches::of(history, &witness);
    let timeline = Timeline::of(history, options);
    let order = order::check(history, &witness, &matches, &mut findings);
    let case = Case {
        history,
        witness: &witness,
        matches: &matches,
        options,
        order: &order,
        timeline: &timeline,
    };
    writes::check(&case, &mut findings);
    reads::check(&case, &mut findings);
    watch::check(&case, &mut findings);
    liveness::check(&case, &mut findings);
    leases::check(&case, &mut findings);
    fencing::check(&case, &mut findings);
    nodes::check(&case, &mut findings);
    availability::check(&case, &mut findings);
    wgl::check(&case, &mut findings);
    let coverage = Coverage::of(&case);
    coverage.check(&options.coverage, &mut findings);
    for note in &witness.notes {
        findings.note(note.clone());
    }
    if history.cut_short {
        findings.note("the history was cut short: calls under way at its end are not in it".to_owned());
    }
    findings.report(coverage)
}

#[cfg(test)]
mod tests;
