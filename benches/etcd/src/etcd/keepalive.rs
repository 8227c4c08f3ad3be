//! Renewals: many leases on a stream, many messages under way.
//!
//! A message of etcd's renews one lease. A stream's answers come in the order of its messages: that is how its server
//! works, one after another, and how an answer finds the message that it belongs to; each names its lease, which is
//! looked at.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use roster::cli::bench::measure::{Live, Measure, Report, Schedule, Tally, Trouble};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use super::{
    run::{LIMIT, Ran, Run, parameters, seconds},
    target::refused,
};
use crate::problem::Problem;

/// The pause before a stream that ended is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(100);

/// `etcdserverpb.LeaseKeepAliveRequest`.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeepAliveRequest {
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

/// `etcdserverpb.LeaseKeepAliveResponse`, without its header.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeepAliveResponse {
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
    /// 0: there is no such lease.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
}

/// Opens `etcdserverpb.Lease/LeaseKeepAlive`.
pub(super) async fn open(
    channel: Channel,
    requests: mpsc::Receiver<KeepAliveRequest>,
) -> Result<Streaming<KeepAliveResponse>, Trouble> {
    let opening = async {
        let mut grpc = Grpc::new(channel);
        grpc.ready()
            .await
            .map_err(|error| Trouble::new("UNREACHABLE", error.to_string()))?;
        let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
        let request = tonic::Request::new(ReceiverStream::new(requests));
        let answer = grpc.streaming(request, path, ProstCodec::default()).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| refused(&status))
    };
    match tokio::time::timeout(LIMIT, opening).await {
        Ok(opened) => opened,
        Err(_) => Err(Trouble::new("NO_ANSWER", "no stream came about")),
    }
}

#[derive(Args, Debug)]
pub(super) struct Keepalive {
    /// How many leases
    #[arg(long, default_value_t = 10_000)]
    leases: usize,
    /// How many streams they are spread over
    #[arg(long, default_value_t = 16)]
    pub(super) streams: usize,
    /// How many messages of a stream may be unanswered
    #[arg(long, default_value_t = 64)]
    in_flight: usize,
}

impl Keepalive {
    pub(super) async fn measure(&self, run: &Run) -> Result<Report, Problem> {
        let ids = run.grant(self.leases, seconds(Duration::from_secs(600))).await?;
        let schedule = run.schedule();
        let mut tasks = JoinSet::new();
        for number in 0..self.streams {
            let stream = Stream {
                channel: run.target.connection(number).channel,
                ids: ids.iter().copied().skip(number).step_by(self.streams).collect(),
                next: 0,
                in_flight: self.in_flight,
                schedule: schedule.clone(),
                live: Arc::default(),
                tally: Tally::new(),
            };
            tasks.spawn(stream.run());
        }
        let Ran { tasks, over, server } = run.conduct(&schedule, tasks).await?;
        let parameters = parameters([
            ("leases", self.leases.into()),
            ("streams", self.streams.into()),
            ("ids_per_message", 1.into()),
            ("in_flight", self.in_flight.into()),
        ]);
        let main = Measure {
            name: "renew",
            tally: Tally::of_all(tasks),
            over,
        };
        Ok(run.report("keepalive", parameters, main, server))
    }
}

/// One stream's task.
struct Stream {
    channel: Channel,
    ids: Vec<i64>,
    next: usize,
    in_flight: usize,
    schedule: Arc<Schedule>,
    live: Arc<Live>,
    tally: Tally,
}

impl Stream {
    async fn run(mut self) -> Tally {
        while self.schedule.goes_on() {
            if let Err(trouble) = self.renew().await {
                self.live.failed();
                if self.schedule.counts(Instant::now()) {
                    self.tally.failed(trouble);
                }
                self.schedule.wait_until(Instant::now() + REOPEN_AFTER).await;
            }
        }
        self.tally
    }

    async fn renew(&mut self) -> Result<(), Trouble> {
        let (requests, queue) = mpsc::channel(self.in_flight);
        let mut sent = VecDeque::with_capacity(self.in_flight);
        for _ in 0..self.in_flight {
            sent.push_back(self.send(&requests)?);
        }
        let mut answers = open(self.channel.clone(), queue).await?;
        while let Some((id, at)) = sent.pop_front() {
            let answer = match tokio::time::timeout(LIMIT, answers.message()).await {
                Ok(answer) => answer.map_err(|status| refused(&status))?,
                Err(_) => return Err(Trouble::new("NO_ANSWER", "the stream fell silent")),
            };
            let Some(answer) = answer else {
                return Err(Trouble::new("ENDED", "the node ended the stream"));
            };
            if answer.id != id {
                return Err(Trouble::new("FOREIGN", "an answer for another lease"));
            }
            let renewed = answer.ttl > 0;
            self.live.done(u64::from(renewed));
            if self.schedule.counts(at) {
                if renewed {
                    self.tally.done(1, at.elapsed());
                } else {
                    self.tally.failed(Trouble::new("NOT_FOUND", "a lease was gone"));
                }
            }
            if self.schedule.goes_on() {
                sent.push_back(self.send(&requests)?);
            }
        }
        Ok(())
    }

    /// The queue is as long as messages may be unanswered, so there is room.
    fn send(&mut self, requests: &mpsc::Sender<KeepAliveRequest>) -> Result<(i64, Instant), Trouble> {
        let id = self.ids[self.next % self.ids.len()];
        self.next += 1;
        match requests.try_send(KeepAliveRequest { id }) {
            Ok(()) => Ok((id, Instant::now())),
            Err(_) => Err(Trouble::new("ENDED", "the stream takes no more messages")),
        }
    }
}
