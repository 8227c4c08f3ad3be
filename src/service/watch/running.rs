//! One open watch: from the hub's deliveries to messages.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::{sync::mpsc::Permit, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        call::{Freshness, NoRoom, Outlet, header, stalled},
        paging::fill_instances,
        status::{CallKind, detail},
    },
    step::{CHANGES_MAX, CHANGES_MAX_BYTES, Part, next_changes, reset_to_proto},
};
use crate::{
    model::{Revision, Selector},
    node::{self, Node, NodeError},
    registry::State,
    watch::{Changes, Delivery, ResetReason, Watch},
    wire::{
        ErrorDetail,
        instance::encoded_put,
        member::encoded_position,
        raw,
        request::{self, WatchStart},
        v1,
    },
};

/// Changes that revisions which wait are joined to, at the most.
const JOINED_MAX: usize = 1_000;
/// A watch that has just been sent changes waits for more of them, so that a message holds what happens meanwhile: so
/// long for each watch of the node …
const PACE_PER_WATCH: Duration = Duration::from_micros(30);
/// … and no longer than this. A watch to which little happens waits for nothing.
const PACE_MAX: Duration = Duration::from_millis(20);
/// A watch that is sent so many changes at once …
const BUSY_CHANGES: u32 = 4;
/// … and one of them in so much time is busy, and so, mostly, is the processor: it waits longer. What that saves goes to
/// the writers whose changes these are.
const BUSY_GAP: Duration = Duration::from_millis(2);
/// A busy watch's wait for each watch of the node …
const BUSY_PACE_PER_WATCH: Duration = Duration::from_micros(150);
/// … and at the most.
const BUSY_PACE_MAX: Duration = Duration::from_millis(50);
/// What is shorter is not worth a timer.
const PACE_MIN: Duration = Duration::from_millis(1);
/// Ages are looked at no more often than this.
const AGE_CHECK_MIN: Duration = Duration::from_millis(5);

/// Why a watch is over.
#[derive(Debug)]
pub(super) enum End {
    /// Its client cancelled it.
    Cancelled,
    /// Its client has left: there is nobody to tell.
    Gone,
    /// Something else, which its client is told.
    Failed(Box<ErrorDetail>),
}

/// When the view was last seen to be complete, and how old the node's state was then.
#[derive(Clone, Copy, Debug)]
struct Complete {
    at: Instant,
    age: Option<Duration>,
}

/// An open watch.
#[derive(Debug)]
pub(super) struct Running {
    node: NodeHandle,
    watch_id: i64,
    watch: Watch,
    selector: Arc<Selector>,
    /// Of the first snapshot.
    reset: Option<ResetReason>,
    /// Whether it begins with a snapshot or, to be heard at once, with a sign of life.
    begins_with_snapshot: bool,
    progress_interval: Duration,
    max_age: Option<Duration>,
    complete: Complete,
    sent_at: Instant,
    /// How long to wait for company since nothing was left to take when changes were last sent.
    pace: Option<Duration>,
}

/// A node, without its innards in debug output.
#[derive(Clone)]
struct NodeHandle(Node);

impl std::fmt::Debug for NodeHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.name().fmt(f)
    }
}

impl Running {
    /// Opens a watch.
    ///
    /// # Errors
    /// The node's state is older than the watch may be and can't be made fresher; or the node refuses it.
    pub(super) async fn open(
        node: Node,
        watch_id: i64,
        wanted: request::Watch,
        deadline: Instant,
    ) -> Result<Self, Box<ErrorDetail>> {
        let start = match wanted.start {
            WatchStart::Snapshot => node::WatchStart::Snapshot,
            WatchStart::Now => node::WatchStart::Now,
            WatchStart::After(position) => node::WatchStart::After {
                cluster_id: Some(position.cluster_id),
                revision: position.revision,
            },
        };
        if too_old(&node, wanted.max_age) {
            node.try_freshen(deadline).await;
            if too_old(&node, wanted.max_age) {
                return Err(no_quorum(&node));
            }
        }
        // Taken before the watch begins: the version that it begins with can only be fresher.
        let complete = Complete {
            at: Instant::now(),
            age: node.age(),
        };
        let opened = node.watch(wanted.selector.clone(), start.clone(), deadline).await;
        let opened = opened.map_err(|error| Box::new(detail(error, CallKind::Read)))?;
        Ok(Self {
            node: NodeHandle(node),
            watch_id,
            watch: opened.watch,
            selector: Arc::new(wanted.selector),
            begins_with_snapshot: start == node::WatchStart::Snapshot || opened.reset.is_some(),
            reset: opened.reset,
            progress_interval: wanted.progress_interval,
            max_age: wanted.max_age,
            complete,
            sent_at: Instant::now(),
            pace: None,
        })
    }

