//! One open watch: from the hub's deliveries to messages.

use std::{
    collections::HashSet,
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use futures_util::FutureExt as _;
use tokio::{sync::mpsc::Permit, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        call::{Freshness, NoRoom, Outlet, header, stalled},
        paging::fill_instances,
        status::{CallKind, detail},
    },
    step::{CHANGES_MAX, CHANGES_MAX_BYTES, next_changes, reset_to_proto},
};
use crate::{
    model::{Revision, Selector},
    node::{self, Node, NodeError},
    registry::State,
    watch::{Delivery, ResetReason, Watch, WatchChange},
    wire::{
        ErrorDetail,
        instance::encoded_put,
        member::position_to_proto,
        raw,
        request::{self, WatchStart},
        v1,
    },
};

/// Changes that steps which wait are joined to, at the most.
const JOINED_MAX: usize = 1_000;
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
    /// Taken from the watch, and not sent yet.
    put_by: Option<Delivery>,
    /// How keys are hashed.
    keys: RandomState,
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
            put_by: None,
            keys: RandomState::new(),
        })
    }

    /// Sends what there is to send until the watch is over.
    pub(super) async fn run(mut self, outlet: &Outlet<raw::WatchResponse>, cancel: &CancellationToken) -> End {
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

    async fn serve(&mut self, outlet: &Outlet<raw::WatchResponse>) -> Result<std::convert::Infallible, End> {
        if !self.begins_with_snapshot {
            match self.watch.next().now_or_never() {
                Some(delivery) => self.deliver(outlet, delivery).await?,
                None => self.send_progress(outlet).await?,
            }
        }
        loop {
            let progress_at = self.sent_at + self.progress_interval;
            let check_at = self.age_check_at()?;
            let woken = tokio::select! {
                // What was put by comes first: progress must not run ahead of it.
                biased;
                delivery = self.next_delivery() => Some(delivery),
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

    async fn deliver(&mut self, outlet: &Outlet<raw::WatchResponse>, delivery: Delivery) -> Result<(), End> {
        match delivery {
            Delivery::Snapshot { state, reset } => {
                let reset = self.reset.take().or(reset);
                self.send_snapshot(outlet, state, reset).await
            }
            Delivery::Changes { changes, revision } => {
                let (changes, revision) = self.join_waiting(changes, revision);
                self.send_changes(outlet, &changes, revision).await
            }
        }
    }

    /// Joins the steps that wait already to one, each revision whole and in order, as long as no instance changes twice
    /// in it: when thousands of leases end at once, a message for each revision costs more than what it says.
    fn join_waiting(&mut self, mut changes: Vec<WatchChange>, mut revision: Revision) -> (Vec<WatchChange>, Revision) {
        // What was taken apart must not be joined again.
        planted!("revision-in-parts" => { return (changes, revision); });
        // Hashes do: where two are alike by chance, a step more is sent by itself.
        let mut keys: HashSet<u64> = HashSet::new();
        let key_of = |change: &WatchChange| self.keys.hash_one(change.key());
        // A catching-up is sent alone: to ask for more would say that it was sent.
        while changes.len() < JOINED_MAX && !self.watch.is_catching_up() {
            let (more, later) = match self.watch.next().now_or_never() {
                Some(Delivery::Changes { changes, revision }) => (changes, revision),
                other => {
                    self.put_by = other;
                    break;
                }
            };
            if keys.is_empty() {
                keys.extend(changes.iter().map(key_of));
            }
            let later_keys: Vec<u64> = more.iter().map(key_of).collect();
            if later_keys.iter().any(|key| keys.contains(key)) {
                self.put_by = Some(Delivery::Changes {
                    changes: more,
                    revision: later,
                });
                break;
            }
            keys.extend(later_keys);
            changes.extend(more);
            revision = later;
        }
        (changes, revision)
    }

    /// The next thing to send.
    async fn next_delivery(&mut self) -> Delivery {
        match self.put_by.take() {
            Some(delivery) => delivery,
            None => self.watch.next().await,
        }
    }

    async fn send_snapshot(
        &mut self,
        outlet: &Outlet<raw::WatchResponse>,
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
            message.changes = filled.elements.iter().map(|record| encoded_put(record)).collect();
            message.reset = reset.take();
            self.send(room, message);
            if !filled.more {
                return Ok(());
            }
            after = filled.elements.last().map(|record| record.key().clone());
        }
    }

    async fn send_changes(
        &mut self,
        outlet: &Outlet<raw::WatchResponse>,
        changes: &[WatchChange],
        revision: Revision,
    ) -> Result<(), End> {
        let mut from = 0;
        loop {
            let room = self.room(outlet).await?;
            let filled = next_changes(changes, &mut from);
            let mut message = self.message(v1::watch_response::Kind::Changes, revision, filled.more);
            message.changes = filled.elements;
            self.send(room, message);
            if !filled.more {
                return Ok(());
            }
        }
    }

    async fn send_progress(&mut self, outlet: &Outlet<raw::WatchResponse>) -> Result<(), End> {
        let room = self.room(outlet).await?;
        let revision = self.watch.position();
        let message = self.message(v1::watch_response::Kind::Progress, revision, false);
        self.send(room, message);
        Ok(())
    }

    /// Waits until the transport has room: nothing is made before that.
    async fn room<'o>(&self, outlet: &'o Outlet<raw::WatchResponse>) -> Result<Permit<'o, raw::WatchResponse>, End> {
        outlet.room_in_time().await.map_err(|no_room| match no_room {
            NoRoom::Left => End::Gone,
            NoRoom::Stalled => End::Failed(Box::new(stalled("watch"))),
        })
    }

    /// A message about the view as it is at `revision` once everything before has been taken in.
    fn message(&mut self, kind: v1::watch_response::Kind, revision: Revision, more: bool) -> raw::WatchResponse {
        self.note_complete();
        let node = &self.node.0;
        let age = self.complete.age.map(|age| age + self.complete.at.elapsed());
        raw::WatchResponse {
            watch_id: self.watch_id,
            header: Some(header(node, revision, Freshness::Stale(age))),
            kind: kind.into(),
            position: (!more).then(|| position_to_proto(node.position(revision))),
            more,
            ..raw::WatchResponse::default()
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
        // What was put by has left the watch, but is not in the view yet.
        if self.put_by.is_none() && self.watch.position() >= present {
            self.complete = complete;
        }
    }

    fn send(&mut self, room: Permit<'_, raw::WatchResponse>, message: raw::WatchResponse) {
        room.send(message);
        self.sent_at = Instant::now();
    }
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
