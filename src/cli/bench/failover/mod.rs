//! `roster bench failover`: how long nothing is acknowledged when a leader is killed.

mod killing;

use std::{sync::Arc, time::Duration};

use clap::Args;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use self::killing::{Killing, Round, WHOLE_WITHIN};
use super::{
    super::{failure::Failure, session::Session, spans},
    clients::{Other, Renewer, Ways, Writer},
    measure::{Fact, Gaps, Live, Measure, Pace, Report, Schedule, Tally, client, micros, time},
    options::{CommonArgs, TTL_MAX, between, refused, tasks, wait},
    run::{Bench, Ran},
    target::lazy,
};

/// How long a call of the clients may take before they ask the next node.
const CALL_MAX: Duration = Duration::from_secs(1);

/// Finds the longest time without an acknowledged write, and renewal, when the leader is killed
///
/// Clients write and renew all the time, and go on at another node when one fails them. Each round waits until the
/// cluster is whole, kills the leader and watches. --kill-command is run by sh with ROSTER_LEADER (the node's name) and
/// ROSTER_LEADER_ENDPOINT; it has to see to it that the node comes back, if there is to be another round. Without it
/// the leader's process is killed (-9), and nobody starts it again: --server-pids names the processes in the order of
/// --endpoints.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  roster bench failover --endpoints 127.0.0.1:7400,7401,7402 --server-pids 4711,4712,4713
  roster bench failover --rounds 10 --kill-command 'systemctl kill -s KILL roster@$ROSTER_LEADER'
  roster bench failover --rounds 5 --kill-command ./kill-and-restart.sh -o json")]
pub(in super::super) struct FailoverBench {
    /// How often a leader is killed
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = |text: &str| between(text, 1, 1_000))]
    rounds: usize,
    /// What kills the leader
    #[arg(long, value_name = "COMMAND")]
    kill_command: Option<String>,
    /// How long the cluster is watched before each kill, and after it
    #[arg(long, value_name = "SPAN", default_value = "5s", value_parser = wait)]
    settle: Duration,
    /// How many clients write, and how many renew
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = tasks)]
    clients: usize,
    /// How many writes, and how many renewals, the clients make in a second, all together
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    #[command(flatten)]
    common: CommonArgs,
}

/// What a task of the run came to.
enum Came {
    Rounds(Vec<Round>, Option<Failure>),
    Writes(Box<Tally>),
    Renewals(Box<Tally>),
}

impl FailoverBench {
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        self.check(session.client.endpoints().as_slice().len())?;
        let connections = self.common.connections_for(2 * self.clients);
        let mut bench = Bench::begin(session, &self.common, connections).await?;
        let found = self.measure(&mut bench).await;
        bench.finish(found).await
    }

    fn check(&self, endpoints: usize) -> Result<(), Failure> {
        let processes = self.common.server_pids.len();
        if self.kill_command.is_some() {
            return Ok(());
        }
        if processes == 0 {
            return refused(
                "--kill-command",
                "say how to kill the leader, or name the processes with --server-pids",
            );
        }
        if processes != endpoints {
            let problem = format!("{processes} processes for {endpoints} endpoints: name one for each, in their order");
            return refused("--server-pids", problem);
        }
        let minority = endpoints.saturating_sub(1) / 2;
        if self.rounds > minority {
            let problem = format!("nobody starts killed processes again: {endpoints} nodes do without {minority}");
            return refused("--rounds", problem);
        }
        Ok(())
    }

    /// What all rounds take at most, which the clients' leases must outlive.
    fn longest(&self) -> Duration {
        let round = (self.settle + WHOLE_WITHIN) * 2;
        let rounds = u32::try_from(self.rounds).unwrap_or(u32::MAX);
        round.saturating_mul(rounds.saturating_add(1)).min(TTL_MAX)
    }

    async fn measure(&self, bench: &mut Bench<'_>) -> Result<Report, Failure> {
        let leases = bench.grant(2 * self.clients, self.longest()).await?;
        let endpoints = bench.session.client.endpoints().as_slice();
        let channels = endpoints.iter().map(|endpoint| Ok(lazy(endpoint)?.connect_lazy()));
        let channels: Result<Arc<[Channel]>, tonic::transport::Error> = channels.collect();
        let channels = channels.map_err(|error| Failure::Usage(format!("--endpoints: {error}")))?;
        let (writes, renewals) = (Arc::new(Gaps::new()), Arc::new(Gaps::new()));
        let schedule = Schedule::open_ended();
        let live = Live::of_tasks(2 * self.clients);
        let mut tasks = JoinSet::new();
        for number in 0..self.clients {
            let other = |lease_id: i64, gaps: &Arc<Gaps>| Other {
                ways: Ways::beginning_at(channels.clone(), number),
                pace: Pace::of_task(number, self.clients, Some(self.rate), schedule.began()),
                limit: CALL_MAX,
                lease_id,
                gaps: gaps.clone(),
            };
            let renewer = Renewer(other(leases[2 * number], &renewals));
            let writer = Writer {
                other: other(leases[2 * number + 1], &writes),
                maker: bench.maker(),
                service: bench.service(0),
                number,
                sent: 0,
            };
            let (of_renewer, of_writer) = (schedule.clone(), schedule.clone());
            let (live_renewer, live_writer) = (live[2 * number].clone(), live[2 * number + 1].clone());
            tasks.spawn(
                async move { Came::Renewals(Box::new(client(renewer, of_renewer, live_renewer).await.measured)) },
            );
            tasks.spawn(async move { Came::Writes(Box::new(client(writer, of_writer, live_writer).await.measured)) });
        }
        let killing = Killing {
            rounds: self.rounds,
            settle: self.settle,
            command: self.kill_command.clone(),
            processes: self.common.server_pids.clone(),
            client: bench.client(),
            schedule: schedule.clone(),
            writes,
            renewals,
        };
        tasks.spawn(async move {
            let (rounds, failure) = killing.run().await;
            Came::Rounds(rounds, failure)
        });
        let ran = bench.conduct("failover", &schedule, &live, tasks).await?;
        self.report(bench, ran)
    }

    fn report(&self, bench: &Bench<'_>, ran: Ran<Came>) -> Result<Report, Failure> {
        let (mut writes, mut renewals) = (Tally::new(), Tally::new());
        let (mut rounds, mut failure) = (Vec::new(), None);
        for came in ran.tasks {
            match came {
                Came::Writes(tally) => writes.merge(*tally),
                Came::Renewals(tally) => renewals.merge(*tally),
                Came::Rounds(done, failed) => (rounds, failure) = (done, failed),
            }
        }
        if rounds.is_empty()
            && let Some(failure) = failure
        {
            return Err(failure);
        }
        let mut parameters = Map::new();
        parameters.insert("rounds".into(), self.rounds.into());
        parameters.insert("kill_command".into(), self.kill_command.clone().into());
        parameters.insert("settle".into(), spans::json(self.settle).into());
        parameters.insert("clients".into(), self.clients.into());
        parameters.insert("rate_per_second".into(), self.rate.into());
        let over = ran.around.over;
        let measure = |name, tally| Measure { name, tally, over };
        let mut report = bench.report("failover", parameters, ran.around, measure("write", writes));
        report.others.push(measure("renew", renewals));
        report.facts = facts(&rounds);
        report.broken = failure.map(|failure| failure.line());
        Ok(report)
    }
}

