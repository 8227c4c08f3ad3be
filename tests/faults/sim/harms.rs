//! Each kind of harm: how it is done, and how it is undone.

use std::time::Duration;

use futures_util::FutureExt as _;
use rand::{Rng as _, seq::IndexedRandom as _};

use super::{network::Delayed, world::World};

/// What one strike did: the nodes that it hit, how it is undone, and what else there is to say.
pub(super) type Struck = (Vec<usize>, Undo, String);

/// A kind of harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Harm {
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
    pub(super) const ALL: [Self; 20] = [
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

    pub(super) fn name(self) -> &'static str {
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
    pub(super) fn is_instant(self) -> bool {
        matches!(self, Self::Break | Self::ClockLeap | Self::WallLeap | Self::Snapshot)
    }

    /// Does it: the nodes that it hits, how it is undone, and what else there is to say. `None`: there was nothing to
    /// harm, as where a node is to be killed that is down.
    pub(super) fn strike(self, world: &mut World) -> Option<Struck> {
        Some(match self {
            Self::Kill => kill_some(world, 1)?,
            Self::KillSeveral => {
                let count = world.rng.random_range(2..=world.machines.len());
                kill_some(world, count)?
            }
            Self::Partition => {
                let count = world.rng.random_range(1..world.machines.len());
                let side = world.some_nodes(count);
                part(world, side)
            }
            Self::LeaderAlone => {
                let leader = world.leader().unwrap_or(0);
                part(world, vec![leader])
            }
            Self::Bridge => bridge(world),
            Self::Ring => ring(world),
            Self::OneWay => one_way(world),
            Self::Hold => hold_some(world),
            Self::Delay => delay(world),
            Self::Break => break_streams(world),
            Self::ClientCut => cut_client(world),
            Self::SlowDisk => slow_disk(world),
            Self::FrozenDisk => on_some(world, |world, at| (freeze(world, at), String::new())),
            Self::FailedDisk => on_one_that_runs(world, fail_disk)?,
            Self::ClockRate => {
                let rate = world.rng.random_range(0.9..1.1);
                set_rate(world, rate)
            }
            Self::ClockStill => set_rate(world, 0.0),
            Self::ClockLeap => {
                let by = Duration::from_millis(world.rng.random_range(100..600_000));
                on_some(world, |world, at| {
                    world.machines[at].clock.leap(by);
                    (Undo::Nothing, format!("{by:?} ahead"))
                })
            }
            Self::WallLeap => {
                let by = world.rng.random_range(-90_000_000..90_000_000);
                on_some(world, |world, at| {
                    world.machines[at].clock.leap_wall(by);
                    (Undo::Nothing, format!("{by} ms"))
                })
            }
            Self::Twice => {
                let of_a_million = world.rng.random_range(1_000..50_000);
                let number = world.counts.begin_twice(of_a_million);
                let all = (0..world.machines.len()).collect();
                (all, Undo::Once(number), format!("{of_a_million} of a million"))
            }
            Self::Snapshot => on_one_that_runs(world, |world, at| {
                trigger_snapshot(world, at);
                Undo::Nothing
            })?,
        })
    }
}

/// How one fault is undone.
pub(super) enum Undo {
    Nothing,
    Start(Vec<usize>),
    Mend(Vec<(String, String)>),
    Release(Vec<(String, String)>),
    Hasten(Vec<Delayed>),
    Hurry(usize, u64),
    Thaw(usize, u64),
    MendDisk(usize),
    Clock(usize, u64),
    Once(u64),
}

impl Undo {
    /// Ends the fault.
    pub(super) fn apply(self, world: &mut World) {
        match self {
            Self::Nothing => {}
            Self::Start(nodes) => nodes.into_iter().for_each(|at| world.start(at)),
            Self::Mend(ways) => ways.iter().for_each(|(from, to)| world.ways.mend(&world.sim, from, to)),
            Self::Release(pairs) => pairs.iter().for_each(|(a, b)| world.ways.release(&world.sim, a, b)),
            Self::Hasten(delayed) => delayed.iter().for_each(|one| world.ways.hasten(&world.sim, one)),
            Self::Hurry(at, number) => world.machines[at].disk.hurry(number),
            Self::Thaw(at, number) => world.machines[at].disk.thaw(number),
            Self::MendDisk(at) => world.machines[at].disk.mend(),
            Self::Clock(at, number) => world.machines[at].clock.unbend(world.now(), number),
            Self::Once(number) => world.counts.end_twice(number),
        }
    }
}

pub(super) fn kill(world: &mut World, nodes: Vec<usize>) -> Undo {
    nodes.iter().for_each(|at| world.kill(*at));
    Undo::Start(nodes)
}

pub(super) fn cut(world: &mut World, ways: Vec<(String, String)>) -> Undo {
    ways.iter().for_each(|(from, to)| world.ways.cut(&world.sim, from, to));
    Undo::Mend(ways)
}

pub(super) fn hold(world: &mut World, pairs: Vec<(String, String)>) -> Undo {
    pairs.iter().for_each(|(a, b)| world.ways.hold(&world.sim, a, b));
    Undo::Release(pairs)
}

pub(super) fn freeze(world: &World, at: usize) -> Undo {
    Undo::Thaw(at, world.machines[at].disk.freeze())
}

pub(super) fn trigger_snapshot(world: &World, at: usize) {
    if let Some(running) = world.machines[at].running() {
        // A node whose queue is full, or that stops, takes none.
        let _begun = running.node.raft().trigger_snapshot().now_or_never();
    }
}

fn on_some(world: &mut World, strike: impl FnOnce(&mut World, usize) -> (Undo, String)) -> Struck {
    let at = world.some_node();
    let (undo, details) = strike(world, at);
    (vec![at], undo, details)
}

