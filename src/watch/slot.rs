//! A watch as the publisher sees it: its filter, what waits for it, and whom to wake.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
};

use super::{
    backlog::{Backlog, Lag, Waiting},
    counters::Counters,
    filter::Filter,
    limits::HubLimits,
    record::Record,
};
use crate::model::Revision;

/// What one watch shares with the hub. Its lock is held for a few instructions on either side, never over an await
/// point, and may be taken while the hub's is held, not the other way around.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) filter: Filter,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    backlog: Backlog,
    waker: Option<Waker>,
    /// The number of the last publishing that added something here.
    touched: u64,
}

/// One publishing on its way through the watches.
#[derive(Debug)]
pub(super) struct Round<'a> {
    /// Its number, from 1.
    pub(super) number: u64,
    pub(super) limits: &'a HubLimits,
    pub(super) counters: &'a Counters,
    /// The watches that have something new, each once; to be woken when the round is over.
    pub(super) touched: Vec<Arc<Slot>>,
}

impl Slot {
    pub(super) fn new(filter: Filter, backlog: Backlog) -> Self {
        Self {
            filter,
            inner: Mutex::new(Inner {
                backlog,
                waker: None,
                touched: 0,
            }),
        }
    }

    /// Queues those of the records, all of one service, that change this watcher's view.
    pub(super) fn offer(self: &Arc<Self>, records: &[Arc<Record>], round: &mut Round<'_>) {
        let mut inner = self.lock();
        let before = (inner.backlog.is_lagged(), inner.backlog.bytes());
        if !inner.backlog.offer(&self.filter, records, round.limits) {
            return;
        }
        round.counters.requeued(before.1, inner.backlog.bytes());
        if inner.backlog.is_lagged() && !before.0 {
            round.counters.count_lagged(1);
        }
        if inner.touched != round.number {
            inner.touched = round.number;
            round.touched.push(Arc::clone(self));
        }
    }

    /// Wakes whoever waits for this watch. The lock is taken after the round is over, so that a watcher that looked
    /// while it went on, and was turned away, has left its waker by now.
    pub(super) fn wake(&self) {
        let waker = self.lock().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The first step's changes ([`Backlog::take_step`]), and whether they were all. When nothing waits that may be handed out, the task is remembered and woken when
    /// something does.
    pub(super) fn take_step(
        &self,
        settled: impl FnOnce() -> Revision,
        counters: &Counters,
        join_max: usize,
        cx: &mut Context<'_>,
    ) -> Result<(Vec<Waiting>, bool), Lag> {
        let mut inner = self.lock();
        // Under the lock: who reads it before may be overtaken by a whole round, its wake included.
        let settled = settled();
        let before = inner.backlog.bytes();
        let step = inner.backlog.take_step(settled, join_max)?;
        if step.is_empty() {
            match &mut inner.waker {
                Some(waker) => waker.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
        } else {
            counters.requeued(before, inner.backlog.bytes());
        }
        let drained = inner.backlog.complete_through().is_none();
        Ok((step, drained))
    }

    /// Through where the watcher has everything, if that is known from what waits; `None` = nothing does.
    pub(super) fn complete_through(&self) -> Option<Revision> {
        self.lock().backlog.complete_through()
    }

    /// Begins the queue anew, for a watcher that is being caught up.
    pub(super) fn begin_anew(&self) {
        self.lock().backlog = Backlog::default();
    }

    /// What waits, by encoded size.
    pub(super) fn queued_bytes(&self) -> usize {
        self.lock().backlog.bytes()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under this lock panics half-way through a change, so what a panicking thread left is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::sample::all;

    /// A watcher that reads what is settled, and only then waits for the lock, can be overtaken by a whole publishing,
    /// its wake included: it would then leave its waker for nobody and sleep over what is new.
    #[test]
    fn what_is_settled_is_read_under_the_lock_so_that_no_wake_comes_in_between() {
        let slot = Slot::new(Filter::new(all()), Backlog::default());
        let mut cx = Context::from_waker(Waker::noop());
        let mut publisher_was_kept_out = false;
        let settled = || {
            publisher_was_kept_out = slot.inner.try_lock().is_err();
            Revision(1)
        };
        let (step, drained) = slot
            .take_step(settled, &Counters::default(), 1, &mut cx)
            .expect("not lagged");
        assert!(step.is_empty() && drained);
        assert!(publisher_was_kept_out);
        assert!(slot.lock().waker.is_some());
    }
}
