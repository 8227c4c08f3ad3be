//! The calls of the `Cluster` and health services, which ask a node about itself.

use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_client::HealthClient};

use super::{error::Error, handle::Client, retry::Safety};
use crate::wire::v1::{self, cluster_client::ClusterClient};

impl Client {
    /// What the node asked says of itself, from its own state. Use [`Client::only`] to ask a certain one.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn node_status(&self) -> Result<v1::GetNodeStatusResponse, Error> {
        let request = v1::GetNodeStatusRequest {};
        self.call(Safety::Read, request, |channel, request| async move {
            ClusterClient::new(channel).get_node_status(request).await
        })
        .await
    }

    /// The cluster's members, as the node asked knows them.
    ///
    /// # Errors
    /// When no node answers.
    pub async fn members(&self) -> Result<v1::ListMembersResponse, Error> {
        let request = v1::ListMembersRequest {};
        self.call(Safety::Read, request, |channel, request| async move {
            ClusterClient::new(channel).list_members(request).await
        })
        .await
    }

    /// The hash of the node's state, now or at an index.
    ///
    /// # Errors
    /// When no node answers, or the index has passed.
    pub async fn state_hash(&self, at_index: i64) -> Result<v1::GetStateHashResponse, Error> {
        let request = v1::GetStateHashRequest { at_index };
        self.call(Safety::Read, request, |channel, request| async move {
            ClusterClient::new(channel).get_state_hash(request).await
        })
        .await
    }

    /// What the standard health service says of a service of the node: "" is the process and its disk,
    /// `roster.v1.Registry` also asks whether it could answer a linearizable read.
    ///
    /// # Errors
    /// When no node answers, or the node does not know the service.
    pub async fn health(&self, service: &str) -> Result<HealthCheckResponse, Error> {
        let request = HealthCheckRequest {
            service: service.into(),
        };
        self.call(Safety::Read, request, |channel, request| async move {
            HealthClient::new(channel).check(request).await
        })
        .await
    }
}
