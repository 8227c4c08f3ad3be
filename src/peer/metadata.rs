//! Who calls whom: three metadata entries on every call but Found and the Hello of a node that only asks.
//!
//! ```text
//! roster-cluster-id   16 hex digits
//! roster-from         node id, decimal
//! roster-to           node id, decimal
//! ```

use tonic::{
    Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
};

use crate::model::{ClusterId, NodeId};

const CLUSTER_ID: &str = "roster-cluster-id";
const FROM: &str = "roster-from";
const TO: &str = "roster-to";

/// Names the cluster, the sender and the receiver of a call.
pub(super) fn stamp(metadata: &mut MetadataMap, cluster_id: ClusterId, from: NodeId, to: NodeId) {
    let cluster_id: MetadataValue<Ascii> = cluster_id.to_string().parse().expect("hex digits are ASCII");
    metadata.insert(CLUSTER_ID, cluster_id);
    metadata.insert(FROM, MetadataValue::from(from.0));
    metadata.insert(TO, MetadataValue::from(to.0));
}

/// Checks that a call is meant for this node of this cluster, and says who calls. To be called before the message is
/// looked at.
///
/// # Errors
/// `FAILED_PRECONDITION` for another cluster or another node, or when the call does not say.
pub fn check_metadata(metadata: &MetadataMap, cluster_id: ClusterId, node_id: NodeId) -> Result<NodeId, Status> {
    let text = |key: &'static str| {
        let value = metadata.get(key).and_then(|value| value.to_str().ok());
        value.ok_or_else(|| Status::failed_precondition(format!("{key} is missing")))
    };
    let node = |key: &'static str| {
        let id = text(key)?.parse().map(NodeId);
        id.map_err(|_| Status::failed_precondition(format!("{key} is no node id")))
    };
    let theirs = text(CLUSTER_ID)?;
    if ClusterId::parse(theirs) != Some(cluster_id) {
        let message = format!("this node belongs to cluster {cluster_id}, the call is for another one");
        return Err(Status::failed_precondition(message));
    }
    let to = node(TO)?;
    if to != node_id {
        return Err(Status::failed_precondition(format!(
            "this is node {node_id}, the call is for node {to}"
        )));
    }
    node(FROM)
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn cluster(id: u64) -> ClusterId {
        ClusterId::new(id).unwrap()
    }

    fn stamped() -> MetadataMap {
        let mut metadata = MetadataMap::new();
        stamp(&mut metadata, cluster(7), NodeId(2), NodeId(1));
        metadata
    }

    #[test]
    fn a_call_for_this_node_names_its_sender() {
        assert_eq!(check_metadata(&stamped(), cluster(7), NodeId(1)).unwrap(), NodeId(2));
    }

    #[test]
    fn calls_for_others_and_nameless_calls_are_refused() {
        let code =
            |metadata: &MetadataMap, id, node| check_metadata(metadata, cluster(id), NodeId(node)).unwrap_err().code();
        assert_eq!(code(&stamped(), 8, 1), Code::FailedPrecondition);
        assert_eq!(code(&stamped(), 7, 3), Code::FailedPrecondition);
        for key in [CLUSTER_ID, FROM, TO] {
            let mut metadata = stamped();
            metadata.remove(key);
            assert_eq!(code(&metadata, 7, 1), Code::FailedPrecondition, "{key}");
            metadata.insert(key, "-1".parse().unwrap());
            assert_eq!(code(&metadata, 7, 1), Code::FailedPrecondition, "{key}");
        }
    }
}
