//! Spans and instants as people read them: `250ms`, `15s`, `1m30s`, `3d4h`.

use std::time::{Duration, SystemTime};

use crate::wire::span::span_from_proto;

/// A span to the millisecond below a minute, else in its two largest units: `1.5s`, `15s`, `1m30s`, `2h5m`, `3d`.
pub(super) fn exact(span: Duration) -> String {
    let ms = span.as_millis();
    let seconds = span.as_secs();
    match seconds {
        0 => format!("{ms}ms"),
        1..60 => {
            let text = format!("{seconds}.{:03}", span.subsec_millis());
            format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
        }
        60..3_600 => two(seconds / 60, "m", seconds % 60, "s"),
        3_600..86_400 => two(seconds / 3_600, "h", seconds % 3_600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

fn two(large: u64, large_unit: &str, small: u64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

/// An age: like [`exact`], in whole seconds once there is one.
pub(super) fn age(span: Duration) -> String {
    if span.as_secs() == 0 {
        exact(span)
    } else {
        exact(Duration::from_secs(span.as_secs()))
    }
}

/// A span as the API's JSON has it.
pub(super) fn json(span: Duration) -> String {
    let text = format!("{}.{:09}", span.as_secs(), span.subsec_nanos());
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A span that may be missing from an answer; `-` where it is.
pub(super) fn of(span: Option<&prost_types::Duration>) -> String {
    span.copied()
        .and_then(span_from_proto)
        .map_or_else(|| "-".into(), exact)
}

/// How long ago a wall-clock instant was; `-` where there is none. Clocks that disagree make it zero, not negative.
pub(super) fn since(instant: Option<&prost_types::Timestamp>, now: SystemTime) -> String {
    let Some(instant) = instant else {
        return "-".into();
    };
    SystemTime::try_from(*instant).map_or_else(|_| "-".into(), |then| age(now.duration_since(then).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_short_and_exact_enough() {
        for (ms, text) in [
            (0, "0ms"),
            (250, "250ms"),
            (1_000, "1s"),
            (1_500, "1.5s"),
            (15_000, "15s"),
            (59_999, "59.999s"),
            (60_000, "1m"),
            (90_000, "1m30s"),
            (3_600_000, "1h"),
            (7_500_000, "2h5m"),
            (86_400_000, "1d"),
            (273_600_000, "3d4h"),
        ] {
            assert_eq!(exact(Duration::from_millis(ms)), text);
        }
        assert_eq!(age(Duration::from_millis(2_345)), "2s");
        assert_eq!(json(Duration::from_millis(1_500)), "1.5s");
        assert_eq!(json(Duration::from_secs(10)), "10s");
    }

    #[test]
    fn an_instant_in_the_future_is_no_time_ago() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let at = |seconds| prost_types::Timestamp { seconds, nanos: 0 };
        assert_eq!(since(Some(&at(40)), now), "1m");
        assert_eq!(since(Some(&at(400)), now), "0ms");
        assert_eq!(since(None, now), "-");
    }
}
