//! What other nodes pass on to this one: writes, renewals and read indexes for the leader, pages that this node pins.

use futures_util::future::BoxFuture;
use prost::Message;
use tokio::time::Instant;
use tonic::Status;

use super::{call::CALL_MAX, leases::LeasesService, paging::expired, registry::RegistryService};
use crate::{
    model::NodeId,
    node::Node,
    peer::ForwardHandler,
    wire::internal::{ForwardRequest, ForwardResponse, PassPageRequest, PassPageResponse, pass_page_request::Method},
};

/// Answers the other nodes on behalf of their clients.
#[derive(Clone)]
pub struct Forwards {
    node: Node,
    registry: RegistryService,
    leases: LeasesService,
}

impl Forwards {
    /// For this node.
    #[must_use]
    pub fn new(node: Node) -> Self {
        Self {
            registry: RegistryService::new(node.clone()),
            leases: LeasesService::new(node.clone()),
            node,
        }
    }

    async fn page(self, request: PassPageRequest) -> Result<PassPageResponse, Status> {
        let deadline = Instant::now() + CALL_MAX;
        let (registry, leases, asked) = (&self.registry, &self.leases, &request.request);
        let response = match request.method() {
            Method::List => registry.list_page(read(asked)?, deadline, true).await?.encode_to_vec(),
            Method::ListServices => registry
                .list_services_page(read(asked)?, deadline, true)
                .await?
                .encode_to_vec(),
            Method::ListNamespaces => registry
                .list_namespaces_page(read(asked)?, deadline, true)
                .await?
                .encode_to_vec(),
            Method::GetLease => leases
                .get_lease_page(read(asked)?, deadline, true)
                .await?
                .encode_to_vec(),
            Method::ListLeases => leases
                .list_leases_page(read(asked)?, deadline, true)
                .await?
                .encode_to_vec(),
            // A list of a later version's: this node holds no page of it.
            Method::Unspecified => return Err(expired()),
        };
        Ok(PassPageResponse { response })
    }
}

/// The client's request, which the other node has read before.
fn read<M: Message + Default>(request: &[u8]) -> Result<M, Status> {
    M::decode(request).map_err(|_garbled| expired())
}

impl ForwardHandler for Forwards {
    fn forwarded(&self, from: NodeId, request: ForwardRequest) -> BoxFuture<'static, ForwardResponse> {
        let node = self.node.clone();
        Box::pin(async move { node.forwarded(from, request).await })
    }

    fn pass_page(&self, request: PassPageRequest) -> BoxFuture<'static, Result<PassPageResponse, Status>> {
        Box::pin(self.clone().page(request))
    }
}
