//! The peer port's side of Raft: what other nodes ask of this one.

use std::{
    io::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream};
use openraft::{
    async_runtime::watch::WatchReceiver as _,
    raft::{AppendEntriesRequest, VoteRequest, VoteResponse},
};
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::task_tracker::TaskTrackerToken};
use tonic::Status;

use super::{
    Raft, codec,
    failover::{self, Heard, Leader},
    snapshot::{self, Received, SnapshotData},
    types::{Snapshot, SnapshotMeta, TypeConfig, Vote},
};
use crate::{
    blocking,
    model::NodeId,
    peer::{Consensus, MessageStream},
    storage::ReceivedSnapshot,
    wire::internal::{
        self, AppendRequest, AppendResponse, SnapshotChunk, SnapshotHead, SnapshotResponse, TransferLeaderResponse,
        snapshot_chunk::Chunk,
    },
};

/// Appends of one stream that are taken and not answered yet.
const APPENDS_IN_FLIGHT_MAX: usize = 16;
/// A snapshot whose next piece does not come within this is given up, so that another can come. A piece of 1 MiB has
/// time enough on the slowest link.
const PIECE_WITHIN: Duration = Duration::from_secs(60);
/// The largest snapshot that is taken, in bytes.
const SNAPSHOT_MAX_BYTES: u64 = 256 << 30;

impl Consensus for Raft {
    fn vote(
        &self,
        from: NodeId,
        request: internal::VoteRequest,
    ) -> BoxFuture<'static, Result<internal::VoteResponse, Status>> {
        let raft = self.clone();
        async move { raft.serve_vote(from, request).await }.boxed()
    }

    fn append(&self, from: NodeId, requests: MessageStream<AppendRequest>) -> MessageStream<AppendResponse> {
        self.serve_append(from, requests)
    }

    fn install_snapshot(
        &self,
        from: NodeId,
        chunks: MessageStream<SnapshotChunk>,
    ) -> BoxFuture<'static, Result<SnapshotResponse, Status>> {
        let raft = self.clone();
        async move { raft.serve_snapshot(from, chunks).await }.boxed()
    }

    fn greeted(&self, from: NodeId) -> BoxFuture<'static, ()> {
        let raft = self.clone();
        async move { raft.serve_greeting(from).await }.boxed()
    }

    fn transfer_leader(
        &self,
        from: NodeId,
        request: internal::TransferLeaderRequest,
    ) -> BoxFuture<'static, Result<TransferLeaderResponse, Status>> {
        let raft = self.clone();
        async move { raft.serve_transfer(from, &request).await }.boxed()
    }
}

fn stopped<E>(_core_gone: E) -> Status {
    Status::unavailable("this node is shutting down")
}

/// A message speaks for its sender alone.
fn check_sender(from: NodeId, vote: &Vote) -> Result<(), Status> {
    if vote.leader_id.voted_for == from.0 {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "node {from} speaks for node {}",
        vote.leader_id.voted_for
    )))
}

impl Raft {
    fn check_running(&self) -> Result<(), Status> {
        if self.0.stopping.is_cancelled() {
            return Err(stopped(()));
        }
        Ok(())
    }

