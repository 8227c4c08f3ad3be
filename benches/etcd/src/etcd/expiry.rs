//! Many leases end together.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use etcd_client::{EventType, PutOptions, WatchOptions, WatchStream};
use futures_util::{StreamExt as _, stream};
use roster::cli::bench::measure::{Fact, Gaps, Live, Measure, Report, Schedule, Tally, Trouble, client, micros};
use tokio::{sync::mpsc, task::JoinSet};

use super::{
    clients::Other,
    keepalive::{KeepAliveRequest, open},
    keys,
    run::{LIMIT, Ran, Run, parameters, seconds},
    target::{Connection, refused, trouble},
};
use crate::problem::{Problem, While as _};

/// Registrations under way while the run is set up.
const REGISTERING: usize = 128;

#[derive(Args, Debug)]
pub(super) struct Expiry {
    /// How many leases end together
    #[arg(long, default_value_t = 1_000)]
    leases: usize,
    /// How long they live without renewal, in seconds
    #[arg(long, default_value_t = 10)]
    ttl: u64,
    /// How long after they are due all must be gone, in seconds
    #[arg(long, default_value_t = 60)]
    within: u64,
    /// How many other clients renew, and how many write
    #[arg(long, default_value_t = 4)]
    pub(super) clients: usize,
    /// How many renewals, and how many writes, they make in a second, all together
    #[arg(long, default_value_t = 200)]
    rate: u32,
}

/// What a task of the run came to.
enum Came {
    /// Before, and meanwhile.
    Renewals(Box<(Tally, Tally)>),
    Writes(Box<(Tally, Tally)>),
    Removals(Box<Removals>),
}

impl Expiry {
    pub(super) async fn measure(&self, run: &Run) -> Result<Report, Problem> {
        let ttl = Duration::from_secs(self.ttl);
        let others = run.grant(2 * self.clients, 3_600).await?;
        let mut ids = self.register(run, ttl).await?;
        ids.sort_unstable();
        let mut watching = run.target.connection(0).client;
        let prefix = keys::service(0);
        let options = WatchOptions::new().with_prefix();
        let mut messages = watching.watch(prefix, Some(options)).await.when("watch")?;
        messages.message().await.when("watch")?;
        let lease_ids: Vec<i64> = ids.iter().map(|(_, id)| *id).collect();
        let sent = renew(run.target.connection(0), &lease_ids).await?;
        let due: Vec<Instant> = sent.into_iter().map(|sent| sent + ttl).collect();
        let first_due = due.iter().min().copied().unwrap_or_else(Instant::now);
        let last_due = due.iter().max().copied().unwrap_or(first_due);
        let warmup = first_due.saturating_duration_since(Instant::now());
        let schedule = Schedule::begin(warmup, Schedule::OPEN_ENDED);
        let mut tasks = JoinSet::new();
        let removals = Removals {
            gone: vec![false; due.len()],
            due,
            tally: Tally::new(),
            early: 0,
            last: None,
        };
        let (ending, until) = (schedule.clone(), last_due + Duration::from_secs(self.within));
        tasks.spawn(async move { Came::Removals(Box::new(removals.watch(messages, &ending, until).await)) });
        self.spawn_others(run, &others, &schedule, &mut tasks);
        let ran = run.conduct(&schedule, tasks).await?;
        Ok(self.report(run, first_due, last_due, ran))
    }

    /// Registers the keys, and keeps those alive that wait for the others. Answers number and lease of each.
    async fn register(&self, run: &Run, ttl: Duration) -> Result<Vec<(usize, i64)>, Problem> {
        let mut registering = stream::iter(0..self.leases)
            .map(|number| {
                let mut client = run.target.connection(number).client;
                async move {
                    let granted = client.lease_grant(seconds(ttl), None).await.when("grant")?;
                    let key = keys::instance(&keys::service(0), number);
                    let options = PutOptions::new().with_lease(granted.id());
                    client.put(key, keys::value("1.2.3"), Some(options)).await.when("put")?;
                    Ok::<_, Problem>((number, granted.id()))
                }
            })
            .buffer_unordered(REGISTERING);
        let mut ids = Vec::with_capacity(self.leases);
        let mut renewing = tokio::time::interval(ttl / 4);
        loop {
            tokio::select! {
                registered = registering.next() => match registered {
                    Some(registered) => ids.push(registered?),
                    None => return Ok(ids),
                },
                _ = renewing.tick(), if !ids.is_empty() => {
                    let held: Vec<i64> = ids.iter().map(|(_, id)| *id).collect();
                    renew(run.target.connection(0), &held).await?;
                }
            }
        }
    }

