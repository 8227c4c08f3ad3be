//! The hub: where a new version becomes readable and its changes find their watches.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use arc_swap::ArcSwap;

use super::{
    backlog::{Backlog, Lag},
    counters::{Counters, HubStats},
    crowd::{Crowd, Round},
    delivery::{ResetReason, Start, WatchChange, WatchRefused},
    filter::Filter,
    history::History,
    index::Index,
    limits::HubLimits,
    record::Record,
    watcher::{Opening, Watch},
};
use crate::{
    model::{LogIndex, Revision, Selector},
    registry::{Change, State},
};

/// One version of the registry, as this node's readers see it.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// The content.
    pub state: State,
    /// The last log index that it contains.
    pub applied: LogIndex,
}

/// Between apply, which publishes, and the readers and streams.
///
/// One task publishes; anyone reads and watches.
#[derive(Debug)]
pub struct Hub {
    limits: HubLimits,
    /// What readers see. Written under the lock of `core`, read without it.
    view: ArcSwap<View>,
    /// Through this revision every change has been handed to every watch that it matches. Written under the lock of
    /// `core`, after the view; read without it, *before* a watch's queue is looked at.
    settled: AtomicU64,
    /// How many watches are open.
    open: AtomicUsize,
    core: Mutex<Core>,
    progress: tokio::sync::watch::Sender<Progress>,
    counters: Counters,
}

