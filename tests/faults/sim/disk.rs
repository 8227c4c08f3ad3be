//! A disk that forgets what was not synced.
//!
//! ```text
//! append, mark, truncate, purge ──► view (read at once) and queue ──► writer: waits as long as a sync takes ──► platter
//!                                                                                     └──► done
//! ```
//!
//! One [`Disk`] belongs to one node and outlives its crashes: then the platter stays, the view and the queue go, but for
//! the head of the queue that happened to reach the platter. It can be slow, frozen, and fail for good (until the node is
//! started again). What was ever purged is kept aside for the witness.

mod image;

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    ops::Range,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use roster::{
    storage::{Done, LogStorage, Marker, Record, StorageError},
    wire::internal::Vote,
};
use tokio::sync::Notify;

use self::image::{Change, Image, place};
use super::overlap::Overlap;

/// Operations without a sync that wait before they are written.
const UNHURRIED_MAX: usize = 64;
/// How long one sync takes while nothing is wrong, in microseconds, at the most.
const SYNC_MAX_US: u64 = 2_500;
/// The newest records are read without waiting for the disk, as if they were in memory.
const RECENT: u64 = 32;

/// One node's disk.
#[derive(Clone, Debug)]
pub(super) struct Disk {
    inner: Arc<Mutex<Inner>>,
    /// There is something to write, or the disk thawed.
    work: Arc<Notify>,
    /// It failed.
    failed: Arc<Notify>,
}

#[derive(Debug)]
struct Inner {
    platter: Image,
    view: Image,
    queue: VecDeque<Waiting>,
    /// Counts the times that it was opened: a writer of an earlier life writes nothing more.
    life: u64,
    /// How long a sync takes besides.
    slow: Overlap<Duration>,
    frozen: Overlap<()>,
    /// The next sync fails.
    fails: bool,
    stopped: Option<StorageError>,
    purged: BTreeMap<u64, Bytes>,
    rng: StdRng,
    syncs: u64,
}

#[derive(Debug)]
struct Waiting {
    since: Duration,
    change: Change,
    done: Option<NoDebug>,
}

struct NoDebug(Done);

impl std::fmt::Debug for NoDebug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("done")
    }
}

/// What the platter has at an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    Record(Bytes),
    /// It was purged: a snapshot covers it.
    Purged,
    Nothing,
}

impl Disk {
    /// An empty one; its syncs take as long as `seed` says.
    pub(super) fn new(seed: u64) -> Self {
        let inner = Inner {
            platter: Image::default(),
            view: Image::default(),
            queue: VecDeque::new(),
            life: 0,
            slow: Overlap::default(),
            frozen: Overlap::default(),
            fails: false,
            stopped: None,
            purged: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            syncs: 0,
        };
        Self {
            inner: Arc::new(Mutex::new(inner)),
            work: Arc::default(),
            failed: Arc::default(),
        }
    }

    /// Opens it for one life of its node; its writer belongs to the runtime of the caller.
    pub(super) fn open(&self) -> SimulatedLog {
        let life = {
            let mut inner = self.lock();
            inner.view = inner.platter.clone();
            inner.queue.clear();
            inner.stopped = None;
            inner.fails = false;
            inner.life += 1;
            inner.life
        };
        tokio::spawn(self.clone().write_all(life));
        SimulatedLog(self.clone())
    }