    /// Votes, or says how it would.
    ///
    /// # Errors
    /// The request is malformed, or the node is shutting down.
    pub async fn serve_vote(
        &self,
        from: NodeId,
        request: internal::VoteRequest,
    ) -> Result<internal::VoteResponse, Status> {
        self.check_running()?;
        let vote = codec::vote_from_proto(request.vote.as_ref())?;
        check_sender(from, &vote)?;
        let last_log_id = codec::some_log_id(request.last_log_id.as_ref())?;
        let asked = VoteRequest {
            vote,
            last_log_id,
            leadership_transfer: request.leader_transfer,
        };
        // A node that knows nothing votes only for what begins as it does. If the cluster is at work, it may have lost
        // what it once knew, and with it the right to decide.
        let begins = last_log_id.is_none_or(|last| last.index() == 0);
        let answer = if !begins && self.0.log.is_virgin() {
            tracing::warn!(
                candidate = from.0,
                "asked for a vote in a cluster that is at work, but this node has no data: no vote is cast"
            );
            VoteResponse::new(Vote::new(0, self.0.node_id.0), None, false)
        } else if request.pre_vote {
            self.0.core.pre_vote(asked).await.map_err(stopped)?
        } else {
            self.0.core.vote(asked).await.map_err(stopped)?
        };
        Ok(internal::VoteResponse {
            vote: Some(codec::vote_to_proto(&answer.vote)),
            granted: answer.vote_granted,
            last_log_id: answer.last_log_id.as_ref().map(codec::log_id_to_proto),
        })
    }

    /// Appends what the leader sends, and answers each append once it is durable, in order. Ends with the first that
    /// is refused.
    pub fn serve_append(&self, from: NodeId, requests: MessageStream<AppendRequest>) -> MessageStream<AppendResponse> {
        let room = Arc::new(Semaphore::new(APPENDS_IN_FLIGHT_MAX));
        let problem = Arc::new(Mutex::new(None));
        let line = AppendLine {
            from,
            requests,
            room: Arc::clone(&room),
            problem: Arc::clone(&problem),
            heard: Arc::clone(&self.0.heard),
            leader: None,
            over: false,
            stopping: self.0.stopping.clone(),
            _open: self.0.lines.token(),
        };
        // openraft spawns a task for each stream; it belongs to the runtime of the others.
        let _runs_there = self.0.runtime.enter();
        let room = Room {
            room,
            _open: self.0.lines.token(),
        };
        let answers = self.0.core.stream_append(line.into_requests()).map(move |answer| {
            room.room.add_permits(1);
            answer
                .map(|appended| codec::appended_to_proto(&appended))
                .map_err(stopped)
        });
        let problem = move || async move {
            let problem = problem.lock().unwrap_or_else(PoisonError::into_inner).take();
            problem.map(Err)
        };
        answers
            .chain(stream::once(async move { problem().await }).filter_map(|problem| async { problem }))
            .boxed()
    }

    /// Takes a whole snapshot, verifies it and puts it in place of the state.
    ///
    /// # Errors
    /// It is damaged, another one is being taken, or the node is shutting down; nothing changed.
    pub async fn serve_snapshot(
        &self,
        from: NodeId,
        mut chunks: MessageStream<SnapshotChunk>,
    ) -> Result<SnapshotResponse, Status> {
        let Ok(_only_one) = self.0.receiving.try_acquire() else {
            return Err(Status::resource_exhausted("another snapshot is being received"));
        };
        let Some(Chunk::Head(head)) = next_piece(&mut chunks).await?.and_then(|first| first.chunk) else {
            return Err(Status::invalid_argument("a snapshot begins with its head"));
        };
        let (vote, meta) = self.check_head(from, &head)?;
        let index = meta.last_log_id.map_or(0, |last| last.index());
        let id = format!("from-{from}");
        let file = self.0.snapshots.receive(&id, index, head.size_bytes);
        let file = receive(
            file.map_err(|error| Status::invalid_argument(error.to_string()))?,
            &mut chunks,
        )
        .await?;
        let expected = meta.clone();
        let verifying = blocking::run(move || verify(file, &expected));
        let received = verifying.await.map_err(stopped)??;
        let snapshot = Snapshot {
            meta,
            snapshot: SnapshotData::Received(Box::new(received)),
        };
        let answer = self
            .0
            .core
            .install_full_snapshot(vote, snapshot)
            .await
            .map_err(stopped)?;
        Ok(SnapshotResponse {
            vote: Some(codec::vote_to_proto(&answer.vote)),
        })
    }

