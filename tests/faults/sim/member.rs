//! One node of the simulated cluster: what `server` assembles, on a simulated disk, clock and network.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use roster::{
    model::{ClusterId, Member, NodeId},
    node::{Clock, Node, NodeParts, bootstrap},
    peer::{self, Introduction, PeerService, Peers, PeersConfig, Seat},
    raft::{InitializeError, Raft, RaftOptions},
    service::{self, Api},
    storage::{DataDir, Identity, SnapshotStore},
    watch::{Hub, HubLimits},
    wire::internal::{FoundRequest, FoundResponse, HelloRequest, HelloResponse},
};
use tokio::runtime::Handle;

use super::{
    clock::BentClock,
    courier::{Alarms, Counts, Courier},
    disk::Disk,
    network::{self, Streams},
    trace::Trace,
};
use crate::recorder::Recorder;

/// Where nodes call each other.
pub(super) const PEER_PORT: u16 = 7401;
/// Where clients call.
pub(super) const CLIENT_PORT: u16 = 7402;
/// HTTP/2 streams on one connection of a client.
const STREAMS_MAX: u32 = 1_024;

/// One machine and what runs on it; clones share it. It outlives its node's crashes.
#[derive(Clone)]
pub(super) struct Machine(Arc<Inner>);

pub(super) struct Inner {
    pub(super) name: String,
    pub(super) node_id: NodeId,
    pub(super) cluster_id: ClusterId,
    pub(super) founders: Vec<Member>,
    pub(super) disk: Disk,
    pub(super) folder: DataDir,
    pub(super) clock: BentClock,
    pub(super) streams: Streams,
    pub(super) trace: Trace,
    pub(super) counts: Counts,
    pub(super) alarms: Alarms,
    pub(super) recorder: Recorder,
    pub(super) kept_behind_snapshot: u64,
    pub(super) seed: u64,
    running: Mutex<Option<Running>>,
    lives: AtomicU64,
    exited: AtomicBool,
}

/// What runs in one life.
#[derive(Clone)]
pub(super) struct Running {
    pub(super) node: Node,
    pub(super) life: u64,
}

/// What a machine is made of.
pub(super) struct MachineParts {
    pub(super) name: String,
    pub(super) node_id: NodeId,
    pub(super) cluster_id: ClusterId,
    pub(super) founders: Vec<Member>,
    pub(super) folder: DataDir,
    pub(super) clock: BentClock,
    pub(super) streams: Streams,
    pub(super) trace: Trace,
    pub(super) counts: Counts,
    pub(super) alarms: Alarms,
    pub(super) recorder: Recorder,
    pub(super) kept_behind_snapshot: u64,
    pub(super) seed: u64,
}

impl std::ops::Deref for Machine {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Machine {
    pub(super) fn new(parts: MachineParts) -> Self {
        Self(Arc::new(Inner {
            disk: Disk::new(parts.seed),
            name: parts.name,
            node_id: parts.node_id,
            cluster_id: parts.cluster_id,
            founders: parts.founders,
            folder: parts.folder,
            clock: parts.clock,
            streams: parts.streams,
            trace: parts.trace,
            counts: parts.counts,
            alarms: parts.alarms,
            recorder: parts.recorder,
            kept_behind_snapshot: parts.kept_behind_snapshot,
            seed: parts.seed,
            running: Mutex::default(),
            lives: AtomicU64::new(0),
            exited: AtomicBool::new(false),
        }))
    }

    /// What runs now, once it has started.
    pub(super) fn running(&self) -> Option<Running> {
        self.slot().clone()
    }

    /// Whether the node gave up by itself, as a process that exits.
    pub(super) fn has_exited(&self) -> bool {
        self.exited.load(Ordering::Relaxed)
    }

    /// To be called before the host crashes: nothing of the node may be held elsewhere.
    pub(super) fn let_go(&self) {
        drop(self.slot().take());
        self.exited.store(false, Ordering::Relaxed);
    }

    /// One life of the node, until its disk or its Raft fails.
    pub(super) async fn live(self) -> turmoil::Result {
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        self.trace.note(format_args!("{} starts its life {life}", self.name));
        let failed = match self.start(life).await {
            Ok(raft) => {
                let mut fatal = raft.fatal();
                drop(raft);
                tokio::select! {
                    () = self.disk.wait_failed() => "its disk failed".to_owned(),
                    failed = fatal.wait_for(Option::is_some) => match failed {
                        Ok(reason) => reason.clone().unwrap_or_default(),
                        Err(_gone) => "Raft is gone".to_owned(),
                    },
                }
            }
            // What a restart can't take is no fault of the simulation: it is told as the run's failure.
            Err(problem) if !self.disk.has_failed() => return Err(format!("starts: {}: {problem}", self.name).into()),
            Err(problem) => problem,
        };
        self.trace.note(format_args!("{} exits: {failed}", self.name));
        self.exited.store(true, Ordering::Relaxed);
        std::future::pending().await
    }

