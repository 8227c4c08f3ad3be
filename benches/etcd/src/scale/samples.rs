//! How long calls took, and when: so that afterwards those can be set apart during which something went on.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

/// What was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// An update, a registration or a deregistration.
    Write,
    /// A list of one service, linearizable.
    List,
    /// A list of one service, stale.
    ListStale,
    /// Renewals, a hundred leases in a message.
    Renew,
    /// From the sending of an update to its arrival at a watcher.
    Watch,
}

impl Kind {
    pub(super) const ALL: [Self; 5] = [Self::Write, Self::List, Self::ListStale, Self::Renew, Self::Watch];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Write => "write",
            Self::List => "list, linearizable",
            Self::ListStale => "list, stale",
            Self::Renew => "renewal of 100 leases",
            Self::Watch => "update until watched",
        }
    }
}

/// A span of time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) from: Instant,
    pub(super) to: Instant,
}

impl Span {
    fn overlaps(self, other: Self) -> bool {
        self.from < other.to && other.from < self.to
    }

    pub(super) fn length(self) -> Duration {
        self.to - self.from
    }
}

/// All calls.
#[derive(Debug, Default)]
pub(super) struct Samples(Mutex<Vec<(Kind, Span)>>);

impl Samples {
    pub(super) fn add(&self, kind: Kind, from: Instant) {
        let span = Span {
            from,
            to: Instant::now(),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((kind, span));
    }

    pub(super) fn count(&self, kind: Kind) -> usize {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(of, _)| *of == kind).count()
    }

    /// How long those took, in microseconds, that overlap one of the spans, and those that overlap none of them.
    pub(super) fn apart(&self, kind: Kind, spans: &[Span]) -> (Histogram<u64>, Histogram<u64>) {
        let empty = || Histogram::<u64>::new(3).expect("three digits can be had");
        let (mut during, mut besides) = (empty(), empty());
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, call) in all.iter().filter(|(of, _)| *of == kind) {
            let us = u64::try_from(call.length().as_micros()).unwrap_or(u64::MAX);
            let times = if spans.iter().any(|span| span.overlaps(*call)) {
                &mut during
            } else {
                &mut besides
            };
            times.record(us).expect("it grows with what is recorded");
        }
        (during, besides)
    }

    /// The slowest calls, so many of them: when each began, and how long it took.
    pub(super) fn slowest(&self, kind: Kind, count: usize) -> Vec<Span> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut spans: Vec<Span> = all
            .iter()
            .filter(|(of, _)| *of == kind)
            .map(|(_, span)| *span)
            .collect();
        spans.sort_by_key(|span| std::cmp::Reverse(span.length()));
        spans.truncate(count);
        spans
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart_by_what_went_on_during_them() {
        let samples = Samples::default();
        let begin = Instant::now();
        samples.add(Kind::Write, begin);
        let all = Span {
            from: begin,
            to: Instant::now() + Duration::from_secs(1),
        };
        let before = Span {
            from: begin - Duration::from_secs(1),
            to: begin,
        };
        let counts = |spans: &[Span]| {
            let (during, besides) = samples.apart(Kind::Write, spans);
            (during.len(), besides.len())
        };
        assert_eq!(counts(&[before, all]), (1, 0));
        assert_eq!(counts(&[before]), (0, 1));
        assert_eq!(samples.apart(Kind::List, &[all]).0.len(), 0);
        samples.add(Kind::Watch, begin - Duration::from_secs(2));
        let times = samples.apart(Kind::Watch, &[]).1;
        assert!(times.value_at_quantile(0.99) >= 2_000_000, "{times:?}");
        assert_eq!((samples.count(Kind::Write), samples.count(Kind::List)), (1, 0));
        samples.add(Kind::Watch, begin - Duration::from_secs(4));
        let slowest = samples.slowest(Kind::Watch, 1);
        assert!(
            matches!(&slowest[..], [span] if span.length() >= Duration::from_secs(4)),
            "{slowest:?}"
        );
    }
}
