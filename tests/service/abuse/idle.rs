//! Connections and streams that do nothing.

use std::time::Duration;

use futures_util::{FutureExt as _, future::join_all};

use super::{
    Abuse, BOTH, CLIENT, Port, Target,
    frames::{END_HEADERS, Ended, Wire, call, headers, initial_window},
};

/// A connection that has not begun to speak is cut off within this.
const SILENT_MAX: Duration = Duration::from_secs(13);

pub(super) const ABUSES: &[Abuse] = &[
    Abuse {
        name: "connections that say nothing, or their first words too slowly",
        ports: BOTH,
        grows_mib: 48,
        run: |target| silent(target).boxed(),
    },
    Abuse {
        name: "connections that begin and then do nothing",
        ports: BOTH,
        grows_mib: 64,
        run: |target| begun(target).boxed(),
    },
    Abuse {
        name: "thousands of streams that nothing is sent on",
        ports: CLIENT,
        grows_mib: 96,
        run: |target| streams(target).boxed(),
    },
];

async fn silent(target: Target) {
    let one = async |pace: Option<Duration>| {
        // Beyond the port's limit a connection is closed at once, which may be noticed while it is used.
        let Ok(mut wire) = Wire::open(target.address).await else {
            return Ended::Closed;
        };
        let Some(pace) = pace else {
            let ended = wire.until_closed(false, SILENT_MAX).await;
            if ended == Ended::Open {
                // When too many come at once, the kernel keeps some from the node until they send; their time begins
                // only then.
                let _may_be_refused = wire.send(b"P").await;
                return wire.until_closed(false, SILENT_MAX).await;
            }
            return ended;
        };
        for byte in super::frames::PREFACE {
            if wire.send(&[*byte]).await.is_err() || wire.until_closed(false, pace).await != Ended::Open {
                return Ended::Closed;
            }
        }
        Ended::Open
    };
    let silent = join_all((0..300).map(|_| one(None)));
    let slow = join_all((0..100).map(|_| one(Some(Duration::from_millis(600)))));
    let (silent, slow) = tokio::join!(silent, slow);
    let open = |ended: &[Ended]| ended.iter().filter(|ended| **ended == Ended::Open).count();
    let still = (open(&silent), open(&slow));
    assert_eq!(still, (0, 0), "silent and slow connections that are open still");
}

/// Connections that answer pings may stay, within the port's limit; a new one must still get in.
async fn begun(target: Target) {
    let count = match target.port {
        Port::Client => 2_000,
        // Its nodes must find room beside them.
        Port::Peer => 100,
    };
    let mut open = Vec::new();
    for _ in 0..count {
        open.push(Wire::begun(target.address).await.expect("there is room"));
    }
    let ended = join_all(open.iter_mut().map(|wire| wire.until_closed(true, target.lasts))).await;
    let still = ended.iter().filter(|ended| **ended == Ended::Open).count();
    assert!(
        still >= count * 9 / 10,
        "{still} of {count} are open: others were cut off for nothing"
    );
}

/// More than a connection may have: those beyond are refused, and the others wait with their answers, which nobody
/// takes.
async fn streams(target: Target) {
    let one = async || {
        let mut wire = Wire::begun(target.address).await.expect("there is room");
        wire.send(&initial_window(0)).await.expect("it is taken");
        let block = call("/roster.v1.Leases/KeepAlive", &[]);
        let opened: Vec<u8> = (0..2_000_u32)
            .flat_map(|at| headers(at * 2 + 1, END_HEADERS, &block))
            .collect();
        // Beyond the limit the node may end the connection.
        let _refused = wire.send(&opened).await;
        wire.until_closed(true, target.lasts).await
    };
    join_all((0..4).map(|_| one())).await;
}
