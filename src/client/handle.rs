//! The handle that applications hold.

use std::{sync::Arc, time::Duration};

use backon::ExponentialBackoff;

use super::{
    endpoints::{DEFAULT_ENDPOINTS, Endpoint, Endpoints},
    moment::{Clock, Moment},
    nodes::{Node, Nodes},
    retry::{Patience, pauses},
};
use crate::transport::Connector;

/// How a client behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// How long a call may take, all its attempts together.
    pub timeout: Duration,
    /// How long it goes on while the nodes answer that they have no leader or no quorum: long enough for an
    /// election, short enough for the caller to hear of it.
    pub unavailable_patience: Duration,
    /// How long it goes on while no node can be connected to.
    pub unreachable_patience: Duration,
    /// How long one connection may take to come about.
    pub connect_timeout: Duration,
    /// Whether the client begins with a node chosen at random rather than with the first, so that many clients with
    /// one list spread over the cluster.
    pub spread: bool,
    /// How connections are opened.
    pub connector: Connector,
    /// What it measures the life of its leases by.
    pub clock: Clock,
    /// What the pauses between attempts are jittered by; `None` = chance. For runs that must be the same each time.
    pub jitter_seed: Option<u64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            unavailable_patience: Duration::from_millis(4_500),
            unreachable_patience: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(1),
            spread: true,
            connector: Connector::default(),
            clock: Clock::default(),
            jitter_seed: None,
        }
    }
}

/// A client of one cluster. Cheap to clone; clones share their connections and the knowledge of which node answers.
///
/// Calls need a tokio runtime. A call that is dropped is given up; a write's outcome is then unknown.
#[derive(Clone, Debug)]
pub struct Client {
    nodes: Arc<Nodes>,
    options: Options,
}

impl Client {
    /// A client of the cluster behind these endpoints. Connects with the first call.
    #[must_use]
    pub fn new(endpoints: Endpoints, options: Options) -> Self {
        let nodes = Nodes::new(endpoints, &options);
        Self { nodes, options }
    }

    /// A client of the cluster that runs on this machine ([`DEFAULT_ENDPOINTS`]).
    #[must_use]
    pub fn local() -> Self {
        let endpoints = DEFAULT_ENDPOINTS.parse().expect("the default is a list of endpoints");
        Self::new(endpoints, Options::default())
    }

    /// The same client, on the same connections, whose calls may take this long.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self {
            nodes: Arc::clone(&self.nodes),
            options: Options {
                timeout,
                ..self.options.clone()
            },
        }
    }

    /// A client of one of the cluster's nodes alone.
    #[must_use]
    pub fn only(&self, endpoint: Endpoint) -> Self {
        Self::new(endpoint.into(), self.options.clone())
    }

    /// Where its cluster is looked for.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        self.nodes.endpoints()
    }

    /// How it behaves.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Where a node is reached.
    #[must_use]
    pub fn endpoint(&self, node: Node) -> &Endpoint {
        self.nodes.endpoint(node)
    }

    pub(super) fn nodes(&self) -> &Nodes {
        &self.nodes
    }

    pub(super) fn patience(&self) -> Patience {
        Patience {
            timeout: self.options.timeout,
            unavailable: self.options.unavailable_patience,
            unreachable: self.options.unreachable_patience,
            jitter_seed: self.options.jitter_seed,
        }
    }

    /// Now, by its clock.
    pub(super) fn now(&self) -> Moment {
        self.options.clock.now()
    }

    /// The pauses between rounds of attempts, the longest as long as this.
    pub(super) fn pauses(&self, longest: Duration) -> ExponentialBackoff {
        pauses(longest, self.options.jitter_seed)
    }
}
