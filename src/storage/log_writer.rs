//! The one thread that writes: it takes what waits, makes one batch of it, writes and syncs it once, and then
//! confirms each operation in the order in which they came. A failed write ends it for good.

use std::{
    collections::VecDeque,
    ops::Range,
    panic::{self, AssertUnwindSafe},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use bytes::Bytes;

use super::{
    database::{Batch, Database},
    error::StorageError,
    log_state::LogState,
    record::{Marker, Record},
};

/// Operations that one sync covers.
const BATCH_MAX_OPERATIONS: usize = 4_096;
/// Bytes that one sync covers; a larger operation goes alone.
const BATCH_MAX_BYTES: usize = 8 << 20;
/// Operations that need no sync wait for one that does, until they are so many.
const UNHURRIED_MAX: usize = 64;
/// What an operation counts beside its bytes.
const OPERATION_OVERHEAD_BYTES: usize = 64;

/// Called once with the outcome of a write, on the writer's thread, after the sync; later writes wait for it to
/// return, so it must be quick. It must not wait for another write of the same store.
pub type Done = Box<dyn FnOnce(Result<(), StorageError>) + Send>;

/// Called at the first failure.
pub(super) type OnFatal = Box<dyn FnOnce(StorageError) + Send>;

/// What is to be written.
pub(super) enum Operation {
    Append {
        records: Vec<Record>,
        /// The log begins with these, at another place than before.
        moves_start: bool,
        done: Done,
    },
    Truncate(Range<u64>),
    Purge {
        start: u64,
        marker: Bytes,
        delete: Range<u64>,
    },
    Mark {
        marker: Marker,
        bytes: Bytes,
        done: Option<Done>,
    },
}

impl Operation {
    fn bytes(&self) -> usize {
        OPERATION_OVERHEAD_BYTES
            + match self {
                Self::Append { records, .. } => records
                    .iter()
                    .map(|record| record.bytes.len() + OPERATION_OVERHEAD_BYTES)
                    .sum(),
                Self::Mark { bytes, .. } | Self::Purge { marker: bytes, .. } => bytes.len(),
                Self::Truncate(_) => 0,
            }
    }

    /// Whether somebody waits for the sync. Truncated records were never confirmed as such: the truncation goes with
    /// the next append. Files are deleted after a purge, which must not be undone by a power cut then.
    fn needs_sync(&self) -> bool {
        match self {
            Self::Append { .. } | Self::Purge { .. } => true,
            Self::Truncate(_) => false,
            Self::Mark { done, .. } => done.is_some(),
        }
    }

    fn write_to(&self, batch: &mut Batch<'_>) {
        match self {
            Self::Append {
                records, moves_start, ..
            } => {
                if let (true, Some(first)) = (moves_start, records.first()) {
                    batch.mark_start(first.index);
                }
                records.iter().for_each(|record| batch.put(record));
            }
            Self::Truncate(gone) => batch.delete(gone),
            Self::Purge { start, marker, delete } => {
                batch.mark_start(*start);
                batch.mark(Marker::Purged, marker);
                batch.delete(delete);
            }
            Self::Mark { marker, bytes, .. } => batch.mark(*marker, bytes),
        }
    }

    fn into_done(self) -> Option<Done> {
        match self {
            Self::Append { done, .. } => Some(done),
            Self::Mark { done, .. } => done,
            Self::Truncate(_) | Self::Purge { .. } => None,
        }
    }
}

struct Waiting {
    sequence: u64,
    bytes: usize,
    since: Instant,
    operation: Operation,
}

fn oldest_hurried<'a>(mut waiting: impl Iterator<Item = &'a Waiting>) -> Option<Instant> {
    waiting
        .find(|waiting| waiting.operation.needs_sync())
        .map(|waiting| waiting.since)
}

