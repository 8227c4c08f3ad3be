//! When a run's tasks count what they do, and when they end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

/// The warm-up, the measured span and its end, which may come early.
#[derive(Debug)]
pub struct Schedule {
    began: Instant,
    measured_from: Instant,
    until: Instant,
    /// Looked at before each operation; the token is for those who wait.
    stopped: AtomicBool,
    token: CancellationToken,
}

impl Schedule {
    /// As good as for ever: until it is stopped.
    pub const OPEN_ENDED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

    /// Begins now.
    pub fn begin(warmup: Duration, measured: Duration) -> Arc<Self> {
        let began = Instant::now();
        let measured_from = began + warmup;
        Arc::new(Self {
            began,
            measured_from,
            until: measured_from + measured,
            stopped: AtomicBool::new(false),
            token: CancellationToken::new(),
        })
    }

    /// Begins now, counts from now, and goes on until it is stopped.
    pub fn open_ended() -> Arc<Self> {
        Self::begin(Duration::ZERO, Self::OPEN_ENDED)
    }

    /// When it began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// From when on what is sent counts.
    pub fn measured_from(&self) -> Instant {
        self.measured_from
    }

    /// Whether more is to be sent.
    pub fn goes_on(&self) -> bool {
        !self.stopped.load(Relaxed) && Instant::now() < self.until
    }

    /// Whether what was sent then counts.
    pub fn counts(&self, sent: Instant) -> bool {
        sent >= self.measured_from
    }

    /// How long it has been measured until now.
    pub fn measured(&self) -> Duration {
        self.measured_from.elapsed()
    }

    /// How long is to be measured; `None` = until it is stopped.
    fn planned(&self) -> Option<Duration> {
        let planned = self.until - self.measured_from;
        (planned < Self::OPEN_ENDED).then_some(planned)
    }

    /// Ends it early.
    pub fn stop(&self) {
        self.stopped.store(true, Relaxed);
        self.token.cancel();
    }

    /// Waits for its end.
    pub async fn over(&self) {
        tokio::select! {
            () = self.token.cancelled() => {}
            () = tokio::time::sleep_until(self.until.into()) => {}
        }
    }

    /// Waits until then, or for its end.
    pub async fn wait_until(&self, then: Instant) {
        tokio::select! {
            () = self.over() => {}
            () = tokio::time::sleep_until(then.into()) => {}
        }
    }

    /// Where it stands, for people.
    pub fn stands(&self) -> String {
        let now = Instant::now();
        if now < self.measured_from {
            let left = (self.measured_from - now).as_secs() + 1;
            return format!("warming up, {left} s to go");
        }
        let gone = self.measured().as_secs();
        match self.planned() {
            Some(planned) => format!("{gone} of {} s", planned.as_secs()),
            None => format!("{gone} s"),
        }
    }
}

/// What a task has done so far, for those who watch it run. Written by the task alone.
#[derive(Debug, Default)]
pub struct Live {
    /// Operations.
    pub done: AtomicU64,
    /// Calls that failed.
    pub failed: AtomicU64,
}

impl Live {
    /// One for each of so many tasks.
    pub fn of_tasks(count: usize) -> Vec<Arc<Self>> {
        (0..count).map(|_| Arc::default()).collect()
    }

    /// So many operations more.
    pub fn done(&self, operations: u64) {
        self.done.fetch_add(operations, Relaxed);
    }

    /// One more has failed.
    pub fn failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// Done and failed, of all together.
    pub fn of_all(live: &[Arc<Self>]) -> (u64, u64) {
        live.iter().fold((0, 0), |(done, failed), task| {
            (done + task.done.load(Relaxed), failed + task.failed.load(Relaxed))
        })
    }
}

/// The turns of a task that does so much in a second; without a rate it is always its turn.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    interval: Option<Duration>,
    next: Instant,
}

impl Pace {
    /// For task `number` of `tasks`, which together take `per_second` turns, evenly spread.
    pub fn of_task(number: usize, tasks: usize, per_second: Option<u32>, begin: Instant) -> Self {
        let each = |per_second: u32| Duration::from_secs(1) / per_second;
        let factor = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self {
            interval: per_second.map(|per_second| each(per_second) * factor(tasks)),
            next: begin + per_second.map_or(Duration::ZERO, |per_second| each(per_second) * factor(number)),
        }
    }

    /// Waits for the next turn. Turns that were missed are not made up for.
    pub async fn turn(&mut self, schedule: &Schedule) {
        let Some(interval) = self.interval else { return };
        schedule.wait_until(self.next).await;
        // Who is a little late keeps its turns.
        let missed = Instant::now().saturating_duration_since(self.next) > interval;
        self.next = if missed { Instant::now() } else { self.next } + interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_in_the_warm_up_does_not_count() {
        let schedule = Schedule::begin(Duration::from_secs(100), Duration::from_secs(100));
        assert!(schedule.goes_on());
        assert!(!schedule.counts(Instant::now()));
        assert!(schedule.counts(schedule.measured_from()));
        assert!(schedule.measured().is_zero());
        assert_eq!(schedule.stands(), "warming up, 100 s to go");
        schedule.stop();
        assert!(!schedule.goes_on());
    }

    #[tokio::test]
    async fn who_waits_hears_of_an_early_end() {
        let schedule = Schedule::open_ended();
        assert_eq!(schedule.stands(), "0 s");
        schedule.stop();
        schedule.over().await;
        schedule.wait_until(Instant::now() + Duration::from_secs(1_000)).await;
    }

    #[tokio::test]
    async fn paced_tasks_take_turns_and_an_unpaced_one_never_waits() {
        let schedule = Schedule::open_ended();
        let begin = schedule.began();
        let mut paced = Pace::of_task(1, 2, Some(100), begin);
        assert_eq!(paced.next, begin + Duration::from_millis(10));
        paced.turn(&schedule).await;
        assert!(begin.elapsed() >= Duration::from_millis(10));
        assert!(paced.next >= begin + Duration::from_millis(30));
        let mut unpaced = Pace::of_task(1, 2, None, begin);
        unpaced.turn(&schedule).await;
        assert_eq!(unpaced.next, begin);
    }

    #[test]
    fn live_counts_add_up() {
        let live = Live::of_tasks(2);
        live[0].done(3);
        live[1].done(4);
        live[1].failed();
        assert_eq!(Live::of_all(&live), (7, 1));
    }
}