    /// Sends what there is to send until the watch is over.
    pub(super) async fn run(mut self, outlet: &Outlet<raw::WatchMessage>, cancel: &CancellationToken) -> End {
        let stop = self.node.0.stopping();
        let serve = async {
            match self.serve(outlet).await {
                Ok(never) => match never {},
                Err(end) => end,
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => shutting_down(),
            () = cancel.cancelled() => End::Cancelled,
            () = outlet.closed() => End::Gone,
            end = serve => end,
        }
    }

    async fn serve(&mut self, outlet: &Outlet<raw::WatchMessage>) -> Result<std::convert::Infallible, End> {
        if !self.begins_with_snapshot {
            match self.watch.next_joined(JOINED_MAX).now_or_never() {
                Some(delivery) => self.deliver(outlet, delivery).await?,
                None => self.send_progress(outlet).await?,
            }
        }
        loop {
            self.wait_for_company().await;
            let progress_at = self.sent_at + self.progress_interval;
            let check_at = self.age_check_at()?;
            let woken = tokio::select! {
                // Changes come first: progress must not run ahead of them.
                biased;
                delivery = self.watch.next_joined(JOINED_MAX) => Some(delivery),
                () = tokio::time::sleep_until(progress_at.min(check_at)) => None,
            };
            match woken {
                Some(delivery) => {
                    // Plant: progress says that the view is complete through changes that are still to be sent.
                    planted!("progress-ahead-of-changes" => { self.send_progress(outlet).await?; });
                    self.deliver(outlet, delivery).await?;
                }
                None if Instant::now() >= progress_at => self.send_progress(outlet).await?,
                None => {}
            }
        }
    }

    /// Waits until it is time for the next message to a watch that was sent one just now and has everything. Watches of
    /// one pace go on at the same moments: those that ask for the same are then given the same step, which is made once.
    async fn wait_for_company(&mut self) {
        let Some(pace) = self.pace.take() else { return };
        if pace >= PACE_MIN {
            tokio::time::sleep(until_next_turn(self.node.0.uptime(), pace)).await;
        }
    }

    /// When the node's state will be too old if nothing is heard of a quorum before; an error when it is.
    fn age_check_at(&self) -> Result<Instant, End> {
        // Plant: a watch may be of any age.
        planted!("watch-age-not-judged" => { return Ok(Instant::now() + request::PROGRESS_MAX); });
        let Some(max_age) = self.max_age else {
            return Ok(Instant::now() + request::PROGRESS_MAX);
        };
        match self.node.0.age() {
            Some(age) if age <= max_age => Ok(Instant::now() + look_again_after(max_age - age)),
            _ => Err(End::Failed(no_quorum(&self.node.0))),
        }
    }

    async fn deliver(&mut self, outlet: &Outlet<raw::WatchMessage>, delivery: Delivery) -> Result<(), End> {
        match delivery {
            Delivery::Snapshot { state, reset } => {
                let reset = self.reset.take().or(reset);
                self.send_snapshot(outlet, state, reset).await
            }
            Delivery::Changes { changes, revision } => {
                let has_all = self.watch.is_drained() && !self.watch.is_catching_up();
                let busy = is_busy(changes.len(), self.sent_at.elapsed());
                self.pace = has_all.then(|| pace(self.node.0.hub().watches(), busy));
                self.send_changes(outlet, &changes, revision).await
            }
        }
    }

    async fn send_snapshot(
        &mut self,
        outlet: &Outlet<raw::WatchMessage>,
        state: State,
        reset: Option<ResetReason>,
    ) -> Result<(), End> {
        let revision = state.revision();
        let mut reset = reset.map(reset_to_proto);
        let mut after = None;
        loop {
            let room = self.room(outlet).await?;
            let filled = fill_instances(&state, &self.selector, after, CHANGES_MAX, Some(CHANGES_MAX_BYTES)).await;
            let filled = filled.map_err(|_stopping| shutting_down())?;
            let mut message = self.message(v1::watch_response::Kind::Snapshot, revision, filled.more);
            message.rest.changes = filled.elements.iter().map(|record| encoded_put(record)).collect();
            message.rest.reset = reset.take();
            self.send(room, message);
            if !filled.more {
                return Ok(());
            }
            after = filled.elements.last().map(|record| record.key().clone());
        }
    }

    async fn send_changes(
        &mut self,
        outlet: &Outlet<raw::WatchMessage>,
        changes: &Changes,
        revision: Revision,
    ) -> Result<(), End> {
        let mut from = 0;
        loop {
            let room = self.room(outlet).await?;
            let Part { shared, own, more } = next_changes(changes, &mut from);
            let mut message = self.message(v1::watch_response::Kind::Changes, revision, more);
            (message.changes, message.rest.changes) = (shared, own);
            self.send(room, message);
            if !more {
                return Ok(());
            }
        }
    }

    async fn send_progress(&mut self, outlet: &Outlet<raw::WatchMessage>) -> Result<(), End> {
        let room = self.room(outlet).await?;
        let revision = self.watch.position();
        let message = self.message(v1::watch_response::Kind::Progress, revision, false);
        self.send(room, message);
        Ok(())
    }

    /// Waits until the transport has room: nothing is made before that.
    async fn room<'o>(&self, outlet: &'o Outlet<raw::WatchMessage>) -> Result<Permit<'o, raw::WatchMessage>, End> {
        outlet.room_in_time().await.map_err(|no_room| match no_room {
            NoRoom::Left => End::Gone,
            NoRoom::Stalled => End::Failed(Box::new(stalled("watch"))),
        })
    }

    /// A message about the view as it is at `revision` once everything before has been taken in.
    fn message(&mut self, kind: v1::watch_response::Kind, revision: Revision, more: bool) -> raw::WatchMessage {
        self.note_complete();
        let node = &self.node.0;
        let age = self.complete.age.map(|age| age + self.complete.at.elapsed());
        let rest = raw::WatchResponse {
            watch_id: self.watch_id,
            header: header(node, revision, Freshness::Stale(age)).encoded(),
            kind: kind.into(),
            position: if more {
                Bytes::new()
            } else {
                encoded_position(node.position(revision))
            },
            more,
            ..raw::WatchResponse::default()
        };
        raw::WatchMessage {
            rest,
            changes: Bytes::new(),
        }
    }

    /// The view is as old as the node's state, if nothing waits for the watcher; else it is as old as it was when
    /// nothing waited, and the time since.
    fn note_complete(&mut self) {
        let node = &self.node.0;
        // In this order, each can only make the age too large.
        let complete = Complete {
            at: Instant::now(),
            age: node.age(),
        };
        let present = node.revision();
        if self.watch.position() >= present {
            self.complete = complete;
        }
    }

    fn send(&mut self, room: Permit<'_, raw::WatchMessage>, message: raw::WatchMessage) {
        room.send(message);
        self.sent_at = Instant::now();
    }
}

