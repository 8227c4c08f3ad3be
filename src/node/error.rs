//! Why a node did not do what it was asked.

use std::time::Duration;

use crate::{
    model::{NodeName, Revision},
    registry::Rejection,
};

/// The caller's answer when there is no result. Each variant is one row of the API's error table; whether a write
/// may have taken effect is part of the variant's meaning and never guessed from its text.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum NodeError {
    /// The state machine refused the command. Nothing changed.
    #[error("{rejection}")]
    Rejected {
        /// Why.
        rejection: Rejection,
        /// The registry's revision at the refusal.
        revision: Revision,
    },
    /// No leader is known. Nothing was proposed.
    #[error("this node knows no leader; the cluster may be electing one")]
    NoLeader,
    /// The leader hears from no quorum, or does not answer. Nothing was proposed.
    #[error("no quorum of the cluster answers")]
    NoQuorum {
        /// The leader that this node still believes in.
        leader: Option<NodeName>,
    },
    /// The leader changed, or the way to it broke, after the write was handed over: it may yet take effect.
    #[error("the leader changed while the write was under way; it may or may not have been applied")]
    LeaderChanged,
    /// The write was proposed and its deadline passed before it was applied: it may yet take effect.
    #[error("the deadline passed before the outcome of the write was known; it may or may not be applied")]
    OutcomeUnknown,
    /// The write was proposed, and then no quorum answered any more within the caller's time: it may yet take effect.
    #[error("no quorum of the cluster answers since the write was handed over; it may or may not be applied")]
    QuorumLost,
    /// The node's own state is older than the caller accepts, and no fresher one could be had.
    #[error("this node's state is {}; the caller accepts at most {max_age:?}", describe(*age))]
    TooStale {
        /// How old it may be; `None` = the node has heard of no quorum since it started.
        age: Option<Duration>,
        /// What the caller accepts.
        max_age: Duration,
    },
    /// The node is shutting down. Nothing was proposed.
    #[error("this node is shutting down")]
    ShuttingDown,
    /// A queue is full. Nothing was proposed.
    #[error("this node has too many {what} waiting")]
    Overloaded {
        /// Of what.
        what: &'static str,
    },
    /// The position lies beyond the cluster's present.
    #[error("revision {asked} lies in the future: the registry is at {present}")]
    RevisionInFuture {
        /// What was asked for.
        asked: Revision,
        /// Where the registry stands.
        present: Revision,
    },
    /// The version that a page token pins is gone.
    #[error("the list's version is no longer held; start again without a page token")]
    PageExpired,
    /// The node has as many watches as it may.
    #[error("this node has {limit} watches, its limit")]
    TooManyWatches {
        /// How many.
        limit: usize,
    },
    /// The leader's disk is nearly full. Nothing was proposed.
    #[error("the disk under the leader's data directory is full")]
    DiskFull,
}

fn describe(age: Option<Duration>) -> String {
    age.map_or_else(|| "of unknown age".to_owned(), |age| format!("up to {age:?} old"))
}