    fn spawn_others(&self, run: &Run, leases: &[i64], schedule: &Arc<Schedule>, tasks: &mut JoinSet<Came>) {
        let ways: Arc<[Connection]> = (0..run.target.connections())
            .map(|at| run.target.connection(at))
            .collect();
        let gaps = Arc::new(Gaps::new());
        for number in 0..self.clients {
            let (renewer, writer) = Other::pair(
                number,
                self.clients,
                self.rate,
                (&ways, leases),
                (&gaps, &gaps),
                (LIMIT, schedule.began()),
            );
            let (of_renewer, of_writer) = (schedule.clone(), schedule.clone());
            tasks.spawn(async move {
                let called = client(renewer, of_renewer, Arc::<Live>::default()).await;
                Came::Renewals(Box::new((called.before, called.measured)))
            });
            tasks.spawn(async move {
                let called = client(writer, of_writer, Arc::<Live>::default()).await;
                Came::Writes(Box::new((called.before, called.measured)))
            });
        }
    }

    fn report(&self, run: &Run, first_due: Instant, last_due: Instant, ran: Ran<Came>) -> Report {
        let (mut renewals, mut writes) = ((Tally::new(), Tally::new()), (Tally::new(), Tally::new()));
        let mut seen = None;
        let add = |all: &mut (Tally, Tally), one: (Tally, Tally)| {
            all.0.merge(one.0);
            all.1.merge(one.1);
        };
        for came in ran.tasks {
            match came {
                Came::Removals(removals) => seen = Some(removals),
                Came::Renewals(tallies) => add(&mut renewals, *tallies),
                Came::Writes(tallies) => add(&mut writes, *tallies),
            }
        }
        let (tally, early, missing, last) = seen.map_or_else(
            || (Tally::new(), 0, self.leases, None),
            |seen| {
                let missing = seen.gone.iter().filter(|gone| !**gone).count();
                (seen.tally, seen.early, missing, seen.last)
            },
        );
        let parameters = parameters([
            ("leases", self.leases.into()),
            ("ttl_seconds", self.ttl.into()),
            ("clients", self.clients.into()),
            ("rate_per_second", self.rate.into()),
        ]);
        let main = Measure {
            name: "expire",
            tally,
            over: last.map_or(Duration::ZERO, |last| last.saturating_duration_since(first_due)),
        };
        let mut report = run.report("expiry", parameters, main, ran.server);
        let before = Duration::from_secs(self.ttl);
        report.others = [
            ("renew-before", renewals.0, before),
            ("renew-meanwhile", renewals.1, ran.over),
            ("write-before", writes.0, before),
            ("write-meanwhile", writes.1, ran.over),
        ]
        .map(|(name, tally, over)| Measure { name, tally, over })
        .into();
        let last_us = last.map(|last| micros(last.saturating_duration_since(last_due)));
        report.facts = vec![
            Fact::new("early", early, ""),
            Fact::new("missing", missing, ""),
            Fact::new("last_gone_after_us", last_us, ""),
        ];
        report
    }
}

/// Renews leases over one stream, as fast as they go; answers when each message was sent.
async fn renew(connection: Connection, ids: &[i64]) -> Result<Vec<Instant>, Problem> {
    let (requests, queue) = mpsc::channel(ids.len().max(1));
    let mut sent = Vec::with_capacity(ids.len());
    for &id in ids {
        sent.push(Instant::now());
        requests
            .try_send(KeepAliveRequest { id })
            .map_err(|_| Problem("the stream takes no more messages".into()))?;
    }
    let failed = |trouble: Trouble| Problem(format!("renew: {}: {}", trouble.reason, trouble.message));
    let mut answers = open(connection.channel, queue).await.map_err(failed)?;
    for _ in ids {
        let answer = answers.message().await.map_err(|status| failed(refused(&status)))?;
        if answer.is_none_or(|answer| answer.ttl == 0) {
            return Err(Problem(
                "a lease was gone while the run was set up: allow more with --ttl".into(),
            ));
        }
    }
    Ok(sent)
}

/// Which leases have ended, by their keys' removal, and how late.
struct Removals {
    /// When each lease is due, by number.
    due: Vec<Instant>,
    gone: Vec<bool>,
    tally: Tally,
    early: u64,
    last: Option<Instant>,
}

impl Removals {
    /// Reads until all are gone, or their time is over; then the run is.
    async fn watch(mut self, mut messages: WatchStream, schedule: &Schedule, until: Instant) -> Self {
        let mut left = self.due.len();
        while left > 0 {
            let message = match tokio::time::timeout_at(until.into(), messages.message()).await {
                Err(_) => break,
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => {
                    self.tally.failed(Trouble::new("ENDED", "the node ended the watch"));
                    break;
                }
                Ok(Err(error)) => {
                    self.tally.failed(trouble(error));
                    break;
                }
            };
            let now = Instant::now();
            for event in message.events() {
                let removed = event.kv().filter(|_| event.event_type() == EventType::Delete);
                let number = removed.and_then(|kv| kv.key_str().ok()?.rsplit('/').next()?.parse().ok());
                let Some(number) = number.filter(|&number: &usize| !self.gone.get(number).is_none_or(|gone| *gone))
                else {
                    self.tally
                        .failed(Trouble::new("FOREIGN", "a change that is no removal"));
                    continue;
                };
                self.gone[number] = true;
                left -= 1;
                self.last = Some(now);
                if now < self.due[number] {
                    self.early += 1;
                } else {
                    self.tally.done(1, now - self.due[number]);
                }
            }
        }
        schedule.stop();
        self
    }
}
