//! Three or five nodes, each with a disk of its own, and the network between them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::Duration,
};

use futures_util::future::join_all;
use rand::Rng as _;
use roster::wire::v1::{
    GetNodeStatusRequest, GetNodeStatusResponse, GetStateHashRequest, GetStateHashResponse, ListNamespacesRequest,
    cluster_client::ClusterClient, registry_client::RegistryClient,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

use super::{
    disk::Disks,
    network::{End, Network},
    server::{Launch, Server},
};

/// As documented for a node; here every node has an address of its own.
const CLIENT_PORT: u16 = 7400;
const PEER_PORT: u16 = 7500;
/// Client number N reaches a node at this port plus N.
const FIRST_PROXY_PORT: u16 = 8000;
/// How long a node may take to say how it is.
const STATUS_MAX: Duration = Duration::from_millis(500);
const READ_MAX: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How far ahead of the newest node a common index is chosen, and how long it may take to come.
const HASH_AHEAD: i64 = 6;
const HASH_MAX: Duration = Duration::from_secs(5);
const HASH_TRIES: u32 = 12;

/// What a cluster is to be like.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) nodes: usize,
    pub(crate) clients: u32,
    pub(crate) binary: PathBuf,
    pub(crate) disks: Disks,
    pub(crate) flags: Vec<String>,
    pub(crate) fake_clock: Option<PathBuf>,
}

/// A cluster. Dropping it ends all processes, unmounts all disks and closes all connections.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    pub(crate) network: Network,
    pub(crate) launch: Launch,
    channels: Vec<Channel>,
    clients: u32,
}

impl Cluster {
    /// Lays it out; no node runs yet.
    ///
    /// # Errors
    /// What the file system, `mkfs`, `mount` or the network answered.
    pub(crate) async fn lay_out(plan: &Plan, folder: &Path) -> io::Result<Self> {
        let addresses = Addresses::free(plan.nodes)?;
        let listed: Vec<String> = (0..plan.nodes)
            .map(|node| format!("n{}={}", node + 1, addresses.peer_proxy(node)))
            .collect();
        let mut cluster = Self {
            servers: Vec::new(),
            network: Network::new(),
            launch: Launch {
                binary: plan.binary.clone(),
                initial_cluster: listed.join(","),
                flags: plan.flags.clone(),
                fake_clock: plan.fake_clock.clone(),
            },
            channels: Vec::new(),
            clients: plan.clients,
        };
        for node in 0..plan.nodes {
            let name = format!("n{}", node + 1);
            let (client, peer, proxy) = (addresses.client(node), addresses.peer(node), addresses.peer_proxy(node));
            cluster.network.add(None, node, proxy, peer).await?;
            for number in 0..plan.clients {
                let listen = addresses.client_proxy(node, number);
                cluster
                    .network
                    .add(Some(End::Client(number)), node, listen, client)
                    .await?;
            }
            let disk = plan.disks.make(folder, &name)?;
            let log = folder.join(format!("{name}.log"));
            cluster
                .servers
                .push(Server::new(name, [client, peer, proxy], disk, log));
            let endpoint = Endpoint::from_shared(format!("http://{client}")).map_err(io::Error::other)?;
            cluster
                .channels
                .push(endpoint.connect_timeout(STATUS_MAX).connect_lazy());
        }
        Ok(cluster)
    }

    /// The nodes' names and where one client reaches them.
    ///
    /// # Panics
    /// The cluster was laid out for fewer clients.
    pub(crate) fn targets(&self, client: u32) -> Vec<(String, http::Uri)> {
        assert!(client < self.clients, "client {client} of {}", self.clients);
        let uri = |server: &Server| {
            let port = FIRST_PROXY_PORT + u16::try_from(client).unwrap_or(u16::MAX);
            let authority = SocketAddr::new(server.advertised.ip(), port).to_string();
            let uri = http::Uri::builder()
                .scheme("http")
                .authority(authority)
                .path_and_query("/");
            uri.build().expect("an address is an authority")
        };
        self.servers
            .iter()
            .map(|server| (server.name.clone(), uri(server)))
            .collect()
    }

    /// Starts a node on its own disk.
    ///
    /// # Errors
    /// The binary can't be run.
    pub(crate) fn start(&mut self, node: usize) -> io::Result<()> {
        let server = &mut self.servers[node];
        let pid = server.start(&self.launch)?;
        server.may_end = false;
        self.network.set_pid(node, Some(pid));
        Ok(())
    }

