//! A client that behaves, beside those that don't: it registers, lists and renews on every node, ten times a second, and
//! counts what it had to wait.

use std::time::Duration;

use roster::wire::v1::{
    ListRequest, RenewRequest, leases_client::LeasesClient, registry_client::RegistryClient, renew_result::Outcome,
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, transport::Channel};

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
    tasks: Vec<JoinHandle<Song>>,
}

/// What one of them saw.
#[derive(Default)]
struct Song {
    waited: Vec<Duration>,
    failed: Vec<String>,
}

/// What all of them saw.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) calls: usize,
    /// What failed, or was not confirmed.
    pub(crate) failed: Vec<String>,
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

    /// Ends it.
    pub(crate) async fn stop(self) -> Seen {
        self.stop.cancel();
        let mut all = Song::default();
        for task in self.tasks {
            let song = task.await.expect("no panic");
            all.waited.extend(song.waited);
            all.failed.extend(song.failed);
        }
        all.waited.sort_unstable();
        let at = |part: usize| all.waited[(all.waited.len() - 1) * part / 100];
        Seen {
            calls: all.waited.len(),
            median: at(50),
            p99: at(99),
            longest: at(100),
            failed: all.failed,
        }
    }
}

async fn sing(channel: Channel, node: String, stop: CancellationToken) -> Song {
    let mut registry = RegistryClient::new(channel.clone());
    let mut leases = LeasesClient::new(channel);
    let service = format!("canary-{node}");
    let mut song = Song::default();
    let mut lease_id = 0;
    while !stop.is_cancelled() {
        let next = Instant::now() + EVERY;
        let began = Instant::now();
        let registered = registry.register(in_time(register(&service, "1"))).await;
        if let Some(answer) = song.hear(&node, "register", began, registered) {
            lease_id = answer.instance.expect("an instance").lease_id;
        }

        let began = Instant::now();
        let list = ListRequest {
            selector: Some(of(&service)),
            ..ListRequest::default()
        };
        let listed = registry.list(in_time(list)).await;
        if let Some(answer) = song.hear(&node, "list", began, listed) {
            assert_eq!(
                answer.instances.len(),
                usize::from(lease_id > 0),
                "{node} lists another canary"
            );
        }

        let began = Instant::now();
        let renewal = RenewRequest {
            seq: 1,
            lease_ids: vec![lease_id],
        };
        let renewed = leases.renew(in_time(renewal)).await;
        if let Some(answer) = song.hear(&node, "renew", began, renewed) {
            match answer.results[0].outcome() {
                Outcome::Renewed => {}
                Outcome::Unconfirmed => song.failed.push(format!("{node} did not confirm a renewal")),
                other => assert_eq!(lease_id, 0, "{node}: the canary's lease is {other:?}"),
            }
        }
        tokio::time::sleep_until(next).await;
    }
    song
}

fn in_time<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(CALL_WITHIN);
    request
}

impl Song {
    fn hear<T>(&mut self, node: &str, call: &str, began: Instant, answer: Result<Response<T>, Status>) -> Option<T> {
        self.waited.push(began.elapsed());
        match answer {
            Ok(answer) => Some(answer.into_inner()),
            Err(status) => {
                let (code, message) = (status.code(), status.message());
                self.failed.push(format!("{node} did not {call}: {code:?}, {message}"));
                None
            }
        }
    }
}
