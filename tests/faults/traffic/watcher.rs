//! A client with one watch at a time, which goes on where it was on another node, or begins anew elsewhere.

use std::time::Duration;

use rand::Rng as _;
use roster::wire::{
    span::span_to_proto,
    v1::{self, registry_client::RegistryClient, watch_request::Start as WireStart},
};
use tonic::{Status, Streaming};

use super::{
    content::{any_selector, selector_to_wire},
    session::Session,
    steps::{Gathered, OpenWatch, Taken},
    verdict::{DEADLINE, reason},
};
use crate::history::{Answer, Request, Selector, Start};

/// How long a node may be silent beyond the interval of its signs of life.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// The pause before the watch goes on elsewhere.
const PAUSE: std::ops::Range<Duration> = Duration::from_millis(5)..Duration::from_millis(150);
/// Old positions that are kept, to begin at one of them.
const OLD_MAX: usize = 16;

/// One watcher: its streams share it.
pub(super) struct Wanted {
    pub(super) watcher: u64,
    pub(super) selector: Selector,
    pub(super) start: Start,
    max_age: Option<Duration>,
    interval: Duration,
}

impl Wanted {
    /// A watch of something, from somewhere.
    pub(super) fn by_chance(session: &mut Session) -> Self {
        let ms = Duration::from_millis;
        Self {
            watcher: session.recorder.next_id(),
            selector: any_selector(&mut session.rng, &session.options),
            start: if session.rng.random_bool(0.2) {
                Start::Now
            } else {
                Start::Snapshot
            },
            max_age: [None, None, Some(Duration::ZERO), Some(ms(1_000)), Some(ms(3_000))]
                [session.rng.random_range(0..5)],
            interval: [ms(100), ms(500), ms(2_000)][session.rng.random_range(0..3)],
        }
    }

    /// The request; the positions in it are those of the cluster that the session knows.
    pub(super) fn to_wire(&self, cluster_id: &str) -> v1::WatchRequest {
        v1::WatchRequest {
            selector: Some(selector_to_wire(&self.selector)),
            start: Some(match self.start {
                Start::Snapshot => WireStart::Snapshot(true),
                Start::Now => WireStart::Now(true),
                Start::After(revision) => WireStart::After(v1::Position {
                    cluster_id: cluster_id.to_owned(),
                    revision,
                }),
            }),
            progress_interval: Some(span_to_proto(self.interval)),
            max_age: self.max_age.map(span_to_proto),
        }
    }

    /// Begins to record a stream of it.
    pub(super) fn begin(&self, session: &Session) -> OpenWatch {
        let (node, _) = session.node();
        OpenWatch::begin(
            &session.recorder,
            self.watcher,
            Some(node),
            self.selector.clone(),
            self.start,
        )
        .with_max_age(
            self.max_age
                .map(|age| u64::try_from(age.as_nanos()).unwrap_or(u64::MAX)),
        )
    }

    /// How long silence is borne.
    pub(super) fn patience(&self) -> Duration {
        self.interval * 4 + SILENCE_MAX
    }
}

/// Runs until it is stopped.
pub(super) async fn run(mut session: Session) {
    let slow = session.number.is_multiple_of(3);
    let mut old: Vec<i64> = Vec::new();
    let mut wanted = first(&mut session, &old).await;
    if slow {
        wanted.start = Start::Now;
    }
    while session.goes_on() {
        let position = one_stream(&mut session, &wanted, slow).await;
        if let Some(position) = position {
            wanted.start = Start::After(position);
            if old.len() < OLD_MAX && session.rng.random_bool(0.3) {
                old.push(position);
            }
        }
        if session.rng.random_bool(0.15) {
            wanted = first(&mut session, &old).await;
        }
        session.hop();
        let pause = session.rng.random_range(PAUSE);
        session.rest(pause).await;
    }
}

/// A new watcher: from a snapshot, from now on, after a list, or after a position of long ago.
async fn first(session: &mut Session, old: &[i64]) -> Wanted {
    let mut wanted = Wanted::by_chance(session);
    match session.rng.random_range(0..10) {
        0..3 => {
            let stale = session.rng.random_bool(0.3);
            let mut list = session.call(Request::List {
                selector: wanted.selector.clone(),
                stale,
                max_age_ns: None,
                min_revision: 0,
            });
            if let Answer::Done { revision, .. } = session.attempt(&mut list).await {
                wanted.start = Start::After(revision);
            }
        }
        3..5 if !old.is_empty() && !session.cluster_id.is_empty() => {
            wanted.start = Start::After(old[session.rng.random_range(0..old.len())]);
        }
        _ => {}
    }
    wanted
}

/// One node's stream, until it ends or the client feels like leaving; the position that it reached.
async fn one_stream(session: &mut Session, wanted: &Wanted, slow: bool) -> Option<i64> {
    let mut open = wanted.begin(session).slow(slow);
    let end = follow(session, wanted, slow, &mut open).await;
    let position = open.position();
    match end {
        Some(reason) => open.end(reason),
        // Open when the run ended.
        None => drop(open),
    }
    position
}

/// Reads the stream; why it ended, or nothing when the run did.
async fn follow(session: &mut Session, wanted: &Wanted, slow: bool, open: &mut OpenWatch) -> Option<String> {
    let stop = session.stop.clone();
    let opened = tokio::select! {
        opened = open_stream(session, wanted) => opened,
        () = stop.cancelled() => return None,
    };
    let mut messages = match opened {
        Ok(messages) => messages,
        Err(status) => return Some(reason(&status)),
    };
    let mut gathered = Gathered::default();
    loop {
        let message = tokio::select! {
            message = tokio::time::timeout(wanted.patience(), messages.message()) => message,
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
        match gathered.take(message, session.recorder.now()) {
            Taken::Staged => {}
            Taken::Step(step) => open.step(step),
            Taken::Canceled(reason) => return Some(reason),
        }
        if session.rng.random_bool(0.004) {
            return Some("LEFT".to_owned());
        }
        if slow && session.rng.random_bool(0.02) {
            let pause = session.rng.random_range(session.options.slow.clone());
            session.rest(pause).await;
        }
    }
}

async fn open_stream(session: &mut Session, wanted: &Wanted) -> Result<Streaming<v1::WatchResponse>, Status> {
    let (_, channel) = session.node();
    let mut registry = RegistryClient::new(channel);
    let opening = registry.watch(wanted.to_wire(&session.cluster_id));
    match tokio::time::timeout(SILENCE_MAX + Duration::from_secs(1), opening).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_elapsed) => Err(Status::deadline_exceeded("the watch was not opened in time")),
    }
}
