//! Where everything that a run sees is written down: one clock, one sequence of numbers, one list of events.

use std::{
    fs::File,
    io::{self, BufWriter, Write as _},
    path::Path,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use crate::history::{At, Event, History, Run, write_event};

/// Nanoseconds since the run began; `None` where the clock can't be read, as in a simulation that is being torn down.
type Clock = dyn Fn() -> Option<At> + Send + Sync;

/// What all parts of a harness record to; clones share it.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    clock: Box<Clock>,
    /// The latest instant that was told: the clock never goes back, whatever it is made of.
    latest: AtomicU64,
    ids: AtomicU64,
    sink: Mutex<Sink>,
}

struct Sink {
    history: History,
    file: Option<BufWriter<File>>,
    /// The first thing that went wrong; told by `finish`.
    trouble: Option<io::Error>,
}

impl Recorder {
    /// Records to memory. The run begins now, by tokio's clock: to be called within a runtime whose clock is paused,
    /// if its clock is paused.
    #[must_use]
    pub fn new(run: Run) -> Self {
        Self::with_clock(run, since(Instant::now()))
    }

    /// The same, by a clock that the harness brings: in a simulation each host's tokio clock counts on its own.
    #[must_use]
    pub fn with_clock(run: Run, clock: impl Fn() -> Option<At> + Send + Sync + 'static) -> Self {
        Self::with_sink(History::new(run), None, Box::new(clock))
    }

    /// Records to memory and, line by line, to a file.
    ///
    /// # Errors
    /// The file can't be created or written.
    pub fn to_file(run: Run, path: &Path) -> io::Result<Self> {
        let mut file = BufWriter::new(File::create(path)?);
        write_event(&mut file, &Event::Run(run.clone()))?;
        Ok(Self::with_sink(
            History::new(run),
            Some(file),
            Box::new(since(Instant::now())),
        ))
    }

    fn with_sink(history: History, file: Option<BufWriter<File>>, clock: Box<Clock>) -> Self {
        Self(Arc::new(Inner {
            clock,
            latest: AtomicU64::new(0),
            ids: AtomicU64::new(1),
            sink: Mutex::new(Sink {
                history,
                file,
                trouble: None,
            }),
        }))
    }

    /// Now, on the run's one clock.
    #[must_use]
    pub fn now(&self) -> At {
        let now = (self.0.clock)().unwrap_or(0);
        self.0.latest.fetch_max(now, Ordering::SeqCst).max(now)
    }

    /// A number that nobody else in the run has; greater than all before.
    #[must_use]
    pub fn next_id(&self) -> u64 {
        self.0.ids.fetch_add(1, Ordering::SeqCst)
    }

    /// Writes an event down. What goes wrong with the file is told in the end.
    pub fn record(&self, event: Event) {
        let mut sink = self.sink();
        if let Some(file) = &mut sink.file
            && let Err(error) = write_event(file, &event)
        {
            sink.trouble.get_or_insert(error);
        }
        if let Err(error) = sink.history.add(event) {
            sink.trouble.get_or_insert(io::Error::other(error));
        }
    }

    /// What was recorded so far. A harness looks at it while it runs, for its line of progress.
    pub fn with_history<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.sink().history)
    }

    /// Everything that was recorded; the file is whole. What other clones record later is in neither.
    ///
    /// # Errors
    /// The file could not be written, now or before.
    pub fn finish(self) -> io::Result<History> {
        let mut sink = self.sink();
        if let Some(mut file) = sink.file.take() {
            file.flush()?;
        }
        match sink.trouble.take() {
            Some(error) => Err(error),
            None => {
                let empty = History::new(sink.history.run.clone());
                Ok(std::mem::replace(&mut sink.history, empty))
            }
        }
    }

    fn sink(&self) -> MutexGuard<'_, Sink> {
        // A panic while the lock was held is the end of the run anyway; what was written stands.
        self.0.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn since(began: Instant) -> impl Fn() -> Option<At> + Send + Sync + 'static {
    move || u64::try_from(began.elapsed().as_nanos()).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::history::{Answer, Call, Request};

    fn run() -> Run {
        Run {
            harness: "test".into(),
            seed: 1,
            nodes: 3,
            replay: String::new(),
        }
    }

    fn grant(recorder: &Recorder) -> Event {
        Event::Call(Call {
            id: recorder.next_id(),
            attempt: 0,
            client: 1,
            node: None,
            sent: recorder.now(),
            ended: recorder.now(),
            request: Request::Grant { lease: 1, ttl_ms: 1 },
            asked: 0,
            answer: Answer::Unknown { reason: "test".into() },
        })
    }

    #[test]
    fn what_is_recorded_is_in_the_file_and_in_memory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.jsonl");
        let recorder = Recorder::to_file(run(), &path).unwrap();
        for _ in 0..3 {
            recorder.record(grant(&recorder));
        }
        assert_eq!(recorder.with_history(|history| history.calls.len()), 3);
        let history = recorder.finish().unwrap();
        assert_eq!(History::read(&path).unwrap(), history);
        let ids: Vec<u64> = history.calls.iter().map(|call| call.id).collect();
        assert_eq!(ids, [1, 2, 3]);
    }

    #[test]
    fn the_clock_never_goes_back() {
        let times = Mutex::new(vec![Some(7), None, Some(3), Some(5)]);
        let recorder = Recorder::with_clock(run(), move || times.lock().unwrap().pop().flatten());
        let told: Vec<At> = (0..4).map(|_| recorder.now()).collect();
        assert_eq!(told, [5, 5, 5, 7]);
    }

    #[tokio::test(start_paused = true)]
    async fn simulated_time_is_the_runs_time() {
        let recorder = Recorder::new(run());
        tokio::time::sleep(Duration::from_millis(3)).await;
        assert_eq!(recorder.now(), 3_000_000);
    }
}