/// The same, where nothing is to be undone, and nothing is done to a node that is down.
fn on_one_that_runs(world: &mut World, strike: impl FnOnce(&World, usize) -> Undo) -> Option<Struck> {
    let at = world.some_node();
    world.machines[at].running()?;
    let undo = strike(world, at);
    Some((vec![at], undo, String::new()))
}

/// A node to which nothing comes does not notice before it writes again: when the fault is over, the disk is whole.
fn fail_disk(world: &World, at: usize) -> Undo {
    world.machines[at].disk.fail_next_sync();
    Undo::MendDisk(at)
}

fn kill_some(world: &mut World, count: usize) -> Option<Struck> {
    let mut hit = world.some_nodes(count);
    hit.retain(|at| !world.down.contains(at));
    (!hit.is_empty()).then(|| (hit.clone(), kill(world, hit), String::new()))
}

/// Cuts some nodes off from the others.
fn part(world: &mut World, side: Vec<usize>) -> Struck {
    let others: Vec<usize> = (0..world.machines.len()).filter(|at| !side.contains(at)).collect();
    let ways = between(world, &side, &others);
    (side, cut(world, ways), "both ways".to_owned())
}

/// One node hears everyone, the others fall into two camps.
fn bridge(world: &mut World) -> Struck {
    let bridge = world.some_node();
    let rest: Vec<usize> = (0..world.machines.len()).filter(|at| *at != bridge).collect();
    let (left, right) = rest.split_at(rest.len() / 2);
    let ways = between(world, left, right);
    let details = format!("through {}", world.name(bridge));
    (rest, cut(world, ways), details)
}

/// Each node hears its neighbours only; of three nodes, two that don't hear each other are left.
fn ring(world: &mut World) -> Struck {
    let nodes = world.machines.len();
    let first = world.rng.random_range(0..nodes);
    let near = |a: usize, b: usize| (a + 1) % nodes == b || (b + 1) % nodes == a;
    let apart = |a: usize, b: usize| {
        a != b
            && if nodes == 3 {
                a != first && b != first
            } else {
                !near(a, b)
            }
    };
    let pairs = (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b)));
    let pairs: Vec<(usize, usize)> = pairs.filter(|(a, b)| apart(*a, *b)).collect();
    let ways = pairs.into_iter().map(|(a, b)| (world.name(a), world.name(b))).collect();
    ((0..nodes).collect(), cut(world, ways), String::new())
}

fn one_way(world: &mut World) -> Struck {
    let (at, count) = (world.some_node(), world.rng.random_range(1..=world.machines.len()));
    let others: Vec<usize> = world
        .some_nodes(count)
        .into_iter()
        .filter(|other| *other != at)
        .collect();
    let out: bool = world.rng.random();
    let way = |other: usize| {
        let (from, to) = if out { (at, other) } else { (other, at) };
        (world.name(from), world.name(to))
    };
    let ways = others.into_iter().map(way).collect();
    let details = if out { "it is not heard" } else { "it does not hear" };
    (vec![at], cut(world, ways), details.to_owned())
}

fn hold_some(world: &mut World) -> Struck {
    let nodes = world.machines.len();
    let (at, step) = (world.some_node(), world.rng.random_range(1..nodes));
    let other = (at + step) % nodes;
    let pair = (world.name(at), world.name(other));
    (vec![at, other], hold(world, vec![pair]), String::new())
}

fn delay(world: &mut World) -> Struck {
    let at = world.some_node();
    let late = Duration::from_millis(world.rng.random_range(10..250));
    let others = (0..world.machines.len()).filter(|other| *other != at);
    let pairs: Vec<_> = others.map(|other| (world.name(at), world.name(other))).collect();
    let delay = |(a, b): &(String, String)| world.ways.delay(&world.sim, a, b, late);
    let delayed = pairs.iter().map(delay).collect();
    (vec![at], Undo::Hasten(delayed), format!("up to {late:?}"))
}

fn break_streams(world: &mut World) -> Struck {
    let at = world.some_node();
    let name = world.name(at);
    let machines = world.machines.iter().map(|machine| machine.name.clone());
    let hosts: Vec<String> = machines.chain(world.clients.iter().cloned()).collect();
    for host in hosts {
        if world.rng.random() {
            world.streams.break_all(&name, &host);
            world.streams.break_all(&host, &name);
        }
    }
    (vec![at], Undo::Nothing, String::new())
}

fn cut_client(world: &mut World) -> Struck {
    let at = world.some_node();
    let name = world.name(at);
    let client = world.clients.choose(&mut world.rng).cloned().unwrap_or_default();
    let mut ways = vec![(name.clone(), client.clone())];
    if world.rng.random() {
        ways.push((client.clone(), name));
    }
    (vec![at], cut(world, ways), client)
}

fn slow_disk(world: &mut World) -> Struck {
    let slow = Duration::from_millis(world.rng.random_range(20..600));
    on_some(world, |world, at| {
        let number = world.machines[at].disk.slow_down(slow);
        (Undo::Hurry(at, number), format!("{slow:?} a sync"))
    })
}

fn set_rate(world: &mut World, rate: f64) -> Struck {
    on_some(world, |world, at| {
        let number = world.machines[at].clock.bend(world.now(), rate);
        (Undo::Clock(at, number), format!("rate {rate:.3}"))
    })
}

/// The ways of each of one side to each of the other, and back.
pub(super) fn between(world: &World, left: &[usize], right: &[usize]) -> Vec<(String, String)> {
    let pairs = left.iter().flat_map(|a| right.iter().map(move |b| (*a, *b)));
    pairs
        .flat_map(|(a, b)| [(world.name(a), world.name(b)), (world.name(b), world.name(a))])
        .collect()
}
