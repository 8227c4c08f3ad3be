//! Whether the machine had time for us. A process that is not scheduled can't answer, and no cluster is to blame: what
//! must happen *in time* is demanded only of a machine that keeps time itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;

/// How long each sleep is …
const NAP: Duration = Duration::from_millis(10);
/// … and how late its end may be.
const LATE: Duration = Duration::from_millis(40);
/// So many naps in a thousand may be late.
const LATE_MAX_PER_MILLE: u64 = 10;

/// Watches how late short sleeps end.
pub(crate) struct Machine {
    seen: Arc<Seen>,
    _watching: AbortOnDropHandle<()>,
}

#[derive(Default)]
struct Seen {
    naps: AtomicU64,
    late: AtomicU64,
    latest_ms: AtomicU64,
}

impl Machine {
    /// Begins to watch.
    pub(crate) fn watch() -> Self {
        let seen = Arc::<Seen>::default();
        let watched = Arc::clone(&seen);
        let watching = tokio::spawn(async move {
            loop {
                let began = Instant::now();
                sleep(NAP).await;
                let late = began.elapsed().saturating_sub(NAP);
                watched.naps.fetch_add(1, Ordering::Relaxed);
                watched.late.fetch_add(u64::from(late > LATE), Ordering::Relaxed);
                let late_ms = u64::try_from(late.as_millis()).unwrap_or(u64::MAX);
                watched.latest_ms.fetch_max(late_ms, Ordering::Relaxed);
            }
        });
        Self {
            seen,
            _watching: AbortOnDropHandle::new(watching),
        }
    }

    /// Whether it was too busy to say anything about time; then how busy.
    pub(crate) fn was_busy(&self) -> Option<String> {
        let (naps, late) = (
            self.seen.naps.load(Ordering::Relaxed),
            self.seen.late.load(Ordering::Relaxed),
        );
        let busy = late * 1_000 > naps * LATE_MAX_PER_MILLE;
        let latest_ms = self.seen.latest_ms.load(Ordering::Relaxed);
        busy.then(|| format!("{late} of {naps} sleeps of 10 ms ended over 40 ms late, one {latest_ms} ms"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_keeps_time_is_not_busy() {
        let machine = Machine::watch();
        sleep(Duration::from_secs(1)).await;
        assert_eq!(machine.was_busy(), None);
        machine.seen.late.fetch_add(5, Ordering::Relaxed);
        assert!(machine.was_busy().is_some());
    }
}
