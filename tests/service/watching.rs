//! One watch on one stream.

use std::time::Duration;

use prost::Message as _;
use roster::{
    model::limits::MESSAGE_MAX_BYTES,
    wire::{
        Reason,
        v1::{
            DeregisterRequest, ListRequest, Position, UpdateRequest, WatchRequest, change, instance, reset,
            watch_request::Start, watch_response::Kind,
        },
    },
};
use tokio::time::Instant;

use crate::{
    harness::Cluster,
    support::{View, key, next, next_step, of, put, record, span, told, watch_of},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_with_what_is_there_and_goes_on_with_what_changes() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].registry().await;
    let first = put(&mut client, record("web", "a", 0)).await;
    let mut watch = client.watch(watch_of("web")).await.expect("a watch").into_inner();

    let snapshot = next(&mut watch).await.expect("a first message");
    assert_eq!((snapshot.kind(), snapshot.more), (Kind::Snapshot, false));
    assert_eq!(snapshot.changes[0].instance, first.instance);
    let header = snapshot.header.clone().expect("a header");
    assert!(header.stale && header.age.is_some(), "{header:?}");

    let second = put(&mut client, record("web", "b", 0)).await;
    put(&mut client, record("else", "c", 0)).await;
    let step = next_step(&mut watch).await;
    assert_eq!((step.kind(), step.changes.len()), (Kind::Changes, 1));
    assert_eq!(step.changes[0].instance, second.instance);
    assert_eq!(
        step.position.expect("whole").revision,
        second.header.expect("a header").revision
    );

    let gone = client
        .deregister(DeregisterRequest {
            key: Some(key("web", "a")),
            ..Default::default()
        })
        .await;
    let revision = gone
        .expect("a deregister")
        .into_inner()
        .header
        .expect("a header")
        .revision;
    let step = next_step(&mut watch).await;
    let change = &step.changes[0];
    assert_eq!(
        (change.kind(), change.reason()),
        (change::Kind::Remove, change::Reason::Deregistered)
    );
    assert_eq!(
        (change.removed.clone(), change.revision),
        (Some(in_default(key("web", "a"))), revision)
    );
}

