//! What can go wrong, as the rooms above see it.

use crate::model::NodeId;

/// Why a node's Raft can't start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The timings contradict each other.
    #[error("heartbeat and election timeouts don't fit together: {0}")]
    Timings(String),
    /// The log or the latest snapshot can't be read, or they contradict each other.
    #[error("the log and the latest snapshot could not be restored: {0}")]
    Restore(String),
    /// The runtime is shutting down.
    #[error("the runtime is shutting down")]
    ShuttingDown,
}

/// Why the cluster's first configuration was refused.
#[derive(Debug, thiserror::Error)]
pub enum InitializeError {
    /// The log has begun already: the cluster has a configuration.
    #[error("the cluster has begun already")]
    Begun,
    /// The list is empty, or this node is not in it.
    #[error("the first configuration is refused: {0}")]
    Members(String),
    /// The node is shutting down, or has failed.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Why a proposal brought no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Not appended: this node does not lead in that term.
    #[error("this node does not lead in that term")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// Not appended: no quorum was heard of within the lease, or the core is not keeping up.
    #[error("no quorum was heard of lately")]
    NoQuorum,
    /// Appended, perhaps: it may be applied or not, now or later.
    #[error("the outcome is unknown")]
    Unknown,
    /// Not appended: the node is shutting down, or has failed.
    #[error("the node is shutting down")]
    ShuttingDown,
}

/// Why there is no read index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadIndexError {
    /// This node does not lead.
    #[error("this node does not lead")]
    NotLeader {
        /// Who leads, if known.
        leader: Option<NodeId>,
    },
    /// No quorum confirmed that this node still leads.
    #[error("no quorum confirmed that this node leads")]
    NoQuorum,
    /// The node is shutting down, or has failed.
    #[error("the node is shutting down")]
    ShuttingDown,
}
