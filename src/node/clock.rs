//! The node's clocks, behind a trait so that a simulation can bend them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Where a node reads time. Deadlines of calls use tokio's clock; lease time and ages use this one.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic time since some fixed instant; it goes on while the machine is suspended.
    fn now(&self) -> Duration;
    /// Unix time in milliseconds, for people: nothing is decided by it.
    fn wall_ms(&self) -> u64;
}

/// The machine's clocks: `CLOCK_BOOTTIME`, and the wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct MachineClock;

impl Clock for MachineClock {
    fn now(&self) -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
        Duration::new(seconds, nanos)
    }

    fn wall_ms(&self) -> u64 {
        // A wall clock before 1970 is wrong anyway; it must not stop a registry that decides nothing by it.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
