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
    wire::internal::{LogRecord, PeerLog, Vote},
};
use tokio::sync::Notify;

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
    slow: Option<Duration>,
    frozen: bool,
    /// The next sync fails.
    fails: bool,
    stopped: Option<StorageError>,
    purged: BTreeMap<u64, Bytes>,
    rng: StdRng,
    syncs: u64,
}

/// What a log holds.
#[derive(Clone, Debug, Default)]
struct Image {
    start: u64,
    is_purged: bool,
    records: VecDeque<Bytes>,
    markers: BTreeMap<u8, Bytes>,
}

#[derive(Debug)]
struct Waiting {
    since: Duration,
    change: Change,
    done: Option<NoDebug>,
}

#[derive(Debug)]
enum Change {
    Append(Vec<Record>),
    Truncate(u64),
    Purge(u64, Bytes),
    Mark(Marker, Bytes),
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

impl Image {
    fn end(&self) -> u64 {
        self.start + self.records.len() as u64
    }

    fn get(&self, index: u64) -> Option<&Bytes> {
        let at = usize::try_from(index.checked_sub(self.start)?).ok()?;
        self.records.get(at)
    }

    /// Through which index the records that a purge takes away were committed: all of them, if the log holds the very
    /// record that it purges through; else a snapshot took the place of a log that went another way.
    fn committed_before(&self, index: u64, marker: &Bytes) -> u64 {
        let id = |bytes: &Bytes| PeerLog::decode(bytes.as_ref()).ok().and_then(|marked| marked.log_id);
        let term = |bytes: &Bytes| LogRecord::decode(bytes.as_ref()).ok().map(|record| record.term);
        let purged = id(marker).map(|id| id.term);
        if purged.is_some() && self.get(index).and_then(term) == purged {
            return index;
        }
        let committed = self.markers.get(&place(Marker::Committed)).and_then(id);
        committed.map_or(0, |id| id.index)
    }