    /// kill -9 of all these at once; returns when they are gone.
    pub(crate) fn kill(&mut self, nodes: &[usize]) {
        for &node in nodes {
            self.servers[node].shoot();
        }
        for &node in nodes {
            self.servers[node].kill();
            self.network.set_pid(node, None);
        }
    }

    /// SIGTERM, one node after another.
    pub(crate) fn stop(&mut self, node: usize) -> bool {
        let in_order = self.servers[node].stop();
        self.network.set_pid(node, None);
        in_order
    }

    /// What a node says of itself, if it does so soon.
    pub(crate) async fn status(&self, node: usize) -> Option<GetNodeStatusResponse> {
        let mut client = ClusterClient::new(self.channels[node].clone());
        let answer = timeout(STATUS_MAX, client.get_node_status(GetNodeStatusRequest {})).await;
        answer.ok()?.ok().map(tonic::Response::into_inner)
    }

    /// A connection to a node that passes through no proxy.
    pub(crate) fn channel(&self, node: usize) -> Channel {
        self.channels[node].clone()
    }

    /// What all say.
    pub(crate) async fn statuses(&self) -> Vec<Option<GetNodeStatusResponse>> {
        join_all((0..self.servers.len()).map(|node| self.status(node))).await
    }

    /// The node that leads in the highest term, as it says itself.
    pub(crate) async fn leader(&self) -> Option<usize> {
        let statuses = self.statuses().await;
        let leads = |status: &GetNodeStatusResponse| status.role == "leader";
        let term = |status: &GetNodeStatusResponse| status.header.as_ref().map_or(0, |header| header.term);
        let leaders = statuses.iter().enumerate().filter_map(|(node, status)| {
            let status = status.as_ref().filter(|status| leads(status))?;
            Some((term(status), node))
        });
        leaders.max().map(|(_, node)| node)
    }

