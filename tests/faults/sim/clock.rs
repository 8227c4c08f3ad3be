//! A node's clocks, which may run at another rate than the others', leap, or stand still.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use roster::node::Clock;

use super::overlap::Overlap;

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
    /// How fast it goes, if not as it should; 0 = it stands still.
    rates: Overlap<f64>,
    wall_ahead_ms: i64,
}

impl BentClock {
    /// One that began some time before the simulation did.
    pub(super) fn new(reading: Duration) -> Self {
        Self(Arc::new(Mutex::new(State {
            since: Duration::ZERO,
            reading,
            rates: Overlap::default(),
            wall_ahead_ms: 0,
        })))
    }

    /// From now on it goes at this rate; by the number it is undone.
    pub(super) fn bend(&self, now: Duration, rate: f64) -> u64 {
        self.change(now, |rates| rates.begin(rate))
    }

    /// Undoes one [`BentClock::bend`].
    pub(super) fn unbend(&self, now: Duration, number: u64) {
        self.change(now, |rates| rates.end(number));
    }

    fn change<T>(&self, now: Duration, change: impl FnOnce(&mut Overlap<f64>) -> T) -> T {
        let mut state = self.lock();
        state.reading = state.read(now);
        state.since = now;
        change(&mut state.rates)
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
        let rate = self.rates.now().copied().unwrap_or(1.0);
        self.reading + now.saturating_sub(self.since).mul_f64(rate)
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
        let slow = clock.bend(Duration::from_secs(10), 0.5);
        let still = clock.bend(Duration::from_secs(20), 0.0);
        let read = |at| clock.lock().read(Duration::from_secs(at));
        assert_eq!(read(30), Duration::from_secs(115));
        clock.leap(Duration::from_secs(7));
        clock.unbend(Duration::from_secs(40), slow);
        assert_eq!(
            read(41),
            Duration::from_secs(122),
            "it stands still until that ends, too"
        );
        clock.unbend(Duration::from_secs(50), still);
        assert_eq!(read(51), Duration::from_secs(123));
    }
}
