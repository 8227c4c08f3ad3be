//! How a node comes to its cluster: once, before it has a data directory of its own.
//!
//! The node listed first founds the cluster when *all* listed nodes answer and are empty: it makes a random cluster
//! id, stores it durably, and tells each of the others, which store it before they answer; only then does it begin
//! the log. Until it is told, a node casts no vote and appends nothing. A node without data whose peers are already
//! at work has lost its disk, or never belonged to them: it must not come back under an old id, and stops.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rand::Rng as _;
use tokio::sync::watch;

use crate::{
    model::{ClusterId, Member, NodeId, NodeName},
    peer::Peers,
    wire::internal::{FoundRequest, HelloResponse, NodeInfo},
};

/// How often an answer is asked for again.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// How often the log says what is still waited for.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Why a node can't join its cluster. The process ends with it.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The peers have a cluster, and this node has no data of it.
    #[error(
        "{peer} already belongs to cluster {cluster_id}, which is at work, and this node's data directory is empty: \
         a node that lost its data must not come back under its old name. Remove this member and add a new one"
    )]
    ClusterExists {
        /// Who said so.
        peer: NodeName,
        /// Which cluster.
        cluster_id: String,
    },
    /// A peer belongs to another cluster than this node.
    #[error(
        "{peer} at {address} belongs to cluster {theirs}, this node's data directory to cluster {ours}: \
         one of them was started with another cluster's addresses or data directory"
    )]
    OtherCluster {
        /// Who.
        peer: NodeName,
        /// Where.
        address: String,
        /// Its cluster.
        theirs: String,
        /// This node's.
        ours: ClusterId,
    },
    /// The node at an address calls itself otherwise than the list does.
    #[error(
        "the node at {address} calls itself {said:?}, but this node's list calls it {listed}: \
         two nodes have one name, or an address is wrong"
    )]
    OtherName {
        /// Where.
        address: String,
        /// What it says.
        said: String,
        /// What the list says.
        listed: NodeName,
    },
    /// The identity could not be stored.
    #[error("could not store this node's identity: {0}")]
    Store(String),
}

/// What a node is before and after it belongs to a cluster, shared with the peer port's Hello and Found.
#[derive(Debug)]
pub struct Belonging {
    name: NodeName,
    client_address: String,
    founded: watch::Sender<bool>,
    found: watch::Sender<Option<Founded>>,
    storing: Mutex<()>,
}

/// The cluster that a node belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founded {
    /// Which cluster.
    pub cluster_id: ClusterId,
    /// This node's number in it.
    pub node_id: NodeId,
    /// All members at its founding; empty after a restart, when the log tells.
    pub members: Vec<Member>,
}

impl Belonging {
    /// A node that belongs to `found`, or to no cluster yet. `founded`: its log has begun.
    #[must_use]
    pub fn new(name: NodeName, client_address: String, found: Option<Founded>, founded: bool) -> Arc<Self> {
        Arc::new(Self {
            name,
            client_address,
            founded: watch::Sender::new(founded),
            found: watch::Sender::new(found),
            storing: Mutex::new(()),
        })
    }

    /// The answer to Hello.
    #[must_use]
    pub fn hello(&self) -> HelloResponse {
        let found = self.found.borrow();
        HelloResponse {
            name: self.name.to_string(),
            cluster_id: found
                .as_ref()
                .map(|found| found.cluster_id.to_string())
                .unwrap_or_default(),
            node_id: found.as_ref().map_or(0, |found| found.node_id.0),
            empty: found.is_none(),
            client_address: self.client_address.clone(),
            founded: *self.founded.borrow(),
        }
    }

    /// The log has begun: this node's cluster is at work.
    pub fn set_founded(&self) {
        self.founded.send_replace(true);
    }

    /// Takes the cluster that its first node made. `store` must have made the identity durable when it returns.
    /// The same cluster again is no error.
    ///
    /// # Errors
    /// A text for the founder: another cluster, a list without this node, or the identity could not be stored.
    pub fn take(
        &self,
        request: &FoundRequest,
        store: impl FnOnce(&Founded) -> Result<(), String>,
    ) -> Result<(), String> {
        // Two founders can't be served at once.
        let _storing = self.storing.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster_id = ClusterId::parse(&request.cluster_id).ok_or("cluster_id: not 16 hex digits")?;
        if let Some(found) = self.found.borrow().as_ref() {
            let same = found.cluster_id == cluster_id;
            return if same {
                Ok(())
            } else {
                Err(format!("this node belongs to cluster {}", found.cluster_id))
            };
        }
        let members = request
            .members
            .iter()
            .map(member_from_info)
            .collect::<Result<Vec<_>, _>>()?;
        let own = members.iter().find(|member| member.name == self.name);
        let node_id = own
            .ok_or_else(|| format!("the founder's list does not hold {}", self.name))?
            .node_id;
        let found = Founded {
            cluster_id,
            node_id,
            members,
        };
        store(&found)?;
        self.found.send_replace(Some(found));
        Ok(())
    }

