//! `roster bench watch`: from a write to those who watch.

mod stream;
mod writer;

use std::time::Instant;

use clap::Args;
use futures_util::future::try_join_all;
use serde_json::Map;
use tokio::task::JoinSet;

use self::{
    stream::{Around, Watched, Watching},
    writer::Writer,
};
use super::{
    super::{failure::Failure, session::Session},
    measure::{Fact, Faults, Live, Measure, Pace, Report, Schedule, Seen, Tally, Written, client},
    options::{CommonArgs, SpanArgs, between, refused, tasks},
    run::{Bench, Ran},
};
use crate::{
    model::limits::{INSTANCES_PER_LEASE_MAX, WATCHES_PER_NODE_MAX, WATCHES_PER_STREAM_MAX},
    wire::unread::registry_client::RegistryClient,
};

/// Watches a service while writers change it
///
/// Every watcher sees every write. An operation is one change delivered to one watcher, its time that from the sending
/// of the write to the arrival of the change. Lost and doubled changes must not be, and make the command fail; a
/// watcher that is too slow may rightly be shown the latest of each record only (coalesced), or a snapshot (reset).
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster bench watch --watchers 1000 --writers 16
  roster bench watch --watchers 100 --rate 500 -o json
  roster bench watch --watchers 0 --writers 16           what the writers do when nobody watches")]
pub(in super::super) struct WatchBench {
    /// How many watchers
    #[arg(long, value_name = "W", default_value_t = 1_000, value_parser = watchers)]
    watchers: usize,
    /// How many streams they are spread over, at most 1,000 on each [default: one for each connection]
    #[arg(long, value_name = "N", value_parser = tasks)]
    streams: Option<usize>,
    /// How many writers, each with one write at a time
    #[arg(long, value_name = "M", default_value_t = 16, value_parser = tasks)]
    writers: usize,
    /// How many writes a second, of all writers together [default: as many as they can]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    /// How many records each writer has and changes by turns
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = records)]
    records: u64,
    #[command(flatten)]
    span: SpanArgs,
    #[command(flatten)]
    common: CommonArgs,
}

fn watchers(text: &str) -> Result<usize, String> {
    between(text, 0, WATCHES_PER_NODE_MAX)
}

/// All of a writer's records are under one lease.
fn records(text: &str) -> Result<u64, String> {
    let most = usize::try_from(INSTANCES_PER_LEASE_MAX).unwrap_or(usize::MAX);
    between(text, 1, most).map(|records| records as u64)
}

/// What a task of the run came to.
enum Came {
    Writer(Box<Tally>),
    Stream(Box<Watched>),
}

