//! What the tests of the state machine and the lease clock share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first surprise"
)]

pub mod cluster;
pub mod entries;
pub mod naive;

use roster::model::{
    Incarnation, InstanceId, InstanceKey, InstanceSpec, LeaseTime, Metadata, Namespace, ServiceName, Status, Tags, Ttl,
};

/// `service/id` in the default namespace, or `namespace/service/id`.
pub fn key(text: &str) -> InstanceKey {
    let parts: Vec<&str> = text.split('/').collect();
    let (namespace, service, id) = match parts[..] {
        [service, id] => ("default", service, id),
        [namespace, service, id] => (namespace, service, id),
        _ => panic!("{text:?} is no key"),
    };
    InstanceKey::new(
        Namespace::parse(namespace).unwrap(),
        ServiceName::parse(service).unwrap(),
        InstanceId::parse(id).unwrap(),
    )
}

/// An instance with that key and little else.
pub fn spec(key: InstanceKey) -> InstanceSpec {
    InstanceSpec {
        key,
        address: "10.0.0.7".into(),
        ports: Box::default(),
        weight: 100,
        region: Default::default(),
        zone: Default::default(),
        version: Default::default(),
        tags: Tags::new(),
        metadata: Metadata::new(),
        status: Status::Up,
        incarnation: Incarnation(0),
    }
}

pub fn ttl_ms(ms: u64) -> Ttl {
    Ttl::from_ms(ms).unwrap()
}

pub fn lease_time_ms(ms: u64) -> LeaseTime {
    LeaseTime(ms * 1_000_000)
}
