//! One run of a workload: its tasks, and what happened around them.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use roster::cli::bench::measure::{Caller, Live, Measure, Processes, Report, Schedule, ServerUse, Tally, client};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::{Common, target::Target};
use crate::problem::{Problem, While as _};

/// How long a call may take.
pub(super) const LIMIT: Duration = Duration::from_secs(10);
/// Calls under way while a run is set up.
const CALLS_AT_ONCE: usize = 256;
/// What a lease lives beyond the end of the measured span.
const TTL_BEYOND: Duration = Duration::from_secs(60);

/// A run.
pub(super) struct Run {
    pub(super) common: Common,
    pub(super) target: Target,
    pub(super) processes: Processes,
}

/// What tasks came to, and what happened while they ran.
pub(super) struct Ran<T> {
    pub(super) tasks: Vec<T>,
    /// From the end of the warm-up until the last task had ended.
    pub(super) over: Duration,
    pub(super) server: ServerUse,
}

impl Run {
    pub(super) async fn begin(common: Common, clients: usize) -> Result<Self, Problem> {
        let processes = Processes::new(&common.server_pids).when("--server-pids")?;
        let target = Target::connect(&common.endpoints, common.to, common.connections, clients).await?;
        Ok(Self {
            common,
            target,
            processes,
        })
    }

    pub(super) fn schedule(&self) -> Arc<Schedule> {
        let seconds = Duration::from_secs;
        Schedule::begin(seconds(self.common.warmup), seconds(self.common.seconds))
    }

    /// The TTL of leases that nobody renews and that must outlive the run, in seconds.
    pub(super) fn outliving_s(&self) -> i64 {
        seconds(Duration::from_secs(self.common.warmup + self.common.seconds) + TTL_BEYOND)
    }

    /// Grants so many leases; answers them in any order.
    pub(super) async fn grant(&self, count: usize, ttl_s: i64) -> Result<Vec<i64>, Problem> {
        stream::iter(0..count)
            .map(|number| {
                let mut client = self.target.connection(number).client;
                async move { Ok::<_, Problem>(client.lease_grant(ttl_s, None).await.when("grant")?.id()) }
            })
            .buffer_unordered(CALLS_AT_ONCE)
            .try_collect()
            .await
    }

    /// Runs tasks to their end.
    pub(super) async fn conduct<T: Send + 'static>(
        &self,
        schedule: &Schedule,
        mut tasks: JoinSet<T>,
    ) -> Result<Ran<T>, Problem> {
        let mut begin = None;
        let mut ended = Vec::with_capacity(tasks.len());
        while !tasks.is_empty() {
            tokio::select! {
                Some(task) = tasks.join_next() => ended.push(task.when("a task of the run")?),
                () = tokio::time::sleep_until(schedule.measured_from().into()), if begin.is_none() => {
                    begin = Some(self.processes.used());
                }
            }
        }
        Ok(Ran {
            tasks: ended,
            over: schedule.measured(),
            server: self.processes.used_since(begin),
        })
    }

    /// Lets clients call for the measured span.
    pub(super) async fn closed_loop<C: Caller>(
        &self,
        workload: &'static str,
        operation: &'static str,
        parameters: Map<String, Value>,
        callers: Vec<C>,
    ) -> Result<Report, Problem> {
        let schedule = self.schedule();
        let mut tasks = JoinSet::new();
        for caller in callers {
            tasks.spawn(client(caller, schedule.clone(), Arc::<Live>::default()));
        }
        let Ran { tasks, over, server } = self.conduct(&schedule, tasks).await?;
        let tally = Tally::of_all(tasks.into_iter().map(|called| called.measured));
        let main = Measure {
            name: operation,
            tally,
            over,
        };
        Ok(self.report(workload, parameters, main, server))
    }

    pub(super) fn report(
        &self,
        workload: &'static str,
        mut parameters: Map<String, Value>,
        main: Measure,
        server: ServerUse,
    ) -> Report {
        let nodes = self.target.members.iter();
        let nodes = nodes.map(|member| json!({ "endpoint": member.endpoint, "leader": member.leads }));
        parameters.insert("nodes".into(), nodes.collect());
        parameters.insert("connections".into(), self.target.connections().into());
        parameters.insert("seconds".into(), self.common.seconds.into());
        parameters.insert("warmup_seconds".into(), self.common.warmup.into());
        Report {
            workload,
            parameters,
            interrupted: false,
            main,
            others: Vec::new(),
            facts: Vec::new(),
            server,
            broken: None,
        }
    }
}

/// Whole seconds, which is what etcd's leases have.
pub(super) fn seconds(span: Duration) -> i64 {
    i64::try_from(span.as_secs()).unwrap_or(i64::MAX)
}

/// Parameters by name.
pub(super) fn parameters<const N: usize>(named: [(&str, Value); N]) -> Map<String, Value> {
    named
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}
