//! The log with its markers: a handle that any thread may use, over one writer thread and one database.
//!
//! Writes are put into a bounded queue and into memory, and are readable at once; they reach the disk in that order,
//! many under one sync. See [`super`] for what is promised.

use std::{
    fs, io,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle, ThreadId},
    time::Duration,
};

use bytes::Bytes;

use super::{
    data_dir::DataDir,
    database::{Database, Records},
    durable,
    error::{Corruption, OpenError, StorageError},
    log_state::{Found, LogState},
    log_writer::{Done, Inner, Operation, Shared},
    record::{Marker, Record},
    wal,
};

const DIRECTORY: &str = "log";
/// Says that there is a log: from then on it can't be missing, nor be begun anew without anyone noticing.
///
/// ```text
/// roster log 1
/// crc32c 89abcdef                 of all lines above
/// ```
const FORMAT_FILE: &str = "log-format";
const FORMAT_TITLE: &str = "roster log ";
const FORMAT: u32 = 1;

/// Operations that may wait to be written. An append beyond waits until the disk has taken some.
const QUEUE_MAX_OPERATIONS: usize = 65_536;
/// Bytes that may wait to be written.
const QUEUE_MAX_BYTES: usize = 64 << 20;
/// Purged records are invisible at once, and deleted when there are so many: a deleted range costs every read a little.
const DELETE_EVERY_RECORDS: u64 = 8_192;

/// How much memory a log may use.
#[derive(Clone, Copy, Debug)]
pub struct LogLimits {
    /// The newest records stay in memory up to this many bytes. More only while they wait for the disk.
    pub tail_max_bytes: usize,
    /// RocksDB's write buffer; three of them at most.
    pub write_buffer_bytes: usize,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self {
            tail_max_bytes: 2 << 20,
            write_buffer_bytes: 2 << 20,
        }
    }
}

/// How far the disk is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// Operations that wait.
    pub operations: usize,
    /// Their bytes.
    pub bytes: usize,
    /// How long the oldest write has been waiting or under way.
    pub oldest: Duration,
}

/// The log and the markers. Clones are handles of the same store; the last one closes it.
#[derive(Clone)]
pub struct LogStore {
    owner: Arc<Owner>,
}

/// Ends the writer when the last handle goes.
struct Owner {
    shared: Arc<Shared>,
    writer: Mutex<Option<JoinHandle<()>>>,
    writer_id: ThreadId,
    /// Keeps the directory this process's own.
    _data_dir: DataDir,
}

impl std::fmt::Debug for LogStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogStore")
            .field("bounds", &self.bounds())
            .finish_non_exhaustive()
    }
}

impl LogStore {
    /// Opens the log in a data directory, or makes an empty one, with the usual limits. Reads the whole log once, so
    /// it takes time: about a second for each GB.
    ///
    /// `on_fatal` is called once, at the first failed write or sync or the first damaged record; from then on every
    /// operation answers [`StorageError::Stopped`]. The process must end: what was under way may or may not be on the
    /// disk, and only reading the disk again tells.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`] for damage anywhere but in the torn tail of the write-ahead log, with its place.
    pub fn open(
        data_dir: &DataDir,
        on_fatal: impl Fn(StorageError) + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        Self::open_with(data_dir, LogLimits::default(), on_fatal)
    }

