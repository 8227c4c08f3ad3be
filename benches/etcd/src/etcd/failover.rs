//! How long nothing is acknowledged when a leader is killed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use clap::Args;
use roster::cli::bench::measure::{Fact, Gaps, Live, Measure, Report, Schedule, Tally, client, micros};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    clients::Other,
    run::{Ran, Run, parameters},
    target::{Connection, lazy, members},
};
use crate::problem::{Problem, While as _};

/// How long a call of the clients may take before they ask the next node.
const CALL_MAX: Duration = Duration::from_secs(1);
/// How long the cluster may take to be whole before a kill, and to acknowledge something after it.
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// How often it is looked whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Acknowledgements that are no older than this mean that it goes on.
const GOES_ON: Duration = Duration::from_millis(250);

#[derive(Args, Debug)]
pub(super) struct Failover {
    /// How often a leader is killed
    #[arg(long, default_value_t = 1)]
    rounds: usize,
    /// What kills the leader and starts it again; run by sh with ROSTER_LEADER_ENDPOINT, as `roster bench` does
    #[arg(long)]
    kill_command: String,
    /// How long the cluster is watched before each kill, and after it, in seconds
    #[arg(long, default_value_t = 5)]
    settle: u64,
    /// How many clients write, and how many renew
    #[arg(long, default_value_t = 4)]
    pub(super) clients: usize,
    /// How many writes, and how many renewals, the clients make in a second, all together
    #[arg(long, default_value_t = 500)]
    rate: u32,
}

/// What a task of the run came to.
enum Came {
    Rounds(Result<Vec<Round>, Problem>),
    Writes(Box<Tally>),
    Renewals(Box<Tally>),
}

struct Round {
    leader: String,
    write_gap: Duration,
    renewal_gap: Duration,
}

impl Failover {
    pub(super) async fn measure(&self, run: &Run) -> Result<Report, Problem> {
        let leases = run.grant(2 * self.clients, 3_600).await?;
        let ways: Arc<[Connection]> = lazy(&run.common.endpoints).await?.into();
        let (writes, renewals) = (Arc::new(Gaps::new()), Arc::new(Gaps::new()));
        let schedule = Schedule::open_ended();
        let mut tasks = JoinSet::new();
        for number in 0..self.clients {
            let (renewer, writer) = Other::pair(
                number,
                self.clients,
                self.rate,
                (&ways, &leases),
                (&renewals, &writes),
                (CALL_MAX, schedule.began()),
            );
            let (of_renewer, of_writer) = (schedule.clone(), schedule.clone());
            tasks.spawn(async move {
                let called = client(renewer, of_renewer, Arc::<Live>::default()).await;
                Came::Renewals(Box::new(called.measured))
            });
            tasks.spawn(async move {
                let called = client(writer, of_writer, Arc::<Live>::default()).await;
                Came::Writes(Box::new(called.measured))
            });
        }
        let killing = Killing {
            rounds: self.rounds,
            settle: Duration::from_secs(self.settle),
            command: self.kill_command.clone(),
            endpoints: run.common.endpoints.clone(),
            schedule: schedule.clone(),
            writes,
            renewals,
        };
        tasks.spawn(async move { Came::Rounds(killing.run().await) });
        let Ran { tasks, over, server } = run.conduct(&schedule, tasks).await?;
        let (mut writes, mut renewals, mut rounds) = (Tally::new(), Tally::new(), Vec::new());
        for came in tasks {
            match came {
                Came::Writes(tally) => writes.merge(*tally),
                Came::Renewals(tally) => renewals.merge(*tally),
                Came::Rounds(done) => rounds = done?,
            }
        }
        let parameters = parameters([
            ("rounds", self.rounds.into()),
            ("clients", self.clients.into()),
            ("rate_per_second", self.rate.into()),
        ]);
        let measure = |name, tally| Measure { name, tally, over };
        let mut report = run.report("failover", parameters, measure("write", writes), server);
        report.others.push(measure("renew", renewals));
        report.facts = facts(&rounds);
        Ok(report)
    }
}

fn facts(rounds: &[Round]) -> Vec<Fact> {
    let each = rounds.iter().map(|round| {
        json!({
            "leader": round.leader,
            "write_gap_us": micros(round.write_gap),
            "renewal_gap_us": micros(round.renewal_gap),
        })
    });
    let mut facts = vec![Fact::new("rounds", each.collect::<Vec<Value>>(), "")];
    let mut add = |median, longest, gap: fn(&Round) -> Duration| {
        let mut gaps: Vec<u64> = rounds.iter().map(|round| micros(gap(round))).collect();
        gaps.sort_unstable();
        facts.push(Fact::new(median, gaps.get(gaps.len() / 2).copied(), ""));
        facts.push(Fact::new(longest, gaps.last().copied(), ""));
    };
    add("write_gap_median_us", "write_gap_max_us", |round| round.write_gap);
    add("renewal_gap_median_us", "renewal_gap_max_us", |round| round.renewal_gap);
    facts
}

/// Kills leaders, one after another.
struct Killing {
    rounds: usize,
    settle: Duration,
    command: String,
    endpoints: Vec<String>,
    schedule: Arc<Schedule>,
    writes: Arc<Gaps>,
    renewals: Arc<Gaps>,
}

impl Killing {
    async fn run(self) -> Result<Vec<Round>, Problem> {
        let mut rounds = Vec::new();
        let mut result = Ok(());
        while rounds.len() < self.rounds && result.is_ok() {
            match self.round().await {
                Ok(round) => rounds.push(round),
                Err(problem) => result = Err(problem),
            }
        }
        self.schedule.stop();
        result.map(|()| rounds)
    }

    async fn round(&self) -> Result<Round, Problem> {
        let leader = self.whole().await?;
        tokio::time::sleep(self.settle).await;
        self.writes.begin();
        self.renewals.begin();
        let status = tokio::process::Command::new("sh")
            .args(["-c", &self.command])
            .env("ROSTER_LEADER_ENDPOINT", &leader)
            .stdout(std::process::Stdio::null())
            .status()
            .await
            .when("--kill-command")?;
        if !status.success() {
            return Err(Problem(format!("--kill-command: {status}")));
        }
        tokio::time::sleep(self.settle).await;
        let until = Instant::now() + WHOLE_WITHIN;
        while self.writes.silent_for() > GOES_ON || self.renewals.silent_for() > GOES_ON {
            if Instant::now() > until {
                return Err(Problem(format!("nothing is acknowledged after {leader} was killed")));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(Round {
            leader,
            write_gap: self.writes.longest(),
            renewal_gap: self.renewals.longest(),
        })
    }

    /// Waits until all nodes answer and one leads.
    async fn whole(&self) -> Result<String, Problem> {
        let until = Instant::now() + WHOLE_WITHIN;
        loop {
            let problem = match members(&self.endpoints).await {
                Ok(members) => {
                    let mut leaders = members.into_iter().filter(|member| member.leads);
                    if let (Some(leader), None) = (leaders.next(), leaders.next()) {
                        return Ok(leader.endpoint);
                    }
                    Problem("no node leads, or more than one does".into())
                }
                Err(problem) => problem,
            };
            if Instant::now() > until {
                return Err(problem).when("the cluster is not whole");
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
