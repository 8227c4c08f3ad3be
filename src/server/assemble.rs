//! One node, from its configuration to its open ports.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{net::TcpListener, runtime::Handle, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ServerError, disk, http,
    introducer::{Introducer, Store},
    listener::{PortLimits, serve},
    metrics::Metrics,
    switch::Switch,
};
use crate::{
    config::Config,
    model::{Member, NodeId, NodeName},
    node::{
        Clock, MachineClock, Node, NodeParts,
        bootstrap::{self, Belonging, Founded, InitialCluster},
    },
    peer::{self, PeerService, Peers, PeersConfig, Seat},
    raft::{InitializeError, Leadership, Raft, RaftOptions},
    service::{self, HealthReporter, HealthService, Readiness},
    storage::{DataDir, Identity, LogStore, SnapshotStore, verify_whole},
    transport::Connector,
    watch::{Hub, HubLimits},
};

/// How often the health service is told how the node does.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// How long the restart waits for peers' answers to whether they belong to the same cluster.
const CHECK_MEMBERS_MAX: Duration = Duration::from_secs(2);

/// A node's two ports, bound.
pub(super) struct Listeners {
    client: TcpListener,
    peer: TcpListener,
    /// What clients are told.
    pub(super) client_address: String,
    /// What the other nodes are told.
    pub(super) peer_address: String,
}

impl Listeners {
    /// Binds both ports; refuses any address but loopback unless the configuration allows it.
    pub(super) async fn bind(config: &Config) -> Result<Self, ServerError> {
        let client = bind("client-addr", &config.client_addr, config.insecure).await?;
        let peer = bind("peer-addr", &config.peer_addr, config.insecure).await?;
        let address = |listener: &TcpListener, configured: &str, advertised: &Option<String>| match advertised {
            Some(advertised) => Ok(advertised.clone()),
            None => local_address(listener, configured),
        };
        let client_address = address(&client, &config.client_addr, &config.client_advertise)?;
        let peer_address = address(&peer, &config.peer_addr, &config.peer_advertise)?;
        Ok(Self {
            client,
            peer,
            client_address,
            peer_address,
        })
    }
}

/// The address as configured, with the port that was bound when it was 0.
fn local_address(listener: &TcpListener, configured: &str) -> Result<String, ServerError> {
    let bound = listener
        .local_addr()
        .map_err(ServerError::system("could not read a bound address"))?;
    let host = configured.rsplit_once(':').map_or(configured, |(host, _)| host);
    Ok(format!("{host}:{}", bound.port()))
}

async fn bind(setting: &'static str, address: &str, insecure: bool) -> Result<TcpListener, ServerError> {
    let refuse = |problem: String| ServerError::Listen {
        setting,
        address: address.to_owned(),
        problem,
    };
    let resolved: Vec<SocketAddr> = tokio::net::lookup_host(address)
        .await
        .map_err(|error| refuse(format!("can't be resolved: {error}")))?
        .collect();
    let loopback = |ip: IpAddr| ip.to_canonical().is_loopback();
    if !insecure && let Some(open) = resolved.iter().find(|address| !loopback(address.ip())) {
        return Err(refuse(format!(
            "{} is not a loopback address, and this version has neither encryption nor authentication: \
             whoever reaches the port controls the registry. Bind 127.0.0.1, or accept that with --insecure",
            open.ip()
        )));
    }
    TcpListener::bind(resolved.as_slice())
        .await
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                refuse("the port is in use: another process, perhaps another node, has it".into())
            }
            std::io::ErrorKind::PermissionDenied => {
                refuse("no permission to bind it: choose a port of 1024 or more".into())
            }
            _ => refuse(error.to_string()),
        })
}

/// Why the node can't go on, once something has said so; the first reason counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Fatal(watch::Sender<Option<String>>);

impl Fatal {
    /// Why, if something said so.
    #[cfg(test)]
    pub(super) fn reason(&self) -> Option<String> {
        self.0.borrow().clone()
    }

    /// Ends the node.
    pub(super) fn set(&self, reason: String) {
        self.0.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert(reason);
            is_first
        });
    }
}

