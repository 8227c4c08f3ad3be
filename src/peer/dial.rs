//! Connections to the other nodes: one cached channel per node and lane, dialled when first used.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use tokio::runtime::Handle;
use tonic::{
    Request,
    transport::{Channel, Endpoint},
};

use super::{ForwardConnection, MESSAGE_MAX_BYTES, PeerError, metadata};
use crate::{
    model::{ClusterId, Member, NodeId, NodeName, Term},
    transport::Connector,
    wire::internal::{
        FoundRequest, FoundResponse, HelloRequest, HelloResponse, PassPageRequest, PassPageResponse, forward_request,
        forward_response, peer_client::PeerClient,
    },
};

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_millis(500);
/// How often the other end of a connection is asked whether it is there, idle or not.
const PING_EVERY: Duration = Duration::from_millis(500);
/// How long the answer may take.
const PING_MAX: Duration = Duration::from_secs(2);
/// After this much silence a connection is given up.
pub const SILENCE_MAX: Duration = Duration::from_millis(2_500);
/// How long Hello and Found may take.
const INTRODUCTION_MAX: Duration = Duration::from_secs(2);
/// What may be under way on one stream before the receiver has taken it, in bytes; enough for an append of full size.
pub(super) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Likewise on one connection.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// What a connection is used for. Each has its own, so that bulk can't delay what must be prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Votes, heartbeats, transfers of leadership: small and urgent.
    Control,
    /// The log.
    Log,
    /// Snapshots.
    Snapshot,
    /// Writes, renewals and read indexes on their way to the leader, and pages of lists.
    Forward,
}

/// What a node needs to call others.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// This node's name.
    pub name: NodeName,
    /// Where connections are driven.
    pub runtime: Handle,
    /// How they are opened.
    pub connector: Connector,
}

#[derive(Debug)]
struct Dialled {
    address: String,
    client: PeerClient<Channel>,
}

#[derive(Debug, Default)]
struct Book {
    addresses: BTreeMap<NodeId, String>,
    clients: BTreeMap<(NodeId, Lane), Dialled>,
    forwards: BTreeMap<NodeId, ForwardConnection>,
}

/// The other nodes of the cluster, and this node's connections to them.
#[derive(Debug)]
pub struct Peers {
    config: PeersConfig,
    identity: OnceLock<(ClusterId, NodeId)>,
    book: Mutex<Book>,
}