    /// [`LogStore::open`] with other limits.
    ///
    /// # Errors
    /// As [`LogStore::open`].
    pub fn open_with(
        data_dir: &DataDir,
        limits: LogLimits,
        on_fatal: impl Fn(StorageError) + Send + Sync + 'static,
    ) -> Result<Self, OpenError> {
        let path = data_dir.path().join(DIRECTORY);
        let must_exist = check_format(&data_dir.path().join(FORMAT_FILE))?;
        let torn = inspect(&path, must_exist)?;
        let database = Arc::new(Database::open(
            &path,
            limits.write_buffer_bytes,
            must_exist,
            torn.as_deref(),
        )?);
        let inner = load(&database, limits)?;
        if !must_exist {
            let text = durable::with_checksum(format!("{FORMAT_TITLE}{FORMAT}\n"));
            durable::write_whole(data_dir.path(), FORMAT_FILE, text.as_bytes())
                .map_err(|error| OpenError::io(&data_dir.path().join(FORMAT_FILE), "write", error))?;
        }

        let shared = Arc::new(Shared::new(inner, Box::new(on_fatal)));
        let writer = thread::Builder::new().name("log-writer".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run_writer(&database)
        });
        let writer = writer.map_err(|error| OpenError::io(&path, "start the writer of", error))?;
        Ok(Self {
            owner: Arc::new(Owner {
                shared,
                writer_id: writer.thread().id(),
                writer: Mutex::new(Some(writer)),
                _data_dir: data_dir.clone(),
            }),
        })
    }

    /// Puts records at the end. They are readable when this returns; `done` is called after the sync, in the order
    /// of the calls. Only enqueues, unless 65,536 operations or 64 MiB wait for the disk: then it waits for room.
    ///
    /// `done` gets [`StorageError::Order`], and nothing is appended, when the records don't follow the last one or
    /// each other. An empty log that nothing was purged from may begin anywhere. Without records, `done` tells when
    /// everything before is on the disk.
    pub fn append(&self, records: Vec<Record>, done: Done) {
        let mut inner = self.with_room();
        let appended = match inner.refusal() {
            Some(refusal) => Err(refusal),
            None => {
                let sequence = inner.next_sequence();
                inner.log.append(&records, sequence)
            }
        };
        match appended {
            Ok(moves_start) => {
                inner.deleted_before = inner.deleted_before.min(inner.log.range().start);
                let operation = Operation::Append {
                    records,
                    moves_start,
                    done,
                };
                self.owner.shared.enqueue(inner, operation);
            }
            Err(refusal) => {
                drop(inner);
                done(Err(refusal));
            }
        }
    }

    /// Writes a marker, in sequence with all other writes. With `done`, which is called after the sync, it is written
    /// at once; without, it goes along with the next write that is synced, and a crash before may lose it.
    /// [`Marker::Purged`] is written by [`LogStore::purge_through`] alone: here it is refused.
    pub fn set_marker(&self, marker: Marker, bytes: Bytes, done: Option<Done>) {
        let mut inner = self.with_room();
        let refusal = match marker {
            Marker::Purged => Some(StorageError::Misused("the purged marker is written by a purge alone")),
            Marker::Vote | Marker::Committed | Marker::Acknowledged => inner.refusal(),
        };
        match (refusal, done) {
            (None, done) => {
                inner.markers[marker.position()] = Some(bytes.clone());
                self.owner
                    .shared
                    .enqueue(inner, Operation::Mark { marker, bytes, done });
            }
            (Some(refusal), Some(done)) => {
                drop(inner);
                done(Err(refusal));
            }
            // Nobody waits for it, and whoever writes something that matters is told.
            (Some(_), None) => {}
        }
    }

    /// The latest value that was given for a marker, on the disk or not.
    #[must_use]
    pub fn marker(&self, marker: Marker) -> Option<Bytes> {
        self.owner.shared.lock().markers[marker.position()].clone()
    }

    /// Takes all records from `index` on away. They are unreadable when this returns; the disk follows before any
    /// later append is confirmed. Only enqueues.
    ///
    /// # Errors
    /// The store is stopped or closed.
    pub fn truncate_from(&self, index: u64) -> Result<(), StorageError> {
        let mut inner = self.with_room();
        if let Some(refusal) = inner.refusal() {
            return Err(refusal);
        }
        let gone = inner.log.truncate_from(index);
        if !gone.is_empty() {
            self.owner.shared.enqueue(inner, Operation::Truncate(gone));
        }
        Ok(())
    }

    /// Takes all records through `index` away, which may lie beyond the last: then the next record follows `index`.
    /// `purged_marker` becomes the value of [`Marker::Purged`] in the same write. The snapshot that covers them must
    /// be durable. They are unreadable when this returns, though reads under way still finish. Only enqueues; the
    /// space is given back later, many records at a time. Purging what is purged already does nothing.
    ///
    /// # Errors
    /// The store is stopped or closed.
    pub fn purge_through(&self, index: u64, purged_marker: Bytes) -> Result<(), StorageError> {
        if index >= u64::MAX - 1 {
            return Err(StorageError::Misused("a purge through the largest index"));
        }
        let mut inner = self.with_room();
        if let Some(refusal) = inner.refusal() {
            return Err(refusal);
        }
        if inner.log.is_purged() && index < inner.log.range().start {
            return Ok(());
        }
        inner.log.purge_through(index);
        inner.markers[Marker::Purged.position()] = Some(purged_marker.clone());
        let range = inner.log.range();
        let due = range.is_empty() || range.start.saturating_sub(inner.deleted_before) >= DELETE_EVERY_RECORDS;
        let delete = if due {
            std::mem::replace(&mut inner.deleted_before, range.start)..range.start
        } else {
            0..0
        };
        let purge = Operation::Purge {
            start: range.start,
            marker: purged_marker,
            delete,
        };
        self.owner.shared.enqueue(inner, purge);
        Ok(())
    }

    /// The records of a range, in sequence, from its start or the first that there is: all of them, or as many as fit
    /// `max_bytes`, but at least one if there is one. Blocks for the disk when the range reaches back beyond what is
    /// in memory: async callers try [`LogStore::read_recent`] first and call this on a thread for blocking work.
    ///
    /// # Errors
    /// The store is stopped or closed; [`StorageError::Corrupt`] for a damaged record, which stops the store.
    pub fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Record>, StorageError> {
        let shared = &self.owner.shared;
        let database;
        let (mut rows, found) = {
            let inner = shared.lock();
            if let Some(refusal) = inner.refusal() {
                return Err(refusal);
            }
            let found = inner.log.find(&range, max_bytes);
            if found.disk.is_empty() {
                return Ok(found.tail);
            }
            database = inner.database.clone().ok_or(StorageError::Closed)?;
            // The view is taken under the lock, so that it fits what was found in memory.
            (database.records(found.disk.clone()), found)
        };
        collect(&mut rows, found, max_bytes).inspect_err(|error| shared.fail(error))
    }

    /// [`LogStore::read`] that never touches the disk: `None` when it would have to.
    ///
    /// # Errors
    /// The store is stopped or closed.
    pub fn read_recent(&self, range: Range<u64>, max_bytes: usize) -> Result<Option<Vec<Record>>, StorageError> {
        let inner = self.owner.shared.lock();
        if let Some(refusal) = inner.refusal() {
            return Err(refusal);
        }
        let found = inner.log.find(&range, max_bytes);
        Ok(found.disk.is_empty().then_some(found.tail))
    }

    /// Index of the first and the last record, durable or not.
    #[must_use]
    pub fn bounds(&self) -> (Option<u64>, Option<u64>) {
        let range = self.owner.shared.lock().log.range();
        if range.is_empty() {
            (None, None)
        } else {
            (Some(range.start), Some(range.end - 1))
        }
    }

    /// The last index that was purged.
    #[must_use]
    pub fn purged_through(&self) -> Option<u64> {
        let inner = self.owner.shared.lock();
        if inner.log.is_purged() {
            inner.log.range().start.checked_sub(1)
        } else {
            None
        }
    }

    /// The last record that a power cut would leave, of the log as it reads now; `None` when it would leave none.
    #[must_use]
    pub fn durable_last_index(&self) -> Option<u64> {
        let inner = self.owner.shared.lock();
        let durable = inner.log.durable();
        (durable > inner.log.range().start).then(|| durable - 1)
    }

    /// About how many bytes the records behind `index` have; off by 256 KiB at most, or a large record.
    #[must_use]
    pub fn bytes_since(&self, index: u64) -> u64 {
        self.owner.shared.lock().log.bytes_from(index.saturating_add(1))
    }

    /// Syncs of the log's file since it was opened, as RocksDB counts them.
    #[must_use]
    pub fn sync_count(&self) -> u64 {
        let inner = self.owner.shared.lock();
        inner
            .database
            .as_ref()
            .map_or(inner.syncs_at_close, |database| database.sync_count())
    }

    /// How far the disk is behind: to refuse work early, and to notice a disk that hangs.
    #[must_use]
    pub fn pressure(&self) -> Pressure {
        let inner = self.owner.shared.lock();
        let (operations, bytes) = inner.queued();
        Pressure {
            operations,
            bytes,
            oldest: inner.oldest().map_or(Duration::ZERO, |since| since.elapsed()),
        }
    }

    /// Writes and syncs what waits, and closes the database; when it returns, the log may be opened again (unless a
    /// read is under way on another thread). Blocks. Other handles then answer [`StorageError::Closed`].
    ///
    /// # Errors
    /// The failure that stopped the store, now or before.
    pub fn flush_and_close(&self) -> Result<(), StorageError> {
        self.owner.end();
        self.owner.shared.lock().failed.clone().map_or(Ok(()), Err)
    }

    fn with_room(&self) -> MutexGuard<'_, Inner> {
        let shared = &self.owner.shared;
        let mut inner = shared.lock();
        let on_writer = thread::current().id() == self.owner.writer_id;
        let is_full = |inner: &Inner| {
            let (operations, bytes) = inner.queued();
            operations >= QUEUE_MAX_OPERATIONS || bytes >= QUEUE_MAX_BYTES
        };
        // The writer itself would wait for itself.
        while !on_writer && is_full(&inner) && inner.refusal().is_none() {
            inner.room_wanted += 1;
            inner = shared.room.wait(inner).unwrap_or_else(PoisonError::into_inner);
            inner.room_wanted -= 1;
        }
        inner
    }
}

