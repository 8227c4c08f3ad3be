//! An application that uses the client library: it is registered, watches, and looks others up.
//!
//! The library tries again by itself, so what it sent when is not seen from outside. A Register of it is recorded as
//! one attempt without an answer, from when it may first have been sent until the library was done with it, and one
//! more attempt for each answer that the application was shown; a read, or the Deregister in the end, as one call. And
//! for how long the library said that the instance is held: [`Held`].

use std::{sync::Arc, time::Duration};

use rand::Rng as _;
use roster::{
    client::{Client, Endpoint, Options, Registration, RegistrationState, WatchEvent, Watcher},
    wire::v1::{self, watch_request::Start as WireStart},
};
use tokio::time::Instant;

use super::{
    content::{any_selector, any_service, key, key_to_wire, record, selector_to_wire, shared_key},
    reads::{age_ns, read_options},
    send::NONSENSE,
    session::{Logical, OpenCall, Session},
    steps::{Gathered, OpenWatch, Taken},
    verdict::{LIBRARY, of_library},
};
use crate::history::{Answer, At, Event, Held, Hold, MARK, Reply, Request, Selector, Start};

/// How often the application asks whether it is registered.
const ASKS_EVERY: Duration = Duration::from_millis(10);
/// How long a life is, in TTLs.
const LIFE_TTLS: std::ops::Range<u32> = 1..6;
/// How long a watch is kept.
const WATCHES_FOR: std::ops::Range<Duration> = Duration::from_secs(3)..Duration::from_secs(30);

/// Runs until it is stopped.
pub(super) async fn run(mut session: Session) {
    let authorities = session.target.nodes.iter().filter_map(|(_, uri)| uri.authority());
    let endpoints: Vec<String> = authorities.map(ToString::to_string).collect();
    let options = Options {
        timeout: session.options.deadline.end * 2,
        connector: session.target.connector.clone(),
        // All chance is the seed's, and all time the run's.
        spread: false,
        jitter_seed: Some(session.rng.random()),
        clock: session.options.library_clock,
        ..Options::default()
    };
    let client = Client::new(endpoints.join(",").parse().expect("what was connected to"), options);
    let (watching, reading) = (session.fork(), session.fork());
    tokio::join!(
        live(session, client.clone()),
        watch(watching, client.clone()),
        look_up(reading, client),
    );
}

/// One life after another.
async fn live(mut session: Session, client: Client) {
    while session.goes_on() {
        let key = if session.rng.random_bool(0.1) {
            shared_key(&mut session.rng, &session.options)
        } else {
            let service = any_service(&mut session.rng, &session.options);
            key(&service, &format!("l{}", session.number))
        };
        let (incarnation, ttl_ms) = (session.incarnation(), session.ttl_ms());
        let mut life = Life::begin(&mut session, &client, key, incarnation, ttl_ms);
        let until = Instant::now() + Duration::from_millis(ttl_ms) * session.rng.random_range(LIFE_TTLS);
        while session.goes_on() && Instant::now() < until && !life.look(&session) {
            if session.rng.random_bool(0.01) {
                life.change(&mut session);
            }
            session.rest(ASKS_EVERY).await;
        }
        life.end(&mut session).await;
        session.think().await;
    }
}

/// One registration through the library.
struct Life {
    key: String,
    incarnation: i64,
    ttl_ms: u64,
    registration: Registration,
    /// What it wants, and wanted: a Register each, which the library may send at any time until the end.
    wanted: Vec<(Logical, OpenCall)>,
    /// The answer that was shown last.
    shown: Option<Arc<v1::RegisterResponse>>,
    claim: Option<Held>,
}

impl Life {
    fn begin(session: &mut Session, client: &Client, key: String, incarnation: i64, ttl_ms: u64) -> Self {
        let mut call = session.register(&key, incarnation, Hold::Own { ttl_ms }, None);
        let open = session.begin(&mut call, None);
        let instance = call.looks.instance(&key, incarnation, mark_of(&call.request));
        Self {
            registration: Registration::begin(client.clone(), instance, Some(Duration::from_millis(ttl_ms))),
            key,
            incarnation,
            ttl_ms,
            wanted: vec![(call, open)],
            shown: None,
            claim: None,
        }
    }

