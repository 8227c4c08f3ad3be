//! Three nodes' Raft on real sockets and disks, in one process.
#![cfg(feature = "server")]
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "what a test says is for whoever looks into a failure"
)]

#[allow(dead_code, reason = "some of it is for other tests")]
mod raft_harness;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use raft_harness::{Cluster, eventually, number_of, registering};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use roster::{
    model::{LogIndex, NodeId, Revision, Term},
    raft::{ProposeError, ReadIndexError, Role},
};

/// How often a node that is not there greets.
const GREETINGS: usize = 21;

#[tokio::test]
async fn three_nodes_elect_a_leader_and_apply_a_thousand_entries_alike() {
    let cluster = Cluster::of(3).await;
    let start = Instant::now();
    let last = cluster.register(0..1_000).await;
    println!("1,000 entries in {:?}", start.elapsed());
    cluster.agree_at(last).await;
    for node in cluster.running() {
        assert_eq!(node.hub.view().state.instance_count(), 1_000);
        assert_eq!(node.hub.view().state.revision(), Revision(1_000));
        assert_eq!(node.raft.members(), cluster.members());
    }
}

#[tokio::test]
async fn a_killed_follower_catches_up_from_its_disk_and_the_leaders_log() {
    let mut cluster = Cluster::of(3).await;
    let before = cluster.register(0..300).await;
    cluster.agree_at(before).await;
    let follower = cluster.follower().await;
    cluster.kill(follower);
    let last = cluster.register(300..600).await;
    cluster.start(follower).await;
    cluster.agree_at(last).await;
    assert_eq!(
        cluster.node(follower).raft.status().snapshot_index,
        None,
        "the log was enough"
    );
}

/// openraft's pauses between tries lie where it makes requests: a line that connects before it asks for one never pauses.
#[tokio::test]
async fn a_node_that_refuses_connections_is_not_tried_without_a_pause() {
    let mut cluster = Cluster::of(3).await;
    cluster.register(0..10).await;
    let follower = cluster.follower().await;
    cluster.kill(follower);
    cluster.register(10..20).await;
    let before = cluster.dialled.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let tries = cluster.dialled.load(Ordering::Relaxed) - before;
    // Heartbeats come every 100 ms, the log's tries with pauses of 200 ms, forwards and elections now and then.
    assert!(tries < 100, "{tries} connections were tried within two seconds");
    cluster.start(follower).await;
    let last = cluster.register(20..30).await;
    cluster.agree_at(last).await;
}

#[tokio::test]
async fn a_node_that_greets_the_leader_is_tried_at_once() {
    let mut cluster = Cluster::of(3).await;
    cluster.register(0..10).await;
    let follower = cluster.follower().await;
    cluster.kill(follower);
    cluster.register(10..20).await;
    let (leader, _) = cluster.leader().await;
    let (leader, greeting) = (&cluster.node(leader).raft, cluster.members()[follower].node_id);
    let mut took = Vec::new();
    for _ in 0..GREETINGS {
        let (before, began) = (cluster.dialled.load(Ordering::Relaxed), Instant::now());
        leader.serve_greeting(greeting).await;
        eventually("a heartbeat and the log are tried", async || {
            (cluster.dialled.load(Ordering::Relaxed) >= before + 2).then_some(())
        })
        .await;
        took.push(began.elapsed());
    }
    // Of their own accord, the heartbeat's next try comes after up to 100 ms and the log's after 50 to 200.
    took.sort();
    assert!(took[GREETINGS / 2] < Duration::from_millis(30), "{took:?}");
}