impl Owner {
    fn end(&self) {
        self.shared.close();
        // A callback may drop the last handle: then the writer ends by itself.
        if thread::current().id() == self.writer_id {
            return;
        }
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // A panic of `done` is caught and stops the store; this is one of `on_fatal`, which was to end the process.
        if writer.take().is_some_and(|writer| writer.join().is_err()) {
            tracing::error!("the log's writer panicked while it reported a failure");
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.end();
    }
}

fn collect(rows: &mut Records<'_>, found: Found, max_bytes: usize) -> Result<Vec<Record>, StorageError> {
    let mut records = Vec::new();
    let mut bytes = 0_usize;
    let mut fits = |record: &Record, first: bool| {
        bytes = bytes.saturating_add(record.bytes.len());
        first || bytes <= max_bytes
    };
    for _ in found.disk {
        let record = rows.next()?.ok_or_else(|| rows.missing())?;
        if !fits(&record, records.is_empty()) {
            return Ok(records);
        }
        records.push(record);
    }
    for record in found.tail {
        if !fits(&record, records.is_empty()) {
            break;
        }
        records.push(record);
    }
    Ok(records)
}

/// Whether there must be a log.
fn check_format(path: &Path) -> Result<bool, OpenError> {
    let corrupt = |problem| OpenError::Corrupt(Corruption::new(path.display().to_string(), problem));
    let text = match fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(OpenError::io(path, "read", error)),
    };
    let body = durable::without_checksum(&text).ok_or_else(|| corrupt("its checksum is wrong"))?;
    let format = body.lines().next().and_then(|line| line.strip_prefix(FORMAT_TITLE));
    match format.and_then(|format| format.parse().ok()) {
        Some(FORMAT) => Ok(true),
        Some(found) if found > FORMAT => Err(OpenError::Newer {
            path: path.to_owned(),
            found,
            known: FORMAT,
        }),
        _ => Err(corrupt("it has no title")),
    }
}

