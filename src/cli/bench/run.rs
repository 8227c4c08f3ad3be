//! One run of a workload: what it calls, what it owns in the cluster, and who watches over its tasks.

use std::{
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Map, Value};
use tokio::task::JoinSet;

use super::{
    super::{failure::Failure, interrupt::Interrupts, session::Session},
    measure::{Fact, Live, Measure, Processes, Report, Schedule, ServerUse, rate},
    options::{CommonArgs, Connections, WAIT_MAX},
    sample,
    target::Target,
};
use crate::{
    client::Client,
    wire::{span::span_to_proto, v1},
};

/// How long a call may take when nobody says otherwise.
const LIMIT: Duration = Duration::from_secs(10);
/// Calls under way while a run is set up or cleaned up.
const CALLS_AT_ONCE: usize = 256;
/// How often it is told how it goes.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// The leases that a run has in the cluster and that are revoked in its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Owned(Arc<Mutex<Vec<i64>>>);

impl Owned {
    pub(super) fn add(&self, lease_id: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(lease_id);
    }

    pub(super) fn take(&self) -> Vec<i64> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A run.
pub(super) struct Bench<'a> {
    pub(super) session: &'a mut Session,
    pub(super) target: Target,
    pub(super) owned: Owned,
    pub(super) processes: Processes,
    /// How long a call may take.
    pub(super) limit: Duration,
    name: String,
    interrupts: Interrupts,
    progress: bool,
}

/// What tasks came to, and what happened while they ran.
#[derive(Debug)]
pub(super) struct Ran<T> {
    pub(super) tasks: Vec<T>,
    pub(super) around: Around,
}

/// What happened while tasks ran.
#[derive(Clone, Debug)]
pub(super) struct Around {
    /// From the end of the warm-up until the last task had ended.
    pub(super) over: Duration,
    pub(super) interrupted: bool,
    pub(super) server: ServerUse,
}

impl<'a> Bench<'a> {
    /// Looks at the servers' processes and connects to the cluster.
    ///
    /// # Errors
    /// A process or the cluster is not there.
    pub(super) async fn begin(
        session: &'a mut Session,
        common: &CommonArgs,
        connections: Connections,
    ) -> Result<Self, Failure> {
        let processes = Processes::new(&common.server_pids);
        let processes = processes.map_err(|problem| Failure::Usage(format!("--server-pids: {problem}")))?;
        let interrupts = Interrupts::listen()?;
        let target = Target::connect(session, common.to, connections).await?;
        Ok(Self {
            target,
            owned: Owned::default(),
            processes,
            limit: session.timeout.unwrap_or(LIMIT).min(WAIT_MAX),
            // Runs side by side, and the leftovers of one that was killed, have nothing to do with each other.
            name: format!("bench-{:08x}", rand::random::<u32>()),
            interrupts,
            progress: common.progress,
            session,
        })
    }

    /// The name of one of the run's services, of no other run's.
    pub(super) fn service(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }

    /// An instance of one of the run's services.
    pub(super) fn maker(&self) -> Maker {
        Maker {
            namespace: self.session.namespace(),
        }
    }

    /// A client that asks any node, for what is not measured.
    pub(super) fn client(&self) -> Client {
        self.session.client.clone()
    }

    /// Does what has to be done before anything can be measured, unless it is interrupted.
    ///
    /// # Errors
    /// It is, or the work fails.
    pub(super) async fn set_up<T>(
        &mut self,
        doing: &str,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.session.output.progress(&format!("{doing} …"), self.progress);
        let result = tokio::select! {
            result = work => result,
            () = self.interrupts.next() => Err(Failure::Failed(format!("interrupted while {doing}"))),
        };
        self.session.output.end_progress();
        result
    }

    /// Grants so many leases that are revoked in the end.
    ///
    /// # Errors
    /// One is refused, or it is interrupted.
    pub(super) async fn grant(&mut self, count: usize, ttl: Duration) -> Result<Vec<i64>, Failure> {
        let (client, owned) = (self.client(), self.owned.clone());
        let grants = stream::iter(0..count)
            .map(move |_| {
                let (client, owned) = (client.clone(), owned.clone());
                async move {
                    let lease_id = 0;
                    let ttl = Some(span_to_proto(ttl));
                    let granted = client.grant_lease(v1::GrantLeaseRequest { lease_id, ttl }).await?;
                    let lease_id = granted.lease.unwrap_or_default().lease_id;
                    owned.add(lease_id);
                    Ok(lease_id)
                }
            })
            .buffer_unordered(CALLS_AT_ONCE)
            .try_collect();
        self.set_up(&format!("granting leases ({count})"), grants).await
    }

