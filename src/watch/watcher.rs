//! A watch as its owner sees it.

use std::{
    fmt,
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use super::{
    crowd::{Crowd, Step},
    delivery::{Delivery, ResetReason},
    hub::{Hub, View},
};
use crate::model::{Revision, Selector};

/// An open watch. It ends when it is dropped.
pub struct Watch {
    hub: Arc<Hub>,
    number: u64,
    crowd: Arc<Crowd>,
    /// Through here the watcher has been given everything.
    position: Revision,
    /// A snapshot that must come before anything else.
    owed: Option<Owed>,
    /// The version that the last delivery led to, while the watcher may still be busy sending it: from a snapshot or a
    /// catching-up until the watch has been seen to keep pace. Should the history go meanwhile, the difference to this
    /// version takes its place, and not another snapshot.
    sent: Option<Arc<View>>,
    /// Nothing was left to take when changes were last taken.
    drained: bool,
}

#[derive(Debug)]
struct Owed {
    view: Arc<View>,
    reset: Option<ResetReason>,
}

/// How a watch begins.
#[derive(Debug)]
pub(super) struct Opening {
    position: Revision,
    owed: Option<Owed>,
}

impl Opening {
    /// Complete through a revision.
    pub(super) fn at(position: Revision) -> Self {
        Self { position, owed: None }
    }

    /// With a snapshot; until then the watcher is where it was.
    pub(super) fn with_snapshot(position: Revision, view: Arc<View>, reset: Option<ResetReason>) -> Self {
        Self {
            position,
            owed: Some(Owed { view, reset }),
        }
    }

    pub(super) fn is_reset(&self) -> bool {
        self.owed.as_ref().is_some_and(|owed| owed.reset.is_some())
    }
}

impl Watch {
    pub(super) fn new(hub: Arc<Hub>, number: u64, crowd: Arc<Crowd>, opening: Opening) -> Self {
        Self {
            hub,
            number,
            crowd,
            position: opening.position,
            owed: opening.owed,
            sent: None,
            drained: false,
        }
    }

    /// The next thing for the watcher; waits until there is one. To be called again only when the last one has been
    /// sent: a watch that asks counts as one that keeps pace.
    ///
    /// Cancel-safe: a future that is dropped has taken nothing.
    pub async fn next(&mut self) -> Delivery {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Watch::next`], and with it the revisions after it that wait already, as long as no instance changes twice and
    /// there are fewer than `join_max` changes: when thousands of leases end at once, a step for each revision costs more
    /// than what it says.
    pub async fn next_joined(&mut self, join_max: usize) -> Delivery {
        poll_fn(|cx| self.poll_joined(join_max, cx)).await
    }

    /// [`Watch::next`] for those who wait for many watches in one task.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Delivery> {
        self.poll_joined(1, cx)
    }

    fn poll_joined(&mut self, join_max: usize, cx: &mut Context<'_>) -> Poll<Delivery> {
        // Plant: the stream lives on, and nothing more comes.
        planted!("watch-falls-silent" => { return Poll::Pending; });
        loop {
            if let Some(Owed { view, reset }) = self.owed.take() {
                let state = view.state.clone();
                self.position = state.revision();
                self.sent = Some(view);
                return Poll::Ready(Delivery::Snapshot { state, reset });
            }
            // What is settled is read before the queue: of a revision that it contains, nothing is still to come.
            let (settled, counters) = (|| self.hub.settled(), self.hub.counters());
            let lag = match self.crowd.take_step(self.number, settled, counters, join_max, cx) {
                Ok(step) => {
                    self.sent = None;
                    self.drained = step.as_ref().is_none_or(|step| step.drains);
                    let Some(Step { changes, revision, .. }) = step else {
                        return Poll::Pending;
                    };
                    self.position = revision;
                    return Poll::Ready(Delivery::Changes { changes, revision });
                }
                Err(lag) => lag,
            };
            let (view, changes) = self.hub.catch_up(self.number, &self.crowd, lag, self.sent.take());
            let Some(changes) = changes else {
                let reset = Some(ResetReason::Lagged);
                self.owed = Some(Owed { view, reset });
                continue;
            };
            self.position = view.state.revision();
            if !changes.is_empty() {
                let revision = self.position;
                self.sent = Some(view);
                let changes = changes.into();
                return Poll::Ready(Delivery::Changes { changes, revision });
            }
        }
    }

    /// Through here the watcher has been given everything that its selector matches. Moves on in quiet times too, is
    /// never ahead of what waits, and never goes back. Before the first snapshot it is 0.
    #[must_use]
    pub fn position(&self) -> Revision {
        if self.owed.is_some() {
            return self.position;
        }
        // What is settled is read first: if nothing waits after that, everything settled has been given.
        let settled = self.hub.settled();
        let through = self.crowd.complete_through(self.number).unwrap_or(settled);
        self.position.max(through)
    }

    /// Whether the last delivery was a snapshot or a catching-up: nothing more may be asked for before it is sent.
    #[must_use]
    pub fn is_catching_up(&self) -> bool {
        self.sent.is_some()
    }

    /// Whether the last delivery's changes were all that waited.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// What the watch is about.
    #[must_use]
    pub fn selector(&self) -> &Selector {
        self.crowd.filter.selector()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.hub.close(self.number, &self.crowd);
    }
}

impl fmt::Debug for Watch {
    /// Leaves the hub out, which would print every record there is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("number", &self.number)
            .field("selector", self.selector())
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}
