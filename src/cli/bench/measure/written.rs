//! How much writers have written, and who waits for the last of them.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::sync::oneshot;

/// How much each writer has written, once it is done; and who waits for all of them.
#[derive(Debug)]
pub struct Written {
    counts: Vec<AtomicU64>,
    writing: AtomicUsize,
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
}

impl Written {
    /// Nothing yet, by so many writers.
    pub fn by(writers: usize) -> Arc<Self> {
        Arc::new(Self {
            counts: (0..writers).map(|_| AtomicU64::new(0)).collect(),
            writing: AtomicUsize::new(writers),
            waiting: Mutex::default(),
        })
    }

    /// Hears once all writers are done. To be asked for before the first of them is.
    pub fn wait(&self) -> oneshot::Receiver<()> {
        let (tell, wait) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(tell);
        wait
    }

    /// A writer is done, and so many writes were acknowledged.
    pub fn done(&self, writer: usize, count: u64) {
        self.counts[writer].store(count, Ordering::Release);
        if self.writing.fetch_sub(1, Ordering::AcqRel) == 1 {
            let waiting = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            for tell in waiting {
                // A stream that has ended does not listen.
                let _listens = tell.send(());
            }
        }
    }

    /// How much each has written.
    pub fn counts(&self) -> Vec<u64> {
        self.counts.iter().map(|count| count.load(Ordering::Acquire)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_hears_of_the_last_writer() {
        let written = Written::by(2);
        let mut wait = written.wait();
        written.done(1, 7);
        assert!(wait.try_recv().is_err());
        written.done(0, 5);
        wait.await.expect("told");
        assert_eq!(written.counts(), [5, 7]);
    }
}
