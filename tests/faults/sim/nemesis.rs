//! Harms the world by a schedule that comes from the seed, several faults at a time.
//!
//! Each seed has its own taste: only some kinds of faults come in it, often or rarely, so that the seeds differ more
//! from each other than from themselves.

use std::time::Duration;

use futures_util::FutureExt as _;
use rand::{Rng as _, seq::IndexedRandom as _};

use super::world::{LATENCY_MAX, World};
use crate::{
    history::{Event, Fault},
    recorder::Recorder,
};

/// Faults at a time.
const AT_ONCE_MAX: usize = 3;

/// A kind of harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    Kill,
    KillSeveral,
    Partition,
    LeaderAlone,
    Bridge,
    Ring,
    OneWay,
    Hold,
    Delay,
    Break,
    ClientCut,
    SlowDisk,
    FrozenDisk,
    FailedDisk,
    ClockRate,
    ClockStill,
    ClockLeap,
    WallLeap,
    Twice,
    Snapshot,
}

impl Harm {
    const ALL: [Self; 20] = [
        Self::Kill,
        Self::KillSeveral,
        Self::Partition,
        Self::LeaderAlone,
        Self::Bridge,
        Self::Ring,
        Self::OneWay,
        Self::Hold,
        Self::Delay,
        Self::Break,
        Self::ClientCut,
        Self::SlowDisk,
        Self::FrozenDisk,
        Self::FailedDisk,
        Self::ClockRate,
        Self::ClockStill,
        Self::ClockLeap,
        Self::WallLeap,
        Self::Twice,
        Self::Snapshot,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Kill | Self::KillSeveral => "kill",
            Self::Partition | Self::LeaderAlone => "partition",
            Self::Bridge => "bridge",
            Self::Ring => "ring",
            Self::OneWay => "one_way",
            Self::Hold => "hold",
            Self::Delay => "delay",
            Self::Break => "broken_streams",
            Self::ClientCut => "client_cut",
            Self::SlowDisk => "disk_slow",
            Self::FrozenDisk => "disk_frozen",
            Self::FailedDisk => "disk_failed",
            Self::ClockRate => "clock_rate",
            Self::ClockStill => "clock_still",
            Self::ClockLeap => "clock_leap",
            Self::WallLeap => "wall_leap",
            Self::Twice => "messages_twice",
            Self::Snapshot => "snapshot",
        }
    }

    /// Whether it is over as soon as it has come.
    fn is_instant(self) -> bool {
        matches!(self, Self::Break | Self::ClockLeap | Self::WallLeap | Self::Snapshot)
    }
}

/// How one fault is undone.
enum Undo {
    Nothing,
    Start(Vec<usize>),
    Mend(Vec<(String, String)>),
    Release(Vec<(String, String)>),
    Hasten(Vec<(String, String)>),
    Disk(usize),
    Clock(usize),
    Once,
}

struct Active {
    fault: Fault,
    until: Duration,
    undo: Undo,
}

/// Harms a world.
pub(super) struct Nemesis {
    harms: Vec<Harm>,
    pause_ms: u64,
    last_ms: u64,
    active: Vec<Active>,
    next: Duration,
    /// Some node takes a snapshot so often, so that logs are purged and followers need it.
    snapshot_every: Duration,
    next_snapshot: Duration,
    recorder: Recorder,
}

impl Nemesis {
    /// With a taste that comes from the world's chance.
    pub(super) fn new(world: &mut World, recorder: Recorder) -> Self {
        let count = world.rng.random_range(4..=Harm::ALL.len());
        let mut harms: Vec<Harm> = Harm::ALL.choose_multiple(&mut world.rng, count).copied().collect();
        harms.sort_unstable();
        Self {
            harms,
            pause_ms: *[150, 400, 900, 2_000].choose(&mut world.rng).expect("there are some"),
            last_ms: *[300, 1_000, 2_500, 5_000]
                .choose(&mut world.rng)
                .expect("there are some"),
            active: Vec::new(),
            next: Duration::from_millis(1_200),
            snapshot_every: Duration::from_millis(world.rng.random_range(100..1_500)),
            next_snapshot: Duration::from_millis(1_500),
            recorder,
        }
    }