/// Whether a watch is busy that is sent so many changes so long after the message before.
fn is_busy(changes: usize, after: Duration) -> bool {
    let changes = u32::try_from(changes).unwrap_or(u32::MAX);
    changes >= BUSY_CHANGES && after <= BUSY_GAP.saturating_mul(changes)
}

/// How long a watch waits for company. What a change costs a node grows with the watches that it touches, so that many of
/// them would leave nothing for the writers, and each message cost more than what it says.
fn pace(watches: usize, busy: bool) -> Duration {
    let watches = u32::try_from(watches).unwrap_or(u32::MAX);
    let (per_watch, max) = if busy {
        (BUSY_PACE_PER_WATCH, BUSY_PACE_MAX)
    } else {
        (PACE_PER_WATCH, PACE_MAX)
    };
    per_watch.saturating_mul(watches).min(max)
}

/// How long until the next whole multiple of a pace since the node's start; one that is nearer than a quarter of it is
/// left out.
fn until_next_turn(uptime: Duration, pace: Duration) -> Duration {
    let earliest = uptime + pace / 4;
    let past_turn = Duration::from_nanos_u128(earliest.as_nanos() % pace.as_nanos().max(1));
    earliest - past_turn + pace - uptime
}

/// When to look at the age again that may grow by so much. A caller may allow any age, also one that no clock reaches.
fn look_again_after(left: Duration) -> Duration {
    left.clamp(AGE_CHECK_MIN, request::PROGRESS_MAX)
}

