//! How long nothing was acknowledged.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

/// The longest time without an acknowledgement, of all clients of a kind together.
#[derive(Debug)]
pub struct Gaps {
    epoch: Instant,
    /// The latest acknowledgement, in nanoseconds since `epoch`.
    last_ns: AtomicU64,
    longest_ns: AtomicU64,
}

impl Default for Gaps {
    fn default() -> Self {
        Self::new()
    }
}

impl Gaps {
    /// Counts from now.
    pub fn new() -> Self {
        Self {
            epoch: Instant::now(),
            last_ns: AtomicU64::new(0),
            longest_ns: AtomicU64::new(0),
        }
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Something was acknowledged.
    pub fn acknowledged(&self) {
        let now = self.now_ns();
        let last = self.last_ns.fetch_max(now, Relaxed);
        self.longest_ns.fetch_max(now.saturating_sub(last), Relaxed);
    }

    /// How long ago the latest acknowledgement was.
    pub fn silent_for(&self) -> Duration {
        Duration::from_nanos(self.now_ns().saturating_sub(self.last_ns.load(Relaxed)))
    }

    /// Forgets the gaps before now.
    pub fn begin(&self) {
        self.longest_ns.store(0, Relaxed);
    }

    /// The longest gap since it was begun, also if it has not ended yet.
    pub fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest_ns.load(Relaxed)).max(self.silent_for())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_gap_is_found_also_while_it_lasts() {
        let gaps = Gaps::new();
        gaps.acknowledged();
        gaps.begin();
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert!(gaps.longest() >= Duration::from_millis(30), "it has not ended");
        // Measured around it, not against the nap: a machine that is busy may hold this test up anywhere.
        let before = Instant::now();
        gaps.acknowledged();
        gaps.acknowledged();
        assert!(gaps.longest() >= Duration::from_millis(30), "it is kept");
        let silent = gaps.silent_for();
        assert!(silent <= before.elapsed(), "{silent:?}");
        gaps.begin();
        let longest = gaps.longest();
        assert!(longest <= before.elapsed(), "{longest:?}");
    }
}
