//! What broke other systems at the level of Raft: snapshots damaged or cut off on their way, and entries that were shown
//! before they were committed.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a test says is for whoever looks into a failure"
)]

#[allow(dead_code, reason = "shared with other tests")]
mod raft_harness;

use std::{path::Path, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _, stream};
use prost::Message as _;
use raft_harness::{Cluster, eventually, registering};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use roster::{
    model::{LogIndex, NodeId, Scope, Selector, Term},
    watch::Start,
    wire::internal::{self, SnapshotChunk, SnapshotHead, snapshot_chunk::Chunk},
};

/// Three nodes that keep little log, so that one that was away needs a snapshot.
async fn forgetful() -> Cluster {
    let mut cluster = Cluster::stopped(3);
    cluster.kept_behind_snapshot = 10;
    for at in 0..3 {
        cluster.start(at).await;
    }
    cluster.node(0).raft.initialize(cluster.members()).await.unwrap();
    cluster
}

/// Writes a snapshot at the leader and waits until the log behind it is gone beyond `index`.
async fn purge_beyond(cluster: &Cluster, index: LogIndex) {
    let (leader, _) = cluster.leader().await;
    let raft = &cluster.node(leader).raft;
    raft.trigger_snapshot().await.unwrap();
    eventually("the log is purged", async || {
        raft.status().purged_index.filter(|purged| *purged > index)
    })
    .await;
}

/// The bytes of the one snapshot in a data directory.
fn snapshot_in(folder: &Path) -> Vec<u8> {
    let files = std::fs::read_dir(folder.join("snapshots")).unwrap();
    let complete = files
        .map(|file| file.unwrap().path())
        .find(|path| path.extension().is_some_and(|it| it == "snapshot"));
    std::fs::read(complete.expect("a snapshot")).unwrap()
}

/// Sends these bytes as a snapshot of the leader's; whether they were taken.
async fn send(cluster: &Cluster, to: usize, from: NodeId, term: Term, bytes: &[u8], claimed: usize) -> bool {
    let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    let meta = internal::SnapshotMeta::decode(&bytes[4..4 + length]).ok();
    let head = SnapshotHead {
        vote: Some(internal::Vote {
            term: term.0,
            node_id: from.0,
            committed: true,
        }),
        meta,
        size_bytes: claimed as u64,
    };
    let pieces = bytes
        .chunks(10_000)
        .map(|piece| Chunk::Data(Bytes::copy_from_slice(piece)));
    let chunks: Vec<_> = [Chunk::Head(head)]
        .into_iter()
        .chain(pieces)
        .map(|chunk| Ok(SnapshotChunk { chunk: Some(chunk) }))
        .collect();
    let taken = cluster
        .node(to)
        .raft
        .serve_snapshot(from, stream::iter(chunks).boxed())
        .await;
    taken.is_ok()
}

#[tokio::test]
async fn a_snapshot_damaged_on_its_way_is_refused_and_changes_nothing() {
    let cluster = forgetful().await;
    let last = cluster.register(0..200).await;
    cluster.agree_at(last).await;
    purge_beyond(&cluster, LogIndex(100)).await;
    let (leader, term) = cluster.leader().await;
    let follower = cluster.follower().await;
    let sender = cluster.node(leader).node_id;
    let sound = snapshot_in(&cluster.folder(leader));
    let before = cluster.node(follower).content();

    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..40 {
        let mut damaged = sound.clone();
        // Behind the meta's length, without which nothing can be announced.
        let at = random.random_range(4..damaged.len());
        damaged[at] ^= 1 << random.random_range(0..8);
        assert!(
            !send(&cluster, follower, sender, term, &damaged, sound.len()).await,
            "a flip in byte {at} of {}",
            sound.len()
        );
    }
    for _ in 0..10 {
        let cut = random.random_range(2_000..sound.len());
        assert!(
            !send(&cluster, follower, sender, term, &sound[..cut], sound.len()).await,
            "cut at {cut} of {}",
            sound.len()
        );
    }
    assert_eq!(cluster.node(follower).content(), before);
    assert!(
        send(&cluster, follower, sender, term, &sound, sound.len()).await,
        "the sound one is taken"
    );
    let last = cluster.register(200..210).await;
    cluster.agree_at(last).await;
}

#[tokio::test]
async fn a_follower_killed_again_and_again_while_snapshots_come_is_never_mixed() {
    const ROUNDS: u64 = 15;
    const WRITES: u64 = 120;
    let seed: u64 = std::env::var("ROSTER_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("ROSTER_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = forgetful().await;
    let mut last = cluster.register(0..WRITES).await;
    cluster.agree_at(last).await;
    let follower = cluster.follower().await;
    let mut installed = 0;
    for round in 1..=ROUNDS {
        let before = cluster.node(follower).hub.view().state.revision();
        cluster.kill(follower);
        last = cluster.register(round * WRITES..(round + 1) * WRITES).await;
        purge_beyond(&cluster, LogIndex(last.0 - 50)).await;
        cluster.start(follower).await;
        // Somewhere between the first connection and the end of the installation.
        tokio::time::sleep(Duration::from_micros(random.random_range(0..500_000))).await;
        let view = cluster.node(follower).hub.view();
        // Every register is one revision and one instance: a mixture would show another number of them.
        assert_eq!(
            view.state.instance_count() as u64,
            view.state.revision().0,
            "round {round}"
        );
        installed += u64::from(view.state.revision() > before);
    }
    println!("{installed} of {ROUNDS} rounds saw the snapshot in place before the kill");
    cluster.agree_at(last).await;
}

#[tokio::test]
async fn what_is_only_proposed_reaches_no_reader_and_no_watcher() {
    let mut cluster = Cluster::of(3).await;
    let last = cluster.register(0..10).await;
    cluster.agree_at(last).await;
    let (leader, term) = cluster.leader().await;
    let others: Vec<usize> = (0..3).filter(|&at| at != leader).collect();
    let node = cluster.node(leader);
    let (raft, hub) = (node.raft.clone(), node.hub.clone());
    let everything = Selector {
        namespace: None,
        scope: Scope::All,
        serving: false,
        matches: vec![],
    };
    let mut watch = hub.watch(everything, Start::Now).unwrap();
    others.iter().for_each(|&at| cluster.kill(at));
    // Appended here, and nowhere else.
    let proposals: Vec<_> = (10..30).map(|number| raft.propose(term, registering(number))).collect();
    let before = hub.view();
    let appended = eventually("they are in the leader's log", async || {
        Some(raft.status().last_log_index).filter(|newest| *newest > last)
    })
    .await;
    let until = std::time::Instant::now() + Duration::from_secs(2);
    while std::time::Instant::now() < until {
        assert_eq!(
            hub.view().state.revision(),
            before.state.revision(),
            "readers see what is not committed"
        );
        assert!(
            watch.next().now_or_never().is_none(),
            "a watcher is given what is not committed"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for at in others {
        cluster.start(at).await;
    }
    let last = cluster.register(30..31).await;
    cluster.agree_at(last).await;
    let mut committed = 0;
    for proposal in proposals {
        committed += u64::from(proposal.await.is_ok());
    }
    let held = hub.view().state.instance_count() as u64;
    println!("log through {appended}; {committed} of 20 were committed in the end, {held} instances");
    assert!(held >= 11 + committed, "what was answered in the end is there");
}
