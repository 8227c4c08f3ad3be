//! Abuse of both ports of a real node: connections that do nothing, do it slowly, or do far too much. For each kind: the
//! node's memory grows by no more than is stated, its descriptors come back, its log stays readable, no term passes, and
//! a client that behaves is served meanwhile, on every node.
//!
//! `ROSTER_ABUSE_S` makes each flood last so many seconds instead of one.

mod canary;
mod files;
mod flood;
mod frames;
mod idle;
mod slow;

use std::{env, fs, net::SocketAddr, time::Duration};

use futures_util::future::BoxFuture;
use roster::wire::v1::{GetNodeStatusRequest, cluster_client::ClusterClient};
use tokio::time::Instant;

use self::canary::{Canary, Seen};
use crate::harness::{Cluster, Node, PATIENCE};

/// Lines that a node may log in a second, whatever is done to it.
const LOG_LINES_PER_S_MAX: f64 = 20.0;
/// What one call of a hundred may take on a machine that does nothing else.
const P99_MAX: Duration = Duration::from_secs(2);
/// A machine on which one of a hundred calls to nodes that nobody abuses takes longer is busy with other things.
const BUSY_P99: Duration = Duration::from_millis(50);
/// Descriptors that may be open more than before, once an abuse is over: connections between nodes come and go.
const DESCRIPTORS_LEFT_MAX: usize = 20;

/// Which port is abused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    Client,
    Peer,
}

/// One kind of abuse.
struct Abuse {
    name: &'static str,
    ports: &'static [Port],
    /// What the node's memory may grow by, in MiB.
    grows_mib: u64,
    run: fn(Target) -> BoxFuture<'static, ()>,
}

const BOTH: &[Port] = &[Port::Client, Port::Peer];
const CLIENT: &[Port] = &[Port::Client];

/// Where it hits, and for how long.
#[derive(Clone, Copy, Debug)]
struct Target {
    port: Port,
    address: SocketAddr,
    lasts: Duration,
}

impl Target {
    /// A call that both kinds of port know.
    fn method(self) -> &'static str {
        match self.port {
            Port::Client => "/roster.v1.Registry/ListNamespaces",
            Port::Peer => "/roster.internal.v1.Peer/Hello",
        }
    }
}

/// How much a node uses of what others need too.
#[derive(Clone, Copy, Debug)]
struct Usage {
    resident_kib: u64,
    descriptors: usize,
    log_lines: usize,
}

impl Usage {
    fn of(node: &Node) -> Self {
        let process = format!("/proc/{}", node.pid());
        let status = fs::read_to_string(format!("{process}/status")).expect("the node lives");
        let resident = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .expect("a line");
        let resident = resident.trim().trim_end_matches("kB").trim().parse();
        Self {
            resident_kib: resident.expect("a number"),
            descriptors: fs::read_dir(format!("{process}/fd")).expect("the node lives").count(),
            log_lines: node.log().lines().count(),
        }
    }
}

async fn term(node: &Node) -> i64 {
    let mut client = ClusterClient::connect(node.url()).await.expect("the node lives");
    let status = client
        .get_node_status(GetNodeStatusRequest {})
        .await
        .expect("a status")
        .into_inner();
    status.header.expect("a header").term
}

/// Follows a node's memory until it is dropped, and keeps the largest.
async fn follow_memory(pid: u32, largest: std::sync::Arc<std::sync::atomic::AtomicU64>) {
    loop {
        if let Ok(statm) = fs::read_to_string(format!("/proc/{pid}/statm"))
            && let Some(Ok(pages)) = statm.split(' ').nth(1).map(str::parse::<u64>)
        {
            largest.fetch_max(pages * 4, std::sync::atomic::Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What the canary waits while nobody does anything else.
async fn at_rest(cluster: &Cluster) -> Seen {
    let canary = Canary::start(cluster).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    canary.stop().await
}

/// Lets a node suffer it, and says what that came to.
async fn suffer(cluster: &Cluster, at: usize, abuse: &Abuse, port: Port, lasts: Duration, is_busy: bool) -> String {
    let node = &cluster.nodes[at];
    let address = match port {
        Port::Client => &node.endpoint,
        Port::Peer => &node.peer_endpoint,
    };
    let target = Target {
        port,
        address: address.parse().expect("an address"),
        lasts,
    };
    let (before, term_before) = (Usage::of(node), term(node).await);
    let canary = Canary::start(cluster).await;
    let largest = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let following = tokio::spawn(follow_memory(node.pid(), largest.clone()));
    let began = Instant::now();
    (abuse.run)(target).await;
    let took = began.elapsed();
    following.abort();
    let seen = canary.stop().await;

    let grown_mib = largest
        .load(std::sync::atomic::Ordering::Relaxed)
        .saturating_sub(before.resident_kib)
        / 1_024;
    let lines = Usage::of(node).log_lines - before.log_lines;
    let per_second = f64::from(u32::try_from(lines).expect("few")) / took.as_secs_f64().max(1.0);
    let line = format!(
        "{} ({port:?} port): {:.1} s, {grown_mib} MiB more at the most, {per_second:.1} log lines/s; canary: {} calls, {} \
         failed, median {:?}, p99 {:?}, longest {:?}",
        abuse.name,
        took.as_secs_f64(),
        seen.calls,
        seen.failed.len(),
        seen.median,
        seen.p99,
        seen.longest,
    );
    assert!(
        grown_mib <= abuse.grows_mib,
        "{} ({port:?} port): {grown_mib} MiB",
        abuse.name
    );
    assert!(
        per_second <= LOG_LINES_PER_S_MAX,
        "{} ({port:?} port): {per_second} lines/s",
        abuse.name
    );
    assert!(
        !node.log().contains("panicked at"),
        "{} ({port:?} port)\n{}",
        abuse.name,
        node.log()
    );
    let until = Instant::now() + PATIENCE;
    while Usage::of(node).descriptors > before.descriptors + DESCRIPTORS_LEFT_MAX {
        let now = Usage::of(node).descriptors;
        assert!(
            Instant::now() < until,
            "{} ({port:?} port): {now} descriptors are open",
            abuse.name
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // On a machine that is busy with other things, what others wait for proves nothing.
    if !is_busy {
        assert!(seen.failed.is_empty(), "{line}\n{:#?}", seen.failed);
        assert!(seen.p99 <= P99_MAX, "{line}");
        assert_eq!(term(node).await, term_before, "an election: {line}");
    }
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn no_abuse_of_a_port_harms_those_who_behave() {
    let seconds = env::var("ROSTER_ABUSE_S").map_or(1, |text| text.parse().expect("ROSTER_ABUSE_S is a number"));
    let lasts = Duration::from_secs(seconds);
    let only = env::var("ROSTER_ABUSE").unwrap_or_default();
    let cluster = Cluster::start(3).await;
    let at = cluster.leader().await;
    let quiet = at_rest(&cluster).await;
    let is_busy = quiet.p99 > BUSY_P99;
    println!(
        "at rest: {quiet:?}{}",
        if is_busy {
            "; this machine is busy: calls are counted, no more"
        } else {
            ""
        }
    );
    for abuse in idle::ABUSES.iter().chain(slow::ABUSES).chain(flood::ABUSES) {
        for &port in abuse.ports.iter().filter(|_| abuse.name.contains(&only)) {
            println!("{}", suffer(&cluster, at, abuse, port, lasts, is_busy).await);
        }
    }
}
