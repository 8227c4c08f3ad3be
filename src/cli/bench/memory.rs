//! `roster bench memory`: what instances cost the servers in memory.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::Map;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{
    super::{failure::Failure, session::Session, spans},
    measure::{Caller, Fact, Live, Measure, Report, Schedule, ServerUse, Tally, Trouble, Used, client, signed},
    options::{CommonArgs, between, refused, tasks, ttl, wait},
    run::{Bench, Maker, Ran},
    shared_lease::SharedLease,
    target::timed,
};
use crate::{
    model::limits::INSTANCES_MAX,
    wire::{
        span::span_to_proto,
        v1::{self, register_request::Hold as Holds, registry_client::RegistryClient},
    },
};

/// Calls of a client that fail one after another before it gives up.
const FAILURES_MAX: u32 = 100;
/// Services over which the instances are spread.
const SERVICES: usize = 100;

/// What holds the instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Hold {
    /// A lease of its own each.
    Own,
    /// Leases that hold 10,000 each.
    Shared,
}

/// Registers instances and measures the growth of the servers' resident memory
///
/// Needs --server-pids, and says most of servers that were just started: what they freed before is used again. --keep
/// leaves the instances there, so that a restart with them can be measured.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster bench memory --server-pids $(pgrep -d, -f 'roster server')
  roster bench memory --instances 1000000 --hold shared --keep --server-pids 4711,4712,4713")]
pub(in super::super) struct MemoryBench {
    /// How many instances
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = instances)]
    instances: usize,
    /// What holds them
    #[arg(long, value_enum, value_name = "HOW", default_value = "own")]
    hold: Hold,
    /// How many clients register them
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = tasks)]
    clients: usize,
    /// How long the instances live
    #[arg(long, value_name = "SPAN", default_value = "1h", value_parser = ttl)]
    ttl: Duration,
    /// How long the servers are left alone before they are measured again
    #[arg(long, value_name = "SPAN", default_value = "2s", value_parser = wait)]
    settle: Duration,
    /// Leave the instances there, to end by themselves
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    common: CommonArgs,
}

fn instances(text: &str) -> Result<usize, String> {
    between(text, 1, usize::try_from(INSTANCES_MAX).unwrap_or(usize::MAX))
}

impl MemoryBench {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        self.check()?;
        let connections = self.common.connections_for(self.clients);
        let mut bench = Bench::begin(session, &self.common, connections).await?;
        let found = self.measure(&mut bench).await;
        if self.keep {
            // Not ours any more.
            bench.owned.take();
        }
        bench.finish(found).await
    }

    fn check(&self) -> Result<(), Failure> {
        if self.common.server_pids.is_empty() {
            return refused(
                "--server-pids",
                "name the servers' processes: it is their memory that is measured",
            );
        }
        if self.clients > self.instances {
            return refused(
                "--clients",
                format!("there are but {} instances to register", self.instances),
            );
        }
        Ok(())
    }

    async fn measure(&self, bench: &mut Bench<'_>) -> Result<Report, Failure> {
        let schedule = Schedule::open_ended();
        let live = Live::of_tasks(self.clients);
        let mut tasks = JoinSet::new();
        for (number, live) in live.iter().enumerate() {
            let channel = bench.target.channel(number);
            let filling = Filling {
                client: RegistryClient::new(channel.clone()),
                lease: SharedLease::new(channel, self.ttl, bench.limit, bench.owned.clone()),
                hold: self.hold,
                maker: bench.maker(),
                services: (0..SERVICES).map(|service| bench.service(service)).collect(),
                number,
                // The first ones take what is left over.
                count: self.instances / self.clients + usize::from(number < self.instances % self.clients),
                registered: 0,
                failures: 0,
                own_leases: Vec::new(),
                ttl: self.ttl,
                limit: bench.limit,
            };
            tasks.spawn(client(filling, schedule.clone(), live.clone()));
        }
        let Ran { tasks, mut around } = bench.conduct("memory", &schedule, &live, tasks).await?;
        let mut tally = Tally::new();
        let mut registered = 0_u64;
        for called in tasks {
            registered += called.caller.registered as u64;
            for lease_id in called.caller.own_leases {
                bench.owned.add(lease_id);
            }
            tally.merge(called.measured);
        }
        if let ServerUse::Known(begin, _) = around.server {
            let settled = tokio::time::sleep(self.settle);
            let settling = async {
                settled.await;
                Ok(())
            };
            bench.set_up("letting the servers settle", settling).await?;
            around.server = bench.processes.used_since(Some(Ok(begin)));
        }
        let mut parameters = Map::new();
        parameters.insert("instances".into(), self.instances.into());
        let hold = match self.hold {
            Hold::Own => "own",
            Hold::Shared => "shared",
        };
        parameters.insert("hold".into(), hold.into());
        parameters.insert("clients".into(), self.clients.into());
        parameters.insert("ttl".into(), spans::json(self.ttl).into());
        parameters.insert("settle".into(), spans::json(self.settle).into());
        parameters.insert("keep".into(), self.keep.into());
        let main = Measure {
            name: "register",
            tally,
            over: around.over,
        };
        let mut report = bench.report("memory", parameters, around, main);
        report.facts.push(growth(&report.server, registered));
        if registered < self.instances as u64 && !report.interrupted {
            let wanted = self.instances;
            report.broken = Some(format!("only {registered} of {wanted} instances could be registered"));
        }
        if self.keep {
            report.facts.push(super::run::let_go(registered, self.ttl));
        }
        Ok(report)
    }
}

