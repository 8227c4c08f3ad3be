//! Three real nodes of either: started, killed, restarted, stopped.

use std::{
    fs::{self, OpenOptions},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use clap::Args;
use etcd_client::Client;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, test_kill_process, waitpid};
use serde_json::{Value, json};

use crate::problem::{Problem, While as _};

const NODES: usize = 3;
/// How long a cluster may take to serve, and a node to end.
const UP_WITHIN: Duration = Duration::from_secs(60);
const ENDS_WITHIN: Duration = Duration::from_secs(15);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Which registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Roster,
    Etcd,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Roster => "Roster",
            Self::Etcd => "etcd",
        }
    }
}

/// One node: how it is started, and what it is now. All of it stands in a file, too, for whoever kills and restarts.
#[derive(Clone, Debug)]
struct Node {
    command: Vec<String>,
    log: PathBuf,
    client: String,
    pid: u32,
}

/// A cluster in a folder of its own; it ends when it is dropped.
pub(crate) struct Cluster {
    kind: Kind,
    folder: PathBuf,
    nodes: Vec<Node>,
}

impl Cluster {
    /// Starts three nodes with default timings, and waits until they serve.
    pub(super) async fn start(kind: Kind, binary: &Path, folder: PathBuf) -> Result<Self, Problem> {
        Self::start_with(kind, binary, folder, &[]).await
    }

    /// The same, with further options on each node's command line.
    pub(crate) async fn start_with(
        kind: Kind,
        binary: &Path,
        folder: PathBuf,
        options: &[&str],
    ) -> Result<Self, Problem> {
        fs::create_dir_all(&folder).when(folder.display())?;
        let ports = free_ports(2 * NODES)?;
        let (clients, peers) = ports.split_at(NODES);
        let initial = |scheme: &str| {
            let each = peers.iter().enumerate();
            let each: Vec<String> = each
                .map(|(at, port)| format!("n{}={scheme}127.0.0.1:{port}", at + 1))
                .collect();
            each.join(",")
        };
        let mut cluster = Self {
            kind,
            folder: folder.clone(),
            nodes: Vec::new(),
        };
        for at in 0..NODES {
            let name = format!("n{}", at + 1);
            let data = folder.join(&name).display().to_string();
            let (client, peer) = (format!("127.0.0.1:{}", clients[at]), format!("127.0.0.1:{}", peers[at]));
            let binary = binary.display().to_string();
            let mut command: Vec<String> = match kind {
                Kind::Roster => vec![
                    binary,
                    "server".into(),
                    format!("--name={name}"),
                    format!("--data-dir={data}"),
                    format!("--client-addr={client}"),
                    format!("--peer-addr={peer}"),
                    format!("--initial-cluster={}", initial("")),
                ],
                Kind::Etcd => vec![
                    binary,
                    format!("--name={name}"),
                    format!("--data-dir={data}"),
                    format!("--listen-client-urls=http://{client}"),
                    format!("--advertise-client-urls=http://{client}"),
                    format!("--listen-peer-urls=http://{peer}"),
                    format!("--initial-advertise-peer-urls=http://{peer}"),
                    format!("--initial-cluster={}", initial("http://")),
                    "--initial-cluster-state=new".into(),
                    "--log-level=warn".into(),
                ],
            };
            command.extend(options.iter().map(|&option| option.to_owned()));
            let log = folder.join(format!("{name}.log"));
            let pid = spawn(&command, &log)?;
            cluster.nodes.push(Node {
                command,
                log,
                client,
                pid,
            });
        }
        cluster.write()?;
        cluster.wait().await?;
        Ok(cluster)
    }

    pub(crate) fn endpoints(&self) -> String {
        let each: Vec<&str> = self.nodes.iter().map(|node| node.client.as_str()).collect();
        each.join(",")
    }

    /// The nodes' processes, in the order of the endpoints.
    pub(crate) fn pids(&self) -> String {
        let each: Vec<String> = self.nodes.iter().map(|node| node.pid.to_string()).collect();
        each.join(",")
    }

    /// The file that says which nodes there are.
    pub(super) fn state(&self) -> PathBuf {
        self.folder.join("nodes.json")
    }

    fn write(&self) -> Result<(), Problem> {
        let nodes: Vec<Value> = self.nodes.iter().map(Node::object).collect();
        fs::write(self.state(), Value::from(nodes).to_string()).when(self.state().display())
    }