    /// Waits until the node belongs to a cluster.
    async fn wait_found(&self) -> Founded {
        let mut found = self.found.subscribe();
        let found = found.wait_for(Option::is_some).await.expect("the sender lives in self");
        found.clone().expect("waited for")
    }
}

fn member_from_info(info: &NodeInfo) -> Result<Member, String> {
    Ok(Member {
        node_id: NodeId(info.node_id),
        name: NodeName::parse(&info.name).map_err(|error| format!("members.name {:?} {error}", info.name))?,
        peer_address: info.peer_address.clone(),
        client_address: info.client_address.clone(),
        voter: true,
    })
}

fn info_from_member(member: &Member) -> NodeInfo {
    NodeInfo {
        node_id: member.node_id.0,
        name: member.name.to_string(),
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
    }
}

/// The initial cluster as its nodes are listed: name and peer address.
pub type InitialCluster = Vec<(NodeName, String)>;

/// Founds the cluster, or waits until its first node has. `store` makes an identity durable.
///
/// # Errors
/// See [`BootstrapError`]: all of them are for a person to resolve.
pub async fn join_initial_cluster(
    belonging: &Belonging,
    listed: &InitialCluster,
    peers: &Peers,
    store: impl Fn(&Founded) -> Result<(), String>,
) -> Result<Founded, BootstrapError> {
    let first = listed.first().is_some_and(|(name, _)| *name == belonging.name);
    let Some(client_addresses) = ask_all(belonging, listed, peers, first, None).await? else {
        return Ok(belonging.wait_found().await);
    };
    let members = members_of(listed, client_addresses);
    let cluster_id = random_cluster_id();
    let own = members
        .iter()
        .find(|member| member.name == belonging.name)
        .map_or(NodeId(1), |member| member.node_id);
    let found = Founded {
        cluster_id,
        node_id: own,
        members,
    };
    store(&found).map_err(BootstrapError::Store)?;
    belonging.found.send_replace(Some(found.clone()));
    Ok(found)
}

/// The founder goes on after a crash between storing its identity and beginning the log: the members as listed.
///
/// # Errors
/// See [`BootstrapError`].
pub async fn resume_founding(
    belonging: &Belonging,
    listed: &InitialCluster,
    peers: &Peers,
    found: Founded,
) -> Result<Founded, BootstrapError> {
    let addresses = ask_all(belonging, listed, peers, true, Some(found.cluster_id)).await?;
    Ok(Founded {
        members: members_of(listed, addresses.unwrap_or_default()),
        ..found
    })
}

/// Asks every listed node until all have answered (the first-listed node), or until this node was told of its
/// cluster (`None`; every other node).
async fn ask_all(
    belonging: &Belonging,
    listed: &InitialCluster,
    peers: &Peers,
    first: bool,
    ours: Option<ClusterId>,
) -> Result<Option<Vec<String>>, BootstrapError> {
    let mut client_addresses = vec![String::new(); listed.len()];
    let mut said = tokio::time::Instant::now();
    loop {
        let mut missing = BTreeSet::new();
        for ((name, address), client_address) in listed.iter().zip(&mut client_addresses) {
            if *name == belonging.name {
                client_address.clone_from(&belonging.client_address);
                continue;
            }
            let Ok(hello) = peers.hello(address).await else {
                missing.insert(name);
                continue;
            };
            // Every member is told before the cluster is at work: a node that was told is no stranger to it.
            if !first && belonging.found.borrow().is_some() {
                return Ok(None);
            }
            check_hello(&hello, name, address, ours)?;
            client_address.clone_from(&hello.client_address);
        }
        if first && missing.is_empty() {
            return Ok(Some(client_addresses));
        }
        if said.elapsed() >= SAY_EVERY {
            said = tokio::time::Instant::now();
            tracing::info!(?missing, "waiting for the nodes of the initial cluster");
        }
        if first {
            tokio::time::sleep(ASK_EVERY).await;
        } else if tokio::time::timeout(ASK_EVERY, belonging.wait_found()).await.is_ok() {
            return Ok(None);
        }
    }
}