/// What is kept under one lock: the log as it reads now, and what waits to be written.
pub(super) struct Inner {
    pub(super) log: LogState,
    pub(super) markers: [Option<Bytes>; 4],
    /// Purged records before this index are deleted from the disk, or their deletion waits.
    pub(super) deleted_before: u64,
    pub(super) failed: Option<StorageError>,
    /// Writes still waiting are written; new ones are refused.
    pub(super) closing: bool,
    /// `None` once closed.
    pub(super) database: Option<Arc<Database>>,
    pub(super) syncs_at_close: u64,
    queue: VecDeque<Waiting>,
    queued_bytes: usize,
    hurried: usize,
    sequence: u64,
    writing_since: Option<Instant>,
    /// The writer has nothing to do until it is woken: a call of the system that others are spared.
    writer_waits: bool,
    /// Callers that wait for room.
    pub(super) room_wanted: usize,
}

impl Inner {
    pub(super) fn new(
        log: LogState,
        markers: [Option<Bytes>; 4],
        deleted_before: u64,
        database: Arc<Database>,
    ) -> Self {
        Self {
            log,
            markers,
            deleted_before,
            failed: None,
            closing: false,
            database: Some(database),
            syncs_at_close: 0,
            queue: VecDeque::new(),
            queued_bytes: 0,
            hurried: 0,
            sequence: 0,
            writing_since: None,
            writer_waits: false,
            room_wanted: 0,
        }
    }

    /// Why nothing can be done any more, if so.
    pub(super) fn refusal(&self) -> Option<StorageError> {
        match &self.failed {
            Some(failed) => Some(StorageError::Stopped(Arc::new(failed.clone()))),
            None if self.closing => Some(StorageError::Closed),
            None => None,
        }
    }

    /// The number that the next operation gets.
    pub(super) fn next_sequence(&self) -> u64 {
        self.sequence + 1
    }

    pub(super) fn queued(&self) -> (usize, usize) {
        (self.queue.len(), self.queued_bytes)
    }

    /// Since when the oldest write that somebody waits for is waiting or under way. Markers that may wait for company
    /// are nobody's concern, however long they stand in the queue.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.writing_since.or_else(|| oldest_hurried(self.queue.iter()))
    }

    fn enqueue(&mut self, operation: Operation) {
        let unhurried = |operation: &Operation| match operation {
            Operation::Mark { marker, done: None, .. } => Some(*marker),
            _ => None,
        };
        self.sequence += 1;
        let bytes = operation.bytes();
        // Of several values for one marker in a row only the last matters.
        if let (Some(marker), Some(last)) = (unhurried(&operation), self.queue.back_mut())
            && unhurried(&last.operation) == Some(marker)
        {
            self.queued_bytes = self.queued_bytes - last.bytes + bytes;
            last.sequence = self.sequence;
            last.bytes = bytes;
            last.operation = operation;
            return;
        }
        self.hurried += usize::from(operation.needs_sync());
        self.queued_bytes += bytes;
        self.queue.push_back(Waiting {
            sequence: self.sequence,
            bytes,
            since: Instant::now(),
            operation,
        });
    }

    fn is_due(&self) -> bool {
        self.hurried > 0 || self.queue.len() >= UNHURRIED_MAX || self.closing
    }

    /// Takes what one sync covers.
    fn take_batch(&mut self) -> Vec<Waiting> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while let Some(first) = self.queue.front() {
            if taken.len() == BATCH_MAX_OPERATIONS || (!taken.is_empty() && bytes + first.bytes > BATCH_MAX_BYTES) {
                break;
            }
            bytes += first.bytes;
            self.queued_bytes -= first.bytes;
            self.hurried -= usize::from(first.operation.needs_sync());
            taken.extend(self.queue.pop_front());
        }
        taken
    }
}

/// What the handles and the writer share.
pub(super) struct Shared {
    inner: Mutex<Inner>,
    /// There is something to write.
    work: Condvar,
    /// Something was taken out of the queue.
    pub(super) room: Condvar,
    on_fatal: Mutex<Option<OnFatal>>,
}

impl Shared {
    pub(super) fn new(inner: Inner, on_fatal: OnFatal) -> Self {
        Self {
            inner: Mutex::new(inner),
            work: Condvar::new(),
            room: Condvar::new(),
            on_fatal: Mutex::new(Some(on_fatal)),
        }
    }

