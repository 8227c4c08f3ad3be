//! Keeping one lease alive: over a stream to one node, and over another node's when the first is silent, broken, or
//! can't confirm.
//!
//! What is counted from is the moment of *sending*: a renewal that is acknowledged holds the lease for one TTL from
//! there at the least. A client that was stopped, or whose network was away, for longer than that treats the lease
//! as lost, whatever the cluster may still think.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Streaming};

use super::{error::Error, handle::Client, moment::Moment, nodes::Node};
use crate::wire::{
    error::{ErrorDetail, Reason},
    span::span_from_proto,
    v1::{self, leases_client::LeasesClient, renew_result::Outcome},
};

/// A node answers a renewal within this, or says `UNCONFIRMED`: min(2 s, TTL / 4).
const CONFIRMED_WITHIN: Duration = Duration::from_secs(2);
/// What an answer may take on its way beyond that; a tenth of a TTL that is shorter.
const ON_ITS_WAY: Duration = Duration::from_millis(250);
/// The longest pause after a round of nodes that could not; shorter for short TTLs.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Renewals under way on one stream: one, and one that replaces it.
const IN_FLIGHT: usize = 2;
/// Events that wait for an application that does not read them; more are dropped, for renewing must not wait.
const EVENTS_MAX: usize = 64;
/// The margin before the end of a lease at which it counts as lost: a hundredth for clocks that run at different
/// rates, and a little for the time that it takes to tell.
const MARGIN: Duration = Duration::from_millis(100);

/// When a lease whose last acknowledged renewal was sent then counts as lost.
pub(super) fn held_until(sent_at: Moment, ttl: Duration) -> Moment {
    sent_at.after(ttl.saturating_sub(ttl / 100 + MARGIN))
}

/// Why the renewing of a lease ended.
#[derive(Debug)]
pub(super) enum End {
    /// The lease is not there any more.
    Gone,
    /// It holds fewer instances than its owner registered.
    Fewer,
    /// It may have ended: no renewal was acknowledged in time.
    Overdue,
    /// A node refuses to renew it, for good.
    Refused(Error),
}

