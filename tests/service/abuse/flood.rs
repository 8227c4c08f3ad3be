//! Clients that send far too much.

use std::{fmt::Write as _, time::Duration};

use futures_util::{FutureExt as _, future::join_all};
use roster::wire::v1::{RenewRequest, leases_client::LeasesClient};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::{
    Abuse, BOTH, CLIENT, Port, Target,
    frames::{
        END_HEADERS, END_STREAM, Ended, PREFACE, Wire, call, continuation, data, field, headers, initial_window,
        message, ping, pong, reset, settings,
    },
};

/// Connections that flood at once.
const CONNECTIONS: usize = 4;

pub(super) const ABUSES: &[Abuse] = &[
    Abuse {
        name: "rapid resets",
        ports: BOTH,
        grows_mib: 64,
        run: |target| rapid_resets(target).boxed(),
    },
    Abuse {
        name: "continuations without an end",
        ports: BOTH,
        grows_mib: 32,
        run: |target| continuations(target).boxed(),
    },
    Abuse {
        name: "pings and settings whose answers are not read",
        ports: BOTH,
        grows_mib: 64,
        run: |target| pings_and_settings(target).boxed(),
    },
    Abuse {
        name: "giant headers, and far too many",
        ports: BOTH,
        grows_mib: 64,
        run: |target| giant_headers(target).boxed(),
    },
    Abuse {
        name: "what is no call",
        ports: BOTH,
        grows_mib: 32,
        run: |target| no_calls(target).boxed(),
    },
    Abuse {
        name: "compressed bombs",
        ports: BOTH,
        grows_mib: 32,
        run: |target| bombs(target).boxed(),
    },
    Abuse {
        name: "10,000 renewals in each message, as fast as they are answered",
        ports: CLIENT,
        grows_mib: 192,
        run: |target| renewals(target).boxed(),
    },
];

/// Sends such bytes until the time is up, on a new connection whenever the node has had enough of one. Returns how many
/// connections the node cut off.
async fn flood(target: Target, first: &[u8], again: impl Fn(u32) -> Vec<u8>) -> usize {
    let until = Instant::now() + target.lasts;
    let mut cut = 0;
    while Instant::now() < until {
        let Ok(mut wire) = Wire::begun(target.address).await else {
            cut += 1;
            continue;
        };
        let mut turn = 0;
        let mut sent = wire.send(first).await;
        while sent.is_ok() && Instant::now() < until {
            sent = wire.send(&again(turn)).await;
            turn += 1;
        }
        cut += usize::from(wire.until_closed(false, Duration::from_millis(500)).await != Ended::Open);
    }
    cut
}

/// CVE-2023-44487: streams that are opened and reset before they are served.
async fn rapid_resets(target: Target) {
    let block = call(target.method(), &[]);
    let one = || {
        flood(target, &[], |turn| {
            (0..500)
                .flat_map(|at| {
                    let stream = (turn * 500 + at) * 2 + 1;
                    [headers(stream, END_HEADERS, &block), reset(stream)].concat()
                })
                .collect()
        })
    };
    let cut = join_all((0..CONNECTIONS).map(|_| one())).await;
    assert!(!cut.contains(&0), "a flood of resets went on for ever: {cut:?}");
}

/// CVE-2024-27316 and its kin: a header block that never ends, of frames that are empty or not.
async fn continuations(target: Target) {
    let block = call(target.method(), &[]);
    let begin = headers(1, 0, &block);
    let empty = || flood(target, &begin, |_| continuation(1, 0, &[]).repeat(1_000));
    let filler = field("x-filler", &"f".repeat(4_000));
    let full = || flood(target, &begin, |_| continuation(1, 0, &filler).repeat(10));
    let cut = join_all([empty().boxed(), full().boxed(), empty().boxed(), full().boxed()]).await;
    assert!(!cut.contains(&0), "a flood of continuations went on for ever: {cut:?}");
}

async fn pings_and_settings(target: Target) {
    let pings = || flood(target, &[], |_| ping().repeat(1_000));
    // Answers to pings that nobody sent: a library would tell its log of each.
    let answers = || flood(target, &[], |_| pong().repeat(1_000));
    let again = || {
        flood(target, &[], |turn| {
            [settings(&[]), initial_window(turn)].concat().repeat(500)
        })
    };
    join_all([pings().boxed(), again().boxed(), answers().boxed(), answers().boxed()]).await;
}

async fn giant_headers(target: Target) {
    let until = Instant::now() + target.lasts;
    let one = async || {
        while Instant::now() < until {
            let Ok(mut wire) = Wire::begun(target.address).await else {
                return;
            };
            // One of a megabyte; and one byte for each of 16,000, from the static table.
            let giant = call(target.method(), &[("x-giant", &"g".repeat(1 << 20))]);
            let many = [call(target.method(), &[]), vec![0x90; 16_000]].concat();
            for (stream, block) in [(1, giant), (3, many)] {
                let mut pieces = block.chunks(16_000).peekable();
                let first = pieces.next().expect("a block holds something");
                let flags = |last: bool| if last { END_HEADERS } else { 0 };
                let mut sent = headers(stream, flags(pieces.peek().is_none()) | END_STREAM, first);
                while let Some(piece) = pieces.next() {
                    sent.extend(continuation(stream, flags(pieces.peek().is_none()), piece));
                }
                // The node may end it any time.
                let _refused = wire.send(&sent).await;
            }
            wire.until_closed(false, Duration::from_millis(50)).await;
        }
    };
    join_all((0..CONNECTIONS).map(|_| one())).await;
}

