//! Read indexes: the index through which a node must have applied to answer a read.
//!
//! The leader may name its commit index once it knows that nobody led a later term when the read began. Two ways:
//!
//! * **By a voucher.** One other voter says, after the read began, that its vote is still this leadership's; and then
//!   the leader finds that its own is, too. Where two nodes are a quorum (three voters, or two), that is a quorum: a
//!   leader of a later term would have needed the vote of one of them before the read began, and a vote once given
//!   away never comes back. So nothing was committed in a later term by then, and what was committed in this one, this
//!   leader committed. A follower that asks for its own readers vouches in the same message.
//! * **By openraft's own round**, a heartbeat that a quorum answers: with more voters, and when nobody vouches in time.

use std::{sync::Arc, time::Duration};

use openraft::{
    ReadPolicy,
    async_runtime::watch::WatchReceiver as _,
    errors::{LinearizableReadError, RaftError},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    Core, Role,
    error::ReadIndexError,
    log::Log,
    quarantine::Acknowledgements,
    status::role_of,
    types::{LogId, Membership, Vote},
};
use crate::{
    model::{LogIndex, NodeId, Term},
    peer::Peers,
    wire::internal::{VouchRequest, forward_request::Request, forward_response::Response},
};

/// Calls that wait for a read index: each node asks for few at a time, for all its readers.
pub(super) const WAITING_MAX: usize = 1_024;
/// A confirmation that takes longer is given up: whoever waits may ask again.
const CONFIRMED_WITHIN: Duration = Duration::from_millis(500);
/// How long a voucher may take. Then a quorum is asked, which one silent node cannot hold up …
const VOUCHED_WITHIN: Duration = Duration::from_millis(20);
/// … and for so long nobody is asked to vouch again: the way there may be slow, or cut.
const ROUNDS_AFTER_SILENCE: Duration = Duration::from_secs(1);

/// Who waits for a read index.
pub(super) type Answer = oneshot::Sender<Result<LogIndex, ReadIndexError>>;

/// What is needed to name a read index; cheap to clone.
#[derive(Clone)]
pub(super) struct ReadIndexes {
    pub(super) node_id: NodeId,
    pub(super) core: Core,
    pub(super) log: Log,
    pub(super) peers: Arc<Peers>,
    pub(super) acknowledgements: Arc<Acknowledgements>,
}

/// What a voter says: it has voted for this leadership and no later one, and its log ends here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Voucher {
    pub(super) term: Term,
    pub(super) by: NodeId,
    pub(super) last: LogIndex,
}

impl ReadIndexes {
    /// Asks once for all calls that wait, and again for those that came meanwhile.
    pub(super) async fn answer(self, mut asked: mpsc::Receiver<Answer>) {
        let mut rounds_until = None;
        while let Some(first) = asked.recv().await {
            let mut waiting = vec![first];
            while let Ok(next) = asked.try_recv() {
                waiting.push(next);
            }
            let confirmed = tokio::time::timeout(CONFIRMED_WITHIN, self.confirmed(&mut rounds_until)).await;
            let confirmed = confirmed.unwrap_or(Err(ReadIndexError::NoQuorum));
            for answer in waiting {
                let _left = answer.send(confirmed);
            }
        }
    }

    /// The last index of this node's log, if its vote is that leadership's, so that it has helped no later leader.
    pub(super) fn vouch(&self, term: Term, leader: NodeId) -> Option<LogIndex> {
        // Plant: a node vouches for whoever asks, whomever it has voted for since.
        let own = planted!(
            "vouches-for-any-leader",
            true,
            self.log.vote_cast() == Some(Vote::new_committed(term.0, leader.0))
        );
        own.then(|| LogIndex(self.log.store.bounds().1.unwrap_or_default()))
    }

    /// The read index of this node's leadership, for reads that began before the voucher was given; `None` when that is
    /// no quorum, or this node leads that term no more, or has committed nothing in it yet.
    ///
    /// # Errors
    /// No answer in time; the node is shutting down.
    pub(super) async fn vouched(&self, voucher: Voucher) -> Result<Option<LogIndex>, ReadIndexError> {
        let (own, by) = (self.node_id, voucher.by);
        let (tell, told) = oneshot::channel();
        let asked = self.core.external_request(move |state| {
            let standing = Standing {
                vote: state.vote_ref(),
                membership: state.membership_state.effective().membership(),
                committed: state.local_committed(),
            };
            // Whoever asked may have given up.
            let _left = tell.send(standing.read_index(own, voucher));
        });
        let answered = async {
            asked.await.map_err(|_stopped| ReadIndexError::ShuttingDown)?;
            told.await.map_err(|_stopped| ReadIndexError::ShuttingDown)
        };
        let index = tokio::time::timeout(CONFIRMED_WITHIN, answered).await;
        let index = index.unwrap_or(Err(ReadIndexError::NoQuorum))?;
        // What lost a part of its log may have lost a vote with it.
        Ok(index.filter(|_| self.acknowledgements.may_be_whole(by, voucher.last)))
    }

    async fn confirmed(&self, rounds_until: &mut Option<Instant>) -> Result<LogIndex, ReadIndexError> {
        if rounds_until.is_none_or(|until| until <= Instant::now())
            && let Some((term, voter)) = self.voter()
        {
            match tokio::time::timeout(VOUCHED_WITHIN, self.ask(term, voter)).await {
                Ok(Some(index)) => return Ok(index),
                Ok(None) | Err(_) => *rounds_until = Some(Instant::now() + ROUNDS_AFTER_SILENCE),
            }
        }
        self.by_round().await
    }

