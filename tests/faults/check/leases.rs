//! L1: no lease is seen to expire sooner than its TTL after the sending of its last acknowledged renewal. L2: none
//! outlives its last renewal by more than its TTL, one second, and the time in which no leader could work. L6: the
//! client library says that a lease may be lost before anyone can see that it is.
//!
//! L2 asks the log, not only lists: a linearizable call that was sent after the latest moment at which a lease should
//! have ended, and was answered at a revision before its end, proves that it lived on. Time without a leader is taken
//! from the calls themselves, as the spans in which none was answered; so where there are few calls, L2 sees little.

use std::collections::BTreeMap;

use super::{Case, Findings, options::ns, order::NEVER};
use crate::{
    history::{Answer, At, Held, Hold, RenewOutcome, Reply, Request},
    story::{Story, time},
    witness::{Lease, LeaseEnd, Position, What},
};

/// Faults of the clock that leases go by, which may take it ahead. A wall clock that jumps is none of leases' business.
const LEASE_CLOCKS_AHEAD: [&str; 2] = ["clock_rate", "clock_leap"];
/// The same, behind.
const LEASE_CLOCKS_BEHIND: [&str; 3] = ["clock_rate", "clock_leap", "clock_still"];

/// An acknowledged renewal: the call, and its place in the log.
type Acknowledged = (usize, Position);

pub(super) fn check(case: &Case<'_>, findings: &mut Findings<'_>) {
    let acknowledged = acknowledged(case);
    for (id, lease) in case.witness.leases.iter() {
        findings.looked("L2", 1);
        findings.looked("L4", usize::from(lease.end.is_some()));
        findings.looked("L5", 1);
        if let Some((end, LeaseEnd::Expired)) = lease.end {
            findings.looked("L1", 1);
            let renewals = acknowledged.get(&id).map_or(&[][..], Vec::as_slice);
            too_early(case, id, lease, end, renewals, findings);
        }
        too_late(case, id, lease, &acknowledged, findings);
    }
    for held in &case.history.held {
        findings.looked("L6", 1);
        held_for_too_long(case, held, findings);
        let Some((end, LeaseEnd::Expired)) = case.witness.leases.get(held.lease).and_then(|lease| lease.end) else {
            continue;
        };
        let seen = case.order.first_seen(end);
        if seen == NEVER {
            continue;
        }
        let slack = slack(case, held.until.saturating_sub(held.ttl_ms * 1_000_000), held.until);
        if seen + slack < held.until {
            let story = Story::new(format!(
                "the client library said until {} that {} is held by lease {}, whose end was seen at {}",
                time(held.until),
                held.key,
                held.lease,
                time(seen)
            ));
            findings.violate("L6", story.event(case.witness, end));
        }
    }
}

/// Nobody can believe in a lease for longer than its TTL after the last renewal in the log: it was sent before anyone
/// saw its effect. So a library that says "held" through a long time without a quorum is found, though nothing expires.
fn held_for_too_long(case: &Case<'_>, held: &Held, findings: &mut Findings<'_>) {
    let Some(lease) = case.witness.leases.get(held.lease) else {
        return;
    };
    let Some((last, ttl_ms)) = lease.renewals.last() else {
        return;
    };
    let seen = case.order.first_seen(*last);
    if seen == NEVER {
        return;
    }
    let until = seen + scaled(ttl_ms * 1_000_000, 1.0 + case.options.drift) + slack(case, seen, held.until);
    if held.until > until {
        let story = Story::new(format!(
            "the client library said until {} that {} is held by lease {}, whose last renewal was seen by {} and is good \
             until {}",
            time(held.until),
            held.key,
            held.lease,
            time(seen),
            time(until)
        ));
        findings.violate("L6", story.event(case.witness, *last));
    }
}

/// The renewals of each lease that were acknowledged.
fn acknowledged(case: &Case<'_>) -> BTreeMap<i64, Vec<Acknowledged>> {
    let mut by_lease: BTreeMap<i64, Vec<Acknowledged>> = BTreeMap::new();
    for (number, call) in case.history.calls.iter().enumerate() {
        let (Some(place), Answer::Done { reply, .. }) = (case.order.place[number], &call.answer) else {
            continue;
        };
        let mut add = |lease: i64| by_lease.entry(lease).or_default().push((number, place));
        match (&call.request, reply) {
            (Request::Register { .. }, Reply::Record(record)) if record.lease != 0 => add(record.lease),
            (
                Request::BatchRegister {
                    hold: Hold::Lease(lease),
                    ..
                }
                | Request::Grant { lease, .. },
                _,
            ) => add(*lease),
            (Request::Renew { .. }, Reply::Renewed(results)) => {
                let renewed = results.iter().filter(|result| result.outcome == RenewOutcome::Renewed);
                renewed.for_each(|result| add(result.lease));
            }
            _ => {}
        }
    }
    by_lease
}

