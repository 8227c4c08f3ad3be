//! RocksDB: the only file that names it. Two column families, one writer; settings with their reasons.
//!
//! The log's records have a column family of their own: its files then hold nothing but consecutive records, sink to
//! the lowest level without being rewritten, and are deleted whole once they are purged.

use std::{
    error::Error,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRawIterator,
    DBRecoveryMode, ErrorKind, Options, ReadOptions, WriteBatch, WriteOptions,
    statistics::{StatsLevel, Ticker},
};

use super::{
    error::{Corruption, OpenError, StorageError, says_disk_full},
    record::{self, Marker, Record, START_KEY},
};

const LOG: &str = "log";
const MARKERS: &str = rocksdb::DEFAULT_COLUMN_FAMILY_NAME;
/// Blocks are read once, in sequence, so few are worth keeping.
const BLOCK_CACHE_BYTES: usize = 4 << 20;
/// Markers are a few hundred bytes, written over and over: flushed often, they leave little and take little memory.
const MARKERS_BUFFER_BYTES: usize = 1 << 20;
/// The write-ahead log that opening may have to replay, in write buffers.
const WAL_MAX_BUFFERS: u64 = 3;
/// Read at once when a range is read in sequence.
const READ_AHEAD_BYTES: usize = 1 << 20;
const INFO_LOG_MAX_BYTES: usize = 4 << 20;
const INFO_LOGS_MAX: usize = 4;
const MANIFEST_MAX_BYTES: usize = 4 << 20;
/// Table files are synced in pieces while they are written, so that their last sync doesn't hold up the log's.
const TABLE_SYNC_EVERY_BYTES: u64 = 1 << 20;

/// An open database.
pub(super) struct Database {
    db: DB,
    /// Holds the statistics.
    options: Options,
    path: PathBuf,
}

/// What is beside the log.
#[derive(Debug, Default)]
pub(super) struct Markers {
    /// In [`Marker::ALL`]'s order.
    pub(super) values: [Option<Bytes>; 4],
    /// Where the log begins.
    pub(super) start: u64,
}

/// Writes that take effect together or not at all.
pub(super) struct Batch<'a> {
    batch: WriteBatch,
    log: &'a ColumnFamily,
    value: Vec<u8>,
}

fn options(write_buffer_bytes: usize) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);

    // The default, point in time, takes a flipped bit in the middle for the end and drops in silence what follows.
    // This one refuses it and still takes a torn tail.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    // A closed write-ahead log that is missing or shorter than it was is found.
    options.set_track_and_verify_wals_in_manifest(true);
    options.set_paranoid_checks(true);

    // One thread writes; every other way to order writes only costs.
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    options.set_max_background_jobs(2);

    let buffer = u64::try_from(write_buffer_bytes).unwrap_or(u64::MAX);
    // The markers' few bytes would hold every old write-ahead log: beyond this they are flushed too.
    options.set_max_total_wal_size(buffer.saturating_mul(WAL_MAX_BUFFERS));
    options.set_bytes_per_sync(TABLE_SYNC_EVERY_BYTES);
    options.set_max_manifest_file_size(MANIFEST_MAX_BYTES);

    options.set_max_log_file_size(INFO_LOG_MAX_BYTES);
    options.set_keep_log_file_num(INFO_LOGS_MAX);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    // For the count of syncs: what RocksDB did, not what it was asked for.
    options.enable_statistics();
    options.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);

    table_options(&mut options, write_buffer_bytes);
    options
}

/// The settings of one column family.
fn table_options(options: &mut Options, write_buffer_bytes: usize) {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
    table.set_block_size(32 << 10);
    options.set_block_based_table_factory(&table);
    // A record is written to a table once, read rarely, and soon deleted: compressing it costs more than it saves.
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(write_buffer_bytes);
    options.set_max_write_buffer_number(3);
    // One table per flush, so that purging can delete it whole.
    options.set_target_file_size_base(u64::try_from(write_buffer_bytes).unwrap_or(u64::MAX));
}

