//! `roster.v1.Cluster`: answered from the node's own state, with or without a quorum.

use tonic::{Request, Response, Status};

use super::{
    call::{Freshness, deadline, header},
    registry::bad_read,
    status::{CallKind, invalid, refused},
};
use crate::{
    model::LogIndex,
    node::Node,
    wire::{
        FieldErrors, Path, member::member_to_proto, request, served::cluster_server::Cluster, span::span_to_proto, v1,
    },
};

/// Handlers of the service; cheap to clone.
#[derive(Clone)]
pub(super) struct ClusterService {
    node: Node,
}

impl ClusterService {
    pub(super) fn new(node: Node) -> Self {
        Self { node }
    }

    fn header(&self) -> Option<v1::Header> {
        // The age is taken first: the state can only be fresher.
        let freshness = Freshness::Stale(self.node.age());
        Some(header(&self.node, self.node.revision(), freshness).to_proto())
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn get_node_status(
        &self,
        _request: Request<v1::GetNodeStatusRequest>,
    ) -> Result<Response<v1::GetNodeStatusResponse>, Status> {
        let header = self.header();
        let status = self.node.status();
        Ok(Response::new(v1::GetNodeStatusResponse {
            header,
            version: env!("CARGO_PKG_VERSION").into(),
            role: status.role.name().into(),
            leader: status.leader.map(|leader| leader.name.to_string()).unwrap_or_default(),
            log_index: status.log_index.as_i64(),
            applied_index: status.applied_index.as_i64(),
            since_quorum: status.since_quorum.map(span_to_proto),
            lease_clock_running: status.lease_clock_running,
            uptime: Some(span_to_proto(status.uptime)),
        }))
    }

    async fn list_members(
        &self,
        _request: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        let header = self.header();
        let mut members = self.node.members();
        members.sort_by_key(|member| member.node_id);
        Ok(Response::new(v1::ListMembersResponse {
            header,
            members: members.iter().map(member_to_proto).collect(),
        }))
    }

    async fn get_state_hash(
        &self,
        request: Request<v1::GetStateHashRequest>,
    ) -> Result<Response<v1::GetStateHashResponse>, Status> {
        let deadline = deadline(request.metadata());
        let at = request::get_state_hash(request.get_ref()).map_err(bad_read)?;
        let header = self.header();
        let hashed = self.node.state_hash(at.unwrap_or(LogIndex(0)), deadline).await;
        match hashed.map_err(|error| refused(error, CallKind::Read))? {
            Ok(hashed) => Ok(Response::new(v1::GetStateHashResponse {
                header,
                applied_index: hashed.applied_index.as_i64(),
                hash: hashed.hash,
            })),
            Err(present) => {
                let problem = format!("has passed: this node has applied {present}; ask for a later one");
                Err(invalid(
                    FieldErrors::one(&Path::Root.field("at_index"), problem),
                    CallKind::Read,
                ))
            }
        }
    }
}
