//! What can be wrong with bytes that nodes wrote: the log, snapshots, messages between peers.

use super::FieldErrors;

/// Bytes from the disk or from another node that are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// They are no such protobuf message.
    #[error("not a protobuf message: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// They are the message, but it breaks the rules of the model.
    #[error("breaks a rule: {0}")]
    Fields(#[from] FieldErrors),
    /// They end in the middle, or could not be read.
    #[error("could not be read: {0}")]
    Io(#[from] std::io::Error),
    /// One item claims to be longer than any can be.
    #[error("one item claims {claimed} bytes; at most {limit} are possible")]
    TooLong {
        /// What its length says.
        claimed: u64,
        /// The most that is possible.
        limit: usize,
    },
    /// The items contradict each other.
    #[error(transparent)]
    Corrupt(#[from] crate::registry::Corrupt),
}
