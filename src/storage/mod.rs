//! Durable bytes: one node's data directory, its identity, its log with the vote and the markers, its snapshots.
//!
//! ```text
//! DIR/                 0700, one process at a time
//!   lock               held with flock while a process uses the directory; its text is that process's id
//!   identity           which node of which cluster this is (identity.rs)
//!   log-format         that there is a log, and how it is written (log_store.rs)
//!   log/               RocksDB (database.rs; records in record.rs)
//!   snapshots/         one file per snapshot (snapshot_file.rs)
//! ```
//!
//! **Promises.** What was confirmed was synced before, survives kill -9 and power loss, and comes back unchanged or
//! not at all: every record, marker, file and footer carries a checksum, and damage anywhere but in the torn tail of
//! the write-ahead log is an error that names its place. Writes take effect in the order in which they were handed
//! in. After a failed write or sync nothing is written or confirmed again by this process.
//!
//! **Never.** It doesn't know what the bytes mean, repairs nothing, drops nothing that was confirmed, retries no write.
//! Only this room names RocksDB.
//!
//! **Left out on purpose.** Reading a damaged log as far as it goes: a member whose disk lied is removed and a new one
//! added.

mod data_dir;
mod database;
mod durable;
mod error;
mod identity;
mod log_state;
mod log_storage;
mod log_store;
mod log_writer;
mod record;
mod size_marks;
mod snapshot_file;
mod snapshot_store;
mod wal;

pub use data_dir::DataDir;
pub use error::{Corruption, OpenError, StorageError};
pub use identity::Identity;
pub use log_storage::LogStorage;
pub use log_store::{LogLimits, LogStore, Pressure};
pub use log_writer::Done;
pub use record::{Marker, Record};
pub use snapshot_file::{SnapshotBytes, SnapshotFile, SnapshotReader};
pub use snapshot_store::{ReceivedSnapshot, SnapshotStore, SnapshotWriter};

/// Checks that log and snapshot together hold the whole history: what was purged from the log must lie within the
/// latest snapshot. To be called once at start, before either is used.
///
/// # Errors
/// [`OpenError::Corrupt`] when the snapshot that covers the purged part is missing.
pub fn verify_whole(log: &LogStore, snapshots: &SnapshotStore) -> Result<(), OpenError> {
    let Some(purged) = log.purged_through() else {
        return Ok(());
    };
    let problem = match snapshots.latest() {
        Some(latest) if latest.index >= purged => return Ok(()),
        Some(latest) => format!(
            "the log was purged through index {purged}, but the latest snapshot ends at index {}",
            latest.index
        ),
        None => format!("the log was purged through index {purged}, but there is no snapshot"),
    };
    Err(OpenError::Corrupt(Corruption::new(
        snapshots.directory().display().to_string(),
        problem,
    )))
}
