//! The log as it reads now, in memory: where it begins and ends, its newest records, and how far it is on the disk.
//!
//! ```text
//!        start            tail_start        durable        next
//!          │   disk only      │  tail, on disk │ tail only   │
//!          ├──────────────────┼────────────────┼─────────────┤
//! ```
//!
//! Records before `tail_start` are on the disk, and no write that still waits touches them but a purge: whoever takes
//! a view of the database while looking at this state finds all of them there.

use std::{collections::VecDeque, ops::Range};

use super::{error::StorageError, record::Record, size_marks::SizeMarks};

/// What a record in the tail costs beside its bytes.
const RECORD_OVERHEAD_BYTES: usize = 64;

#[derive(Debug)]
struct Newest {
    record: Record,
    /// The write that carries it to the disk.
    sequence: u64,
}

/// The log as it reads now.
#[derive(Debug)]
pub(super) struct LogState {
    start: u64,
    next: u64,
    purged: bool,
    durable: u64,
    tail: VecDeque<Newest>,
    tail_bytes: usize,
    tail_max_bytes: usize,
    sizes: SizeMarks,
}

/// Where the records of a range are found.
#[derive(Debug)]
pub(super) struct Found {
    /// First these, on the disk,
    pub(super) disk: Range<u64>,
    /// then these.
    pub(super) tail: Vec<Record>,
}

impl LogState {
    /// An empty log that begins at `start`; `purged` says whether anything before it was purged.
    pub(super) fn new(start: u64, purged: bool, tail_max_bytes: usize) -> Self {
        Self {
            start,
            next: start,
            purged,
            durable: start,
            tail: VecDeque::new(),
            tail_bytes: 0,
            tail_max_bytes,
            sizes: SizeMarks::new(start),
        }
    }

    /// Index of the first record and one past the last; equal when there is none.
    pub(super) fn range(&self) -> Range<u64> {
        self.start..self.next
    }

    /// Whether anything before the start was purged: then the next record of an empty log stands at the start.
    pub(super) fn is_purged(&self) -> bool {
        self.purged
    }

    /// One past the last record that a power cut would leave.
    pub(super) fn durable(&self) -> u64 {
        self.durable
    }

    /// Bytes of the records from `start` on, roughly.
    pub(super) fn bytes_from(&self, start: u64) -> u64 {
        self.sizes.bytes_from(start)
    }

    /// Puts records at the end, to be carried to the disk by write `sequence`. Returns whether that moved the
    /// start: an empty log that nothing was purged from may begin anywhere.
    ///
    /// # Errors
    /// [`StorageError::Order`] when they don't follow the last record or each other; nothing is appended then.
    pub(super) fn append(&mut self, records: &[Record], sequence: u64) -> Result<bool, StorageError> {
        let Some(first) = records.first() else { return Ok(false) };
        let begins = self.start == self.next && !self.purged;
        let moves = begins && first.index != self.start;
        let expected = if begins { first.index } else { self.next };
        for (expected, record) in (expected..).zip(records) {
            if record.index != expected || record.index == u64::MAX {
                return Err(StorageError::Order {
                    expected,
                    found: record.index,
                });
            }
        }
        if begins {
            self.start = first.index;
            self.next = first.index;
            self.durable = first.index;
            self.sizes.purge_before(first.index);
        }
        for record in records {
            self.push(record.clone(), sequence);
        }
        self.evict();
        Ok(moves)
    }

    /// Puts a record at the end that was read from the disk.
    pub(super) fn load(&mut self, record: Record) {
        self.push(record, 0);
        self.durable = self.next;
        self.evict();
    }

    /// Takes all records from `from` on away; returns which they were.
    pub(super) fn truncate_from(&mut self, from: u64) -> Range<u64> {
        let gone = from.clamp(self.start, self.next)..self.next;
        while self.next > gone.start {
            self.next -= 1;
            if let Some(newest) = self.tail.pop_back() {
                self.tail_bytes -= cost(&newest.record);
            } else {
                self.next = gone.start;
            }
        }
        self.durable = self.durable.min(self.next);
        self.sizes.truncate_from(self.next);
        gone
    }

    /// Takes all records through `through` away, be it beyond the last; returns which indexes went.
    pub(super) fn purge_through(&mut self, through: u64) -> Range<u64> {
        let gone = self.start..(through + 1).max(self.start);
        while self.tail_start() < gone.end {
            let Some(newest) = self.tail.pop_front() else { break };
            self.tail_bytes -= cost(&newest.record);
        }
        self.start = gone.end;
        self.next = self.next.max(self.start);
        self.durable = self.durable.max(self.start);
        self.purged = true;
        self.sizes.purge_before(self.start);
        gone
    }

    /// All writes through `sequence` are on the disk.
    pub(super) fn synced(&mut self, sequence: u64) {
        let first = self.tail_start();
        while self.durable < self.next {
            let place = usize::try_from(self.durable - first).expect("the tail is in memory");
            match self.tail.get(place) {
                Some(newest) if newest.sequence <= sequence => self.durable += 1,
                _ => break,
            }
        }
        self.evict();
    }

