//! What only some histories show: answers that come too late or never, views that are too old, fields that are lost.

use super::made::made;
use crate::{
    check::{CheckOptions, check},
    history::{Answer, At, Fault, Held, History, Reply, Request, StepKind},
    witness::{Witness, WitnessOptions},
};

const TURNS: usize = 600;
const S: At = 1_000_000_000;
const NONE: [&str; 0] = [];

fn told(history: &History) -> Vec<&'static str> {
    let options = CheckOptions {
        success_min: None,
        ..CheckOptions::default()
    };
    check(history, &options).rejected_by()
}

fn is_register(request: &Request) -> bool {
    matches!(request, Request::Register { .. })
}

fn fault(kind: &str, node: &str, from: At, until: At) -> Fault {
    Fault {
        kind: kind.into(),
        nodes: vec![node.into()],
        hit_leader: false,
        majority_left: true,
        from,
        until: Some(until),
        details: String::new(),
    }
}

/// A history in which one call took `took`, the node that it asked, and when it was sent.
fn slow_call(which: fn(&Request) -> bool, took: At) -> (History, String, At) {
    let mut history = made(3, TURNS);
    let call = history.calls.iter_mut().find(|call| {
        let unknown = matches!(call.answer, Answer::Unknown { .. });
        unknown && call.node.is_some() && which(&call.request)
    });
    let call = call.unwrap();
    call.ended = call.sent + took;
    let (node, sent) = (call.node.clone().unwrap(), call.sent);
    (history, node, sent)
}

#[test]
fn a_node_that_can_answer_and_does_not_is_told() {
    let (mut history, node, sent) = slow_call(is_register, 7 * S);
    assert_eq!(told(&history), ["A2"]);
    // Cut off from its peers it can still say so; ended, it can't.
    history.faults = vec![fault("partition", &node, sent, sent + 8 * S)];
    assert_eq!(told(&history), ["A2"]);
    history.faults = vec![fault("kill", &node, sent, sent + 8 * S)];
    assert_eq!(told(&history), NONE);
    assert_eq!(told(&slow_call(is_register, 5 * S).0), NONE);
}

#[test]
fn a_renewal_is_answered_long_before_a_write_must_be() {
    let renewal = |request: &Request| matches!(request, Request::Renew { .. });
    assert_eq!(told(&slow_call(renewal, 5 * S).0), ["A2"]);
}

#[test]
fn a_field_that_was_lost_on_its_way_is_told() {
    let mut history = made(4, TURNS);
    let alone = |call: &&mut crate::history::Call| {
        is_register(&call.request) && call.attempt == 0 && matches!(call.answer, Answer::Done { .. })
    };
    history.calls.iter_mut().find(alone).unwrap().asked = 7;
    assert_eq!(told(&history), ["I2"]);
}

#[test]
fn a_library_that_holds_on_to_a_lease_without_renewals_is_told() {
    let mut history = made(5, TURNS);
    let end = history.calls.iter().map(|call| call.ended).max().unwrap();
    let witness = Witness::of(&history, WitnessOptions::default());
    let (lease, _) = witness.leases.iter().find(|(_, lease)| lease.end.is_none()).unwrap();
    let held = |until| Held {
        client: 1,
        key: "default/web/1".into(),
        incarnation: 1,
        lease,
        ttl_ms: 1_000,
        from: 0,
        until,
    };
    history.held = vec![held(end + 3_600 * S)];
    assert_eq!(told(&history), ["L6"]);
}

#[test]
fn an_answer_of_no_revision_is_told_and_ends_no_checker() {
    for nonsense in [-1, i64::MIN, i64::MAX] {
        let mut history = made(6, TURNS);
        let list = history.calls.iter_mut().rev().find(|call| {
            matches!(call.request, Request::List { stale: false, .. }) && matches!(call.answer, Answer::Done { .. })
        });
        if let Answer::Done {
            revision,
            reply: Reply::Read { .. },
            ..
        } = &mut list.unwrap().answer
        {
            *revision = nonsense;
        }
        let stream = history.watches.iter_mut().rev().find(|stream| !stream.steps.is_empty());
        stream.unwrap().steps.last_mut().unwrap().revision = nonsense;
        assert!(!told(&history).is_empty(), "{nonsense}");
    }
}

/// A history with one quiet watch of `n1`, which ended when it is said to.
fn quiet_watch(max_age: At, ended: At) -> History {
    let mut history = made(7, TURNS);
    let end = history.calls.iter().map(|call| call.ended).max().unwrap();
    let mut stream = history
        .watches
        .iter()
        .find(|stream| !stream.steps.is_empty())
        .unwrap()
        .clone();
    stream.id += 1_000_000;
    stream.watcher += 1_000_000;
    stream.steps.truncate(1);
    stream.max_age_ns = Some(max_age);
    stream.ended = Some(crate::history::Ended {
        at: end + ended,
        reason: "NO_QUORUM".into(),
    });
    let node = stream.node.clone().unwrap();
    history.faults = vec![fault("partition", &node, end, end + 9 * S)];
    history.watches.push(stream);
    history
}

#[test]
fn a_watch_of_a_node_that_is_cut_off_ends_in_time() {
    assert_eq!(told(&quiet_watch(2 * S, 3 * S)), NONE);
    assert_eq!(told(&quiet_watch(2 * S, 12 * S)), ["W11"]);
    let mut slow = quiet_watch(2 * S, 12 * S);
    slow.watches.last_mut().unwrap().slow = true;
    assert_eq!(told(&slow), NONE);
}

#[test]
fn a_view_that_is_older_than_was_asked_for_is_told() {
    let mut history = quiet_watch(2 * S, 3 * S);
    let stream = history.watches.last_mut().unwrap();
    stream.steps[0].age_ns = Some(9 * S);
    assert_eq!(told(&history), NONE);
    let stream = history.watches.last_mut().unwrap();
    let mut again = stream.steps[0].clone();
    (again.at, again.kind) = (again.at + 2 * S, StepKind::Progress);
    again.changes.clear();
    stream.steps.push(again);
    assert_eq!(told(&history), ["W11"]);
}
