//! A node's clocks, which may run at another rate than the others', leap, or stand still.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use roster::node::Clock;

/// The wall clock at the beginning of every simulation, in milliseconds of Unix time.
const WALL_BEGINS_MS: i64 = 1_700_000_000_000;

/// The clocks of one machine; they go on while its node is down.
#[derive(Clone, Debug)]
pub(super) struct BentClock(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// Time of the simulation at which `reading` was right.
    since: Duration,
    reading: Duration,
    /// How fast it goes; 0 = it stands still.
    rate: f64,
    wall_ahead_ms: i64,
}

impl BentClock {
    /// One that began some time before the simulation did.
    pub(super) fn new(reading: Duration) -> Self {
        Self(Arc::new(Mutex::new(State {
            since: Duration::ZERO,
            reading,
            rate: 1.0,
            wall_ahead_ms: 0,
        })))
    }

    /// From now on it goes at this rate.
    pub(super) fn set_rate(&self, now: Duration, rate: f64) {
        let mut state = self.lock();
        state.reading = state.read(now);
        state.since = now;
        state.rate = rate;
    }

    /// It leaps ahead.
    pub(super) fn leap(&self, by: Duration) {
        self.lock().reading += by;
    }

    /// The wall clock leaps, in either direction.
    pub(super) fn leap_wall(&self, by_ms: i64) {
        self.lock().wall_ahead_ms += by_ms;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn read(&self, now: Duration) -> Duration {
        self.reading + now.saturating_sub(self.since).mul_f64(self.rate)
    }
}

impl Clock for BentClock {
    fn now(&self) -> Duration {
        let state = self.lock();
        // While a host is torn down there is no time; then it is as late as when it was last set.
        state.read(turmoil::sim_elapsed().unwrap_or(state.since))
    }

    fn wall_ms(&self) -> u64 {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default().as_millis();
        let ahead = self.lock().wall_ahead_ms;
        let wall = WALL_BEGINS_MS + ahead + i64::try_from(elapsed).unwrap_or(0);
        u64::try_from(wall).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_from_when_it_was_set() {
        let clock = BentClock::new(Duration::from_secs(100));
        clock.set_rate(Duration::from_secs(10), 0.5);
        clock.set_rate(Duration::from_secs(20), 0.0);
        let read = |at| clock.lock().read(Duration::from_secs(at));
        assert_eq!(read(30), Duration::from_secs(115));
        clock.leap(Duration::from_secs(7));
        clock.set_rate(Duration::from_secs(40), 1.0);
        assert_eq!(read(41), Duration::from_secs(123));
    }
}