fn in_default(mut key: roster::wire::v1::InstanceKey) -> roster::wire::v1::InstanceKey {
    key.namespace = "default".to_owned();
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stops_matching_is_removed_and_what_begins_to_match_is_put() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].registry().await;
    put(&mut client, record("web", "a", 0)).await;
    let mut request = watch_of("web");
    request.selector.as_mut().expect("set").serving = true;
    let mut watch = client.watch(request).await.expect("a watch").into_inner();
    assert_eq!(next(&mut watch).await.expect("a snapshot").changes.len(), 1);

    let update = |status: instance::Status| UpdateRequest {
        key: Some(key("web", "a")),
        status: status.into(),
        ..UpdateRequest::default()
    };
    client
        .update(update(instance::Status::Draining))
        .await
        .expect("an update");
    let step = next_step(&mut watch).await;
    assert_eq!(step.changes[0].reason(), change::Reason::LeftSelector);
    client.update(update(instance::Status::Up)).await.expect("an update");
    let step = next_step(&mut watch).await;
    assert_eq!(step.changes[0].kind(), change::Kind::Put);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_comes_at_once_even_if_there_is_nothing_to_say() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].registry().await;
    let position = client
        .list(ListRequest {
            selector: Some(of("none")),
            ..Default::default()
        })
        .await;
    let position = position.expect("a list").into_inner().position.expect("a position");
    for (start, kind) in [
        (None, Kind::Snapshot),
        (Some(Start::Now(true)), Kind::Progress),
        (Some(Start::After(position)), Kind::Progress),
    ] {
        let request = WatchRequest {
            start,
            progress_interval: Some(span(Duration::from_secs(3_600))),
            ..watch_of("none")
        };
        let mut watch = client.watch(request).await.expect("a watch").into_inner();
        let first = next(&mut watch).await.expect("a first message");
        assert_eq!((first.kind(), first.changes.len(), first.more), (kind, 0, false));
        assert!(first.position.is_some());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_watch_moves_its_position_on() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].registry().await;
    let mut watch = client.watch(watch_of("quiet")).await.expect("a watch").into_inner();
    let elsewhere = put(&mut client, record("loud", "a", 0))
        .await
        .header
        .expect("a header")
        .revision;
    let mut view = View::default();
    view.reach(&mut watch, elsewhere).await;
    assert!(view.records.is_empty());
    let began = Instant::now();
    for _ in 0..5 {
        assert_eq!(next(&mut watch).await.expect("a sign of life").kind(), Kind::Progress);
    }
    assert!(
        began.elapsed() >= Duration::from_millis(350),
        "five intervals of 100 ms, less one begun"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_after_its_position_and_a_foreign_one_is_reset() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].registry().await;
    let page = client
        .list(ListRequest {
            selector: Some(of("web")),
            ..Default::default()
        })
        .await;
    let position = page.expect("a list").into_inner().position.expect("a position");
    for number in 0..5 {
        put(&mut client, record("web", &format!("i{number}"), 0)).await;
    }
    let after = |position| WatchRequest {
        start: Some(Start::After(position)),
        ..watch_of("web")
    };
    let mut watch = client
        .watch(after(position.clone()))
        .await
        .expect("a watch")
        .into_inner();
    let mut view = View::default();
    view.reach(&mut watch, position.revision + 5).await;
    assert_eq!((view.records.len(), view.resets), (5, 0));

    let foreign = Position {
        cluster_id: "00000000deadbeef".to_owned(),
        ..position.clone()
    };
    let mut watch = client.watch(after(foreign)).await.expect("a watch").into_inner();
    let first = next(&mut watch).await.expect("a snapshot");
    assert_eq!(first.reset.expect("a reset").reason(), reset::Reason::OtherCluster);
    assert_eq!(first.changes.len(), 5);

    let future = Position {
        revision: position.revision + 1_000,
        ..position
    };
    let refused = client.watch(after(future)).await.expect_err("a position in the future");
    assert_eq!(told(&refused).reason, Reason::RevisionInFuture);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_snapshot_is_cut_into_messages_below_the_limit() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].registry().await;
    for number in 0..100 {
        put(&mut client, record("large", &format!("i{number:03}"), 40_000)).await;
    }
    let mut watch = client.watch(watch_of("large")).await.expect("a watch").into_inner();
    let (mut view, mut messages) = (View::default(), 0);
    while view.position.is_none() {
        let message = next(&mut watch).await.expect("more of the snapshot");
        assert!(message.encoded_len() <= MESSAGE_MAX_BYTES);
        view.take(message);
        messages += 1;
    }
    assert_eq!(view.records.len(), 100);
    assert!(messages > 2, "4 MB in {messages} messages");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_that_stopped_reading_ends_with_the_same_view_as_a_list() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].registry().await;
    let mut watch = client.watch(watch_of("busy")).await.expect("a watch").into_inner();
    let mut last = 0;
    // 24 MB that nobody reads: more than the transport and the watcher's queue hold.
    for number in 0..400 {
        let id = format!("i{:02}", number % 50);
        let mut instance = record("busy", &id, 60_000);
        instance.version = number.to_string();
        last = put(&mut client, instance).await.header.expect("a header").revision;
    }
    let mut view = View::default();
    view.reach(&mut watch, last).await;
    let request = ListRequest {
        selector: Some(of("busy")),
        page_size: 100,
        ..Default::default()
    };
    let page = client.list(request.clone()).await.expect("a list").into_inner();
    let mut listed = page.instances;
    let mut token = page.next_page_token;
    while !token.is_empty() {
        let request = ListRequest {
            page_token: token,
            ..request.clone()
        };
        let page = client.list(request).await.expect("a page").into_inner();
        listed.extend(page.instances);
        token = page.next_page_token;
    }
    assert_eq!(view.records.into_values().collect::<Vec<_>>(), listed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_can_not_begin_says_why() {
    let cluster = Cluster::start(1).await;
    let mut client = cluster.nodes[0].registry().await;
    let refused = client.watch(WatchRequest::default()).await.expect_err("no selector");
    let detail = told(&refused);
    assert_eq!(
        (detail.reason, detail.violations[0].0.as_str()),
        (Reason::InvalidField, "selector")
    );
}