    /// Checks what openraft would only assert: a snapshot from beyond its leader's term, or one that contradicts what
    /// is committed here.
    fn check_head(&self, from: NodeId, head: &SnapshotHead) -> Result<(Vote, SnapshotMeta), Status> {
        let vote = codec::vote_from_proto(head.vote.as_ref())?;
        check_sender(from, &vote)?;
        let meta = head
            .meta
            .clone()
            .ok_or_else(|| Status::invalid_argument("the snapshot's meta is missing"))?;
        let meta = codec::meta_from_proto(meta)?;
        let Some(last) = meta.last_log_id.filter(|_| vote.committed) else {
            return Err(Status::invalid_argument(
                "a snapshot must come from a leader and hold something",
            ));
        };
        let committed = self.0.core.metrics().borrow_watched().local_committed;
        let contradicts = committed.is_some_and(|committed| last > committed && last.index() <= committed.index());
        if last.committed_leader_id().term > vote.leader_id.term || contradicts {
            return Err(Status::invalid_argument(format!(
                "the snapshot's last record {last} can't be"
            )));
        }
        if head.size_bytes > SNAPSHOT_MAX_BYTES {
            return Err(Status::resource_exhausted("the snapshot is too large"));
        }
        Ok((vote, meta))
    }

    /// Another member has begun to take part. If this node leads, it does not wait with the log for the end of the pause
    /// that follows a failure. If nobody leads, an election may succeed now.
    pub async fn serve_greeting(&self, from: NodeId) {
        if self.check_running().is_err() || self.member(from).is_none() {
            return;
        }
        let leader = self.leadership().borrow().leader;
        if leader == Some(self.0.node_id) {
            let trigger = self.0.core.trigger();
            // A node that has all of the log is sent nothing but the heartbeat, and learns from it who leads.
            if trigger.reset_backoff([from.0]).await.is_ok() {
                // Whoever stops meanwhile greets nobody.
                let _stopped = trigger.heartbeat().await;
            }
        } else {
            self.elect_if_nobody_leads().await;
        }
    }

    /// Asks for an election if nobody leads and this node knows of none that was begun. One at a time: whoever comes
    /// meanwhile need not ask again.
    pub async fn elect_if_nobody_leads(&self) {
        let leadership = self.leadership();
        let Ok(_alone) = self.0.electing.try_acquire() else {
            return;
        };
        if leadership.borrow().leader.is_none() {
            let election = failover::elect_in_turn(&self.0.core, &leadership);
            self.0.stopping.run_until_cancelled(election).await;
        }
    }

    /// Takes part in a transfer of leadership.
    ///
    /// # Errors
    /// The request is malformed, or the node is shutting down.
    pub async fn serve_transfer(
        &self,
        from: NodeId,
        request: &internal::TransferLeaderRequest,
    ) -> Result<TransferLeaderResponse, Status> {
        self.check_running()?;
        let request = codec::transfer_from_proto(request)?;
        check_sender(from, request.from_leader())?;
        let answer = self.0.core.handle_transfer_leader(request).await.map_err(stopped)?;
        Ok(TransferLeaderResponse {
            accepted: answer.is_ok(),
        })
    }
}

/// Writes the pieces as they come.
async fn receive(
    mut file: ReceivedSnapshot,
    chunks: &mut MessageStream<SnapshotChunk>,
) -> Result<ReceivedSnapshot, Status> {
    while let Some(chunk) = next_piece(chunks).await? {
        let Some(Chunk::Data(data)) = chunk.chunk else {
            return Err(Status::invalid_argument("a snapshot has one head"));
        };
        let writing = blocking::run(move || file.write_all(&data).map(|()| file));
        let written = writing.await.map_err(stopped)?;
        file = written.map_err(|error| Status::data_loss(format!("could not keep the snapshot: {error}")))?;
    }
    Ok(file)
}

