//! The writers whose writes are watched: each has a ring of records, and writes one after another.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::oneshot;
use tonic::transport::Channel;

use super::{
    super::{
        closed_loop::Caller,
        run::Maker,
        schedule::{Pace, Schedule},
        tally::{Trouble, micros},
        target::timed,
    },
    seen::Mark,
};
use crate::wire::v1::{self, register_request::Hold, registry_client::RegistryClient};

/// How much each writer has written, once it is done; and who waits for all of them.
#[derive(Debug)]
pub(super) struct Written {
    counts: Vec<AtomicU64>,
    writing: AtomicUsize,
    waiting: Mutex<Vec<oneshot::Sender<()>>>,
}

impl Written {
    pub(super) fn by(writers: usize) -> Arc<Self> {
        Arc::new(Self {
            counts: (0..writers).map(|_| AtomicU64::new(0)).collect(),
            writing: AtomicUsize::new(writers),
            waiting: Mutex::default(),
        })
    }

    /// Hears once all writers are done. To be asked for before the first of them is.
    pub(super) fn wait(&self) -> oneshot::Receiver<()> {
        let (tell, wait) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push(tell);
        wait
    }

    /// A writer is done, and so many writes were acknowledged.
    pub(super) fn done(&self, writer: usize, count: u64) {
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
    pub(super) fn counts(&self) -> Vec<u64> {
        self.counts.iter().map(|count| count.load(Ordering::Acquire)).collect()
    }
}

/// One writer.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) client: RegistryClient<Channel>,
    pub(super) maker: Maker,
    pub(super) service: String,
    pub(super) lease_id: i64,
    pub(super) number: usize,
    /// How many records it has.
    pub(super) ring: u64,
    /// What times are counted from.
    pub(super) epoch: Instant,
    pub(super) pace: Pace,
    pub(super) limit: Duration,
    /// Acknowledged writes.
    pub(super) written: u64,
    /// A write that failed, to be sent again as it is until it is acknowledged: so no number is left out.
    pub(super) unacknowledged: Option<v1::RegisterRequest>,
}

impl Writer {
    fn next_write(&self) -> v1::RegisterRequest {
        let mark = Mark {
            writer: self.number,
            number: self.written,
            sent_us: micros(self.epoch.elapsed()),
        };
        let id = format!("{}-{}", self.number, self.written % self.ring);
        v1::RegisterRequest {
            instance: Some(v1::Instance {
                version: mark.text(),
                ..self.maker.instance(&self.service, id)
            }),
            hold: Some(Hold::LeaseId(self.lease_id)),
            ..Default::default()
        }
    }
}

impl Caller for Writer {
    async fn prepare(&mut self, schedule: &Schedule) -> Result<(), Trouble> {
        self.pace.turn(schedule).await;
        Ok(())
    }

    async fn call(&mut self) -> Result<u64, Trouble> {
        let request = self.unacknowledged.take().unwrap_or_else(|| self.next_write());
        match self.client.register(timed(request.clone(), self.limit)).await {
            Ok(_) => {
                self.written += 1;
                Ok(1)
            }
            Err(status) => {
                self.unacknowledged = Some(request);
                Err(status.into())
            }
        }
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
