//! Whole nodes: Raft on real sockets and disks, the node on top of it, its API called without a network between.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use roster::{
    model::{ClusterId, Hold, Incarnation, NodeId, NodeName, Revision},
    node::{MachineClock, Node, NodeParts},
    peer::ForwardHandler,
    raft::Timings,
    registry::{BatchRegister, Command, Deregister, Register},
    service::{self, Api, Forwards},
    watch::HubLimits,
    wire::{
        internal::{ForwardRequest, ForwardResponse, PassPageRequest, PassPageResponse, forward_request::Request},
        v1::registry_client::RegistryClient,
    },
};
use tokio::{runtime::Builder, time::Instant};

pub(crate) use crate::raft_harness::PATIENCE;
use crate::raft_harness::{CLUSTER, Cluster, eventually, registering};

/// What one metadata value of these tests holds.
const VALUE_BYTES: usize = 4_000;

/// A cluster of whole nodes.
pub(crate) struct Nodes {
    pub(crate) nodes: Vec<Node>,
    gates: Vec<Gate>,
    cluster: Cluster,
}

/// Tells a story about so many nodes that keep what the limits say. It runs on so many threads, the calling one not
/// counted; 0 = on that one alone. What it leaves running is gone before the nodes are, and holds no disk.
pub(crate) fn tell<T>(size: u64, limits: HubLimits, threads: usize, story: impl AsyncFnOnce(&Nodes) -> T) -> T {
    // Dropped in the order opposite to this: the runtime first, when the story has failed, too.
    let mut nodes = None;
    let runtime = match threads {
        0 => Builder::new_current_thread().enable_all().build(),
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    };
    let runtime = runtime.unwrap();
    let nodes: &Nodes = nodes.insert(runtime.block_on(Nodes::of(size, limits)));
    runtime.block_on(story(nodes))
}

impl Nodes {
    /// So many nodes that keep what the limits say; each would answer a linearizable read.
    async fn of(size: u64, limits: HubLimits) -> Self {
        let mut cluster = Cluster::stopped(size);
        cluster.hub_limits = limits;
        let (mut nodes, mut gates) = (Vec::new(), Vec::new());
        for at in 0..cluster.members().len() {
            let gate = Gate::default();
            cluster.start_with(at, Arc::new(gate.clone())).await;
            let node = whole(&cluster, at);
            gate.open_to(node.clone());
            nodes.push(node);
            gates.push(gate);
        }
        cluster.node(0).raft.initialize(cluster.members()).await.unwrap();
        let nodes = Self { nodes, gates, cluster };
        for node in &nodes.nodes {
            eventually("a linearizable read", async || {
                node.read(Default::default(), soon(PATIENCE)).await.ok()
            })
            .await;
        }
        nodes
    }

    /// The node that leads, its gate, and one that follows.
    pub(crate) async fn leader_and_follower(&self) -> (&Node, &Gate, &Node) {
        let (leader, _term) = self.cluster.leader().await;
        let follower = (leader + 1) % self.nodes.len();
        (&self.nodes[leader], &self.gates[leader], &self.nodes[follower])
    }
}

/// The node on top of one Raft.
fn whole(cluster: &Cluster, at: usize) -> Node {
    let below = cluster.node(at);
    Node::start(NodeParts {
        cluster_id: ClusterId::new(CLUSTER).unwrap(),
        node_id: below.node_id,
        name: NodeName::parse(&format!("n{}", below.node_id)).unwrap(),
        raft: below.raft.clone(),
        hub: Arc::clone(&below.hub),
        peers: Arc::clone(&below.peers),
        clock: Arc::new(MachineClock),
        quorum_timeout: Timings::default().election_max,
    })
}

/// The API of a node, called without a network: nothing is buffered but what the node itself lets wait.
pub(crate) fn registry(node: &Node) -> RegistryClient<Api> {
    let (_reporter, health) = service::health();
    RegistryClient::new(Api::new(node.clone(), health))
}

/// A moment that far ahead.
pub(crate) fn soon(span: Duration) -> Instant {
    Instant::now() + span
}

/// Puts instance `number` of `web`, for good; returns the revision. Another text is a change.
pub(crate) async fn put(node: &Node, number: u64, text: &str) -> Revision {
    let mut register = registered(number);
    register.instance.version = text.into();
    write(node, Command::Register(register)).await
}

/// Puts many instances with a text of so many bytes, in one revision.
pub(crate) async fn put_many(node: &Node, numbers: std::ops::Range<u64>, bytes: usize) -> Revision {
    let instances = numbers.map(|number| {
        let mut instance = registered(number).instance;
        // A value has a limit of its own.
        for at in 0..bytes.div_ceil(VALUE_BYTES) {
            let value = "x".repeat(VALUE_BYTES.min(bytes - at * VALUE_BYTES));
            instance.metadata.insert(format!("k{at:02}"), value);
        }
        instance
    });
    let batch = BatchRegister {
        instances: instances.collect(),
        hold: Hold::Permanent,
    };
    write(node, Command::BatchRegister(batch)).await
}

/// Removes instance `number` of `web`.
pub(crate) async fn deregister(node: &Node, number: u64) -> Revision {
    let deregister = Deregister {
        key: registered(number).instance.key,
        expected_mod_revision: None,
        incarnation: Incarnation(0),
        lease_id: None,
    };
    write(node, Command::Deregister(deregister)).await
}

async fn write(node: &Node, command: Command) -> Revision {
    let (revision, _outcome) = node.write(command, soon(PATIENCE)).await.unwrap();
    revision
}

fn registered(number: u64) -> Register {
    match registering(number).commands.remove(0) {
        Command::Register(register) => register,
        other => panic!("{other:?}"),
    }
}

/// What stands between a node and what the others pass on to it. Shut, it swallows everything: the node's Raft goes
/// on, but its API has stopped.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<GateState>);

#[derive(Default)]
struct GateState {
    forwards: OnceLock<Forwards>,
    shut: AtomicBool,
    renewals: AtomicUsize,
    reads: AtomicUsize,
}

impl Gate {
    fn open_to(&self, node: Node) {
        assert!(self.0.forwards.set(Forwards::new(node)).is_ok(), "a gate has one node");
    }

    /// From now on nothing gets through.
    pub(crate) fn shut(&self) {
        self.0.shut.store(true, Ordering::SeqCst);
    }

    /// How many messages of renewals it has swallowed.
    pub(crate) fn renewals(&self) -> usize {
        self.0.renewals.load(Ordering::SeqCst)
    }

    /// How many questions for a read index it has swallowed.
    pub(crate) fn reads(&self) -> usize {
        self.0.reads.load(Ordering::SeqCst)
    }
}

impl ForwardHandler for Gate {
    fn forwarded(&self, from: NodeId, request: ForwardRequest) -> BoxFuture<'static, ForwardResponse> {
        if self.0.shut.load(Ordering::SeqCst) {
            match &request.request {
                Some(Request::Renewals(_)) => self.0.renewals.fetch_add(1, Ordering::SeqCst),
                Some(Request::ReadIndex(_)) => self.0.reads.fetch_add(1, Ordering::SeqCst),
                Some(Request::Command(_) | Request::Vouch(_)) | None => 0,
            };
            return std::future::pending().boxed();
        }
        let forwards = self.0.forwards.get().expect("no cluster before its nodes");
        forwards.forwarded(from, request)
    }

    fn pass_page(&self, request: PassPageRequest) -> BoxFuture<'static, Result<PassPageResponse, tonic::Status>> {
        let forwards = self.0.forwards.get().expect("no cluster before its nodes");
        forwards.pass_page(request)
    }
}