#[tokio::test]
async fn where_nobody_leads_a_greeting_brings_an_election_about() {
    let mut cluster = Cluster::stopped(3);
    // No timeout of theirs ends while the test waits.
    cluster.timings.election_min = Duration::from_secs(3_600);
    cluster.timings.election_max = Duration::from_secs(4_000);
    for at in 0..3 {
        cluster.start(at).await;
    }
    cluster.node(0).raft.initialize(cluster.members()).await.unwrap();
    let last = cluster.register(0..10).await;
    cluster.agree_at(last).await;
    for at in 0..3 {
        cluster.kill(at);
    }
    for at in [2, 1] {
        cluster.start(at).await;
    }
    assert_eq!(cluster.node(2).raft.leadership().borrow().leader, None);
    cluster.node(2).raft.serve_greeting(NodeId(2)).await;
    let (leader, term) = cluster.leader().await;
    assert_eq!(leader, 2);

    // With a leader, a greeting disturbs nobody.
    cluster.start(0).await;
    for at in [0, 1, 2] {
        cluster.node(at).raft.serve_greeting(NodeId(1)).await;
    }
    let last = cluster.register(10..20).await;
    cluster.agree_at(last).await;
    assert_eq!(cluster.leader().await, (leader, term));
}

#[tokio::test]
async fn a_follower_that_missed_what_was_purged_catches_up_by_snapshot() {
    let mut cluster = Cluster::stopped(3);
    cluster.kept_behind_snapshot = 10;
    for at in 0..3 {
        cluster.start(at).await;
    }
    cluster.node(0).raft.initialize(cluster.members()).await.unwrap();
    let before = cluster.register(0..100).await;
    cluster.agree_at(before).await;
    let follower = cluster.follower().await;
    cluster.kill(follower);

    let last = cluster.register(100..1_000).await;
    let (leader, _) = cluster.leader().await;
    cluster.node(leader).raft.trigger_snapshot().await.unwrap();
    eventually("the log is purged beyond the follower", async || {
        cluster
            .node(leader)
            .raft
            .status()
            .purged_index
            .filter(|purged| *purged > before)
    })
    .await;
    cluster.start(follower).await;
    cluster.agree_at(last).await;
    eventually("it says that it holds a snapshot", async || {
        cluster
            .node(follower)
            .raft
            .status()
            .snapshot_index
            .filter(|installed| *installed > before)
    })
    .await;

    // What was installed is what it restarts from.
    cluster.kill(follower);
    let last = cluster.register(1_000..1_100).await;
    cluster.start(follower).await;
    cluster.agree_at(last).await;

    // Once a newer one has replaced it, it does not stay on the disk because somebody holds it open.
    cluster.node(follower).raft.trigger_snapshot().await.unwrap();
    eventually("a newer snapshot", async || {
        let newest = cluster.node(follower).raft.status().snapshot_index;
        newest.filter(|newest| *newest >= last)
    })
    .await;
    eventually("no snapshot is held that is gone", async || {
        removed_and_held(&cluster.folder(follower).join("snapshots"))
            .is_empty()
            .then_some(())
    })
    .await;
}

/// Files of a folder that were removed and that this process holds open all the same.
fn removed_and_held(folder: &Path) -> Vec<PathBuf> {
    let open = std::fs::read_dir("/proc/self/fd").unwrap();
    // A descriptor may be closed meanwhile.
    let files = open.filter_map(|descriptor| std::fs::read_link(descriptor.ok()?.path()).ok());
    files
        .filter(|file| file.starts_with(folder) && file.to_string_lossy().ends_with(" (deleted)"))
        .collect()
}

#[tokio::test]
async fn all_nodes_killed_come_back_with_everything_that_was_acknowledged() {
    let mut cluster = Cluster::of(3).await;
    let last = cluster.register(0..200).await;
    (0..3).for_each(|at| cluster.kill(at));
    for at in 0..3 {
        cluster.start(at).await;
    }
    cluster.leader().await;
    cluster.agree_at(last).await;
    let last = cluster.register(200..210).await;
    cluster.agree_at(last).await;
    assert_eq!(cluster.node(0).hub.view().state.instance_count(), 210);
}

#[tokio::test]
async fn a_killed_leader_is_replaced_before_a_silent_one_would_be() {
    let mut cluster = Cluster::of(3).await;
    cluster.register(0..50).await;
    let (leader, term) = cluster.leader().await;
    cluster.kill(leader);
    let killed = Instant::now();
    let (_, next) = cluster.leader().await;
    let took = killed.elapsed();
    println!("a new leader after {took:?}");
    assert!(next > term);
    // Generous for a busy machine; on an idle one it is about half a second.
    assert!(took < Duration::from_secs(5), "{took:?}");
    let last = cluster.register(50..60).await;
    cluster.agree_at(last).await;
}

