//! A node's two ports: bound, and at work.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use tokio::{net::TcpListener, runtime::Handle};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    ServerError, http,
    introducer::Introducer,
    listener::{PortLimits, serve},
    switch::Switch,
};
use crate::{
    config::Config,
    peer::{self, PeerService},
    service::{self, Api, HealthReporter, HealthService},
};

/// A node's two ports, bound.
pub(super) struct Listeners {
    pub(super) client: TcpListener,
    pub(super) peer: TcpListener,
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

/// Both ports at work. Until the node has joined its cluster, the client port answers that it is not ready, and the
/// peer port who it is.
pub(super) struct Ports {
    pub(super) clients: Switch,
    pub(super) peers: PeerService,
    pub(super) health: HealthReporter,
    pub(super) health_service: HealthService,
    pub(super) stop: CancellationToken,
    pub(super) stop_peers: CancellationToken,
    pub(super) tasks: TaskTracker,
    pub(super) peer_port: TaskTracker,
}

impl Ports {
    /// Serves both; the peer port where Raft runs.
    pub(super) fn open(client: TcpListener, peer: TcpListener, introducer: Introducer, raft_runtime: &Handle) -> Self {
        let (health, health_service) = service::health();
        let ports = Self {
            clients: Switch::new(Api::waiting(health_service.clone()).and(http::waiting_router())),
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
            ports.clients.clone(),
            PortLimits::of_clients(),
            ports.stop.clone(),
        ));
        let serving = serve_peers(peer, ports.peers.clone(), ports.stop_peers.clone());
        ports.peer_port.spawn_on(serving, raft_runtime);
        ports
    }
}

async fn serve_peers(listener: TcpListener, service: PeerService, stop: CancellationToken) {
    if let Err(error) = peer::serve(listener, service, stop.cancelled_owned()).await {
        tracing::error!(%error, "the peer port ended");
    }
}