async fn follow_raft(mut raft: watch::Receiver<Option<String>>, fatal: Fatal, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        failed = raft.wait_for(Option::is_some) => {
            if let Ok(reason) = failed {
                fatal.set(reason.clone().unwrap_or_default());
            }
        }
    }
}

/// A data directory, opened and checked.
struct Opened {
    data: DataDir,
    log: LogStore,
    snapshots: SnapshotStore,
    identity: Option<Identity>,
    fatal: Fatal,
    /// Whether the log has begun: else the node is new, whatever it was told.
    began: bool,
}

impl Opened {
    fn open(config: &Config) -> Result<Self, ServerError> {
        let data = DataDir::open(&config.data_dir)?;
        let fatal = Fatal::default();
        let log = {
            let fatal = fatal.clone();
            LogStore::open(&data, move |error| fatal.set(error.to_string()))?
        };
        let snapshots = SnapshotStore::open(&data)?;
        verify_whole(&log, &snapshots)?;
        let identity = own_identity(&data, config)?;
        let began = log.bounds().1.is_some() || snapshots.latest().is_some();
        Ok(Self {
            data,
            log,
            snapshots,
            identity,
            fatal,
            began,
        })
    }

    /// Makes durable to which cluster the node belongs.
    fn store(&self, name: &NodeName) -> Arc<Store> {
        let (data, name) = (self.data.clone(), name.clone());
        Arc::new(move |found: &Founded| {
            let identity = Identity {
                cluster_id: found.cluster_id,
                node_id: found.node_id,
                name: name.clone(),
            };
            data.save_identity(&identity).map_err(|error| error.to_string())
        })
    }
}

/// Both ports at work. Until the node has joined its cluster, the client port answers that it is not ready, and the
/// peer port who it is.
struct Ports {
    clients: Switch,
    peers: PeerService,
    health: HealthReporter,
    health_service: HealthService,
    stop: CancellationToken,
    stop_peers: CancellationToken,
    tasks: TaskTracker,
    peer_port: TaskTracker,
}

impl Ports {
    fn open(client: TcpListener, peer: TcpListener, introducer: Introducer, raft_runtime: &Handle) -> Self {
        let (health, health_service) = service::health();
        let ports = Self {
            clients: Switch::new(service::waiting_router(health_service.clone()).merge(http::waiting_router())),
            peers: PeerService::new(Arc::new(introducer)),
            health,
            health_service,
            stop: CancellationToken::new(),
            stop_peers: CancellationToken::new(),
            tasks: TaskTracker::new(),
            peer_port: TaskTracker::new(),
        };
        ports.tasks.spawn(serve(
            client,
            ports.clients.router(),
            PortLimits::of_clients(),
            ports.stop.clone(),
        ));
        let serving = serve_peers(peer, ports.peers.clone(), ports.stop_peers.clone());
        ports.peer_port.spawn_on(serving, raft_runtime);
        ports
    }
}

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
        if founds {
            match raft.initialize(&found.members).await {
                // A crash came between the first configuration and its being noticed.
                Ok(()) | Err(InitializeError::Begun) => {}
                Err(error) => return Err(ServerError::Fatal(error.to_string())),
            }
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
        let api = service::client_router(node.clone(), ports.health_service.clone());
        ports.clients.set(api.merge(http::router(node.clone(), metrics)));
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
        self.fatal.0.subscribe()
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

async fn serve_peers(listener: TcpListener, service: PeerService, stop: CancellationToken) {
    if let Err(error) = peer::serve(listener, service, stop.cancelled_owned()).await {
        tracing::error!(%error, "the peer port ended");
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

/// The identity that the data directory holds, if it is this node's.
fn own_identity(data: &DataDir, config: &Config) -> Result<Option<Identity>, ServerError> {
    let Some(identity) = data.identity() else {
        return Ok(None);
    };
    if identity.name == config.name {
        return Ok(Some(identity.clone()));
    }
    Err(ServerError::Identity(format!(
        "--data-dir {}: it belongs to node {} of cluster {}, but this node is {}: start {} with it, \
         or give {} a directory of its own",
        config.data_dir.display(),
        identity.name,
        identity.cluster_id,
        config.name,
        identity.name,
        config.name
    )))
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
