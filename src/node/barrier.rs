//! The read barrier: reads that wait share one read index.
//!
//! A read joins the next request to the leader, never one that was sent before it came: the index answers only for
//! what was acknowledged before the request was *sent*. When this node has applied the index, its own state may
//! answer every read of the round, and is as fresh as the moment at which the request was sent: that is the node's
//! *anchor*, from which the age of stale answers is measured.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, Interval},
};
use tokio_util::sync::CancellationToken;

use super::{Clock, NodeError, route::Route, waiting::Failure};
use crate::{model::LogIndex, watch::Hub};

/// Reads that wait, of all clients.
const WAITING_MAX: usize = 65_536;
/// Rounds under way: one, and one for reads that have waited for the end of a slow one. More would only be shared by
/// fewer reads.
const IN_FLIGHT_MAX: usize = 2;
/// How long reads wait for the end of the round under way before they begin another.
const PATIENCE: Duration = Duration::from_millis(5);
/// How long reads wait, when no round is under way, for those of the readers that were answered last.
const RETURN_WAIT: Duration = Duration::from_millis(1);
/// One request's time; a round that failed is asked again while its reads have time.
const ROUND_MAX: Duration = Duration::from_millis(1_000);
/// A round that failed is asked again for its reads after this, or as soon as the leadership changes.
const RETRY_AFTER: Duration = Duration::from_millis(20);
/// How often the node asks of its own accord, so that it knows its age.
const FRESHEN_EVERY: Duration = Duration::from_millis(500);
/// And how soon after a round that failed.
const FRESHEN_RETRY: Duration = Duration::from_millis(100);

/// How old a round may be that the plant passes off as a read's own.
#[cfg(feature = "failpoints")]
const EARLIER_ROUND_MAX: Duration = Duration::from_millis(300);

/// The time at which the last answered request was sent; 0 = none yet.
#[derive(Debug, Default)]
struct Anchor(AtomicU64);

/// The way to the barrier's task, and the node's age.
#[derive(Clone)]
pub(super) struct BarrierHandle {
    reads: mpsc::Sender<Read>,
    route: Route,
    anchor: Arc<Anchor>,
    clock: Arc<dyn Clock>,
}

struct Read {
    since: Instant,
    give_up: Instant,
    reply: oneshot::Sender<Result<(), NodeError>>,
}

impl BarrierHandle {
    /// Returns when this node's state holds everything that was acknowledged before the call.
    ///
    /// # Errors
    /// `NoLeader` or `NoQuorum` when neither appears before `give_up`; `Overloaded`; `ShuttingDown`.
    pub(super) async fn pass(&self, give_up: Instant) -> Result<(), NodeError> {
        // Plant: the node's own state is passed off as linearizable.
        planted!("read-passes-no-barrier" => { return Ok(()); });
        // Plant: a read is answered by a round that began before it came.
        planted!("read-index-of-an-earlier-round" => {
            if self.age().is_some_and(|age| age < EARLIER_ROUND_MAX) {
                return Ok(());
            }
        });
        let (reply, answer) = oneshot::channel();
        self.reads
            .try_send(Read {
                since: Instant::now(),
                give_up,
                reply,
            })
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => NodeError::Overloaded { what: "reads" },
                mpsc::error::TrySendError::Closed(_) => NodeError::ShuttingDown,
            })?;
        // Whatever holds the round up, the reader is answered in its own time.
        match tokio::time::timeout_at(give_up, answer).await {
            Ok(answer) => answer.unwrap_or(Err(NodeError::ShuttingDown)),
            Err(_elapsed) => Err(match self.route.leader_id() {
                Some(_) => self.route.explain(Failure::NoQuorum),
                None => NodeError::NoLeader,
            }),
        }
    }

    /// An upper bound of how old this node's state is; `None` = it has heard of no quorum since it started.
    pub(super) fn age(&self) -> Option<Duration> {
        let sent = self.anchor.0.load(Ordering::Acquire);
        // Plant: stale answers claim to be fresher than they are.
        planted!("age-too-young" => { return Some(Duration::ZERO); });
        (sent != 0).then(|| self.clock.now().saturating_sub(Duration::from_nanos(sent)))
    }
}

type Round = (Vec<Read>, Duration, Result<LogIndex, Failure>);

/// The task that asks.
pub(super) struct Barrier {
    route: Route,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    anchor: Arc<Anchor>,
    new: mpsc::Receiver<Read>,
    waiting: Vec<Read>,
    asking: FuturesUnordered<BoxFuture<'static, Round>>,
    /// A request that failed is not repeated at once.
    not_before: Option<Instant>,
    /// When it is time to ask, whether anybody reads or not …
    freshen: Interval,
    /// … and that it is.
    stale: bool,
    /// How many readers were there when a round was last answered: its own, and those that waited. Whoever reads again
    /// does so soon, and one round for all of them costs what one for a part of them does.
    readers: usize,
}

impl Barrier {
    pub(super) fn new(route: Route, hub: Arc<Hub>, clock: Arc<dyn Clock>) -> (Self, BarrierHandle) {
        let (reads, new) = mpsc::channel(WAITING_MAX);
        let anchor = Arc::<Anchor>::default();
        let handle = BarrierHandle {
            reads,
            route: route.clone(),
            anchor: anchor.clone(),
            clock: clock.clone(),
        };
        let asking = FuturesUnordered::new();
        let mut freshen = tokio::time::interval(FRESHEN_EVERY);
        freshen.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        (
            Self {
                route,
                hub,
                clock,
                anchor,
                new,
                waiting: Vec::new(),
                asking,
                not_before: None,
                freshen,
                stale: false,
                readers: 0,
            },
            handle,
        )
    }