impl Database {
    /// Opens the database in a directory, or creates it where `must_exist` is false. `torn` says where the
    /// write-ahead log breaks off, for the message if RocksDB refuses it.
    pub(super) fn open(
        path: &Path,
        write_buffer_bytes: usize,
        must_exist: bool,
        torn: Option<&str>,
    ) -> Result<Self, OpenError> {
        let mut options = options(write_buffer_bytes);
        options.create_if_missing(!must_exist);
        let mut log = Options::default();
        table_options(&mut log, write_buffer_bytes);
        let mut markers = Options::default();
        table_options(&mut markers, MARKERS_BUFFER_BYTES);
        let families = [
            ColumnFamilyDescriptor::new(MARKERS, markers),
            ColumnFamilyDescriptor::new(LOG, log),
        ];
        match DB::open_cf_descriptors(&options, path, families) {
            Ok(db) => Ok(Self {
                db,
                options,
                path: path.to_owned(),
            }),
            Err(error) => Err(open_error(path, &error, torn)),
        }
    }

    /// Reads all markers.
    pub(super) fn markers(&self) -> Result<Markers, StorageError> {
        let mut markers = Markers::default();
        for marker in Marker::ALL {
            markers.values[marker.position()] = self.marker(marker.key())?;
        }
        if let Some(start) = self.marker(START_KEY)? {
            let start = record::log_index(&start);
            markers.start = start.ok_or_else(|| self.corrupt_marker(START_KEY, "it is no log index"))?;
        }
        Ok(markers)
    }

    fn marker(&self, key: [u8; 1]) -> Result<Option<Bytes>, StorageError> {
        let value = self.db.get(key).map_err(|error| self.failed("read from", error))?;
        let decoded = value
            .map(|value| record::decode(&key, &value).map(Bytes::copy_from_slice))
            .transpose();
        decoded.map_err(|problem| self.corrupt_marker(key, problem))
    }

    fn corrupt_marker(&self, key: [u8; 1], problem: &'static str) -> StorageError {
        let place = format!("{}, marker '{}'", self.path.display(), key.escape_ascii());
        StorageError::Corrupt(Corruption::new(place, problem))
    }

    /// A view of the records from `range.start` on, as they are now: later writes and purges don't change it. Never
    /// looks below the range, where deleted ranges may lie.
    pub(super) fn records(&self, range: Range<u64>) -> Records<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(record::log_key(range.start));
        options.set_iterate_upper_bound(record::log_key(range.end));
        options.set_readahead_size(READ_AHEAD_BYTES);
        options.fill_cache(false);
        Records {
            rows: self.db.raw_iterator_cf_opt(self.log(), options),
            database: self,
            expected: range.start,
            started: false,
        }
    }

    /// Index of the first record that is still on the disk, purged or not.
    pub(super) fn first_on_disk(&self) -> Result<Option<u64>, StorageError> {
        let mut rows = self.db.raw_iterator_cf(self.log());
        rows.seek_to_first();
        rows.status().map_err(|error| self.failed("read from", error))?;
        Ok(rows.key().and_then(record::log_index))
    }

    /// An empty batch.
    pub(super) fn batch(&self, bytes: usize) -> Batch<'_> {
        Batch {
            batch: WriteBatch::with_capacity_bytes(bytes),
            log: self.log(),
            value: Vec::new(),
        }
    }

    /// Writes a batch; when it returns with `sync`, the batch and all before it survive a power cut.
    pub(super) fn write(&self, batch: Batch<'_>, sync: bool) -> Result<(), StorageError> {
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        let written = self.db.write_opt(batch.batch, &options);
        written.map_err(|error| self.failed("write to", error))
    }

    /// Gives the space of whole files back that hold only records before `end`. Those must be purged durably.
    pub(super) fn delete_files_before(&self, end: u64) -> Result<(), StorageError> {
        let deleted = self
            .db
            .delete_file_in_range_cf(self.log(), record::log_key(0), record::log_key(end));
        deleted.map_err(|error| self.failed("delete purged files in", error))
    }

    /// Syncs of the write-ahead log since opening.
    pub(super) fn sync_count(&self) -> u64 {
        self.options.get_ticker_count(Ticker::WalFileSynced)
    }

    /// Ends flushes and compactions and waits for them.
    pub(super) fn stop(&self) {
        self.db.cancel_all_background_work(true);
    }

    fn log(&self) -> &ColumnFamily {
        self.db
            .cf_handle(LOG)
            .expect("the column family was named when the database was opened")
    }

    fn failed(&self, action: &'static str, error: rocksdb::Error) -> StorageError {
        if error.kind() == ErrorKind::Corruption {
            return StorageError::Corrupt(Corruption::new(self.path.display().to_string(), error.into_string()));
        }
        StorageError::Failed {
            path: self.path.clone(),
            action,
            source: Arc::new(error),
        }
    }
}

