//! Right histories are accepted; broken in any of many ways, they are not.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::made::made;
use crate::{
    check::{CheckOptions, check},
    history::{Answer, Call, Entry, History, NodeLog, Payload, RenewOutcome, Reply, Request, Row, StepKind},
    witness::{What, Witness, WitnessOptions},
};

const SEEDS: u64 = 40;
const TURNS: usize = 600;

/// A way to break a history. Whether there was anything to break, and the names by which it must be told, one of them.
struct Break {
    name: &'static str,
    told_by: &'static [&'static str],
    does: fn(&mut History, &mut StdRng) -> bool,
    /// Whether what is broken may be beyond what any client saw.
    may_hide: bool,
}

const BREAKS: &[Break] = &[
    Break {
        name: "a change is dropped",
        told_by: &["W4", "W6", "W7"],
        does: drop_change,
        may_hide: false,
    },
    Break {
        name: "a change comes twice",
        told_by: &["W2", "W3"],
        does: repeat_change,
        may_hide: false,
    },
    Break {
        name: "two steps change places",
        told_by: &["W2", "W7", "W6", "W12"],
        does: swap_steps,
        may_hide: false,
    },
    Break {
        name: "a change names another life",
        told_by: &["W13"],
        does: other_life,
        may_hide: false,
    },
    Break {
        name: "a list lacks a record",
        told_by: &["I4a", "I6"],
        does: lacking,
        may_hide: false,
    },
    Break {
        name: "an overview counts one instance too many",
        told_by: &["I4a", "I6"],
        does: |history, rng| {
            change_row(history, rng, |row| match row {
                Row::Lease { instances, .. }
                | Row::Namespace { instances, .. }
                | Row::Service {
                    by_status: [_, instances, ..],
                    ..
                } => {
                    *instances += 1;
                    true
                }
                Row::Held(_) => false,
            })
        },
        may_hide: false,
    },
    Break {
        name: "a lease is said to have its whole TTL and more",
        told_by: &["I4a", "I6"],
        does: |history, rng| {
            change_row(history, rng, |row| match row {
                Row::Lease {
                    ttl_ms, remaining_ns, ..
                } => {
                    *remaining_ns = *ttl_ms * 1_000_000 + 1;
                    true
                }
                _ => false,
            })
        },
        may_hide: false,
    },
    Break {
        name: "a lease is said to be all but over",
        told_by: &["I4a", "I6"],
        does: |history, rng| {
            change_row(history, rng, |row| match row {
                // Nearly all of it is left: no revision of these histories lasts for the rest.
                Row::Lease { remaining_ns, .. } if *remaining_ns > 900_000_000 => {
                    *remaining_ns = 1;
                    true
                }
                _ => false,
            })
        },
        may_hide: true,
    },
    Break {
        name: "an overview lacks its last line",
        told_by: &["I4a", "I6"],
        does: |history, rng| overview(history, rng, |rows| rows.pop().is_some()),
        may_hide: false,
    },
    Break {
        name: "an old list is served as new",
        told_by: &["I4b", "I5"],
        does: old_list,
        may_hide: false,
    },
    Break {
        name: "an acknowledged write is not in the log",
        told_by: &["D1"],
        does: lost,
        may_hide: false,
    },
    Break {
        name: "what failed for certain is in the log",
        told_by: &["I2"],
        does: failed_and_done,
        may_hide: false,
    },
    Break {
        name: "nobody asked for it",
        told_by: &["I2"],
        does: phantom,
        may_hide: false,
    },
    Break {
        name: "a write is answered with another revision",
        told_by: &["I2", "I3", "I4c", "I6", "R1", "W9"],
        does: other_revision,
        may_hide: false,
    },
    Break {
        name: "a renewal is acknowledged that is not in the log",
        told_by: &["L3"],
        does: not_renewed,
        may_hide: false,
    },
    Break {
        name: "two nodes committed different things",
        told_by: &["I1"],
        does: disagree,
        may_hide: false,
    },
    Break {
        name: "a record of the log is on no node",
        told_by: &["I1"],
        does: hole,
        may_hide: false,
    },
    Break {
        name: "an old answer is said to be young",
        told_by: &["I6"],
        does: young,
        may_hide: false,
    },
    Break {
        name: "an effect is seen before its cause",
        told_by: &["W9", "I4c", "I3", "I6", "R1"],
        does: before_cause,
        may_hide: false,
    },
    Break {
        name: "lease time runs ahead",
        told_by: &["L1", "L3", "I2", "I4a", "W10", "D1", "I6"],
        does: leap,
        may_hide: true,
    },
];

