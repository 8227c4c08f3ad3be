//! What registrations cost the servers in memory.

use std::{sync::Arc, time::Duration};

use clap::Args;
use etcd_client::{Client, PutOptions};
use roster::cli::bench::measure::{
    Caller, Fact, Live, Measure, Report, Schedule, ServerUse, Tally, Trouble, client, signed,
};
use tokio::task::JoinSet;

use super::{
    keys,
    run::{LIMIT, Ran, Run, parameters},
    target::in_time,
};
use crate::problem::Problem;

/// Services over which the instances are spread.
const SERVICES: usize = 100;
/// Calls of a client that fail one after another before it gives up.
const FAILURES_MAX: u32 = 100;
/// How long the servers are left alone before they are measured again.
const SETTLE: Duration = Duration::from_secs(2);

#[derive(Args, Debug)]
pub(super) struct Memory {
    /// How many instances
    #[arg(long, default_value_t = 100_000)]
    instances: usize,
    /// How many clients register them
    #[arg(long, default_value_t = 64)]
    pub(super) clients: usize,
}

impl Memory {
    pub(super) async fn measure(&self, run: &Run) -> Result<Report, Problem> {
        let schedule = Schedule::open_ended();
        let mut tasks = JoinSet::new();
        for number in 0..self.clients {
            let filling = Filling {
                client: run.target.connection(number).client,
                number,
                count: self.instances / self.clients + usize::from(number < self.instances % self.clients),
                registered: 0,
                failures: 0,
            };
            tasks.spawn(client(filling, schedule.clone(), Arc::<Live>::default()));
        }
        let Ran { tasks, over, server } = run.conduct(&schedule, tasks).await?;
        let registered: usize = tasks.iter().map(|called| called.caller.registered).sum();
        let tally = Tally::of_all(tasks.into_iter().map(|called| called.measured));
        tokio::time::sleep(SETTLE).await;
        let server = match server {
            ServerUse::Known(begin, _) => run.processes.used_since(Some(Ok(begin))),
            other => other,
        };
        let mut each = Vec::new();
        if let ServerUse::Known(begin, end) = &server {
            for (begin, end) in begin.resident_bytes.iter().zip(&end.resident_bytes) {
                each.push((signed(*end) - signed(*begin)) as f64 / registered.max(1) as f64);
            }
        }
        let parameters = parameters([("instances", self.instances.into()), ("clients", self.clients.into())]);
        let main = Measure {
            name: "register",
            tally,
            over,
        };
        let mut report = run.report("memory", parameters, main, server);
        report.facts.push(Fact::new("resident_bytes_per_instance", each, ""));
        if registered < self.instances {
            let wanted = self.instances;
            report.broken = Some(format!("only {registered} of {wanted} instances could be registered"));
        }
        Ok(report)
    }
}

/// One client that registers its share.
struct Filling {
    client: Client,
    number: usize,
    count: usize,
    registered: usize,
    failures: u32,
}

impl Caller for Filling {
    fn is_done(&self) -> bool {
        self.registered >= self.count || self.failures >= FAILURES_MAX
    }

    async fn call(&mut self) -> Result<u64, Trouble> {
        let service = keys::service((self.number + self.registered) % SERVICES);
        let key = keys::instance(&service, format_args!("{}-{}", self.number, self.registered));
        self.failures += 1;
        let granted = in_time(LIMIT, self.client.lease_grant(3_600, None)).await?;
        let options = PutOptions::new().with_lease(granted.id());
        in_time(LIMIT, self.client.put(key, keys::value("1.2.3"), Some(options))).await?;
        self.failures = 0;
        self.registered += 1;
        Ok(1)
    }
}
