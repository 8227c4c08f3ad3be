//! What apply tells the rest of the room: where it stands, which term it saw begin, when a snapshot is due.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{Notify, oneshot, watch};

use crate::{
    model::{LeaseTime, LogIndex, Term},
    registry::State,
};

/// A snapshot is due after so many renewals at the latest, which are small in the log and slow to replay.
const SNAPSHOT_AFTER_RENEWALS: u64 = 5_000_000;
/// Callers that wait for the state at an index.
const STATE_WAITERS_MAX: usize = 64;
/// There is no deadline.
const NO_DEADLINE: u64 = u64::MAX;

/// Shared between apply and the handle.
#[derive(Debug)]
pub(super) struct Progress {
    /// The newest term whose own first record was applied here, and the state's clock then.
    opened: watch::Sender<Option<(Term, LeaseTime)>>,
    next_deadline: AtomicU64,
    growth: Mutex<Growth>,
    snapshot_due: Notify,
    at: Mutex<At>,
}

/// What came since the last snapshot was begun.
#[derive(Debug, Default)]
struct Growth {
    /// How many bytes make a snapshot due.
    due_bytes: u64,
    log_bytes: u64,
    renewals: u64,
    last_snapshot_bytes: u64,
}

impl Growth {
    fn is_due(&self) -> bool {
        self.log_bytes > self.due_bytes.max(self.last_snapshot_bytes) || self.renewals >= SNAPSHOT_AFTER_RENEWALS
    }
}

#[derive(Debug, Default)]
struct At {
    applied: Option<u64>,
    waiting: BTreeMap<u64, Vec<oneshot::Sender<State>>>,
}

impl Progress {
    /// Nothing is applied yet. A snapshot is due after `snapshot_after_bytes` of log, or as many as the last one has.
    pub(super) fn new(snapshot_after_bytes: u64) -> Self {
        let growth = Growth {
            due_bytes: snapshot_after_bytes,
            ..Growth::default()
        };
        Self {
            opened: watch::Sender::new(None),
            next_deadline: AtomicU64::new(NO_DEADLINE),
            growth: Mutex::new(growth),
            snapshot_due: Notify::new(),
            at: Mutex::default(),
        }
    }

    /// The first record of a term was applied.
    pub(super) fn term_opened(&self, term: Term, clock: LeaseTime) {
        self.opened.send_replace(Some((term, clock)));
    }

    pub(super) fn opened(&self) -> watch::Receiver<Option<(Term, LeaseTime)>> {
        self.opened.subscribe()
    }

    /// Where the state machine stands; whoever waited for exactly this index is handed the state.
    pub(super) fn applied(&self, index: u64, state: impl FnOnce() -> State) {
        let reached = {
            let mut at = lock(&self.at);
            at.applied = Some(index);
            if at.waiting.is_empty() {
                return;
            }
            let later = at.waiting.split_off(&(index + 1));
            let mut reached = std::mem::replace(&mut at.waiting, later);
            // Those that waited for an earlier index, which was jumped over, find their senders gone.
            reached.remove(&index)
        };
        if let Some(waiting) = reached {
            let state = state();
            for waiter in waiting {
                let _left = waiter.send(state.clone());
            }
        }
    }

    /// Hands out the state at exactly `index` once it is reached; `None` when it has passed, or too many wait.
    pub(super) fn state_at(&self, index: LogIndex, now: impl FnOnce() -> (LogIndex, State)) -> StateAt {
        let mut at = lock(&self.at);
        if at.applied.is_some_and(|applied| applied >= index.0) {
            drop(at);
            // What is published is never ahead of what is applied; it may be behind by the batch under way.
            let (applied, state) = now();
            return StateAt::Known((applied == index).then(|| Box::new(state)));
        }
        for waiting in at.waiting.values_mut() {
            waiting.retain(|waiter| !waiter.is_closed());
        }
        at.waiting.retain(|_, waiting| !waiting.is_empty());
        if at.waiting.values().map(Vec::len).sum::<usize>() >= STATE_WAITERS_MAX {
            return StateAt::Known(None);
        }
        let (sender, receiver) = oneshot::channel();
        at.waiting.entry(index.0).or_default().push(sender);
        StateAt::Awaited(receiver)
    }

