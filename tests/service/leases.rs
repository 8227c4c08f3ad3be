//! Renewals, unary and as a stream.

use std::time::Duration;

use roster::{
    model::limits::RENEWAL_IDS_MAX,
    wire::{
        Reason, WriteOutcome,
        v1::{GrantLeaseRequest, RenewRequest, RenewResult, renew_result::Outcome},
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{
    harness::Cluster,
    support::{next, span, told},
};

#[tokio::test(flavor = "multi_thread")]
async fn each_lease_has_its_own_result_in_the_order_asked() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].leases().await;
    let mut granted = Vec::new();
    for seconds in [30, 9] {
        let ttl = Some(span(Duration::from_secs(seconds)));
        let lease = client
            .grant_lease(GrantLeaseRequest {
                ttl,
                ..Default::default()
            })
            .await;
        granted.push(lease.expect("a grant").into_inner().lease.expect("a lease").lease_id);
    }
    let lease_ids = vec![granted[0], -5, 0, granted[1], 1 << 50, granted[0]];
    let answer = client
        .renew(RenewRequest {
            seq: -3,
            lease_ids: lease_ids.clone(),
        })
        .await
        .expect("an answer");
    let answer = answer.into_inner();
    assert_eq!(answer.seq, -3);
    let asked: Vec<_> = answer.results.iter().map(|result| result.lease_id).collect();
    assert_eq!(asked, lease_ids);
    let outcomes: Vec<_> = answer.results.iter().map(RenewResult::outcome).collect();
    use Outcome::{NotFound, Renewed};
    assert_eq!(outcomes, [Renewed, NotFound, NotFound, Renewed, NotFound, Renewed]);
    assert_eq!(
        answer.renew_after,
        Some(span(Duration::from_secs(3))),
        "a third of the shortest TTL"
    );
    assert!(answer.header.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_renewals_is_pipelined_and_echoes_which_sending_it_answers() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].leases().await;
    let grant = GrantLeaseRequest {
        ttl: Some(span(Duration::from_secs(30))),
        ..Default::default()
    };
    let lease_id = client
        .grant_lease(grant)
        .await
        .expect("a grant")
        .into_inner()
        .lease
        .expect("a lease")
        .lease_id;
    let (sender, requests) = mpsc::channel(1_000);
    for seq in 1..=500 {
        let lease_ids = if seq % 2 == 0 {
            vec![lease_id]
        } else {
            vec![lease_id, 1 << 50]
        };
        sender.send(RenewRequest { seq, lease_ids }).await.expect("room");
    }
    sender
        .send(RenewRequest {
            seq: 501,
            lease_ids: Vec::new(),
        })
        .await
        .expect("room");
    drop(sender);
    let mut answers = client
        .keep_alive(ReceiverStream::new(requests))
        .await
        .expect("a stream")
        .into_inner();
    let mut seqs = Vec::new();
    while let Ok(answer) = next(&mut answers).await {
        if let Some(first) = answer.results.first() {
            assert_eq!(first.outcome(), Outcome::Renewed);
        }
        seqs.push(answer.seq);
    }
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=501).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_ids_are_refused_by_their_field() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].leases().await;
    let request = RenewRequest {
        seq: 1,
        lease_ids: (1..).take(RENEWAL_IDS_MAX + 1).collect(),
    };
    let refused = client.renew(request.clone()).await.expect_err("too many");
    let detail = told(&refused);
    assert_eq!(
        (detail.reason, detail.outcome),
        (Reason::InvalidField, Some(WriteOutcome::NotApplied))
    );
    assert_eq!(detail.violations[0].0, "lease_ids");
    let mut answers = client
        .keep_alive(tokio_stream::iter([request]))
        .await
        .expect("a stream")
        .into_inner();
    let refused = next(&mut answers).await.expect_err("too many");
    assert_eq!(told(&refused).violations[0].0, "lease_ids");
}
