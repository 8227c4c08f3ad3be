//! The newest records of the log as they were decoded or made, so that apply and every replication stream read what
//! was just appended without decoding it again.

use std::collections::VecDeque;

use super::types::Record;

/// Records kept: those on their way, and some for a follower that is a little behind. What is older is read from the
/// store's tail, which holds its bytes: decoded it takes several times as much memory.
const RECORDS_MAX: usize = 4_096;
/// Their encoded size.
const BYTES_MAX: usize = 512 << 10;

/// A gapless stretch at the end of the log.
#[derive(Debug, Default)]
pub(super) struct Tail {
    records: VecDeque<(Record, usize)>,
    bytes: usize,
}

impl Tail {
    /// Adds a record of so many encoded bytes; what does not follow the newest one replaces everything.
    pub(super) fn push(&mut self, record: Record, bytes: usize) {
        if self.end().is_some_and(|end| end != record.log_id.index()) {
            self.clear();
        }
        self.records.push_back((record, bytes));
        self.bytes += bytes;
        while self.records.len() > RECORDS_MAX || (self.bytes > BYTES_MAX && self.records.len() > 1) {
            self.drop_oldest();
        }
    }

    /// Forgets records at and after an index.
    pub(super) fn truncate_from(&mut self, index: u64) {
        while self
            .records
            .back()
            .is_some_and(|(record, _)| record.log_id.index() >= index)
        {
            if let Some((_, bytes)) = self.records.pop_back() {
                self.bytes -= bytes;
            }
        }
    }

    /// Forgets records at and before an index.
    pub(super) fn purge_through(&mut self, index: u64) {
        while self
            .records
            .front()
            .is_some_and(|(record, _)| record.log_id.index() <= index)
        {
            self.drop_oldest();
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.records.clear();
        self.bytes = 0;
    }

    /// Records from `start` on, before `end`, up to `max_bytes` but at least one; `None` when `start` is not here.
    pub(super) fn read(&self, start: u64, end: u64, max_bytes: usize) -> Option<Vec<Record>> {
        let first = self.records.front()?.0.log_id.index();
        let skip = usize::try_from(start.checked_sub(first)?).ok()?;
        let wanted = usize::try_from(end.saturating_sub(start)).unwrap_or(usize::MAX);
        if skip >= self.records.len() || wanted == 0 {
            return None;
        }
        let mut taken = 0_usize;
        let within = |bytes: usize| {
            let first = taken == 0;
            taken = taken.saturating_add(bytes.max(1));
            first || taken <= max_bytes
        };
        let mut within = within;
        let records = self
            .records
            .range(skip..)
            .take(wanted)
            .take_while(|(_, bytes)| within(*bytes));
        Some(records.map(|(record, _)| record.clone()).collect())
    }

    /// The index after the newest record.
    fn end(&self) -> Option<u64> {
        self.records.back().map(|(record, _)| record.log_id.index() + 1)
    }

    fn drop_oldest(&mut self) {
        if let Some((_, bytes)) = self.records.pop_front() {
            self.bytes -= bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use openraft::{EntryPayload, entry::RaftEntry as _};

    use super::{super::types::log_id, *};

    fn record(index: u64) -> Record {
        Record::new(log_id(1, index), EntryPayload::Blank)
    }

    fn tail(range: std::ops::Range<u64>) -> Tail {
        let mut tail = Tail::default();
        range.for_each(|index| tail.push(record(index), 10));
        tail
    }

    fn indexes(records: Option<Vec<Record>>) -> Option<Vec<u64>> {
        records.map(|records| records.iter().map(|record| record.log_id.index()).collect())
    }

    #[test]
    fn it_reads_what_it_holds_and_no_more_bytes_than_asked() {
        let tail = tail(5..10);
        assert_eq!(indexes(tail.read(5, 20, 1_000)), Some(vec![5, 6, 7, 8, 9]));
        assert_eq!(indexes(tail.read(7, 9, 1_000)), Some(vec![7, 8]));
        assert_eq!(indexes(tail.read(6, 20, 25)), Some(vec![6, 7]));
        assert_eq!(indexes(tail.read(6, 20, 0)), Some(vec![6]), "at least one");
        assert_eq!(indexes(tail.read(4, 20, 1_000)), None, "older ones are not here");
        assert_eq!(indexes(tail.read(10, 20, 1_000)), None);
        assert_eq!(indexes(tail.read(6, 6, 1_000)), None);
    }

    #[test]
    fn it_follows_the_log_when_that_is_cut_at_either_end() {
        let mut tail = tail(5..10);
        tail.truncate_from(8);
        tail.purge_through(5);
        assert_eq!(indexes(tail.read(6, 20, 1_000)), Some(vec![6, 7]));
        tail.push(record(8), 10);
        assert_eq!(indexes(tail.read(6, 20, 1_000)), Some(vec![6, 7, 8]));
        tail.push(record(20), 10);
        assert_eq!(
            indexes(tail.read(20, 30, 1_000)),
            Some(vec![20]),
            "there is never a gap in it"
        );
        assert_eq!(indexes(tail.read(8, 30, 1_000)), None);
    }

    #[test]
    fn it_is_bounded_in_records_and_bytes() {
        let mut tail = tail(0..RECORDS_MAX as u64 + 5);
        assert_eq!(tail.records.len(), RECORDS_MAX);
        tail.push(record(RECORDS_MAX as u64 + 5), BYTES_MAX + 1);
        assert_eq!(tail.records.len(), 1, "one record larger than the limit is kept alone");
    }
}