fn members_of(listed: &InitialCluster, client_addresses: Vec<String>) -> Vec<Member> {
    (1..)
        .zip(listed)
        .zip(client_addresses)
        .map(|((node_id, (name, peer_address)), client_address)| Member {
            node_id: NodeId(node_id),
            name: name.clone(),
            peer_address: peer_address.clone(),
            client_address,
            voter: true,
        })
        .collect()
}

/// The founder tells the others, until each has stored it. Also after a crash between its own storing and this.
///
/// # Errors
/// `OtherName`, `OtherCluster`, when a node that answers can't be a member.
pub async fn tell_members(name: &NodeName, found: &Founded, peers: &Peers) -> Result<(), BootstrapError> {
    let request = FoundRequest {
        cluster_id: found.cluster_id.to_string(),
        members: found.members.iter().map(info_from_member).collect(),
    };
    for member in found.members.iter().filter(|member| member.name != *name) {
        while let Err(error) = peers.found(&member.peer_address, request.clone()).await {
            tracing::debug!(member = %member.name, error = %error, "could not tell a member of its cluster yet");
            if let Ok(hello) = peers.hello(&member.peer_address).await {
                check_same_cluster(&hello, member, found.cluster_id)?;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
    Ok(())
}

/// At a restart: whether the nodes under the members' names and addresses belong to the same cluster.
///
/// # Errors
/// `OtherCluster`.
pub async fn check_members(
    name: &NodeName,
    cluster_id: ClusterId,
    members: &[Member],
    peers: &Peers,
) -> Result<(), BootstrapError> {
    for member in members.iter().filter(|member| member.name != *name) {
        // A member that does not answer can't be asked; the peer port checks every later connection. A node of another
        // name has merely moved to an address that a member once had.
        if let Ok(hello) = peers.hello(&member.peer_address).await
            && hello.name == member.name.as_str()
        {
            check_same_cluster(&hello, member, cluster_id)?;
        }
    }
    Ok(())
}

/// After a restart, as soon as this node takes part: says so to the members, so that the one that leads does not put off
/// what it has for it.
pub async fn greet_members(name: NodeName, members: Vec<Member>, peers: Arc<Peers>) {
    let others = members.iter().filter(|member| member.name != name);
    let greetings = others.map(async |member| {
        // The connections' own book may not have been told yet.
        peers.learn(member.node_id, &member.peer_address);
        if let Err(error) = peers.greet(member.node_id).await {
            // Who is not there leads nobody.
            tracing::debug!(member = %member.name, %error, "could not greet a member");
        }
    });
    futures_util::future::join_all(greetings).await;
}

fn check_hello(
    hello: &HelloResponse,
    listed: &NodeName,
    address: &str,
    ours: Option<ClusterId>,
) -> Result<(), BootstrapError> {
    if hello.name != listed.as_str() {
        return Err(BootstrapError::OtherName {
            address: address.to_owned(),
            said: hello.name.clone(),
            listed: listed.clone(),
        });
    }
    let theirs = ClusterId::parse(&hello.cluster_id);
    let stranger = theirs.is_some() && ours.is_some() && theirs != ours;
    if hello.founded || stranger {
        return Err(BootstrapError::ClusterExists {
            peer: listed.clone(),
            cluster_id: hello.cluster_id.clone(),
        });
    }
    Ok(())
}

fn check_same_cluster(hello: &HelloResponse, member: &Member, ours: ClusterId) -> Result<(), BootstrapError> {
    if hello.name != member.name.as_str() {
        return Err(BootstrapError::OtherName {
            address: member.peer_address.clone(),
            said: hello.name.clone(),
            listed: member.name.clone(),
        });
    }
    if !hello.empty && hello.cluster_id != ours.to_string() {
        return Err(BootstrapError::OtherCluster {
            peer: member.name.clone(),
            address: member.peer_address.clone(),
            theirs: hello.cluster_id.clone(),
            ours,
        });
    }
    Ok(())
}

fn random_cluster_id() -> ClusterId {
    loop {
        if let Some(id) = ClusterId::new(rand::rng().random()) {
            return id;
        }
    }
}
