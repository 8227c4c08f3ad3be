//! Spans and instants: `google.protobuf.Duration` and `Timestamp` to and from the model's.

use std::time::Duration;

use super::field::{Fields, Path};
use crate::model::{Ttl, TtlError};

/// A span as the API carries it. Spans beyond what a `Duration` may hold (10,000 years) become the longest.
#[must_use]
pub fn span_to_proto(span: Duration) -> prost_types::Duration {
    prost_types::Duration::try_from(span).unwrap_or(prost_types::Duration {
        seconds: 315_576_000_000,
        nanos: 0,
    })
}

/// A span from the API; `None` when it is negative or malformed.
#[must_use]
pub fn span_from_proto(span: prost_types::Duration) -> Option<Duration> {
    let seconds = u64::try_from(span.seconds).ok()?;
    let nanos = u32::try_from(span.nanos).ok().filter(|&nanos| nanos < 1_000_000_000)?;
    Some(Duration::new(seconds, nanos))
}

/// An instant in Unix milliseconds as the API carries it.
#[must_use]
pub fn instant_to_proto(unix_ms: u64) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(unix_ms / 1_000).unwrap_or(i64::MAX),
        nanos: i32::try_from(unix_ms % 1_000 * 1_000_000).expect("less than a second of nanoseconds fits"),
    }
}

/// Unix milliseconds from the API; `None` before 1970, and when it is malformed.
#[must_use]
pub fn instant_from_proto(instant: prost_types::Timestamp) -> Option<u64> {
    let seconds = u64::try_from(instant.seconds).ok()?;
    let nanos = u64::try_from(instant.nanos)
        .ok()
        .filter(|&nanos| nanos < 1_000_000_000)?;
    seconds.checked_mul(1_000)?.checked_add(nanos / 1_000_000)
}

/// A TTL from the API.
///
/// # Errors
/// Outside 1 s to 24 h, or not whole milliseconds.
pub fn ttl_from_proto(span: prost_types::Duration) -> Result<Ttl, TtlError> {
    let span = span_from_proto(span).ok_or(TtlError)?;
    if span.subsec_nanos() % 1_000_000 != 0 {
        return Err(TtlError);
    }
    u64::try_from(span.as_millis())
        .map_err(|_| TtlError)
        .and_then(Ttl::from_ms)
}

impl Fields {
    /// A TTL.
    pub(crate) fn ttl(&mut self, path: &Path<'_>, span: prost_types::Duration) -> Option<Ttl> {
        self.accept(path, ttl_from_proto(span))
    }

    /// An optional span that is never negative: outer `None` = refused, inner `None` = not sent.
    pub(crate) fn span(&mut self, path: &Path<'_>, span: Option<prost_types::Duration>) -> Option<Option<Duration>> {
        match span.map(span_from_proto) {
            None => Some(None),
            Some(Some(span)) => Some(Some(span)),
            Some(None) => self.refuse(path, "must be a span of 0 s or more, its nanos between 0 and 999999999"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ttl_is_one_second_to_a_day_in_whole_milliseconds() {
        let ttl = |seconds, nanos| ttl_from_proto(prost_types::Duration { seconds, nanos }).map(Ttl::as_ms);
        assert_eq!(ttl(1, 0), Ok(1_000));
        assert_eq!(ttl(1, 1_000_000), Ok(1_001));
        assert_eq!(ttl(86_400, 0), Ok(86_400_000));
        for (seconds, nanos) in [
            (0, 999_000_000),
            (0, 0),
            (-1, 0),
            (1, -1),
            (1, 1),
            (1, 500),
            (86_400, 1_000_000),
            (i64::MAX, 0),
            (i64::MIN, 0),
            (2, i32::MAX),
            (2, 1_000_000_000),
        ] {
            assert!(ttl(seconds, nanos).is_err(), "{seconds} s {nanos} ns");
        }
    }

    #[test]
    fn spans_and_instants_read_back() {
        let span = Duration::new(7, 300);
        assert_eq!(span_from_proto(span_to_proto(span)), Some(span));
        assert_eq!(
            instant_from_proto(instant_to_proto(1_763_000_000_123)),
            Some(1_763_000_000_123)
        );
        let longest = span_to_proto(Duration::MAX);
        assert!(span_from_proto(longest).is_some());
    }
}
