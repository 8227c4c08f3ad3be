//! What the hub counts for metrics.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

use crate::model::Revision;

/// The hub in figures, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Open watches.
    pub watches: usize,
    /// How often a watcher's queue overflowed, since the start.
    pub lagged: u64,
    /// How often a watcher was given a snapshot in place of the changes it asked for, since the start.
    pub resets: u64,
    /// What waits for all watchers together: the encoded size, counted once for each who waits for it.
    pub queued_bytes: u64,
    /// Changes in the history.
    pub history_changes: usize,
    /// Their encoded size, both sides counted.
    pub history_bytes: usize,
    /// The oldest revision after which a watch can start.
    pub history_floor: Revision,
}

/// The part of the figures that watchers move without the hub's lock.
#[derive(Debug, Default)]
pub(super) struct Counters {
    lagged: AtomicU64,
    resets: AtomicU64,
    queued_bytes: AtomicI64,
}

impl Counters {
    pub(super) fn count_lagged(&self, watches: u64) {
        self.lagged.fetch_add(watches, Relaxed);
    }

    pub(super) fn count_reset(&self) {
        self.resets.fetch_add(1, Relaxed);
    }

    /// So many bytes wait now that did not, counted once for each who waits for them.
    pub(super) fn queued(&self, bytes: u64) {
        self.queued_bytes
            .fetch_add(i64::try_from(bytes).unwrap_or(i64::MAX), Relaxed);
    }

    /// So many wait no more.
    pub(super) fn dequeued(&self, bytes: u64) {
        self.queued_bytes
            .fetch_sub(i64::try_from(bytes).unwrap_or(i64::MAX), Relaxed);
    }

    pub(super) fn lagged(&self) -> u64 {
        self.lagged.load(Relaxed)
    }

    pub(super) fn resets(&self) -> u64 {
        self.resets.load(Relaxed)
    }

    pub(super) fn queued_bytes(&self) -> u64 {
        // Who hands out may be counted before who queued: the sum dips below zero for a moment.
        u64::try_from(self.queued_bytes.load(Relaxed)).unwrap_or(0)
    }
}
