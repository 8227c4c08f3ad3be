//! The nodes of the cluster, and positions in its history.

use std::{fmt, sync::Arc};

use super::{ClusterId, NameError, NodeId, Revision, ServiceName};

/// A node's name: `n1`. The rules are those of service names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// Checks the text against the rules of names.
    ///
    /// # Errors
    /// Says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        ServiceName::parse(text).map(|_| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One node of the cluster's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub node_id: NodeId,
    /// Its name.
    pub name: NodeName,
    /// `host:port` where the other nodes reach it.
    pub peer_address: String,
    /// `host:port` where clients reach it.
    pub client_address: String,
    /// Whether it counts for the quorum; else it only receives the log.
    pub voter: bool,
}

/// A place in one cluster's history, from which a watch can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// Whose history.
    pub cluster_id: ClusterId,
    /// Everything through this revision is behind it.
    pub revision: Revision,
}
