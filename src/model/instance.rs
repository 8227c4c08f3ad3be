//! The record: one registered provider of a service.

use std::sync::OnceLock;

use bytes::Bytes;

use super::{Incarnation, InstanceKey, LeaseId, Metadata, Revision, Tags, Text, Ttl};

/// How an instance says that it does. Set by its owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// It begins; not yet for traffic.
    Starting,
    /// It serves.
    #[default]
    Up,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// It serves nothing.
    Down,
}

impl Status {
    const ALL: [Self; 4] = [Self::Starting, Self::Up, Self::Draining, Self::Down];

    /// The name that the API, selectors and the command line use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "STARTING",
            Self::Up => "UP",
            Self::Draining => "DRAINING",
            Self::Down => "DOWN",
        }
    }

    /// The status of that name; case does not count.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|status| status.name().eq_ignore_ascii_case(name))
    }
}

/// Where one of an instance's protocols is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// What it is called: `http`, `grpc`; may be empty.
    pub name: Text,
    /// 1 to 65535.
    pub number: u16,
    /// `tcp`, `udp`, `http2`; free text, may be empty.
    pub protocol: Text,
    /// Where it differs from the instance's address; else empty.
    pub address: Text,
}

/// The fields that an instance's owner sets.
///
/// Tags are a set and metadata a map: their order is that of their texts, so equal records are equal bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceSpec {
    /// Its key.
    pub key: InstanceKey,
    /// IPv4, IPv6 or host name.
    pub address: Text,
    /// At most 16.
    pub ports: Box<[Port]>,
    /// 0 to 65535; 0 = takes no traffic.
    pub weight: u32,
    /// Locality, coarse.
    pub region: Text,
    /// Locality, fine.
    pub zone: Text,
    /// The service's own version.
    pub version: Text,
    /// Short words to select by.
    pub tags: Tags,
    /// Whatever else readers should know.
    pub metadata: Metadata,
    /// How it does.
    pub status: Status,
    /// Which of its lives this is.
    pub incarnation: Incarnation,
}

/// A record as the registry holds it. Immutable: a change makes a new one.
#[derive(Debug)]
pub struct Instance {
    /// What its owner set.
    pub spec: InstanceSpec,
    /// What holds it; `None` = permanent.
    pub lease: Option<(LeaseId, Ttl)>,
    /// The revision that made it.
    pub create_revision: Revision,
    /// The revision that changed it last.
    pub mod_revision: Revision,
    /// Unix time in milliseconds, by the leader's wall clock; for people only.
    pub registered_at_ms: u64,
    /// Likewise, of the last change.
    pub updated_at_ms: u64,
    /// Its protobuf form within that of the change that put it, made once by `wire` and then sent to every reader and
    /// watcher. No part of its identity.
    pub encoded: OnceLock<Bytes>,
}

impl InstanceSpec {
    /// How many bytes these fields take in the API's encoding.
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        super::encoded_size::of_spec(self)
    }
}

impl Instance {
    /// What a balancer wants: up, and willing to take traffic.
    #[must_use]
    pub fn is_serving(&self) -> bool {
        self.spec.status == Status::Up && self.spec.weight > 0
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &InstanceKey {
        &self.spec.key
    }

    /// The lease that holds it, if any.
    #[must_use]
    pub fn lease_id(&self) -> Option<LeaseId> {
        self.lease.map(|(id, _)| id)
    }
}

impl PartialEq for Instance {
    fn eq(&self, other: &Self) -> bool {
        self.spec == other.spec
            && self.lease == other.lease
            && self.create_revision == other.create_revision
            && self.mod_revision == other.mod_revision
            && self.registered_at_ms == other.registered_at_ms
            && self.updated_at_ms == other.updated_at_ms
    }
}

impl Eq for Instance {}
