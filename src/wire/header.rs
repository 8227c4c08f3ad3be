//! What an answer says of itself: `roster.v1.Header`.

use std::time::Duration;

use bytes::Bytes;

use super::{span::span_to_proto, v1, writer::header_bytes};
use crate::model::{ClusterId, NodeName, Revision, Term};

/// Who answers, and what the answer shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Whose cluster.
    pub cluster_id: ClusterId,
    /// Which node.
    pub node: &'a NodeName,
    /// The term that it is in.
    pub term: Term,
    /// The registry's revision that the answer shows, or that the write led to.
    pub revision: Revision,
    /// Whether the answer comes from the node's own state and may be old.
    pub stale: bool,
    /// Of a stale answer: it is at most so old; `None` = unknown.
    pub age: Option<Duration>,
    /// The leader that the node knows.
    pub leader: Option<NodeName>,
}

impl Header<'_> {
    /// As the API carries it.
    #[must_use]
    pub fn to_proto(&self) -> v1::Header {
        v1::Header {
            cluster_id: self.cluster_id.to_string(),
            node: self.node.to_string(),
            term: self.term.as_i64(),
            revision: self.revision.as_i64(),
            stale: self.stale,
            age: self.age.map(span_to_proto),
            leader: self.leader.as_ref().map(NodeName::to_string).unwrap_or_default(),
        }
    }

    /// Its bytes, for an answer that holds it as such: those of the messages of which there are many.
    #[must_use]
    pub fn encoded(&self) -> Bytes {
        header_bytes(self)
    }
}
