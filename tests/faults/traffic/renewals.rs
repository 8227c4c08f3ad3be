//! A KeepAlive stream: renewals pipelined to one node, each message of it recorded as a call.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{Rng as _, seq::SliceRandom as _};
use roster::wire::v1::{self, leases_client::LeasesClient};
use tokio::{sync::mpsc, time::Instant};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::{
    send::renewed,
    session::{OpenCall, Session},
    verdict::{DEADLINE, of_write, reason},
};
use crate::history::{Answer, RenewOutcome, Reply, Request};

/// Messages of one stream under way.
const IN_FLIGHT_MAX: usize = 48;
/// A node answers each message within 5 s, or the stream is given up.
const SILENCE_MAX: Duration = Duration::from_secs(6);
/// How often the silence is looked at.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Leases of one message at the most.
const CHUNK_MAX: usize = 40;

/// The leases that are kept alive, shared with who adds and abandons them.
#[derive(Clone, Default)]
pub(super) struct Kept(Arc<Mutex<BTreeSet<i64>>>);

impl Kept {
    pub(super) fn add(&self, lease: i64) {
        self.set().insert(lease);
    }

    /// Whether it was kept.
    pub(super) fn abandon(&self, lease: i64) -> bool {
        self.set().remove(&lease)
    }

    pub(super) fn contains(&self, lease: i64) -> bool {
        self.set().contains(&lease)
    }

    pub(super) fn all(&self) -> Vec<i64> {
        self.set().iter().copied().collect()
    }

    fn set(&self) -> MutexGuard<'_, BTreeSet<i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a stream ended.
enum End {
    /// It is to be: all is over.
    Stopped,
    /// Another node is to be asked, for no reason of this one.
    Left,
    /// It was refused before anything was taken from it: this is what came of its first messages.
    Refused(Answer),
    /// It broke.
    Broken(String),
}

struct Stream {
    requests: mpsc::Sender<v1::RenewRequest>,
    answers: Streaming<v1::RenewResponse>,
}

/// Renews what is kept, every `period`, until it is told to stop.
pub(super) async fn renew(mut session: Session, kept: Kept, period: Duration, until: CancellationToken) {
    while !until.is_cancelled() && session.goes_on() {
        let mut under_way: BTreeMap<i64, OpenCall> = BTreeMap::new();
        let end = one_stream(&mut session, &kept, period, &until, &mut under_way).await;
        let unknown = |reason: &str| Answer::Unknown {
            reason: reason.to_owned(),
        };
        let answer = match end {
            End::Stopped | End::Left => unknown("LEFT"),
            End::Refused(answer) => answer,
            End::Broken(reason) => unknown(&reason),
        };
        for open in under_way.into_values() {
            open.end(answer.clone());
        }
        session.hop();
        session.reconnect();
        let pause = Duration::from_millis(session.rng.random_range(5..100));
        tokio::select! {
            () = session.rest(pause) => {}
            () = until.cancelled() => {}
        }
    }
}

/// One node's stream, for as long as it works, or until the client feels like leaving.
async fn one_stream(
    session: &mut Session,
    kept: &Kept,
    period: Duration,
    until: &CancellationToken,
    under_way: &mut BTreeMap<i64, OpenCall>,
) -> End {
    let (requests, outgoing) = mpsc::channel(IN_FLIGHT_MAX);
    let mut seq = 0;
    // The first messages go along with the call: a node need not answer before it has one.
    send_all(session, kept, &requests, under_way, &mut seq);
    let mut due = Instant::now() + period;
    let answers = tokio::select! {
        answers = open(session, outgoing) => answers,
        () = until.cancelled() => return End::Stopped,
        () = session.stop.cancelled() => return End::Stopped,
    };
    let mut stream = match answers {
        Ok(answers) => Stream { requests, answers },
        Err(status) => return End::Refused(of_write(&status)),
    };
    let mut heard = Instant::now();
    let stop = session.stop.clone();
    loop {
        let woken = tokio::select! {
            message = stream.answers.message() => Some(message),
            () = tokio::time::sleep_until(due.min(Instant::now() + CHECK_INTERVAL)) => None,
            () = until.cancelled() => return End::Stopped,
            () = stop.cancelled() => return End::Stopped,
        };
        match woken {
            Some(Ok(Some(response))) => {
                heard = Instant::now();
                take(session, kept, response, under_way);
            }
            Some(Ok(None)) => return End::Broken("ENDED".to_owned()),
            Some(Err(status)) => return End::Broken(reason(&status)),
            None => {}
        }
        if under_way.is_empty() {
            heard = Instant::now();
        }
        if heard.elapsed() > SILENCE_MAX {
            return End::Broken(DEADLINE.to_owned());
        }
        if due <= Instant::now() {
            if session.rng.random_bool(0.03) {
                return End::Left;
            }
            send_all(session, kept, &stream.requests, under_way, &mut seq);
            due = Instant::now() + period;
        }
    }
}

async fn open(
    session: &Session,
    outgoing: mpsc::Receiver<v1::RenewRequest>,
) -> Result<Streaming<v1::RenewResponse>, Status> {
    let (_, channel) = session.node();
    let mut leases = LeasesClient::new(channel);
    let opening = leases.keep_alive(ReceiverStream::new(outgoing));
    match tokio::time::timeout(SILENCE_MAX, opening).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_elapsed) => Err(Status::deadline_exceeded("the stream was not opened in time")),
    }
}

/// Sends all that is kept, in messages of several leases. What there is no room for comes with the next round.
fn send_all(
    session: &mut Session,
    kept: &Kept,
    requests: &mpsc::Sender<v1::RenewRequest>,
    under_way: &mut BTreeMap<i64, OpenCall>,
    seq: &mut i64,
) {
    let mut all = kept.all();
    all.shuffle(&mut session.rng);
    let mut rest = all.as_slice();
    while !rest.is_empty() && under_way.len() < IN_FLIGHT_MAX {
        let (chunk, others) = rest.split_at(session.rng.random_range(1..=CHUNK_MAX).min(rest.len()));
        rest = others;
        *seq += 1;
        let mut call = session.call(Request::Renew {
            leases: chunk.to_vec(),
            stream: true,
        });
        let (node, _) = session.node();
        let open = session.begin(&mut call, Some(node));
        let message = v1::RenewRequest {
            seq: *seq,
            lease_ids: chunk.to_vec(),
        };
        match requests.try_send(message) {
            Ok(()) => {
                under_way.insert(*seq, open);
            }
            Err(_full) => {
                open.end(Answer::Failed {
                    reason: "NO_ROOM".to_owned(),
                });
                return;
            }
        }
    }
}

/// Takes in an answer. One to a message that was never sent is recorded as nothing: no call waits for it.
fn take(session: &mut Session, kept: &Kept, response: v1::RenewResponse, under_way: &mut BTreeMap<i64, OpenCall>) {
    let Some(open) = under_way.remove(&response.seq) else {
        return;
    };
    let results = renewed(&response.results);
    for result in results.iter().filter(|result| result.outcome == RenewOutcome::NotFound) {
        kept.abandon(result.lease);
    }
    let header = response.header.unwrap_or_default();
    session.seen = session.seen.max(header.revision);
    open.end(Answer::Done {
        revision: header.revision,
        term: header.term,
        reply: Reply::Renewed(results),
    });
}