    /// Runs until `stop`; reads that still wait are then refused.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut another_leader = pin!(self.route.another_leader());
        loop {
            let route = self.route.clone();
            let first_give_up = self.waiting.iter().map(|read| read.give_up).min();
            let not_before = self.not_before;
            let retry = async move {
                match not_before {
                    Some(at) => route.wait_for_change(at).await,
                    None => std::future::pending().await,
                }
            };
            let overdue = async move {
                match first_give_up {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let company = self.waits_until();
            let company = async move {
                match company {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                Some(read) = self.new.recv(), if self.waiting.len() < WAITING_MAX => self.waiting.push(read),
                Some(round) = self.asking.next(), if !self.asking.is_empty() => self.settle(round),
                // A round that is under way serves as well.
                _ = self.freshen.tick() => self.stale |= self.asking.is_empty(),
                () = &mut another_leader => {
                    another_leader.set(self.route.another_leader());
                    self.stale = true;
                }
                () = retry => self.not_before = None,
                () = overdue => {}
                () = company => {}
            }
            while self.waiting.len() < WAITING_MAX
                && let Ok(read) = self.new.try_recv()
            {
                self.waiting.push(read);
            }
            self.refuse_overdue();
            let wanted = self.company_is_complete() || (self.stale && self.asking.is_empty());
            if wanted && self.not_before.is_none() && self.asking.len() < IN_FLIGHT_MAX {
                self.ask();
            }
        }
        for read in self.waiting {
            let _reader_left = read.reply.send(Err(NodeError::ShuttingDown));
        }
    }

    /// Whether a round should begin for the reads that wait: at once for a lone reader's.
    fn company_is_complete(&self) -> bool {
        let all_are_here = self.asking.is_empty() && self.waiting.len() >= self.readers;
        !self.waiting.is_empty() && (all_are_here || self.waits_until().is_some_and(|at| at <= Instant::now()))
    }

    /// When the reads that wait will have waited long enough for others.
    fn waits_until(&self) -> Option<Instant> {
        let wait = if self.asking.is_empty() { RETURN_WAIT } else { PATIENCE };
        let first = self.waiting.first()?;
        (self.not_before.is_none() && self.asking.len() < IN_FLIGHT_MAX).then(|| first.since + wait)
    }

    fn ask(&mut self) {
        self.stale = false;
        let reads = std::mem::take(&mut self.waiting);
        let route = self.route.clone();
        // Taken before the request is sent: the age that is measured from it can only be too large.
        let sent = self.clock.now();
        let deadline = Instant::now() + ROUND_MAX;
        let replaced = self.route.another_leader();
        self.asking.push(Box::pin(async move {
            let result = tokio::select! {
                result = route.read_index(deadline) => result,
                () = replaced => Err(Failure::Unknown),
            };
            (reads, sent, result)
        }));
    }

    fn settle(&mut self, (reads, sent, result): Round) {
        self.readers = reads.len() + self.waiting.len();
        match result {
            Ok(index) => {
                let (hub, anchor) = (self.hub.clone(), self.anchor.clone());
                if self.hub.view().applied >= index {
                    anchor.advance(sent);
                    for read in reads {
                        let _reader_left = read.reply.send(Ok(()));
                    }
                    return;
                }
                let explain = self.route.explain(Failure::NoQuorum);
                // Applying goes on without the barrier's task; the wait ends with the last read's patience.
                let give_up = reads
                    .iter()
                    .map(|read| read.give_up)
                    .max()
                    .unwrap_or_else(|| Instant::now() + ROUND_MAX);
                tokio::spawn(async move {
                    let applied = tokio::time::timeout_at(give_up, hub.wait_applied(index)).await;
                    if applied.is_ok() {
                        anchor.advance(sent);
                    }
                    for read in reads {
                        let _reader_left = read
                            .reply
                            .send(applied.as_ref().map(|_| ()).map_err(|_| explain.clone()));
                    }
                });
            }
            Err(failure @ (Failure::Overloaded | Failure::ShuttingDown | Failure::DiskFull)) => {
                let error = self.route.explain(failure);
                for read in reads {
                    let _reader_left = read.reply.send(Err(error.clone()));
                }
            }
            Err(Failure::NotLeader(_) | Failure::NoQuorum | Failure::Unknown) => {
                self.not_before = Some(Instant::now() + RETRY_AFTER);
                // A node that starts is not ready before the first round that succeeds.
                self.freshen.reset_after(FRESHEN_RETRY);
                self.waiting.extend(reads);
            }
        }
    }

    fn refuse_overdue(&mut self) {
        let now = Instant::now();
        if self.waiting.iter().all(|read| read.give_up > now) {
            return;
        }
        let error = match self.route.leader_id() {
            Some(_) => self.route.explain(Failure::NoQuorum),
            None => NodeError::NoLeader,
        };
        let (overdue, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|read| read.give_up <= now);
        self.waiting = waiting;
        let overdue: Vec<Read> = overdue;
        for read in overdue {
            let _reader_left = read.reply.send(Err(error.clone()));
        }
    }
}

impl Anchor {
    /// Moves forward, never back: rounds may end in another order than they began.
    fn advance(&self, sent: Duration) {
        let nanos = u64::try_from(sent.as_nanos()).unwrap_or(u64::MAX).max(1);
        self.0.fetch_max(nanos, Ordering::AcqRel);
    }
}