fn open_error(path: &Path, error: &rocksdb::Error, torn: Option<&str>) -> OpenError {
    let message = error.to_string();
    let place = torn.map_or_else(|| path.display().to_string(), str::to_owned);
    let path = path.to_owned();
    let source: Arc<dyn Error + Send + Sync> = Arc::new(error.clone());
    match error.kind() {
        ErrorKind::Corruption => OpenError::Corrupt(Corruption::new(place, message)),
        // A file that the manifest names is gone, or the database is, although there was one.
        ErrorKind::InvalidArgument | ErrorKind::NotFound => OpenError::Corrupt(Corruption::new(place, message)),
        ErrorKind::IOError if says_disk_full(&message) => OpenError::DiskFull { path, source },
        ErrorKind::IOError if message.contains("No such file or directory") => {
            OpenError::Corrupt(Corruption::new(place, message))
        }
        ErrorKind::IOError if message.contains("lock") && message.contains("LOCK") => OpenError::InUse {
            path,
            holder: message.contains("current process").then(std::process::id),
        },
        _ => OpenError::Failed {
            path,
            action: "open the log in",
            source,
        },
    }
}

/// Records in sequence; ends at the first error.
pub(super) struct Records<'a> {
    rows: DBRawIterator<'a>,
    database: &'a Database,
    expected: u64,
    started: bool,
}

impl Records<'_> {
    /// The next record; `None` behind the last.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] for a damaged or missing record.
    pub(super) fn next(&mut self) -> Result<Option<Record>, StorageError> {
        if self.started {
            self.rows.next();
        } else {
            self.rows.seek_to_first();
            self.started = true;
        }
        let Some((key, value)) = self.rows.item() else {
            let ended = self.rows.status();
            return ended.map(|()| None).map_err(|error| self.unreadable(error));
        };
        let index = self.expected;
        match record::log_index(key) {
            Some(found) if found == index => {}
            Some(found) => return Err(self.corrupt(&format!("it is missing; the next one there is {found}"))),
            None => return Err(self.corrupt("there is a key that is no log index")),
        }
        let decoded = record::decode(key, value).map(Bytes::copy_from_slice);
        let bytes = decoded.map_err(|problem| self.corrupt(problem))?;
        self.expected += 1;
        Ok(Some(Record { index, bytes }))
    }

    /// That a record is missing which should be there.
    pub(super) fn missing(&self) -> StorageError {
        self.corrupt("it is missing")
    }

    fn corrupt(&self, problem: &str) -> StorageError {
        let place = format!("{}, log index {}", self.database.path.display(), self.expected);
        StorageError::Corrupt(Corruption::new(place, problem))
    }

    fn unreadable(&self, error: rocksdb::Error) -> StorageError {
        match error.kind() {
            ErrorKind::Corruption => self.corrupt(&error.into_string()),
            _ => self.database.failed("read from", error),
        }
    }
}

impl Batch<'_> {
    /// Puts a record.
    pub(super) fn put(&mut self, record: &Record) {
        let key = record::log_key(record.index);
        record::encode(&mut self.value, &key, &record.bytes);
        self.batch.put_cf(self.log, key, &self.value);
    }

    /// Deletes a range of records.
    pub(super) fn delete(&mut self, range: &Range<u64>) {
        if !range.is_empty() {
            self.batch
                .delete_range_cf(self.log, record::log_key(range.start), record::log_key(range.end));
        }
    }

    /// Puts a marker.
    pub(super) fn mark(&mut self, marker: Marker, bytes: &[u8]) {
        self.mark_key(marker.key(), bytes);
    }

    /// Says where the log begins.
    pub(super) fn mark_start(&mut self, start: u64) {
        self.mark_key(START_KEY, &record::log_key(start));
    }

    fn mark_key(&mut self, key: [u8; 1], bytes: &[u8]) {
        record::encode(&mut self.value, &key, bytes);
        self.batch.put(key, &self.value);
    }
}