    /// The node is gone. Of what waited, a head of any length reached the platter.
    pub(super) fn crash(&self) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        inner.life += 1;
        let reached = match inner.rng.random_range(0..4) {
            0 => inner.queue.len(),
            1 => inner.rng.random_range(0..=inner.queue.len()),
            _ => 0,
        };
        let waiting: Vec<Waiting> = inner.queue.drain(..).collect();
        for waiting in waiting.iter().take(reached) {
            let gone = inner.platter.apply(&waiting.change);
            inner.purged.extend(gone);
        }
        inner.view = inner.platter.clone();
        // Whoever waits for them is gone; the lock is not held while they go.
        drop(guard);
        drop(waiting);
    }

    /// From now on each sync takes this long besides; by the number it is undone.
    pub(super) fn slow_down(&self, by: Duration) -> u64 {
        self.lock().slow.begin(by)
    }

    /// Undoes one [`Disk::slow_down`].
    pub(super) fn hurry(&self, number: u64) {
        self.lock().slow.end(number);
    }

    /// No sync ends from now on; by the number it is undone.
    pub(super) fn freeze(&self) -> u64 {
        self.lock().frozen.begin(())
    }

    /// Undoes one [`Disk::freeze`]; syncs under way end with the last.
    pub(super) fn thaw(&self, number: u64) {
        self.lock().frozen.end(number);
        self.work.notify_one();
    }

    /// Whether no sync ends.
    pub(super) fn is_frozen(&self) -> bool {
        self.lock().frozen.now().is_some()
    }

    /// The next sync fails, and nothing is written after it until the node is started again.
    pub(super) fn fail_next_sync(&self) {
        self.lock().fails = true;
    }

    /// It does not, after all, unless it has by now.
    pub(super) fn mend(&self) {
        self.lock().fails = false;
    }

    /// Returns when it has failed.
    pub(super) async fn wait_failed(&self) {
        loop {
            let failed = self.failed.notified();
            if self.lock().stopped.is_some() {
                return;
            }
            failed.await;
        }
    }

    /// Whether it has failed in this life.
    pub(super) fn has_failed(&self) -> bool {
        self.lock().stopped.is_some()
    }

    /// How long the oldest write has been waiting, at this time of the simulation.
    pub(super) fn oldest(&self, now: Duration) -> Duration {
        let inner = self.lock();
        let oldest = inner.queue.iter().find(|waiting| waiting.done.is_some());
        oldest.map_or(Duration::ZERO, |waiting| now.saturating_sub(waiting.since))
    }

    /// What a power cut would leave at an index.
    pub(super) fn holding(&self, index: u64) -> Holding {
        let inner = self.lock();
        match inner.platter.get(index) {
            Some(record) => Holding::Record(record.clone()),
            None if inner.platter.is_purged && index < inner.platter.start => Holding::Purged,
            None => Holding::Nothing,
        }
    }

    /// The vote that a power cut would leave.
    pub(super) fn vote(&self) -> Option<Vote> {
        let inner = self.lock();
        let bytes = inner.platter.markers.get(&place(Marker::Vote))?;
        Some(Vote::decode(bytes.as_ref()).expect("a marker is what was written"))
    }

    /// The term of the vote as the node reads it now.
    pub(super) fn term_in_view(&self) -> u64 {
        let inner = self.lock();
        let bytes = inner.view.markers.get(&place(Marker::Vote));
        let vote = bytes.map(|bytes| Vote::decode(bytes.as_ref()).expect("a marker is what was written"));
        vote.map_or(0, |vote| vote.term)
    }

    /// The last index of the log, be it on the platter or on its way there.
    pub(super) fn last_index(&self) -> u64 {
        let inner = self.lock();
        inner.view.end().max(inner.platter.end()).saturating_sub(1)
    }

    /// A record as the node reads it now.
    pub(super) fn record(&self, index: u64) -> Option<Bytes> {
        self.lock().view.get(index).cloned()
    }

    /// The last index that was purged.
    pub(super) fn purged_through(&self) -> Option<u64> {
        let inner = self.lock();
        inner.view.is_purged.then(|| inner.view.start.saturating_sub(1))
    }

    /// Whether the log was ever begun.
    pub(super) fn has_begun(&self) -> bool {
        let inner = self.lock();
        inner.view.is_purged || !inner.view.records.is_empty()
    }

    /// Every record through an index that this node has, or had and purged.
    pub(super) fn archive(&self, through: u64) -> BTreeMap<u64, Bytes> {
        let inner = self.lock();
        let mut all = inner.purged.clone();
        all.extend((inner.platter.start..).zip(inner.platter.records.iter().cloned()));
        all.extend((inner.view.start..).zip(inner.view.records.iter().cloned()));
        all.retain(|index, _| *index <= through);
        all
    }

    /// How many syncs there were.
    pub(super) fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    async fn write_all(self, life: u64) {
        loop {
            let Some(count) = self.wait_due(life).await else { return };
            if !self.sync(life, count).await {
                return;
            }
        }
    }

    /// How many operations the next sync covers; `None` when this life is over.
    async fn wait_due(&self, life: u64) -> Option<usize> {
        loop {
            let work = self.work.notified();
            {
                let inner = self.lock();
                if inner.life != life || inner.stopped.is_some() {
                    return None;
                }
                let hurried = inner.queue.iter().any(|waiting| {
                    waiting.done.is_some() || matches!(waiting.change, Change::Append(_) | Change::Purge(..))
                });
                if hurried || inner.queue.len() >= UNHURRIED_MAX {
                    return Some(inner.queue.len());
                }
            }
            work.await;
        }
    }

    async fn sync(&self, life: u64, count: usize) -> bool {
        let takes = {
            let mut inner = self.lock();
            let usual = Duration::from_micros(inner.rng.random_range(0..SYNC_MAX_US));
            usual + inner.slow.now().copied().unwrap_or_default()
        };
        tokio::time::sleep(takes).await;
        loop {
            let thawed = self.work.notified();
            if !self.is_frozen() {
                break;
            }
            thawed.await;
        }
        let (done, outcome) = {
            let mut guard = self.lock();
            let inner = &mut *guard;
            if inner.life != life {
                return false;
            }
            if std::mem::take(&mut inner.fails) {
                let source: Arc<dyn std::error::Error + Send + Sync> = Arc::new(io::Error::other("simulated EIO"));
                let error = StorageError::Failed {
                    path: PathBuf::from("log"),
                    action: "sync",
                    source,
                };
                inner.stopped = Some(error.clone());
                // The record of a failed sync may be there all the same: the queue stays for the crash that follows.
                let done: Vec<Done> = inner.queue.iter_mut().filter_map(|w| Some(w.done.take()?.0)).collect();
                (done, Err(error))
            } else {
                inner.syncs += 1;
                let mut done = Vec::new();
                for mut waiting in inner.queue.drain(..count) {
                    let gone = inner.platter.apply(&waiting.change);
                    inner.purged.extend(gone);
                    done.extend(waiting.done.take().map(|done| done.0));
                }
                (done, Ok(()))
            }
        };
        for done in done {
            done(outcome.clone());
        }
        if outcome.is_err() {
            self.failed.notify_one();
        }
        outcome.is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A disk's log, for one life of its node.
#[derive(Clone, Debug)]
pub(super) struct SimulatedLog(Disk);

impl SimulatedLog {
    /// Puts a change into the view and the queue, unless the disk has failed.
    fn hand_in(&self, change: Change, done: Option<Done>) -> Result<(), StorageError> {
        let refused = {
            let mut inner = self.0.lock();
            match inner.stopped.clone() {
                Some(error) => Some(StorageError::Stopped(Arc::new(error))),
                None => {
                    inner.view.apply(&change);
                    let since = turmoil::sim_elapsed().unwrap_or_default();
                    let done = done.map(NoDebug);
                    inner.queue.push_back(Waiting { since, change, done });
                    self.0.work.notify_one();
                    return Ok(());
                }
            }
        };
        let error = refused.unwrap_or(StorageError::Closed);
        if let Some(done) = done {
            done(Err(error.clone()));
        }
        Err(error)
    }
}

impl LogStorage for SimulatedLog {
    fn append(&self, records: Vec<Record>, done: Done) {
        let expected = {
            let inner = self.0.lock();
            let anywhere = inner.view.records.is_empty() && !inner.view.is_purged;
            if anywhere {
                records.first().map_or(0, |first| first.index)
            } else {
                inner.view.end()
            }
        };
        if let Some((expected, record)) = (expected..).zip(&records).find(|(due, record)| record.index != *due) {
            let found = record.index;
            return done(Err(StorageError::Order { expected, found }));
        }
        // A refusal has gone to `done`.
        let _refused = self.hand_in(Change::Append(records), Some(done));
    }

    fn set_marker(&self, marker: Marker, bytes: Bytes, done: Option<Done>) {
        let _refused = self.hand_in(Change::Mark(marker, bytes), done);
    }

    fn marker(&self, marker: Marker) -> Option<Bytes> {
        self.0.lock().view.markers.get(&place(marker)).cloned()
    }

    fn truncate_from(&self, index: u64) -> Result<(), StorageError> {
        self.hand_in(Change::Truncate(index), None)
    }

    fn purge_through(&self, index: u64, purged_marker: Bytes) -> Result<(), StorageError> {
        {
            let inner = self.0.lock();
            if inner.view.is_purged && index < inner.view.start {
                return Ok(());
            }
        }
        self.hand_in(Change::Purge(index, purged_marker), None)
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Record>, StorageError> {
        let inner = self.0.lock();
        if let Some(error) = inner.stopped.clone() {
            return Err(StorageError::Stopped(Arc::new(error)));
        }
        let mut records = Vec::new();
        let mut bytes = 0;
        for index in range.start.max(inner.view.start)..range.end.min(inner.view.end()) {
            let Some(record) = inner.view.get(index) else { break };
            bytes += record.len();
            if !records.is_empty() && bytes > max_bytes {
                break;
            }
            records.push(Record {
                index,
                bytes: record.clone(),
            });
        }
        Ok(records)
    }

    fn read_recent(&self, range: Range<u64>, max_bytes: usize) -> Result<Option<Vec<Record>>, StorageError> {
        let recent = range.start + RECENT >= self.0.lock().view.end();
        recent.then(|| self.read(range, max_bytes)).transpose()
    }

    fn bounds(&self) -> (Option<u64>, Option<u64>) {
        let inner = self.0.lock();
        if inner.view.records.is_empty() {
            (None, None)
        } else {
            (Some(inner.view.start), Some(inner.view.end() - 1))
        }
    }
}

#[cfg(test)]
mod tests;
