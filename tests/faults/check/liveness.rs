//! W11: on a calm cluster a watch is at most so far behind; and a watch of a node that was cut off from the majority
//! ends when its age passes its `max_age`.
//!
//! Unseen: how late a watcher is whose client stops reading now and then.

use super::{Case, Findings, options::ns};
use crate::{
    history::{At, Step, WatchStream},
    story::{Story, time},
};

/// What the recorder calls it when a node was silent for too long.
const SILENT: &str = "DEADLINE";

pub(super) fn check(case: &Case<'_>, findings: &mut Findings<'_>) {
    for stream in &case.history.watches {
        delays(case, stream, findings);
        silence(case, stream, findings);
        cut_off(case, stream, findings);
    }
}

/// Before each step: what had been acknowledged long ago is in the view.
fn delays(case: &Case<'_>, stream: &WatchStream, findings: &mut Findings<'_>) {
    if stream.slow {
        return;
    }
    let limit = ns(case.options.watch_delay_max);
    let calm = ns(case.options.calm_after);
    for pair in stream.steps.windows(2) {
        let (one, next) = (&pair[0], &pair[1]);
        let Some(then) = next.at.checked_sub(limit).filter(|then| stream.opened < *then) else {
            continue;
        };
        let Some((shown, _)) = case.order.shown_before(then) else {
            continue;
        };
        if !case.timeline.is_calm(then.saturating_sub(calm), next.at) {
            continue;
        }
        findings.looked("W11", 1);
        if shown > case.witness.last_at(one.revision) {
            let story = Story::new(format!(
                "a watch stood at revision {} until {}, though revision {} had been shown before {}, and all was calm",
                one.revision,
                time(next.at),
                case.witness.revision_at(shown),
                time(then)
            ));
            findings.violate(
                "W11",
                story.step(stream, one).step(stream, next).event(case.witness, shown),
            );
            return;
        }
    }
}

/// A calm cluster's watches give signs of life.
fn silence(case: &Case<'_>, stream: &WatchStream, findings: &mut Findings<'_>) {
    let Some(ended) = stream.ended.as_ref().filter(|ended| ended.reason == SILENT) else {
        return;
    };
    let last = stream.steps.last().map_or(stream.opened, |step| step.at);
    let calm = ns(case.options.calm_after);
    if case.timeline.is_calm(last.saturating_sub(calm), ended.at) {
        let story = Story::new(format!(
            "a watch was silent from {} until its client gave up at {}, and all was calm",
            time(last),
            time(ended.at)
        ));
        findings.violate("W11", tell_last(stream, story));
    }
}

/// A node that hears of no majority says so.
fn cut_off(case: &Case<'_>, stream: &WatchStream, findings: &mut Findings<'_>) {
    let max_age = stream.max_age_ns.unwrap_or(ns(case.options.watch_max_age));
    let Some(node) = stream.node.as_ref().filter(|_| max_age > 0) else {
        return;
    };
    if stream.slow {
        return;
    }
    let patience = max_age + ns(case.options.fault_margin) + ns(case.options.watch_end_max);
    too_old(case, stream, max_age, findings);
    let ended: At = stream.ended.as_ref().map_or(case.timeline.end, |ended| ended.at);
    let cut = case.timeline.faults.iter().find(|(from, until, fault)| {
        let small = 2 * fault.nodes.len() < case.history.run.nodes as usize;
        let speaks = !fault.details.contains("clients: true");
        let alone = case
            .timeline
            .faults_within(*from, from + patience)
            .all(|other| other.kind == "partition");
        fault.kind == "partition"
            && small
            && speaks
            && fault.nodes.contains(node)
            && stream.opened < *from
            && *until > from + patience
            && ended > *from
            && alone
    });
    let Some((from, _, fault)) = cut else { return };
    findings.looked("W11", 1);
    if ended > from + patience {
        let story = Story::new(format!(
            "{node} was cut off from the majority at {}, and a watch of it with a max_age of {} still had not ended at {}",
            time(*from),
            time(max_age),
            time(from + patience)
        ));
        findings.violate("W11", tell_last(stream, story.fault(fault)));
    }
}

/// A view that is older than its watcher wants is no longer told of soon after: the stream has ended. One step may be,
/// for a clock that leaps, or a node that stood still, makes a view old from one moment to the next.
fn too_old(case: &Case<'_>, stream: &WatchStream, max_age: u64, findings: &mut Findings<'_>) {
    let mut first: Option<&Step> = None;
    for step in &stream.steps {
        findings.looked("W11", usize::from(step.age_ns.is_some()));
        if step.age_ns.is_none_or(|age| age <= max_age) {
            first = None;
            continue;
        }
        let since = first.get_or_insert(step).at;
        if step.at > since + ns(case.options.watch_end_max) {
            let story = Story::new(format!(
                "a watch with a max_age of {} was given steps of an older view from {} to {}",
                time(max_age),
                time(since),
                time(step.at)
            ));
            let story = first.into_iter().fold(story, |story, step| story.step(stream, step));
            return findings.violate("W11", story.step(stream, step));
        }
    }
}

fn tell_last(stream: &WatchStream, story: Story) -> Story {
    match stream.steps.last() {
        Some(step) => story.step(stream, step),
        None => story.say(format!("watch {} never got anything", stream.id)),
    }
}
