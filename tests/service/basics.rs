//! Three real processes: what a user relies on first, quickly; `scripts/prove` tests the rest.

use std::time::Duration;

use crate::harness::{Cluster, Node, PATIENCE, list_all, register};
use roster::wire::v1::{
    GetStateHashRequest, OwnLease, RegisterRequest, WatchRequest, cluster_client::ClusterClient,
    register_request::Hold, watch_request::Start, watch_response::Kind,
};
use tokio::time::Instant;

/// A Register that no lease ends, however slow the machine is.
fn for_good(service: &str, id: &str) -> RegisterRequest {
    RegisterRequest {
        hold: Some(Hold::Permanent(true)),
        ..register(service, id)
    }
}

async fn ids(node: &Node) -> Vec<String> {
    let list = node
        .registry()
        .await
        .list(list_all())
        .await
        .expect("a list")
        .into_inner();
    list.instances
        .into_iter()
        .map(|instance| instance.key.unwrap_or_default().id)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_acknowledged_every_node_lists() {
    let cluster = Cluster::start(3).await;
    for (at, node) in cluster.nodes.iter().enumerate() {
        node.registry()
            .await
            .register(for_good("web", &format!("i{at}")))
            .await
            .expect("a register");
        for other in &cluster.nodes {
            assert_eq!(
                ids(other).await.len(),
                at + 1,
                "{} after a register at {}",
                other.name,
                node.name
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_the_leader_is_killed() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let follower = (leader + 1) % 3;
    let mut client = cluster.nodes[follower].registry().await;
    let (mut acknowledged, mut gap) = (Vec::new(), Duration::ZERO);
    let (mut last, until) = (Instant::now(), Instant::now() + PATIENCE);
    let mut killed = false;
    for number in 0.. {
        let id = format!("i{number}");
        if number == 200 {
            cluster.nodes[leader].kill();
            killed = true;
        }
        while client.register(for_good("web", &id)).await.is_err() {
            assert!(
                Instant::now() < until,
                "no write within {PATIENCE:?}\n{}",
                cluster.logs()
            );
        }
        acknowledged.push(id);
        gap = gap.max(last.elapsed());
        last = Instant::now();
        if killed && number > 400 {
            break;
        }
    }
    println!("longest gap between acknowledged registers: {gap:?}");
    cluster.nodes[leader].start();
    cluster.nodes[leader].wait_ready().await;
    for node in &cluster.nodes {
        let listed = ids(node).await;
        for id in &acknowledged {
            assert!(
                listed.contains(id),
                "{id} was acknowledged and {} does not list it",
                node.name
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_killed_and_started_again_hold_the_same_state() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[0].registry().await;
    for number in 0..50 {
        client
            .register(for_good("web", &format!("i{number}")))
            .await
            .expect("a register");
    }
    for node in &mut cluster.nodes {
        node.kill();
    }
    for node in &mut cluster.nodes {
        node.start();
    }
    let mut hashes = Vec::new();
    for node in &cluster.nodes {
        node.wait_ready().await;
        assert_eq!(ids(node).await.len(), 50, "{}", node.name);
    }
    // Lease time moves on, so the hashes are taken at one index that all nodes will pass.
    let mut clients = Vec::new();
    for node in &cluster.nodes {
        clients.push(ClusterClient::connect(node.url()).await.expect("a connection"));
    }
    let now = clients[0]
        .get_state_hash(GetStateHashRequest { at_index: 0 })
        .await
        .expect("a hash")
        .into_inner();
    let at_index = now.applied_index + 20;
    let asked = clients.into_iter().map(|mut client| async move {
        client
            .get_state_hash(GetStateHashRequest { at_index })
            .await
            .expect("a hash")
            .into_inner()
            .hash
    });
    for task in asked.map(tokio::spawn).collect::<Vec<_>>() {
        hashes.push(task.await.expect("no panic"));
    }
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "{hashes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_shows_an_expiry_and_ends_with_its_node() {
    let mut cluster = Cluster::start(3).await;
    let mut client = cluster.nodes[1].registry().await;
    let request = WatchRequest {
        selector: list_all().selector,
        start: Some(Start::Snapshot(true)),
        ..WatchRequest::default()
    };
    let mut stream = client.watch(request).await.expect("a watch").into_inner();
    let mut short = register("web", "short");
    let ttl = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    short.hold = Some(Hold::OwnLease(OwnLease { ttl }));
    cluster.nodes[2]
        .registry()
        .await
        .register(short)
        .await
        .expect("a register");
    let registered = Instant::now();
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let message = tokio::time::timeout(PATIENCE, stream.message())
            .await
            .expect("in time")
            .expect("open");
        let message = message.expect("the stream goes on");
        if message.kind() == Kind::Changes {
            seen.extend(message.changes.iter().map(roster::wire::v1::Change::kind));
        }
    }
    let lived = registered.elapsed();
    assert!(lived >= Duration::from_millis(900), "gone after {lived:?}");
    assert_eq!(cluster.nodes[1].terminate().await, Some(0), "{}", cluster.logs());
    let end = loop {
        match tokio::time::timeout(PATIENCE, stream.message()).await.expect("in time") {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the watch ended without a status"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), tonic::Code::Unavailable, "{end:?}");
    assert!(cluster.folder().exists());
}
