//! A1: while a majority is left, calls to the nodes that no fault hit succeed. A2: without one, nothing is answered as
//! if there were one; and a node that can answer does, within 5 s, and renewals within min(2 s, TTL / 4), be it with a
//! refusal. A3: after the last fault the cluster works again.
//!
//! Faults take a while to show their effect, and so do their ends: what happens meanwhile proves nothing.

use std::{collections::BTreeSet, time::Duration};

use super::{Case, Findings, options::ns, order::linearizable_revision};
use crate::{
    history::{Answer, At, Call, Request},
    story::{Story, time},
};

/// So many failures are never too many: a connection may break when a fault is over, too.
const FAILURES_ALWAYS_ALLOWED: usize = 3;
/// So many write attempts must have been made after the last fault for A3 to expect one to succeed.
const WRITES_MIN: usize = 10;
/// Faults that leave the node that they hit able to answer its clients: with a refusal, at least.
const LEAVES_ANSWERING: [&str; 11] = [
    "partition",
    "bridge",
    "ring",
    "disk_frozen",
    "disk_slow",
    "disk_full",
    "slow_sync",
    "clock_jump",
    "clock_rate",
    "clock_leap",
    "wall_leap",
];
/// A renewal that is not committed within this, or a quarter of its lease's TTL, is answered UNCONFIRMED.
const RENEWAL_MAX: Duration = Duration::from_secs(2);
/// Faults that hit no node in particular, or the ways to the clients, or a disk: what syncs when, and when a node
/// meets its disk's trouble, nobody outside can tell.
const UNCLEAR: [&str; 8] = [
    "client",
    "delay",
    "resets",
    "throttle",
    "disk",
    "slow_sync",
    "sync_error",
    "no_files",
];

pub(super) fn check(case: &Case<'_>, findings: &mut Findings<'_>) {
    with_majority(case, &spans(case, case.options.fault_margin), findings);
    without_majority(case, &spans(case, case.options.fault_edge), findings);
    hangs(case, findings);
    recovery(case, findings);
}

/// A span between two changes of what is harmed.
struct Span<'a> {
    from: At,
    until: At,
    hit: BTreeSet<&'a str>,
    /// Some fault says that no majority is left.
    none_left: bool,
    /// Only writes need what is gone: the disks stand still.
    reads_go_on: bool,
    /// A fault of it hits what A1 can't tell apart.
    unclear: bool,
}

/// The run, cut where a fault begins or ends, without the margins in which it only comes or goes.
fn spans<'a>(case: &'a Case<'_>, margin: Duration) -> Vec<Span<'a>> {
    let margin = ns(margin);
    let mut cuts: Vec<At> = vec![0, case.timeline.end];
    for (from, until, _) in &case.timeline.faults {
        cuts.extend([*from, *until]);
    }
    cuts.sort_unstable();
    cuts.dedup();
    let mut spans = Vec::new();
    for pair in cuts.windows(2) {
        let (from, until) = (pair[0] + margin, pair[1].saturating_sub(margin));
        if from >= until {
            continue;
        }
        let active: Vec<_> = case.timeline.faults_within(from, until).collect();
        spans.push(Span {
            from,
            until,
            hit: active
                .iter()
                .flat_map(|fault| &fault.nodes)
                .map(String::as_str)
                .collect(),
            none_left: active.iter().any(|fault| !fault.majority_left),
            reads_go_on: active
                .iter()
                .filter(|fault| !fault.majority_left)
                .all(|fault| fault.kind.starts_with("disk")),
            unclear: active
                .iter()
                .any(|fault| UNCLEAR.iter().any(|kind| fault.kind.starts_with(kind))),
        });
    }
    spans
}

/// Calls that begin and end within a span.
fn within<'a>(case: &'a Case<'_>, span: &Span<'_>) -> impl Iterator<Item = &'a Call> {
    let (from, until) = (span.from, span.until);
    let calls = case.history.calls.iter();
    calls.filter(move |call| call.sent >= from && call.ended <= until)
}

fn with_majority(case: &Case<'_>, spans: &[Span<'_>], findings: &mut Findings<'_>) {
    let Some(least) = case.options.success_min else { return };
    let nodes = case.history.run.nodes as usize;
    let (mut good, mut bad) = (0_usize, Vec::new());
    let healthy = spans
        .iter()
        .filter(|span| 2 * span.hit.len() < nodes && !span.none_left && !span.unclear);
    for span in healthy {
        for call in within(case, span) {
            // Where the client library went is not known; and a client that is stopped gives up.
            let unhit = call.node.as_deref().is_some_and(|node| !span.hit.contains(node));
            if !unhit {
                continue;
            };
            match &call.answer {
                Answer::Done { .. } | Answer::Rejected { .. } => good += 1,
                Answer::Failed { reason } | Answer::Unknown { reason } if is_refusal(reason) => good += 1,
                Answer::Failed { .. } | Answer::Unknown { .. } => bad.push(call),
            }
        }
    }
    let all = good + bad.len();
    findings.looked("A1", all);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts far below 2^52"
    )]
    let allowed = (all as f64 * (1.0 - least)) as usize;
    if bad.len() > allowed.max(FAILURES_ALWAYS_ALLOWED) {
        let story = Story::new(format!(
            "of {all} calls to nodes that no fault hit, while a majority was left, {} failed",
            bad.len()
        ));
        let story = bad.into_iter().take(5).fold(story, Story::call);
        findings.violate("A1", story);
    }
}