#[tokio::test]
async fn a_proposal_for_another_term_is_refused_and_never_applied() {
    let cluster = Cluster::of(3).await;
    let (leader, term) = cluster.leader().await;
    for other in [Term(term.0 - 1), Term(term.0 + 1)] {
        let refused = cluster
            .node(leader)
            .raft
            .propose(other, registering(7))
            .await
            .unwrap_err();
        assert!(matches!(refused, ProposeError::NotLeader { .. }), "{refused:?}");
    }
    let follower = cluster.follower().await;
    let refused = cluster
        .node(follower)
        .raft
        .propose(term, registering(7))
        .await
        .unwrap_err();
    let leader = cluster.node(leader).node_id;
    assert_eq!(refused, ProposeError::NotLeader { leader: Some(leader) });
    let last = cluster.register(0..1).await;
    cluster.agree_at(last).await;
    assert_eq!(cluster.node(0).hub.view().state.instance_count(), 1);
}

#[tokio::test]
async fn entries_are_appended_in_the_order_of_the_calls_whatever_is_awaited_first() {
    let cluster = Cluster::of(1).await;
    let (leader, term) = cluster.leader().await;
    let raft = &cluster.node(leader).raft;
    let proposals: Vec<_> = (0..20).map(|number| raft.propose(term, registering(number))).collect();
    let mut indexes = Vec::new();
    for proposal in proposals.into_iter().rev() {
        indexes.push(proposal.await.unwrap().index);
    }
    assert!(
        indexes.is_sorted_by(|later, earlier| later.0 == earlier.0 + 1),
        "{indexes:?}"
    );
    // One node alone is its own quorum at every instant.
    assert!(
        raft.last_quorum_ack()
            .is_some_and(|ack| ack.elapsed() < Duration::from_secs(1))
    );
}

