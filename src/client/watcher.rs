//! A watch that outlives the node that serves it.
//!
//! Messages are staged until a step is whole (`more` = false); only then the view moves, in one go. After a break, of
//! the connection, of the node, of its quorum, the watch is opened again on the next node after the last whole step:
//! what was staged is thrown away, and comes again.

use std::time::Duration;

use backon::ExponentialBackoff;
use tonic::{Code, Request, Streaming};

use super::{endpoints::Endpoint, error::Error, handle::Client, moment::Moment, nodes::Node, view::View};
use crate::wire::{
    span::span_from_proto,
    v1::{self, registry_client::RegistryClient, watch_request::Start, watch_response::Kind},
};

/// How often a node says that a quiet watch is alive, when the caller does not say otherwise.
const PROGRESS_DEFAULT: Duration = Duration::from_secs(2);
/// So many progress messages missing, and the node is given up.
const MISSED_MAX: u32 = 4;
/// How long a node may take for its first message at the least: one that is behind the position waits first.
const FIRST_MIN: Duration = Duration::from_secs(5);
/// The longest pause between two rounds through the nodes.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Messages of one step: beyond this a node sends nonsense. 2 MiB each.
const STAGED_MAX: usize = 100_000;

/// One step of a watch: the view before it and the view after it are both true, and nothing in between is.
#[derive(Clone, Debug)]
pub struct Step {
    /// Whether it is a snapshot: all that matches, replacing what was known.
    pub snapshot: bool,
    /// Why a watch that had a view got a snapshot instead of changes.
    pub reset: Option<v1::reset::Reason>,
    /// Its messages, in order; only the last has a position.
    pub messages: Vec<v1::WatchResponse>,
}

impl Step {
    /// Its changes, in the order of their revisions.
    pub fn changes(&self) -> impl Iterator<Item = &v1::Change> {
        self.messages.iter().flat_map(|message| &message.changes)
    }
}

/// What a watcher reports.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// The view has moved by a step.
    Step(Step),
    /// Nothing has changed; the position has moved on, and the node is alive.
    Progress(v1::WatchResponse),
    /// The stream broke. The view stays as it is and grows old; another node is being asked.
    Interrupted(Error),
    /// A node serves the watch again.
    Resumed(Endpoint),
}

#[derive(Debug)]
struct Stream {
    node: Node,
    messages: Streaming<v1::WatchResponse>,
    heard: bool,
}

/// A watch of the instances that a selector matches.
#[derive(Debug)]
pub struct Watcher {
    client: Client,
    request: v1::WatchRequest,
    keep_view: bool,
    view: View,
    /// The messages of a step that is not whole yet.
    staged: Vec<v1::WatchResponse>,
    /// A message that was received and not yet taken in.
    pending: Option<v1::WatchResponse>,
    stream: Option<Stream>,
    interrupted: bool,
    failed: usize,
    rounds: ExponentialBackoff,
    not_before: Option<Moment>,
}

impl Watcher {
    /// A watch as the request says; nothing is sent before the first [`Watcher::next`].
    #[must_use]
    pub fn new(client: Client, request: v1::WatchRequest) -> Self {
        let rounds = client.pauses(PAUSE_MAX);
        Self {
            client,
            request,
            keep_view: true,
            view: View::default(),
            staged: Vec::new(),
            pending: None,
            stream: None,
            interrupted: false,
            failed: 0,
            rounds,
            not_before: None,
        }
    }

    /// The same, without keeping a view: for who only passes the steps on. [`Watcher::view`] then knows its position
    /// and no instances.
    #[must_use]
    pub fn without_view(mut self) -> Self {
        self.keep_view = false;
        self
    }

    /// What it knows, as of the last step.
    #[must_use]
    pub fn view(&self) -> &View {
        &self.view
    }

    /// The position through which it is complete, from which another watch can go on.
    #[must_use]
    pub fn position(&self) -> Option<&v1::Position> {
        self.view.position()
    }

    /// What happens next. May be dropped and called again: nothing is lost.
    ///
    /// # Errors
    /// When no node will ever serve the watch: a selector or a position that is refused.
    pub async fn next(&mut self) -> Result<WatchEvent, Error> {
        loop {
            let message = match self.message().await {
                Ok(message) => message,
                Err((node, error)) => return self.interrupt(node, error),
            };
            let canceled = message.kind() == Kind::Canceled;
            if self.interrupted && !canceled {
                self.interrupted = false;
                self.pending = Some(message);
                return Ok(WatchEvent::Resumed(self.endpoint()));
            }
            match self.take(message) {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(error) => return self.interrupt(self.node(), error),
            }
        }
    }

    fn node(&self) -> Node {
        self.stream
            .as_ref()
            .map_or_else(|| self.client.nodes().current(), |stream| stream.node)
    }

    fn endpoint(&self) -> Endpoint {
        self.client.endpoint(self.node()).clone()
    }

