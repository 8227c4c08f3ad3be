//! Who a data directory belongs to.
//!
//! ```text
//! roster identity 1
//! cluster 00c0ffee00c0ffee        16 hex digits
//! node 1
//! name n1
//! crc32c 89abcdef                 of all lines above
//! ```

use super::durable;
use crate::model::{ClusterId, NodeId, NodeName};

const TITLE: &str = "roster identity ";
/// The newest format known here.
pub(super) const FORMAT: u32 = 1;

/// Which node of which cluster a data directory belongs to. Never changes once saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node's number in it.
    pub node_id: NodeId,
    /// The node's name.
    pub name: NodeName,
}

/// Why a file is no identity.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// The checksum is right, but a newer release wrote it.
    Newer(u32),
    /// What is wrong with it.
    Damaged(&'static str),
}

impl Identity {
    pub(super) fn to_text(&self) -> String {
        durable::with_checksum(format!(
            "{TITLE}{FORMAT}\ncluster {}\nnode {}\nname {}\n",
            self.cluster_id, self.node_id, self.name
        ))
    }

    pub(super) fn from_text(text: &str) -> Result<Self, Unreadable> {
        let body = durable::without_checksum(text).ok_or(Unreadable::Damaged("its checksum is wrong"))?;
        let mut lines = body.lines();
        let mut field = |prefix: &str| lines.next().and_then(|line| line.strip_prefix(prefix));
        let format = field(TITLE).and_then(|text| text.parse().ok());
        match format {
            Some(FORMAT) => {}
            Some(newer) if newer > FORMAT => return Err(Unreadable::Newer(newer)),
            _ => return Err(Unreadable::Damaged("it has no title")),
        }
        let cluster_id = field("cluster ").and_then(ClusterId::parse);
        let node_id = field("node ").and_then(|text| text.parse().ok()).map(NodeId);
        let name = field("name ").and_then(|text| NodeName::parse(text).ok());
        match (cluster_id, node_id, name) {
            (Some(cluster_id), Some(node_id), Some(name)) => Ok(Self {
                cluster_id,
                node_id,
                name,
            }),
            _ => Err(Unreadable::Damaged("a line is missing or malformed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster_id: ClusterId::new(0xc0ffee).unwrap(),
            node_id: NodeId(3),
            name: NodeName::parse("n3").unwrap(),
        }
    }

    #[test]
    fn an_identity_reads_back_as_written() {
        assert_eq!(Identity::from_text(&identity().to_text()), Ok(identity()));
    }

    #[test]
    fn a_newer_format_is_told_from_damage() {
        let newer = durable::with_checksum("roster identity 2\nanything\n".to_owned());
        assert_eq!(Identity::from_text(&newer), Err(Unreadable::Newer(2)));
        let damaged = identity().to_text().replace("node 3", "node 4");
        assert!(matches!(Identity::from_text(&damaged), Err(Unreadable::Damaged(_))));
        let short = durable::with_checksum("roster identity 1\nnode 3\n".to_owned());
        assert!(matches!(Identity::from_text(&short), Err(Unreadable::Damaged(_))));
    }
}