/// Looks at the write-ahead logs; returns where the newest breaks off, if it does.
fn inspect(path: &Path, must_exist: bool) -> Result<Option<String>, OpenError> {
    let exists = path
        .try_exists()
        .map_err(|error| OpenError::io(path, "look at", error))?;
    if must_exist && !(exists && path.join("CURRENT").exists()) {
        let problem = "the log is gone, although this node had one";
        return Err(OpenError::Corrupt(Corruption::new(path.display().to_string(), problem)));
    }
    if !exists {
        return Ok(None);
    }
    // There is always one: the next is made before the last is removed.
    if must_exist && wal::files(path)?.is_empty() {
        let problem = "the write-ahead log is gone: there is no file *.log";
        return Err(OpenError::Corrupt(Corruption::new(path.display().to_string(), problem)));
    }
    wal::inspect(path)
}

/// Reads markers and log, and with that checks every record: index, checksum, no gap.
fn load(database: &Arc<Database>, limits: LogLimits) -> Result<Inner, StorageError> {
    let markers = database.markers()?;
    let purged = markers.values[Marker::Purged.position()].is_some();
    let mut log = LogState::new(markers.start, purged, limits.tail_max_bytes);
    let mut rows = database.records(markers.start..u64::MAX);
    while let Some(record) = rows.next()? {
        log.load(record);
    }
    drop(rows);
    let deleted_before = database.first_on_disk()?.unwrap_or(markers.start).min(markers.start);
    Ok(Inner::new(log, markers.values, deleted_before, Arc::clone(database)))
}
