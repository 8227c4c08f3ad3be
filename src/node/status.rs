//! What a node says of itself: its status, and the hash of its state.

use std::{io, sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{Node, NodeError};
use crate::{
    blocking,
    model::{LogIndex, Member},
    raft::Role,
    registry::State,
    wire::snapshot,
};

/// A node's own view of itself; needs no quorum.
#[derive(Clone, Debug)]
pub struct NodeStatus {
    /// What it does in its term.
    pub role: Role,
    /// The leader that it believes in.
    pub leader: Option<Arc<Member>>,
    /// The last entry of its log.
    pub log_index: LogIndex,
    /// The last entry that its state machine applied.
    pub applied_index: LogIndex,
    /// How long ago it last heard of a quorum; `None` = not since its start.
    pub since_quorum: Option<Duration>,
    /// Whether lease time moves, as far as the node can tell.
    pub lease_clock_running: bool,
    /// Since when it runs.
    pub uptime: Duration,
}

/// The hash of a state machine's content at one log index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateHash {
    /// Where it was taken.
    pub applied_index: LogIndex,
    /// SHA-256 of the canonical snapshot items.
    pub hash: Vec<u8>,
}

/// A follower takes the lease clock to run while its state was confirmed this recently.
const CLOCK_SEEN_WITHIN: Duration = Duration::from_secs(2);

impl Node {
    /// What the node says of itself.
    #[must_use]
    pub fn status(&self) -> NodeStatus {
        let raft = self.0.raft.status();
        let age = self.age();
        let leads = raft.role == Role::Leader;
        let since_quorum = if leads {
            self.0.raft.last_quorum_ack().map(|ack: Instant| ack.elapsed())
        } else {
            age
        };
        NodeStatus {
            role: raft.role,
            leader: self.leader(),
            log_index: raft.last_log_index,
            applied_index: self.0.hub.view().applied,
            since_quorum,
            lease_clock_running: if leads {
                self.0.proposer.clock_running()
            } else {
                age.is_some_and(|age| age <= CLOCK_SEEN_WITHIN)
            },
            uptime: self.uptime(),
        }
    }

    /// The hash of the state at exactly `at`, waiting for it until the deadline; 0 = now.
    ///
    /// # Errors
    /// The present index when `at` has passed; `NoQuorum` when it does not come in time.
    pub async fn state_hash(&self, at: LogIndex, deadline: Instant) -> Result<Result<StateHash, LogIndex>, NodeError> {
        let (applied_index, state) = if at == LogIndex(0) {
            let view = self.0.hub.view();
            (view.applied, view.state.clone())
        } else {
            match tokio::time::timeout_at(deadline, self.0.raft.state_at(at)).await {
                Ok(Some(state)) => (at, state),
                Ok(None) => return Ok(Err(self.0.hub.view().applied)),
                Err(_elapsed) => return Err(self.0.route.explain(super::waiting::Failure::NoQuorum)),
            }
        };
        let hash = blocking::run(move || content_hash(&state))
            .await
            .map_err(|_stopped| NodeError::ShuttingDown)?;
        Ok(Ok(StateHash { applied_index, hash }))
    }
}

/// Hashes what a snapshot of this state would hold.
fn content_hash(state: &State) -> Vec<u8> {
    struct Sink(Sha256);
    impl io::Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut sink = Sink(Sha256::new());
    for item in state.items() {
        snapshot::write_item(&mut sink, &item).expect("a hash takes every byte");
    }
    sink.0.finalize().to_vec()
}
