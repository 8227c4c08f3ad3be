//! States there and back, and each contradiction that a snapshot can hold.

use super::*;
use crate::{
    model::Hold,
    registry::{
        Command,
        fixture::{Desk, deregister, key, life, own, shared, spec, ttl},
    },
};

fn filled() -> Vec<SnapshotItem> {
    let mut desk = Desk::default();
    let lease = desk.grant(9);
    desk.run(Command::GrantLease {
        lease_id: Some(LeaseId(LeaseId::FIRST_OF_CALLERS.0 + 3)),
        ttl: ttl(9),
    })
    .unwrap();
    for name in ["api/a", "web/b"] {
        desk.register(life(name, 5), shared(lease)).unwrap();
    }
    desk.register(spec("api/c"), own(3)).unwrap();
    desk.register(spec("api/d"), Hold::Permanent).unwrap();
    for name in ["old/a", "old/b"] {
        desk.register(life(name, 5), own(3)).unwrap();
        desk.run(Command::Deregister(deregister(name, 5))).unwrap();
    }
    desk.pass(1_000);
    desk.registry.state().items().collect()
}

fn read(items: Vec<SnapshotItem>) -> Result<State, Corrupt> {
    State::from_items(items.into_iter().map(Ok))
}

/// The items with one of them changed, or dropped.
fn with(place: usize, change: impl FnOnce(SnapshotItem) -> Vec<SnapshotItem>) -> Vec<SnapshotItem> {
    let mut items = filled();
    let item = items.remove(place);
    items.splice(place..place, change(item));
    items
}

fn record(item: SnapshotItem, change: impl FnOnce(&mut Instance)) -> Vec<SnapshotItem> {
    let SnapshotItem::Instance(mut record) = item else {
        panic!("{item:?} is no instance");
    };
    let spec = record.spec.clone();
    if let Some(record) = Arc::get_mut(&mut record) {
        change(record);
        return vec![SnapshotItem::Instance(record_of(record, spec))];
    }
    panic!("the record is shared");
}

fn record_of(record: &Instance, spec: crate::model::InstanceSpec) -> Arc<Instance> {
    Arc::new(Instance {
        spec,
        lease: record.lease,
        create_revision: record.create_revision,
        mod_revision: record.mod_revision,
        registered_at_ms: record.registered_at_ms,
        updated_at_ms: record.updated_at_ms,
        encoded: std::sync::OnceLock::new(),
    })
}

#[test]
fn a_state_comes_back_from_its_items() {
    let items = filled();
    let kinds: Vec<&str> = items
        .iter()
        .map(|item| match item {
            SnapshotItem::State { .. } => "state",
            SnapshotItem::Lease { .. } => "lease",
            SnapshotItem::Instance(_) => "instance",
            SnapshotItem::Fence { .. } => "fence",
        })
        .collect();
    let order = [
        "state", "lease", "lease", "lease", "instance", "instance", "instance", "instance", "fence", "fence",
    ];
    assert_eq!(kinds, order);
    let state = read(items.clone()).unwrap();
    assert_eq!(state.check_invariants(), Ok(()));
    assert_eq!(state.items().collect::<Vec<_>>(), items);
}

#[test]
fn an_empty_state_is_one_item() {
    let items: Vec<_> = State::default().items().collect();
    assert_eq!(items.len(), 1);
    assert_eq!(read(items).unwrap().revision(), Revision(0));
}

#[test]
fn an_error_of_the_reader_is_passed_on() {
    #[derive(Debug, PartialEq)]
    struct Torn;
    impl From<Corrupt> for Torn {
        fn from(_: Corrupt) -> Self {
            panic!("the items are in order");
        }
    }
    let items = filled().into_iter().take(3).map(Ok).chain([Err(Torn)]);
    assert_eq!(State::from_items(items).err(), Some(Torn));
}

