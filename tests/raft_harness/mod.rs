//! Nodes of a cluster in one process: real sockets, real disks, a runtime for each, so that one can be killed.

#[path = "../loopback/mod.rs"]
mod loopback;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use roster::{
    model::{
        ClusterId, Hold, Incarnation, InstanceId, InstanceKey, InstanceSpec, LeaseTime, LogIndex, Member, Namespace,
        NodeId, NodeName, Scope, Selector, ServiceName, Status, Term,
    },
    peer::{self, ForwardHandler, Introduction, PeerService, Peers, PeersConfig, Seat},
    raft::{Committed, ProposeError, Raft, RaftOptions, Timings},
    registry::{Command, Entry, Register},
    storage::{DataDir, Identity, LogStore, OpenError, SnapshotStore},
    transport::Connector,
    watch::{Hub, HubLimits},
    wire::{
        internal::{
            ForwardRequest, ForwardResponse, FoundRequest, FoundResponse, HelloRequest, HelloResponse, PassPageRequest,
            PassPageResponse,
        },
        snapshot::write_item,
    },
};
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// Longer than anything here takes, on a busy machine too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The cluster's id.
pub(crate) const CLUSTER: u64 = 0xc0ffee;

/// Polls until something holds.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) struct Node {
    pub(crate) node_id: NodeId,
    pub(crate) raft: Raft,
    pub(crate) hub: Arc<Hub>,
    pub(crate) peers: Arc<Peers>,
    runtime: Option<Runtime>,
}

impl Node {
    /// Everything that runs in it stops where it stands, and its sockets close, as at a kill -9. What was handed to
    /// the disk reaches it.
    pub(crate) fn kill(mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// A hash of the whole state would do; its bytes do as well.
    pub(crate) fn content(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for item in self.hub.view().state.items() {
            write_item(&mut bytes, &item).unwrap();
        }
        bytes
    }

    /// The ids of the instances that it holds.
    pub(crate) fn instances(&self) -> impl Iterator<Item = String> {
        let view = self.hub.view();
        let all = Selector {
            namespace: None,
            scope: Scope::All,
            serving: false,
            matches: vec![],
        };
        let ids: Vec<_> = view
            .state
            .select(&all, None)
            .map(|instance| instance.key().id.to_string())
            .collect();
        ids.into_iter()
    }

    pub(crate) fn applied(&self) -> LogIndex {
        self.hub.view().applied
    }

    /// The term in which it leads and may stamp.
    pub(crate) fn lead(&self) -> Option<Term> {
        self.raft.leadership().borrow().lead.map(|lead| lead.term)
    }

    /// Waits until it has applied an index.
    pub(crate) async fn reaches(&self, index: LogIndex) {
        let reached = tokio::time::timeout(PATIENCE, self.hub.wait_applied(index)).await;
        assert!(
            reached.is_ok(),
            "node {} never reached {index}: {:?}",
            self.node_id,
            self.raft.status()
        );
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub(crate) struct Cluster {
    folder: TempDir,
    members: Vec<Member>,
    /// 0 = as it is by default.
    pub(crate) kept_behind_snapshot: u64,
    /// Connections to other nodes that were asked for.
    pub(crate) dialled: Arc<AtomicUsize>,
    pub(crate) hub_limits: HubLimits,
    pub(crate) timings: Timings,
    pub(crate) nodes: Vec<Option<Node>>,
}

impl Cluster {
    /// So many nodes, begun by the first.
    pub(crate) async fn of(size: u64) -> Self {
        let mut cluster = Self::stopped(size);
        for at in 0..cluster.members.len() {
            cluster.start(at).await;
        }
        cluster.node(0).raft.initialize(&cluster.members).await.unwrap();
        cluster
    }

    /// So many nodes, none started.
    pub(crate) fn stopped(size: u64) -> Self {
        let member = |id| Member {
            node_id: NodeId(id),
            name: NodeName::parse(&format!("n{id}")).unwrap(),
            peer_address: loopback::free_address().to_string(),
            client_address: String::new(),
            voter: true,
        };
        let members: Vec<Member> = (1..=size).map(member).collect();
        Self {
            folder: tempfile::tempdir().unwrap(),
            nodes: members.iter().map(|_| None).collect(),
            kept_behind_snapshot: 0,
            dialled: Arc::default(),
            hub_limits: HubLimits::default(),
            timings: Timings::default(),
            members,
        }
    }

    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(crate) fn folder(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("n{}", at + 1))
    }

    /// Starts a node that does nothing for the other nodes' clients.
    pub(crate) async fn start(&mut self, at: usize) {
        self.start_with(at, Arc::new(Nobody)).await;
    }

    /// Starts a node; `forwards` answers what the others pass on to it.
    pub(crate) async fn start_with(&mut self, at: usize, forwards: Arc<dyn ForwardHandler>) {
        let member = self.members[at].clone();
        let identity = Identity {
            cluster_id: ClusterId::new(CLUSTER).unwrap(),
            node_id: member.node_id,
            name: member.name.clone(),
        };
        let folder = self.folder(at);
        let data_dir = eventually("the data directory is free", async || open(&folder)).await;
        data_dir.save_identity(&identity).unwrap();
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let handle = runtime.handle().clone();
        let log = LogStore::open(&data_dir, |error| eprintln!("the log failed: {error}")).unwrap();
        let snapshots = SnapshotStore::open(&data_dir).unwrap();
        let hub = Hub::new(self.hub_limits);
        let peers = Peers::new(PeersConfig {
            name: member.name.clone(),
            runtime: handle.clone(),
            connector: counting(&self.dialled),
        });
        let mut options = RaftOptions {
            timings: self.timings,
            ..RaftOptions::new(identity.clone(), handle.clone())
        };
        if self.kept_behind_snapshot > 0 {
            options.kept_behind_snapshot = self.kept_behind_snapshot;
        }
        let raft = Raft::start(options, log, snapshots, Arc::clone(&hub), Arc::clone(&peers))
            .await
            .unwrap();
        let service = PeerService::new(Arc::new(Stranger));
        service.take_seat(Seat {
            cluster_id: identity.cluster_id,
            node_id: identity.node_id,
            consensus: Arc::new(raft.clone()),
            forwards,
        });
        let listener = eventually("the port is free", async || {
            std::net::TcpListener::bind(&member.peer_address).ok()
        })
        .await;
        listener.set_nonblocking(true).unwrap();
        handle.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            peer::serve(listener, service, std::future::pending()).await.unwrap();
        });
        self.nodes[at] = Some(Node {
            node_id: member.node_id,
            raft,
            hub,
            peers,
            runtime: Some(runtime),
        });
    }

