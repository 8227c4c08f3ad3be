//! From a put to those who watch its prefix.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use etcd_client::{Client, EventType, PutOptions, WatchOptions, WatchStream};
use roster::cli::bench::measure::{
    Caller, Fact, Faults, Live, Mark, Measure, Report, Schedule, Seen, Tally, Trouble, Written, client, micros,
};
use tokio::{sync::oneshot, task::JoinSet};

use super::{
    keys,
    run::{LIMIT, Ran, Run, parameters},
    target::{in_time, trouble},
};
use crate::problem::{Problem, While as _};

#[derive(Args, Debug)]
pub(super) struct Watch {
    /// How many watchers
    #[arg(long, default_value_t = 1_000)]
    watchers: usize,
    /// How many streams they are spread over [default: one for each connection]
    #[arg(long)]
    streams: Option<usize>,
    /// How many writers, each with one put at a time
    #[arg(long, default_value_t = 16)]
    pub(super) writers: usize,
    /// How many keys each writer has and changes by turns
    #[arg(long, default_value_t = 1_000)]
    records: u64,
}

/// What a task of the run came to.
enum Came {
    Writer(Box<Tally>),
    Stream(Box<(Tally, Faults)>),
}

impl Watch {
    pub(super) async fn measure(&self, run: &Run) -> Result<Report, Problem> {
        let streams = self.streams.unwrap_or_else(|| run.target.connections());
        let streams = streams.min(self.watchers);
        let leases = run.grant(self.writers, run.outliving_s()).await?;
        let mut open = Vec::with_capacity(streams);
        for number in 0..streams {
            let count = self.watchers / streams + usize::from(number < self.watchers % streams);
            open.push(self.open(run.target.connection(number).client, count).await?);
        }
        let epoch = Instant::now();
        let schedule = run.schedule();
        let written = Written::by(self.writers);
        let mut tasks = JoinSet::new();
        for watching in open {
            let around = Around {
                schedule: schedule.clone(),
                written: written.clone(),
                all_written: written.wait(),
                epoch,
            };
            tasks.spawn(async move { Came::Stream(Box::new(watching.run(around).await)) });
        }
        for (number, lease_id) in leases.into_iter().enumerate() {
            let writer = Writer {
                client: run.target.connection(number).client,
                lease_id,
                number,
                ring: self.records,
                epoch,
                written: 0,
                unacknowledged: None,
            };
            let (schedule, written) = (schedule.clone(), written.clone());
            tasks.spawn(async move {
                let called = client(writer, schedule, Arc::<Live>::default()).await;
                written.done(called.caller.number, called.caller.written);
                Came::Writer(Box::new(called.measured))
            });
        }
        let ran = run.conduct(&schedule, tasks).await?;
        Ok(self.report(run, streams, ran))
    }

    /// Opens watches of one prefix on one stream, and waits until each has begun.
    async fn open(&self, mut client: Client, count: usize) -> Result<Watching, Problem> {
        let prefix = keys::service(0);
        let options = |id: i64| Some(WatchOptions::new().with_prefix().with_watch_id(id));
        let mut stream = client.watch(prefix.as_str(), options(1)).await.when("watch")?;
        let mut begun = 0;
        for id in (1..).take(count) {
            if id > 1 {
                stream.watch(prefix.as_str(), options(id)).await.when("watch")?;
            }
            let answer = stream.message().await.when("watch")?;
            let answer = answer.ok_or_else(|| Problem("watch: the node ended the stream".into()))?;
            begun += usize::from(answer.created() && !answer.canceled() && answer.watch_id() == id);
        }
        if begun < count {
            return Err(Problem(format!("only {begun} of {count} watches came about")));
        }
        let nothing = Seen::nothing(self.writers, self.records);
        Ok(Watching {
            stream,
            watchers: vec![nothing; count],
        })
    }

    fn report(&self, run: &Run, streams: usize, ran: Ran<Came>) -> Report {
        let (mut writes, mut deliveries) = (Tally::new(), Tally::new());
        let mut faults = Faults::default();
        for came in ran.tasks {
            match came {
                Came::Writer(tally) => writes.merge(*tally),
                Came::Stream(watched) => {
                    deliveries.merge(watched.0);
                    faults.add(watched.1);
                }
            }
        }
        let parameters = parameters([
            ("watchers", self.watchers.into()),
            ("streams", streams.into()),
            ("writers", self.writers.into()),
            ("records", self.records.into()),
        ]);
        let measure = |name, tally| Measure {
            name,
            tally,
            over: ran.over,
        };
        let writes = measure("write", writes);
        if self.watchers == 0 {
            return run.report("watch", parameters, writes, ran.server);
        }
        let mut report = run.report("watch", parameters, measure("deliver", deliveries), ran.server);
        report.others.push(writes);
        report.facts = vec![
            Fact::new("lost_events", faults.lost, ""),
            Fact::new("doubled_events", faults.doubled, ""),
            Fact::new("coalesced_events", faults.coalesced, ""),
        ];
        report
    }
}