#[tokio::test]
async fn an_entry_whose_caller_left_is_applied_all_the_same() {
    let cluster = Cluster::of(1).await;
    let (leader, term) = cluster.leader().await;
    drop(cluster.node(leader).raft.propose(term, registering(1)));
    eventually("it is applied", async || {
        (cluster.node(leader).hub.view().state.instance_count() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_leader_without_a_quorum_refuses_proposals_and_read_indexes() {
    let mut cluster = Cluster::of(3).await;
    cluster.register(0..10).await;
    let (leader, term) = cluster.leader().await;
    let raft = cluster.node(leader).raft.clone();
    let index = raft.read_index().await.unwrap();
    assert!(index >= LogIndex(10));
    for at in (0..3).filter(|&at| at != leader) {
        cluster.kill(at);
    }
    eventually("the quorum's acknowledgement grows old", async || {
        raft.last_quorum_ack()
            .is_none_or(|ack| ack.elapsed() > Duration::from_secs(1))
            .then_some(())
    })
    .await;
    let refused = raft.propose(term, registering(99)).await.unwrap_err();
    assert!(
        matches!(refused, ProposeError::NoQuorum | ProposeError::NotLeader { .. }),
        "{refused:?}"
    );
    let refused = raft.read_index().await.unwrap_err();
    assert!(
        matches!(refused, ReadIndexError::NoQuorum | ReadIndexError::NotLeader { .. }),
        "{refused:?}"
    );

    for at in (0..3).filter(|&at| at != leader) {
        cluster.start(at).await;
    }
    let last = cluster.register(10..20).await;
    cluster.agree_at(last).await;
    assert_eq!(
        cluster.node(0).hub.view().state.instance_count(),
        20,
        "what was refused never came"
    );
}

#[tokio::test]
async fn one_other_voter_of_three_is_enough_for_a_read_index_if_it_vouched_after_the_read_began() {
    let mut cluster = Cluster::of(3).await;
    let last = cluster.register(0..10).await;
    cluster.agree_at(last).await;
    let (leader, term) = cluster.leader().await;
    let follower = cluster.follower().await;
    let (raft, id) = (cluster.node(leader).raft.clone(), cluster.node(leader).node_id);
    let (other, other_id) = (&cluster.node(follower).raft, cluster.node(follower).node_id);
    assert!(other.vouch(term, id) >= Some(last));
    assert!(raft.vouch(term, id).is_some(), "its own vote is its own");
    assert_eq!(other.vouch(term, other_id), None, "another leader's");
    assert_eq!(other.vouch(Term(term.0 - 1), id), None);
    assert_eq!(other.vouch(Term(term.0 + 1), id), None);

    // It did vouch; whether it lives any longer is no matter, nor is it asked again.
    for at in (0..3).filter(|&at| at != leader) {
        cluster.kill(at);
    }
    assert!(raft.read_index_vouched(term, other_id, last).await.unwrap() >= last);
    for (term, by) in [
        (Term(term.0 + 1), other_id),
        (Term(term.0 - 1), other_id),
        (term, id),
        (term, NodeId(9)),
    ] {
        let refused = raft.read_index_vouched(term, by, last).await.unwrap_err();
        assert!(
            matches!(refused, ReadIndexError::NoQuorum | ReadIndexError::NotLeader { .. }),
            "{term} by {by}: {refused:?}"
        );
    }
    // Its log ended before what it had acknowledged: who knows what else it has lost.
    eventually("what it held is some time ago", async || {
        raft.read_index_vouched(term, other_id, LogIndex(1)).await.err()
    })
    .await;
    assert!(raft.read_index_vouched(term, other_id, last).await.unwrap() >= last);

    cluster.start(follower).await;
    assert!(
        cluster.node(follower).raft.vouch(term, id) >= Some(last),
        "its vote is on its disk"
    );
}

#[tokio::test]
async fn who_has_voted_for_another_leader_vouches_for_the_former_one_no_more() {
    let cluster = Cluster::of(3).await;
    let last = cluster.register(0..10).await;
    cluster.agree_at(last).await;
    let (former, term) = cluster.leader().await;
    let (raft, id) = (&cluster.node(former).raft, cluster.node(former).node_id);
    assert!(raft.transfer_leadership(Duration::from_secs(10)).await);
    let (_, later) = cluster.leader().await;
    assert!(later > term, "{later}");
    // Two voted for the next one, the former leader or the third node, which may not have heard of it.
    let not_any_more = cluster.running().filter(|node| node.raft.vouch(term, id).is_none());
    assert!(not_any_more.count() >= 2);
    for by in cluster.running().filter(|node| node.node_id != id) {
        match raft.read_index_vouched(term, by.node_id, last).await {
            Err(refused) => assert!(matches!(refused, ReadIndexError::NotLeader { .. }), "{refused:?}"),
            // A busy machine may have elected it again.
            Ok(index) => assert!(
                raft.leadership().borrow().lead.is_some_and(|lead| lead.term > term),
                "{index:?}"
            ),
        }
    }
}

/// Rounds of writing while nodes are killed and restarted.
const STORM_ROUNDS: u64 = 12;
/// Entries proposed in each.
const STORM_WRITES: u64 = 60;

#[tokio::test]
async fn what_was_acknowledged_survives_kills_restarts_and_snapshots_at_random() {
    let seed = std::env::var("ROSTER_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(rand::random);
    println!("ROSTER_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut cluster = Cluster::stopped(3);
    cluster.kept_behind_snapshot = 40;
    for at in 0..3 {
        cluster.start(at).await;
    }
    cluster.node(0).raft.initialize(cluster.members()).await.unwrap();
    let mut acknowledged = BTreeSet::new();
    let mut refused = BTreeSet::new();
    for round in 0..STORM_ROUNDS {
        let numbers = round * STORM_WRITES..(round + 1) * STORM_WRITES;
        let (leader, term) = cluster.leader().await;
        let raft = cluster.node(leader).raft.clone();
        let proposals: Vec<_> = numbers
            .map(|number| (number, raft.propose(term, registering(number))))
            .collect();
        // Somewhere in the middle of that, up to two nodes die.
        let wait = Duration::from_micros(random.random_range(0..8_000));
        tokio::time::sleep(wait).await;
        if random.random_bool(0.3) {
            raft.trigger_snapshot().await.unwrap();
        }
        drop(raft);
        let dead = BTreeSet::from([random.random_range(0..3), random.random_range(0..3)]);
        dead.iter().for_each(|&at| cluster.kill(at));
        for (number, proposal) in proposals {
            match tokio::time::timeout(Duration::from_millis(100), proposal).await {
                Ok(Ok(_committed)) => drop(acknowledged.insert(number)),
                Ok(Err(ProposeError::NotLeader { .. } | ProposeError::NoQuorum)) => drop(refused.insert(number)),
                Ok(Err(ProposeError::Unknown | ProposeError::ShuttingDown)) | Err(_) => {}
            }
        }
        for at in dead {
            cluster.start(at).await;
        }
    }
    let end = STORM_ROUNDS * STORM_WRITES;
    let last = cluster.register(end..end + 1).await;
    cluster.agree_at(last).await;
    let held: BTreeSet<u64> = cluster.node(0).instances().map(number_of).collect();
    println!(
        "{} acknowledged, {} refused, {} held",
        acknowledged.len(),
        refused.len(),
        held.len()
    );
    assert!(
        acknowledged.is_subset(&held),
        "lost: {:?}",
        acknowledged.difference(&held)
    );
    assert!(
        refused.is_disjoint(&held),
        "never appended: {:?}",
        refused.intersection(&held)
    );
}

#[tokio::test]
async fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::of(3).await;
    cluster.register(0..10).await;
    let (leader, term) = cluster.leader().await;
    assert!(
        cluster
            .node(leader)
            .raft
            .transfer_leadership(Duration::from_secs(20))
            .await
    );
    let (next, later) = eventually("the successor leads", async || {
        let (at, now) = cluster.leader().await;
        (now > term).then_some((at, now))
    })
    .await;
    assert!(next != leader && later > term);
    let last = cluster.register(10..20).await;
    cluster.agree_at(last).await;
}

#[tokio::test]
async fn a_wiped_node_does_not_help_to_elect_a_leader() {
    let mut cluster = Cluster::of(3).await;
    let last = cluster.register(0..20).await;
    cluster.agree_at(last).await;
    (0..3).for_each(|at| cluster.kill(at));
    eventually("the data directory is free", async || {
        roster::storage::DataDir::open(&cluster.folder(2)).ok().map(drop)
    })
    .await;
    std::fs::remove_dir_all(cluster.folder(2)).unwrap();
    cluster.start(1).await;
    cluster.start(2).await;
    // Several rounds of election timeouts.
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3) {
        assert_eq!(cluster.node(1).lead(), None);
        assert_ne!(cluster.node(2).raft.status().role, Role::Leader);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.start(0).await;
    let last = cluster.register(20..30).await;
    for at in [0, 1] {
        cluster.node(at).reaches(last).await;
        assert_eq!(cluster.node(at).hub.view().state.instance_count(), 30);
    }
}

#[tokio::test]
async fn a_follower_that_shows_less_log_than_it_acknowledged_is_quarantined() {
    let mut cluster = Cluster::of(3).await;
    let early = cluster.register(0..20).await;
    cluster.agree_at(early).await;
    let (leader, term) = cluster.leader().await;
    let follower = cluster.follower().await;
    cluster.kill(follower);
    let backup = cluster.folder(follower).with_extension("backup");
    eventually("the data directory is free", async || {
        roster::storage::DataDir::open(&cluster.folder(follower)).ok().map(drop)
    })
    .await;
    copy(&cluster.folder(follower), &backup);
    cluster.start(follower).await;
    let late = cluster.register(20..200).await;
    cluster.agree_at(late).await;

    cluster.kill(follower);
    eventually("the data directory is free", async || {
        roster::storage::DataDir::open(&cluster.folder(follower)).ok().map(drop)
    })
    .await;
    std::fs::remove_dir_all(cluster.folder(follower)).unwrap();
    copy(&backup, &cluster.folder(follower));
    cluster.start(follower).await;
    // The others go on without it; it gets nothing more.
    let last = cluster.register(200..300).await;
    let (still, same) = cluster.leader().await;
    for at in (0..3).filter(|&at| at != follower) {
        cluster.node(at).reaches(last).await;
    }
    if (still, same) == (leader, term) {
        assert!(
            cluster.node(follower).applied() <= early,
            "{:?}",
            cluster.node(follower).raft.status()
        );
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
