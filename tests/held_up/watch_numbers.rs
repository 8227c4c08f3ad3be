//! A watch's number on a stream of many, used again as soon as its watch has said that it ended.

use roster::{
    watch::HubLimits,
    wire::v1::{
        CancelWatch, CreateWatch, WatchManyRequest, WatchRequest, WatchResponse, watch_many_request::Request,
        watch_response::Kind,
    },
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::{
    harness::{Nodes, put, registry, tell},
    support::{next, of},
};

/// The node hears of the new watch and of the old one's end at about the same time: whichever thread is first, and
/// whichever it looks at first, must not matter. So many turns leave nothing to chance.
const TURNS: usize = 200;

fn create(watch_id: i64) -> WatchManyRequest {
    let watch = WatchRequest {
        selector: Some(of("web")),
        ..WatchRequest::default()
    };
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

async fn use_again(nodes: &Nodes) {
    let node = &nodes.nodes[0];
    put(node, 0, "there").await;
    let (requests, received) = mpsc::channel(8);
    let stream = registry(node).watch_many(ReceiverStream::new(received)).await;
    let mut stream = stream.unwrap().into_inner();
    for turn in 0..TURNS {
        requests.send(create(7)).await.unwrap();
        let first = message(&mut stream).await;
        assert_eq!(first.kind(), Kind::Snapshot, "turn {turn}: {first:?}");
        requests.send(cancel(7)).await.unwrap();
        let end = message(&mut stream).await;
        assert_eq!(
            (end.kind(), end.status.map(|status| status.code)),
            (Kind::Canceled, Some(0))
        );
    }
}

async fn message(stream: &mut Streaming<WatchResponse>) -> WatchResponse {
    let message = next(stream).await.unwrap();
    assert_eq!(message.watch_id, 7);
    message
}

#[test]
fn the_number_of_a_watch_that_said_that_it_ended_is_free() {
    tell(1, HubLimits::default(), 2, use_again);
}