#[derive(Debug)]
struct Core {
    history: History,
    index: Index,
    /// How many watches were ever opened: the number of the next.
    opened: u64,
    /// How many rounds there were.
    rounds: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Progress {
    applied: LogIndex,
    revision: Revision,
}

impl Hub {
    /// A hub over an empty registry, whose history begins there.
    #[must_use]
    pub fn new(limits: HubLimits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            view: ArcSwap::default(),
            settled: AtomicU64::new(0),
            open: AtomicUsize::new(0),
            core: Mutex::new(Core {
                history: History::new(limits),
                index: Index::default(),
                opened: 0,
                rounds: 0,
            }),
            progress: tokio::sync::watch::Sender::default(),
            counters: Counters::default(),
        })
    }

    /// Makes a version readable, hands its changes to the watches and keeps them in the history: one critical section.
    ///
    /// `changes` are what leads from the last published version to this one, in revision order, whole revisions.
    /// Never waits for a watcher.
    pub fn publish(&self, state: State, applied: LogIndex, changes: Vec<Change>) {
        let records: Vec<_> = changes
            .into_iter()
            .map(|change| Arc::new(Record::new(change, None)))
            .collect();
        let view = Arc::new(View { state, applied });
        self.advance(self.lock(), view, Next::Changes(records));
    }

    /// Makes a version readable that came as a snapshot. How it came about is not known here: the history begins anew
    /// at its revision, and open watches get the difference as one step.
    pub fn replace(&self, state: State, applied: LogIndex) {
        let view = Arc::new(View { state, applied });
        // The difference may be large: it is worked out before the critical section, and again only if another version
        // came between, which one publisher excludes, or the first watch. Where nobody watches, as in a node that
        // starts, nobody needs it.
        let older = self.view();
        let watched = self.watches() > 0;
        let mut changes = if watched {
            view.state.changes_since(&older.state)
        } else {
            Vec::new()
        };
        let core = self.lock();
        let current = self.view();
        if core.index.len() > 0 && !(watched && Arc::ptr_eq(&older, &current)) {
            changes = view.state.changes_since(&current.state);
        }
        let records = changes
            .into_iter()
            .map(|change| Arc::new(Record::new(change, Some(Arc::clone(&current)))))
            .collect();
        self.advance(core, view, Next::Difference(records));
    }

    /// What readers see now; one consistent version, to be kept as long as the reader likes.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }

    /// Waits until the view contains a log index. Dropping the future leaves nothing behind.
    pub async fn wait_applied(&self, index: LogIndex) {
        self.wait(|progress| progress.applied >= index).await;
    }

    /// Waits until the view has reached a revision. Dropping the future leaves nothing behind.
    pub async fn wait_revision(&self, revision: Revision) {
        self.wait(|progress| progress.revision >= revision).await;
    }

    /// Opens a watch. It ends when it is dropped.
    ///
    /// # Errors
    /// Refused when the node serves as many as it may, or when it is to start beyond the present.
    pub fn watch(self: &Arc<Self>, selector: Selector, start: Start) -> Result<Watch, WatchRefused> {
        let filter = Filter::new(selector);
        let reset = match start {
            Start::After(revision) => return self.resume(filter, revision),
            Start::Now => {
                let mut core = self.lock();
                let present = self.view().state.revision();
                return self.open(&mut core, filter, Backlog::default(), Opening::at(present));
            }
            Start::Snapshot => None,
            Start::OtherCluster => Some(ResetReason::OtherCluster),
        };
        let mut core = self.lock();
        let opening = Opening::with_snapshot(Revision(0), self.view(), reset);
        self.open(&mut core, filter, Backlog::default(), opening)
    }

    /// How many watches are open, as it was a moment ago.
    #[must_use]
    pub fn watches(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// The hub in figures.
    #[must_use]
    pub fn stats(&self) -> HubStats {
        let core = self.lock();
        HubStats {
            watches: core.index.len(),
            lagged: self.counters.lagged(),
            resets: self.counters.resets(),
            queued_bytes: self.counters.queued_bytes(),
            history_changes: core.history.changes(),
            history_bytes: core.history.bytes(),
            history_floor: core.history.floor(),
        }
    }

    /// The one way by which a version becomes the present.
    fn advance(&self, mut core: MutexGuard<'_, Core>, view: Arc<View>, next: Next) {
        let progress = Progress {
            applied: view.applied,
            revision: view.state.revision(),
        };
        // The view first: a watcher that is given a revision finds it in the view.
        let older = self.view.swap(view);
        debug_assert!(older.state.revision() <= progress.revision, "revisions never go back");
        core.rounds += 1;
        let mut round = Round {
            number: core.rounds,
            limits: &self.limits,
            counters: &self.counters,
            touched: Vec::new(),
        };
        let gone = match next {
            Next::Changes(records) => {
                core.index.offer(&records, &mut round);
                core.history.append(records)
            }
            Next::Difference(records) => {
                core.index.offer(&records, &mut round);
                core.history.restart(progress.revision)
            }
        };
        self.settled.store(progress.revision.0, Ordering::Release);
        drop(core);
        self.progress.send_replace(progress);
        for crowd in round.touched {
            crowd.wake();
        }
        // Freeing what went may take a while; it begins when nobody waits any more.
        drop((older, gone));
    }

    async fn wait(&self, reached: impl Fn(&Progress) -> bool) {
        let mut progress = self.progress.subscribe();
        let arrived = progress.wait_for(|progress| reached(progress)).await;
        drop(arrived.expect("the hub, which is borrowed, holds the sender"));
    }

    /// Opens a watch after a revision. The history is scanned outside of the critical section; what was published
    /// meanwhile, little, is added inside, where the watch joins the others: nothing can fall between.
    fn resume(self: &Arc<Self>, filter: Filter, after: Revision) -> Result<Watch, WatchRefused> {
        let (stretch, scanned) = {
            let mut core = self.lock();
            self.check_room(&core)?;
            let view = self.view();
            let present = view.state.revision();
            if after > present {
                return Err(WatchRefused::RevisionInFuture { asked: after, present });
            }
            // Plant: a resume gives the last revision again.
            let from = planted!("resume-repeats-a-revision", Revision(after.0.saturating_sub(1)), after);
            match core.history.since(from) {
                Some(stretch) => (stretch, present),
                None => {
                    let opening = Opening::with_snapshot(after, view, Some(ResetReason::Compacted));
                    return self.open(&mut core, filter, Backlog::default(), opening);
                }
            }
        };
        let mut backlog = Backlog::default();
        let missed = stretch.records().filter(|record| filter.covers(record.key()));
        // Plants: a resume loses a change, or gives the changes in another order.
        #[cfg(feature = "failpoints")]
        let missed = super::plants::resumed(missed);
        backlog.offer(&filter, missed, &self.limits);

        let mut core = self.lock();
        match core.history.since(scanned) {
            Some(rest) => {
                let missed = rest.records().filter(|record| filter.covers(record.key()));
                backlog.offer(&filter, missed, &self.limits);
            }
            None => backlog = Backlog::lagged(after),
        }
        self.open(&mut core, filter, backlog, Opening::at(after))
    }

    fn check_room(&self, core: &Core) -> Result<(), WatchRefused> {
        let limit = self.limits.watches;
        if core.index.len() < limit {
            Ok(())
        } else {
            Err(WatchRefused::TooMany { limit })
        }
    }

    fn open(
        self: &Arc<Self>,
        core: &mut Core,
        filter: Filter,
        backlog: Backlog,
        opening: Opening,
    ) -> Result<Watch, WatchRefused> {
        self.check_room(core)?;
        self.counters.queued(backlog.size().bytes);
        if backlog.is_lagged() {
            self.counters.count_lagged(1);
        }
        if opening.is_reset() {
            self.counters.count_reset();
        }
        let number = core.opened;
        core.opened += 1;
        let crowd = core.index.insert(number, filter, backlog);
        self.open.store(core.index.len(), Ordering::Relaxed);
        Ok(Watch::new(Arc::clone(self), number, crowd, opening))
    }

    /// Forgets a watch.
    pub(super) fn close(&self, number: u64, crowd: &Crowd) {
        let mut core = self.lock();
        core.index.remove(number, crowd, &self.counters);
        self.open.store(core.index.len(), Ordering::Relaxed);
    }

    /// Begins a lagged watch's queue anew at the present, and gives what leads there from where the watcher stands:
    /// from the history or, when that no longer reaches back, by comparison with a version that the watcher was sent.
    /// `None` = neither is left.
    pub(super) fn catch_up(
        &self,
        number: u64,
        crowd: &Crowd,
        lag: Lag,
        sent: Option<Arc<View>>,
    ) -> (Arc<View>, Option<Vec<WatchChange>>) {
        let (view, stretch) = {
            let core = self.lock();
            crowd.begin_anew(number);
            (self.view(), core.history.since(lag.after))
        };
        let changes = match (stretch, lag.since.or(sent)) {
            (Some(stretch), _) => Some(crowd.filter.coalesce(stretch.records())),
            (None, Some(older)) => Some(crowd.filter.each(&view.state.changes_since(&older.state))),
            (None, None) => {
                self.counters.count_reset();
                None
            }
        };
        (view, changes)
    }

    /// Through this revision every change has been handed to every watch that it matches.
    pub(super) fn settled(&self) -> Revision {
        Revision(self.settled.load(Ordering::Acquire))
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // Nothing under this lock panics half-way through a change, so what a panicking thread left is whole.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the next version follows from the present one.
enum Next {
    /// By these changes.
    Changes(Vec<Arc<Record>>),
    /// On ways unknown, with this difference.
    Difference(Vec<Arc<Record>>),
}
