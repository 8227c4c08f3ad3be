//! A cluster's nodes, and the channels to them.

use std::time::Duration;

use http::Uri;
use roster::{
    transport::Connector,
    wire::v1::{self, cluster_client::ClusterClient},
};
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};

use crate::history::{At, Sample};

/// How long a connection may take to come about.
const CONNECT_MAX: Duration = Duration::from_secs(1);
/// How often a connection is asked whether it is there, used or not: a cut is noticed within the time of both.
const PING_INTERVAL: Duration = Duration::from_millis(1_000);
/// How long its answer may take.
const PING_TIMEOUT: Duration = Duration::from_millis(1_500);

/// The cluster that clients use.
#[derive(Clone, Debug)]
pub struct Target {
    /// Each node's name, and where its clients reach it (`http://HOST:PORT`).
    pub nodes: Vec<(String, Uri)>,
    /// How connections are opened.
    pub connector: Connector,
}

/// One node, and the channel to it.
#[derive(Clone, Debug)]
pub(super) struct Link {
    pub(super) name: String,
    uri: Uri,
    connector: Connector,
    pub(super) channel: Channel,
}

impl Link {
    /// A link to each node. Nothing is connected before it is used. Call it within the runtime that uses it.
    pub(super) fn all(target: &Target) -> Vec<Self> {
        let link = |(name, uri): &(String, Uri)| Self {
            name: name.clone(),
            uri: uri.clone(),
            connector: target.connector.clone(),
            channel: open(uri, &target.connector),
        };
        target.nodes.iter().map(link).collect()
    }

    /// Leaves the connection to whoever uses it still, and takes another one.
    pub(super) fn reconnect(&mut self) {
        self.channel = open(&self.uri, &self.connector);
    }
}

fn open(uri: &Uri, connector: &Connector) -> Channel {
    let endpoint = Endpoint::from(uri.clone())
        .connect_timeout(CONNECT_MAX)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    connector.channel(&endpoint)
}

/// What a node says of itself; for harnesses: it is not recorded.
///
/// # Errors
/// It does not answer within `patience`.
pub async fn node_status(
    target: &Target,
    node: usize,
    patience: Duration,
) -> Result<v1::GetNodeStatusResponse, Status> {
    let (_, uri) = &target.nodes[node];
    let mut cluster = ClusterClient::new(open(uri, &target.connector));
    let mut request = Request::new(v1::GetNodeStatusRequest {});
    request.set_timeout(patience);
    match tokio::time::timeout(patience, cluster.get_node_status(request)).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_elapsed) => Err(Status::deadline_exceeded("no answer in time")),
    }
}

/// What a node said of itself between two instants, in one of its lives.
#[must_use]
pub fn node_sample(node: &str, (sent, ended): (At, At), status: v1::GetNodeStatusResponse, life: u32) -> Sample {
    let header = status.header.unwrap_or_default();
    Sample {
        node: node.to_owned(),
        sent,
        ended,
        term: header.term,
        leader: status.leader,
        revision: header.revision,
        log_index: status.log_index,
        applied_index: status.applied_index,
        life,
    }
}
