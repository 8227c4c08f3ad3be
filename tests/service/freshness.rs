//! Reads and watches at nodes that lag, were asleep, or have just started: never older than what was acknowledged.

use std::time::Duration;

use roster::wire::v1::{
    GetRequest, Position, WatchRequest, registry_client::RegistryClient, watch_request::Start, watch_response::Kind,
};
use tokio::time::Instant;
use tonic::{Request, transport::Channel};

use crate::{
    harness::{Cluster, PATIENCE, list_all},
    support::{View, key, next, of, put, record},
};

/// The revision of a node's word on one instance, if it has one.
async fn seen(client: &mut RegistryClient<Channel>, id: &str) -> Option<i64> {
    let request = GetRequest {
        key: Some(key("web", id)),
        ..GetRequest::default()
    };
    let instance = client.get(request).await.ok()?.into_inner().instance?;
    Some(instance.mod_revision)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_on_any_node_sees_what_was_acknowledged_before_it_was_sent() {
    let cluster = Cluster::start(3).await;
    let mut clients = Vec::new();
    for node in &cluster.nodes {
        clients.push(node.registry().await);
    }
    // Others read all the time, so that there is always a round under way that must not be joined.
    let mut readers = Vec::new();
    for node in &cluster.nodes {
        let mut client = node.registry().await;
        readers.push(tokio::spawn(
            async move { while client.list(list_all()).await.is_ok() {} },
        ));
    }
    for round in 0..150_usize {
        let mut instance = record("web", "a", 0);
        instance.version = round.to_string();
        let written = put(&mut clients[round % 3], instance).await;
        let revision = written.header.expect("a header").revision;
        for (at, client) in clients.iter_mut().enumerate() {
            let read = seen(client, "a").await;
            assert!(
                read >= Some(revision),
                "round {round}: revision {revision} was acknowledged, n{} then read {read:?}",
                at + 1
            );
        }
    }
    for reader in readers {
        reader.abort();
        // It was told to end.
        let _aborted = reader.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_wakes_up_answers_no_read_from_before_its_sleep() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (former, other) = (&cluster.nodes[leader], &cluster.nodes[(leader + 1) % 3]);
    let (mut asleep, mut awake) = (former.registry().await, other.registry().await);
    put(&mut awake, record("web", "a", 0)).await;
    assert!(seen(&mut asleep, "a").await.is_some());

    former.pause();
    let until = Instant::now() + PATIENCE;
    let mut newer = record("web", "a", 0);
    newer.version = "2".to_owned();
    let revision = loop {
        let request = roster::wire::v1::RegisterRequest {
            instance: Some(newer.clone()),
            hold: Some(roster::wire::v1::register_request::Hold::Permanent(true)),
            ..Default::default()
        };
        match awake.register(request).await {
            Ok(written) => break written.into_inner().header.expect("a header").revision,
            Err(status) => assert!(Instant::now() < until, "{status:?}\n{}", cluster.logs()),
        }
    };
    // The reads wait in the socket, and are the first that it looks at.
    let reads: Vec<_> = (0..50)
        .map(|_| {
            let mut client = asleep.clone();
            tokio::spawn(async move {
                let mut request = Request::new(GetRequest {
                    key: Some(key("web", "a")),
                    ..GetRequest::default()
                });
                request.set_timeout(Duration::from_secs(5));
                client.get(request).await
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    former.resume();
    let mut refused = 0;
    for read in reads {
        match read.await.expect("no panic") {
            Ok(answer) => {
                let instance = answer.into_inner().instance.expect("it is there");
                assert!(
                    instance.mod_revision >= revision,
                    "a read after revision {revision} was answered with {}",
                    instance.mod_revision
                );
            }
            Err(_status) => refused += 1,
        }
    }
    println!("50 reads, {refused} refused, none stale");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_answers_no_read_before_it_has_caught_up() {
    const RECORDS: usize = 3_000;
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let restarted = (leader + 1) % 3;
    let client = cluster.nodes[leader].registry().await;
    let mut writes = tokio::task::JoinSet::new();
    for number in 0..RECORDS {
        let mut client = client.clone();
        writes.spawn(async move { put(&mut client, record("web", &format!("i{number}"), 0)).await });
        if writes.len() >= 100 {
            writes.join_next().await;
        }
    }
    while writes.join_next().await.is_some() {}
    cluster.nodes[restarted].kill();
    cluster.nodes[restarted].start();
    let (until, mut early) = (Instant::now() + PATIENCE, 0);
    let node = &cluster.nodes[restarted];
    let complete = loop {
        assert!(
            Instant::now() < until,
            "{} never answers\n{}",
            node.name,
            cluster.logs()
        );
        let Ok(channel) = Channel::from_shared(node.url()).expect("a URL").connect().await else {
            continue;
        };
        match RegistryClient::new(channel).list(list_all()).await {
            Ok(answer) => break answer.into_inner(),
            Err(_status) => early += 1,
        }
    };
    println!("{early} reads refused before the first answer");
    let header = complete.header.expect("a header");
    assert_eq!(complete.instances.len(), RECORDS, "at revision {}", header.revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_resumes_at_a_node_that_lags_is_given_nothing_that_it_has() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (lagging, other) = (&cluster.nodes[(leader + 1) % 3], &cluster.nodes[leader]);
    let (mut there, mut here) = (lagging.registry().await, other.registry().await);
    put(&mut here, record("web", "i0", 0)).await;
    let mut first = here
        .watch(WatchRequest {
            selector: Some(of("web")),
            start: Some(Start::Snapshot(true)),
            ..WatchRequest::default()
        })
        .await
        .expect("a watch")
        .into_inner();
    lagging.pause();
    let mut last = 0;
    for number in 1..=200 {
        let written = put(&mut here, record("web", &format!("i{number}"), 0)).await;
        last = written.header.expect("a header").revision;
    }
    let mut view = View::default();
    view.reach(&mut first, last).await;
    let position: Position = view.position.clone().expect("it got there");
    lagging.resume();
    let resume = WatchRequest {
        selector: Some(of("web")),
        start: Some(Start::After(position.clone())),
        ..WatchRequest::default()
    };
    let mut second = there.watch(resume).await.expect("a watch").into_inner();
    let written = put(&mut here, record("web", "later", 0)).await;
    let later = written.header.expect("a header").revision;
    loop {
        let message = next(&mut second).await.expect("the watch goes on");
        assert_ne!(message.kind(), Kind::Snapshot, "the history reaches back");
        for change in &message.changes {
            assert!(
                change.revision > position.revision,
                "{change:?} after {}",
                position.revision
            );
        }
        if message.position.is_some_and(|position| position.revision >= later) {
            break;
        }
    }
}