/// Other protocols, other types, and bytes that are nothing.
async fn no_calls(target: Target) {
    let mut tls = vec![0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
    tls.extend((0..512_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]));
    let mut long = String::from("GET /livez HTTP/1.1\r\nHost: n\r\n");
    for at in 0..2_000 {
        write!(long, "X-{at}: y\r\n").expect("memory takes writes");
    }
    let openings: Vec<Vec<u8>> = vec![
        tls,
        long.into_bytes(),
        b"GET /../../etc/passwd HTTP/1.1\r\nHost: n\r\n\r\n".to_vec(),
        b"POST /roster.v1.Registry/Register HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\nzz\r\n".to_vec(),
        b"GET / HTTP/0.9\r\n\r\n".to_vec(),
        b"\r\n\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r".to_vec(),
        [PREFACE, &[0xff; 9_000]].concat(),
        [PREFACE, &data(1, END_STREAM, b"no headers before")].concat(),
        [PREFACE, &headers(2, END_HEADERS, &call(target.method(), &[]))].concat(),
        vec![0; 100_000],
    ];
    for opening in openings {
        let Ok(mut wire) = Wire::open(target.address).await else {
            continue;
        };
        // The node may have had enough before all is sent.
        let _refused = wire.send(&opening).await;
        wire.text(Duration::from_millis(200)).await;
    }
    for kind in [
        "application/grpc-web",
        "application/json",
        "text/html",
        "",
        "application/grpc+json",
    ] {
        let mut wire = Wire::begun(target.address).await.expect("there is room");
        let block = call(target.method(), &[("content-type", kind)]);
        let asked = [headers(1, END_HEADERS, &block), data(1, END_STREAM, &message(&[]))].concat();
        wire.send(&asked).await.expect("it is taken");
        wire.text(Duration::from_millis(100)).await;
    }
    if target.port == Port::Client {
        let mut wire = Wire::open(target.address).await.expect("there is room");
        wire.send(b"GET /livez HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n")
            .await
            .expect("it is taken");
        let text = wire.text(Duration::from_secs(10)).await;
        assert!(text.starts_with("HTTP/1.1 200"), "{text:?}");
    }
}

/// 32 MiB of zeros, deflated twice over to a few bytes by hand: the node takes no compressed message at all.
async fn bombs(target: Target) {
    let until = Instant::now() + target.lasts;
    while Instant::now() < until {
        for encoding in ["gzip", "deflate", "zstd", "identity", "br"] {
            let Ok(mut wire) = Wire::begun(target.address).await else {
                return;
            };
            let block = call(target.method(), &[("grpc-encoding", encoding)]);
            // The first byte of a message says that it is compressed.
            let mut bomb = message(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 0xff]);
            bomb[0] = 1;
            bomb.extend([0xed, 0xc1].repeat(5_000));
            // A message that claims to be of 4 GiB: no room is made for it.
            let claimed = [0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3];
            let asked = [
                headers(1, END_HEADERS, &block),
                data(1, END_STREAM, &bomb),
                headers(3, END_HEADERS, &call(target.method(), &[])),
                data(3, 0, &claimed),
            ];
            // The node may end the connection.
            let _refused = wire.send(&asked.concat()).await;
            wire.until_closed(true, Duration::from_millis(20)).await;
        }
    }
}

/// Leases that do not exist are answered, too.
async fn renewals(target: Target) {
    let one = async |from: i64| {
        let endpoint = format!("http://{}", target.address);
        let channel = Channel::from_shared(endpoint)
            .expect("a URL")
            .connect()
            .await
            .expect("there is room");
        let mut leases = LeasesClient::new(channel);
        let (send, receive) = tokio::sync::mpsc::channel(16);
        let mut answers = leases
            .keep_alive(ReceiverStream::new(receive))
            .await
            .expect("a stream")
            .into_inner();
        let lease_ids: Vec<i64> = (from..from + 10_000).collect();
        let until = Instant::now() + target.lasts;
        let sending = tokio::spawn(async move {
            let mut seq = 0;
            while Instant::now() < until {
                let lease_ids = lease_ids.clone();
                if send.send(RenewRequest { seq, lease_ids }).await.is_err() {
                    return seq;
                }
                seq += 1;
            }
            seq
        });
        let mut answered = 0;
        while let Some(answer) = answers.message().await.expect("the stream goes on") {
            assert_eq!(answer.results.len(), 10_000);
            answered += 1;
        }
        assert_eq!(sending.await.expect("no panic"), answered);
        answered
    };
    let counts = join_all((0..2).map(|at| one(at * 10_000 + 1))).await;
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
}
