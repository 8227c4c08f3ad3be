//! One node, from its configuration to its open ports.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::watch};
use tokio_util::sync::CancellationToken;

use super::{
    ServerError, disk,
    fatal::{Fatal, follow_raft},
    http,
    introducer::Introducer,
    metrics::Metrics,
    opened::Opened,
    ports::{Listeners, Ports},
};
use crate::{
    config::Config,
    model::{Member, NodeId, NodeName},
    node::{
        Clock, MachineClock, Node, NodeParts,
        bootstrap::{self, Belonging, Founded, InitialCluster},
    },
    peer::{Peers, PeersConfig, Seat},
    raft::{InitializeError, Leadership, Raft, RaftOptions},
    service::{self, Api, Readiness},
    storage::{DataDir, Identity, LogStore, SnapshotStore},
    transport::Connector,
    watch::{Hub, HubLimits},
};

/// How often the health service is told how the node does.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// How long the restart waits for peers' answers to whether they belong to the same cluster.
const CHECK_MEMBERS_MAX: Duration = Duration::from_secs(2);

/// A node at work.
pub(super) struct RunningNode {
    node: Node,
    raft: Raft,
    log: LogStore,
    fatal: Fatal,
    ready: watch::Sender<bool>,
    client_address: String,
    ports: Ports,
}

impl RunningNode {
    /// Opens the data directory, joins the cluster, serves both ports.
    pub(super) async fn start(
        config: &Config,
        listeners: Listeners,
        raft_runtime: &Handle,
    ) -> Result<Self, ServerError> {
        let Listeners {
            client,
            peer,
            client_address,
            peer_address,
        } = listeners;
        let opened = Opened::open(config)?;
        if opened.identity.is_none() {
            config.check_initial_cluster()?;
        }
        let known = opened.identity.as_ref().map(|identity| Founded {
            cluster_id: identity.cluster_id,
            node_id: identity.node_id,
            members: Vec::new(),
        });
        let belonging = Belonging::new(config.name.clone(), client_address.clone(), known.clone(), opened.began);
        let store = opened.store(&config.name);
        let introducer = Introducer::new(belonging.clone(), store.clone());
        let ports = Ports::open(client, peer, introducer, raft_runtime);
        // It lives, whether it has a cluster yet or not.
        ports.health.set(Readiness::NotReady).await;

        let peers = Peers::new(PeersConfig {
            name: config.name.clone(),
            runtime: raft_runtime.clone(),
            connector: Connector::default(),
        });
        let listed = initial_cluster(config, &peer_address);
        let founds = !opened.began && listed.first().is_some_and(|(name, _)| *name == config.name);
        let found = match known {
            None => bootstrap::join_initial_cluster(&belonging, &listed, &peers, |found| store(found)).await?,
            Some(found) if founds => bootstrap::resume_founding(&belonging, &listed, &peers, found).await?,
            Some(found) => found,
        };
        if founds {
            bootstrap::tell_members(&config.name, &found, &peers).await?;
        }
        let Opened {
            data,
            log,
            snapshots,
            fatal,
            began,
            ..
        } = opened;
        let (node, raft) = start_node(config, &found, raft_runtime, (log.clone(), snapshots), peers.clone()).await?;
        if began {
            check_members(config, &found, raft.members(), &peers).await?;
        }
        ports.peers.take_seat(Seat {
            cluster_id: found.cluster_id,
            node_id: found.node_id,
            consensus: Arc::new(raft.clone()),
            forwards: Arc::new(service::Forwards::new(node.clone())),
        });
        if began {
            let greeting = greet_members(config.name.clone(), raft.clone(), peers);
            ports.tasks.spawn(node.stopping().run_until_cancelled_owned(greeting));
        }
        if founds {
            begin_log(&raft, &found).await?;
        }
        let running = Self {
            node,
            raft,
            log,
            fatal,
            ready: watch::Sender::new(false),
            client_address,
            ports,
        };
        running.attend(belonging, data);
        tracing::info!(
            node = %config.name,
            cluster_id = %found.cluster_id,
            client_addr = %running.client_address,
            "serving"
        );
        Ok(running)
    }

    /// Starts what looks after the node while it runs, and opens the API to clients.
    fn attend(&self, belonging: Arc<Belonging>, data: DataDir) {
        let Self {
            node,
            raft,
            log,
            fatal,
            ready,
            ports,
            ..
        } = self;
        let (tasks, stop) = (&ports.tasks, node.stopping());
        tasks.spawn(note_founding(belonging, raft.leadership(), stop.clone()));
        tasks.spawn(follow_raft(raft.fatal(), fatal.clone(), stop));
        tasks.spawn(http::keep_health(
            node.clone(),
            ports.health.clone(),
            ready.clone(),
            WATCH_EVERY,
        ));
        tasks.spawn(disk::watch(node.clone(), data, log.clone(), fatal.clone()));
        let metrics = Arc::new(Metrics::new(node.clone()));
        let api = Api::new(node.clone(), ports.health_service.clone());
        ports.clients.set(api.and(http::router(node.clone(), metrics)));
    }

