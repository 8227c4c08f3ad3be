//! I5: a second opinion on linearizability, by search (Wing and Gong, with Lowe's memory of what was tried already). It
//! looks at no revision, no digest and no order of the log: only at what was asked, what was answered, and when.
//!
//! From the log it takes what no client can know: which writes of unknown outcome took effect at all, which leases
//! ended and what went with them (when is left open), and, for a window in the middle of the run, the state at its
//! beginning. It also tries calls in the log's order first: that makes a good history quick to confirm and changes
//! nothing about which histories are accepted.
//!
//! Every record is searched by itself over the whole run; and, because that sees no anomaly between two records, all of
//! them together with lists and batches in windows. A search that takes too long is a failure, never a pass.

mod calls;
mod search;
mod state;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{Case, Findings};
use crate::story::Story;
use calls::{Timed, all, split};
use search::{Verdict, search};
use state::State;

pub(super) fn check(case: &Case<'_>, findings: &mut Findings<'_>) {
    // Real time, and no part of any verdict but that it gave up.
    let until = Instant::now() + case.options.wgl_time_max;
    let (keys, mut calls) = all(case);
    // What a read saw comes before it, so that no window ends between them.
    calls.sort_by_key(|call| (call.hint, call.step.is_read(), call.sent));
    let mut of_key: BTreeMap<u32, Vec<Timed>> = BTreeMap::new();
    for call in &calls {
        for (key, part) in split(call) {
            of_key.entry(key).or_default().push(part);
        }
    }
    for (key, calls) in of_key {
        findings.looked("I5", calls.len());
        let what = format!("the history of {}", keys.name(key));
        if !judge(case, &what, &State::default(), &calls, until, findings) {
            return;
        }
    }
    let mut state = State::default();
    for window in calls.chunks(case.options.wgl_window.max(1)) {
        findings.looked("I5", window.len());
        let (from, to) = (window[0].hint, window[window.len() - 1].hint);
        let what = format!("a window over the whole state, from place {from} to {to} of the log,");
        if !judge(case, &what, &state, window, until, findings) {
            return;
        }
        state = keys.state_at(case, to);
    }
}

/// Searches, and says whether to go on.
fn judge(
    case: &Case<'_>,
    what: &str,
    start: &State,
    calls: &[Timed],
    until: Instant,
    findings: &mut Findings<'_>,
) -> bool {
    match search(start, calls, until) {
        Verdict::Linearizable => true,
        Verdict::NotLinearizable { placed, stuck } => {
            let story = Story::new(format!(
                "{what} is not linearizable: after {placed} of {} calls, none of these can come next",
                calls.len()
            ));
            findings.violate("I5", tell(case, story, calls, &stuck));
            true
        }
        Verdict::GaveUp { placed } => {
            let limit: Duration = case.options.wgl_time_max;
            let story = Story::new(format!(
                "the search of {what} gave up after {} s in all, with {placed} of {} calls placed: shrink the window",
                limit.as_secs(),
                calls.len()
            ));
            findings.violate("I5", story);
            false
        }
    }
}

fn tell(case: &Case<'_>, story: Story, calls: &[Timed], stuck: &[usize]) -> Story {
    stuck.iter().take(6).fold(story, |story, at| match calls[*at].call {
        Some(call) => story.call(&case.history.calls[call]),
        None => story.event(case.witness, calls[*at].hint),
    })
}
