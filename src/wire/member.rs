//! The nodes of the cluster and positions in its history.

use bytes::Bytes;

use super::{
    DecodeError, FieldErrors,
    field::{Fields, Path},
    internal, v1,
    writer::position_bytes,
};
use crate::model::{ClusterId, Member, NodeId, NodeName, Position, Revision};

/// `host:port`: a host name, a colon, five digits.
const HOST_PORT_MAX_BYTES: usize = 253 + 1 + 5;

/// A member as the API carries it.
#[must_use]
pub fn member_to_proto(member: &Member) -> v1::Member {
    let role = if member.voter {
        v1::member::Role::Voter
    } else {
        v1::member::Role::Learner
    };
    v1::Member {
        member_id: member.node_id.as_i64(),
        name: member.name.as_str().into(),
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
        role: role.into(),
    }
}

/// A member as the nodes tell each other; whether it votes is told elsewhere.
#[must_use]
pub fn member_to_node_info(member: &Member) -> internal::NodeInfo {
    internal::NodeInfo {
        node_id: member.node_id.0,
        name: member.name.as_str().into(),
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
    }
}

/// A member from what another node, or the log, says.
///
/// # Errors
/// No number, no name, or an address longer than any.
pub fn member_from_node_info(info: internal::NodeInfo, voter: bool) -> Result<Member, DecodeError> {
    let member = Fields::check(|fields| {
        let path = Path::Root;
        if info.node_id == 0 {
            fields.refuse::<()>(&path.field("node_id"), "must not be 0");
        }
        let name = fields.accept(&path.field("name"), NodeName::parse(&info.name));
        let peer_address = fields.text(&path.field("peer_address"), info.peer_address, HOST_PORT_MAX_BYTES);
        let client_address = fields.text(&path.field("client_address"), info.client_address, HOST_PORT_MAX_BYTES);
        Some(Member {
            node_id: NodeId(info.node_id),
            name: name?,
            peer_address: peer_address?,
            client_address: client_address?,
            voter,
        })
    })?;
    Ok(member)
}

/// A position as the API carries it.
#[must_use]
pub fn position_to_proto(position: Position) -> v1::Position {
    v1::Position {
        cluster_id: position.cluster_id.to_string(),
        revision: position.revision.as_i64(),
    }
}

/// Its bytes, for an answer that holds it as such.
#[must_use]
pub fn encoded_position(position: Position) -> Bytes {
    position_bytes(position)
}

/// Reads a position.
///
/// # Errors
/// A cluster id that no cluster prints, or a negative revision.
pub fn position_from_proto(position: &v1::Position, path: &Path<'_>) -> Result<Position, FieldErrors> {
    Fields::check(|fields| fields.position(path, position))
}

impl Fields {
    pub(crate) fn position(&mut self, path: &Path<'_>, position: &v1::Position) -> Option<Position> {
        let cluster_id = ClusterId::parse(&position.cluster_id).ok_or("must be the 16 hex digits of a cluster's id");
        let cluster_id = self.accept(&path.field("cluster_id"), cluster_id);
        let revision = self.number(&path.field("revision"), position.revision);
        Some(Position {
            cluster_id: cluster_id?,
            revision: Revision(revision?),
        })
    }
}
