//! A client with many watches on one stream, some of which it cancels and opens again where they were.

use std::{collections::BTreeMap, time::Duration};

use rand::Rng as _;
use roster::wire::v1::{self, registry_client::RegistryClient, watch_many_request::Request as Asked};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::{
    session::Session,
    steps::{Gathered, OpenWatch, Taken},
    verdict::{DEADLINE, reason},
    watcher::Wanted,
};
use crate::history::{Start, Step, StepKind};

/// Watches of one stream.
const WATCHES: std::ops::Range<i64> = 2..7;
/// Requests that wait for the transport.
const REQUESTS_MAX: usize = 32;
/// How long the stream may take to open, and be silent.
const SILENCE_MAX: Duration = Duration::from_secs(12);

/// The pause before the next stream.
const PAUSE: std::ops::Range<Duration> = Duration::from_millis(20)..Duration::from_millis(300);

/// One watch of the stream.
struct One {
    wanted: Wanted,
    open: OpenWatch,
    gathered: Gathered,
}

/// Runs until it is stopped. What a stream leaves behind goes on with the next.
pub(super) async fn run(mut session: Session) {
    let mut left: Vec<Wanted> = Vec::new();
    while session.goes_on() {
        while i64::try_from(left.len()).unwrap_or(i64::MAX) < session.rng.random_range(WATCHES) {
            left.push(Wanted::by_chance(&mut session));
        }
        left = one_stream(&mut session, left).await;
        session.hop();
        let pause = session.rng.random_range(PAUSE);
        session.rest(pause).await;
    }
}

/// One node's stream; returns what its watches were, each to go on where it was.
async fn one_stream(session: &mut Session, watches: Vec<Wanted>) -> Vec<Wanted> {
    let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
    let mut running: BTreeMap<i64, One> = BTreeMap::new();
    let mut next_id = 1;
    for wanted in watches {
        create(session, &requests, &mut running, &mut next_id, wanted);
    }
    let end = follow(session, requests, outgoing, &mut running, &mut next_id).await;
    let mut left = Vec::new();
    for (_, one) in running {
        left.push(finish(one, end.as_deref()));
    }
    left
}

/// Records the end of a watch; it goes on where it was.
fn finish(one: One, end: Option<&str>) -> Wanted {
    let One { mut wanted, open, .. } = one;
    if let Some(position) = open.position() {
        wanted.start = Start::After(position);
    }
    match end {
        Some(reason) => open.end(reason),
        None => drop(open),
    }
    wanted
}

fn create(
    session: &Session,
    requests: &mpsc::Sender<v1::WatchManyRequest>,
    running: &mut BTreeMap<i64, One>,
    next_id: &mut i64,
    wanted: Wanted,
) {
    let watch_id = *next_id;
    *next_id += 1;
    let open = wanted.begin(session);
    let create = v1::CreateWatch {
        watch_id,
        watch: Some(wanted.to_wire(&session.cluster_id)),
    };
    let request = v1::WatchManyRequest {
        request: Some(Asked::Create(create)),
    };
    if requests.try_send(request).is_err() {
        open.end("the requests' queue is full");
        return;
    }
    let gathered = Gathered::default();
    running.insert(watch_id, One { wanted, open, gathered });
}

/// Reads the stream; why it ended, or nothing when the run did.
async fn follow(
    session: &mut Session,
    requests: mpsc::Sender<v1::WatchManyRequest>,
    outgoing: mpsc::Receiver<v1::WatchManyRequest>,
    running: &mut BTreeMap<i64, One>,
    next_id: &mut i64,
) -> Option<String> {
    let stop = session.stop.clone();
    let opened = tokio::select! {
        opened = open_stream(session, outgoing) => opened,
        () = stop.cancelled() => return None,
    };
    let mut messages = match opened {
        Ok(messages) => messages,
        Err(status) => return Some(reason(&status)),
    };
    while !running.is_empty() {
        let message = tokio::select! {
            message = tokio::time::timeout(SILENCE_MAX, messages.message()) => message,
            () = stop.cancelled() => return None,
        };
        let message = match message {
            Ok(Ok(Some(message))) => message,
            Ok(Ok(None)) => return Some("ENDED".to_owned()),
            Ok(Err(status)) => return Some(reason(&status)),
            Err(_elapsed) => return Some(DEADLINE.to_owned()),
        };
        if let Some(header) = &message.header {
            session.cluster_id.clone_from(&header.cluster_id);
        }
        take(session, message, running);
        if session.rng.random_bool(0.003) {
            return Some("LEFT".to_owned());
        }
        turn_over(session, &requests, running, next_id);
    }
    Some("ALL_CANCELED".to_owned())
}

async fn open_stream(
    session: &Session,
    outgoing: mpsc::Receiver<v1::WatchManyRequest>,
) -> Result<Streaming<v1::WatchResponse>, Status> {
    let (_, channel) = session.node();
    let mut registry = RegistryClient::new(channel);
    let opening = registry.watch_many(ReceiverStream::new(outgoing));
    match tokio::time::timeout(SILENCE_MAX, opening).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_elapsed) => Err(Status::deadline_exceeded("the stream was not opened in time")),
    }
}

fn take(session: &Session, message: v1::WatchResponse, running: &mut BTreeMap<i64, One>) {
    let (watch_id, at) = (message.watch_id, session.recorder.now());
    if watch_id == 0 {
        if let Taken::Step(step) = Gathered::default().take(message, at) {
            for one in running.values_mut() {
                progress(one, &step);
            }
        }
        return;
    }
    // One that was canceled may have had something under way.
    let Some(one) = running.get_mut(&watch_id) else {
        return;
    };
    match one.gathered.take(message, at) {
        Taken::Staged => {}
        Taken::Step(step) => one.open.step(step),
        Taken::Canceled(reason) => {
            if let Some(one) = running.remove(&watch_id) {
                one.open.end(reason);
            }
        }
    }
}

/// The least position of all watches says nothing new to one that is further.
fn progress(one: &mut One, step: &Step) {
    if step.kind == StepKind::Progress && one.open.position().is_none_or(|position| position <= step.revision) {
        one.open.step(step.clone());
    }
}

/// Sometimes cancels a watch, or opens another one, where an earlier one was.
fn turn_over(
    session: &mut Session,
    requests: &mpsc::Sender<v1::WatchManyRequest>,
    running: &mut BTreeMap<i64, One>,
    next_id: &mut i64,
) {
    if running.len() > 1 && session.rng.random_bool(0.005) {
        let nth = session.rng.random_range(0..running.len());
        let Some((&watch_id, _)) = running.iter().nth(nth) else {
            return;
        };
        let cancel = v1::WatchManyRequest {
            request: Some(Asked::Cancel(v1::CancelWatch { watch_id })),
        };
        // A full queue is no harm: the watch stays.
        if requests.try_send(cancel).is_ok() && session.rng.random_bool(0.5) {
            let mut wanted = Wanted::by_chance(session);
            if let Some(one) = running.get(&watch_id)
                && let Some(position) = one.open.position()
            {
                wanted.selector.clone_from(&one.wanted.selector);
                wanted.start = Start::After(position);
            }
            create(session, requests, running, next_id, wanted);
        }
    } else if running.len() < 4 && session.rng.random_bool(0.01) {
        let wanted = Wanted::by_chance(session);
        create(session, requests, running, next_id, wanted);
    }
}
