//! What one cluster goes through, and what it must show.

use std::time::Duration;

use super::{
    findings::Findings,
    injections::{Made, made},
    scenarios::{CALM_END, Scenario},
};
use crate::{check::Demands, history::History};

/// How long one cluster is harmed at random: short enough that nothing of its log is purged before it is read.
pub(crate) const ROUND: Duration = Duration::from_secs(120);

/// What one cluster goes through.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    Scenario(&'static Scenario),
    Random(Duration),
}

impl Work {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Scenario(scenario) => scenario.name,
            Self::Random(_) => "random",
        }
    }

    /// Whether nodes that no fault hit must go on as ever. Where snapshots are read from a node that stands still for a
    /// moment, they need not.
    pub(crate) fn is_timely(self) -> bool {
        !matches!(self, Self::Scenario(scenario) if scenario.name == "snapshots")
    }

    /// For how long traffic goes on when everything is whole again.
    pub(crate) fn calm_end(self) -> Duration {
        match self {
            Self::Scenario(scenario) => scenario.calm_end(),
            Self::Random(_) => CALM_END,
        }
    }

    /// Whether it made the injections that it is named after.
    pub(crate) fn made(self, history: &History, findings: &Findings) -> Made {
        match self {
            Self::Scenario(scenario) => made(&scenario.injections(), history, findings),
            // What else a round must have seen, its demands say.
            Self::Random(_) if history.faults.is_empty() => Made::TooFew("no fault was made".to_owned()),
            Self::Random(_) => Made::All,
        }
    }

    /// What it must have seen to prove anything.
    pub(crate) fn demands(self) -> Demands {
        match self {
            Self::Scenario(scenario) => scenario.demands(),
            // A round that was cut short by the campaign's end may see little.
            Self::Random(span) if span < ROUND => Demands::default(),
            Self::Random(_) => Demands {
                done: 1_000,
                done_during_faults: 100,
                leader_hit: true,
                leader_changes: 2,
                expiry: true,
                resume: true,
                ..Demands::default()
            },
        }
    }
}
