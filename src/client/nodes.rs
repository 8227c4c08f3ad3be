//! The connections to the cluster's nodes, one for each endpoint, and which of them is in use.

use std::{
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::Rng as _;
use tonic::transport::Channel;

use super::{
    endpoints::{Endpoint, Endpoints},
    error::Error,
    handle::Options,
};
use crate::transport::Connector;

/// How often a connection in use is asked whether it is still there: one that died without a word would hold its
/// streams for ever.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// How long its answer may take. Longer than a busy machine's hiccup.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// One node of the cluster, as the client sees it: a place in the list of endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Node(usize);

struct Connection {
    endpoint: Endpoint,
    channel: OnceLock<Channel>,
}

/// All connections of a client, shared by its clones.
pub(super) struct Nodes {
    endpoints: Endpoints,
    connect_timeout: Duration,
    connector: Connector,
    connections: Vec<Connection>,
    current: AtomicUsize,
}

impl fmt::Debug for Nodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nodes")
            .field("endpoints", &self.endpoints)
            .field("current", &self.current)
            .finish_non_exhaustive()
    }
}

impl Nodes {
    /// Opens nothing yet. With `spread`, clients begin at different nodes, so that not all come to the first.
    pub(super) fn new(endpoints: Endpoints, options: &Options) -> Arc<Self> {
        let connections: Vec<Connection> = endpoints
            .as_slice()
            .iter()
            .map(|endpoint| Connection {
                endpoint: endpoint.clone(),
                channel: OnceLock::new(),
            })
            .collect();
        let first = if options.spread {
            rand::rng().random_range(0..connections.len())
        } else {
            0
        };
        Arc::new(Self {
            endpoints,
            connect_timeout: options.connect_timeout,
            connector: options.connector.clone(),
            connections,
            current: AtomicUsize::new(first),
        })
    }

    pub(super) fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    pub(super) fn count(&self) -> usize {
        self.connections.len()
    }

    /// The node that answered last, or that is to be asked next.
    pub(super) fn current(&self) -> Node {
        Node(self.current.load(Ordering::Relaxed) % self.count())
    }

    /// The node after one that failed. All calls of the client go there from now on, unless another has already led
    /// them away from the one that failed.
    pub(super) fn leave(&self, failed: Node) -> Node {
        let next = (failed.0 + 1) % self.count();
        // Losing the race means that another call has already moved on, which is as good.
        let moved = self
            .current
            .compare_exchange(failed.0, next, Ordering::Relaxed, Ordering::Relaxed);
        tracing::debug!(failed = failed.0, next, moved = moved.is_ok(), "leaving a node");
        Node(next)
    }

    pub(super) fn endpoint(&self, node: Node) -> &Endpoint {
        &self.connections[node.0 % self.count()].endpoint
    }

    /// The connection to a node; opened by the first call that uses it, opened again after it broke.
    pub(super) fn channel(&self, node: Node) -> Result<Channel, Error> {
        let connection = &self.connections[node.0 % self.count()];
        if let Some(channel) = connection.channel.get() {
            return Ok(channel.clone());
        }
        let uri = format!("http://{}", connection.endpoint);
        let endpoint = tonic::transport::Endpoint::from_shared(uri)
            .map_err(|error| Error::unreachable(connection.endpoint.to_string(), error.to_string()))?
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .tcp_nodelay(true);
        let channel = self.connector.channel(&endpoint);
        Ok(connection.channel.get_or_init(|| channel).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Arc<Nodes> {
        let endpoints = "n1,n2,n3".parse().expect("a list");
        let options = Options {
            spread: false,
            ..Options::default()
        };
        Nodes::new(endpoints, &options)
    }

    #[test]
    fn leaving_goes_round_the_list() {
        let nodes = three();
        let mut seen = Vec::new();
        for _ in 0..4 {
            let node = nodes.current();
            seen.push(nodes.endpoint(node).host().to_owned());
            nodes.leave(node);
        }
        assert_eq!(seen, ["n1", "n2", "n3", "n1"]);
    }

    #[test]
    fn two_calls_that_fail_on_one_node_leave_it_once() {
        let nodes = three();
        let failed = nodes.current();
        nodes.leave(failed);
        nodes.leave(failed);
        assert_eq!(nodes.endpoint(nodes.current()).host(), "n2");
    }
}
