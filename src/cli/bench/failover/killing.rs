//! One leader after another is killed, and what that costs.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::super::{
    super::{failure::Failure, spans},
    measure::{Gaps, Schedule},
    target::{Member, members},
};
use crate::client::Client;

/// How long the cluster may take to be whole before a kill, and to acknowledge something after it.
pub(super) const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Acknowledgements that are no older than this mean that it goes on.
const GOES_ON: Duration = Duration::from_millis(250);

/// One kill, and what it cost.
#[derive(Clone, Debug)]
pub(super) struct Round {
    pub(super) leader: String,
    pub(super) write_gap: Duration,
    pub(super) renewal_gap: Duration,
}

/// Kills leaders, one after another.
pub(super) struct Killing {
    /// How many.
    pub(super) rounds: usize,
    /// How long the cluster is watched before each kill, and after it.
    pub(super) settle: Duration,
    /// What kills; without one the processes are killed.
    pub(super) command: Option<String>,
    /// In the order of the endpoints.
    pub(super) processes: Vec<u32>,
    pub(super) client: Client,
    pub(super) schedule: Arc<Schedule>,
    pub(super) writes: Arc<Gaps>,
    pub(super) renewals: Arc<Gaps>,
}

impl Killing {
    /// Does its rounds; then the run is over. A round that failed is the last.
    pub(super) async fn run(self) -> (Vec<Round>, Option<Failure>) {
        let mut rounds = Vec::new();
        let mut failure = None;
        while rounds.len() < self.rounds && self.schedule.goes_on() {
            match self.round().await {
                Ok(Some(round)) => rounds.push(round),
                // It was interrupted.
                Ok(None) => break,
                Err(failed) => {
                    failure = Some(failed);
                    break;
                }
            }
        }
        self.schedule.stop();
        (rounds, failure)
    }

    async fn round(&self) -> Result<Option<Round>, Failure> {
        let Some((at, leader)) = self.whole().await? else {
            return Ok(None);
        };
        self.schedule.wait_until(Instant::now() + self.settle).await;
        if !self.schedule.goes_on() {
            return Ok(None);
        }
        self.writes.begin();
        self.renewals.begin();
        self.kill(at, &leader).await?;
        self.schedule.wait_until(Instant::now() + self.settle).await;
        let until = Instant::now() + WHOLE_WITHIN;
        while self.writes.silent_for() > GOES_ON || self.renewals.silent_for() > GOES_ON {
            if !self.schedule.goes_on() {
                return Ok(None);
            }
            if Instant::now() > until {
                return Err(Failure::Unavailable(format!(
                    "nothing is acknowledged {} after {} was killed",
                    spans::exact(self.settle + WHOLE_WITHIN),
                    leader.name
                )));
            }
            self.schedule.wait_until(Instant::now() + LOOK_EVERY).await;
        }
        Ok(Some(Round {
            leader: leader.name,
            write_gap: self.writes.longest(),
            renewal_gap: self.renewals.longest(),
        }))
    }

    /// Waits until the cluster is whole, or as whole as it can be, and one node leads; answers that node and its place
    /// among the endpoints. `None` when it is interrupted.
    async fn whole(&self) -> Result<Option<(usize, Member)>, Failure> {
        let endpoints = self.client.endpoints().as_slice();
        let until = Instant::now() + WHOLE_WITHIN;
        while self.schedule.goes_on() {
            // Nobody answers: that may pass.
            let (known, absent) = members(&self.client).await.unwrap_or_default();
            let leaders: Vec<&Member> = known.iter().filter(|member| member.leads).collect();
            if let [leader] = leaders[..]
                && (absent.is_empty() || self.command.is_none())
                && let Some(at) = endpoints.iter().position(|endpoint| *endpoint == leader.endpoint)
            {
                return Ok(Some((at, leader.clone())));
            }
            if Instant::now() > until {
                return Err(Failure::Unavailable(format!(
                    "the cluster is not whole: {} of {} nodes answer, {} of them lead",
                    known.len(),
                    endpoints.len(),
                    leaders.len()
                )));
            }
            self.schedule.wait_until(Instant::now() + LOOK_EVERY).await;
        }
        Ok(None)
    }

    async fn kill(&self, at: usize, leader: &Member) -> Result<(), Failure> {
        let Some(command) = &self.command else {
            let id = self.processes.get(at).copied().unwrap_or_default();
            return kill(id);
        };
        let status = tokio::process::Command::new("sh")
            .arg("-c")
            .arg(command)
            .env("ROSTER_LEADER", &leader.name)
            .env("ROSTER_LEADER_ENDPOINT", leader.endpoint.to_string())
            .stdin(std::process::Stdio::null())
            // What it says is not this command's result.
            .stdout(std::process::Stdio::null())
            .kill_on_drop(true)
            .status()
            .await;
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(Failure::Failed(format!("--kill-command: {command}: {status}"))),
            Err(error) => Err(Failure::Failed(format!("--kill-command: {error}"))),
        }
    }
}

/// kill -9.
fn kill(id: u32) -> Result<(), Failure> {
    let process = i32::try_from(id).ok().and_then(Pid::from_raw);
    let process = process.ok_or_else(|| Failure::Usage(format!("--server-pids: {id} is no process")))?;
    let killed = kill_process(process, Signal::KILL);
    killed.map_err(|error| Failure::Failed(format!("--server-pids: process {id} can't be killed: {error}")))
}
