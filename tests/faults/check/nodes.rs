//! R1: what a node says of itself does not go back. R2: on a calm cluster every node has what was acknowledged. R3: the
//! nodes' content is that of the log, at every index at which one was asked. D2: what is taken to be committed is safe
//! from a power cut on a majority.

use std::collections::BTreeMap;

use super::{Case, Findings, options::ns};
use crate::{
    history::{At, Sample},
    story::{Story, time},
};

/// Faults after which a node's data may be older than it was, or gone.
const DATA_CHANGED: [&str; 7] = ["wipe", "roll", "swap", "restore", "damage", "flipped", "torn"];

pub(super) fn check(case: &Case<'_>, findings: &mut Findings<'_>) {
    let mut before: BTreeMap<&str, &Sample> = BTreeMap::new();
    for sample in &case.history.samples {
        // A node that did not answer says nothing.
        if sample.term == 0 {
            continue;
        }
        findings.looked("R1", 1);
        if let Some(earlier) = before.insert(&sample.node, sample) {
            goes_on(case, earlier, sample, findings);
        }
        keeps_up(case, sample, findings);
    }
    hashes(case, findings);
    durable(case, findings);
}

/// The term goes on for ever; what is applied, as long as the process lives.
fn goes_on(case: &Case<'_>, earlier: &Sample, sample: &Sample, findings: &mut Findings<'_>) {
    if earlier.ended >= sample.sent {
        return;
    }
    let data = |kind: &str| DATA_CHANGED.iter().any(|changed| kind.starts_with(changed));
    let mut faults = case.timeline.faults_within(earlier.sent, sample.ended);
    if faults.any(|fault| data(&fault.kind) && fault.nodes.contains(&sample.node)) {
        return;
    }
    let same_life = earlier.life == sample.life;
    let falls = if sample.term < earlier.term {
        "term"
    } else if same_life && sample.applied_index < earlier.applied_index {
        "applied index"
    } else if same_life && sample.revision < earlier.revision {
        "revision"
    } else {
        return;
    };
    let story = Story::new(format!("the {falls} of {} goes back", sample.node));
    let story = story.say(line(earlier)).say(line(sample));
    findings.violate("R1", story);
}

fn line(sample: &Sample) -> String {
    format!("{} to {}: {sample:?}", time(sample.sent), time(sample.ended))
}

/// What was shown to anyone a while ago is on every node, if all was calm.
fn keeps_up(case: &Case<'_>, sample: &Sample, findings: &mut Findings<'_>) {
    let calm = ns(case.options.calm_after);
    let Some(then) = sample.sent.checked_sub(calm) else {
        return;
    };
    if !case.timeline.is_calm(then.saturating_sub(calm), sample.ended) {
        return;
    }
    findings.looked("R2", 1);
    if let Some((shown, _)) = case.order.shown_before(then)
        && case.witness.revision_at(shown) > sample.revision
    {
        let story = Story::new(format!(
            "{} stands at revision {}, though revision {} had been shown before {}, and all was calm",
            sample.node,
            sample.revision,
            case.witness.revision_at(shown),
            time(then)
        ));
        findings.violate("R2", story.say(line(sample)).event(case.witness, shown));
    }
}

fn hashes(case: &Case<'_>, findings: &mut Findings<'_>) {
    for asked in &case.history.hashes {
        let Some(expected) = case.witness.hashes.get(&asked.applied_index) else {
            continue;
        };
        findings.looked("R3", 1);
        if *expected != asked.hash {
            let others = case
                .history
                .hashes
                .iter()
                .filter(|it| it.applied_index == asked.applied_index);
            let story = Story::new(format!(
                "the content of {} at index {} is not what the log makes of it, {expected}",
                asked.node, asked.applied_index
            ));
            let story = others.fold(story, |story, other| {
                story.say(format!("{}: {}", other.node, other.hash))
            });
            findings.violate("R3", story);
        }
    }
}

/// Whatever a leader takes to be committed lies, synced, on a majority at that moment.
fn durable(case: &Case<'_>, findings: &mut Findings<'_>) {
    let quorum = case.history.run.nodes as usize / 2 + 1;
    let mut synced: BTreeMap<&str, (At, u64)> = BTreeMap::new();
    for fact in &case.history.durable {
        synced.insert(&fact.node, (fact.at, fact.synced_index));
        let Some(committed) = fact.committed_index else {
            continue;
        };
        findings.looked("D2", 1);
        let safe = synced.values().filter(|(_, index)| *index >= committed).count();
        if safe < quorum {
            let story = Story::new(format!(
                "{} takes index {committed} to be committed at {}, but only {safe} nodes would have it after a power cut",
                fact.node,
                time(fact.at)
            ));
            let story = synced.iter().fold(story, |story, (node, (at, index))| {
                story.say(format!("{node} has synced through {index} since {}", time(*at)))
            });
            findings.violate("D2", story);
        }
    }
}
