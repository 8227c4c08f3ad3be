//! What other nodes have acknowledged, and those that now show less.
//!
//! A node that acknowledged a record and later lacks it has lost a part of its disk: records that a quorum was thought
//! to hold may be gone with it. openraft only asserts that this never happens, in debug builds. Here it is checked:
//!
//! * Within one leadership, a peer whose log conflicts at or below what it acknowledged is *quarantined*: nothing is
//!   replicated to it until the leadership changes, so that it counts for no quorum.
//! * Across leaderships and restarts of this node, what a peer acknowledged *and* was committed is remembered. A peer
//!   that shows less is quarantined, and its vote is not counted.
//!
//! **Limits.** Only a node that led knows what others acknowledged; what it knows is stored now and then, not before
//! each acknowledgement; and a node that lost data is seen by leaders and candidates that were leaders, not by others.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use prost::Message as _;

use super::{
    codec::{Malformed, log_id_from_proto, log_id_to_proto},
    types::LogId,
};
use crate::{
    model::{LogIndex, NodeId},
    wire::internal,
};

/// What this node knows of its peers' logs.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// The leadership that `matched` and `quarantined` belong to.
    term: u64,
    committed: Option<LogId>,
    matched: BTreeMap<u64, LogId>,
    quarantined: BTreeSet<u64>,
    /// Acknowledged and committed, under any leadership.
    held: BTreeMap<u64, LogId>,
    /// The same, as it was when it was last looked at for storing.
    held_before: BTreeMap<u64, LogId>,
    stored: bool,
}