    /// Somebody else may have killed and restarted nodes.
    fn read(&mut self) -> Result<(), Problem> {
        self.nodes = nodes(&self.state())?;
        Ok(())
    }

    /// Waits until each node serves reads that need a leader.
    async fn wait(&self) -> Result<(), Problem> {
        for node in &self.nodes {
            self.wait_for(node).await?;
        }
        Ok(())
    }

    async fn wait_for(&self, node: &Node) -> Result<(), Problem> {
        let until = Instant::now() + UP_WITHIN;
        loop {
            let Err(problem) = self.serves(node).await else {
                return Ok(());
            };
            if Instant::now() > until {
                let log = node.log.display();
                return Err(Problem(format!(
                    "{} does not serve: {}; see {log}",
                    node.client, problem.0
                )));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn serves(&self, node: &Node) -> Result<(), Problem> {
        let limit = Duration::from_secs(1);
        match self.kind {
            Kind::Roster => {
                let options = roster::client::Options {
                    timeout: limit,
                    unavailable_patience: Duration::ZERO,
                    unreachable_patience: Duration::ZERO,
                    ..Default::default()
                };
                let endpoint: roster::client::Endpoint = node.client.parse()?;
                let client = roster::client::Client::new(endpoint.into(), options);
                client.list_namespaces(Default::default()).await?;
            }
            Kind::Etcd => {
                let asking = async {
                    let mut client = Client::connect([&node.client], None).await?;
                    client.get("a", None).await
                };
                tokio::time::timeout(limit, asking).await??;
            }
        }
        Ok(())
    }

    /// Kills one node that follows, or all, starts them again, and answers how long it takes until they serve.
    pub(super) async fn restart(&mut self, all: bool) -> Result<Duration, Problem> {
        self.read()?;
        let chosen = if all {
            0..self.nodes.len()
        } else {
            self.follower().await?
        };
        for node in &self.nodes[chosen.clone()] {
            kill(node.pid, Signal::KILL)?;
        }
        let began = Instant::now();
        for node in &mut self.nodes[chosen.clone()] {
            node.pid = spawn(&node.command, &node.log)?;
        }
        for node in &self.nodes[chosen] {
            self.wait_for(node).await?;
        }
        let took = began.elapsed();
        self.write()?;
        Ok(took)
    }

    /// Kills one node that follows, and leaves it dead; which one.
    pub(crate) async fn kill_follower(&mut self) -> Result<usize, Problem> {
        let at = self.follower().await?.start;
        kill(self.nodes[at].pid, Signal::KILL)?;
        Ok(at)
    }

    /// Starts a node that was killed.
    pub(crate) fn revive(&mut self, at: usize) -> Result<(), Problem> {
        let node = &mut self.nodes[at];
        node.pid = spawn(&node.command, &node.log)?;
        self.write()
    }

    /// The nodes' addresses for clients, each with its process.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = (&str, u32)> {
        self.nodes.iter().map(|node| (node.client.as_str(), node.pid))
    }

    /// What a node has said.
    pub(crate) fn said(&self, at: usize) -> Result<String, Problem> {
        let log = &self.nodes[at].log;
        fs::read_to_string(log).when(log.display())
    }

    async fn follower(&self) -> Result<std::ops::Range<usize>, Problem> {
        for (at, node) in self.nodes.iter().enumerate() {
            let leads = match self.kind {
                Kind::Roster => {
                    let endpoint: roster::client::Endpoint = node.client.parse()?;
                    let client = roster::client::Client::new(endpoint.into(), roster::client::Options::default());
                    client.node_status().await?.role == "leader"
                }
                Kind::Etcd => {
                    let status = Client::connect([&node.client], None).await?.status().await?;
                    status.header().map(etcd_client::ResponseHeader::member_id) == Some(status.leader())
                }
            };
            if !leads {
                return Ok(at..at + 1);
            }
        }
        Err(Problem("no node follows".into()))
    }

    /// Bytes on disk of all nodes together.
    pub(crate) fn disk_bytes(&self) -> u64 {
        size(&self.folder)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(Problem(problem)) = self.read() {
            eprintln!("bench-etcd: {problem}");
        }
        for node in &self.nodes {
            // A node that has ended by itself can't be killed, and need not be.
            if let Err(Problem(problem)) = kill(node.pid, Signal::KILL) {
                eprintln!("bench-etcd: {problem}");
            }
        }
    }
}

impl Node {
    fn object(&self) -> Value {
        json!({ "command": self.command, "log": self.log, "client": self.client, "pid": self.pid })
    }

    fn read(object: &Value) -> Option<Self> {
        let text = |field: &str| object[field].as_str().map(str::to_owned);
        let words = object["command"].as_array()?.iter();
        Some(Self {
            command: words
                .map(|word| word.as_str().map(str::to_owned))
                .collect::<Option<_>>()?,
            log: text("log")?.into(),
            client: text("client")?,
            pid: u32::try_from(object["pid"].as_u64()?).ok()?,
        })
    }
}

fn nodes(state: &Path) -> Result<Vec<Node>, Problem> {
    let text = fs::read_to_string(state).when(state.display())?;
    let value: Value = serde_json::from_str(&text).when(state.display())?;
    let each = value.as_array().into_iter().flatten();
    let read: Option<Vec<Node>> = each.map(Node::read).collect();
    read.ok_or_else(|| Problem(format!("{}: this is no list of nodes", state.display())))
}

/// Kills a leader and starts it again, for a workload that measures what this costs.
#[derive(Args, Debug)]
pub(crate) struct KillAndRestartArgs {
    /// The file of the cluster's nodes
    #[arg(long)]
    state: PathBuf,
    /// Whom to kill
    #[arg(long, env = "ROSTER_LEADER_ENDPOINT")]
    endpoint: String,
    /// After how long it comes back, in milliseconds
    #[arg(long, default_value_t = 2_000)]
    after_ms: u64,
}

impl KillAndRestartArgs {
    pub(crate) fn run(self) -> Result<(), Problem> {
        let mut nodes = nodes(&self.state)?;
        let node = nodes.iter_mut().find(|node| node.client == self.endpoint);
        let node = node.ok_or_else(|| Problem(format!("{} is no node", self.endpoint)))?;
        kill(node.pid, Signal::KILL)?;
        std::thread::sleep(Duration::from_millis(self.after_ms));
        node.pid = spawn(&node.command, &node.log)?;
        let objects: Vec<Value> = nodes.iter().map(Node::object).collect();
        fs::write(&self.state, Value::from(objects).to_string()).when(self.state.display())
    }
}

/// Starts a process that writes into a file.
fn spawn(command: &[String], log: &Path) -> Result<u32, Problem> {
    let log_file = OpenOptions::new().append(true).create(true).open(log);
    let log_file = log_file.when(log.display())?;
    let (program, words) = command.split_first().ok_or_else(|| Problem("no command".into()))?;
    let child = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(log_file.try_clone()?)
        .stderr(log_file)
        .spawn()
        .when(program)?;
    // It is known by its number from here on: another process may kill it and start it again.
    Ok(child.id())
}

/// Sends a signal and waits until the process is gone.
fn kill(pid: u32, signal: Signal) -> Result<(), Problem> {
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let process = process.ok_or_else(|| Problem(format!("{pid} is no process")))?;
    if kill_process(process, signal).is_err() {
        // It has ended by itself.
        return Ok(());
    }
    let until = Instant::now() + ENDS_WITHIN;
    loop {
        // Our child, or somebody else's who does not ask for it.
        let waited = waitpid(Some(process), WaitOptions::NOHANG);
        if matches!(waited, Ok(Some(_))) || test_kill_process(process).is_err() || is_zombie(pid) {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(Problem(format!("process {pid} does not end")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// `pid (name) state …`: it has ended, and its parent has not asked for it yet. Its first thread may be gone before the
/// others: until the last one is, its ports are not free.
fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map(|(_, fields)| fields.starts_with('Z'));
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    state == Some(true) && threads <= 1
}

/// Ports of the loopback that nobody listens on just now, below those that the kernel gives to outgoing connections: a
/// node that was killed must find its own free.
fn free_ports(count: usize) -> Result<Vec<u16>, Problem> {
    let from = 15_000 + u16::try_from(std::process::id() % 10_000)?;
    let free = (from..32_000).filter(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    let ports: Vec<u16> = free.take(count).collect();
    if ports.len() < count {
        return Err(Problem("there are not enough free ports".into()));
    }
    Ok(ports)
}

fn size(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => size(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
