//! Floods of connections against a node that may not have many files open. A database that can't open its next file
//! ends the node, and a node that can't be reached by the others leaves the cluster.

use std::{net::SocketAddr, time::Duration};

use futures_util::future::join_all;
use tokio::time::Instant;

use super::{canary::Canary, frames::Wire};
use crate::harness::{Cluster, PATIENCE};

/// A node needs its own files, and those of its nodes' connections; this leaves room for some clients.
const FILES_MAX: u32 = 512;
/// How long silent connections keep coming.
const FLOOD: Duration = Duration::from_secs(12);
/// More than that.
const CONNECTIONS: usize = 2_000;

/// Opens connections that begin to speak and then only answer pings; those that are refused are tried again.
async fn press(address: SocketAddr, lasts: Duration) {
    let one = async || {
        let until = Instant::now() + lasts;
        while Instant::now() < until {
            if let Ok(mut wire) = Wire::begun(address).await {
                wire.until_closed(true, until - Instant::now()).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    join_all((0..CONNECTIONS).map(|_| one())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_clients_takes_no_file_that_the_node_needs() {
    let mut cluster = Cluster::prepare(3);
    for node in &mut cluster.nodes {
        node.files_max = Some(FILES_MAX);
        node.start();
    }
    for node in &cluster.nodes {
        node.wait_ready().await;
    }
    let canary = Canary::start(&cluster).await;
    let at = cluster.leader().await;
    let client: SocketAddr = cluster.nodes[at].endpoint.parse().expect("an address");
    let pressing = tokio::spawn(press(client, Duration::from_secs(4)));

    tokio::time::sleep(Duration::from_millis(500)).await;
    let open = std::fs::read_dir(format!("/proc/{}/fd", cluster.nodes[at].pid()))
        .expect("it lives")
        .count();
    assert!(open > 100, "{open} files are open: it is no flood");
    assert!(
        open < 400,
        "{open} of {FILES_MAX} files are open: the last ones are not kept"
    );
    pressing.await.expect("no panic");
    let seen = canary.stop().await;
    println!("{open} of {FILES_MAX} files open; canary: {seen:?}");
    assert!(seen.failed.len() * 10 < seen.calls, "{:#?}", seen.failed);

    let until = Instant::now() + PATIENCE;
    while cluster.nodes[at]
        .registry()
        .await
        .list(crate::harness::list_all())
        .await
        .is_err()
    {
        assert!(Instant::now() < until, "it takes no new client\n{}", cluster.logs());
    }
    assert!(!cluster.logs().contains("could not accept"), "{}", cluster.logs());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_silent_connections_keeps_no_node_from_its_cluster() {
    let mut cluster = Cluster::start(3).await;
    let at = cluster.leader().await;
    let other = (at + 1) % 3;
    let peer: SocketAddr = cluster.nodes[at].peer_endpoint.parse().expect("an address");
    // They hold every place until their time is over, and come again.
    let silent = tokio::spawn(async move {
        let one = async || {
            let until = Instant::now() + FLOOD;
            while Instant::now() < until {
                if let Ok(mut wire) = Wire::open(peer).await {
                    wire.until_closed(false, FLOOD).await;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        join_all((0..200).map(|_| one())).await;
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    cluster.nodes[other].kill();
    cluster.nodes[other].start();
    cluster.nodes[other].wait_ready().await;
    assert!(!silent.is_finished(), "it was ready only after the flood");
    silent.await.expect("no panic");
}