/// What happens meanwhile.
pub(super) enum Observation<'a> {
    /// A renewal was acknowledged; the lease is held until then.
    Renewed(&'a v1::RenewResponse, Moment),
    /// A node could not; the next is asked.
    Hop(&'a Error),
}

/// One lease and how far it is renewed. Dropping [`Renewals::run`] at any point loses nothing but time.
#[derive(Debug)]
pub(super) struct Renewals {
    client: Client,
    lease_id: i64,
    ttl: Duration,
    renew_after: Duration,
    /// How many instances its owner registered with it; 0 = it does not matter.
    expected: i32,
    sent_at: Moment,
    seq: i64,
}

struct Stream {
    requests: mpsc::Sender<v1::RenewRequest>,
    responses: Streaming<v1::RenewResponse>,
}

enum SessionEnd {
    Done(End),
    Hop(Error),
}

impl Renewals {
    /// Of a lease that was granted, or renewed, by a request sent at `sent_at`.
    pub(super) fn new(client: Client, lease_id: i64, ttl: Duration, sent_at: Moment) -> Self {
        Self {
            client,
            lease_id,
            ttl,
            renew_after: ttl / 3,
            expected: 0,
            sent_at,
            seq: 0,
        }
    }

    pub(super) fn expecting(mut self, instances: i32) -> Self {
        self.expected = instances;
        self
    }

    /// Until when the lease is held for certain.
    pub(super) fn held_until(&self) -> Moment {
        held_until(self.sent_at, self.ttl)
    }

    /// Renews the lease until it can't.
    pub(super) async fn run(&mut self, mut observe: impl FnMut(Observation<'_>)) -> End {
        let longest_pause = PAUSE_MAX.min(self.ttl / 10);
        let mut rounds = self.client.pauses(longest_pause);
        let mut failed = 0_usize;
        let mut due = self.sent_at.after(self.renew_after);
        loop {
            tokio::time::sleep(due.remaining().min(self.held_until().remaining())).await;
            let node = self.client.nodes().current();
            let before = self.sent_at;
            let error = match self.session(node, &mut observe).await {
                SessionEnd::Done(end) => return end,
                SessionEnd::Hop(error) => error,
            };
            observe(Observation::Hop(&error));
            if self.sent_at > before {
                failed = 0;
                rounds = self.client.pauses(longest_pause);
            }
            if self.held_until().has_passed() {
                return End::Overdue;
            }
            self.client.nodes().leave(node);
            failed += 1;
            due = self.client.now();
            if failed.is_multiple_of(self.client.nodes().count()) {
                due = due.after(rounds.next().unwrap_or(longest_pause));
            }
        }
    }

    /// One node's stream, for as long as it works. The first renewal is sent at once.
    async fn session(&mut self, node: Node, observe: &mut impl FnMut(Observation<'_>)) -> SessionEnd {
        let mut stream: Option<Stream> = None;
        loop {
            if self.held_until().has_passed() {
                return SessionEnd::Done(End::Overdue);
            }
            let sent_at = self.client.now();
            self.seq += 1;
            let limit = self.answer_limit().min(self.held_until().remaining());
            let renewal = v1::RenewRequest {
                seq: self.seq,
                lease_ids: vec![self.lease_id],
            };
            let endpoint = self.client.endpoint(node).to_string();
            let answer = tokio::time::timeout(limit, self.exchange(&mut stream, node, renewal)).await;
            let response = match answer {
                Ok(Ok(response)) => response,
                Ok(Err(error)) => return broken(error),
                Err(_) => {
                    return SessionEnd::Hop(Error::NoAnswer {
                        endpoint,
                        waited: limit,
                        outcome: None,
                    });
                }
            };
            if let Some(end) = self.judge(&response, sent_at, endpoint) {
                return end;
            }
            observe(Observation::Renewed(&response, self.held_until()));
            let due = sent_at.after(self.renew_after);
            if let Some(error) = self.rest(&mut stream, node, due).await {
                return broken(error);
            }
        }
    }

    /// Sends a renewal, on a new stream if there is none yet, and waits for its answer.
    async fn exchange(
        &self,
        stream: &mut Option<Stream>,
        node: Node,
        renewal: v1::RenewRequest,
    ) -> Result<v1::RenewResponse, Error> {
        let seq = renewal.seq;
        let endpoint = || self.client.endpoint(node).to_string();
        let stream = match stream {
            Some(stream) => {
                let sent = stream.requests.send(renewal).await;
                sent.map_err(|_| Error::ended(endpoint()))?;
                stream
            }
            None => stream.insert(self.open(node, renewal).await?),
        };
        loop {
            match stream.responses.message().await {
                // An answer to a renewal of before this one says nothing about this one.
                Ok(Some(response)) if response.seq != seq => {}
                Ok(Some(response)) => return Ok(response),
                Ok(None) => return Err(Error::ended(endpoint())),
                Err(status) => return Err(Error::from_status(&status, endpoint(), Duration::ZERO)),
            }
        }
    }

    async fn open(&self, node: Node, first: v1::RenewRequest) -> Result<Stream, Error> {
        let endpoint = || self.client.endpoint(node).to_string();
        let (requests, outgoing) = mpsc::channel(IN_FLIGHT);
        // The first renewal goes along with the call: a node need not answer before it has one.
        requests.try_send(first).map_err(|_| Error::ended(endpoint()))?;
        let channel = self.client.nodes().channel(node)?;
        let responses = LeasesClient::new(channel)
            .keep_alive(ReceiverStream::new(outgoing))
            .await
            .map_err(|status| Error::from_status(&status, endpoint(), Duration::ZERO))?
            .into_inner();
        Ok(Stream { requests, responses })
    }

    /// Waits until the next renewal is due, and notices a stream that breaks meanwhile.
    async fn rest(&self, stream: &mut Option<Stream>, node: Node, due: Moment) -> Option<Error> {
        let stream = stream.as_mut()?;
        let endpoint = || self.client.endpoint(node).to_string();
        let pause = due.remaining().min(self.held_until().remaining());
        let idle = async {
            loop {
                match stream.responses.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Error::ended(endpoint()),
                    Err(status) => return Error::from_status(&status, endpoint(), Duration::ZERO),
                }
            }
        };
        tokio::time::timeout(pause, idle).await.ok()
    }

    /// Takes in an answer; `None` when the lease is renewed.
    fn judge(&mut self, response: &v1::RenewResponse, sent_at: Moment, endpoint: String) -> Option<SessionEnd> {
        let Some(result) = response.results.iter().find(|result| result.lease_id == self.lease_id) else {
            return Some(SessionEnd::Hop(Error::Incomplete {
                endpoint,
                missing: "a result for the lease",
            }));
        };
        match result.outcome() {
            Outcome::Renewed => {
                self.sent_at = sent_at;
                if let Some(ttl) = result.ttl.and_then(span_from_proto)
                    && !ttl.is_zero()
                {
                    self.ttl = ttl;
                }
                self.renew_after = response
                    .renew_after
                    .and_then(span_from_proto)
                    .filter(|after| !after.is_zero() && *after < self.ttl)
                    .unwrap_or(self.ttl / 3);
                (result.instances < self.expected).then_some(SessionEnd::Done(End::Fewer))
            }
            Outcome::NotFound => Some(SessionEnd::Done(End::Gone)),
            Outcome::Unconfirmed | Outcome::Unspecified => Some(SessionEnd::Hop(Error::Refused {
                endpoint,
                detail: Box::new(ErrorDetail::new(
                    Reason::NoQuorum,
                    "the renewal could not be confirmed in time",
                )),
            })),
        }
    }

    /// How long an answer is waited for.
    fn answer_limit(&self) -> Duration {
        let confirmed = CONFIRMED_WITHIN.min(self.ttl / 4);
        confirmed + (confirmed / 2).max(ON_ITS_WAY.min(self.ttl / 10))
    }
}

/// What a failed exchange means. A stream may be reset with any code by what stands in between; only the registry's own
/// word is final, and that nobody may ask.
fn broken(error: Error) -> SessionEnd {
    let of_the_stream = error.detail().is_none()
        && !matches!(
            error.code(),
            Code::Unimplemented | Code::Unauthenticated | Code::PermissionDenied
        );
    if of_the_stream || error.may_go_elsewhere() {
        SessionEnd::Hop(error)
    } else {
        SessionEnd::Done(End::Refused(error))
    }
}

/// What an application learns about a lease that is kept alive.
#[derive(Clone, Debug)]
pub enum KeepAliveEvent {
    /// A renewal was acknowledged.
    Renewed {
        /// The answer.
        response: v1::RenewResponse,
        /// Until when the lease is held for certain, if no other follows.
        held_until: Moment,
    },
    /// A node could not renew it; the next is asked.
    Hop(Error),
    /// It may have ended: no renewal was acknowledged in time. Renewing goes on, for while there is no quorum
    /// nothing ends.
    Overdue,
    /// It is not there any more. The last event.
    Gone,
    /// It can't be renewed, for good. The last event.
    Refused(Error),
}

/// A lease that is kept alive in the background until this is dropped.
#[derive(Debug)]
pub struct KeepAlive {
    events: mpsc::Receiver<KeepAliveEvent>,
    _task: AbortOnDropHandle<()>,
}

impl KeepAlive {
    /// Renews the lease now, and from then on. Each answer tells its TTL anew.
    #[must_use]
    pub fn start(client: Client, lease_id: i64, ttl: Duration) -> Self {
        let (sender, events) = mpsc::channel(EVENTS_MAX);
        let now = client.now();
        let renewals = Renewals::new(client, lease_id, ttl, now);
        let task = AbortOnDropHandle::new(tokio::spawn(keep_alive(renewals, sender)));
        Self { events, _task: task }
    }

    /// What happened next; `None` after the last event. Events of an application that does not ask for them are
    /// dropped; renewing goes on.
    pub async fn next(&mut self) -> Option<KeepAliveEvent> {
        self.events.recv().await
    }
}

async fn keep_alive(mut renewals: Renewals, events: mpsc::Sender<KeepAliveEvent>) {
    let tell = |event| {
        if events.try_send(event).is_err() {
            tracing::debug!("nobody reads the events of a lease that is kept alive");
        }
    };
    renewals.renew_after = Duration::ZERO;
    loop {
        let end = renewals
            .run(|observation| match observation {
                Observation::Renewed(response, held_until) => tell(KeepAliveEvent::Renewed {
                    response: response.clone(),
                    held_until,
                }),
                Observation::Hop(error) => tell(KeepAliveEvent::Hop(error.clone())),
            })
            .await;
        let last = match end {
            End::Overdue => {
                tell(KeepAliveEvent::Overdue);
                // A fresh count, so that the asking goes on: the lease may well be there.
                renewals.sent_at = renewals.client.now();
                renewals.renew_after = Duration::ZERO;
                continue;
            }
            End::Gone | End::Fewer => KeepAliveEvent::Gone,
            End::Refused(error) => KeepAliveEvent::Refused(error),
        };
        // The last event is worth waiting for.
        if events.send(last).await.is_err() {
            tracing::debug!("nobody reads the end of a lease that was kept alive");
        }
        return;
    }
}
