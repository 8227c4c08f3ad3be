//! What can become of a call to another node.

use tonic::{Code, Status};

/// Why a call to another node brought no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PeerError {
    /// It never left this node: the other can't be reached, or refuses this node's calls. Nothing was done.
    #[error("not sent: {0}")]
    NotSent(String),
    /// It never left this node: too many requests are under way or waiting. Nothing was done.
    #[error("not sent: too many requests to this node are under way")]
    Full,
    /// It was sent, and the connection broke before the answer: the outcome is unknown.
    #[error("the connection broke before the answer came")]
    Broken,
    /// It was sent, and no answer came in time: the outcome is unknown.
    #[error("no answer came in time")]
    TimedOut,
    /// The other node answered with an error of its own.
    #[error("the other node refused: {0}")]
    Refused(Status),
}

impl PeerError {
    /// Whether the request may have taken effect, or may yet.
    #[must_use]
    pub fn outcome_unknown(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::Full | Self::Refused(_) => false,
            Self::Broken | Self::TimedOut => true,
        }
    }

    /// Sorts the status of a unary call: what the transport says of itself, and what the other node said.
    pub(super) fn from_status(status: Status) -> Self {
        match status.code() {
            // tonic makes these of connections that could not be made; a node of ours says so before it does anything.
            Code::Unavailable => Self::NotSent(status.message().to_owned()),
            Code::DeadlineExceeded => Self::TimedOut,
            Code::Unknown | Code::Cancelled | Code::Internal => Self::Broken,
            _ => Self::Refused(status),
        }
    }
}