    /// Does what was asked; what a purge takes away, and was committed, is handed out.
    fn apply(&mut self, change: &Change) -> Vec<(u64, Bytes)> {
        let mut gone = Vec::new();
        match change {
            Change::Append(records) => {
                if let (true, Some(first)) = (self.records.is_empty(), records.first()) {
                    self.start = first.index;
                }
                self.records.extend(records.iter().map(|record| record.bytes.clone()));
            }
            Change::Truncate(index) => {
                let keep = usize::try_from(index.saturating_sub(self.start)).unwrap_or(usize::MAX);
                self.records.truncate(keep);
            }
            Change::Purge(index, marker) => {
                let committed = self.committed_before(*index, marker);
                while self.start <= *index
                    && let Some(record) = self.records.pop_front()
                {
                    if self.start <= committed {
                        gone.push((self.start, record));
                    }
                    self.start += 1;
                }
                self.start = index + 1;
                self.is_purged = true;
                self.markers.insert(place(Marker::Purged), marker.clone());
            }
            Change::Mark(marker, bytes) => {
                self.markers.insert(place(*marker), bytes.clone());
            }
        }
        gone
    }
}

fn place(marker: Marker) -> u8 {
    match marker {
        Marker::Vote => 0,
        Marker::Committed => 1,
        Marker::Purged => 2,
        Marker::Acknowledged => 3,
    }
}

impl Disk {
    /// An empty one; its syncs take as long as `seed` says.
    pub(super) fn new(seed: u64) -> Self {
        let inner = Inner {
            platter: Image::default(),
            view: Image::default(),
            queue: VecDeque::new(),
            life: 0,
            slow: None,
            frozen: false,
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

    /// Each sync takes this long; `None` = as usual.
    pub(super) fn set_slow(&self, slow: Option<Duration>) {
        self.lock().slow = slow;
    }

    /// Syncs under way end when it thaws.
    pub(super) fn set_frozen(&self, frozen: bool) {
        self.lock().frozen = frozen;
        self.work.notify_one();
    }

    /// The next sync fails, and nothing is written after it until the node is started again.
    pub(super) fn fail_next_sync(&self) {
        self.lock().fails = true;
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
            inner.slow.map_or(usual, |slow| slow + usual)
        };
        tokio::time::sleep(takes).await;
        loop {
            let thawed = self.work.notified();
            if !self.lock().frozen {
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
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn record(index: u64) -> Record {
        Record {
            index,
            bytes: Bytes::from(format!("record {index}")),
        }
    }

    /// Appends one record; says how it ended.
    fn append(log: &SimulatedLog, index: u64) -> oneshot::Receiver<Result<(), StorageError>> {
        let (done, outcome) = oneshot::channel();
        let done: Done = Box::new(move |result| drop(done.send(result)));
        log.append(vec![record(index)], done);
        outcome
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_confirmed_survives_a_crash_and_what_was_not_may() {
        let mut survived = 0;
        for seed in 0..40 {
            let disk = Disk::new(seed);
            let log = disk.open();
            append(&log, 1).await.unwrap().unwrap();
            let _never_confirmed = append(&log, 2);
            assert_eq!(log.bounds(), (Some(1), Some(2)), "it is readable at once");
            disk.crash();
            let log = disk.open();
            assert_eq!(log.read(1..2, 100).unwrap(), [record(1)], "seed {seed}");
            survived += u32::from(log.bounds().1 == Some(2));
        }
        assert!((1..40).contains(&survived), "{survived} of 40");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_confirmed_after_a_failed_sync_until_it_is_opened_again() {
        let disk = Disk::new(1);
        let log = disk.open();
        append(&log, 1).await.unwrap().unwrap();
        disk.fail_next_sync();
        append(&log, 2).await.unwrap().unwrap_err();
        append(&log, 3).await.unwrap().unwrap_err();
        log.truncate_from(1).unwrap_err();
        disk.wait_failed().await;
        disk.crash();
        let log = disk.open();
        let next = log.bounds().1.unwrap() + 1;
        append(&log, next).await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_frozen_disk_confirms_when_it_thaws() {
        let disk = Disk::new(1);
        let log = disk.open();
        disk.set_frozen(true);
        let mut outcome = append(&log, 1);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert!(outcome.try_recv().is_err());
        assert_eq!(disk.holding(1), Holding::Nothing);
        disk.set_frozen(false);
        outcome.await.unwrap().unwrap();
        assert_eq!(disk.holding(1), Holding::Record(record(1).bytes));
    }

    #[tokio::test(start_paused = true)]
    async fn records_that_a_snapshot_replaced_are_no_witness() {
        let marker = |term: u64, index: u64| {
            let log_id = roster::wire::internal::LogId {
                term,
                leader_id: 1,
                index,
            };
            let marked = PeerLog {
                node_id: 0,
                log_id: Some(log_id),
            };
            Bytes::from(marked.encode_to_vec())
        };
        let of_term = |term: u64, index: u64| Record {
            index,
            bytes: LogRecord {
                term,
                index,
                ..LogRecord::default()
            }
            .encode_to_vec()
            .into(),
        };
        for (purged_term, kept) in [(1, vec![1, 2, 3]), (2, vec![1])] {
            let disk = Disk::new(1);
            let log = disk.open();
            log.set_marker(Marker::Committed, marker(1, 1), None);
            let (done, outcome) = oneshot::channel();
            let done: Done = Box::new(move |result| drop(done.send(result)));
            log.append((1..=3).map(|index| of_term(1, index)).collect(), done);
            outcome.await.unwrap().unwrap();
            log.purge_through(3, marker(purged_term, 3)).unwrap();
            append(&log, 4).await.unwrap().unwrap();
            let archived: Vec<u64> = disk.archive(3).into_keys().collect();
            assert_eq!(archived, kept);
        }
    }
}
