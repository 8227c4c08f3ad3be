//! Clients that send slowly, or do not read.

use std::time::Duration;

use futures_util::{FutureExt as _, future::join_all};
use prost::Message as _;
use roster::wire::v1::{self, leases_client::LeasesClient};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{
    Abuse, BOTH, CLIENT, Target,
    frames::{
        END_HEADERS, END_STREAM, Ended, Wire, call, continuation, data, headers, initial_window, message, window_update,
    },
};
use crate::harness::list_all;

/// Headers that are never whole keep their connection for no longer than this: it can't answer a ping meanwhile.
const HEADERS_MAX: Duration = Duration::from_secs(20);

pub(super) const ABUSES: &[Abuse] = &[
    Abuse {
        name: "headers byte by byte",
        ports: BOTH,
        grows_mib: 32,
        run: |target| slow_headers(target).boxed(),
    },
    Abuse {
        name: "messages byte by byte",
        ports: BOTH,
        grows_mib: 64,
        run: |target| slow_messages(target).boxed(),
    },
    Abuse {
        name: "answers that nobody takes, behind windows that are shut, shrunk and nudged",
        ports: CLIENT,
        grows_mib: 192,
        run: |target| shut_windows(target).boxed(),
    },
    Abuse {
        name: "watches that are never read",
        ports: CLIENT,
        grows_mib: 128,
        run: |target| unread_watches(target).boxed(),
    },
    Abuse {
        name: "renewals whose answers are never read",
        ports: CLIENT,
        grows_mib: 192,
        run: |target| unread_renewals(target).boxed(),
    },
];

async fn slow_headers(target: Target) {
    let one = async || {
        let Ok(mut wire) = Wire::begun(target.address).await else {
            return Ended::Closed;
        };
        let block = call(target.method(), &[("x-slow", &"s".repeat(4_000))]);
        let (begin, rest) = block.split_at(block.len() - 3_900);
        if wire.send(&headers(1, 0, begin)).await.is_err() {
            return Ended::Closed;
        }
        let until = Instant::now() + HEADERS_MAX;
        for byte in rest.iter().take_while(|_| Instant::now() < until) {
            if wire.send(&continuation(1, 0, &[*byte])).await.is_err() {
                return Ended::Closed;
            }
            let ended = wire.until_closed(false, Duration::from_millis(500)).await;
            if ended != Ended::Open {
                return ended;
            }
        }
        Ended::Open
    };
    let ended = join_all((0..50).map(|_| one())).await;
    assert!(ended.iter().all(|ended| *ended != Ended::Open), "{ended:?}");
}

async fn slow_messages(target: Target) {
    let one = async || {
        let Ok(mut wire) = Wire::begun(target.address).await else {
            return;
        };
        let block = call(target.method(), &[]);
        let opened: Vec<u8> = (0..50_u32)
            .flat_map(|at| [headers(at * 2 + 1, END_HEADERS, &block), data(at * 2 + 1, 0, &[0])].concat())
            .collect();
        // What is refused is over.
        let _refused = wire.send(&opened).await;
        let until = Instant::now() + target.lasts;
        while Instant::now() < until && wire.send(&data(1, 0, &[0])).await.is_ok() {
            if wire.until_closed(true, Duration::from_millis(100)).await != Ended::Open {
                return;
            }
        }
    };
    join_all((0..50).map(|_| one())).await;
}

async fn shut_windows(target: Target) {
    let list = message(&list_all().encode_to_vec());
    let block = call("/roster.v1.Registry/List", &[]);
    let ask = |streams: std::ops::Range<u32>| -> Vec<u8> {
        streams
            .flat_map(|at| {
                let stream = at * 2 + 1;
                [headers(stream, END_HEADERS, &block), data(stream, END_STREAM, &list)].concat()
            })
            .collect()
    };
    let one = async |shrunk: bool| {
        let mut wire = Wire::begun(target.address).await.expect("there is room");
        if !shrunk {
            wire.send(&initial_window(0)).await.expect("it is taken");
        }
        wire.send(&ask(0..200)).await.expect("it is taken");
        if shrunk {
            // Windows that were open and are now below zero.
            wire.send(&initial_window(1)).await.expect("it is taken");
        }
        let until = Instant::now() + target.lasts;
        while Instant::now() < until {
            let nudges: Vec<u8> = (0..200_u32).flat_map(|at| window_update(at * 2 + 1, 1)).collect();
            if wire.send(&nudges).await.is_err()
                || wire.until_closed(true, Duration::from_millis(50)).await != Ended::Open
            {
                return;
            }
        }
        // An increment of zero is a mistake, and one beyond 2^31 another.
        let _refused = wire
            .send(&[window_update(0, 0), window_update(0, 0x7fff_ffff)].concat())
            .await;
        let ended = wire.until_closed(false, Duration::from_secs(20)).await;
        assert_ne!(ended, Ended::Open, "a window of 2^31 was taken");
    };
    join_all((0..20).map(|at| one(at % 2 == 0))).await;
}

async fn unread_watches(target: Target) {
    let watch = v1::WatchRequest {
        selector: list_all().selector,
        progress_interval: Some(prost_types::Duration {
            seconds: 0,
            nanos: 100_000_000,
        }),
        ..v1::WatchRequest::default()
    };
    let watch = message(&watch.encode_to_vec());
    let block = call("/roster.v1.Registry/Watch", &[]);
    let one = async || {
        let mut wire = Wire::begun(target.address).await.expect("there is room");
        let opened: Vec<u8> = (0..500_u32)
            .flat_map(|at| {
                let stream = at * 2 + 1;
                [headers(stream, END_HEADERS, &block), data(stream, END_STREAM, &watch)].concat()
            })
            .collect();
        wire.send(&opened).await.expect("it is taken");
        // The canary changes what they watch, and nothing is read.
        tokio::time::sleep(target.lasts * 2).await;
    };
    join_all((0..4).map(|_| one())).await;
}

async fn unread_renewals(target: Target) {
    let one = async || {
        let endpoint = format!("http://{}", target.address);
        let channel = Channel::from_shared(endpoint)
            .expect("a URL")
            .connect()
            .await
            .expect("there is room");
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let mut leases = LeasesClient::new(channel);
        // Kept, and never read.
        let _answers = leases.keep_alive(ReceiverStream::new(receive)).await.expect("a stream");
        let mut taken = 0;
        let sending = async {
            let lease_ids: Vec<i64> = (1..=10_000).collect();
            loop {
                let lease_ids = lease_ids.clone();
                if send.send(v1::RenewRequest { seq: taken, lease_ids }).await.is_err() {
                    return;
                }
                taken += 1;
            }
        };
        // The node stops taking them when nobody takes its answers.
        let _held_up = tokio::time::timeout(target.lasts * 2, sending).await;
        taken
    };
    let taken = join_all((0..8).map(|_| one())).await;
    assert!(
        taken.iter().all(|taken| (1..1_000).contains(taken)),
        "{taken:?} messages were taken"
    );
}
