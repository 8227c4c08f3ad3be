//! `roster.v1.Leases`.

use prost::Message as _;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::{
    call::{Batches, deadline, header, mismatched, write},
    keep_alive,
    paging::{Opened, PAGE_MAX_BYTES, expired, fill, fill_page, open, pass_on},
    registry::{bad_read, bad_write, later_page},
    status::{CallKind, no_lease, refused},
};
use crate::{
    model::LeaseId,
    node::Node,
    registry::Outcome,
    wire::{
        instance::key_to_proto,
        internal::pass_page_request::Method,
        lease::{count_to_proto, lease_to_proto},
        page_token::After,
        raw, request,
        served::leases_server::Leases,
        span::span_to_proto,
        v1,
    },
};

/// Handlers of the service; cheap to clone.
#[derive(Clone)]
pub(super) struct LeasesService {
    node: Node,
}

impl LeasesService {
    pub(super) fn new(node: Node) -> Self {
        Self { node }
    }

    /// A lease and a page of what it holds; `passed` = another node passed the request on.
    pub(super) async fn get_lease_page(
        &self,
        request: v1::GetLeaseRequest,
        deadline: Instant,
        passed: bool,
    ) -> Result<v1::GetLeaseResponse, Status> {
        let sent = later_page(&request.page_token, || request.encode_to_vec());
        let get = request::get_lease(&request).map_err(bad_read)?;
        let version = match open(&self.node, &get.page, get.read, deadline).await? {
            Opened::Here(version) => version,
            Opened::At(_) if passed => return Err(expired()),
            Opened::At(node) => return pass_on(&self.node, node, Method::GetLease, sent, deadline).await,
        };
        let Some(lease) = version.state.lease(get.lease_id) else {
            return Err(no_lease(get.lease_id, version.state.revision()));
        };
        let after = match &version.after {
            Some(After::Held(key)) => Some(key.clone()),
            _ => None,
        };
        let held = version.state.lease_instances(get.lease_id, after.as_ref());
        let filled = fill(held, get.page.size, PAGE_MAX_BYTES, |key| {
            key_to_proto(key).encoded_len()
        });
        let last = filled.last(|key| After::Held((*key).clone()));
        Ok(v1::GetLeaseResponse {
            header: Some(header(&self.node, version.state.revision(), version.freshness).to_proto()),
            lease: Some(lease_to_proto(&lease)),
            next_page_token: version.next_token(&self.node, &get.page, last),
            instances: filled.elements.into_iter().map(key_to_proto).collect(),
        })
    }

    /// A page of leases.
    pub(super) async fn list_leases_page(
        &self,
        request: v1::ListLeasesRequest,
        deadline: Instant,
        passed: bool,
    ) -> Result<v1::ListLeasesResponse, Status> {
        let sent = later_page(&request.page_token, || request.encode_to_vec());
        let list = request::list_leases(&request).map_err(bad_read)?;
        let version = match open(&self.node, &list.page, list.read, deadline).await? {
            Opened::Here(version) => version,
            Opened::At(_) if passed => return Err(expired()),
            Opened::At(node) => return pass_on(&self.node, node, Method::ListLeases, sent, deadline).await,
        };
        let after = match version.after {
            Some(After::Lease(id)) => Some(id),
            _ => None,
        };
        let filled = fill_page(
            version.state.leases(after).map(|lease| lease_to_proto(&lease)),
            list.page.size,
        );
        let last = filled.last(|lease| After::Lease(LeaseId(lease.lease_id.unsigned_abs())));
        Ok(v1::ListLeasesResponse {
            header: Some(header(&self.node, version.state.revision(), version.freshness).to_proto()),
            next_page_token: version.next_token(&self.node, &list.page, last),
            leases: filled.elements,
        })
    }
}

#[tonic::async_trait]
impl Leases for LeasesService {
    async fn grant_lease(
        &self,
        request: Request<v1::GrantLeaseRequest>,
    ) -> Result<Response<v1::GrantLeaseResponse>, Status> {
        let deadline = deadline(request.metadata());
        let grant = request::grant_lease(request.into_inner()).map_err(bad_write)?;
        let (header, outcome) = write(&self.node, grant, deadline).await?;
        let Outcome::Granted(lease) = outcome else {
            return Err(mismatched());
        };
        Ok(Response::new(v1::GrantLeaseResponse {
            header: Some(header.to_proto()),
            lease: Some(lease_to_proto(&lease)),
            renew_after: Some(span_to_proto(lease.ttl.renew_after())),
        }))
    }

    async fn revoke_lease(
        &self,
        request: Request<v1::RevokeLeaseRequest>,
    ) -> Result<Response<v1::RevokeLeaseResponse>, Status> {
        let deadline = deadline(request.metadata());
        let revoke = request::revoke_lease(request.get_ref()).map_err(bad_write)?;
        let (header, outcome) = write(&self.node, revoke, deadline).await?;
        let Outcome::Revoked { existed, removed } = outcome else {
            return Err(mismatched());
        };
        let removed = count_to_proto(removed);
        Ok(Response::new(v1::RevokeLeaseResponse {
            header: Some(header.to_proto()),
            existed,
            removed,
        }))
    }

    async fn get_lease(&self, request: Request<v1::GetLeaseRequest>) -> Result<Response<v1::GetLeaseResponse>, Status> {
        let deadline = deadline(request.metadata());
        self.get_lease_page(request.into_inner(), deadline, false)
            .await
            .map(Response::new)
    }

    async fn list_leases(
        &self,
        request: Request<v1::ListLeasesRequest>,
    ) -> Result<Response<v1::ListLeasesResponse>, Status> {
        let deadline = deadline(request.metadata());
        self.list_leases_page(request.into_inner(), deadline, false)
            .await
            .map(Response::new)
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Result<Response<raw::RenewResponse>, Status> {
        let deadline = deadline(request.metadata());
        let renew = request::renew(request.into_inner()).map_err(bad_write)?;
        let renewed = keep_alive::renew(&self.node, renew, deadline).await;
        renewed
            .map(Response::new)
            .map_err(|error| refused(error, CallKind::Write))
    }

    type KeepAliveStream = Batches<raw::RenewResponse>;

    async fn keep_alive(
        &self,
        request: Request<Streaming<v1::RenewRequest>>,
    ) -> Result<Response<Self::KeepAliveStream>, Status> {
        Ok(Response::new(keep_alive::stream(
            self.node.clone(),
            request.into_inner(),
        )))
    }
}
