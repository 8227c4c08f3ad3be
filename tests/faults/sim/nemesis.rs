//! Harms the world by a schedule that comes from the seed, several faults at a time.
//!
//! Each seed has its own taste: only some kinds of faults come in it, often or rarely, so that the seeds differ more
//! from each other than from themselves.

use std::time::Duration;

use rand::{Rng as _, seq::IndexedRandom as _};

use super::{
    harms::{Harm, Undo, cut, freeze, hold, kill, trigger_snapshot},
    world::World,
};
use crate::{
    history::{Event, Fault},
    recorder::Recorder,
};

/// Faults at a time.
const AT_ONCE_MAX: usize = 3;

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
        let (hit, undo, details) = harm.strike(world);
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
        undo.apply(world);
        world.trace.note(format_args!("over {} {:?}", fault.kind, fault.nodes));
        fault.until = Some(nanos(world.now()));
        self.recorder.record(Event::Fault(fault));
    }
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}
