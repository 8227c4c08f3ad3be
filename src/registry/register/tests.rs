//! What Register and BatchRegister do, refuse and leave alone.

use super::*;
use crate::{
    model::{Incarnation, InstanceKey, Status},
    registry::{
        Command, Deregister, RemoveReason, Renewal, Settings,
        fixture::{Desk, deregister, key, life, own, shared, spec, ttl},
    },
};

fn expecting(instance: InstanceSpec, revision: u64) -> Command {
    Command::Register(Register {
        instance,
        hold: Hold::Permanent,
        expected_mod_revision: Some(Revision(revision)),
    })
}

fn batch(desk: &mut Desk, instances: Vec<InstanceSpec>, hold: Hold) -> Result<bool, Rejection> {
    match desk.run(Command::BatchRegister(BatchRegister { instances, hold }))? {
        Outcome::BatchRegistered { changed } => Ok(changed),
        other => panic!("a BatchRegister answered {other:?}"),
    }
}

fn with_settings(change: impl FnOnce(&mut Settings)) -> Desk {
    let mut state = State::default();
    change(&mut state.settings);
    Desk {
        registry: crate::registry::Registry::from_state(state),
        ..Desk::default()
    }
}

#[test]
fn a_new_instance_is_created_with_a_lease_of_its_own() {
    let mut desk = Desk::default();
    assert_eq!(desk.register(spec("api/a"), own(5)), Ok(Registered::Created));
    assert_eq!(desk.revision(), Revision(1));
    let instance = desk.instance("api/a").unwrap();
    assert_eq!(instance.lease, Some((LeaseId(1), ttl(5))));
    assert_eq!(instance.create_revision, Revision(1));
    assert_eq!(instance.registered_at_ms, 1_700_000_000_000);
    assert_eq!(desk.changes.len(), 1);
    assert!(desk.registry.state().lease(LeaseId(1)).unwrap().own);
}

#[test]
fn the_same_register_again_renews_and_moves_no_revision() {
    let mut desk = Desk::default();
    desk.register(spec("api/a"), own(5)).unwrap();
    desk.now_ms = 4_000;
    assert_eq!(desk.register(spec("api/a"), own(5)), Ok(Registered::Unchanged));
    assert_eq!(desk.revision(), Revision(1));
    assert!(desk.changes.is_empty());
    assert_eq!(desk.lease_of("api/a"), LeaseId(1));
    assert!(desk.pass(9_000).is_empty(), "it lives for a TTL from the second");
    assert_eq!(desk.pass(9_001), [key("api/a")]);
}

#[test]
fn a_register_that_differs_keeps_the_lease_and_changes_the_record() {
    let mut desk = Desk::default();
    desk.register(spec("api/a"), own(5)).unwrap();
    let mut other = spec("api/a");
    other.status = Status::Draining;
    desk.now_ms = 10;
    assert_eq!(desk.register(other, own(5)), Ok(Registered::Changed));
    let instance = desk.instance("api/a").unwrap();
    assert_eq!(instance.lease_id(), Some(LeaseId(1)));
    assert_eq!(
        (instance.create_revision, instance.mod_revision),
        (Revision(1), Revision(2))
    );
    assert_eq!(instance.registered_at_ms + 10, instance.updated_at_ms);
}

#[test]
fn another_ttl_changes_the_record_and_counts_from_now() {
    let mut desk = Desk::default();
    desk.register(spec("api/a"), own(60)).unwrap();
    assert_eq!(desk.register(spec("api/a"), own(2)), Ok(Registered::Changed));
    assert_eq!(desk.instance("api/a").unwrap().lease, Some((LeaseId(1), ttl(2))));
    assert!(desk.pass(2_000).is_empty());
    assert_eq!(desk.pass(2_001), [key("api/a")], "the shorter TTL holds");
}

#[test]
fn taking_over_ends_the_old_own_lease_in_the_same_revision() {
    let mut desk = Desk::default();
    desk.register(spec("api/a"), own(5)).unwrap();
    let lease = desk.grant(5);
    assert_eq!(desk.register(spec("api/a"), shared(lease)), Ok(Registered::TookOver));
    assert_eq!(desk.revision(), Revision(3));
    assert_eq!(desk.registry.state().lease(LeaseId(1)), None);
    assert_eq!(desk.changes.len(), 1);
    assert_eq!(desk.register(spec("api/a"), Hold::Permanent), Ok(Registered::TookOver));
    let left = desk.registry.state().lease(lease).unwrap();
    assert_eq!(left.instances, 0, "a shared lease only no longer holds it");
    assert!(desk.pass(60_000).is_empty(), "permanent");
}