    /// Asks a voter to vouch for this node's leadership of `term`. Whatever goes wrong, a round may still do.
    async fn ask(&self, term: Term, by: NodeId) -> Option<LogIndex> {
        let question = Request::Vouch(VouchRequest {});
        match self.peers.forward(by, term, question, VOUCHED_WITHIN).await {
            Ok(Response::VouchedThrough(last)) => {
                let last = LogIndex(last);
                self.vouched(Voucher { term, by, last }).await.ok().flatten()
            }
            Ok(_) | Err(_) => None,
        }
    }

    /// Whom to ask, if this node leads and one other voter is enough: the one that answered a heartbeat last.
    fn voter(&self) -> Option<(Term, NodeId)> {
        let metrics = self.core.metrics();
        let metrics = metrics.borrow_watched();
        if role_of(&metrics) != Role::Leader {
            return None;
        }
        let heard = metrics.heartbeat.as_ref()?;
        let others = metrics.membership_config.voter_ids().filter(|id| *id != metrics.id);
        let latest = others
            .filter_map(|id| Some((*heard.get(&id)?.as_ref()?, id)))
            .max_by_key(|(heard, _)| *heard);
        let voter = NodeId(latest?.1);
        are_quorum(metrics.membership_config.membership(), [self.node_id, voter])
            .then_some((Term(metrics.current_term), voter))
    }

    async fn by_round(&self) -> Result<LogIndex, ReadIndexError> {
        match self.core.get_read_log_id(ReadPolicy::ReadIndex).await {
            Ok((read, _applied)) => Ok(LogIndex(read.log_id().index())),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                let leader = forward.leader_id.map(NodeId);
                Err(ReadIndexError::NotLeader { leader })
            }
            Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => Err(ReadIndexError::NoQuorum),
            Err(RaftError::Fatal(_)) => Err(ReadIndexError::ShuttingDown),
        }
    }
}

/// Where this node's core stands at one moment.
struct Standing<'a> {
    vote: &'a Vote,
    membership: &'a Membership,
    committed: Option<&'a LogId>,
}

impl Standing<'_> {
    /// The commit index, if node `own` leads that term still, the two are a quorum, and something is committed in it:
    /// what earlier leaders committed lies below that.
    fn read_index(&self, own: NodeId, voucher: Voucher) -> Option<LogIndex> {
        let leads = *self.vote == Vote::new_committed(voucher.term.0, own.0);
        let pair = are_quorum(self.membership, [own, voucher.by]);
        let committed = self.committed?;
        let of_this_term = committed.committed_leader_id().term == voucher.term.0;
        (leads && pair && of_this_term).then(|| LogIndex(committed.index()))
    }
}

/// Whether these two are a majority of the voters; while the voters change, of the old and of the new ones.
fn are_quorum(membership: &Membership, pair: [NodeId; 2]) -> bool {
    let mut configs = membership.get_joint_config().iter();
    pair[0] != pair[1]
        && configs.all(|voters| {
            let of_them = pair.iter().filter(|id| voters.contains(&id.0)).count();
            of_them > voters.len() / 2
        })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{super::types::log_id, *};

    #[test]
    fn a_leader_names_its_commit_index_only_while_it_leads_that_term_and_has_committed_in_it() {
        let voters = |ids: &[u64]| Membership::new_with_defaults(vec![ids.iter().copied().collect()], []);
        let named = |vote: Vote, membership: &Membership, committed: Option<LogId>, by: u64| {
            let standing = Standing {
                vote: &vote,
                membership,
                committed: committed.as_ref(),
            };
            let voucher = Voucher {
                term: Term(4),
                by: NodeId(by),
                last: LogIndex(9),
            };
            standing.read_index(NodeId(1), voucher)
        };
        let (three, committed) = (voters(&[1, 2, 3]), Some(log_id(4, 9)));
        let own = Vote::new_committed(4, 1);
        assert_eq!(named(own, &three, committed, 2), Some(LogIndex(9)));
        assert_eq!(named(own, &three, Some(log_id(3, 9)), 2), None, "of an earlier term");
        assert_eq!(named(own, &three, None, 2), None, "nothing is committed");
        assert_eq!(named(own, &three, committed, 1), None, "its own word");
        assert_eq!(named(own, &three, committed, 7), None, "no voter's");
        assert_eq!(named(own, &voters(&[1, 2, 3, 4, 5]), committed, 2), None, "no quorum");
        for other in [
            Vote::new(4, 1),
            Vote::new(5, 2),
            Vote::new_committed(5, 2),
            Vote::new_committed(5, 1),
            Vote::new_committed(3, 1),
        ] {
            assert_eq!(named(other, &three, committed, 2), None, "{other:?}");
        }
    }

    #[test]
    fn two_are_a_quorum_of_three_voters_and_of_no_more() {
        let of = |configs: &[&[u64]], pair: [u64; 2]| {
            let configs = configs.iter().map(|voters| BTreeSet::from_iter(voters.iter().copied()));
            let membership = Membership::new_with_defaults(configs.collect(), []);
            are_quorum(&membership, pair.map(NodeId))
        };
        assert!(of(&[&[1, 2]], [1, 2]));
        assert!(of(&[&[1, 2, 3]], [1, 3]));
        assert!(!of(&[&[1, 2, 3]], [1, 1]), "one is not two");
        assert!(!of(&[&[1, 2, 3]], [1, 4]), "the other one has no vote");
        assert!(!of(&[&[1, 2, 3, 4]], [1, 2]));
        assert!(!of(&[&[1, 2, 3, 4, 5]], [1, 2]));
        assert!(!of(&[&[1, 2, 3], &[1, 4, 5]], [1, 2]), "of the new ones, too");
        assert!(of(&[&[1, 2, 3], &[1, 2, 5]], [1, 2]));
    }
}