/// Calls of a made history are lost often.
fn options() -> CheckOptions {
    CheckOptions {
        success_min: None,
        ..CheckOptions::default()
    }
}

/// What is not linearizable may take long to search; that it gave up is told, too.
fn impatient() -> CheckOptions {
    CheckOptions {
        wgl_time_max: std::time::Duration::from_millis(300),
        ..options()
    }
}

#[test]
fn histories_that_are_right_are_accepted() {
    let (mut calls, mut changes, mut expiries) = (0, 0, 0);
    for seed in 0..SEEDS {
        let report = check(&made(seed, TURNS), &options());
        assert!(report.is_clean(), "seed {seed}: {report}");
        calls += report.coverage.done;
        changes += report.coverage.changes;
        expiries += report.coverage.expiries;
    }
    assert!(
        calls > 3_000 && changes > 1_000 && expiries > 100,
        "{calls} {changes} {expiries}"
    );
}

#[test]
fn histories_that_were_broken_are_rejected() {
    for way in BREAKS {
        let (mut broken, mut hidden) = (0, 0);
        for seed in 0..SEEDS {
            let mut history = made(seed, TURNS);
            let mut rng = StdRng::seed_from_u64(seed);
            if !(way.does)(&mut history, &mut rng) {
                continue;
            }
            broken += 1;
            let report = check(&history, &impatient());
            let told = report.rejected_by();
            // An expiry that is too early for the log need not be so for a client: nobody may have looked, or renewed.
            if way.may_hide && told.is_empty() {
                hidden += 1;
                continue;
            }
            let named = told.iter().any(|name| way.told_by.contains(name));
            assert!(named, "{}, seed {seed}: {told:?}\n{report}", way.name);
        }
        assert!(hidden * 4 <= broken, "{}: {hidden} of {broken} were not seen", way.name);
        assert!(
            broken > SEEDS / 4,
            "{}: {broken} of {SEEDS} had anything to break",
            way.name
        );
    }
}

#[test]
fn the_naive_model_stops_at_its_limit_and_says_so() {
    let history = made(1, TURNS);
    let whole = Witness::of(&history, WitnessOptions::default());
    let limited = Witness::of(&history, WitnessOptions { naive_looks_max: 1_000 });
    assert!(whole.notes.is_empty() && limited.notes[0].contains("naive_looks_max"));
    assert_eq!(whole.events.len(), limited.events.len());
}

#[test]
fn a_history_without_a_log_is_rejected() {
    let mut history = made(1, TURNS);
    history.logs.clear();
    let report = check(&history, &options());
    assert_eq!((report.rejected_by(), report.violated), (vec!["I1"], 1));
}

/// Run by hand: `cargo test --release --example faults -- --ignored a_large_history`.
#[test]
#[ignore = "takes a minute; the cost of checking is what it looks at"]
fn a_large_history_is_checked_within_a_minute() {
    let history = made(1, 1_000_000);
    let changes: usize = history
        .watches
        .iter()
        .flat_map(|it| &it.steps)
        .map(|step| step.changes.len())
        .sum();
    let began = std::time::Instant::now();
    let report = check(&history, &options());
    assert!(report.is_clean(), "{report}");
    let took = began.elapsed();
    assert!(
        took.as_secs() < 60,
        "{} calls and {changes} changes took {took:?}",
        history.calls.len()
    );
}

/// One of the things in which a condition holds.
fn any<'a, T>(things: &'a mut [T], rng: &mut StdRng, holds: impl Fn(&T) -> bool) -> Option<&'a mut T> {
    let fit: Vec<usize> = (0..things.len()).filter(|at| holds(&things[*at])).collect();
    let at = *fit.get(rng.random_range(0..fit.len().max(1)))?;
    things.get_mut(at)
}

fn drop_change(history: &mut History, rng: &mut StdRng) -> bool {
    let changes = |kind: StepKind, count: usize| kind == StepKind::Changes && count > 0;
    let Some(stream) = any(&mut history.watches, rng, |it| {
        it.steps.iter().any(|step| changes(step.kind, step.changes.len()))
    }) else {
        return false;
    };
    let step = any(&mut stream.steps, rng, |step| changes(step.kind, step.changes.len())).unwrap();
    let at = rng.random_range(0..step.changes.len());
    step.changes.remove(at);
    true
}

