//! Reads whose question for a read index is never answered.

use std::time::Duration;

use roster::{
    node::{NodeError, ReadOptions},
    watch::HubLimits,
};
use tokio::time::Instant;

use crate::{
    harness::{Nodes, PATIENCE, soon, tell},
    raft_harness::eventually,
};

/// Shorter than a round that nobody answers: 1 s, and half a second of grace on the forward stream.
const SHORT: Duration = Duration::from_millis(200);
/// Between the two, so that a busy machine is no failure.
const CLEARLY_BEFORE_THE_ROUND_ENDS: Duration = Duration::from_millis(1_200);
/// Likewise for the transfer of the leadership and one more round.
const HANDED_OVER_WITHIN: Duration = Duration::from_millis(700);
const ATTEMPTS_MAX: usize = 10;

#[test]
fn a_read_keeps_its_own_deadline_while_the_round_that_it_joined_hangs() {
    tell(3, HubLimits::default(), 2, async |nodes| {
        let (_leader, gate, follower) = nodes.leader_and_follower().await;
        gate.shut();
        let began = Instant::now();
        let refused = follower.read(ReadOptions::default(), began + SHORT).await;
        let took = began.elapsed();
        assert!(matches!(refused, Err(NodeError::NoQuorum { .. })), "{refused:?}");
        assert!(gate.reads() > 0, "the leader was asked");
        assert!(
            (SHORT..CLEARLY_BEFORE_THE_ROUND_ENDS).contains(&took),
            "a deadline of {SHORT:?} was answered after {took:?}"
        );
    });
}

#[test]
fn a_read_asks_the_next_leader_as_soon_as_there_is_one() {
    // Where the machine takes longer to hand over than a hanging round takes to end, nothing can be told: once more.
    let told = (0..ATTEMPTS_MAX).any(|_| tell(3, HubLimits::default(), 2, handed_over_during_a_read));
    assert!(told, "no transfer within {HANDED_OVER_WITHIN:?}, {ATTEMPTS_MAX} times");
}

/// Whether the leadership was handed over in time to tell anything.
async fn handed_over_during_a_read(nodes: &Nodes) -> bool {
    let (leader, gate, follower) = nodes.leader_and_follower().await;
    gate.shut();
    let swallowed = gate.reads();
    let began = Instant::now();
    let read = {
        let follower = follower.clone();
        tokio::spawn(async move { follower.read(ReadOptions::default(), soon(PATIENCE)).await })
    };
    eventually("the leader is asked", async || (gate.reads() > swallowed).then_some(())).await;
    assert!(leader.raft().transfer_leadership(PATIENCE).await);
    if began.elapsed() > HANDED_OVER_WITHIN {
        return false;
    }
    let read = read.await.unwrap();
    let took = began.elapsed();
    assert!(read.is_ok(), "{read:?}");
    assert!(
        took < CLEARLY_BEFORE_THE_ROUND_ENDS,
        "another leader was there, and the read waited for the first one: {took:?}"
    );
    true
}