    pub(super) fn set_next_deadline(&self, deadline: Option<LeaseTime>) {
        self.next_deadline
            .store(deadline.map_or(NO_DEADLINE, |deadline| deadline.0), Ordering::Relaxed);
    }

    pub(super) fn next_deadline(&self) -> Option<LeaseTime> {
        let deadline = self.next_deadline.load(Ordering::Relaxed);
        (deadline != NO_DEADLINE).then_some(LeaseTime(deadline))
    }

    /// An entry of so many bytes of log and so many renewals was applied.
    pub(super) fn grew(&self, log_bytes: usize, renewals: usize) {
        let mut growth = lock(&self.growth);
        growth.log_bytes += log_bytes as u64;
        growth.renewals += renewals as u64;
        if growth.is_due() {
            self.snapshot_due.notify_one();
        }
    }

    /// A snapshot is begun: growth counts from here.
    pub(super) fn snapshot_begun(&self) {
        let mut growth = lock(&self.growth);
        growth.log_bytes = 0;
        growth.renewals = 0;
    }

    /// A snapshot of so many bytes is the latest now.
    pub(super) fn snapshot_built(&self, bytes: u64) {
        lock(&self.growth).last_snapshot_bytes = bytes;
    }

    /// Waits until a snapshot is due. Says so again until one is begun.
    pub(super) async fn snapshot_due(&self) {
        while !lock(&self.growth).is_due() {
            self.snapshot_due.notified().await;
        }
    }
}

/// The state at an index, or the wait for it.
pub(super) enum StateAt {
    Known(Option<Box<State>>),
    Awaited(oneshot::Receiver<State>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::{super::SNAPSHOT_AFTER_BYTES, *};

    fn awaited(progress: &Progress, index: u64) -> Option<oneshot::Receiver<State>> {
        match progress.state_at(LogIndex(index), || (LogIndex(0), State::default())) {
            StateAt::Awaited(state) => Some(state),
            StateAt::Known(_) => None,
        }
    }

    #[test]
    fn a_snapshot_is_due_after_8_mib_or_the_size_of_the_last_one_or_5_million_renewals() {
        let progress = Progress::new(SNAPSHOT_AFTER_BYTES);
        let due = || progress.snapshot_due().now_or_never().is_some();
        progress.grew(8 << 20, 0);
        assert!(!due());
        progress.grew(1, 0);
        assert!(due());
        assert!(due(), "none was begun: another one was being built");
        progress.snapshot_begun();
        progress.snapshot_built(100 << 20);
        progress.grew(100 << 20, 0);
        assert!(!due(), "a large state is written seldom");
        progress.grew(1, 0);
        assert!(due());
        progress.snapshot_begun();
        progress.grew(10, 4_999_999);
        assert!(!due());
        progress.grew(10, 1);
        assert!(due());
        progress.grew(10, 1);
        progress.snapshot_begun();
        assert!(!due(), "one was begun meanwhile");
    }

    #[test]
    fn whoever_waits_for_an_index_gets_exactly_that_state_or_learns_that_it_was_jumped_over() {
        let progress = Progress::new(SNAPSHOT_AFTER_BYTES);
        let (mut five, mut six, mut nine) = (
            awaited(&progress, 5).unwrap(),
            awaited(&progress, 6).unwrap(),
            awaited(&progress, 9).unwrap(),
        );
        progress.applied(5, State::default);
        assert!(five.try_recv().is_ok());
        assert!(six.try_recv().is_err());
        progress.applied(8, State::default);
        assert_eq!(six.try_recv().err(), Some(oneshot::error::TryRecvError::Closed));
        assert_eq!(nine.try_recv().err(), Some(oneshot::error::TryRecvError::Empty));
        assert!(awaited(&progress, 7).is_none(), "it has passed");
        let present = progress.state_at(LogIndex(8), || (LogIndex(8), State::default()));
        assert!(matches!(present, StateAt::Known(Some(_))));
    }

    #[test]
    fn those_who_wait_for_a_state_are_bounded_and_those_who_left_do_not_count() {
        let progress = Progress::new(SNAPSHOT_AFTER_BYTES);
        let waiting: Vec<_> = (0..STATE_WAITERS_MAX as u64)
            .map(|index| awaited(&progress, index).unwrap())
            .collect();
        assert!(awaited(&progress, 1_000).is_none());
        drop(waiting);
        assert!(awaited(&progress, 1_000).is_some());
    }
}