    /// Where clients reach it.
    pub(super) fn client_address(&self) -> &str {
        &self.client_address
    }

    /// Returns when it would answer a linearizable read, and says so to whoever asks for its health.
    pub(super) async fn wait_ready(&self) {
        let mut ready = self.ready.subscribe();
        // The sender lives in `self`, so the channel can't close.
        let _ready = ready.wait_for(|ready| *ready).await;
    }

    /// Becomes `Some` when the node can't go on.
    pub(super) fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.fatal.subscribe()
    }

    /// Ends streams and connections, stops Raft, closes the log. With `hand_over`, hands leadership over first: of no
    /// use when the whole cluster goes down.
    pub(super) async fn shut_down(self, hand_over: bool) {
        if hand_over {
            self.node.hand_over().await;
        }
        self.node.shut_down().await;
        self.ports.stop.cancel();
        self.ports.tasks.close();
        self.ports.tasks.wait().await;
        self.raft.shutdown().await;
        self.ports.stop_peers.cancel();
        self.ports.peer_port.close();
        self.ports.peer_port.wait().await;
        // What is queued is written and synced; it waits for the disk, so not on a thread of the runtime.
        match tokio::task::spawn_blocking(move || self.log.flush_and_close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "could not close the log"),
            Err(error) => tracing::error!(%error, "could not close the log"),
        }
    }
}

/// Restores the state and starts Raft and the node.
async fn start_node(
    config: &Config,
    found: &Founded,
    raft_runtime: &Handle,
    (log, snapshots): (LogStore, SnapshotStore),
    peers: Arc<Peers>,
) -> Result<(Node, Raft), ServerError> {
    let clock: Arc<dyn Clock> = Arc::new(MachineClock);
    let hub = Hub::new(HubLimits::default());
    let identity = Identity {
        cluster_id: found.cluster_id,
        node_id: found.node_id,
        name: config.name.clone(),
    };
    let options = RaftOptions {
        timings: config.timings,
        kept_behind_snapshot: config.log_kept_records,
        snapshot_after_bytes: config.snapshot_after_bytes,
        ..RaftOptions::new(identity, raft_runtime.clone())
    };
    let raft = Raft::start(options, log, snapshots, hub.clone(), peers.clone()).await?;
    let node = Node::start(NodeParts {
        cluster_id: found.cluster_id,
        node_id: found.node_id,
        name: config.name.clone(),
        raft: raft.clone(),
        hub,
        peers,
        clock,
        quorum_timeout: config.timings.election_max,
    });
    Ok((node, raft))
}

/// Says to the other members that this node takes part. One of them may lead; or this one may, if its log is the longest.
async fn greet_members(name: NodeName, raft: Raft, peers: Arc<Peers>) {
    bootstrap::greet_members(name, raft.members(), peers).await;
    raft.elect_if_nobody_leads().await;
}

/// Begins the log with the cluster's first configuration.
async fn begin_log(raft: &Raft, found: &Founded) -> Result<(), ServerError> {
    match raft.initialize(&found.members).await {
        // A crash came between the first configuration and its being noticed.
        Ok(()) | Err(InitializeError::Begun) => Ok(()),
        Err(error) => Err(ServerError::Fatal(error.to_string())),
    }
}

/// Says in Hello that the cluster is at work, as soon as it has had a leader.
async fn note_founding(
    belonging: Arc<Belonging>,
    mut leadership: watch::Receiver<Leadership>,
    stop: CancellationToken,
) {
    tokio::select! {
        () = stop.cancelled() => {}
        elected = leadership.wait_for(|leadership| leadership.leader.is_some()) => {
            if elected.is_ok() {
                belonging.set_founded();
            }
        }
    }
}

/// The nodes as listed; without a list, this node alone.
fn initial_cluster(config: &Config, peer_address: &str) -> InitialCluster {
    if config.initial_cluster.is_empty() {
        vec![(config.name.clone(), peer_address.to_owned())]
    } else {
        config.initial_cluster.clone()
    }
}

/// Whether the members that the log names, and the nodes that the configuration lists, belong to the same cluster. The
/// list no longer says who is a member; but a node of another cluster at a listed address, under the listed name, tells
/// that this node was started with the wrong data directory.
async fn check_members(
    config: &Config,
    found: &Founded,
    mut members: Vec<Member>,
    peers: &Peers,
) -> Result<(), ServerError> {
    for (name, address) in &config.initial_cluster {
        if !members.iter().any(|member| member.peer_address == *address) {
            members.push(Member {
                node_id: NodeId(0),
                name: name.clone(),
                peer_address: address.clone(),
                client_address: String::new(),
                voter: false,
            });
        }
    }
    let check = bootstrap::check_members(&config.name, found.cluster_id, &members, peers);
    match tokio::time::timeout(CHECK_MEMBERS_MAX, check).await {
        Ok(checked) => Ok(checked?),
        // Members that don't answer can't be asked; each later connection is checked.
        Err(_elapsed) => Ok(()),
    }
}
