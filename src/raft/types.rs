//! How Roster's types stand in openraft's: the one place where its generic parameters are chosen.

use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use bytes::Bytes;
use openraft::{
    RaftTypeConfig,
    raft::responder::Responder,
    type_config::alias::{
        CommittedLeaderIdOf, EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf,
    },
};
use tokio::sync::oneshot;

use super::snapshot::SnapshotData;
use crate::{
    registry::{Applied, Entry},
    wire::log,
};

/// One leader per term, so that the term alone names a leadership; applied entries answer with what they brought
/// about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

#[allow(
    deprecated,
    reason = "the crate that it moved to is a dependency of openraft's, not of ours"
)]
type Runtime = openraft::impls::TokioRuntime;

impl RaftTypeConfig for TypeConfig {
    type D = LogEntry;
    type R = Applied;
    type NodeId = u64;
    type Node = NodeAddress;
    type Term = u64;
    type LeaderId = openraft::impls::leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = openraft::EntryPayload<LogEntry, u64, NodeAddress>;
    type Entry = openraft::Entry<CommittedLeader, Self::Payload>;
    type AsyncRuntime = Runtime;
    type Responder<T>
        = Reply<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub(super) type CommittedLeader = openraft::vote::leader_id_std::CommittedLeaderId<u64>;
pub(super) type LogId = LogIdOf<TypeConfig>;
pub(super) type Vote = VoteOf<TypeConfig>;
pub(super) type Record = EntryOf<TypeConfig>;
pub(super) type Payload = <TypeConfig as RaftTypeConfig>::Payload;
pub(super) type Membership = openraft::Membership<u64, NodeAddress>;
pub(super) type StoredMembership = StoredMembershipOf<TypeConfig>;
pub(super) type SnapshotMeta = SnapshotMetaOf<TypeConfig>;
pub(super) type Snapshot = SnapshotOf<TypeConfig, SnapshotData>;

const _: fn(CommittedLeaderIdOf<TypeConfig>) -> CommittedLeader = |leader| leader;

/// The id of the record that a leader of `term` put at `index`.
pub(super) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeader::new(term), index)
}

/// Where a member is reached. The default, all empty, is no real node's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeAddress {
    pub(super) name: String,
    pub(super) peer_address: String,
    pub(super) client_address: String,
}

/// An entry that is to be proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    pub(super) entry: Entry,
    /// Its commands, as the log will have them.
    pub(super) commands: Vec<Bytes>,
}

impl Proposal {
    /// An entry, and the bytes of its commands, one for each, which were made where there was time for it.
    #[must_use]
    pub fn encoded(entry: Entry, commands: Vec<Bytes>) -> Self {
        debug_assert_eq!(entry.commands.len(), commands.len(), "each command has its bytes");
        Self { entry, commands }
    }
}

impl From<Entry> for Proposal {
    fn from(entry: Entry) -> Self {
        let commands = entry.commands.iter().map(log::command_to_bytes).collect();
        Self { entry, commands }
    }
}

/// An entry on its way through the log: made once, shared by the store, the replication streams and apply.
#[derive(Clone)]
pub(crate) struct LogEntry(Arc<Shared>);

struct Shared {
    entry: Entry,
    /// Its commands encoded, until the record is.
    commands: Mutex<Vec<Bytes>>,
    /// The encoded record that holds the entry, from the moment at which its place in the log is known.
    record: OnceLock<Bytes>,
}

impl LogEntry {
    /// An entry that is to be proposed.
    pub(super) fn new(proposal: Proposal) -> Self {
        let Proposal { entry, commands } = proposal;
        Self(Arc::new(Shared {
            entry,
            commands: Mutex::new(commands),
            record: OnceLock::new(),
        }))
    }

    /// An entry that was read from an encoded record.
    pub(super) fn recorded(entry: Entry, record: Bytes) -> Self {
        Self(Arc::new(Shared {
            entry,
            commands: Mutex::default(),
            record: OnceLock::from(record),
        }))
    }

    pub(super) fn entry(&self) -> &Entry {
        &self.0.entry
    }

    /// The encoded record; made by `encode`, of the entry and its encoded commands, when there is none yet. An entry has
    /// one place in the log only, so the bytes never differ.
    pub(super) fn record(&self, encode: impl FnOnce(&Entry, &[Bytes]) -> Bytes) -> Bytes {
        let encode = || {
            let mut commands = self.0.commands.lock().unwrap_or_else(PoisonError::into_inner);
            encode(&self.0.entry, &std::mem::take(&mut *commands))
        };
        self.0.record.get_or_init(encode).clone()
    }

    /// How many bytes it takes in the log; 0 while it has no place there.
    pub(super) fn size_bytes(&self) -> usize {
        self.0.record.get().map_or(0, Bytes::len)
    }
}

impl fmt::Debug for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Entry {
            stamp,
            renewals,
            commands,
            ..
        } = self.entry();
        write!(
            f,
            "{{stamp {}, {} renewals, {} commands}}",
            stamp.0,
            renewals.len(),
            commands.len()
        )
    }
}

/// Hands a result to whoever proposed; one that has left is no concern of anyone.
pub(crate) struct Reply<T>(oneshot::Sender<T>);

impl<T> Reply<T> {
    pub(super) fn new() -> (Self, oneshot::Receiver<T>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }
}

impl<T: Send + 'static> Responder<TypeConfig, T> for Reply<T> {
    fn on_complete(self, result: T) {
        let _left = self.0.send(result);
    }
}
