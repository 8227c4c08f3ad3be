//! What a watcher asks for and what it is given.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use crate::{
    model::{Instance, InstanceKey, Revision},
    registry::{RemoveReason, State},
};

/// Where a watch starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With a snapshot of the present.
    Snapshot,
    /// With the first change after a revision. One that the history no longer reaches gets a snapshot instead, reset by
    /// [`ResetReason::Compacted`]; one beyond the present is refused.
    After(Revision),
    /// With the next change.
    Now,
    /// The watcher's position is one of another cluster: a snapshot, reset by [`ResetReason::OtherCluster`].
    OtherCluster,
}

/// One thing that a watcher is given; its view is whole again after each.
#[derive(Clone, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "one is on its way per watch and none is kept: a box would cost more than the copy"
)]
pub enum Delivery {
    /// Everything that the selector matches in this version replaces the watcher's view.
    Snapshot {
        /// The version; its revision is the watch's position. The caller sends `state.select(watch.selector(), …)`, and
        /// calls [`Watch::next`](super::Watch::next) again only when it has sent it.
        state: State,
        /// Why the watcher, which had a view, gets another one; `None` = this is its first.
        reset: Option<ResetReason>,
    },
    /// One step: the changes of one revision or of several that follow each other, or the latest of each instance over
    /// many. Never empty.
    Changes {
        /// In revision order, then by key; no key twice.
        changes: Changes,
        /// Where the step leads: the watch's position after it.
        revision: Revision,
    },
}

/// The changes of one step: one list for all the watchers that are given the same.
#[derive(Clone, Debug)]
pub struct Changes(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    list: Vec<WatchChange>,
    encoded: OnceLock<Bytes>,
}

impl Changes {
    /// Whether others hold them too, or may yet be given them.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Room for the changes' bytes, to be filled by whoever encodes them first.
    #[must_use]
    pub fn encoded(&self) -> &OnceLock<Bytes> {
        &self.0.encoded
    }
}

impl From<Vec<WatchChange>> for Changes {
    fn from(list: Vec<WatchChange>) -> Self {
        let encoded = OnceLock::new();
        Self(Arc::new(Shared { list, encoded }))
    }
}

impl Deref for Changes {
    type Target = [WatchChange];

    fn deref(&self) -> &[WatchChange] {
        &self.0.list
    }
}

/// One instance's change, as one watcher sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchChange {
    /// When. After a snapshot install, when the difference became known here.
    pub revision: Revision,
    /// What.
    pub kind: ChangeKind,
}

impl WatchChange {
    /// The instance's key.
    #[must_use]
    pub fn key(&self) -> &InstanceKey {
        match &self.kind {
            ChangeKind::Put(instance) => instance.key(),
            ChangeKind::Remove(key, _) => key,
        }
    }
}

/// What became of the instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new to this watcher, or differs.
    Put(Arc<Instance>),
    /// It is gone for this watcher, which had it; `None` = why was lost in coalescing.
    Remove(InstanceKey, Option<GoneReason>),
}

/// Why an instance is gone for a watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoneReason {
    /// Its owner, or someone in its name, asked for it.
    Deregistered,
    /// Its lease ended for want of renewal.
    Expired,
    /// Its lease was revoked.
    Revoked,
    /// It lives on, but the selector no longer matches it.
    LeftSelector,
}

impl From<RemoveReason> for GoneReason {
    fn from(reason: RemoveReason) -> Self {
        match reason {
            RemoveReason::Deregistered => Self::Deregistered,
            RemoveReason::Expired => Self::Expired,
            RemoveReason::Revoked => Self::Revoked,
        }
    }
}

/// Why a watcher is given a fresh snapshot in place of the changes that it asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResetReason {
    /// The history no longer reaches back to where it asked to start.
    Compacted,
    /// It was too slow: its queue overflowed, and the history no longer reaches back to its position.
    Lagged,
    /// Its position was one of another cluster.
    OtherCluster,
}

/// Why no watch was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchRefused {
    /// The node serves as many as it may.
    #[error("this node serves {limit} watches, its limit")]
    TooMany {
        /// How many.
        limit: usize,
    },
    /// The watch is to start after a revision that this node has not reached. Whoever may wait for it does so with
    /// [`Hub::wait_revision`](super::Hub::wait_revision) and asks again.
    #[error("revision {asked} is not reached yet: the present is {present}")]
    RevisionInFuture {
        /// After which it was to start.
        asked: Revision,
        /// Where this node stands.
        present: Revision,
    },
}