/// What a stream's task goes by.
struct Around {
    schedule: Arc<Schedule>,
    written: Arc<Written>,
    all_written: oneshot::Receiver<()>,
    epoch: Instant,
}

/// An open stream, and what each of its watchers has seen.
struct Watching {
    stream: WatchStream,
    watchers: Vec<Seen>,
}

impl Watching {
    /// Reads until all that was written has been shown to all, or does not come any more.
    async fn run(mut self, mut around: Around) -> (Tally, Faults) {
        let mut tally = Tally::new();
        let mut written: Option<(Vec<u64>, tokio::time::Instant)> = None;
        loop {
            if let Some((counts, _)) = &written
                && self.behind(counts) == 0
            {
                break;
            }
            let deadline = written.as_ref().map(|(_, deadline)| *deadline);
            let message = tokio::select! {
                biased;
                message = self.stream.message() => message,
                told = &mut around.all_written, if written.is_none() => {
                    // The writers tell before they end.
                    let _told = told;
                    written = Some((around.written.counts(), tokio::time::Instant::now() + LIMIT));
                    continue;
                }
                () = until(deadline), if deadline.is_some() => break,
            };
            match message {
                Ok(Some(message)) => self.take(&message, &around, &mut tally),
                Ok(None) => {
                    tally.failed(Trouble::new("ENDED", "the node ended the stream"));
                    break;
                }
                Err(error) => {
                    tally.failed(trouble(error));
                    break;
                }
            }
        }
        let mut faults = Faults::default();
        for seen in &self.watchers {
            faults.add(seen.faults);
            if let Some((counts, _)) = &written {
                faults.lost += seen.behind(counts);
            }
        }
        (tally, faults)
    }

    fn take(&mut self, message: &etcd_client::WatchResponse, around: &Around, tally: &mut Tally) {
        if message.canceled() {
            tally.failed(Trouble::new("CANCELED", message.cancel_reason()));
            return;
        }
        let place = usize::try_from(message.watch_id() - 1).ok();
        let Some(seen) = place.and_then(|place| self.watchers.get_mut(place)) else {
            return;
        };
        let now = Instant::now();
        let now_us = micros(now - around.epoch);
        let counts_from_us = micros(around.schedule.measured_from().saturating_duration_since(around.epoch));
        for event in message.events() {
            let value = event.kv().filter(|_| event.event_type() == EventType::Put);
            let mark = value.and_then(|kv| Mark::read(keys::version(kv.value_str().ok()?)?.as_bytes()));
            let Some(mark) = mark else {
                tally.failed(Trouble::new("FOREIGN", "a change that no writer of this run made"));
                continue;
            };
            if seen.put(mark) && mark.sent_us >= counts_from_us {
                tally.done(1, Duration::from_micros(now_us.saturating_sub(mark.sent_us)));
            }
        }
        seen.step_over();
    }

    /// How many changes the watchers have yet to see.
    fn behind(&self, written: &[u64]) -> u64 {
        self.watchers.iter().map(|seen| seen.behind(written)).sum()
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// One writer.
struct Writer {
    client: Client,
    lease_id: i64,
    number: usize,
    ring: u64,
    epoch: Instant,
    /// Acknowledged puts.
    written: u64,
    /// A put that failed, to be sent again as it is.
    unacknowledged: Option<(String, String)>,
}

impl Writer {
    fn next_put(&self) -> (String, String) {
        let mark = Mark {
            writer: self.number,
            number: self.written,
            sent_us: micros(self.epoch.elapsed()),
        };
        let id = format!("{}-{}", self.number, self.written % self.ring);
        (keys::instance(&keys::service(0), id), keys::value(&mark.text()))
    }
}

impl Caller for Writer {
    async fn call(&mut self) -> Result<u64, Trouble> {
        let (key, value) = self.unacknowledged.take().unwrap_or_else(|| self.next_put());
        let options = PutOptions::new().with_lease(self.lease_id);
        match in_time(LIMIT, self.client.put(key.as_str(), value.as_str(), Some(options))).await {
            Ok(_) => {
                self.written += 1;
                Ok(1)
            }
            Err(trouble) => {
                self.unacknowledged = Some((key, value));
                Err(trouble)
            }
        }
    }
}