    /// To be called before each step.
    pub(super) fn act(&mut self, world: &mut World) {
        let now = world.now();
        let (over, still) = std::mem::take(&mut self.active)
            .into_iter()
            .partition(|active| active.until <= now);
        self.active = still;
        let over: Vec<Active> = over;
        for active in over {
            self.end(world, active);
        }
        if now >= self.next_snapshot {
            let at = world.rng.random_range(0..world.machines.len());
            trigger_snapshot(world, at);
            self.next_snapshot = now + self.snapshot_every;
        }
        if now >= self.next {
            if self.active.len() < AT_ONCE_MAX
                && let Some(harm) = self.harms.choose(&mut world.rng).copied()
            {
                let lasts = Duration::from_millis(world.rng.random_range(50..=self.last_ms));
                self.begin(world, harm, lasts);
            }
            // One fault on another: now and then the next comes at once.
            let pause = if world.rng.random_ratio(1, 4) {
                0
            } else {
                world.rng.random_range(0..=2 * self.pause_ms)
            };
            self.next = now + Duration::from_millis(pause);
        }
    }

    /// Ends every fault.
    pub(super) fn heal(&mut self, world: &mut World) {
        for active in std::mem::take(&mut self.active) {
            self.end(world, active);
        }
        for at in 0..world.machines.len() {
            world.start(at);
        }
    }

    /// Leaves a majority whole, and harms the others for good: until the next [`Nemesis::heal`].
    pub(super) fn harm_a_minority(&mut self, world: &mut World) -> Vec<usize> {
        let count = world.machines.len() - world.majority();
        let harmed = world.some_nodes(count);
        for &at in &harmed {
            let name = world.name(at);
            let others: Vec<String> = (0..world.machines.len())
                .filter(|o| *o != at)
                .map(|o| world.name(o))
                .collect();
            let deaf: Vec<_> = others.iter().map(|other| (other.clone(), name.clone())).collect();
            let dumb: Vec<_> = others.iter().map(|other| (name.clone(), other.clone())).collect();
            let (kind, undo) = match world.rng.random_range(0..6) {
                0 => ("kill", kill(world, vec![at])),
                1 => ("one_way", cut(world, deaf)),
                2 => ("one_way", cut(world, dumb)),
                3 => ("partition", cut(world, deaf.into_iter().chain(dumb).collect())),
                4 => ("disk_frozen", freeze(world, at)),
                _ => ("hold", hold(world, dumb)),
            };
            self.note(world, kind, vec![name], Duration::MAX, undo, "for good");
        }
        harmed
    }

