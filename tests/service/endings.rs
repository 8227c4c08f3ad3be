//! How streams and calls end: without a quorum, and when the node stops.

use std::time::Duration;

use roster::wire::{
    Reason, WriteOutcome,
    v1::{
        GetRequest, GrantLeaseRequest, ListRequest, ReadOptions, RenewRequest, WatchRequest, WatchResponse,
        read_options::Consistency, registry_client::RegistryClient, renew_result, watch_response::Kind,
    },
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::{
    harness::{Cluster, Node, PATIENCE, register},
    support::{key, next, of, put, record, span, told, watch_of},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_minority_says_so() {
    let mut cluster = Cluster::start(3).await;
    let mut registry = cluster.nodes[0].registry().await;
    let mut leases = cluster.nodes[0].leases().await;
    put(&mut registry, record("web", "a", 0)).await;
    let ttl = Some(span(Duration::from_secs(4)));
    let granted = leases
        .grant_lease(GrantLeaseRequest { ttl, lease_id: 0 })
        .await
        .expect("a grant");
    let lease_id = granted.into_inner().lease.expect("a lease").lease_id;
    let mut young = watch_until(&mut registry, Duration::from_secs(1)).await;
    let mut ageless = watch_until(&mut registry, Duration::ZERO).await;
    let (renewals, requests) = mpsc::channel(8);
    let mut answers = leases
        .keep_alive(ReceiverStream::new(requests))
        .await
        .expect("a stream")
        .into_inner();

    cluster.nodes[1].kill();
    cluster.nodes[2].kill();
    let end = end_of(&mut young).await;
    assert_eq!((end.code(), told(&end).reason), (Code::Unavailable, Reason::NoQuorum));

    let lease_ids = vec![lease_id, 1 << 50];
    renewals.send(RenewRequest { seq: 8, lease_ids }).await.expect("room");
    let began = Instant::now();
    let answer = next(&mut answers).await.expect("an answer");
    // Nobody here knows the second lease, whose TTL may be the shortest that there is.
    assert!(
        began.elapsed() < Duration::from_millis(900),
        "UNCONFIRMED after {:?}",
        began.elapsed()
    );
    assert_eq!(
        (answer.seq, answer.results[0].outcome()),
        (8, renew_result::Outcome::Unconfirmed)
    );

    calls_are_refused_in_time(&mut registry).await;
    stale_lists_go_on(&mut registry).await;
    let quiet = next(&mut ageless).await.expect("max_age 0 s: it never ends");
    assert!(matches!(quiet.kind(), Kind::Snapshot | Kind::Progress));
    health_becomes(&cluster.nodes[0], "", ServingStatus::Serving).await;
    health_becomes(&cluster.nodes[0], "roster.v1.Registry", ServingStatus::NotServing).await;
}

async fn watch_until(client: &mut RegistryClient<Channel>, max_age: Duration) -> Streaming<WatchResponse> {
    let request = WatchRequest {
        max_age: Some(span(max_age)),
        ..watch_of("web")
    };
    client.watch(request).await.expect("a watch").into_inner()
}

async fn end_of(watch: &mut Streaming<WatchResponse>) -> Status {
    loop {
        if let Err(status) = next(watch).await {
            return status;
        }
    }
}

/// A call that its caller leaves all the time within 5 s, a hurried one within its own deadline.
async fn calls_are_refused_in_time(client: &mut RegistryClient<Channel>) {
    let began = Instant::now();
    let refused = client.register(register("web", "b")).await.expect_err("no quorum");
    let detail = told(&refused);
    assert!(
        matches!(detail.reason, Reason::NoQuorum | Reason::NoLeader),
        "{detail:?}"
    );
    assert_eq!(detail.outcome, Some(WriteOutcome::NotApplied));
    let mut hurried = Request::new(GetRequest {
        key: Some(key("web", "a")),
        ..Default::default()
    });
    hurried.set_timeout(Duration::from_secs(1));
    let refused = client.get(hurried).await.expect_err("no quorum");
    assert!(
        matches!(told(&refused).reason, Reason::NoQuorum | Reason::NoLeader),
        "{refused:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(7),
        "5 s and 1 s at most: {:?}",
        began.elapsed()
    );
}

async fn stale_lists_go_on(client: &mut RegistryClient<Channel>) {
    let read = |max_age| ReadOptions {
        consistency: Consistency::Stale.into(),
        max_age,
        ..Default::default()
    };
    let list = |read| ListRequest {
        selector: Some(of("web")),
        read: Some(read),
        ..Default::default()
    };
    let page = client.list(list(read(None))).await.expect("a stale list").into_inner();
    let header = page.header.expect("a header");
    assert!(
        header.stale && header.age.is_some_and(|age| age.seconds >= 1),
        "{header:?}"
    );
    assert_eq!(page.instances.len(), 1);
    let refused = client
        .list(list(read(Some(span(Duration::from_secs(1))))))
        .await
        .expect_err("too old");
    assert_eq!(told(&refused).reason, Reason::TooStale);
}

async fn health_becomes(node: &Node, service: &str, status: ServingStatus) {
    let channel = Channel::from_shared(node.url()).expect("a URL").connect().await;
    let mut health = HealthClient::new(channel.expect("a connection"));
    let until = Instant::now() + PATIENCE;
    loop {
        let checked = health
            .check(HealthCheckRequest {
                service: service.to_owned(),
            })
            .await
            .expect("an answer");
        if checked.into_inner().status() == status {
            return;
        }
        assert!(Instant::now() < until, "{service:?} is not {status:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_the_node_and_say_why() {
    let mut cluster = Cluster::start(1).await;
    let mut registry = cluster.nodes[0].registry().await;
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(registry.watch(watch_of("web")).await.expect("a watch").into_inner());
    }
    let (_renewals, requests) = mpsc::channel(8);
    let mut leases = cluster.nodes[0].leases().await;
    let mut answers = leases
        .keep_alive(ReceiverStream::new(requests))
        .await
        .expect("a stream")
        .into_inner();
    assert_eq!(cluster.nodes[0].terminate().await, Some(0));
    for watch in &mut watches {
        let end = end_of(watch).await;
        assert_eq!(told(&end).reason, Reason::ShuttingDown);
    }
    let end = next(&mut answers).await.expect_err("the end");
    assert_eq!(told(&end).reason, Reason::ShuttingDown);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_while_its_leader_sends_to_it_is_quiet() {
    let mut cluster = Cluster::start(3).await;
    // Whoever stops is a follower by then, and gets what these write up to its end. The harness looks at the logs.
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let urls: Vec<String> = cluster.nodes.iter().map(Node::url).collect();
            AbortOnDropHandle::new(tokio::spawn(keep_writing(urls, writer)))
        })
        .collect();
    for _turn in 0..3 {
        for node in &mut cluster.nodes {
            assert_eq!(node.terminate().await, Some(0), "{}", node.name);
            node.start();
            node.wait_ready().await;
        }
    }
    assert!(
        writers.iter().all(|writer| !writer.is_finished()),
        "they wrote all the time"
    );
}

/// Registers for ever, at whichever node answers.
async fn keep_writing(urls: Vec<String>, writer: usize) {
    let channels: Vec<Channel> = urls
        .into_iter()
        .map(|url| Channel::from_shared(url).expect("a URL").connect_lazy())
        .collect();
    for number in writer.. {
        let mut client = RegistryClient::new(channels[number % channels.len()].clone());
        // A node that is down takes nothing; another will.
        let _refused = client.register(register("web", &format!("w{writer}-{number}"))).await;
    }
}
