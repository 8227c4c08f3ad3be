//! `roster bench expiry`: many leases end together.

mod removals;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use futures_util::{StreamExt as _, future::try_join_all, stream};
use serde_json::Map;
use tokio::task::JoinSet;
use tonic::{Streaming, transport::Channel};

use self::removals::Removals;
use super::{
    super::{failure::Failure, session::Session, spans},
    clients::{Other, Renewer, Ways, Writer},
    measure::{Fact, Gaps, Live, Measure, Pace, Report, Schedule, Tally, Trouble, client, micros, time},
    options::{CommonArgs, TTL_MAX, between, refused, tasks, ttl, wait},
    run::{Bench, Ran},
    target::timed,
};
use crate::{
    client::Client,
    model::limits::{LEASES_MAX, RENEWAL_IDS_MAX},
    wire::{
        span::span_to_proto,
        v1::{
            self, register_request::Hold, registry_client::RegistryClient, renew_result::Outcome, watch_request::Start,
        },
    },
};

/// Registrations under way while the run is set up.
const REGISTERING: usize = 128;
/// The shortest TTL for which the others can be looked at before the leases end.
const TTL_MIN: Duration = Duration::from_secs(2);
/// What the leases of the other clients live beyond the time that the others have to be gone in: it takes a while to
/// register those.
const OTHERS_BEYOND: Duration = Duration::from_secs(60 * 60);

/// Lets many leases end together
///
/// Registers instances with a lease of their own each, renews all of these at the same time for the last time, and
/// watches them go. An operation is one removal, its time that from the lease's due time (the sending of its last
/// renewal, and a TTL) to the arrival of the removal at the watcher. Other clients renew and write meanwhile; what they
/// see is told from what they saw in the TTL before. A lease that ends early makes the command fail, and so does one
/// that does not end.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster bench expiry --leases 1000
  roster bench expiry --leases 100000 --ttl 30s --within 30s -o json")]
pub(in super::super) struct ExpiryBench {
    /// How many leases end together
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = leases)]
    leases: usize,
    /// How long they live without renewal; at least 2s
    #[arg(long, value_name = "SPAN", default_value = "10s", value_parser = ttl)]
    ttl: Duration,
    /// How long after they are due all must be gone
    #[arg(long, value_name = "SPAN", default_value = "60s", value_parser = wait)]
    within: Duration,
    /// How many other clients renew, and how many write
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = tasks)]
    clients: usize,
    /// How many renewals, and how many writes, the other clients make in a second, all together
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    #[command(flatten)]
    common: CommonArgs,
}

fn leases(text: &str) -> Result<usize, String> {
    between(text, 1, usize::try_from(LEASES_MAX).unwrap_or(usize::MAX))
}

/// What a task of the run came to.
enum Came {
    /// Before, and meanwhile.
    Renewals(Box<(Tally, Tally)>),
    Writes(Box<(Tally, Tally)>),
    Removals(Box<Removals>),
}