    /// Wants something else to be registered.
    fn change(&mut self, session: &mut Session) {
        let ttl_ms = self.ttl_ms;
        let mut call = session.register(&self.key, self.incarnation, Hold::Own { ttl_ms }, None);
        let open = session.begin(&mut call, None);
        let wanted = call.looks.instance(&self.key, self.incarnation, mark_of(&call.request));
        self.registration.update(|instance| *instance = wanted);
        self.wanted.push((call, open));
    }

    /// Asks where the registration stands; whether it has ended.
    fn look(&mut self, session: &Session) -> bool {
        let asked = session.recorder.now();
        let state = self.registration.state();
        match &state {
            RegistrationState::Held { response, .. } => {
                let known = self.shown.as_ref().is_some_and(|shown| Arc::ptr_eq(shown, response));
                if !known {
                    self.claimed(session);
                    self.shown = Some(Arc::clone(response));
                    self.answered(session, response);
                }
                self.claim(session, asked, response);
            }
            RegistrationState::Registering { .. } | RegistrationState::Lost | RegistrationState::Ended(_) => {
                self.claimed(session);
            }
        }
        matches!(state, RegistrationState::Ended(_))
    }

    /// Records the answer to the Register that the library shows.
    fn answered(&mut self, session: &Session, response: &v1::RegisterResponse) {
        let instance = response.instance.clone().unwrap_or_default();
        let mark = instance.metadata.get(MARK).cloned().unwrap_or_default();
        let header = response.header.clone().unwrap_or_default();
        let wanted = self.wanted.iter_mut().find(|(call, _)| mark_of(&call.request) == mark);
        // A mark of nobody's is what an update of another client left; the answer is to some Register all the same.
        let Some((call, open)) = wanted else { return };
        session.begin_at(call, None, open.sent()).end(Answer::Done {
            revision: header.revision,
            term: header.term,
            reply: Reply::Record(record(instance)),
        });
    }

    /// The library says that the lease is held; it was asked after `asked`.
    fn claim(&mut self, session: &Session, asked: At, response: &v1::RegisterResponse) {
        let claim = self.claim.get_or_insert_with(|| Held {
            client: session.number,
            key: self.key.clone(),
            incarnation: self.incarnation,
            lease: response.instance.as_ref().map_or(0, |instance| instance.lease_id),
            ttl_ms: self.ttl_ms,
            from: session.recorder.now(),
            until: asked,
        });
        claim.until = asked.max(claim.from);
    }

    /// The library says so no more.
    fn claimed(&mut self, session: &Session) {
        if let Some(claim) = self.claim.take() {
            session.recorder.record(Event::Held(claim));
        }
    }

    /// Deregisters, or forgets it: then it expires.
    async fn end(mut self, session: &mut Session) {
        self.claimed(session);
        if session.rng.random_bool(0.6) {
            let mut deregister = session.call(Request::Deregister {
                key: self.key.clone(),
                incarnation: self.incarnation,
                expected: None,
            });
            let open = session.begin(&mut deregister, None);
            open.end(closed(self.registration).await);
        } else {
            drop(self.registration);
        }
        for (_, open) in self.wanted {
            open.end(Answer::Unknown {
                reason: LIBRARY.to_owned(),
            });
        }
    }
}

async fn closed(registration: Registration) -> Answer {
    match registration.close().await {
        Ok(v1::DeregisterResponse {
            header: Some(header),
            existed,
        }) => Answer::Done {
            revision: header.revision,
            term: header.term,
            reply: Reply::Gone { existed },
        },
        // Fenced, or never registered: the library tells neither.
        Ok(_) => Answer::Unknown {
            reason: LIBRARY.to_owned(),
        },
        Err(error) => of_library(&error, false),
    }
}

fn mark_of(request: &Request) -> &str {
    match request {
        Request::Register { mark, .. } => mark,
        _ => "",
    }
}

/// Watches through the library, which goes on elsewhere by itself.
async fn watch(mut session: Session, client: Client) {
    while session.goes_on() {
        let selector = any_selector(&mut session.rng, &session.options);
        let until = Instant::now() + session.rng.random_range(WATCHES_FOR);
        follow(&session, &client, selector, until).await;
        session.think().await;
    }
}