    /// Runs tasks to their end, tells how it goes, and ends them early when it is interrupted.
    ///
    /// # Errors
    /// It is interrupted a second time, or a task panicked.
    pub(super) async fn conduct<T: 'static>(
        &mut self,
        what: &str,
        schedule: &Schedule,
        live: &[Arc<Live>],
        mut tasks: JoinSet<T>,
    ) -> Result<Ran<T>, Failure> {
        let mut begin = None;
        let mut ended = Vec::with_capacity(tasks.len());
        let mut interrupted = false;
        let mut told = (Instant::now(), 0);
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + TELL_EVERY, TELL_EVERY);
        while !tasks.is_empty() {
            tokio::select! {
                Some(task) = tasks.join_next() => {
                    ended.push(task.map_err(|error| Failure::Failed(format!("a task of the run ended: {error}")))?);
                }
                () = tokio::time::sleep_until(schedule.measured_from().into()), if begin.is_none() => {
                    begin = Some(self.processes.used());
                }
                () = self.interrupts.next() => {
                    if std::mem::replace(&mut interrupted, true) {
                        let left = "what it registered stays until its leases end";
                        return Err(Failure::Failed(format!("interrupted before {what} had ended; {left}")));
                    }
                    schedule.stop();
                }
                _ = ticks.tick() => {
                    let (done, failed) = Live::of_all(live);
                    let since = std::mem::replace(&mut told, (Instant::now(), done));
                    let pace = done.saturating_sub(since.1) as f64 / since.0.elapsed().as_secs_f64();
                    let line = format!("{what}: {}: {done} done, {}/s, {failed} failed", schedule.stands(), rate(pace));
                    self.session.output.progress(&line, self.progress);
                }
            }
        }
        self.session.output.end_progress();
        let server = self.processes.used_since(begin);
        Ok(Ran {
            tasks: ended,
            around: Around {
                over: schedule.measured(),
                interrupted,
                server,
            },
        })
    }

    /// What a run found, with what it was asked for.
    pub(super) fn report(
        &self,
        workload: &'static str,
        mut parameters: Map<String, Value>,
        around: Around,
        main: Measure,
    ) -> Report {
        self.target.describe(&mut parameters);
        parameters.insert("server_pids".into(), self.processes.ids().into());
        Report {
            workload,
            parameters,
            interrupted: around.interrupted,
            main,
            others: Vec::new(),
            facts: Vec::new(),
            server: around.server,
            broken: None,
        }
    }

    /// Prints what was found, and takes away what the run has in the cluster.
    ///
    /// # Errors
    /// As the run failed, or as its report says.
    pub(super) async fn finish(mut self, found: Result<Report, Failure>) -> Result<(), Failure> {
        let result = found.and_then(|report| report.print(&mut self.session.output));
        self.clean_up().await;
        result
    }

    /// Revokes its leases, and with them goes what they hold.
    async fn clean_up(&mut self) {
        let leases = self.owned.take();
        let (client, count) = (self.client(), leases.len());
        if count == 0 {
            return;
        }
        let mut revoked = 0_usize;
        let mut problem = None;
        let work = async {
            let mut answers = stream::iter(leases)
                .map(|lease_id| client.revoke_lease(lease_id))
                .buffer_unordered(CALLS_AT_ONCE);
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok(_) => revoked += 1,
                    Err(error) => problem = Some(error.to_string()),
                }
            }
            Ok(())
        };
        let interrupted = self.set_up(&format!("revoking leases ({count})"), work).await;
        if let Some(problem) = interrupted.err().map(|failure| failure.line()).or(problem) {
            let left = count - revoked;
            self.session.output.note(&format!(
                "{left} leases were not revoked, they end by themselves: {problem}"
            ));
        }
    }
}

/// Makes the records that runs register: about as long as real ones.
#[derive(Clone, Debug)]
pub(super) struct Maker {
    namespace: String,
}

impl Maker {
    pub(super) fn instance(&self, service: &str, id: String) -> v1::Instance {
        sample(v1::InstanceKey {
            namespace: self.namespace.clone(),
            service: service.to_owned(),
            id,
        })
    }

    /// Selects one service.
    pub(super) fn selector(&self, service: &str) -> v1::Selector {
        v1::Selector {
            namespace: self.namespace.clone(),
            scope: Some(v1::selector::Scope::Services(v1::Services {
                names: vec![service.to_owned()],
            })),
            ..Default::default()
        }
    }
}

/// A line about what stays behind for a while.
pub(super) fn let_go(count: u64, ttl: Duration) -> Fact {
    let line = format!(
        "{count} instances are let go: they end within {} of their registration",
        super::super::spans::exact(ttl)
    );
    Fact::new("let_go", count, line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_owned_is_taken_once() {
        let owned = Owned::default();
        owned.clone().add(7);
        owned.add(8);
        assert_eq!(owned.take(), [7, 8]);
        assert!(owned.take().is_empty());
    }
}
