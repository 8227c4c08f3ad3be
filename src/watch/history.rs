//! The latest changes, kept for watches that resume or fell behind.

use std::{collections::VecDeque, mem, sync::Arc};

use super::{limits::HubLimits, record::Record};
use crate::model::Revision;

/// A chunk is closed at this part of the limits, so that dropping the oldest one drops little.
const CHUNKS_AT_LIMIT: usize = 64;
/// A chunk is closed at so many changes at the latest, so that whoever reads copies few of the open one.
const CHUNK_MAX_CHANGES: usize = 256;

/// Some changes in revision order; whole revisions.
type Chunk = Arc<[Arc<Record>]>;

/// The latest changes, bounded by number and bytes. What goes, goes by whole revisions.
///
/// Changes are kept in closed chunks, which readers share, and one open chunk, which they copy: taking a stretch of the
/// history costs a few hundred pointers, and it is read outside of the hub's lock.
#[derive(Debug)]
pub(super) struct History {
    limits: HubLimits,
    /// What is gone: through this revision.
    floor: Revision,
    closed: VecDeque<Chunk>,
    open: Vec<Arc<Record>>,
    open_bytes: usize,
    changes: usize,
    bytes: usize,
}

/// The changes after one revision, as they stood at one moment.
#[derive(Debug)]
pub(super) struct Stretch {
    after: Revision,
    chunks: Vec<Chunk>,
}

impl History {
    pub(super) fn new(limits: HubLimits) -> Self {
        Self {
            limits,
            floor: Revision(0),
            closed: VecDeque::new(),
            open: Vec::new(),
            open_bytes: 0,
            changes: 0,
            bytes: 0,
        }
    }

    /// Adds whole revisions, later than all that are here. Returns what had to go for them, for the caller to drop
    /// where nobody waits for it.
    pub(super) fn append(&mut self, records: Vec<Arc<Record>>) -> Vec<Chunk> {
        let bytes: usize = records.iter().map(|record| record.history_bytes()).sum();
        self.changes += records.len();
        self.bytes += bytes;
        self.open_bytes += bytes;
        self.open.extend(records);
        let full = self.open.len() >= CHUNK_MAX_CHANGES.min(self.limits.history_changes / CHUNKS_AT_LIMIT)
            || self.open_bytes >= self.limits.history_bytes / CHUNKS_AT_LIMIT;
        if full && !self.open.is_empty() {
            self.closed.push_back(mem::take(&mut self.open).into());
            self.open_bytes = 0;
        }
        self.shrink()
    }

    /// Forgets everything: the next change is one after `floor`. Returns what went.
    pub(super) fn restart(&mut self, floor: Revision) -> Vec<Chunk> {
        let gone = History::new(self.limits);
        let mut gone = mem::replace(self, gone);
        self.floor = floor;
        gone.closed.push_back(gone.open.into());
        gone.closed.into()
    }

    /// The changes after a revision; `None` when some of them are gone.
    pub(super) fn since(&self, after: Revision) -> Option<Stretch> {
        // Plant: a watch is resumed where the history is gone, as if nothing were missing.
        planted!("compaction-not-noticed", let after = after.max(self.floor));
        if after < self.floor {
            return None;
        }
        let passed = self.closed.partition_point(|chunk| last_revision(chunk) <= after);
        let mut chunks: Vec<Chunk> = self.closed.range(passed..).cloned().collect();
        let open = &self.open[self.open.partition_point(|record| record.revision() <= after)..];
        if !open.is_empty() {
            chunks.push(open.into());
        }
        Some(Stretch { after, chunks })
    }

    /// The oldest revision after which every change is here.
    pub(super) fn floor(&self) -> Revision {
        self.floor
    }

