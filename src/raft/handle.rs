//! The handle: what the rooms above can ask of Raft.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::FutureExt as _;
use openraft::{
    Instant as _,
    async_runtime::watch::WatchReceiver as _,
    errors::{ClientWriteError, ForwardReason, ForwardToLeader, RaftError},
    raft::ClientWriteResult,
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::{
    sync::CancellationToken,
    task::{AbortOnDropHandle, TaskTracker},
};

use super::{
    Core, codec,
    error::{InitializeError, ProposeError, ReadIndexError, StartError},
    failover::{self, Heard},
    leadership::{self, Leadership},
    log::Log,
    machine::Machine,
    network::Exchange,
    options::{self, RaftOptions},
    progress::{Progress, StateAt},
    quarantine::Acknowledgements,
    read_index::{self, ReadIndexes, Voucher},
    status::{RaftStatus, Role, role_of, status_of},
    types::{CommittedLeader, LogEntry, NodeAddress, Proposal, Reply, TypeConfig},
};
use crate::{
    model::{LeaseTime, LogIndex, Member, NodeId, Term},
    peer::Peers,
    registry::{Applied, State},
    storage::{LogStorage, SnapshotStore},
    watch::Hub,
};

/// How soon openraft is told again that a snapshot is due.
const SNAPSHOT_RETRY: Duration = Duration::from_millis(100);
/// How often what is known of the peers' logs is stored.
const STORE_ACKNOWLEDGED_EVERY: Duration = Duration::from_secs(1);
/// How often a transfer of leadership looks whether it is done.
const TRANSFER_LOOK_EVERY: Duration = Duration::from_millis(10);
/// How long a shutdown waits for the leader's streams to end, and what came on them to be answered.
const LINES_END_MAX: Duration = Duration::from_secs(1);

/// One node's Raft; cheap to clone. It stops when the last clone is gone, or at [`Raft::shutdown`].
#[derive(Clone)]
pub struct Raft(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) node_id: NodeId,
    pub(super) core: Core,
    pub(super) log: Log,
    pub(super) snapshots: SnapshotStore,
    pub(super) heard: Arc<Heard>,
    /// One snapshot is received at a time.
    pub(super) receiving: Semaphore,
    /// One election is asked for at a time where nobody leads.
    pub(super) electing: Semaphore,
    pub(super) runtime: Handle,
    /// Nothing is taken from other nodes any more.
    pub(super) stopping: CancellationToken,
    /// Both ends of the streams of appends that openraft serves.
    pub(super) lines: TaskTracker,
    pub(super) hub: Arc<Hub>,
    progress: Arc<Progress>,
    reads: mpsc::Sender<read_index::Answer>,
    read_indexes: ReadIndexes,
    leadership: watch::Receiver<Leadership>,
    fatal: watch::Receiver<Option<String>>,
    tasks: Mutex<Vec<AbortOnDropHandle<()>>>,
}

/// What became of a proposal.
#[derive(Clone, Debug, PartialEq)]
pub struct Committed {
    /// Where it stands in the log.
    pub index: LogIndex,
    /// What it brought about; its changes have gone to the watchers.
    pub applied: Applied,
}