fn too_old(node: &Node, max_age: Option<Duration>) -> bool {
    max_age.is_some_and(|max_age| node.age().is_none_or(|age| age > max_age))
}

fn shutting_down() -> End {
    End::Failed(Box::new(detail(NodeError::ShuttingDown, CallKind::Read)))
}

/// The node's view is older than the watch may be: whoever leads, this node hears no quorum.
fn no_quorum(node: &Node) -> Box<ErrorDetail> {
    let leader = node.leader().map(|leader| leader.name.clone());
    Box::new(detail(NodeError::NoQuorum { leader }, CallKind::Read))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_watches_wait_for_nothing_and_many_not_long() {
        assert!(pace(0, false) < PACE_MIN && pace(33, false) < PACE_MIN);
        assert_eq!(pace(334, false), Duration::from_micros(10_020));
        assert_eq!(pace(50_000, false), PACE_MAX);
        assert_eq!(pace(usize::MAX, false), PACE_MAX);
    }

    #[test]
    fn busy_watches_wait_longer() {
        assert!(pace(0, true) < PACE_MIN && pace(6, true) < PACE_MIN);
        assert_eq!(pace(300, true), Duration::from_micros(45_000));
        assert_eq!(pace(50_000, true), BUSY_PACE_MAX);
    }

    #[test]
    fn watches_of_one_pace_go_on_together() {
        let ms = Duration::from_millis;
        let turns = [0, 1, 9, 14, 15, 16, 29, 30].map(|uptime| ms(uptime) + until_next_turn(ms(uptime), ms(20)));
        assert_eq!(turns, [20, 20, 20, 20, 40, 40, 40, 40].map(ms));
        for uptime in [0, 1, 7, 1_000_003] {
            let wait = until_next_turn(ms(uptime), PACE_MIN);
            assert!(wait >= PACE_MIN / 4 && wait <= PACE_MIN * 5 / 4, "{wait:?}");
        }
    }

    #[test]
    fn many_changes_in_a_short_time_make_a_watch_busy() {
        let ms = Duration::from_millis;
        assert!(is_busy(6, ms(10)) && is_busy(4, ms(8)) && is_busy(usize::MAX, ms(10_000)));
        assert!(!is_busy(1, Duration::ZERO) && !is_busy(3, ms(1)), "few");
        assert!(!is_busy(10, ms(100)), "they had time to come together");
    }

    #[test]
    fn an_age_beyond_every_clock_is_looked_at_in_time() {
        for (left, after) in [
            (Duration::ZERO, AGE_CHECK_MIN),
            (Duration::from_secs(3), Duration::from_secs(3)),
            (Duration::MAX, request::PROGRESS_MAX),
        ] {
            assert_eq!(look_again_after(left), after);
            assert!(Instant::now().checked_add(after).is_some());
        }
    }
}