    pub(crate) fn kill(&mut self, at: usize) {
        self.nodes[at].take().expect("it runs").kill();
    }

    pub(crate) fn node(&self, at: usize) -> &Node {
        self.nodes[at].as_ref().expect("it runs")
    }

    pub(crate) fn running(&self) -> impl Iterator<Item = &Node> {
        self.nodes.iter().flatten()
    }

    /// Waits until one of the nodes that run leads.
    pub(crate) async fn leader(&self) -> (usize, Term) {
        eventually("a leader", async || {
            let leads = |(at, node): (usize, &Option<Node>)| Some((at, node.as_ref()?.lead()?));
            self.nodes.iter().enumerate().find_map(leads)
        })
        .await
    }

    /// A running node that does not lead.
    pub(crate) async fn follower(&self) -> usize {
        let (leader, _) = self.leader().await;
        let mut others = (0..self.nodes.len()).filter(|&at| at != leader && self.nodes[at].is_some());
        others.next_back().expect("there is one")
    }

    /// Proposes an entry with whoever leads, again as long as it is certain that it was not appended.
    pub(crate) async fn commit(&self, entry: Entry) -> Committed {
        eventually("a commit", async || {
            let (at, term) = self.leader().await;
            match self.node(at).raft.propose(term, entry.clone()).await {
                Ok(committed) => Some(committed),
                Err(ProposeError::NotLeader { .. } | ProposeError::NoQuorum) => None,
                Err(error) => panic!("{error}"),
            }
        })
        .await
    }

