//! What the hub keeps at most.

use crate::model::limits::{HISTORY_MAX_BYTES, HISTORY_MAX_CHANGES, WATCH_QUEUE_MAX_BYTES, WATCHES_PER_NODE_MAX};

/// Changes that wait for one watcher: as many small ones as 4 MiB hold, so that removals, which weigh little, are
/// bounded too.
pub const QUEUE_MAX_CHANGES: usize = 16_384;

/// A node's limits on its history and its watches. Bytes are those of the records' encoded form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubLimits {
    /// Changes in the history.
    pub history_changes: usize,
    /// Their bytes, both sides of each change counted.
    pub history_bytes: usize,
    /// Changes that wait for one watcher.
    pub queue_changes: usize,
    /// Their bytes.
    pub queue_bytes: usize,
    /// Open watches.
    pub watches: usize,
}

impl Default for HubLimits {
    fn default() -> Self {
        Self {
            history_changes: HISTORY_MAX_CHANGES,
            history_bytes: HISTORY_MAX_BYTES,
            queue_changes: QUEUE_MAX_CHANGES,
            queue_bytes: WATCH_QUEUE_MAX_BYTES,
            watches: WATCHES_PER_NODE_MAX,
        }
    }
}
