//! The scenarios, by name. Most are a list of harms, each held for a while, with a rest after it; some are stories of
//! their own, in the files below.

use std::{io, pin::Pin, time::Duration};

use crate::check::Demands;

use super::{
    harm::{Begun, Harm, Held, Whom},
    injections::Injections,
    network::Pass,
    stage::Stage,
    stories,
};

/// A harm, how long it holds and what rest follows, in ms, and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step(pub(crate) Harm, pub(crate) u64, pub(crate) u64, pub(crate) u32);

/// What is told by code.
pub(crate) type Story = for<'a> fn(&'a mut Stage) -> Pin<Box<dyn Future<Output = io::Result<()>> + 'a>>;

/// What happens.
#[derive(Clone, Copy)]
pub(crate) enum Script {
    /// One after another.
    Steps(&'static [Step]),
    /// Anything else.
    Story(Story),
}

/// One of them.
#[derive(Clone, Copy)]
pub(crate) struct Scenario {
    /// As `--only` takes it.
    pub(crate) name: &'static str,
    /// One line.
    pub(crate) about: &'static str,
    /// How many nodes it needs, if that is not for the caller to say.
    pub(crate) nodes: Option<usize>,
    /// More flags of the nodes.
    pub(crate) flags: &'static [&'static str],
    /// What happens.
    pub(crate) script: Script,
    /// Of a story: which faults it makes, and how often; and its length in seconds, about.
    told: (&'static [(&'static str, u64)], u64),
}

impl Scenario {
    const fn steps(name: &'static str, about: &'static str, steps: &'static [Step]) -> Self {
        Self {
            name,
            about,
            nodes: None,
            flags: &[],
            script: Script::Steps(steps),
            told: (&[], 0),
        }
    }

    const fn of_five(self) -> Self {
        Self { nodes: Some(5), ..self }
    }

