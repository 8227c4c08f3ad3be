//! Leases at a leader that is none any more: what was measured on other registries must not be seen here.
//!
//! etcd 3.5 went on acknowledging keep-alives for seconds when its leader was cut off, confirmed renewals of revoked
//! leases when a deposed leader woke up, and gave leases their whole TTL again at each change of leader.

use std::time::Duration;

use roster::wire::v1::{
    GrantLeaseRequest, OwnLease, RenewRequest, RenewResponse, RenewResult, RevokeLeaseRequest,
    leases_client::LeasesClient, register_request::Hold, renew_result::Outcome,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{
    harness::{Cluster, Node, PATIENCE, list_all, register},
    support::{next, span},
};

/// Grants shared leases.
async fn grant(client: &mut LeasesClient<Channel>, ttl: Duration, count: usize) -> Vec<i64> {
    let mut granted = Vec::new();
    for _ in 0..count {
        let request = GrantLeaseRequest {
            ttl: Some(span(ttl)),
            lease_id: 0,
        };
        let answer = client.grant_lease(request).await.expect("a grant").into_inner();
        granted.push(answer.lease.expect("a lease").lease_id);
    }
    granted
}

/// A stream of renewals at a node.
async fn keep_alive(node: &Node) -> (mpsc::Sender<RenewRequest>, Streaming<RenewResponse>) {
    let (sender, requests) = mpsc::channel(1_000);
    let answers = node.leases().await.keep_alive(ReceiverStream::new(requests)).await;
    (sender, answers.expect("a stream").into_inner())
}

fn outcomes(answer: &RenewResponse) -> Vec<Outcome> {
    answer.results.iter().map(RenewResult::outcome).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_followers_stand_still_confirms_no_renewal_and_blocks_no_stream() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let node = &cluster.nodes[leader];
    let leases = grant(&mut node.leases().await, Duration::from_secs(4), 3).await;
    let (renewals, mut answers) = keep_alive(node).await;
    let renew = |seq: i64| RenewRequest {
        seq,
        lease_ids: vec![leases[usize::try_from(seq).expect("small") % 3]],
    };
    renewals.send(renew(0)).await.expect("room");
    assert_eq!(
        outcomes(&next(&mut answers).await.expect("an answer")),
        [Outcome::Renewed]
    );

    let others: Vec<&Node> = cluster.nodes.iter().filter(|other| other.name != node.name).collect();
    others.iter().for_each(|other| other.pause());
    // From here on no follower can have taken a renewal that was sent.
    let cut = Instant::now();
    for seq in 1..=12 {
        renewals.send(renew(seq)).await.expect("room");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut answered = Vec::new();
    while answered.len() < 12 {
        let answer = next(&mut answers).await.expect("the stream lives on");
        assert_eq!(
            outcomes(&answer),
            [Outcome::Unconfirmed],
            "a renewal sent {:?} after the cut",
            cut.elapsed()
        );
        answered.push(answer.seq);
    }
    // A quarter of the TTL for each, all in flight together; a stream that waits for one after the other takes 12 s.
    let took = cut.elapsed();
    println!("12 renewals unconfirmed within {took:?} of the cut");
    assert!(took < Duration::from_secs(5), "{took:?}");
    answered.sort_unstable();
    assert_eq!(answered, (1..=12).collect::<Vec<_>>());

    others.iter().for_each(|other| other.resume());
    let until = Instant::now() + PATIENCE;
    for seq in 13.. {
        renewals.send(renew(seq)).await.expect("room");
        let answer = next(&mut answers).await.expect("the stream lives on");
        if outcomes(&answer) == [Outcome::Renewed] {
            break;
        }
        assert!(Instant::now() < until, "never renewed again: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_wakes_up_confirms_no_renewal_of_what_was_revoked_meanwhile() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (former, other) = (&cluster.nodes[leader], &cluster.nodes[(leader + 1) % 3]);
    let mut client = other.leases().await;
    let leases = grant(&mut client, Duration::from_secs(60), 100).await;
    let (renewals, mut answers) = keep_alive(former).await;
    let all = |seq| RenewRequest {
        seq,
        lease_ids: leases.clone(),
    };
    renewals.send(all(1)).await.expect("room");
    let before = next(&mut answers).await.expect("an answer");
    assert!(outcomes(&before).iter().all(|outcome| *outcome == Outcome::Renewed));

    former.pause();
    let until = Instant::now() + PATIENCE;
    for &lease_id in &leases {
        while client.revoke_lease(RevokeLeaseRequest { lease_id }).await.is_err() {
            assert!(
                Instant::now() < until,
                "no revoke within {PATIENCE:?}\n{}",
                cluster.logs()
            );
        }
    }
    // They wait in the sockets of the one that still takes itself for the leader.
    for seq in 2..=20 {
        renewals.send(all(seq)).await.expect("room");
    }
    former.resume();
    let mut seen = [0, 0];
    for _ in 2..=20 {
        let answer = next(&mut answers).await.expect("the stream lives on");
        for outcome in outcomes(&answer) {
            match outcome {
                Outcome::NotFound => seen[0] += 1,
                Outcome::Unconfirmed => seen[1] += 1,
                other => panic!("seq {}: a revoked lease was answered {other:?}", answer.seq),
            }
        }
    }
    println!("{} not found, {} unconfirmed, none confirmed", seen[0], seen[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_leader_gives_no_lease_its_ttl_again() {
    const TTL: Duration = Duration::from_secs(8);
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let other = (leader + 1) % 3;
    let mut request = register("web", "dead-client");
    request.hold = Some(Hold::OwnLease(OwnLease { ttl: Some(span(TTL)) }));
    let mut client = cluster.nodes[other].registry().await;
    let sent = Instant::now();
    client.register(request).await.expect("a register");
    let acknowledged = Instant::now();
    tokio::time::sleep_until(acknowledged + Duration::from_secs(5)).await;

    cluster.nodes[leader].kill();
    let killed = Instant::now();
    let mut leaderless = None;
    let gone = loop {
        let asked = Instant::now();
        match client.list(list_all()).await {
            Ok(answer) => {
                leaderless.get_or_insert_with(|| killed.elapsed());
                if answer.into_inner().instances.is_empty() {
                    break Instant::now();
                }
            }
            Err(status) => assert!(asked < killed + PATIENCE, "{status:?}\n{}", cluster.logs()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let leaderless = leaderless.unwrap_or_default();
    let lived = gone - sent;
    println!("TTL {TTL:?}, leader killed 5 s later, no reads for {leaderless:?}: gone {lived:?} after the register");
    assert!(lived >= TTL, "gone after {lived:?}");
    // The promise, and a busy machine's second. A TTL begun anew would be 5 s more than the first.
    let most = TTL + Duration::from_millis(1_250) + leaderless + Duration::from_secs(1);
    let late = gone - acknowledged;
    assert!(late <= most, "gone after {late:?} of {most:?}");
}
