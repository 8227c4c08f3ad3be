//! The record that runs register, and whatever else measures: about as long as real ones.

use crate::wire::v1;

/// An instance with some of the fields that real ones have; under a key that is the caller's.
#[must_use]
pub fn sample(key: v1::InstanceKey) -> v1::Instance {
    v1::Instance {
        key: Some(key),
        address: "10.1.2.3".into(),
        ports: vec![v1::Port {
            name: "http".into(),
            number: 8_080,
            ..Default::default()
        }],
        zone: "z1".into(),
        version: "1.2.3".into(),
        ..Default::default()
    }
}
