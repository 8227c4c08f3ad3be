//! Where the leader is, and what was learnt on the way to it.
//!
//! A call is handed to the leader wherever it is: to this node's own proposer, or over the forward stream to the
//! node that leads. Only what was certainly not applied is tried again, until the caller's patience ends.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::watch, time::Instant};

use super::{NodeError, waiting::Failure};
use crate::{
    model::{LogIndex, Member, NodeId, Revision, Term},
    peer::{PeerError, Peers},
    raft::{Leadership, Raft},
    registry::{Command, Renewal, Reply},
    wire::{
        deltas,
        internal::{
            ForwardCommand, ForwardFailure, ForwardRenewals, ReadIndexRequest, forward_failure::Kind,
            forward_request::Request, forward_response::Response,
        },
        log, reply,
    },
};

use super::waiting::ProposerHandle;

/// How long a call waits for a leader and a quorum to appear before it is told that there is none. Longer than an
/// election, shorter than the patience of most callers, who may then try another node.
pub(super) const UNAVAILABLE_AFTER: Duration = Duration::from_millis(2_500);
/// No call that needs a quorum takes longer than this, whatever its caller would grant it.
pub(super) const CALL_MAX: Duration = Duration::from_secs(5);
/// How soon to try again when nothing tells that the leadership changed.
const RETRY_EVERY: Duration = Duration::from_millis(20);
/// A leader that heard of no quorum for so long has lost it.
const QUORUM_SILENT_AFTER: Duration = Duration::from_secs(1);
/// What a forwarded call may take longer than it may wait to be proposed.
const FORWARD_GRACE: Duration = Duration::from_millis(500);

/// The way to the leader, for everything that only it can do.
#[derive(Clone)]
pub(super) struct Route {
    node_id: NodeId,
    raft: Raft,
    peers: Arc<Peers>,
    proposer: ProposerHandle,
    leadership: watch::Receiver<Leadership>,
}

/// Who leads, as far as this node knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leader {
    Here(Term),
    There(NodeId, Term),
    Unknown,
}

impl Route {
    pub(super) fn new(node_id: NodeId, raft: Raft, peers: Arc<Peers>, proposer: ProposerHandle) -> Self {
        Self {
            node_id,
            leadership: raft.leadership(),
            raft,
            peers,
            proposer,
        }
    }

    fn leader(&self) -> Leader {
        let leadership = self.leadership.borrow();
        match leadership.leader {
            Some(leader) if leader == self.node_id => Leader::Here(leadership.term),
            Some(leader) => Leader::There(leader, leadership.term),
            None => Leader::Unknown,
        }
    }

    /// The leader's id, if one is known.
    pub(super) fn leader_id(&self) -> Option<NodeId> {
        self.leadership.borrow().leader
    }

    /// The leader, if one is known and the configuration has it.
    pub(super) fn leading(&self) -> Option<Arc<Member>> {
        self.leadership.borrow().leading.clone()
    }

    /// The term that this node believes in.
    pub(super) fn term(&self) -> Term {
        self.leadership.borrow().term
    }