impl Raft {
    /// Restores the state from the latest snapshot and the log, and starts. The hub gets the restored state; `peers` is
    /// told who this node is, and the members as the log tells them.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(
        options: RaftOptions,
        log: impl LogStorage,
        snapshots: SnapshotStore,
        hub: Arc<Hub>,
        peers: Arc<Peers>,
    ) -> Result<Self, StartError> {
        let runtime = options.runtime.clone();
        let starting = runtime.spawn(Self::start_here(options, Arc::new(log), snapshots, hub, peers));
        starting.await.map_err(|_stopped| StartError::ShuttingDown)?
    }

    async fn start_here(
        options: RaftOptions,
        log: Arc<dyn LogStorage>,
        snapshots: SnapshotStore,
        hub: Arc<Hub>,
        peers: Arc<Peers>,
    ) -> Result<Self, StartError> {
        let node_id = options.identity.node_id;
        peers.belong_to(options.identity.cluster_id, node_id);
        let log = Log::new(log);
        let progress = Arc::new(Progress::new(options.snapshot_after_bytes));
        let acknowledgements = match log.acknowledged() {
            Some(bytes) => Acknowledgements::from_bytes(&bytes),
            None => Ok(Acknowledgements::default()),
        };
        let acknowledgements = acknowledgements.map_err(|error| StartError::Restore(error.to_string()))?;
        let acknowledgements = Arc::new(acknowledgements);
        let machine = Machine::new(Arc::clone(&hub), snapshots.clone(), log.clone(), Arc::clone(&progress));
        let exchange = Exchange {
            node_id,
            peers: Arc::clone(&peers),
            acknowledgements: Arc::clone(&acknowledgements),
        };
        let core = Core::new(node_id.0, options::config(&options)?, exchange, log.clone(), machine).await;
        let core = core.map_err(|error| StartError::Restore(error.to_string()))?;
        members_known(&core).await?;

        let (leadership_sender, leadership) = watch::channel(Leadership::default());
        let (fatal_sender, fatal) = watch::channel(None);
        let (heard, departed) = Heard::new();
        let heard = Arc::new(heard);
        let (reads, asked) = mpsc::channel(read_index::WAITING_MAX);
        let read_indexes = ReadIndexes {
            node_id,
            core: core.clone(),
            log: log.clone(),
            peers: Arc::clone(&peers),
            acknowledgements: Arc::clone(&acknowledgements),
        };
        let tasks = [
            tokio::spawn(leadership::follow(
                core.clone(),
                Arc::clone(&progress),
                peers,
                leadership_sender,
                fatal_sender,
                (Arc::clone(&heard), options.timings),
            )),
            tokio::spawn(failover::watch_departures(
                core.clone(),
                Arc::clone(&heard),
                departed,
                options.timings,
            )),
            tokio::spawn(take_snapshots(core.clone(), Arc::clone(&progress))),
            tokio::spawn(read_indexes.clone().answer(asked)),
            tokio::spawn(store_acknowledged(log.clone(), acknowledgements)),
        ];
        Ok(Self(Arc::new(Inner {
            node_id,
            core,
            log,
            snapshots,
            heard,
            receiving: Semaphore::new(1),
            electing: Semaphore::new(1),
            runtime: options.runtime,
            stopping: CancellationToken::new(),
            lines: TaskTracker::new(),
            hub,
            progress,
            reads,
            read_indexes,
            leadership,
            fatal,
            tasks: Mutex::new(tasks.into_iter().map(AbortOnDropHandle::new).collect()),
        })))
    }

    /// Begins the log with the cluster's first configuration and asks for election. To be called on one node, once.
    ///
    /// # Errors
    /// See [`InitializeError`]; `Begun` is no harm.
    pub async fn initialize(&self, members: &[Member]) -> Result<(), InitializeError> {
        use openraft::errors::InitializeError as Refused;
        let nodes: BTreeMap<u64, NodeAddress> = members
            .iter()
            .map(|member| (member.node_id.0, codec::address_of(member)))
            .collect();
        self.0.core.initialize(nodes).await.map_err(|error| match error {
            RaftError::APIError(Refused::NotAllowed(_)) => InitializeError::Begun,
            RaftError::APIError(Refused::NotInMembers(refused)) => InitializeError::Members(refused.to_string()),
            RaftError::Fatal(_) => InitializeError::ShuttingDown,
        })
    }

    /// Who leads in which term.
    #[must_use]
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.0.leadership.clone()
    }

    /// Proposes an entry for one term of this node's leadership. It is appended in the order of the calls, not of the
    /// polls; dropping the future gives up the answer, not the entry.
    pub fn propose<P: Into<Proposal>>(
        &self,
        term: Term,
        proposal: P,
    ) -> impl Future<Output = Result<Committed, ProposeError>> + Send + use<P> {
        let proposal = proposal.into();
        // Plant: watchers are given what was only proposed.
        planted!("uncommitted-change-delivered" => { self.publish_rashly(&proposal.entry); });
        let (reply, replied) = Reply::new();
        let write = self
            .0
            .core
            .write(LogEntry::new(proposal))
            .with_leader(CommittedLeader::new(term.0))
            .responder(reply);
        // Handing it over takes one poll, unless the core's queue is full; then, too, nothing was handed over. tokio's
        // turn-taking must not look like a full queue.
        let handed_over = tokio::task::unconstrained(write.into_future()).now_or_never();
        let handed_over = match handed_over {
            Some(Ok(())) => Ok(()),
            Some(Err(_stopped)) => Err(ProposeError::ShuttingDown),
            None if self.is_stopped() => Err(ProposeError::ShuttingDown),
            None => Err(ProposeError::NoQuorum),
        };
        async move {
            handed_over?;
            // openraft forgets an answer only when it stops, and then the entry may be anywhere.
            replied.await.map_or(Err(ProposeError::Unknown), committed)
        }
    }

    /// An index through which this node must have applied to answer a read that began before the call: a quorum
    /// confirmed, after it began, that this node leads. Calls that come while a confirmation is under way share the next.
    ///
    /// # Errors
    /// See [`ReadIndexError`].
    pub async fn read_index(&self) -> Result<LogIndex, ReadIndexError> {
        let (answer, answered) = oneshot::channel();
        if self.0.reads.send(answer).await.is_err() {
            return Err(ReadIndexError::ShuttingDown);
        }
        answered.await.unwrap_or(Err(ReadIndexError::ShuttingDown))
    }

    /// Whether this node's vote is `leader`'s in `term`, so that no later leader has had it by now: the last index of its
    /// log if so. A node that asks the leader for a read index says so with it, of a moment at which its readers already
    /// waited.
    #[must_use]
    pub fn vouch(&self, term: Term, leader: NodeId) -> Option<LogIndex> {
        if self.0.stopping.is_cancelled() {
            return None;
        }
        self.0.read_indexes.vouch(term, leader)
    }

    /// [`Raft::read_index`] for reads on another node that vouched for this node's leadership of `term`, when its log
    /// ended at `last`: where the two are a quorum, nobody else is asked.
    ///
    /// # Errors
    /// See [`ReadIndexError`].
    pub async fn read_index_vouched(&self, term: Term, by: NodeId, last: LogIndex) -> Result<LogIndex, ReadIndexError> {
        match self.0.read_indexes.vouched(Voucher { term, by, last }).await? {
            Some(index) => Ok(index),
            None => self.read_index().await,
        }
    }

    /// When the last message was *sent* that a quorum has answered, while this node leads: never later than the truth.
    #[must_use]
    pub fn last_quorum_ack(&self) -> Option<Instant> {
        // Read first, so that what is computed back from it can only be too early.
        let now = Instant::now();
        let metrics = self.0.core.metrics();
        let metrics = metrics.borrow_watched();
        if role_of(&metrics) != Role::Leader {
            return None;
        }
        let alone = metrics.membership_config.voter_ids().eq([self.0.node_id.0]);
        if alone {
            return Some(now);
        }
        now.checked_sub(metrics.last_quorum_acked.as_ref()?.elapsed())
    }

    /// The earliest deadline of any lease, as of the last entry applied here.
    #[must_use]
    pub fn next_deadline(&self) -> Option<LeaseTime> {
        self.0.progress.next_deadline()
    }

    /// What this node says of itself; needs no quorum.
    #[must_use]
    pub fn status(&self) -> RaftStatus {
        status_of(&self.0.core.metrics().borrow_watched())
    }

    /// The members, by the newest configuration in this node's log.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        codec::members_of(self.0.core.metrics().borrow_watched().membership_config.membership())
    }

    /// One member.
    #[must_use]
    pub fn member(&self, node_id: NodeId) -> Option<Member> {
        self.members().into_iter().find(|member| member.node_id == node_id)
    }

    /// The state at exactly this log index, once it is reached; `None` when it has passed or was jumped over by a
    /// snapshot, or when too many wait.
    pub async fn state_at(&self, index: LogIndex) -> Option<State> {
        let view = || {
            let view = self.0.hub.view();
            (view.applied, view.state.clone())
        };
        match self.0.progress.state_at(index, view) {
            StateAt::Known(state) => state.map(|state| *state),
            StateAt::Awaited(state) => state.await.ok(),
        }
    }

    /// Hands leadership to the voter that is furthest, if this node leads and one answers. Returns when another node
    /// leads, or after `patience`.
    pub async fn transfer_leadership(&self, patience: Duration) -> bool {
        let Some(to) = self.successor() else { return false };
        if self.0.core.trigger().transfer_leader(to).await.is_err() {
            return false;
        }
        let handed_over = async {
            loop {
                let leader = self.0.core.metrics().borrow_watched().current_leader;
                if leader.is_some_and(|leader| leader != self.0.node_id.0) {
                    return;
                }
                tokio::time::sleep(TRANSFER_LOOK_EVERY).await;
            }
        };
        tokio::time::timeout(patience, handed_over).await.is_ok()
    }

    /// Begins a snapshot now, unless one is being built.
    ///
    /// # Errors
    /// The node is shutting down, or has failed.
    pub async fn trigger_snapshot(&self) -> Result<(), ProposeError> {
        self.0
            .core
            .trigger()
            .snapshot()
            .await
            .map_err(|_stopped| ProposeError::ShuttingDown)
    }

    /// Says why, once Raft has failed: the process must end then.
    #[must_use]
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.0.fatal.clone()
    }

    /// Stops; returns when nothing runs any more. What was proposed and is not answered is unknown then. The log is
    /// its owner's to close.
    pub async fn shutdown(&self) {
        // Other nodes first: openraft calls it an error when their messages find its core gone.
        self.0.stopping.cancel();
        self.0.lines.close();
        // A stream that does not end in time costs that line in the log, no more.
        let _in_time = tokio::time::timeout(LINES_END_MAX, self.0.lines.wait()).await;
        if self.0.core.shutdown().await.is_err() {
            tracing::warn!("raft did not stop in order");
        }
        let tasks = std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            task.abort();
            // It ended by itself or by that.
            let _ended = task.await;
        }
    }

    fn is_stopped(&self) -> bool {
        self.0.core.metrics().borrow_watched().running_state.is_err()
    }

    /// The other voter that is furthest, among those that answered lately.
    fn successor(&self) -> Option<u64> {
        let metrics = self.0.core.metrics();
        let metrics = metrics.borrow_watched();
        let matched = metrics.replication.as_ref()?;
        let heard = metrics.heartbeat.as_ref()?;
        let lately = self.0.core.config().election_timeout_max;
        let answers = |id: &u64| {
            let sent = heard.get(id).and_then(Option::as_ref);
            sent.is_some_and(|sent| sent.elapsed() <= Duration::from_millis(lately))
        };
        let others = metrics
            .membership_config
            .voter_ids()
            .filter(|id| *id != metrics.id && answers(id));
        others.max_by_key(|id| matched.get(id).copied().flatten())
    }
}