#[test]
fn a_greater_incarnation_takes_a_new_own_lease() {
    let mut desk = Desk::default();
    desk.register(life("api/a", 7), own(5)).unwrap();
    assert_eq!(desk.register(life("api/a", 8), own(5)), Ok(Registered::TookOver));
    assert_eq!(desk.lease_of("api/a"), LeaseId(2));
    assert_eq!(
        desk.renew(LeaseId(1)),
        Renewal::NotFound,
        "the zombie keeps nothing alive"
    );
    assert_eq!(desk.register(life("api/a", 8), own(5)), Ok(Registered::Unchanged));
}

#[test]
fn a_smaller_incarnation_is_refused_and_changes_nothing() {
    let mut desk = Desk::default();
    desk.register(life("api/a", 7), own(5)).unwrap();
    for late in [6, 0] {
        desk.now_ms += 1;
        let refused = Rejection::Fenced {
            key: key("api/a"),
            current: Incarnation(7),
        };
        assert_eq!(desk.register(life("api/a", late), own(5)), Err(refused));
    }
    assert_eq!(desk.revision(), Revision(1));
    assert_eq!(desk.pass(5_001), [key("api/a")], "a refused Register renews nothing");
}

#[test]
fn after_deregister_the_same_incarnation_is_refused_too() {
    let mut desk = Desk::default();
    desk.register(life("api/a", 7), own(5)).unwrap();
    desk.run(Command::Deregister(deregister("api/a", 7))).unwrap();
    assert!(matches!(
        desk.register(life("api/a", 7), own(5)),
        Err(Rejection::Fenced { .. })
    ));
    assert_eq!(desk.register(life("api/a", 8), own(5)), Ok(Registered::Created));
}

#[test]
fn after_expiry_the_owner_may_come_back_in_the_same_life() {
    let mut desk = Desk::default();
    desk.register(life("api/a", 7), own(5)).unwrap();
    assert_eq!(desk.pass(5_001), [key("api/a")]);
    assert!(matches!(
        desk.register(life("api/a", 6), own(5)),
        Err(Rejection::Fenced { .. })
    ));
    assert!(matches!(
        desk.register(life("api/a", 0), own(5)),
        Err(Rejection::Fenced { .. })
    ));
    assert_eq!(desk.register(life("api/a", 7), own(5)), Ok(Registered::Created));
}

#[test]
fn without_incarnations_a_key_is_free_after_its_record() {
    let mut desk = Desk::default();
    desk.register(spec("api/a"), own(5)).unwrap();
    desk.run(Command::Deregister(deregister("api/a", 0))).unwrap();
    assert_eq!(desk.register(spec("api/a"), own(5)), Ok(Registered::Created));
    assert_eq!(desk.registry.state().fences.len(), 0);
}

#[test]
fn a_fence_ends_after_a_day_of_lease_time() {
    let mut desk = Desk::default();
    desk.register(life("api/a", 7), Hold::Permanent).unwrap();
    desk.run(Command::Deregister(deregister("api/a", 0))).unwrap();
    desk.now_ms = 24 * 60 * 60 * 1_000;
    assert!(desk.register(life("api/a", 7), own(5)).is_err());
    desk.now_ms += 1;
    assert_eq!(desk.register(life("api/a", 7), own(5)), Ok(Registered::Created));
}

#[test]
fn an_expected_revision_decides() {
    let mut desk = Desk::default();
    let mismatch = |current| {
        Err(Rejection::RevisionMismatch {
            key: key("api/a"),
            current: Revision(current),
        })
    };
    assert_eq!(desk.run(expecting(spec("api/a"), 3)), mismatch(0));
    assert!(desk.run(expecting(spec("api/a"), 0)).is_ok());
    assert_eq!(desk.run(expecting(spec("api/a"), 0)), mismatch(1));
    assert!(desk.run(expecting(life("api/a", 1), 1)).is_ok());
}

#[test]
fn a_missing_lease_and_someone_elses_own_lease_hold_nothing() {
    let mut desk = Desk::default();
    let missing = desk.register(spec("api/a"), shared(LeaseId(9)));
    assert_eq!(missing, Err(Rejection::LeaseNotFound(LeaseId(9))));
    desk.register(spec("api/a"), own(5)).unwrap();
    for name in ["api/a", "api/b"] {
        let refused = desk.register(spec(name), shared(LeaseId(1)));
        assert!(matches!(refused, Err(Rejection::InvalidField { path, .. }) if path == "lease_id"));
    }
}

#[test]
fn a_register_renews_the_shared_lease() {
    let mut desk = Desk::default();
    let lease = desk.grant(5);
    desk.now_ms = 4_000;
    desk.register(spec("api/a"), shared(lease)).unwrap();
    assert!(desk.pass(9_000).is_empty());
    assert_eq!(desk.pass(9_001), [key("api/a")]);
    assert_eq!(desk.changes[0].reason, Some(RemoveReason::Expired));
}