/// Failures that say nothing against the cluster: the client left, or asked for what there is not.
fn is_refusal(reason: &str) -> bool {
    const FINE: [&str; 9] = [
        "GIVEN_UP",
        "LEFT",
        "INSTANCE_NOT_FOUND",
        "LEASE_NOT_FOUND",
        "INVALID_FIELD",
        "PAGE_EXPIRED",
        "REVISION_IN_FUTURE",
        "TOO_STALE",
        "NOT_READY",
    ];
    FINE.contains(&reason)
}

fn without_majority(case: &Case<'_>, spans: &[Span<'_>], findings: &mut Findings<'_>) {
    for span in spans.iter().filter(|span| span.none_left) {
        let needs_it = |call: &&Call| !(span.reads_go_on && call.request.is_read());
        for call in within(case, span).filter(needs_it) {
            findings.looked("A2", 1);
            if linearizable_revision(call).is_some() {
                let story = Story::new(format!(
                    "no majority was left from {} to {}, and a call was answered as if there were one",
                    time(span.from),
                    time(span.until)
                ));
                let faults = case.timeline.faults_within(span.from, span.until);
                let story = faults.fold(story.call(call), Story::fault);
                findings.violate("A2", story);
            }
        }
    }
}

/// A node that can answer does so in time. One call of the client library's is many attempts. A list of many pages is
/// many calls, too, and so is an overview.
fn hangs(case: &Case<'_>, findings: &mut Findings<'_>) {
    for call in &case.history.calls {
        let Some(node) = &call.node else { continue };
        let longest = match &call.request {
            Request::List { .. } | Request::Overview { .. } => continue,
            Request::Renew { leases, .. } => match renewal_max(case, leases) {
                Some(longest) => longest + ns(case.options.renewal_slack),
                None => continue,
            },
            _ => ns(case.options.call_max),
        };
        if !can_answer(case, node, call) {
            continue;
        }
        findings.looked("A2", 1);
        let took = call.ended - call.sent.min(call.ended);
        if took > longest && !has_left(&call.answer) {
            let story = Story::new(format!(
                "{node} could answer its clients, and a call took {}, which is longer than {}",
                time(took),
                time(longest)
            ));
            let faults = case.timeline.faults_within(call.sent, call.ended);
            findings.violate("A2", faults.fold(story.call(call), Story::fault));
        }
    }
}

/// The client stopped waiting for reasons of its own.
fn has_left(answer: &Answer) -> bool {
    matches!(answer, Answer::Failed { reason } | Answer::Unknown { reason }
        if ["GIVEN_UP", "LEFT", "NO_ROOM"].contains(&reason.as_str()))
}

/// Within what a renewal is to be answered, in nanoseconds: the shortest TTL counts. `None` = the log knows none of the
/// leases.
fn renewal_max(case: &Case<'_>, leases: &[i64]) -> Option<u64> {
    let known = leases.iter().filter_map(|id| case.witness.leases.get(*id));
    let ttls = known.flat_map(|lease| lease.renewals.iter().map(|(_, ttl_ms)| ttl_ms * 1_000_000));
    ttls.min().map(|shortest| ns(RENEWAL_MAX).min(shortest / 4))
}

/// Whether the node ran and its clients reached it, from a while before the call until after it.
fn can_answer(case: &Case<'_>, node: &str, call: &Call) -> bool {
    let margin = ns(case.options.fault_margin);
    let mut faults = case
        .timeline
        .faults_within(call.sent.saturating_sub(margin), call.ended + margin);
    faults.all(|fault| {
        let harmless = LEAVES_ANSWERING.contains(&fault.kind.as_str())
            && !fault.details.contains("clients: true")
            && !fault.details.starts_with("docker");
        let elsewhere = !fault.nodes.is_empty() && !fault.nodes.iter().any(|hit| hit == node);
        harmless || elsewhere && !fault.kind.starts_with("client")
    })
}

fn recovery(case: &Case<'_>, findings: &mut Findings<'_>) {
    let Some(over) = case.timeline.last_fault_over() else {
        return;
    };
    let by = over + ns(case.options.recovery_max);
    if by > case.timeline.end {
        return;
    }
    findings.looked("A3", 1);
    let writes = |call: &&Call| {
        let writes = !call.request.is_read() && !matches!(call.request, Request::Renew { .. });
        writes && call.sent >= over && call.ended <= by
    };
    let tried: Vec<&Call> = case.history.calls.iter().filter(writes).collect();
    let worked = tried
        .iter()
        .any(|call| matches!(call.answer, Answer::Done { .. } | Answer::Rejected { .. }));
    if tried.len() >= WRITES_MIN && !worked {
        let story = Story::new(format!(
            "the last fault was over at {}, and of {} writes until {} none succeeded",
            time(over),
            tried.len(),
            time(by)
        ));
        let story = tried.into_iter().rev().take(3).fold(story, Story::call);
        findings.violate("A3", story);
    }
}