    /// Where the records of `range` are, of the tail at most `max_bytes`, but at least one record in all.
    pub(super) fn find(&self, range: &Range<u64>, max_bytes: usize) -> Found {
        let range = range.start.max(self.start)..range.end.min(self.next);
        let tail_start = self.tail_start();
        let disk = range.start..range.end.min(tail_start);
        let mut tail = Vec::new();
        let mut bytes = 0_usize;
        if range.end > tail_start {
            let from = usize::try_from(range.start.max(tail_start) - tail_start).expect("the tail is in memory");
            for newest in self
                .tail
                .iter()
                .skip(from)
                .take_while(|newest| newest.record.index < range.end)
            {
                bytes = bytes.saturating_add(newest.record.bytes.len());
                if bytes > max_bytes && !(tail.is_empty() && disk.is_empty()) {
                    break;
                }
                tail.push(newest.record.clone());
            }
        }
        Found { disk, tail }
    }

    fn tail_start(&self) -> u64 {
        self.next - self.tail.len() as u64
    }

    fn push(&mut self, record: Record, sequence: u64) {
        self.tail_bytes += cost(&record);
        self.sizes.push(record.index, record.bytes.len() as u64);
        self.next = record.index + 1;
        self.tail.push_back(Newest { record, sequence });
    }

    /// From the front only, and only what the disk has.
    fn evict(&mut self) {
        while self.tail_bytes > self.tail_max_bytes && self.tail_start() < self.durable {
            let Some(oldest) = self.tail.pop_front() else { break };
            self.tail_bytes -= cost(&oldest.record);
        }
    }
}

fn cost(record: &Record) -> usize {
    record.bytes.len() + RECORD_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(range: Range<u64>) -> Vec<Record> {
        range
            .map(|index| Record {
                index,
                bytes: format!("record {index}").into(),
            })
            .collect()
    }

    fn indexes(found: &Found) -> Vec<u64> {
        found.tail.iter().map(|record| record.index).collect()
    }

    #[test]
    fn appended_records_are_found_before_they_are_durable() {
        let mut log = LogState::new(0, false, usize::MAX);
        assert!(matches!(log.append(&records(0..3), 1), Ok(false)));
        assert_eq!((log.range(), log.durable()), (0..3, 0));
        assert_eq!(indexes(&log.find(&(0..9), usize::MAX)), [0, 1, 2]);
        log.synced(1);
        assert_eq!(log.durable(), 3);
    }

    #[test]
    fn only_durable_records_leave_the_tail_and_the_oldest_first() {
        let mut log = LogState::new(0, false, 0);
        log.append(&records(0..3), 1).unwrap();
        log.append(&records(3..5), 2).unwrap();
        assert!(log.find(&(0..5), usize::MAX).disk.is_empty());
        log.synced(1);
        let found = log.find(&(0..5), usize::MAX);
        assert_eq!((found.disk.clone(), indexes(&found)), (0..3, vec![3, 4]));
    }

    #[test]
    fn a_sync_of_truncated_records_says_nothing_about_their_successors() {
        let mut log = LogState::new(0, false, 0);
        log.append(&records(0..5), 1).unwrap();
        assert_eq!(log.truncate_from(2), 2..5);
        log.append(&records(2..4), 3).unwrap();
        log.synced(1);
        assert_eq!(log.durable(), 2);
        assert_eq!(indexes(&log.find(&(2..9), usize::MAX)), [2, 3]);
        log.synced(3);
        assert_eq!(log.durable(), 4);
    }

    #[test]
    fn truncating_below_the_tail_empties_it() {
        let mut log = LogState::new(0, false, 0);
        log.append(&records(0..5), 1).unwrap();
        log.synced(1);
        assert_eq!(log.truncate_from(2), 2..5);
        assert_eq!(log.find(&(0..9), usize::MAX).disk, 0..2);
        log.append(&records(2..3), 3).unwrap();
        let found = log.find(&(0..9), usize::MAX);
        assert_eq!((found.disk.clone(), indexes(&found)), (0..2, vec![2]));
    }

    #[test]
    fn a_gap_is_refused_whole() {
        let mut log = LogState::new(0, false, usize::MAX);
        log.append(&records(0..2), 1).unwrap();
        let mut holed = records(2..5);
        holed.remove(1);
        assert!(matches!(
            log.append(&holed, 2),
            Err(StorageError::Order { expected: 3, found: 4 })
        ));
        assert_eq!(log.range(), 0..2);
    }

    #[test]
    fn after_a_purge_beyond_the_end_the_next_record_follows_it() {
        let mut log = LogState::new(0, false, usize::MAX);
        log.append(&records(0..5), 1).unwrap();
        assert_eq!(log.purge_through(9), 0..10);
        assert_eq!((log.range(), log.durable()), (10..10, 10));
        assert!(matches!(
            log.append(&records(11..12), 2),
            Err(StorageError::Order {
                expected: 10,
                found: 11
            })
        ));
        assert!(matches!(log.append(&records(10..12), 2), Ok(false)));
        assert_eq!(log.range(), 10..12);
    }

    #[test]
    fn a_log_that_lost_nothing_may_begin_anywhere() {
        let mut log = LogState::new(0, false, usize::MAX);
        assert!(matches!(log.append(&records(2..4), 1), Ok(true)));
        assert_eq!(log.range(), 2..4);
        assert_eq!(log.purge_through(1), 2..2);
        assert_eq!(log.range(), 2..4);
    }

    #[test]
    fn a_read_is_cut_at_its_limit_but_holds_one_record() {
        let mut log = LogState::new(0, false, usize::MAX);
        log.append(&records(0..5), 1).unwrap();
        assert_eq!(indexes(&log.find(&(1..5), 1)), [1]);
        assert_eq!(indexes(&log.find(&(1..5), 16)), [1, 2]);
        assert_eq!(indexes(&log.find(&(5..9), 16)), [0_u64; 0]);
    }
}