    /// Returns once another leader is known than at the call, or the same one in another term.
    pub(super) fn another_leader(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut leadership = self.leadership.clone();
        let before = {
            let now = leadership.borrow();
            (now.term, now.leader)
        };
        async move {
            let other = |now: &Leadership| now.leader.is_some() && (now.term, now.leader) != before;
            if leadership.wait_for(other).await.is_err() {
                // Raft has stopped: nobody will replace anyone.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until the leadership changes, a moment passes, or `until` comes.
    pub(super) async fn wait_for_change(&self, until: Instant) {
        let mut leadership = self.leadership.clone();
        leadership.mark_unchanged();
        let soon = until.min(Instant::now() + RETRY_EVERY);
        // A closed channel means that Raft has stopped: the wait then only ends a little sooner.
        let _elapsed = tokio::time::timeout_at(soon, async {
            if leadership.changed().await.is_err() {
                tokio::time::sleep_until(soon).await;
            }
        })
        .await;
    }

    /// Proposes a command and waits until it is applied. `deadline` is the caller's.
    pub(super) async fn write(&self, command: Command, deadline: Instant) -> Result<(LogIndex, Reply), NodeError> {
        let start = Instant::now();
        let deadline = deadline.min(start + CALL_MAX);
        let give_up = deadline.min(start + UNAVAILABLE_AFTER);
        let encoded = log::command_to_bytes(&command);
        let mut command = Some(command);
        loop {
            let attempt = self.write_once(&mut command, &encoded, give_up);
            let attempt = tokio::time::timeout_at(deadline, attempt).await;
            let failure = match attempt {
                Ok(Ok(written)) => return Ok(written),
                Ok(Err(failure)) => failure,
                Err(_elapsed) => return Err(self.explain_silence()),
            };
            match failure {
                Failure::NotLeader(_) | Failure::NoQuorum if Instant::now() < give_up => {
                    self.wait_for_change(give_up).await;
                }
                failure => return Err(self.explain(failure)),
            }
        }
    }

    /// Why a write that was handed over has no answer, as far as this node can tell.
    fn explain_silence(&self) -> NodeError {
        let quorum_answers = match self.leader() {
            Leader::Here(_) => self
                .raft
                .last_quorum_ack()
                .is_some_and(|ack| ack.elapsed() <= QUORUM_SILENT_AFTER),
            Leader::There(..) => true,
            Leader::Unknown => false,
        };
        if quorum_answers {
            NodeError::OutcomeUnknown
        } else {
            NodeError::QuorumLost
        }
    }

    /// `command` is taken by the first attempt that needs it; a later one reads it again.
    async fn write_once(
        &self,
        command: &mut Option<Command>,
        encoded: &Bytes,
        propose_by: Instant,
    ) -> Result<(LogIndex, Reply), Failure> {
        match self.leader() {
            Leader::Here(_) => {
                let command = command.take();
                let command =
                    command.unwrap_or_else(|| log::command_from_bytes(encoded).expect("what was written is read back"));
                self.proposer.write(command, encoded.clone(), None, propose_by).await
            }
            Leader::There(leader, term) => {
                let left = propose_by.saturating_duration_since(Instant::now());
                let request = Request::Command(ForwardCommand {
                    command: encoded.clone(),
                    timeout_ms: millis(left),
                });
                match self.forward(leader, term, request, left).await? {
                    Response::Command(answer) => reply::reply_from_proto(answer).map_err(|_| Failure::Unknown),
                    Response::Failure(failure) => Err(failure_from_proto(&failure)),
                    Response::Renewals(_) | Response::ReadIndex(_) | Response::VouchedThrough(_) => {
                        Err(Failure::Unknown)
                    }
                }
            }
            Leader::Unknown => Err(Failure::NotLeader(None)),
        }
    }

    /// Renews leases once, wherever the leader is; `ids` ascend. What fails is for the caller to try again:
    /// renewing twice does no harm.
    pub(super) async fn renew(
        &self,
        ids: Vec<crate::model::LeaseId>,
        propose_by: Instant,
    ) -> Result<(Vec<Renewal>, Revision), Failure> {
        match self.leader() {
            Leader::Here(_) => self.proposer.renew(ids, None, propose_by).await,
            Leader::There(leader, term) => {
                let left = propose_by.saturating_duration_since(Instant::now());
                let request = Request::Renewals(ForwardRenewals {
                    lease_id_deltas: deltas::ids_to_deltas(&ids),
                    timeout_ms: millis(left),
                });
                match self.forward(leader, term, request, left).await? {
                    Response::Renewals(answer) => reply::renewals_from_proto(&answer).map_err(|_| Failure::Unknown),
                    Response::Failure(failure) => Err(failure_from_proto(&failure)),
                    Response::Command(_) | Response::ReadIndex(_) | Response::VouchedThrough(_) => {
                        Err(Failure::Unknown)
                    }
                }
            }
            Leader::Unknown => Err(Failure::NotLeader(None)),
        }
    }

    /// Asks the leader for a read index: everything acknowledged before the call lies at or below it.
    pub(super) async fn read_index(&self, deadline: Instant) -> Result<LogIndex, Failure> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.leader() {
            Leader::Here(_) => match tokio::time::timeout(left, self.raft.read_index()).await {
                Ok(Ok(index)) => Ok(index),
                Ok(Err(error)) => Err(read_failure(&error)),
                Err(_elapsed) => Err(Failure::NoQuorum),
            },
            Leader::There(leader, term) => {
                // The readers wait already: what this node's vote is now counts for them.
                let vouched_through = self.raft.vouch(term, leader).map(|last| last.0);
                let question = Request::ReadIndex(ReadIndexRequest { vouched_through });
                match self.forward(leader, term, question, left).await {
                    Ok(Response::ReadIndex(index)) => Ok(LogIndex(index)),
                    Ok(Response::Failure(failure)) => Err(failure_from_proto(&failure)),
                    // A read has no effect: whatever went wrong, it may be asked again.
                    Ok(_) | Err(_) => Err(Failure::NoQuorum),
                }
            }
            Leader::Unknown => Err(Failure::NotLeader(None)),
        }
    }

    async fn forward(&self, leader: NodeId, term: Term, request: Request, left: Duration) -> Result<Response, Failure> {
        // Plant: a follower refuses calls that it should forward.
        planted!("forward-refused" => { return Err(Failure::Overloaded); });
        match self.peers.forward(leader, term, request, left + FORWARD_GRACE).await {
            Ok(response) => Ok(response),
            Err(PeerError::NotSent(_)) => Err(Failure::NotLeader(None)),
            Err(PeerError::Full) => Err(Failure::Overloaded),
            // Plant: what may have been applied is said not to be, and tried again.
            Err(_) => Err(planted!(
                "unknown-called-not-applied",
                Failure::NotLeader(None),
                Failure::Unknown
            )),
        }
    }

    /// The caller's error for a failure that is not tried again.
    pub(super) fn explain(&self, failure: Failure) -> NodeError {
        let (leader, leading) = (self.leader_id(), self.leading());
        let leader_name = leading.map(|member| member.name.clone());
        match failure {
            Failure::NotLeader(_) if leader.is_none() => NodeError::NoLeader,
            Failure::NotLeader(_) | Failure::NoQuorum => NodeError::NoQuorum { leader: leader_name },
            Failure::Overloaded => NodeError::Overloaded { what: "writes" },
            Failure::ShuttingDown => NodeError::ShuttingDown,
            Failure::DiskFull => NodeError::DiskFull,
            Failure::Unknown => NodeError::LeaderChanged,
        }
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn read_failure(error: &crate::raft::ReadIndexError) -> Failure {
    match error {
        crate::raft::ReadIndexError::NotLeader { leader } => Failure::NotLeader(*leader),
        crate::raft::ReadIndexError::NoQuorum => Failure::NoQuorum,
        crate::raft::ReadIndexError::ShuttingDown => Failure::ShuttingDown,
    }
}

fn failure_from_proto(failure: &ForwardFailure) -> Failure {
    match failure.kind() {
        Kind::NotLeader => Failure::NotLeader(Some(NodeId(failure.leader_id)).filter(|id| id.0 != 0)),
        Kind::NoQuorum | Kind::TimedOut => Failure::NoQuorum,
        Kind::Overloaded => Failure::Overloaded,
        // The leader goes down and hands over: its successor will take the call.
        Kind::ShuttingDown => Failure::NotLeader(None),
        Kind::DiskFull => Failure::DiskFull,
        Kind::Unknown | Kind::Unspecified => Failure::Unknown,
    }
}

/// A failure as the node that forwarded the call is told it.
pub(super) fn failure_to_proto(failure: Failure) -> ForwardFailure {
    let (kind, leader) = match failure {
        Failure::NotLeader(leader) => (Kind::NotLeader, leader),
        Failure::NoQuorum => (Kind::NoQuorum, None),
        Failure::Overloaded => (Kind::Overloaded, None),
        Failure::ShuttingDown => (Kind::ShuttingDown, None),
        Failure::DiskFull => (Kind::DiskFull, None),
        Failure::Unknown => (Kind::Unknown, None),
    };
    ForwardFailure {
        kind: kind.into(),
        leader_id: leader.map_or(0, |id| id.0),
    }
}