/// What an instance costs each of the servers.
fn growth(server: &ServerUse, instances: u64) -> Fact {
    let ServerUse::Known(begin, end) = server else {
        return Fact::new("resident_bytes_per_instance", serde_json::Value::Null, "");
    };
    let each = grown(begin, end, instances);
    let text: Vec<String> = each.iter().map(|bytes| format!("{bytes:.0} B")).collect();
    let line = format!(
        "resident memory for each of {instances} instances, by server: {}",
        text.join(", ")
    );
    Fact::new("resident_bytes_per_instance", each, line)
}

fn grown(begin: &Used, end: &Used, instances: u64) -> Vec<f64> {
    let sizes = begin.resident_bytes.iter().zip(&end.resident_bytes);
    sizes
        .map(|(&begin, &end)| (signed(end) - signed(begin)) as f64 / instances.max(1) as f64)
        .collect()
}

/// One client that registers its share.
struct Filling {
    client: RegistryClient<Channel>,
    lease: SharedLease,
    hold: Hold,
    maker: Maker,
    services: Vec<String>,
    number: usize,
    /// How many it is to register.
    count: usize,
    registered: usize,
    /// One after another.
    failures: u32,
    own_leases: Vec<i64>,
    ttl: Duration,
    limit: Duration,
}

impl Caller for Filling {
    fn is_done(&self) -> bool {
        self.registered >= self.count || self.failures >= FAILURES_MAX
    }

    async fn prepare(&mut self, _: &Schedule) -> Result<(), Trouble> {
        match self.hold {
            Hold::Own => {}
            Hold::Shared => {
                self.failures += 1;
                self.lease.make_room(1).await?;
                self.failures -= 1;
            }
        }
        Ok(())
    }

    /// A call that failed is made again as it was: there are to be so many instances, and no more.
    async fn call(&mut self) -> Result<u64, Trouble> {
        let service = &self.services[(self.number + self.registered) % self.services.len()];
        let id = format!("{}-{}", self.number, self.registered);
        let hold = match self.hold {
            Hold::Own => Holds::OwnLease(v1::OwnLease {
                ttl: Some(span_to_proto(self.ttl)),
            }),
            Hold::Shared => Holds::LeaseId(self.lease.lease_id()),
        };
        let request = v1::RegisterRequest {
            instance: Some(self.maker.instance(service, id)),
            hold: Some(hold),
            ..Default::default()
        };
        self.failures += 1;
        let answer = self.client.register(timed(request, self.limit)).await?.into_inner();
        self.failures = 0;
        self.registered += 1;
        match self.hold {
            Hold::Own => self.own_leases.push(answer.instance.unwrap_or_default().lease_id),
            Hold::Shared => self.lease.take_room(1),
        }
        Ok(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(instances: usize, server_pids: &[u32]) -> MemoryBench {
        MemoryBench {
            instances,
            hold: Hold::Own,
            clients: 64,
            ttl: Duration::from_secs(60),
            settle: Duration::ZERO,
            keep: false,
            common: CommonArgs {
                server_pids: server_pids.to_vec(),
                ..CommonArgs::default()
            },
        }
    }

    #[test]
    fn memory_of_nobody_and_clients_without_work_are_refused_by_name() {
        assert!(asked(64, &[1]).check().is_ok());
        for (args, option) in [(asked(64, &[]), "--server-pids"), (asked(63, &[1]), "--clients")] {
            let failure = args.check().expect_err("refused");
            assert!(failure.line().starts_with(option), "{}", failure.line());
        }
    }

    #[test]
    fn growth_is_told_for_each_server_and_may_be_negative() {
        let used = |sizes: [u64; 2]| Used {
            cpu: Duration::ZERO,
            resident_bytes: sizes.into(),
        };
        let server = ServerUse::Known(used([1_000, 9_000]), used([6_000, 8_000]));
        let fact = growth(&server, 10);
        assert_eq!(fact.value, serde_json::json!([500.0, -100.0]));
        assert!(fact.line.ends_with("500 B, -100 B"), "{}", fact.line);
        assert!(growth(&ServerUse::NotAsked, 10).value.is_null());
    }
}