/// The rounds, and the gaps' median and longest.
fn facts(rounds: &[Round]) -> Vec<Fact> {
    let each = rounds.iter().map(|round| {
        json!({
            "leader": round.leader,
            "write_gap_us": micros(round.write_gap),
            "renewal_gap_us": micros(round.renewal_gap),
        })
    });
    let mut facts = vec![Fact::new("rounds", each.collect::<Vec<Value>>(), "")];
    let mut add = |what, median_field, longest_field, gap: fn(&Round) -> Duration| {
        let mut gaps: Vec<u64> = rounds.iter().map(|round| micros(gap(round))).collect();
        gaps.sort_unstable();
        let (median, longest) = (gaps.get(gaps.len() / 2).copied(), gaps.last().copied());
        let line = match (median, longest) {
            (Some(median), Some(longest)) => format!(
                "longest time without an acknowledged {what}: median {}, longest {} ({} rounds)",
                time(median),
                time(longest),
                gaps.len()
            ),
            _ => String::new(),
        };
        facts.push(Fact::new(median_field, median, line));
        facts.push(Fact::new(longest_field, longest, ""));
    };
    add("write", "write_gap_median_us", "write_gap_max_us", |round| {
        round.write_gap
    });
    add("renewal", "renewal_gap_median_us", "renewal_gap_max_us", |round| {
        round.renewal_gap
    });
    facts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(rounds: usize, kill_command: Option<&str>, server_pids: &[u32]) -> FailoverBench {
        FailoverBench {
            rounds,
            kill_command: kill_command.map(str::to_owned),
            settle: Duration::from_secs(1),
            clients: 1,
            rate: 10,
            common: CommonArgs {
                server_pids: server_pids.to_vec(),
                ..CommonArgs::default()
            },
        }
    }

    #[test]
    fn what_can_not_be_killed_or_not_so_often_is_refused_by_name() {
        assert!(asked(10, Some("true"), &[]).check(3).is_ok());
        assert!(asked(1, None, &[1, 2, 3]).check(3).is_ok());
        for (args, endpoints, option) in [
            (asked(1, None, &[]), 3, "--kill-command"),
            (asked(1, None, &[1, 2]), 3, "--server-pids"),
            (asked(2, None, &[1, 2, 3]), 3, "--rounds"),
            (asked(1, None, &[1]), 1, "--rounds"),
        ] {
            let failure = args.check(endpoints).expect_err("refused");
            assert_eq!(failure.exit_code(), Failure::USAGE);
            assert!(failure.line().starts_with(option), "{}", failure.line());
        }
    }

    #[test]
    fn rounds_are_told_with_their_median_and_their_longest() {
        let round = |ms| Round {
            leader: "n1".into(),
            write_gap: Duration::from_millis(ms),
            renewal_gap: Duration::from_millis(2 * ms),
        };
        let facts = facts(&[round(500), round(700), round(600)]);
        let value = |field: &str| {
            facts
                .iter()
                .find(|fact| fact.field == field)
                .map(|fact| fact.value.clone())
        };
        assert_eq!(value("write_gap_median_us"), Some(600_000.into()));
        assert_eq!(value("renewal_gap_max_us"), Some(1_400_000.into()));
        assert_eq!(
            value("rounds").and_then(|rounds| rounds.as_array().map(Vec::len)),
            Some(3)
        );
        assert!(
            facts
                .iter()
                .any(|fact| fact.line.contains("write: median 600 ms, longest 700 ms (3 rounds)"))
        );
    }

    #[test]
    fn without_a_round_there_is_no_gap() {
        assert!(
            facts(&[])
                .iter()
                .skip(1)
                .all(|fact| fact.value.is_null() && fact.line.is_empty())
        );
    }
}
