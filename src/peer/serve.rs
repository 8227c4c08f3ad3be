//! The peer port: gRPC on one side, the rooms that answer on the other.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::Poll,
    time::Duration,
};

use futures_util::{
    Stream, StreamExt,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered},
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{
    Request, Response, Status, Streaming,
    metadata::MetadataMap,
    transport::{Server, server::Connected},
};

use super::{
    MESSAGE_MAX_BYTES, accept, check_metadata,
    dial::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
    forward::IN_FLIGHT_MAX,
};
use crate::{
    model::{ClusterId, NodeId},
    transport::ByteStream,
    wire::internal::{
        AppendRequest, AppendResponse, ForwardRequest, ForwardResponse, FoundRequest, FoundResponse, HelloRequest,
        HelloResponse, PassPageRequest, PassPageResponse, SnapshotChunk, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
        peer_server::{Peer, PeerServer},
    },
};

/// Streams that one connection of another node may have open. Each lane of each node has a connection of its own.
const STREAMS_PER_CONNECTION_MAX: u32 = 64;
/// Connections that were accepted and reset before they were served.
const PENDING_RESETS_MAX: usize = 64;
/// How often a silent connection is asked whether its other end is there.
const PING_EVERY: Duration = Duration::from_secs(1);
/// How long the answer may take.
const PING_MAX: Duration = Duration::from_secs(4);
/// Answers to forwarded requests that wait for the transport.
const ANSWERS_WAITING_MAX: usize = 64;

/// Messages that another node streams to this one.
pub type MessageStream<T> = BoxStream<'static, Result<T, Status>>;

/// Who this node is: answered before it belongs to a cluster, too.
pub trait Introduction: Send + Sync + 'static {
    /// Says who it is.
    fn hello(&self, request: HelloRequest) -> HelloResponse;

    /// Takes the cluster that its first node made; durable when it answers.
    fn found(&self, request: FoundRequest) -> BoxFuture<'static, Result<FoundResponse, Status>>;
}

/// What nodes say to each other to agree on the log. `from` is the node that calls.
pub trait Consensus: Send + Sync + 'static {
    /// Votes, or says how it would.
    fn vote(&self, from: NodeId, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, Status>>;

    /// Appends what the leader sends; answers come in the order of the requests, each once it is durable.
    fn append(&self, from: NodeId, requests: MessageStream<AppendRequest>) -> MessageStream<AppendResponse>;

    /// Takes a whole snapshot and puts it in place of the state.
    fn install_snapshot(
        &self,
        from: NodeId,
        chunks: MessageStream<SnapshotChunk>,
    ) -> BoxFuture<'static, Result<SnapshotResponse, Status>>;

    /// Takes note that a node takes part that may have been away.
    fn greeted(&self, from: NodeId) -> BoxFuture<'static, ()>;

    /// Takes part in a transfer of leadership.
    fn transfer_leader(
        &self,
        from: NodeId,
        request: TransferLeaderRequest,
    ) -> BoxFuture<'static, Result<TransferLeaderResponse, Status>>;
}

/// What nodes ask of each other on behalf of their clients.
pub trait ForwardHandler: Send + Sync + 'static {
    /// Does what another node passes on or asks, and answers under the same `seq`. Requests of one stream are handed over in
    /// the order in which they came; dropping the future gives up the answer, not what was begun.
    fn forwarded(&self, from: NodeId, request: ForwardRequest) -> BoxFuture<'static, ForwardResponse>;

    /// Answers a page of a list that this node pins.
    fn pass_page(&self, request: PassPageRequest) -> BoxFuture<'static, Result<PassPageResponse, Status>>;
}

/// A node's place in its cluster, and the rooms that answer for it.
#[derive(Clone)]
pub struct Seat {
    /// Which cluster.
    pub cluster_id: ClusterId,
    /// Which node of it.
    pub node_id: NodeId,
    /// Answers what concerns the log.
    pub consensus: Arc<dyn Consensus>,
    /// Answers what concerns clients.
    pub forwards: Arc<dyn ForwardHandler>,
}

/// The gRPC service of the peer port; cheap to clone. Answers Hello and Found from the start, the rest once it has
/// a seat.
#[derive(Clone)]
pub struct PeerService {
    introduction: Arc<dyn Introduction>,
    seat: Arc<OnceLock<Seat>>,
}

impl PeerService {
    /// A service without a seat.
    #[must_use]
    pub fn new(introduction: Arc<dyn Introduction>) -> Self {
        Self {
            introduction,
            seat: Arc::default(),
        }
    }

    /// From now on everything is answered. Only the first call counts.
    pub fn take_seat(&self, seat: Seat) {
        self.seat.get_or_init(|| seat);
    }

    /// As tonic serves it, with the limits of the peer port.
    #[must_use]
    pub fn into_server(self) -> PeerServer<Self> {
        PeerServer::new(self)
            .max_decoding_message_size(MESSAGE_MAX_BYTES)
            .max_encoding_message_size(MESSAGE_MAX_BYTES)
    }

    /// The seat, and the node that calls; refuses calls that are not for this node of this cluster.
    fn seated(&self, metadata: &MetadataMap) -> Result<(&Seat, NodeId), Status> {
        let seat = self
            .seat
            .get()
            .ok_or_else(|| Status::unavailable("this node does not take part yet"))?;
        let from = check_metadata(metadata, seat.cluster_id, seat.node_id)?;
        Ok((seat, from))
    }
}

