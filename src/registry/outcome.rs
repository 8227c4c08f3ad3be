//! What comes out of applying an entry: replies for the callers, changes for the watchers.

use std::sync::Arc;

use crate::model::{Incarnation, Instance, InstanceKey, LeaseId, LeaseInfo, Revision, Ttl};

/// Everything that applying one entry brought about.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Applied {
    /// One for each renewal of the entry, in its order.
    pub renewals: Vec<Renewal>,
    /// One for each command of the entry, in its order.
    pub replies: Vec<Reply>,
    /// By revision, ascending; within a revision by key.
    pub changes: Vec<Change>,
    /// The registry's revision after the entry.
    pub revision: Revision,
}

/// What became of one renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lives on.
    Renewed {
        /// From the clock of the entry.
        ttl: Ttl,
        /// How many instances it still holds.
        instances: u32,
    },
    /// There is no such lease, or no more.
    NotFound,
}

/// The answer to one command.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// The registry's revision after the command, or at its refusal.
    pub revision: Revision,
    /// What it did, or why it did nothing.
    pub result: Result<Outcome, Rejection>,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Register.
    Registered {
        /// The record as it now stands.
        instance: Arc<Instance>,
        /// What that meant.
        how: Registered,
    },
    /// BatchRegister.
    BatchRegistered {
        /// Whether any record differs now.
        changed: bool,
    },
    /// Update.
    Updated {
        /// The record as it now stands.
        instance: Arc<Instance>,
        /// Whether it differs now.
        changed: bool,
    },
    /// Deregister.
    Deregistered {
        /// Whether there was such an instance (held by that lease, if one was named).
        existed: bool,
    },
    /// GrantLease.
    Granted(LeaseInfo),
    /// RevokeLease.
    Revoked {
        /// Whether there was such a lease.
        existed: bool,
        /// How many instances went with it.
        removed: u32,
    },
}

/// What a Register did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Registered {
    /// There was no such instance.
    Created,
    /// It was there and differs now.
    Changed,
    /// It was there and is the same; its lease is renewed.
    Unchanged,
    /// It was held otherwise, and this hold took it over.
    TookOver,
}

/// A command that the state machine refused: deterministic, the same on every node, and nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// No such instance.
    #[error("no instance {0}")]
    InstanceNotFound(InstanceKey),
    /// No such lease, or no more.
    #[error("no lease {0}: it never was, was revoked, or has expired")]
    LeaseNotFound(LeaseId),
    /// The lease exists with another TTL.
    #[error("lease {lease_id} exists with a TTL of {} ms", ttl.as_ms())]
    LeaseExists {
        /// Which.
        lease_id: LeaseId,
        /// What it has.
        ttl: Ttl,
    },
    /// The record's last change is another one than expected.
    #[error("{key} was changed last by revision {current}, not by the one expected")]
    RevisionMismatch {
        /// Which record.
        key: InstanceKey,
        /// Its mod_revision; 0 = there is none.
        current: Revision,
    },
    /// A later life of the instance stands, or stood, at this key.
    #[error("{key} belongs to incarnation {current}: this one is superseded")]
    Fenced {
        /// Which record.
        key: InstanceKey,
        /// Its incarnation.
        current: Incarnation,
    },
    /// The cluster, or the lease, holds as many instances as it may.
    #[error("{subject} holds {limit} instances, its limit")]
    TooManyInstances {
        /// `cluster` or `lease N`.
        subject: String,
        /// How many.
        limit: u64,
    },
    /// The cluster has as many leases as it may.
    #[error("the cluster has {limit} leases, its limit")]
    TooManyLeases {
        /// How many.
        limit: u64,
    },
    /// The result would break a limit of the record, which only the state can tell.
    #[error("{path}: {problem}")]
    InvalidField {
        /// The request's field.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// One record's change at one revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// When.
    pub revision: Revision,
    /// The record before; `None` = there was none.
    pub before: Option<Arc<Instance>>,
    /// The record after; `None` = it is removed.
    pub after: Option<Arc<Instance>>,
    /// Why it was removed; `None` when it was not, or after coalescing.
    pub reason: Option<RemoveReason>,
}

/// Why a record was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RemoveReason {
    /// Its owner, or someone in its name, asked for it.
    Deregistered,
    /// Its lease ended for want of renewal.
    Expired,
    /// Its lease was revoked.
    Revoked,
}

impl Change {
    /// The record's key.
    ///
    /// # Panics
    /// Never: the registry makes no change without a record on one side.
    #[must_use]
    pub fn key(&self) -> &InstanceKey {
        self.after
            .as_ref()
            .or(self.before.as_ref())
            .expect("a change has a record before or after it")
            .key()
    }
}
