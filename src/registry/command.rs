//! Every write there is.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Hold, Incarnation, InstanceKey, InstanceSpec, LeaseId, LeaseTime, Revision, Status, Ttl};

/// One entry of the log: what a leader drained from its queues, and the lease time at which it closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The leader's lease clock after the last renewal and command of this entry was drained.
    pub stamp: LeaseTime,
    /// Unix time in milliseconds by the leader's wall clock; for people only.
    pub wall_ms: u64,
    /// Leases to renew, ascending, none twice.
    pub renewals: Vec<LeaseId>,
    /// Commands, in the order in which they take effect.
    pub commands: Vec<Command>,
}

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Put an instance.
    Register(Register),
    /// Put many under one hold; all or nothing, one revision.
    BatchRegister(BatchRegister),
    /// Change some fields of an instance.
    Update(Update),
    /// Remove an instance; a missing one is no error.
    Deregister(Deregister),
    /// Make a lease, or renew it when it exists with the same TTL.
    GrantLease {
        /// The caller's own id; `None` = the next in sequence.
        lease_id: Option<LeaseId>,
        /// How long it lives without renewal.
        ttl: Ttl,
    },
    /// End a lease and remove what it holds; a missing one is no error.
    RevokeLease {
        /// Which.
        lease_id: LeaseId,
    },
}

/// Put an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Register {
    /// The owner's fields.
    pub instance: InstanceSpec,
    /// What is to hold it.
    pub hold: Hold,
    /// Only if the record's last change is this one; 0 = only if there is none.
    pub expected_mod_revision: Option<Revision>,
}

/// Put many under one hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchRegister {
    /// Different keys; at most `limits::BATCH_MAX`.
    pub instances: Vec<InstanceSpec>,
    /// A shared lease, or permanent. Never `Hold::Own`.
    pub hold: Hold,
}

/// Change some fields of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// Which.
    pub key: InstanceKey,
    /// `None` = as it is.
    pub status: Option<Status>,
    /// `None` = as it is.
    pub weight: Option<u32>,
    /// `None` = as it is.
    pub version: Option<String>,
    /// Tags to add.
    pub add_tags: BTreeSet<String>,
    /// Tags to remove; done first.
    pub remove_tags: BTreeSet<String>,
    /// Metadata to set.
    pub set_metadata: BTreeMap<String, String>,
    /// Metadata keys to remove; done first.
    pub remove_metadata: BTreeSet<String>,
    /// Only if the record's last change is this one.
    pub expected_mod_revision: Option<Revision>,
    /// Refused when the record's is greater; 0 = not fenced.
    pub incarnation: Incarnation,
}

/// Remove an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deregister {
    /// Which.
    pub key: InstanceKey,
    /// Only if the record's last change is this one.
    pub expected_mod_revision: Option<Revision>,
    /// Refused when the record's is greater; 0 = not fenced.
    pub incarnation: Incarnation,
    /// Only if this lease holds it.
    pub lease_id: Option<LeaseId>,
}
