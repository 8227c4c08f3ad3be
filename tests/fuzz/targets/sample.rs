//! Values that seeds are made of: each field filled, so that a mutation has something to meet.

use std::sync::{Arc, OnceLock};

use roster::{
    model::{
        Incarnation, Instance, InstanceId, InstanceKey, InstanceSpec, LeaseId, Namespace, Port, Revision, ServiceName,
        Status, Ttl,
    },
    registry::{Corrupt, Registry, Settings, SnapshotItem, State},
    wire::v1,
};

pub(crate) fn key(service: &str, id: &str) -> InstanceKey {
    InstanceKey::new(
        Namespace::default(),
        ServiceName::parse(service).expect("a name"),
        InstanceId::parse(id).expect("a name"),
    )
}

pub(crate) fn spec(service: &str, id: &str) -> InstanceSpec {
    let port = |name: &str, number| Port {
        name: name.into(),
        number,
        protocol: "http2".into(),
        address: "::1".into(),
    };
    InstanceSpec {
        key: key(service, id),
        address: "10.0.0.7".into(),
        ports: [port("http", 8080), port("admin", 65_535)].into(),
        weight: 7,
        region: "north".into(),
        zone: "north-1".into(),
        version: "2.7.1".into(),
        tags: ["blue".to_owned(), "canary".to_owned()].into(),
        metadata: [("team".to_owned(), "shop ä".to_owned())].into(),
        status: Status::Draining,
        incarnation: Incarnation(5),
    }
}

pub(crate) fn record(service: &str, id: &str, lease: Option<u64>) -> Arc<Instance> {
    Arc::new(Instance {
        spec: spec(service, id),
        lease: lease.map(|id| (LeaseId(id), Ttl::DEFAULT)),
        create_revision: Revision(2),
        mod_revision: Revision(4),
        registered_at_ms: 1_763_000_000_123,
        updated_at_ms: 1_763_000_000_456,
        encoded: OnceLock::new(),
    })
}

pub(crate) fn key_message() -> v1::InstanceKey {
    v1::InstanceKey {
        namespace: "default".into(),
        service: "web".into(),
        id: "10.0.0.7:80".into(),
    }
}

pub(crate) fn span(seconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration { seconds, nanos: 0 })
}

/// A selector with every kind of condition.
pub(crate) fn selector_message() -> v1::Selector {
    let condition = |field: &str, op: v1::r#match::Op, values: &[&str]| v1::Match {
        field: field.into(),
        op: op.into(),
        values: values.iter().map(|value| (*value).to_owned()).collect(),
    };
    v1::Selector {
        namespace: "default".into(),
        all_namespaces: false,
        scope: Some(v1::selector::Scope::Services(v1::Services {
            names: vec!["web".into(), "api".into()],
        })),
        serving: true,
        matches: vec![
            condition("zone", v1::r#match::Op::In, &["north-1", "south-1"]),
            condition("status", v1::r#match::Op::NotIn, &["down"]),
            condition("metadata.team", v1::r#match::Op::Exists, &[]),
        ],
    }
}

/// Limits that a small world runs into.
pub(crate) const TIGHT: Settings = Settings {
    max_instances: 6,
    max_leases: 5,
    max_instances_per_lease: 2,
    max_fences: 3,
};

/// An empty registry with these limits.
pub(crate) fn registry(settings: Settings) -> Registry {
    let item = SnapshotItem::State {
        revision: Revision(0),
        clock: roster::model::LeaseTime(0),
        next_lease_id: LeaseId(1),
        settings,
    };
    let state = State::from_items([Ok::<_, Corrupt>(item)].into_iter());
    Registry::from_state(state.expect("an empty state contradicts nothing"))
}