fn too_early(
    case: &Case<'_>,
    id: i64,
    lease: &Lease,
    end: Position,
    renewals: &[Acknowledged],
    findings: &mut Findings<'_>,
) {
    let seen = case.order.first_seen(end);
    if seen == NEVER {
        return;
    }
    let ttls = shortest_from_here_on(lease);
    for (number, place) in renewals.iter().filter(|(_, place)| *place < end) {
        let call = &case.history.calls[*number];
        let at = lease.renewals.partition_point(|(renewed, _)| renewed < place);
        let Some(ttl_ms) = ttls.get(at) else { continue };
        let slack = slack(case, call.sent, seen);
        let life = scaled(ttl_ms * 1_000_000, 1.0 - case.options.drift);
        if seen + slack < call.sent + life {
            let story = Story::new(format!(
                "lease {id} of {ttl_ms} ms was seen to have expired at {}, {} after an acknowledged renewal was sent",
                time(seen),
                time(seen.saturating_sub(call.sent))
            ));
            let story = story.call(call).event(case.witness, *place).event(case.witness, end);
            return findings.violate("L1", story);
        }
    }
}

/// By how much a lease may be seen to end early: each jump of a clock may credit a step of the lease clock.
fn slack(case: &Case<'_>, from: At, until: At) -> u64 {
    let faults = case.timeline.faults_within(from, until);
    let jumps = faults
        .filter(|fault| LEASE_CLOCKS_AHEAD.contains(&fault.kind.as_str()))
        .count() as u64;
    ns(case.options.lease_slack) + jumps * ns(case.options.clock_jump_credit)
}

/// The shortest TTL that a lease had from each of its renewals on: a later one may have made it shorter.
fn shortest_from_here_on(lease: &Lease) -> Vec<u64> {
    let mut shortest = u64::MAX;
    let backwards = lease.renewals.iter().rev().map(|(_, ttl_ms)| {
        shortest = shortest.min(*ttl_ms);
        shortest
    });
    let mut ttls: Vec<u64> = backwards.collect();
    ttls.reverse();
    ttls
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "spans far below 2^52 ns"
)]
fn scaled(span_ns: u64, factor: f64) -> u64 {
    (span_ns as f64 * factor) as u64
}

/// From each renewal to the next, or to the end: nobody may prove that the lease lived on for longer than it may.
fn too_late(
    case: &Case<'_>,
    id: i64,
    lease: &Lease,
    acknowledged: &BTreeMap<i64, Vec<Acknowledged>>,
    findings: &mut Findings<'_>,
) {
    let next = lease.renewals.iter().skip(1).map(|(place, _)| Some(*place));
    let next = next.chain([lease.end.map(|(place, _)| place)]);
    for ((place, ttl_ms), next) in lease.renewals.iter().zip(next) {
        let before = next.map_or(case.witness.last_revision() + 1, |next| {
            case.witness.event(next).revision
        });
        // The last call that was sent while the lease must have been alive.
        let Some((asked, call)) = case.order.last_asked_below(before) else {
            continue;
        };
        let life = scaled(ttl_ms * 1_000_000, 1.0 + case.options.drift);
        let first_guess = case.order.first_seen(*place);
        if first_guess == NEVER || asked <= first_guess.saturating_add(life + ns(case.options.expiry_max)) {
            continue;
        }
        let renewed = renewed_by(case, id, *place, first_guess, acknowledged);
        let due = renewed + life + allowance(case, *place, next, renewed, asked);
        if asked > due {
            let story = Story::new(format!(
                "lease {id} of {ttl_ms} ms was renewed by {} at the latest, and a call sent at {} shows that it had not \
                 ended; it should have by {}",
                time(renewed),
                time(asked),
                time(due)
            ));
            let story = story.call(&case.history.calls[call]).event(case.witness, *place);
            findings.violate("L2", next.map_or(story.clone(), |next| story.event(case.witness, next)));
            return;
        }
    }
}

/// The latest moment at which a renewal can have taken effect.
fn renewed_by(
    case: &Case<'_>,
    id: i64,
    place: Position,
    seen: At,
    acknowledged: &BTreeMap<i64, Vec<Acknowledged>>,
) -> At {
    let own = acknowledged
        .get(&id)
        .into_iter()
        .flatten()
        .filter(|(_, at)| *at == place);
    own.map(|(call, _)| case.history.calls[*call].ended).fold(seen, At::min)
}

/// What is allowed beyond the TTL between two moments: the second, time without a leader, leader changes, clocks that
/// were tampered with, and the company in which it ends.
fn allowance(case: &Case<'_>, place: Position, next: Option<Position>, from: At, until: At) -> u64 {
    let options = case.options;
    let from_index = case.witness.event(place).index;
    let through = next.map_or(u64::MAX, |next| case.witness.event(next).index);
    let terms = &case.witness.terms;
    let changes = terms
        .iter()
        .filter(|(index, _)| *index > from_index && *index <= through)
        .count() as u64;
    let clocks: u64 = case
        .timeline
        .faults
        .iter()
        .filter(|(begin, end, fault)| {
            LEASE_CLOCKS_BEHIND.contains(&fault.kind.as_str()) && *begin <= until && *end >= from
        })
        .map(|(begin, end, _)| end.min(&until) - begin.max(&from))
        .sum();
    ns(options.expiry_max)
        + case.timeline.silence_within(from, until)
        + changes * ns(options.leader_change)
        + clocks
        + company(case, place, next) * 1_000_000_000 / options.expiries_per_s.max(1)
}

/// How many leases ended between two places.
fn company(case: &Case<'_>, place: Position, next: Option<Position>) -> u64 {
    let events = &case.witness.events[place..next.unwrap_or(case.witness.end())];
    events
        .iter()
        .filter(|event| matches!(event.what, What::Expired(_)))
        .count() as u64
}