/// The next piece; `None` when all came.
async fn next_piece(chunks: &mut MessageStream<SnapshotChunk>) -> Result<Option<SnapshotChunk>, Status> {
    match tokio::time::timeout(PIECE_WITHIN, chunks.next()).await {
        Ok(piece) => piece.transpose(),
        Err(_elapsed) => Err(Status::deadline_exceeded("the snapshot did not go on")),
    }
}

/// Reads a received snapshot as a restart would, before anything rests on it.
fn verify(mut file: ReceivedSnapshot, expected: &SnapshotMeta) -> Result<Received, Status> {
    let damaged = |problem: String| Status::data_loss(format!("the snapshot is damaged: {problem}"));
    let readable = file.verified().map_err(|error| damaged(error.to_string()))?;
    let (meta, state) = snapshot::read(&readable).map_err(|error| damaged(error.to_string()))?;
    if meta != *expected {
        return Err(damaged("it is not the one that was announced".to_owned()));
    }
    Ok(Received { file, state })
}

/// The answers' end of a stream's window: when they are no longer wanted, no more requests are taken.
struct Room {
    room: Arc<Semaphore>,
    /// Until the last answer has left.
    _open: TaskTrackerToken,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.room.close();
    }
}

/// The appends of one stream on their way to openraft. Says so when the stream breaks, for then the leader may be dead.
struct AppendLine {
    from: NodeId,
    requests: MessageStream<AppendRequest>,
    room: Arc<Semaphore>,
    problem: Arc<Mutex<Option<Status>>>,
    heard: Arc<Heard>,
    leader: Option<Leader>,
    over: bool,
    stopping: CancellationToken,
    /// Until openraft lets go of it.
    _open: TaskTrackerToken,
}

impl AppendLine {
    fn into_requests(self) -> impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static {
        stream::unfold(self, |mut line| async move {
            let request = line.next().await?;
            Some((request, line))
        })
    }

    async fn next(&mut self) -> Option<AppendEntriesRequest<TypeConfig>> {
        let room = Arc::clone(&self.room);
        // Given back with the answer.
        let next = async {
            room.acquire().await.ok()?.forget();
            Some(self.requests.next().await)
        };
        let next = tokio::select! {
            biased;
            () = self.stopping.cancelled() => return self.end_with(stopped(())),
            next = next => next,
        };
        let Some(request) = next? else {
            self.over = true;
            return None;
        };
        // A broken stream is told of when this line is dropped.
        match self.take(request.ok()?) {
            Ok(request) => Some(request),
            Err(status) => {
                tracing::error!(node = self.from.0, error = status.message(), "an append is malformed");
                self.end_with(status)
            }
        }
    }

    /// Ends by this node's own decision: the leader is told why.
    fn end_with<T>(&mut self, why: Status) -> Option<T> {
        *self.problem.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.over = true;
        None
    }

    fn take(&mut self, request: AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>, Status> {
        let request = codec::append_from_proto(request)?;
        check_sender(self.from, &request.vote)?;
        let leader = Leader {
            term: request.vote.leader_id.term,
            node_id: self.from.0,
        };
        self.heard.heard(leader);
        self.leader = Some(leader);
        Ok(request)
    }
}

impl Drop for AppendLine {
    fn drop(&mut self) {
        if let Some(leader) = self.leader.filter(|_| !self.over) {
            self.heard.broke(leader);
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_snapshot_that_does_not_go_on_is_given_up() {
        let head = SnapshotChunk {
            chunk: Some(Chunk::Head(SnapshotHead::default())),
        };
        let mut chunks = stream::iter([Ok(head)]).chain(stream::pending()).boxed();
        assert!(next_piece(&mut chunks).await.unwrap().is_some());
        assert_eq!(
            next_piece(&mut chunks).await.unwrap_err().code(),
            Code::DeadlineExceeded
        );
        let mut ended: MessageStream<SnapshotChunk> = stream::empty().boxed();
        assert!(next_piece(&mut ended).await.unwrap().is_none());
    }
}