    pub(super) fn changes(&self) -> usize {
        self.changes
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn shrink(&mut self) -> Vec<Chunk> {
        let mut gone = Vec::new();
        while self.changes > self.limits.history_changes || self.bytes > self.limits.history_bytes {
            let oldest = self.closed.pop_front().unwrap_or_else(|| {
                self.open_bytes = 0;
                mem::take(&mut self.open).into()
            });
            if oldest.is_empty() {
                break;
            }
            self.floor = last_revision(&oldest);
            self.changes -= oldest.len();
            self.bytes -= oldest.iter().map(|record| record.history_bytes()).sum::<usize>();
            gone.push(oldest);
        }
        gone
    }
}

impl Stretch {
    /// The changes, in revision order.
    pub(super) fn records(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.chunks
            .iter()
            .flat_map(|chunk| &chunk[chunk.partition_point(|record| record.revision() <= self.after)..])
    }
}

fn last_revision(chunk: &[Arc<Record>]) -> Revision {
    chunk.last().map_or(Revision(0), |record| record.revision())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::sample::{put, record};

    fn limited(history_changes: usize, history_bytes: usize) -> History {
        History::new(HubLimits {
            history_changes,
            history_bytes,
            ..HubLimits::default()
        })
    }

    fn append(history: &mut History, revisions: impl IntoIterator<Item = u64>) -> usize {
        let records = revisions
            .into_iter()
            .map(|revision| record(put(revision, "web", "a", "z")));
        history.append(records.collect()).iter().map(|chunk| chunk.len()).sum()
    }

    fn since(history: &History, after: u64) -> Option<Vec<u64>> {
        let stretch = history.since(Revision(after))?;
        Some(stretch.records().map(|record| record.revision().0).collect())
    }

    #[test]
    fn it_gives_what_came_after_a_revision_and_nothing_else() {
        let mut history = limited(1_000, 1 << 20);
        append(&mut history, [1, 2, 2, 5]);
        append(&mut history, [6]);
        assert_eq!(since(&history, 0), Some(vec![1, 2, 2, 5, 6]));
        assert_eq!(since(&history, 2), Some(vec![5, 6]));
        assert_eq!(since(&history, 3), Some(vec![5, 6]));
        assert_eq!(since(&history, 6), Some(vec![]));
        assert_eq!(since(&history, 9), Some(vec![]));
    }

    #[test]
    fn the_oldest_revisions_go_whole_when_there_are_too_many() {
        let mut history = limited(3, 1 << 20);
        assert_eq!(append(&mut history, [1, 1]), 0);
        assert_eq!(append(&mut history, [2]), 0);
        assert_eq!(append(&mut history, [3]), 2);
        assert_eq!(history.floor(), Revision(1));
        assert_eq!(since(&history, 0), None);
        assert_eq!(since(&history, 1), Some(vec![2, 3]));
        assert_eq!(history.changes(), 2);
    }

    #[test]
    fn a_revision_larger_than_the_whole_history_is_not_kept() {
        let mut history = limited(3, 1 << 20);
        append(&mut history, [1]);
        append(&mut history, [2, 2, 2, 2]);
        assert_eq!(history.floor(), Revision(2));
        assert_eq!((history.changes(), history.bytes()), (0, 0));
        assert_eq!(since(&history, 1), None);
        assert_eq!(since(&history, 2), Some(vec![]));
    }

    #[test]
    fn bytes_bound_it_too() {
        let one = record(put(1, "web", "a", "z")).history_bytes();
        let mut history = limited(1_000, one * 10);
        for revision in 1..=100 {
            append(&mut history, [revision]);
            assert!(history.bytes() <= one * 10);
        }
        assert_eq!(since(&history, 90), Some((91..=100).collect()));
        assert_eq!(since(&history, 89), None);
    }

    #[test]
    fn long_histories_are_cut_in_chunks_that_nobody_notices() {
        let mut history = limited(10_000, 1 << 30);
        for revision in 1..=25_000 {
            append(&mut history, [revision, revision]);
            assert!(history.changes() <= 10_000);
        }
        let floor = history.floor().0;
        assert!((20_000..20_200).contains(&floor), "{floor}");
        for after in [floor, floor + 1, 21_234, 24_999, 25_000] {
            let expected: Vec<u64> = (after + 1..=25_000).flat_map(|revision| [revision, revision]).collect();
            assert_eq!(since(&history, after), Some(expected), "{after}");
        }
        assert_eq!(since(&history, floor - 1), None);
    }

    #[test]
    fn a_stretch_keeps_what_the_history_drops() {
        let mut history = limited(2, 1 << 20);
        append(&mut history, [1, 2]);
        let stretch = history.since(Revision(0)).expect("still there");
        append(&mut history, [3, 4]);
        assert_eq!(stretch.records().count(), 2);
    }

    #[test]
    fn a_restarted_history_begins_at_its_floor() {
        let mut history = limited(1_000, 1 << 20);
        append(&mut history, [1, 2, 3]);
        let gone: usize = history.restart(Revision(40)).iter().map(|chunk| chunk.len()).sum();
        assert_eq!(gone, 3);
        assert_eq!(since(&history, 39), None);
        assert_eq!(since(&history, 40), Some(vec![]));
        append(&mut history, [41]);
        assert_eq!(since(&history, 40), Some(vec![41]));
        assert_eq!(history.changes(), 1);
    }
}
