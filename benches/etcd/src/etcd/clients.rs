//! Those who renew and write while something happens to the cluster: each goes on at another node when one fails it, at
//! its own pace, as their likes in `roster bench` do.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use etcd_client::PutOptions;
use roster::cli::bench::measure::{Caller, Gaps, Pace, Schedule, Trouble};
use tokio::sync::mpsc;
use tonic::Streaming;

use super::{
    keepalive::{KeepAliveRequest, KeepAliveResponse, open},
    keys,
    target::{Connection, in_time, refused},
};

/// Keys that a writer changes by turns.
const RECORDS: u64 = 100;

/// What all of them need.
pub(super) struct Other {
    pub(super) ways: Arc<[Connection]>,
    /// The node in use.
    pub(super) at: usize,
    pub(super) pace: Pace,
    /// How long a call may take before the next node is asked.
    pub(super) limit: Duration,
    pub(super) lease_id: i64,
    pub(super) gaps: Arc<Gaps>,
}

impl Other {
    /// Those of so many clients of each kind, by number: the one who renews and the one who writes.
    pub(super) fn pair(
        number: usize,
        clients: usize,
        rate: u32,
        (ways, leases): (&Arc<[Connection]>, &[i64]),
        (renewals, writes): (&Arc<Gaps>, &Arc<Gaps>),
        (limit, began): (Duration, Instant),
    ) -> (Renewer, Writer) {
        let other = |lease_id: i64, gaps: &Arc<Gaps>| Self {
            ways: ways.clone(),
            at: number,
            pace: Pace::of_task(number, clients, Some(rate), began),
            limit,
            lease_id,
            gaps: gaps.clone(),
        };
        let renewer = Renewer {
            other: other(leases[2 * number], renewals),
            stream: None,
        };
        let writer = Writer {
            other: other(leases[2 * number + 1], writes),
            number,
            sent: 0,
        };
        (renewer, writer)
    }

    fn way(&self) -> Connection {
        self.ways[self.at % self.ways.len()].clone()
    }
}

type Stream = (mpsc::Sender<KeepAliveRequest>, Streaming<KeepAliveResponse>);

/// One who renews its lease, on a stream that stays open as long as it works.
pub(super) struct Renewer {
    other: Other,
    stream: Option<Stream>,
}

impl Renewer {
    async fn renew(&mut self) -> Result<(), Trouble> {
        let request = KeepAliveRequest {
            id: self.other.lease_id,
        };
        let (requests, mut answers) = match self.stream.take() {
            Some((requests, answers)) => {
                let ended = |_| Trouble::new("ENDED", "the stream takes no more messages");
                requests.try_send(request).map_err(ended)?;
                (requests, answers)
            }
            None => {
                let (requests, queue) = mpsc::channel(1);
                let full = |_| Trouble::new("ENDED", "the stream takes no more messages");
                requests.try_send(request).map_err(full)?;
                (requests, open(self.other.way().channel, queue).await?)
            }
        };
        match answers.message().await.map_err(|status| refused(&status))? {
            Some(answer) if answer.ttl > 0 => {
                self.stream = Some((requests, answers));
                Ok(())
            }
            Some(_) => Err(Trouble::new("NOT_FOUND", "the lease was gone")),
            None => Err(Trouble::new("ENDED", "the node ended the stream")),
        }
    }
}

impl Caller for Renewer {
    async fn prepare(&mut self, schedule: &Schedule) -> Result<(), Trouble> {
        self.other.pace.turn(schedule).await;
        Ok(())
    }

    async fn call(&mut self) -> Result<u64, Trouble> {
        let renewed = tokio::time::timeout(self.other.limit, self.renew()).await;
        let late = Trouble::new("NO_ANSWER", "it took longer than it may");
        match renewed.unwrap_or(Err(late)) {
            Ok(()) => {
                self.other.gaps.acknowledged();
                Ok(1)
            }
            Err(trouble) => {
                self.stream = None;
                self.other.at += 1;
                Err(trouble)
            }
        }
    }
}

/// One who writes.
pub(super) struct Writer {
    other: Other,
    number: usize,
    sent: u64,
}

impl Caller for Writer {
    async fn prepare(&mut self, schedule: &Schedule) -> Result<(), Trouble> {
        self.other.pace.turn(schedule).await;
        Ok(())
    }

    async fn call(&mut self) -> Result<u64, Trouble> {
        let id = format!("{}-{}", self.number, self.sent % RECORDS);
        let key = keys::instance(&keys::service(1), id);
        self.sent += 1;
        let value = keys::value(&self.sent.to_string());
        let options = PutOptions::new().with_lease(self.other.lease_id);
        let mut client = self.other.way().client;
        match in_time(self.other.limit, client.put(key, value, Some(options))).await {
            Ok(_) => {
                self.other.gaps.acknowledged();
                Ok(1)
            }
            Err(trouble) => {
                self.other.at += 1;
                Err(trouble)
            }
        }
    }
}