/// Serves the peer port until `shutdown` is ready, and then takes no more connections, without waiting for those that
/// are open: they end with Raft's runtime. Runs where it is called: give it that runtime.
///
/// # Errors
/// The listener failed.
pub async fn serve(
    listener: TcpListener,
    service: PeerService,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    serve_connections(accept::connections(listener), service, shutdown).await
}

/// [`serve`] for connections that come in another way than over TCP.
///
/// # Errors
/// As [`serve`]: no more connections come.
pub async fn serve_connections<S: ByteStream + Connected>(
    connections: impl Stream<Item = io::Result<S>> + Send,
    service: PeerService,
    shutdown: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let serving = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_keepalive_interval(Some(PING_EVERY))
        .http2_keepalive_timeout(Some(PING_MAX))
        .add_service(service.into_server())
        .serve_with_incoming(connections);
    tokio::select! {
        served = serving => served.map_err(io::Error::other),
        () = shutdown => Ok(()),
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type AppendStream = MessageStream<AppendResponse>;
    type ForwardStream = Pin<Box<dyn Stream<Item = Result<ForwardResponse, Status>> + Send>>;

    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloResponse>, Status> {
        // A member that begins to take part says who it is, and to whom it speaks; others only ask who is here.
        if let Ok((seat, from)) = self.seated(request.metadata()) {
            seat.consensus.greeted(from).await;
        }
        Ok(Response::new(self.introduction.hello(request.into_inner())))
    }

    async fn found(&self, request: Request<FoundRequest>) -> Result<Response<FoundResponse>, Status> {
        self.introduction.found(request.into_inner()).await.map(Response::new)
    }

    async fn vote(&self, request: Request<VoteRequest>) -> Result<Response<VoteResponse>, Status> {
        let (seat, from) = self.seated(request.metadata())?;
        seat.consensus.vote(from, request.into_inner()).await.map(Response::new)
    }

    async fn append(&self, request: Request<Streaming<AppendRequest>>) -> Result<Response<Self::AppendStream>, Status> {
        let (seat, from) = self.seated(request.metadata())?;
        let requests = request.into_inner().boxed();
        Ok(Response::new(seat.consensus.append(from, requests)))
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<SnapshotChunk>>,
    ) -> Result<Response<SnapshotResponse>, Status> {
        let (seat, from) = self.seated(request.metadata())?;
        let chunks = request.into_inner().boxed();
        seat.consensus.install_snapshot(from, chunks).await.map(Response::new)
    }

    async fn transfer_leader(
        &self,
        request: Request<TransferLeaderRequest>,
    ) -> Result<Response<TransferLeaderResponse>, Status> {
        let (seat, from) = self.seated(request.metadata())?;
        seat.consensus
            .transfer_leader(from, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let (seat, from) = self.seated(request.metadata())?;
        let (answers, outbound) = mpsc::channel(ANSWERS_WAITING_MAX);
        let task = tokio::spawn(answer_forwarded(
            Arc::clone(&seat.forwards),
            from,
            request.into_inner(),
            answers,
        ));
        let task = AbortOnDropHandle::new(task);
        // The task ends with the stream of answers, and that with its connection.
        let outbound = ReceiverStream::new(outbound).map(move |answer| {
            let _owned = &task;
            Ok(answer)
        });
        Ok(Response::new(Box::pin(outbound)))
    }

    async fn pass_page(&self, request: Request<PassPageRequest>) -> Result<Response<PassPageResponse>, Status> {
        let (seat, _from) = self.seated(request.metadata())?;
        seat.forwards.pass_page(request.into_inner()).await.map(Response::new)
    }
}

/// Hands the requests of one stream over as they come, at most [`IN_FLIGHT_MAX`] at a time, and sends each answer as
/// soon as it is there.
async fn answer_forwarded(
    forwards: Arc<dyn ForwardHandler>,
    from: NodeId,
    mut requests: Streaming<ForwardRequest>,
    answers: mpsc::Sender<ForwardResponse>,
) {
    let mut under_way = FuturesUnordered::new();
    let mut ready = VecDeque::new();
    let mut open = true;
    while open || !under_way.is_empty() || !ready.is_empty() {
        tokio::select! {
            request = requests.message(), if open && under_way.len() + ready.len() < IN_FLIGHT_MAX => match request {
                Ok(Some(request)) => {
                    let mut answer = forwards.forwarded(from, request);
                    // The first poll happens here and now: it is what puts requests into the handler's queues, and
                    // they must stand there in the order in which they came.
                    match poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await {
                        Poll::Ready(answer) => ready.push_back(answer),
                        Poll::Pending => under_way.push(answer),
                    }
                }
                Ok(None) | Err(_) => open = false,
            },
            Some(answer) = under_way.next(), if !under_way.is_empty() => ready.push_back(answer),
            slot = answers.reserve(), if !ready.is_empty() => match slot {
                Ok(slot) => if let Some(answer) = ready.pop_front() { slot.send(answer) },
                Err(_stream_gone) => return,
            },
        }
    }
}