    /// Waits for a leader.
    pub(crate) async fn wait_leader(&self, within: Duration) -> Option<usize> {
        let deadline = Instant::now() + within;
        loop {
            match self.leader().await {
                Some(leader) => return Some(leader),
                None if Instant::now() > deadline => return None,
                None => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Waits until these nodes each answer a linearizable read.
    ///
    /// # Errors
    /// Which of them did not, and what it said last.
    pub(crate) async fn wait_ready(&mut self, nodes: &[usize], within: Duration) -> Result<Duration, String> {
        let began = Instant::now();
        for &node in nodes {
            loop {
                let mut client = RegistryClient::new(self.channels[node].clone());
                let asked = ListNamespacesRequest {
                    page_size: 1,
                    ..ListNamespacesRequest::default()
                };
                let said = match timeout(READ_MAX, client.list_namespaces(asked)).await {
                    Ok(Ok(_)) => break,
                    Ok(Err(status)) => status.message().to_owned(),
                    Err(_elapsed) => "no answer".to_owned(),
                };
                let server = &mut self.servers[node];
                if let Some(status) = server.ended() {
                    return Err(format!("{} ended ({status}): {}", server.name, server.last_words()));
                }
                if began.elapsed() > within {
                    return Err(format!("{} does not answer after {within:?}: {said}", server.name));
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Ok(began.elapsed())
    }

    /// How many clients it was laid out for.
    pub(crate) fn clients(&self) -> u32 {
        self.clients
    }

    /// All places.
    pub(crate) fn all(&self) -> Vec<usize> {
        (0..self.servers.len()).collect()
    }

    /// How many nodes decide.
    pub(crate) fn quorum(&self) -> usize {
        self.servers.len() / 2 + 1
    }

    /// Whether some node runs that reaches, both ways, so many others that run that they are a majority. Without one,
    /// nothing can be decided. With one, all may go well: nodes that a fault hit may yet do worse.
    pub(crate) fn majority_left(&mut self) -> bool {
        self.majority_of(|_| true)
    }

    /// Whether there is such a majority whose disks take writes. Without one, nothing new can be acknowledged; but what
    /// was, can be read.
    pub(crate) fn majority_writes(&mut self) -> bool {
        self.majority_of(|server| !server.disk.is_frozen())
    }

    /// Of those whom `counts` takes; the node that reaches them need not be one.
    fn majority_of(&mut self, counts: fn(&Server) -> bool) -> bool {
        let quorum = self.quorum();
        let runs: Vec<bool> = self
            .servers
            .iter_mut()
            .map(|server| server.is_running() && !server.paused)
            .collect();
        let ways = self.network.ways();
        let together = |a: usize, b: usize| {
            let ends = (End::Node(a), End::Node(b));
            a == b || (ways.passes(ends.0, ends.1) && ways.passes(ends.1, ends.0))
        };
        let fit = |b: usize| runs[b] && counts(&self.servers[b]);
        let all = 0..self.servers.len();
        let reaches = |a: usize| all.clone().filter(|&b| fit(b) && together(a, b)).count();
        all.clone().any(|a| runs[a] && reaches(a) >= quorum)
    }

    /// Everything that was cut, paused, frozen or killed runs again.
    ///
    /// # Errors
    /// A node can't be started, or its disk not be thawed.
    pub(crate) fn heal(&mut self) -> io::Result<()> {
        self.network.ways().heal();
        for node in self.all() {
            let server = &mut self.servers[node];
            server.disk.thaw()?;
            server.disk.empty()?;
            server.untrace();
            server.resume();
            if self.launch.fake_clock.is_some() {
                self.servers[node].set_clock("+0")?;
            }
            if !self.servers[node].is_running() {
                self.servers[node].kill();
                self.start(node)?;
            }
        }
        Ok(())
    }

    /// All nodes' hashes at one applied index. Something must move the index: a lease does.
    ///
    /// # Errors
    /// No common index was reached; what was said last.
    pub(crate) async fn state_hashes(&self) -> Result<Vec<GetStateHashResponse>, String> {
        let mut last = String::new();
        for _ in 0..HASH_TRIES {
            let statuses = self.statuses().await;
            let Some(newest) = statuses.iter().flatten().map(|status| status.applied_index).max() else {
                sleep(LOOK_EVERY).await;
                continue;
            };
            let at_index = newest + HASH_AHEAD;
            let asked = self.channels.iter().map(|channel| {
                let mut client = ClusterClient::new(channel.clone());
                async move { timeout(HASH_MAX, client.get_state_hash(GetStateHashRequest { at_index })).await }
            });
            let mut hashes = Vec::new();
            for answer in join_all(asked).await {
                match answer {
                    Ok(Ok(answer)) => hashes.push(answer.into_inner()),
                    Ok(Err(status)) => last = status.message().to_owned(),
                    Err(_elapsed) => last = format!("index {at_index} did not come within {HASH_MAX:?}"),
                }
            }
            if hashes.len() == self.servers.len() {
                return Ok(hashes);
            }
        }
        Err(last)
    }
}

/// Where everything listens. Each node has a loopback address, and its proxies another: no port can be taken by an
/// outgoing connection of somebody else while its node is dead.
struct Addresses([u8; 2]);

impl Addresses {
    /// A part of 127/8 that nobody uses.
    fn free(nodes: usize) -> io::Result<Self> {
        let mut last = None;
        for _ in 0..100 {
            let mut chance = rand::rng();
            let addresses = Self([chance.random_range(65..=250), chance.random_range(1..=250)]);
            let wanted = (0..nodes).flat_map(|node| [addresses.client(node), addresses.peer_proxy(node)]);
            let bound: io::Result<Vec<TcpListener>> = wanted.map(TcpListener::bind).collect();
            match bound {
                Ok(_free) => return Ok(addresses),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("no free loopback addresses")))
    }

    fn at(&self, host: usize, port: u16) -> SocketAddr {
        let [a, b] = self.0;
        SocketAddr::new(
            IpAddr::V4(Ipv4Addr::new(127, a, b, u8::try_from(host).unwrap_or(u8::MAX))),
            port,
        )
    }

    fn client(&self, node: usize) -> SocketAddr {
        self.at(node + 1, CLIENT_PORT)
    }

    fn peer(&self, node: usize) -> SocketAddr {
        self.at(node + 1, PEER_PORT)
    }

    fn peer_proxy(&self, node: usize) -> SocketAddr {
        self.at(node + 101, PEER_PORT)
    }

    fn client_proxy(&self, node: usize, client: u32) -> SocketAddr {
        self.at(node + 101, FIRST_PROXY_PORT + u16::try_from(client).unwrap_or(u16::MAX))
    }
}
