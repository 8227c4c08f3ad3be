//! Renewals that a leader took and never answers.

use roster::{
    model::{LeaseId, Ttl},
    node::Renewed,
    registry::{Command, Outcome, Renewal},
    watch::HubLimits,
};

use crate::{
    harness::{PATIENCE, soon, tell},
    raft_harness::eventually,
};

#[test]
fn a_renewal_goes_to_the_next_leader_as_soon_as_there_is_one() {
    tell(3, HubLimits::default(), 2, async |nodes| {
        let (leader, gate, follower) = nodes.leader_and_follower().await;
        let lease_id = granted(leader).await;
        // Its TTL counts, so the follower must know it.
        eventually("the follower has the lease", async || {
            follower.state().lease(lease_id).map(drop)
        })
        .await;
        gate.shut();
        let renewal = {
            let follower = follower.clone();
            tokio::spawn(async move { follower.renew(vec![lease_id]).await })
        };
        eventually("the leader has the renewal", async || {
            (gate.renewals() > 0).then_some(())
        })
        .await;
        assert!(leader.raft().transfer_leadership(PATIENCE).await);
        let (_revision, results) = renewal.await.unwrap().unwrap();
        // The first leader's answer would have been awaited for the renewal's whole time.
        assert!(
            matches!(results[..], [Renewed::Known(Renewal::Renewed { .. })]),
            "another leader was there for most of 2 s: {results:?}"
        );
    });
}

async fn granted(node: &roster::node::Node) -> LeaseId {
    let command = Command::GrantLease {
        lease_id: None,
        ttl: Ttl::from_ms(60_000).unwrap(),
    };
    match node.write(command, soon(PATIENCE)).await.unwrap() {
        (_, Outcome::Granted(lease)) => lease.lease_id,
        other => panic!("{other:?}"),
    }
}