fn repeat_change(history: &mut History, rng: &mut StdRng) -> bool {
    for stream in &mut history.watches {
        let steps = &mut stream.steps;
        let pair = (1..steps.len()).find(|at| {
            let (one, next) = (&steps[at - 1], &steps[*at]);
            next.revision > one.revision && next.kind == StepKind::Changes && one.changes.iter().any(is_plain)
        });
        if let Some(at) = pair {
            let again: Vec<_> = steps[at - 1]
                .changes
                .iter()
                .filter(|it| is_plain(it))
                .cloned()
                .collect();
            steps[at]
                .changes
                .insert(0, again[rng.random_range(0..again.len())].clone());
            return true;
        }
    }
    false
}

/// A put that does not stand for the difference that an installed snapshot made.
fn is_plain(change: &crate::history::Change) -> bool {
    change
        .put
        .as_ref()
        .is_some_and(|record| record.mod_revision == change.revision)
}

fn swap_steps(history: &mut History, _rng: &mut StdRng) -> bool {
    for stream in &mut history.watches {
        let steps = &mut stream.steps;
        let at = (1..steps.len()).find(|at| {
            let (one, next) = (&steps[at - 1], &steps[*at]);
            one.kind == StepKind::Changes && next.kind == StepKind::Changes && one.revision < next.revision
        });
        if let Some(at) = at {
            let (earlier, later) = (steps[at - 1].at, steps[at].at);
            steps.swap(at - 1, at);
            (steps[at - 1].at, steps[at].at) = (earlier.max(later), later);
            return true;
        }
    }
    false
}

fn other_life(history: &mut History, rng: &mut StdRng) -> bool {
    let puts =
        |step: &crate::history::Step| step.kind == StepKind::Changes && step.changes.iter().any(|it| it.put.is_some());
    let Some(stream) = any(&mut history.watches, rng, |it| it.steps.iter().any(puts)) else {
        return false;
    };
    let step = any(&mut stream.steps, rng, puts).unwrap();
    let change = any(&mut step.changes, rng, |it| it.put.is_some()).unwrap();
    change.put.as_mut().unwrap().incarnation += 1;
    true
}

fn records(call: &mut Call) -> Option<(&mut i64, &mut Vec<crate::history::Record>)> {
    match &mut call.answer {
        Answer::Done {
            revision,
            reply: Reply::Read { records, .. },
            ..
        } => Some((revision, records)),
        _ => None,
    }
}

fn is_list(call: &Call) -> bool {
    matches!(call.request, Request::List { .. }) && matches!(call.answer, Answer::Done { .. })
}

fn lacking(history: &mut History, rng: &mut StdRng) -> bool {
    let full = |call: &Call| is_list(call) && records(&mut call.clone()).is_some_and(|(_, it)| !it.is_empty());
    let Some(call) = any(&mut history.calls, rng, full) else {
        return false;
    };
    records(call).unwrap().1.remove(0);
    true
}

/// Changes the lines of some overview. Whether there was one that could be changed so.
fn overview(history: &mut History, rng: &mut StdRng, change: impl Fn(&mut Vec<Row>) -> bool) -> bool {
    let rows = |call: &mut Call| match &mut call.answer {
        Answer::Done {
            reply: Reply::Read { rows, .. },
            ..
        } => change(rows),
        _ => false,
    };
    any(&mut history.calls, rng, |call| rows(&mut call.clone())).is_some_and(rows)
}

fn change_row(history: &mut History, rng: &mut StdRng, change: fn(&mut Row) -> bool) -> bool {
    overview(history, rng, |rows| rows.iter_mut().any(change))
}

/// A linearizable list gets the answer of one of long before.
fn old_list(history: &mut History, _rng: &mut StdRng) -> bool {
    let all = |call: &Call| {
        matches!(&call.request, Request::List { selector, stale: false, .. } if selector.services.is_empty())
            && matches!(call.answer, Answer::Done { .. })
    };
    let first = history.calls.iter().position(all);
    let last = history.calls.iter().rposition(all);
    let (Some(first), Some(last)) = (first, last) else {
        return false;
    };
    let (one, other) = (history.calls[first].clone(), &mut history.calls[last]);
    let changed = one.answer != other.answer && one.ended + 500_000_000 < other.sent;
    (other.request, other.answer) = (one.request, one.answer);
    changed
}

fn is_done_write(call: &Call) -> bool {
    matches!(call.request, Request::Register { .. }) && matches!(call.answer, Answer::Done { .. })
}

