//! Starts real `roster server` processes on free ports and kills them when the test ends, however it ends. A test that
//! went well fails all the same when a node has logged a warning or an error.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use roster::wire::v1::{
    GetNodeStatusRequest, Instance, InstanceKey, ListRequest, RegisterRequest, Selector, cluster_client::ClusterClient,
    leases_client::LeasesClient, registry_client::RegistryClient, selector::Scope,
};
use tempfile::TempDir;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{loopback::free_address, quiet::surprises};

/// How long anything that must happen may take on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster of real processes.
pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Node>,
    folder: TempDir,
}

/// One of them.
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) endpoint: String,
    /// Where the other nodes reach it.
    pub(crate) peer_endpoint: String,
    /// How many files its process may have open; `None` = as many as this one.
    pub(crate) files_max: Option<u32>,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Cluster {
    /// Starts `count` nodes and waits until each answers a linearizable read.
    pub(crate) async fn start(count: usize) -> Self {
        let mut cluster = Self::prepare(count);
        for node in &mut cluster.nodes {
            node.start();
        }
        for node in &cluster.nodes {
            node.wait_ready().await;
        }
        cluster
    }

    /// Lays the cluster out without starting a node.
    pub(crate) fn prepare(count: usize) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let peer_endpoints: Vec<String> = (0..count).map(|_| free_address().to_string()).collect();
        let list: Vec<String> = peer_endpoints
            .iter()
            .enumerate()
            .map(|(at, endpoint)| format!("n{}={endpoint}", at + 1))
            .collect();
        let list = list.join(",");
        let nodes = peer_endpoints
            .into_iter()
            .enumerate()
            .map(|(at, peer_endpoint)| {
                let name = format!("n{}", at + 1);
                let endpoint = free_address().to_string();
                let data = folder.path().join(&name);
                let arguments = [
                    ("--name", name.clone()),
                    ("--data-dir", data.display().to_string()),
                    ("--client-addr", endpoint.clone()),
                    ("--peer-addr", peer_endpoint.clone()),
                    ("--initial-cluster", list.clone()),
                ];
                let arguments = arguments
                    .into_iter()
                    .flat_map(|(flag, value)| [flag.to_owned(), value])
                    .collect();
                let log = folder.path().join(format!("{name}.log"));
                Node {
                    name,
                    endpoint,
                    peer_endpoint,
                    files_max: None,
                    arguments,
                    log,
                    child: None,
                }
            })
            .collect();
        Self { nodes, folder }
    }

    /// The folder that holds data directories and logs.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The index of the node that the others take for the leader.
    pub(crate) async fn leader(&self) -> usize {
        let until = Instant::now() + PATIENCE;
        loop {
            for (at, node) in self.nodes.iter().enumerate().filter(|(_, node)| node.child.is_some()) {
                if let Ok(mut client) = ClusterClient::connect(node.url()).await
                    && let Ok(status) = client.get_node_status(GetNodeStatusRequest {}).await
                    && status.get_ref().role.eq_ignore_ascii_case("leader")
                {
                    return at;
                }
            }
            assert!(Instant::now() < until, "no leader within {PATIENCE:?}\n{}", self.logs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What all nodes logged, for a failed test's story.
    pub(crate) fn logs(&self) -> String {
        let text = |node: &Node| fs::read_to_string(&node.log).unwrap_or_default();
        self.nodes
            .iter()
            .map(|node| format!("--- {}\n{}", node.name, text(node)))
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        for node in &self.nodes {
            let log = fs::read_to_string(&node.log).unwrap_or_default();
            let lines = surprises(&log);
            assert!(
                lines.is_empty(),
                "{} logged what nobody expected: {lines:#?}",
                node.name
            );
        }
    }
}

impl Node {
    /// Starts the process; its log goes on in the same file.
    pub(crate) fn start(&mut self) {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .expect("a log file");
        let binary = env!("CARGO_BIN_EXE_roster");
        let mut command = match self.files_max {
            None => Command::new(binary),
            Some(most) => {
                let mut limited = Command::new("prlimit");
                limited.arg(format!("--nofile={most}")).arg(binary);
                limited
            }
        };
        let child = command
            .arg("server")
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        self.child = Some(child);
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // A process that ended by itself can't be killed; that it is gone is what counts.
            let _gone = child.kill();
            child.wait().expect("a child can be waited for");
        }
    }

    /// SIGSTOP: it stands still, with all that it holds and whatever reaches its sockets meanwhile.
    pub(crate) fn pause(&self) {
        self.signal(rustix::process::Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn resume(&self) {
        self.signal(rustix::process::Signal::CONT);
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let child = self.child.as_ref().expect("the node runs");
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).expect("a process id")).expect("not 0");
        rustix::process::kill_process(pid, signal).expect("a running child takes signals");
    }

    /// SIGTERM, and the exit code.
    pub(crate) async fn terminate(&mut self) -> Option<i32> {
        self.signal(rustix::process::Signal::TERM);
        let mut child = self.child.take().expect("the node runs");
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return status.code();
            }
            assert!(Instant::now() < until, "{} did not end", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its process's id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("the node runs").id()
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.endpoint)
    }

    async fn channel(&self) -> Result<Channel, tonic::transport::Error> {
        Channel::from_shared(self.url()).expect("a URL").connect().await
    }

    pub(crate) async fn registry(&self) -> RegistryClient<Channel> {
        RegistryClient::new(self.channel().await.expect("the node takes connections"))
    }

    pub(crate) async fn leases(&self) -> LeasesClient<Channel> {
        LeasesClient::new(self.channel().await.expect("the node takes connections"))
    }

    pub(crate) async fn wait_ready(&self) {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(channel) = self.channel().await
                && RegistryClient::new(channel).list(list_all()).await.is_ok()
            {
                return;
            }
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            assert!(
                Instant::now() < until,
                "{} is not ready within {PATIENCE:?}\n{log}",
                self.name
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A Register of one instance with its own lease of the default TTL.
pub(crate) fn register(service: &str, id: &str) -> RegisterRequest {
    let key = InstanceKey {
        service: service.to_owned(),
        id: id.to_owned(),
        ..InstanceKey::default()
    };
    let instance = Instance {
        key: Some(key),
        address: "10.0.0.1".to_owned(),
        ..Instance::default()
    };
    RegisterRequest {
        instance: Some(instance),
        ..RegisterRequest::default()
    }
}

/// A List of everything.
pub(crate) fn list_all() -> ListRequest {
    let selector = Selector {
        all_namespaces: true,
        scope: Some(Scope::AllServices(true)),
        ..Selector::default()
    };
    ListRequest {
        selector: Some(selector),
        page_size: 5_000,
        ..ListRequest::default()
    }
}
