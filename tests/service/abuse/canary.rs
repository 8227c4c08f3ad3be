//! A client that behaves, beside those that don't: it registers, lists and renews on every node, ten times a second, and
//! counts what it had to wait.

use std::time::Duration;

use roster::wire::v1::{
    ListRequest, RegisterRequest, RenewRequest, leases_client::LeasesClient, register_request::Hold,
    registry_client::RegistryClient,
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Status, transport::Channel};

use crate::{
    harness::{Cluster, register},
    support::of,
};

/// How often each node is asked.
const EVERY: Duration = Duration::from_millis(100);
/// A call that takes longer has failed, whoever else keeps the node busy.
pub(crate) const CALL_WITHIN: Duration = Duration::from_secs(5);

/// One for each node.
pub(crate) struct Canary {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Vec<Duration>>>,
}

/// What it saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) calls: usize,
    pub(crate) median: Duration,
    pub(crate) p99: Duration,
    pub(crate) longest: Duration,
}

impl Canary {
    pub(crate) async fn start(cluster: &Cluster) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        for node in &cluster.nodes {
            let channel = Channel::from_shared(node.url()).expect("a URL").connect().await;
            let channel = channel.expect("the node takes connections");
            tasks.push(tokio::spawn(sing(channel, node.name.clone(), stop.clone())));
        }
        Self { stop, tasks }
    }

    /// Ends it; fails if any of its calls did.
    pub(crate) async fn stop(self) -> Seen {
        self.stop.cancel();
        let mut waited = Vec::new();
        for task in self.tasks {
            waited.extend(task.await.expect("a call of the canary failed"));
        }
        waited.sort_unstable();
        let at = |part: usize| waited[(waited.len() - 1) * part / 100];
        Seen {
            calls: waited.len(),
            median: at(50),
            p99: at(99),
            longest: at(100),
        }
    }
}

async fn sing(channel: Channel, node: String, stop: CancellationToken) -> Vec<Duration> {
    let mut registry = RegistryClient::new(channel.clone());
    let mut leases = LeasesClient::new(channel);
    let service = format!("canary-{node}");
    let mut waited = Vec::new();
    while !stop.is_cancelled() {
        let next = Instant::now() + EVERY;
        let began = Instant::now();
        let registered = registry.register(in_time(RegisterRequest {
            hold: None::<Hold>,
            ..register(&service, "1")
        }));
        let instance = heard(&node, "register", registered.await)
            .instance
            .expect("an instance");
        waited.push(began.elapsed());

        let began = Instant::now();
        let list = ListRequest {
            selector: Some(of(&service)),
            ..ListRequest::default()
        };
        let listed = heard(&node, "list", registry.list(in_time(list)).await);
        assert_eq!(listed.instances.len(), 1, "{node} lists another canary");
        waited.push(began.elapsed());

        let began = Instant::now();
        let renewal = RenewRequest {
            seq: 1,
            lease_ids: vec![instance.lease_id],
        };
        let renewed = heard(&node, "renew", leases.renew(in_time(renewal)).await);
        assert!(
            renewed.renew_after.is_some(),
            "{node}: the canary's lease was not renewed: {renewed:?}"
        );
        waited.push(began.elapsed());
        tokio::time::sleep_until(next).await;
    }
    waited
}

fn in_time<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_WITHIN);
    request
}

fn heard<T>(node: &str, call: &str, answer: Result<tonic::Response<T>, Status>) -> T {
    answer
        .unwrap_or_else(|status| panic!("{node} did not {call} for the canary: {status:?}"))
        .into_inner()
}