impl Peers {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(config: PeersConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            identity: OnceLock::new(),
            book: Mutex::default(),
        })
    }

    /// Says which node of which cluster this is; from then on, calls other than Hello and Found can be made. Only the
    /// first call counts: a node never changes.
    pub fn belong_to(&self, cluster_id: ClusterId, node_id: NodeId) {
        self.identity.get_or_init(|| (cluster_id, node_id));
    }

    /// The present members. Connections to nodes that left, or that moved to another address, are closed.
    pub fn set(&self, members: &[Member]) {
        let addresses: BTreeMap<_, _> = members
            .iter()
            .map(|member| (member.node_id, member.peer_address.clone()))
            .collect();
        let mut book = self.book();
        let moved = |node_id: &NodeId, old: &BTreeMap<NodeId, String>| old.get(node_id) != addresses.get(node_id);
        let Book {
            addresses: old,
            clients,
            forwards,
        } = &mut *book;
        clients.retain(|(node_id, _), dialled| addresses.get(node_id) == Some(&dialled.address));
        forwards.retain(|node_id, _| !moved(node_id, old));
        *old = addresses;
    }

    /// Where a node is, when the cluster's configuration is not known yet, or newer than what [`Peers::set`] was told.
    pub fn learn(&self, node_id: NodeId, address: &str) {
        let mut book = self.book();
        if book.addresses.get(&node_id).is_none_or(|known| known != address) {
            book.addresses.insert(node_id, address.to_owned());
            book.forwards.remove(&node_id);
        }
    }

    /// A client of another node. It connects when it is used; the same connection serves all calls of a lane.
    ///
    /// # Errors
    /// `NotSent`: no such member is known, or its address is none.
    pub fn client(&self, to: NodeId, lane: Lane) -> Result<PeerClient<Channel>, PeerError> {
        let mut book = self.book();
        let Some(address) = book.addresses.get(&to).cloned() else {
            return Err(PeerError::NotSent(format!("node {to} is no member of this cluster")));
        };
        if let Some(dialled) = book
            .clients
            .get(&(to, lane))
            .filter(|dialled| dialled.address == address)
        {
            return Ok(dialled.client.clone());
        }
        let client = self.dial(&address)?;
        let dialled = Dialled {
            address,
            client: client.clone(),
        };
        book.clients.insert((to, lane), dialled);
        Ok(client)
    }

    /// A message with the metadata that every call carries.
    ///
    /// # Errors
    /// `NotSent`: this node belongs to no cluster yet.
    pub fn request<T>(&self, to: NodeId, message: T) -> Result<Request<T>, PeerError> {
        let Some(&(cluster_id, from)) = self.identity.get() else {
            return Err(PeerError::NotSent("this node belongs to no cluster yet".to_owned()));
        };
        let mut request = Request::new(message);
        metadata::stamp(request.metadata_mut(), cluster_id, from, to);
        Ok(request)
    }

    /// Passes a request on to the node that leads in `term`, over one long-lived stream. Requests to one node leave
    /// in the order of the calls. Whoever drops the answer's future gives up waiting, no more.
    pub fn forward(
        &self,
        to: NodeId,
        term: Term,
        request: forward_request::Request,
        patience: Duration,
    ) -> impl Future<Output = Result<forward_response::Response, PeerError>> + Send + use<> {
        let asked = self
            .forward_connection(to)
            .map(|connection| connection.request(term, request, patience));
        async move { asked?.await }
    }

    /// Asks another node for a page that it pins.
    ///
    /// # Errors
    /// See [`PeerError`]; asking again does no harm.
    pub async fn pass_page(
        &self,
        to: NodeId,
        request: PassPageRequest,
        patience: Duration,
    ) -> Result<PassPageResponse, PeerError> {
        let mut client = self.client(to, Lane::Forward)?;
        let request = self.request(to, request)?;
        let answer = tokio::time::timeout(patience, client.pass_page(request)).await;
        let answer = answer.map_err(|_elapsed| PeerError::TimedOut)?;
        answer.map(tonic::Response::into_inner).map_err(PeerError::from_status)
    }

    /// Asks who is at an address.
    ///
    /// # Errors
    /// See [`PeerError`]; asking again does no harm.
    pub async fn hello(&self, address: &str) -> Result<HelloResponse, PeerError> {
        let request = HelloRequest {
            name: self.config.name.to_string(),
        };
        let mut client = self.dial(address)?;
        let answer = tokio::time::timeout(INTRODUCTION_MAX, client.hello(request)).await;
        let answer = answer.map_err(|_elapsed| PeerError::TimedOut)?;
        answer.map(tonic::Response::into_inner).map_err(PeerError::from_status)
    }

    /// Tells a member that this node takes part: one that leads then tries at once what it puts off after a failure.
    ///
    /// # Errors
    /// See [`PeerError`]; telling again does no harm.
    pub async fn greet(&self, to: NodeId) -> Result<(), PeerError> {
        let greeting = HelloRequest {
            name: self.config.name.to_string(),
        };
        let mut client = self.client(to, Lane::Control)?;
        let greeting = self.request(to, greeting)?;
        let answer = tokio::time::timeout(INTRODUCTION_MAX, client.hello(greeting)).await;
        let answer = answer.map_err(|_elapsed| PeerError::TimedOut)?;
        answer.map(drop).map_err(PeerError::from_status)
    }

    /// Tells the node at an address the cluster that it belongs to from now on.
    ///
    /// # Errors
    /// See [`PeerError`]; telling again does no harm.
    pub async fn found(&self, address: &str, request: FoundRequest) -> Result<FoundResponse, PeerError> {
        let mut client = self.dial(address)?;
        let answer = tokio::time::timeout(INTRODUCTION_MAX, client.found(request)).await;
        let answer = answer.map_err(|_elapsed| PeerError::TimedOut)?;
        answer.map(tonic::Response::into_inner).map_err(PeerError::from_status)
    }

    /// The forward stream to a node; opened when its first request comes.
    fn forward_connection(&self, to: NodeId) -> Result<ForwardConnection, PeerError> {
        if let Some(connection) = self.book().forwards.get(&to) {
            return Ok(connection.clone());
        }
        let client = self.client(to, Lane::Forward)?;
        let metadata = self.request(to, ())?.into_parts().0;
        let mut book = self.book();
        let connection = book
            .forwards
            .entry(to)
            .or_insert_with(|| ForwardConnection::new(client, metadata, &self.config.runtime));
        Ok(connection.clone())
    }

    fn dial(&self, address: &str) -> Result<PeerClient<Channel>, PeerError> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"));
        let endpoint = endpoint.map_err(|error| PeerError::NotSent(format!("{address} is no address: {error}")))?;
        let endpoint = endpoint
            .connect_timeout(CONNECT_MAX)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_MAX)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let _driven_there = self.config.runtime.enter();
        let client = PeerClient::new(self.config.connector.channel(&endpoint));
        Ok(client
            .max_decoding_message_size(MESSAGE_MAX_BYTES)
            .max_encoding_message_size(MESSAGE_MAX_BYTES))
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
