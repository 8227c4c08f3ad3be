//! `roster bench keepalive`: renewals over streams, many under way.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use super::{
    super::{failure::Failure, session::Session, spans},
    measure::{Fact, Live, Measure, Report, Schedule, Tally, Trouble, per_second, rate},
    options::{CommonArgs, SpanArgs, between, refused, tasks, ttl},
    run::{Bench, Ran},
};
use crate::{
    model::limits::{LEASES_MAX, RENEWAL_IDS_MAX},
    wire::{
        raw,
        unread::leases_client::LeasesClient,
        v1::{self, renew_result::Outcome},
    },
};

/// Messages of one stream that may be unanswered.
const IN_FLIGHT_MAX: usize = 10_000;
/// The pause before a stream that ended is opened again.
const REOPEN_AFTER: Duration = Duration::from_millis(100);
/// How often it is looked whether a stream has fallen silent.
const LISTEN_EVERY: Duration = Duration::from_secs(1);

/// Keeps leases alive over streams
///
/// Grants the leases, spreads them over the streams, and renews them as fast as the cluster confirms it; an operation
/// is one lease renewed, its time that of the message which renewed it. The leases are revoked in the end.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster bench keepalive --to leader
  roster bench keepalive --to follower --ids-per-message 100
  roster bench keepalive --leases 100000 --streams 64 --in-flight 16")]
pub(in super::super) struct KeepaliveBench {
    /// How many leases
    #[arg(long, value_name = "L", default_value_t = 10_000, value_parser = leases)]
    leases: usize,
    /// How many streams they are spread over
    #[arg(long, value_name = "S", default_value_t = 16, value_parser = tasks)]
    streams: usize,
    /// How many leases a message renews
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = |text: &str| between(text, 1, RENEWAL_IDS_MAX))]
    ids_per_message: usize,
    /// How many messages of a stream may be unanswered
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = |text: &str| between(text, 1, IN_FLIGHT_MAX))]
    in_flight: usize,
    /// How long a lease lives without renewal
    #[arg(long, value_name = "SPAN", default_value = "10m", value_parser = ttl)]
    ttl: Duration,
    #[command(flatten)]
    span: SpanArgs,
    #[command(flatten)]
    common: CommonArgs,
}

fn leases(text: &str) -> Result<usize, String> {
    between(text, 1, usize::try_from(LEASES_MAX).unwrap_or(usize::MAX))
}

impl KeepaliveBench {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        self.check()?;
        let connections = self.common.connections_for(self.streams);
        let mut bench = Bench::begin(session, &self.common, connections).await?;
        let found = self.measure(&mut bench).await;
        bench.finish(found).await
    }

    fn check(&self) -> Result<(), Failure> {
        let each = self.leases / self.streams;
        if each == 0 {
            return refused("--streams", format!("{} leases do not fill them", self.leases));
        }
        if self.ids_per_message > each {
            return refused(
                "--ids-per-message",
                format!(
                    "a stream has but {each} leases: {} over {} streams",
                    self.leases, self.streams
                ),
            );
        }
        Ok(())
    }

    async fn measure(&self, bench: &mut Bench<'_>) -> Result<Report, Failure> {
        let ids = bench.grant(self.leases, self.ttl).await?;
        let live = Live::of_tasks(self.streams);
        let schedule = Schedule::begin(self.span.warmup(), self.span.measured());
        let mut tasks = JoinSet::new();
        for (number, live) in live.iter().enumerate() {
            let stream = Stream {
                client: LeasesClient::new(bench.target.channel(number)),
                ids: Turns::new(ids.iter().copied().skip(number).step_by(self.streams).collect()),
                ids_per_message: self.ids_per_message,
                in_flight: self.in_flight,
                silence_max: bench.limit,
                schedule: schedule.clone(),
                live: live.clone(),
                tally: Tally::new(),
            };
            tasks.spawn(stream.run());
        }
        let Ran { tasks, around } = bench.conduct("keepalive", &schedule, &live, tasks).await?;
        let tally = Tally::of_all(tasks);
        let messages = tally.took_us.len();
        let mut parameters = serde_json::Map::new();
        parameters.insert("leases".into(), self.leases.into());
        parameters.insert("streams".into(), self.streams.into());
        parameters.insert("ids_per_message".into(), self.ids_per_message.into());
        parameters.insert("in_flight".into(), self.in_flight.into());
        parameters.insert("ttl".into(), spans::json(self.ttl).into());
        self.span.describe(&mut parameters);
        let speed = per_second(messages, around.over);
        let main = Measure {
            name: "renew",
            tally,
            over: around.over,
        };
        let mut report = bench.report("keepalive", parameters, around, main);
        report.facts.push(Fact::new("messages", messages, ""));
        let line = format!("{messages} messages, {}/s", rate(speed));
        report.facts.push(Fact::new("messages_per_second", speed, line));
        Ok(report)
    }
}

/// Leases by turns.
#[derive(Debug)]
struct Turns {
    ids: Vec<i64>,
    next: usize,
}

impl Turns {
    fn new(ids: Vec<i64>) -> Self {
        Self { ids, next: 0 }
    }

    /// The next so many, which are no more than there are.
    fn take(&mut self, count: usize) -> Vec<i64> {
        let all = self.ids.len();
        let from = self.next;
        self.next = (from + count) % all;
        (from..from + count).map(|at| self.ids[at % all]).collect()
    }
}

