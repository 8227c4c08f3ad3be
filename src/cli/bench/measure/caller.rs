//! Clients that each have one call at a time, and send the next one when the last is answered.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    schedule::{Live, Schedule},
    tally::{Tally, Trouble},
};

/// The pause after a call that failed: a cluster that refuses must not be flooded.
const AFTER_ERROR: Duration = Duration::from_millis(10);

/// One client.
pub trait Caller: Send + 'static {
    /// What has to be done before the next call and is not part of it.
    fn prepare(&mut self, _schedule: &Schedule) -> impl Future<Output = Result<(), Trouble>> + Send {
        std::future::ready(Ok(()))
    }

    /// Whether it has nothing more to call, whatever the time.
    fn is_done(&self) -> bool {
        false
    }

    /// Makes one call; answers how many operations it did.
    fn call(&mut self) -> impl Future<Output = Result<u64, Trouble>> + Send;
}

/// What one client came to.
#[derive(Debug)]
pub struct Called<C> {
    /// The client, with what it has done.
    pub caller: C,
    /// What was sent before the measured span.
    pub before: Tally,
    /// What was sent in it.
    pub measured: Tally,
}

/// One client's loop. An operation counts when it was sent in the measured span; the last one is waited for, so that
/// no slow answer is left out.
pub async fn client<C: Caller>(mut caller: C, schedule: Arc<Schedule>, live: Arc<Live>) -> Called<C> {
    let (mut before, mut measured) = (Tally::new(), Tally::new());
    while schedule.goes_on() && !caller.is_done() {
        let prepared = caller.prepare(&schedule).await;
        let sent = Instant::now();
        let result = match prepared {
            // Preparing may have outlasted the run.
            Ok(()) if !schedule.goes_on() => break,
            Ok(()) => caller.call().await,
            Err(trouble) => Err(trouble),
        };
        let tally = if schedule.counts(sent) {
            &mut measured
        } else {
            &mut before
        };
        match result {
            Ok(operations) => {
                tally.done(operations, sent.elapsed());
                live.done(operations);
            }
            Err(trouble) => {
                tally.failed(trouble);
                live.failed();
                schedule.wait_until(Instant::now() + AFTER_ERROR).await;
            }
        }
    }
    Called {
        caller,
        before,
        measured,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails every third call, and ends the run after so many.
    struct Scripted {
        calls: u64,
        last: u64,
        schedule: Arc<Schedule>,
    }

    impl Caller for Scripted {
        fn is_done(&self) -> bool {
            self.calls > self.last
        }

        async fn call(&mut self) -> Result<u64, Trouble> {
            self.calls += 1;
            if self.calls == self.last {
                self.schedule.stop();
            }
            if self.calls.is_multiple_of(3) {
                Err(Trouble::new("OVERLOADED", "too much"))
            } else {
                Ok(10)
            }
        }
    }

    async fn ran(warmup: Duration) -> (Called<Scripted>, (u64, u64)) {
        let schedule = Schedule::begin(warmup, Duration::from_secs(1_000));
        let live = Live::of_tasks(1);
        let scripted = Scripted {
            calls: 0,
            last: 7,
            schedule: schedule.clone(),
        };
        let called = client(scripted, schedule, live[0].clone()).await;
        assert_eq!(called.caller.calls, 7);
        (called, Live::of_all(&live))
    }

    #[tokio::test]
    async fn calls_are_counted_with_their_operations_and_failures_apart() {
        let (Called { before, measured, .. }, live) = ran(Duration::ZERO).await;
        assert_eq!((measured.operations, measured.took_us.len()), (50, 5));
        assert_eq!(measured.errors.total(), 2);
        assert_eq!((before.operations, before.errors.total()), (0, 0));
        assert_eq!(live, (50, 2));
    }

    #[tokio::test]
    async fn what_is_sent_in_the_warm_up_is_kept_apart() {
        let (Called { before, measured, .. }, live) = ran(Duration::from_secs(100)).await;
        assert_eq!((measured.operations, measured.errors.total()), (0, 0));
        assert_eq!((before.operations, before.errors.total()), (50, 2));
        assert_eq!(live, (50, 2));
    }
}
