//! The options that workloads share, and their bounds.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Map, Value};

use super::super::failure::Failure;
use crate::model::limits::{TTL_MAX_MS, TTL_MIN_MS};

/// Clients, streams, watchers: tasks of one process.
const TASKS_MAX: usize = 100_000;
/// Connections of one process.
const CONNECTIONS_MAX: usize = 10_000;
/// How long a run may take, in seconds: its leases, which are made for all of it, live for a day at most.
const SECONDS_MAX: u64 = 12 * 60 * 60;
/// How long it may take to warm up, in seconds.
const WARMUP_MAX: u64 = 60 * 60;
/// Clients that share a connection when nobody says how many connections there are to be.
const CLIENTS_PER_CONNECTION: usize = 16;
/// What a lease lives beyond the end of the measured span, so that nothing ends in it for want of renewal.
const TTL_BEYOND: Duration = Duration::from_secs(60);

/// The longest wait.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(60 * 60);
/// The longest TTL.
pub(super) const TTL_MAX: Duration = Duration::from_millis(TTL_MAX_MS);

/// Which nodes are called.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum To {
    /// The leader.
    Leader,
    /// The followers, by turns.
    Follower,
    /// All, by turns.
    #[default]
    All,
}

/// What every workload takes.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Options of all workloads")]
pub(super) struct CommonArgs {
    /// Which of the nodes behind --endpoints are called
    #[arg(long, value_enum, value_name = "WHICH", default_value_t)]
    pub(super) to: To,
    /// How many connections, by turns to the nodes that are called [default: one for 16 clients, but at least one for
    /// each node]
    #[arg(long, value_name = "N", value_parser = |text: &str| between(text, 1, CONNECTIONS_MAX))]
    pub(super) connections: Option<usize>,
    /// The servers' processes, if they run on this machine: their CPU time and memory are measured too
    #[arg(long, value_name = "PID,…", value_delimiter = ',')]
    pub(super) server_pids: Vec<u32>,
    /// Tell how it goes also when standard error is no terminal
    #[arg(long)]
    pub(super) progress: bool,
}

impl CommonArgs {
    /// How many connections so many clients share.
    pub(super) fn connections_for(&self, clients: usize) -> Connections {
        match self.connections {
            Some(count) => Connections::Exactly(count),
            None => Connections::AtLeast(clients.div_ceil(CLIENTS_PER_CONNECTION)),
        }
    }
}

/// How many connections there are to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Connections {
    Exactly(usize),
    /// And one for each node.
    AtLeast(usize),
}

impl Connections {
    /// How many to so many nodes.
    pub(super) fn to(self, nodes: usize) -> usize {
        match self {
            Self::Exactly(count) => count,
            Self::AtLeast(count) => count.max(nodes),
        }
    }
}

/// How long a workload that goes on for a span runs.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct SpanArgs {
    /// How long is measured, in seconds
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=SECONDS_MAX))]
    pub(super) seconds: u64,
    /// How long it runs before that, in seconds
    #[arg(long, value_name = "S", default_value_t = 2, value_parser = clap::value_parser!(u64).range(0..=WARMUP_MAX))]
    pub(super) warmup: u64,
}

impl SpanArgs {
    pub(super) fn warmup(self) -> Duration {
        Duration::from_secs(self.warmup)
    }

    pub(super) fn measured(self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// The TTL of leases that nobody renews and that must outlive the run.
    pub(super) fn outliving(self) -> Duration {
        self.warmup() + self.measured() + TTL_BEYOND
    }

    /// Adds itself to what a run was asked for.
    pub(super) fn describe(self, parameters: &mut Map<String, Value>) {
        parameters.insert("seconds".into(), self.seconds.into());
        parameters.insert("warmup_seconds".into(), self.warmup.into());
    }
}

/// What a workload takes whose clients each have one call at a time.
#[derive(Args, Clone, Debug)]
pub(super) struct LoadArgs {
    /// How many clients, each with one call at a time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = tasks)]
    pub(super) clients: usize,
    #[command(flatten)]
    pub(super) span: SpanArgs,
    #[command(flatten)]
    pub(super) common: CommonArgs,
}

impl LoadArgs {
    /// How many connections its clients share.
    pub(super) fn connections(&self) -> Connections {
        self.common.connections_for(self.clients)
    }

    /// What it was asked for.
    pub(super) fn parameters(&self) -> Map<String, Value> {
        let mut parameters = Map::new();
        parameters.insert("clients".into(), self.clients.into());
        self.span.describe(&mut parameters);
        parameters
    }
}

/// A number of tasks.
pub(super) fn tasks(text: &str) -> Result<usize, String> {
    between(text, 1, TASKS_MAX)
}

/// A number within bounds.
pub(super) fn between(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (least..=most).contains(number));
    number.ok_or_else(|| format!("{text:?} is no number from {least} to {most}"))
}

/// A TTL in whole milliseconds: 1 s to 24 h.
pub(super) fn ttl(text: &str) -> Result<Duration, String> {
    let span = super::super::values::span(text)?;
    let allowed = Duration::from_millis(TTL_MIN_MS)..=TTL_MAX;
    if allowed.contains(&span) && span.subsec_nanos().is_multiple_of(1_000_000) {
        Ok(span)
    } else {
        Err(format!("{text:?} is no TTL: 1s to 24h, in whole milliseconds"))
    }
}

/// A wait of at most an hour: longer ones are mistakes.
pub(super) fn wait(text: &str) -> Result<Duration, String> {
    match super::super::values::span(text)? {
        wait if wait <= WAIT_MAX => Ok(wait),
        _ => Err(format!("{text:?} is too long: at most 1h")),
    }
}

/// Refuses an option, by its name.
pub(super) fn refused<T>(option: &str, problem: impl AsRef<str>) -> Result<T, Failure> {
    Err(Failure::Usage(format!("{option}: {}", problem.as_ref())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_within_their_bounds() {
        assert_eq!(between("1", 1, 10), Ok(1));
        assert_eq!(between("10", 1, 10), Ok(10));
        for text in ["0", "11", "-1", "1.5", "", "many"] {
            let problem = between(text, 1, 10).expect_err("refused");
            assert!(problem.contains("from 1 to 10"), "{problem}");
        }
    }

    #[test]
    fn a_ttl_is_what_the_cluster_takes() {
        assert_eq!(ttl("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(ttl("1500ms"), Ok(Duration::from_millis(1_500)));
        assert_eq!(ttl("24h"), Ok(Duration::from_secs(86_400)));
        for text in ["999ms", "25h", "1s1us", "10"] {
            assert!(ttl(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_wait_is_an_hour_at_most() {
        assert_eq!(wait("0s"), Ok(Duration::ZERO));
        assert_eq!(wait("1h"), Ok(WAIT_MAX));
        assert!(wait("61m").is_err() && wait("1000000years").is_err() && wait("soon").is_err());
    }

    #[test]
    fn each_node_gets_a_connection_unless_their_number_is_said() {
        let mut common = CommonArgs::default();
        assert_eq!(common.connections_for(1).to(3), 3);
        assert_eq!(common.connections_for(128).to(3), 8);
        assert_eq!(common.connections_for(17).to(1), 2);
        common.connections = Some(1);
        assert_eq!(common.connections_for(128).to(3), 1);
    }

    #[test]
    fn the_longest_run_has_leases_that_outlive_it() {
        let span = SpanArgs {
            seconds: SECONDS_MAX,
            warmup: WARMUP_MAX,
        };
        assert!(span.outliving() <= TTL_MAX);
    }
}