/// Every command with these contents becomes another's, of nobody.
fn retell(history: &mut History, lost: &str) {
    for record in &mut history.logs {
        if let Payload::Entry(Entry { commands, .. }) = &mut record.payload {
            for command in commands {
                if let Request::Register { mark, .. } = command
                    && mark == lost
                {
                    *mark = format!("not-{lost}");
                }
            }
        }
    }
}

fn lost(history: &mut History, rng: &mut StdRng) -> bool {
    let Some(call) = any(&mut history.calls, rng, is_done_write) else {
        return false;
    };
    let Request::Register { mark, .. } = call.request.clone() else {
        return false;
    };
    retell(history, &mark);
    true
}

fn failed_and_done(history: &mut History, rng: &mut StdRng) -> bool {
    let Some(call) = any(&mut history.calls, rng, is_done_write) else {
        return false;
    };
    call.answer = Answer::Failed {
        reason: "NO_LEADER".into(),
    };
    true
}

fn phantom(history: &mut History, rng: &mut StdRng) -> bool {
    let single = |call: &Call| is_done_write(call) && call.attempt == 0;
    let Some(id) = any(&mut history.calls, rng, single).map(|call| call.id) else {
        return false;
    };
    history.calls.retain(|call| call.id != id);
    true
}

fn other_revision(history: &mut History, rng: &mut StdRng) -> bool {
    let Some(call) = any(&mut history.calls, rng, is_done_write) else {
        return false;
    };
    if let Answer::Done { revision, .. } = &mut call.answer {
        *revision -= 1;
    }
    true
}

fn not_renewed(history: &mut History, rng: &mut StdRng) -> bool {
    let refused = |call: &Call| match &call.answer {
        Answer::Done {
            reply: Reply::Renewed(results),
            ..
        } => results.iter().any(|result| result.outcome == RenewOutcome::NotFound),
        _ => false,
    };
    let Some(call) = any(&mut history.calls, rng, refused) else {
        return false;
    };
    if let Answer::Done {
        reply: Reply::Renewed(results),
        ..
    } = &mut call.answer
    {
        results
            .iter_mut()
            .for_each(|result| result.outcome = RenewOutcome::Renewed);
    }
    true
}

fn disagree(history: &mut History, rng: &mut StdRng) -> bool {
    let Some(record) = any(&mut history.logs, rng, |it| it.node == "n2") else {
        return false;
    };
    record.term += 1;
    true
}

fn hole(history: &mut History, rng: &mut StdRng) -> bool {
    let at = rng.random_range(2..history.logs.last().unwrap().index);
    history.logs.retain(|record: &NodeLog| record.index != at);
    true
}

fn young(history: &mut History, _rng: &mut StdRng) -> bool {
    let last = history.calls.iter().map(|call| call.ended).max().unwrap();
    let stale = |call: &&mut Call| {
        let stale = matches!(call.request, Request::List { stale: true, .. });
        stale && matches!(call.answer, Answer::Done { .. }) && call.sent < last / 2
    };
    let Some(call) = history.calls.iter_mut().find(stale) else {
        return false;
    };
    (call.sent, call.ended) = (last, last);
    true
}

/// An acknowledged write is said to have been sent and answered at the very end.
fn before_cause(history: &mut History, _rng: &mut StdRng) -> bool {
    let last = history.calls.iter().map(|call| call.ended).max().unwrap();
    let moved = |call: &&mut Call| is_done_write(call) && call.attempt == 0 && call.ended < last / 2;
    let Some(call) = history.calls.iter_mut().find(moved) else {
        return false;
    };
    (call.sent, call.ended) = (last + 1, last + 2);
    true
}

/// From the middle on, lease time is a second and a half ahead; and some lease ends elsewhere for that.
fn leap(history: &mut History, _rng: &mut StdRng) -> bool {
    let ends = |history: &History| -> Vec<(u64, i64)> {
        let events = Witness::of(history, WitnessOptions::default()).events;
        let ends = events.iter().filter_map(|event| match event.what {
            What::Expired(lease) => Some((event.index, lease)),
            _ => None,
        });
        ends.collect()
    };
    let before = ends(history);
    let middle = history.logs.last().unwrap().index / 2;
    for record in history.logs.iter_mut().filter(|record| record.index > middle) {
        if let Payload::Entry(entry) = &mut record.payload {
            entry.stamp_ns += 1_500_000_000;
        }
    }
    before != ends(history)
}
