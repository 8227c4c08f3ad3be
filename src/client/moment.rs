//! The client's own clock, by which it decides that a lease may have ended.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

/// Which clock a client goes by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// The machine's, since boot. It goes on while the machine sleeps, so that a lease that ran out in the meantime is
    /// known as lost the moment that it wakes; it never jumps with the wall clock.
    #[default]
    Boot,
    /// The tokio runtime's: for tests and simulations, whose time is the runtime's. It stands still while the machine
    /// sleeps.
    Runtime,
}

impl Clock {
    /// Now.
    #[must_use]
    pub fn now(self) -> Moment {
        match self {
            Self::Boot => Moment(Reading::Boot(since_boot())),
            Self::Runtime => Moment(Reading::Runtime(Instant::now())),
        }
    }
}

/// A moment of one of the clocks. Those of different clocks can't be compared: neither is before the other in any way
/// that means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Reading);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reading {
    Boot(Duration),
    Runtime(Instant),
}

impl Moment {
    /// This moment and a span.
    #[must_use]
    pub fn after(self, span: Duration) -> Self {
        Self(match self.0 {
            Reading::Boot(reading) => Reading::Boot(reading.saturating_add(span)),
            Reading::Runtime(instant) => Reading::Runtime(instant + span),
        })
    }

    /// How long it is until this moment; zero when it has passed.
    #[must_use]
    pub fn remaining(self) -> Duration {
        match self.0 {
            Reading::Boot(reading) => reading.saturating_sub(since_boot()),
            Reading::Runtime(instant) => instant.saturating_duration_since(Instant::now()),
        }
    }

    /// Whether it has passed.
    #[must_use]
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }
}

fn since_boot() -> Duration {
    #[cfg(target_os = "linux")]
    let clock = ClockId::Boottime;
    #[cfg(not(target_os = "linux"))]
    let clock = ClockId::Monotonic;
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Duration::new(seconds, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn each_clock_tells_how_long_it_is_until_its_moments() {
        let span = Duration::from_secs(3_600);
        let [boot, runtime] = [Clock::Boot, Clock::Runtime].map(|clock| clock.now().after(span));
        assert!(!boot.has_passed() && !runtime.has_passed());
        assert_eq!(runtime.remaining(), span);
        tokio::time::advance(span).await;
        assert!(runtime.has_passed(), "the runtime's time is what the test makes it");
        assert!(!boot.has_passed(), "no hour has passed on this machine");
        assert!(Clock::Boot.now().has_passed());
    }
}