    /// A thread that panicked while it held the lock left the state whole: each change of it is complete before
    /// anything that could panic.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enqueue(&self, mut inner: MutexGuard<'_, Inner>, operation: Operation) {
        inner.enqueue(operation);
        let wake = inner.is_due() && std::mem::take(&mut inner.writer_waits);
        // Or the writer would wake up only to wait for the lock.
        drop(inner);
        if wake {
            self.work.notify_one();
        }
    }

    /// Refuses new writes; what waits is still written.
    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_all();
        self.room.notify_all();
    }

    /// Stops the store for good: reports the first failure, and fails whatever waits.
    pub(super) fn fail(&self, error: &StorageError) {
        let waiting = {
            let mut inner = self.lock();
            if inner.failed.is_some() {
                return;
            }
            inner.failed = Some(error.clone());
            inner.hurried = 0;
            inner.queued_bytes = 0;
            std::mem::take(&mut inner.queue)
        };
        self.room.notify_all();
        self.work.notify_all();
        let on_fatal = self.on_fatal.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(on_fatal) = on_fatal {
            on_fatal(error.clone());
        }
        let stopped = StorageError::Stopped(Arc::new(error.clone()));
        confirm(waiting, &Err(stopped));
    }

    /// The writer's life. Ends when the store is closed and all is written, or at the first failure.
    pub(super) fn run_writer(&self, database: &Database) {
        let outcome = panic::catch_unwind(AssertUnwindSafe(|| while self.write_next(database) {}));
        if outcome.is_err() {
            self.fail(&StorageError::Misused("a callback of the log's writer panicked"));
        }
        database.stop();
        let mut inner = self.lock();
        inner.closing = true;
        inner.syncs_at_close = database.sync_count();
        inner.database = None;
    }

    /// Writes one batch; false when there will be no more.
    fn write_next(&self, database: &Database) -> bool {
        let (batch, last, wanted) = {
            let mut inner = self.lock();
            while !inner.is_due() && inner.failed.is_none() {
                inner.writer_waits = true;
                inner = self.work.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
            inner.writer_waits = false;
            if inner.failed.is_some() {
                return false;
            }
            let batch = inner.take_batch();
            inner.writing_since = Some(oldest_hurried(batch.iter()).unwrap_or_else(Instant::now));
            (batch, inner.closing && inner.queue.is_empty(), inner.room_wanted > 0)
        };
        if wanted {
            self.room.notify_all();
        }
        let Some(newest) = batch.last().map(|waiting| waiting.sequence) else {
            self.lock().writing_since = None;
            return !last;
        };

        let sync = last || batch.iter().any(|waiting| waiting.operation.needs_sync());
        // Plant: what waits for the disk is told that it is there.
        let written = write(database, &batch, planted!("log-sync-skipped", false, sync));
        // Plant: a failed write or sync is shrugged off.
        planted!("write-error-ignored", let written = written.or(Ok(())));
        {
            let mut inner = self.lock();
            inner.writing_since = None;
            if sync && written.is_ok() {
                inner.log.synced(newest);
            }
        }
        if let Err(error) = &written {
            self.fail(error);
        }
        confirm(batch, &written);
        written.is_ok() && !last
    }
}

fn write(database: &Database, waiting: &[Waiting], sync: bool) -> Result<(), StorageError> {
    let mut batch = database.batch(waiting.iter().map(|waiting| waiting.bytes).sum());
    for waiting in waiting {
        waiting.operation.write_to(&mut batch);
    }
    database.write(batch, sync)?;
    let purged = waiting.iter().filter_map(|waiting| match &waiting.operation {
        Operation::Purge { delete, .. } if !delete.is_empty() => Some(delete.end),
        _ => None,
    });
    purged.max().map_or(Ok(()), |end| database.delete_files_before(end))
}

fn confirm(waiting: impl IntoIterator<Item = Waiting>, outcome: &Result<(), StorageError>) {
    for waiting in waiting {
        if let Some(done) = waiting.operation.into_done() {
            done(outcome.clone());
        }
    }
}