impl Acknowledgements {
    /// Goes on from what was stored.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let stored = internal::Acknowledged::decode(bytes)?;
        let held = stored.peers.iter().filter_map(|peer| {
            let log_id = peer.log_id.as_ref()?;
            Some(log_id_from_proto(log_id).map(|log_id| (peer.node_id, log_id)))
        });
        let held: BTreeMap<u64, LogId> = held.collect::<Result<_, _>>()?;
        let inner = Inner {
            held_before: held.clone(),
            held,
            stored: true,
            ..Inner::default()
        };
        Ok(Self {
            inner: Mutex::new(inner),
        })
    }

    /// What is to be stored, if that has changed since the last time. To be asked now and then.
    pub(super) fn to_store(&self) -> Option<Bytes> {
        let mut inner = self.lock();
        inner.held_before = inner.held.clone();
        if std::mem::replace(&mut inner.stored, true) || inner.held.is_empty() {
            return None;
        }
        let peer = |(&node_id, log_id): (&u64, &LogId)| internal::PeerLog {
            node_id,
            log_id: Some(log_id_to_proto(log_id)),
        };
        let peers = inner.held.iter().map(peer).collect();
        Some(internal::Acknowledged { peers }.encode_to_vec().into())
    }

    /// This node leads in `term`, and everything through `committed` is committed.
    pub(super) fn leading(&self, term: u64, committed: Option<LogId>) {
        let mut inner = self.lock();
        if term > inner.term {
            inner.term = term;
            inner.matched.clear();
            inner.quarantined.clear();
        }
        inner.committed = inner.committed.max(committed);
    }

    /// A peer acknowledged everything through a record, to this node as the leader of `term`.
    pub(super) fn acknowledged(&self, peer: NodeId, term: u64, matched: LogId) {
        let mut inner = self.lock();
        if term == inner.term {
            let known = inner.matched.entry(peer.0).or_insert(matched);
            *known = (*known).max(matched);
        }
        let Some(committed) = inner.committed else { return };
        let for_good = matched.min(committed);
        if inner.held.get(&peer.0).is_none_or(|held| *held < for_good) {
            inner.held.insert(peer.0, for_good);
            inner.stored = false;
        }
    }

    /// A peer says, to this node as the leader of `term`, that its log differs at a record. Returns whether it is
    /// quarantined for that.
    pub(super) fn conflicts(&self, peer: NodeId, term: u64, at: LogId) -> bool {
        // Plant: a node whose log went back is taken back in silence.
        planted!("lost-log-accepted" => { return false; });
        let mut inner = self.lock();
        let matched = inner.matched.get(&peer.0).filter(|_| term == inner.term);
        let known = matched.max(inner.held.get(&peer.0)).copied();
        let Some(known) = known.filter(|known| at.index() <= known.index()) else {
            return false;
        };
        if inner.quarantined.insert(peer.0) {
            tracing::error!(
                node = peer.0,
                acknowledged = %known,
                differs_at = %at,
                "a node lost a part of the log that it had acknowledged: it is quarantined; remove this member and add a new one"
            );
        }
        true
    }

    /// Whether nothing is to be replicated to a peer.
    pub(super) fn is_quarantined(&self, peer: NodeId) -> bool {
        self.lock().quarantined.contains(&peer.0)
    }

    /// What a voter holds for good, as far as is known. To be looked up before it is asked for its vote: its answer may
    /// be older than what it acknowledges meanwhile, and come later.
    pub(super) fn held_by(&self, voter: NodeId) -> Option<LogId> {
        self.lock().held.get(&voter.0).copied()
    }

    /// Whether a peer's log, which ended at this index when it last said so, a moment ago, may be whole: it is not
    /// quarantined, and has what it held for good some time before that. What it acknowledged meanwhile it need not have
    /// had then.
    pub(super) fn may_be_whole(&self, peer: NodeId, last: LogIndex) -> bool {
        let inner = self.lock();
        let held = inner.held_before.get(&peer.0);
        !inner.quarantined.contains(&peer.0) && held.is_none_or(|held| held.index() <= last.0)
    }

    /// Whether a voter's last record is one that it can have, given what it held when it was asked.
    pub(super) fn is_plausible(voter: NodeId, held: Option<LogId>, last: Option<LogId>) -> bool {
        planted!("lost-log-accepted" => { return true; });
        if held <= last {
            return true;
        }
        tracing::error!(
            node = voter.0,
            acknowledged = ?held,
            last = ?last,
            "a node lost a part of the log that it had acknowledged: its vote is not counted; remove this member and add a new one"
        );
        false
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::types::log_id, *};

    const PEER: NodeId = NodeId(2);

    #[test]
    fn a_peer_that_shows_less_than_it_acknowledged_is_quarantined_until_leadership_changes() {
        let known = Acknowledgements::default();
        known.leading(1, None);
        assert!(
            !known.conflicts(PEER, 1, log_id(1, 9)),
            "nothing is known of it: the leader is searching"
        );
        known.acknowledged(PEER, 1, log_id(1, 5));
        assert!(!known.conflicts(PEER, 1, log_id(1, 6)));
        assert!(!known.is_quarantined(PEER));
        assert!(known.conflicts(PEER, 1, log_id(1, 5)));
        assert!(known.is_quarantined(PEER));
        assert!(!known.is_quarantined(NodeId(3)));
        known.leading(2, None);
        assert!(!known.is_quarantined(PEER));
        assert!(
            !known.conflicts(PEER, 2, log_id(1, 5)),
            "records that were not committed may be replaced"
        );
    }

    #[test]
    fn what_was_committed_is_remembered_across_leaderships_and_restarts() {
        let known = Acknowledgements::default();
        known.leading(1, Some(log_id(1, 4)));
        known.acknowledged(PEER, 1, log_id(1, 6));
        let known = Acknowledgements::from_bytes(&known.to_store().unwrap()).unwrap();
        assert_eq!(known.to_store(), None, "nothing has changed");
        known.leading(3, Some(log_id(1, 4)));
        assert!(!known.conflicts(PEER, 2, log_id(1, 5)));
        assert!(known.conflicts(PEER, 3, log_id(1, 4)));
    }

    #[test]
    fn votes_of_nodes_that_lost_committed_records_are_not_plausible() {
        let known = Acknowledgements::default();
        known.leading(2, Some(log_id(2, 4)));
        known.acknowledged(PEER, 2, log_id(2, 6));
        let is_plausible = |voter, last| Acknowledgements::is_plausible(voter, known.held_by(voter), last);
        assert!(is_plausible(PEER, Some(log_id(2, 4))));
        assert!(is_plausible(PEER, Some(log_id(3, 2))));
        assert!(!is_plausible(PEER, Some(log_id(2, 3))));
        assert!(!is_plausible(PEER, Some(log_id(1, 9))));
        assert!(!is_plausible(PEER, None));
        assert!(is_plausible(NodeId(3), None));
    }

    #[test]
    fn a_vote_need_not_show_what_was_acknowledged_after_it_was_asked_for() {
        let known = Acknowledgements::default();
        let held = known.held_by(PEER);
        // Another voter's answer was enough; this one's is still on its way.
        known.leading(1, Some(log_id(1, 1)));
        known.acknowledged(PEER, 1, log_id(1, 1));
        assert!(Acknowledgements::is_plausible(PEER, held, None));
    }

    #[test]
    fn late_answers_to_a_former_leadership_say_nothing_of_the_present_one() {
        let known = Acknowledgements::default();
        known.leading(1, None);
        known.leading(2, None);
        known.acknowledged(PEER, 1, log_id(1, 5));
        assert!(
            !known.conflicts(PEER, 2, log_id(1, 5)),
            "it was not committed, and may have been replaced"
        );
        known.acknowledged(PEER, 2, log_id(2, 5));
        assert!(!known.conflicts(PEER, 1, log_id(1, 5)));
        assert!(!known.is_quarantined(PEER));
    }

    #[test]
    fn a_log_may_be_whole_that_lacks_only_what_came_lately() {
        let known = Acknowledgements::default();
        known.leading(1, Some(log_id(1, 9)));
        known.acknowledged(PEER, 1, log_id(1, 5));
        assert!(
            known.may_be_whole(PEER, LogIndex(3)),
            "it may have said so before it took the rest"
        );
        let stored = known.to_store().unwrap();
        assert!(!known.may_be_whole(PEER, LogIndex(4)));
        assert!(known.may_be_whole(PEER, LogIndex(5)));
        known.acknowledged(PEER, 1, log_id(1, 8));
        assert!(known.may_be_whole(PEER, LogIndex(5)));
        known.to_store().unwrap();
        assert!(!known.may_be_whole(PEER, LogIndex(7)));
        assert!(known.may_be_whole(NodeId(3), LogIndex(0)), "nothing is known of it");

        let known = Acknowledgements::from_bytes(&stored).unwrap();
        assert!(!known.may_be_whole(PEER, LogIndex(4)), "after a restart, too");
        known.leading(2, Some(log_id(1, 9)));
        assert!(known.may_be_whole(PEER, LogIndex(6)));
        assert!(known.conflicts(PEER, 2, log_id(1, 4)));
        assert!(!known.may_be_whole(PEER, LogIndex(6)), "it is quarantined");
    }

    #[test]
    fn garbage_in_the_store_is_an_error() {
        Acknowledgements::from_bytes(b"\xff\xff").unwrap_err();
    }
}