    async fn start(&self, life: u64) -> Result<Raft, String> {
        let service = PeerService::new(Arc::new(Introducer(self.name.clone())));
        let connections = network::listen(PEER_PORT).await.map_err(text)?;
        tokio::spawn({
            let service = service.clone();
            async move { peer::serve_connections(connections, service, std::future::pending()).await }
        });
        let (raft, hub, peers) = self.start_raft().await?;
        let timings = RaftOptions::new(self.identity(), Handle::current()).timings;
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let node = Node::start(NodeParts {
            cluster_id: self.cluster_id,
            node_id: self.node_id,
            name: self.identity().name,
            raft: raft.clone(),
            hub,
            peers: peers.clone(),
            clock,
            quorum_timeout: timings.election_max,
        });
        let courier = Courier::new(self, raft.clone(), life);
        service.take_seat(Seat {
            cluster_id: self.cluster_id,
            node_id: self.node_id,
            consensus: Arc::new(courier),
            forwards: Arc::new(service::Forwards::new(node.clone())),
        });
        tokio::spawn(serve_clients(node.clone()));
        if self.disk.has_begun() {
            let (name, raft) = (self.identity().name, raft.clone());
            tokio::spawn(async move {
                bootstrap::greet_members(name, raft.members(), peers).await;
                raft.elect_if_nobody_leads().await;
            });
        }
        if self.founders.first().is_some_and(|first| first.node_id == self.node_id) && !self.disk.has_begun() {
            match raft.initialize(&self.founders).await {
                Ok(()) | Err(InitializeError::Begun | InitializeError::ShuttingDown) => {}
                Err(error) => return Err(text(error)),
            }
        }
        *self.slot() = Some(Running { node, life });
        Ok(raft)
    }

    async fn start_raft(&self) -> Result<(Raft, Arc<Hub>, Arc<Peers>), String> {
        let log = self.disk.open();
        let snapshots = SnapshotStore::open(&self.folder).map_err(text)?;
        let covered = snapshots.latest().map(|latest| latest.index);
        if self.disk.purged_through() > covered {
            let purged = self.disk.purged_through();
            return Err(format!(
                "the log was purged through {purged:?}, the snapshot covers {covered:?}"
            ));
        }
        // Little history, so that some who resume find it gone.
        let history_changes = usize::try_from(self.kept_behind_snapshot).unwrap_or(usize::MAX);
        let hub = Hub::new(HubLimits {
            history_changes,
            ..HubLimits::default()
        });
        let peers = Peers::new(PeersConfig {
            name: self.identity().name,
            runtime: Handle::current(),
            connector: self.streams.connector(&self.name),
        });
        let options = RaftOptions {
            kept_behind_snapshot: self.kept_behind_snapshot,
            ..RaftOptions::new(self.identity(), Handle::current())
        };
        let raft = Raft::start(options, log, snapshots, hub.clone(), peers.clone()).await;
        Ok((raft.map_err(text)?, hub, peers))
    }

    fn identity(&self) -> Identity {
        let name = self.founders.iter().find(|member| member.node_id == self.node_id);
        Identity {
            cluster_id: self.cluster_id,
            node_id: self.node_id,
            name: name.expect("a machine is one of the founders").name.clone(),
        }
    }

    fn slot(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}

/// The client port, as `server` serves it but for its limits on connections.
async fn serve_clients(node: Node) -> io::Result<()> {
    let (_reporter, health) = service::health();
    let api = Api::new(node, health);
    let mut connections = Box::pin(network::listen(CLIENT_PORT).await?);
    while let Some(connection) = connections.next().await {
        let (connection, service) = (connection?, TowerToHyperService::new(api.clone()));
        tokio::spawn(async move {
            let mut builder = Builder::new(TokioExecutor::new()).http2_only();
            builder
                .http2()
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS_MAX);
            // A connection that broke is the other end's business.
            let _broken = builder.serve_connection(TokioIo::new(connection), service).await;
        });
    }
    Ok(())
}

/// The cluster of a simulation is founded before it begins.
struct Introducer(String);

impl Introduction for Introducer {
    fn hello(&self, _request: HelloRequest) -> HelloResponse {
        HelloResponse {
            name: self.0.clone(),
            ..HelloResponse::default()
        }
    }

    fn found(&self, _request: FoundRequest) -> BoxFuture<'static, Result<FoundResponse, tonic::Status>> {
        async { Err(tonic::Status::failed_precondition("founded already")) }.boxed()
    }
}