    /// Registers instances `numbers`, several entries in flight; returns the last index.
    pub(crate) async fn register(&self, numbers: std::ops::Range<u64>) -> LogIndex {
        let (at, term) = self.leader().await;
        let raft = &self.node(at).raft;
        let proposals: Vec<_> = numbers
            .map(|number| (number, raft.propose(term, registering(number))))
            .collect();
        let mut last = LogIndex(0);
        for (number, proposal) in proposals {
            let committed = match proposal.await {
                Ok(committed) => committed,
                Err(ProposeError::NotLeader { .. } | ProposeError::NoQuorum) => self.commit(registering(number)).await,
                Err(error) => panic!("{number}: {error}"),
            };
            assert!(committed.applied.replies[0].result.is_ok());
            last = last.max(committed.index);
        }
        last
    }

    /// Waits until all running nodes have applied an index, and compares their whole states.
    pub(crate) async fn agree_at(&self, index: LogIndex) {
        for node in self.running() {
            node.reaches(index).await;
        }
        let contents: Vec<Vec<u8>> = self.running().map(Node::content).collect();
        assert!(
            contents.windows(2).all(|pair| pair[0] == pair[1]),
            "the states differ at {index}"
        );
    }
}

impl Drop for Cluster {
    /// Waits until every node has let go of its disk: the process must not end while RocksDB works.
    fn drop(&mut self) {
        self.nodes.clear();
        let start = Instant::now();
        for at in 0..self.members.len() {
            let in_use = || matches!(DataDir::open(&self.folder(at)), Err(OpenError::InUse { .. }));
            while self.folder(at).exists() && in_use() && start.elapsed() < PATIENCE {
                std::thread::yield_now();
            }
        }
    }
}

fn open(folder: &Path) -> Option<DataDir> {
    match DataDir::open(folder) {
        Ok(data_dir) => Some(data_dir),
        Err(OpenError::InUse { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

/// TCP, counted.
fn counting(dialled: &Arc<AtomicUsize>) -> Connector {
    let dialled = Arc::clone(dialled);
    Connector::new(move |uri| {
        dialled.fetch_add(1, Ordering::Relaxed);
        async move {
            let address = uri.authority().map(ToString::to_string).unwrap_or_default();
            let stream = tokio::net::TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok(stream)
        }
    })
}

/// The number behind an instance's id.
pub(crate) fn number_of(id: impl AsRef<str>) -> u64 {
    id.as_ref().trim_start_matches('i').parse().unwrap()
}

/// An entry that registers one permanent instance.
pub(crate) fn registering(number: u64) -> Entry {
    let instance = InstanceSpec {
        key: InstanceKey::new(
            Namespace::default(),
            ServiceName::parse("web").unwrap(),
            InstanceId::parse(&format!("i{number:06}")).unwrap(),
        ),
        address: "10.0.0.1".into(),
        ports: Box::default(),
        weight: 100,
        region: Default::default(),
        zone: Default::default(),
        version: Default::default(),
        tags: Default::default(),
        metadata: [("filler".to_owned(), "x".repeat(200))].into(),
        status: Status::Up,
        incarnation: Incarnation(0),
    };
    let register = Register {
        instance,
        hold: Hold::Permanent,
        expected_mod_revision: None,
    };
    Entry {
        stamp: LeaseTime(number),
        wall_ms: number,
        renewals: vec![],
        commands: vec![Command::Register(register)],
    }
}

/// Answers nobody's questions.
struct Stranger;

impl Introduction for Stranger {
    fn hello(&self, _request: HelloRequest) -> HelloResponse {
        HelloResponse::default()
    }

    fn found(&self, _request: FoundRequest) -> BoxFuture<'static, Result<FoundResponse, tonic::Status>> {
        async { Err(tonic::Status::failed_precondition("founded already")) }.boxed()
    }
}

struct Nobody;

impl ForwardHandler for Nobody {
    fn forwarded(&self, _from: NodeId, request: ForwardRequest) -> BoxFuture<'static, ForwardResponse> {
        let answer = ForwardResponse {
            seq: request.seq,
            response: None,
        };
        std::future::ready(answer).boxed()
    }

    fn pass_page(&self, _request: PassPageRequest) -> BoxFuture<'static, Result<PassPageResponse, tonic::Status>> {
        async { Err(tonic::Status::unimplemented("no pages here")) }.boxed()
    }
}