#[test]
fn contradictions_are_named() {
    let state_at = |revision: u64, next: u64| {
        with(0, |_| {
            vec![SnapshotItem::State {
                revision: Revision(revision),
                clock: LeaseTime(1_000_000_000),
                next_lease_id: LeaseId(next),
                settings: Settings::default(),
            }]
        })
    };
    let lease = |id: u64, own: bool, deadline: u64| SnapshotItem::Lease {
        lease_id: LeaseId(id),
        ttl: ttl(3),
        own,
        deadline: LeaseTime(deadline),
    };
    let fence = |name: &str, until: u64| SnapshotItem::Fence {
        key: key(name),
        incarnation: Incarnation(1),
        until: LeaseTime(until),
    };
    let day = 24 * 60 * 60 * 1_000_000_000_u64;
    let cases: Vec<(Vec<SnapshotItem>, &str)> = vec![
        (Vec::new(), "is empty"),
        (with(0, |_| Vec::new()), "does not begin with the state"),
        (with(1, |item| vec![filled().remove(0), item]), "two states"),
        (state_at(99, 0), "cannot be the next lease"),
        (state_at(99, (1 << 62) + 1), "cannot be the next lease"),
        (state_at(99, 2), "was never given"),
        (state_at(u64::MAX, 99), "no history is as long"),
        (state_at(3, 99), "in a history of 3"),
        (with(1, |_| Vec::new()), "which is not there"),
        (with(2, |item| vec![item.clone(), item]), "out of order"),
        (with(2, |_| vec![lease(2, true, u64::MAX)]), "later than a renewal"),
        (with(2, |_| vec![lease(2, false, 0)]), ""),
        (with(1, |_| vec![lease(1, true, 0)]), "differ in their TTL"),
        (with(1, |_| vec![lease(0, false, 0)]), "was never given"),
        (with(3, |_| vec![lease(1 << 62, true, 0)]), "was never given"),
        (with(3, |_| vec![lease(1 << 63, false, 0)]), "was never given"),
        (with(3, |item| vec![item, lease(u64::MAX, false, 0)]), "was never given"),
        (with(5, |_| Vec::new()), "holds no instance"),
        (with(5, |item| vec![item.clone(), item]), "out of order"),
        (with(5, |item| vec![item, lease(3, false, 0)]), "out of order"),
        (
            with(5, |item| record(item, |r| r.lease = Some((LeaseId(1), ttl(9))))),
            "holds no instance",
        ),
        (
            with(5, |item| record(item, |r| r.lease = Some((LeaseId(7), ttl(9))))),
            "which is not there",
        ),
        (
            with(6, |item| record(item, |r| r.lease = Some((LeaseId(2), ttl(3))))),
            "holds two instances",
        ),
        (
            with(6, |item| record(item, |r| r.create_revision = Revision(0))),
            "in a history",
        ),
        (
            with(6, |item| record(item, |r| r.create_revision = Revision(90))),
            "in a history",
        ),
        (with(8, |item| vec![item.clone(), item]), "out of order"),
        (with(8, |item| vec![filled().remove(6), item]), "out of order"),
        (
            with(8, |item| vec![item, fence("web/b", 0)]),
            "both a record and a fence",
        ),
        (with(9, |_| vec![fence("old/b", 2 * day)]), "holds longer"),
    ];
    for (items, problem) in cases {
        expect_problem(items, problem);
    }
}

/// Reading must be refused with these words; without any, it must succeed.
fn expect_problem(items: Vec<SnapshotItem>, problem: &str) {
    let shown = format!("{items:#?}");
    match read(items) {
        Err(Corrupt(found)) => assert!(!problem.is_empty() && found.contains(problem), "{found}\n{shown}"),
        Ok(state) => {
            assert_eq!(problem, "", "{shown}");
            assert_eq!(state.check_invariants(), Ok(()));
        }
    }
}

#[test]
fn more_fences_than_allowed_are_a_contradiction() {
    let items = with(0, |item| match item {
        SnapshotItem::State {
            revision,
            clock,
            next_lease_id,
            ..
        } => vec![SnapshotItem::State {
            revision,
            clock,
            next_lease_id,
            settings: Settings {
                max_fences: 1,
                ..Settings::default()
            },
        }],
        other => vec![other],
    });
    assert!(read(items).is_err_and(|Corrupt(problem)| problem.contains("more than 1 fences")));
}