impl WatchBench {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        if let Some(streams) = self.streams {
            self.check(streams)?;
        }
        let connections = self.common.connections_for(self.writers);
        let mut bench = Bench::begin(session, &self.common, connections).await?;
        let found = self.measure(&mut bench).await;
        bench.finish(found).await
    }

    fn check(&self, streams: usize) -> Result<(), Failure> {
        if self.watchers > 0 && streams > self.watchers {
            return refused("--streams", format!("there are but {} watchers", self.watchers));
        }
        if self.watchers.div_ceil(streams) > WATCHES_PER_STREAM_MAX {
            let needed = self.watchers.div_ceil(WATCHES_PER_STREAM_MAX);
            let problem = format!("{} watchers need at least {needed} of them", self.watchers);
            return refused("--streams", problem);
        }
        Ok(())
    }

    async fn measure(&self, bench: &mut Bench<'_>) -> Result<Report, Failure> {
        let streams = self
            .streams
            .unwrap_or_else(|| bench.target.connections().min(self.watchers).max(1));
        self.check(streams)?;
        let leases = bench.grant(self.writers, self.span.outliving()).await?;
        let open = self.open(bench, streams).await?;
        let epoch = Instant::now();
        let live = Live::of_tasks(open.len());
        // The progress is that of the watchers; of the writers where nobody watches.
        let written_live = Live::of_tasks(self.writers);
        let schedule = Schedule::begin(self.span.warmup(), self.span.measured());
        let written = Written::by(self.writers);
        let mut tasks = JoinSet::new();
        for (watching, live) in open.into_iter().zip(&live) {
            let around = Around {
                schedule: schedule.clone(),
                live: live.clone(),
                written: written.clone(),
                all_written: written.wait(),
                epoch,
                limit: bench.limit,
            };
            tasks.spawn(async move { Came::Stream(Box::new(watching.run(around).await)) });
        }
        for (number, lease_id) in leases.into_iter().enumerate() {
            let writer = Writer {
                client: RegistryClient::new(bench.target.channel(number)),
                maker: bench.maker(),
                service: bench.service(0),
                lease_id,
                number,
                ring: self.records,
                epoch,
                pace: Pace::of_task(number, self.writers, self.rate, epoch),
                limit: bench.limit,
                written: 0,
                unacknowledged: None,
            };
            let (schedule, live, written) = (schedule.clone(), written_live[number].clone(), written.clone());
            tasks.spawn(async move {
                let called = client(writer, schedule, live).await;
                written.done(called.caller.number, called.caller.written);
                Came::Writer(Box::new(called.measured))
            });
        }
        let shown = if live.is_empty() { &written_live } else { &live };
        let ran = bench.conduct("watch", &schedule, shown, tasks).await?;
        Ok(self.report(bench, streams, ran))
    }

    /// Opens the streams, spread over the connections.
    async fn open(&self, bench: &mut Bench<'_>, streams: usize) -> Result<Vec<Watching>, Failure> {
        if self.watchers == 0 {
            return Ok(Vec::new());
        }
        let selector = bench.maker().selector(&bench.service(0));
        let nothing = Seen::nothing(self.writers, self.records);
        let target = bench.target.clone();
        let watchers = self.watchers;
        let opening = try_join_all((0..streams).map(|number| {
            // The first ones take what is left over.
            let count = watchers / streams + usize::from(number < watchers % streams);
            Watching::open(target.channel(number), count, &selector, &nothing)
        }));
        let work = async { opening.await.map_err(|trouble| trouble.failure("watch")) };
        bench.set_up(&format!("opening watches ({watchers})"), work).await
    }

    fn report(&self, bench: &Bench<'_>, streams: usize, ran: Ran<Came>) -> Report {
        let (mut writes, mut deliveries) = (Tally::new(), Tally::new());
        let (mut faults, mut ended) = (Faults::default(), 0);
        for came in ran.tasks {
            match came {
                Came::Writer(tally) => writes.merge(*tally),
                Came::Stream(watched) => {
                    deliveries.merge(watched.tally);
                    faults.add(watched.faults);
                    ended += watched.ended;
                }
            }
        }
        let mut parameters = Map::new();
        parameters.insert("watchers".into(), self.watchers.into());
        parameters.insert("streams".into(), streams.into());
        parameters.insert("writers".into(), self.writers.into());
        parameters.insert("rate_per_second".into(), self.rate.into());
        parameters.insert("records".into(), self.records.into());
        self.span.describe(&mut parameters);
        let over = ran.around.over;
        let measure = |name, tally| Measure { name, tally, over };
        let writes = measure("write", writes);
        if self.watchers == 0 {
            return bench.report("watch", parameters, ran.around, writes);
        }
        let mut report = bench.report("watch", parameters, ran.around, measure("deliver", deliveries));
        report.others.push(writes);
        let line = format!(
            "lost {}, doubled {}; coalesced {}, resets {}, watchers ended by their node {ended}",
            faults.lost, faults.doubled, faults.coalesced, faults.resets
        );
        report.facts = vec![
            Fact::new("lost_events", faults.lost, line),
            Fact::new("doubled_events", faults.doubled, ""),
            Fact::new("coalesced_events", faults.coalesced, ""),
            Fact::new("resets", faults.resets, ""),
            Fact::new("watchers_ended", ended, ""),
        ];
        if faults.lost + faults.doubled > 0 {
            let what = format!("{} changes were lost and {} doubled", faults.lost, faults.doubled);
            report.broken = Some(what);
        }
        report
    }
}