    /// The next message, of a stream that is opened where there is none. A message that was put back comes first.
    async fn message(&mut self) -> Result<v1::WatchResponse, (Node, Error)> {
        if let Some(message) = self.pending.take() {
            return Ok(message);
        }
        if self.stream.is_none() {
            if let Some(moment) = self.not_before {
                tokio::time::sleep(moment.remaining()).await;
                self.not_before = None;
            }
            let node = self.client.nodes().current();
            let messages = self.open(node).await.map_err(|error| (node, error))?;
            self.stream = Some(Stream {
                node,
                messages,
                heard: false,
            });
        }
        let limits = (self.first_limit(), self.silence_limit());
        let Some(stream) = self.stream.as_mut() else {
            unreachable!("a stream was opened above");
        };
        let node = stream.node;
        let limit = if stream.heard { limits.1 } else { limits.0 };
        let endpoint = || self.client.endpoint(node).to_string();
        match tokio::time::timeout(limit, stream.messages.message()).await {
            Ok(Ok(Some(message))) => {
                stream.heard = true;
                Ok(message)
            }
            Ok(Ok(None)) => Err((node, Error::ended(endpoint()))),
            Ok(Err(status)) => Err((node, Error::from_status(&status, endpoint(), limit))),
            Err(_) => Err((node, silent(endpoint(), limit))),
        }
    }

    async fn open(&self, node: Node) -> Result<Streaming<v1::WatchResponse>, Error> {
        let endpoint = || self.client.endpoint(node).to_string();
        let mut request = self.request.clone();
        if let Some(position) = self.position() {
            request.start = Some(Start::After(position.clone()));
        }
        let mut registry = RegistryClient::new(self.client.nodes().channel(node)?);
        let limit = self.first_limit();
        match tokio::time::timeout(limit, registry.watch(Request::new(request))).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(Error::from_status(&status, endpoint(), limit)),
            Err(_) => Err(silent(endpoint(), limit)),
        }
    }

    /// Takes in a message; an event when a step is whole.
    fn take(&mut self, message: v1::WatchResponse) -> Result<Option<WatchEvent>, Error> {
        self.failed = 0;
        match message.kind() {
            Kind::Snapshot | Kind::Changes => self.stage(message),
            Kind::Progress => {
                // One amid a step would say that the step is complete, which it is not.
                if self.staged.is_empty() {
                    self.view.move_on(message.position.clone());
                }
                Ok(Some(WatchEvent::Progress(message)))
            }
            Kind::Canceled => {
                let status = message.status.unwrap_or_default();
                Err(Error::from_message(&status, self.endpoint().to_string()))
            }
            Kind::Unspecified => {
                tracing::warn!(kind = message.kind, "a watch message of an unknown kind");
                Ok(None)
            }
        }
    }

    fn stage(&mut self, message: v1::WatchResponse) -> Result<Option<WatchEvent>, Error> {
        let begins_anew =
            message.reset.is_some() || self.staged.first().is_some_and(|first| first.kind() != message.kind());
        if begins_anew {
            self.staged.clear();
        }
        let more = message.more;
        let positioned = message.position.is_some();
        self.staged.push(message);
        if more {
            if self.staged.len() >= STAGED_MAX {
                return Err(self.incomplete("an end of its step"));
            }
            return Ok(None);
        }
        if !positioned {
            return Err(self.incomplete("a position"));
        }
        let messages = std::mem::take(&mut self.staged);
        let Some(first) = messages.first() else {
            unreachable!("a message was pushed above");
        };
        let snapshot = first.kind() == Kind::Snapshot;
        let reset = first.reset.as_ref().map(v1::Reset::reason);
        if self.keep_view {
            self.view.take(snapshot, &messages);
        } else {
            self.view
                .move_on(messages.last().and_then(|last| last.position.clone()));
        }
        Ok(Some(WatchEvent::Step(Step {
            snapshot,
            reset,
            messages,
        })))
    }

    fn incomplete(&self, missing: &'static str) -> Error {
        Error::Incomplete {
            endpoint: self.endpoint().to_string(),
            missing,
        }
    }

    /// Leaves the node, or the watch when no other would serve it.
    fn interrupt(&mut self, node: Node, error: Error) -> Result<WatchEvent, Error> {
        self.stream = None;
        self.pending = None;
        self.staged.clear();
        if is_final(&error) {
            return Err(error);
        }
        self.interrupted = true;
        self.failed += 1;
        self.client.nodes().leave(node);
        if self.failed == 1 {
            self.rounds = self.client.pauses(PAUSE_MAX);
        }
        if self.failed.is_multiple_of(self.client.nodes().count()) {
            let pause = self.rounds.next().unwrap_or(PAUSE_MAX);
            self.not_before = Some(self.client.now().after(pause));
        }
        Ok(WatchEvent::Interrupted(error))
    }

    /// How long silence is borne.
    fn silence_limit(&self) -> Duration {
        self.request
            .progress_interval
            .and_then(span_from_proto)
            .filter(|interval| !interval.is_zero())
            .unwrap_or(PROGRESS_DEFAULT)
            * MISSED_MAX
    }

    fn first_limit(&self) -> Duration {
        self.silence_limit().max(FIRST_MIN)
    }
}

fn silent(endpoint: String, waited: Duration) -> Error {
    Error::NoAnswer {
        endpoint,
        waited,
        outcome: None,
    }
}

/// Whether no other node would serve the watch either.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Incomplete { .. } => true,
        Error::Refused { .. } | Error::Foreign { .. } => matches!(
            error.code(),
            Code::InvalidArgument
                | Code::OutOfRange
                | Code::FailedPrecondition
                | Code::Unauthenticated
                | Code::PermissionDenied
                | Code::Unimplemented
        ),
        _ => false,
    }
}