impl ExpiryBench {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        if self.ttl < TTL_MIN {
            return refused("--ttl", format!("at least {}", spans::exact(TTL_MIN)));
        }
        let connections = self.common.connections_for(2 * self.clients);
        let mut bench = Bench::begin(session, &self.common, connections).await?;
        let found = self.measure(&mut bench).await;
        bench.finish(found).await
    }

    async fn measure(&self, bench: &mut Bench<'_>) -> Result<Report, Failure> {
        let ttl = (self.ttl + self.within + OTHERS_BEYOND).min(TTL_MAX);
        let others = bench.grant(2 * self.clients, ttl).await?;
        let ids = self.register(bench).await?;
        let (messages, due) = self.renew_last(bench, &ids).await?;
        let first_due = due.iter().min().copied().unwrap_or_else(Instant::now);
        let now = Instant::now();
        // What is measured begins when the first lease is due; what comes before is what it is compared with.
        let schedule = Schedule::begin(first_due.saturating_duration_since(now), Schedule::OPEN_ENDED);
        let live = Live::of_tasks(1);
        let mut tasks = JoinSet::new();
        let last_due = due.iter().max().copied().unwrap_or(first_due);
        let removals = Removals::of(due);
        let watching = removals.watch(messages, schedule.clone(), live[0].clone(), last_due + self.within);
        tasks.spawn(async move { Came::Removals(Box::new(watching.await)) });
        self.spawn_others(bench, &others, &schedule, &mut tasks);
        let ran = bench.conduct("expiry", &schedule, &live, tasks).await?;
        Ok(self.report(bench, first_due, last_due, ran))
    }

    /// Registers the instances; keeps those alive that wait for the others. Answers their leases, by number.
    async fn register(&self, bench: &mut Bench<'_>) -> Result<Vec<i64>, Failure> {
        let (count, ttl) = (self.leases, self.ttl);
        let (target, maker, service, limit) = (bench.target.clone(), bench.maker(), bench.service(0), bench.limit);
        let client = bench.client();
        let work = async move {
            let mut registering = stream::iter(0..count)
                .map(|number| {
                    let request = v1::RegisterRequest {
                        instance: Some(maker.instance(&service, number.to_string())),
                        hold: Some(Hold::OwnLease(v1::OwnLease {
                            ttl: Some(span_to_proto(ttl)),
                        })),
                        ..Default::default()
                    };
                    let mut client = RegistryClient::new(target.channel(number));
                    async move {
                        let answer = client
                            .register(timed(request, limit))
                            .await
                            .map_err(|status| Trouble::from(status).failure("register"))?;
                        let instance = answer.into_inner().instance.unwrap_or_default();
                        Ok::<_, Failure>((number, instance.lease_id))
                    }
                })
                .buffer_unordered(REGISTERING);
            let mut ids = vec![0; count];
            let mut renewing = tokio::time::interval(ttl / 4);
            loop {
                let registered = tokio::select! {
                    registered = registering.next() => registered,
                    _ = renewing.tick() => {
                        let held: Vec<i64> = ids.iter().copied().filter(|&id| id > 0).collect();
                        renew(&client, &held).await?;
                        continue;
                    }
                };
                match registered {
                    Some(registered) => {
                        let (number, id) = registered?;
                        ids[number] = id;
                    }
                    None => return Ok(ids),
                }
            }
        };
        bench.set_up(&format!("registering instances ({count})"), work).await
    }

    /// Begins to watch, then renews all leases at the same time; answers when each is due.
    async fn renew_last(
        &self,
        bench: &mut Bench<'_>,
        ids: &[i64],
    ) -> Result<(Streaming<v1::WatchResponse>, Vec<Instant>), Failure> {
        let request = v1::WatchRequest {
            selector: Some(bench.maker().selector(&bench.service(0))),
            start: Some(Start::Now(true)),
            ..Default::default()
        };
        let (client, ttl) = (bench.client(), self.ttl);
        let mut watching: RegistryClient<Channel> = RegistryClient::new(bench.target.channel(0));
        let work = async move {
            let mut messages = watching
                .watch(request)
                .await
                .map_err(|status| Trouble::from(status).failure("watch"))?
                .into_inner();
            // Once it is heard, the watch stands.
            let first = messages
                .message()
                .await
                .map_err(|status| Trouble::from(status).failure("watch"))?;
            if first.is_none_or(|message| !message.changes.is_empty()) {
                return Err(Failure::Failed(
                    "instances went before they were renewed for the last time".into(),
                ));
            }
            let sent = try_join_all(ids.chunks(RENEWAL_IDS_MAX).map(|chunk| {
                let client = &client;
                async move {
                    let sent = Instant::now();
                    renew(client, chunk).await.map(|()| (sent, chunk.len()))
                }
            }));
            let due = sent
                .await?
                .into_iter()
                .flat_map(|(sent, count)| vec![sent + ttl; count]);
            Ok((messages, due.collect()))
        };
        bench.set_up("renewing for the last time", work).await
    }

    fn spawn_others(&self, bench: &Bench<'_>, leases: &[i64], schedule: &Arc<Schedule>, tasks: &mut JoinSet<Came>) {
        let channels: Arc<[Channel]> = (0..bench.target.connections())
            .map(|at| bench.target.channel(at))
            .collect();
        let gaps = Arc::new(Gaps::new());
        for number in 0..self.clients {
            let other = |lease_id: i64, number: usize| Other {
                ways: Ways::beginning_at(channels.clone(), number),
                pace: Pace::of_task(number, self.clients, Some(self.rate), schedule.began()),
                limit: bench.limit,
                lease_id,
                gaps: gaps.clone(),
            };
            let renewer = Renewer(other(leases[2 * number], number));
            let writer = Writer {
                other: other(leases[2 * number + 1], number),
                maker: bench.maker(),
                service: bench.service(1),
                number,
                sent: 0,
            };
            let (of_renewer, of_writer) = (schedule.clone(), schedule.clone());
            tasks.spawn(async move {
                let called = client(renewer, of_renewer, Arc::default()).await;
                Came::Renewals(Box::new((called.before, called.measured)))
            });
            tasks.spawn(async move {
                let called = client(writer, of_writer, Arc::default()).await;
                Came::Writes(Box::new((called.before, called.measured)))
            });
        }
    }

    fn report(&self, bench: &Bench<'_>, first_due: Instant, last_due: Instant, ran: Ran<Came>) -> Report {
        let (mut renewals, mut writes) = ((Tally::new(), Tally::new()), (Tally::new(), Tally::new()));
        let mut removals = Removals::of(Vec::new());
        for came in ran.tasks {
            match came {
                Came::Removals(seen) => removals = *seen,
                Came::Renewals(tallies) => add(&mut renewals, *tallies),
                Came::Writes(tallies) => add(&mut writes, *tallies),
            }
        }
        let mut parameters = Map::new();
        parameters.insert("leases".into(), self.leases.into());
        parameters.insert("ttl".into(), spans::json(self.ttl).into());
        parameters.insert("within".into(), spans::json(self.within).into());
        parameters.insert("clients".into(), self.clients.into());
        parameters.insert("rate_per_second".into(), self.rate.into());
        let meanwhile = ran.around.over;
        let missing = removals.missing();
        let all_gone = removals.last.map(|last| last.saturating_duration_since(last_due));
        let interrupted = ran.around.interrupted;
        let main = Measure {
            name: "expire",
            tally: removals.tally,
            over: removals
                .last
                .map_or(Duration::ZERO, |last| last.saturating_duration_since(first_due)),
        };
        let mut report = bench.report("expiry", parameters, ran.around, main);
        report.others = [
            ("renew-before", renewals.0, self.ttl),
            ("renew-meanwhile", renewals.1, meanwhile),
            ("write-before", writes.0, self.ttl),
            ("write-meanwhile", writes.1, meanwhile),
        ]
        .map(|(name, tally, over)| Measure { name, tally, over })
        .into();
        let last_us = all_gone.map(micros);
        let line = last_us.map_or_else(String::new, |us| {
            format!("the last was gone {} after all were due", time(us))
        });
        let counts = format!(
            "early {}, not gone {missing}; resets {}",
            removals.early, removals.resets
        );
        report.facts = vec![
            Fact::new("early", removals.early, counts),
            Fact::new("missing", missing, ""),
            Fact::new("resets", removals.resets, ""),
            Fact::new("last_gone_after_us", last_us, line),
        ];
        if removals.early > 0 {
            report.broken = Some(format!("{} leases ended before their time", removals.early));
        } else if missing > 0 && !interrupted {
            let within = spans::exact(self.within);
            report.broken = Some(format!("{missing} leases had not ended {within} after they were due"));
        }
        report
    }
}

fn add(all: &mut (Tally, Tally), one: (Tally, Tally)) {
    all.0.merge(one.0);
    all.1.merge(one.1);
}

/// Renews leases, all of which must be there.
async fn renew(client: &Client, ids: &[i64]) -> Result<(), Failure> {
    for chunk in ids.chunks(RENEWAL_IDS_MAX) {
        let answer = client.renew(chunk.to_vec()).await?;
        let renewed = |result: &&v1::RenewResult| result.outcome() == Outcome::Renewed;
        let left = chunk.len() - answer.results.iter().filter(renewed).count();
        if left > 0 {
            return Err(Failure::Failed(format!(
                "{left} leases could not be renewed while the run was set up: allow more with --ttl"
            )));
        }
    }
    Ok(())
}