    fn begin(&mut self, world: &mut World, harm: Harm, lasts: Duration) {
        let nodes = world.machines.len();
        let (hit, undo, details): (Vec<usize>, Undo, String) = match harm {
            Harm::Kill => {
                let at = world.some_node();
                (vec![at], kill(world, vec![at]), String::new())
            }
            Harm::KillSeveral => {
                let count = world.rng.random_range(2..=nodes);
                let hit = world.some_nodes(count);
                (hit.clone(), kill(world, hit), String::new())
            }
            Harm::Partition => {
                let count = world.rng.random_range(1..nodes);
                let side = world.some_nodes(count);
                (side.clone(), part(world, &side), "both ways".into())
            }
            Harm::LeaderAlone => {
                let at = world.leader().unwrap_or(0);
                (vec![at], part(world, &[at]), "both ways".into())
            }
            Harm::Bridge => {
                // One node hears everyone, the others fall into two camps.
                let bridge = world.some_node();
                let rest: Vec<usize> = (0..nodes).filter(|at| *at != bridge).collect();
                let (left, right) = rest.split_at(rest.len() / 2);
                let ways = between(world, left, right);
                (
                    rest.clone(),
                    cut(world, ways),
                    format!("through {}", world.name(bridge)),
                )
            }
            Harm::Ring => {
                // Each node hears its neighbours only.
                let apart = |a: usize, b: usize| a != b && (a + 1) % nodes != b && (b + 1) % nodes != a;
                let pairs = (0..nodes)
                    .flat_map(|a| (0..nodes).map(move |b| (a, b)))
                    .filter(|(a, b)| apart(*a, *b));
                let ways: Vec<_> = pairs.map(|(a, b)| (world.name(a), world.name(b))).collect();
                ((0..nodes).collect(), cut(world, ways), String::new())
            }
            Harm::OneWay => {
                let (at, count) = (world.some_node(), world.rng.random_range(1..nodes));
                let others: Vec<usize> = world.some_nodes(count).into_iter().filter(|o| *o != at).collect();
                let out: bool = world.rng.random();
                let way = |other: &usize| {
                    let (from, to) = if out { (at, *other) } else { (*other, at) };
                    (world.name(from), world.name(to))
                };
                let ways: Vec<_> = others.iter().map(way).collect();
                let details = if out { "it is not heard" } else { "it does not hear" };
                (vec![at], cut(world, ways), details.into())
            }
            Harm::Hold => {
                let (at, other) = (world.some_node(), world.rng.random_range(0..nodes));
                let other = if other == at { (at + 1) % nodes } else { other };
                let pair = (world.name(at), world.name(other));
                (vec![at, other], hold(world, vec![pair]), String::new())
            }
            Harm::Delay => {
                let at = world.some_node();
                let late = Duration::from_millis(world.rng.random_range(10..250));
                let pairs: Vec<_> = (0..nodes)
                    .filter(|o| *o != at)
                    .map(|other| (world.name(at), world.name(other)))
                    .collect();
                for (a, b) in &pairs {
                    world.sim.set_link_max_message_latency(a.as_str(), b.as_str(), late);
                }
                (vec![at], Undo::Hasten(pairs), format!("up to {late:?}"))
            }
            Harm::Break => {
                let at = world.some_node();
                let name = world.name(at);
                for host in hosts(world) {
                    if world.rng.random() {
                        world.streams.break_all(&name, &host);
                        world.streams.break_all(&host, &name);
                    }
                }
                (vec![at], Undo::Nothing, String::new())
            }
            Harm::ClientCut => {
                let at = world.some_node();
                let name = world.name(at);
                let client = world.clients.choose(&mut world.rng).cloned().unwrap_or_default();
                let ways = if world.rng.random() {
                    vec![(name.clone(), client.clone()), (client.clone(), name)]
                } else {
                    vec![(name, client.clone())]
                };
                (vec![at], cut(world, ways), client)
            }
            Harm::SlowDisk => {
                let at = world.some_node();
                let slow = Duration::from_millis(world.rng.random_range(20..600));
                world.machines[at].disk.set_slow(Some(slow));
                (vec![at], Undo::Disk(at), format!("{slow:?} a sync"))
            }
            Harm::FrozenDisk => {
                let at = world.some_node();
                (vec![at], freeze(world, at), String::new())
            }
            Harm::FailedDisk => {
                let at = world.some_node();
                world.machines[at].disk.fail_next_sync();
                (vec![at], Undo::Nothing, String::new())
            }
            Harm::ClockRate => {
                let at = world.some_node();
                let rate = world.rng.random_range(0.9..1.1);
                let now = world.now();
                world.machines[at].clock.set_rate(now, rate);
                (vec![at], Undo::Clock(at), format!("rate {rate:.3}"))
            }
            Harm::ClockStill => {
                let (at, now) = (world.some_node(), world.now());
                world.machines[at].clock.set_rate(now, 0.0);
                (vec![at], Undo::Clock(at), String::new())
            }
            Harm::ClockLeap => {
                let at = world.some_node();
                let by = Duration::from_millis(world.rng.random_range(100..600_000));
                world.machines[at].clock.leap(by);
                (vec![at], Undo::Nothing, format!("{by:?} ahead"))
            }
            Harm::WallLeap => {
                let at = world.some_node();
                let by = world.rng.random_range(-90_000_000..90_000_000);
                world.machines[at].clock.leap_wall(by);
                (vec![at], Undo::Nothing, format!("{by} ms"))
            }
            Harm::Twice => {
                let of_a_million = world.rng.random_range(1_000..50_000);
                world.twice.set(of_a_million);
                ((0..nodes).collect(), Undo::Once, format!("{of_a_million} of a million"))
            }
            Harm::Snapshot => {
                let at = world.some_node();
                trigger_snapshot(world, at);
                (vec![at], Undo::Nothing, String::new())
            }
        };
        let names = hit.iter().map(|at| world.name(*at)).collect();
        let until = if harm.is_instant() {
            world.now()
        } else {
            world.now() + lasts
        };
        self.note(world, harm.name(), names, until, undo, &details);
    }

