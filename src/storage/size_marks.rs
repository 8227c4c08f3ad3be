//! About how many bytes of log lie between two indexes, in little memory: the running total is remembered at a mark
//! every so often, and drawn as a straight line in between.

use std::collections::VecDeque;

/// A new mark is set after so many bytes,
const MARK_EVERY_BYTES: u64 = 256 << 10;
/// or after so many records.
const MARK_EVERY_RECORDS: u64 = 4_096;

#[derive(Clone, Copy, Debug)]
struct Mark {
    index: u64,
    /// Bytes of all records before `index` that were ever counted.
    before: u64,
}

/// The sizes of the records of a log, roughly.
#[derive(Debug)]
pub(super) struct SizeMarks {
    marks: VecDeque<Mark>,
    /// One past the last record.
    end: Mark,
}

impl SizeMarks {
    /// An empty log that begins at `start`.
    pub(super) fn new(start: u64) -> Self {
        Self {
            marks: VecDeque::new(),
            end: Mark {
                index: start,
                before: 0,
            },
        }
    }

    /// A record was put at the end.
    pub(super) fn push(&mut self, index: u64, bytes: u64) {
        self.end.index = index;
        let due = self.marks.back().is_none_or(|last| {
            self.end.before - last.before >= MARK_EVERY_BYTES || index - last.index >= MARK_EVERY_RECORDS
        });
        if due {
            self.marks.push_back(self.end);
        }
        self.end = Mark {
            index: index + 1,
            before: self.end.before + bytes,
        };
    }

    /// All records from `from` on are gone.
    pub(super) fn truncate_from(&mut self, from: u64) {
        self.end = Mark {
            index: from,
            before: self.before(from),
        };
        while self.marks.back().is_some_and(|mark| mark.index >= from) {
            self.marks.pop_back();
        }
    }

    /// All records before `start` are gone; it may lie beyond the end.
    pub(super) fn purge_before(&mut self, start: u64) {
        if start >= self.end.index {
            self.marks.clear();
            self.end.index = start;
        }
        while self.marks.get(1).is_some_and(|second| second.index <= start) {
            self.marks.pop_front();
        }
    }

    /// Bytes of the records from `start` on.
    pub(super) fn bytes_from(&self, start: u64) -> u64 {
        self.end.before - self.before(start)
    }

    fn before(&self, index: u64) -> u64 {
        if index >= self.end.index {
            return self.end.before;
        }
        let next = self.marks.partition_point(|mark| mark.index <= index);
        let to = self.marks.get(next).copied().unwrap_or(self.end);
        let Some(from) = next.checked_sub(1).and_then(|last| self.marks.get(last)) else {
            return to.before;
        };
        let share = u128::from(to.before - from.before) * u128::from(index - from.index);
        let share = share / u128::from((to.index - from.index).max(1));
        from.before + u64::try_from(share).expect("a part of a 64-bit number")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(records: u64, bytes: u64) -> SizeMarks {
        let mut marks = SizeMarks::new(0);
        for index in 0..records {
            marks.push(index, bytes);
        }
        marks
    }

    #[test]
    fn equal_records_are_counted_exactly() {
        let marks = filled(10_000, 300);
        for start in [0, 1, 17, 4_096, 9_999, 10_000, 20_000] {
            assert_eq!(marks.bytes_from(start), 10_000_u64.saturating_sub(start) * 300);
        }
        assert!(marks.marks.len() < 20);
    }

    #[test]
    fn truncating_and_purging_forget_what_is_gone() {
        let mut marks = filled(10_000, 300);
        marks.truncate_from(5_000);
        assert_eq!(marks.bytes_from(0), 5_000 * 300);
        marks.push(5_000, 300);
        assert_eq!(marks.bytes_from(5_000), 300);
        marks.purge_before(4_000);
        assert_eq!(marks.bytes_from(4_000), 1_001 * 300);
        marks.purge_before(8_000);
        assert_eq!(marks.bytes_from(0), 0);
        marks.push(8_000, 50);
        assert_eq!(marks.bytes_from(0), 50);
        marks.truncate_from(8_000);
        assert_eq!(marks.bytes_from(0), 0);
    }

    #[test]
    fn unequal_records_are_off_by_no_more_than_a_mark() {
        let mut marks = SizeMarks::new(0);
        let sizes: Vec<u64> = (0..20_000).map(|i| if i % 7 == 0 { 5_000 } else { 40 }).collect();
        for (index, &bytes) in (0..).zip(&sizes) {
            marks.push(index, bytes);
        }
        for start in (0..20_000).step_by(997) {
            let exact: u64 = sizes[start..].iter().sum();
            let found = marks.bytes_from(start as u64);
            assert!(
                found.abs_diff(exact) <= MARK_EVERY_BYTES + 5_000,
                "{start}: {found}, {exact}"
            );
        }
    }
}
