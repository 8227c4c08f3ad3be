//! The nodes that a run calls, and its connections to them: set up as those of `roster bench`.

use std::time::Duration;

use etcd_client::Client;
use roster::cli::bench::measure::Trouble;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

use super::To;
use crate::problem::{Problem, While as _};

/// How long a node may take to be connected to.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const PING_INTERVAL: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// Clients that share a connection when nobody says how many there are to be.
const CLIENTS_PER_CONNECTION: usize = 16;

/// A node.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) endpoint: String,
    pub(super) leads: bool,
}

/// A connection: for the crate's calls, and for our own.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) channel: Channel,
}

/// Connections to the nodes that a run calls.
pub(super) struct Target {
    pub(super) members: Vec<Member>,
    connections: Vec<Connection>,
}

impl Target {
    pub(super) async fn connect(
        endpoints: &[String],
        to: To,
        connections: Option<usize>,
        clients: usize,
    ) -> Result<Self, Problem> {
        let mut members = members(endpoints).await?;
        members.retain(|member| match to {
            To::Leader => member.leads,
            To::Follower => !member.leads,
            To::All => true,
        });
        if members.is_empty() {
            return Err(Problem(format!("--to {to:?}: there is no such node")));
        }
        let count = connections.unwrap_or_else(|| clients.div_ceil(CLIENTS_PER_CONNECTION).max(members.len()));
        let mut open = Vec::with_capacity(count);
        for at in 0..count {
            let endpoint = &members[at % members.len()].endpoint;
            let channel = uri(endpoint)?.connect().await.when(endpoint)?;
            open.push(connection(channel).await?);
        }
        Ok(Self {
            members,
            connections: open,
        })
    }

    /// The connection of a task, by turns.
    pub(super) fn connection(&self, task: usize) -> Connection {
        self.connections[task % self.connections.len()].clone()
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }
}

/// Which node leads.
pub(super) async fn members(endpoints: &[String]) -> Result<Vec<Member>, Problem> {
    let mut members = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        let channel = uri(endpoint)?.connect().await.when(endpoint)?;
        let mut client = connection(channel).await?.client;
        let status = client.status().await.when(endpoint)?;
        let own = status.header().map(etcd_client::ResponseHeader::member_id);
        members.push(Member {
            endpoint: endpoint.clone(),
            leads: own == Some(status.leader()),
        });
    }
    Ok(members)
}

/// A connection for each node, made when it is needed: nodes may be dead just now.
pub(super) async fn lazy(endpoints: &[String]) -> Result<Vec<Connection>, Problem> {
    let mut connections = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        connections.push(connection(uri(endpoint)?.connect_lazy()).await?);
    }
    Ok(connections)
}

async fn connection(channel: Channel) -> Result<Connection, Problem> {
    let client = Client::from_channel(etcd_client::Channel::Tonic(channel.clone()), None).await?;
    Ok(Connection { client, channel })
}

fn uri(endpoint: &str) -> Result<Endpoint, Problem> {
    Ok(Endpoint::from_shared(format!("http://{endpoint}"))
        .when(endpoint)?
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .tcp_nodelay(true))
}

/// Why a call failed, in a word that can be counted.
pub(super) fn trouble(error: etcd_client::Error) -> Trouble {
    match error {
        etcd_client::Error::GRpcStatus(status) => refused(&status),
        other => Trouble::new("CLIENT", other.to_string()),
    }
}

/// The same of a call of our own.
pub(super) fn refused(status: &Status) -> Trouble {
    let reason = match status.code() {
        Code::Unavailable => "UNAVAILABLE",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::NotFound => "NOT_FOUND",
        _ => "FAILED",
    };
    Trouble::new(reason, format!("{:?}: {}", status.code(), status.message()))
}

/// A call that must be answered in time, as Roster's must.
pub(super) async fn in_time<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, etcd_client::Error>>,
) -> Result<T, Trouble> {
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(trouble),
        Err(_) => Err(Trouble::new("NO_ANSWER", "it took longer than it may")),
    }
}