#[test]
fn limits_are_those_of_the_state() {
    let mut desk = with_settings(|settings| {
        settings.max_instances = 2;
        settings.max_leases = 1;
        settings.max_instances_per_lease = 1;
    });
    desk.register(spec("api/a"), own(5)).unwrap();
    let second = desk.register(spec("api/b"), own(5));
    assert_eq!(second, Err(Rejection::TooManyLeases { limit: 1 }));
    desk.register(life("api/a", 1), own(5))
        .expect("its old lease makes room");
    desk.register(spec("api/b"), Hold::Permanent).unwrap();
    let third = desk.register(spec("api/c"), Hold::Permanent);
    assert!(matches!(third, Err(Rejection::TooManyInstances { subject, limit: 2 }) if subject == "cluster"));
    desk.register(spec("api/b"), Hold::Permanent)
        .expect("it is there already");
    desk.run(Command::Deregister(deregister("api/a", 0))).unwrap();
    let lease = desk.grant(5);
    desk.register(spec("api/b"), shared(lease)).unwrap();
    let full = desk.register(spec("api/c"), shared(lease));
    let subject = format!("lease {lease}");
    assert_eq!(full, Err(Rejection::TooManyInstances { subject, limit: 1 }));
}

#[test]
fn a_batch_is_one_revision_in_key_order() {
    let mut desk = Desk::default();
    let lease = desk.grant(5);
    let names = ["web/b", "api/z", "web/a"];
    let instances: Vec<_> = names.iter().map(|name| spec(name)).collect();
    assert_eq!(batch(&mut desk, instances.clone(), shared(lease)), Ok(true));
    assert_eq!(desk.revision(), Revision(2));
    let keys: Vec<&InstanceKey> = desk.changes.iter().map(crate::registry::Change::key).collect();
    assert_eq!(keys, [&key("api/z"), &key("web/a"), &key("web/b")]);
    assert!(desk.changes.iter().all(|change| change.revision == Revision(2)));
    desk.now_ms = 4_000;
    assert_eq!(batch(&mut desk, instances, shared(lease)), Ok(false));
    assert_eq!(desk.revision(), Revision(2));
    assert!(desk.pass(9_000).is_empty(), "the batch renewed its lease");
    assert_eq!(batch(&mut desk, Vec::new(), shared(lease)), Ok(false));
    assert!(desk.pass(14_000).is_empty(), "an empty one, too");
    assert_eq!(desk.pass(14_001), [key("api/z"), key("web/a"), key("web/b")]);
    assert_eq!(desk.revision(), Revision(3));
}

#[test]
fn a_batch_is_refused_whole() {
    let mut desk = Desk::default();
    desk.register(life("web/b", 9), Hold::Permanent).unwrap();
    let fenced = batch(&mut desk, vec![spec("web/a"), life("web/b", 8)], Hold::Permanent);
    assert!(matches!(fenced, Err(Rejection::Fenced { .. })));
    let twice = vec![spec("web/c"), spec("web/a"), spec("web/c"), spec("web/a")];
    let twice = batch(&mut desk, twice, Hold::Permanent);
    assert!(matches!(twice, Err(Rejection::InvalidField { path, .. }) if path == "instances[2].key"));
    let own_lease = batch(&mut desk, vec![spec("web/a")], own(5));
    assert!(matches!(own_lease, Err(Rejection::InvalidField { path, .. }) if path == "hold"));
    assert_eq!(desk.revision(), Revision(1));
    assert_eq!(desk.registry.state().instance_count(), 1);
    assert!(desk.changes.is_empty());
}

#[test]
fn instances_of_one_service_share_the_texts_of_their_names() {
    let mut desk = Desk::default();
    desk.register(spec("api/a"), own(5)).unwrap();
    desk.register(spec("api/b"), own(5)).unwrap();
    let text = |name| desk.instance(name).unwrap().key().service.as_str().as_ptr();
    assert_eq!(text("api/a"), text("api/b"));
}

#[test]
fn a_deregister_of_a_later_life_also_ends_the_lives_before_it() {
    let mut desk = Desk::default();
    desk.register(life("api/a", 7), own(5)).unwrap();
    let late = Deregister {
        incarnation: Incarnation(9),
        ..deregister("api/a", 0)
    };
    desk.run(Command::Deregister(late)).unwrap();
    assert!(desk.register(life("api/a", 9), own(5)).is_err());
    assert_eq!(desk.register(life("api/a", 10), own(5)), Ok(Registered::Created));
}