fn committed(result: ClientWriteResult<TypeConfig>) -> Result<Committed, ProposeError> {
    match result {
        Ok(written) => Ok(Committed {
            index: LogIndex(written.log_id.index()),
            applied: written.data,
        }),
        // Only this variant says that nothing was appended; a discarded entry may be committed all the same.
        Err(ClientWriteError::ForwardToLeader(ForwardToLeader { leader_id, reason, .. })) => Err(match reason {
            ForwardReason::LeaseExpired => ProposeError::NoQuorum,
            ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                let leader = leader_id.map(NodeId);
                ProposeError::NotLeader { leader }
            }
        }),
        Err(
            ClientWriteError::LogEntryDiscarded(_)
            | ClientWriteError::ChangeMembershipError(_)
            | ClientWriteError::PreconditionFailed(_),
        ) => Err(ProposeError::Unknown),
    }
}

/// Returns when the metrics, from which others read the members, have those of the log.
async fn members_known(core: &Core) -> Result<(), StartError> {
    let configured = core
        .with_raft_state(|state| *state.membership_state.effective().log_id())
        .await;
    let configured = configured.map_err(|_stopped| StartError::ShuttingDown)?;
    let mut metrics = core.metrics();
    while *metrics.borrow_and_update().membership_config.log_id() != configured {
        metrics.changed().await.map_err(|_stopped| StartError::ShuttingDown)?;
    }
    Ok(())
}

/// Begins a snapshot whenever apply says that one is due. openraft builds one at a time; what it is told meanwhile comes
/// to nothing, so it is told now and then.
async fn take_snapshots(core: Core, progress: Arc<Progress>) {
    loop {
        progress.snapshot_due().await;
        if core.trigger().snapshot().await.is_err() {
            return;
        }
        tokio::time::sleep(SNAPSHOT_RETRY).await;
    }
}

/// Stores now and then what is known of the peers' logs.
async fn store_acknowledged(log: Log, acknowledgements: Arc<Acknowledgements>) {
    loop {
        tokio::time::sleep(STORE_ACKNOWLEDGED_EVERY).await;
        if let Some(bytes) = acknowledgements.to_store() {
            log.store_acknowledged(bytes);
        }
    }
}