    const fn story(
        name: &'static str,
        about: &'static str,
        told: (&'static [(&'static str, u64)], u64),
        story: Story,
    ) -> Self {
        Self {
            name,
            about,
            nodes: None,
            flags: &[],
            script: Script::Story(story),
            told,
        }
    }

    const fn with(self, flags: &'static [&'static str]) -> Self {
        Self { flags, ..self }
    }

    fn harms(&self) -> &'static [Step] {
        match self.script {
            Script::Steps(steps) => steps,
            Script::Story(_) => &[],
        }
    }

    /// Whether it needs wall clocks that can jump.
    pub(crate) fn jumps_clocks(&self) -> bool {
        self.harms().iter().any(|step| matches!(step.0, Harm::Clock { .. }))
    }

    /// Which injections it makes: without them it proves nothing.
    pub(crate) fn injections(&self) -> Injections {
        let mut wanted: Injections = self.told.0.iter().copied().collect();
        for Step(harm, _, _, times) in self.harms() {
            *wanted.entry(harm.kind()).or_default() += u64::from(*times);
        }
        wanted
    }

    /// For how long traffic goes on when all is whole again. What was done to nodes, network and disks must be over for
    /// a while, for the cluster to show that it is itself again; what stories look at, they have seen by then.
    pub(crate) fn calm_end(&self) -> Duration {
        match self.script {
            Script::Steps(_) => CALM_END,
            Script::Story(_) => SHORT_END,
        }
    }

    /// How long it takes, about.
    pub(crate) fn expected(&self) -> Duration {
        let step =
            |Step(_, hold_ms, rest_ms, times): &Step| (Duration::from_millis(hold_ms + rest_ms) + STEP_COSTS) * *times;
        let steps: Duration = self.harms().iter().map(step).sum();
        RUN_COSTS + steps + Duration::from_secs(self.told.1) + self.calm_end()
    }

    /// What it must have seen to prove anything, beside its own faults.
    pub(crate) fn demands(&self) -> Demands {
        let any = |wanted: fn(Harm) -> bool| self.harms().iter().any(|step| wanted(step.0));
        Demands {
            done: 200,
            leader_hit: any(|harm| {
                let all = matches!(
                    harm,
                    Harm::Kill(Whom::All) | Harm::Pause(Whom::All) | Harm::PowerCut(Whom::All)
                );
                all || harm.needs_leader()
            }),
            leader_changes: usize::from(any(|harm| {
                let ends_it = matches!(
                    harm,
                    Harm::Kill(_) | Harm::Stop(_) | Harm::PowerCut(_) | Harm::SyncError(_) | Harm::Isolate { .. }
                );
                ends_it && harm.needs_leader()
            })),
            majority_lost: any(|harm| {
                let takes_nodes = matches!(
                    harm,
                    Harm::Kill(_) | Harm::Pause(_) | Harm::PowerCut(_) | Harm::Freeze(_)
                );
                takes_nodes && matches!(harm.whom(), Whom::Quorum | Whom::All)
            }),
            snapshot_installed: self.name == "snapshots",
            resume: true,
            ..Demands::default()
        }
    }

    /// Runs it on a cluster that is whole.
    ///
    /// # Errors
    /// Something of the machine failed that should not.
    pub(crate) async fn run(&self, stage: &mut Stage) -> io::Result<()> {
        if let Script::Story(story) = self.script {
            return story(stage).await;
        }
        for &Step(harm, hold_ms, rest_ms, times) in self.harms() {
            for done in 0..times {
                stage.wait(Duration::from_millis(rest_ms)).await;
                match Held::begin_when_there(stage, harm).await? {
                    Begun::Held(held) => {
                        stage.wait(Duration::from_millis(hold_ms)).await;
                        held.relieve(stage).await?;
                    }
                    Begun::NoTarget => stage.findings.miss(harm.kind(), "nobody to be hit came into view"),
                    Begun::Lacks(why) => {
                        // It will not come by itself.
                        stage.findings.lack(harm.kind(), u64::from(times - done), &why);
                        break;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Traffic in the end, so that what must be so on a calm cluster can be looked at …
pub(crate) const CALM_END: Duration = Duration::from_secs(12);
/// … and where that is not what a scenario is about.
const SHORT_END: Duration = Duration::from_secs(2);
/// What a run costs beside its script: starting, the last reads, the checkers.
const RUN_COSTS: Duration = Duration::from_secs(8);
/// What a step costs beside its times: doing it, waiting for the nodes to be back.
const STEP_COSTS: Duration = Duration::from_millis(700);

const fn isolate(whom: Whom, pass: Pass, clients: bool) -> Harm {
    Harm::Isolate { whom, pass, clients }
}

const fn one_way(whom: Whom, outward: bool, pass: Pass) -> Harm {
    Harm::OneWay { whom, outward, pass }
}

/// All of them.
#[rustfmt::skip] // a table
pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario::steps("kill-leader", "kill -9 of the leader, again and again", &[
        Step(Harm::Kill(Whom::Leader), 3_000, 3_000, 3), Step(Harm::Kill(Whom::Leader), 100, 1_500, 3),
    ]),
    Scenario::steps("kill-follower", "kill -9 of followers", &[Step(Harm::Kill(Whom::Follower), 2_000, 2_000, 4)]),
    Scenario::steps("kill-quorum", "kill -9 of so many that no quorum is left, for longer than a TTL", &[
        Step(Harm::Kill(Whom::Quorum), 6_000, 3_000, 2), Step(Harm::Kill(Whom::Quorum), 1_000, 3_000, 2),
    ]),
    Scenario::steps("kill-all", "kill -9 of all at once", &[
        Step(Harm::Kill(Whom::All), 300, 3_000, 2), Step(Harm::Kill(Whom::All), 5_000, 3_000, 1),
    ]),
    Scenario::steps("restart-loop", "one node after another is killed as soon as the last is back", &[
        Step(Harm::Kill(Whom::Any(1)), 50, 300, 15),
    ]),
    Scenario::steps("rolling-restart", "SIGTERM and start, node by node", &[
        Step(Harm::Stop(Whom::Node(0)), 300, 1_500, 1), Step(Harm::Stop(Whom::Node(1)), 300, 1_500, 1),
        Step(Harm::Stop(Whom::Node(2)), 300, 1_500, 1), Step(Harm::Stop(Whom::Leader), 300, 1_500, 2),
    ]),
    Scenario::steps("pause-leader", "the leader stands still for longer than an election", &[
        Step(Harm::Pause(Whom::Leader), 700, 1_500, 3), Step(Harm::Pause(Whom::Leader), 2_000, 2_000, 2),
    ]),
    Scenario::steps("pause-leader-long", "the leader stands still for longer than any TTL", &[
        Step(Harm::Pause(Whom::Leader), 9_000, 3_000, 2),
    ]),
    Scenario::steps("pause-all", "all stand still for several TTLs: nothing expires for that", &[
        Step(Harm::Pause(Whom::All), 15_000, 3_000, 1), Step(Harm::Pause(Whom::All), 2_000, 3_000, 2),
    ]),
    Scenario::steps("pause-all-long", "all stand still for a minute, as when their machine was suspended", &[
        Step(Harm::Pause(Whom::All), 60_000, 3_000, 1),
    ]),
    Scenario::steps("pause-quorum", "so many stand still that no quorum is left", &[
        Step(Harm::Pause(Whom::Quorum), 5_000, 3_000, 3),
    ]),
    Scenario::steps("isolate-leader", "the leader alone, its clients still there", &[
        Step(isolate(Whom::Leader, Pass::Held, false), 6_000, 2_500, 3),
    ]),
    Scenario::steps("isolate-leader-long", "the leader alone for longer than any watch may be silent", &[
        Step(isolate(Whom::Leader, Pass::Held, false), 20_000, 3_000, 1),
    ]),
    Scenario::steps("isolate-leader-and-clients", "the leader cut off from everybody", &[
        Step(isolate(Whom::Leader, Pass::Held, true), 5_000, 2_500, 2),
    ]),
    Scenario::steps("swallow-leader", "what the leader sends and hears is lost, connections stay", &[
        Step(isolate(Whom::Leader, Pass::Swallowed, false), 5_000, 2_500, 3),
    ]),
    Scenario::steps("cut-leader", "the leader's connections to its peers are reset and refused", &[
        Step(isolate(Whom::Leader, Pass::Cut, false), 5_000, 2_500, 3),
    ]),
    Scenario::steps("isolate-follower", "a follower alone", &[
        Step(isolate(Whom::Follower, Pass::Held, false), 5_000, 2_000, 2),
        Step(isolate(Whom::Follower, Pass::Cut, true), 4_000, 2_000, 1),
    ]),
    Scenario::steps("isolate-follower-long", "a follower alone for longer than any watch may be silent", &[
        Step(isolate(Whom::Follower, Pass::Held, false), 20_000, 3_000, 1),
    ]),
    Scenario::steps("split-five", "two with the leader on one side, three on the other", &[
        Step(isolate(Whom::WithLeader(2), Pass::Held, false), 6_000, 2_500, 2),
        Step(isolate(Whom::Any(2), Pass::Cut, false), 4_000, 2_500, 1),
    ]).of_five(),
    Scenario::steps("leader-hears-nothing", "a hole one way: the leader is heard and hears nobody", &[
        Step(one_way(Whom::Leader, false, Pass::Held), 6_000, 2_500, 2),
        Step(one_way(Whom::Leader, false, Pass::Swallowed), 4_000, 2_500, 1),
    ]),
    Scenario::steps("leader-is-not-heard", "a hole one way: the leader hears all and nobody hears it", &[
        Step(one_way(Whom::Leader, true, Pass::Held), 6_000, 2_500, 2),
        Step(one_way(Whom::Leader, true, Pass::Swallowed), 4_000, 2_500, 1),
    ]),
    Scenario::steps("follower-one-way", "a hole one way, in each direction, at a follower", &[
        Step(one_way(Whom::Follower, false, Pass::Held), 5_000, 2_000, 1),
        Step(one_way(Whom::Follower, true, Pass::Held), 5_000, 2_000, 1),
    ]),
    Scenario::steps("bridge", "two that see nothing of each other, and one that both see", &[
        Step(Harm::Bridge, 6_000, 2_000, 3),
    ]),
    Scenario::steps("bridge-five", "two and two that see nothing of each other, and one that all see", &[
        Step(Harm::Bridge, 6_000, 2_000, 3),
    ]).of_five(),
    Scenario::steps("ring-five", "each of five sees its two neighbours only", &[
        Step(Harm::Ring, 8_000, 2_000, 2),
    ]).of_five(),
    Scenario::steps("flapping", "a node's links come and go every 200 ms", &[
        Step(Harm::Flap(Whom::Leader), 6_000, 2_000, 2), Step(Harm::Flap(Whom::Follower), 5_000, 2_000, 1),
    ]),
    Scenario::steps("delay", "100 ms more on every way between nodes", &[
        Step(Harm::Delay { delay_ms: 50, jitter_ms: 50 }, 8_000, 2_000, 1),
        Step(Harm::Delay { delay_ms: 5, jitter_ms: 100 }, 8_000, 2_000, 1),
    ]),
    Scenario::steps("throttle", "20 KB/s to and from one node", &[
        Step(Harm::Throttle { whom: Whom::Follower, bytes_per_s: 20_000 }, 8_000, 2_000, 1),
        Step(Harm::Throttle { whom: Whom::Leader, bytes_per_s: 20_000 }, 8_000, 2_000, 1),
    ]),
    Scenario::steps("resets", "all connections between nodes are reset, again and again", &[
        Step(Harm::Resets { every_ms: 300, peers: true }, 8_000, 2_000, 2),
    ]),
    Scenario::steps("client-resets", "all connections of clients are reset, again and again: answers are lost", &[
        Step(Harm::Resets { every_ms: 150, peers: false }, 10_000, 2_000, 2),
    ]),
    Scenario::steps("client-holes", "clients send into a hole, or hear nothing", &[
        Step(Harm::DeafClients { outward: true }, 4_000, 3_000, 2),
        Step(Harm::DeafClients { outward: false }, 4_000, 3_000, 2),
    ]),
    Scenario::steps("freeze-leader", "the leader's disk stands still, for a while and for good", &[
        Step(Harm::Freeze(Whom::Leader), 4_000, 3_000, 1), Step(Harm::Freeze(Whom::Leader), 14_000, 3_000, 1),
    ]),
    Scenario::steps("freeze-follower", "a follower's disk stands still", &[
        Step(Harm::Freeze(Whom::Follower), 5_000, 2_000, 1), Step(Harm::Freeze(Whom::Follower), 13_000, 2_000, 1),
    ]),
    Scenario::steps("freeze-quorum", "so many disks stand still that nothing can be acknowledged", &[
        Step(Harm::Freeze(Whom::Quorum), 8_000, 3_000, 2),
    ]),
    Scenario::steps("slow-sync", "fsync takes 400 ms, on the leader and on a follower", &[
        Step(Harm::SlowSync { whom: Whom::Leader, delay_ms: 400 }, 8_000, 2_000, 1),
        Step(Harm::SlowSync { whom: Whom::Follower, delay_ms: 400 }, 6_000, 2_000, 1),
    ]),
    Scenario::steps("sync-error", "fsync fails on a live node: it must end, and nothing acknowledged is lost", &[
        Step(Harm::SyncError(Whom::Follower), 3_000, 2_000, 1), Step(Harm::SyncError(Whom::Leader), 3_000, 3_000, 2),
    ]),
    Scenario::steps("power-cut", "one node's power goes, the leader's too", &[
        Step(Harm::PowerCut(Whom::Follower), 500, 2_000, 2), Step(Harm::PowerCut(Whom::Leader), 1_500, 2_000, 3),
    ]),
    Scenario::steps("power-cut-all", "the power of all nodes goes at once", &[
        Step(Harm::PowerCut(Whom::All), 200, 3_000, 5),
    ]),
    Scenario::steps("full-disk", "room runs short, then out, on a follower and on the leader", &[
        Step(Harm::Full { whom: Whom::Follower, leave_mib: 64 }, 3_000, 2_000, 1),
        Step(Harm::Full { whom: Whom::Leader, leave_mib: 64 }, 4_000, 2_000, 1),
        Step(Harm::Full { whom: Whom::Follower, leave_mib: 0 }, 5_000, 2_000, 1),
        Step(Harm::Full { whom: Whom::Leader, leave_mib: 0 }, 5_000, 2_000, 1),
    ]).with(&["--snapshot-after-bytes", "50000"]),
    Scenario::steps("clock-jumps", "wall clocks jump by a day, back and forth", &[
        Step(Harm::Clock { whom: Whom::Leader, hours: 24 }, 3_000, 1_500, 2),
        Step(Harm::Clock { whom: Whom::Leader, hours: -24 }, 3_000, 1_500, 2),
        Step(Harm::Clock { whom: Whom::Any(2), hours: 24 }, 3_000, 1_500, 1),
    ]),
    Scenario::steps("no-files", "no more files can be opened than are", &[
        Step(Harm::Files(Whom::Leader), 6_000, 2_000, 1), Step(Harm::Files(Whom::Follower), 6_000, 2_000, 1),
    ]),
    Scenario::story("wiped", "a node without its data, whose peers have a cluster, casts no vote and ends", (&[("wipe", 2), ("kill", 1)], 15), |stage| {
        Box::pin(stories::wiped(stage))
    }),
    Scenario::story("swapped", "a node that is started on another node's data ends", (&[("swap", 2)], 15), |stage| {
        Box::pin(stories::swapped(stage))
    }),
    Scenario::story("shared-directory", "a second process on one data directory ends", (&[("shared_directory", 3)], 12), |stage| {
        Box::pin(stories::shared_directory(stage))
    }),
    Scenario::story("rolled-back", "a node with last minute's data is not believed", (&[("roll_back", 2), ("kill", 1)], 25), |stage| {
        Box::pin(stories::rolled_back(stage))
    }),
    Scenario::story("torn-and-flipped", "a torn tail is recovered; a flipped byte in any file is refused or harmless", (&[("damage_torn", 1), ("damage_flipped", 2)], 12), |stage| {
        Box::pin(stories::torn_and_flipped(stage))
    }).with(&["--snapshot-after-bytes", "50000"]),
    Scenario::story("expiry-storm", "100,000 leases end together, while others are renewed", (&[("expiry_storm", 1)], 37), |stage| {
        Box::pin(stories::expiry_storm(stage))
    }),
    Scenario::story("snapshots", "followers that need snapshots, while leaders change and receivers die", (&[("kill", 6)], 60), |stage| {
        Box::pin(stories::snapshots(stage))
    }).with(&["--snapshot-after-bytes", "20000", "--log-kept-records", "1500"]),
    Scenario::story("slow-watchers", "stalled watchers on a node with little memory", (&[("slow_watchers", 1)], 30), |stage| {
        Box::pin(stories::slow_watchers(stage))
    }),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_demands_its_own_faults() {
        for scenario in SCENARIOS {
            let injections = scenario.injections();
            assert!(!injections.is_empty(), "{} demands nothing", scenario.name);
            assert!(injections.values().all(|times| *times > 0), "{}", scenario.name);
        }
        let find = |name| SCENARIOS.iter().find(|scenario| scenario.name == name).unwrap();
        assert_eq!(find("kill-leader").injections(), Injections::from([("kill", 6)]));
        assert_eq!(
            find("freeze-quorum").injections(),
            Injections::from([("disk_frozen_quorum", 2)])
        );
        assert!(find("freeze-quorum").demands().majority_lost);
        assert!(find("throttle").demands().leader_hit);
    }
}
