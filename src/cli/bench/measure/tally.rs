//! What one task has measured: operations, how long they took, and what went wrong. Each task has its own; they are
//! merged in the end, so that measuring costs no lock.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;

/// The longest time that is told apart, in microseconds: an hour.
const LONGEST_US: u64 = 3_600_000_000;
/// Significant digits of a recorded time.
const DIGITS: u8 = 3;

/// An operation that failed: why, in a word that can be counted, and what was said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The API's reason; where there is none, the gRPC code or how the call went wrong on its way.
    pub reason: &'static str,
    /// What was said about it, for people.
    pub message: String,
}

impl Trouble {
    /// A failure by its reason and what was said about it.
    pub fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

/// Failed operations by reason, and of each reason the first message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Errors(BTreeMap<&'static str, (u64, String)>);

impl Errors {
    /// One more.
    pub fn add(&mut self, trouble: Trouble) {
        self.add_many(trouble, 1);
    }

    /// So many of one kind.
    pub fn add_many(&mut self, trouble: Trouble, count: u64) {
        if count > 0 {
            let (known, _) = self.0.entry(trouble.reason).or_insert((0, trouble.message));
            *known += count;
        }
    }

    /// Another task's, too.
    pub fn merge(&mut self, other: Self) {
        for (reason, (count, message)) in other.0 {
            self.add_many(Trouble { reason, message }, count);
        }
    }

    /// How many failed, whatever the reason.
    pub fn total(&self) -> u64 {
        self.0.values().map(|(count, _)| count).sum()
    }

    /// Reason, count and first message, by reason.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64, &str)> {
        self.0
            .iter()
            .map(|(reason, (count, message))| (*reason, *count, message.as_str()))
    }
}

/// What one task, or all together, have measured of one kind of operation.
#[derive(Clone, Debug)]
pub struct Tally {
    /// What was done: calls, or what the workload counts in each.
    pub operations: u64,
    /// How long each call, message or delivery took, in microseconds.
    pub took_us: Histogram<u64>,
    /// What went wrong.
    pub errors: Errors,
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Self {
        Self {
            operations: 0,
            took_us: Histogram::new_with_bounds(1, LONGEST_US, DIGITS).expect("an hour to three digits is allowed"),
            errors: Errors::default(),
        }
    }

    /// Something that did so many operations took so long. What took more than an hour counts as an hour.
    pub fn done(&mut self, operations: u64, took: Duration) {
        self.operations += operations;
        self.took_us.saturating_record(micros(took));
    }

    /// Something failed.
    pub fn failed(&mut self, trouble: Trouble) {
        self.errors.add(trouble);
    }

    /// Another task's, too.
    pub fn merge(&mut self, other: Self) {
        self.operations += other.operations;
        self.took_us
            .add(&other.took_us)
            .expect("all histograms have the same bounds");
        self.errors.merge(other.errors);
    }

    /// All of them as one.
    pub fn of_all(tallies: impl IntoIterator<Item = Self>) -> Self {
        tallies.into_iter().fold(Self::new(), |mut all, one| {
            all.merge(one);
            all
        })
    }
}

/// Whole microseconds.
pub fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_of_tasks_add_up() {
        let mut one = Tally::new();
        one.done(2, Duration::from_micros(100));
        one.failed(Trouble::new("NO_LEADER", "first"));
        let mut other = Tally::new();
        other.done(1, Duration::from_micros(300));
        other.failed(Trouble::new("NO_LEADER", "second"));
        other.failed(Trouble::new("FENCED", "third"));
        let all = Tally::of_all([one, other]);
        assert_eq!((all.operations, all.took_us.len(), all.took_us.max()), (3, 2, 300));
        assert_eq!(all.errors.total(), 3);
        let errors: Vec<_> = all.errors.iter().collect();
        assert_eq!(errors, [("FENCED", 1, "third"), ("NO_LEADER", 2, "first")]);
    }

    #[test]
    fn what_takes_longer_than_can_be_told_apart_counts_as_the_longest() {
        let mut tally = Tally::new();
        tally.done(1, Duration::from_secs(100_000));
        let longest = tally.took_us.max();
        assert!(longest >= LONGEST_US - LONGEST_US / 1_000, "{longest}");
    }
}
