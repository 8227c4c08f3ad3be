//! What openraft sends to other nodes, over [`peer`](crate::peer)'s connections: votes and heartbeats on one, the log
//! on another, snapshots on a third.

use std::{
    future::Future,
    io::{self, Read as _},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use openraft::{
    OptionalSend, RPCTypes, RaftNetworkFactory, RaftNetworkV2,
    base::{BoxFuture, BoxStream},
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
        TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use super::{
    codec, commit_notice,
    quarantine::Acknowledgements,
    snapshot::SnapshotData,
    types::{NodeAddress, Snapshot, TypeConfig, Vote},
};
use crate::{
    blocking,
    model::NodeId,
    peer::{Lane, PeerError, Peers},
    storage::SnapshotBytes,
    wire::internal::{self, SnapshotChunk, SnapshotHead, snapshot_chunk::Chunk},
};

/// How long the other node may take to take a stream of appends.
const OPEN_MAX: Duration = Duration::from_secs(2);
/// How long a whole snapshot may take on its way, installing it included.
const SNAPSHOT_MAX: Duration = Duration::from_secs(30 * 60);
/// The size of its pieces, in bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// Pieces that wait for the transport.
const CHUNKS_WAITING_MAX: usize = 2;
/// How long to wait before a node that could not be reached is tried again: first, and then.
const BACKOFF: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
];

type Rpc<T> = Result<T, RPCError<TypeConfig>>;
type Appended = Result<StreamAppendResult<TypeConfig>, RPCError<TypeConfig>>;

/// Makes the lines to other nodes.
pub(super) struct Exchange {
    pub(super) node_id: NodeId,
    pub(super) peers: Arc<Peers>,
    pub(super) acknowledgements: Arc<Acknowledgements>,
}

impl Exchange {
    fn line(&self, target: u64, address: &NodeAddress, lane: Lane) -> Line {
        if !address.peer_address.is_empty() {
            self.peers.learn(NodeId(target), &address.peer_address);
        }
        Line {
            node_id: self.node_id,
            target: NodeId(target),
            lane,
            peers: Arc::clone(&self.peers),
            acknowledgements: Arc::clone(&self.acknowledgements),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Exchange {
    type Network = Line;

    async fn new_client(&mut self, target: u64, node: &NodeAddress) -> Line {
        self.line(target, node, Lane::Log)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &NodeAddress) -> Line {
        self.line(target, node, Lane::Control)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &NodeAddress) -> Line {
        self.line(target, node, Lane::Snapshot)
    }
}

/// A line to one node.
pub(super) struct Line {
    node_id: NodeId,
    target: NodeId,
    /// Where appends go; votes and transfers always take [`Lane::Control`].
    lane: Lane,
    peers: Arc<Peers>,
    acknowledgements: Arc<Acknowledgements>,
}

impl Line {
    fn timeout(&self, action: RPCTypes, timeout: Duration) -> Timeout<TypeConfig> {
        Timeout {
            action,
            id: self.node_id.0,
            target: self.target.0,
            timeout,
        }
    }

    /// Refuses to send to a node that lost data.
    fn check_quarantine(&self) -> Result<(), Unreachable<TypeConfig>> {
        if self.acknowledgements.is_quarantined(self.target) {
            return Err(Unreachable::from_string(format!("node {} is quarantined", self.target)));
        }
        Ok(())
    }

    async fn ask(
        &self,
        request: VoteRequest<TypeConfig>,
        pre_vote: bool,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let sent = internal::VoteRequest {
            vote: Some(codec::vote_to_proto(&request.vote)),
            last_log_id: request.last_log_id.as_ref().map(codec::log_id_to_proto),
            pre_vote,
            leader_transfer: request.leadership_transfer,
        };
        let mut client = self
            .peers
            .client(self.target, Lane::Control)
            .map_err(|error| unreachable(&error))?;
        let sent = self
            .peers
            .request(self.target, sent)
            .map_err(|error| unreachable(&error))?;
        let held = self.acknowledgements.held_by(self.target);
        let answer = tokio::time::timeout(option.hard_ttl(), client.vote(sent)).await;
        let answer = answer.map_err(|_elapsed| self.timeout(RPCTypes::Vote, option.hard_ttl()))?;
        let answer = answer.map_err(|status| refused(&status))?.into_inner();
        let last =
            codec::some_log_id(answer.last_log_id.as_ref()).map_err(|malformed| NetworkError::new(&malformed))?;
        let vote = codec::vote_from_proto(answer.vote.as_ref()).map_err(|malformed| NetworkError::new(&malformed))?;
        if !Acknowledgements::is_plausible(self.target, held, last) {
            return Err(Unreachable::from_string(format!("node {} lost a part of its log", self.target)).into());
        }
        Ok(VoteResponse::new(vote, last, answer.granted))
    }

    async fn append<'s>(
        &self,
        mut input: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    ) -> Rpc<BoxStream<'s, Appended>> {
        // After a failure openraft waits where it makes its requests, not before it opens the next stream. So the first
        // request is asked for before the connection is: or a node that refuses connections would be tried again
        // without a pause.
        let Some(first) = input.next().await else {
            return Ok(Box::pin(stream::empty()));
        };
        let input = commit_notice::with_records(stream::iter([first]).chain(input));
        self.check_quarantine()?;
        let known = Arc::clone(&self.acknowledgements);
        // All requests of one stream are of one leadership; its answers may come when that is over.
        let term = Arc::new(AtomicU64::new(0));
        let sent_in = Arc::clone(&term);
        let requests = input.map(move |request| {
            sent_in.store(request.vote.leader_id.term, Ordering::Relaxed);
            known.leading(request.vote.leader_id.term, request.leader_commit);
            codec::append_to_proto(&request)
        });
        let mut client = self
            .peers
            .client(self.target, self.lane)
            .map_err(|error| unreachable(&error))?;
        let requests = self
            .peers
            .request(self.target, requests)
            .map_err(|error| unreachable(&error))?;
        let answers = tokio::time::timeout(OPEN_MAX, client.append(requests)).await;
        let answers = answers.map_err(|_elapsed| self.timeout(RPCTypes::AppendEntries, OPEN_MAX))?;
        let (known, target) = (Arc::clone(&self.acknowledgements), self.target);
        let answers = answers
            .map_err(|status| refused(&status))?
            .into_inner()
            .map(move |answer| {
                let answer = answer.map_err(|status| NetworkError::new(&status))?;
                let appended =
                    codec::appended_from_proto(&answer).map_err(|malformed| NetworkError::new(&malformed))?;
                let term = term.load(Ordering::Relaxed);
                match &appended {
                    Ok(Some(matched)) => known.acknowledged(target, term, *matched),
                    Err(StreamAppendError::Conflict(at)) if known.conflicts(target, term, *at) => {
                        return Err(Unreachable::from_string(format!("node {target} is quarantined")).into());
                    }
                    Ok(None) | Err(_) => {}
                }
                Ok(appended)
            });
        Ok(Box::pin(answers))
    }
}

impl RaftNetworkV2<TypeConfig> for Line {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let one = async {
            let mut answers = self.append(stream::iter([request])).await?;
            answers
                .next()
                .await
                .unwrap_or_else(|| Err(NetworkError::from_string("the stream ended").into()))
        };
        let answer = tokio::time::timeout(option.hard_ttl(), one).await;
        let answer = answer.map_err(|_elapsed| self.timeout(RPCTypes::AppendEntries, option.hard_ttl()))?;
        answer.map(AppendEntriesResponse::from)
    }

    fn stream_append<'s, S>(&'s mut self, input: S, _option: RPCOption) -> BoxFuture<'s, Rpc<BoxStream<'s, Appended>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        // No deadline of openraft's applies: it is derived from the heartbeat interval and would cut off appends that
        // are merely large. A connection on which nothing comes back is given up by its own pings.
        Box::pin(self.append(input))
    }

    async fn vote(&mut self, request: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.ask(request, false, option).await
    }

    async fn pre_vote(&mut self, request: VoteRequest<TypeConfig>, option: RPCOption) -> Rpc<VoteResponse<TypeConfig>> {
        self.ask(request, true, option).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        self.check_quarantine()?;
        let mut client = self
            .peers
            .client(self.target, Lane::Snapshot)
            .map_err(|error| unreachable(&error))?;
        let (chunks, outbound) = mpsc::channel(CHUNKS_WAITING_MAX);
        let request = self
            .peers
            .request(self.target, ReceiverStream::new(outbound))
            .map_err(|error| unreachable(&error))?;
        // It ends with the file, or when the call below has ended.
        let reading = AbortOnDropHandle::new(tokio::spawn(send_chunks(vote, snapshot, chunks)));
        tokio::select! {
            closed = cancel => Err(closed.into()),
            answer = tokio::time::timeout(SNAPSHOT_MAX, client.install_snapshot(request)) => {
                let answer = answer.map_err(|_elapsed| self.timeout(RPCTypes::InstallSnapshot, SNAPSHOT_MAX))?;
                let answer = match answer {
                    Ok(answer) => answer.into_inner(),
                    Err(status) => {
                        let cause = reading.await.ok().and_then(Result::err);
                        tracing::warn!(node = self.target.0, %status, ?cause, "a snapshot could not be sent");
                        return Err(refused(&status).into());
                    }
                };
                let vote = codec::vote_from_proto(answer.vote.as_ref());
                Ok(SnapshotResponse::new(vote.map_err(|malformed| NetworkError::new(&malformed))?))
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let mut client = self
            .peers
            .client(self.target, Lane::Control)
            .map_err(|error| unreachable(&error))?;
        let sent = self
            .peers
            .request(self.target, codec::transfer_to_proto(&request))
            .map_err(|error| unreachable(&error))?;
        let answer = tokio::time::timeout(option.hard_ttl(), client.transfer_leader(sent)).await;
        let answer = answer.map_err(|_elapsed| self.timeout(RPCTypes::TransferLeader, option.hard_ttl()))?;
        Ok(if answer.map_err(|status| refused(&status))?.into_inner().accepted {
            Ok(())
        } else {
            // The other node does not say why; either way its log or its vote is not what this leader takes it for.
            Err(TransferLeaderError::LogNotFlushed {
                expected: request.last_log_id().copied(),
                actual: None,
            })
        })
    }

    fn backoff(&self) -> Option<Backoff> {
        let last = BACKOFF.last().copied().into_iter().cycle();
        Some(Backoff::new(BACKOFF.into_iter().chain(last)))
    }
}

/// Sends a snapshot's head and then its file, piece by piece, until all is sent or nobody takes any more.
async fn send_chunks(vote: Vote, snapshot: Snapshot, chunks: mpsc::Sender<SnapshotChunk>) -> io::Result<()> {
    let send = |chunk: Chunk| chunks.send(SnapshotChunk { chunk: Some(chunk) });
    let (mut file, size_bytes) = snapshot.snapshot.bytes()?;
    let head = SnapshotHead {
        vote: Some(codec::vote_to_proto(&vote)),
        meta: Some(codec::meta_to_proto(&snapshot.meta, snapshot.snapshot.id())),
        size_bytes,
    };
    let mut open = send(Chunk::Head(head)).await.is_ok();
    while open {
        let reading = blocking::run(move || read_piece(&mut file).map(|piece| (file, piece)));
        let piece;
        (file, piece) = reading.await.map_err(io::Error::other)??;
        if piece.is_empty() {
            break;
        }
        open = send(Chunk::Data(piece)).await.is_ok();
    }
    Ok(())
}

/// The next piece of a file; empty at its end. Blocks.
fn read_piece(file: &mut SnapshotBytes) -> io::Result<Bytes> {
    let mut piece = Vec::with_capacity(CHUNK_BYTES);
    file.take(CHUNK_BYTES as u64).read_to_end(&mut piece)?;
    Ok(piece.into())
}

fn unreachable(error: &PeerError) -> Unreachable<TypeConfig> {
    Unreachable::new(error)
}

/// A call that was answered with an error. Openraft waits before it tries a node again that can't be reached; one that
/// refuses this node's calls is no better.
fn refused(status: &Status) -> RPCError<TypeConfig> {
    match status.code() {
        Code::Unavailable | Code::FailedPrecondition => Unreachable::new(status).into(),
        _ => NetworkError::new(status).into(),
    }
}
