//! What a node counts, in the text format that Prometheus scrapes.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicI64, AtomicU64},
};

use prometheus_client::{encoding::text::encode, metrics::gauge::Gauge, registry::Registry};

use crate::{node::Node, raft::Role};

type Whole = Gauge<i64, AtomicI64>;
type Seconds = Gauge<f64, AtomicU64>;

/// The node's gauges, set anew for each page.
pub(super) struct Metrics {
    node: Node,
    registry: Mutex<Registry>,
    leader: Whole,
    has_leader: Whole,
    term: Whole,
    log_index: Whole,
    applied_index: Whole,
    revision: Whole,
    instances: Whole,
    leases: Whole,
    watches: Whole,
    lease_clock_running: Whole,
    age: Seconds,
    uptime: Seconds,
}

impl Metrics {
    pub(super) fn new(node: Node) -> Self {
        let mut registry = Registry::with_prefix("roster");
        let mut whole = |name: &str, help: &str| {
            let gauge = Whole::default();
            registry.register(name, help, gauge.clone());
            gauge
        };
        let leader = whole("is_leader", "1 while this node leads");
        let has_leader = whole("has_leader", "1 while this node knows a leader");
        let term = whole("term", "The Raft term that this node believes in");
        let log_index = whole("log_index", "The last entry of this node's log");
        let applied_index = whole("applied_index", "The last entry that this node has applied");
        let revision = whole("revision", "The registry's revision on this node");
        let instances = whole("instances", "Registered instances");
        let leases = whole("leases", "Leases");
        let watches = whole("watches", "Open watches on this node");
        let lease_clock_running = whole("lease_clock_running", "1 while lease time moves");
        let (age, uptime) = (Seconds::default(), Seconds::default());
        registry.register(
            "state_age_seconds",
            "Upper bound of how old this node's state is; -1 = unknown",
            age.clone(),
        );
        registry.register("uptime_seconds", "Since when this node runs", uptime.clone());
        Self {
            node,
            registry: Mutex::new(registry),
            leader,
            has_leader,
            term,
            log_index,
            applied_index,
            revision,
            instances,
            leases,
            watches,
            lease_clock_running,
            age,
            uptime,
        }
    }

    /// The page as it stands now.
    pub(super) fn page(&self) -> String {
        let status = self.node.status();
        let state = self.node.state();
        self.leader.set(i64::from(status.role == Role::Leader));
        self.has_leader.set(i64::from(status.leader.is_some()));
        self.term.set(signed(self.node.term().0));
        self.log_index.set(signed(status.log_index.0));
        self.applied_index.set(signed(status.applied_index.0));
        self.revision.set(signed(state.revision().0));
        self.instances.set(signed(state.instance_count() as u64));
        self.leases.set(signed(state.lease_count() as u64));
        self.watches.set(signed(self.node.hub().stats().watches as u64));
        self.lease_clock_running.set(i64::from(status.lease_clock_running));
        self.age.set(self.node.age().map_or(-1.0, |age| age.as_secs_f64()));
        self.uptime.set(status.uptime.as_secs_f64());
        let mut page = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        // Writing to a String can't fail; a page that ends early would say so by its missing end mark.
        if encode(&mut page, &registry).is_err() {
            tracing::error!("could not write the metrics page");
        }
        page
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