    fn note(&mut self, world: &World, kind: &str, nodes: Vec<String>, until: Duration, undo: Undo, details: &str) {
        let core = world.core();
        let majority_left = core.len() >= world.majority();
        let hit_leader = match world.leader() {
            Some(leader) => nodes.contains(&world.name(leader)) || !majority_left || !core.contains(&leader),
            None => true,
        };
        world.trace.note(format_args!("fault {kind} {nodes:?} {details}"));
        let fault = Fault {
            kind: kind.to_owned(),
            nodes,
            hit_leader,
            majority_left,
            from: nanos(world.now()),
            until: None,
            details: details.to_owned(),
        };
        self.active.push(Active { fault, until, undo });
    }

    fn end(&mut self, world: &mut World, active: Active) {
        let Active { mut fault, undo, .. } = active;
        match undo {
            Undo::Nothing => {}
            Undo::Start(nodes) => nodes.into_iter().for_each(|at| world.start(at)),
            Undo::Mend(ways) => ways.iter().for_each(|(from, to)| world.ways.mend(&world.sim, from, to)),
            Undo::Release(pairs) => pairs.iter().for_each(|(a, b)| world.ways.release(&world.sim, a, b)),
            Undo::Hasten(pairs) => pairs.iter().for_each(|(a, b)| {
                world
                    .sim
                    .set_link_max_message_latency(a.as_str(), b.as_str(), LATENCY_MAX);
            }),
            Undo::Disk(at) => {
                world.machines[at].disk.set_slow(None);
                world.machines[at].disk.set_frozen(false);
                world.frozen.remove(&at);
            }
            Undo::Clock(at) => world.machines[at].clock.set_rate(world.now(), 1.0),
            Undo::Once => world.twice.set(0),
        }
        world.trace.note(format_args!("over {} {:?}", fault.kind, fault.nodes));
        fault.until = Some(nanos(world.now()));
        self.recorder.record(Event::Fault(fault));
    }
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

fn kill(world: &mut World, nodes: Vec<usize>) -> Undo {
    nodes.iter().for_each(|at| world.kill(*at));
    Undo::Start(nodes)
}

fn cut(world: &mut World, ways: Vec<(String, String)>) -> Undo {
    ways.iter().for_each(|(from, to)| world.ways.cut(&world.sim, from, to));
    Undo::Mend(ways)
}

fn hold(world: &mut World, pairs: Vec<(String, String)>) -> Undo {
    pairs.iter().for_each(|(a, b)| world.ways.hold(&world.sim, a, b));
    Undo::Release(pairs)
}

fn freeze(world: &mut World, at: usize) -> Undo {
    world.machines[at].disk.set_frozen(true);
    world.frozen.insert(at);
    Undo::Disk(at)
}

fn trigger_snapshot(world: &World, at: usize) {
    if let Some(running) = world.machines[at].running() {
        // A node whose queue is full, or that stops, takes none.
        let _begun = running.node.raft().trigger_snapshot().now_or_never();
    }
}

/// Cuts some nodes off from the others.
fn part(world: &mut World, side: &[usize]) -> Undo {
    let others: Vec<usize> = (0..world.machines.len()).filter(|at| !side.contains(at)).collect();
    let ways = between(world, side, &others);
    cut(world, ways)
}

fn between(world: &World, left: &[usize], right: &[usize]) -> Vec<(String, String)> {
    let pairs = left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b)));
    pairs
        .flat_map(|(a, b)| [(world.name(a), world.name(b)), (world.name(b), world.name(a))])
        .collect()
}

fn hosts(world: &World) -> Vec<String> {
    let machines = world.machines.iter().map(|machine| machine.name.clone());
    machines.chain(world.clients.iter().cloned()).collect()
}
