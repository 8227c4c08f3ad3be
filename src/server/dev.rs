//! The embedded mode: a whole cluster in one process, for trying things out and for tests of users' own code.

use std::{
    fs,
    path::{Path, PathBuf},
};

use tokio::net::TcpListener;

use super::{Listeners, RunningNode, Runtimes, ServerError, Signals, files};
use crate::{
    config::Config,
    model::NodeName,
    raft::{KEPT_BEHIND_SNAPSHOT, SNAPSHOT_AFTER_BYTES, Timings},
    telemetry,
};

/// The first client port; the nodes take it and those that follow.
const FIRST_CLIENT_PORT: u16 = 7400;
/// Where the peer ports are kept.
const PEER_PORTS_FILE: &str = "peer-ports";
/// Nodes in one process.
pub const DEV_NODES_MAX: usize = 9;

/// What `roster dev` was asked for.
#[derive(Clone, Debug)]
pub struct DevOptions {
    /// How many nodes.
    pub nodes: usize,
    /// Where to keep the data; `None` = a temporary folder that goes when the process ends.
    pub data_dir: Option<PathBuf>,
    /// The first client port; 0 = whatever is free.
    pub port: u16,
    /// A log filter.
    pub log: Option<String>,
    /// Log as JSON.
    pub log_json: bool,
}

impl Default for DevOptions {
    fn default() -> Self {
        Self {
            nodes: 1,
            data_dir: None,
            port: FIRST_CLIENT_PORT,
            log: None,
            log_json: false,
        }
    }
}

/// Runs a cluster until it is told to stop. Blocks. `ready` is handed the client endpoints once all nodes serve.
///
/// # Errors
/// Why it did not start, or had to stop.
pub fn run_dev(options: &DevOptions, ready: impl FnOnce(&[String])) -> Result<(), ServerError> {
    telemetry::start(Some(options.log.as_deref().unwrap_or("warn")), options.log_json)
        .map_err(ServerError::Telemetry)?;
    telemetry::abort_on_panic();
    files::raise_limit();
    let temporary = match &options.data_dir {
        Some(_) => None,
        None => Some(TemporaryFolder::new()?),
    };
    let root = options
        .data_dir
        .clone()
        .or_else(|| temporary.as_ref().map(|folder| folder.0.clone()))
        .unwrap_or_default();
    let runtimes = Runtimes::new()?;
    let result = runtimes.api.block_on(run_cluster(options, &root, &runtimes, ready));
    runtimes.stop();
    result
}

async fn run_cluster(
    options: &DevOptions,
    root: &Path,
    runtimes: &Runtimes,
    ready: impl FnOnce(&[String]),
) -> Result<(), ServerError> {
    let mut signals = Signals::new()?;
    let peer_ports = peer_ports(root, options.nodes).await?;
    let names: Vec<NodeName> = (1..=options.nodes)
        .map(|number| NodeName::parse(&format!("n{number}")).expect("n and a number is a name"))
        .collect();
    let address = |port: u16| format!("127.0.0.1:{port}");
    let list: Vec<_> = names
        .iter()
        .cloned()
        .zip(peer_ports.iter().copied().map(address))
        .collect();
    let mut starts = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let offset = u16::try_from(at).unwrap_or(u16::MAX);
        let client_port = if options.port == 0 {
            0
        } else {
            options.port.saturating_add(offset)
        };
        let config = Config {
            name: name.clone(),
            data_dir: root.join(name.as_str()),
            client_addr: address(client_port),
            peer_addr: list[at].1.clone(),
            client_advertise: None,
            peer_advertise: None,
            initial_cluster: list.clone(),
            insecure: false,
            timings: Timings::default(),
            snapshot_after_bytes: SNAPSHOT_AFTER_BYTES,
            log_kept_records: KEPT_BEHIND_SNAPSHOT,
        };
        let listeners = Listeners::bind(&config).await?;
        let raft = runtimes.raft.handle().clone();
        starts.push(async move { RunningNode::start(&config, listeners, &raft).await });
    }
    let nodes = tokio::select! {
        nodes = futures_util::future::try_join_all(starts) => nodes?,
        _ = signals.next() => return Ok(()),
    };
    let endpoints: Vec<String> = nodes.iter().map(|node| node.client_address().to_owned()).collect();
    tokio::select! {
        _ = futures_util::future::join_all(nodes.iter().map(RunningNode::wait_ready)) => {}
        _ = signals.next() => return Ok(()),
    }
    ready(&endpoints);
    let mut fatal = Box::pin(futures_util::future::select_all(nodes.iter().map(|node| {
        let mut fatal = node.fatal();
        Box::pin(async move {
            fatal
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|reason| reason.clone())
        })
    })));
    let result = tokio::select! {
        _ = signals.next() => Ok(()),
        (reason, ..) = &mut fatal => Err(ServerError::Fatal(reason.unwrap_or_else(|| "Raft ended".to_owned()))),
    };
    drop(fatal);
    let downs = nodes.into_iter().map(|node| node.shut_down(false));
    if tokio::time::timeout(super::SHUTDOWN_MAX, futures_util::future::join_all(downs))
        .await
        .is_err()
    {
        tracing::warn!("the shutdown took too long; ending without waiting further");
    }
    result
}

/// The peer ports of a cluster of `count` nodes kept under `root`.
///
/// The members' addresses stand in the log, so a cluster that is started again on the same data must have the same
/// ports: they are kept beside the data. A new cluster takes ports that are free.
async fn peer_ports(root: &Path, count: usize) -> Result<Vec<u16>, ServerError> {
    let file = root.join(PEER_PORTS_FILE);
    let system = || ServerError::system(format!("could not keep the peer ports in {}", file.display()));
    if let Ok(text) = fs::read_to_string(&file) {
        let ports: Vec<u16> = text.split_whitespace().filter_map(|port| port.parse().ok()).collect();
        if ports.len() == count {
            return Ok(ports);
        }
        return Err(ServerError::Identity(format!(
            "{}: it holds a cluster of {} nodes, not {count}: start it with --nodes {}, or name another folder",
            root.display(),
            ports.len(),
            ports.len()
        )));
    }
    let mut listeners = Vec::new();
    for _ in 0..count {
        listeners.push(TcpListener::bind("127.0.0.1:0").await.map_err(system())?);
    }
    let mut ports = Vec::new();
    for listener in &listeners {
        ports.push(listener.local_addr().map_err(system())?.port());
    }
    fs::create_dir_all(root).map_err(system())?;
    let text: String = ports.iter().map(|port| format!("{port}\n")).collect();
    fs::write(&file, text).map_err(system())?;
    Ok(ports)
}

/// A folder that goes with the process.
struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    fn new() -> Result<Self, ServerError> {
        let path = std::env::temp_dir().join(format!("roster-dev-{}", std::process::id()));
        fs::create_dir_all(&path).map_err(ServerError::system(format!("could not make {}", path.display())))?;
        Ok(Self(path))
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // What can't be removed stays in the system's own folder for such files.
        let _left_behind = fs::remove_dir_all(&self.0);
    }
}