async fn follow(session: &Session, client: &Client, selector: Selector, until: Instant) {
    let recorder = &session.recorder;
    let watcher_id = recorder.next_id();
    let request = v1::WatchRequest {
        selector: Some(selector_to_wire(&selector)),
        start: Some(WireStart::Snapshot(true)),
        ..v1::WatchRequest::default()
    };
    let mut watcher = Watcher::new(client.clone(), request).without_view();
    let mut open = OpenWatch::begin(recorder, watcher_id, None, selector.clone(), Start::Snapshot);
    let mut gathered = Gathered::default();
    // What the application was given, whatever the library believes that it gave.
    let mut given: Option<i64> = None;
    loop {
        let event = tokio::select! {
            event = watcher.next() => event,
            () = tokio::time::sleep_until(until) => return open.end("LEFT"),
            () = session.stop.cancelled() => return,
        };
        let messages = match event {
            Ok(WatchEvent::Step(step)) => step.messages,
            Ok(WatchEvent::Progress(message)) => vec![message],
            Ok(WatchEvent::Resumed(endpoint)) => {
                open.serves(node_of(session, &endpoint));
                continue;
            }
            Ok(WatchEvent::Interrupted(error)) => {
                open.end(error.to_string());
                let start = given.map_or(Start::Snapshot, Start::After);
                open = OpenWatch::begin(recorder, watcher_id, None, selector.clone(), start);
                continue;
            }
            Err(error) => return open.end(error.to_string()),
        };
        for message in messages {
            if let Taken::Step(step) = gathered.take(message, recorder.now()) {
                given = Some(step.revision);
                open.step(step);
            }
        }
    }
}

fn node_of(session: &Session, endpoint: &Endpoint) -> Option<String> {
    let there = endpoint.to_string();
    let mut nodes = session.target.nodes.iter();
    let node = nodes.find(|(_, uri)| uri.authority().is_some_and(|authority| *authority == *there.as_str()));
    node.map(|(name, _)| name.clone())
}

/// Looks up instances and services through the library.
async fn look_up(mut session: Session, client: Client) {
    while session.goes_on() {
        let (request, one) = if session.rng.random_bool(0.5) {
            let key = shared_key(&mut session.rng, &session.options);
            (get(key), true)
        } else {
            let selector = any_selector(&mut session.rng, &session.options);
            (list(selector), false)
        };
        let mut call = session.call(request);
        let open = session.begin(&mut call, None);
        let answer = if one {
            let request = v1::GetRequest {
                key: key_of(&call.request).map(key_to_wire),
                read: Some(read_options(false, None, 0)),
            };
            let answer = client.get(request).await;
            answer.map(|answer| (answer.header, answer.instance.into_iter().collect()))
        } else {
            let request = v1::ListRequest {
                selector: selector_of(&call.request).map(selector_to_wire),
                page_size: session.rng.random_range(0..9),
                ..v1::ListRequest::default()
            };
            let answer = client.list_all(request).await;
            answer.map(|answer| (answer.header, answer.instances))
        };
        open.end(match answer {
            Ok((header, instances)) => of_read(header, instances),
            Err(error) => of_library(&error, true),
        });
        let pause = session.rng.random_range(Duration::ZERO..session.options.think.end * 4);
        session.rest(pause).await;
    }
}

fn of_read(header: Option<v1::Header>, instances: Vec<v1::Instance>) -> Answer {
    let reply = Reply::Read {
        stale: header.as_ref().is_some_and(|header| header.stale),
        age_ns: header.as_ref().and_then(age_ns),
        records: instances.into_iter().map(record).collect(),
        rows: Vec::new(),
        partial: false,
    };
    Answer::Done {
        revision: header.as_ref().map_or(NONSENSE, |header| header.revision),
        term: header.map_or(0, |header| header.term),
        reply,
    }
}

fn get(key: String) -> Request {
    Request::Get {
        key,
        stale: false,
        max_age_ns: None,
        min_revision: 0,
    }
}

fn list(selector: Selector) -> Request {
    Request::List {
        selector,
        stale: false,
        max_age_ns: None,
        min_revision: 0,
    }
}

fn key_of(request: &Request) -> Option<&str> {
    match request {
        Request::Get { key, .. } => Some(key),
        _ => None,
    }
}

fn selector_of(request: &Request) -> Option<&Selector> {
    match request {
        Request::List { selector, .. } => Some(selector),
        _ => None,
    }
}
