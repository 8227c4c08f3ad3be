//! Many watches on one stream.

use std::collections::BTreeSet;

use roster::wire::{
    ErrorDetail, Reason,
    v1::{
        CancelWatch, CreateWatch, WatchManyRequest, WatchRequest, WatchResponse, watch_many_request::Request,
        watch_response::Kind,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    harness::{Cluster, Node},
    support::{next, next_step, put, record, told, watch_of},
};

fn create(watch_id: i64, watch: WatchRequest) -> WatchManyRequest {
    let create = CreateWatch {
        watch_id,
        watch: Some(watch),
    };
    WatchManyRequest {
        request: Some(Request::Create(create)),
    }
}

fn cancel(watch_id: i64) -> WatchManyRequest {
    WatchManyRequest {
        request: Some(Request::Cancel(CancelWatch { watch_id })),
    }
}

async fn open(node: &Node) -> (mpsc::Sender<WatchManyRequest>, Streaming<WatchResponse>) {
    let (sender, requests) = mpsc::channel(2_000);
    // The response's head comes with the handler's return, which waits for no request.
    let stream = node.registry().await.watch_many(ReceiverStream::new(requests)).await;
    (sender, stream.expect("a stream").into_inner())
}

async fn canceled(stream: &mut Streaming<WatchResponse>) -> (i64, Option<ErrorDetail>) {
    loop {
        let message = next_step(stream).await;
        if message.kind() == Kind::Canceled {
            let status = message.status.expect("a CANCELED says why");
            assert_eq!(status.code == 0, ErrorDetail::from_proto(&status).is_none());
            return (message.watch_id, ErrorDetail::from_proto(&status));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn watches_live_on_when_the_sending_side_is_closed() {
    let cluster = Cluster::start(1).await;
    let (sender, mut stream) = open(&cluster.nodes[0]).await;
    for id in 1..=3 {
        sender
            .send(create(id, watch_of(&format!("s{id}"))))
            .await
            .expect("room");
    }
    drop(sender);
    let mut begun = BTreeSet::new();
    while begun.len() < 3 {
        let message = next_step(&mut stream).await;
        assert_eq!((message.kind(), message.more), (Kind::Snapshot, false));
        begun.insert(message.watch_id);
    }
    let mut client = cluster.nodes[0].registry().await;
    for id in 1..=3 {
        put(&mut client, record(&format!("s{id}"), "a", 0)).await;
        let message = next_step(&mut stream).await;
        assert_eq!((message.watch_id, message.kind()), (id, Kind::Changes));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_goes_wrong_with_one_watch_ends_that_one() {
    let cluster = Cluster::start(1).await;
    let (sender, mut stream) = open(&cluster.nodes[0]).await;
    let send = |request| async { sender.send(request).await.expect("room") };
    send(create(1, watch_of("web"))).await;
    assert_eq!(next_step(&mut stream).await.kind(), Kind::Snapshot);

    for (request, watch_id, path) in [
        (create(0, watch_of("web")), 0, "create.watch_id"),
        (create(1, watch_of("web")), 1, "create.watch_id"),
        (create(7, WatchRequest::default()), 7, "create.watch.selector"),
    ] {
        send(request).await;
        let (id, why) = canceled(&mut stream).await;
        let why = why.expect("a reason");
        assert_eq!(
            (id, why.reason, why.violations[0].0.as_str()),
            (watch_id, Reason::InvalidField, path)
        );
    }
    let mut client = cluster.nodes[0].registry().await;
    put(&mut client, record("web", "a", 0)).await;
    let step = next_step(&mut stream).await;
    assert_eq!(
        (step.watch_id, step.kind()),
        (1, Kind::Changes),
        "the watch that was there goes on"
    );

    send(cancel(99)).await;
    send(cancel(1)).await;
    assert_eq!(canceled(&mut stream).await, (1, None));
    send(create(1, watch_of("web"))).await;
    assert_eq!(
        next_step(&mut stream).await.kind(),
        Kind::Snapshot,
        "its number is free again"
    );
    send(cancel(1)).await;
    drop(sender);
    assert_eq!(canceled(&mut stream).await, (1, None));
    let end = next(&mut stream).await.expect_err("no watch is left");
    assert_eq!(end.code(), tonic::Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_a_thousand_watches_at_most() {
    let cluster = Cluster::start(1).await;
    let (sender, mut stream) = open(&cluster.nodes[0]).await;
    for id in 1..=1_001 {
        sender.send(create(id, watch_of("none"))).await.expect("room");
    }
    let (id, why) = canceled(&mut stream).await;
    let why = why.expect("a reason");
    assert_eq!((id, why.reason), (1_001, Reason::TooManyWatches));
    assert!(why.quota.is_some() && why.retry_after.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_asks_for_nothing_ends_the_stream() {
    let cluster = Cluster::start(1).await;
    let (sender, mut stream) = open(&cluster.nodes[0]).await;
    sender.send(WatchManyRequest::default()).await.expect("room");
    let end = next(&mut stream).await.expect_err("the end");
    assert_eq!(told(&end).violations[0].0, "request");
}
