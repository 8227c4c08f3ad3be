//! What a node says of its Raft.

use std::{collections::BTreeMap, time::Duration};

use openraft::{Instant as _, ServerState};

use super::{Metrics, types::LogId};
use crate::model::{LogIndex, NodeId, Term};

/// What a node is in its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader,
    /// It follows a leader, or waits for one.
    Follower,
    /// It asks for votes.
    Candidate,
    /// It receives the log and has no vote.
    Learner,
    /// It has stopped.
    Stopped,
}

impl Role {
    /// The name that the API and the command line use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Stopped => "stopped",
        }
    }
}

/// A node's own view of its Raft.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RaftStatus {
    /// What it is.
    pub role: Role,
    /// Its term.
    pub term: Term,
    /// Who leads, if known.
    pub leader: Option<NodeId>,
    /// The last record of its log; 0 when there is none.
    pub last_log_index: LogIndex,
    /// The last record that it knows to be committed.
    pub committed_index: LogIndex,
    /// The last record that it applied.
    pub applied_index: LogIndex,
    /// The last record that its latest snapshot covers.
    pub snapshot_index: Option<LogIndex>,
    /// The last record that was purged from its log.
    pub purged_index: Option<LogIndex>,
    /// Leader only: how far the others are.
    pub progress: BTreeMap<NodeId, MemberProgress>,
}

/// How far another node is, as its leader knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemberProgress {
    /// The last record that it is known to have; `None` = none yet.
    pub matched: Option<LogIndex>,
    /// How long ago the last message was sent that it answered.
    pub acknowledged: Option<Duration>,
}

pub(super) fn role_of(metrics: &Metrics) -> Role {
    match metrics.state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Shutdown => Role::Stopped,
    }
}

/// What openraft's figures say.
pub(super) fn status_of(metrics: &Metrics) -> RaftStatus {
    let mut progress: BTreeMap<NodeId, MemberProgress> = BTreeMap::new();
    for (&node_id, matched) in metrics.replication.iter().flatten() {
        progress.entry(NodeId(node_id)).or_default().matched = matched.map(|matched| LogIndex(matched.index()));
    }
    for (&node_id, sent) in metrics.heartbeat.iter().flatten() {
        progress.entry(NodeId(node_id)).or_default().acknowledged = sent.map(|sent| sent.elapsed());
    }
    progress.remove(&NodeId(metrics.id));
    let index = |id: Option<LogId>| id.map(|id| LogIndex(id.index()));
    RaftStatus {
        role: role_of(metrics),
        term: Term(metrics.current_term),
        leader: metrics.current_leader.map(NodeId),
        last_log_index: LogIndex(metrics.last_log_index.unwrap_or(0)),
        committed_index: index(metrics.local_committed).unwrap_or_default(),
        applied_index: index(metrics.last_applied).unwrap_or_default(),
        snapshot_index: index(metrics.snapshot),
        purged_index: index(metrics.purged),
        progress,
    }
}
