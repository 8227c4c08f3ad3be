//! What can go wrong with a disk, at opening and later.

use std::{error::Error, fmt, io, path::Path, path::PathBuf, sync::Arc};

/// Where stored bytes are not what was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Corruption {
    /// The file and, where known, the byte offset or the log index.
    pub place: String,
    /// What is wrong there.
    pub problem: String,
}

impl Corruption {
    pub(super) fn new(place: impl Into<String>, problem: impl Into<String>) -> Self {
        Self {
            place: place.into(),
            problem: problem.into(),
        }
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is corrupt: {}. Nothing was dropped or repaired. Restore this node: remove the member from the \
             cluster, keep the data directory for examination, and add a new member with an empty one",
            self.place, self.problem
        )
    }
}

impl Error for Corruption {}

/// Why a data directory, a log or a snapshot folder can't be opened. Each names the path and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The operating system refused.
    #[error("no permission to {action} {}: give it to the user that runs this node, or name another data directory", path.display())]
    Permission {
        /// What was refused.
        path: PathBuf,
        /// What was tried: "create", "write to".
        action: &'static str,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// There is something else under that name.
    #[error("{} is not a directory: name a data directory, or a path that does not exist yet", path.display())]
    NotADirectory {
        /// What is no directory.
        path: PathBuf,
    },
    /// The file system takes no writes.
    #[error("{} is on a read-only file system: mount it for writing, or name another data directory", path.display())]
    ReadOnly {
        /// What can't be written.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
    /// The file system is full.
    #[error("no space left for {}: free some, then start this node again", path.display())]
    DiskFull {
        /// What could not be written.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// Another process uses the directory.
    #[error("{} is in use by {}: a data directory belongs to one running node; stop that one or name another directory",
        path.display(), holder.map_or_else(|| "another process".to_owned(), |id| format!("process {id}")))]
    InUse {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, as far as it could be found out.
        holder: Option<u32>,
    },
    /// A newer release wrote it.
    #[error("{} has format {found}, and this release knows formats up to {known}: start the release that wrote it, or a newer one", path.display())]
    Newer {
        /// What was written by a newer release.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// Stored bytes are not what was written.
    #[error("{0}")]
    Corrupt(Corruption),
    /// Anything else that the file system or the database answered.
    #[error("can't {action} {}: {source}", path.display())]
    Failed {
        /// Where.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The answer.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
}

impl OpenError {
    /// Sorts an answer of the file system.
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission { path, action, source },
            io::ErrorKind::NotADirectory => Self::NotADirectory { path },
            io::ErrorKind::ReadOnlyFilesystem => Self::ReadOnly { path, source },
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull {
                path,
                source: Arc::new(source),
            },
            _ => Self::Failed {
                path,
                action,
                source: Arc::new(source),
            },
        }
    }
}

impl From<StorageError> for OpenError {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Corrupt(corruption) => Self::Corrupt(corruption),
            StorageError::Failed { path, action, source } => Self::Failed { path, action, source },
            other => Self::Failed {
                path: PathBuf::new(),
                action: "open",
                source: Arc::new(other),
            },
        }
    }
}

/// Why an operation on an open store failed. All but [`StorageError::Order`], [`StorageError::Misused`] and
/// [`StorageError::Received`] mean that the node must stop: what was under way may or may not be on the disk.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StorageError {
    /// The file system or the database failed.
    #[error("can't {action} {}: {source}", path.display())]
    Failed {
        /// Where.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The answer.
        #[source]
        source: Arc<dyn Error + Send + Sync>,
    },
    /// Stored bytes are not what was written.
    #[error("{0}")]
    Corrupt(Corruption),
    /// An earlier failure stopped the store; this operation did nothing.
    #[error("storage stopped after an earlier failure: {0}")]
    Stopped(#[source] Arc<StorageError>),
    /// The store was closed before; this operation did nothing.
    #[error("storage is closed")]
    Closed,
    /// Records out of sequence; nothing was appended.
    #[error("log record {found} does not follow: {expected} is next")]
    Order {
        /// The index that was due.
        expected: u64,
        /// The index that came.
        found: u64,
    },
    /// The caller broke the contract; nothing was done.
    #[error("storage used against its contract: {0}")]
    Misused(&'static str),
    /// A snapshot that a peer sent is not whole; it was thrown away and may be asked for again.
    #[error("the received snapshot {id} is damaged: {problem}")]
    Received {
        /// The snapshot's id.
        id: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl StorageError {
    pub(super) fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Failed {
            path: path.to_owned(),
            action,
            source: Arc::new(source),
        }
    }

    /// Whether the disk was full: the node may be started again once there is room.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Failed { source, .. } => {
                source.downcast_ref::<io::Error>().is_some_and(|error| {
                    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
                }) || says_disk_full(&source.to_string())
            }
            Self::Stopped(earlier) => earlier.is_disk_full(),
            Self::Corrupt(_) | Self::Closed | Self::Order { .. } | Self::Misused(_) | Self::Received { .. } => false,
        }
    }
}

/// RocksDB passes the system's answer on as text only.
pub(super) fn says_disk_full(message: &str) -> bool {
    message.contains("No space left on device") || message.contains("Disk quota exceeded")
}
