//! Short words for the unit tests of this room.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Applied, Change, Command, Deregister, Entry, Outcome, Register, Registered, Registry, Rejection, Renewal, Update,
};
use crate::model::{
    Hold, Incarnation, Instance, InstanceId, InstanceKey, InstanceSpec, LeaseId, LeaseTime, Metadata, Namespace, Port,
    Revision, ServiceName, Status, Tags, Ttl, limits::WEIGHT_DEFAULT,
};

/// `service/id` in the default namespace, or `namespace/service/id`.
pub(super) fn key(text: &str) -> InstanceKey {
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

/// An instance with that key.
pub(super) fn spec(text: &str) -> InstanceSpec {
    InstanceSpec {
        key: key(text),
        address: "10.0.0.7".into(),
        ports: [Port {
            name: "http".into(),
            number: 8080,
            protocol: "tcp".into(),
            address: Default::default(),
        }]
        .into(),
        weight: WEIGHT_DEFAULT,
        region: Default::default(),
        zone: "a".into(),
        version: "1".into(),
        tags: Tags::new(),
        metadata: Metadata::new(),
        status: Status::Up,
        incarnation: Incarnation(0),
    }
}

/// The same in a later life.
pub(super) fn life(text: &str, incarnation: u64) -> InstanceSpec {
    InstanceSpec {
        incarnation: Incarnation(incarnation),
        ..spec(text)
    }
}

pub(super) fn ttl(seconds: u64) -> Ttl {
    Ttl::from_ms(seconds * 1_000).unwrap()
}

pub(super) fn own(seconds: u64) -> Hold {
    Hold::Own { ttl: ttl(seconds) }
}

pub(super) fn shared(lease_id: LeaseId) -> Hold {
    Hold::Shared { lease_id }
}

/// An update that changes nothing yet.
pub(super) fn update(text: &str) -> Update {
    Update {
        key: key(text),
        status: None,
        weight: None,
        version: None,
        add_tags: BTreeSet::new(),
        remove_tags: BTreeSet::new(),
        set_metadata: BTreeMap::new(),
        remove_metadata: BTreeSet::new(),
        expected_mod_revision: None,
        incarnation: Incarnation(0),
    }
}

/// A deregistration without conditions.
pub(super) fn deregister(text: &str, incarnation: u64) -> Deregister {
    Deregister {
        key: key(text),
        expected_mod_revision: None,
        incarnation: Incarnation(incarnation),
        lease_id: None,
    }
}

/// A registry whose invariants are checked after each entry, and what the last entry brought.
#[derive(Default)]
pub(super) struct Desk {
    pub(super) registry: Registry,
    pub(super) changes: Vec<Change>,
    /// Lease time of the next entry, in milliseconds.
    pub(super) now_ms: u64,
}

impl Desk {
    pub(super) fn apply(&mut self, renewals: &[LeaseId], commands: Vec<Command>) -> Applied {
        let applied = self.registry.apply(&Entry {
            stamp: LeaseTime(self.now_ms * 1_000_000),
            wall_ms: 1_700_000_000_000 + self.now_ms,
            renewals: renewals.to_vec(),
            commands,
        });
        assert_eq!(self.registry.state().check_invariants(), Ok(()));
        self.changes.clone_from(&applied.changes);
        applied
    }

    pub(super) fn run(&mut self, command: Command) -> Result<Outcome, Rejection> {
        let mut applied = self.apply(&[], vec![command]);
        assert_eq!(applied.replies.len(), 1);
        assert_eq!(applied.replies[0].revision, applied.revision);
        applied.replies.remove(0).result
    }

    pub(super) fn register(&mut self, instance: InstanceSpec, hold: Hold) -> Result<Registered, Rejection> {
        let command = Register {
            instance,
            hold,
            expected_mod_revision: None,
        };
        match self.run(Command::Register(command))? {
            Outcome::Registered { how, .. } => Ok(how),
            other => panic!("a Register answered {other:?}"),
        }
    }

    pub(super) fn grant(&mut self, seconds: u64) -> LeaseId {
        let ttl = ttl(seconds);
        match self.run(Command::GrantLease { lease_id: None, ttl }) {
            Ok(Outcome::Granted(lease)) => lease.lease_id,
            other => panic!("a GrantLease answered {other:?}"),
        }
    }

    pub(super) fn renew(&mut self, id: LeaseId) -> Renewal {
        self.apply(&[id], Vec::new()).renewals[0]
    }

    /// An entry without anything at that lease time: what it ended.
    pub(super) fn pass(&mut self, ms: u64) -> Vec<InstanceKey> {
        self.now_ms = ms;
        let applied = self.apply(&[], Vec::new());
        applied.changes.iter().map(|change| change.key().clone()).collect()
    }

    pub(super) fn revision(&self) -> Revision {
        self.registry.state().revision()
    }

    pub(super) fn instance(&self, text: &str) -> Option<&Instance> {
        self.registry.state().instance(&key(text)).map(AsRef::as_ref)
    }

    pub(super) fn lease_of(&self, text: &str) -> LeaseId {
        self.instance(text)
            .and_then(Instance::lease_id)
            .expect("it has a lease")
    }
}
