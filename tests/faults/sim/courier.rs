//! Between the peer port and Raft: writes down every message that arrives, and brings some a second time, later, when
//! the stream on which they came may long be gone.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
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
        AppendRequest, AppendResponse, LogId, LogRecord, SnapshotChunk, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, Vote, VoteRequest, VoteResponse, append_response,
    },
};
use tonic::Status;

use super::{
    disk::{Disk, Holding},
    member::Machine,
    overlap::Overlap,
    trace::{Trace, digest},
};
use crate::{
    history::{Event, Fault},
    recorder::Recorder,
};

/// How late a message comes the second time, at the most.
const LATE_MAX_MS: u64 = 2_000;

/// How many of a million messages come twice, and how many snapshots came.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    twice_of_a_million: Mutex<Overlap<u64>>,
    snapshots: AtomicU64,
}

impl Counts {
    /// From now on so many come twice; by the number it is undone.
    pub(super) fn begin_twice(&self, of_a_million: u64) -> u64 {
        self.twice().begin(of_a_million)
    }

    /// Undoes one [`Counts::begin_twice`].
    pub(super) fn end_twice(&self, number: u64) {
        self.twice().end(number);
    }

    fn twice(&self) -> MutexGuard<'_, Overlap<u64>> {
        self.0.twice_of_a_million.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Snapshots that some node was sent, whole or not.
    pub(super) fn snapshots_sent(&self) -> u64 {
        self.0.snapshots.load(Ordering::Relaxed)
    }
}

/// Stands before one life of one node.
#[derive(Clone)]
pub(super) struct Courier {
    name: Arc<str>,
    raft: Raft,
    trace: Trace,
    counts: Counts,
    disk: Disk,
    alarms: Alarms,
    recorder: Recorder,
    rng: Arc<Mutex<StdRng>>,
}

/// What was seen that must not be; the first counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Alarms(Arc<Mutex<Option<String>>>);

impl Alarms {
    fn raise(&self, problem: String) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get_or_insert(problem);
    }

    /// The first problem.
    pub(super) fn first(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Courier {
    pub(super) fn new(machine: &Machine, raft: Raft, life: u64) -> Self {
        let seed = machine.seed ^ life;
        Self {
            name: machine.name.as_str().into(),
            raft,
            trace: machine.trace.clone(),
            counts: machine.counts.clone(),
            disk: machine.disk.clone(),
            alarms: machine.alarms.clone(),
            recorder: machine.recorder.clone(),
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

    /// A vote is on the disk before anyone hears of it.
    fn check_vote(&self, granted: Option<Vote>) {
        let key = |vote: Option<Vote>| vote.map(|vote| (vote.term, vote.node_id));
        let kept = self.disk.vote();
        let elected = kept.is_some_and(|vote| vote.committed);
        let (granted, kept) = (key(granted), key(kept));
        let terms = (kept.map(|(term, _)| term), granted.map(|(term, _)| term));
        // What has come since takes its place: a later term, or whoever was elected in this one.
        let since = terms.0 > terms.1 || (terms.0 == terms.1 && elected);
        if granted != kept && !since {
            self.alarm(format!(
                "D1: {} grants the vote {granted:?}, and its disk holds {kept:?}",
                self.name
            ));
        }
    }

    /// So is what a node says that it has to the leader of a term: that very record, not another one at its index.
    fn check_append(&self, answer: &Result<AppendResponse, Status>, to: u64) {
        let Ok(AppendResponse {
            result: Some(append_response::Result::Matched(LogId { term, index, .. })),
        }) = answer
        else {
            return;
        };
        let held = match self.disk.holding(*index) {
            Holding::Record(bytes) => match LogRecord::decode(bytes.as_ref()) {
                Ok(held) if held.term == *term => return,
                Ok(held) => format!("one of term {}", held.term),
                Err(error) => format!("none that can be read ({error})"),
            },
            Holding::Purged => return,
            Holding::Nothing => "none".to_owned(),
        };
        // A later leader may have put its own records there before the answer went out.
        let since = self.disk.term_in_view() > to;
        if !since && !self.covers(*index) {
            self.alarm(format!(
                "D1: {} acknowledges the record of term {term} at {index} to the leader of term {to}, and its disk holds \
                 {held} there",
                self.name
            ));
        }
    }

    /// A snapshot that was installed covers what was not purged yet.
    fn covers(&self, index: u64) -> bool {
        self.raft
            .status()
            .snapshot_index
            .is_some_and(|covered| covered.0 >= index)
    }

    /// Tells the checkers that a snapshot was taken: no harm is done.
    fn note_installed(&self) {
        let now = self.recorder.now();
        self.recorder.record(Event::Fault(Fault {
            kind: "snapshot_installed".to_owned(),
            nodes: vec![self.name.to_string()],
            hit_leader: false,
            majority_left: true,
            from: now,
            until: Some(now),
            details: String::new(),
        }));
    }

    fn alarm(&self, problem: String) {
        self.trace.note(&problem);
        self.alarms.raise(problem);
    }

    /// How long after the first time it comes again; `None` = it does not.
    fn again(&self) -> Option<Duration> {
        let of_a_million = self.counts.twice().now().copied().unwrap_or(0);
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
            let courier = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(later).await;
                courier.note("vote again", from, &request);
                // The candidate never sees this answer.
                let _unseen = courier.raft.vote(from, request).await;
            });
        }
        let (courier, answer) = (self.clone(), self.raft.vote(from, request));
        Box::pin(async move {
            let answer = answer.await?;
            if answer.granted && !request.pre_vote {
                courier.check_vote(request.vote);
            }
            Ok(answer)
        })
    }

    fn append(&self, from: NodeId, requests: MessageStream<AppendRequest>) -> MessageStream<AppendResponse> {
        // The stream is of one leadership.
        let (courier, begun) = (self.clone(), Arc::<OnceLock<u64>>::default());
        let term = Arc::clone(&begun);
        let requests = requests.inspect(move |request| {
            if let Ok(request) = request {
                term.get_or_init(|| request.vote.map_or(0, |vote| vote.term));
                courier.take(from, request);
            }
        });
        let courier = self.clone();
        let answers = self.raft.append(from, requests.boxed());
        let checked = answers.inspect(move |answer| {
            if let Some(term) = begun.get() {
                courier.check_append(answer, *term);
            }
        });
        checked.boxed()
    }

    fn install_snapshot(
        &self,
        from: NodeId,
        chunks: MessageStream<SnapshotChunk>,
    ) -> BoxFuture<'static, Result<SnapshotResponse, Status>> {
        self.counts.0.snapshots.fetch_add(1, Ordering::Relaxed);
        let courier = self.clone();
        let chunks = chunks.inspect(move |chunk| {
            if let Ok(chunk) = chunk {
                courier.note("snapshot", from, chunk);
            }
        });
        let (courier, answer) = (self.clone(), self.raft.install_snapshot(from, chunks.boxed()));
        Box::pin(async move {
            let answer = answer.await?;
            courier.note_installed();
            Ok(answer)
        })
    }

    fn greeted(&self, from: NodeId) -> BoxFuture<'static, ()> {
        self.raft.greeted(from)
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