/// One stream's task.
struct Stream {
    client: LeasesClient<Channel>,
    ids: Turns,
    ids_per_message: usize,
    in_flight: usize,
    silence_max: Duration,
    schedule: Arc<Schedule>,
    live: Arc<Live>,
    tally: Tally,
}

/// An open stream, and when each of its unanswered messages was sent. A message's `seq` is its place in the list,
/// which the next message takes once it is answered.
struct Open {
    requests: mpsc::Sender<v1::RenewRequest>,
    answers: Streaming<raw::RenewResponse>,
    sent: Vec<Instant>,
    unanswered: usize,
    /// When anything was heard last.
    heard: Instant,
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

    /// Opens a stream and renews on it until the end, or until it breaks.
    async fn renew(&mut self) -> Result<(), Trouble> {
        let mut open = self.open().await?;
        let mut listen = tokio::time::interval(LISTEN_EVERY);
        while open.unanswered > 0 {
            let answer = tokio::select! {
                biased;
                answer = open.answers.message() => answer?,
                _ = listen.tick() => {
                    if open.heard.elapsed() > self.silence_max {
                        return Err(Trouble::new("NO_ANSWER", "the stream fell silent"));
                    }
                    continue;
                }
            };
            let Some(answer) = answer else {
                return Err(Trouble::new("ENDED", "the node ended the stream"));
            };
            self.take(&mut open, &answer)?;
        }
        Ok(())
    }

    async fn open(&mut self) -> Result<Open, Trouble> {
        let (requests, queue) = mpsc::channel(self.in_flight);
        let mut sent = Vec::with_capacity(self.in_flight);
        for place in 0..self.in_flight {
            sent.push(Instant::now());
            self.send(&requests, place)?;
        }
        let opening = self.client.keep_alive(ReceiverStream::new(queue));
        let answers = match tokio::time::timeout(self.silence_max, opening).await {
            Ok(answers) => answers?.into_inner(),
            Err(_) => return Err(Trouble::new("NO_ANSWER", "no stream came about")),
        };
        Ok(Open {
            requests,
            answers,
            unanswered: sent.len(),
            sent,
            heard: Instant::now(),
        })
    }

    /// The queue is as long as messages may be unanswered, so there is room.
    fn send(&mut self, requests: &mpsc::Sender<v1::RenewRequest>, place: usize) -> Result<(), Trouble> {
        let request = v1::RenewRequest {
            seq: i64::try_from(place).unwrap_or(i64::MAX),
            lease_ids: self.ids.take(self.ids_per_message),
        };
        let sent = requests.try_send(request);
        sent.map_err(|_| Trouble::new("ENDED", "the stream takes no more messages"))
    }

    /// Counts an answer, and sends the next message in its place.
    fn take(&mut self, open: &mut Open, answer: &raw::RenewResponse) -> Result<(), Trouble> {
        let now = Instant::now();
        open.heard = now;
        let place = usize::try_from(answer.seq).ok();
        let Some((place, sent)) = place.and_then(|place| Some((place, *open.sent.get(place)?))) else {
            return Err(Trouble::new(
                "FOREIGN",
                format!("an answer to message {} that was not sent", answer.seq),
            ));
        };
        let of = |outcome: Outcome| {
            answer
                .results
                .iter()
                .filter(|result| result.outcome() == outcome)
                .count() as u64
        };
        let renewed = of(Outcome::Renewed);
        self.live.done(renewed);
        if self.schedule.counts(sent) {
            self.tally.done(renewed, now - sent);
            let errors = &mut self.tally.errors;
            let gone = Trouble::new("LEASE_NOT_FOUND", "a lease was gone");
            errors.add_many(gone, of(Outcome::NotFound));
            let unconfirmed = Trouble::new("UNCONFIRMED", "a renewal was not committed in time");
            errors.add_many(unconfirmed, of(Outcome::Unconfirmed));
        }
        if self.schedule.goes_on() {
            open.sent[place] = Instant::now();
            self.send(&open.requests, place)
        } else {
            open.unanswered -= 1;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(leases: usize, streams: usize, ids_per_message: usize) -> KeepaliveBench {
        KeepaliveBench {
            leases,
            streams,
            ids_per_message,
            in_flight: 1,
            ttl: Duration::from_secs(60),
            span: SpanArgs { seconds: 1, warmup: 0 },
            common: CommonArgs::default(),
        }
    }

    #[test]
    fn leases_take_turns() {
        let mut turns = Turns::new(vec![1, 2, 3]);
        assert_eq!(turns.take(2), [1, 2]);
        assert_eq!(turns.take(2), [3, 1]);
        assert_eq!(turns.take(3), [2, 3, 1]);
    }

    #[test]
    fn streams_and_messages_that_can_not_be_filled_are_refused_by_name() {
        assert!(asked(16, 16, 1).check().is_ok());
        for (args, option) in [
            (asked(15, 16, 1), "--streams"),
            (asked(160, 16, 11), "--ids-per-message"),
        ] {
            let failure = args.check().expect_err("refused");
            assert_eq!(failure.exit_code(), Failure::USAGE);
            assert!(failure.line().starts_with(option), "{}", failure.line());
        }
    }
}
