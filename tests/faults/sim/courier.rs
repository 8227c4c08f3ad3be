//! Between the peer port and Raft: writes down every message that arrives, and brings some a second time, later, when
//! the stream on which they came may long be gone.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream};
use prost::Message;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use roster::{
    model::NodeId,
    peer::{Consensus, MessageStream},
    raft::Raft,
    wire::internal::{
        AppendRequest, AppendResponse, SnapshotChunk, SnapshotResponse, TransferLeaderRequest, TransferLeaderResponse,
        VoteRequest, VoteResponse,
    },
};
use tonic::Status;

use super::trace::{Trace, digest};

/// How late a message comes the second time, at the most.
const LATE_MAX_MS: u64 = 2_000;

/// How many of a million messages come twice.
#[derive(Clone, Debug, Default)]
pub(super) struct Twice(Arc<AtomicU64>);

impl Twice {
    /// From now on so many do.
    pub(super) fn set(&self, of_a_million: u64) {
        self.0.store(of_a_million, Ordering::Relaxed);
    }
}

/// Stands before one life of one node.
#[derive(Clone)]
pub(super) struct Courier {
    name: Arc<str>,
    raft: Raft,
    trace: Trace,
    twice: Twice,
    rng: Arc<Mutex<StdRng>>,
}

impl Courier {
    pub(super) fn new(name: &str, raft: Raft, trace: Trace, twice: Twice, seed: u64) -> Self {
        Self {
            name: name.into(),
            raft,
            trace,
            twice,
            rng: Arc::new(Mutex::new(StdRng::seed_from_u64(seed))),
        }
    }

    fn note(&self, what: &str, from: NodeId, message: &impl Message) {
        let bytes = message.encode_to_vec();
        self.trace.note(format_args!(
            "{} gets {what} of {from}: {:016x}",
            self.name,
            digest(&bytes)
        ));
    }

    /// How long after the first time it comes again; `None` = it does not.
    fn again(&self) -> Option<Duration> {
        let of_a_million = self.twice.0.load(Ordering::Relaxed);
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let comes = of_a_million > 0 && rng.random_range(0..1_000_000) < of_a_million;
        comes.then(|| Duration::from_millis(rng.random_range(0..LATE_MAX_MS)))
    }

    /// Takes an append as it comes; the same one may come once more, alone.
    fn take(&self, from: NodeId, request: &AppendRequest) {
        self.note("append", from, request);
        if let Some(later) = self.again() {
            let (courier, request) = (self.clone(), request.clone());
            tokio::spawn(async move {
                tokio::time::sleep(later).await;
                courier.note("append again", from, &request);
                let mut answers = courier.raft.append(from, stream::iter([Ok(request)]).boxed());
                // Nobody waits for these.
                while answers.next().await.is_some() {}
            });
        }
    }
}

impl Consensus for Courier {
    fn vote(&self, from: NodeId, request: VoteRequest) -> BoxFuture<'static, Result<VoteResponse, Status>> {
        self.note("vote", from, &request);
        if let Some(later) = self.again() {
            let (courier, request) = (self.clone(), request.clone());
            tokio::spawn(async move {
                tokio::time::sleep(later).await;
                courier.note("vote again", from, &request);
                // The candidate never sees this answer.
                let _unseen = courier.raft.vote(from, request).await;
            });
        }
        self.raft.vote(from, request)
    }

    fn append(&self, from: NodeId, requests: MessageStream<AppendRequest>) -> MessageStream<AppendResponse> {
        let courier = self.clone();
        let requests = requests.inspect(move |request| {
            if let Ok(request) = request {
                courier.take(from, request);
            }
        });
        self.raft.append(from, requests.boxed())
    }

    fn install_snapshot(
        &self,
        from: NodeId,
        chunks: MessageStream<SnapshotChunk>,
    ) -> BoxFuture<'static, Result<SnapshotResponse, Status>> {
        let courier = self.clone();
        let chunks = chunks.inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                courier.note("snapshot", from, chunk);
            }
        });
        self.raft.install_snapshot(from, chunks.boxed())
    }

    fn transfer_leader(
        &self,
        from: NodeId,
        request: TransferLeaderRequest,
    ) -> BoxFuture<'static, Result<TransferLeaderResponse, Status>> {
        self.note("transfer", from, &request);
        self.raft.transfer_leader(from, request)
    }
}
