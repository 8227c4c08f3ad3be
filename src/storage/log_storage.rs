//! What a log must do for those who rest on it, whatever keeps its bytes: [`LogStore`] on a disk, or the simulated disk
//! of a test.

use std::{fmt::Debug, ops::Range};

use bytes::Bytes;

use super::{
    error::StorageError,
    log_store::LogStore,
    log_writer::Done,
    record::{Marker, Record},
};

/// A log of opaque records with its markers. What is handed in is readable at once and takes effect on the disk in the
/// order of the calls; `done` is called once that is synced. After a failed write nothing is confirmed any more.
/// [`LogStore`]'s methods of the same names say each in full.
pub trait LogStorage: Debug + Send + Sync + 'static {
    /// Puts records at the end. Without any, `done` tells when everything that was handed in before is on the disk.
    fn append(&self, records: Vec<Record>, done: Done);

    /// Writes a marker; without `done` it goes along with the next write that is synced.
    fn set_marker(&self, marker: Marker, bytes: Bytes, done: Option<Done>);

    /// The latest value that was given for a marker, on the disk or not.
    fn marker(&self, marker: Marker) -> Option<Bytes>;

    /// Takes all records from `index` on away.
    ///
    /// # Errors
    /// The store is stopped or closed.
    fn truncate_from(&self, index: u64) -> Result<(), StorageError>;

    /// Takes all records through `index` away, and sets [`Marker::Purged`] in the same write.
    ///
    /// # Errors
    /// The store is stopped or closed.
    fn purge_through(&self, index: u64, purged_marker: Bytes) -> Result<(), StorageError>;

    /// The records of a range, as many as fit `max_bytes`, but at least one if there is one. May block for the disk.
    ///
    /// # Errors
    /// The store is stopped or closed, or a record is damaged.
    fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Record>, StorageError>;

    /// [`LogStorage::read`] that never blocks: `None` when it would have to.
    ///
    /// # Errors
    /// The store is stopped or closed.
    fn read_recent(&self, range: Range<u64>, max_bytes: usize) -> Result<Option<Vec<Record>>, StorageError>;

    /// Index of the first and the last record, durable or not.
    fn bounds(&self) -> (Option<u64>, Option<u64>);
}

impl LogStorage for LogStore {
    fn append(&self, records: Vec<Record>, done: Done) {
        self.append(records, done);
    }

    fn set_marker(&self, marker: Marker, bytes: Bytes, done: Option<Done>) {
        self.set_marker(marker, bytes, done);
    }

    fn marker(&self, marker: Marker) -> Option<Bytes> {
        self.marker(marker)
    }

    fn truncate_from(&self, index: u64) -> Result<(), StorageError> {
        self.truncate_from(index)
    }

    fn purge_through(&self, index: u64, purged_marker: Bytes) -> Result<(), StorageError> {
        self.purge_through(index, purged_marker)
    }

    fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Record>, StorageError> {
        self.read(range, max_bytes)
    }

    fn read_recent(&self, range: Range<u64>, max_bytes: usize) -> Result<Option<Vec<Record>>, StorageError> {
        self.read_recent(range, max_bytes)
    }

    fn bounds(&self) -> (Option<u64>, Option<u64>) {
        self.bounds()
    }
}
