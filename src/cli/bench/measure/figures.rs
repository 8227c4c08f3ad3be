//! Figures as people read them: rates, times, sizes.

use std::time::Duration;

/// So many in a second; 0 when no time has passed.
pub fn per_second(count: u64, over: Duration) -> f64 {
    if over.is_zero() {
        0.0
    } else {
        count as f64 / over.as_secs_f64()
    }
}

/// A rate: whole above a hundred, else with a digit.
pub fn rate(per_second: f64) -> String {
    if per_second >= 100.0 {
        format!("{per_second:.0}")
    } else {
        format!("{per_second:.1}")
    }
}

/// A time in microseconds, to three digits.
pub fn time(us: u64) -> String {
    match us {
        0..1_000 => format!("{us} µs"),
        1_000..10_000 => format!("{:.2} ms", us as f64 / 1e3),
        10_000..100_000 => format!("{:.1} ms", us as f64 / 1e3),
        100_000..1_000_000 => format!("{:.0} ms", us as f64 / 1e3),
        _ => format!("{:.2} s", us as f64 / 1e6),
    }
}

/// A size, or a growth, in bytes.
pub fn bytes(size: i64) -> String {
    match size.unsigned_abs() {
        0..10_240 => format!("{size} B"),
        10_240..10_485_760 => format!("{:.1} KiB", size as f64 / 1_024.0),
        _ => format!("{:.1} MiB", size as f64 / 1_048_576.0),
    }
}

/// A size as a number that may also shrink.
pub fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_as_long_as_they_are_worth() {
        for (us, text) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1_234, "1.23 ms"),
            (12_345, "12.3 ms"),
            (123_456, "123 ms"),
            (1_234_567, "1.23 s"),
        ] {
            assert_eq!(time(us), text);
        }
        assert_eq!((rate(99.94), rate(1_234.5)), ("99.9".to_owned(), "1234".to_owned()));
        assert_eq!(
            (bytes(-1_024), bytes(3 << 20)),
            ("-1024 B".to_owned(), "3072.0 KiB".to_owned())
        );
    }
}
