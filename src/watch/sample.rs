//! Records, changes and selectors for this room's tests.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use super::{limits::HubLimits, record::Record};
use crate::{
    model::{
        Incarnation, Instance, InstanceId, InstanceKey, InstanceSpec, Match, MatchField, MatchOp, Metadata, Namespace,
        Revision, Scope, Selector, ServiceName, Status, Tags,
    },
    registry::{Change, RemoveReason},
};

/// Three changes may wait for a watcher.
pub(super) const LIMITS: HubLimits = HubLimits {
    history_changes: 0,
    history_bytes: 0,
    queue_changes: 3,
    queue_bytes: 1 << 20,
    watches: 0,
};

pub(super) fn spec(service: &str, id: &str, zone: &str) -> InstanceSpec {
    InstanceSpec {
        key: InstanceKey::new(
            Namespace::default(),
            ServiceName::parse(service).unwrap(),
            InstanceId::parse(id).unwrap(),
        ),
        address: "10.0.0.1".into(),
        ports: Box::default(),
        weight: 100,
        region: Default::default(),
        zone: zone.into(),
        version: Default::default(),
        tags: Tags::new(),
        metadata: Metadata::new(),
        status: Status::Up,
        incarnation: Incarnation(0),
    }
}

pub(super) fn instance(spec: InstanceSpec, revision: u64) -> Instance {
    Instance {
        spec,
        lease: None,
        create_revision: Revision(revision),
        mod_revision: Revision(revision),
        registered_at_ms: 0,
        updated_at_ms: 0,
        encoded: OnceLock::new(),
    }
}

fn side(service: &str, id: &str, zone: &str, revision: u64) -> Option<Arc<Instance>> {
    Some(Arc::new(instance(spec(service, id, zone), revision)))
}

pub(super) fn put(revision: u64, service: &str, id: &str, zone: &str) -> Change {
    Change {
        revision: Revision(revision),
        before: None,
        after: side(service, id, zone, revision),
        reason: None,
    }
}

pub(super) fn replaced(revision: u64, service: &str, id: &str, from: &str, to: &str) -> Change {
    Change {
        revision: Revision(revision),
        before: side(service, id, from, revision - 1),
        after: side(service, id, to, revision),
        reason: None,
    }
}

pub(super) fn removed(revision: u64, service: &str, id: &str, zone: &str, reason: RemoveReason) -> Change {
    Change {
        revision: Revision(revision),
        before: side(service, id, zone, revision - 1),
        after: None,
        reason: Some(reason),
    }
}

pub(super) fn record(change: Change) -> Arc<Record> {
    Arc::new(Record::new(change, None))
}

pub(super) fn all() -> Selector {
    Selector {
        namespace: None,
        scope: Scope::All,
        serving: false,
        matches: Vec::new(),
    }
}

pub(super) fn services(names: &[&str]) -> Selector {
    let names = names.iter().map(|name| ServiceName::parse(name).unwrap());
    Selector {
        namespace: Some(Namespace::default()),
        scope: Scope::Services(names.collect()),
        ..all()
    }
}

pub(super) fn in_zone(zone: &str) -> Selector {
    Selector {
        matches: vec![Match {
            field: MatchField::Zone,
            op: MatchOp::In(BTreeSet::from([zone.to_owned()])),
        }],
        ..all()
    }
}
